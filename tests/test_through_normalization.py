"""Gradients that batch normalisation leaves to the convolution before it: the bits of those that are written first."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_equal, bytes_past_the_caches, normals

import fastcnn
from fastcnn import nn
from fastcnn._core import _conv, _depthwise, _runtime
from fastcnn.graph import Graph
from fastcnn.layers import Activation, Add, BatchNormalization, Conv2D, DepthwiseConv2D, GlobalAveragePooling2D
from fastcnn.nn.normalization import NormalizedGradient, normalized_gradient, written_gradient

pytestmark = pytest.mark.usefixtures("isa")


def gradient(shape, dtype, activation="relu6", training=True):
    """One on its way, of positive and negative numbers on both sides of what the activation lets through."""
    g, z = normals(*shape, dtype=dtype), normals(*shape, dtype=dtype, seed=1)
    offset, scale = (normals(shape[-1], dtype=dtype, seed=i) + 1 for i in (2, 3))
    return normalized_gradient(g, z, *nn.moments(z), 4 * scale, 1e-3, training, offset, activation)[0]


def both_ways(grad, x, w, *options):
    """The gradients from one pass, whatever the cost model thinks of it, and those of a gradient that was written."""
    geometry, _ = nn.conv._geometry(x.shape, w.shape, *options)
    dx, dw = np.full_like(x, np.nan), np.full_like(w, np.nan)
    engine = _conv if geometry.groups == 1 else _depthwise
    engine.backward_normalized(geometry, grad.operands(), x, w, dx, dw)
    return (dx, dw), nn.conv2d_backward(written_gradient(grad), x, w, *options, bias_grad=False)[:2]


def sizes(dtype):
    lanes = _runtime.lanes(np.dtype(dtype))
    return sorted({1, 3, max(1, lanes - 1), lanes, lanes + 1, 2 * lanes + 3, 6 * lanes, 7 * lanes + 1})


@pytest.mark.parametrize(("activation", "training"), [("relu6", True), ("relu", True), (None, True), ("relu", False)])
@pytest.mark.usefixtures("threads")
def test_products(dtype, activation, training):
    for i, k in enumerate(sizes(dtype)):
        for c in (sizes(dtype)[-1 - i], 5):
            for images, height, width in ((1, 3, 7), (3, 40, 31), (17, 13, 16)):
                shape = images, height, width
                operands = normals(*shape, c, dtype=dtype), normals(1, 1, c, k, dtype=dtype)
                grad = gradient((*shape, k), dtype, activation, training)
                found, wanted = both_ways(grad, *operands, 1, "VALID", 1, 1)
                for a, b in zip(found, wanted, strict=True):
                    assert_equal(a, b, dtype)


WINDOWS = [(3, 1, "SAME", 1), (3, 2, "SAME", 1), (3, 1, "VALID", 1), (5, 1, "SAME", 1), (5, 2, 1, 1), (3, 1, 4, 2),
           ((1, 3), (2, 1), "VALID", 1), (2, 3, "VALID", 1)]  # fmt: skip


@pytest.mark.parametrize(("ksize", "strides", "padding", "dilations"), WINDOWS, ids=str)
@pytest.mark.usefixtures("threads")
def test_depthwise(dtype, ksize, strides, padding, dilations):
    rows, cols = ksize if isinstance(ksize, tuple) else (ksize, ksize)
    for c in sizes(dtype)[1:]:
        for images, height, width in ((1, 9, 10), (3, 40, 17), (9, 14, 13)):
            x, w = normals(images, height, width, c, dtype=dtype), normals(rows, cols, 1, c, dtype=dtype)
            options = strides, padding, dilations, c
            grad = gradient(nn.conv2d(x, w, *options).shape, dtype)
            found, wanted = both_ways(grad, x, w, *options)
            for a, b in zip(found, wanted, strict=True):
                assert_equal(a, b, dtype)


def test_depthwise_of_images_past_the_caches():
    images = -(-bytes_past_the_caches() // (64 * 64 * 64 * 4))
    x, w = normals(images, 64, 64, 64, dtype=np.float32), normals(3, 3, 1, 64, dtype=np.float32)
    found, wanted = both_ways(gradient(x.shape, np.float32), x, w, 1, "SAME", 1, 64)
    for a, b in zip(found, wanted, strict=True):
        assert_equal(a, b, np.float32)


def test_which_convolutions_take_one(monkeypatch):
    seen = []
    for engine in (_conv, _depthwise):
        monkeypatch.setattr(engine, "backward_normalized", lambda g, *_: seen.append((g.channels, g.filters)))
    w = normals(1, 1, 64, 96, dtype=np.float32)
    for x, filters, options in (
        (normals(4, 32, 32, 64, dtype=np.float32), w, {}),  # the one that does
        (normals(4, 32, 32, 64, dtype=np.float32), w, {"bias_grad": True}),
        (normals(4, 32, 32, 64, dtype=np.float32), w, {"input_grad": False}),
        (normals(4, 32, 32, 64, dtype=np.float32), w, {"strides": 2}),
        (normals(4, 32, 32, 64, dtype=np.float32), normals(3, 3, 64, 96, dtype=np.float32), {"padding": "same"}),
        (normals(4, 32, 32, 64, dtype=np.float32), w.astype(np.float64), {}),
        (normals(1, 4, 4, 64, dtype=np.float32), w, {}),
        (normals(0, 4, 4, 64, dtype=np.float32), w, {}),
    ):
        options = {"bias_grad": False, **options}
        shape = {"strides": options.get("strides", 1), "padding": options.get("padding", "valid")}
        grad = gradient(nn.conv2d(x, filters, **shape).shape, np.float32, training=False) if x.size else None
        if grad is None:
            empty, c = np.empty((0, 4, 4, 96), np.float32), np.ones(96, np.float32)
            grad, *_ = normalized_gradient(empty, empty, c, c, c, 1e-3, True)
        before = len(seen)
        dx, dw, db = nn.conv2d_backward(grad, x, filters, **options)
        if len(seen) == before:
            expected = nn.conv2d_backward(written_gradient(grad), x, filters, **options)
            for a, b in zip((dx, dw, db), expected, strict=True):
                assert (a is b is None) or (a == b).all()
    assert seen == [(64, 96)]
    with pytest.raises(ValueError, match=r"^grad must have shape \(4, 32, 32, 96\), got \(4, 32, 31, 96\)"):
        nn.conv2d_backward(
            gradient((4, 32, 31, 96), np.float32), normals(4, 32, 32, 64, dtype=np.float32), w, bias_grad=False
        )


def network(shared=False, use_bias=False, activation=None):
    x = fastcnn.Input((40, 40, 24))
    y = Conv2D(64, 1, use_bias=use_bias, activation=activation)(x)
    y = Conv2D(64, 1, use_bias=use_bias, activation=activation)(y)
    z = BatchNormalization(activation="relu6")(y)
    y = Add()([z, y]) if shared else z
    y = DepthwiseConv2D(3, padding="same", use_bias=use_bias, activation=activation)(y)
    y = BatchNormalization()(y)
    y = Activation("relu")(y)
    y = Conv2D(24, 1, use_bias=use_bias, activation=activation)(y)
    y = BatchNormalization()(y)
    y = Activation("relu")(Add()([x, y]))
    model = fastcnn.Model(x, GlobalAveragePooling2D()(y), seed=0)
    model.compile(fastcnn.optimizers.SGD(0.1), "mean_squared_error")
    return model


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"use_bias": True}, {"activation": "relu"}], ids=str)
def test_training_is_the_same(options, monkeypatch):
    x, y = normals(23, 40, 40, 24, dtype=np.float32), normals(23, 24, dtype=np.float32)
    calls = []

    def counted(grad):
        calls.append(grad.shape)
        return written_gradient(grad)

    weights = []
    for takes in (Graph._takes_unwritten, lambda *_: False):
        monkeypatch.setattr(Graph, "_takes_unwritten", takes)
        for module in (nn.conv, fastcnn.layers.normalization):
            monkeypatch.setattr(module, "written_gradient", counted)
        model = network(**options)
        before = len(calls)
        for _ in range(2):
            model.train_on_batch(x, y)
        weights.append((model.get_weights(), len(calls) - before))
    (one, few), (other, many) = weights
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert many == 6
    if not options:
        assert few == 0 if _runtime.bytes_past_the_caches() < 23 * 40 * 40 * 64 * 4 else 2


def test_what_it_is():
    grad = gradient((3, 5, 4), np.float64)
    assert isinstance(grad, NormalizedGradient)
    assert grad.shape == (3, 5, 4) and len(grad) == 3
