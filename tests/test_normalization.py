"""Bias, moments, batch and layer normalisation, along the last axis of anything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from checks import assert_close, assert_equal, bytes_past_the_caches, integers, normals

from fastcnn import nn
from fastcnn._core import _elementwise
from fastcnn.nn.normalization import bound_batch_normalization

pytestmark = pytest.mark.usefixtures("isa", "threads")

CHANNELS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33]
# Few rows; more than a run of 8192 elements; large enough for two threads.
SHAPES = [(2, 3, 3, 5), (7,), (1, 40), (9000, 1), (40, 30, 31, 3), (17, 20, 20, 33), (9, 10001)]


def batch(shape, dtype):
    """An input, the gradient of a result, and mean, variance, offset and scale per channel."""
    x = normals(*shape, dtype=dtype) * 2 + 1
    per_channel = [normals(shape[-1], dtype=dtype, seed=i) for i in range(1, 5)]
    per_channel[1] = np.abs(per_channel[1])
    return x, normals(*shape, dtype=dtype, seed=5), *per_channel


@pytest.mark.parametrize("shape", [*SHAPES, (0, 3), (3, 0)])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_bias_add_is_exact_on_integers(shape, activation, dtype):
    x, bias = integers(*shape), integers(shape[-1], seed=1)
    y = nn.bias_add(x.astype(dtype), bias.astype(dtype), activation)
    assert_equal(y, reference.ACTIVATIONS[activation](x + bias), dtype)


@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_bias_add_with_every_activation(activation, dtype):
    x, bias = normals(4, 5, 19, dtype=dtype), normals(19, dtype=dtype)
    exact = reference.ACTIVATIONS[activation](x.astype(np.float64) + bias)
    assert_close(nn.bias_add(x, bias, activation), exact, dtype, scale=8)


@pytest.mark.parametrize("channels", CHANNELS)
def test_any_number_of_channels(channels, dtype):
    x, bias = integers(6, channels), integers(channels, seed=1)
    assert_equal(nn.bias_add(x.astype(dtype), bias.astype(dtype)), x + bias, dtype)
    assert_equal(nn.bias_add_backward(x.astype(dtype)), x.sum(0), dtype)
    check_moments(normals(6, channels, dtype=dtype), dtype)
    check_batch_normalization((6, channels), dtype)


def test_nan_survives_relu(dtype):
    x = np.full((2, 21), np.nan, dtype)
    assert np.isnan(nn.bias_add(x, np.zeros(21, dtype), "relu")).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_bias_add_backward_is_exact_on_integers(shape, dtype):
    grad = integers(*shape)
    assert_equal(nn.bias_add_backward(grad.astype(dtype)), grad.reshape(-1, shape[-1]).sum(0), dtype)


def test_the_bias_gradient_of_no_rows_is_zero(dtype):
    assert_equal(nn.bias_add_backward(np.zeros((0, 5), dtype)), np.zeros(5), dtype)


def check_moments(x, dtype):
    mean, variance = nn.moments(x)
    rows = x.reshape(-1, x.shape[-1]).astype(np.longdouble)
    assert_close(mean, rows.mean(0), dtype, depth=len(rows), scale=np.sqrt((rows**2).mean(0)))
    assert_close(variance, rows.var(0), dtype, depth=len(rows), scale=rows.var(0) + np.finfo(dtype).tiny)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments(shape, dtype):
    check_moments(batch(shape, dtype)[0], dtype)


@pytest.mark.parametrize("channels", [1, 20])
def test_a_large_mean_costs_no_digits_of_the_variance(channels, dtype):
    x = (normals(1000, channels) + 10_000).astype(dtype)
    _, variance = nn.moments(x)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(0), rtol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("shape", [(5000, 4), (3000, 40)])
def test_values_that_drift_and_values_far_off_cost_few_digits_of_the_variance(shape, dtype):
    drifting = normals(*shape) + np.linspace(0, 1000, shape[0])[:, None]
    far_off = normals(*shape)
    far_off[0] = 1e5  # is among the rows that the centre is made of
    for x in (drifting.astype(dtype), far_off.astype(dtype)):
        mean, variance = nn.moments(x)
        deviation = x.astype(np.float64).std(0)
        assert (
            np.abs(mean - x.astype(np.float64).mean(0)) < (1e-5 if dtype == np.float32 else 1e-13) * deviation
        ).all()
        np.testing.assert_allclose(variance, deviation**2, rtol=1e-4 if dtype == np.float32 else 1e-12)


def test_moments_of_one_value_and_of_equal_values(dtype):
    for x in (np.full((1, 3), 7, dtype), np.full((50, 3), 7, dtype)):
        mean, variance = nn.moments(x)
        assert_equal(mean, [7, 7, 7], dtype)
        assert_equal(variance, [0, 0, 0], dtype)


def test_moments_of_values_whose_sum_is_too_large(dtype):
    x = np.full((100, 3), 3e37, dtype)
    x[:, 1] = normals(100)
    mean, variance = nn.moments(x)
    np.testing.assert_allclose(mean[::2], dtype(3e37), rtol=1e-6)
    assert_equal(variance[::2], [0, 0], dtype)
    assert 0.5 < variance[1] < 2


def check_relu(x, grad, mean, variance, offset, scale, training, max_value=None):
    """A fused ReLU, whose result is not kept but made again in the backward pass, is one behind the operation."""
    name = "relu6" if max_value else "relu"
    y = nn.relu(nn.batch_normalization(x, mean, variance, offset, scale, 0.01), max_value)
    assert_equal(nn.batch_normalization(x, mean, variance, offset, scale, 0.01, name), y, x.dtype)
    g = nn.relu_backward(grad, y, max_value)
    apart = nn.batch_normalization_backward(g, x, mean, variance, scale, 0.01, training)
    fused = nn.batch_normalization_backward(grad, x, mean, variance, scale, 0.01, training, offset, name)
    for a, b in zip(fused, apart, strict=True):
        # Where compilers fuse other multiplications with additions, all but roundings are equal.
        np.testing.assert_allclose(a, b, rtol=0, atol=16 * np.finfo(x.dtype).eps * np.abs(b).max(initial=0))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("activation", [None, "relu6", "tanh"])
def test_some_channels_of_images_are_normalised_as_they_are(channels, activation, dtype):
    for shape in ((1, 1, 1), (2, 1, 1), (1, 3, 2), (3, 90, 80)):
        room = np.full((*shape, channels + 3), np.nan, dtype)
        x = room[..., 2 : 2 + channels]
        x[...] = normals(*x.shape, dtype=dtype)
        mean, scale, offset = (normals(channels, dtype=dtype, seed=seed) for seed in range(3))
        wanted, out = np.empty(x.shape, dtype), np.empty(x.shape, dtype)
        bound_batch_normalization(x.copy(), mean, scale, offset, activation, wanted)()
        bound_batch_normalization(x, mean, scale, offset, activation, out)()
        assert_equal(out, wanted, dtype)
        assert np.isnan(room[..., :2]).all() and np.isnan(room[..., 2 + channels :]).all()


@pytest.mark.parametrize("shape", [*SHAPES, (0, 3)])
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "tanh"])
def test_a_residual_is_added_before_the_activation(shape, activation, dtype):
    x, residual, *channels = batch(shape, dtype)
    y = nn.batch_normalization(x, *channels, 0.01, activation, residual)
    expected = nn.activate(nn.batch_normalization(x, *channels, 0.01) + residual, activation)
    # Where compilers fuse other multiplications with additions, all but roundings are equal.
    np.testing.assert_allclose(y, expected, rtol=0, atol=4 * np.finfo(dtype).eps * np.abs(expected).max(initial=1))
    assert not y.size or activation == "tanh" or np.abs(y - nn.activate(residual, activation)).max() > 0.1


def test_where_a_relu6_is_cut_off_no_gradient_passes(dtype):
    x = np.array([[-1.0], [1.0], [5.0], [7.0]], dtype)
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)
    assert nn.batch_normalization(x, zero, one, zero, one, 0.0, "relu6").ravel().tolist() == [0, 1, 5, 6]
    grad = np.array([[10.0], [20.0], [30.0], [40.0]], dtype)
    dx, dscale, doffset = nn.batch_normalization_backward(grad, x, zero, one, one, 0.0, False, zero, "relu6")
    assert dx.ravel().tolist() == [0, 20, 30, 0]
    assert (dscale.tolist(), doffset.tolist()) == ([170], [50])


def check_batch_normalization(shape, dtype):
    x, grad, mean, variance, offset, scale = batch(shape, dtype)
    y = nn.batch_normalization(x, mean, variance, offset, scale, 0.01)
    exact = reference.batch_normalization(x, mean, variance, offset, scale, 0.01)
    inverse = np.abs(scale) / np.sqrt(variance.astype(np.float64) + 0.01)
    assert_close(y, exact, dtype, depth=4, scale=(np.abs(x) + np.abs(mean)) * inverse + np.abs(offset))
    for training in (False, True):
        if training:
            mean, variance = nn.moments(x)
        check_relu(x, grad, mean, variance, offset, scale, training)
        check_relu(x, grad, mean, variance, offset, scale * 8, training, max_value=6)
        inverse = 1 / np.sqrt(variance.astype(np.float64) + 0.01)
        operands = grad, x, mean, variance, scale, 0.01, training
        dx, dscale, doffset = nn.batch_normalization_backward(*operands)
        exact_dx, exact_dscale, exact_doffset = reference.batch_normalization_backward(*operands)
        rows = x.size // x.shape[-1]
        centred = np.abs(x - mean).reshape(rows, -1)
        total = np.sqrt((grad.reshape(rows, -1) ** 2).sum(0)) * (1 + centred.max(0))
        assert_close(doffset, exact_doffset, dtype, depth=rows, scale=total)
        assert_close(dscale, exact_dscale, dtype, depth=rows, scale=total * inverse)
        size = (np.abs(grad) + training) * (1 + np.abs(x - mean) * inverse) ** 2
        assert_close(dx, exact_dx, dtype, depth=4, scale=np.abs(scale) * inverse * size)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_normalization_and_its_gradients(shape, dtype):
    check_batch_normalization(shape, dtype)


def aligned_like(x):
    """An array that begins at a multiple of every vector's size."""
    memory = np.empty(x.nbytes + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + x.nbytes].view(x.dtype).reshape(x.shape)


def test_results_larger_than_the_caches_are_those_of_their_parts(dtype):
    channels = 24  # narrower than some vectors
    rows = bytes_past_the_caches() // (channels * np.dtype(dtype).itemsize) + 3
    x, grad, mean, slope, offset, scale = batch((rows, channels), dtype)

    def operations(x, grad):
        y, dx = aligned_like(x), aligned_like(x)
        _elementwise.normalize(x, mean, scale, offset, None, 2, y)
        _elementwise.normalize_backward(grad, x, mean, scale, offset, 2, mean, slope, dx)
        return y, dx

    edges = np.linspace(0, rows, 4).astype(int)
    parts = [operations(x[a:b], grad[a:b]) for a, b in itertools.pairwise(edges)]
    for whole, pieces in zip(operations(x, grad), zip(*parts, strict=True), strict=True):
        assert whole.any()
        assert_equal(whole, np.concatenate(pieces), dtype)


def test_batch_normalization_of_a_batch_by_its_moments_has_mean_0_and_variance_1(dtype):
    x, _, _, _, _, _ = batch((50, 6, 20), dtype)
    y = nn.batch_normalization(x, *nn.moments(x), np.zeros(20, dtype), np.ones(20, dtype), 0.0)
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1)), 1, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_agree_with_differences(training):
    x, grad, mean, variance, offset, scale = batch((3, 2, 4), np.float64)

    def loss(x, scale, offset):
        m, v = nn.moments(x) if training else (mean, variance)
        return (nn.batch_normalization(x, m, v, offset, scale, 0.1) * grad).sum()

    if training:
        mean, variance = nn.moments(x)
    dx, dscale, doffset = nn.batch_normalization_backward(grad, x, mean, variance, scale, 0.1, training)
    tolerance = {"rtol": 1e-7, "atol": 1e-8}
    numerical = reference.numerical_gradient
    np.testing.assert_allclose(dx, numerical(lambda v: loss(v, scale, offset), x), **tolerance)
    np.testing.assert_allclose(dscale, numerical(lambda v: loss(x, v, offset), scale), **tolerance)
    np.testing.assert_allclose(doffset, numerical(lambda v: loss(x, scale, v), offset), **tolerance)


@pytest.mark.parametrize("shape", [*SHAPES, *((6, c) for c in CHANNELS), (2, 1000)])
def test_layer_normalization_and_its_gradients(shape, dtype):
    x, grad, _, _, offset, scale = batch(shape, dtype)
    y = nn.layer_normalization(x, offset, scale, 0.01)
    z = reference.layer_normalization(x, 0, 1, 0.01)
    size = (1 + np.abs(x).max(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01)
    exact = reference.layer_normalization(x, offset, scale, 0.01)
    assert_close(y, exact, dtype, depth=shape[-1], scale=np.abs(scale) * (size + np.abs(z)) + np.abs(offset))
    dx, dscale, doffset = nn.layer_normalization_backward(grad, x, scale, 0.01)
    exact_dx, exact_dscale, exact_doffset = reference.layer_normalization_backward(grad, x, scale, 0.01)
    inverse = 1 / np.sqrt(x.var(-1, keepdims=True) + 0.01)
    largest = np.abs(grad * scale).max(-1, keepdims=True)
    assert_close(dx, exact_dx, dtype, depth=shape[-1], scale=inverse * largest * (1 + size) * (1 + np.abs(z)))
    rows = x.size // x.shape[-1]
    total = np.sqrt((grad.reshape(rows, -1) ** 2).sum(0))
    assert_close(dscale, exact_dscale, dtype, depth=rows, scale=total * (size + np.abs(z)).max())
    assert_close(doffset, exact_doffset, dtype, depth=rows, scale=total)


@pytest.mark.parametrize("channels", [5, 37, 1000])
def test_a_large_mean_costs_layer_normalization_no_digits(channels, dtype):
    x, one = integers(7, channels), np.ones(channels, dtype)
    far = x.astype(dtype) + dtype(2.0 ** (np.finfo(dtype).nmant - 2))
    exact = reference.layer_normalization(x, 0, 1, 0.01)
    assert_close(nn.layer_normalization(far, 0 * one, one, 0.01), exact, dtype, depth=channels)
    grad = integers(7, channels, seed=1)
    gradients = nn.layer_normalization_backward(grad.astype(dtype), far, one, 0.01)
    for gradient, wanted in zip(gradients, reference.layer_normalization_backward(grad, x, one, 0.01), strict=True):
        assert_close(gradient, wanted, dtype, depth=channels)


def test_rows_that_are_normalised_have_mean_0_and_variance_1(dtype):
    x = batch((30, 50), dtype)[0] * 30
    y = nn.layer_normalization(x, np.zeros(50, dtype), np.ones(50, dtype), 1e-6)
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(1), 1, atol=1e-5)


def test_gradients_of_layer_normalization_agree_with_differences():
    x, grad, _, _, offset, scale = batch((3, 2, 5), np.float64)

    def loss(x, scale, offset):
        return (nn.layer_normalization(x, offset, scale, 0.1) * grad).sum()

    dx, dscale, doffset = nn.layer_normalization_backward(grad, x, scale, 0.1)
    tolerance = {"rtol": 1e-7, "atol": 1e-8}
    numerical = reference.numerical_gradient
    np.testing.assert_allclose(dx, numerical(lambda v: loss(v, scale, offset), x), **tolerance)
    np.testing.assert_allclose(dscale, numerical(lambda v: loss(x, v, offset), scale), **tolerance)
    np.testing.assert_allclose(doffset, numerical(lambda v: loss(x, scale, v), offset), **tolerance)


def test_no_rows(dtype):
    x, c = np.zeros((0, 3), dtype), np.ones(3, dtype)
    assert_equal(nn.batch_normalization(x, c, c, c, c, 0.1), x, dtype)
    dx, dscale, doffset = nn.batch_normalization_backward(x, x, c, c, c, 0.1)
    assert_equal(dx, x, dtype)
    assert_equal(dscale, np.zeros(3), dtype)
    assert_equal(doffset, np.zeros(3), dtype)
    assert_equal(nn.layer_normalization(x, c, c, 0.1), x, dtype)
    for gradient, exact in zip(nn.layer_normalization_backward(x, x, c, 0.1), (x, c * 0, c * 0), strict=True):
        assert_equal(gradient, exact, dtype)


X, C, WRONG = np.ones((2, 3)), np.ones(3), np.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.bias_add(X, WRONG), ValueError, r"^bias .*\(2,\)"),
        (lambda: nn.bias_add(1.0, C), ValueError, r"^x .*\(\)"),
        (lambda: nn.bias_add(X, C, "step"), ValueError, "^activation .*'step'"),
        (lambda: nn.bias_add_backward(1.0), ValueError, r"^grad .*\(\)"),
        (lambda: nn.moments(1.0), ValueError, r"^x .*\(\)"),
        (lambda: nn.moments(X[:0]), ValueError, r"^x .*\(0, 3\)"),
        (lambda: nn.batch_normalization(X, WRONG, C, C, C, 0.1), ValueError, r"^mean .*\(2,\)"),
        (lambda: nn.batch_normalization(X, C, WRONG, C, C, 0.1), ValueError, r"^variance .*\(2,\)"),
        (lambda: nn.batch_normalization(X, C, C, WRONG, C, 0.1), ValueError, r"^offset .*\(2,\)"),
        (lambda: nn.batch_normalization(X, C, C, C, WRONG, 0.1), ValueError, r"^scale .*\(2,\)"),
        (lambda: nn.batch_normalization(X, C, -C, C, C, 0.1), ValueError, "^variance .*-1"),
        (lambda: nn.batch_normalization(X, C, C * 0, C, C, 0), ValueError, "^variance .*0"),
        (lambda: nn.batch_normalization(X, C, C, C, C, -0.1), ValueError, "^variance_epsilon .*-0.1"),
        (lambda: nn.batch_normalization(X, C, C, C, C, "a"), TypeError, "^variance_epsilon .*'a'"),
        (lambda: nn.batch_normalization(X, C, C, C, C, 0.1, "step"), ValueError, "^activation .*'step'"),
        (lambda: nn.batch_normalization_backward(X, X, C, C, C, 0.1, activation="relu"), ValueError, "^offset .*None"),
        (
            lambda: nn.batch_normalization_backward(X, X, C, C, C, 0.1, True, C, "tanh"),
            ValueError,
            "^activation .*tanh",
        ),
        (lambda: nn.batch_normalization_backward(X, X, C, C, C, 0.1, True, WRONG), ValueError, r"^offset .*\(2,\)"),
        (lambda: nn.layer_normalization(1.0, C, C, 0.1), ValueError, r"^x .*\(\)"),
        (lambda: nn.layer_normalization(X, WRONG, C, 0.1), ValueError, r"^offset .*\(2,\)"),
        (lambda: nn.layer_normalization(X, C, WRONG, 0.1), ValueError, r"^scale .*\(2,\)"),
        (lambda: nn.layer_normalization(X, C, C, 0), ValueError, "^variance_epsilon .*0"),
        (lambda: nn.layer_normalization_backward(X[:1], X, C, 0.1), ValueError, r"^grad .*\(1, 3\)"),
        (lambda: nn.layer_normalization_backward(X, X, WRONG, 0.1), ValueError, r"^scale .*\(2,\)"),
        (lambda: nn.layer_normalization_backward(X, X, C, "a"), TypeError, "^variance_epsilon .*'a'"),
        (lambda: nn.batch_normalization_backward(X[:1], X, C, C, C, 0.1), ValueError, r"^grad .*\(1, 3\)"),
        (lambda: nn.batch_normalization_backward(X, X, WRONG, C, C, 0.1), ValueError, r"^mean .*\(2,\)"),
        (lambda: nn.batch_normalization_backward(X, X, C, WRONG, C, 0.1), ValueError, r"^variance .*\(2,\)"),
        (lambda: nn.batch_normalization_backward(X, X, C, C, WRONG, 0.1), ValueError, r"^scale .*\(2,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
