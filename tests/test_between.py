"""Convolutions between batch normalisations: what they make and measure on the way is what would have been written."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_close, assert_equal, bytes_past_the_caches, normals

import fastcnn
from fastcnn import nn
from fastcnn._core import _runtime
from fastcnn.graph import Graph
from fastcnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    DepthwiseConv2D,
    GlobalAveragePooling2D,
    Layer,
    ReLU6,
)
from fastcnn.nn import between
from fastcnn.nn.normalization import (
    NormalizedGradient,
    NormalizedResult,
    SummedGradient,
    unwritten_gradient,
    unwritten_result,
    written_gradient,
    written_result,
)


def unwritten(shape, dtype, activation="relu6"):
    """A result of numbers on both sides of what the activation lets through."""
    x = normals(*shape, dtype=dtype, seed=4)
    offset, scale = (normals(shape[-1], dtype=dtype, seed=i) + 1 for i in (5, 6))
    return unwritten_result(x, *nn.moments(x), offset, 4 * scale, 1e-3, activation)


def gradient(shape, dtype, activation="relu6", training=True):
    g, z = normals(*shape, dtype=dtype), normals(*shape, dtype=dtype, seed=1)
    offset, scale = (normals(shape[-1], dtype=dtype, seed=i) + 1 for i in (2, 3))
    return unwritten_gradient(g, z, *nn.moments(z), 4 * scale, 1e-3, training, offset, activation)[0]


def check_forward(made, w, *options):
    """Of an unwritten input and a written one: the bits of the result, and its moments."""
    dtype = w.dtype.type
    for input in (made, written_result(made)):
        found = between.measured_conv2d(input, w, *options)
        wanted = nn.conv2d(written_result(made), w, *options, algorithm="direct")
        assert_equal(found.array, wanted, dtype)
        exact = wanted.astype(np.longdouble).reshape(-1, wanted.shape[3])
        mean, variance = exact.mean(0), exact.var(0)
        assert_close(found.mean, mean, dtype, depth=4, scale=np.sqrt(variance) + 0.1 * np.abs(mean))
        assert_close(found.variance, variance, dtype, depth=40, scale=variance + 1e-9)


def check_backward(grad, made, w, *options):
    """Of an unwritten input and a written one: the bits of both gradients, and the sums."""
    dtype = w.dtype.type
    x = written_result(made)
    dx, dw, _ = nn.conv2d_backward(written_gradient(grad), x, w, *options, bias_grad=False)
    for input in (x, made):
        found, dfilters = between.normalized_backward(grad, input, w, *options)
        assert_equal(found.grad if input is made else found, dx, dtype)
        assert_equal(dfilters, dw, dtype)
    g, z = (a.reshape(-1, dx.shape[3]).astype(np.longdouble) for a in (dx, made.x))
    y = x.reshape(g.shape)
    if made.activation:
        g = np.where((y > 0) & ((y < 6) | (made.activation == "relu")), g, 0)
    for actual, terms in ((found.total, g), (found.dot, g * (z - made.mean))):
        assert_close(actual, terms.sum(0), dtype, depth=len(g), scale=np.sqrt((terms**2).sum(0)))


def sizes(dtype):
    lanes = _runtime.lanes(np.dtype(dtype))
    return sorted({1, 3, max(1, lanes - 1), lanes, lanes + 1, 2 * lanes + 3, 6 * lanes, 7 * lanes + 1})


@pytest.mark.parametrize(("activation", "training"), [("relu6", True), ("relu", True), (None, True), ("relu", False)])
@pytest.mark.usefixtures("isa", "threads")
def test_products(dtype, activation, training):
    for i, k in enumerate(sizes(dtype)):
        for c in (sizes(dtype)[-1 - i], 5):
            for shape in ((1, 3, 7), (3, 40, 31), (17, 13, 16))[:: 1 if activation == "relu6" else 2]:
                made, w = unwritten((*shape, c), dtype, activation), normals(1, 1, c, k, dtype=dtype)
                check_forward(made, w, 1, "VALID", 1, 1)
                check_backward(gradient((*shape, k), dtype, activation, training), made, w, 1, "VALID", 1, 1)


WINDOWS = [
    (3, 1, "SAME", 1),
    (3, 2, "SAME", 1),
    (3, 1, "VALID", 1),
    (5, 1, "SAME", 1),
    (5, 2, 1, 1),
    (3, 1, 4, 2),
    (3, 1, 2, 3),
    ((1, 3), (2, 1), "VALID", 1),
    (2, 3, "VALID", 1),
]


@pytest.mark.parametrize(("ksize", "strides", "padding", "dilations"), WINDOWS, ids=str)
@pytest.mark.usefixtures("isa", "threads")
def test_depthwise(dtype, ksize, strides, padding, dilations):
    rows, cols = ksize if isinstance(ksize, tuple) else (ksize, ksize)
    for c in sizes(dtype)[1:]:
        for images, height, width in ((1, 9, 10), (3, 28, 17), (9, 10, 9)):
            made, w = unwritten((images, height, width, c), dtype), normals(rows, cols, 1, c, dtype=dtype)
            options = strides, padding, dilations, c
            check_forward(made, w, *options)
            check_backward(gradient(nn.conv2d(made.x, w, *options).shape, dtype), made, w, *options)


@pytest.mark.parametrize(
    ("ksize", "strides", "padding", "dilations"),
    [(3, 2, 1, 1), (7, 2, 3, 1), (5, 1, "VALID", 1), (2, 1, "SAME", 3)],
    ids=str,
)
@pytest.mark.usefixtures("isa", "threads")
def test_filters_alone(dtype, ksize, strides, padding, dilations):
    for c, k in ((3, 32), (1, 5), (4, 17), (9, 64)):
        for images, height, width in ((1, 11, 12), (5, 40, 31), (37, 9, 10)):
            x, shape = normals(images, height, width, c, dtype=dtype), (ksize, ksize, c, k)
            options = strides, padding, dilations, 1
            grad = gradient(nn.conv2d(x, np.zeros(shape, dtype), *options).shape, dtype)
            found = between.normalized_backward_filters(grad, x, shape, *options)
            wanted = nn.conv2d_backward_filters(written_gradient(grad), x, shape, *options, algorithm="direct")
            assert_equal(found, wanted, dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("strides", [1, 2])
def test_images_past_the_caches(strides):
    images = -(-bytes_past_the_caches() // (64 * 64 * 64 * 4))
    made = unwritten((images, 64, 64, 64), np.float32)
    w, options = normals(3, 3, 1, 64, dtype=np.float32), (strides, "SAME", 1, 64)
    check_forward(made, w, *options)
    check_backward(gradient(nn.conv2d(made.x, w, *options).shape, np.float32), made, w, *options)
    if strides == 1:
        made = unwritten((images, 64, 64, 24), np.float32)
        check_forward(made, normals(1, 1, 24, 64, dtype=np.float32), 1, 0, 1, 1)
        made, w = unwritten((images, 64, 64, 64), np.float32), normals(1, 1, 64, 24, dtype=np.float32)
        check_backward(gradient((images, 64, 64, 24), np.float32), made, w, 1, 0, 1, 1)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("groups", [1, 32])
def test_a_large_mean_costs_no_digits(groups):
    x = normals(6, 40, 40, 32, dtype=np.float32)
    w = np.zeros((1, 1, 32 // groups, 32), np.float32)
    w[0, 0] = np.eye(32) if groups == 1 else 1
    made = NormalizedResult(x, *(np.full(32, v, np.float32) for v in (0, 1, 3000)), None)
    y = between.measured_conv2d(made, w, 1, 0, 1, groups)
    exact = (x + np.float32(3000)).astype(np.float64).reshape(-1, 32)
    np.testing.assert_allclose(y.mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(y.variance, exact.var(0), rtol=1e-4)


@pytest.mark.usefixtures("isa")
def test_threads_do_not_change_a_bit(dtype):
    for w, options in (
        (normals(1, 1, 40, 33, dtype=dtype), (1, 0, 1, 1)),
        (normals(3, 3, 1, 40, dtype=dtype), (2, "SAME", 1, 40)),
    ):
        made = unwritten((7, 31, 33, 40), dtype)
        grad = gradient(nn.conv2d(made.x, w, *options).shape, dtype)
        results = []
        for threads in (1, 2, 3, 5, 40):
            with fastcnn.threads(threads):
                y = between.measured_conv2d(made, w, *options)
                dx, dw = between.normalized_backward(grad, made, w, *options)
                results.append([a.tobytes() for a in (y.array, y.mean, y.variance, dx.grad, dx.total, dx.dot, dw)])
        assert all(result == results[0] for result in results)


def test_which_convolutions_take_what_is_unwritten():
    w = normals(1, 1, 64, 96, dtype=np.float32)
    images, three = normals(4, 32, 32, 64, dtype=np.float32), normals(3, 3, 64, 96, dtype=np.float32)
    for x, filters, options, pays in (
        (images, w, (1, 0, 1, 1), True),
        (images, w, (2, 0, 1, 1), False),
        (images, three, (1, 1, 1, 1), False),
        (images, w.astype(np.float64), (1, 0, 1, 1), False),
        (images[:1, :8, :8].copy(), w, (1, 0, 1, 1), False),
        (images[:0], w, (1, 0, 1, 1), False),
        (images, normals(3, 3, 1, 64, dtype=np.float32), (1, 1, 1, 64), False),  # it is not large
        (images, normals(3, 3, 2, 64, dtype=np.float32), (1, 1, 1, 32), False),
    ):
        made = NormalizedResult(x, *(np.ones(64, np.float32) for _ in range(3)), "relu")
        taken, y = between.measured(made, filters, *options)
        assert isinstance(taken, NormalizedResult) == pays
        expected = nn.conv2d(written_result(made), filters, *options)
        if x.size == 0:
            assert isinstance(y, np.ndarray) and y.shape == expected.shape
            continue
        assert (y.array == expected).all() and y.shape == expected.shape
        mean, variance = nn.moments(expected)
        np.testing.assert_allclose(y.mean, mean, atol=1e-5)
        np.testing.assert_allclose(y.variance, variance, rtol=1e-4, atol=1e-6)
        grad = gradient(expected.shape, np.float32)
        for flags in ((True, False), (False, False), (True, True)):
            flags = dict(zip(("input_grad", "bias_grad"), flags, strict=True))
            dx, dw, db = between.gradients(grad, taken, filters, *options, **flags)
            assert isinstance(dx, SummedGradient) == (pays and flags == {"input_grad": True, "bias_grad": False})
            written = nn.conv2d_backward(written_gradient(grad), written_result(made), filters, *options, **flags)
            for a, b in zip((dx.grad if isinstance(dx, SummedGradient) else dx, dw, db), written, strict=True):
                assert (a is b is None) or (a == b).all()
    with pytest.raises(ValueError, match=r"^grad must have shape \(4, 32, 32, 96\), got \(4, 32, 31, 96\)"):
        between.gradients(
            gradient((4, 32, 31, 96), np.float32), images, w, 1, 0, 1, 1, input_grad=True, bias_grad=False
        )


def test_which_first_convolutions_make_theirs():
    images, large = normals(2, 64, 64, 3, dtype=np.float32), normals(1, 64, 64, 512, dtype=np.float32)
    for x, shape, strides, pays in (
        (images, (3, 3, 3, 32), 1, True),
        (images, (7, 7, 3, 64), 2, True),
        (images[:1], (7, 7, 3, 64), 2, False),  # few pixels
        (large, (1, 1, 512, 1024), 1, False),  # large filters, which few threads would have parts of
        (images[:0], (3, 3, 3, 32), 1, False),
    ):
        filters = normals(*shape, dtype=np.float32)
        assert between._takes_filters_alone(x, filters, strides, "same", 1, 1) == pays


def network(shared=False, frozen=None, relus=False, norm=BatchNormalization, dtypes=(None, None), last=None, **options):
    options = {"use_bias": False, **options}
    conv_type, norm_type = ({} if dtype is None else {"dtype": dtype} for dtype in dtypes)

    def normalized(y):
        y = norm(activation=None if relus else "relu6", **norm_type)(y)
        return ReLU6()(y) if relus else y

    x = fastcnn.Input((40, 40, 24))
    y = Conv2D(64, 1, **options, **conv_type)(x)
    y = normalized(Conv2D(64, 1, **options, **conv_type)(y))
    y = Add()([y, y]) if shared else y
    y = normalized(DepthwiseConv2D(3, padding="same", **options, **conv_type)(y))
    y = Conv2D(24, 1, **options)(y)
    y = Activation("relu")(Add()([x, BatchNormalization(**({} if last is None else {"dtype": last}))(y)]))
    y = BatchNormalization()(Conv2D(32, 3, **options)(y))
    model = fastcnn.Model(x, GlobalAveragePooling2D()(y), seed=0)
    for layer in [layer for layer in model.layers if isinstance(layer, BatchNormalization)][frozen or slice(0)]:
        layer.trainable = False
    return model


class Stopped(BatchNormalization):
    def backward(self, grad, cache):
        return super().backward(np.clip(grad, -1e-4, 1e-4), cache)


class Given(Layer):
    """What a layer of one's own may return: views, other types."""

    def __init__(self, change, **kwargs):
        super().__init__(**kwargs)
        self.change = change

    def compute_output_shape(self, input_shape):
        return input_shape

    def forward(self, x, training=False):
        return self.change(x), None

    def backward(self, grad, cache):
        return grad.astype(np.float32), {}


def of_own(change):
    model = fastcnn.Sequential(
        [
            fastcnn.Input((40, 40, 24)),
            Conv2D(32, 1, use_bias=False),
            Given(change),
            BatchNormalization(activation="relu"),
            Conv2D(32, 1, use_bias=False),
            BatchNormalization(),
            Given(change),
            Conv2D(32, 1, use_bias=False),
            BatchNormalization(activation="relu"),
            Given(change),
            DepthwiseConv2D(3, use_bias=False),
            BatchNormalization(),
            GlobalAveragePooling2D(),
        ],
        seed=0,
    )
    model.compile(fastcnn.optimizers.SGD(0.1), "mean_squared_error")
    return model


def trained_both_ways(build, monkeypatch, batch=23, checkpoints=False):
    """Compare losses, gradients and weights of three steps, as they are and with every array written; return how many
    are."""
    written = []
    for name in ("written_result", "written_gradient"):
        function = getattr(nn.normalization, name)
        for module in (between, fastcnn.layers.normalization):
            if hasattr(module, name):
                counted = lambda a, name=name, function=function: written.append(name) or function(a)  # noqa: E731
                monkeypatch.setattr(module, name, counted)
    found = []
    for own in (False, True):
        with monkeypatch.context() as patch:
            if own:
                patch.setattr(Graph, "_is_bare", lambda *_: False)
            model = build()
            model.compile(fastcnn.optimizers.SGD(0.1), "mean_squared_error", checkpoint_activations=checkpoints)
            x, y = normals(batch, 40, 40, 24, dtype=np.float32), normals(batch, 32, dtype=np.float32)
            del written[:]
            losses, gradients = model.loss_and_gradients(x, y)
            weights = []
            if len({weight.dtype for weight in model.get_weights()}) == 1:
                del written[:]
                losses = [model.train_on_batch(x, y) for _ in range(3)]
                weights = model.get_weights()
            found.append((losses, list(gradients.values()), weights, len(written)))
    (losses, gradients, weights, _), (other_losses, other_gradients, other_weights, _) = found
    np.testing.assert_allclose(losses, other_losses, rtol=1e-5)
    for a, b in zip(gradients, other_gradients, strict=True):  # steps of weights alone are below their tolerance
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 + 2e-3 * np.abs(b).max(initial=0))
    for a, b in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    return [count for *_, count in found]


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, 3),  # in three steps: the gradient before the 3x3 filters
        ({"relus": True}, 3),
        ({"shared": True}, 3),
        ({"frozen": slice(0, 1)}, 3),
        ({"frozen": slice(1, 2)}, 3),
        ({"use_bias": True}, 12),
        ({"activation": "relu"}, 12),
        ({"norm": Stopped}, 9),
        ({"dtypes": ("float64", None)}, 2),
        ({"dtypes": (None, "float64")}, 3),
        ({"dtypes": ("float64", "float64")}, 2),
        ({"last": "float64"}, 3),  # in one: the last product has one type before it and another one behind
    ],
    ids=str,
)
@pytest.mark.parametrize("checkpoints", [False, True])
def test_training_is_the_same(options, written, checkpoints, monkeypatch):
    """As where every array is written, but for the rounding of sums."""
    few, _ = trained_both_ways(lambda: network(**options), monkeypatch, checkpoints=checkpoints)
    depthwise = np.empty((23, 40, 40, 64), np.float32), np.empty((3, 3, 1, 64), np.float32), 1, "same", 1, 64
    if not checkpoints and between._pays(*depthwise):
        assert few == written


CHANGES = {
    "a view": lambda x: x[:, ::-1],
    "of strides": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "broadcast": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "integers": lambda x: np.round(4 * x).astype(np.int64),
    "Fortran order": lambda x: np.asfortranarray(x),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_layers_of_ones_own_return(change, monkeypatch):
    trained_both_ways(lambda: of_own(CHANGES[change]), monkeypatch, batch=9)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_small_batches(batch, monkeypatch):
    trained_both_ways(network, monkeypatch, batch=batch)


def test_what_stays_unwritten_is_seen_from_outside():
    grad, made = gradient((3, 5, 4), np.float64), unwritten((3, 5, 4), np.float64)
    assert isinstance(grad, NormalizedGradient) and isinstance(made, NormalizedResult)
    assert grad.shape == made.shape == (3, 5, 4) and len(grad) == 3
    summed = SummedGradient(np.ones((3, 4)), np.ones(4), np.ones(4))
    assert summed.shape == (3, 4) and len(summed) == 3
