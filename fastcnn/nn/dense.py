"""Matrix product, dense layer, and their gradients."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import ArrayLike

from .._core import _gemm
from ..shapes import elements
from ._arrays import FloatArray, flag, floats, like, no_memory
from .activations import FUSED, apply_in_place, checked_activation
from .normalization import bias_add_backward


def matmul(a: ArrayLike, b: ArrayLike, transpose_a: bool = False, transpose_b: bool = False) -> FloatArray:
    """Multiply two matrices, either of them transposed.

    Parameters
    ----------
    a
        (M, K), or (K, M) where transpose_a is set.
    b
        (K, N), or (N, K) where transpose_b is set.
    transpose_a, transpose_b
        Whether the operand is stored transposed; nothing is copied for it, nor for ``w.T`` as an operand.

    Returns
    -------
    ndarray
        (M, N).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> matmul([[1.0, 2.0]], [[3.0, 4.0]], transpose_b=True).tolist()
    [[11.0]]
    """
    if type(transpose_a) is not bool or type(transpose_b) is not bool:
        transpose_a, transpose_b = flag(transpose_a, "transpose_a"), flag(transpose_b, "transpose_b")
    y = _multiplied(("a", "b"), a, b, transpose_a, transpose_b)
    if y is None:
        a, b = floats(("a", "b"), a, b)
        elements(_product_shape(a, b, transpose_a, transpose_b), "the product of a and b")
        y = _multiplied(("a", "b"), a, b, transpose_a, transpose_b)
        assert y is not None
    return y


def _multiplied(
    names: tuple[str, str],
    a: Any,
    b: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Any = None,
    fused: int = 0,
) -> FloatArray | None:
    """Return act(a @ b + bias), or None unless these are what the kernels take."""
    try:
        return _gemm.matmul(a, b, transpose_a, transpose_b, bias, fused)
    except MemoryError:
        shape = a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1]
        raise no_memory(shape, **dict(zip(names, (a.shape, b.shape), strict=True))) from None


def _product_shape(a: FloatArray, b: FloatArray, transpose_a: bool, transpose_b: bool) -> tuple[int, int]:
    for name, x in (("a", a), ("b", b)):
        if x.ndim != 2:
            raise ValueError(f"{name} must be a matrix, got shape {x.shape}")
    m, k = a.shape[::-1] if transpose_a else a.shape
    depth, n = b.shape[::-1] if transpose_b else b.shape
    if k != depth:
        raise ValueError(
            f"a and b must agree in the inner dimension, got {a.shape} with transpose_a={transpose_a!r} and "
            f"{b.shape} with transpose_b={transpose_b!r}"
        )
    return m, n


def matmul_backward(
    grad: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of both operands of :func:`matmul`.

    Parameters
    ----------
    grad
        Gradient of the product, (M, N).
    a, b, transpose_a, transpose_b
        As given to :func:`matmul`.

    Returns
    -------
    da, db : ndarray
        Of the shapes of a and b.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> da, db = matmul_backward([[1.0]], [[1.0, 2.0]], [[3.0], [4.0]])
    >>> da.tolist(), db.tolist()
    ([[3.0, 4.0]], [[1.0], [2.0]])
    """
    transpose_a, transpose_b = flag(transpose_a, "transpose_a"), flag(transpose_b, "transpose_b")
    grad, a, b = floats(("grad", "a", "b"), grad, a, b)
    like(grad, _product_shape(a, b, transpose_a, transpose_b))
    da = matmul(b, grad, transpose_b, True) if transpose_a else matmul(grad, b, False, not transpose_b)
    db = matmul(grad, a, True, transpose_a) if transpose_b else matmul(a, grad, not transpose_a, False)
    return da, db


def dense(x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None, activation: str | None = None) -> FloatArray:
    """Apply a dense layer: y = activation(x @ kernel + bias).

    Parameters
    ----------
    x
        (..., inputs), at least one axis.
    kernel
        (inputs, units).
    bias
        (units,) or None.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.

    Returns
    -------
    ndarray
        (..., units).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> dense([[1.0, -2.0]], [[1.0, 2.0], [3.0, 0.0]], bias=[1.0, 0.0], activation="relu").tolist()
    [[0.0, 2.0]]
    """
    activation = checked_activation(activation)
    fused = FUSED.get(activation, 0)
    y = _multiplied(("x", "kernel"), x, kernel, bias=bias, fused=fused)
    if y is None:
        x, kernel, bias = floats(("x", "kernel", "bias"), x, kernel, bias, optional=1)
        _check(x, kernel)
        if bias is not None:
            like(bias, kernel.shape[1:], "bias")
        shape = *x.shape[:-1], kernel.shape[1]
        elements(shape, "the result of x and kernel")
        y = _multiplied(("x", "kernel"), _rows(x), kernel, bias=bias, fused=fused)
        assert y is not None
        y = y.reshape(shape)
    return y if fused else apply_in_place(y, activation)


def _rows(x: FloatArray) -> FloatArray:
    """View x as a matrix of its last axis."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _check(x: FloatArray, kernel: FloatArray) -> None:
    if kernel.ndim != 2:
        raise ValueError(f"kernel must have shape (inputs, units), got {kernel.shape}")
    if x.ndim < 1 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(f"x must have {kernel.shape[0]} features in its last axis, got shape {x.shape}")


def dense_backward(
    grad: ArrayLike, x: ArrayLike, kernel: ArrayLike, *, input_grad: bool = True, bias_grad: bool = True
) -> tuple[FloatArray | None, FloatArray, FloatArray | None]:
    """Return the gradients of a dense layer's input, kernel and bias.

    Parameters
    ----------
    grad
        Gradient of x @ kernel + bias (before any activation), (..., units).
    x
        (..., inputs).
    kernel
        (inputs, units).
    input_grad, bias_grad
        Whether the gradients of the input and the bias are wanted.

    Returns
    -------
    dx : ndarray or None
        (..., inputs).
    dkernel : ndarray
        (inputs, units).
    dbias : ndarray or None
        (units,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> dx, dkernel, dbias = dense_backward([[1.0]], [[2.0, 3.0]], [[4.0], [5.0]])
    >>> dx.tolist(), dkernel.tolist(), dbias.tolist()
    ([[4.0, 5.0]], [[2.0], [3.0]], [1.0])
    """
    input_grad, bias_grad = flag(input_grad, "input_grad"), flag(bias_grad, "bias_grad")
    grad, x, kernel = floats(("grad", "x", "kernel"), grad, x, kernel)
    _check(x, kernel)
    like(grad, (*x.shape[:-1], kernel.shape[1]))
    rows = _rows(grad)
    dx = matmul(rows, kernel, transpose_b=True).reshape(x.shape) if input_grad else None
    dbias = bias_add_backward(rows) if bias_grad else None
    return dx, matmul(_rows(x), rows, transpose_a=True), dbias
