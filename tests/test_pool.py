"""Max and average pooling and their gradients, against a stack of everything that each window sees."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import reference
from checks import assert_close, assert_equal, integers, normals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcnn import nn

pytestmark = pytest.mark.usefixtures("isa", "threads")


@cache
def expected(shape, ksize, strides, padding):
    """Operands made of integers, many of them equal, and what both poolings make of them."""
    x = integers(*shape)
    y = reference.max_pool(x, ksize, strides, padding)
    grad = integers(*y.shape, seed=1)
    return (
        x,
        grad,
        y,
        reference.max_pool_backward(grad, x, ksize, strides, padding),
        reference.avg_pool(x, ksize, strides, padding),
        reference.avg_pool_backward(grad, shape, ksize, strides, padding),
    )


def check(shape, ksize, strides, padding, dtype):
    x, grad, y, dx, average, average_dx = expected(shape, ksize, strides, padding)
    x, grad, options = x.astype(dtype), grad.astype(dtype), (ksize, strides, padding)
    assert_equal(nn.max_pool(x, *options), y, dtype)
    assert_equal(nn.max_pool_backward(grad, x, *options), dx, dtype)
    if ksize[0] * ksize[1] <= 256:
        output, argmax = nn.max_pool_with_argmax(x, *options)
        assert_equal(output, y, dtype)
        assert_equal(nn.max_pool_with_argmax_backward(grad, argmax, shape, *options), dx, dtype)
    # Integers are added without error; what is left is the division.
    assert_close(nn.avg_pool(x, *options), average, dtype, scale=3)
    assert_close(nn.avg_pool_backward(grad, shape, *options), average_dx, dtype, depth=ksize[0] * ksize[1], scale=3)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 3), (1, 2), (3, 1), (4, 5)])
@pytest.mark.parametrize("ksize", [(1, 1), (2, 2), (3, 3), (2, 3), (5, 1), (4, 4)])
def test_windows_and_strides(ksize, strides, padding, dtype):
    check((2, 7, 8, 5), ksize, strides, padding, dtype)


@pytest.mark.parametrize(
    ("ksize", "strides", "padding"),
    [
        ((2, 2), (2, 2), 1),
        ((3, 3), (1, 1), 2),
        ((3, 3), (2, 2), ((1, 0), (0, 1))),
        ((3, 4), (2, 3), ((0, 2), (3, 1))),
        ((7, 8), (1, 1), "valid"),
        ((9, 9), (1, 1), ((8, 8), (8, 8))),
        ((10, 12), (3, 3), ((5, 4), (6, 5))),
    ],
)
def test_padding(ksize, strides, padding, dtype):
    check((2, 7, 8, 5), ksize, strides, padding, dtype)


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (1, 2, 9, 3), (3, 9, 2, 3)])
@pytest.mark.parametrize("ksize", [(2, 2), (3, 3), (5, 6)])
def test_images_smaller_than_the_window(shape, ksize, dtype):
    check(shape, ksize, (1, 1), "same", dtype)
    check(shape, ksize, (2, 3), "same", dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 67])
def test_channels_around_vector_lengths(channels, dtype):
    check((2, 5, 6, channels), (2, 2), (2, 2), "valid", dtype)
    check((2, 5, 6, channels), (3, 3), (2, 2), "same", dtype)


@pytest.mark.parametrize(
    ("shape", "ksize", "strides", "padding"),
    [
        ((40, 24, 24, 6), (2, 2), (2, 2), "valid"),
        ((3, 41, 40, 16), (3, 3), (2, 2), "same"),
        ((1, 97, 50, 17), (3, 3), (1, 1), "same"),  # bands of one image, all windows straddle
        ((1, 100, 60, 16), (2, 2), (3, 3), "valid"),
        ((1, 50, 60, 16), (9, 5), (2, 1), ((8, 3), (4, 0))),
        ((1, 10, 300, 16), (4, 4), (9, 2), "same"),  # strides about as long as a band
        ((2, 8, 8, 512), (8, 8), (8, 8), "valid"),  # global
    ],
)
def test_poolings_that_threads_share(shape, ksize, strides, padding, dtype):
    check(shape, ksize, strides, padding, dtype)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_pooling(dtype, data):
    small = st.integers(1, 5)
    ksize, strides, image = (data.draw(st.tuples(small, small)) for _ in range(3))
    explicit = st.tuples(*[st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)) for k in ksize])
    padding = data.draw(st.one_of(st.just("same"), explicit))
    image = tuple(max(n, k) for n, k in zip(image, ksize, strict=True)) if padding != "same" else image
    check((data.draw(small), *image, data.draw(st.integers(1, 20))), ksize, strides, padding, dtype)


def test_rounding_of_an_average_stays_within_what_the_window_allows(dtype):
    x, grad = normals(3, 9, 9, 20, dtype=dtype), normals(3, 9, 9, 20, dtype=dtype, seed=1)
    options = (5, 7), (1, 1), "same"
    average, dx = reference.avg_pool(x, *options), reference.avg_pool_backward(grad, x.shape, *options)
    assert_close(nn.avg_pool(x, *options), average, dtype, depth=2 * 35)
    assert_close(nn.avg_pool_backward(grad, x.shape, *options), dx, dtype, depth=2 * 35)


@pytest.mark.parametrize("channels", [1, 3, 16, 80])
def test_an_average_of_many_pixels_loses_nothing(channels, dtype):
    x = np.full((1, 700, 701, channels), 0.1, dtype)
    np.testing.assert_allclose(nn.avg_pool(x, (700, 701)), x[:, :1, :1], rtol=3e-5 if dtype == np.float32 else 1e-12)


def test_the_first_of_equal_maxima_gets_the_gradient(dtype):
    dx = nn.max_pool_backward(np.ones((1, 1, 1, 20), dtype), np.zeros((1, 3, 3, 20), dtype), 3)
    assert (dx[0, 0, 0] == 1).all()
    assert dx.sum() == 20


def test_padded_pixels_never_win(dtype):
    for value in (-1e30, -np.inf):
        x = np.full((1, 4, 4, 5), value, dtype)
        assert_equal(nn.max_pool(x, 3, 1, "same"), x, dtype)
        assert_equal(nn.max_pool_backward(np.ones_like(x), x, 3, 1, "same").sum((1, 2)), np.full((1, 5), 16), dtype)


@pytest.mark.parametrize("at", [(0, 0), (1, 2), (2, 2)])
def test_a_window_with_a_nan_gives_nan_and_its_gradient_to_the_first(at, dtype):
    x = normals(1, 3, 3, 21, dtype=dtype)
    x[0, 1, 1] = np.inf
    x[0, 2, 2] = np.nan
    x[(0, *at)] = np.nan
    assert np.isnan(nn.max_pool(x, 3)).all()
    assert np.isnan(nn.max_pool_with_argmax(x, 3)[0]).all()
    dx = nn.max_pool_backward(np.ones((1, 1, 1, 21), dtype), x, 3)
    assert (dx[(0, *at)] == 1).all()
    assert dx.sum() == 21


@pytest.mark.parametrize("channels", [1, 6, 16, 19, 70])
@pytest.mark.parametrize(("ksize", "strides"), [(2, 2), (3, 2), (3, 1), (4, 3), (16, 16)])
def test_argmax_is_the_first_maximum_or_nan(ksize, strides, channels, dtype):
    x = integers(2, 17, 18, channels, seed=5).astype(dtype) // 4  # many equal ones
    x[x == 1] = np.nan
    x[x == 2] = np.inf
    y, argmax = nn.max_pool_with_argmax(x, ksize, strides)
    assert argmax.dtype == np.uint8 and argmax.shape == y.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (ksize, ksize), (1, 2))[:, ::strides, ::strides]
    windows = windows.reshape(*y.shape, -1)
    np.testing.assert_array_equal(argmax, np.argmax(windows, -1))  # NumPy's too is the first NaN or maximum
    grad = normals(*y.shape, dtype=dtype)
    dx = nn.max_pool_with_argmax_backward(grad, argmax, x.shape, ksize, strides)
    assert_equal(dx, nn.max_pool_backward(grad, x, ksize, strides), dtype)
    strided = np.repeat(argmax, 2, -1)[..., ::2]
    assert_equal(nn.max_pool_with_argmax_backward(grad, strided, x.shape, ksize, strides), dx, dtype)


def test_numbers_of_no_pixel_get_no_gradient(dtype):
    argmax = np.array([255, 0, 9, 4, 8], np.uint8).reshape(1, 1, 1, 5)
    dx = nn.max_pool_with_argmax_backward(np.ones((1, 1, 1, 5), dtype), argmax, (1, 3, 3, 5), 3)
    assert_equal(dx.reshape(9, 5).sum(0), np.array([0, 1, 0, 1, 1]), dtype)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.max_pool_with_argmax(np.ones((1, 17, 17, 1)), 17), ValueError, "^ksize .* 256 pixels .* got 17"),
        (
            lambda: nn.max_pool_with_argmax_backward(G, A.astype(int), X.shape, 2),
            TypeError,
            "^argmax .*uint8, got int64",
        ),
        (lambda: nn.max_pool_with_argmax_backward(G, A[:1, :1], X.shape, 2), ValueError, r"^argmax .*\(1, 1, 2, 4\)"),
        (lambda: nn.max_pool_with_argmax_backward(G[:1], A, X.shape, 2), ValueError, r"^grad .*\(1, 2, 2, 4\)"),
        (lambda: nn.max_pool_with_argmax_backward(G, A, (2, 5, 5), 2), ValueError, r"^input_shape .*\(2, 5, 5\)"),
    ],
)
def test_what_does_not_fit_argmax_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(("ksize", "strides"), [((3, 3), 2), ((2, 2), 2), ((1, 3), 2), ((4, 3), (1, 2)), ((3, 2), 1)])
@pytest.mark.parametrize("channels", [3, 16, 37])
def test_gradients_of_windows_with_nans_and_infinities(ksize, strides, channels, dtype):
    x = integers(2, 9, 12, channels).astype(dtype)
    dice = np.random.default_rng(0).random(x.shape)
    x[dice < 0.1], x[(dice > 0.1) & (dice < 0.2)], x[dice > 0.9] = np.nan, np.inf, -np.inf
    y = nn.max_pool(x, ksize, strides, "same")
    grad = integers(*y.shape, seed=1)
    exact = reference.max_pool_backward(
        grad, x, ksize, strides if isinstance(strides, tuple) else (strides,) * 2, "same"
    )
    assert_equal(nn.max_pool_backward(grad.astype(dtype), x, ksize, strides, "same"), exact, dtype)


def test_nan_and_infinity_stay_in_their_windows(dtype):
    x = integers(1, 6, 6, 19).astype(dtype)
    x[0, 0, 0, 3], x[0, 5, 5, 18] = np.nan, np.inf
    for op in (nn.max_pool, nn.avg_pool):
        y = op(x, 2)
        assert np.isnan(y[0, 0, 0, 3])
        assert y[0, 2, 2, 18] == np.inf
        assert np.isfinite(y).sum() == y.size - 2


def test_an_infinite_gradient_goes_to_its_maximum_alone(dtype):
    x = np.arange(9, dtype=dtype).reshape(1, 3, 3, 1)
    dx = nn.max_pool_backward(np.full((1, 1, 1, 1), np.inf, dtype), x, 3)
    assert_equal(dx, np.where(x == 8, np.inf, 0), dtype)


def test_no_images(dtype):
    x, y = np.zeros((0, 4, 4, 3), dtype), np.zeros((0, 2, 2, 3), dtype)
    for result in (nn.max_pool(x, 2), nn.avg_pool(x, 2)):
        assert_equal(result, y, dtype)
    for result in (nn.max_pool_backward(y, x, 2), nn.avg_pool_backward(y, x.shape, 2)):
        assert_equal(result, x, dtype)


@pytest.mark.parametrize("options", [(2, None, "VALID"), (3, 2, "SAME"), ((2, 3), (1, 2), ((1, 0), (0, 2)))])
def test_gradients_agree_with_differences(options):
    x = np.random.default_rng(0).permutation(2 * 6 * 5 * 3).reshape(2, 6, 5, 3).astype(float)
    grad = normals(*nn.max_pool(x, *options).shape)
    pairs = [
        (nn.max_pool, nn.max_pool_backward(grad, x, *options)),
        (nn.avg_pool, nn.avg_pool_backward(grad, x.shape, *options)),
    ]
    for op, gradient in pairs:
        numerical = reference.numerical_gradient(lambda v, op=op: (op(v, *options) * grad).sum(), x, eps=0.01)
        np.testing.assert_allclose(gradient, numerical, rtol=1e-8, atol=1e-8)


def test_strides_are_ksize_where_not_given():
    x = integers(2, 9, 9, 3)
    for op in (nn.max_pool, nn.avg_pool):
        assert_equal(op(x, (2, 3)), op(x, [1, 2, 3, 1], [1, 2, 3, 1], "valid"), np.float64)


X, G, A = np.ones((2, 5, 5, 4)), np.ones((2, 2, 2, 4)), np.zeros((2, 2, 2, 4), np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.max_pool(X[0], 2), r"^input .*\(5, 5, 4\)"),
        (lambda: nn.avg_pool(X[:, :, :0], 2), r"^input .*\(2, 5, 0, 4\)"),
        (lambda: nn.max_pool(X, 6), "^ksize=6"),
        (lambda: nn.max_pool(X, 0), "^ksize .*0"),
        (lambda: nn.avg_pool(X, (1, 2, 3)), r"^ksize .*\(1, 2, 3\)"),
        (lambda: nn.max_pool(X, 2, -1), "^strides .*-1"),
        (lambda: nn.avg_pool(X, 2, 2, 2), "^padding .*2"),
        (lambda: nn.avg_pool(X, 2, 2, "full"), "^padding .*'full'"),
        (lambda: nn.max_pool_backward(G[:1], X, 2), r"^grad .*\(1, 2, 2, 4\)"),
        (lambda: nn.avg_pool_backward(G, (2, 6, 6, 4), 2), r"^grad .*\(2, 2, 2, 4\)"),
        (lambda: nn.avg_pool_backward(G, (5, 5, 4), 2), r"^input_shape .*\(5, 5, 4\)"),
    ],
)
def test_values_that_do_not_fit_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", ["ksize", "strides", "padding"])
@pytest.mark.parametrize("value", [1.0, True, {"a": 1}])
def test_types_that_do_not_fit_are_named(name, value):
    with pytest.raises(TypeError, match=f"^{name} "):
        nn.max_pool(X, **{"ksize": 2, name: value})
