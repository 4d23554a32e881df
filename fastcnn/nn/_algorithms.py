"""Which algorithm computes a convolution or its gradients: the cost model."""

from __future__ import annotations

from .._core._conv import Geometry

# What one element of each of these costs, in the time of a multiply-add of a long product (one thread, float32,
# AVX-512; fitted to the 3x3 layers of benchmarks/layers.py): a filter's packing, the transforms of a filter and of a
# tile, for each of the passes. To the gradient of the filters a filter's transform adds the traffic of its sums.
PACKED_FILTER = {"forward": 100.0, "input": 100.0, "filters": 0.0}
FILTER_POINT = {"forward": 90.0, "input": 130.0, "filters": 60.0}
TILE_POINT = {"forward": 22.0, "input": 22.0, "filters": 32.0}
# Winograd rounds more: it has to be clearly faster.
GAIN = 1.1


def winograd_fits(g: Geometry) -> bool:
    """Whether Winograd's algorithm computes this at all."""
    steps = g.stride_h, g.stride_w, g.dilation_h, g.dilation_w, g.groups
    return (g.rows, g.cols) == (3, 3) and steps == (1, 1, 1, 1, 1)


def winograd_pays(g: Geometry, result: str) -> bool:
    """Whether Winograd's algorithm is clearly faster than the direct one.

    `result` is "forward", or "input" or "filters" for their gradients.
    """
    if not winograd_fits(g):
        return False
    rows, cols = (g.in_h, g.in_w) if result == "input" else (g.out_h, g.out_w)
    tiles = g.images * -(-rows // 4) * -(-cols // 4)
    pairs = g.channels * g.filters
    direct = 9.0 * pairs * (g.images * rows * cols + PACKED_FILTER[result])
    transforms = tiles * (g.channels + g.filters) * TILE_POINT[result]
    winograd = 36.0 * (pairs * (tiles + FILTER_POINT[result]) + transforms)
    return direct > GAIN * winograd
