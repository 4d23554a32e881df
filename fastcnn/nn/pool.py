"""Max and average pooling and their gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import shapes
from .._core import _pool
from ._arrays import FloatArray, floats, frozen, like, no_memory


@lru_cache(maxsize=4096)
def _plan(
    input_shape: tuple[int, ...], ksize: Any, strides: Any, padding: Any
) -> tuple[_pool.Geometry, tuple[int, ...]]:
    output, window, step, around = shapes.pool(input_shape, ksize, strides, padding)
    offsets = around[0][0], around[1][0]
    return _pool.Geometry(input_shape, output, window, step, offsets), output  # type: ignore[return-value]


def _geometry(
    input_shape: tuple[int, ...], ksize: Any, strides: Any, padding: Any
) -> tuple[_pool.Geometry, tuple[int, ...]]:
    return _plan(input_shape, frozen(ksize, "ksize"), frozen(strides, "strides"), frozen(padding, "padding"))


def _forward(input: ArrayLike, ksize: Any, strides: Any, padding: Any, average: bool) -> FloatArray:
    (input,) = floats(("input",), input)
    geometry, shape = _geometry(input.shape, ksize, strides, padding)
    try:
        y = np.empty(shape, input.dtype)
    except MemoryError:
        raise no_memory(shape, input=input.shape, ksize=ksize, padding=padding) from None
    _pool.forward(geometry, input, average, y)
    return y


def max_pool(input: ArrayLike, ksize: Any, strides: Any = None, padding: Any = "VALID") -> FloatArray:
    """Take the maximum of each window and channel; a window with a NaN gives NaN.

    Parameters
    ----------
    input
        (N, H, W, C).
    ksize
        Size of the window in pixels: an int, (height, width) or [1, height, width, 1].
    strides
        Step in pixels, spelt likewise; None for ksize.
    padding
        As in :func:`conv2d`, smaller than the window; padded pixels never win.

    Returns
    -------
    ndarray
        (N, H', W', C) with H' = floor((top + H + bottom - ksize) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool(np.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    return _forward(input, ksize, strides, padding, False)


def max_pool_backward(
    grad: ArrayLike, input: ArrayLike, ksize: Any, strides: Any = None, padding: Any = "VALID"
) -> FloatArray:
    """Return the gradient of max pooling's input: each window's goes to its first maximum, row by row.

    Parameters
    ----------
    grad
        Gradient of the result, (N, H', W', C).
    input
        (N, H, W, C).
    ksize, strides, padding
        As given to :func:`max_pool`.

    Returns
    -------
    ndarray
        (N, H, W, C).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool_backward(np.ones((1, 1, 1, 1)), np.ones((1, 2, 2, 1)), 2)[0, :, :, 0].tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    grad, input = floats(("grad", "input"), grad, input)
    geometry, shape = _geometry(input.shape, ksize, strides, padding)
    like(grad, shape)
    dinput = np.empty_like(input)
    _pool.backward(geometry, grad, input, False, dinput)
    return dinput


def avg_pool(input: ArrayLike, ksize: Any, strides: Any = None, padding: Any = "VALID") -> FloatArray:
    """Take the mean of each window and channel over its real pixels, as TensorFlow does.

    Parameters
    ----------
    input
        (N, H, W, C).
    ksize, strides, padding
        As in :func:`max_pool`; padded pixels are not counted.

    Returns
    -------
    ndarray
        (N, H', W', C) with H' = floor((top + H + bottom - ksize) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool(np.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    return _forward(input, ksize, strides, padding, True)


def avg_pool_backward(
    grad: ArrayLike,
    input_shape: tuple[int, ...],
    ksize: Any,
    strides: Any = None,
    padding: Any = "VALID",
) -> FloatArray:
    """Return the gradient of average pooling's input: each window's is shared by its real pixels.

    Parameters
    ----------
    grad
        Gradient of the result, (N, H', W', C).
    input_shape
        (N, H, W, C).
    ksize, strides, padding
        As given to :func:`avg_pool`.

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
    >>> avg_pool_backward(np.ones((1, 1, 1, 1)), (1, 2, 2, 1), 2)[0, :, :, 0].tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    """
    (grad,) = floats(("grad",), grad)
    input_shape = shapes.known_shape(input_shape, "input_shape")
    geometry, shape = _geometry(input_shape, ksize, strides, padding)
    like(grad, shape)
    try:
        dinput = np.empty(input_shape, grad.dtype)
    except MemoryError:
        raise no_memory(input_shape, input_shape=input_shape) from None
    _pool.backward(geometry, grad, dinput, True, dinput)
    return dinput
