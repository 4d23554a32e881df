"""One harness that every layer passes, and what is particular to single ones."""

from __future__ import annotations

import copy
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference import numerical_gradient_by

import fastcnn
from fastcnn import layers, nn
from fastcnn.initializers import Initializer
from fastcnn.layers import (
    GELU,
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPool2D,
    HardSwish,
    Input,
    Layer,
    LayerNormalization,
    LeakyReLU,
    MaxPool2D,
    Multiply,
    PReLU,
    ReLU,
    ReLU6,
    Reshape,
    SeparableConv2D,
    SiLU,
    Softmax,
    SpatialDropout2D,
    UpSampling2D,
    ZeroPadding2D,
    register,
)
from fastcnn.registry import describe, restore


@register
class Scale(Layer):
    """A layer as a user writes one."""

    def build(self, input_shape):
        self.add_weight("factor", (input_shape[-1],), "ones")

    def forward(self, x, training=False):
        return x * self.factor, x

    def backward(self, grad, x):
        return grad * self.factor, {"factor": (grad * x).sum(axis=tuple(range(x.ndim - 1)))}


IMAGE, ROW = (6, 5, 4), (7,)

# What makes the layer, and the shapes of a sample before and after it; a list of shapes for layers of several inputs.
TABLE = {
    "conv": (lambda: Conv2D(3, 3, padding="same", activation="relu"), IMAGE, (6, 5, 3)),
    "conv strided": (lambda: Conv2D(3, (2, 3), strides=2, padding=((1, 0), (2, 1)), use_bias=False), IMAGE, (3, 3, 3)),
    "conv dilated": (lambda: Conv2D(2, 2, dilation_rate=2, activation="tanh"), IMAGE, (4, 3, 2)),
    "conv grouped": (lambda: Conv2D(6, 3, groups=2, padding=1, activation="softmax"), IMAGE, (6, 5, 6)),
    "conv, gelu": (lambda: Conv2D(2, 3, strides=2, activation="gelu"), IMAGE, (2, 2, 2)),
    "conv transposed": (
        lambda: Conv2DTranspose(3, 3, strides=2, padding="same", activation="sigmoid"),
        IMAGE,
        (12, 10, 3),
    ),
    "conv transposed, valid": (lambda: Conv2DTranspose(2, (2, 3), strides=(3, 1), use_bias=False), IMAGE, (18, 7, 2)),
    "conv transposed, by pixels": (
        lambda: Conv2DTranspose(3, 3, strides=2, padding=1, output_padding=1, activation="silu"),
        IMAGE,
        (12, 10, 3),
    ),
    "conv transposed, dilated": (
        lambda: Conv2DTranspose(2, 2, dilation_rate=2, padding=((1, 0), (0, 2)), activation="tanh"),
        IMAGE,
        (7, 5, 2),
    ),
    "separable": (lambda: SeparableConv2D(3, 3, strides=2, padding="same", activation="gelu"), IMAGE, (3, 3, 3)),
    "separable x 2": (
        lambda: SeparableConv2D(5, 2, depth_multiplier=2, dilation_rate=2, use_bias=False),
        IMAGE,
        (4, 3, 5),
    ),
    "depthwise": (lambda: DepthwiseConv2D(3, strides=2, padding="same"), IMAGE, (3, 3, 4)),
    "depthwise x 2": (
        lambda: DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, activation="sigmoid"),
        IMAGE,
        (4, 3, 8),
    ),
    "max pool": (lambda: MaxPool2D(2), IMAGE, (3, 2, 4)),
    "max pool padded": (lambda: MaxPool2D(3, strides=2, padding="same"), IMAGE, (3, 3, 4)),
    "average pool": (lambda: AveragePooling2D((3, 2), strides=1, padding="same"), IMAGE, (6, 5, 4)),
    "global average": (lambda: GlobalAveragePooling2D(), IMAGE, (4,)),
    "global average, keepdims": (lambda: GlobalAveragePooling2D(keepdims=True), IMAGE, (1, 1, 4)),
    "global max": (lambda: GlobalMaxPool2D(), IMAGE, (4,)),
    "global max, keepdims": (lambda: GlobalMaxPool2D(keepdims=True), IMAGE, (1, 1, 4)),
    "dense": (lambda: Dense(5, activation="relu"), ROW, (5,)),
    "dense on images": (lambda: Dense(5, use_bias=False, activation="leaky_relu"), IMAGE, (6, 5, 5)),
    "dense softmax": (lambda: Dense(5, activation="log_softmax", kernel_initializer="he_normal"), ROW, (5,)),
    "dense, swish": (lambda: Dense(5, activation="swish"), ROW, (5,)),
    "flatten": (lambda: Flatten(), IMAGE, (120,)),
    "reshape": (lambda: Reshape((4, -1, 3)), IMAGE, (4, 10, 3)),
    "dropout": (lambda: Dropout(0.4), ROW, (7,)),
    "dropout seeded": (lambda: Dropout(0.4, seed=11), IMAGE, IMAGE),
    "spatial dropout": (lambda: SpatialDropout2D(0.4), IMAGE, IMAGE),
    "upsampling": (lambda: UpSampling2D(), IMAGE, (12, 10, 4)),
    "upsampling, bilinear": (lambda: UpSampling2D((2, 3), interpolation="bilinear"), IMAGE, (12, 15, 4)),
    "layer norm": (lambda: LayerNormalization(), IMAGE, IMAGE),
    "layer norm, bare": (lambda: LayerNormalization(center=False, scale=False, epsilon=0.1), ROW, ROW),
    "batch norm": (lambda: BatchNormalization(), IMAGE, IMAGE),
    "batch norm, bare": (lambda: BatchNormalization(center=False, scale=False, epsilon=0.1), ROW, ROW),
    "batch norm, relu": (lambda: BatchNormalization(activation="relu"), IMAGE, IMAGE),
    "batch norm, tanh": (lambda: BatchNormalization(center=False, activation="tanh"), IMAGE, IMAGE),
    "batch norm, silu": (lambda: BatchNormalization(activation="silu"), IMAGE, IMAGE),
    "activation": (lambda: Activation("sigmoid"), IMAGE, IMAGE),
    "activation, back from its argument": (lambda: Activation("hard_swish"), IMAGE, IMAGE),
    "activation, hard sigmoid": (lambda: Activation("hard_sigmoid"), IMAGE, IMAGE),
    "relu": (lambda: ReLU(), IMAGE, IMAGE),
    "relu, clipped": (lambda: ReLU(max_value=1), IMAGE, IMAGE),
    "relu6": (lambda: ReLU6(), IMAGE, IMAGE),
    "silu": (lambda: SiLU(), IMAGE, IMAGE),
    "hard swish": (lambda: HardSwish(), IMAGE, IMAGE),
    "gelu": (lambda: GELU(), IMAGE, IMAGE),
    "gelu by tanh": (lambda: GELU(approximate=True), IMAGE, IMAGE),
    "prelu": (lambda: PReLU(shared_axes=(1, 2)), IMAGE, IMAGE),
    "prelu, each for itself": (lambda: PReLU("ones"), ROW, ROW),
    "leaky relu": (lambda: LeakyReLU(0.1), IMAGE, IMAGE),
    "softmax": (lambda: Softmax(), ROW, ROW),
    "softmax over rows": (lambda: Softmax(axis=1), IMAGE, IMAGE),
    "zero padding": (lambda: ZeroPadding2D(((1, 0), (2, 3))), IMAGE, (7, 10, 4)),
    "add": (lambda: Add(), [IMAGE, IMAGE, IMAGE], IMAGE),
    "add, broadcast": (lambda: Add(), [(1, 5, 1), IMAGE], IMAGE),
    "add, one": (lambda: Add(), [ROW], ROW),
    "multiply": (lambda: Multiply(), [ROW, ROW, ROW], ROW),
    "multiply by a gate": (lambda: Multiply(), [IMAGE, (1, 1, 4)], IMAGE),
    "multiply, one": (lambda: Multiply(), [ROW], ROW),
    "concatenate": (lambda: Concatenate(), [IMAGE, (6, 5, 1), IMAGE], (6, 5, 9)),
    "concatenate rows": (lambda: Concatenate(axis=1), [(2, 3), (1, 3)], (3, 3)),
    "a user's own": (lambda: Scale(), IMAGE, IMAGE),
}
ALL = pytest.mark.parametrize(("make", "shape", "result"), TABLE.values(), ids=TABLE)


def samples(*shape, dtype="float64", seed=0):
    # Even spacing keeps maxima and zeros further apart than a numerical gradient's step.
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    return rng.permutation(np.linspace(-2, 2, size) + 0.5 / max(1, size)).reshape(shape).astype(dtype)


def inputs(batch, shape, dtype="float64"):
    """What a layer of the table is given: an array, or a list of them."""
    if isinstance(shape, list):
        return [samples(batch, *s, dtype=dtype, seed=i) for i, s in enumerate(shape)]
    return samples(batch, *shape, dtype=dtype)


def built_for(shape):
    return [(None, *s) for s in shape] if isinstance(shape, list) else (None, *shape)


def listed(value):
    return value if isinstance(value, list) else [value]


def run(layer, x, training):
    return layer.forward(x, training, seed=5) if training and layer.uses_seed else layer.forward(x, training)


# 128 TiB, which no machine can hold, in four bytes.
HUGE = np.broadcast_to(np.float64(1), (2**42, 4))


def test_every_layer_is_in_the_table():
    classes = {v for v in vars(layers).values() if isinstance(v, type) and issubclass(v, Layer)}
    assert {type(make()) for make, _, _ in TABLE.values()} >= classes - {Layer, layers.Activated}


@ALL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_shapes_and_element_types(make, shape, result, dtype, training, batch):
    layer = make()
    layer.dtype = dtype
    assert layer.build_once(built_for(shape)) == (None, *result)
    x = inputs(batch, shape, dtype)
    y, cache = run(layer, x, training)
    assert y.shape == (batch, *result)
    assert y.dtype == dtype
    dx, gradients = layer.backward(np.ones_like(y), cache)
    assert [g.shape for g in listed(dx)] == [a.shape for a in listed(x)]
    assert {g.dtype for g in listed(dx)} == {np.dtype(dtype)}
    assert {n: g.shape for n, g in gradients.items()} == {n: w.shape for n, w in layer.trainable_weights.items()}


@ALL
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(make, shape, result, training):
    layer = make()
    layer.dtype = "float64"
    rng = np.random.default_rng(1)
    # Drawn from a seed: where a value comes near the kink of a relu, differences tell nothing.
    layer.build_once(built_for(shape), lambda _, sizes, initializer: initializer(sizes, "float64", rng))
    for weight in layer.weights.values():
        weight += rng.uniform(0.1, 0.5, weight.shape)
    x = inputs(2, shape)
    direction = rng.standard_normal((2, *result))

    def value():
        return float((run(layer, x, training)[0] * direction).sum())

    _, cache = run(layer, x, training)
    dx, gradients = layer.backward(direction, cache)
    for given, found in zip(listed(x), listed(dx), strict=True):
        np.testing.assert_allclose(found, numerical_gradient_by(given, value), rtol=1e-6, atol=1e-7)
    for name, weight in layer.trainable_weights.items():
        np.testing.assert_allclose(gradients[name], numerical_gradient_by(weight, value), rtol=1e-6, atol=1e-7)
    alone = layer.backward_weights(direction, cache)
    assert alone.keys() == gradients.keys()
    assert all(np.array_equal(alone[name], gradients[name]) for name in gradients)


@ALL
def test_a_forward_changes_neither_the_layer_nor_its_input(make, shape, result):
    layer = make()
    x = inputs(2, shape, "float32")
    kept = [array.copy() for array in listed(x)]
    layer.build_once(built_for(shape))
    before = {name: value.copy() for name, value in layer.weights.items()}
    names = set(vars(layer))
    for array in listed(x):
        array.flags.writeable = False
    y, cache = run(layer, x, True)
    grad = np.ones_like(y)
    grad.flags.writeable = False
    layer.backward(grad, cache)
    assert set(vars(layer)) == names
    assert all(np.array_equal(before[name], value) for name, value in layer.weights.items())
    assert all(np.array_equal(a, b) for a, b in zip(listed(x), kept, strict=True))
    assert grad.min() == grad.max() == 1


@ALL
def test_a_description_gives_the_same_layer_back(make, shape, result):
    layer = make()
    twin = restore(json.loads(json.dumps(describe(layer))), Layer)
    assert type(twin) is type(layer)
    assert twin.get_config().keys() == layer.get_config().keys()
    assert repr(twin) == repr(layer)
    assert twin.build_once(built_for(shape)) == (None, *result)


@ALL
def test_a_symbolic_call_gives_the_shape_and_makes_no_weights(make, shape, result):
    layer = make()
    x = [Input(s) for s in shape] if isinstance(shape, list) else Input(shape)
    assert layer(x).shape == (None, *result)
    assert not layer.built
    assert not layer.weights


@ALL
def test_a_model_with_it_is_saved_loaded_and_trained(make, shape, result, tmp_path):
    x, y = inputs(8, shape, "float32"), samples(8, 2, dtype="float32")
    if isinstance(shape, list):
        given = [Input(s) for s in shape]
        model = fastcnn.Model(given, Dense(2)(Flatten()(make()(given))), seed=3)
        x = x if len(x) > 1 else x[0]
    else:
        model = fastcnn.Sequential([Input(shape), make(), Flatten(), Dense(2)], seed=3)
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.train_on_batch(x, y)
    trained = [name in model.trainable_weights for name in model.weights]
    for old, new, moves in zip(before, model.get_weights(), trained, strict=True):
        assert not moves or not np.array_equal(old, new)
    model.save(tmp_path / "model.safetensors")
    twin = fastcnn.load(tmp_path / "model.safetensors")
    assert np.array_equal(twin.predict(x), model.predict(x))
    assert twin.train_on_batch(x, y) == model.train_on_batch(x, y)
    assert all(np.array_equal(a, b) for a, b in zip(twin.get_weights(), model.get_weights(), strict=True))


# What is particular to single layers


def test_conv_and_dense_are_the_operations_of_nn():
    x = samples(2, *IMAGE)
    conv = Conv2D(3, 3, strides=(1, 2), padding="same", activation="relu", dtype="float64")
    y = conv(x)
    assert np.array_equal(y, nn.conv2d(x, conv.kernel, (1, 2), "same", bias=conv.bias, activation="relu"))
    dense = Dense(3, activation="tanh", dtype="float64")
    assert np.array_equal(dense(x), nn.dense(x, dense.kernel, dense.bias, "tanh"))


def test_depthwise_keeps_channels_apart():
    layer = DepthwiseConv2D(1, depth_multiplier=2, use_bias=False)
    layer.build_once((None, 2, 2, 3))
    layer.kernel = np.arange(1, 7).reshape(1, 1, 3, 2)
    y = layer(np.ones((1, 2, 2, 3)) * [1, 10, 100])
    assert y[0, 0, 0].tolist() == [1, 2, 30, 40, 500, 600]


def test_batch_norm_normalises_and_its_running_statistics_follow():
    layer = BatchNormalization(momentum=0.75, epsilon=1e-3, dtype="float64")
    x = samples(50, 3) * [1, 2, 3] + [4, 5, 6]
    y, cache = (layer.build_once((None, 3)), layer.forward(x, training=True))[1]
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=0), x.var(axis=0) / (x.var(axis=0) + 1e-3), rtol=1e-12)
    assert layer.moving_mean.tolist() == [0, 0, 0]
    layer.after_step(layer.learned(cache))
    np.testing.assert_allclose(layer.moving_mean, 0.25 * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, 0.75 + 0.25 * x.var(axis=0), rtol=1e-12)
    expected = (x - layer.moving_mean) / np.sqrt(layer.moving_variance + 1e-3)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-12)


def test_the_axis_of_channels_can_be_counted_from_the_batch():
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 4))
    assert np.array_equal(BatchNormalization(axis=3)(x, training=True), BatchNormalization()(x, training=True))


def test_dropout_drops_in_training_only():
    x = np.ones((1, 10000), np.float32)
    y = Dropout(0.25)(x, training=True, seed=1)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    assert np.array_equal(Dropout(0.25)(x), x)


def test_spatial_dropout_drops_whole_channels():
    x = np.random.default_rng(0).uniform(1, 2, (4, 3, 5, 500))
    layer = SpatialDropout2D(0.25, dtype="float64")
    y = layer(x, training=True, seed=1)
    mask = nn.dropout(np.ones((4, 1, 1, 500)), 0.25, seed=1)
    assert np.array_equal(y, x * mask)
    assert set(np.unique(mask)) == {0, 1 / 0.75}
    assert abs((mask == 0).mean() - 0.25) < 0.03
    assert np.array_equal(layer(x), x)
    assert np.array_equal(SpatialDropout2D(0.25, seed=1, dtype="float64")(x, training=True, seed=0), y)


@pytest.mark.parametrize("size", [1, 2, (3, 2), (2, 5)])
def test_upsampling_repeats_pixels_or_draws_lines_between_them(size):
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
    rows, cols = np.broadcast_to(size, 2)
    y = UpSampling2D(size, dtype="float64")(x)
    assert np.array_equal(y, x.repeat(rows, 1).repeat(cols, 2))

    def line(values, times):
        at = (np.arange(len(values) * times) + 0.5) / times - 0.5
        return np.interp(at, np.arange(len(values)), values)

    wanted = np.apply_along_axis(line, 2, np.apply_along_axis(line, 1, x, rows), cols)
    y = UpSampling2D(size, "bilinear", dtype="float64")(x)
    np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-12)


def test_upsampling_of_a_single_pixel_gives_equal_ones():
    x = np.full((1, 1, 1, 2), 3.0)
    for how in ("nearest", "bilinear"):
        assert UpSampling2D(3, how)(x).tolist() == np.full((1, 3, 3, 2), 3.0).tolist()


def test_softmax_goes_along_its_axis_whatever_inputs_it_is_shared_by():
    layer = Softmax(axis=1, dtype="float64")
    for shape in ((2, 3, 4), (2, 3)):
        x = samples(*shape)
        np.testing.assert_array_equal(layer(x), nn.softmax(x, 1))
    layer = Softmax(axis=1)
    layer(samples(2, 3))
    with pytest.raises(ValueError, match=r"axis must not be the last one of some inputs .* \(None, 3, 4\), got 1"):
        layer(samples(2, 3, 4))


def test_a_softmax_that_could_not_be_built_with_its_model_can_be_built_for_other_inputs():
    model = fastcnn.Sequential([Softmax(axis=1), MaxPool2D(2)])
    with pytest.raises(ValueError, match="max_pool"):
        model.build((None, 4))
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(x), nn.max_pool(nn.softmax(x, 1), 2))


def test_separable_is_a_depthwise_and_a_pointwise_convolution():
    x = samples(2, *IMAGE)
    layer = SeparableConv2D(3, 3, padding="same", depth_multiplier=2, activation="relu", dtype="float64")
    y = layer(x)
    first = DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, dtype="float64")
    first.build_once((None, *IMAGE))
    first.kernel = layer.depthwise_kernel
    assert np.array_equal(y, nn.conv2d(first(x), layer.pointwise_kernel, bias=layer.bias, activation="relu"))
    assert {name: w.shape for name, w in layer.weights.items()} == {
        "depthwise_kernel": (3, 3, 4, 2),
        "pointwise_kernel": (1, 1, 8, 3),
        "bias": (3,),
    }


def test_a_transposed_convolution_has_keras_kernel():
    x = samples(2, *IMAGE)
    layer = Conv2DTranspose(3, (2, 3), strides=2, activation="tanh", dtype="float64")
    y = layer(x)
    assert layer.kernel.shape == (2, 3, 3, 4)
    assert np.array_equal(y, nn.conv2d_transpose(x, layer.kernel, 2, bias=layer.bias, activation="tanh"))


@pytest.mark.parametrize(
    ("shared", "shape"), [(None, (6, 5, 4)), ((1, 2), (1, 1, 4)), ([3], (6, 5, 1)), (2, (6, 1, 4)), ((), (6, 5, 4))]
)
def test_prelu_has_a_slope_for_what_is_not_shared(shared, shape):
    layer = PReLU(shared_axes=shared, dtype="float64")
    x = samples(2, *IMAGE)
    assert np.array_equal(layer(x), np.maximum(x, 0))
    assert layer.alpha.shape == shape
    layer.alpha = np.random.default_rng(0).uniform(-1, 1, shape)
    y, cache = layer.forward(x)
    assert np.array_equal(y, np.where(x > 0, x, x * layer.alpha))
    grad = samples(2, *IMAGE, seed=1)
    _, gradients = layer.backward(grad, cache)
    axes = (0, *(i + 1 for i, n in enumerate(shape) if n == 1))
    wanted = np.where(x < 0, grad * x, 0).sum(axes).reshape(shape)
    np.testing.assert_allclose(gradients["alpha"], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        (SeparableConv2D(7, 3, strides=2, padding="same"), 2 * 3 * 3 * 4 * (9 + 7)),
        (Conv2DTranspose(7, (2, 3), strides=2), 2 * 6 * 5 * (2 * 3 * 7 * 4)),
        (LayerNormalization(), 7 * 120),
        (UpSampling2D(2), 0),
        (UpSampling2D((2, 3), "bilinear"), 3 * (12 * 5 * 4) + 3 * (12 * 15 * 4)),
        (UpSampling2D((2, 1), "bilinear"), 3 * (12 * 5 * 4)),
        (UpSampling2D((1, 3), "bilinear"), 3 * (6 * 15 * 4)),
        (UpSampling2D(1, "bilinear"), 0),
    ],
    ids=repr,
)
def test_operations_are_counted(layer, flops):
    shape = (None, *IMAGE)
    assert layer.count_flops(shape, layer.build_once(shape)) == flops


def test_layers_of_one_activation_are_the_functions_of_nn():
    x = 4 * samples(3, 50)
    for layer, wanted in [
        (ReLU6(), nn.relu(x, 6)),
        (SiLU(), nn.silu(x)),
        (HardSwish(), nn.hard_swish(x)),
        (GELU(), nn.gelu(x)),
        (GELU(approximate=True), nn.gelu(x, True)),
    ]:
        layer.dtype = "float64"
        assert np.array_equal(layer(x), wanted)
    assert Activation("swish").activation == "silu"


@pytest.mark.parametrize(
    "make", [lambda: Dense(4, activation="gelu"), lambda: SeparableConv2D(3, 2, activation="silu")]
)
def test_logits_come_before_an_activation_that_goes_back_from_its_argument(make):
    layer = make()
    layer.dtype = "float64"
    x = samples(2, 7) if isinstance(layer, Dense) else samples(2, *IMAGE)
    layer.build_once((None, *x.shape[1:]))
    z, of_logits = layer.logits(x)
    y, of_result = layer.forward(x, training=True)
    assert np.array_equal(y, nn.activate(z, layer.activation))
    grad = samples(*y.shape, seed=1)
    dx, gradients = layer.backward(grad, of_result)
    dx_by_hand, by_hand = layer.backward(nn.activate_backward(grad, z, layer.activation), of_logits)
    assert np.array_equal(dx, dx_by_hand)
    assert all(np.array_equal(gradients[name], by_hand[name]) for name in by_hand)


def test_an_attribute_of_a_weights_name_copies_into_it():
    layer = Dense(2)
    layer.build_once((None, 3))
    held = layer.kernel
    layer.kernel = np.ones((3, 2))
    assert held.tolist() == np.ones((3, 2)).tolist()
    layer.kernel += 1
    assert held[0, 0] == 2
    with pytest.raises(ValueError, match=r"kernel must have shape \(3, 2\), got \(2, 2\)"):
        layer.kernel = np.ones((2, 2))


def test_a_layer_is_built_at_its_first_call_for_one_shape():
    layer = Conv2D(2, 3)
    assert not layer.built
    layer(np.zeros((1, 5, 5, 3)))
    assert layer.kernel.shape == (3, 3, 3, 2)
    assert layer.count_params() == 56
    with pytest.raises(
        ValueError, match=r"x must have shape \(None, 5, 5, 3\) as the layer is built for it, got \(None, 5, 5, 4\)"
    ):
        layer(np.zeros((1, 5, 5, 4)))


def test_a_build_that_fails_leaves_nothing_behind():
    layer = MaxPool2D(9)
    conv = Conv2D(2, 9)
    for broken in (layer, conv):
        with pytest.raises(ValueError, match="input"):
            broken(np.zeros((1, 5, 5, 3)))
        assert not broken.built
        assert not broken.weights
    assert conv(np.zeros((1, 9, 9, 3))).shape == (1, 1, 1, 2)


@pytest.mark.parametrize(
    ("make", "error", "complaint"),
    [
        (lambda: Conv2D(0, 3), ValueError, "filters"),
        (lambda: Conv2D(4.0, 3), TypeError, "filters"),
        (lambda: Conv2D(4, 0), ValueError, "kernel_size"),
        (lambda: Conv2D(4, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: Conv2D(4, 3, strides=0), ValueError, "strides"),
        (lambda: Conv2D(4, 3, padding="full"), ValueError, "padding"),
        (lambda: Conv2D(4, 3, padding=-1), ValueError, "padding"),
        (lambda: Conv2D(4, 3, groups=3), ValueError, "groups"),
        (lambda: Conv2D(4, 3, activation="mish"), ValueError, "activation"),
        (lambda: Conv2D(4, 3, kernel_initializer="he"), ValueError, "kernel_initializer"),
        (lambda: Conv2D(4, 3, name="a/b"), ValueError, "name"),
        (lambda: Conv2D(4, 3, dtype="float16"), ValueError, "dtype"),
        (lambda: DepthwiseConv2D(3, depth_multiplier=0), ValueError, "depth_multiplier"),
        (lambda: Dense(-1), ValueError, "units"),
        (lambda: MaxPool2D("2"), TypeError, "pool_size"),
        (lambda: MaxPool2D(2, strides=-1), ValueError, "strides"),
        (lambda: Reshape(4), TypeError, "target_shape"),
        (lambda: Reshape((-1, -1)), ValueError, "target_shape"),
        (lambda: Reshape((0,)), ValueError, "target_shape"),
        (lambda: Dropout(1.0), ValueError, "rate"),
        (lambda: Dropout("half"), TypeError, "rate"),
        (lambda: Dropout(0.5, seed=-1), ValueError, "seed"),
        (lambda: BatchNormalization(axis=1)(np.zeros((1, 2, 2, 3))), ValueError, "axis"),
        (lambda: BatchNormalization(axis=np.arange(2)), TypeError, "axis"),
        (lambda: BatchNormalization(epsilon=0), ValueError, "epsilon"),
        (lambda: BatchNormalization(momentum=1.5), ValueError, "momentum"),
        (lambda: LeakyReLU(float("nan")), ValueError, "negative_slope"),
        (lambda: GELU("tanh"), TypeError, "approximate must be True or False, got 'tanh'"),
        (lambda: PReLU("he"), ValueError, "alpha_initializer"),
        (lambda: PReLU(shared_axes=0), ValueError, "shared_axes .*0"),
        (lambda: PReLU(shared_axes="1"), TypeError, "shared_axes .*'1'"),
        (lambda: PReLU(shared_axes=(1, 2))(np.zeros((2, 3))), ValueError, r"shared_axes .*\(None, 3\), got \(1, 2\)"),
        (lambda: LayerNormalization(axis=1)(np.zeros((1, 2, 2, 3))), ValueError, "axis .*1"),
        (lambda: LayerNormalization(epsilon=0), ValueError, "epsilon .*0"),
        (lambda: LayerNormalization(center=1), TypeError, "center"),
        (lambda: LayerNormalization()(np.zeros(3)), ValueError, "input must have shape"),
        (lambda: SpatialDropout2D(1.0), ValueError, "rate"),
        (lambda: SpatialDropout2D(0.5)(np.zeros((2, 3))), ValueError, r"input .*\(None, 3\)"),
        (lambda: UpSampling2D(0), ValueError, "size .*0"),
        (lambda: UpSampling2D(1.5), TypeError, "size .*1.5"),
        (lambda: UpSampling2D(2, "bicubic"), ValueError, "interpolation must be one of nearest, bilinear, .*'bicubic'"),
        (lambda: UpSampling2D(2)(np.zeros((2, 3))), ValueError, r"input .*\(None, 3\)"),
        (lambda: UpSampling2D(2**40)(np.zeros((1, 1, 1, 1))), ValueError, "result .*too large"),
        (lambda: Conv2DTranspose(0, 3), ValueError, "filters"),
        (lambda: Conv2DTranspose(4, 3, strides=0), ValueError, "strides"),
        (lambda: Conv2DTranspose(4, 3, output_padding=-1), ValueError, "output_padding .*-1"),
        (lambda: Conv2DTranspose(4, 3, output_padding=1)(np.zeros((1, 2, 2, 3))), ValueError, "output_padding .*1, 1"),
        (lambda: Conv2DTranspose(4, 3, padding=3)(np.zeros((1, 2, 2, 3))), ValueError, "padding must leave .*3"),
        (lambda: Conv2DTranspose(4, 3)(np.zeros((2, 5, 5))), ValueError, "input"),
        (lambda: SeparableConv2D(4, 3, depth_multiplier=0), ValueError, "depth_multiplier"),
        (lambda: SeparableConv2D(4, 3, pointwise_initializer="he"), ValueError, "pointwise_initializer"),
        (lambda: SeparableConv2D(4, 9)(np.zeros((1, 5, 5, 3))), ValueError, "filters .*9 x 9"),
        (lambda: Softmax(axis=1.5), TypeError, "axis"),
        (lambda: ZeroPadding2D("same"), TypeError, "padding"),
        (lambda: Input(28), TypeError, "shape"),
        (lambda: Input((28, None)), TypeError, "shape"),
        (lambda: Dense(3)(np.zeros(3)), ValueError, "features"),
        (lambda: Conv2D(3, 3)(np.zeros((2, 5, 5))), ValueError, "input"),
        (lambda: Conv2D(3, 3, groups=3)(np.zeros((2, 5, 5, 4))), ValueError, "groups"),
        (lambda: Reshape((7,))(np.zeros((2, 8))), ValueError, "target_shape"),
        (lambda: Softmax(axis=2)(np.zeros((2, 8))), ValueError, "axis"),
        (lambda: Dense(3, trainable="no"), TypeError, "trainable must be True or False, got 'no'"),
        (lambda: Dense(3)(["a"]), TypeError, "x"),
        (lambda: Dense(3)(np.ma.masked_array([[1.0]], mask=[[True]])), TypeError, "x must not be masked"),
        (lambda: Dense(3)(HUGE), MemoryError, r"copy of x, got an array of shape \(4398046511104, 4\)"),
        (lambda: Dense(3)([[1], [1, 2]]), ValueError, r"^x must be an array of numbers, got \[\[1\], \[1, 2\]\]"),
        (lambda: Dense(3)(np.zeros((1, 2)), training="x"), TypeError, "training"),
        (lambda: Dense(3, use_bias="no"), TypeError, "use_bias must be True or False, got 'no'"),
        (lambda: Conv2D(3, 3, use_bias=0), TypeError, "use_bias"),
        (lambda: DepthwiseConv2D(3, use_bias=None), TypeError, "use_bias"),
        (lambda: GlobalMaxPool2D(keepdims="x"), TypeError, "keepdims"),
        (lambda: BatchNormalization(center="x"), TypeError, "center"),
        (lambda: BatchNormalization(scale="x"), TypeError, "scale"),
        (lambda: MaxPool2D(2, padding=2), ValueError, "padding must be .*pool_size"),
        (lambda: AveragePooling2D(20)(np.zeros((1, 4, 4, 1))), ValueError, "pool_size=.20, 20. is larger"),
        (lambda: ReLU(max_value=-1), ValueError, "max_value .*-1"),
        (lambda: Dense(3)(1.0), ValueError, "x"),
        (lambda: Dropout(0.5)(np.zeros((1, 3)), training=True), ValueError, "seed"),
    ],
)
def test_mistakes_are_named(make, error, complaint):
    with pytest.raises(error, match=complaint):
        make()


def test_results_are_not_views_of_what_was_given():
    x = np.ones((2, 3, 4), np.float32)
    for layer in (Flatten(), Reshape((12,)), Activation(None), Dropout(0.5)):
        layer(x)[...] = 2
        assert (x == 1).all()


def test_threads_may_meet_in_a_layer_that_is_not_built():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            model = fastcnn.Sequential([Conv2D(4, 3), Flatten(), Dense(3)], seed=0)
            x = np.ones((2, 8, 8, 1))
            with ThreadPoolExecutor(8) as pool:
                results = [job.result() for job in [pool.submit(model.predict, x) for _ in range(8)]]
            assert all(np.array_equal(result, results[0]) for result in results)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        (lambda x: (None, x), "forward of layer odd must return two values, an array and .*None"),
        (lambda x: (3.0, x), "forward of layer odd"),
        (lambda x: (x.tolist(), x), "forward of layer odd"),
    ],
)
def test_a_layer_that_returns_no_array_is_told_so(returned, complaint):
    class Odd(Layer):
        def forward(self, x, training=False):
            return returned(x)

    with pytest.raises(TypeError, match=complaint):
        fastcnn.Sequential([Odd()]).predict(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("value", "error", "complaint"),
    [
        (lambda shape: np.ones((1, 1)), ValueError, r"must give kernel in shape \(3, 2\), got \(1, 1\)"),
        (lambda shape: "a", TypeError, "for kernel must hold real numbers"),
        (
            lambda shape: np.ones(shape, np.longdouble),
            TypeError,
            "for kernel must hold real numbers of at most 64 bits",
        ),
        (lambda shape: np.ma.masked_array(np.ones(shape), mask=True), TypeError, "for kernel must not be masked"),
    ],
)
def test_an_initialiser_of_ones_own_is_checked(value, error, complaint):
    class Own(Initializer):
        def __call__(self, shape, dtype, rng):
            return value(shape)

    with pytest.raises(error, match=complaint):
        Dense(2, kernel_initializer=Own())(np.ones((1, 3)))


def test_what_an_initialiser_gives_becomes_a_weight_of_the_layers_type():
    class Odd(Initializer):
        def __call__(self, shape, dtype, rng):
            return np.broadcast_to(np.int64(2), shape)

    layer = Dense(2, kernel_initializer=Odd())
    layer(np.ones((1, 3)))
    assert layer.kernel.dtype == np.float32
    assert layer.kernel.flags.writeable and layer.kernel.flags.c_contiguous


def test_a_weight_takes_real_numbers_alone():
    layer = Dense(2)
    layer(np.zeros((1, 3)))
    with pytest.raises(TypeError, match=r"bias must hold real numbers .*complex"):
        layer.bias = np.zeros(2, complex)
    with pytest.raises(ValueError, match=r"bias must have shape \(2,\), got \(3,\)"):
        layer.bias = [1, 2, 3]
    assert layer.bias.tolist() == [0, 0]


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_a_layer_of_ones_own_that_returns_one_value_is_told_so(method):
    class Half(Layer):
        def forward(self, x, training=False):
            return x if method == "forward" else (x, None)

        def backward(self, grad, cache):
            return grad if method == "backward" else (grad, {})

        def compute_output_shape(self, input_shape):
            return input_shape

    x = np.zeros((2, 3))
    model = fastcnn.Sequential([Dense(3), Half(), Dense(1)])
    model.compile("sgd", "mse")
    for act in [lambda: model.train_on_batch(x, np.zeros((2, 1)))] + [lambda: model.predict(x)] * (method == "forward"):
        with pytest.raises(TypeError, match=f"{method} of layer half must return two values"):
            act()


def test_a_layer_of_ones_own_need_not_call_the_constructor_of_the_base():
    class Doubled(Layer):
        def __init__(self):
            self.factor = 2

        def forward(self, x, training=False):
            return self.factor * x, None

        def backward(self, grad, cache):
            return self.factor * grad, {}

    model = fastcnn.Sequential([Input((3,)), Doubled(), Doubled()])
    assert [layer.name for layer in model.layers[-2:]] == ["doubled", "doubled_1"]
    assert model.predict(np.ones((2, 3))).tolist() == [[4.0] * 3] * 2


def test_a_users_layer_may_not_take_the_name_of_ours():
    with pytest.raises(ValueError, match="Dense"):
        register(type("Dense", (Layer,), {}))
    with pytest.raises(TypeError, match="cls"):
        register(int)


def test_a_layer_that_hides_an_argument_cannot_be_saved():
    @register
    class Hiding(Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self.other = size

    with pytest.raises(TypeError, match=r"self\.size"):
        describe(Hiding(3))


@pytest.mark.parametrize(
    ("backward", "complaint"),
    [
        (lambda self, grad, x: (grad, {}), "must return a gradient for 'factor'"),
        (lambda self, grad, x: (grad, {"factor": grad}), "of shape"),
    ],
)
def test_a_backward_that_returns_other_gradients_is_told_so(backward, complaint):
    broken = type("Broken", (Scale,), {"backward": backward})
    model = fastcnn.Sequential([Input((3,)), broken()])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=complaint):
        model.train_on_batch(np.ones((2, 3)), np.ones((2, 3)))


# What others hold of a layer, and what is changed of it once it is built


def test_an_initializer_of_ones_own_may_keep_its_array():
    kept = np.ones((4, 4), np.float32)

    class FromArray(Initializer):
        def __call__(self, shape, dtype, rng):
            return kept

    models = [fastcnn.Sequential([Input((4,)), Dense(4, kernel_initializer=FromArray())]) for _ in range(2)]
    called = Dense(4, kernel_initializer=FromArray())
    called(np.eye(4))
    models[1].predict(np.eye(4))
    models[0].compile("sgd", "mse")
    models[0].fit(np.eye(4), np.zeros((4, 4)), verbose=0)
    assert (kept == 1).all() and kept.flags.writeable
    assert (models[1].layers[0].kernel == 1).all() and (called.kernel == 1).all()
    assert (models[0].layers[0].kernel != 1).any()


def test_a_shallow_copy_of_a_layer_has_weights_of_its_own():
    x = np.ones((1, 8, 8, 4), np.float32)
    layer = Conv2D(4, 3)
    model = fastcnn.Sequential([Input((8, 8, 4)), layer], seed=0)
    before = model.predict(x)
    other = copy.copy(layer)
    copied = fastcnn.Sequential([Input((8, 8, 4)), other])
    assert np.array_equal(copied.predict(x), before)
    layer.kernel = np.zeros_like(layer.kernel)
    assert not model.predict(x).any()
    assert np.array_equal(copied.predict(x), before) and np.array_equal(other(x), before)


@pytest.mark.parametrize(
    ("make", "name", "wrong", "error", "complaint"),
    [
        (lambda: ReLU(6), "max_value", -1, ValueError, "max_value must be"),
        (lambda: UpSampling2D(2), "interpolation", "cubic", ValueError, "interpolation must be"),
        (lambda: Conv2D(2, 3), "dtype", "int8", ValueError, "dtype must be"),
        (lambda: Conv2D(2, 3), "activation", "bogus", ValueError, "activation must be"),
        (lambda: Conv2D(2, 3), "padding", "some", ValueError, "padding must be"),
        (lambda: BatchNormalization(), "momentum", 7, ValueError, "momentum must be"),
        (lambda: Dropout(0.5), "rate", 2.0, ValueError, "rate must be"),
        (lambda: Conv2D(2, 3), "name", "a/b", ValueError, "name of layer .* must not change"),
        (lambda: Softmax(), "axis", 1, ValueError, "axis of layer .* must not change once it is built, got 1"),
        (lambda: Conv2D(2, 3, use_bias=False), "use_bias", True, ValueError, "use_bias of layer .* must not change"),
        (lambda: SeparableConv2D(2, 3), "use_bias", False, ValueError, "use_bias of layer .* must not change"),
        (lambda: Dense(2, use_bias=False), "use_bias", True, ValueError, "use_bias of layer .* must not change"),
        (lambda: BatchNormalization(scale=False), "scale", True, ValueError, "scale of layer .* must not change"),
        (lambda: LayerNormalization(), "center", False, ValueError, "center of layer .* must not change"),
    ],
)
def test_an_argument_of_a_built_layer_is_checked_as_the_constructor_does(make, name, wrong, error, complaint):
    layer = make()
    model = fastcnn.Sequential([Input((8, 8, 3)), layer])
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
    expected, before = model.predict(x), getattr(layer, name)
    with pytest.raises(error, match=complaint):
        setattr(layer, name, wrong)
    assert getattr(layer, name) == before
    assert np.array_equal(model.predict(x), expected)


@pytest.mark.parametrize(
    ("make", "name", "value", "kept"),
    [
        (lambda: UpSampling2D((2, 2)), "size", 2, (2, 2)),
        (lambda: ZeroPadding2D(((1, 1), (1, 1))), "padding", 1, ((1, 1), (1, 1))),
        (lambda: Conv2D(2, 3), "activation", "swish", "silu"),
        (lambda: ReLU(), "max_value", 6, 6.0),
    ],
)
def test_an_argument_of_a_built_layer_is_kept_as_the_constructor_keeps_it(make, name, value, kept):
    layer = make()
    layer.build_once((None, 8, 8, 3))
    setattr(layer, name, value)
    assert getattr(layer, name) == kept
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
    model = fastcnn.Sequential([Input((8, 8, 3)), layer])
    np.testing.assert_allclose(model.predict(x), layer(x), rtol=1e-5, atol=1e-6)


def test_the_weights_of_a_layer_are_replaced_by_its_attributes_alone():
    layer = Dense(1, kernel_initializer="ones")
    layer(np.ones((1, 3)))
    with pytest.raises(TypeError, match="does not support item assignment"):
        layer.weights["kernel"] = np.zeros((3, 1))
    with pytest.raises(AttributeError, match="kernel of layer Dense is a weight"):
        del layer.kernel
    layer.other = 3
    del layer.other
    layer.kernel = np.zeros((3, 1))
    assert not layer(np.ones((1, 3))).any()


@pytest.mark.parametrize("seed", [np.int64(5), np.uint8(5), 5])
def test_a_dropout_with_a_seed_takes_any_integer(seed):
    x = np.ones((1, 100))
    assert np.array_equal(Dropout(0.5, seed=3)(x, training=True, seed=seed), Dropout(0.5, seed=3)(x, True, seed=5))


@pytest.mark.parametrize(("wrong", "error"), [("x", TypeError), (1.5, TypeError), (-1, ValueError), (True, TypeError)])
@pytest.mark.parametrize("own", [None, 3])
def test_a_seed_that_is_none_is_named(wrong, error, own):
    with pytest.raises(error, match=f"seed must be .*{wrong!r}"):
        Dropout(0.5, seed=own)(np.ones((1, 3)), training=True, seed=wrong)


@pytest.mark.filterwarnings("error")
def test_a_slope_of_zero_makes_no_number_of_an_infinity():
    x = np.array([[-np.inf, np.inf, np.nan, -1, 1]])
    layer = PReLU(dtype="float64")
    model = fastcnn.Sequential([Input((5,)), layer], dtype="float64")
    np.testing.assert_array_equal(layer(x), [[-np.inf, np.inf, np.nan, 0, 1]])
    np.testing.assert_array_equal(model.predict(x), layer(x))


@pytest.mark.parametrize("make", [Add, Multiply, Concatenate])
def test_inputs_of_a_call_have_as_many_samples(make):
    for counts in ([3, 2], [3, 1]):
        with pytest.raises(ValueError, match=rf"x must hold as many samples of each input, got \[3, {counts[1]}\]"):
            make()([np.ones((n, 2)) for n in counts])


@pytest.mark.parametrize("dtype", [",", "f4,f8", "int8", "what"])
def test_a_type_that_is_none_is_named(dtype):
    with pytest.raises((TypeError, ValueError), match="dtype must be"):
        Dense(3, dtype=dtype)
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        fastcnn.runtime.fma_peak(dtype)
