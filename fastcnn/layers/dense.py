"""Dense layers."""

from __future__ import annotations

from typing import Any

from .. import initializers, nn, ops
from ..arguments import flag, integer
from ..nn.activations import checked_activation
from ..registry import register
from ..shapes import elements
from .base import Activated, Array, Gradients, Shape


@register
class Dense(Activated):
    """Fully connected layer: activation(x @ kernel + bias); see :func:`fastcnn.nn.dense`.

    Parameters
    ----------
    units
        Number of results.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    use_bias
        Whether there is a bias.
    kernel_initializer, bias_initializer
        Keras strings or initialisers.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, ..., inputs), result (N, ..., units). Weights: kernel (inputs, units), bias (units,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> Dense(10, activation="softmax")(np.zeros((2, 64))).sum(axis=1).round(4).tolist()
    [1.0, 1.0]
    """

    kernel: Array
    bias: Array

    settled = ("name", "use_bias")

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = integer(units, "units")
        self.activation = checked_activation(activation)
        self.use_bias = flag(use_bias, "use_bias")
        self.kernel_initializer = initializers.get(kernel_initializer, "kernel_initializer")
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer")

    def build(self, input_shape: Shape) -> None:
        """Make kernel and bias."""
        if len(input_shape) < 2 or not input_shape[-1]:
            raise ValueError(f"input must have shape (batch, ..., features), got {input_shape}")
        self.add_weight("kernel", (input_shape[-1], self.units), self.kernel_initializer)
        if self.use_bias:
            self.add_weight("bias", (self.units,), self.bias_initializer)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, ..., units)."""
        return (*input_shape[:-1], self.units)

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return two operations for each input of each result."""
        return 2 * (input_shape[-1] or 0) * elements(output_shape, "result")

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return activation(x @ kernel + bias)."""
        return nn.dense(x, self.kernel, self.bias if self.use_bias else None, activation)

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return a convolution of 1x1 pixels, then the activation."""
        bias = self.bias if self.use_bias else None
        return [ops.Convolution(self.kernel[None, None], bias), *self.lowered_activation()]

    def apply_backward(self, grad: Array, x: Array, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradients of the input, kernel and bias."""
        dx, dkernel, dbias = nn.dense_backward(grad, x, self.kernel, input_grad=input_grad, bias_grad=self.use_bias)
        gradients = {"kernel": dkernel}
        if dbias is not None:
            gradients["bias"] = dbias
        return dx, gradients
