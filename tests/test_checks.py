"""The comparisons in checks.py accept rounding and reject every kind of wrong result."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_close, assert_equal, assert_within_ulps, integers, normals

A, B = normals(20, 300), normals(300, 20, seed=1)
EXACT = A @ B
DTYPES = [np.float32, np.float64]


def changed(x, at, value):
    x = x.copy()
    x[at] = value
    return x


@pytest.mark.parametrize("dtype", [np.float32])
def test_a_rounded_product_is_close(dtype):
    a, b = A.astype(dtype), B.astype(dtype)
    assert_close(a @ b, a.astype(np.float64) @ b, dtype, depth=300)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda x: np.zeros_like(x), id="zeros"),
        pytest.param(lambda x: np.roll(x, 1, 1), id="shifted by one"),
        pytest.param(lambda x: changed(x, (3, 4), x[3, 4] * 1.01), id="one wrong element"),
        pytest.param(lambda x: x.T.copy(), id="transposed"),
        pytest.param(lambda x: x - np.outer(A[:, 7], B[7]), id="one product missing"),
        pytest.param(lambda x: changed(x, (3, 4), np.nan), id="a NaN"),
        pytest.param(lambda x: changed(x, (3, 4), np.inf), id="an infinity"),
        pytest.param(lambda x: x[:-1], id="a row missing"),
        pytest.param(lambda x: x[None], id="an axis more"),
    ],
)
def test_a_wrong_result_is_not_close(wrong, dtype):
    with pytest.raises(AssertionError):
        assert_close(wrong(EXACT).astype(dtype), EXACT, dtype, depth=300)
    with pytest.raises(AssertionError):
        assert_equal(wrong(EXACT).astype(dtype), EXACT.astype(dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_product_out_of_thousands_is_missed(dtype):
    a, b = integers(4, 5000), integers(5000, 4, seed=1)
    product = a @ b
    assert_equal(product.astype(dtype), product, dtype)
    with pytest.raises(AssertionError):
        assert_equal((product - np.outer(a[:, 9], b[9])).astype(dtype), product, dtype)
    with pytest.raises(AssertionError):
        assert_close((product - np.outer(a[:, 9], b[9])).astype(dtype), product, dtype, depth=5000)


@pytest.mark.parametrize(("given", "wanted"), [(np.float64, np.float32), (np.float32, np.float64)])
def test_another_element_type_is_not_close(given, wanted):
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(EXACT.astype(given), EXACT, wanted, depth=300)
    with pytest.raises(AssertionError, match="dtype"):
        assert_equal(EXACT.astype(given), EXACT.astype(given), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_where_nan_or_infinity_is_expected_is_not_close(dtype):
    expected = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert_close(expected.astype(dtype), expected, dtype)
    for i in range(3):
        with pytest.raises(AssertionError):
            assert_close(changed(expected, i, 1.0).astype(dtype), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ulps_are_counted_at_each_element(dtype):
    expected = np.array([1e-30, 1.0, 1e30]).astype(dtype).astype(np.float64)
    off = np.nextafter(expected.astype(dtype), dtype(np.inf))
    assert_within_ulps(off, expected, dtype, 1)
    with pytest.raises(AssertionError):
        assert_within_ulps(off, expected, dtype, 0.9)


def test_empty_results_are_close_to_empty_results():
    assert_close(np.empty((0, 3)), np.empty((0, 3)), np.float64)
    with pytest.raises(AssertionError):
        assert_close(np.empty((0, 3)), np.empty((3, 0)), np.float64)
