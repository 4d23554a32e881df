"""Inference plans: the same results as layer by layer, fused, in little memory, and never of old weights."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcnn
from fastcnn import Input, Model, Sequential, initializers, layers, nn
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
)
from fastcnn.ops import Concatenation
from fastcnn.plan import StalePlan

RNG = np.random.default_rng(0)


def norm(**options):
    """Batch normalisation that is far from the identity."""
    return BatchNormalization(
        gamma_initializer="random_normal",
        beta_initializer="random_normal",
        moving_mean_initializer="random_normal",
        moving_variance_initializer="random_uniform",
        epsilon=0.5,
        **options,
    )


def conv(filters=4, size=3, **options):
    return Conv2D(filters, size, bias_initializer="random_normal", **{"padding": "same", **options})


def block(x, filters, strides=1, activation=ReLU):
    y = activation()(norm()(conv(filters, strides=strides)(x)))
    y = norm()(conv(filters)(y))
    if strides != 1:
        x = norm()(conv(filters, 1, strides=strides)(x))
    return activation()(Add()([y, x]))


def residual():
    x = Input((12, 10, 3))
    first = conv(8)(x)
    y = block(block(first, 8), 16, 2)
    return x, [y, GlobalAveragePooling2D()(y), first]


def chain(*layers):
    def network():
        x = y = Input((9, 7, 4))
        for layer in layers:
            y = layer()(y)
        return x, y

    return network


def inverted_residual():
    x = Input((8, 8, 6))
    y = ReLU6()(norm()(conv(24, 1, use_bias=False)(x)))
    y = ReLU6()(norm()(DepthwiseConv2D(3, padding="same", use_bias=False)(y)))
    return x, Add()([x, norm()(conv(6, 1, use_bias=False)(y))])


def dense_block():
    x = y = Input((6, 6, 5))
    for _ in range(3):
        y = Concatenate()([y, conv(3)(ReLU()(norm()(y)))])
    return x, y


def fire():
    x = Input((9, 8, 5))
    y = conv(4, 1, activation="relu")(x)
    parts = [conv(n, k, activation="relu") for n, k in ((5, 1), (7, 3), (4, 3), (3, 5))]
    y = Concatenate()([*(part(y) for part in parts), y, MaxPool2D(3, 1, padding="same")(y)])
    once = conv(6, 3, groups=1, activation="relu6")(y)
    twice = conv(2, activation="relu")(y)
    depth = DepthwiseConv2D(3, padding="same")(y)
    bent = conv(3, activation="silu")(y)
    return x, [Concatenate(3)([once, twice, depth, bent, norm()(conv(4)(y))]), Concatenate(1)([twice, twice])]


def nested_concatenations():
    x = Input((7, 6, 5))
    first = Concatenate()([x, conv(3)(x)])
    inner = Concatenate()([conv(2)(norm()(first)), first, norm(activation="silu")(first)])  # not at its beginning
    outer = Concatenate(3)([conv(4, 1)(ReLU()(norm()(inner))), inner])
    convolved = Concatenate()([x, conv(2)(x)])  # which a convolution reads
    twice = Concatenate()([norm()(convolved), conv(1)(convolved), convolved, convolved])
    shown = Concatenate()([x, conv(2)(x)])  # a result
    rows = Concatenate()([shown, conv(3)(ReLU6()(norm()(shown)))])
    late = Concatenate()([x, conv(2)(x)])  # read after what it is a part of
    whole = Concatenate()([late, conv(3)(x)])
    pooled = GlobalAveragePooling2D()(whole)
    return x, [norm()(outer), twice, shown, rows, pooled, norm()(late), Flatten()(Concatenate()([conv(2)(x), x]))]


def squeeze_and_excite():
    x = Input((6, 6, 8))
    gate = Reshape((1, 1, 8))(Dense(8, activation="sigmoid")(Dense(2, activation="silu")(GlobalAveragePooling2D()(x))))
    return x, Multiply()([x, gate])


def gates():
    x, a, b = Input((6, 5, 8)), Input((1, 1, 8)), Input((6, 1, 8))
    rows = Input((5, 1))
    return [x, a, b, rows], [
        Multiply()([x, a]),
        Multiply()([a, x, a]),
        ReLU()(Multiply()([a, x, b])),
        Multiply()([a, a]),
        Multiply()([a, b]),
        Multiply()([rows, rows]),
        Add()([x, a]),
    ]


def shared():
    x, z = Input((6, 6, 3)), Input((6, 6, 3))
    layer, after = conv(3, activation="relu"), norm()
    return [x, z], [Add()([after(layer(x)), layer(after(z))]), x]


def sums():
    x = Input((5, 5, 4))
    a, b = conv()(x), conv()(x)
    late = MaxPool2D(3, 1, padding="same")(b)
    return x, [Add()([a, a]), Add()([a, b, x]), Activation("relu")(Add()([late, conv()(x)])), Add()([late, b])]


NETWORKS = {
    "residual": residual,
    "inverted residual": inverted_residual,
    "dense block": dense_block,
    "nested concatenations": nested_concatenations,
    "fire": fire,
    "rows side by side": lambda: (x := Input((6,)), Concatenate()([Dense(3)(x), x, Dense(4)(x)])),
    "squeeze and excite": squeeze_and_excite,
    "gates": gates,
    "shared": shared,
    "sums": sums,
    "padding": chain(lambda: ZeroPadding2D(((1, 2), (0, 1))), lambda: conv(padding=1), lambda: ZeroPadding2D(1)),
    "padding of two": chain(lambda: ZeroPadding2D(1), lambda: ZeroPadding2D(2), lambda: MaxPool2D(2)),
    "groups": chain(lambda: conv(6, groups=2, strides=2), norm, ReLU, lambda: conv(4, groups=2), norm),
    "depthwise": chain(lambda: DepthwiseConv2D(3, depth_multiplier=2), norm, lambda: DepthwiseConv2D(2), norm, ReLU6),
    "separable": chain(lambda: SeparableConv2D(5, 3, activation="relu"), norm, lambda: Conv2DTranspose(3, 2, 2)),
    "separable, normalized": chain(
        lambda: SeparableConv2D(5, 3, 2, "same", dilation_rate=1, bias_initializer="ones"),
        norm,
        ReLU,
        lambda: SeparableConv2D(3, 2, use_bias=False),
        norm,
    ),
    "transposed": chain(
        lambda: Conv2DTranspose(5, 3, padding="same", activation="silu", bias_initializer="random_normal"),
        lambda: Conv2DTranspose(3, 3, 2, output_padding=1, use_bias=False),
        norm,
        ReLU6,
        lambda: Conv2DTranspose(4, (2, 3), padding=1, activation="relu", use_bias=False),
        lambda: Conv2DTranspose(2, 3, dilation_rate=2, activation="relu", bias_initializer="random_normal"),
        lambda: Conv2DTranspose(2, 1, bias_initializer="ones"),
        lambda: norm(activation="tanh"),
    ),
    "upsampling": chain(
        lambda: UpSampling2D((2, 3)),
        lambda: UpSampling2D((3, 2), "bilinear"),
        lambda: UpSampling2D((1, 4), "bilinear"),
        lambda: UpSampling2D((5, 1), "bilinear"),
    ),
    "slopes": chain(
        lambda: PReLU("random_normal"),
        lambda: conv(3),
        lambda: PReLU(initializers.RandomUniform(0.5, 3.0), (1, 2)),
        lambda: conv(3),
        lambda: PReLU(initializers.RandomUniform(2.0, 3.0), 2),
        lambda: conv(3),
        lambda: PReLU(initializers.RandomUniform(0.1, 0.2), (1, 2, 3)),
    ),
    "rows": chain(
        LayerNormalization,
        lambda: conv(6, 1),
        lambda: LayerNormalization(beta_initializer="random_normal", scale=False),
        Flatten,
        lambda: LayerNormalization(gamma_initializer="random_normal", center=False),
    ),
    "error functions": chain(conv, GELU, conv, lambda: GELU(approximate=True), norm, lambda: GELU(approximate=True)),
    "dilated": chain(lambda: conv(dilation_rate=2), lambda: LeakyReLU(0.1), lambda: LeakyReLU(0.2)),
    "norm alone": chain(norm, ReLU, norm, ReLU6, lambda: norm(activation="tanh")),
    "pools": chain(lambda: AveragePooling2D(3, 2, padding="same"), lambda: MaxPool2D(2), GlobalMaxPool2D),
    "kept dims": chain(lambda: GlobalAveragePooling2D(keepdims=True), lambda: conv(3, 1)),
    "dense": chain(lambda: Dense(6), norm, ReLU, Flatten, lambda: Dense(5), norm, lambda: Dense(4), Softmax),
    "without effect": chain(lambda: Dropout(0.5), lambda: SpatialDropout2D(0.5), lambda: Activation("linear")),
    "views": chain(Flatten, lambda: Reshape((7, 9, 4)), Flatten, lambda: Dropout(0.1), lambda: Reshape((-1, 4))),
    "as they are": chain(LayerNormalization, PReLU, lambda: UpSampling2D(2), lambda: Softmax(axis=1)),
    "softmax of channels": chain(
        lambda: Softmax(axis=3),
        lambda: Softmax(axis=2),
        lambda: Softmax(-3),
        Flatten,
        lambda: Softmax(axis=1),
        lambda: Dense(3),
    ),
    "clipped": chain(conv, lambda: ReLU(0.5), conv, lambda: ReLU(6.0)),
    **{
        name: chain(lambda name=name: conv(activation=name), lambda name=name: Activation(name), lambda: conv(3))
        for name in nn.ACTIVATIONS
    },
}


def built(name, dtype="float64"):
    inputs, outputs = NETWORKS[name]()
    return Model(inputs, outputs, seed=1, dtype=dtype)


def batch_for(model, n, dtype="float64"):
    shapes = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
    return [RNG.standard_normal((n, *shape[1:])).astype(dtype) for shape in shapes]


def layer_by_layer(model, inputs):
    return model._traced().forward(inputs, False, 0)[0]


def as_list(value):
    return value if isinstance(value, list) else [value]


def predicted(model, inputs):
    return as_list(model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0]))


def lenet(**options):
    layers = [
        Input((28, 28, 1)),
        Conv2D(6, 5, padding="same", activation="relu"),
        MaxPool2D(2),
        Conv2D(16, 5, activation="relu"),
        MaxPool2D(2),
        Flatten(),
        Dense(120, activation="relu"),
        Dense(84, activation="relu"),
        Dense(10, activation="softmax"),
    ]
    return Sequential(layers, seed=0, **options)


# ---- results ----


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_gives_what_the_layers_give(name, n):
    model = built(name)
    inputs = batch_for(model, n)
    expected = layer_by_layer(model, inputs)
    given = [x.copy() for x in inputs]
    for _ in range(2):  # the second time in used memory
        for got, want in zip(predicted(model, inputs), expected, strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10 * max(1.0, np.abs(want).max()))
    assert all((a == b).all() for a, b in zip(inputs, given, strict=True))


@pytest.mark.parametrize("name", ["residual", "inverted residual", "dense block", "groups", "dense"])
def test_a_plan_gives_what_the_layers_give_in_single_precision(name):
    model = built(name, "float32")
    inputs = batch_for(model, 2, "float32")
    for got, want in zip(predicted(model, inputs), layer_by_layer(model, inputs), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@st.composite
def networks(draw):
    """Networks of layers that keep the shape, each called on values drawn from those before it."""
    inputs = values = [Input((4, 4, 3)) for _ in range(draw(st.integers(1, 2)))]
    values = list(values)
    one = [
        lambda: conv(3),
        lambda: DepthwiseConv2D(3, padding="same"),
        norm,
        ReLU,
        lambda: Activation("tanh"),
        lambda: Dropout(0.5),
        lambda: MaxPool2D(3, 1, padding="same"),
        lambda: Reshape((4, 4, 3)),
        LayerNormalization,
    ]
    for _ in range(draw(st.integers(1, 12))):
        make = draw(st.sampled_from([*one, Add, Add, Multiply]))
        layer = make()
        if layer.many_inputs:
            sources = draw(st.lists(st.sampled_from(values[-4:]), min_size=1, max_size=3))
            values.append(layer(sources))
        else:
            values.append(layer(draw(st.sampled_from(values[-4:]))))
    outputs = [values[-1], *draw(st.lists(st.sampled_from(values), max_size=2))]
    return inputs, outputs


@given(networks(), st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_any_network_gives_what_its_layers_give(network, n):
    inputs, outputs = network
    try:
        model = Model(inputs, outputs, seed=0, dtype="float64")
    except ValueError as error:
        assert "must lead to the outputs" in str(error) or "at least one layer" in str(error)
        return
    given_ = batch_for(model, n)
    for got, want in zip(predicted(model, given_), layer_by_layer(model, given_), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(want).max()))
    plan = model.plan([(n, *shape[1:]) for shape in as_list(model.input_shape)] if len(inputs) > 1 else None)
    assert plan.least_bytes <= plan.arena_bytes


def test_results_have_the_same_bits_for_any_number_of_threads():
    x = RNG.standard_normal((3, 12, 10, 3)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        with fastcnn.threads(threads):
            found.append(built("residual", "float32").predict_on_batch(x))
    for other in found[1:]:
        assert all((a == b).all() for a, b in zip(found[0], other, strict=True))


def test_results_are_new_arrays():
    model = built("without effect")
    x = batch_for(model, 2)[0]
    first = model.predict_on_batch(x)
    assert not np.may_share_memory(first, x)
    kept = first.copy()
    model.predict_on_batch(x + 1)
    assert (first == kept).all()


# ---- what is fused ----


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        # Seven convolutions, and the mean.
        ("residual", ["conv 3x3", "conv 3x3", "conv 3x3", "conv 3x3/2", "conv 3x3", "conv 1x1/2", "global avg pool"]),
        ("inverted residual", ["conv 1x1 + depthwise 3x3", "conv 1x1"]),
        ("groups", ["conv 3x3/2", "conv 3x3"]),
        ("padding", ["conv 3x3", "pad"]),
        ("dense", ["dense", "view", "dense", "dense"]),
        ("norm alone", ["normalize", "normalize", "normalize"]),
        ("separable", ["depthwise 3x3", "conv 1x1", "normalize", "transposed 2x2/2"]),
        ("separable, normalized", ["depthwise 3x3/2", "conv 1x1 + depthwise 2x2", "conv 1x1"]),
        (
            "transposed",
            ["transposed 3x3", "transposed 3x3/2", "transposed 2x3", "transposed 3x3", "transposed 1x1"],
        ),
        ("upsampling", ["repeat 2x3", "bilinear 3x1", "bilinear 1x2", "bilinear 1x4", "bilinear 5x1"]),
        ("slopes", ["prelu", "conv 3x3"] * 3 + ["prelu"]),
        ("rows", ["normalize rows", "conv 1x1", "normalize rows", "view", "normalize rows"]),
        ("error functions", ["conv 3x3", "conv 3x3", "activation", "normalize", "activation"]),
        ("without effect", []),
        ("kept dims", ["global avg pool", "dense"]),
    ],
)
def test_what_follows_each_other_is_fused(name, steps):
    ops = [step.op for step in built(name).plan().steps]
    if name == "residual":
        assert sorted(ops) == sorted(steps)
    elif name == "dense":
        assert [op for op in ops if op != "conv 1x1"] == steps[1:]
    else:
        assert ops == steps


def test_every_layer_is_part_of_one_step():
    model = built("residual")
    steps = model.plan().steps
    assert sorted(itertools.chain(*(step.layers for step in steps))) == sorted(layer.name for layer in model.layers)
    assert sum(step.flops for step in steps) == sum(model._flops().values())


def test_an_array_that_is_an_output_too_stays_as_it_is():
    x = Input((4, 4, 3))
    y = conv()(x)
    model = Model(x, [y, ReLU()(norm()(y))], seed=0, dtype="float64")
    inputs = batch_for(model, 1)
    for got, want in zip(predicted(model, inputs), layer_by_layer(model, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


class Doubling(Conv2D):
    """A convolution whose result is doubled, by a forward of its own."""

    def forward(self, x, training=False):
        y, cache = super().forward(x, training)
        return 2 * y, cache


def test_a_layer_of_ones_own_that_overrides_forward_is_run_by_it():
    plain, doubled = (Sequential([Input((5, 5, 2)), cls(3, 3)], seed=0) for cls in (Conv2D, Doubling))
    x = RNG.standard_normal((2, 5, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(doubled.predict(x), 2 * plain.predict(x), rtol=1e-6)


class Wrong(Layer):
    """Gives other shapes than it says."""

    def compute_output_shape(self, input_shape):
        return input_shape

    def forward(self, x, training=False):
        return x[:, :1], None


def test_a_layer_that_gives_another_shape_than_it_says_is_named():
    model = Sequential([Input((4,)), Wrong(name="odd"), Dense(2)])
    with pytest.raises(ValueError, match=r"layer odd must give a result of shape \(2, 4\), got \(2, 1\)"):
        model.predict(np.ones((2, 4)))


# ---- weights that change ----


def test_a_plan_follows_the_weights():
    x = RNG.standard_normal((4, 28, 28, 1)).astype(np.float32)
    model = lenet()
    model.compile("sgd", "sparse_categorical_crossentropy")

    def check():
        np.testing.assert_allclose(model.predict(x), layer_by_layer(model, [x])[0], rtol=1e-4, atol=1e-6)

    seen = [model.predict(x)]
    layer = model.layers[0]

    def by_training():
        model.train_on_batch(x, [1, 2, 3, 4])

    def by_the_attribute():
        layer.kernel = 2 * layer.kernel

    def by_set_weights():
        model.set_weights([w * 1.5 for w in model.get_weights()])

    def by_trainable_weights():
        model.trainable_weights["conv2d/bias"][...] = 0.25

    def by_the_optimizers_kernel():
        weights = list(model.trainable_weights.values())
        nn.sgd_step(weights, [np.ones_like(w) for w in weights], None, 0.01)

    def by_an_argument():
        layer.activation = "tanh"

    for change in (
        by_training,
        by_the_attribute,
        by_set_weights,
        by_trainable_weights,
        by_the_optimizers_kernel,
        by_an_argument,
    ):
        change()
        check()
        assert np.abs(model.predict(x) - seen[-1]).max() > 1e-4, change.__name__
        seen.append(model.predict(x))


def test_weights_that_a_plan_has_copies_of_are_not_changed_behind_its_back():
    model = lenet()
    layer = model.layers[0]
    layer.kernel[0] = 1  # nothing has a copy yet
    model.predict(np.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="read-only"):
        layer.kernel[0] = 2
    with pytest.raises(ValueError, match="read-only"):
        model.weights["conv2d/kernel"] *= 2
    layer.kernel = np.ones(layer.kernel.shape)
    layer.kernel[0] = 3


def test_a_layer_in_two_models_is_seen_to_change_in_both():
    x = Input((4,))
    layer = Dense(3, name="shared")
    both = [Model(x, layer(x)), Model(x, ReLU()(layer(x)))]
    layer.kernel = np.random.default_rng(0).standard_normal((4, 3))
    given_ = RNG.standard_normal((2, 4)).astype(np.float32)
    for model in both:
        model.predict(given_)
    layer.bias = [1, 2, 3]
    expected = given_ @ layer.kernel + [1, 2, 3]
    np.testing.assert_allclose(both[0].predict(given_), expected, rtol=1e-5)
    np.testing.assert_allclose(both[1].predict(given_), np.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_batch_normalization_that_moves_moves_the_plan():
    model = Sequential([Input((4, 4, 2)), conv(3), BatchNormalization(momentum=0.5)], seed=0)
    model.compile("sgd", "mse")
    x = RNG.standard_normal((8, 4, 4, 2)).astype(np.float32)
    before = model.predict(x)
    model.layers[0].trainable = False
    model.layers[1].moving_mean = [1.0, 2.0, 3.0]
    assert np.abs(model.predict(x) - before).max() > 0.5
    before = model.predict(x)
    model.train_on_batch(x, np.zeros((8, 4, 4, 3)))
    assert np.abs(model.predict(x) - before).max() > 1e-3
    np.testing.assert_allclose(model.predict(x), layer_by_layer(model, [x])[0], rtol=1e-4, atol=1e-5)


def test_copies_and_files_of_a_model_have_plans_of_their_own(tmp_path):
    model = lenet()
    x = RNG.standard_normal((2, 28, 28, 1)).astype(np.float32)
    expected = model.predict(x)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    plan = model.plan()
    twins[0].layers[2].bias = twins[0].layers[2].bias + 0
    assert not plan.stale
    model.layers[0].kernel = np.zeros(model.layers[0].kernel.shape)
    assert plan.stale
    for twin in twins:
        assert (twin.predict(x) == expected).all()
    twin.save(tmp_path / "m.safetensors")
    assert (fastcnn.load(tmp_path / "m.safetensors").predict(x) == expected).all()


def test_a_plan_takes_what_it_is_for_alone():
    plan = fastcnn.Sequential([Input((6,)), Dense(3)]).plan((4, 6))
    for inputs in ([], [np.ones((1, 6))], [3.0], [np.ones((4, 6))] * 2):
        with pytest.raises(ValueError, match=r"inputs must be arrays of shapes \[\(4, 6\)\], got \["):
            plan.run(inputs)
    assert plan.run([np.ones((4, 6))])[0].shape == (4, 3)


# ---- memory and threads ----


def allocated(model, x):
    """The most bytes that a prediction takes at one time beyond what stays."""
    for _ in range(3):
        model.predict_on_batch(x)
    tracemalloc.start()
    try:
        model.predict_on_batch(x)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        model.predict_on_batch(x)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_prediction_allocates_nothing_but_its_result():
    x = RNG.standard_normal((16, 28, 28, 1)).astype(np.float32)
    peak = allocated(lenet(), x)
    assert 16 * 10 * 4 <= peak < 16 * 10 * 4 + 4096  # one map of the first layer alone would be 300,000


def test_every_layer_of_the_package_has_ops_of_its_own():
    classes = [cls for cls in vars(layers).values() if isinstance(cls, type) and issubclass(cls, Layer)]
    without = {cls.__name__ for cls in classes if cls.lowered is Layer.lowered}
    assert without == {"Layer", "Activated"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: UpSampling2D((2, 1)),
        lambda: UpSampling2D((3, 2), "bilinear"),
        lambda: Conv2DTranspose(8, 3, 2, padding="same", activation="silu"),
        lambda: Conv2DTranspose(8, 3, padding="same", activation="relu"),
        lambda: PReLU(),
        lambda: PReLU(initializers.RandomUniform(0.5, 3.0), (1, 2)),
        lambda: SeparableConv2D(8, 3, padding="same", depth_multiplier=2, activation="relu"),
        lambda: LayerNormalization(scale=False),
        lambda: GELU(),
        lambda: GELU(approximate=True),
        lambda: ReLU(0.5),
        lambda: LeakyReLU(0.1),
        lambda: Softmax(axis=3),
        lambda: Softmax(axis=1),
        lambda: norm(activation="tanh"),
        lambda: AveragePooling2D(3, 1, padding="same"),
        lambda: ZeroPadding2D(1),
    ],
    ids=lambda make: type(make()).__name__,
)
def test_a_prediction_of_any_layer_allocates_nothing_but_its_result(make):
    layer = make()
    model = Sequential([Input((16, 32, 8)), layer, GlobalAveragePooling2D()], seed=0)
    assert layer.name and "Opaque" not in {type(op).__name__ for op in model.plan((4, 16, 32, 8)).ops}
    peak = allocated(model, RNG.standard_normal((4, 16, 32, 8)).astype(np.float32))
    assert 4 * 8 * 4 <= peak < 4 * 8 * 4 + 4096  # a mask of the input, a byte each, would be 16,384


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Add, (16, 32, 8)),
        (Multiply, (16, 32, 8)),
        (Multiply, (1, 1, 8)),  # the gates of squeeze-and-excite
        (lambda: Concatenate(2), (16, 1, 8)),
    ],
)
def test_a_prediction_of_several_arrays_allocates_nothing_but_its_result(make, shape):
    x, z = Input((16, 32, 8)), Input(shape)
    model = Model([x, z], GlobalAveragePooling2D()(make()([x, z])), seed=0)
    given_ = [RNG.standard_normal((4, *t.shape[1:])).astype(np.float32) for t in (x, z)]
    assert 4 * 8 * 4 <= allocated(model, given_) < 4 * 8 * 4 + 4096


def test_a_slope_makes_no_number_of_an_infinity():
    x = np.array([[np.nan, np.inf, -np.inf, -1.0, -0.0]])
    for slope in (0.5, 2.0):
        model = Sequential([Input((5,)), PReLU("ones")], dtype="float64")
        model.layers[0].alpha = [slope] * 5
        np.testing.assert_array_equal(model.predict(x), layer_by_layer(model, [x])[0])
    model.layers[0].alpha = [0.0] * 5
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(model.predict(x), [[np.nan, np.inf, -np.inf, 0.0, 0.0]])


def test_flops_of_a_layer_are_shared_out_among_its_steps():
    model = Sequential(
        [Input((8, 8, 4)), SeparableConv2D(5, 3, padding="same", activation="tanh"), UpSampling2D((2, 3), "bilinear")]
    )
    flops = [step.flops for step in model.plan((2, 8, 8, 4)).steps]
    pixels = 2 * 8 * 8
    assert flops == [pixels * 2 * 9 * 4, pixels * 2 * 4 * 5, 3 * pixels * 2 * 5, 3 * pixels * 6 * 5]
    assert sum(flops) == 2 * sum(model._flops().values())


def test_values_share_memory_where_they_are_not_needed_at_the_same_time():
    plan = built("residual").plan((8, 12, 10, 3))
    total = sum(np.prod(plan.shape(step.target)) * 8 for step in plan.lowered.steps)
    assert plan.least_bytes <= plan.arena_bytes <= 1.15 * plan.least_bytes
    assert plan.arena_bytes < 0.75 * total


def finished_operands():
    """Sums and products that can be written over an operand, and some that can't."""
    x = Input((8, 8, 4))
    a = conv()(x)
    gate = conv(4, 8, padding="valid")(a)
    product = Multiply()([gate, a])  # over a, not over the gate
    total = Add()([product, x, product])
    thrice = Add()([total, total, total])
    b, c = DepthwiseConv2D(3, padding="same")(thrice), MaxPool2D(3, 1, padding="same")(thrice)
    last = Add()([b, thrice, c])  # over c, which comes last: the others are needed again
    return x, [Multiply()([last, thrice]), Flatten()(b)]


def test_sums_and_products_are_written_over_what_is_finished_with():
    inputs, outputs = finished_operands()
    model = Model(inputs, outputs, seed=0, dtype="float64")
    given_ = batch_for(model, 3)
    for got, want in zip(predicted(model, given_), layer_by_layer(model, given_), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    plan = model.plan((3, 8, 8, 4))
    steps = [step for step in plan.lowered.steps if step.op.in_place]
    over = [
        [source for source in dict.fromkeys(step.sources) if plan.places[source] == plan.places[step.target]]
        for step in steps
    ]
    assert [len(sources) for sources in over] == [1, 1, 0, 1, 1]
    assert over[0] == [steps[0].sources[1]] and over[3] == [steps[3].sources[2]]


def test_a_sum_of_a_convolution_and_an_activation_takes_two_arrays():
    x = Input((16, 16, 8))
    y = conv(8)(x)
    model = Model(x, Add()([y, SiLU()(x)]), seed=0)
    plan = model.plan((2, 16, 16, 8))
    assert [step.op for step in plan.steps] == ["conv 3x3", "activation", "add"]
    assert plan.arena_bytes == plan.least_bytes == 2 * (2 * 16 * 16 * 8 * 4)
    given_ = batch_for(model, 2, "float32")
    np.testing.assert_allclose(predicted(model, given_)[0], layer_by_layer(model, given_)[0], rtol=1e-5, atol=1e-5)


def test_lines_between_pixels_have_room_in_the_arena():
    plan = Sequential([Input((8, 8, 4)), UpSampling2D(2, "bilinear")], seed=0).plan((3, 8, 8, 4))
    # Taller images, as many again for room, and the result.
    assert plan.arena_bytes == plan.least_bytes == 3 * 8 * 8 * 4 * 4 * (2 + 2 + 4)


def test_concatenations_are_written_in_place():
    x = Input((16, 16, 8))
    y = Concatenate()([conv(16, 1, activation="relu")(x), conv(32, 3, activation="relu")(x)])
    plan = Model(x, conv(4, 1)(y), seed=0).plan((2, 16, 16, 8))
    assert [step.op for step in plan.steps] == ["conv 1x1", "conv 3x3", "concat", "conv 1x1"]
    assert len(plan.slices) == 2
    # The image and what is put side by side; the last result then takes the image's place.
    assert plan.arena_bytes == plan.least_bytes == 2 * 16 * 16 * (8 + 48) * 4


def test_what_was_put_side_by_side_is_not_copied_to_be_put_beside_more():
    x = y = Input((16, 16, 8))
    for _ in range(4):
        y = Concatenate()([y, conv(16)(ReLU()(norm()(y)))])
    model = Model(x, conv(4, 1)(y), seed=0)
    plan = model.plan((2, 16, 16, 8))
    joined = [step.target for step in plan.lowered.steps if isinstance(step.op, Concatenation)]
    # All but the last lie where that begins, and what convolutions make lies in it.
    assert [plan.slices[value] for value in joined[:-1]] == [(joined[-1], 0)] * 3
    assert sorted(channel for _, channel in plan.slices.values()) == [0, 0, 0, 8, 24, 40, 56]
    # That block, and what its last layer normalises.
    assert plan.arena_bytes == plan.least_bytes == 2 * 16 * 16 * (72 + 56) * 4
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 8)).astype(np.float32)
    np.testing.assert_allclose(model.predict(images), model(images), rtol=0, atol=1e-4)


def test_a_plan_allows_for_filters_that_come_from_memory():
    x = Input((4, 4, 512))
    plan = Model(x, Conv2D(512, 3, padding="same")(x), seed=0).plan((1, 4, 4, 512))
    assert [step.algorithm for step in plan.steps] == ["direct"]


def test_a_plan_asks_for_the_next_filters():
    x = Input((4, 4, 8))
    y = Conv2D(16, 1)(x)
    y = GlobalAveragePooling2D()(Conv2D(16, 3)(y))
    first, second, _, last = Model(x, Dense(5)(y), seed=0).plan((1, 4, 4, 8)).ops
    assert first.ahead is second.ready and second.ahead is last.ready and last.ahead is None


def test_plans_for_other_batches_share_what_is_packed():
    model = Model(*residual(), seed=0)
    plans = [model.plan((n, 12, 10, 3)) for n in (1, 2, 7)]
    for ops in zip(*(plan.ops for plan in plans), strict=True):
        prepared = [op.ready for op in ops if hasattr(op, "ready")]
        forms = {ready._form: ready._filters for ready in prepared}
        assert all(ready._filters is forms[ready._form] for ready in prepared)
    shared = [
        a.ready._filters is b.ready._filters
        for a, b, _ in zip(*(plan.ops for plan in plans), strict=True)
        if hasattr(a, "ready")
    ]
    assert sum(shared) >= 5
    model.layers[8].kernel = model.layers[8].kernel + 1  # which is packed, while few filters are read where they are
    assert model.plan((1, 12, 10, 3)).ops[3].ready._filters is not plans[0].ops[3].ready._filters


def test_plans_for_other_batches_share_what_a_depthwise_convolution_expands_by():
    model = Sequential([Input((12, 10, 24)), Conv2D(32, 1), DepthwiseConv2D(3), Conv2D(40, 1), DepthwiseConv2D(3)])
    plans = [model.plan((n, 12, 10, 24)) for n in (2, 3, 7)]
    assert all(step.op.startswith("conv 1x1 + depthwise") for step in plans[0].steps)
    for first, *others in zip(*(plan.ops for plan in plans), strict=True):
        assert first.ready._panels is not None
        assert all(other.ready._panels is first.ready._panels for other in others)


def test_there_are_never_more_than_a_few_plans():
    model = Sequential([Input((3,)), Dense(2)])
    for n in range(1, 40):
        model.predict_on_batch(np.ones((n, 3)))
    assert len(model._plans._plans) == model._plans.MOST
    assert model.predict_on_batch(np.ones((1, 3))).shape == (1, 2)


def test_a_plan_that_is_used_stays():
    model = Sequential([Input((3,)), Dense(2)])
    hot = model.plan((32, 3))
    for n in range(1, 20):
        model.predict_on_batch(np.ones((n, 3)))
        model.predict_on_batch(np.ones((32, 3)))
    assert model.plan((32, 3)) is hot
    assert sorted(model._plans._plans) == [*range(20 - model._plans.MOST + 1, 20), 32]


def test_plans_go_with_the_model():
    model = lenet()
    model.predict(np.zeros((1, 28, 28, 1)))
    plan = weakref.ref(model.plan())
    gc.disable()  # there are no cycles for it to find
    try:
        del model
        assert plan() is None
    finally:
        gc.enable()


def test_several_threads_may_predict_and_see_the_weights_change():
    model = lenet()
    batches = [RNG.standard_normal((n, 28, 28, 1)).astype(np.float32) for n in (1, 2, 5)]
    kept = model.get_weights()
    expected = [model.predict_on_batch(x) for x in batches]
    model.set_weights([0.5 * w for w in kept])
    halved = [model.predict_on_batch(x) for x in batches]
    wrong = []

    def work(index):
        with fastcnn.threads(1):
            for _ in range(60):
                y = model.predict_on_batch(batches[index])
                if not any((y == want[index]).all() for want in (expected, halved)):
                    wrong.append(index)

    workers = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def in_threads(*works, seconds=0.6):
    """Call each function again and again, all at the same time; return what they raised."""
    raised = []
    end = time.monotonic() + seconds

    def repeat(work):
        try:
            with fastcnn.threads(1):
                while time.monotonic() < end:
                    work()
        except Exception as error:
            raised.append(error)

    workers = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()
    return raised


def read_in_place():
    """A network of which a plan reads most weights where they are."""
    layers = [conv(8), norm(), PReLU(alpha_initializer="random_normal"), LayerNormalization(), PReLU(), Flatten()]
    return Sequential([Input((16, 16, 3)), *layers, LayerNormalization(), Dense(4)], seed=0)


def test_predictions_are_of_the_weights_before_a_change_or_after_it():
    model = read_in_place()
    batches = [RNG.standard_normal((n, 16, 16, 3)).astype(np.float32) for n in (1, 3)]
    sets = [model.get_weights(), [0.5 * w + 0.25 for w in model.get_weights()]]
    wanted = []
    for weights in sets:
        model.set_weights(weights)
        wanted.append([model.predict_on_batch(x) for x in batches])
    seen = [0, 0]
    turn = itertools.cycle(sets)

    def predict(index):
        y = model.predict_on_batch(batches[index])
        found = [number for number in (0, 1) if (y == wanted[number][index]).all()]
        assert len(found) == 1
        seen[found[0]] += 1

    assert not in_threads(
        lambda: model.set_weights(next(turn)), lambda: predict(0), lambda: predict(1), lambda: predict(1)
    )
    assert min(seen) > 0


def test_predictions_may_go_on_while_weights_are_trained_loaded_and_assigned(tmp_path):
    model = read_in_place()
    model.compile("adam", "mse")
    x = RNG.standard_normal((4, 16, 16, 3)).astype(np.float32)
    kernel = model.layers[0].kernel.copy()
    stored = {f"{name}.{w}": a for name, w, a in (("fc", "weight", np.ones((4, 2))), ("fc", "bias", np.ones(4)))}
    loaded = Sequential([Input((2,)), Dense(4, name="fc")])

    def train():
        model.train_on_batch(x, np.zeros((4, 4)))
        model.layers[0].kernel = kernel
        loaded.load_torch_state_dict(stored)

    def predict():
        assert np.isfinite(model.predict_on_batch(x)).all()
        loaded.predict_on_batch(x[0, 0, :, :2])

    assert not in_threads(train, predict, predict)


def test_a_plan_that_somebody_runs_is_waited_for_even_when_others_have_taken_its_place():
    model = lenet()
    x = np.zeros((1, 28, 28, 1), np.float32)
    before = model.predict(x)
    plan = model.plan()
    context = plan._waiting.pop()  # as the main thread has it when it predicts
    assert context.thread == threading.get_ident()
    for n in range(2, 2 + model._plans.MOST):
        model.plan((n, 28, 28, 1))
    assert model.plan() is not plan
    weights = [0.5 * w + 0.25 for w in model.get_weights()]
    writer = threading.Thread(target=model.set_weights, args=(weights,), daemon=True)
    writer.start()
    writer.join(0.05)
    assert writer.is_alive()
    assert (model.layers[-1].kernel != weights[-2]).all()
    plan._waiting.append(context)
    writer.join(10)
    assert not writer.is_alive()
    assert (model.layers[-1].kernel == weights[-2]).all()
    with pytest.raises(StalePlan, match=r"^weights have changed since this plan was made: get a new one"):
        plan.run([x])
    assert (model.predict(x) != before).any()
    model.plan()._waiting.clear()  # as an interrupt may lose what a thread works with
    model.set_weights(weights)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (
            "strides",
            (2, 2),
            r"^layer second must give results of shape \(None, 10, 10, 6\), for which .*got \(None, 5, 5, 6\)$",
        ),
        ("groups", 3, "^layer second: groups must divide the channels of the input, 4, got 3"),
    ],
)
def test_a_layer_that_does_not_fit_any_more_is_named(name, value, complaint):
    model = Sequential([Input((10, 10, 1)), conv(4), conv(6, name="second"), MaxPool2D(2), Flatten()], seed=0)
    before = model.predict(np.ones((2, 10, 10, 1)))
    setattr(model.layers[1], name, value)
    with pytest.raises(ValueError, match=complaint):
        model.predict(np.ones((2, 10, 10, 1)))
    setattr(model.layers[1], name, (1, 1) if name == "strides" else 1)
    assert (model.predict(np.ones((2, 10, 10, 1))) == before).all()


def test_a_thread_may_change_weights_in_the_midst_of_its_own_prediction():
    model = lenet()
    x = np.zeros((1, 28, 28, 1), np.float32)
    model.predict(x)
    weights = [0.5 * w + 0.25 for w in model.get_weights()]
    runs = model.plan()._waiting[0].runs
    step = runs[3]
    runs[3] = lambda: (model.set_weights(weights), step())  # as a signal's handler may, between any two steps
    thread = threading.Thread(target=model.predict, args=(x,), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights, strict=True))


def test_a_run_of_a_thread_that_is_no_more_is_not_waited_for():
    model = lenet()
    x = np.zeros((1, 28, 28, 1), np.float32)
    model.predict(x)
    plan = model.plan()
    context = plan._waiting.pop()  # as a fork leaves it behind, whose child has no other threads
    context.thread = -1
    weights = [0.5 * w + 0.25 for w in model.get_weights()]
    thread = threading.Thread(target=model.set_weights, args=(weights,), daemon=True)
    thread.start()
    thread.join(10)
    assert plan.stale and not thread.is_alive()
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights, strict=True))


class Counting(Layer):
    """Counts, in a weight, how often it has been called."""

    def build(self, input_shape):
        self.add_weight("calls", (1,), "zeros", trainable=False)

    def forward(self, x, training=False):
        self.calls = self.calls + 1
        return x, None


def test_a_layer_may_change_its_own_weights_while_it_predicts():
    model = Sequential([Input((3,)), Dense(2), Counting()], seed=0)
    model.predict_on_batch(np.ones((1, 3)))
    before = model.layers[1].calls.copy()
    model.predict_on_batch(np.ones((1, 3)))
    assert model.layers[1].calls == before + 1
    weights = model.get_weights()
    assert not in_threads(
        lambda: model.set_weights(weights), *[lambda: model.predict_on_batch(np.ones((1, 3)))] * 2, seconds=0.2
    )


# ---- what is told of a plan ----


def test_summary_and_profile_tell_where_the_time_goes():
    model = lenet()
    lines: list[str] = []
    model.plan((4, 28, 28, 1)).summary(lines.append)
    assert lines[0].split() == ["layers", "op", "result", "MFLOP", "MB"]
    assert lines[2].startswith("conv2d +1 ") and " conv 5x5+pool " in lines[2]
    assert "6 steps for a batch of 4" in lines[-2]
    assert "activations" in lines[-1]
    profile = model.profile(np.zeros((4, 28, 28, 1)), repeats=3)
    assert [name for step in profile for name in step.layers] == [layer.name for layer in model.layers]
    assert all(step.seconds > 0 for step in profile if step.op != "view")
    assert profile[0].shape == (4, 14, 14, 6) and profile[0].flops == 4 * (2 * 28 * 28 * 25 + 4 * 14 * 14) * 6
    assert profile[0].bytes >= 4 * 4 * (28 * 28 + 14 * 14 * 6)
    timed: list[str] = []
    model.plan((4, 28, 28, 1)).summary(timed.append)
    assert timed[0].split()[-2:] == ["us", "%"]
    shares = [float(line.split()[-1]) for line in timed[2:-2]]
    assert 99 < sum(shares) < 101


def test_a_plan_that_has_predicted_tells_the_times_of_its_first_runs():
    model = lenet()
    x = np.zeros((4, 28, 28, 1), np.float32)
    plan = model.plan(x.shape)
    assert all(step.seconds is None for step in plan.steps)
    seconds = []
    for _ in range(5):
        model.predict(x, verbose=0)
        seconds.append([step.seconds for step in plan.steps])
    assert all(s > 0 for s, step in zip(seconds[0], plan.steps, strict=True) if step.op != "view")
    assert all(a >= b >= c for a, b, c in zip(*seconds[:3], strict=True))
    assert seconds[2] == seconds[3] == seconds[4]
    lines: list[str] = []
    plan.summary(lines.append)
    assert lines[0].split()[-2:] == ["us", "%"]


def test_a_summary_of_long_names_fits_80_columns():
    x = Input((128, 128, 3))
    y = MaxPool2D(2)(conv(64, activation="relu", name="features.2")(conv(64, name="features.0")(x)))
    y = block(Conv2D(256, 3, padding="same", name="backbone.layer1.block0.conv1")(y), 256)
    model = Model(x, GlobalAveragePooling2D(name="backbone.global_average_pooling")(y))
    model.profile(np.zeros((1, 128, 128, 3)), repeats=1)
    lines: list[str] = []
    model.plan().summary(lines.append)
    assert max(map(len, lines)) <= 80


def test_a_max_pooling_behind_a_convolution_is_made_on_the_way():
    x = Input((14, 15, 3))
    parts = [conv(5, activation="relu")(x), conv(20)(x), conv(70)(x)]
    pooled = [MaxPool2D(2)(part) for part in parts]
    y = Concatenate()(pooled[:2])  # where they are written, some channels of it
    others = [MaxPool2D(2)(conv(4, activation="tanh")(x)), MaxPool2D(3)(conv(4)(x)), MaxPool2D(2, padding="same")(x)]
    both = conv(6)(x)
    model = Model(x, [y, pooled[2], *others, MaxPool2D(2)(both), both], seed=0)
    steps = model.plan((2, 14, 15, 3)).steps
    assert [step.op for step in steps].count("conv 3x3+pool") == 3
    assert sum(step.op.startswith("max pool") for step in steps) == 4
    given_ = RNG.standard_normal((2, 14, 15, 3)).astype(np.float32)
    for actual, wanted in zip(model.predict(given_), layer_by_layer(model, [given_]), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_plot_profile_takes_any_name_and_needs_a_format(tmp_path):
    model = Sequential([Input((4,)), Dense(3, name="cost_$5_$6")])
    profile = model.profile(np.ones((1, 4)), repeats=2)
    fastcnn.viz.plot_profile(profile, tmp_path / "dollars.png")
    assert (tmp_path / "dollars.png").stat().st_size > 1000
    for path in (tmp_path, tmp_path / "none", ""):
        with pytest.raises(ValueError, match=r"path must end in a format's name, such as \.png"):
            fastcnn.viz.plot_profile(profile, path)
    assert [file.name for file in tmp_path.iterdir()] == ["dollars.png"]


def test_plot_profile_draws_a_bar_for_each_step(tmp_path):
    model = lenet()
    profile = model.profile(np.zeros((1, 28, 28, 1)), repeats=2)
    figure = fastcnn.viz.plot_profile(profile, tmp_path / "profile.png")
    (axes,) = figure.axes
    assert len(axes.patches) == sum(step.op != "view" for step in profile)
    assert (tmp_path / "profile.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="profile must hold steps that took time"):
        fastcnn.viz.plot_profile(model.plan((2, 28, 28, 1)).steps)
    with pytest.raises(TypeError, match="profile must be what"):
        fastcnn.viz.plot_profile("lenet")
    with pytest.raises(TypeError, match="path must be a path, got 3"):
        fastcnn.viz.plot_profile(profile, 3)


def test_bad_arguments_are_named():
    model = lenet()
    with pytest.raises(ValueError, match=r"x must have shape \(None, 28, 28, 1\)"):
        model.plan((1, 32, 32, 1))
    with pytest.raises(ValueError, match=r"input_shape must be made of integers from 1 to 2\*\*47, got \(0, 28"):
        model.plan((0, 28, 28, 1))
    with pytest.raises(ValueError, match="x must hold samples"):
        model.profile(np.zeros((0, 28, 28, 1)))
    with pytest.raises(ValueError, match="repeats"):
        model.profile(np.zeros((1, 28, 28, 1)), repeats=0)
    with pytest.raises(ValueError, match="the model has no weights yet"):
        Sequential([Dense(2)]).plan()


def test_a_network_of_two_element_types_is_run_layer_by_layer():
    model = Sequential([Input((3,)), Dense(4, dtype="float64"), Dense(2)], seed=0)
    assert model.predict(np.ones((2, 3))).shape == (2, 2)
    with pytest.raises(ValueError, match="float64 of layer dense"):
        model.plan()
