"""Layers that move numbers without changing them: Flatten, Reshape, ZeroPadding2D."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops, shapes
from ..arguments import brief, integer
from ..registry import register
from .base import Array, Gradients, Layer, Shape


@register
class Flatten(Layer):
    """All of a sample in one row: (N, ...) to (N, features).

    Parameters
    ----------
    name, dtype, trainable
        As in :class:`Layer`.

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.zeros((2, 4, 4, 8))).shape
    (2, 128)
    """

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, features)."""
        return (None, shapes.elements(input_shape, "input"))

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the rows, a view."""
        return x.reshape(x.shape[0], math.prod(x.shape[1:])), x.shape

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return nothing to compute."""
        return [ops.Same()]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient in the input's shape."""
        return grad.reshape(cache), {}


@register
class Reshape(Layer):
    """The numbers of a sample in another shape.

    Parameters
    ----------
    target_shape
        Without the batch; one size may be -1 and is then worked out.
    name, dtype, trainable
        As in :class:`Layer`.

    Raises
    ------
    TypeError, ValueError
        If target_shape is no shape, or holds another number of elements than a sample.

    Examples
    --------
    >>> import numpy as np
    >>> Reshape((4, 4, -1))(np.zeros((2, 128))).shape
    (2, 4, 4, 8)
    """

    def __init__(self, target_shape: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(target_shape, (list, tuple)):
            raise TypeError(f"target_shape must be a tuple of sizes, got {brief(target_shape)}")
        sizes = [n if n == -1 else integer(n, "target_shape", 1, target_shape) for n in target_shape]
        if sizes.count(-1) > 1:
            raise ValueError(f"target_shape can leave one size open with -1, got {brief(target_shape)}")
        self.target_shape = tuple(sizes)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, *target_shape) with the open size worked out."""
        size = shapes.elements(input_shape, "input")
        known = math.prod(n for n in self.target_shape if n != -1)
        if size % known or (-1 not in self.target_shape and size != known):
            raise ValueError(f"target_shape must hold the {size} elements of {input_shape}, got {self.target_shape}")
        return (None, *(size // known if n == -1 else n for n in self.target_shape))

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the input in the new shape, a view."""
        # Worked out here because -1 would be ambiguous in an empty batch.
        sizes = self.compute_output_shape((None, *x.shape[1:]))[1:]
        return x.reshape((x.shape[0], *sizes)), x.shape

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return nothing to compute."""
        return [ops.Same()]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient in the input's shape."""
        return grad.reshape(cache), {}


@register
class ZeroPadding2D(Layer):
    """Zeros around each image.

    Parameters
    ----------
    padding
        Pixels: an int for all sides, (height, width), or ((top, bottom), (left, right)).
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, top + H + bottom, left + W + right, C).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> ZeroPadding2D(((1, 0), (2, 0)))(np.ones((1, 1, 1, 1)))[0, :, :, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """

    def __init__(self, padding: Any = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(padding, str):
            raise TypeError(f"padding must be numbers of pixels, got {brief(padding)}")
        self.padding = shapes.pads(padding, (1, 1), (1, 1), (1, 1))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, top + H + bottom, left + W + right, C)."""
        batch, height, width, channels = shapes.pool_output_shape(input_shape, 1)
        assert height is not None and width is not None
        shape = batch, height + sum(self.padding[0]), width + sum(self.padding[1]), channels
        shapes.elements(shape, "padded input")
        return shape

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the padded images."""
        try:
            return np.pad(x, ((0, 0), *self.padding, (0, 0))), x.shape
        except MemoryError:
            raise MemoryError(f"there is no memory for images of shape {x.shape} with padding={self.padding}") from None

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the padding."""
        return [ops.Padding(self.padding)]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the images."""
        (top, _), (left, _) = self.padding
        return np.ascontiguousarray(grad[:, top : top + cache[1], left : left + cache[2]]), {}
