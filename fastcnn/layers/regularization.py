"""Dropout, of numbers and of whole channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import nn, ops, shapes
from ..arguments import number
from ..arguments import seed as checked_seed
from ..registry import register
from .base import Array, Gradients, Layer, Shape

# As odd factors do modulo a power of two, it keeps steps apart that it multiplies, also from the seeds of other layers.
_ODD = 0xD1342543DE82EF95


@register
class Dropout(Layer):
    """In training, sets a share of the numbers to zero and scales the others up; see :func:`fastcnn.nn.dropout`.

    Parameters
    ----------
    rate
        The share, in [0, 1).
    seed
        Makes this layer's masks a function of the seed and the step alone; None for the model's seed.
    name, dtype, trainable
        As in :class:`Layer`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((1, 100))
    >>> sorted(set(Dropout(0.5)(x, training=True, seed=0)[0].tolist())), Dropout(0.5)(x).min().item()
    ([0.0, 2.0], 1.0)
    """

    uses_seed = True

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = number(rate, "rate", 0.0, 1.0, open_end=True)
        self.seed = None if seed is None else checked_seed(seed)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def forward(self, x: Array, training: bool = False, seed: int | None = None) -> tuple[Array, Any]:
        """Return x with a mask of the given seed in training, else x itself."""
        if not training or not self.rate:
            return x, None
        if seed is None:
            raise ValueError("seed must be given in training, got None")
        seed = checked_seed(seed)
        if self.seed is not None:
            seed = (self.seed + _ODD * seed) % 2**64
        return self.masked(x, seed), seed

    def lowered(self, input_shape: Shape) -> list[ops.Op]:
        """Return nothing to compute."""
        return [ops.Same()]

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradient of the input, under the same mask."""
        return grad if cache is None else self.masked(grad, cache), {}

    def masked(self, x: Array, seed: int) -> Array:
        """Return x, or its gradient, under the mask of a seed."""
        return nn.dropout(x, self.rate, True, seed)


@register
class SpatialDropout2D(Dropout):
    """In training, sets a share of the channels of each image to zero and scales the others up.

    Neighbouring pixels tell of each other, so that dropping single ones takes little away.

    Parameters
    ----------
    rate
        The share, in [0, 1).
    seed
        Makes this layer's masks a function of the seed and the step alone; None for the model's seed.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input and result (N, H, W, C). The mask is that of :func:`fastcnn.nn.dropout` for an array (N, 1, 1, C).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Tompson et al., "Efficient object localization using convolutional networks", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> y = SpatialDropout2D(0.5)(np.ones((1, 4, 4, 100)), training=True, seed=0)
    >>> sorted(set(y.sum(axis=(1, 2))[0].tolist()))
    [0.0, 32.0]
    """

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return shapes.pool_output_shape(input_shape, 1)

    def masked(self, x: Array, seed: int) -> Array:
        """Return x, or its gradient, under the mask of a seed."""
        return x * nn.dropout(np.ones((len(x), 1, 1, x.shape[3]), x.dtype), self.rate, True, seed)
