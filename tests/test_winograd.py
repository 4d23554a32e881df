"""Winograd's algorithm: result and gradients against the reference, and when it is chosen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import reference
from checks import assert_equal, normals

import fastcnn
from fastcnn import nn
from fastcnn._core._conv import Geometry
from fastcnn.nn import _algorithms

pytestmark = pytest.mark.usefixtures("isa")

# Images, filters and padding: tiles cut off on either side, single pixels, channels about the vector lengths, more
# than one panel, more than one block of tiles, tiles enough for parts that threads share nothing of, and few of them;
# filters too large for L2, of few tiles and of some.
CASES = [
    ((1, 4, 4, 3), 5, 1),
    ((2, 7, 9, 16), 16, 1),
    ((1, 13, 6, 17), 33, 0),
    ((2, 14, 14, 70), 66, 1),
    ((1, 3, 3, 1), 1, 0),
    ((1, 5, 5, 31), 64, ((0, 2), (3, 1))),
    ((1, 8, 8, 130), 130, 2),
    ((1, 1, 1, 5), 5, 1),
    ((3, 12, 12, 40), 20, 5),
    ((2, 40, 40, 32), 32, 1),
    ((5, 41, 42, 19), 9, 1),
    ((1, 3, 7, 301), 470, 1),
    ((1, 10, 11, 130), 470, 1),
    ((1, 27, 26, 290), 7, 1),
]
# With dilations: phases of as many pixels or one less, of several tiles, of one, and of single pixels.
DILATED = [
    ((1, 13, 17, 18), 33, 2, 2),
    ((2, 9, 10, 16), 20, ((1, 0), (5, 3)), (4, 2)),
    ((1, 5, 40, 8), 17, ((1, 1), (7, 6)), (1, 7)),
    ((2, 6, 6, 5), 9, 9, 9),
    ((1, 30, 28, 130), 130, 3, 3),
    ((3, 41, 42, 19), 9, 2, 2),
    ((1, 4, 6, 300), 471, 2, 2),
]


def assert_rms(actual, expected, dtype):
    """Compare in the root mean square of what is expected, which a few hundred units of rounding stay below."""
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = np.abs(actual - expected) / np.sqrt(np.mean(expected**2))
    assert error.max() < 1000 * np.finfo(dtype).eps
    assert np.sqrt(np.mean(error**2)) < 100 * np.finfo(dtype).eps


TILES = ("winograd-2x2", "winograd-4x4", "winograd-6x6")


@pytest.mark.parametrize("algorithm", TILES)
@pytest.mark.parametrize(("shape", "filters", "padding", "dilations"), [*((*case, 1) for case in CASES), *DILATED])
def test_result_and_gradients(shape, filters, padding, dilations, algorithm, dtype, threads):
    x, w, b = normals(*shape), normals(3, 3, shape[3], filters, seed=1), normals(filters, seed=2)
    x, w, b = x.astype(dtype), w.astype(dtype), b.astype(dtype)
    pads = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    wide = x.astype(np.float64), w.astype(np.float64)
    places = {"padding": pads, "dilations": (dilations, dilations) if isinstance(dilations, int) else dilations}
    expected = np.maximum(reference.conv2d(*wide, **places) + b, 0)
    options = {"padding": padding, "dilations": dilations, "algorithm": algorithm}
    y = nn.conv2d(x, w, bias=b, activation="relu", **options)
    assert_rms(y, expected, dtype)
    assert_equal(nn.conv2d(x, w, bias=b, activation="relu6", **options), np.minimum(y, 6), dtype)
    prepared = nn.PreparedConv2D(w, x.shape, bias=b, activation="relu", **options)
    assert_equal(prepared(x), y, dtype)
    grad = normals(*expected.shape, seed=3).astype(dtype)
    y = nn.conv2d(x, w, bias=b, residual=grad, **options)
    assert_rms(y, reference.conv2d(*wide, **places) + b + grad, dtype)
    assert_equal(prepared(x, residual=grad), np.maximum(y, 0), dtype)
    actual = nn.conv2d_backward(grad, x, w, **options, bias_grad=False)
    expected = reference.conv2d_backward(grad.astype(np.float64), *wide, **places)
    for dvalue, dexpected in zip(actual[:2], expected, strict=False):
        assert_rms(dvalue, dexpected, dtype)


@pytest.mark.parametrize(
    ("algorithm", "most"), [("winograd-2x2", 1e-6), ("winograd-4x4", 5e-6), ("winograd-6x6", 1e-5)]
)
def test_the_errors_of_a_layer_of_resnet50_are_those_documented(algorithm, most):
    x, w, grad = normals(1, 14, 14, 256), normals(3, 3, 256, 256, seed=1), normals(1, 14, 14, 256, seed=2)
    x, w, grad = x.astype(np.float32), w.astype(np.float32), grad.astype(np.float32)
    for run in (
        lambda x, w, grad, name: nn.conv2d(x, w, padding=1, algorithm=name),
        lambda x, w, grad, name: nn.conv2d_backward_input(grad, w, x.shape, padding=1, algorithm=name),
        lambda x, w, grad, name: nn.conv2d_backward_filters(grad, x, w.shape, padding=1, algorithm=name),
    ):
        exact = run(*(array.astype(np.float64) for array in (x, w, grad)), "direct")
        rms = np.sqrt(np.mean((run(x, w, grad, algorithm) - exact) ** 2) / np.mean(exact**2))
        assert np.finfo(np.float32).eps < rms < most < 5e-5


def test_large_tiles_overflow_where_documented():
    w = np.full((3, 3, 8, 8), 0.01, np.float32) * np.where(np.indices((3, 3, 8, 8)).sum(0) % 2, 1, -1)
    x = normals(1, 14, 14, 8, dtype=np.float32).clip(-1, 1)
    for scale, finite in ((1e34, ("direct", *TILES)), (1e37, ("direct", "winograd-2x2"))):
        for algorithm in ("direct", *TILES):
            y = nn.conv2d(x * np.float32(scale), w.astype(np.float32), padding=1, algorithm=algorithm)
            assert np.isfinite(y).all() == (algorithm in finite)


@pytest.mark.parametrize("algorithm", TILES)
def test_threads_do_not_change_a_bit(algorithm, dtype):
    for shape, filters in (
        ((1, 30, 30, 64), 64),
        ((1, 8, 8, 40), 200),
        ((9, 12, 12, 33), 70),
        ((6, 41, 42, 24), 40),
        ((1, 3, 7, 301), 470),
        ((1, 27, 26, 290), 7),
    ):
        x, w = normals(*shape, dtype=dtype), normals(3, 3, shape[3], filters, dtype=dtype, seed=1)
        grad = normals(*shape[:3], filters, dtype=dtype, seed=2)
        results = []
        for threads in (1, 2, 3, 5):
            with fastcnn.threads(threads):
                y = nn.conv2d(x, w, padding="same", algorithm=algorithm)
                dx, dw, _ = nn.conv2d_backward(grad, x, w, padding="same", algorithm=algorithm)
            results.append((y.tobytes(), dx.tobytes(), dw.tobytes()))
        assert len(set(results)) == 1


def test_auto_takes_winograd_for_large_float32_layers_alone():
    for size, channels, algorithm in ((4, 8, "direct"), (56, 64, "winograd")):
        x = normals(1, size, size, channels, dtype=np.float32)
        w = normals(3, 3, channels, channels, dtype=np.float32)
        other = "direct" if algorithm == "winograd" else "winograd"
        assert nn.PreparedConv2D(w, x.shape, padding="same").algorithm.startswith(algorithm)
        for op in (
            lambda x=x, w=w, **options: nn.conv2d(x, w, padding="same", **options),
            lambda x=x, w=w, **options: nn.conv2d_backward_input(x, w, x.shape, padding="same", **options),
            lambda x=x, w=w, **options: nn.conv2d_backward_filters(x, x, w.shape, padding="same", **options),
        ):
            assert_equal(op(), op(algorithm=algorithm), np.float32)
            assert (op() != op(algorithm=other)).any()
    x, w = normals(1, 56, 56, 64), w.astype(np.float64)
    direct = nn.conv2d(x, w, padding="same", algorithm="direct")
    assert_equal(nn.conv2d(x, w, padding="same"), direct, np.float64)


@pytest.mark.parametrize(("costs", "few_pixels"), [("_NEAR", "winograd-2x2"), ("_FAR", "direct")])
def test_far_caches_speak_against_transformed_filters_where_pixels_are_few(costs, few_pixels, monkeypatch):
    monkeypatch.setattr(_algorithms, "COSTS", getattr(_algorithms, costs))
    chosen = {}
    for shape in ((64, 32, 64), (1, 56, 64), (1, 4, 512)):
        images, size, channels = shape
        image = images, size, size, channels
        geometry = Geometry(image, (3, 3, channels, channels), image, (1, 1), (1, 1), (1, 1), 1)
        for result in ("forward", "prepared", "streamed", "input", "filters"):
            chosen[shape, result] = _algorithms.algorithm_of(geometry, "auto", result, True, 16)
            assert _algorithms.algorithm_of(geometry, "auto", result, False, 8) == "direct"
    assert chosen[(1, 4, 512), "prepared"] == few_pixels
    assert chosen[(1, 4, 512), "streamed"] == "direct"
    assert {algorithm for (shape, _), algorithm in chosen.items() if shape[0] == 64} == {"winograd-4x4"}
    assert all(algorithm != "direct" for (shape, _), algorithm in chosen.items() if shape[2] == 64)


def test_the_places_that_cut_shapes_are_those_listed():
    package = Path(__file__).parents[1] / "fastcnn"
    if not (package / "_core" / "_gemm.pyx").exists():
        pytest.skip("this is no checkout")
    rows = [row for row in _algorithms.__doc__.splitlines() if row.startswith("- ")]
    places = [(re.search(r"``([\w/]+\.pyx?)``", row)[1], re.findall(r"``(\w+)``", row)) for row in rows]
    assert sum(len(names) for _, names in places) == 14
    for file, names in places:
        for name in names:
            assert re.search(rf"def [^=]*\b{name}\(", (package / file).read_text()), f"{file} has no {name}"


@pytest.mark.parametrize(
    ("size", "options"),
    [(5, {}), (3, {"strides": 2}), (3, {"groups": 2})],
    ids=["5x5", "strides", "groups"],
)
def test_winograd_is_refused_where_it_does_not_fit(size, options):
    x, w = np.ones((1, 12, 12, 4)), np.ones((size, size, 4 // options.get("groups", 1), 4))
    with pytest.raises(ValueError, match=r"^algorithm 'winograd' needs 3x3 filters"):
        nn.conv2d(x, w, algorithm="winograd", **options)


def test_maxima_of_a_dilated_layer_are_not_taken_on_the_way():
    x, w = normals(1, 56, 56, 64, dtype=np.float32), normals(3, 3, 64, 64, dtype=np.float32, seed=1)
    options = {"padding": 2, "dilations": 2}
    assert nn.PreparedConv2D(w, x.shape, **options).algorithm.startswith("winograd")
    prepared = nn.PreparedConv2D(w, x.shape, **options, max_pool=True)
    assert prepared.algorithm == "direct"
    wanted = nn.max_pool(nn.conv2d(x, w, **options, algorithm="direct"), 2)
    assert_equal(prepared(x), wanted, np.float32)
    y = nn.conv2d(x, w, **options, algorithm="winograd")
    pooled, argmax = nn.conv2d_max_pool_with_argmax(x, w, **options)
    assert_equal(pooled, nn.max_pool(y, 2), np.float32)
    assert_equal(argmax, nn.max_pool_with_argmax(y, 2)[1], np.uint8)
    with pytest.raises(ValueError, match=r"^algorithm 'winograd' needs 3x3 filters, strides and dilations of 1"):
        nn.PreparedConv2D(w, x.shape, **options, algorithm="winograd", max_pool=True)


def test_no_images():
    x, w = np.ones((0, 8, 8, 4)), np.ones((3, 3, 4, 4))
    for dilations in (1, 2):
        options = {"padding": dilations, "dilations": dilations, "algorithm": "winograd"}
        y = nn.conv2d(x, w, **options)
        assert y.shape == (0, 8, 8, 4)
        dx, dw, _ = nn.conv2d_backward(y, x, w, **options)
        assert dx.shape == (0, 8, 8, 4)
        assert_equal(dw, np.zeros(w.shape), np.float64)
