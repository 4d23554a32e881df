"""What the layers are fed: the same normally distributed numbers for every engine.

Normal numbers keep denormals out, which would slow some engines down many times over. Arrays begin at cache lines, as
all that engines make themselves does: NumPy's large ones never do, and every vector of such a one crosses a line.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import Activation, Case, Conv, Dense, Network, Norm, Optimizer, Pool

Array = NDArray[Any]
LINE = 64  # bytes of a cache line


@lru_cache(maxsize=1)
def arrays(case: Case) -> tuple[Array, ...]:
    """Return a case's operands, float32, images NHWC and filters HWIO.

    They are (input, filters, grad) of a convolution, (x, kernel, grad) of a dense layer,
    (input, grad) of a pooling or an activation, (input, scale, offset, grad) of a normalisation, all parameters and
    then their gradients of an optimiser, and (images, labels) for a network.
    """
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        size = math.prod(shape)
        buffer = np.empty(size + LINE // 4, np.float32)
        first = -buffer.ctypes.data % LINE // 4
        numbers = buffer[first : first + size].reshape(shape)
        return rng.standard_normal(shape, dtype=np.float32, out=numbers)

    if isinstance(case, Network):
        size, channels = case.images.size, case.images.channels
        labels: Array = rng.integers(0, case.images.classes, size=(case.batch,))
        return normal(case.batch, size, size, channels), labels
    if isinstance(case, Dense):
        return (
            normal(case.rows, case.inputs),
            normal(case.inputs, case.units),
            normal(case.rows, case.units),
        )
    if isinstance(case, Optimizer):
        return tuple(normal(*shape) for shape in case.shapes * 2)
    assert isinstance(case, Conv | Pool | Norm | Activation)
    images = normal(case.batch, case.size, case.size, case.channels)
    if isinstance(case, Norm):
        return images, normal(case.channels), normal(case.channels), normal(*images.shape)
    if isinstance(case, Activation):
        return images, normal(*images.shape)
    grid = case.batch, case.output_size, case.output_size
    if isinstance(case, Pool):
        return images, normal(*grid, case.channels)
    filters = normal(case.kernel, case.kernel, case.channels // case.groups, case.filters)
    return images, filters, normal(*grid, case.filters)


def fingerprint(result: Array) -> tuple[float, float]:
    """Return a result's length and its projection on a random direction, both of order one.

    Two engines that computed the same thing agree in both; a transposed filter or a shifted image
    changes the second by about one.
    """
    # Sums and not BLAS: its threads would still be spinning when the measurement starts.
    direction = np.random.default_rng(1).standard_normal(result.shape, dtype=np.float32)
    length = float(np.sqrt(np.square(result).sum(dtype=np.float64)))
    projection = float((result * direction).sum(dtype=np.float64))
    return length / result.size**0.5, projection / length
