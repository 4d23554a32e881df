"""Pooling, over windows and over whole images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import nn, ops, shapes
from ..arguments import flag
from ..registry import register
from .base import Array, Gradients, Layer, Shape


class _Pooling(Layer):
    """What both poolings over windows share."""

    average: bool

    def __init__(self, pool_size: Any = 2, strides: Any = None, padding: Any = "valid", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = shapes.pair(pool_size, "pool_size")
        self.strides = None if strides is None else shapes.pair(strides, "strides")
        self.padding = shapes.checked_padding(padding)
        shapes.pool_pads(self.padding, (1, 1), self.pool_size, self.strides or self.pool_size, "pool_size")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, H', W', C)."""
        return shapes.pool(input_shape, self.pool_size, self.strides, self.padding, "pool_size")[0]

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return one operation for each element of each window."""
        return math.prod(self.pool_size) * shapes.elements(output_shape, "result")

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the pooling."""
        return [ops.Pool(self.average, self.pool_size, self.strides, self.padding)]


@register
class MaxPool2D(_Pooling):
    """The maximum of each window and channel; see :func:`fastcnn.nn.max_pool`.

    Parameters
    ----------
    pool_size
        Height and width of the window in pixels; an int for both.
    strides
        Step in pixels, likewise; None for pool_size.
    padding
        "valid", "same", an int, or ((top, bottom), (left, right)); padded pixels never win.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, H', W', C) with H' = floor((top + H + bottom - pool_size) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPool2D(2)(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """

    average = False

    @property
    def counts(self) -> bool:
        """Whether a window is small enough that training can remember which of its pixels was the maximum."""
        return self.pool_size[0] * self.pool_size[1] <= nn.pool.MOST_COUNTED

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the maxima."""
        if training and self.counts:
            return self.activated(x, None)
        return nn.max_pool(x, self.pool_size, self.strides, self.padding), (x, None, None, None)

    def activated(self, x: Array, activation: str | None) -> tuple[Array, Any]:
        """Return the maxima in training; backward goes back through the activation that gave x as well.

        That has less to do behind the maxima than before them: their gradients alone arrive there.
        """
        y, argmax = nn.max_pool_with_argmax(x, self.pool_size, self.strides, self.padding)
        return y, (x.shape, argmax, None if activation is None else y, activation)

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the images."""
        x, argmax, y, activation = cache
        options = self.pool_size, self.strides, self.padding
        if argmax is None:
            return nn.max_pool_backward(grad, x, *options), {}
        if activation is not None:
            grad = nn.activate_backward(grad, y, activation)
        return nn.max_pool_with_argmax_backward(grad, argmax, x, *options), {}


@register
class AveragePooling2D(_Pooling):
    """The mean of each window and channel; see :func:`fastcnn.nn.avg_pool`.

    Parameters
    ----------
    pool_size
        Height and width of the window in pixels; an int for both.
    strides
        Step in pixels, likewise; None for pool_size.
    padding
        "valid", "same", an int, or ((top, bottom), (left, right)); padded pixels are not counted.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, H', W', C) with H' = floor((top + H + bottom - pool_size) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> AveragePooling2D(2)(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """

    average = True

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the means."""
        return nn.avg_pool(x, self.pool_size, self.strides, self.padding), x.shape

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the images."""
        return nn.avg_pool_backward(grad, cache, self.pool_size, self.strides, self.padding), {}


class _GlobalPooling(Layer):
    """What both poolings over whole images share."""

    average: bool

    def __init__(self, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keepdims = flag(keepdims, "keepdims")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, C), or (None, 1, 1, C) with keepdims."""
        batch, *_, channels = shapes.pool_output_shape(input_shape, 1)
        return (batch, 1, 1, channels) if self.keepdims else (batch, channels)

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return one operation for each element of the input."""
        return shapes.elements(input_shape, "input")

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the pooling."""
        return [ops.Pool(self.average, None)]

    def pooled(self, y: Array) -> Array:
        """Return a result of shape (N, 1, 1, C) as it is wanted."""
        return y if self.keepdims else y.reshape(y.shape[0], y.shape[3])


@register
class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each channel over the whole image.

    Parameters
    ----------
    keepdims
        Whether the result keeps its height and width of 1.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, C), or (N, 1, 1, C) with keepdims.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAveragePooling2D()(np.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[1.5]]
    """

    average = True

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the means."""
        return self.pooled(nn.avg_pool(x, x.shape[1:3])), x.shape

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the images."""
        share = grad.reshape(grad.shape[0], 1, 1, grad.shape[-1]) * grad.dtype.type(1 / (cache[1] * cache[2]))
        return np.ascontiguousarray(np.broadcast_to(share, cache)), {}


@register
class GlobalMaxPool2D(_GlobalPooling):
    """The maximum of each channel over the whole image.

    Parameters
    ----------
    keepdims
        Whether the result keeps its height and width of 1.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, C), or (N, 1, 1, C) with keepdims.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalMaxPool2D()(np.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[3.0]]
    """

    average = False

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the maxima."""
        return self.pooled(nn.max_pool(x, x.shape[1:3])), x

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the images."""
        pooled = grad.reshape(grad.shape[0], 1, 1, grad.shape[-1])
        return nn.max_pool_backward(pooled, cache, cache.shape[1:3]), {}
