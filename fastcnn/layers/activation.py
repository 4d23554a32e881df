"""Activations as layers of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import initializers, nn, ops
from ..arguments import flag, integer, number
from ..nn.activations import checked_activation, checked_max_value
from ..registry import register
from .base import Activated, Array, Gradients, Layer, Shape


class _Alone(Activated):
    """What layers share that are nothing but an activation."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return activation(x)."""
        return x if activation is None else nn.activate(x, activation)

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the activation."""
        return self.lowered_activation() or [ops.Same()]

    def apply_backward(self, grad: Array, x: Array, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradient as it comes: all there is is the activation."""
        return grad, {}


@register
class Activation(_Alone):
    """An activation by name; see :func:`fastcnn.nn.activate`.

    Parameters
    ----------
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`.
    name, dtype, trainable
        As in :class:`Layer`.

    Raises
    ------
    ValueError
        If there is no such activation.

    Examples
    --------
    >>> Activation("relu")([[-1.0, 2.0]]).tolist()
    [[0.0, 2.0]]
    """

    def __init__(self, activation: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = checked_activation(activation)


@register
class ReLU(Layer):
    """max(x, 0), or min(max(x, 0), max_value); see :func:`fastcnn.nn.relu`.

    Parameters
    ----------
    max_value
        Where the result is cut off, positive; None for nowhere.
    name, dtype, trainable
        As in :class:`Layer`.

    Raises
    ------
    TypeError, ValueError
        If max_value is no positive number.

    Examples
    --------
    >>> ReLU()([[-1.0, 8.0]]).tolist(), ReLU(max_value=6)([[-1.0, 8.0]]).tolist()
    ([[0.0, 8.0]], [[0.0, 6.0]])
    """

    def __init__(self, max_value: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else checked_max_value(max_value)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the activated input."""
        y = nn.relu(x, self.max_value)
        return y, y

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the activation."""
        if self.max_value is None:
            return [ops.Activation("relu")]
        return [ops.Activation("relu6", None if self.max_value == 6 else self.max_value)]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the input."""
        return nn.relu_backward(grad, cache, self.max_value), {}


@register
class ReLU6(_Alone):
    """min(max(x, 0), 6); see :func:`fastcnn.nn.relu`.

    Parameters
    ----------
    name, dtype, trainable
        As in :class:`Layer`.

    Examples
    --------
    >>> ReLU6()([[-1.0, 8.0]]).tolist()
    [[0.0, 6.0]]
    """

    activation = "relu6"


@register
class LeakyReLU(Layer):
    """The input where it is positive, else its product with a slope; see :func:`fastcnn.nn.leaky_relu`.

    Parameters
    ----------
    negative_slope
        Slope below zero, finite.
    name, dtype, trainable
        As in :class:`Layer`.

    Raises
    ------
    TypeError, ValueError
        If negative_slope is no finite number.

    Examples
    --------
    >>> LeakyReLU(0.5)([[-1.0, 2.0]]).tolist()
    [[-0.5, 2.0]]
    """

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.negative_slope = number(negative_slope, "negative_slope", -np.inf, np.inf)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the activated input."""
        return nn.leaky_relu(x, self.negative_slope), x

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the activation."""
        return [ops.Activation("leaky_relu", self.negative_slope)]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the input."""
        return nn.leaky_relu_backward(grad, cache, self.negative_slope), {}


@register
class PReLU(Layer):
    """The input where it is positive, else its product with a slope that is learned.

    Parameters
    ----------
    alpha_initializer
        What the slopes begin with: a Keras string or an initialiser.
    shared_axes
        Axes along which all numbers share a slope, counted from the batch, which is 0: for images ``(1, 2)`` gives
        each channel one. None for a slope of its own for each number of a sample.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input and result (N, ...). Weight: alpha, in the shape of a sample with ones for the shared axes.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    He et al., "Delving deep into rectifiers", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> layer = PReLU(shared_axes=(1, 2))
    >>> layer(np.ones((1, 28, 28, 16))).shape, layer.alpha.shape
    ((1, 28, 28, 16), (1, 1, 16))
    """

    alpha: Array

    def __init__(self, alpha_initializer: Any = "zeros", shared_axes: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer, "alpha_initializer")
        if shared_axes is not None:
            axes = shared_axes if isinstance(shared_axes, (list, tuple)) else [shared_axes]
            shared_axes = tuple([integer(axis, "shared_axes", 1, shared_axes) for axis in axes])
        self.shared_axes = shared_axes

    def build(self, input_shape: Shape) -> None:
        """Make the slopes."""
        shape = list(input_shape[1:])
        for axis in self.shared_axes or ():
            if axis > len(shape):
                raise ValueError(f"shared_axes must be axes of input of shape {input_shape}, got {self.shared_axes}")
            shape[axis - 1] = 1
        self.add_weight("alpha", tuple(shape), self.alpha_initializer)  # type: ignore[arg-type]  # only the batch is None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the activated input."""
        with np.errstate(invalid="ignore"):
            y = np.where(x < 0, x * self.alpha, x)
        if not self.alpha.all():  # a slope of zero makes no number of an infinity
            np.copyto(y, x, where=np.isneginf(x) & (self.alpha == 0))
        return y, x

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the activation."""
        return [ops.PReLU(self.alpha)]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradients of the input and of the slopes."""
        below = cache < 0
        rows = (grad * np.where(below, cache, 0)).reshape(len(cache), math.prod(cache.shape[1:]))
        dalpha = nn.bias_add_backward(rows).reshape(cache.shape[1:])
        shared = tuple([axis - 1 for axis in self.shared_axes or ()])
        return np.where(below, grad * self.alpha, grad), {"alpha": dalpha.sum(shared, keepdims=True)}


@register
class SiLU(_Alone):
    """x * sigmoid(x), also called swish; see :func:`fastcnn.nn.silu`.

    Parameters
    ----------
    name, dtype, trainable
        As in :class:`Layer`.

    Examples
    --------
    >>> SiLU()([[-1000.0, 0.0, 1000.0]]).tolist()
    [[0.0, 0.0, 1000.0]]
    """

    activation = "silu"


@register
class HardSwish(_Alone):
    """x * min(max(x + 3, 0), 6) / 6; see :func:`fastcnn.nn.hard_swish`.

    Parameters
    ----------
    name, dtype, trainable
        As in :class:`Layer`.

    Examples
    --------
    >>> HardSwish()([[-4.0, 0.0, 3.0]]).tolist()
    [[0.0, 0.0, 3.0]]
    """

    activation = "hard_swish"


@register
class GELU(Layer):
    """x times the share of a normal distribution that lies below x; see :func:`fastcnn.nn.gelu`.

    Parameters
    ----------
    approximate
        Whether a tanh takes the place of the error function.
    name, dtype, trainable
        As in :class:`Layer`.

    Raises
    ------
    TypeError
        If approximate is no flag.

    Examples
    --------
    >>> GELU()([[-1000.0, 0.0, 1000.0]]).tolist()
    [[0.0, 0.0, 1000.0]]
    """

    def __init__(self, approximate: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approximate = flag(approximate, "approximate")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the activated input."""
        return nn.gelu(x, self.approximate), x

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the activation."""
        return [ops.Activation("gelu_tanh" if self.approximate else "gelu")]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the input."""
        return nn.gelu_backward(grad, cache, self.approximate), {}


@register
class Softmax(Activated):
    """exp(x) / sum(exp(x)) along an axis; see :func:`fastcnn.nn.softmax`.

    Parameters
    ----------
    axis
        The axis that sums to one.
    name, dtype, trainable
        As in :class:`Layer`.

    Raises
    ------
    TypeError, ValueError
        If axis is no integer.

    Examples
    --------
    >>> Softmax()([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """

    settled = ("name", "axis")

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = integer(axis, "axis", -64)
        # Along another axis than the last it is no activation that a loss could take the logits of.
        self.activation = "softmax" if self.axis == -1 else None

    def build(self, input_shape: Shape) -> None:
        """Find out whether the axis is the last one."""
        self.activation = "softmax" if self.axis in (-1, len(input_shape) - 1) else None

    def unbuild(self) -> None:
        """Forget whether the axis is the last one, too."""
        super().unbuild()
        self.activation = "softmax" if self.axis == -1 else None

    def _twin(self, input_shape: Shape) -> Layer:
        twin = super()._twin(input_shape)
        if self.activation and not twin.activation:  # type: ignore[attr-defined]  # it is a softmax
            raise ValueError(
                f"axis must not be the last one of some inputs of a shared layer and another of {input_shape}, "
                f"got {self.axis}"
            )
        return twin

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        if not -len(input_shape) < self.axis < len(input_shape) or self.axis == 0:
            raise ValueError(f"axis must be one of a sample of shape {input_shape}, got {self.axis}")
        return input_shape

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return softmax(x)."""
        return nn.softmax(x, self.axis)

    def logits(self, x: Array) -> tuple[Array, Any]:
        """Return x as it is; backward then takes its gradient."""
        return x, (x, None, False)

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return an activation where the axis is the last one, however that is spelt."""
        is_last = self.axis in (-1, len(input_shape) - 1)
        return [ops.Activation("softmax") if is_last else ops.Softmax(self.axis)]

    def _before_activation(self, grad: Array, cache: Any) -> Array:
        y = cache[1]
        return grad if y is None else nn.softmax_backward(grad, y, self.axis)

    def apply_backward(self, grad: Array, x: Array, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradient as it comes: all there is is the softmax."""
        return grad, {}
