"""Models of symbolic tensors: shared layers, several inputs and outputs, and what is refused."""

from __future__ import annotations

import copy
import itertools
import json
import tracemalloc
import weakref

import numpy as np
import pytest

import fastcnn
from fastcnn import io, nn
from fastcnn.initializers import Constant, Initializer
from fastcnn.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPool2D,
    Input,
    Layer,
    MaxPool2D,
    Multiply,
    PReLU,
    ReLU,
    ReLU6,
    Reshape,
)


def two_headed(seed=0, dtype="float32"):
    """Two inputs, two outputs, a layer that is called twice, a value that is used three times, a gate."""
    image, row = Input((6, 6, 3), name="image"), Input((5,))
    shared = Conv2D(3, 3, padding="same", activation="tanh", name="shared")
    y = shared(shared(image))
    y = Add()([y, image, Conv2D(3, 1)(y)])
    y = BatchNormalization(activation="sigmoid")(y)
    gate = Reshape((1, 1, 3))(Dense(3, activation="sigmoid")(row))
    features = GlobalAveragePooling2D()(Multiply()([y, gate]))
    kind = Dense(3, activation="softmax", name="kind")(features)
    size = Dense(1, name="size")(Concatenate()([features, row]))
    return fastcnn.Model([image, row], [kind, size], seed=seed, dtype=dtype)


def data(count, dtype="float64"):
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((count, 6, 6, 3)).astype(dtype), rng.standard_normal((count, 5)).astype(dtype)]
    return x, [rng.integers(0, 3, count), x[1].sum(axis=1)]


LOSSES = ["sparse_categorical_crossentropy", "mse"]


def test_a_graph_computes_what_its_layers_do():
    model = two_headed()
    (image, row), _ = data(4, "float32")
    layers = {layer.name: layer for layer in model.layers}
    y = layers["shared"](layers["shared"](image))
    y = y + image + layers["conv2d"](y)
    y = layers["batch_normalization"](y) * layers["dense"](row).reshape(4, 1, 1, 3)
    features = y.mean(axis=(1, 2))
    kind, size = model.predict([image, row])
    np.testing.assert_allclose(kind, layers["kind"](features), rtol=1e-5)
    np.testing.assert_allclose(size, layers["size"](np.concatenate([features, row], axis=1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(training):
    model = two_headed(dtype="float64")
    model.compile("sgd", LOSSES, loss_weights=[0.7, 0.1])
    x, y = data(3)
    loss, gradients = model.loss_and_gradients(x, y, training)
    assert list(gradients) == list(model.trainable_weights)
    for name, weight in model.trainable_weights.items():
        flat = weight.reshape(-1)
        for index in np.linspace(0, flat.size - 1, 5).astype(int):
            kept, ends = flat[index], []
            for step in (1e-5, -1e-5):
                flat[index] = kept + step
                ends.append(model.loss_and_gradients(x, y, training)[0])
            flat[index] = kept
            wanted = (ends[0] - ends[1]) / 2e-5
            assert gradients[name].reshape(-1)[index] == pytest.approx(wanted, rel=1e-5, abs=1e-9), name
    assert loss == model.loss_and_gradients(x, y, training)[0]


def test_the_loss_of_several_outputs_is_their_weighted_sum():
    model = two_headed()
    x, y = data(8)
    metrics, weights = {"kind": ["accuracy"], "size": None}, {"kind": 1.0, "size": 0.25}
    model.compile("sgd", {"size": "mse", "kind": LOSSES[0]}, metrics, weights)
    figures = model.evaluate(x, y, return_dict=True)
    assert list(figures) == ["loss", "kind_loss", "size_loss", "kind_accuracy"]
    assert figures["loss"] == pytest.approx(figures["kind_loss"] + 0.25 * figures["size_loss"], rel=1e-6)
    kind, size = model.predict(x)
    assert figures["kind_loss"] == pytest.approx(-np.log(kind[np.arange(8), y[0]]).mean(), rel=1e-5)
    assert figures["size_loss"] == pytest.approx(((size[:, 0] - y[1]) ** 2).mean(), rel=1e-5)
    assert figures["kind_accuracy"] == (kind.argmax(axis=1) == y[0]).mean()
    assert model.predict_classes(x)[0].tolist() == kind.argmax(axis=1).tolist()


def test_several_inputs_train_and_are_given_by_order_name_or_in_batches():
    x, y = data(40)
    one, two, three = two_headed(), two_headed(), two_headed()
    for model in (one, two, three):
        model.compile("adam", LOSSES)
    history = one.fit(x, y, epochs=4, batch_size=8, shuffle=False, verbose=0, validation_split=0.2).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_loss"][-1] < history["val_loss"][0]
    parts = [(([a[i : i + 8] for a in x]), [t[i : i + 8] for t in y]) for i in range(0, 32, 8)]
    assert two.fit(parts, epochs=4, verbose=0).history["loss"] == history["loss"]
    named = {"input": x[1][:32], "image": x[0][:32]}, {"size": y[1][:32], "kind": y[0][:32]}
    held_out = ([a[32:] for a in x], [t[32:] for t in y])
    again = three.fit(*named, epochs=4, batch_size=8, shuffle=False, verbose=0, validation_data=held_out).history
    assert again == history
    by_tuples, batch = (tuple(held_out[0]), tuple(held_out[1])), (tuple(held_out[0]), held_out[1])
    for held_out in (by_tuples, [batch], (batch,)):
        assert three.fit(*named, verbose=0, validation_data=held_out).history["val_loss"] == [
            pytest.approx(three.evaluate(*batch)[0], rel=1e-6)
        ]
    wanted = one.predict(x, batch_size=40)
    for given in (x, tuple(x), {"image": x[0], "input": x[1]}, [(x, None)]):
        assert all(np.array_equal(a, b) for a, b in zip(one.predict(given, **_size(given)), wanted, strict=True))


def _size(given):
    return {} if isinstance(given, list) and isinstance(given[0], tuple) else {"batch_size": 40}


def test_a_file_gives_the_same_graph_back(tmp_path):
    model, (x, y) = two_headed(), data(16)
    model.compile("adam", LOSSES, metrics=[["accuracy"], []], loss_weights=[1.0, 0.5])
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.safetensors")
    twin = fastcnn.load(tmp_path / "model.safetensors")
    assert type(twin) is fastcnn.Model
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    assert all(np.array_equal(a, b) for a, b in zip(twin.predict(x), model.predict(x), strict=True))
    assert twin.train_on_batch(x, y) == model.train_on_batch(x, y)
    assert all(np.array_equal(a, b) for a, b in zip(twin.get_weights(), model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config["calls"][0].__setitem__(1, [5]), "calls, to layer shared, must name what comes before"),
        (lambda config: config["calls"][0].__setitem__(1, [-1]), "must name what comes before, .*-1"),
        (lambda config: config["calls"][0].__setitem__(1, [True]), "must name what comes before, .*True"),
        (lambda config: config["calls"][0].__setitem__(1, 0), "must say what layer shared is called on, got 0"),
        (lambda config: config["calls"][0].__setitem__(0, 99), "calls must name .* one of 11, got 99"),
        (lambda config: config["calls"].__setitem__(0, 7), "calls must be pairs, got 7"),
        (lambda config: config.__setitem__("calls", None), "calls must be a list, got None"),
        (lambda config: config.__setitem__("layers", [1]), "layers must be layers"),
        (lambda config: config.__setitem__("outputs", []), "outputs must be a symbolic tensor"),
        (lambda config: config.__setitem__("outputs", [99]), "outputs must name .*99"),
        (lambda config: config.__setitem__("inputs", [[[6, 6, 3], "image"]]), "calls|inputs"),
        (lambda config: config["inputs"].__setitem__(0, [[6, 6, 4], "image"]), "layer shared|layer add"),
        (lambda config: config["calls"][3].__setitem__(1, [0, 1]), "layer add: inputs must have the same shape"),
    ],
)
def test_a_file_that_describes_no_network_is_refused(change, complaint, tmp_path):
    path = tmp_path / "model.safetensors"
    two_headed().save(path)
    arrays, texts = io.load_arrays(path)
    about = json.loads(texts["fastcnn"])
    change(about["model"]["config"])
    io.save_arrays(path, arrays, {"fastcnn": json.dumps(about)})
    with pytest.raises(ValueError, match=complaint) as caught:
        fastcnn.load(path)
    assert str(path) in str(caught.value)


def test_shared_layers_have_one_set_of_weights_and_one_name():
    x = Input((6, 6, 3))
    base = fastcnn.Model(x, GlobalMaxPool2D()(Conv2D(4, 3)(x)), seed=1)
    a, b = Input((6, 6, 3)), Input((6, 6, 3))
    twins = fastcnn.Model([a, b], Dense(1)(Multiply()([base(a), base(b)])))
    assert twins.weights["conv2d/kernel"] is base.weights["conv2d/kernel"]
    assert [layer.name for layer in twins.layers] == ["conv2d", "global_max_pool2d", "multiply", "dense"]
    values = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype("float32")
    product = base.predict(values) * base.predict(values[::-1])
    dense = twins.layers[-1]
    np.testing.assert_allclose(twins.predict([values, values[::-1]]), dense(product), rtol=1e-5)


def test_a_layer_is_shared_between_images_of_different_sizes():
    conv = Conv2D(2, 3)
    a, b = Input((8, 8, 1)), Input((5, 6, 1))
    model = fastcnn.Model([a, b], Concatenate()([GlobalMaxPool2D()(conv(a)), GlobalMaxPool2D()(conv(b))]))
    assert model.predict([np.zeros((3, 8, 8, 1)), np.zeros((3, 5, 6, 1))]).shape == (3, 4)
    with pytest.raises(ValueError, match=r"layer conv2d: x must have shape \(None, 8, 8, 1\)"):
        conv(Input((8, 8, 2)))


def test_a_sequential_model_is_a_block_of_another():
    block = fastcnn.Sequential([Conv2D(4, 3, padding="same"), MaxPool2D(2)])
    x = Input((8, 8, 3))
    model = fastcnn.Model(x, Dense(2)(Flatten()(block(x))), seed=0)
    assert model.output_shape == (None, 2)
    assert model.weights["conv2d/kernel"] is block.layers[0].kernel


def test_a_chain_of_symbolic_calls_is_the_sequential_model():
    def layers():
        return [Conv2D(4, 3, activation="relu"), Flatten(), Dropout(0.3), Dense(3, activation="softmax")]

    chain = fastcnn.Sequential([Input((6, 6, 2)), *layers()], seed=4)
    x = y = Input((6, 6, 2))
    for layer in layers():
        y = layer(y)
    model = fastcnn.Model(x, y, seed=4)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((32, 6, 6, 2)), rng.integers(0, 3, 32)
    for one in (chain, model):
        one.compile("adam", LOSSES[0])
    assert chain.fit(images, labels, verbose=0).history == model.fit(images, labels, verbose=0).history
    assert np.array_equal(chain.predict(images), model.predict(images))


def test_an_output_that_is_used_inside_too_keeps_its_activation():
    x = Input((4,))
    probabilities = Dense(3, activation="softmax")(x)
    model = fastcnn.Model(x, [probabilities, Dense(1)(probabilities)], dtype="float64", seed=0)
    model.compile("sgd", LOSSES)
    rng = np.random.default_rng(0)
    values, y = rng.standard_normal((8, 4)), [rng.integers(0, 3, 8), rng.standard_normal(8)]
    loss = model.evaluate(values, y)[0]
    first, second = model.predict(values)
    wanted = -np.log(first[np.arange(8), y[0]]).mean() + ((second[:, 0] - y[1]) ** 2).mean()
    assert loss == pytest.approx(wanted, rel=1e-9)


def test_an_output_that_is_given_twice_can_have_two_losses():
    x = Input((4,))
    probabilities = Dense(3, activation="softmax", name="Kind")(x)
    model = fastcnn.Model(x, [probabilities, probabilities], dtype="float64", seed=0)
    model.compile("sgd", LOSSES)
    rng = np.random.default_rng(0)
    values, wanted = rng.standard_normal((8, 4)), rng.standard_normal((8, 3))
    figures = model.evaluate(values, [np.zeros(8, int), wanted], return_dict=True)
    assert list(figures) == ["loss", "Kind_loss", "Kind_1_loss"]
    predicted = model.predict(values)[0]
    assert figures["Kind_loss"] == pytest.approx(-np.log(predicted[:, 0]).mean(), rel=1e-9)
    assert figures["Kind_1_loss"] == pytest.approx(((predicted - wanted) ** 2).mean(), rel=1e-9)


def test_what_a_layer_has_learned_is_kept_for_its_step_alone():
    seen = []

    class Plain(Layer):
        def forward(self, x, training=False):
            return x * 2, x

        def backward(self, grad, cache):
            return grad * 2, {}

    class Stepping(Plain):
        def after_step(self, learned):
            seen.append(learned)

    x = Input((2,))
    model = fastcnn.Model(x, Stepping()(Plain()(Dense(2)(x))), seed=0)
    model.compile("sgd", "mse")
    wanted = 2 * model.layers[0](np.ones((1, 2), np.float32))
    model.train_on_batch(np.ones((1, 2)), np.ones((1, 2)))
    assert np.array_equal(seen, [wanted])
    assert Plain().learned("cache") is None
    assert Stepping().learned("cache") == "cache"


def test_a_frozen_part_is_not_gone_back_through():
    class Watched(Layer):
        calls = 0

        def forward(self, x, training=False):
            return x + 1, None

        def backward(self, grad, cache):
            Watched.calls += 1
            return grad, {}

    x = Input((4,))
    frozen = Dense(4, trainable=False)
    model = fastcnn.Model(x, Dense(2)(Watched()(frozen(x))), seed=0)
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 2)))
    assert Watched.calls == 0
    assert list(model.trainable_weights) == ["dense_1/kernel", "dense_1/bias"]


def test_gradients_and_what_backward_needs_are_let_go_of_on_the_way_back():
    alive = []

    class Counted(Layer):
        def forward(self, x, training=False):
            kept = x.copy()
            alive.append(weakref.ref(kept))
            return x * 1, kept

        def backward(self, grad, kept):
            counts.append(sum(ref() is not None for ref in alive))
            return grad * 1, {}

    counts = []
    x = Input((4,))
    y = Dense(4)(x)
    for _ in range(5):
        y = Counted()(y)
    model = fastcnn.Model(x, y, seed=0)
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 4)))
    assert counts == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("middle", ["float32", "float64"])
def test_every_layer_computes_in_its_own_element_type(middle, tmp_path):
    other = {"float32": "float64", "float64": "float32"}[middle]

    def network(outer, inner):
        x = Input((6, 6, 2))
        y = BatchNormalization(dtype=inner)(Conv2D(4, 3, padding="same", dtype=outer)(x))
        y = Add(dtype=outer)([Activation("relu", dtype=outer)(y), Conv2D(4, 1, dtype=inner)(x)])
        y = Dense(3, dtype=outer)(GlobalAveragePooling2D(dtype=outer)(y))
        y = Activation("relu", dtype=inner)(BatchNormalization(dtype=outer)(y))
        model = fastcnn.Model(x, y, seed=0, dtype=outer)
        model.compile("sgd", "mse")
        return model

    mixed, alike = network(other, middle), network("float64", "float64")
    alike.set_weights(mixed.get_weights())
    x, y = np.random.default_rng(0).standard_normal((4, 6, 6, 2)), np.ones((4, 3))
    assert {array.dtype.name for array in mixed.weights.values()} == {"float32", "float64"}
    for training in (False, True):
        result = mixed(x, training)
        assert result.dtype == middle
        np.testing.assert_allclose(result, alike(x, training), rtol=1e-5, atol=1e-5)
    loss, gradients = mixed.loss_and_gradients(x, y)
    wanted, others = alike.loss_and_gradients(x, y)
    assert abs(loss - wanted) < 1e-5
    for name, gradient in gradients.items():
        assert gradient.dtype == mixed.weights[name].dtype
        np.testing.assert_allclose(gradient, others[name], rtol=1e-3, atol=1e-5)
    mixed.train_on_batch(x, y)
    mixed.save(tmp_path / "m.safetensors")
    assert np.array_equal(fastcnn.load(tmp_path / "m.safetensors").predict(x), mixed.predict(x))


def test_layers_of_one_element_type_in_a_model_of_another_all_compute_in_it():
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    layer = GlobalAveragePooling2D(dtype="float64")
    model = fastcnn.Sequential([Input((4, 4, 3)), layer])
    for result in (model.predict(x), model(x, training=True)):
        assert result.dtype == "float64"
        assert np.array_equal(result, layer(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_share_no_memory(dtype):
    x = Input((2, 3))
    y = Dense(2)(x)
    flat = Flatten(dtype=dtype)(y)
    model = fastcnn.Model(x, [flat, flat, y, Flatten()(x)])
    given = np.ones((1, 2, 3), np.float32)
    for results in (model.predict(given), model(given), model(given, training=True)):
        arrays = [given, *results]
        assert not any(np.may_share_memory(a, b) for a, b in itertools.combinations(arrays, 2))
        assert all(array.flags.writeable for array in arrays)


def test_layers_of_a_model_that_could_not_be_made_are_as_before():
    class Failing(Initializer):
        def __call__(self, shape, dtype, rng):
            raise ValueError("no")

    first, second = Dense(2), Dense(2, kernel_initializer=Failing())
    x = Input((3,))
    y = second(first(x))
    with pytest.raises(ValueError, match="layer dense_1: no"):
        fastcnn.Model(x, y)
    assert [(layer.name, layer.dtype, layer.built) for layer in (first, second)] == [(None, None, False)] * 2
    second.kernel_initializer = Constant(1)
    assert fastcnn.Model(x, y, dtype="float64").predict(np.ones((1, 3))).dtype == "float64"


def test_layers_without_names_are_called_as_in_keras():
    layers = [Conv2DTranspose(2, 1), PReLU(), MaxPool2D(1), PReLU(), Conv2DTranspose(2, 1)]
    names = ["conv2d_transpose", "p_re_lu", "max_pool2d", "p_re_lu_1", "conv2d_transpose_1"]
    x = y = Input((2, 2, 2))
    for layer in layers:
        y = layer(y)
    assert [layer.name for layer in fastcnn.Model(x, y).layers] == names
    layers = [Conv2DTranspose(2, 1), PReLU(), MaxPool2D(1), PReLU(), Conv2DTranspose(2, 1)]
    assert [layer.name for layer in fastcnn.Sequential(layers).layers] == names


def test_a_network_begins_and_ends_in_tensors_that_others_are_made_of():
    base = fastcnn.models.resnet20_cifar(include_top=False, seed=0)
    assert base.get_layer("conv1") is base.layers[0] is base.get_layer(index=0)
    assert base.get_layer(index=-1) is base.layers[-1]
    features = GlobalAveragePooling2D()(base.output)
    model = fastcnn.Model(base.input, [Dense(2)(features), Dense(3)(Flatten()(base.output))], seed=0)
    assert len(model.layers) == len(base.layers) + 4  # the base is there once
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    means, head = base.predict(x).mean(axis=(1, 2)), model.get_layer("dense")
    np.testing.assert_allclose(model.predict(x)[0], means @ head.kernel, rtol=1e-4, atol=1e-4)
    # A copy has layers of its own, and tensors that lead to them.
    twin = copy.deepcopy(base)
    again = fastcnn.Model(twin.inputs, twin.outputs[0])
    assert again.layers[0] is twin.layers[0] is not base.layers[0]
    assert (again.predict(x) == base.predict(x)).all()
    two = two_headed()
    assert [tensor.name for tensor in two.input] == ["image", None] and two.output == two.outputs
    chain = fastcnn.Sequential([Dense(2)])
    with pytest.raises(ValueError, match="the model has no weights yet"):
        chain.output  # noqa: B018
    chain.build((None, 3))
    assert chain.input.shape == (None, 3) and chain.output.shape == (None, 2)
    assert fastcnn.Model(chain.input, chain.output).layers == chain.layers


@pytest.mark.parametrize(
    ("given", "error", "complaint"),
    [
        ({}, ValueError, "name or index must be given, and not both, got None and None"),
        ({"name": "dense", "index": 0}, ValueError, "name or index must be given, and not both, got 'dense' and 0"),
        ({"name": "conv"}, ValueError, "name must be one of dense, dense_1, got 'conv'"),
        ({"index": 2}, ValueError, "index must be that of one of 2 layers, got 2"),
        ({"index": -3}, ValueError, "index must be .* from -2 .*got -3"),
        ({"index": "dense"}, TypeError, "index must be made of integers, got 'dense'"),
    ],
)
def test_layers_that_there_are_not_are_named(given, error, complaint):
    with pytest.raises(error, match=complaint):
        fastcnn.Sequential([Dense(2), Dense(2)]).get_layer(**given)


def test_data_may_be_given_by_the_inputs_names():
    start = Input((4,), name="row")
    x, y = np.random.default_rng(0).standard_normal((2, 8, 4))
    models = [fastcnn.Model(start, Dense(4, kernel_initializer="ones")(start)) for _ in range(2)]
    losses = []
    for model, given in zip(models, (x, {"row": x}), strict=True):
        model.compile("sgd", "mse")
        history = model.fit(given, y, epochs=2, verbose=0, validation_split=0.25, shuffle=False).history
        losses.append(
            [history, model.evaluate(given, y), model.train_on_batch(given, y), model.predict(given).tolist()]
        )
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="x must be given by the names row, got \\['row', 'other'\\]"):
        models[0].predict({"row": x, "other": x})
    with pytest.raises(TypeError, match=r"x must be an array or .*'line'"):
        models[0].predict({"line": x})
    model = two_headed()
    model.compile("sgd", dict(zip(("kind", "size"), LOSSES, strict=True)))
    x, y = data(8)
    by_name = {"input": x[1], "image": x[0]}, {"size": y[1], "kind": y[0]}
    assert model.evaluate(x, y) == model.evaluate(*by_name)
    history = [model.fit(*given, verbose=0, epochs=1).history for given in (by_name, (x, y))]
    assert history[0].keys() == history[1].keys() and history[1]["loss"] < history[0]["loss"]


def test_a_deep_network_needs_no_deep_recursion():
    x = y = Input((2,))
    for _ in range(3000):
        y = Activation("relu")(y)
    model = fastcnn.Model(x, y)
    assert model.predict([[1.0, -1.0]]).tolist() == [[1.0, 0.0]]


def test_a_summary_says_what_each_layer_is_called_on():
    lines = []
    two_headed().summary(lines.append)
    assert lines[0].split() == ["layer", "output", "shape", "parameters", "FLOPs", "called", "on"]
    rows = {line.split()[0]: line for line in lines[2:-2]}
    assert rows["add"].endswith("shared, image, conv2d")
    assert " 84  11,664  " in rows["shared"]  # two calls: 2 * 2 * 27 * 3 * 36
    assert lines[-1] == "147 parameters, 141 of them trained; 13,024 FLOPs a sample"


def cyclic():
    a = Dense(2)(Input((2,)))
    b = Dense(2)(a)
    a.sources = (b,)
    return b


IMAGE = Input((4, 4, 3))
VECTOR = Input((3,), name="vector")


@pytest.mark.parametrize(
    ("make", "error", "complaint"),
    [
        (lambda: fastcnn.Model(3, IMAGE), TypeError, "inputs must be a fastcnn.Input or a list .*got 3"),
        (lambda: fastcnn.Model(Flatten()(IMAGE), IMAGE), TypeError, "inputs must be a fastcnn.Input"),
        (lambda: fastcnn.Model(IMAGE, np.zeros(3)), TypeError, "outputs must be a symbolic tensor"),
        (lambda: fastcnn.Model(IMAGE, []), TypeError, r"outputs must be a symbolic tensor .*got \[\]"),
        (lambda: fastcnn.Model(IMAGE, IMAGE), ValueError, "outputs must come from at least one layer"),
        (lambda: fastcnn.Model([IMAGE, IMAGE], Flatten()(IMAGE)), ValueError, "inputs must be different objects"),
        (lambda: fastcnn.Model(IMAGE, Dense(1)(VECTOR)), ValueError, r"Input\(\(3,\), name='vector'\) is not among"),
        (
            lambda: fastcnn.Model(IMAGE, Add()([Dense(2, name="head")(VECTOR), Dense(2)(Flatten()(IMAGE))])),
            ValueError,
            r"Input.* is not among them: <Tensor of shape \(None, 2\) from Dense head> needs it$",
        ),
        (lambda: fastcnn.Model(IMAGE, VECTOR), ValueError, r"Input\(\(3,\), name='vector'\) is not among them$"),
        (lambda: fastcnn.Model([IMAGE, VECTOR], Dense(1)(VECTOR)), ValueError, r"nothing that does uses Input\(\(4, 4"),
        (lambda: fastcnn.Model(VECTOR, cyclic()), ValueError, "outputs must come from inputs, but .* its own result"),
        (lambda: Add()([IMAGE, VECTOR]), ValueError, r"layer Add: inputs .*\(None, 4, 4, 3\) and \(None, 3\)"),
        (lambda: Add(name="sum")([IMAGE, Conv2D(3, 3)(IMAGE)]), ValueError, r"layer sum: .*\(None, 2, 2, 3\)"),
        (
            lambda: Concatenate()([IMAGE, Conv2D(5, 3)(IMAGE)]),
            ValueError,
            r"but for axis -1, got \(None, 4, 4, 3\) and",
        ),
        (lambda: Concatenate(axis=3)([VECTOR, VECTOR]), ValueError, r"axis must be one of .*\(None, 3\), got 3"),
        (lambda: Concatenate(axis=0), ValueError, "axis must not be that of the batch"),
        (lambda: Add()(IMAGE), TypeError, "layer Add must be called on a list"),
        (lambda: Add()([]), TypeError, r"layer Add must be called on a list .*got \[\]"),
        (lambda: Add()([IMAGE, np.zeros((1, 4, 4, 3))]), TypeError, "symbolic tensors alone or arrays alone"),
        (lambda: Dense(2)([VECTOR]), TypeError, "layer Dense must be called on one tensor, got a list of 1"),
        (lambda: Conv2D(3, 5)(IMAGE), ValueError, r"layer Conv2D: filters .*\(None, 4, 4, 3\)"),
        (lambda: np.asarray(IMAGE), TypeError, r"Input\(\(4, 4, 3\)\) holds no numbers"),
        (lambda: IMAGE + 1, TypeError, "unsupported operand"),
        (lambda: np.add(1, IMAGE), TypeError, "Input"),
        (lambda: Input((3,), name="a b"), ValueError, "name must be a word"),
        (lambda: fastcnn.Sequential([Add()]), ValueError, "layers must take one input each, got Add"),
        (
            lambda: fastcnn.Model([Input((3,), "a"), Input((3,), "a")], VECTOR),
            ValueError,
            "is not among them|different names",
        ),
        (
            lambda: fastcnn.Model(VECTOR, Dense(1, name="a")(Dense(1, name="a")(VECTOR))),
            ValueError,
            "layers must have different names, got 'a' twice",
        ),
    ],
)
def test_mistakes_are_named(make, error, complaint):
    with pytest.raises(error, match=complaint):
        make()


@pytest.mark.parametrize(
    ("act", "error", "complaint"),
    [
        (lambda m, x, y: m.predict(x[:1]), ValueError, "x must be 2, for image, input, got 1"),
        (lambda m, x, y: m.predict_on_batch(x[0]), TypeError, "x must be a list of 2 or a dict by the names image, in"),
        (lambda m, x, y: m.predict({"image": x[0]}), ValueError, "x must be given by the names image, input"),
        (lambda m, x, y: m.predict([x[0], x[1][:3]]), ValueError, "x for input must have as many .* image, 8, got 3"),
        (lambda m, x, y: m.predict_on_batch([x[0], x[1][:3]]), ValueError, "x for input must have as many samples"),
        (lambda m, x, y: m.predict(x[::-1]), ValueError, r"x for image must have shape \(None, 6, 6, 3\) as the model"),
        (lambda m, x, y: m.fit(x, y[0]), TypeError, "y must be a list of 2 or a dict by the names kind, size"),
        (lambda m, x, y: m.fit(x, [y[0], y[1][:5]]), ValueError, "y for size must have as many samples"),
        (lambda m, x, y: m.fit(x, [y[0] + 9, y[1]]), ValueError, "output kind: y must hold class numbers"),
        (lambda m, x, y: m.fit(x, [t[:5] for t in y]), ValueError, "y must have as many samples as x, 8, got 5"),
        (lambda m, x, y: m.compile("sgd", ["mse"]), ValueError, "loss must be 2, for kind, size, got 1"),
        (lambda m, x, y: m.compile("sgd", {"kind": "mse"}), ValueError, "loss must be given by the names kind, size"),
        (lambda m, x, y: m.compile("sgd", "mse", loss_weights=[1, -1]), ValueError, "loss_weights"),
        (lambda m, x, y: m.compile("sgd", "mse", metrics=[["acc"]]), ValueError, "metrics must be 2"),
        (lambda m, x, y: m([Input((6, 6, 3))]), ValueError, "x must be 2 tensors, got 1"),
        (lambda m, x, y: m.build([(None, 6, 6, 3)]), ValueError, "input_shape must be 2"),
    ],
)
def test_mistakes_with_several_inputs_are_named(act, error, complaint):
    model = two_headed()
    model.compile("sgd", LOSSES)
    with pytest.raises(error, match=complaint):
        act(model, *data(8))


@pytest.mark.parametrize(
    "returned", [lambda grad: grad, lambda grad: [grad], lambda grad: [grad, None], lambda grad: [grad[:, :1], grad]]
)
def test_a_merging_layer_of_ones_own_that_returns_other_gradients_is_told_so(returned):
    class Mean(Layer):
        many_inputs = True

        def forward(self, x, training=False):
            return (x[0] + x[1]) / 2, None

        def backward(self, grad, cache):
            return returned(grad / 2), {}

    x = Input((3,))
    model = fastcnn.Model(x, Mean()([Dense(3)(x), Dense(3)(x)]))
    model.compile("sgd", "mse")
    with pytest.raises((TypeError, ValueError), match="backward of layer mean must return"):
        model.train_on_batch(np.ones((2, 3)), np.ones((2, 3)))


# Batch normalisation, and a relu after it


def normalized(relu, extra=None, activation=None):
    x = Input((5, 5, 3))
    norm = BatchNormalization(activation=activation, gamma_initializer=Constant(8), name="norm")
    y = norm(Conv2D(4, 3, name="conv")(x))
    z = y if relu is None else relu(y)
    outputs = Flatten()(z) if extra is None else Flatten()(Add()([z, extra(y)]))
    model = fastcnn.Model(x, Dense(2, name="dense")(outputs), seed=0)
    model.compile("sgd", "mse")
    return model


def loss_and_gradients(model):
    x = np.random.default_rng(0).standard_normal((6, 5, 5, 3))
    return model.loss_and_gradients(x, np.ones((6, 2)))


@pytest.mark.parametrize(
    ("relu", "name"),
    [
        (ReLU(), "relu"),
        (Activation("relu"), "relu"),
        (ReLU(6), "relu6"),
        (ReLU6(), "relu6"),
        (Activation("relu6"), "relu6"),
    ],
)
def test_a_relu_after_a_normalization_is_worked_into_it(relu, name, monkeypatch):
    one, two = normalized(None, activation=name), normalized(relu)
    two.set_weights(one.get_weights())
    expected = loss_and_gradients(one)
    for cls in (ReLU, ReLU6, Activation):
        monkeypatch.setattr(cls, "forward", None)  # is not called
    found = loss_and_gradients(two)
    assert found[0] == expected[0]
    assert all((found[1][name] == expected[1][name]).all() for name in expected[1])


@pytest.mark.parametrize(
    ("relu", "extra"),
    [(ReLU(max_value=0.5), None), (Activation("tanh"), None), (ReLU(), Activation("tanh")), (ReLU(), ReLU())],
)
def test_what_is_no_plain_relu_of_it_alone_is_not(relu, extra):
    model = normalized(relu, extra)
    loss, gradients = loss_and_gradients(model)
    layers = {layer.name: layer for layer in model.layers}
    x = np.random.default_rng(0).standard_normal((6, 5, 5, 3)).astype(np.float32)
    y = layers["norm"](layers["conv"](x), training=True)
    y = relu(y) if extra is None else relu(y) + extra(y)
    y = layers["dense"](y.reshape(6, -1))
    np.testing.assert_allclose(loss, ((y - 1) ** 2).mean(), rtol=1e-5)
    assert np.abs(gradients["norm/gamma"]).max() > 0


class AddAlone(Add):
    """One that nothing is worked into."""

    def forward(self, x, training=False):
        return super().forward(x, training)


def residual_blocks(add, relu, projected, taken, checkpoints=False):
    """Two blocks, whose input and result are taken twice or, by a last one, three times."""
    x = Input((6, 6, 4))
    y = Conv2D(4, 1)(x)
    for block in range(2):
        z = BatchNormalization()(Conv2D(4, 3, padding="same", use_bias=False)(y))
        shortcut = BatchNormalization(gamma_initializer=Constant(2))(Conv2D(4, 1)(y)) if projected else y
        z = add()([z, shortcut] if block else [shortcut, z])
        y = z if relu is None else relu()(z)
    z = Concatenate()([y, Conv2D(2, 1)(y), Conv2D(3, 1)(y)][:taken])
    model = fastcnn.Model(x, Dense(2)(Flatten()(z)), seed=0)
    model.compile("sgd", "mse", checkpoint_activations=checkpoints)
    data = np.random.default_rng(0).standard_normal((5, 6, 6, 4))
    loss, gradients = model.loss_and_gradients(data, np.ones((5, 2)))
    return loss, list(gradients.values()), model(data)


@pytest.mark.parametrize("taken", [1, 2, 3])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("relu", [None, ReLU, ReLU6, lambda: Activation("tanh"), lambda: ReLU(3)])
def test_a_sum_after_a_normalization_is_worked_into_it(relu, projected, taken, monkeypatch):
    loss, gradients, result = residual_blocks(AddAlone, relu, projected, taken)
    sums = []
    forward = Add.forward
    monkeypatch.setattr(Add, "forward", lambda *args: sums.append(args) or forward(*args))
    for checkpoints in (False, True):
        sums.clear()
        found = residual_blocks(Add, relu, projected, taken, checkpoints)
        # Cut into parts, the second pass does a sum for itself where it begins one.
        assert checkpoints or not sums
        assert found[0] == pytest.approx(loss, rel=1e-6)
        for a, b in zip([*found[1], found[2]], [*gradients, result], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_a_sum_that_is_broadcast_or_taken_elsewhere_is_not_worked_in():
    x = Input((4, 4, 3))
    gate = BatchNormalization()(AveragePooling2D(4)(x))
    twice = BatchNormalization()(x)
    model = fastcnn.Model(x, [Add()([x, gate]), Add()([gate, x]), Add()([twice, twice]), twice], seed=0)
    data = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    wide, turned, doubled, once = model(data, training=True)
    np.testing.assert_array_equal(wide, turned)
    np.testing.assert_array_equal(doubled, 2 * once)
    np.testing.assert_allclose(np.ptp(wide - data, axis=(1, 2)), 0, atol=1e-6)
    assert np.abs(wide - data).max() > 0.1


class MaxPoolAlone(MaxPool2D):
    """One that nothing is worked into."""


def pooled(pool, activation, extra=None, checkpoints=False):
    x = Input((9, 9, 3))
    y = Conv2D(4, 3, activation=activation if extra is not Activation else None, name="conv")(x)
    y = Activation(activation)(y) if extra is Activation else y
    z = Flatten()(pool(y))
    z = z if extra in (None, Activation) else Concatenate()([z, Flatten()(y)])
    model = fastcnn.Model(x, Dense(2, name="dense")(z), seed=0)
    model.compile("sgd", "mse", checkpoint_activations=checkpoints)
    data = np.random.default_rng(0).standard_normal((6, 9, 9, 3))
    return model.loss_and_gradients(data, np.ones((6, 2)))


@pytest.mark.parametrize("extra", [None, Activation, "used twice", "checkpoints"])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh", "silu", None])
@pytest.mark.parametrize("pool_size", [2, 3, (2, 5)])
def test_going_back_through_a_relu_behind_the_maxima_changes_no_bit(pool_size, activation, extra, monkeypatch):
    options = {"pool_size": pool_size, "strides": 2, "padding": "same"}
    checkpoints = extra == "checkpoints"
    extra = None if checkpoints else extra
    expected = pooled(MaxPoolAlone(**options), activation, extra)
    sizes = []
    backward = nn.activate_backward
    monkeypatch.setattr(nn, "activate_backward", lambda grad, *rest: sizes.append(grad.shape) or backward(grad, *rest))
    found = pooled(MaxPool2D(**options), activation, extra, checkpoints)
    assert found[0] == expected[0]
    assert all((found[1][name] == expected[1][name]).all() for name in expected[1])
    if activation is not None:
        behind = activation in ("relu", "relu6") and extra != "used twice"
        assert sizes == [(6, *((4, 4) if behind else (7, 7)), 4)]


@pytest.mark.parametrize("extra", [None, "used twice", "checkpoints"])
@pytest.mark.parametrize("activation", ["relu", "relu6", None])
@pytest.mark.parametrize("pool", [{}, {"padding": 0}, {"strides": 1}, {"padding": "same"}])
def test_a_convolution_takes_maxima_on_its_way(pool, activation, extra, monkeypatch):
    checkpoints = extra == "checkpoints"
    extra = None if checkpoints else extra
    loss, expected = pooled(MaxPoolAlone(2, **pool), activation, extra)
    calls = []
    fused = nn.conv2d_max_pool_with_argmax
    monkeypatch.setattr(nn, "conv2d_max_pool_with_argmax", lambda *args: calls.append(args) or fused(*args))
    found = pooled(MaxPool2D(2, **pool), activation, extra, checkpoints)
    halves = pool in ({}, {"padding": 0})
    assert bool(calls) == (halves and activation is not None and extra is None)
    assert found[0] == loss and list(found[1]) == list(expected)
    for name, gradient in expected.items():
        # The bias's is the sum of fewer elements, so in another order.
        error = 1e-6 * np.abs(gradient).max() if name == "conv/bias" else 0
        np.testing.assert_allclose(found[1][name], gradient, rtol=0, atol=error)


@pytest.mark.parametrize(
    "build",
    [
        lambda checkpoints: pooled(MaxPool2D(2), "relu", None, checkpoints),
        lambda checkpoints: pooled(MaxPool2D(3), "relu6", "used twice", checkpoints),
        lambda checkpoints: residual_blocks(Add, ReLU, True, 3, checkpoints)[:2],
        lambda checkpoints: residual_blocks(Add, ReLU6, False, 1, checkpoints)[:2],
    ],
)
def test_parts_may_end_anywhere(build, monkeypatch):
    loss, expected = build(False)
    expected = list(expected.values()) if isinstance(expected, dict) else expected
    scale = max(np.abs(gradient).max() for gradient in expected)
    ends = []
    for edge in itertools.count(1):

        def cut(self, edge=edge):
            ends.append(len(self.calls))
            return [(0, edge), (edge, len(self.calls))]

        monkeypatch.setattr(fastcnn.graph.Graph, "_cut", cut)
        found_loss, found = build(True)
        assert found_loss == pytest.approx(loss, rel=1e-6)
        for a, b in zip(found.values() if isinstance(found, dict) else found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)
        if edge == ends[0] - 1:
            break
    assert len(ends) == ends[0] - 1


@pytest.mark.parametrize("name", ["lenet5", "cifar_vgg", "squeezenet1_1", "vgg11", "resnet18_cifar", "mobilenet_v2"])
def test_parts_end_where_no_two_calls_are_done_together(name):
    graph = getattr(fastcnn.models, name)(classes=10, input_shape=(64, 64, 3))._traced()
    parts = graph._cut()
    edges = [last for _, last in parts[:-1]]
    assert parts[0][0] == 0 and parts[-1][1] == len(graph.calls) and [first for first, _ in parts[1:]] == edges
    kinds = [(type(graph.calls[edge - 1].layer), type(graph.calls[edge].layer)) for edge in edges]
    assert not {(Conv2D, BatchNormalization), (BatchNormalization, ReLU), (BatchNormalization, Add)} & {*kinds}
    assert all(second is not MaxPool2D for _, second in kinds)
    assert edges or name not in ("resnet18_cifar", "mobilenet_v2")


@pytest.mark.parametrize("frozen", ["conv", "first"])
def test_gradients_through_maxima_on_the_way_of_layers_some_of_which_are_frozen(frozen):
    def gradients(pool):
        x = Input((8, 9, 3))
        y = Conv2D(5, 3, padding="same", name="first", trainable=frozen != "first")(x)
        y = Conv2D(4, 3, activation="relu", use_bias=False, name="conv", trainable=frozen != "conv")(y)
        model = fastcnn.Model(x, Dense(2, name="dense")(Flatten()(pool(y))), seed=0)
        model.compile("sgd", "mse")
        return model.loss_and_gradients(np.random.default_rng(0).standard_normal((6, 8, 9, 3)), np.ones((6, 2)))

    loss, expected = gradients(MaxPoolAlone(2))
    found = gradients(MaxPool2D(2))
    assert found[0] == loss and list(found[1]) == list(expected)
    assert any(name.startswith(("conv", "first")) for name in expected)
    for name, gradient in expected.items():
        np.testing.assert_array_equal(found[1][name], gradient)


def test_a_models_own_arrays_may_be_set_in_another_order():
    model = fastcnn.Sequential([Input((3,)), Dense(3, use_bias=False), Dense(3, use_bias=False)], seed=0)
    first, second = model.get_weights()
    model.set_weights([array.T.T for array in list(model.weights.values())[::-1]])
    np.testing.assert_array_equal(model.get_weights(), [second, first])


def test_arguments_that_change_count_in_training():
    relu = ReLU()
    model = normalized(relu)
    before = loss_and_gradients(model)[0]
    relu.max_value = 0.25
    clipped = loss_and_gradients(model)[0]
    assert clipped != before
    relu.max_value = None
    model.layers[1].activation = "tanh"
    assert loss_and_gradients(model)[0] not in (before, clipped)


# Checkpoints


def deep(checkpoints, layers=36):
    x = y = Input((8, 8, 16))
    for i in range(layers):
        y = Conv2D(16, 3, padding="same", activation="relu" if i % 2 else None)(y)
        y = BatchNormalization(activation="relu")(y) if i % 5 == 2 else Dropout(0.1)(y) if i % 5 == 4 else y
    y = Add()([y, x])
    model = fastcnn.Model(x, Dense(3, activation="softmax")(Flatten()(y)), seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", checkpoint_activations=checkpoints)
    return model


def test_checkpoints_change_no_bit_of_a_training():
    x, y = np.random.default_rng(0).standard_normal((8, 8, 8, 16)), np.arange(8) % 3
    plain, checked = deep(False), deep(True)
    for _ in range(3):
        assert plain.train_on_batch(x, y) == checked.train_on_batch(x, y)
    assert all((a == b).all() for a, b in zip(plain.get_weights(), checked.get_weights(), strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_checkpoints_change_no_bit_of_the_gradients_of_a_graph(training):
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((4, 6, 6, 3)), rng.standard_normal((4, 5))]
    found = []
    for checkpoints in (False, True):
        model = two_headed()
        wanted = [np.zeros((4, *shape[1:])) for shape in model.output_shape]
        model.compile("sgd", "mse", checkpoint_activations=checkpoints)
        found.append(model.loss_and_gradients(given, wanted, training))
    assert found[0][0] == found[1][0]
    assert list(found[0][1]) == list(found[1][1])
    assert all((found[0][1][name] == found[1][1][name]).all() for name in found[0][1])


def test_checkpoints_take_less_memory():
    x, y = np.random.default_rng(0).standard_normal((32, 8, 8, 16)), np.arange(32) % 3
    peaks = []
    for checkpoints in (False, True):
        model = deep(checkpoints)
        model.train_on_batch(x, y)
        tracemalloc.start()
        try:
            model.train_on_batch(x, y)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    activations = 50 * 32 * 8 * 8 * 16 * 4
    assert peaks[0] > 0.8 * activations
    assert peaks[1] < 0.45 * peaks[0]


def test_checkpoints_are_part_of_a_file(tmp_path):
    deep(True, 4).save(tmp_path / "deep.safetensors")
    assert fastcnn.load(tmp_path / "deep.safetensors")._checkpoints
    with pytest.raises(TypeError, match="checkpoint_activations must be"):
        deep("yes", 2)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 10, 35])
def test_a_graph_is_cut_into_parts_that_follow_each_other(layers):
    parts = deep(False, layers)._traced()._cut()
    assert parts[0][0] == 0 and parts[-1][1] == len(deep(False, layers)._traced().calls)
    assert all(first < last for first, last in parts)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
