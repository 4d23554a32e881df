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


def bound_stretch(x: FloatArray, axis: int, times: int, out: FloatArray, room: FloatArray) -> Run:
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
    room
        As x; what it holds is overwritten.
    """
    n, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    lines = math.prod(x.shape[:axis]), n, inner
    x, room, phases = x.reshape(lines), room.reshape(lines), out.reshape(lines[0], n, times, inner)
    steps: list[Run] = []
    for phase, (low, share) in enumerate(line_places(times)):
        y = phases[:, :, phase]
        if share == 0:
            steps.append(partial(np.copyto, y, x))
            continue
        # Between a value and the one before it, which the first has not; or the one after it.
        near, far, edge, weight = slice(inner, None), slice(None, -inner), slice(None, 1), share
        if low:
            near, far, edge, weight = far, near, slice(-1, None), 1 - share
        # All lines as one, which NumPy goes through without buffers. What lies between two of them is then overwritten.
        flat, between = x.reshape(-1), room.reshape(-1)[near]
        steps += [
            # near * weight + far * (1 - weight), without room for a second product.
            partial(np.multiply, flat[far], x.dtype.type((1 - weight) / weight), between),
            partial(np.add, between, flat[near], between),
            partial(np.multiply, between, x.dtype.type(weight), between),
            partial(np.copyto, room[:, edge], x[:, edge]),
            partial(np.copyto, y, room),
        ]

    def stretch() -> None:
        for step in steps:
            step()

    return stretch


def line_places(times: int) -> list[tuple[int, float]]:
    """Of each of the values that one becomes, where it lies: after which value, counted from the last, and how far."""
    places = [(phase + 0.5) / times + 0.5 for phase in range(times)]
    return [(int(place), place - int(place)) for place in places]
