"""Upsampling: images with more pixels, without weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import nn, ops, shapes
from ..arguments import choice
from ..nn.upsampling import bound_repeat, bound_stretch, line_places
from ..registry import register
from .base import Array, Gradients, Layer, Shape


@register
class UpSampling2D(Layer):
    """Images of a whole number of times as many rows and columns.

    Parameters
    ----------
    size
        How many times as many, (height, width); an int for both.
    interpolation
        "nearest" repeats pixels; "bilinear" draws straight lines between their centres, beyond the outermost of which
        pixels stay the same.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input (N, H, W, C), result (N, H * size, W * size, C). Row i of a bilinear result lies at (i + 1/2) / size - 1/2
    of the input, as in Keras, and in PyTorch without align_corners.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    >>> [UpSampling2D((1, 2), how)(x).ravel().tolist() for how in ("nearest", "bilinear")]
    [[0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 3.0, 4.0]]
    """

    def __init__(self, size: Any = (2, 2), interpolation: str = "nearest", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = shapes.pair(size, "size")
        self.interpolation = choice(interpolation, "interpolation", ("nearest", "bilinear"))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return (None, H * size, W * size, C)."""
        batch, height, width, channels = shapes.pool_output_shape(input_shape, 1)
        assert height is not None and width is not None
        shape = batch, height * self.size[0], width * self.size[1], channels
        shapes.elements(shape, "result")
        return shape

    def count_flops(self, input_shape: Shape, output_shape: Shape) -> int:
        """Return three operations for each element of the lines in one direction, then in the other, if it grows."""
        if self.interpolation == "nearest":
            return 0
        rows, cols = self.size
        larger = shapes.elements(output_shape, "result")
        return 3 * ((rows > 1) * (larger // cols) + (cols > 1) * larger)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the larger images."""
        n, h, w, c = x.shape
        rows, cols = self.size
        try:
            y = np.empty((n, h * rows, w * cols, c), x.dtype)
            if self.interpolation == "bilinear":
                taller = np.empty((n, h * rows, w, c), x.dtype)
                bound_stretch(x, 1, rows, taller, np.empty_like(x))()
                bound_stretch(taller, 2, cols, y, np.empty_like(taller))()
            else:
                bound_repeat(x, self.size, y)()
        except MemoryError:
            raise MemoryError(f"there is no memory for images of shape {x.shape} with size={self.size}") from None
        return y, x.shape

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return the repetition of pixels, or the lines in one direction, then in the other."""
        if self.interpolation == "nearest":
            return [ops.Repetition(self.size)]
        lines: list[ops.Op] = [ops.Stretch(axis, times) for axis, times in enumerate(self.size, 1) if times > 1]
        return lines or [ops.Same()]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the images."""
        n, h, w, c = cache
        rows, cols = self.size
        if self.interpolation == "nearest":
            return nn.avg_pool(grad, self.size) * grad.dtype.type(math.prod(self.size)), {}
        dtaller = _stretched_backward(grad.reshape(n * h * rows, w * cols, c), cols)
        return _stretched_backward(dtaller.reshape(n, h * rows, w * c), rows).reshape(cache), {}


def _stretched_backward(grad: Array, times: int) -> Array:
    """Return the gradient of (outer, n, inner) that was stretched along the middle: the transpose."""
    outer, n, inner = len(grad), grad.shape[1] // times, grad.shape[2]
    by_phase = grad.reshape(outer, n, times, inner)
    dedged = np.zeros((outer, n + 2, inner), grad.dtype)
    for phase, (low, share) in enumerate(line_places(times)):
        dedged[:, low : low + n] += by_phase[:, :, phase] * (1 - share)
        dedged[:, low + 1 : low + 1 + n] += by_phase[:, :, phase] * share
    dx = dedged[:, 1:-1].copy()
    dx[:, 0] += dedged[:, 0]
    dx[:, -1] += dedged[:, -1]
    return dx
