"""Activations as layers of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import nn
from ..arguments import integer, number
from ..nn.activations import checked_activation, checked_max_value
from ..registry import register
from .base import Activated, Array, Gradients, Layer, Shape


@register
class Activation(Activated):
    """An activation by name; see :func:`fastcnn.nn.activate`.

    Parameters
    ----------
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`.
    name, dtype
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

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return activation(x)."""
        return x if activation is None else nn.activate(x, activation)

    def apply_backward(self, grad: Array, x: Array, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradient as it comes: all there is is the activation."""
        return grad, {}


@register
class ReLU(Layer):
    """max(x, 0), or min(max(x, 0), max_value); see :func:`fastcnn.nn.relu`.

    Parameters
    ----------
    max_value
        Where the result is cut off, positive; None for nowhere.
    name, dtype
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

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the input."""
        return nn.relu_backward(grad, cache, self.max_value), {}


@register
class LeakyReLU(Layer):
    """The input where it is positive, else its product with a slope; see :func:`fastcnn.nn.leaky_relu`.

    Parameters
    ----------
    negative_slope
        Slope below zero, finite.
    name, dtype
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

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the input."""
        return nn.leaky_relu_backward(grad, cache, self.negative_slope), {}


@register
class Softmax(Activated):
    """exp(x) / sum(exp(x)) along an axis; see :func:`fastcnn.nn.softmax`.

    Parameters
    ----------
    axis
        The axis that sums to one.
    name, dtype
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

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = integer(axis, "axis", -64)
        # Along another axis than the last it is no activation that a loss could take the logits of.
        self.activation = "softmax" if self.axis == -1 else None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        if not -len(input_shape) < self.axis < len(input_shape) or self.axis == 0:
            raise ValueError(f"axis must be one of a sample of shape {input_shape}, got {self.axis}")
        return input_shape

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return softmax(x), or x as it is."""
        return x if activation is None and self.axis == -1 else nn.softmax(x, self.axis)

    def _before_activation(self, grad: Array, cache: Any) -> Array:
        _, y, activated = cache
        return nn.softmax_backward(grad, y, self.axis) if activated else grad

    def apply_backward(self, grad: Array, x: Array, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradient as it comes: all there is is the softmax."""
        return grad, {}
