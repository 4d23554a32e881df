"""Activations and their gradients: accuracy over the whole range, special values, every length of a run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from checks import assert_close, assert_equal, assert_within_ulps, bytes_past_the_caches, integers, normals

from fastcnn import nn, runtime

pytestmark = pytest.mark.usefixtures("isa", "threads")

ELEMENTWISE = ["relu", "relu6", "leaky_relu", "sigmoid", "hard_sigmoid", "tanh", "silu", "hard_swish", "gelu"]
ROWWISE = ["softmax", "log_softmax"]
LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65]
EXTREMES = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 88.7, -88.7, 89.0, -89.0, 745.0, -746.0, 3e38, -3e38]
# Below it the vectorised exponential is zero.
SMALLEST_EXPONENT = {np.float32: -86, np.float64: -707}


def sweep(dtype):
    """Every magnitude, and densely where functions bend."""
    info = np.finfo(dtype)
    powers = np.geomspace(info.tiny, 1e4, 20_000)
    x = np.concatenate([powers, -powers, np.linspace(-100, 100, 40_001), np.linspace(-1, 1, 20_001)])
    return x.astype(dtype)


def test_sigmoid_is_accurate_to_a_few_ulps(dtype):
    x = sweep(dtype)
    assert_within_ulps(nn.sigmoid(x), np.where(x < SMALLEST_EXPONENT[dtype], 0, reference.sigmoid(x)), dtype, 4)
    assert nn.sigmoid(x)[x < SMALLEST_EXPONENT[dtype]].max() == 0
    assert reference.sigmoid(x)[x < SMALLEST_EXPONENT[dtype]].max() < 5 * np.finfo(dtype).tiny


def test_tanh_is_accurate_to_a_few_ulps(dtype):
    x = sweep(dtype)
    assert_within_ulps(nn.tanh(x), reference.tanh(x), dtype, 4)


def test_silu_is_accurate_to_a_few_ulps(dtype):
    x = sweep(dtype)
    assert_within_ulps(nn.silu(x), np.where(x < SMALLEST_EXPONENT[dtype], 0, reference.silu(x)), dtype, 5)


def test_gelu_is_accurate_to_a_few_ulps_but_for_its_exponential(dtype):
    x = sweep(dtype)
    exact, tiny = reference.gelu(x.astype(np.float64)), 2 * np.finfo(dtype).tiny / np.finfo(dtype).eps
    # The reference rounds x / sqrt(2) too.
    ulps = 4 + np.where(x < 0, np.minimum(2 * x.astype(np.float64) ** 2, 1e4), 0)
    assert_close(nn.gelu(x), exact, dtype, depth=0, scale=np.abs(exact) * ulps + tiny)
    assert exact.min() < -0.169 and np.abs(exact[x < -3]).max() > 3e-3


def test_gelu_in_single_precision_is_as_exact_as_its_docstring_tells():
    x = sweep(np.float32)
    exact, tiny = reference.gelu(x.astype(np.float64)), 2 * np.finfo(np.float32).tiny / np.finfo(np.float32).eps
    ulps = 3 + np.where(x < 0, x.astype(np.float64) ** 2 / 4, 0)
    assert_close(nn.gelu(x), exact, np.float32, depth=0, scale=np.abs(exact) * ulps + tiny)


def test_gelu_by_tanh_is_accurate_to_a_few_ulps_but_for_its_exponential(dtype):
    x = sweep(dtype)
    exact, tiny = reference.gelu_by_tanh(x), 4 * np.finfo(dtype).tiny / np.finfo(dtype).eps
    ulps = 6 + np.where(x < 0, np.minimum(2 * np.abs(x.astype(np.float64)) + 0.3 * np.abs(x) ** 3.0, 1e4), 0)
    assert_close(nn.gelu(x, True), exact, dtype, depth=0, scale=np.abs(exact) * ulps + 100 * tiny)
    assert np.abs(nn.gelu(x, True) - nn.gelu(x)).max() > 1e-4


@pytest.mark.parametrize("name", nn.BACK_FROM_ARGUMENT)
def test_slopes_are_accurate_to_a_few_ulps_of_one(name, dtype):
    x = sweep(dtype)
    one = np.ones_like(x)
    assert_close(nn.activate_backward(one, x, name), backward(name, one, x), dtype, depth=0, scale=4)


def test_the_slope_of_hard_swish_keeps_its_digits_where_it_crosses_zero(dtype):
    x = dtype(-1.5) + np.arange(-40, 41).astype(dtype) * np.finfo(dtype).eps
    slope = nn.hard_swish_backward(np.ones_like(x), x)
    assert_within_ulps(slope, (x.astype(np.float64) + 1.5) / 3, dtype, 2)


@pytest.mark.parametrize("length", [3, 40])
def test_zeros_keep_their_sign(length, dtype):
    x = np.resize(np.array([-0.0, 0.0, -0.0], dtype), length)
    for op in (nn.tanh, nn.silu, nn.hard_swish, nn.gelu, lambda x: nn.gelu(x, True)):
        assert_equal(np.copysign(1, op(x)), np.copysign(1, x), dtype)
        assert_equal(op(x), np.zeros(length), dtype)


@pytest.mark.parametrize("length", [3, 40])
def test_slopes_at_nan_and_infinity(length, dtype):
    x = np.resize(np.array([np.nan, -np.inf, np.inf], dtype), length)
    wanted = np.resize([np.nan, 0, 2], length)
    for name in nn.BACK_FROM_ARGUMENT:
        assert_equal(nn.activate_backward(np.full_like(x, 2), x, name), wanted, dtype)
    assert_equal(nn.gelu_backward(np.full_like(x, 2), x, True), wanted, dtype)
    assert_equal(nn.gelu(x, True), np.resize([np.nan, 0, np.inf], length), dtype)


def test_the_bends_of_hard_activations(dtype):
    x = np.array([-4, -3, -1.5, 0, 1.5, 3, 4], dtype)
    assert_equal(nn.hard_sigmoid(x), [0, 0, 0.25, 0.5, 0.75, 1, 1], dtype)
    assert_equal(nn.hard_swish(x), [0, 0, -0.375, 0, 1.125, 3, 4], dtype)
    grad = np.full_like(x, 6)
    assert_equal(nn.hard_sigmoid_backward(grad, nn.hard_sigmoid(x)), [0, 0, 1, 1, 1, 0, 0], dtype)
    assert_equal(nn.hard_swish_backward(grad, x), [0, 0, 0, 3, 6, 6, 6], dtype)


def test_swish_is_a_second_name_of_silu(dtype):
    x = normals(50, dtype=dtype)
    assert_equal(nn.activate(x, "swish"), nn.silu(x), dtype)
    assert_equal(nn.activate_backward(x, x, "swish"), nn.silu_backward(x, x), dtype)


def test_relus_are_exact(dtype):
    x = sweep(dtype)
    assert_equal(nn.relu(x), np.maximum(x, 0), dtype)
    assert_equal(nn.relu(x, 6), np.clip(x, 0, 6), dtype)
    assert_equal(nn.relu(x, 0.5), np.clip(x, 0, dtype(0.5)), dtype)
    assert_equal(nn.leaky_relu(x, 0.25), np.where(x < 0, x * dtype(0.25), x), dtype)
    assert_equal(nn.leaky_relu(x, -2), np.where(x < 0, x * dtype(-2), x), dtype)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_extreme_values(name, dtype):
    with np.errstate(over="ignore"):
        x = np.array(EXTREMES, dtype)
    exact = reference.ACTIVATIONS[name](x.astype(np.float64))
    # Subnormal results may be zero, and products with a sigmoid that is.
    smallest = 2 * np.finfo(dtype).tiny / np.finfo(dtype).eps * np.where(name == "silu", 200, 1)
    assert_close(nn.activate(x, name), exact, dtype, depth=0, scale=4.0 * np.minimum(np.abs(exact), 1e300) + smallest)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("length", [3, 40])
def test_nan_and_infinity(name, length, dtype):
    limits = {
        "relu": (0, np.inf),
        "relu6": (0, 6),
        "leaky_relu": (-np.inf, np.inf),
        "sigmoid": (0, 1),
        "hard_sigmoid": (0, 1),
        "tanh": (-1, 1),
        "silu": (0, np.inf),
        "hard_swish": (0, np.inf),
        "gelu": (0, np.inf),
    }[name]
    x = np.resize(np.array([np.nan, -np.inf, np.inf], dtype), length)
    assert_equal(nn.activate(x, name), np.resize([np.nan, *limits], length), dtype)


@pytest.mark.parametrize("length", LENGTHS)
def test_elementwise_runs_of_any_length(length, dtype):
    x, grad = normals(length, dtype=dtype), normals(length, dtype=dtype, seed=1)
    for name in ELEMENTWISE:
        y = nn.activate(x, name)
        assert_close(y, reference.ACTIVATIONS[name](x), dtype, scale=4)
        kept = kept_of(name, x, y)
        assert_close(nn.activate_backward(grad, kept, name), backward(name, grad, kept), dtype, scale=4)


def kept_of(name, x, y):
    """What the gradient is worked out from: argument or result."""
    return x if name in nn.BACK_FROM_ARGUMENT else y


def backward(name, grad, y):
    """The gradient by what `kept_of` returns."""
    y, grad = y.astype(np.float64), grad.astype(np.float64)
    return {
        "relu": lambda: np.where(y > 0, grad, 0),
        "relu6": lambda: np.where((y > 0) & (y < 6), grad, 0),
        "leaky_relu": lambda: np.where(y < 0, grad * 0.2, grad),
        "sigmoid": lambda: grad * y * (1 - y),
        "hard_sigmoid": lambda: np.where((y > 0) & (y < 1), grad / 6, 0),
        "tanh": lambda: grad * (1 - y**2),
        "silu": lambda: grad * reference.sigmoid(y) * (1 + y * reference.sigmoid(-y)),
        "hard_swish": lambda: grad * np.where(np.abs(y) < 3, y / 3 + 0.5, y > 0),
        "gelu": lambda: grad * (reference.normal_share(y) + y * np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi)),
        "softmax": lambda: y * (grad - (grad * y).sum(-1, keepdims=True)),
        "log_softmax": lambda: grad - np.exp(y) * grad.sum(-1, keepdims=True),
    }[name]()


@pytest.mark.parametrize("name", [*ELEMENTWISE, *ROWWISE])
def test_activations_that_threads_share(name, dtype):
    x, grad = normals(30, 70, 40, dtype=dtype), normals(30, 70, 40, dtype=dtype, seed=1)
    y = nn.activate(x, name)
    assert_close(y, reference.ACTIVATIONS[name](x), dtype, scale=8)
    kept = kept_of(name, x, y)
    assert_close(nn.activate_backward(grad, kept, name), backward(name, grad, kept), dtype, depth=40, scale=8)


@pytest.mark.parametrize("length", [*LENGTHS[1:], 1000])
def test_rows_of_any_length(length, dtype):
    x, grad = normals(5, length, dtype=dtype) * 3, normals(5, length, dtype=dtype, seed=1)
    span = np.ptp(x.astype(np.float64), -1)[:, None]
    y, log_y = nn.softmax(x), nn.log_softmax(x)
    exact = reference.softmax(x)
    assert_close(y, exact, dtype, depth=length, scale=exact * (1 + span))
    assert_close(log_y, reference.log_softmax(x), dtype, depth=length, scale=1 + span)
    magnitude = np.abs(grad) + np.abs(grad * y).sum(-1, keepdims=True)
    assert_close(nn.softmax_backward(grad, y), backward("softmax", grad, y), dtype, length, y * magnitude)
    magnitude = np.abs(grad) + np.exp(log_y) * np.abs(grad).sum(-1, keepdims=True)
    assert_close(nn.log_softmax_backward(grad, log_y), backward("log_softmax", grad, log_y), dtype, length, magnitude)


@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_softmax_of_huge_logits_does_not_overflow(length, scale, dtype):
    x = np.linspace(-1, 1, length).astype(dtype)[None] * dtype(scale)
    assert_close(nn.softmax(x), np.eye(length)[-1:], dtype, scale=1)
    assert_close(nn.log_softmax(x), x.astype(np.float64) - x[0, -1], dtype, scale=scale)


@pytest.mark.parametrize("length", [2, 40])
def test_a_logit_of_minus_infinity_has_no_share(length, dtype):
    x = np.zeros((2, length), dtype)
    x[0, 0] = x[1, -1] = -np.inf
    kept = np.isfinite(x)
    assert_close(nn.softmax(x), np.where(kept, 1 / (length - 1), 0), dtype, scale=1)
    log_y = nn.log_softmax(x)
    assert_close(log_y, np.where(kept, -np.log(length - 1), -np.inf), dtype, scale=4)
    assert np.isfinite(nn.log_softmax_backward(np.ones_like(x), log_y)).all()


@pytest.mark.parametrize("at", [0, 1, 20, 39])
@pytest.mark.parametrize("op", [nn.softmax, nn.log_softmax])
def test_a_nan_takes_its_row_and_no_other(op, at, dtype):
    x = normals(3, 40, dtype=dtype)
    x[1, at] = np.nan
    y = op(x)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


def test_log_softmax_backward_of_many_classes_loses_nothing():
    """In one float32 chain a sum of so many equal numbers is wrong by 0.01."""
    y = nn.log_softmax(normals(2, 1_000_000, dtype=np.float32))
    grad = np.full(y.shape, -1e-6, np.float32)
    exact = grad.astype(np.float64) - np.exp(y.astype(np.float64)) * grad.sum(-1, dtype=np.float64)[:, None]
    assert np.abs(nn.log_softmax_backward(grad, y) - exact).max() < 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_softmax_along_any_axis(axis, dtype):
    x, grad = normals(3, 4, 5, dtype=dtype), normals(3, 4, 5, dtype=dtype, seed=1)
    for op, op_backward, name in [
        (nn.softmax, nn.softmax_backward, "softmax"),
        (nn.log_softmax, nn.log_softmax_backward, "log_softmax"),
    ]:
        y = op(x, axis)
        assert_close(y, reference.ACTIVATIONS[name](x, axis), dtype, scale=8)
        dx = np.moveaxis(backward(name, np.moveaxis(grad, axis, -1), np.moveaxis(y, axis, -1)), -1, axis)
        assert_close(op_backward(grad, y, axis), dx, dtype, scale=8)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_empty_arrays(shape, dtype):
    x = np.zeros(shape, dtype)
    for name in nn.ACTIVATIONS:
        assert_equal(nn.activate(x, name), x, dtype)
        assert_equal(nn.activate_backward(x, x, name), x, dtype)


def test_a_single_number(dtype):
    x = np.array(-2, dtype)
    for name in ["linear", *ELEMENTWISE]:
        assert nn.activate(x, name).shape == ()
    assert_equal(nn.leaky_relu(x, 0.5), -1, dtype)


@pytest.mark.parametrize("name", nn.ACTIVATIONS)
def test_gradients_agree_with_differences(name):
    x, grad = normals(3, 5), normals(3, 5, seed=1)
    gradient = nn.activate_backward(grad, kept_of(name, x, nn.activate(x, name)), name)
    numerical = reference.numerical_gradient(lambda v: (nn.activate(v, name) * grad).sum(), x)
    np.testing.assert_allclose(gradient, numerical, rtol=1e-8, atol=1e-8)


def test_the_gradient_of_gelu_by_tanh_agrees_with_differences():
    x, grad = normals(7, 30) * 2, normals(7, 30, seed=1)
    numerical = reference.numerical_gradient(lambda v: (nn.gelu(v, True) * grad).sum(), x)
    np.testing.assert_allclose(nn.gelu_backward(grad, x, True), numerical, rtol=1e-8, atol=1e-8)


def test_functions_are_those_that_activate_knows_by_name(dtype):
    x, grad = normals(3, 50, dtype=dtype), normals(3, 50, dtype=dtype, seed=1)
    for name in {*ELEMENTWISE, *ROWWISE} - {"relu6"}:
        y = getattr(nn, name)(x)
        assert_equal(nn.activate(x, name), y, dtype)
        kept = kept_of(name, x, y)
        assert_equal(getattr(nn, f"{name}_backward")(grad, kept), nn.activate_backward(grad, kept, name), dtype)
    for name in (None, "linear"):
        assert_equal(nn.activate(x, name), x, dtype)
        assert_equal(nn.activate_backward(grad, x, name), grad, dtype)
    y = nn.relu(10 * x, max_value=6)
    assert_equal(nn.activate(10 * x, "relu6"), y, dtype)
    assert_equal(nn.relu_backward(grad, y, 6), nn.activate_backward(grad, y, "relu6"), dtype)


def test_leaky_relu_backward_has_the_slope_it_is_given(dtype):
    x, grad = np.array([-2, -0.0, 0, 3], dtype), np.array([1, 2, 3, 4], dtype)
    assert_equal(nn.leaky_relu_backward(grad, x, 0.5), [0.5, 2, 3, 4], dtype)


def test_relu_backward_is_zero_at_zero_and_drops_infinite_gradients(dtype):
    y, grad = np.array([0, -0.0, 0, 2], dtype), np.array([1, 1, np.inf, np.inf], dtype)
    assert_equal(nn.relu_backward(grad, y), [0, 0, 0, np.inf], dtype)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8, 15, 16, 17, 31, 33, 8191, 8192, 8193, 100_003])
def test_sums_and_gradients_of_a_result_that_is_taken_twice(size, dtype):
    g, h, y = integers(size).astype(dtype), integers(size, seed=1).astype(dtype), 4 * normals(size, dtype=dtype, seed=2)
    y[:3] = (np.nan, np.inf, 6)[:size]
    assert_equal(nn.add(g, h), g.astype(np.float64) + h, dtype)
    for name in (None, "relu", "relu6", "tanh", "silu"):
        assert_equal(nn.activate_backward(g, y, name, h), nn.activate_backward(g + h, y, name), dtype)


@pytest.mark.parametrize(
    "op",
    [lambda x, y, z: nn.activate_backward(x, y, "relu"), lambda x, y, z: nn.activate_backward(x, y, "relu6", z)],
)
def test_gradients_larger_than_the_caches_are_those_of_their_parts(op, dtype):
    size = bytes_past_the_caches() // np.dtype(dtype).itemsize + 5
    arrays = [np.resize(4 * normals(100_003, dtype=dtype, seed=seed), size) for seed in range(3)]
    with runtime.ReusingMemory():
        whole = op(*arrays)
    assert whole.ctypes.data % 64 == 0 and whole.any()
    edges = np.linspace(0, size, 4).astype(int)
    parts = [op(*(x[start:end] for x in arrays)) for start, end in itertools.pairwise(edges)]
    assert_equal(whole, np.concatenate(parts), dtype)


@pytest.mark.parametrize("name", [None, "linear"])
def test_the_identity_returns_a_copy(name, dtype):
    x = normals(4, dtype=dtype)
    assert not np.shares_memory(nn.activate(x, name), x)
    assert not np.shares_memory(nn.activate_backward(x, x, name), x)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.activate([1.0], "step"), ValueError, "^activation .*'step'"),
        (lambda: nn.activate([1.0], 3), ValueError, "^activation .*3"),
        (lambda: nn.activate(1.0, "softmax"), ValueError, "^x must have at least one axis"),
        (lambda: nn.activate_backward(1.0, 1.0, "softmax"), ValueError, "^y must have at least one axis"),
        (lambda: nn.activate(["a"], "relu"), TypeError, "^x "),
        (lambda: nn.sigmoid([1j]), TypeError, "^x .*complex"),
        (lambda: nn.relu([[1.0], [1.0, 2.0]]), ValueError, "^x "),
        (lambda: nn.tanh_backward([1.0], [1.0, 2.0]), ValueError, r"^grad .*\(1,\)"),
        (lambda: nn.relu([1.0], 0), ValueError, "^max_value .*0"),
        (lambda: nn.relu([1.0], np.nan), ValueError, "^max_value .*nan"),
        (lambda: nn.relu_backward([1.0], [1.0], "a"), TypeError, "^max_value .*'a'"),
        (lambda: nn.relu_backward([1.0], [[1.0]], 6.0), ValueError, r"^grad .*\(1,\)"),
        (lambda: nn.leaky_relu([1.0], np.nan), ValueError, "^alpha .*nan"),
        (lambda: nn.leaky_relu([1.0], "a"), TypeError, "^alpha .*'a'"),
        (lambda: nn.leaky_relu_backward([1.0], [1.0], np.inf), ValueError, "^alpha .*inf"),
        (lambda: nn.leaky_relu_backward([1.0], [[1.0]]), ValueError, r"^grad .*\(1,\)"),
        (lambda: nn.gelu([1.0], "tanh"), TypeError, "^approximate .*'tanh'"),
        (lambda: nn.gelu_backward([1.0], [1.0], 1), TypeError, "^approximate .*1"),
        (lambda: nn.gelu_backward([1.0], [[1.0]]), ValueError, r"^grad .*\(1,\)"),
        (lambda: nn.softmax(1.0), ValueError, "^axis .*-1"),
        (lambda: nn.softmax([1.0], 1), ValueError, "^axis .*1"),
        (lambda: nn.log_softmax([1.0], 0.0), TypeError, "^axis .*0.0"),
        (lambda: nn.softmax_backward([[1.0]], [[1.0]], axis=2), ValueError, "^axis .*2"),
        (lambda: nn.softmax_backward([1.0], [[1.0]]), ValueError, r"^grad .*\(1,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
