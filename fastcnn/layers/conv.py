"""Convolutions: plain, depthwise, separable, transposed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .. import initializers, nn, ops, shapes
from ..arguments import flag, integer
from ..nn import between
from ..nn.activations import checked_activation
from ..registry import register
from .base import Activated, Array, Gradients, Shape


@dataclass(frozen=True)
class _Pooled:
    """What backward needs of a convolution whose maxima of 2 x 2 pixels were taken on its way."""

    x: Array
    y: Array
    argmax: Array


class _Windowed(Activated):
    """What all layers here share: how windows lie on the images, a bias, and an activation."""

    settled = ("name", "use_bias")

    bias: Array

    def _keep(
        self,
        kernel_size: Any,
        strides: Any,
        padding: Any,
        dilation_rate: Any,
        activation: str | None,
        use_bias: bool,
        bias_initializer: Any,
    ) -> None:
        """Check and keep the arguments that all constructors take."""
        self.kernel_size = shapes.pair(kernel_size, "kernel_size")
        self.strides = shapes.pair(strides, "strides")
        self.padding = shapes.checked_padding(padding)
        self.dilation_rate = shapes.pair(dilation_rate, "dilation_rate")
        self.activation = checked_activation(activation)
        self.use_bias = flag(use_bias, "use_bias")
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer")

    def _add_bias(self, filters: int) -> None:
        """Make the bias, where there is one."""
        if self.use_bias:
            self.add_weight("bias", (filters,), self.bias_initializer)

    def _bias(self) -> Array | None:
        return self.bias if self.use_bias else None


class _Convolution(_Windowed):
    """What the convolutions share: everything but the shape of the kernel."""

    kernel: Array

    def filters_and_groups(self, channels: int) -> tuple[int, int]:
        """Return the number of filters and of groups for images of so many channels."""
        raise NotImplementedError

    def kernel_hwio(self) -> Array:
        """Return the kernel as (R, S, C / groups, K)."""
        return self.kernel

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        """Return the shape of ``kernel_hwio()`` for images of so many channels."""
        filters, groups = self.filters_and_groups(channels)
        if channels % groups:
            raise ValueError(f"groups must divide the channels of the input, {channels}, got {groups}")
        return (*self.kernel_size, channels // groups, filters)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, H', W', K)."""
        channels = _channels(input_shape)
        options = self.strides, self.padding, self.dilation_rate, self.filters_and_groups(channels)[1]
        return shapes.conv2d_output_shape(input_shape, self.kernel_shape(channels), *options)

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return two operations for each weight of the kernel and each pixel of the result."""
        _, height, width, _ = output_shape
        return 2 * math.prod(self.kernel_shape(_channels(input_shape))) * (height or 0) * (width or 0)

    def _options(self, x: Array) -> tuple[Any, Any, Any, int]:
        return self.strides, self.padding, self.dilation_rate, self.filters_and_groups(x.shape[-1])[1]

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return activation(conv(x, kernel) + bias)."""
        return nn.conv2d(x, self.kernel_hwio(), *self._options(x), self._bias(), activation)

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the convolution, then the activation."""
        groups = self.filters_and_groups(_channels(input_shape))[1]
        options = self.strides, self.padding, self.dilation_rate, groups
        return [_lowered(self.kernel_hwio(), self._bias(), input_shape, *options), *self.lowered_activation()]

    def apply_backward(self, grad: Any, x: Any, input_grad: bool) -> tuple[Any, Gradients]:
        """Return the gradients of the images, kernel and bias; the arrays may be unwritten."""
        dx, dkernel, dbias = between.gradients(
            grad, x, self.kernel_hwio(), *self._options(x), input_grad=input_grad, bias_grad=self.use_bias
        )
        return dx, self._named(dkernel, dbias)

    def measured(self, x: Any) -> tuple[Any, Any]:
        """Return the result, which has no bias and no activation, for the batch normalisation after it.

        For training: the images may be unwritten, and the result is measured on the way where that pays.
        """
        x, y = between.measured(x, self.kernel_hwio(), *self._options(x))
        return y, (x, None, False)

    def pooled(self, x: Array) -> tuple[Array, Any]:
        """Return the maxima of 2 x 2 pixels of the result, which ends in a relu; backward then takes their gradient.

        For training: the result itself is never written. That fewer elements come back is less to do, too, for the
        gradients of relu and bias.
        """
        options = *self._options(x), self._bias(), self.activation
        y, argmax = nn.conv2d_max_pool_with_argmax(x, self.kernel_hwio(), *options)
        return y, _Pooled(x, y, argmax)

    def _gradients(self, grad: Array, cache: Any, input_grad: bool) -> tuple[Array | None, Gradients]:
        if not isinstance(cache, _Pooled):
            return super()._gradients(grad, cache, input_grad)
        operands = grad, cache.y, cache.argmax, cache.x, self.kernel_hwio()
        options = *self._options(cache.x), self.activation
        dx, dkernel, dbias = nn.conv2d_max_pool_with_argmax_backward(
            *operands, *options, input_grad=input_grad, bias_grad=self.use_bias
        )
        return dx, self._named(dkernel, dbias)

    def _named(self, dkernel: Array, dbias: Array | None) -> Gradients:
        """Return the gradients of the weights by name."""
        gradients = {"kernel": dkernel.reshape(self.kernel.shape)}
        if dbias is not None:
            gradients["bias"] = dbias
        return gradients


def _lowered(kernel: Array, bias: Array | None, input_shape: Shape, *options: Any) -> ops.Op:
    """Return the convolution of images of this shape, with its padding in pixels."""
    _, strides, pads, dilations, groups = shapes.conv2d(input_shape, kernel.shape, *options)
    return ops.Convolution(kernel, bias, strides, pads, dilations, groups)


def _channels(input_shape: Shape) -> int:
    if len(input_shape) != 4 or not input_shape[3]:
        raise ValueError(f"input must have shape (batch, height, width, channels), got {input_shape}")
    return input_shape[3]


@register
class Conv2D(_Convolution):
    """Two-dimensional convolution: activation(conv(x, kernel) + bias); see :func:`fastcnn.nn.conv2d`.

    Parameters
    ----------
    filters
        Number K of feature maps.
    kernel_size
        Height and width (R, S) in pixels; an int for both.
    strides
        Step in pixels, likewise.
    padding
        "valid", "same", an int, or ((top, bottom), (left, right)).
    dilation_rate
        Distance of filter taps in pixels.
    groups
        Number of groups; each sees its share of the channels alone.
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
    Input (N, H, W, C), result (N, H', W', K) with H' = floor((top + H + bottom - (R - 1) * dilation - 1) / stride) + 1.
    Weights: kernel (R, S, C / groups, K), bias (K,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> Conv2D(32, 3, padding="same", activation="relu")(np.zeros((1, 28, 28, 1))).shape
    (1, 28, 28, 32)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        dilation_rate: Any = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(kernel_size, strides, padding, dilation_rate, activation, use_bias, bias_initializer)
        self.filters = integer(filters, "filters")
        self.groups = integer(groups, "groups")
        if self.filters % self.groups:
            raise ValueError(f"groups must divide filters={filters}, got {groups!r}")
        self.kernel_initializer = initializers.get(kernel_initializer, "kernel_initializer")

    def filters_and_groups(self, channels: int) -> tuple[int, int]:
        """Return the number of filters and of groups."""
        return self.filters, self.groups

    def build(self, input_shape: Shape) -> None:
        """Make kernel and bias."""
        self.add_weight("kernel", self.kernel_shape(_channels(input_shape)), self.kernel_initializer)
        self._add_bias(self.filters)


@register
class DepthwiseConv2D(_Convolution):
    """Convolution of each channel by itself; see :func:`fastcnn.nn.conv2d`.

    Parameters
    ----------
    kernel_size
        Height and width (R, S) in pixels; an int for both.
    strides
        Step in pixels, likewise.
    padding
        "valid", "same", an int, or ((top, bottom), (left, right)).
    depth_multiplier
        Number M of filters for each channel.
    dilation_rate
        Distance of filter taps in pixels.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    use_bias
        Whether there is a bias.
    depthwise_initializer, bias_initializer
        Keras strings or initialisers.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, H', W', C * M), channel c's M results side by side. Weights: kernel (R, S, C, M),
    bias (C * M,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> DepthwiseConv2D(3, strides=2, padding="same")(np.zeros((1, 28, 28, 16))).shape
    (1, 14, 14, 16)
    """

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        dilation_rate: Any = 1,
        activation: str | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(kernel_size, strides, padding, dilation_rate, activation, use_bias, bias_initializer)
        self.depth_multiplier = integer(depth_multiplier, "depth_multiplier")
        self.depthwise_initializer = initializers.get(depthwise_initializer, "depthwise_initializer")

    def filters_and_groups(self, channels: int) -> tuple[int, int]:
        """Return the number of filters and of groups."""
        return channels * self.depth_multiplier, channels

    def kernel_hwio(self) -> Array:
        """Return the kernel as (R, S, 1, C * M), of which it is another view."""
        rows, cols, channels, multiplier = self.kernel.shape
        return self.kernel.reshape(rows, cols, 1, channels * multiplier)

    def build(self, input_shape: Shape) -> None:
        """Make kernel and bias."""
        channels = _channels(input_shape)
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.add_weight("kernel", shape, self.depthwise_initializer)
        self._add_bias(channels * self.depth_multiplier)


@register
class SeparableConv2D(_Windowed):
    """Convolution of each channel by itself, then of all channels of each pixel; see :func:`fastcnn.nn.conv2d`.

    Parameters
    ----------
    filters
        Number K of feature maps.
    kernel_size
        Height and width (R, S) in pixels of the first convolution; an int for both.
    strides
        Its step in pixels, likewise.
    padding
        "valid", "same", an int, or ((top, bottom), (left, right)).
    depth_multiplier
        Number M of its filters for each channel.
    dilation_rate
        Distance of its filter taps in pixels.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    use_bias
        Whether there is a bias.
    depthwise_initializer, pointwise_initializer, bias_initializer
        Keras strings or initialisers.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, H', W', K) with H' as of :class:`Conv2D`. Weights: depthwise_kernel (R, S, C, M),
    pointwise_kernel (1, 1, C * M, K), bias (K,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Chollet, "Xception: deep learning with depthwise separable convolutions", 2017.

    Examples
    --------
    >>> import numpy as np
    >>> layer = SeparableConv2D(32, 3, padding="same")
    >>> layer(np.zeros((1, 28, 28, 16))).shape, layer.count_params()
    ((1, 28, 28, 32), 688)
    """

    depthwise_kernel: Array
    pointwise_kernel: Array

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        dilation_rate: Any = 1,
        activation: str | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(kernel_size, strides, padding, dilation_rate, activation, use_bias, bias_initializer)
        self.filters = integer(filters, "filters")
        self.depth_multiplier = integer(depth_multiplier, "depth_multiplier")
        self.depthwise_initializer = initializers.get(depthwise_initializer, "depthwise_initializer")
        self.pointwise_initializer = initializers.get(pointwise_initializer, "pointwise_initializer")

    def build(self, input_shape: Shape) -> None:
        """Make both kernels and the bias."""
        channels = _channels(input_shape)
        self.add_weight(
            "depthwise_kernel", (*self.kernel_size, channels, self.depth_multiplier), self.depthwise_initializer
        )
        shape = 1, 1, channels * self.depth_multiplier, self.filters
        self.add_weight("pointwise_kernel", shape, self.pointwise_initializer)
        self._add_bias(self.filters)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, H', W', K)."""
        channels = _channels(input_shape)
        shape = *self.kernel_size, 1, channels * self.depth_multiplier
        return (*shapes.conv2d_output_shape(input_shape, shape, *self._options(channels))[:3], self.filters)

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return two operations for each weight of both kernels and each pixel of the result."""
        _, height, width, _ = output_shape
        weights = _channels(input_shape) * self.depth_multiplier * (math.prod(self.kernel_size) + self.filters)
        return 2 * weights * (height or 0) * (width or 0)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the activated result."""
        return super().forward(self._first(x), training)

    def logits(self, x: Array) -> tuple[Array, Any]:
        """Return the result before the activation; backward then takes its gradient."""
        return super().logits(self._first(x))

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return both convolutions, then the activation."""
        return [
            _lowered(self._depthwise(), None, input_shape, *self._options(_channels(input_shape))),
            ops.Convolution(self.pointwise_kernel, self._bias()),
            *self.lowered_activation(),
        ]

    def _first(self, x: Array) -> Any:
        """Return the input and what the first convolution makes of it: backward needs both."""
        return x, nn.conv2d(x, self._depthwise(), *self._options(x.shape[3]))

    def apply(self, x: Any, activation: str | None) -> Array:
        """Return the second convolution of what ``_first`` returned."""
        return nn.conv2d(x[1], self.pointwise_kernel, bias=self._bias(), activation=activation)

    def apply_backward(self, grad: Array, x: Any, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradients of the images, kernels and bias."""
        images, between = x
        dbetween, dpointwise, dbias = nn.conv2d_backward(grad, between, self.pointwise_kernel, bias_grad=self.use_bias)
        assert dbetween is not None
        dx, ddepthwise, _ = nn.conv2d_backward(
            dbetween,
            images,
            self._depthwise(),
            *self._options(images.shape[3]),
            input_grad=input_grad,
            bias_grad=False,
        )
        gradients = {
            "depthwise_kernel": ddepthwise.reshape(self.depthwise_kernel.shape),
            "pointwise_kernel": dpointwise,
        }
        if dbias is not None:
            gradients["bias"] = dbias
        return dx, gradients

    def _options(self, channels: int) -> tuple[Any, Any, Any, int]:
        return self.strides, self.padding, self.dilation_rate, channels

    def _depthwise(self) -> Array:
        return self.depthwise_kernel.reshape(*self.kernel_size, 1, -1)


@register
class Conv2DTranspose(_Windowed):
    """Transposed convolution, which makes images larger; see :func:`fastcnn.nn.conv2d_transpose`.

    Parameters
    ----------
    filters
        Number K of feature maps.
    kernel_size
        Height and width (R, S) in pixels; an int for both.
    strides
        Distance of windows in the result in pixels, likewise.
    padding
        Of the convolution that it transposes: "valid", "same", an int, or ((top, bottom), (left, right)).
    output_padding
        Pixels that the result has more at the bottom and the right, below the strides: an int or (height, width).
        None for Keras's rule with a word for padding, for 0 with numbers.
    dilation_rate
        Distance of filter taps in pixels.
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
    Input (N, H, W, C), result (N, H', W', K): H' = H * stride with "same", H * stride + max(0, span - stride) with
    "valid", where a filter spans (R - 1) * dilation + 1 pixels; (H - 1) * stride + span - top - bottom + output_padding
    with numbers of pixels. Weights: kernel (R, S, K, C), bias (K,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Zeiler et al., "Deconvolutional networks", 2010.

    Examples
    --------
    >>> import numpy as np
    >>> Conv2DTranspose(16, 3, strides=2, padding="same")(np.zeros((1, 14, 14, 32))).shape
    (1, 28, 28, 16)
    """

    kernel: Array

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        output_padding: Any = None,
        dilation_rate: Any = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(kernel_size, strides, padding, dilation_rate, activation, use_bias, bias_initializer)
        self.filters = integer(filters, "filters")
        self.output_padding = None if output_padding is None else shapes.pair(output_padding, "output_padding", 0)
        self.kernel_initializer = initializers.get(kernel_initializer, "kernel_initializer")

    def build(self, input_shape: Shape) -> None:
        """Make kernel and bias."""
        self.add_weight("kernel", self._kernel_shape(input_shape), self.kernel_initializer)
        self._add_bias(self.filters)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, H', W', K)."""
        return shapes.conv2d_transpose_output_shape(input_shape, self._kernel_shape(input_shape), *self._options())

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return two operations for each weight of the kernel and each pixel of the input."""
        _, height, width, _ = input_shape
        return 2 * math.prod(self._kernel_shape(input_shape)) * (height or 0) * (width or 0)

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return activation(conv^T(x, kernel) + bias)."""
        return nn.conv2d_transpose(x, self.kernel, *self._options(), self._bias(), activation)

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the transposed convolution, then the activation."""
        return [ops.TransposedConvolution(self.kernel, self._bias(), *self._options()), *self.lowered_activation()]

    def apply_backward(self, grad: Array, x: Array, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradients of the images, kernel and bias."""
        dx, dkernel, dbias = nn.conv2d_transpose_backward(
            grad, x, self.kernel, *self._options(), input_grad=input_grad, bias_grad=self.use_bias
        )
        gradients = {"kernel": dkernel}
        if dbias is not None:
            gradients["bias"] = dbias
        return dx, gradients

    def _kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        return (*self.kernel_size, self.filters, _channels(input_shape))

    def _options(self) -> tuple[Any, Any, Any, Any]:
        return self.strides, self.padding, self.output_padding, self.dilation_rate
