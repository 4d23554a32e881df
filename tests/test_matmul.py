"""Matrix products and dense layers: every way that the product takes, and both gradients."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import reference
from checks import assert_close, assert_equal, integers, normals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcnn import nn, runtime
from fastcnn._core import _runtime

pytestmark = pytest.mark.usefixtures("isa", "threads")

TRANSPOSES = [(False, False), (False, True), (True, False), (True, True)]
# One below, at and one above the widths of tiles of 1, 2 and 4 vectors of 1 to 16 lanes.
COLUMNS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100]
# One below, at and one above: one row; STREAM_ROWS; the rows of tiles (6 or 14, wide ones 2 or 6), and several of them;
# MOST_DOT_ROWS; IN_PLACE_ROWS; and more than turns at a panel are taken by.
ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 28, 29, 63, 64, 65, 127, 128, 129]
# (M, N, K) where two threads share the work, with edges that are no multiple of anything.
SHARED = [(131, 70, 45), (300, 3, 250), (3, 300, 250), (17, 200, 101), (1, 1003, 301), (8, 201, 200), (129, 33, 50)]


def stored(x, transposed):
    return np.ascontiguousarray(x.T) if transposed else x


def check_product(m, n, k, transpose_a, transpose_b, dtype):
    a, b = integers(m, k), integers(k, n, seed=1)
    out = nn.matmul(
        stored(a, transpose_a).astype(dtype), stored(b, transpose_b).astype(dtype), transpose_a, transpose_b
    )
    assert_equal(out, a @ b, dtype)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize("rows", ROWS)
def test_every_row_count_with_every_width(rows, transpose_a, transpose_b, dtype):
    for i, columns in enumerate(COLUMNS):
        check_product(rows, columns, 1 + (7 * i + rows) % 40, transpose_a, transpose_b, dtype)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 129])
def test_every_small_depth(rows, transpose_a, transpose_b, dtype):
    for depth in [*range(1, 20), 31, 32, 33, 63, 64, 65]:
        check_product(rows, 5, depth, transpose_a, transpose_b, dtype)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("rows", [16, 17, 31, 32, 33])
def test_more_rows_against_long_rows_of_a_transposed_matrix(rows, transpose_a, dtype):
    for columns, depth in itertools.product((1, 3, 4, 33, 70), (8 * rows - 1, 8 * rows, 8 * rows + 5)):
        check_product(rows, columns, depth, transpose_a, True, dtype)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("rows", [64, 65, 127, 128, 129])
def test_more_rows_with_panels_enough_to_share_out(rows, transpose_a, dtype):
    panel = 4 * _runtime.lanes(np.dtype(dtype))
    for columns, depth in itertools.product((2 * panel - 1, 2 * panel, 2 * panel + 1, 5 * panel + 3), (1, 7, 64)):
        check_product(rows, columns, depth, transpose_a, False, dtype)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize(("m", "n", "k"), SHARED)
def test_products_that_threads_share(m, n, k, transpose_a, transpose_b, dtype):
    check_product(m, n, k, transpose_a, transpose_b, dtype)


def longer_than_a_slab(columns, dtype):
    """A depth for which B is not read in place, but in two slabs at least: each is half of L2, of a block's columns.

    Up to two vectors are one block, and more columns are cut into eight blocks at most.
    """
    lanes, size = _runtime.lanes(np.dtype(dtype)), np.dtype(dtype).itemsize
    least = columns if columns <= 2 * lanes else columns // 8
    return max(64, _runtime.cache_bytes()[1] // 2 // (least * size)) + 3


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize(
    ("m", "vectors"),  # dots take up to 16 or 32 rows, streams up to 4, 8 or 32, slabs the others
    [(1, 1), (5, 0.5), (5, 1.5), (5, 16), (9, 0.5), (9, 1.5), (9, 16), (17, 1), (17, 2), (17, 16), (70, 1.5)],
)
def test_a_reduction_longer_than_one_slab(m, vectors, transpose_a, transpose_b, dtype):
    n = max(2, int(vectors * _runtime.lanes(np.dtype(dtype))))
    k = longer_than_a_slab(n, dtype)
    a, b = np.resize(integers(m * 997), (m, k)), integers(k, n, seed=1)
    out = nn.matmul(
        stored(a, transpose_a).astype(dtype), stored(b, transpose_b).astype(dtype), transpose_a, transpose_b
    )
    assert_equal(out, a @ b, dtype)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("columns", ["panel and one", "slab and one", "many"])
@pytest.mark.parametrize("m", [9, 16, 24, 25, 32, 33])
def test_few_rows_with_a_matrix_from_afar(m, columns, transpose_a, dtype):
    lanes, size, l2 = _runtime.lanes(np.dtype(dtype)), np.dtype(dtype).itemsize, _runtime.cache_bytes()[1]
    # Where B is beyond L2, up to 32 rows have it packed a few rows at a time, of no more columns than a quarter of L2
    # has room for.
    n = {"panel and one": 4 * lanes + 1, "slab and one": l2 // (64 * size) + 1, "many": 777}[columns]
    k = 4 * l2 // (n * size) + 5
    a, b, bias = np.resize(integers(m * 997), (m, k)), np.resize(integers(991 * n, seed=1), (k, n)), integers(n, seed=2)
    out = nn.matmul(stored(a, transpose_a).astype(dtype), b.astype(dtype), transpose_a)
    wanted = a @ b
    assert_equal(out, wanted, dtype)
    if not transpose_a:
        out = nn.dense(a.astype(dtype), b.astype(dtype), bias.astype(dtype), activation="relu")
        assert_equal(out, np.maximum(wanted + bias, 0), dtype)


# Rows and columns of B: beyond L2, or of one panel that all threads would wait for.
LARGE = [(1, 300_001), (64, 20_001), (65, 20_000), (200, 7001), (1025, 1100), (4097, 320), (4200, 32), (14_001, 10)]


@pytest.mark.parametrize(("more", "transpose_b"), [(0, False), (1, False), (1, True)])
def test_many_rows_with_the_deepest_slab_and_with_two(more, transpose_b, dtype):
    room = min(runtime.info().l2_bytes, 1 << 20)  # as _core/_runtime.pyx has it
    deepest = room * 3 // 4 // (64 * np.dtype(dtype).itemsize)
    check_product(257, 130, deepest + more, False, transpose_b, dtype)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize(("k", "n"), LARGE)
def test_a_few_rows_with_a_large_b_are_reduced_in_parts(m, k, n, dtype):
    x, kernel, bias = integers(m, k), integers(k, n, seed=1), integers(n, seed=2)
    for activation in ("relu", "relu6"):
        y = nn.dense(x.astype(dtype), kernel.astype(dtype), bias.astype(dtype), activation)
        assert_equal(y, reference.ACTIVATIONS[activation](x @ kernel + bias), dtype)
    assert_equal(nn.matmul(x.T.astype(dtype), kernel.astype(dtype), transpose_a=True), x @ kernel, dtype)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("columns", [256, 272, 250])
@pytest.mark.parametrize("depth", [3, 64])
def test_a_result_written_past_the_caches_is_that_of_its_rows(depth, columns, transpose_b, dtype):
    info = runtime.info()
    nbytes = max(4 * info.l2_bytes, info.l3_bytes // 8)
    if nbytes > 1 << 26:
        pytest.skip("the caches are too large to fill them here")
    rows = nbytes // (columns * np.dtype(dtype).itemsize) + 8
    a, b = normals(rows, depth, dtype=dtype), stored(normals(depth, columns, dtype=dtype, seed=1), transpose_b)
    with runtime.ReusingMemory():  # its arrays begin at multiples of a vector
        whole = nn.matmul(a, b, transpose_b=transpose_b)
    for first in range(0, rows, 1000):
        assert nn.matmul(a[first : first + 1000], b, transpose_b=transpose_b).tobytes() == (
            whole[first : first + 1000].tobytes()
        )


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 4, 0), (200, 40, 0), (0, 0, 0)])
def test_empty_products(m, n, k, transpose_a, transpose_b, dtype):
    check_product(m, n, k, transpose_a, transpose_b, dtype)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 50, 1000), (7, 50, 1000), (60, 50, 1000), (150, 50, 1000)])
def test_rounding_stays_within_what_the_depth_allows(m, n, k, transpose_a, transpose_b, dtype):
    a, b = normals(m, k, dtype=dtype), normals(k, n, dtype=dtype, seed=1)
    out = nn.matmul(stored(a, transpose_a), stored(b, transpose_b), transpose_a, transpose_b)
    assert_close(out, a.astype(np.longdouble) @ b.astype(np.longdouble), dtype, depth=k)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 150), st.integers(0, 80), st.integers(0, 90), st.sampled_from(TRANSPOSES))
def test_any_product(dtype, m, n, k, transposes):
    check_product(m, n, k, *transposes, dtype)


@pytest.mark.parametrize("rows", [1, 3, 100, 200])
def test_nan_and_infinity_reach_exactly_their_row_and_column(rows, dtype):
    a, b = integers(rows, 20).astype(dtype), integers(20, 35, seed=1).astype(dtype)
    a[-1, 3], b[5, 34] = np.nan, np.inf
    out = nn.matmul(a, b)
    assert np.isnan(out[-1]).all()
    assert np.isinf(out[:-1, 34]).all()
    assert np.isfinite(out[:-1, :34]).all()


def at_16_places(b):
    """Yield b at a boundary of 16 elements, and at each of the 15 places behind it."""
    room = np.empty(b.size + 32, b.dtype)
    first = -room.ctypes.data // room.itemsize % 16
    for begin in range(first, first + 16):
        moved = room[begin : begin + b.size].reshape(b.shape)
        moved[...] = b
        yield moved


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 16, 32])
@pytest.mark.parametrize("depth", [64, 80, 128, 132, 256])
def test_no_bit_depends_on_where_a_transposed_matrix_lies(rows, depth, dtype):
    a, b = normals(rows, depth, dtype=dtype), normals(9, depth, dtype=dtype, seed=1)
    a[0, 0], b[2, 1] = np.inf, np.nan
    a[:, 1:3] = 0  # so that 0 * NaN and infinity meet what other lanes hold
    results = [nn.matmul(a, moved, transpose_b=True) for moved in at_16_places(b)]
    assert_close(results[0][1:, 3:], a[1:].astype(np.longdouble) @ b[3:].T.astype(np.longdouble), dtype, depth=depth)
    assert np.isnan(results[0][:, 2]).all()
    assert np.isinf(results[0][0, [0, 1, *range(3, 9)]]).all()
    assert all(result.tobytes() == results[0].tobytes() for result in results)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 64])
@pytest.mark.parametrize("columns", [16, 32, 80, 96, 144, 400, 37])
def test_no_bit_depends_on_where_a_matrix_lies(rows, columns, dtype):
    a, b = normals(rows, 21, dtype=dtype), normals(21, columns, dtype=dtype, seed=1)
    results = [nn.matmul(a, moved) for moved in at_16_places(b)]
    expected = a.astype(np.longdouble) @ b.astype(np.longdouble)
    assert_close(results[0], expected, dtype, depth=22, scale=np.maximum(np.abs(expected), np.std(expected)))
    assert all(result.tobytes() == results[0].tobytes() for result in results)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize(("m", "n", "k"), [(4, 5, 40), (150, 33, 60)])
def test_gradients_of_a_product(m, n, k, transpose_a, transpose_b, dtype):
    a, b, grad = integers(m, k), integers(k, n, seed=1), integers(m, n, seed=2)
    da, db = nn.matmul_backward(
        grad.astype(dtype), stored(a, transpose_a).astype(dtype), stored(b, transpose_b).astype(dtype),
        transpose_a, transpose_b,
    )  # fmt: skip
    assert_equal(da, stored(grad @ b.T, transpose_a), dtype)
    assert_equal(db, stored(a.T @ grad, transpose_b), dtype)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
@pytest.mark.parametrize("m", [1, 5, 40])
def test_the_transpose_of_an_array_is_the_array_transposed(m, transpose_a, transpose_b, dtype):
    a, b = stored(normals(m, 300, dtype=dtype), transpose_a), stored(normals(300, 50, dtype=dtype), transpose_b)
    wanted = nn.matmul(a, b, transpose_a, transpose_b).tobytes()
    assert nn.matmul(a.T, b, not transpose_a, transpose_b).tobytes() == wanted
    assert nn.matmul(a, b.T, transpose_a, not transpose_b).tobytes() == wanted
    assert nn.matmul(a.T, b.T, not transpose_a, not transpose_b).tobytes() == wanted


def test_the_transpose_of_an_array_is_not_copied(dtype):
    x, weights = normals(2, 600, dtype=dtype), normals(500, 600, dtype=dtype)
    tracemalloc.start()
    nn.matmul(x, weights.T)
    nn.dense(x, weights.T)
    nn.matmul(weights.T, x.T[:500].copy())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weights.nbytes / 4


# Dense layers

SHAPES = [(1, 30, 17), (5, 30, 10), (40, 30, 33), (140, 64, 33), (1, 700, 333), (40, 0, 5), (3, 4, 0)]


@pytest.mark.parametrize("activation", [None, "linear", "relu", "relu6"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "units"), SHAPES)
def test_dense_is_exact_on_integers(rows, inputs, units, bias, activation, dtype):
    x, kernel, b = integers(rows, inputs), integers(inputs, units, seed=1), integers(units, seed=2) * 10
    y = nn.dense(x.astype(dtype), kernel.astype(dtype), b.astype(dtype) if bias else None, activation)
    assert_equal(y, reference.ACTIVATIONS[activation](x @ kernel + (b if bias else 0)), dtype)


@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
@pytest.mark.parametrize(("rows", "inputs", "units"), [(1, 30, 17), (5, 30, 10), (140, 64, 33)])
def test_dense_with_every_activation(rows, inputs, units, activation, dtype):
    x, kernel, bias = (
        normals(*shape, dtype=dtype, seed=i) for i, shape in enumerate([(rows, inputs), (inputs, units), (units,)])
    )
    linear = x.astype(np.float64) @ kernel + bias
    y = nn.dense(x, kernel, bias, activation)
    assert_close(y, reference.ACTIVATIONS[activation](linear), dtype, depth=inputs, scale=np.sqrt(inputs))


@pytest.mark.parametrize("m", [2, 70])
def test_relu_waits_for_the_last_slab(m, dtype):
    depth = longer_than_a_slab(2, dtype) // 2 * 2
    x = np.ones((m, depth), dtype)
    x[:, depth // 2 :] = 2
    kernel = np.ones((depth, 2), dtype)
    kernel[: depth // 2] = -1
    assert_equal(nn.dense(x, kernel, np.ones(2, dtype), "relu"), np.full((m, 2), depth // 2 + 1), dtype)
    assert_equal(nn.dense(x, kernel, np.ones(2, dtype), "relu6"), np.full((m, 2), 6), dtype)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 0), (2, 1, 5, 3)])
def test_dense_works_along_the_last_axis_of_any_shape(leading, dtype):
    x, kernel, bias = integers(*leading, 6), integers(6, 7, seed=1), integers(7, seed=2)
    grad = integers(*leading, 7, seed=3)
    assert_equal(nn.dense(x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)), x @ kernel + bias, dtype)
    dx, dkernel, dbias = nn.dense_backward(grad.astype(dtype), x.astype(dtype), kernel.astype(dtype))
    assert_equal(dx, grad @ kernel.T, dtype)
    assert_equal(dkernel, x.reshape(-1, 6).T @ grad.reshape(-1, 7), dtype)
    assert_equal(dbias, grad.reshape(-1, 7).sum(0), dtype)


@pytest.mark.parametrize(("rows", "inputs", "units"), SHAPES)
def test_gradients_of_dense(rows, inputs, units, dtype):
    x, kernel, grad = integers(rows, inputs), integers(inputs, units, seed=1), integers(rows, units, seed=2)
    dx, dkernel, dbias = nn.dense_backward(grad.astype(dtype), x.astype(dtype), kernel.astype(dtype))
    assert_equal(dx, grad @ kernel.T, dtype)
    assert_equal(dkernel, x.T @ grad, dtype)
    assert_equal(dbias, grad.sum(0), dtype)


def test_dense_leaves_out_the_input_gradient_on_demand(dtype):
    x, kernel, grad = (integers(*s).astype(dtype) for s in [(3, 4), (4, 5), (3, 5)])
    dx, dkernel, _ = nn.dense_backward(grad, x, kernel, input_grad=False)
    assert dx is None
    assert_equal(dkernel, x.T @ grad, dtype)


def test_gradients_of_dense_agree_with_differences():
    x, kernel, bias, grad = (normals(*s, seed=i) for i, s in enumerate([(3, 4), (4, 5), (5,), (3, 5)]))
    gradients = nn.dense_backward(grad, x, kernel)
    operands = [x, kernel, bias]
    for i, gradient in enumerate(gradients):
        numerical = reference.numerical_gradient(
            lambda value, i=i: (nn.dense(*operands[:i], value, *operands[i + 1 :]) * grad).sum(), operands[i]
        )
        np.testing.assert_allclose(gradient, numerical, rtol=1e-8, atol=1e-8)


# Errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.matmul(np.ones(3), np.ones((3, 2))), "^a must be a matrix"),
        (lambda: nn.matmul(np.ones((2, 3)), np.ones((3, 2, 1))), "^b must be a matrix"),
        (lambda: nn.matmul(np.ones((2, 3)), np.ones((2, 3))), r"^a and b .*\(2, 3\)"),
        (lambda: nn.dense(np.ones((2, 3)), np.ones(3)), r"^kernel .*\(3,\)"),
        (lambda: nn.dense(np.ones((2, 3)), np.ones((4, 2))), r"^x .*\(2, 3\)"),
        (lambda: nn.dense(1.0, np.ones((4, 2))), r"^x .*\(\)"),
        (lambda: nn.dense(np.ones((2, 3)), np.ones((3, 2)), np.ones(3)), r"^bias .*\(3,\)"),
        (lambda: nn.dense(np.ones((2, 3)), np.ones((3, 2)), activation="step"), "^activation .*'step'"),
        (lambda: nn.dense_backward(np.ones((2, 3)), np.ones((2, 3)), np.ones((3, 2))), r"^grad .*\(2, 3\)"),
        (lambda: nn.matmul_backward(np.ones((2, 3)), np.ones((2, 3)), np.ones((3, 2))), r"^grad .*\(2, 3\)"),
        (lambda: nn.matmul_backward(np.ones((2, 2)), np.ones((2, 3)), np.ones((4, 2))), "^a and b "),
        (lambda: nn.matmul_backward(np.ones((2, 2)), np.ones(3), np.ones((3, 2))), "^a must be a matrix"),
    ],
)
def test_operands_that_do_not_fit_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
