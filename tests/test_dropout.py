"""Dropout: its mask is Philox4x32-10, the same under every instruction set and number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from checks import assert_equal, normals

from fastcnn import nn

pytestmark = pytest.mark.usefixtures("isa", "threads")


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_reference_gives_the_known_answers_of_the_paper_s_library(counter, key, words):
    assert reference.philox4x32([counter], key).tolist() == [words]


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32, 2**64 - 1])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (63,), (64,), (65,), (7, 11, 13), (8193,), (3, 5, 9000)])
def test_the_mask_is_that_of_philox(shape, seed, dtype):
    x = normals(*shape, dtype=dtype)
    kept = reference.dropout_mask(x.size, 0.3, seed).reshape(shape)
    y = nn.dropout(x, 0.3, seed=seed)
    assert_equal(y, np.where(kept, x * dtype(1 / 0.7), 0), dtype)
    assert_equal(nn.dropout_backward(x, 0.3, seed), y, dtype)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 0.999, np.nextafter(1, 0)])
def test_the_rate_is_kept(rate, dtype):
    n = 100_000
    y = nn.dropout(np.ones(n, dtype), rate, seed=3)
    assert abs((y == 0).sum() - rate * n) <= 5 * np.sqrt(n * rate * (1 - rate)) + 1e-9
    assert_equal(y != 0, reference.dropout_mask(n, rate, 3), bool)
    np.testing.assert_array_equal(y[y != 0], dtype(1 / (1 - rate)))


def test_the_mean_is_kept(dtype):
    assert abs(nn.dropout(np.ones(1_000_000, dtype), 0.4, seed=5).mean(dtype=np.float64) - 1) < 0.005


def test_neighbours_and_seeds_are_independent():
    masks = [nn.dropout(np.ones(100_000), 0.5, seed=s) != 0 for s in (0, 1, 2**32, 2**63)]
    for i, mask in enumerate(masks):
        for lag in (1, 2, 4, 64):
            assert abs((mask[lag:] == mask[:-lag]).mean() - 0.5) < 0.01
        for other in masks[:i]:
            assert abs((mask == other).mean() - 0.5) < 0.01


def test_without_training_a_copy_is_returned(dtype):
    x = normals(9, dtype=dtype)
    y = nn.dropout(x, 0.5, training=False)
    assert_equal(y, x, dtype)
    assert not np.shares_memory(x, y)


def test_without_a_seed_each_call_draws_another_mask():
    x = np.ones(1000)
    assert (nn.dropout(x, 0.5) != nn.dropout(x, 0.5)).any()


def test_what_is_dropped_is_zero_even_where_it_was_not_finite(dtype):
    x = np.resize(np.array([np.nan, np.inf, -np.inf], dtype), 300)
    y = nn.dropout(x, 0.5, seed=1)
    assert_equal(y, np.where(reference.dropout_mask(300, 0.5, 1), x, 0), dtype)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.dropout([1.0], 1.0), ValueError, r"^rate .*1\.0"),
        (lambda: nn.dropout([1.0], -0.1), ValueError, r"^rate .*-0\.1"),
        (lambda: nn.dropout([1.0], np.nan), ValueError, "^rate .*nan"),
        (lambda: nn.dropout([1.0], "a"), TypeError, "^rate .*'a'"),
        (lambda: nn.dropout(["a"], 0.5), TypeError, "^x "),
        (lambda: nn.dropout([1.0], 0.5, seed=-1), ValueError, "^seed .*-1"),
        (lambda: nn.dropout([1.0], 0.5, seed=2**64), ValueError, "^seed .*18446744073709551616"),
        (lambda: nn.dropout([1.0], 0.5, seed=1.0), TypeError, r"^seed .*1\.0"),
        (lambda: nn.dropout_backward([1.0], 0.5, None), TypeError, "^seed .*None"),
        (lambda: nn.dropout_backward(["a"], 0.5, 0), TypeError, "^grad "),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
