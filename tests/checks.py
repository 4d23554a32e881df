"""Comparisons whose tolerances come from the element type and the length of the reduction, and data to compare on."""

from __future__ import annotations

import numpy as np
import pytest

from fastcnn._core import _runtime


def integers(*shape, seed=0):
    """Integers from -3 to 3 but 0: sums of their products are exact in float32, so that each one counts."""
    draws = np.random.default_rng([seed, *shape]).integers(1, 4, (2, *shape))
    return draws[0] * np.where(draws[1] > 1, 1.0, -1.0)


def normals(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def bytes_past_the_caches():
    """From how many bytes on results are written past the caches."""
    least = _runtime.bytes_past_the_caches() + 1
    if least > 1 << 26:
        pytest.skip("the caches are too large to fill them here")
    return least


def assert_equal(actual, expected, dtype):
    """Every bit but the sign of zero."""
    assert actual.dtype == dtype, f"dtype is {actual.dtype}, not {np.dtype(dtype)}"
    np.testing.assert_array_equal(actual, expected, strict=False)
    assert actual.shape == np.shape(expected), f"shape is {actual.shape}, not {np.shape(expected)}"


def assert_close(actual, expected, dtype, depth=1, scale=None, precision=None):
    """Compare with a reference of higher precision.

    A sum of `depth` terms of random sign whose size is about `scale` in the end has been rounded `depth` times on
    the way there: its error is near eps / 4 * sqrt(depth) * scale, and below eight times that over a whole array.
    scale is one number per element or for all, by default the root mean square of what is expected. precision is
    the element type that was calculated in, if not dtype.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == dtype, f"dtype is {actual.dtype}, not {np.dtype(dtype)}"
    assert actual.shape == expected.shape, f"shape is {actual.shape}, not {expected.shape}"
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite].astype(np.float64))
    if not finite.any():
        return
    if scale is None:
        scale = np.sqrt(np.mean(expected[finite] ** 2))
    tolerance = np.finfo(precision or dtype).eps * (1 + 2 * np.sqrt(depth)) * np.broadcast_to(scale, actual.shape)
    error = np.abs(np.where(finite, actual, 0) - np.where(finite, expected, 0))
    wrong = ~(error <= tolerance)  # so that NaN is wrong
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(error, nan=np.inf), -1)), wrong.shape)
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} elements are wrong; worst at {tuple(map(int, worst))}: "
            f"{actual[worst]!r}, not {expected[worst]!r}; the tolerance is {tolerance[worst]:.3g}"
        )


def assert_within_ulps(actual, expected, dtype, ulps):
    """Compare element by element in units of the last place of the exact result, or of the smallest normal number."""
    tiny = np.finfo(dtype).tiny
    spacing = np.finfo(dtype).eps * np.exp2(np.floor(np.log2(np.maximum(np.abs(expected), tiny))))
    assert_close(actual, expected, dtype, depth=0, scale=spacing / np.finfo(dtype).eps * ulps)
