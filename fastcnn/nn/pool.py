"""Max and average pooling and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import shapes
from .._core import _pool
from ..arguments import plain
from ._arrays import FloatArray, floats, frozen, like, no_memory, real_array
from .activations import FUSED

# Pixels of a window that a byte can count.
MOST_COUNTED = 256


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


def _forward(
    input: ArrayLike, ksize: Any, strides: Any, padding: Any, average: bool = False, keeps: bool = False
) -> tuple[FloatArray, FloatArray | None]:
    (input,) = floats(("input",), input)
    geometry, shape = _geometry(input.shape, ksize, strides, padding)
    if keeps:
        _must_fit_bytes(geometry, ksize)
    try:
        y = np.empty(shape, input.dtype)
        argmax = np.empty(shape, np.uint8) if keeps else None
    except MemoryError:
        raise no_memory(shape, input=input.shape, ksize=ksize, padding=padding) from None
    _pool.forward(geometry, input, average, y, argmax)
    return y, argmax


def _backward(
    grad: ArrayLike,
    input_shape: tuple[int, ...],
    ksize: Any,
    strides: Any,
    padding: Any,
    argmax: FloatArray | None = None,
) -> FloatArray:
    """Return the gradient of the input of an average, or with argmax of a maximum."""
    (grad,) = floats(("grad",), grad)
    input_shape = shapes.known_shape(input_shape, "input_shape")
    geometry, shape = _geometry(input_shape, ksize, strides, padding)
    like(grad, shape)
    if argmax is not None:
        _must_fit_bytes(geometry, ksize)
        like(argmax, shape, "argmax")
    try:
        dinput = np.empty(input_shape, grad.dtype)
    except MemoryError:
        raise no_memory(input_shape, input_shape=input_shape) from None
    _pool.backward(geometry, grad, dinput, argmax is None, dinput, argmax)
    return dinput


def bound_pool(
    x: FloatArray, ksize: Any, strides: Any, padding: Any, average: bool, out: FloatArray
) -> Callable[[], None]:
    """Return a function that writes the maxima or means of windows of an array to another.

    Parameters
    ----------
    x
        (N, H, W, C), C-ordered.
    ksize, strides, padding
        As in :func:`max_pool`.
    average
        Whether it is the mean that is wanted.
    out
        (N, H', W', C), C-ordered, of the same float type.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.
    """
    geometry, shape = _geometry(x.shape, ksize, strides, padding)
    like(out, shape, "out")
    return partial(_pool.forward, geometry, x, average, out, None)


def bytes_of(argmax: ArrayLike) -> NDArray[np.uint8]:
    """Return which pixels are maxima as a plain array.

    Raises
    ------
    TypeError
        If they are no bytes.
    """
    given = real_array(argmax, "argmax")
    if given.dtype != np.uint8:
        raise TypeError(f"argmax must be an array of uint8, got {given.dtype}")
    return plain(given, np.uint8, "argmax")


def _must_fit_bytes(geometry: _pool.Geometry, ksize: Any) -> None:
    if geometry.rows * geometry.cols > MOST_COUNTED:
        raise ValueError(f"ksize must have at most {MOST_COUNTED} pixels where argmax counts them, got {ksize!r}")


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
    return _forward(input, ksize, strides, padding)[0]


def max_pool_with_argmax(
    input: ArrayLike, ksize: Any, strides: Any = None, padding: Any = "VALID"
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Take the maximum of each window and channel as :func:`max_pool` does, and keep which pixel it is.

    The gradient then needs neither the input nor another search; a byte an element is what it takes.

    Parameters
    ----------
    input
        (N, H, W, C).
    ksize, strides, padding
        As in :func:`max_pool`; a window has at most 256 pixels.

    Returns
    -------
    output : ndarray
        (N, H', W', C).
    argmax : ndarray of uint8
        (N, H', W', C): the number of the first maximum, or first NaN, among the window's pixels that lie in the image,
        row by row.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> output, argmax = max_pool_with_argmax(np.array([1.0, 4.0, 3.0, 2.0]).reshape(1, 2, 2, 1), 2)
    >>> output.item(), argmax.item()
    (4.0, 1)
    """
    output, argmax = _forward(input, ksize, strides, padding, keeps=True)
    assert argmax is not None
    return output, argmax


def max_pool_with_argmax_backward(
    grad: ArrayLike,
    argmax: ArrayLike,
    input_shape: tuple[int, ...],
    ksize: Any,
    strides: Any = None,
    padding: Any = "VALID",
) -> FloatArray:
    """Return the gradient of max pooling's input from which pixels were the maxima.

    Parameters
    ----------
    grad
        Gradient of the result, (N, H', W', C).
    argmax
        What :func:`max_pool_with_argmax` gave; a number that no pixel has sends its gradient nowhere.
    input_shape
        (N, H, W, C).
    ksize, strides, padding
        As given to :func:`max_pool_with_argmax`.

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
    >>> argmax = np.array([2], np.uint8).reshape(1, 1, 1, 1)
    >>> max_pool_with_argmax_backward(np.ones((1, 1, 1, 1)), argmax, (1, 2, 2, 1), 2)[0, :, :, 0].tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    return _backward(grad, input_shape, ksize, strides, padding, bytes_of(argmax))


def relu_max_pool_backward(
    grad: FloatArray, output: FloatArray, argmax: ArrayLike, input_shape: tuple[int, ...], activation: str
) -> tuple[FloatArray, FloatArray]:
    """Return the gradient of what a relu was taken of before maxima of 2 x 2 pixels, and its sum over all pixels.

    Arguments are as of :func:`fastcnn.nn.conv2d_max_pool_with_argmax_backward`, grad and output checked.
    """
    geometry, shape = _geometry(input_shape, 2, None, "VALID")
    argmax = bytes_of(argmax)
    like(argmax, shape, "argmax")
    try:
        dinput = np.empty(input_shape, grad.dtype)
    except MemoryError:
        raise no_memory(input_shape, grad=grad.shape) from None
    sums = np.empty(input_shape[3], grad.dtype)
    _pool.backward_through(geometry, grad, output, FUSED[activation], argmax, dinput, sums)
    return dinput, sums


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
    return _forward(input, ksize, strides, padding, True)[0]


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
    return _backward(grad, input_shape, ksize, strides, padding)
