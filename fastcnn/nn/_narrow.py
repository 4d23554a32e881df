"""Convolutions of few filters: pixels side by side fill a vector.

A row of W' output pixels of K filters is also one of W' / G pixels of G K filters, in the same place in memory. Such
a pixel sees S + G - 1 columns: with filters that are as wide, zero outside the window of their own pixel, and strides
of G columns it is an ordinary convolution, which `_core._conv` computes. Of its multiply-adds S in S + G - 1 count, but
G times as many of a vector's lanes. A result is that of the direct algorithm, of which zeros are added up too; so an
infinity or NaN spreads over the G pixels computed with it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .._core import _conv, _runtime
from ._arrays import FloatArray

# What may be gained at least, and multiply-adds of vectors from which it is more than the wider filters cost (the first
# layer of LeNet-5, benchmarks/layers.py, of one image and of 64).
GAIN = 1.2
LEAST_WORK = 1 << 18


@lru_cache(maxsize=4096)
def pixels_beside(g: _conv.Geometry, lanes: int, prepared: bool = False) -> int:
    """Return how many pixels are best computed side by side, 1 if this does not pay, in vectors of so many lanes.

    Filters that are prepared cost nothing.
    """
    if (g.stride_w, g.dilation_w, g.groups) != (1, 1, 1):
        return 1
    if not prepared and g.images * g.out_h * g.out_w * g.rows * g.cols * g.channels < LEAST_WORK:
        return 1
    counts = [n for n in range(1, max(1, lanes // g.filters) + 1) if g.out_w % n == 0]
    gains = {n: n * g.cols / (g.cols + n - 1) for n in counts}
    best = max(counts, key=lambda n: gains[n])
    return best if gains[best] > GAIN else 1


@lru_cache(maxsize=4096)
def beside(g: _conv.Geometry, pixels: int) -> _conv.Geometry:
    """Return the convolution that so many pixels side by side make."""
    return _conv.Geometry(
        (g.images, g.in_h, g.in_w, g.channels),
        (g.rows, g.cols + pixels - 1, g.channels, pixels * g.filters),
        (g.images, g.out_h, g.out_w // pixels, pixels * g.filters),
        (g.stride_h, pixels),
        (g.top, g.left),
        (g.dilation_h, 1),
        1,
    )


def _zeros(g: _conv.Geometry, pixels: int, dtype: np.dtype[Any]) -> tuple[FloatArray, list[FloatArray]]:
    """Return wide filters of zeros, and the place of each pixel's in them."""
    cols = g.cols + pixels - 1
    filters = np.zeros((g.rows, cols, g.channels, pixels, g.filters), dtype)
    places = [filters[:, i : i + g.cols, :, i] for i in range(pixels)]
    return filters.reshape(g.rows, cols, g.channels, pixels * g.filters), places


def widened(g: _conv.Geometry, pixels: int, w: FloatArray) -> FloatArray:
    """Return the filters of so many pixels side by side."""
    filters, places = _zeros(g, pixels, w.dtype)
    for place in places:
        place[...] = w
    return filters


def forward(
    g: _conv.Geometry,
    x: FloatArray,
    w: FloatArray,
    bias: FloatArray | None,
    residual: FloatArray | None,
    relu: int,
    y: FloatArray,
    *options: Any,
) -> None:
    """Write act(conv(x, w) + bias + residual) to y; bias and residual may be None. Options are as of _conv."""
    pixels = pixels_beside(g, _runtime.lanes(w.dtype))
    bias = None if bias is None else np.tile(bias, pixels)
    _conv.forward(beside(g, pixels), x, widened(g, pixels, w), bias, residual, relu, y, *options)


def backward_filters(g: _conv.Geometry, dy: FloatArray, x: FloatArray, dw: FloatArray) -> None:
    """Write the gradient of the filters to dw."""
    pixels = pixels_beside(g, _runtime.lanes(x.dtype))
    filters, places = _zeros(g, pixels, x.dtype)
    _conv.backward_filters(beside(g, pixels), dy, x, filters)
    dw[...] = places[0]
    for place in places[1:]:
        dw += place
