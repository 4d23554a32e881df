"""Ops of one value per channel, along the last axis: bias, moments, batch and layer normalisation, PReLU in inference.

In training results and gradients of a batch normalisation need not be written: ``NormalizedResult`` and
``NormalizedGradient`` are what they would be made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._core import _elementwise as _kernels
from ..arguments import TINY, choice
from ._arrays import FloatArray, flag, floats, like, number
from .activations import FUSED, apply_in_place, bound_activation, checked_activation


def _channels(x: FloatArray, name: str) -> tuple[int]:
    if x.ndim < 1:
        raise ValueError(f"{name} must have at least one axis, got shape {x.shape}")
    return (x.shape[-1],)


def _checked_channels(x: FloatArray, **values: FloatArray) -> tuple[int]:
    """Return (C,), if there is a value for each channel of x in each of these."""
    channels = _channels(x, "x")
    for name, value in values.items():
        like(value, channels, name)
    return channels


def bias_add(x: ArrayLike, bias: ArrayLike, activation: str | None = None) -> FloatArray:
    """Add a bias per channel: y = activation(x + bias).

    Parameters
    ----------
    x
        (..., C).
    bias
        (C,).
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.

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
    >>> bias_add([[1.0, 2.0]], [-3.0, 1.0], activation="relu").tolist()
    [[0.0, 3.0]]
    """
    activation = checked_activation(activation)
    x, bias = floats(("x", "bias"), x, bias)
    like(bias, _channels(x, "x"), "bias")
    y = np.empty_like(x)
    fused = FUSED.get(activation, 0)
    _kernels.bias_add(x, bias, fused, y)
    return y if fused else apply_in_place(y, activation)


def bias_add_backward(grad: ArrayLike) -> FloatArray:
    """Return the gradient of a bias: the sum of grad over all but the last axis.

    Parameters
    ----------
    grad
        (..., C).

    Returns
    -------
    ndarray
        (C,).

    Raises
    ------
    TypeError, ValueError
        If grad has no axis or holds no real numbers.

    Examples
    --------
    >>> bias_add_backward([[1.0, 2.0], [3.0, 4.0]]).tolist()
    [4.0, 6.0]
    """
    (grad,) = floats(("grad",), grad)
    out = np.empty(_channels(grad, "grad"), grad.dtype)
    _kernels.column_sum(grad, out)
    return out


def moments(x: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the mean and the (population) variance of each channel.

    In one pass over memory; sums are about a centre near the mean, so that a large mean costs no digits.

    Parameters
    ----------
    x
        (..., C), with at least one value a channel.

    Returns
    -------
    mean, variance : ndarray
        (C,).

    Raises
    ------
    TypeError, ValueError
        If x is empty or holds no real numbers.

    Examples
    --------
    >>> mean, variance = moments([[1.0], [3.0]])
    >>> mean.tolist(), variance.tolist()
    ([2.0], [1.0])
    """
    (x,) = floats(("x",), x)
    channels = _channels(x, "x")
    if not x.size:
        raise ValueError(f"x must not be empty, got shape {x.shape}")
    mean, variance = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    _kernels.moments(x, mean, variance)
    return mean, variance


def batch_normalization(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    offset: ArrayLike,
    scale: ArrayLike,
    variance_epsilon: float,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> FloatArray:
    """Normalise each channel: y = activation((x - mean) / sqrt(variance + epsilon) * scale + offset + residual).

    Parameters
    ----------
    x
        (..., C).
    mean, variance, offset, scale
        (C,); variance is not negative.
    variance_epsilon
        Not negative; positive where a variance is zero.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    residual
        Of the shape of x; None for none.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", 2015.

    Examples
    --------
    >>> batch_normalization([[1.0], [3.0]], [2.0], [1.0], [0.0], [5.0], 0.0).tolist()
    [[-5.0], [5.0]]
    """
    activation = checked_activation(activation)
    names = ("x", "mean", "variance", "offset", "scale", "residual")
    x, mean, variance, offset, scale, residual = floats(names, x, mean, variance, offset, scale, residual, optional=1)
    _checked_channels(x, mean=mean, variance=variance, offset=offset, scale=scale)
    if residual is not None:
        like(residual, x.shape, "residual")
    y = np.empty_like(x)
    fused = FUSED.get(activation, 0)
    _kernels.normalize(x, mean, scale * inverse_deviation(variance, variance_epsilon), offset, residual, fused, y)
    return y if fused else apply_in_place(y, activation)


def bound_batch_normalization(
    x: FloatArray, mean: FloatArray, scale: FloatArray, offset: FloatArray, activation: str | None, out: FloatArray
) -> Callable[[], None]:
    """Return a function that writes activation((x - mean) * scale + offset) to an array of the shape of x, or to x.

    Parameters
    ----------
    x, out
        (..., C), C-ordered, of one float type; x may be some channels of images that are.
    mean, scale, offset
        (C,), likewise.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    """
    fused = FUSED.get(activation, 0)
    normalize = partial(_kernels.normalize, x, mean, scale, offset, None, fused, out)
    if fused or activation is None:
        return normalize
    activate = bound_activation(activation, out, out)

    def both() -> None:
        normalize()
        activate()

    return both


def bound_prelu(x: FloatArray, alpha: FloatArray, out: FloatArray) -> Callable[[], None]:
    """Return a function that writes x where it is positive, else alpha * x, to another array.

    Parameters
    ----------
    x, out
        (N, ...), C-ordered, of one float type, sharing no memory.
    alpha
        Slopes that do not change, in the shape of a sample or such as broadcast to it.
    """
    sizes = x.shape[1:]
    shared = next((axis for axis, n in enumerate(alpha.shape) if n != 1), alpha.ndim - 1)  # axes, from the first on
    slopes = np.broadcast_to(alpha, sizes)[(0,) * shared].ravel()
    multiply: list[Callable[[], Any]]
    choose: list[Callable[[], Any]]
    if shared:
        rows, zeros = (-1, slopes.size), np.zeros_like(slopes)
        multiply = [bound_batch_normalization(x.reshape(rows), zeros, slopes, zeros, None, out.reshape(rows))]
    else:
        multiply = [partial(np.multiply, sample, slopes.reshape(sizes), y) for sample, y in zip(x, out, strict=True)]
    # Slopes up to 1 make numbers below zero greater, others less: only among both it takes a look at each number.
    if (alpha <= 1).all() or (alpha >= 1).all():
        # Of numbers alone: a slope of zero makes none of an infinity.
        choose = [partial(np.fmax if (alpha <= 1).all() else np.fmin, out, x, out)]
    else:
        positive = np.empty(x.shape, np.bool_)
        choose = [partial(np.greater_equal, x, 0, positive), partial(np.copyto, out, x, where=positive)]

    def prelu() -> None:
        with np.errstate(invalid="ignore"):  # an infinity times a slope of 0
            for step in (*multiply, *choose):
                step()

    return prelu


def inverse_deviation(variance: FloatArray, variance_epsilon: float) -> FloatArray:
    """Return 1 / sqrt(variance + epsilon), (C,).

    Raises
    ------
    TypeError, ValueError
        If that is not a positive number for every channel.
    """
    inverse = _kernels.inverse_deviation(variance, number(variance_epsilon, "variance_epsilon", 0.0, np.inf))
    if inverse is None:
        raise ValueError(
            f"variance + variance_epsilon must be positive, got a variance of {variance.min()} "
            f"and variance_epsilon={variance_epsilon!r}"
        )
    return inverse


def batch_normalization_backward(
    grad: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    scale: ArrayLike,
    variance_epsilon: float,
    training: bool = True,
    offset: ArrayLike | None = None,
    activation: str | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gradients of batch normalisation's input, scale and offset.

    Parameters
    ----------
    grad
        Gradient of the result, (..., C).
    x
        (..., C).
    mean, variance, scale, variance_epsilon
        As given to :func:`batch_normalization`.
    training
        Whether mean and variance are x's own :func:`moments`, whose dependence on x then counts, or constants.
    offset, activation
        As given to :func:`batch_normalization`: "relu" or "relu6", which are worked into the same passes, or None.
        With others grad is what :func:`activate_backward` gives, and activation None.

    Returns
    -------
    dx : ndarray
        Of the shape of x.
    dscale, doffset : ndarray
        (C,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", 2015.

    Examples
    --------
    >>> dx, dscale, doffset = batch_normalization_backward(
    ...     [[1.0], [3.0]], [[1.0], [3.0]], [2.0], [1.0], [5.0], 0.0)
    >>> dx.tolist(), dscale.tolist(), doffset.tolist()
    ([[0.0], [0.0]], [2.0], [4.0])
    """
    dx, dscale, doffset = unwritten_gradient(
        grad, x, mean, variance, scale, variance_epsilon, training, offset, activation
    )
    return written_gradient(dx), dscale, doffset


@dataclass(frozen=True, eq=False)
class NormalizedResult:
    """The result of batch normalisation before it is written: whoever takes it makes it where it is needed.

    y = activation((x - mean) * scale + offset)
    """

    x: FloatArray
    mean: FloatArray
    scale: FloatArray
    offset: FloatArray
    activation: str | None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array."""
        return self.x.shape

    def operands(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, int]:
        """Return all that it is made of."""
        return self.x, self.mean, self.scale, self.offset, FUSED.get(self.activation, 0)


@dataclass(frozen=True, eq=False)
class _WithGradient:
    """What stands for a gradient of the same shape as the one that it holds."""

    grad: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array."""
        return self.grad.shape

    def __len__(self) -> int:
        return len(self.grad)


@dataclass(frozen=True, eq=False)
class NormalizedGradient(_WithGradient):
    """The gradient of batch normalisation's input before it is written, likewise.

    dx = scale * (g - grad_mean - (x - mean) * slope), where g is grad before the activation.
    """

    result: NormalizedResult
    grad_mean: FloatArray
    slope: FloatArray

    def operands(
        self,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, int, FloatArray, FloatArray]:
        """Return all that it is made of."""
        return self.grad, *self.result.operands(), self.grad_mean, self.slope


@dataclass(frozen=True, eq=False)
class SummedGradient(_WithGradient):
    """The gradient of batch normalisation's result, with what has been added up of it on the way.

    total = sum g and dot = sum g (x - mean), where g is grad before the activation.
    """

    total: FloatArray
    dot: FloatArray


# What stands for an array that is not written.
UNWRITTEN = NormalizedResult, NormalizedGradient


def unwritten_result(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    offset: ArrayLike,
    scale: ArrayLike,
    variance_epsilon: float,
    activation: str | None,
) -> NormalizedResult:
    """Return the result of :func:`batch_normalization` unwritten, of the same arguments; any activation is a relu."""
    names = ("x", "mean", "variance", "offset", "scale")
    x, mean, variance, offset, scale = floats(names, x, mean, variance, offset, scale)
    _checked_channels(x, mean=mean, variance=variance, offset=offset, scale=scale)
    return NormalizedResult(x, mean, scale * inverse_deviation(variance, variance_epsilon), offset, activation)


def written_result(result: NormalizedResult) -> FloatArray:
    """Return the result of batch normalisation as an array."""
    x, mean, scale, offset, relu = result.operands()
    y = np.empty_like(x)
    _kernels.normalize(x, mean, scale, offset, None, relu, y)
    return y


def unwritten_gradient(
    grad: ArrayLike | SummedGradient,
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    scale: ArrayLike,
    variance_epsilon: float,
    training: bool = True,
    offset: ArrayLike | None = None,
    activation: str | None = None,
) -> tuple[NormalizedGradient, FloatArray, FloatArray]:
    """Return what :func:`batch_normalization_backward` does, of the same arguments, the input's gradient unwritten.

    That of the result may be one of which the sums are known.
    """
    names = ("grad", "x", "mean", "variance", "scale", "offset")
    fused = 0 if activation is None else FUSED[choice(activation, "activation", tuple(FUSED))]  # type: ignore[arg-type]
    if fused and offset is None:
        raise ValueError(f"offset must be given where activation is {activation!r}, got None")
    summed = grad if isinstance(grad, SummedGradient) else None
    if summed is not None:
        grad = summed.grad
    grad, x, mean, variance, scale, offset = floats(names, grad, x, mean, variance, scale, offset, optional=1)
    like(grad, x.shape)
    offset = mean if offset is None else offset
    channels = _checked_channels(x, mean=mean, variance=variance, scale=scale, offset=offset)
    inverse = inverse_deviation(variance, variance_epsilon)
    slopes = scale * inverse
    if summed is not None:
        doffset, dot = summed.total, summed.dot
    else:
        doffset, dot = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        _kernels.normalize_sums(grad, x, mean, slopes, offset, fused, doffset, dot)
    if flag(training, "training") and x.size:
        count = x.dtype.type(x.size // x.shape[-1])
        grad_mean, slope = doffset / count, dot * inverse * inverse / count
    else:
        grad_mean = slope = np.zeros_like(mean)
    result = NormalizedResult(x, mean, slopes, offset, activation)
    return NormalizedGradient(grad, result, grad_mean, slope), dot * inverse, doffset


def written_gradient(grad: NormalizedGradient) -> FloatArray:
    """Return the gradient of batch normalisation's input as an array."""
    dx = np.empty_like(grad.grad)
    _kernels.normalize_backward(*grad.operands(), dx)
    return dx


def layer_normalization(x: ArrayLike, offset: ArrayLike, scale: ArrayLike, variance_epsilon: float) -> FloatArray:
    """Normalise each row by its own moments: y = (x - mean) / sqrt(variance + epsilon) * scale + offset.

    A row is what lies along the last axis. It is summed twice, the second time about its mean, so that a large mean
    costs no digits.

    Parameters
    ----------
    x
        (..., C).
    offset, scale
        (C,).
    variance_epsilon
        Positive.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Ba et al., "Layer normalization", 2016.

    Examples
    --------
    >>> layer_normalization([[1.0, 3.0]], [0.0, 10.0], [1.0, 2.0], 1e-9).round(4).tolist()
    [[-1.0, 12.0]]
    """
    x, offset, scale = floats(("x", "offset", "scale"), x, offset, scale)
    _checked_channels(x, offset=offset, scale=scale)
    y = np.empty_like(x)
    bound_layer_normalization(x, scale, offset, checked_epsilon(variance_epsilon, "variance_epsilon"), y)()
    return y


def bound_layer_normalization(
    x: FloatArray, scale: FloatArray, offset: FloatArray, epsilon: float, out: FloatArray
) -> Callable[[], None]:
    """Return a function that writes rows, normalised by their own moments, to another array of the shape of x.

    Parameters
    ----------
    x, out
        (..., C), C-ordered, of one float type.
    scale, offset
        (C,), likewise.
    epsilon
        Positive.
    """
    return partial(_kernels.layer_normalize, x, scale, offset, epsilon, out)


def checked_epsilon(value: Any, name: str) -> float:
    """Return what is added to a variance as a float, if it is a positive number in float32 too.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    return number(value, name, TINY, np.inf)


def layer_normalization_backward(
    grad: ArrayLike, x: ArrayLike, scale: ArrayLike, variance_epsilon: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gradients of layer normalisation's input, scale and offset.

    Parameters
    ----------
    grad
        Gradient of the result, (..., C).
    x
        (..., C).
    scale, variance_epsilon
        As given to :func:`layer_normalization`.

    Returns
    -------
    dx : ndarray
        Of the shape of x.
    dscale, doffset : ndarray
        (C,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> dx, dscale, doffset = layer_normalization_backward([[1.0, 1.0]], [[1.0, 3.0]], [1.0, 1.0], 1e-9)
    >>> dx.tolist(), dscale.round(4).tolist(), doffset.tolist()
    ([[0.0, 0.0]], [-1.0, 1.0], [1.0, 1.0])
    """
    grad, x, scale = floats(("grad", "x", "scale"), grad, x, scale)
    like(grad, x.shape)
    like(scale, _channels(x, "x"), "scale")
    dx, dscale = np.empty_like(x), np.empty_like(scale)
    epsilon = checked_epsilon(variance_epsilon, "variance_epsilon")
    _kernels.layer_normalize_backward(grad, x, scale, epsilon, dx, dscale)
    return dx, dscale, bias_add_backward(grad)
