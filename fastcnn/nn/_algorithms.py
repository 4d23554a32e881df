"""Which algorithm computes a convolution: the cost model."""

from __future__ import annotations

from .._core._conv import Geometry

# What one element of each of these costs, in the time of a multiply-add of a long product (one thread, float32,
# AVX-512; fitted to the 3x3 layers of benchmarks/layers.py).
PACKED_FILTER = 100.0
TILE_POINT = 22.0
FILTER_POINT = 90.0
TRANSPOSED_FILTER_POINT = 130.0
# Winograd rounds more: it has to be clearly faster.
GAIN = 1.1


def winograd_fits(g: Geometry) -> bool:
    """Whether Winograd's algorithm computes this at all."""
    steps = g.stride_h, g.stride_w, g.dilation_h, g.dilation_w, g.groups
    return (g.rows, g.cols) == (3, 3) and steps == (1, 1, 1, 1, 1)


def winograd_pays(g: Geometry, gradient: bool) -> bool:
    """Whether Winograd's algorithm is clearly faster than the direct one, for the result or the input's gradient."""
    if not winograd_fits(g):
        return False
    rows, cols = (g.in_h, g.in_w) if gradient else (g.out_h, g.out_w)
    tiles = g.images * -(-rows // 4) * -(-cols // 4)
    pairs = g.channels * g.filters
    direct = 9.0 * pairs * (g.images * rows * cols + PACKED_FILTER)
    filter_point = TRANSPOSED_FILTER_POINT if gradient else FILTER_POINT
    winograd = 36.0 * (pairs * (tiles + filter_point) + tiles * (g.channels + g.filters) * TILE_POINT)
    return direct > GAIN * winograd
