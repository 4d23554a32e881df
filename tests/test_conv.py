"""Convolution and its three gradients, against loops over filter taps, over every kind of geometry."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import reference
from checks import assert_close, assert_equal, bytes_past_the_caches, integers, normals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcnn import nn, runtime, shapes
from fastcnn._core import _narrow, _runtime
from fastcnn.nn.conv import algorithm_for, geometry_of

pytestmark = pytest.mark.usefixtures("isa", "threads")


@dataclass(frozen=True)
class Case:
    """One convolution: input (N, H, W, C), filters (R, S, C / groups, K)."""

    input: tuple[int, int, int, int]
    filters: tuple[int, int, int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Any = "valid"
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def options(self):
        return {n: getattr(self, n) for n in ("strides", "padding", "dilations", "groups")}

    def __str__(self):
        text = f"{'x'.join(map(str, self.input))} * {'x'.join(map(str, self.filters))}"
        for name, value in self.options.items():
            if value not in ((1, 1), "valid", 1):
                text += f" {name}={str(value).replace(' ', '')}"
        return text


def cases(*rows):
    return pytest.mark.parametrize("case", [Case(*row) for row in rows], ids=str)


@cache
def expected(case):
    """Operands made of integers, the exact result, and the exact gradients of input, filters and bias."""
    x, w = integers(*case.input), integers(*case.filters, seed=1)
    y = reference.conv2d(x, w, **case.options)
    grad = integers(*y.shape, seed=2)
    return x, w, grad, y, reference.conv2d_backward(grad, x, w, **case.options)


def check(case, dtype):
    x, w, grad, y, gradients = expected(case)
    x, w, grad = x.astype(dtype), w.astype(dtype), grad.astype(dtype)
    # Exact for integers, as all are but Winograd's.
    is_exact = not any(name.startswith("winograd") for name in algorithms(case, dtype))
    for algorithm in ("direct", "auto") if is_exact else ("direct",):
        options = {**case.options, "algorithm": algorithm}
        assert_equal(nn.conv2d(x, w, **options), y, dtype)
        assert_equal(nn.conv2d(x, w, **options, residual=grad, activation="relu"), np.maximum(y + grad, 0), dtype)
        for actual, exact in zip(nn.conv2d_backward(grad, x, w, **options), gradients, strict=True):
            assert_equal(actual, exact, dtype)


def algorithms(case, dtype):
    """Return what "auto" computes the result and the gradients of input and filters with."""
    geometry, _ = geometry_of(case.input, case.filters, **case.options)
    passes = ("forward", "input", "filters")
    return [algorithm_for(geometry, "auto", result, np.empty(0, dtype)) for result in passes]


def assert_shared(case, dtype):
    """Assert that groups share a vector where enough of them fit into it: two, or, with a far L3, for the filters'
    gradient four."""
    lanes = _runtime.lanes(np.dtype(dtype))
    channels, filters = case.filters[2], case.filters[3] // case.groups
    fits = min(case.input[3], case.filters[3]) >= lanes
    needed = 2, 2, 4 if _runtime.has_far_l3() else 2
    wanted = ["grouped" if fits and lanes >= n * max(channels, filters) else "direct" for n in needed]
    assert algorithms(case, dtype) == (["depthwise"] * 3 if channels == filters == 1 else wanted)


@cases(
    ((2, 6, 7, 3), (1, 1, 3, 5)),
    ((2, 6, 7, 3), (1, 3, 3, 5)),
    ((2, 6, 7, 3), (3, 1, 3, 5)),
    ((2, 6, 7, 3), (2, 3, 3, 5)),
    ((2, 6, 7, 3), (3, 3, 3, 5)),
    ((2, 6, 7, 3), (5, 5, 3, 5)),
    ((2, 9, 8, 3), (7, 7, 3, 5)),
    ((2, 6, 7, 3), (6, 7, 3, 5)),
    ((1, 1, 1, 1), (1, 1, 1, 1)),
)
def test_filters_of_any_size(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("window", [(1, 1), (2, 3), (3, 3), (5, 4)])
@pytest.mark.parametrize("strides", [(2, 2), (3, 3), (1, 2), (3, 1), (2, 3), (4, 5)])
def test_strides(strides, window, padding, dtype):
    check(Case((2, 9, 11, 3), (*window, 3, 4), strides, padding), dtype)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2), (4, 6)])
@pytest.mark.parametrize("dilations", [(2, 2), (1, 3), (3, 1), (2, 4)])
def test_dilations_with_strides(strides, dilations, dtype):
    check(Case((2, 11, 14, 3), (3, 3, 3, 4), strides, "same", dilations), dtype)
    check(Case((2, 11, 14, 3), (4, 2, 3, 4), strides, ((1, 0), (2, 3)), dilations), dtype)


@cases(
    ((2, 6, 7, 3), (3, 3, 3, 4), (1, 1), "same"),
    ((2, 6, 7, 3), (2, 4, 3, 4), (1, 1), "same"),
    ((2, 6, 7, 3), (3, 3, 3, 4), (1, 1), 1),
    ((2, 6, 7, 3), (3, 3, 3, 4), (1, 1), 5),
    ((2, 6, 7, 3), (1, 1, 3, 4), (1, 1), 1),
    ((2, 6, 7, 3), (1, 1, 3, 4), (1, 1), ((0, 1), (0, 0))),
    ((2, 6, 7, 3), (1, 1, 3, 4), (1, 1), ((0, 0), (0, 2))),
    ((2, 6, 7, 3), (3, 3, 3, 4), (1, 1), ((2, 0), (0, 1))),
    ((2, 6, 7, 3), (3, 3, 3, 4), (2, 2), ((0, 3), (4, 0))),
    ((2, 6, 7, 3), (3, 3, 3, 4), (5, 5), ((7, 8), (9, 6))),
    ((2, 6, 7, 3), (3, 3, 3, 4), (1, 2), ((0, 0), (1, 1))),
)
def test_padding(case, dtype):
    check(case, dtype)


@cases(
    ((2, 1, 1, 3), (3, 3, 3, 4), (1, 1), "same"),
    ((2, 2, 3, 3), (5, 7, 3, 4), (1, 1), "same"),
    ((2, 2, 3, 3), (5, 7, 3, 4), (2, 3), 3),
    ((2, 1, 9, 3), (3, 3, 3, 4), (3, 3), "same"),
    ((2, 2, 2, 3), (3, 3, 3, 4), (1, 1), ((3, 0), (0, 3)), (2, 2)),
    ((2, 3, 2, 3), (3, 3, 3, 4), (7, 9), "same"),
)
def test_images_smaller_than_the_filters(case, dtype):
    check(case, dtype)


@cases(
    ((2, 8, 7, 3), (3, 3, 3, 4), (1, 1), "same", (30, 8)),
    ((2, 8, 7, 3), (3, 3, 3, 4), (1, 1), "same", (2, 9)),
    ((2, 8, 7, 3), (3, 5, 3, 4), (1, 2), "same", (1000, 5)),
    ((2, 8, 7, 3), (2, 4, 3, 4), (1, 1), "same", (20, 4)),
    ((2, 8, 7, 3), (4, 3, 3, 4), (1, 1), ((9, 0), (3, 40)), (3, 2)),
    ((2, 8, 7, 3), (4, 3, 3, 4), (1, 1), ((0, 9), (40, 3)), (3, 2)),
    ((2, 8, 7, 3), (3, 3, 3, 4), (3, 2), ((11, 9), (10, 12)), (10, 11)),
    ((2, 8, 7, 6), (3, 3, 3, 4), (1, 1), "same", (9, 9), 2),
    ((2, 1, 1, 3), (1, 3, 3, 4), (1, 1), ((3, 5), (9, 0)), (1, 4)),
    ((2, 2, 2, 40), (3, 3, 40, 40), (1, 1), "same", (2, 2)),
    ((2, 8, 7, 3), (2, 2, 3, 4), (1, 1), "same", (40, 40)),
)
def test_taps_that_see_padding_alone(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
def test_padding_costs_no_memory_where_taps_see_nothing_else(algorithm):
    """With it an image would be of 4e10 pixels."""
    options = {"padding": "same", "dilations": 100_000, "algorithm": algorithm}
    x, w, grad = integers(2, 8, 7, 3), integers(3, 3, 3, 4, seed=1), integers(2, 8, 7, 4, seed=2)
    of_centre = np.zeros_like(w)
    of_centre[1, 1] = np.einsum("nhwc,nhwk->ck", x, grad)
    assert_equal(nn.conv2d(x, w, **options), x @ w[1, 1], x.dtype)
    assert_equal(nn.PreparedConv2D(w, x.shape, **options)(x), x @ w[1, 1], x.dtype)
    dx, dw, _ = nn.conv2d_backward(grad, x, w, **options)
    assert_equal(dx, grad @ w[1, 1].T, x.dtype)
    assert_equal(dw, of_centre, x.dtype)
    transposed = {k: v for k, v in options.items() if k != "padding"}
    assert_equal(nn.conv2d_transpose(grad, w, padding="same", **transposed), grad @ w[1, 1].T, x.dtype)


@pytest.mark.parametrize(("images", "padding", "stride", "pixels"), [(1, 20_000, 20_000, 3), (64, 20_000, 50_000, 1)])
def test_gradients_of_filters_copy_little_where_there_is_more_padding_than_image(images, padding, stride, pixels):
    """A block of all output rows asked for 21.6 GB in the first case."""
    options = {"strides": stride, "padding": padding}
    x, grad = integers(images, 4, 4, 3), integers(images, pixels, pixels, 8, seed=1)
    seen = grad[0, 1, 1] if pixels == 3 else np.zeros(8)  # by the middle one, where there is one
    dw = np.einsum("rsc,k->rsck", x[0, :3, :3], seen)
    assert_equal(nn.conv2d_backward_filters(grad, x, dw.shape, **options), dw, x.dtype)


def test_filters_are_shared_where_the_same_taps_see_pixels():
    w = integers(3, 3, 3, 4)
    w.flags.writeable = False
    sizes = [(1, n, n, 3) for n in (1, 2, 6, 7, 9)]
    made = []
    for size in sizes:
        x = integers(*size, seed=1)
        made.append(nn.PreparedConv2D(w, size, padding="same", dilations=6, algorithm="direct", share_with=made))
        assert_equal(made[-1](x), nn.conv2d(x, w, padding="same", dilations=6, algorithm="direct"), w.dtype)
    assert [m._filters is made[0]._filters for m in made[:3]] == [True] * 3
    assert made[3]._filters is not made[0]._filters and made[4]._filters is made[3]._filters


@cases(
    ((1, 5, 4, 1500), (3, 3, 1500, 18), (1, 1), "same"),
    ((2, 5, 4, 1500), (3, 3, 1500, 18), (1, 1), "same"),
    ((1, 5, 6, 18), (3, 3, 18, 1500), (1, 1), "same"),
    ((1, 5, 4, 2200), (3, 2, 2200, 5), (1, 1), "same", (1, 2)),
    ((1, 9, 8, 5), (3, 3, 5, 2200), (2, 2), "same"),
)
def test_filters_that_are_read_in_slabs(case, dtype):
    check(case, dtype)
    x, w, _, y, _ = expected(case)
    x, w, bias = x.astype(dtype), w.astype(dtype), integers(y.shape[3], seed=3).astype(dtype)
    assert_equal(nn.conv2d(x, w, bias=bias, activation="relu", **case.options), np.maximum(y + bias, 0), dtype)
    assert_equal(nn.conv2d(x, w, bias=bias, activation="relu6", **case.options), np.clip(y + bias, 0, 6), dtype)


@cases(
    ((1, 61, 40, 2), (3, 3, 2, 5), (1, 1), "same"),  # rows of one image
    ((3, 30, 31, 2), (3, 3, 2, 5), (1, 1), "same"),  # rows of three
    ((7, 25, 24, 3), (3, 2, 3, 16), (1, 1), "same"),
    ((40, 12, 12, 1), (5, 5, 1, 6), (1, 1), "valid"),  # whole images
    ((21, 21, 13, 2), (3, 3, 2, 7), (1, 1), "same", (2, 2)),
    ((1, 50, 41, 2), (1, 3, 2, 140), (1, 1), "same"),
    ((5, 41, 21, 3), (3, 3, 3, 18), (2, 1), "same"),
    ((5, 20, 21, 4), (3, 3, 2, 10), (1, 1), "same", (1, 1), 2),
    ((2, 20, 21, 2), (1, 1, 1, 9000), (1, 1), "valid", (1, 1), 2),
)
def test_gradients_of_filters_in_parts(case, dtype):
    check(case, dtype)


@cases(
    ((10, 33, 31, 3), (5, 4, 3, 5), (1, 1), "valid"),
    ((20, 28, 28, 1), (5, 5, 1, 6), (1, 1), "same"),
    ((20, 28, 28, 2), (5, 5, 2, 8), (2, 1), ((1, 0), (3, 1))),
    ((9, 40, 36, 7), (5, 2, 7, 1), (3, 1), "same", (2, 1)),
    ((9, 40, 35, 3), (5, 5, 3, 3), (1, 1), "same"),
)
def test_few_filters_have_pixels_fill_vectors(case, dtype):
    x, w, grad, y, (_, dw, db) = expected(case)
    x, w, grad, bias = x.astype(dtype), w.astype(dtype), grad.astype(dtype), db.astype(dtype)
    lanes = _runtime.lanes(np.dtype(dtype))
    geometry, _ = geometry_of(case.input, case.filters, **case.options)
    pays = _narrow.pays(geometry, lanes)
    assert pays == (algorithm_for(geometry, "auto", "forward", x) == "direct-narrow")
    if lanes == 16:
        assert pays
    assert case.filters[3] < lanes or not pays
    assert_equal(nn.conv2d(x, w, bias=bias, **case.options), y + bias, dtype)
    assert_equal(nn.conv2d(x, w, residual=grad, activation="relu", **case.options), np.maximum(y + grad, 0), dtype)
    assert_equal(nn.conv2d_backward_filters(grad, x, w.shape, **case.options), dw, dtype)
    scale = np.arange(1, 1 + case.filters[3], dtype=dtype)
    prepared = nn.PreparedConv2D(w, x.shape, bias=bias, scale=scale, activation="relu6", **case.options)
    assert (prepared.algorithm == "direct-narrow") == pays
    assert prepared.writes_slices
    wanted, out = np.clip(y * scale + bias + grad, 0, 6), np.empty(y.shape, dtype)
    assert_equal(prepared(x, residual=grad), wanted, dtype)
    prepared.bound(x, out, grad)()
    assert_equal(out, wanted, dtype)
    prepared.bound(x, out)()
    assert_equal(out, np.clip(y * scale + bias, 0, 6), dtype)
    chances = nn.PreparedConv2D(w / dtype(64), x.shape, activation="softmax", **case.options)
    np.testing.assert_array_equal(chances(x), nn.softmax(y.astype(dtype) / dtype(64)))
    chances.bound(x, out)()
    np.testing.assert_array_equal(out, nn.softmax(y.astype(dtype) / dtype(64)))


@pytest.mark.parametrize(
    ("input", "filters", "options"),
    [
        ((3, 40, 29, 1), (5, 5, 1, 6), {"padding": "same"}),
        ((1, 70, 61, 4), (3, 3, 4, 7), {"padding": ((0, 2), (1, 3)), "strides": (3, 1)}),
        ((2, 33, 34, 3), (4, 3, 3, 5), {"padding": "same", "strides": (2, 1), "dilations": (3, 2)}),
        ((2, 19, 64, 2), (7, 1, 2, 3), {"padding": 3, "dilations": (3, 1)}),
    ],
)
def test_results_of_few_filters_have_the_bits_of_direct(input, filters, options, dtype):
    x, w, bias = normals(*input, dtype=dtype), normals(*filters, dtype=dtype, seed=1), normals(filters[3], dtype=dtype)
    if _runtime.lanes(np.dtype(dtype)) == 16:
        assert algorithm_for(geometry_of(x.shape, w.shape, **full(options))[0], "auto", "forward", x) == "direct-narrow"
    added = normals(*nn.conv2d(x, w, **options).shape, dtype=dtype, seed=2)
    for more in ({}, {"bias": bias, "activation": "relu6"}, {"bias": bias, "residual": added, "activation": "relu"}):
        found, wanted = (nn.conv2d(x, w, **options, **more, algorithm=name) for name in ("auto", "direct"))
        np.testing.assert_array_equal(found, wanted)
    x[0, 11, 7, 0] = np.nan
    found, wanted = (nn.conv2d(x, w, **options, algorithm=name) for name in ("auto", "direct"))
    assert 0 < np.isnan(wanted).sum() < wanted.size
    np.testing.assert_array_equal(found, wanted)


def full(options):
    """Return all options of a geometry."""
    return {"strides": 1, "padding": "valid", "dilations": 1, "groups": 1, **options}


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd-2x2", "winograd-4x4", "winograd-6x6"])
@pytest.mark.parametrize(
    ("size", "filters", "options"),
    [
        ((1, 12, 12), 20, {"padding": "same"}),
        ((2, 13, 11), 65, {"padding": "same"}),
        ((3, 17, 18), 130, {"padding": "valid", "activation": "relu"}),
        ((1, 40, 41), 3, {"padding": "same", "activation": "relu6"}),
        ((5, 9, 7), 300, {"padding": 1}),
        ((1, 3, 4), 5, {"padding": "same"}),
        ((1, 14, 14), 700, {"padding": "same"}),
    ],
)
def test_maxima_of_a_result_on_the_way(size, filters, options, algorithm, dtype):
    x, w, b = normals(*size, 7, dtype=dtype), normals(3, 3, 7, filters, dtype=dtype, seed=1), normals(filters, seed=2)
    x[0, -1, -1, -1], w[1, 1, 0, 0] = np.nan, np.inf
    options = {**options, "bias": b.astype(dtype), "algorithm": algorithm}
    plain, pooling = (nn.PreparedConv2D(w, x.shape, max_pool=pools, **options) for pools in (False, True))
    wanted = nn.max_pool(plain(x), 2)
    assert pooling.output_shape == wanted.shape
    assert_equal(pooling(x), wanted, dtype)
    whole = np.full((*wanted.shape[:3], filters + 3), 7, dtype)
    if pooling.writes_slices:
        pooling.bound(x, whole[..., 2:-1])()
        assert_equal(whole[..., 2:-1], wanted, dtype)
        assert (whole[..., :2] == 7).all() and (whole[..., -1] == 7).all()
    with pytest.raises(ValueError, match="residual must be None"):
        pooling(x, residual=wanted)
    with pytest.raises(ValueError, match="residual must be None"):
        pooling.bound(x, np.empty_like(wanted), wanted)


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd-2x2", "winograd-4x4", "winograd-6x6"])
@pytest.mark.parametrize(
    ("size", "filters", "options"),
    [
        ((1, 12, 12), 20, {"padding": "same", "activation": "relu"}),
        ((2, 13, 11), 65, {"padding": "same"}),
        ((3, 17, 18), 130, {"padding": "valid", "activation": "relu6"}),
        ((1, 3, 4), 5, {"padding": "same"}),
        ((1, 14, 14), 700, {"padding": "same", "activation": "relu"}),
    ],
)
def test_maxima_on_the_way_and_which_pixels_they_are(size, filters, options, algorithm, dtype):
    x, w, b = normals(*size, 7, dtype=dtype), normals(3, 3, 7, filters, dtype=dtype, seed=1), normals(filters, seed=2)
    x[0, -1, -1, -1], w[1, 1, 0, 0] = np.nan, np.inf
    options = {**options, "bias": b.astype(dtype), "algorithm": algorithm}
    wanted, which = nn.max_pool_with_argmax(nn.conv2d(x, w, **options), 2)
    y, argmax = nn.conv2d_max_pool_with_argmax(x, w, **options)
    assert_equal(y, wanted, dtype)
    assert_equal(argmax, which, np.uint8)
    assert set(np.unique(argmax)) == {0, 1, 2, 3} or wanted.size == 10


@pytest.mark.parametrize(
    ("filters", "options"),
    [
        ((5, 4, 3, 6), {"strides": (1, 3)}),
        ((5, 4, 3, 6), {"strides": 2, "padding": "same"}),
        ((5, 5, 3, 6), {"padding": "same"}),  # pixels side by side
        ((3, 3, 3, 40), {"dilations": 2, "activation": "relu"}),
        ((3, 3, 1, 6), {"groups": 3}),
        ((3, 3, 1, 3), {"groups": 3}),
        ((1, 1, 3, 20), {"activation": "relu"}),
        ((3, 3, 3, 20), {"activation": "tanh"}),
    ],
)
def test_maxima_of_any_convolution_and_which_pixels_they_are(filters, options, dtype):
    x, w = normals(26, 30, 32, 3, dtype=dtype), normals(*filters, dtype=dtype, seed=1)
    wanted, which = nn.max_pool_with_argmax(nn.conv2d(x, w, **options), 2)
    y, argmax = nn.conv2d_max_pool_with_argmax(x, w, **options)
    assert_equal(y, wanted, dtype)
    assert_equal(argmax, which, np.uint8)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("filters", [1, 3, 6, 7, 8, 9, 15, 16, 17, 33, 70])
def test_gradients_through_maxima_on_the_way(filters, activation, dtype, threads):
    for size, options in (
        ((3, 12, 10), {"padding": "same"}),
        ((2, 11, 15), {"strides": (1, 2), "dilations": (2, 1)}),
        ((1, 67, 43), {"strides": (2, 1), "dilations": (1, 2)}),
        ((2, 45, 48), {"padding": ((2, 0), (0, 3)), "dilations": (2, 1)}),
    ):
        x, w = normals(*size, 4, dtype=dtype), 3 * normals(3, 3, 4, filters, dtype=dtype, seed=1)
        y, argmax = nn.conv2d_max_pool_with_argmax(x, w, **options, activation=activation)
        grad = normals(*y.shape, dtype=dtype, seed=2)
        through = nn.activate_backward(grad, y, activation)
        if activation == "relu6":
            assert 0 < (y == 6).mean() < 1
        shape = nn.conv2d(x, w, **options).shape
        of_result = nn.max_pool_with_argmax_backward(through, argmax, shape, 2)
        operands = grad, y, argmax, x, w
        dx, dw, db = nn.conv2d_max_pool_with_argmax_backward(*operands, **options, activation=activation)
        for found, wanted in zip((dx, dw), nn.conv2d_backward(of_result, x, w, **options)[:2], strict=True):
            assert_equal(found, wanted, dtype)
        assert_close(db, through.astype(np.float64).sum(axis=(0, 1, 2)), dtype, depth=through.size // filters)
        options.update(activation=activation, input_grad=False, bias_grad=False)
        none, again, no_bias = nn.conv2d_max_pool_with_argmax_backward(*operands, **options)
        assert none is no_bias is None
        assert_equal(again, dw, dtype)


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize(
    ("images", "filters", "options"),
    [
        ((16, 12, 12, 3), (3, 3, 3, 32), {"padding": "same"}),
        ((17, 25, 21, 2), (5, 3, 2, 16), {"strides": (1, 2), "padding": ((1, 2), (0, 3))}),
        ((35, 13, 9, 16), (1, 1, 16, 48), {}),
        ((16, 49, 44, 3), (3, 3, 3, 128), {"dilations": (2, 1)}),  # an odd number of rows, in several blocks
        ((16, 24, 45, 32), (1, 1, 32, 96), {"strides": (2, 1)}),
    ],
)
def test_the_gradient_of_filters_is_made_from_maxima_on_the_way(
    images, filters, options, activation, dtype, threads, monkeypatch
):
    x, w = normals(*images, dtype=dtype), 3 * normals(*filters, dtype=dtype, seed=1)
    y, argmax = nn.conv2d_max_pool_with_argmax(x, w, **options, activation=activation)
    operands = normals(*y.shape, dtype=dtype, seed=2), y, argmax, x, w
    options = {**options, "activation": activation, "algorithm": "direct", "input_grad": False}
    monkeypatch.setattr(nn.conv._conv, "pays_filters_pooled", lambda *_: False)
    _, wanted, total = nn.conv2d_max_pool_with_argmax_backward(*operands, **options)
    monkeypatch.undo()
    monkeypatch.delattr(nn.conv, "relu_max_pool_backward")
    none, dw, db = nn.conv2d_max_pool_with_argmax_backward(*operands, **options)
    assert none is None
    assert_equal(dw, wanted, dtype)
    assert_equal(db, total, dtype)
    assert wanted.any(axis=(0, 1, 2)).all() and total.all()


def test_gradients_through_maxima_on_the_way_of_no_images(dtype):
    x, w = np.ones((0, 6, 6, 2), dtype), np.ones((3, 3, 2, 5), dtype)
    y, argmax = nn.conv2d_max_pool_with_argmax(x, w, activation="relu")
    dx, dw, db = nn.conv2d_max_pool_with_argmax_backward(y, y, argmax, x, w, activation="relu")
    assert_equal(dx, x, dtype)
    assert not dw.any() and not db.any()


def test_what_maxima_cannot_go_back_through_is_refused():
    x, w = np.ones((1, 4, 4, 1)), np.ones((1, 1, 1, 3))
    y, argmax = nn.conv2d_max_pool_with_argmax(x, w, activation="relu")
    backward = nn.conv2d_max_pool_with_argmax_backward
    for operands, activation, words in (
        ((y, y, argmax, x, w), "silu", "^activation must be relu, relu6 or None, got 'silu'"),
        ((y, y, argmax, x, w), "rely", "^activation must be"),
        ((y[:, 1:], y, argmax, x, w), "relu", r"^grad must have shape \(1, 2, 2, 3\), got \(1, 1, 2, 3\)"),
        ((y, y[:, 1:], argmax, x, w), "relu", r"^output must have shape \(1, 2, 2, 3\)"),
        ((y, y, argmax[:, 1:], x, w), "relu", r"^argmax must have shape \(1, 2, 2, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            backward(*operands, activation=activation)
    with pytest.raises(ValueError, match=r"^output must have shape \(1, 2, 2, 3\), got \(1, 1, 2, 3\)"):
        backward(y, y[:, 1:], argmax, x, w)  # without an activation, too
    with pytest.raises(ValueError, match="max_pool=2 is larger than input"):
        backward(y[:, :0], y[:, :0], argmax[:, :0], np.ones((1, 3, 3, 1)), np.ones((3, 3, 1, 3)), activation="relu")
    with pytest.raises(TypeError, match=r"^argmax must be an array of uint8, got int64"):
        backward(y, y, argmax.astype(np.int64), x, w, activation="relu")


def test_a_result_too_small_for_maxima_is_refused(dtype):
    for filters in (3, 1):
        with pytest.raises(ValueError, match="max_pool=2 is larger than input"):
            nn.conv2d_max_pool_with_argmax(np.ones((1, filters, 5, 1), dtype), np.ones((filters, 3, 1, 1), dtype))


@pytest.mark.parametrize("strides", [1, 2, (1, 3)])
def test_maxima_of_a_direct_result_with_strides(strides, dtype):
    x, w = normals(2, 29, 31, 3, dtype=dtype), normals(5, 4, 3, 6, dtype=dtype, seed=1)
    plain, pooling = (nn.PreparedConv2D(w, x.shape, strides, "same", max_pool=pools) for pools in (False, True))
    assert_equal(pooling(x), nn.max_pool(plain(x), 2), dtype)


@pytest.mark.parametrize(
    ("taps", "groups", "activation", "words"),
    [
        (1, 1, None, "max_pool needs one group and filters of more than one tap, got 1 groups and 1x1"),
        (3, 2, None, "max_pool needs one group and filters of more than one tap, got 2 groups and 3x3"),
        (3, 1, "tanh", "max_pool follows no activation but relu and relu6, got 'tanh'"),
        (3, 1, "relu", "max_pool=2 is larger than input"),
    ],
)
def test_what_cannot_be_pooled_on_the_way(taps, groups, activation, words, dtype):
    w = normals(taps, taps, 4 // groups, 4, dtype=dtype)
    with pytest.raises(ValueError, match=words):
        nn.PreparedConv2D(w, (1, 3, 3, 4), groups=groups, activation=activation, max_pool=True)


@pytest.mark.parametrize(
    ("shape", "filters", "taps", "options", "activations"),
    [
        ((1, 12, 12, 16), 96, (3, 3), {"padding": "same"}, ("relu6", "relu6")),
        ((1, 60, 112, 16), 100, (3, 3), {"padding": "same"}, ("relu", None)),  # more rows than are kept
        ((2, 29, 17, 5), 70, (3, 3), {"padding": "same", "strides": 2}, ("relu", "relu")),
        ((3, 14, 14, 33), 200, (5, 5), {"padding": "same"}, ("silu", "silu")),
        ((1, 56, 9, 3), 17, (3, 3), {"dilations": 3}, ("leaky_relu", "relu6")),
        ((1, 30, 31, 8), 2, (2, 4), {"strides": (3, 1), "padding": ((1, 0), (2, 1))}, (None, "gelu")),
        ((5, 26, 40, 24), 144, (2, 2), {"strides": (4, 3)}, ("relu6", None)),  # rows that nothing sees
        ((1, 6, 700, 4), 600, (3, 3), {"padding": "same"}, ("relu", "softmax")),
        ((1, 7, 7, 160), 960, (3, 3), {"padding": "same"}, ("relu6", "relu6")),
        ((2, 5, 6, 1), 31, (1, 1), {}, ("tanh", "tanh")),
        ((0, 2, 3, 1), 16, (3, 3), {"padding": "same"}, ("sigmoid", "relu")),
        ((1, 1, 1, 4), 16, (5, 5), {"padding": 3}, ("hard_swish", "relu")),
    ],
)
@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
def test_depthwise_of_a_result_made_on_the_way(shape, filters, taps, options, activations, adds, dtype):
    x, w = normals(*shape, dtype=dtype), normals(1, 1, shape[3], filters, dtype=dtype, seed=1)
    v, b, c = (normals(*s, dtype=dtype, seed=2) for s in ((*taps, 1, filters), (filters,), (filters,)))
    if x.size:
        x[-1, -1, -1, -1], w[0, 0, 0, 0] = np.nan, np.inf
    first = nn.PreparedConv2D(w, shape, bias=b, activation=activations[0], algorithm="direct")
    options = {**options, "groups": filters, "bias": c, "activation": activations[1]}
    plain, both = (nn.PreparedConv2D(v, first.output_shape, after=after, **options) for after in (None, first))
    residual = normals(*plain.output_shape, dtype=dtype, seed=3) if adds else None
    wanted = plain(first(x), residual=residual)
    assert (both.input_shape, both.output_shape) == (shape, wanted.shape)
    assert both.flops == first.flops + plain.flops
    assert both.nbytes == first.nbytes + plain.nbytes
    assert_equal(both(x, residual=residual), wanted, dtype)
    out = np.full_like(wanted, 7)
    both.bound(x, out, residual)()
    assert_equal(out, wanted, dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    ("shape", "filters", "taps", "strides"),
    [
        ((1, 14, 14, 64), 384, 3, 1),  # six panels of AVX-512, in some threads' own channels
        ((1, 14, 13, 96), 576, 3, 2),  # nine: of the last one a band for each of two threads
        ((2, 7, 7, 160), 960, 5, 1),
        ((1, 5, 9, 300), 450, 3, 1),  # too few rows for bands
        ((1, 30, 30, 24), 144, 3, 1),  # bands of all channels, or channels where there are more threads
        ((3, 12, 12, 64), 200, 3, 1),
    ],
)
def test_threads_share_what_is_made_on_the_way(shape, filters, taps, strides, count, dtype):
    x, w, v = (normals(*s, dtype=dtype) for s in (shape, (1, 1, shape[3], filters), (taps, taps, 1, filters)))
    first = nn.PreparedConv2D(w, shape, activation="relu", algorithm="direct")
    options = {"groups": filters, "strides": strides, "padding": "same"}
    plain, both = (nn.PreparedConv2D(v, first.output_shape, after=after, **options) for after in (None, first))
    with runtime.threads(count):
        assert_equal(both(x), plain(first(x)), dtype)


@pytest.mark.parametrize(
    ("first", "options", "words"),
    [
        ({}, {"groups": 1}, "after must be None before a convolution that is not depthwise, got 'direct"),
        ({"filters": np.ones((1, 1, 3, 5))}, {}, r"after must give \(1, 6, 6, 4\) in float64, got \(1, 6, 6, 5\)"),
        ({"filters": np.ones((1, 1, 3, 4), "f4")}, {}, "after must give .* in float64, got .* in float32"),
        ({"filters": np.ones((3, 3, 3, 4)), "padding": 1}, {}, r"1x1 filters at every pixel, .* got \(3, 3, 3, 4\)"),
        ({"padding": 1, "input_shape": (1, 4, 4, 3)}, {}, "after must be a convolution of 1x1 filters at every pixel"),
        ({"activation": "softmax"}, {}, "before an elementwise activation, got .* 'softmax'"),
        ({"groups": 2, "input_shape": (1, 6, 6, 6)}, {}, "1x1 filters at every pixel, direct"),
    ],
)
def test_what_cannot_be_made_on_the_way(first, options, words):
    before = nn.PreparedConv2D(
        **{"filters": np.ones((1, 1, 3, 4)), "input_shape": (1, 6, 6, 3), "algorithm": "direct", **first}
    )
    filters = np.ones((3, 3, 4 if options else 1, 4))
    with pytest.raises(ValueError, match=words):
        nn.PreparedConv2D(filters, (1, 6, 6, 4), **{"groups": 4, **options}, after=before)
    with pytest.raises(TypeError, match="after must be a PreparedConv2D, got 3"):
        nn.PreparedConv2D(np.ones((3, 3, 1, 4)), (1, 6, 6, 4), groups=4, after=3)


@pytest.mark.parametrize("images", [7, 40])
@pytest.mark.parametrize("options", [{"strides": 2, "padding": 1}, {"padding": "same"}])
def test_small_images_that_filters_are_read_for_together_are_as_one_by_one(images, options, dtype, threads):
    x, w = normals(images, 5, 4, 300, dtype=dtype), normals(3, 3, 300, 212, dtype=dtype, seed=1)

    def operations(x, residual, grad):
        y = nn.conv2d(x, w, residual=residual, activation="relu", algorithm="direct", **options)
        return y, nn.conv2d_backward_input(grad, w, x.shape, algorithm="direct", **options)

    shape = nn.conv2d(x, w, **options).shape
    operands = x, normals(*shape, dtype=dtype, seed=2), normals(*shape, dtype=dtype, seed=3)
    whole = operations(*operands)
    assert all((array != 0).mean() > 0.3 for array in whole)
    for i in range(images):
        for all_images, image in zip(whole, operations(*(array[i : i + 1] for array in operands)), strict=True):
            assert_equal(all_images[i : i + 1], image, dtype)


@pytest.mark.parametrize(("taps", "strides"), [((3, 3), (1, 1)), ((5, 4), (1, 1)), ((2, 2), (1, 2))])
def test_depthwise_results_larger_than_the_caches_are_those_of_their_parts(taps, strides, dtype):
    count = bytes_past_the_caches() // (40 * 41 * 32 // strides[1] * np.dtype(dtype).itemsize) + 1
    x, w, b = normals(count, 40, 41, 32, dtype=dtype), normals(*taps, 1, 32, dtype=dtype), normals(32, seed=1)
    x[0, 0, 0, 0], x[-1, -1, -1, -1] = np.nan, np.inf
    options = {"strides": strides, "padding": "same", "groups": 32}

    def operations(x):
        y = nn.conv2d(x, w, bias=b.astype(dtype), activation="relu", **options)
        return y, nn.conv2d_backward_input(y, w, x.shape, **options)

    with runtime.ReusingMemory():  # whose arrays begin at lines of the cache
        whole = operations(x)
    assert all(array.ctypes.data % 64 == 0 and array.nbytes >= bytes_past_the_caches() for array in whole)
    for i in range(count):
        for all_images, image in zip(whole, operations(x[i : i + 1]), strict=True):
            assert_equal(all_images[i : i + 1], image, dtype)


@cases(
    ((41, 9, 8, 3), (5, 5, 3, 16), (1, 1), "valid"),
    ((66, 9, 8, 3), (5, 5, 3, 33), (1, 1), "same"),
    ((50, 8, 9, 2), (4, 7, 2, 20), (2, 2), ((1, 0), (2, 1))),
    ((130, 7, 6, 4), (3, 3, 4, 24), (1, 1), "same", (2, 1)),
    ((41, 5, 30, 2), (3, 5, 2, 40), (1, 3), "valid"),  # more pixels of an image than images
    ((41, 11, 9, 2), (5, 7, 2, 20), (3, 1), "same", (2, 1)),  # filter rows of several phases
    ((3, 12, 40, 1), (7, 9, 1, 24), (4, 1), ((9, 2), (4, 4)), (3, 1)),
)
def test_inputs_of_few_channels_in_many_images(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("filters", [18, 65, 80, 96, 144])
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 33, 48, 50, 97, 130])
def test_filters_of_one_tap_wider_than_a_tile(channels, filters, dtype):
    check(Case((3, 17, 16, channels), (1, 1, channels, filters), (1, 1), "valid"), dtype)  # in parts
    check(Case((3, 9, 8, channels), (1, 1, channels, filters), (2, 3), "valid"), dtype)
    check(Case((2, 5, 7, 2 * channels), (1, 1, channels, 2 * filters), (1, 1), "valid", (1, 1), 2), dtype)


@pytest.mark.parametrize("filters", [70, 150])
def test_filters_of_one_tap_over_images_that_come_from_afar(filters, dtype):
    l2 = _runtime.cache_bytes()[1]
    n, channels = 3 * l2 // (40 * 41 * 97 * np.dtype(dtype).itemsize), 97
    x, grad = normals(n, 40, 41, channels, dtype=dtype), normals(n, 40, 41, filters, dtype=dtype, seed=1)
    rows, columns = (a.reshape(-1, a.shape[-1]).astype(np.float64) for a in (x, grad))
    dw = nn.conv2d_backward_filters(grad, x, (1, 1, channels, filters))
    assert_close(dw[0, 0], rows.T @ columns, dtype, depth=len(rows), scale=np.sqrt(len(rows)))


@cases(
    ((2, 6, 7, 4), (3, 3, 2, 6), (1, 1), "same", (1, 1), 2),
    ((2, 6, 7, 6), (3, 3, 2, 9), (2, 2), "same", (1, 1), 3),
    ((2, 6, 7, 6), (1, 1, 2, 9), (1, 1), "valid", (1, 1), 3),
    ((2, 6, 7, 6), (3, 2, 3, 34), (1, 1), "valid", (1, 2), 2),
    ((2, 6, 7, 64), (3, 3, 32, 64), (1, 1), "same", (1, 1), 2),
    ((2, 6, 7, 5), (3, 3, 1, 5), (1, 1), "same", (1, 1), 5),
    ((2, 6, 7, 5), (3, 3, 1, 10), (2, 1), "same", (1, 1), 5),
    ((2, 6, 7, 17), (3, 3, 1, 17), (1, 1), "same", (1, 1), 17),
    ((2, 6, 7, 16), (3, 3, 1, 32), (2, 2), 1, (1, 1), 16),
    ((2, 9, 9, 4), (3, 3, 1, 8), (2, 3), "same", (2, 2), 4),
)
def test_groups_and_depthwise_filters(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 8, 9, 15, 16, 17, 33])
@pytest.mark.parametrize(
    ("window", "strides", "padding", "dilations"),
    [
        ((3, 3), (1, 1), "same", (1, 1)),
        ((3, 3), (2, 2), "same", (1, 1)),
        ((5, 5), (2, 1), ((1, 4), (0, 3)), (1, 1)),
        ((2, 4), (3, 4), "same", (1, 1)),
        ((3, 2), (1, 2), "same", (3, 2)),
        ((1, 1), (2, 3), "valid", (1, 1)),
        ((7, 9), (1, 1), 8, (1, 1)),
    ],
)
def test_depthwise(channels, window, strides, padding, dilations, dtype):
    check(Case((2, 9, 13, channels), (*window, 1, channels), strides, padding, dilations, channels), dtype)


# Channels and filters of a group, as many of either or more of one, and groups: of vectors of 2 to 16 lanes they fill
# parts, whole ones, or all but the last one's rest.
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("filters", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("groups", [4, 16, 17])
def test_groups_that_share_a_vector(channels, filters, groups, dtype):
    shapes = (2, 5, 9, groups * channels), (3, 3, channels, groups * filters)
    for strides, padding in (((1, 1), "same"), ((2, 2), "same"), ((2, 1), ((1, 0), (0, 2)))):
        case = Case(*shapes, strides, padding, (1, 1), groups)
        assert_shared(case, dtype)
        check(case, dtype)


@pytest.mark.parametrize(
    ("window", "strides", "padding", "dilations"),
    [
        ((5, 5), (2, 1), ((1, 4), (0, 3)), (1, 1)),
        ((2, 4), (3, 4), "same", (1, 1)),
        ((3, 2), (1, 2), "same", (3, 2)),
        ((3, 3), (1, 1), 2, (2, 2)),
        ((1, 1), (2, 3), "valid", (1, 1)),
        ((1, 1), (1, 1), "valid", (1, 1)),
        ((7, 9), (1, 1), 8, (1, 1)),
    ],
)
def test_windows_of_groups_that_share_a_vector(window, strides, padding, dilations, dtype):
    lanes = _runtime.lanes(np.dtype(dtype))
    for channels in {4, max(1, lanes // 4), max(1, lanes // 2)}:
        case = Case((2, 9, 13, 8 * channels), (*window, channels, 8 * channels), strides, padding, dilations, 8)
        assert_shared(case, dtype)
        check(case, dtype)


def test_which_groups_share_a_vector():
    lanes = _runtime.lanes(np.dtype(np.float32))
    shared = "grouped" if lanes > 2 else "direct"
    cases = [
        (max(2, lanes // 2), 8 * lanes, 8 * lanes, shared),
        (max(2, lanes), 8 * lanes, 8 * lanes, "direct"),
        (1, 8 * lanes, 8 * lanes, "depthwise"),
        (1, 4 * lanes, 8 * lanes, shared),
        (1, max(2, lanes // 2), max(4, lanes), "direct"),  # its input holds less than a vector
    ]
    for channels, inputs, filters, name in cases:
        w = normals(3, 3, channels, filters, dtype=np.float32)
        assert nn.PreparedConv2D(w, (1, 5, 5, inputs), groups=inputs // channels).algorithm == name


@pytest.mark.parametrize(("channels", "filters"), [(4, 4), (2, 3), (1, 2)])
def test_prepared_groups_that_share_a_vector_give_the_same_bits(channels, filters, dtype):
    x, w, b = normals(2, 7, 9, 17 * channels), normals(3, 3, channels, 17 * filters), normals(17 * filters)
    x, w, b = x.astype(dtype), w.astype(dtype), b.astype(dtype)
    expected = nn.conv2d(x, w, groups=17, padding="same", bias=b, activation="relu")
    prepared = nn.PreparedConv2D(w, x.shape, groups=17, padding="same", bias=b, activation="relu")
    w[...] = np.nan  # it has a copy
    for _ in range(2):
        assert_equal(prepared(x), expected, dtype)


@pytest.mark.parametrize("columns", [3, 5])
@pytest.mark.parametrize("padding", ["same", 0, 1, 2, *(((1, 1), sides) for sides in [(0, 1), (1, 0), (2, 1), (0, 2)])])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_edges_of_rows_of_taps(columns, padding, stride, dtype):
    for width in (*range(1, 18), 21, 25):
        if padding != "same" and width + np.sum(np.broadcast_to(padding, (2, 2))[1]) < columns:
            continue
        check(Case((2, 4, width, 17), (3, columns, 1, 17), (1, stride), padding, (1, 1), 17), dtype)


@pytest.mark.parametrize("rows", [(0, 0), (1, 1), (0, 2), (3, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("height", range(1, 9))
def test_depthwise_rows_that_are_computed_by_two(height, rows, dtype):
    if height + sum(rows) < 3:
        return
    for width in (4, 7, 9, 16):
        check(Case((2, height, width, 17), (3, 3, 1, 17), (1, 1), (rows, (1, 1)), (1, 1), 17), dtype)


def test_depthwise_rows_have_the_bits_that_they_have_alone(dtype):
    x, w, b = normals(1, 7, 9, 35, dtype=dtype), normals(3, 3, 1, 35, dtype=dtype), normals(35, dtype=dtype)
    added = normals(1, 7, 9, 35, dtype=dtype, seed=1)
    options = {"bias": b, "activation": "relu", "groups": 35}
    y = nn.conv2d(x, w, padding=1, residual=added, **options)
    for row in range(7):
        inside = x[:, max(0, row - 1) : row + 2]
        edges = int(row == 0), int(row == 6)
        alone = nn.conv2d(inside, w, padding=(edges, (1, 1)), residual=added[:, row : row + 1], **options)
        assert_equal(y[:, row : row + 1], alone, dtype)


@pytest.mark.parametrize("window", [(1, 1), (3, 3)])
@pytest.mark.parametrize("filters", [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 65])
def test_channels_and_filters_around_vector_lengths(filters, window, dtype):
    check(Case((2, 5, 4, 3), (*window, 3, filters), (1, 1), "same"), dtype)
    check(Case((2, 5, 4, filters), (*window, filters, 3), (1, 1), "same"), dtype)
    check(Case((2, 5, 4, filters), (*window, filters, filters), (2, 1), "valid"), dtype)


@pytest.mark.parametrize("width", [*range(1, 18), 27, 28, 29, 43])
def test_rows_around_the_heights_of_tiles(width, dtype):
    check(Case((2, 3, width, 2), (3, 3, 2, 5), (1, 1), "same"), dtype)
    check(Case((2, 3, width, 2), (2, 1, 2, 5), (1, 1), "valid"), dtype)


@cases(
    ((3, 24, 23, 5), (3, 3, 5, 16), (1, 1), "same"),  # more than 256 pixels: packed filters
    ((1, 15, 16, 16), (3, 3, 16, 64), (1, 1), "same"),  # fewer: filters in place, split into groups of panels
    ((1, 4, 4, 32), (3, 3, 32, 160), (1, 1), "same"),  # more filters than image
    ((1, 60, 61, 3), (5, 5, 3, 9), (2, 2), "same"),  # one image, many bands
    ((9, 20, 20, 7), (1, 1, 7, 33), (1, 1), "valid"),  # a matrix product
    ((9, 20, 20, 7), (1, 1, 7, 33), (2, 3), "valid"),
    ((5, 20, 21, 16), (3, 3, 4, 32), (1, 1), "same", (1, 1), 4),
    ((2, 90, 80, 24), (2, 2, 24, 24), (1, 1), "valid"),  # filter gradient in bands of an image
    ((2, 40, 40, 24), (3, 3, 24, 24), (3, 2), "same", (2, 1)),
    ((70, 12, 12, 8), (3, 3, 8, 20), (1, 1), "same"),  # filter gradient in blocks of images
    ((70, 12, 12, 8), (3, 3, 8, 16), (1, 1), "valid"),
    ((1, 260, 250, 8), (3, 3, 8, 8), (1, 1), "same"),  # several bands, the last one shorter
    ((3, 97, 131, 11), (2, 2, 11, 8), (2, 2), ((1, 0), (0, 1))),
)
def test_convolutions_that_threads_share(case, dtype):
    check(case, dtype)


@st.composite
def any_case(draw):
    size = st.integers(1, 9)
    window, strides, dilations = ((draw(st.integers(1, high)), draw(st.integers(1, high))) for high in (5, 4, 3))
    groups, depth = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    image = draw(size) + 3, draw(size) + 3
    padding = draw(
        st.one_of(
            st.just("same"),
            st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
        )
    )
    pads = reference.explicit_pads(
        padding, image, [(n - 1) * d + 1 for n, d in zip(window, dilations, strict=True)], strides
    )
    fits = all(n + sum(p) > (w - 1) * d for n, p, w, d in zip(image, pads, window, dilations, strict=True))
    return Case(
        (draw(st.integers(1, 3)), *image, groups * depth),
        (*window, depth, groups * draw(st.integers(1, 9))),
        strides,
        padding if fits else "same",
        dilations,
        groups,
    )


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_case())
def test_any_convolution(dtype, case):
    check(case, dtype)


ROUNDING = [
    Case((2, 20, 20, 32), (3, 3, 32, 40), (1, 1), "same"),
    Case((4, 12, 12, 16), (5, 5, 8, 20), (2, 1), "same", (1, 2), 2),
]


@pytest.mark.parametrize("case", ROUNDING, ids=str)
def test_rounding_stays_within_what_the_depth_allows(case, dtype):
    x, w = normals(*case.input, dtype=dtype), normals(*case.filters, dtype=dtype, seed=1)
    exact = reference.conv2d(x, w, **case.options)
    grad = normals(*exact.shape, dtype=dtype, seed=2)
    y = nn.conv2d(x, w, **case.options, algorithm="direct")
    rows, cols, depth, filters = case.filters
    assert_close(y, exact, dtype, depth=2 * rows * cols * depth)
    depths = [2 * rows * cols * filters // case.groups, *[2 * exact.size // filters] * 2]
    gradients = nn.conv2d_backward(grad, x, w, **case.options, algorithm="direct")
    for actual, wanted, n in zip(gradients, reference.conv2d_backward(grad, x, w, **case.options), depths, strict=True):
        assert_close(actual, wanted, dtype, depth=n)


def test_direct_keeps_the_documented_error_bound(dtype):
    case = ROUNDING[0]
    x, w = normals(*case.input, dtype=dtype), normals(*case.filters, dtype=dtype, seed=1)
    y = nn.conv2d(x, w, **case.options, algorithm="direct")
    magnitude = reference.conv2d(np.abs(x), np.abs(w), **case.options)
    error = np.abs(y - reference.conv2d(x, w, **case.options))
    products = np.prod(case.filters[:3])
    # The reference is rounded as often, in float64.
    assert (error <= products * (np.finfo(dtype).eps + np.finfo(np.float64).eps) / 2 * magnitude).all()


@pytest.mark.parametrize("activation", [None, *nn.ACTIVATIONS])
@cases(
    ((2, 6, 7, 3), (3, 3, 3, 5), (1, 1), "same"),
    ((2, 6, 7, 4), (3, 3, 2, 34), (2, 1), "same", (1, 1), 2),
    ((2, 6, 7, 3), (1, 1, 3, 16)),
    ((3, 24, 23, 5), (3, 3, 5, 16), (1, 1), "same"),
)
def test_bias_and_activation(case, activation, dtype):
    x, w, _, y, _ = expected(case)
    x, w, y = x / 8, w / 8, y / 64
    bias = integers(case.filters[3], seed=5) / 4
    actual = nn.conv2d(x.astype(dtype), w.astype(dtype), bias=bias.astype(dtype), activation=activation, **case.options)
    wanted = reference.ACTIVATIONS[activation](y + bias)
    if activation in (None, "linear", "relu", "relu6"):
        assert_equal(actual, wanted, dtype)
    else:
        assert_close(actual, wanted, dtype, depth=case.filters[3], scale=1 + np.abs(wanted))


PREPARED = [
    ((2, 9, 11, 6), (3, 3, 6, 5), {"padding": "same"}),
    ((1, 9, 9, 17), (3, 2, 17, 70), {"strides": 2}),
    ((1, 12, 9, 6), (2, 3, 3, 8), {"groups": 2, "dilations": 2}),
    ((2, 7, 7, 33), (1, 1, 33, 20), {}),
    ((1, 7, 7, 33), (1, 1, 33, 20), {"strides": 2}),
    ((1, 8, 8, 18), (3, 3, 1, 18), {"groups": 18, "padding": 1}),
    ((1, 8, 8, 48), (3, 3, 4, 36), {"groups": 12, "padding": 1}),
    ((1, 4, 4, 300), (3, 3, 300, 130), {"padding": "same"}),
    ((0, 4, 4, 3), (3, 3, 3, 5), {}),
]


@pytest.mark.parametrize("case", PREPARED, ids=str)
def test_a_prepared_convolution_gives_the_same_bits(case, dtype, threads):
    shape, filters, options = case
    x, w, b = normals(*shape, dtype=dtype), normals(*filters, dtype=dtype), normals(filters[3], dtype=dtype)
    for activation in (None, "relu", "tanh"):
        expected = nn.conv2d(x, w, bias=b, activation=activation, algorithm="direct", **options)
        kept, kept_bias = w.copy(), b.copy()
        prepared = nn.PreparedConv2D(kept, shape, bias=kept_bias, activation=activation, algorithm="direct", **options)
        kept[...] = kept_bias[...] = np.nan  # it has copies
        assert prepared.algorithm == ("depthwise" if options.get("groups") == shape[3] else "direct")
        assert (prepared.input_shape, prepared.filters_shape) == (shape, filters)
        assert prepared.output_shape == expected.shape
        for _ in range(2):
            assert_equal(prepared(x), expected, dtype)
        assert_equal(prepared(x[..., ::-1][..., ::-1].astype(">f8")), expected, dtype)
        residual = normals(*expected.shape, dtype=dtype, seed=4)
        expected = nn.conv2d(x, w, bias=b, activation=activation, algorithm="direct", residual=residual, **options)
        assert_equal(prepared(x, residual=residual), expected, dtype)
        assert_equal(prepared(x, residual=np.asfortranarray(residual).astype(">f8")), expected, dtype)


@pytest.mark.parametrize("case", PREPARED, ids=str)
def test_a_bound_convolution_writes_the_same_bits(case, dtype, threads):
    shape, filters, options = case
    w, b = normals(*filters, dtype=dtype), normals(filters[3], dtype=dtype)
    for activation in (None, "relu", "relu6", "silu"):
        prepared = nn.PreparedConv2D(w, shape, bias=b, activation=activation, **options)
        x, residual = np.empty(shape, dtype), np.empty(prepared.output_shape, dtype)
        out, total = np.empty_like(residual), np.empty_like(residual)
        runs = prepared.bound(x, out), prepared.bound(x, total, residual)
        for seed in (1, 2):
            x[...], residual[...] = normals(*shape, seed=seed), normals(*residual.shape, seed=seed + 2)
            for run in runs:
                run()
            assert_equal(out, prepared(x), dtype)
            assert_equal(total, prepared(x, residual=residual), dtype)


@pytest.mark.parametrize("pixels", [1, 5, 6, 7, 14, 15, 28, 29, 49, 300])
def test_asking_for_the_next_filters_changes_no_bits(pixels, dtype, threads):
    w, b = normals(1, 1, 200, 136, dtype=dtype), normals(136, dtype=dtype)
    prepared = nn.PreparedConv2D(w, (1, 1, pixels, 200), bias=b, activation="relu")
    x, out = normals(1, 1, pixels, 200, dtype=dtype), np.empty(prepared.output_shape, dtype)
    for filters in ((1, 1, 136, 1), (1, 1, 136, 500), (3, 3, 136, 40)):
        ahead = nn.PreparedConv2D(normals(*filters, dtype=dtype), prepared.output_shape, padding="same")
        out[...] = np.nan
        prepared.bound(x, out, None, ahead)()
        assert_equal(out, prepared(x), dtype)


@pytest.mark.parametrize("case", PREPARED, ids=str)
def test_a_bound_convolution_writes_to_some_channels(case, dtype, threads):
    shape, filters, options = case
    x, w, b = normals(*shape, dtype=dtype), normals(*filters, dtype=dtype), normals(filters[3], dtype=dtype)
    for activation, algorithm in itertools.product((None, "relu6"), ("auto", "winograd-4x4")):
        try:
            prepared = nn.PreparedConv2D(w, shape, bias=b, activation=activation, algorithm=algorithm, **options)
        except ValueError:
            continue  # Winograd's does not compute this
        *rest, channels = prepared.output_shape
        room = np.full((*rest, channels + 5), np.nan, dtype)
        out = room[..., 3 : 3 + channels]
        if prepared.algorithm == "depthwise":
            with pytest.raises(ValueError, match="out must be C-ordered"):
                prepared.bound(x, out)
            continue
        prepared.bound(x, out)()
        assert_equal(out, prepared(x), dtype)
        assert np.isnan(room[..., :3]).all() and np.isnan(room[..., 3 + channels :]).all()


def test_a_bound_convolution_of_single_pixels_knows_their_distance():
    w = normals(1, 1, 6, 4, dtype=np.float32)
    prepared = nn.PreparedConv2D(w, (3, 1, 1, 6))
    x, room = normals(3, 1, 1, 6, dtype=np.float32), np.zeros((3, 5, 1, 4), np.float32)
    odd = np.lib.stride_tricks.as_strided(np.zeros((3, 4), np.float32), (3, 1, 1, 4), (16, 4000, 8000, 4))
    prepared.bound(x, odd)()
    assert_equal(odd, prepared(x), np.float32)
    with pytest.raises(ValueError, match="out must be C-ordered"):
        prepared.bound(x, room[:, 2:3])


def test_a_bound_convolution_names_what_does_not_fit():
    prepared = nn.PreparedConv2D(np.ones((3, 3, 2, 4), np.float32), (1, 5, 5, 2))
    x, out = np.ones((1, 5, 5, 2), np.float32), np.ones((1, 3, 3, 4), np.float32)
    for arrays, words in (
        ((x[:, 1:], out), r"^input must have shape \(1, 5, 5, 2\), got \(1, 4, 5, 2\)"),
        ((x, out[..., :2]), r"^out must have shape \(1, 3, 3, 4\), got \(1, 3, 3, 2\)"),
        ((x, out, x), r"^residual must have shape \(1, 3, 3, 4\)"),
        ((x.astype(np.float64), out), "^input must be C-ordered and of float32, got float64"),
        ((x, np.ones((1, 3, 3, 8), np.float32)[..., ::2]), "^out must be C-ordered and of float32"),
    ):
        with pytest.raises(ValueError, match=words):
            prepared.bound(*arrays)


def test_a_bound_convolution_refuses_an_out_that_it_cannot_fill():
    prepared = nn.PreparedConv2D(np.ones((1, 1, 4, 4), np.float32), (1, 3, 3, 4))
    room = np.ones((3, 3, 3, 4), np.float32)
    x, out, residual = room[:1], room[1:2], room[2:]
    prepared.bound(x, out, residual)()
    assert (out == 5).all()
    constant = out.copy()
    constant.flags.writeable = False
    shape = r"\(1, 3, 3, 4\)"
    for arrays, words in (
        ((x, constant), f"^out must be writable, got a read-only array of shape {shape}"),
        ((x, out, out), f"^out must share no memory with residual, got arrays of {shape} and {shape}"),
        ((x, x), "^out must share no memory with input"),
        ((x, room.ravel()[12:48].reshape(out.shape)), "^out must share no memory with input"),
        ((x, out, room.ravel()[48:84].reshape(out.shape)), "^out must share no memory with residual"),
    ):
        with pytest.raises(ValueError, match=words):
            prepared.bound(*arrays)
    whole = np.zeros((1, 3, 3, 12), np.float32)
    prepared.bound(x, whole[..., 8:])()
    assert (whole[..., 8:] == 4).all() and not whole[..., :8].any()


@pytest.mark.parametrize("filters", [65, 80, 96, 160, 290])
@pytest.mark.parametrize("channels", [17, 260, 1500])
@pytest.mark.parametrize("pixels", [(1, 1, 5), (1, 7, 7), (2, 14, 13)])
def test_a_prepared_product_is_that_of_the_filters_as_they_are(pixels, channels, filters, dtype):
    x, w = normals(*pixels, channels, dtype=dtype), normals(1, 1, channels, filters, dtype=dtype, seed=1)
    bias, residual = normals(filters, dtype=dtype, seed=2), normals(*pixels, filters, dtype=dtype, seed=3)
    prepared = nn.PreparedConv2D(w, x.shape, bias=bias, activation="relu")
    exact = nn.conv2d(x, w, bias=bias, activation="relu", residual=residual, algorithm="direct")
    assert prepared(x, residual=residual).tobytes() == exact.tobytes()


def test_a_prepared_convolution_shares_filters_that_cannot_change():
    x, w = normals(1, 3, 3, 6, dtype=np.float32), normals(1, 1, 6, 4, dtype=np.float32)
    view = w.view()
    view.flags.writeable = False  # of what can change
    prepared = nn.PreparedConv2D(view, x.shape)
    before = prepared(x)
    w[...] = 0
    assert (prepared(x) == before).all()
    w.flags.writeable = False
    assert nn.PreparedConv2D(w, x.shape)._filters is w


@pytest.mark.parametrize(("shape", "groups"), [((3, 3, 40, 64), 1), ((1, 1, 40, 7), 1), ((3, 3, 1, 40), 40)])
def test_a_prepared_convolution_scales_its_filters(shape, groups, dtype):
    x, w, scale = normals(2, 9, 9, 40, dtype=dtype), normals(*shape, dtype=dtype, seed=1), normals(shape[3], seed=2)
    prepared = nn.PreparedConv2D(w, x.shape, groups=groups, scale=scale)
    plain = nn.PreparedConv2D((w * scale).astype(dtype), x.shape, groups=groups)
    assert prepared(x).tobytes() == plain(x).tobytes()
    for bad in (scale[1:], scale[0]):
        with pytest.raises(ValueError, match=rf"^scale must have shape \({shape[3]},\)"):
            nn.PreparedConv2D(w, x.shape, groups=groups, scale=bad)


def test_prepared_convolutions_share_what_is_scaled_alike():
    w, scale = normals(3, 3, 8, 4, dtype=np.float32), normals(4)
    w.flags.writeable = scale.flags.writeable = False
    first = nn.PreparedConv2D(w, (1, 9, 9, 8), scale=scale)
    assert nn.PreparedConv2D(w, (2, 9, 9, 8), scale=scale, share_with=[first])._filters is first._filters
    for other in (None, scale + 1):
        x = normals(2, 9, 9, 8, dtype=np.float32)
        prepared = nn.PreparedConv2D(w, x.shape, scale=other, share_with=[first])
        assert (prepared(x) == nn.PreparedConv2D(w, x.shape, scale=other)(x)).all()
        assert prepared._filters is not first._filters
    changing = scale.copy()
    first = nn.PreparedConv2D(w, (1, 9, 9, 8), scale=changing)
    assert nn.PreparedConv2D(w, (2, 9, 9, 8), scale=changing, share_with=[first])._filters is not first._filters


@pytest.mark.parametrize("pixels", [(1, 7), (9, 9), (40, 33)])
@pytest.mark.parametrize(("channels", "filters"), [(3, 130), (1100, 70), (64, 1)])
def test_a_prepared_product_gives_the_same_bits(pixels, channels, filters):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype("float32") for s in ((1, *pixels, channels), (1, 1, channels, filters)))
    residual = rng.standard_normal((1, *pixels, filters)).astype("float32")
    prepared = nn.PreparedConv2D(w, x.shape, activation="relu")
    assert np.array_equal(prepared(x), nn.conv2d(x, w, activation="relu"))
    expected = nn.conv2d(x, w, activation="relu", residual=residual)
    assert np.array_equal(prepared(x, residual=residual), expected)


def test_a_prepared_convolution_names_what_does_not_fit():
    w = np.ones((3, 3, 2, 4))
    for options, error, words in (
        ({"input_shape": (1, 5, 5)}, ValueError, r"^input_shape must be a shape of four sizes, got \(1, 5, 5\)"),
        ({"input_shape": (1, 5, 5, 3)}, ValueError, r"^filters must have 3 channels .* got .* \(3, 3, 2, 4\)"),
        ({"bias": np.ones(3)}, ValueError, r"^bias must have shape \(4,\), got \(3,\)"),
        ({"algorithm": "fft"}, ValueError, "^algorithm must be one of .* got 'fft'"),
        ({"activation": "rely"}, ValueError, "^activation must be .* got 'rely'"),
        ({"strides": 2, "algorithm": "winograd-6x6"}, ValueError, "^algorithm 'winograd-6x6' needs 3x3 filters"),
        ({"filters": "w"}, TypeError, "^filters must "),
    ):
        with pytest.raises(error, match=words):
            nn.PreparedConv2D(**{"filters": w, "input_shape": (1, 5, 5, 2), **options})
    prepared = nn.PreparedConv2D(w, (1, 5, 5, 2))
    with pytest.raises(ValueError, match=r"^residual must have shape \(1, 3, 3, 4\), got \(4,\)"):
        prepared(np.ones((1, 5, 5, 2)), residual=np.ones(4))
    with pytest.raises(ValueError, match=r"^residual must have shape \(1, 3, 3, 4\), got \(1, 3, 3, 1\)"):
        nn.conv2d(np.ones((1, 5, 5, 2)), w, residual=np.ones((1, 3, 3, 1)))
    with pytest.raises(TypeError, match=r"^residual must .*'x'"):
        nn.conv2d(np.ones((1, 5, 5, 2)), w, residual="x")
    with pytest.raises(ValueError, match=r"^input must have shape \(1, 5, 5, 2\), got \(2, 5, 5, 2\)"):
        prepared(np.ones((2, 5, 5, 2)))
    with pytest.raises(TypeError, match=r"^input must "):
        prepared("x")


@pytest.mark.parametrize("filters", [(3, 3, 3, 5), (1, 1, 3, 5), (3, 3, 3, 200), (3, 3, 1, 6)])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_no_images_give_no_images_and_no_gradient(filters, activation, dtype):
    groups = 3 // filters[2]
    x, w, bias = np.zeros((0, 4, 4, 3), dtype), np.ones(filters, dtype), np.ones(filters[3], dtype)
    y = nn.conv2d(x, w, padding="same", groups=groups, bias=bias, activation=activation)
    assert_equal(y, np.zeros((0, 4, 4, filters[3])), dtype)
    dx, dw, dbias = nn.conv2d_backward(y, x, w, padding="same", groups=groups)
    assert_equal(dx, x, dtype)
    assert_equal(dw, np.zeros(filters), dtype)
    assert_equal(dbias, np.zeros(filters[3]), dtype)


def test_padding_is_zero_even_beside_nan(dtype):
    x = np.full((1, 3, 3, 2), np.nan, dtype)
    y = nn.conv2d(x, np.ones((3, 3, 2, 4), dtype), padding=4)
    assert (y[:, :2] == 0).all()
    assert (y[:, -2:] == 0).all()
    assert np.isnan(y[:, 2:-2, 2:-2]).all()


def test_a_nan_pixel_reaches_the_windows_that_see_it_and_no_other(dtype):
    x = np.ones((1, 9, 9, 3), dtype)
    x[0, 4, 4, 1] = np.nan
    y = nn.conv2d(x, np.ones((3, 3, 3, 5), dtype), padding="same", activation="relu")
    seen = np.zeros(y.shape, bool)
    seen[0, 3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y), seen)


@cases(
    ((2, 4, 5, 2), (3, 2, 2, 3), (1, 1), "same"),
    ((1, 5, 6, 4), (2, 3, 2, 4), (2, 3), ((1, 0), (2, 1)), (2, 1), 2),
)
def test_gradients_agree_with_differences(case):
    x, w, bias = normals(*case.input), normals(*case.filters, seed=1), normals(case.filters[3], seed=2)
    grad = normals(*nn.conv2d(x, w, **case.options).shape, seed=3)

    def loss(x, w, bias):
        return (nn.conv2d(x, w, bias=bias, **case.options) * grad).sum()

    dx, dw, dbias = nn.conv2d_backward(grad, x, w, **case.options)
    tolerance = {"rtol": 1e-7, "atol": 1e-8}
    np.testing.assert_allclose(dx, reference.numerical_gradient(lambda v: loss(v, w, bias), x), **tolerance)
    np.testing.assert_allclose(dw, reference.numerical_gradient(lambda v: loss(x, v, bias), w), **tolerance)
    np.testing.assert_allclose(dbias, reference.numerical_gradient(lambda v: loss(x, w, v), bias), **tolerance)


@cases(
    ((3, 9, 7, 5), (3, 3, 1, 5), (1, 1), "same", (1, 1), 5),
    ((2, 33, 50, 40), (3, 3, 1, 40), (2, 2), "same", (1, 1), 40),
    ((2, 14, 14, 17), (3, 3, 1, 17), (2, 2), ((0, 1), (0, 1)), (1, 1), 17),
    ((2, 12, 11, 16), (5, 5, 1, 16), (1, 2), "same", (1, 1), 16),
    ((2, 17, 11, 9), (2, 3, 1, 9), (3, 3), "valid", (1, 1), 9),  # rows and columns that no window sees
    ((1, 23, 9, 33), (3, 3, 1, 33), (1, 1), "same", (2, 2), 33),
    ((1, 4, 9, 8), (3, 3, 1, 8), (4, 1), ((5, 5), (1, 1)), (1, 1), 8),  # windows that see no row
    ((1, 3, 200, 100), (3, 3, 1, 100), (1, 1), "same", (1, 1), 100),  # fewer parts than threads
)
def test_depthwise_gradients_together_have_the_bits_of_each_alone(case, dtype):
    x, w = normals(*case.input).astype(dtype), normals(*case.filters, seed=1).astype(dtype)
    grad = normals(*nn.conv2d(x, w, **case.options).shape, seed=2).astype(dtype)
    dx, dw, _ = nn.conv2d_backward(grad, x, w, **case.options)
    assert_equal(dx, nn.conv2d_backward_input(grad, w, x.shape, **case.options), dtype)
    assert_equal(dw, nn.conv2d_backward_filters(grad, x, w.shape, **case.options), dtype)


def test_gradients_one_by_one_are_those_of_all_together(dtype):
    x, w, grad = (integers(*s).astype(dtype) for s in [(2, 6, 7, 3), (3, 3, 3, 5), (2, 3, 4, 5)])
    options = {"strides": 2, "padding": "same"}
    dx, dw, _ = nn.conv2d_backward(grad, x, w, **options)
    assert_equal(nn.conv2d_backward_input(grad, w, x.shape, **options), dx, dtype)
    assert_equal(nn.conv2d_backward_filters(grad, x, w.shape, **options), dw, dtype)
    none, again, _ = nn.conv2d_backward(grad, x, w, input_grad=False, **options)
    assert none is None
    assert_equal(again, dw, dtype)


@pytest.mark.parametrize(
    ("options", "same_as"),
    [
        ({"strides": [1, 2, 3, 1], "padding": "SAME"}, {"strides": (2, 3), "padding": "same"}),
        ({"strides": np.array([2, 3]), "padding": [[0, 0], [1, 2], [0, 3], [0, 0]]},
         {"strides": (2, 3), "padding": ((1, 2), (0, 3))}),
        ({"dilations": np.int64(2), "padding": (1, 2)}, {"dilations": (2, 2), "padding": ((1, 1), (2, 2))}),
        ({"algorithm": "direct"}, {}),
    ],
)  # fmt: skip
def test_options_are_spelt_as_in_tensorflow_pytorch_and_keras(options, same_as):
    x, w = integers(2, 8, 9, 3), integers(3, 2, 3, 4)
    assert_equal(nn.conv2d(x, w, **options), nn.conv2d(x, w, **same_as), np.float64)


@pytest.mark.parametrize(
    ("shape", "filters", "size", "options"),
    [
        ((2, 4, 5, 3), (3, 3, 5, 3), (6, 7), {}),
        ((2, 4, 5, 3), (3, 3, 5, 3), (8, 10), {"strides": 2, "padding": "same"}),
        ((2, 4, 5, 3), (2, 4, 5, 3), (8, 15), {"strides": (2, 3), "padding": "same"}),
        ((1, 4, 5, 9), (2, 3, 17, 9), (12, 11), {"strides": (3, 2)}),
        ((2, 4, 5, 3), (3, 3, 5, 3), (8, 10), {"strides": 2, "padding": 1, "output_padding": 1}),
        (
            (2, 4, 5, 3),
            (3, 2, 5, 3),
            (6, 14),
            {"strides": (1, 3), "padding": ((0, 0), (1, 0)), "output_padding": (0, 1)},
        ),
        ((2, 4, 5, 3), (3, 3, 5, 3), (7, 9), {"strides": 2, "padding": "SAME", "output_padding": 0}),
        ((2, 4, 5, 3), (2, 3, 5, 3), (6, 15), {"strides": (1, 2), "dilations": (2, 3)}),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), {}),
    ],
)
def test_transposed_convolution(shape, filters, size, options, dtype):
    x, w, bias = integers(*shape), integers(*filters, seed=1), integers(filters[2], seed=2)
    plain = {name: shapes.pair(options.get(name, 1), name) for name in ("strides", "dilations")}
    padding = options.get("padding", "valid")
    plain["padding"] = padding.lower() if isinstance(padding, str) else padding
    exact = reference.conv2d_transpose(x, w, size, **plain)
    x, w, bias = x.astype(dtype), w.astype(dtype), bias.astype(dtype)
    options = {**options, "algorithm": "direct"}
    assert_equal(nn.conv2d_transpose(x, w, **options), exact, dtype)
    assert_equal(nn.conv2d_transpose(x, w, bias=bias, **options), exact + bias, dtype)
    rectified = nn.conv2d_transpose(x, w, bias=bias, activation="relu", **options)
    assert_equal(rectified, np.maximum(exact + bias, 0), dtype)
    assert_equal(
        nn.conv2d_transpose(x, w, activation="hard_swish", **options), nn.hard_swish(exact.astype(dtype)), dtype
    )
    grad = integers(*exact.shape, seed=3).astype(dtype)
    dx, dw, dbias = nn.conv2d_transpose_backward(grad, x, w, **options)
    assert_equal(dx, reference.conv2d(grad, w, **plain), dtype)
    assert_equal(dw, reference.conv2d_backward(x, grad, w, **plain)[1], dtype)
    assert_equal(dbias, grad.sum((0, 1, 2)), dtype)
    none, again, neither = nn.conv2d_transpose_backward(grad, x, w, input_grad=False, bias_grad=False, **options)
    assert none is None and neither is None
    assert_equal(again, dw, dtype)


def test_gradients_of_a_transposed_convolution_agree_with_differences():
    x, w, bias = normals(1, 3, 4, 2), normals(3, 2, 3, 2, seed=1), normals(3, seed=2)
    options = {"strides": (2, 1), "padding": "same", "dilations": (1, 2)}
    grad = normals(*nn.conv2d_transpose(x, w, **options).shape, seed=3)

    def loss(x, w, bias):
        return (nn.conv2d_transpose(x, w, bias=bias, **options) * grad).sum()

    dx, dw, dbias = nn.conv2d_transpose_backward(grad, x, w, **options)
    tolerance = {"rtol": 1e-7, "atol": 1e-8}
    np.testing.assert_allclose(dx, reference.numerical_gradient(lambda v: loss(v, w, bias), x), **tolerance)
    np.testing.assert_allclose(dw, reference.numerical_gradient(lambda v: loss(x, v, bias), w), **tolerance)
    np.testing.assert_allclose(dbias, reference.numerical_gradient(lambda v: loss(x, w, v), bias), **tolerance)


X, W, G = np.ones((2, 5, 5, 4)), np.ones((3, 3, 4, 6)), np.ones((2, 3, 3, 6))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.conv2d(X[0], W), r"^input .*\(5, 5, 4\)"),
        (lambda: nn.conv2d(X, W[0]), r"^filters .*\(3, 4, 6\)"),
        (lambda: nn.conv2d(X, W[:, :, :3]), r"^filters .*\(3, 3, 3, 6\)"),
        (lambda: nn.conv2d(X, W[:0]), r"^filters .*\(0, 3, 4, 6\)"),
        (lambda: nn.conv2d(X[:, :0], W), r"^input .*\(2, 0, 5, 4\)"),
        (lambda: nn.conv2d(X[:, :2], W), r"^filters .* input of shape \(2, 2, 5, 4\)"),
        (lambda: nn.conv2d(X, W, groups=3), "^groups .*3"),
        (lambda: nn.conv2d(X, W, groups=0), "^groups .*0"),
        (lambda: nn.conv2d(X, W, strides=0), "^strides .*0"),
        (lambda: nn.conv2d(X, W, strides=(1, 2, 3)), r"^strides .*\(1, 2, 3\)"),
        (lambda: nn.conv2d(X, W, dilations=-1), "^dilations .*-1"),
        (lambda: nn.conv2d(X, W, padding="full"), "^padding .*'full'"),
        (lambda: nn.conv2d(X, W, padding=-1), "^padding .*-1"),
        (lambda: nn.conv2d(X, W, bias=np.ones(4)), r"^bias .*\(4,\)"),
        (lambda: nn.conv2d(X, W, activation="step"), "^activation .*'step'"),
        (lambda: nn.conv2d(X, W, algorithm="fft"), "^algorithm .*'fft'"),
        (lambda: nn.conv2d_backward(G[:1], X, W), r"^grad .*\(1, 3, 3, 6\)"),
        (lambda: nn.conv2d_backward_input(G, W, (2, 5, 5)), r"^input_shape .*\(2, 5, 5\)"),
        (lambda: nn.conv2d_backward_input(G, W, (2, 5, -5, 4)), r"^input_shape .*\(2, 5, -5, 4\)"),
        (lambda: nn.conv2d_backward_input(G, W, (2, 6, 5, 4)), r"^grad .*\(2, 3, 3, 6\)"),
        (lambda: nn.conv2d_backward_filters(G, X, 3), "^filters_shape .*3"),
        (lambda: nn.conv2d_transpose(G, W[..., :5]), r"^filters must have 6 channels .*\(3, 3, 4, 5\)"),
        (lambda: nn.conv2d_transpose(G, W, bias=np.ones(6)), r"^bias .*\(6,\)"),
        (lambda: nn.conv2d_transpose(G, W, output_padding=1), "^output_padding .*1"),
        (lambda: nn.conv2d_transpose(G, W, activation="step"), "^activation .*'step'"),
        (lambda: nn.conv2d_transpose(G, W, algorithm="fft"), "^algorithm .*'fft'"),
        (
            lambda: nn.conv2d_transpose_backward(X[:1], G, W),
            r"^grad must have shape \(2, 5, 5, 4\), got \(1, 5, 5, 4\)",
        ),
        (lambda: nn.conv2d_backward_filters(G, X, (2, 3, 4, 6)), r"^grad .*\(2, 3, 3, 6\)"),
    ],
)
def test_values_that_do_not_fit_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", ["strides", "dilations", "groups", "padding"])
@pytest.mark.parametrize("value", [1.0, True, {"a": 1}, (1, 1.5)])
def test_types_that_do_not_fit_are_named(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} "):
        nn.conv2d(X, W, **{name: value})
