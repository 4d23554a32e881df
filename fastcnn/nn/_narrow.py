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

# What may be gained at least, and multiply-adds of vectors from which it is more than the wider filters cost.
GAIN = 1.2
LEAST_WORK = 1 << 18


@lru_cache(maxsize=4096)
def pixels_beside(g: _conv.Geometry, lanes: int) -> int:
    """Return how many pixels are best computed side by side, 1 if this does not pay, in vectors of so many lanes."""
    if (g.stride_w, g.dilation_w, g.groups) != (1, 1, 1):
        return 1
    if g.images * g.out_h * g.out_w * g.rows * g.cols * g.channels < LEAST_WORK:
        return 1
    counts = [n for n in range(1, max(1, lanes // g.filters) + 1) if g.out_w % n == 0]
    gains = {n: n * g.cols / (g.cols + n - 1) for n in counts}
    best = max(counts, key=lambda n: gains[n])
    return best if gains[best] > GAIN else 1


@lru_cache(maxsize=4096)
def _beside(g: _conv.Geometry, pixels: int) -> _conv.Geometry:
    return _conv.Geometry(
        (g.images, g.in_h, g.in_w, g.channels),
        (g.rows, g.cols + pixels - 1, g.channels, pixels * g.filters),
        (g.images, g.out_h, g.out_w // pixels, pixels * g.filters),
        (g.stride_h, pixels),
        (g.top, g.left),
        (g.dilation_h, 1),
        1,
    )


def _wide(g: _conv.Geometry, dtype: np.dtype[Any]) -> tuple[_conv.Geometry, FloatArray, list[FloatArray]]:
    """Return the convolution that pixels side by side make, wide filters of zeros, and each pixel's place in them."""
    pixels = pixels_beside(g, _runtime.lanes(dtype))
    wide = _beside(g, pixels)
    filters = np.zeros((g.rows, wide.cols, g.channels, pixels, g.filters), dtype)
    parts = [filters[:, i : i + g.cols, :, i] for i in range(pixels)]
    return wide, filters.reshape(*filters.shape[:3], wide.filters), parts


def _as_output(wide: _conv.Geometry, y: FloatArray) -> FloatArray:
    return y.reshape(wide.images, wide.out_h, wide.out_w, wide.filters)


def forward(
    g: _conv.Geometry,
    x: FloatArray,
    w: FloatArray,
    bias: FloatArray | None,
    residual: FloatArray | None,
    relu: int,
    y: FloatArray,
    prepared: bool = False,
) -> None:
    """Write act(conv(x, w) + bias + residual) to y; bias and residual may be None."""
    wide, filters, parts = _wide(g, w.dtype)
    for part in parts:
        part[...] = w
    bias = None if bias is None else np.tile(bias, len(parts))
    residual = None if residual is None else _as_output(wide, residual)
    _conv.forward(wide, x, filters, bias, residual, relu, _as_output(wide, y), prepared)


def backward_filters(g: _conv.Geometry, dy: FloatArray, x: FloatArray, dw: FloatArray) -> None:
    """Write the gradient of the filters to dw."""
    wide, filters, parts = _wide(g, x.dtype)
    _conv.backward_filters(wide, _as_output(wide, dy), x, filters)
    dw[...] = parts[0]
    for part in parts[1:]:
        dw += part
