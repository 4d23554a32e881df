"""Batch and layer normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import initializers, nn, ops
from ..arguments import flag, integer, number
from ..nn.activations import FUSED, checked_activation
from ..nn.between import MeasuredResult
from ..nn.normalization import (
    NormalizedGradient,
    NormalizedResult,
    SummedGradient,
    checked_epsilon,
    unwritten_gradient,
    unwritten_result,
    written_gradient,
)
from ..registry import register
from ..shapes import elements
from .base import Array, Gradients, Layer, Shape


class _Normalization(Layer):
    """What both normalisations share: a gamma and a beta for each channel, where they are wanted."""

    settled = ("name", "center", "scale")

    gamma: Array
    beta: Array

    def _keep(
        self,
        axis: int,
        epsilon: float,
        center: bool,
        scale: bool,
        beta_initializer: Any,
        gamma_initializer: Any,
    ) -> None:
        """Check and keep the arguments that both constructors take."""
        self.axis = integer(axis, "axis", -1)
        self.epsilon = checked_epsilon(epsilon, "epsilon")
        self.center = flag(center, "center")
        self.scale = flag(scale, "scale")
        self.beta_initializer = initializers.get(beta_initializer, "beta_initializer")
        self.gamma_initializer = initializers.get(gamma_initializer, "gamma_initializer")

    def build(self, input_shape: Shape) -> None:
        """Make gamma and beta."""
        if len(input_shape) < 2 or not input_shape[-1]:
            raise ValueError(f"input must have shape (batch, ..., channels), got {input_shape}")
        if self.axis not in (-1, len(input_shape) - 1):
            raise ValueError(f"axis must be the last one of input of shape {input_shape}, got {self.axis}")
        if self.scale:
            self.add_weight("gamma", input_shape[-1:], self.gamma_initializer)  # type: ignore[arg-type]  # not None
        if self.center:
            self.add_weight("beta", input_shape[-1:], self.beta_initializer)  # type: ignore[arg-type]  # not None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def _beta(self, x: Array) -> Array:
        return self.beta if self.center else np.zeros(x.shape[-1:], x.dtype)

    def _gamma(self, x: Array) -> Array:
        return self.gamma if self.scale else np.ones(x.shape[-1:], x.dtype)

    def _gradients(self, dgamma: Array, dbeta: Array) -> Gradients:
        """Return the gradients of what there is."""
        gradients = {"gamma": dgamma} if self.scale else {}
        if self.center:
            gradients["beta"] = dbeta
        return gradients


@register
class BatchNormalization(_Normalization):
    """Normalises each channel: activation((x - mean) / sqrt(variance + epsilon) * gamma + beta).

    In training, mean and variance are the batch's own; after the step the running statistics move towards them:
    moving = momentum * moving + (1 - momentum) * batch. In inference they are the running ones.

    Parameters
    ----------
    axis
        The axis of channels: the last, as -1 or counted from the batch.
    momentum
        In [0, 1]: how slowly the running statistics follow.
    epsilon
        Positive, added to the variance.
    center, scale
        Whether there are a beta and a gamma.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer
        Keras strings or initialisers.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None. A ReLU or ReLU6 costs nothing here, forward and backward, where
        a layer of its own would go over memory again.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input and result (N, ..., C). Weights, all (C,): gamma, beta; not trained: moving_mean, moving_variance. The
    variance is the batch's own, not an estimate of its population's, as in Keras.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> BatchNormalization(epsilon=1e-9)(np.array([[1.0], [3.0]]), training=True).round(4).tolist()
    [[-1.0], [1.0]]
    """

    moving_mean: Array
    moving_variance: Array

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        activation: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(axis, epsilon, center, scale, beta_initializer, gamma_initializer)
        self.momentum = number(momentum, "momentum", 0.0, 1.0)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer, "moving_mean_initializer")
        self.moving_variance_initializer = initializers.get(moving_variance_initializer, "moving_variance_initializer")
        self.activation = checked_activation(activation)

    def build(self, input_shape: Shape) -> None:
        """Make gamma, beta and the running statistics."""
        super().build(input_shape)
        shape: Any = input_shape[-1:]
        self.add_weight("moving_mean", shape, self.moving_mean_initializer, trainable=False)
        self.add_weight("moving_variance", shape, self.moving_variance_initializer, trainable=False)

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return two operations for each element: what is left of it in inference."""
        return 2 * elements(output_shape, "result")

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the normalised and activated input."""
        return self.activated(x, training, self.activation)

    def activated(
        self, x: Array | MeasuredResult, training: bool, activation: str | None, residual: Array | None = None
    ) -> tuple[Array, Any]:
        """Return the same with an activation of the caller's choice, which backward will know of.

        Where a residual is added before the activation, backward takes the gradient of the sum.
        """
        x, mean, variance, training = self._statistics(x, training)
        y = nn.batch_normalization(x, mean, variance, self._beta(x), self._gamma(x), self.epsilon, activation, residual)
        if residual is not None:
            activation = None
        from_result = activation not in (None, *FUSED, *nn.BACK_FROM_ARGUMENT)
        return y, (x, mean, variance, training, y if from_result else None, activation)

    def unwritten(self, x: Array | MeasuredResult, activation: str | None) -> tuple[NormalizedResult, Any]:
        """Return the same in training, of no activation or a relu, before it is written."""
        x, mean, variance, training = self._statistics(x, True)
        y = unwritten_result(x, mean, variance, self._beta(x), self._gamma(x), self.epsilon, activation)
        return y, (x, mean, variance, training, None, activation)

    def _statistics(self, x: Array | MeasuredResult, training: bool) -> tuple[Array, Array, Array, bool]:
        """Return the images, the mean and variance to normalise them by, and whether these are the images' own."""
        array = x.array if isinstance(x, MeasuredResult) else x
        if not (training and self.trainable and array.size):
            return array, self.moving_mean, self.moving_variance, False
        if isinstance(x, MeasuredResult):
            return x.array, x.mean, x.variance, True
        return x, *nn.moments(x), True

    def backward(self, grad: Array | SummedGradient, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradients of the input, gamma and beta."""
        dx, gradients = self.unwritten_backward(grad, cache)
        return written_gradient(dx), gradients

    def unwritten_backward(self, grad: Array | SummedGradient, cache: Any) -> tuple[NormalizedGradient, Gradients]:
        """Return the same, the input's gradient before it is written."""
        x, mean, variance, training, y, activation = cache
        fused = activation if activation in FUSED else None
        if activation in nn.BACK_FROM_ARGUMENT:
            # Less to do, and to keep, than to have forward write argument and result.
            y = nn.batch_normalization(x, mean, variance, self._beta(x), self._gamma(x), self.epsilon)
        if y is not None:
            assert not isinstance(grad, SummedGradient)  # whose activation is fused
            grad = nn.activate_backward(grad, y, activation)
        dx, dgamma, dbeta = unwritten_gradient(
            grad, x, mean, variance, self._gamma(x), self.epsilon, training, self._beta(x), fused
        )
        return dx, self._gradients(dgamma, dbeta)

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the normalisation by the running statistics, then the activation."""
        x = self.moving_mean
        normalization = ops.Normalization.of(x, self.moving_variance, self.epsilon, self._gamma(x), self._beta(x))
        return [normalization] if self.activation is None else [normalization, ops.Activation(self.activation)]

    def learned(self, cache: Any) -> Any:
        """Return the batch's statistics, where it had some."""
        _, mean, variance, training, *_ = cache
        return (mean, variance) if training else None

    def after_step(self, learned: Any) -> None:
        """Move the running statistics towards the batch's."""
        if learned is not None:
            mean, variance = learned
            keep = self.moving_mean.dtype.type(self.momentum)
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving *= keep
                moving += (1 - keep) * batch


@register
class LayerNormalization(_Normalization):
    """Normalises along the channels: (x - mean) / sqrt(variance + epsilon) * gamma + beta.

    Mean and variance are those of one pixel, or row, of one sample; see :func:`fastcnn.nn.layer_normalization`.

    Parameters
    ----------
    axis
        The axis of channels: the last, as -1 or counted from the batch.
    epsilon
        Positive, added to the variance.
    center, scale
        Whether there are a beta and a gamma.
    beta_initializer, gamma_initializer
        Keras strings or initialisers.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input and result (N, ..., C). Weights, both (C,): gamma, beta.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Ba et al., "Layer normalization", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> LayerNormalization(epsilon=1e-9)(np.array([[1.0, 3.0]])).round(4).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(axis, epsilon, center, scale, beta_initializer, gamma_initializer)

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return seven operations for each element: two for the mean, two for the variance, three for the result."""
        return 7 * elements(output_shape, "result")

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the normalised input."""
        return nn.layer_normalization(x, self._beta(x), self._gamma(x), self.epsilon), x

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the normalisation."""
        channels = np.empty(input_shape[-1] or 0, self.dtype or "float32")
        return [ops.RowNormalization(self._gamma(channels), self._beta(channels), self.epsilon)]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradients of the input, gamma and beta."""
        dx, dgamma, dbeta = nn.layer_normalization_backward(grad, cache, self._gamma(cache), self.epsilon)
        return dx, self._gradients(dgamma, dbeta)
