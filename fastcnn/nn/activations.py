"""Element by element: activations and their gradients, most by name, and sums; softmax and log-softmax by rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._core import _elementwise as _kernels
from ..arguments import TINY, brief
from ._arrays import FloatArray, flag, floats, like, number

#: Names that `activation=` arguments accept; None means "linear".
ACTIVATIONS = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "silu",
    "hard_swish",
    "gelu",
    "softmax",
    "log_softmax",
)

#: Activations whose gradient is worked out from their argument: they fall before they rise, so that the result does
#: not tell it. That of all others is worked out from the result.
BACK_FROM_ARGUMENT = ("silu", "hard_swish", "gelu")

#: Activations that products, convolutions and normalisations apply on the way, with the number that kernels know.
FUSED: dict[str | None, int] = {"relu": 1, "relu6": 2}

_SECOND_NAMES = {"swish": "silu"}

#: Slope of leaky_relu below zero where it is given by name, as in tf.nn.leaky_relu.
LEAKY_SLOPE = 0.2

_PARAMETER = {"leaky_relu": LEAKY_SLOPE, "relu6": 6.0}


_ELEMENTWISE = {
    "relu": _kernels.RELU,
    "relu6": _kernels.CLIPPED_RELU,
    "leaky_relu": _kernels.LEAKY_RELU,
    "sigmoid": _kernels.SIGMOID,
    "hard_sigmoid": _kernels.HARD_SIGMOID,
    "tanh": _kernels.TANH,
    "silu": _kernels.SILU,
    "hard_swish": _kernels.HARD_SWISH,
    "gelu": _kernels.GELU,
    "gelu_tanh": _kernels.GELU_TANH,
}
_ELEMENTWISE_BACKWARD = {
    "leaky_relu": _kernels.LEAKY_RELU_BACKWARD,
    "sigmoid": _kernels.SIGMOID_BACKWARD,
    "hard_sigmoid": _kernels.HARD_SIGMOID_BACKWARD,
    "tanh": _kernels.TANH_BACKWARD,
    "silu": _kernels.SILU_BACKWARD,
    "hard_swish": _kernels.HARD_SWISH_BACKWARD,
    "gelu": _kernels.GELU_BACKWARD,
}
_ROWWISE = {"softmax": _kernels.SOFTMAX, "log_softmax": _kernels.LOG_SOFTMAX}
_ROWWISE_BACKWARD = {
    "softmax": _kernels.SOFTMAX_BACKWARD,
    "log_softmax": _kernels.LOG_SOFTMAX_BACKWARD,
}


def checked_activation(activation: Any) -> str | None:
    """Return the name of an activation, None for the identity; "swish" is a second name of "silu".

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    if activation is None:
        return None
    if isinstance(activation, str):
        activation = _SECOND_NAMES.get(activation, activation)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {brief(activation)}")
    return None if activation == "linear" else activation


def apply_in_place(y: FloatArray, activation: str | None) -> FloatArray:
    """Overwrite a fresh result with its activation."""
    if activation is not None:
        bound_activation(activation, y, y)()
    return y


def bound_activation(
    activation: str, x: FloatArray, out: FloatArray, parameter: float | None = None
) -> Callable[[], None]:
    """Return a function that writes the activation of an array to another of its shape, or to itself.

    Parameters
    ----------
    activation
        One of :data:`ACTIVATIONS` but "linear"; or "gelu_tanh", the approximate form of "gelu".
    x, out
        C-ordered, of one float type.
    parameter
        The slope of "leaky_relu" or what "relu6" cuts off at; None for what goes with the name.
    """
    if activation in _ROWWISE:
        return partial(_kernels.rowwise, _ROWWISE[activation], x, x, out)
    alpha = _PARAMETER.get(activation, 0.0) if parameter is None else parameter
    return partial(_kernels.elementwise, _ELEMENTWISE[activation], x, x, alpha, out)


def is_elementwise(activation: str | None) -> bool:
    """Whether an activation by name, None for none, takes each element by itself."""
    return activation not in _ROWWISE


def pass_after(activation: str | None) -> tuple[int, int, float]:
    """Return which relu a kernel applies on its way, and the number and the parameter of what is to go over its result.

    For an activation that is elementwise; 0 and -1 where there is none.
    """
    if activation is None or activation in FUSED:
        return FUSED.get(activation, 0), -1, 0.0
    return 0, _ELEMENTWISE[activation], _PARAMETER.get(activation, 0.0)


def activate(x: ArrayLike, activation: str | None) -> FloatArray:
    """Apply an activation by name.

    Parameters
    ----------
    x
        Any shape; softmax and log_softmax go along the last axis.
    activation
        One of :data:`ACTIVATIONS`, or None for the identity. leaky_relu has slope 0.2 below zero; gelu is exact.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    ValueError
        If there is no such activation.

    Examples
    --------
    >>> activate([-1.0, 2.0], "relu").tolist()
    [0.0, 2.0]
    """
    name = checked_activation(activation)
    (x,) = floats(("x",), x)
    if name is None:
        return np.array(x)
    if name in _ROWWISE:
        if not x.ndim:
            raise ValueError(f"x must have at least one axis for {name}, got shape ()")
        return _rowwise(_ROWWISE[name], x, x, -1)
    return _elementwise(_ELEMENTWISE[name], x, x, _PARAMETER.get(name, 0.0))


def activate_backward(
    grad: ArrayLike, y: ArrayLike, activation: str | None, second: ArrayLike | None = None
) -> FloatArray:
    """Return the gradient of an activation's argument, from its result or from the argument itself.

    Parameters
    ----------
    grad
        Gradient of the result.
    y
        The result of :func:`activate`; for an activation of :data:`BACK_FROM_ARGUMENT` its argument.
    activation
        The same name.
    second
        What to add to grad first, of its shape: the gradient of the result where something else takes it too. "relu"
        and "relu6" do that in one pass. None for nothing.

    Notes
    -----
    =========================================  ============
    activation                                 y
    =========================================  ============
    relu, relu6, leaky_relu, sigmoid,          the result
    hard_sigmoid, tanh, softmax, log_softmax
    silu, hard_swish, gelu                     the argument
    =========================================  ============

    Returns
    -------
    ndarray
        Of the shape of y.

    Raises
    ------
    ValueError
        If there is no such activation, or shapes differ.

    Examples
    --------
    >>> activate_backward([1.0, 1.0], [0.0, 2.0], "relu").tolist()
    [0.0, 1.0]
    >>> x = [0.0, 4.0]
    >>> activate_backward([1.0, 1.0], x, "hard_swish").tolist()
    [0.5, 1.0]
    """
    name = checked_activation(activation)
    grad, y, second = floats(("grad", "y", "second"), grad, y, second, optional=1)
    like(grad, y.shape)
    if second is not None:
        like(second, y.shape, "second")
    if name in FUSED:
        out = np.empty_like(y)
        _kernels.relu_backward(grad, second, y, FUSED[name], out)
        return out
    if second is not None:
        grad = add(grad, second)
    if name is None:
        return np.array(grad)
    if name in _ROWWISE:
        if not y.ndim:
            raise ValueError(f"y must have at least one axis for {name}, got shape ()")
        return _rowwise(_ROWWISE_BACKWARD[name], grad, y, -1)
    return _elementwise(_ELEMENTWISE_BACKWARD[name], grad, y, _PARAMETER.get(name, 0.0))


def add(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """Return x + y, of one shape.

    Parameters
    ----------
    x, y
        Of any shape.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> add([1.0, 2.0], [3.0, 4.0]).tolist()
    [4.0, 6.0]
    """
    x, y = floats(("x", "y"), x, y)
    like(y, x.shape, "y")
    return _elementwise(_kernels.ADD, x, y)


def _elementwise(op: int, a: FloatArray, b: FloatArray, alpha: float = 0.0) -> FloatArray:
    out = np.empty_like(a)
    _kernels.elementwise(op, a, b, alpha, out)
    return out


def _slope_times(op: int, grad: ArrayLike, at: ArrayLike, name: str, alpha: float = 0.0) -> FloatArray:
    """Return a gradient times the slope at an argument or result of the same shape, which errors call by its name."""
    grad, at = floats(("grad", name), grad, at)
    like(grad, at.shape)
    return _elementwise(op, grad, at, alpha)


def _rowwise(op: int, a: FloatArray, b: FloatArray, axis: Any) -> FloatArray:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be an integer, got {brief(axis)}")
    if not -a.ndim <= axis < a.ndim:
        raise ValueError(f"axis must be in [{-a.ndim}, {a.ndim}), got {brief(axis)}")
    if axis in (-1, a.ndim - 1):
        out = np.empty_like(a)
        _kernels.rowwise(op, a, b, out)
        return out
    turned = _rowwise(
        op, np.ascontiguousarray(np.moveaxis(a, axis, -1)), np.ascontiguousarray(np.moveaxis(b, axis, -1)), -1
    )
    return np.ascontiguousarray(np.moveaxis(turned, -1, axis))


def relu(x: ArrayLike, max_value: float | None = None) -> FloatArray:
    """Return max(x, 0), or min(max(x, 0), max_value); NaN stays.

    Parameters
    ----------
    x
        Any shape.
    max_value
        Where the result is cut off, positive; None for nowhere. "relu6", as an activation, cuts off at 6.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> relu([-1.0, 2.0]).tolist()
    [0.0, 2.0]
    """
    (x,) = floats(("x",), x)
    if max_value is None:
        return _elementwise(_kernels.RELU, x, x)
    return _elementwise(_kernels.CLIPPED_RELU, x, x, checked_max_value(max_value))


def checked_max_value(max_value: Any) -> float:
    """Return what relu is cut off at as a float, if it is finite and positive.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    return number(max_value, "max_value", TINY, np.inf)


def relu_backward(grad: ArrayLike, y: ArrayLike, max_value: float | None = None) -> FloatArray:
    """Return grad where 0 < y < max_value, else 0.

    Parameters
    ----------
    grad
        Gradient of the result.
    y
        The result, or the argument.
    max_value
        As given to :func:`relu`.

    Returns
    -------
    ndarray
        Of the shape of y.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> relu_backward([3.0, 3.0], [0.0, 2.0]).tolist()
    [0.0, 3.0]
    """
    if max_value is None:
        return activate_backward(grad, y, "relu")
    return _slope_times(_kernels.CLIPPED_RELU_BACKWARD, grad, y, "y", checked_max_value(max_value))


def leaky_relu(x: ArrayLike, alpha: float = LEAKY_SLOPE) -> FloatArray:
    """Return x where it is positive, else alpha * x.

    Parameters
    ----------
    x
        Any shape.
    alpha
        Slope below zero, finite.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        If alpha is no finite number.

    Examples
    --------
    >>> leaky_relu([-1.0, 2.0], alpha=0.5).tolist()
    [-0.5, 2.0]
    """
    (x,) = floats(("x",), x)
    return _elementwise(_kernels.LEAKY_RELU, x, x, number(alpha, "alpha", -np.inf, np.inf))


def leaky_relu_backward(grad: ArrayLike, x: ArrayLike, alpha: float = LEAKY_SLOPE) -> FloatArray:
    """Return grad where x >= 0, else alpha * grad.

    Parameters
    ----------
    grad
        Gradient of the result.
    x
        The argument (or, where alpha is positive, the result).
    alpha
        Slope below zero, finite.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        If alpha is no finite number, or shapes differ.

    Examples
    --------
    >>> leaky_relu_backward([1.0, 1.0], [-1.0, 2.0], alpha=0.5).tolist()
    [0.5, 1.0]
    """
    return _slope_times(_kernels.LEAKY_RELU_BACKWARD, grad, x, "x", number(alpha, "alpha", -np.inf, np.inf))


def sigmoid(x: ArrayLike) -> FloatArray:
    """Return 1 / (1 + exp(-x)), without overflow.

    Parameters
    ----------
    x
        Any shape.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError
        If x holds no real numbers.

    Examples
    --------
    >>> sigmoid([0.0, 1000.0]).tolist()
    [0.5, 1.0]
    """
    (x,) = floats(("x",), x)
    return _elementwise(_kernels.SIGMOID, x, x)


def sigmoid_backward(grad: ArrayLike, y: ArrayLike) -> FloatArray:
    """Return grad * y * (1 - y), where y is the result of :func:`sigmoid`.

    Parameters
    ----------
    grad, y
        Of one shape.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> sigmoid_backward([4.0], [0.5]).tolist()
    [1.0]
    """
    return activate_backward(grad, y, "sigmoid")


def tanh(x: ArrayLike) -> FloatArray:
    """Return the hyperbolic tangent.

    Parameters
    ----------
    x
        Any shape.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError
        If x holds no real numbers.

    Examples
    --------
    >>> tanh([0.0, 1000.0]).tolist()
    [0.0, 1.0]
    """
    (x,) = floats(("x",), x)
    return _elementwise(_kernels.TANH, x, x)


def tanh_backward(grad: ArrayLike, y: ArrayLike) -> FloatArray:
    """Return grad * (1 - y^2), where y is the result of :func:`tanh`.

    Parameters
    ----------
    grad, y
        Of one shape.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> tanh_backward([1.0], [0.5]).tolist()
    [0.75]
    """
    return activate_backward(grad, y, "tanh")


def hard_sigmoid(x: ArrayLike) -> FloatArray:
    """Return min(max(x + 3, 0), 6) / 6, straight lines in place of :func:`sigmoid`.

    Parameters
    ----------
    x
        Any shape.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError
        If x holds no real numbers.

    Examples
    --------
    >>> hard_sigmoid([-4.0, 0.0, 4.0]).tolist()
    [0.0, 0.5, 1.0]
    """
    (x,) = floats(("x",), x)
    return _elementwise(_kernels.HARD_SIGMOID, x, x)


def hard_sigmoid_backward(grad: ArrayLike, y: ArrayLike) -> FloatArray:
    """Return grad / 6 where 0 < y < 1, else 0, where y is the result of :func:`hard_sigmoid`.

    Parameters
    ----------
    grad, y
        Of one shape.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> hard_sigmoid_backward([3.0, 3.0], [0.5, 1.0]).tolist()
    [0.5, 0.0]
    """
    return activate_backward(grad, y, "hard_sigmoid")


def silu(x: ArrayLike) -> FloatArray:
    """Return x * sigmoid(x), also called swish; zero at minus infinity.

    Parameters
    ----------
    x
        Any shape.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError
        If x holds no real numbers.

    References
    ----------
    Elfwing et al., "Sigmoid-weighted linear units", 2018. Ramachandran et al., "Searching for activation functions",
    2017.

    Examples
    --------
    >>> silu([0.0, 1000.0]).tolist()
    [0.0, 1000.0]
    """
    (x,) = floats(("x",), x)
    return _elementwise(_kernels.SILU, x, x)


def silu_backward(grad: ArrayLike, x: ArrayLike) -> FloatArray:
    """Return grad * (s + x * s * (1 - s)) with s = sigmoid(x), where x is the argument of :func:`silu`.

    Parameters
    ----------
    grad, x
        Of one shape.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> silu_backward([4.0], [0.0]).tolist()
    [2.0]
    """
    return _slope_times(_kernels.SILU_BACKWARD, grad, x, "x")


def hard_swish(x: ArrayLike) -> FloatArray:
    """Return x * :func:`hard_sigmoid` of x, straight lines in place of :func:`silu`'s sigmoid.

    Parameters
    ----------
    x
        Any shape.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError
        If x holds no real numbers.

    References
    ----------
    Howard et al., "Searching for MobileNetV3", 2019.

    Examples
    --------
    >>> hard_swish([-4.0, 0.0, 3.0]).tolist()
    [0.0, 0.0, 3.0]
    """
    (x,) = floats(("x",), x)
    return _elementwise(_kernels.HARD_SWISH, x, x)


def hard_swish_backward(grad: ArrayLike, x: ArrayLike) -> FloatArray:
    """Return grad * (x / 3 + 1 / 2) for arguments -3 < x < 3 of :func:`hard_swish`, grad above and 0 below.

    Parameters
    ----------
    grad, x
        Of one shape.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> hard_swish_backward([4.0, 4.0], [0.0, 3.0]).tolist()
    [2.0, 4.0]
    """
    return _slope_times(_kernels.HARD_SWISH_BACKWARD, grad, x, "x")


def gelu(x: ArrayLike, approximate: bool = False) -> FloatArray:
    """Return x * (1 + erf(x / sqrt(2))) / 2: x times the share of a normal distribution that lies below x.

    Parameters
    ----------
    x
        Any shape.
    approximate
        Whether tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)) takes the place of erf(x / sqrt(2)).

    Returns
    -------
    ndarray
        Of the shape of x, in either element type within 3 ulp for a positive x; for a negative one the relative error
        is up to 3 + x^2 / 4 times the element type's epsilon: the result is there a rational function of full accuracy
        times an exponential of -x^2 / 2.

    Raises
    ------
    TypeError
        If x holds no real numbers, or approximate is no flag.

    References
    ----------
    Hendrycks and Gimpel, "Gaussian error linear units", 2016. Cody, "Rational Chebyshev approximations for the error
    function", 1969.

    Examples
    --------
    >>> gelu([-1.0, 0.0, 1.0]).round(4).tolist(), gelu([1.0], approximate=True).round(4).tolist()
    ([-0.1587, 0.0, 0.8413], [0.8412])
    """
    (x,) = floats(("x",), x)
    return _elementwise(_kernels.GELU_TANH if flag(approximate, "approximate") else _kernels.GELU, x, x)


def gelu_backward(grad: ArrayLike, x: ArrayLike, approximate: bool = False) -> FloatArray:
    """Return grad times the slope of :func:`gelu` at its argument x.

    Parameters
    ----------
    grad, x
        Of one shape.
    approximate
        As given to :func:`gelu`.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    TypeError, ValueError
        If shapes differ, or approximate is no flag.

    Examples
    --------
    >>> gelu_backward([4.0], [0.0]).tolist()
    [2.0]
    """
    op = _kernels.GELU_TANH_BACKWARD if flag(approximate, "approximate") else _kernels.GELU_BACKWARD
    return _slope_times(op, grad, x, "x")


def softmax(x: ArrayLike, axis: int = -1) -> FloatArray:
    """Return exp(x) / sum(exp(x)) along an axis, shifted by its maximum against overflow.

    Parameters
    ----------
    x
        Any shape with at least one axis.
    axis
        The axis that sums to one.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        If x has no such axis.

    Examples
    --------
    >>> softmax([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    (x,) = floats(("x",), x)
    return _rowwise(_kernels.SOFTMAX, x, x, axis)


def softmax_backward(grad: ArrayLike, y: ArrayLike, axis: int = -1) -> FloatArray:
    """Return y * (grad - sum(grad * y)), where y is the result of :func:`softmax`.

    Parameters
    ----------
    grad, y
        Of one shape.
    axis
        The same axis.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    TypeError, ValueError
        If shapes differ or there is no such axis.

    Examples
    --------
    >>> softmax_backward([[1.0, 0.0]], [[0.5, 0.5]]).tolist()
    [[0.25, -0.25]]
    """
    grad, y = floats(("grad", "y"), grad, y)
    like(grad, y.shape)
    return _rowwise(_kernels.SOFTMAX_BACKWARD, grad, y, axis)


def log_softmax(x: ArrayLike, axis: int = -1) -> FloatArray:
    """Return x - log(sum(exp(x))) along an axis, without overflow.

    Parameters
    ----------
    x
        Any shape with at least one axis.
    axis
        The axis to sum over.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        If x has no such axis.

    Examples
    --------
    >>> log_softmax([[0.0, 0.0]]).round(4).tolist()
    [[-0.6931, -0.6931]]
    """
    (x,) = floats(("x",), x)
    return _rowwise(_kernels.LOG_SOFTMAX, x, x, axis)


def log_softmax_backward(grad: ArrayLike, y: ArrayLike, axis: int = -1) -> FloatArray:
    """Return grad - exp(y) * sum(grad), where y is the result of :func:`log_softmax`.

    Parameters
    ----------
    grad, y
        Of one shape.
    axis
        The same axis.

    Returns
    -------
    ndarray
        Of the same shape.

    Raises
    ------
    TypeError, ValueError
        If shapes differ or there is no such axis.

    Examples
    --------
    >>> log_softmax_backward([[1.0, 0.0]], log_softmax([[0.0, 0.0]])).round(4).tolist()
    [[0.5, -0.5]]
    """
    grad, y = floats(("grad", "y"), grad, y)
    like(grad, y.shape)
    return _rowwise(_kernels.LOG_SOFTMAX_BACKWARD, grad, y, axis)
