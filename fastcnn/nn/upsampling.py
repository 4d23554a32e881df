"""Images of a whole number of times as many pixels, written where the caller wants them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ._arrays import FloatArray

Run = Callable[[], Any]


def bound_repeat(x: FloatArray, size: tuple[int, int], out: FloatArray) -> Run:
    """Return a function that writes each pixel of images so many times in both directions.

    Parameters
    ----------
    x
        (N, H, W, C), C-ordered.
    size
        (rows, columns).
    out
        (N, H * rows, W * columns, C), C-ordered, of the same float type.
    """
    n, height, width, channels = x.shape
    pixels = out.reshape(n, height, size[0], width, size[1], channels)
    return partial(np.copyto, pixels, x[:, :, None, :, None])


def bound_stretch(x: FloatArray, axis: int, times: int, out: FloatArray) -> Run:
    """Return a function that writes so many times as many values along an axis, on straight lines between those of x.

    Beyond the outermost values the same ones go on.

    Parameters
    ----------
    x
        Of any shape, C-ordered.
    axis
        Not negative.
    times
        Positive.
    out
        Of the shape of x, but for the axis, C-ordered, of the same float type.
    """
    n, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    x = x.reshape(math.prod(x.shape[:axis]), n, inner)
    phases = out.reshape(len(x), n, times, inner)
    steps: list[Run] = []
    for phase, (low, share) in enumerate(line_places(times)):
        y = phases[:, :, phase]
        if share == 0:
            steps.append(partial(np.copyto, y, x))
            continue
        # Between a value and the one before it, which the first has not; or the one after it.
        before, after, edge = slice(None, -1), slice(1, None), slice(None, 1)
        near, far, weight = after, before, share
        if low:
            near, far, edge, weight = before, after, slice(-1, None), 1 - share
        between = y[:, near]
        steps += [
            partial(np.copyto, y[:, edge], x[:, edge]),
            # near * weight + far * (1 - weight), without room for a second product. NumPy takes some of its own to go
            # through arrays with gaps, 8192 elements of each, however large they are.
            partial(np.multiply, x[:, far], x.dtype.type((1 - weight) / weight), between),
            partial(np.add, between, x[:, near], between),
            partial(np.multiply, between, x.dtype.type(weight), between),
        ]

    def stretch() -> None:
        for step in steps:
            step()

    return stretch


def line_places(times: int) -> list[tuple[int, float]]:
    """Of each of the values that one becomes, where it lies: after which value, counted from the last, and how far."""
    places = [(phase + 0.5) / times + 0.5 for phase in range(times)]
    return [(int(place), place - int(place)) for place in places]
