"""Two-dimensional convolution and its gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import shapes
from .._core import _conv, _depthwise, _winograd
from ..arguments import choice
from ._algorithms import winograd_fits, winograd_pays
from ._arrays import FloatArray, floats, frozen, like, no_memory
from .activations import apply_in_place, checked_activation
from .normalization import bias_add_backward

ALGORITHMS = ("auto", "direct", "winograd")


@lru_cache(maxsize=4096)
def _plan(
    input_shape: tuple[int, ...],
    filters_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: Any,
) -> tuple[_conv.Geometry, tuple[int, ...]]:
    output, step, around, dilation, groups = shapes.conv2d(
        input_shape, filters_shape, strides, padding, dilations, groups
    )
    offsets = around[0][0], around[1][0]
    geometry = _conv.Geometry(input_shape, filters_shape, output, step, offsets, dilation, groups)
    return geometry, output  # type: ignore[return-value]  # the batch is known here


def _geometry(
    input_shape: tuple[int, ...],
    filters_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: Any,
) -> tuple[_conv.Geometry, tuple[int, ...]]:
    return _plan(
        input_shape,
        filters_shape,
        frozen(strides, "strides"),
        frozen(padding, "padding"),
        frozen(dilations, "dilations"),
        frozen(groups, "groups"),
    )


@lru_cache(maxsize=4096)
def _engine(geometry: _conv.Geometry, algorithm: str, result: str, is_single: bool) -> Any:
    """Return the compiled module to compute a result with; float64 is for exactness, so that "auto" is direct there."""
    if algorithm == "winograd" and not winograd_fits(geometry):
        raise ValueError(
            "algorithm 'winograd' needs 3x3 filters, strides and dilations of 1 and one group, got "
            f"{geometry.rows}x{geometry.cols} filters, strides {(geometry.stride_h, geometry.stride_w)}, dilations "
            f"{(geometry.dilation_h, geometry.dilation_w)} and {geometry.groups} groups"
        )
    if geometry.groups == geometry.channels == geometry.filters > 1:
        return _depthwise
    if algorithm == "winograd" or (algorithm == "auto" and is_single and winograd_pays(geometry, result)):
        return _winograd
    return _conv


def conv2d(
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    algorithm: str = "auto",
) -> FloatArray:
    """Convolve images with filters: y = activation(conv(input, filters) + bias).

    As everywhere in deep learning this is a cross-correlation; filters are not flipped.

    Parameters
    ----------
    input
        Images, (N, H, W, C).
    filters
        (R, S, C / groups, K); filter k of group g sees the channels of group g alone.
    strides
        Step in pixels: an int, (height, width) or [1, height, width, 1].
    padding
        "VALID" or "SAME" in any case of letters, an int, (height, width), ((top, bottom), (left, right)), or
        TensorFlow's list of four pairs.
    dilations
        Distance of filter taps in pixels, spelt as strides.
    groups
        Number of groups; C for a depthwise convolution.
    bias
        (K,) or None.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    algorithm
        "direct", "winograd", or "auto" for the faster of them (direct for float64). Direct sums R * S * C / groups
        products in one chain of fused multiply-adds: its error is at most about that number times half an ulp of the
        sum of their magnitudes. Winograd, F(4x4, 3x3), is for 3x3 filters at stride 1: a quarter of the
        multiplications (Lavin and Gray, 2016), a few times direct's error, and a NaN or infinity spreads over the
        4 x 4 pixels computed with it.

    Returns
    -------
    ndarray
        (N, H', W', K) with H' = floor((top + H + bottom - (R - 1) * dilation - 1) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.ones((1, 4, 4, 3)), np.ones((3, 3, 3, 2)), padding="SAME")[0, :2, 0, 0].tolist()
    [12.0, 18.0]
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    activation = checked_activation(activation)
    input, filters, bias = floats(("input", "filters", "bias"), input, filters, bias, optional=1)
    geometry, shape = _geometry(input.shape, filters.shape, strides, padding, dilations, groups)
    if bias is not None:
        like(bias, shape[3:], "bias")
    try:
        y = np.empty(shape, input.dtype)
    except MemoryError:
        raise no_memory(shape, input=input.shape, filters=filters.shape, padding=padding) from None
    relu = activation == "relu"
    engine = _engine(geometry, algorithm, "forward", input.itemsize == 4)
    if y.size:
        engine.forward(geometry, input, filters, bias, relu, y)
    return y if relu else apply_in_place(y, activation)


def conv2d_backward_input(
    grad: ArrayLike,
    filters: ArrayLike,
    input_shape: tuple[int, ...],
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> FloatArray:
    """Return the gradient of a convolution's input.

    Parameters
    ----------
    grad
        Gradient of the convolution's result (before any activation), (N, H', W', K).
    filters
        (R, S, C / groups, K).
    input_shape
        (N, H, W, C).
    strides, padding, dilations, groups
        As given to :func:`conv2d`.
    algorithm
        As in :func:`conv2d`.

    Returns
    -------
    ndarray
        Of input_shape.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_backward_input(np.ones((1, 2, 2, 1)), np.ones((3, 3, 2, 1)), (1, 4, 4, 2))[0, 1, :, 0].tolist()
    [2.0, 4.0, 4.0, 2.0]
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    grad, filters = floats(("grad", "filters"), grad, filters)
    input_shape = shapes.known_shape(input_shape, "input_shape")
    geometry, shape = _geometry(input_shape, filters.shape, strides, padding, dilations, groups)
    like(grad, shape)
    try:
        dinput = np.empty(input_shape, grad.dtype)
    except MemoryError:
        raise no_memory(input_shape, input_shape=input_shape) from None
    engine = _engine(geometry, algorithm, "input", grad.itemsize == 4)
    if grad.size:
        engine.backward_input(geometry, grad, filters, dinput)
    return dinput


def conv2d_backward_filters(
    grad: ArrayLike,
    input: ArrayLike,
    filters_shape: tuple[int, ...],
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> FloatArray:
    """Return the gradient of a convolution's filters.

    Parameters
    ----------
    grad
        Gradient of the convolution's result (before any activation), (N, H', W', K).
    input
        (N, H, W, C).
    filters_shape
        (R, S, C / groups, K).
    strides, padding, dilations, groups
        As given to :func:`conv2d`.
    algorithm
        As in :func:`conv2d`.

    Returns
    -------
    ndarray
        Of filters_shape.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_backward_filters(np.ones((1, 2, 2, 1)), np.ones((1, 4, 4, 1)), (3, 3, 1, 1))[0, 0, 0].tolist()
    [4.0]
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    grad, input = floats(("grad", "input"), grad, input)
    filters_shape = shapes.known_shape(filters_shape, "filters_shape")
    geometry, shape = _geometry(input.shape, filters_shape, strides, padding, dilations, groups)
    like(grad, shape)
    try:
        dfilters = (np.empty if grad.size else np.zeros)(filters_shape, grad.dtype)
    except MemoryError:
        raise no_memory(filters_shape, filters_shape=filters_shape) from None
    engine = _engine(geometry, algorithm, "filters", grad.itemsize == 4)
    if grad.size:
        engine.backward_filters(geometry, grad, input, dfilters)
    return dfilters


def conv2d_backward(
    grad: ArrayLike,
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    *,
    input_grad: bool = True,
    bias_grad: bool = True,
) -> tuple[FloatArray | None, FloatArray, FloatArray | None]:
    """Return the gradients of a convolution's input, filters and bias.

    Parameters
    ----------
    grad
        Gradient of the convolution's result (before any activation), (N, H', W', K).
    input
        (N, H, W, C).
    filters
        (R, S, C / groups, K).
    strides, padding, dilations, groups
        As given to :func:`conv2d`.
    algorithm
        As in :func:`conv2d`.
    input_grad
        Whether the input's gradient is wanted; the first layer of a network does not need it.
    bias_grad
        Whether the bias's gradient is wanted.

    Returns
    -------
    dinput : ndarray or None
        (N, H, W, C).
    dfilters : ndarray
        (R, S, C / groups, K).
    dbias : ndarray or None
        (K,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 4, 4, 1)), np.ones((3, 3, 1, 1))
    >>> dinput, dfilters, dbias = conv2d_backward(np.ones((1, 2, 2, 1)), x, w)
    >>> dinput.shape, dfilters.shape, dbias.tolist()
    ((1, 4, 4, 1), (3, 3, 1, 1), [4.0])
    """
    grad, input, filters = floats(("grad", "input", "filters"), grad, input, filters)
    options = strides, padding, dilations, groups, algorithm
    dfilters = conv2d_backward_filters(grad, input, filters.shape, *options)
    dinput = conv2d_backward_input(grad, filters, input.shape, *options) if input_grad else None
    return dinput, dfilters, bias_add_backward(grad) if bias_grad else None
