"""Which algorithm computes a convolution or its gradients: the cost model.

What an algorithm makes of a shape, its blocks and whose threads compute them, is decided beside its loops:

- ``threads_for``, ``_core/_runtime.pyx``: whether work is enough for threads
- ``product``, ``_core/_gemm.pyx``: how a matrix product goes; ``cut_blocks``: its blocks
- ``cut_correlation``, ``_core/_conv.pyx``: bands of the image and groups of filters, direct
- ``samples``, ``_core/_conv.pyx``: whether strided 1x1 filters are a product of a copy of some pixels
- ``scatters``, ``_core/_conv.pyx``: whether an input's gradient of few channels adds filter rows up instead
- ``cut_filters``, ``_core/_conv.pyx``: parts, groups and strips of the filters' gradient, direct
- ``cut``, ``_core/_winograd.pyx``: blocks of tiles and groups of filters; ``backward_filters``: its parts
- ``cut_filters``, ``_core/_depthwise.pyx``: the filters that share a vector
- ``pays_normalized``, ``_core/_conv.pyx``: whether 1x1 filters make and measure what lies beside batch normalisations
- ``pays_normalized``, ``_core/_depthwise.pyx``: whether depthwise ones do
- ``cut_expansion``, ``_core/_depthwise.pyx``: bands and channels of a result made on the way to a depthwise one
- ``pays``, ``_core/_narrow.pyx``: whether few filters have pixels fill vectors
"""

from __future__ import annotations

from .._core import _narrow, _runtime
from .._core._conv import Geometry
from .._core._winograd import FEW_TILES

# Of 3x3 filters; ``python -m benchmarks.choices`` compares what they choose with what is fastest, layer by layer.
# In the time of a multiply-add of a long product, by pass: what a filter's packing costs for each of its elements, and
# by the side of a Winograd tile what transforms cost for each of its points, those of a filter and those of a tile.
# Fitted to the times of layers of 3x3 with 32 channels and more (2 threads, float32, AVX-512): _NEAR of 25 on a Zen 4
# with 1 MB of L2 a core, _FAR of 35 on a Granite Rapids with 2 MB. The gradient of the filters has their sums in place
# of the filters; "prepared" is a result with filters that were transformed before and are in the caches, and "streamed"
# one with such filters from memory, for which a far L3 is no worse. On a Zen 5 the costs chose the fastest of the four,
# or what took 1.09 times as long at most, for 30 layers and the three passes of training, once the input's 40 for a
# side of 4 had become 30, for 18 layers with filters from memory the fastest or what took 1.02 times as long, and for
# 27 with prepared ones 1.07 times as long at most, once these cost 9 by the sides of 4 and 6. "few" is an input's
# gradient of at most FEW_TILES, which takes filters as they lie: 10 layers on that Zen 5, 4 on the Granite Rapids.
# _STREAMED is of an Emerald Rapids; for 12 layers with prepared filters on the Granite Rapids it chose the fastest, or
# what took 1.07 times as long at most.
_STREAMED = 18.0, {2: (17.0, 12.0), 4: (18.0, 15.0), 6: (19.0, 17.0)}
_NEAR = {
    "forward": (84.0, {2: (48.0, 10.0), 4: (27.0, 14.0), 6: (22.0, 20.0)}),
    "prepared": (20.0, {2: (13.0, 11.0), 4: (9.0, 14.0), 6: (9.0, 15.0)}),
    "streamed": _STREAMED,
    "input": (92.0, {2: (61.0, 9.0), 4: (30.0, 13.0), 6: (38.0, 18.0)}),
    "few": (92.0, {2: (43.0, 9.0), 4: (22.0, 13.0), 6: (28.0, 18.0)}),
    "filters": (110.0, {2: (51.0, 23.0), 4: (27.0, 21.0), 6: (19.0, 21.0)}),
}
_FAR = {
    "forward": (19.0, {2: (18.0, 10.0), 4: (13.0, 18.0), 6: (10.0, 37.0)}),
    "prepared": _STREAMED,
    "streamed": _STREAMED,
    "input": (48.0, {2: (62.0, 14.0), 4: (31.0, 23.0), 6: (27.0, 45.0)}),
    "few": (48.0, {2: (24.0, 14.0), 4: (17.0, 23.0), 6: (18.0, 45.0)}),
    "filters": (12.0, {2: (30.0, 15.0), 4: (14.0, 25.0), 6: (9.0, 45.0)}),
}
# Where L3 is far filters' points, of which there are more than filters, cost more.
COSTS = _FAR if _runtime.has_far_l3() else _NEAR
# Groups, by their channels and filters, of which so many fit into a vector at least: with fewer, vectors filled by one
# group after the other are faster (3x3, 128 to 1024 channels in 32 groups, 2 threads, float32, AVX-512: the gradient of
# filters on an Emerald Rapids; on a Zen 5 that of 256 channels, 16 images of 28x28, takes 3.7 ms by two, else 5.1).
GROUPS_WITHIN = {
    "forward": 2,
    "prepared": 2,
    "streamed": 2,
    "input": 2,
    "filters": 4 if _runtime.has_far_l3() else 2,
}
# Winograd rounds more: it has to be clearly faster.
GAIN = 1.1


def winograd_fits(g: Geometry, pools: bool = False) -> bool:
    """Whether Winograd's algorithm computes this at all, or maxima of its 2 x 2 pixels, which must be neighbours."""
    steps = g.stride_h, g.stride_w, g.groups
    neighbours = g.dilation_h == g.dilation_w == 1
    return (g.rows, g.cols) == (3, 3) and steps == (1, 1, 1) and (neighbours or not pools)


def _tiles(pixels: int, side: int, dilation: int) -> int:
    """Return how many tiles a side has, those of all phases of a dilation, as ``axis`` in ``_core/_winograd.pyx``."""
    of_one_phase = -(-pixels // dilation)
    return min(pixels, dilation) * -(-of_one_phase // side)


def cheapest_tile(g: Geometry, result: str) -> tuple[int, float]:
    """Return the side of the fastest of Winograd's tiles, and how many times as fast as the direct algorithm it is.

    `result` is "forward", or "input" or "filters" for their gradients, or "prepared" or "streamed".
    """
    rows, cols = (g.in_h, g.in_w) if result == "input" else (g.out_h, g.out_w)
    pairs = g.channels * g.filters
    packed_filter, points = COSTS[result]
    costs = {}
    for side, (filter_point, tile_point) in points.items():
        tiles = g.images * _tiles(rows, side, g.dilation_h) * _tiles(cols, side, g.dilation_w)
        if result == "input" and tiles <= FEW_TILES:
            filter_point, tile_point = COSTS["few"][1][side]
        transforms = pairs * filter_point + tiles * (g.channels + g.filters) * tile_point
        costs[side] = (side + 2) ** 2 * (pairs * tiles + transforms)
    side = min(costs, key=lambda side: costs[side])
    direct = g.seen or g
    return side, direct.rows * direct.cols * pairs * (g.images * rows * cols + packed_filter) / max(costs[side], 1.0)


def algorithm_of(g: Geometry, algorithm: str, result: str, is_single: bool, lanes: int, pools: bool = False) -> str:
    """Return the algorithm to compute a result with; float64 is for exactness, so that "auto" avoids Winograd there.

    `lanes` are the elements of a vector, and `pools` tells whether maxima of 2 x 2 pixels are taken.

    Raises
    ------
    ValueError
        If one is asked for that does not compute this.
    """
    winograd = algorithm.startswith("winograd")
    if winograd and not winograd_fits(g, pools):
        steps = "strides and dilations" if pools else "strides"
        raise ValueError(
            f"algorithm {algorithm!r} needs 3x3 filters, {steps} of 1 and one group, got "
            f"{g.rows}x{g.cols} filters, strides {(g.stride_h, g.stride_w)}, dilations "
            f"{(g.dilation_h, g.dilation_w)} and {g.groups} groups"
        )
    if g.groups == g.channels == g.filters > 1:
        return "depthwise"
    if algorithm not in ("auto", "winograd"):
        return algorithm
    least, most = sorted((g.channels, g.filters))
    if g.groups > 1 and least >= lanes and most * GROUPS_WITHIN[result] <= lanes * g.groups:
        return "grouped"
    if winograd or (is_single and winograd_fits(g, pools)):
        side, gain = cheapest_tile(g, result)
        if winograd or gain > GAIN:
            return f"winograd-{side}x{side}"
    if result != "input" and _narrow.pays(g, lanes, result == "filters"):
        return "direct-narrow"
    return "direct"
