"""Models are compiled, trained, evaluated and asked: what fit does, what it shows, and that it learns."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import re
import signal
import threading

import numpy as np
import pytest
from reference import numerical_gradient_by

import fastcnn
from fastcnn import batches, demo, losses, nn, optimizers
from fastcnn._core import _memory
from fastcnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    MaxPool2D,
    Reshape,
    Softmax,
)


def points(count=200, seed=0):
    """Points in four dimensions, and on which side of a plane they lie."""
    x = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int64)


def classifier(*extra, last="softmax", seed=0, dtype="float32", optimizer="adam"):
    layers = [Input((4,)), Dense(16, activation="relu"), *extra, Dense(2, activation=last)]
    model = fastcnn.Sequential(layers, seed=seed, dtype=dtype)
    model.compile(optimizer, losses.SparseCategoricalCrossentropy(from_logits=last is None), metrics=["accuracy"])
    return model


def weights_equal(a, b):
    return all(np.array_equal(v, w) for v, w in zip(a.get_weights(), b.get_weights(), strict=True))


# Copies


@pytest.mark.parametrize("predicts", [False, True])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in (2, 4, 5))]
)
def test_a_copy_trains_on_to_the_bit_and_alone(copied, predicts):
    x, y = points()
    model = classifier(Dense(64))
    model.fit(x, y, verbose=0)
    if predicts:
        model.predict(x)
    twin, before = copied(model), model.get_weights()
    twin.predict(x)
    twin.fit(x, y, verbose=0)
    assert all(np.array_equal(v, w) for v, w in zip(model.get_weights(), before, strict=True))
    model.fit(x, y, verbose=0)
    assert weights_equal(model, twin)
    twin.set_weights(before)
    twin.layers[0].kernel = before[0] + 1
    assert (twin.weights["dense/kernel"] == before[0] + 1).all()


def test_a_pickle_whose_buffers_are_read_only_trains_on():
    x, y = points()
    model, buffers = classifier(Dense(64)), []
    model.fit(x, y, verbose=0)
    content = pickle.dumps(model, 5, buffer_callback=buffers.append)
    twin = pickle.loads(content, buffers=[bytes(buffer.raw()) for buffer in buffers])
    for one in (model, twin):
        one.fit(x, y, verbose=0)
    assert weights_equal(model, twin)


def test_a_deep_copy_is_of_one_moment():
    x, _ = points(8)
    model = classifier(*[Dense(64) for _ in range(8)])
    model.predict(x)
    states = [[np.full_like(w, value) for w in model.get_weights()] for value in (1, 2)]
    model.set_weights(states[0])
    done = threading.Event()

    def change():
        for i in itertools.count(1):
            if done.is_set():
                return
            model.set_weights(states[i % 2])
            model.predict(x)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        found = [{value for w in copy.deepcopy(model).get_weights() for value in np.unique(w)} for _ in range(100)]
    finally:
        done.set()
        changing.join()
    assert all(values in ({1.0}, {2.0}) for values in found)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in (2, 4, 5))]
)
def test_what_models_share_their_copies_share(copied):
    x = points(8)[0]
    inputs = Input((4,))
    shared = Dense(3)
    encoder, whole = fastcnn.Model(inputs, shared(inputs)), fastcnn.Model(inputs, Dense(2)(shared(inputs)))
    whole.compile("adam", "mse")
    for model in (encoder, whole):
        model.predict(x)
    encoder, whole, shared = copied((encoder, whole, shared))
    assert encoder.layers[0] is whole.layers[0] is shared
    whole.fit(x, np.ones((8, 2), np.float32), verbose=0)
    assert np.array_equal(encoder.predict(x), shared(x))


# It learns


@pytest.mark.parametrize(
    "optimizer",
    ["adam", "adamw", optimizers.SGD(0.1), optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)],
    ids=str,
)
def test_every_optimiser_learns_to_tell_the_sides_of_a_plane(optimizer):
    x, y = points()
    model = classifier(optimizer=optimizer)
    history = model.fit(x, y, epochs=40, verbose=0).history
    assert history["loss"][-1] < 0.3 < history["loss"][0]
    assert model.evaluate(*points(seed=1))[1] > 0.93


def test_digits_are_recognised(digits):
    (x, y), (x_test, y_test) = digits
    model = fastcnn.Sequential(
        [
            Conv2D(16, 3, padding="same", use_bias=False),
            BatchNormalization(momentum=0.9),
            Activation("relu"),
            MaxPool2D(2),
            Flatten(),
            Dropout(0.2),
            Dense(10),
            Softmax(),
        ],
        seed=1,
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=15, batch_size=32, verbose=0)
    assert model.evaluate(x_test, y_test)[1] > 0.97
    assert (model.predict_classes(x_test) == y_test).mean() > 0.97


@pytest.mark.slow
def test_fashion_mnist_is_learned(fashion_mnist_folder):
    (x, y), (x_test, y_test) = fastcnn.datasets.load_fashion_mnist(fashion_mnist_folder)
    x, x_test = x[..., None] / np.float32(255), x_test[..., None] / np.float32(255)
    model = fastcnn.Sequential(
        [
            Conv2D(32, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            Conv2D(64, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            Flatten(),
            Dense(128, activation="relu"),
            Dropout(0.3),
            Dense(10, activation="softmax"),
        ],
        seed=0,
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=4, batch_size=64, verbose=0)
    assert model.evaluate(x_test, y_test, batch_size=256)[1] > 0.9


@pytest.mark.slow
def test_winograd_trains_as_well_as_the_direct_algorithm(fashion_mnist_folder, monkeypatch, capsys):
    (x, y), (x_test, y_test) = fastcnn.datasets.load_fashion_mnist(fashion_mnist_folder)
    x, x_test = x[..., None] / np.float32(255), x_test[..., None] / np.float32(255)
    chosen = nn.conv.algorithm_of
    accuracies = {"auto": [], "direct": []}
    for algorithm, seed in itertools.product(accuracies, range(3)):
        used = set()

        def algorithm_of(geometry, _, result, is_single, lanes, pools, algorithm=algorithm, used=used):
            name = chosen(geometry, algorithm, result, is_single, lanes, pools)
            used.update({result} if name != "direct" else ())
            return name

        monkeypatch.setattr(nn.conv, "algorithm_of", algorithm_of)
        nn.conv._algorithm.cache_clear()
        model = fastcnn.Sequential(
            [
                Conv2D(32, 3, padding="same", activation="relu"),
                Conv2D(32, 3, padding="same", activation="relu"),
                MaxPool2D(2),
                Conv2D(64, 3, padding="same", activation="relu"),
                MaxPool2D(2),
                Flatten(),
                Dense(10, activation="softmax"),
            ],
            seed=seed,
        )
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, epochs=2, batch_size=64, verbose=0)
        assert used == ({"forward", "input", "filters"} if algorithm == "auto" else set())
        accuracies[algorithm].append(model.evaluate(x_test, y_test, batch_size=256)[1])
    nn.conv._algorithm.cache_clear()
    with capsys.disabled():
        print(f"\naccuracies after two epochs: {accuracies}")
    auto, direct = (np.array(accuracies[algorithm]) for algorithm in ("auto", "direct"))
    assert min(auto.min(), direct.min()) > 0.88
    noise = max(np.ptp(auto), np.ptp(direct), 0.003)
    assert abs(auto.mean() - direct.mean()) < noise


# Gradients through a whole model


@pytest.mark.parametrize(
    ("last", "loss", "classes"),
    [
        ("softmax", "sparse_categorical_crossentropy", True),
        (None, losses.SparseCategoricalCrossentropy(from_logits=True), True),
        ("sigmoid", "binary_crossentropy", False),
        ("sigmoid", "mse", False),
        ("softmax", "mse", False),
    ],
)
def test_loss_and_gradients_are_those_of_finite_differences(last, loss, classes):
    model = fastcnn.Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(3, 3, activation="tanh"),
            BatchNormalization(),
            MaxPool2D(2),
            Flatten(),
            Dropout(0.3),
            Dense(3, activation=last),
        ],
        seed=0,
        dtype="float64",
    )
    model.compile("sgd", loss)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6, 6, 2))
    y = rng.integers(0, 3, 4) if classes else rng.integers(0, 2, (4, 3))
    for training in (False, True):
        value, gradients = model.loss_and_gradients(x, y, training=training)
        assert value == model.loss_and_gradients(x, y, training=training)[0]
        assert list(gradients) == list(model.trainable_weights)
        for name, weight in model.trainable_weights.items():
            expected = numerical_gradient_by(weight, lambda t=training: model.loss_and_gradients(x, y, training=t)[0])
            np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize(
    "last",
    [
        [Dense(2, activation="softmax")],
        [Dense(2), Softmax()],
        [Dense(2), Softmax(axis=1)],
        [Dense(2), Activation("softmax")],
    ],
)
def test_the_loss_works_from_logits_where_the_last_activation_is_a_softmax(last):
    model = fastcnn.Sequential([Input((4,)), *last])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    kernel = model.layers[0].kernel
    model.layers[0].kernel = np.stack([np.full(4, 1000.0), np.full(4, -1000.0)], axis=1)
    loss, gradients = model.loss_and_gradients(np.ones((1, 4)), [1])
    assert loss == 8000  # from probabilities it would be -log of 0
    assert kernel[0, 0] == 1000
    assert np.isfinite(gradients["dense/kernel"]).all()
    assert model.evaluate(np.ones((1, 4)), [1]) == [8000, 0]
    assert model.predict(np.ones((1, 4))).tolist() == [[1, 0]]


class _Marking(Layer):
    """Keeps a marker for backward, and counts those of other calls that are still alive."""

    alive = 0
    most = 0

    class Marker:
        """What backward is said to need."""

        def __init__(self):
            _Marking.alive += 1
            _Marking.most = max(_Marking.most, _Marking.alive)

        def __del__(self):
            _Marking.alive -= 1

    def compute_output_shape(self, input_shape):
        return input_shape

    def forward(self, x, training=False):
        return x, self.Marker()

    def backward(self, grad, cache):
        return grad, {}


@pytest.mark.parametrize("checkpoints", [False, True])
def test_evaluation_keeps_nothing_for_a_backward_and_gives_the_same(checkpoints):
    x, y = points(50)
    model = classifier(*[_Marking() for _ in range(8)], Dropout(0.5), BatchNormalization(activation="relu"))
    model.compile("sgd", "sparse_categorical_crossentropy", checkpoint_activations=checkpoints)
    loss, _ = model.loss_and_gradients(x, y, training=False)
    for given in (lambda: model.evaluate(x, y, batch_size=50), lambda: model.test_on_batch(x, y)):
        _Marking.most = 0
        assert given() == loss
        assert _Marking.most <= 2  # of the call, and of the one before it
        assert _Marking.alive == 0


@pytest.mark.parametrize(("last", "warns"), [("softmax", True), (None, False), ("relu", False)])
def test_a_loss_that_takes_probabilities_for_logits_is_told(last, warns):
    model = fastcnn.Sequential([Dense(2, activation=last)])
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = pytest.warns(UserWarning, match="softmax") if warns else contextlib.nullcontext()
    with expected:
        model.compile("sgd", loss)


def test_another_last_layer_is_left_its_probabilities():
    model = fastcnn.Sequential([Input((4,)), Dense(2, activation="softmax"), Flatten()], dtype="float64")
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = points(5)
    same = fastcnn.Sequential([Input((4,)), Dense(2, activation="softmax")], dtype="float64")
    same.compile("sgd", "sparse_categorical_crossentropy")
    same.set_weights(model.get_weights())
    for got, expected in zip(model.loss_and_gradients(x, y), same.loss_and_gradients(x, y), strict=True):
        if isinstance(got, dict):
            np.testing.assert_allclose(got["dense/kernel"], expected["dense/kernel"], rtol=1e-9)
        else:
            assert got == pytest.approx(expected, rel=1e-9)


def test_layers_of_ones_own_cannot_change_what_others_read():
    class InPlace(Layer):
        def __init__(self, way):
            super().__init__()
            self.way = way

        def forward(self, x, training=False):
            if self.way == "forward":
                x *= 2
            return x * 2, None

        def backward(self, grad, cache):
            if self.way == "backward":
                grad *= 2
            return grad * 2, {}

    x, y = points()
    for way in ("forward", "backward"):
        inputs = Input((4,))
        sides = [Dense(2)(inputs), InPlace(way)(Dense(2)(inputs))]
        model = fastcnn.Model(inputs, fastcnn.layers.Add()(sides), seed=0)
        model.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
        before = model.get_weights()
        with pytest.raises(ValueError, match="read-only"):
            model.train_on_batch(x, y)
        assert all(np.array_equal(v, w) for v, w in zip(model.get_weights(), before, strict=True))
    # Nor do predictions, beside which others read the same value, nor calls, which are given what the caller has.
    hidden = Dense(1)(inputs)
    model, given = fastcnn.Model(inputs, fastcnn.layers.Add()([hidden, InPlace("forward")(hidden)])), x.copy()
    with pytest.raises(ValueError, match="read-only"):
        model.predict(x)
    with pytest.raises(ValueError, match="read-only"):
        InPlace("forward")(given)
    assert np.array_equal(given, x)


class Zeroing(fastcnn.metrics.Metric):
    def __call__(self, y_true, y_pred):
        y_pred[...] = 0
        return np.zeros(len(y_pred))


class Shifting(losses.Loss):
    def value_and_gradient(self, y_true, y_pred):
        y_pred -= 1
        return 0.0, y_pred.copy()


class Relabelling(Shifting):
    def value_and_gradient(self, y_true, y_pred):
        y_true[...] = 0
        return 0.0, y_pred.copy()


@pytest.mark.parametrize(
    ("loss", "metrics"), [("mse", [Zeroing()]), (Shifting(), []), (Relabelling(), [])], ids=["metric", "loss", "y"]
)
def test_losses_and_metrics_of_ones_own_cannot_change_what_others_read(loss, metrics):
    model = fastcnn.Sequential([Input((4,)), Dense(1, activation="tanh")], seed=0)
    model.compile("sgd", loss, metrics=metrics)
    x, y = points()
    before, given = model.get_weights(), y[:, np.newaxis].astype(np.float32)
    for act in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match="read-only"):
            act(x, given)
    assert all(np.array_equal(v, w) for v, w in zip(model.get_weights(), before, strict=True))
    assert np.array_equal(given, y[:, np.newaxis]) and model.optimizer.iterations == 0


# What is the same each time


def test_the_same_seed_gives_the_same_training_and_another_one_another():
    x, y = points()
    models = [classifier(Dropout(0.5), seed=s) for s in (1, 1, 2)]
    histories = [m.fit(x, y, epochs=2, verbose=0, seed=5).history for m in models]
    assert histories[0] == histories[1] != histories[2]
    assert weights_equal(models[0], models[1])
    other = classifier(Dropout(0.5), seed=1)
    other.fit(x, y, epochs=2, verbose=0, seed=6)
    assert not weights_equal(other, models[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_training_has_the_same_bits_for_every_number_of_threads(digits, threads):
    (x, y), _ = digits

    def train(n):
        with fastcnn.threads(n):
            model = demo.build(seed=0)
            model.fit(x[:256], y[:256], batch_size=64, epochs=1, verbose=0)
            return model

    assert weights_equal(train(threads), train(1))


def test_dropout_differs_from_step_to_step_and_from_layer_to_layer():
    model = fastcnn.Sequential([Input((1000,)), Dropout(0.5, name="a"), Dropout(0.5, name="b")], seed=0)
    model.compile("sgd", "mse")
    x = np.ones((1, 1000))
    first = model(x, training=True)
    assert np.array_equal(first, model(x, training=True))
    assert 0.2 < (first != 0).mean() < 0.3  # of both masks, a quarter stays
    model.optimizer.iterations += 1
    assert not np.array_equal(first, model(x, training=True))


def masks(*layers, seed=None, steps=0):
    """What layers in a row leave of ones, at a step of a model with this seed."""
    model = fastcnn.Sequential([Input((100_000,)), *layers], seed=seed)
    model.compile("sgd", "mse")
    model.optimizer.iterations = steps
    return model(np.ones((1, 100_000)), training=True)[0] != 0


@pytest.mark.parametrize("seeds", [(0, 1), (1, 0), (8, 6), (None, 0), (5, None)])
def test_dropouts_with_seeds_of_their_own_are_independent(seeds):
    first, second = (Dropout(0.5, seed=seed) for seed in seeds)
    for between in ([], [Activation("relu")]):
        assert abs(masks(first, *between, second, seed=3).mean() - 0.25) < 0.01


def test_the_mask_of_a_dropout_with_a_seed_is_one_of_the_seed_and_the_step_alone():
    def mask(*before, **options):
        return masks(*before, Dropout(0.5, seed=7), **options)

    first = mask(seed=0)
    assert np.array_equal(first, mask(seed=1)) and np.array_equal(first, mask(Activation("relu")))
    assert np.array_equal(mask(steps=9, seed=0), mask(steps=9))
    for other in (mask(steps=1), masks(Dropout(0.5, seed=8))):
        assert abs((first & other).mean() - 0.25) < 0.01
    # A layer that is called twice drops others each time.
    shared = Dropout(0.5, seed=7)
    x = Input((100_000,))
    both = fastcnn.Model(x, shared(shared(x)))(np.ones((1, 100_000)), training=True)
    assert abs((both != 0).mean() - 0.25) < 0.01


# fit's arguments


def test_a_history_has_a_figure_per_epoch_with_validation():
    x, y = points()
    model = classifier()
    history = model.fit(x, y, epochs=3, verbose=0, validation_data=points(seed=1))
    assert history.epoch == [0, 1, 2]
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 3 for values in history.history.values())
    loss, accuracy = model.evaluate(*points(seed=1))
    assert history.history["val_loss"][-1] == pytest.approx(loss, rel=1e-6)
    assert history.history["val_accuracy"][-1] == accuracy
    assert "val_accuracy" in repr(history)


def test_validation_split_holds_the_last_samples_out():
    x, y = points(100)
    y[75:] = 1 - y[75:]
    model = classifier()
    history = model.fit(x, y, epochs=30, verbose=0, validation_split=0.25).history
    assert history["accuracy"][-1] > 0.9
    assert history["val_accuracy"][-1] < 0.3


def test_figures_are_means_over_samples_and_not_over_batches():
    x, y = points(33)
    model = classifier(optimizer=optimizers.SGD(0.0))
    loss, accuracy = model.evaluate(x, y, batch_size=33)
    history = model.fit(x, y, batch_size=32, verbose=0).history
    assert history["loss"] == [pytest.approx(loss, rel=1e-6)]
    assert history["accuracy"] == [pytest.approx(accuracy)]
    assert model.evaluate(x, y, batch_size=7, return_dict=True) == pytest.approx({"loss": loss, "accuracy": accuracy})


def test_each_epoch_sees_every_sample_once_in_another_order():
    seen = []

    class Recording(losses.MeanSquaredError):
        def value_and_gradient(self, y_true, y_pred):
            seen.extend(np.ravel(y_true).tolist())
            return super().value_and_gradient(y_true, y_pred)

    model = fastcnn.Sequential([Input((1,)), Dense(1)])
    model.compile("sgd", Recording())
    y = np.arange(10.0)
    model.fit(y[:, None], y, batch_size=3, epochs=2, verbose=0, seed=0)
    assert sorted(seen[:10]) == sorted(seen[10:]) == y.tolist()
    assert seen[:10] != seen[10:]
    assert seen[:10] != y.tolist()
    seen.clear()
    model.fit(y[:, None], y, batch_size=3, epochs=2, verbose=0, shuffle=False)
    assert seen == y.tolist() * 2


def test_batches_can_come_from_any_iterable():
    x, y = points(96)
    pieces = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)]
    by_list, by_array = classifier(), classifier()
    by_list.fit(pieces, epochs=2, verbose=0, validation_data=pieces[:1])
    by_array.fit(x, y, epochs=2, verbose=0, shuffle=False)
    assert weights_equal(by_list, by_array)
    assert by_list.evaluate(pieces) == pytest.approx(by_array.evaluate(x, y))
    assert np.array_equal(by_list.predict(iter(pieces)), by_array.predict(x))

    endless = classifier()

    def forever():
        while True:
            yield from pieces

    history = endless.fit(forever(), epochs=2, steps_per_epoch=3, verbose=0)
    assert len(history.epoch) == 2
    assert weights_equal(endless, by_list)


def test_steps_per_epoch_goes_on_where_the_last_epoch_ended():
    x, y = points(96)
    whole, parts = classifier(), classifier()
    whole.fit(x, y, epochs=2, verbose=0, shuffle=False)
    parts.fit(x, y, epochs=3, steps_per_epoch=2, verbose=0, shuffle=False)
    assert weights_equal(whole, parts)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("listed", [False, True])
def test_steps_per_epoch_go_on_from_a_file_where_they_stopped(steps, listed, tmp_path):
    x, y = points(100)  # 4 batches
    data = ([(x[i : i + 32], y[i : i + 32]) for i in range(0, 100, 32)],) if listed else (x, y)
    options = {"steps_per_epoch": steps, "verbose": 0}
    whole, first = classifier(Dropout(0.2)), classifier(Dropout(0.2))
    losses = whole.fit(*data, epochs=5, **options).history["loss"]
    first.fit(*data, epochs=3, **options)
    first.save(tmp_path / "first.safetensors")
    second = fastcnn.load(tmp_path / "first.safetensors")
    assert second.fit(*data, epochs=5, initial_epoch=3, **options).history["loss"] == losses[3:]
    assert weights_equal(whole, second)
    assert classifier().fit(*data, epochs=4, initial_epoch=3, **options).epoch == [3]  # of a model without steps


def test_an_iterator_that_has_ended_is_told():
    with pytest.raises(ValueError, match="no batches in epoch 2"):
        classifier().fit(iter([points(8)]), epochs=2, verbose=0)


def test_an_iterator_that_ends_in_an_epoch_ends_training_with_a_warning():
    batches = iter([points(8)] * 5)
    with pytest.warns(UserWarning, match="x ran out of batches in epoch 2, after 2 of steps_per_epoch=3"):
        history = classifier().fit(batches, epochs=4, steps_per_epoch=3, verbose=0)
    assert history.epoch == [0, 1]


def test_an_iterator_that_ends_with_an_epoch_ends_training_with_a_warning():
    batches = iter([points(8)] * 4)
    with pytest.warns(UserWarning, match="x ran out of batches in epoch 3, after 0 of steps_per_epoch=2"):
        history = classifier().fit(batches, epochs=4, steps_per_epoch=2, verbose=0, validation_data=points(8))
    assert history.epoch == [0, 1]
    assert all(len(values) == 2 for values in history.history.values())
    with pytest.raises(ValueError, match="x gave no batches in epoch 1"):
        classifier().fit(iter([]), epochs=2, steps_per_epoch=2, verbose=0)


@pytest.mark.parametrize(
    ("held_out", "complaint"),
    [
        ((np.zeros((3, 5)), [0, 1, 1]), r"validation_data: x must have shape \(None, 4\) .*, got \(None, 5\)"),
        ((np.zeros((3, 4)), [0, 1, 2]), r"validation_data: y must hold class numbers.* \[0, 2\), got 2"),
        ((np.zeros((3, 4)), np.zeros((3, 7))), r"validation_data: y must have shape \(3,\) .*, got \(3, 7\)"),
        ([(np.zeros((3, 5)), [0, 1, 1])], r"validation_data: x must have shape \(None, 4\) .*, got \(None, 5\)"),
        ([(3,)], r"validation_data must give pairs \(x, y\) when it is iterated over, got tuple"),
    ],
)
@pytest.mark.parametrize("built", [True, False])
def test_validation_data_that_does_not_fit_is_told_before_a_step(held_out, complaint, built):
    model = classifier() if built else fastcnn.Sequential([Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=f"^{complaint}"):
        model.fit(*points(64), verbose=0, validation_data=held_out)
    assert model.optimizer.iterations == 0


def test_validation_data_that_can_be_gone_through_once_is_not_tried_before():
    history = classifier().fit(*points(8), verbose=0, validation_data=iter([points(8)]))
    assert history.history["val_loss"]
    with pytest.raises(ValueError, match=r"^validation_data: x must have shape"):
        classifier().fit(*points(8), verbose=0, validation_data=iter([(np.zeros((3, 5)), [0, 1, 1])]))


def test_validation_data_is_tried_before_a_list_of_batches_builds_the_model():
    model = fastcnn.Sequential([Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"^validation_data: y must hold class numbers"):
        model.fit([points(8)], verbose=0, validation_data=(points(8)[0], [5] * 8))
    assert model.optimizer.iterations == 0


class Lengthless:
    """As a loader of a stream, which has a length that it does not know."""

    def __iter__(self):
        return iter([points(8)] * 3)

    def __len__(self):
        raise TypeError("a stream has no length")


class ByIndex:
    """As Keras's sequences, whose items may go on beyond their end."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return points(8)


class WrongLength(Lengthless):
    def __len__(self):
        return 1


@pytest.mark.parametrize("kind", [Lengthless, ByIndex, WrongLength])
@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_batches_can_come_from_what_has_no_length_or_no_iterator(kind, verbose, capsys):
    given, listed = classifier(), classifier()
    expected = listed.fit([points(8)] * 3, verbose=0).history
    assert given.fit(kind(), verbose=verbose).history == expected
    assert given.predict(kind(), verbose=verbose).shape == (24, 2)
    assert given.evaluate(kind(), verbose=verbose) == listed.evaluate([points(8)] * 3)
    shown = capsys.readouterr().out
    if verbose == 1:  # in the end all is done, however many there were said to be
        for title in ("Epoch 1/1", "Prediction", "Evaluation"):
            assert re.search(rf"{title} 100%\|#+\|", shown), shown
        assert ("Epoch 1/1 0 batches" in shown) == (kind is Lengthless)


def test_what_gives_no_batches_is_told():
    class Empty:
        def __len__(self):
            return 1

        def __iter__(self):
            return iter([])

    for verbose in (0, 2):
        with pytest.raises(ValueError, match="x gave no batches"):
            classifier().predict(Empty(), verbose=verbose)


def test_an_interrupt_comes_between_steps():
    x, y = points(64)

    class Interrupting(optimizers.SGD):
        def update(self, *lists):
            super().update(*lists)
            if self.iterations == 2:
                signal.raise_signal(signal.SIGINT)

    def model(optimizer):
        made = fastcnn.Sequential([Input((4,)), BatchNormalization(), Dense(2, activation="softmax")], seed=0)
        made.compile(optimizer, "sparse_categorical_crossentropy")
        return made

    before = signal.getsignal(signal.SIGINT)
    interrupted, whole = model(Interrupting(0.1)), model(optimizers.SGD(0.1))
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(x, y, batch_size=16, verbose=0)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.warns(UserWarning, match="ran out"):
        whole.fit(
            itertools.islice(batches.batches(x, y, 16).epoch(np.random.default_rng([0, 0])), 2),
            verbose=0,
            steps_per_epoch=3,
        )
    assert interrupted.optimizer.iterations == whole.optimizer.iterations == 2
    assert weights_equal(interrupted, whole)
    # A handler of one's own is asked as if there were none between.
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(interrupted.optimizer.iterations))
    try:
        interrupted.compile(Interrupting(0.1), "sparse_categorical_crossentropy")
        interrupted.fit(x, y, batch_size=16, verbose=0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [2] and interrupted.optimizer.iterations == 4


def test_a_fit_that_fails_gives_its_memory_back():
    x, y = points(64)
    wide = fastcnn.Sequential([Input((4,)), Dense(4096, activation="relu"), Dense(2, activation="softmax")])
    wide.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="class numbers") as caught:
        wide.fit([(x, y), (x, y + 9)], verbose=0)
    assert _memory.held()[1] == 0  # but for what the error's frames still hold
    del caught


def test_a_step_that_fails_binds_no_optimiser():
    shared = optimizers.SGD()
    a, b = classifier(optimizer=shared), classifier(optimizer=shared)
    x, y = points(8)
    with pytest.raises(ValueError, match="class numbers"):
        a.train_on_batch(x, y + 9)
    b.train_on_batch(x, y)
    assert shared.iterations == 1

    class Failing(optimizers.SGD):
        def update(self, *lists):
            raise RuntimeError("no")

    model = classifier(optimizer=Failing())
    with pytest.raises(RuntimeError, match="no"):
        model.train_on_batch(x, y)
    assert model.optimizer.iterations == 0


def test_momentum_stays_as_it_was_at_the_first_step():
    model = classifier(optimizer=optimizers.SGD())
    model.train_on_batch(*points(8))
    model.optimizer.momentum = 0.9
    with pytest.raises(ValueError, match=r"momentum must stay 0\.0 once there has been a step, got 0\.9"):
        model.train_on_batch(*points(8))
    assert model.optimizer.iterations == 1


def test_initial_epoch_counts_on():
    x, y = points(32)
    assert classifier().fit(x, y, epochs=5, initial_epoch=3, verbose=0).epoch == [3, 4]


def test_a_step_by_hand_is_a_step_of_fit():
    x, y = points(32)
    by_fit, by_hand, by_gradients = classifier(), classifier(), classifier(optimizer=optimizers.SGD(0.01))
    by_fit.fit(x, y, verbose=0, shuffle=False)
    loss, accuracy = by_hand.test_on_batch(x, y)
    assert by_hand.train_on_batch(x, y) == [loss, accuracy]
    assert weights_equal(by_fit, by_hand)

    same = classifier(optimizer=optimizers.SGD(0.01))
    same.train_on_batch(x, y)
    _, gradients = by_gradients.loss_and_gradients(x, y)
    nn.sgd_step(list(by_gradients.trainable_weights.values()), list(gradients.values()), None, 0.01)
    assert weights_equal(same, by_gradients)


def test_batch_norm_learns_its_running_statistics_in_training_alone():
    model = fastcnn.Sequential([Input((4,)), BatchNormalization(momentum=0.0), Dense(1)])
    model.compile("sgd", "mse")
    x, y = points(64)
    model.loss_and_gradients(x, y)
    model.evaluate(x, y)
    assert model.layers[0].moving_mean.tolist() == [0] * 4
    model.train_on_batch(x, y)
    np.testing.assert_allclose(model.layers[0].moving_mean, x.mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", [optimizers.SGD(0.1), optimizers.Adam()], ids=str)
@pytest.mark.parametrize(
    ("grads", "error", "words"),
    [
        ([np.ones(3, np.float32), np.ones(3)], ValueError, r"grads\[1\] must have shape \(2,\), got \(3,\)"),
        ([np.ones(3, np.float32), np.ones(2, np.float32)], TypeError, r"grads\[1\] must be .* of float64"),
        ([np.ones(3, np.float32)], ValueError, "grads must hold 2 arrays, .* got 1"),
        (None, TypeError, "grads must be a list of arrays, got None"),
    ],
)
def test_a_step_of_several_element_types_is_taken_as_a_whole(optimizer, grads, error, words):
    optimizer = copy.deepcopy(optimizer)
    params = {"a": np.ones(3, np.float32), "b": np.ones(2)}
    optimizer.bind(params)
    with pytest.raises(error, match=words):
        optimizer.step(grads)
    assert optimizer.iterations == 0
    assert all((array == 1).all() for array in params.values())
    optimizer.step([np.ones_like(array) for array in params.values()])
    assert optimizer.iterations == 1
    assert all((array < 1).all() for array in params.values())


def test_a_step_that_is_refused_is_none():
    x, y = points()
    models = [classifier(), classifier()]
    for model in models:
        model.train_on_batch(x, y)
    with pytest.raises(ValueError, match="learning_rate"):
        models[0].optimizer.learning_rate = -1.0
        models[0].train_on_batch(x, y)
    models[0].optimizer.learning_rate = models[1].optimizer.learning_rate
    assert models[0].train_on_batch(x[:0], y[:0]) == [0.0, 0.0]
    with pytest.raises(ValueError, match="batches without samples alone"):
        models[0].fit([(x[:0], y[:0])], verbose=0)
    for model in models:
        model.train_on_batch(x, y)
    assert weights_equal(*models)
    assert [model.optimizer.iterations for model in models] == [2, 2]


def test_an_optimiser_without_room_for_its_slots_can_be_asked_again(monkeypatch, tmp_path):
    x, y = points()
    model = classifier()

    def no_room(array):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(optimizers.np, "zeros_like", no_room)
        with pytest.raises(MemoryError):
            model.train_on_batch(x, y)
        model.save(tmp_path / "m.safetensors")
    other = classifier()
    for one in (model, other):
        one.train_on_batch(x, y)
    assert weights_equal(model, other)


# What it shows


@pytest.mark.parametrize("wrong", [3, "loud", None, np.array([1, 2]), [1]])
def test_a_verbosity_that_is_none_is_told(wrong):
    x, y = points(8)
    with pytest.raises(ValueError, match=r'verbose must be "auto", 0, 1 or 2, got '):
        classifier().fit(x, y, verbose=wrong)


class Writer:
    """Something to print to that is no file."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("stdout", [Writer(), None])
def test_there_need_be_no_stdout_to_train(stdout, monkeypatch):
    monkeypatch.setattr("sys.stdout", stdout)
    assert classifier().fit(*points(8)).epoch == [0]
    assert stdout is None or stdout.text.startswith("Epoch 1/1  loss ")


def test_a_verbosity_is_checked_however_many_batches_there_are():
    for wrong in (None, [], 3):
        with pytest.raises(ValueError, match="verbose must be"):
            classifier().predict(np.zeros((3, 4)), verbose=wrong)
    assert classifier().predict(np.zeros((3, 4)), verbose=np.int64(0)).shape == (3, 2)


def test_plain_lines_where_there_is_no_terminal(capsys):
    x, y = points(64)
    classifier().fit(x, y, epochs=2, validation_data=(x, y))
    lines = capsys.readouterr().out.splitlines()
    pattern = r"Epoch {}/2  loss \d\.\d{{4}}  acc \d\.\d{{4}}  val_loss \d\.\d{{4}}  val_acc \d\.\d{{4}}  \d+\.\d s"
    assert [bool(re.fullmatch(pattern.format(i + 1), line)) for i, line in enumerate(lines)] == [True, True]


def test_silence_is_kept(capsys):
    x, y = points(64)
    model = classifier()
    model.fit(x, y, verbose=0)
    model.evaluate(x, y)
    model.predict(x)
    assert capsys.readouterr() == ("", "")


def test_a_bar_can_be_asked_for(capsys):
    x, y = points(64)
    model = classifier()
    model.fit(x, y, verbose=1)
    model.evaluate(x, y, verbose=1)
    model.predict(x, verbose=1)
    shown = capsys.readouterr().out
    for title in ("Epoch 1/1", "Evaluation", "Prediction"):
        assert re.search(rf"{title} 100%\|#+\|", shown)


def test_a_bar_leaves_room_for_the_figures_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    x, y = points(64)
    classifier().fit(x, y, epochs=10, verbose=1, validation_data=(x, y))
    shown = [line.rstrip() for line in re.split(r"[\r\n]+", capsys.readouterr().out)]
    assert max(map(len, shown)) <= 80
    pattern = r"Epoch 10/10 100%\|#+\| 00:0\d loss \d\.\d{4} acc \d\.\d{4} val_loss \d\.\d{4} val_acc \d\.\d{4}"
    assert any(re.fullmatch(pattern, line) for line in shown), shown


def test_a_summary_counts_parameters_within_80_columns(capsys):
    model = fastcnn.Sequential([Input((8, 8, 3)), Conv2D(4, 3), BatchNormalization(), Flatten(), Dense(2)])
    model.summary()
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines)) < 80
    assert re.search(r"conv2d \(Conv2D\) +\(None, 6, 6, 4\) +112", printed)
    assert re.search(r"dense \(Dense\) +\(None, 2\) +290", printed)
    assert lines[-1] == "418 parameters, 410 of them trained; 8,640 FLOPs a sample"
    collected = []
    model.summary(print_fn=collected.append)
    assert collected == lines


# Prediction


def test_results_share_no_memory_with_what_is_given():
    x = np.ones((4, 2, 3), np.float32)
    model = fastcnn.Sequential([Input((2, 3)), Flatten(), Dropout(0.0), Reshape((3, 2), dtype="float64")])
    for result in (model.predict(x), model(x, training=True)):
        result[:] = 7
        assert (x == 1).all()


def test_predictions_do_not_depend_on_batches():
    x, _ = points(70)
    model = classifier()
    whole = model.predict_on_batch(x)
    assert whole.shape == (70, 2)
    assert np.array_equal(model.predict(x), whole)
    assert np.array_equal(model.predict(x, batch_size=1), whole)
    assert np.array_equal(model(x), whole)
    assert model.predict(x[:0]).shape == (0, 2)
    assert np.array_equal(model.predict(x.tolist()), whole)


def test_classes_of_one_output_and_of_several():
    x, _ = points(20)
    model = classifier()
    assert np.array_equal(model.predict_classes(x), model.predict(x).argmax(axis=1))
    single = fastcnn.Sequential([Input((4,)), Dense(1, activation="sigmoid")])
    assert np.array_equal(single.predict_classes(x), (single.predict(x)[:, 0] > 0.5).astype(int))
    logit = fastcnn.Sequential([Input((4,)), Dense(1)])
    logit.compile("sgd", losses.BinaryCrossentropy(from_logits=True))
    assert np.array_equal(logit.predict_classes(x), (logit.predict(x)[:, 0] > 0).astype(int))


def test_threads_may_share_a_model(digits):
    (x, _), _ = digits
    model = demo.build(seed=0)
    expected = model.predict(x[:64])
    wrong = []

    def ask():
        for _ in range(20):
            if not np.array_equal(model.predict(x[:64]), expected):
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_integers_and_other_floats_are_taken_as_they_are_meant():
    model = classifier()
    x = np.arange(8).reshape(2, 4)
    expected = model.predict(x.astype(np.float32))
    for kind in (np.uint8, np.int64, np.float64, np.float16, ">f4"):
        assert np.array_equal(model.predict(x.astype(kind)), expected)


# Building, weights


def test_layers_get_names_as_in_keras():
    model = fastcnn.Sequential([Conv2D(1, 1), Conv2D(1, 1), MaxPool2D(), BatchNormalization(), Dense(1, name="out")])
    assert [layer.name for layer in model.layers] == ["conv2d", "conv2d_1", "max_pool2d", "batch_normalization", "out"]


def test_a_model_grows_by_add_until_it_is_built():
    model = fastcnn.Sequential()
    model.add(Dense(3))
    model.add(Dense(2))
    assert not model.built
    assert model.predict(np.zeros((1, 4))).shape == (1, 2)
    assert model.count_params() == 23
    with pytest.raises(ValueError, match="built"):
        model.add(Dense(1))


def test_weights_are_set_all_or_none():
    model = classifier()
    old = model.get_weights()
    new = [w + 1 for w in old]
    model.set_weights(new)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), new, strict=True))
    with pytest.raises(ValueError, match=r"dense_1/bias must have shape \(2,\), got \(3,\)"):
        model.set_weights([*old[:-1], np.zeros(3)])
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), new, strict=True))
    with pytest.raises(ValueError, match="4 arrays, got 1"):
        model.set_weights(old[:1])


def test_a_frozen_base_stays_as_it_is_while_a_new_head_learns(tmp_path):
    base = fastcnn.models.resnet20_cifar(include_top=False, seed=0)
    assert base.trainable
    base.trainable = False
    assert not base.trainable and not base.trainable_weights
    start = fastcnn.Input((32, 32, 3))
    model = fastcnn.Model(start, Dense(2, name="head")(GlobalAveragePooling2D()(base(start))), seed=1)
    assert model.trainable
    assert list(model.trainable_weights) == ["head/kernel", "head/bias"]
    model.compile("adam", "mse")
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3))
    before = {name: weight.copy() for name, weight in model.weights.items()}
    loss = model.fit(x, np.ones((4, 2)), epochs=3, verbose=0).history["loss"]
    assert loss[2] < loss[0]
    changed = {name for name, weight in model.weights.items() if (weight != before[name]).any()}
    assert changed == {"head/kernel", "head/bias"}  # running statistics are not among them
    model.save(tmp_path / "m.safetensors")
    assert list(fastcnn.load(tmp_path / "m.safetensors").trainable_weights) == ["head/kernel", "head/bias"]
    # A model that is part of another shares its layers with it.
    model.trainable = True
    assert base.trainable
    with pytest.raises(ValueError, match="compile anew where other layers become trainable"):
        model.train_on_batch(x, np.ones((4, 2)))
    with pytest.raises(TypeError, match=r"^trainable must be True or False, got 1$"):
        model.trainable = 1


def test_layers_that_are_not_trainable_stay_as_they_are():
    x, y = points(64)
    model = fastcnn.Sequential(
        [Dense(8, trainable=False), BatchNormalization(trainable=False), Dense(2, activation="softmax")], seed=0
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.build((None, 4))
    before = model.get_weights()
    assert list(model.trainable_weights) == ["dense_1/kernel", "dense_1/bias"]
    assert list(model.loss_and_gradients(x, y)[1]) == ["dense_1/kernel", "dense_1/bias"]
    model.fit(x, y, epochs=1, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [name.startswith("dense_1/") for name in model.weights]

    model.layers[0].trainable = True
    with pytest.raises(ValueError, match="compile anew where other layers become trainable"):
        model.train_on_batch(x, y)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.train_on_batch(x, y)
    assert not np.array_equal(before[0], model.get_weights()[0])


@pytest.mark.parametrize("wrong", [np.zeros((1, 9, 9, 1)), np.zeros((1, 8)), 5.0])
def test_a_failed_build_leaves_a_model_that_can_be_built(wrong):
    model = fastcnn.Sequential([Conv2D(4, 3), Reshape((6, 6, 4)), Flatten()])
    with pytest.raises(ValueError):
        model.predict_on_batch(wrong)
    assert not model.built
    assert model.predict_on_batch(np.zeros((1, 8, 8, 1))).shape == (1, 144)


def test_predictions_that_are_no_probabilities_are_told():
    x, y = points(8)
    model = fastcnn.Sequential([Dense(2, kernel_initializer="ones")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"y_pred must hold probabilities .*from_logits=True"):
        model.train_on_batch(100 * np.abs(x), y)


@pytest.mark.parametrize(
    ("returned", "error", "complaint"),
    [
        (lambda p: None, TypeError, "value_and_gradient of Own.* must return a number and an array"),
        (lambda p: 1.0, TypeError, "must return a number and an array"),
        (lambda p: (p, p), TypeError, "must return a number and an array"),
        (lambda p: (1.0, "a"), TypeError, "the gradient of Own.* must hold real numbers"),
        (lambda p: (1.0, p[:1]), ValueError, r"the gradient of Own.* must have shape \(8, 2\), got \(1, 2\)"),
    ],
)
def test_a_loss_of_ones_own_is_checked(returned, error, complaint):
    class Own(losses.Loss):
        def value_and_gradient(self, y_true, y_pred):
            return returned(y_pred)

    model = fastcnn.Sequential([Dense(2)])
    model.compile("sgd", Own())
    for act in (model.train_on_batch, model.evaluate):
        with pytest.raises(error, match=complaint):
            act(*points(8))


@pytest.mark.parametrize(
    ("returned", "error", "complaint"),
    [(None, TypeError, "what Own.* returns must hold"), ([1.0], ValueError, r"each of 8 samples, got shape \(1,\)")],
)
def test_a_metric_of_ones_own_is_checked(returned, error, complaint):
    class Own(fastcnn.metrics.Metric):
        def __call__(self, y_true, y_pred):
            return returned

    model = fastcnn.Sequential([Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[Own()])
    with pytest.raises(error, match=complaint):
        model.train_on_batch(*points(8))


def test_the_gradient_of_a_layers_input_has_its_shape():
    class Short(Layer):
        def forward(self, x, training=False):
            return x, None

        def backward(self, grad, cache):
            return grad[:, :1], {}

    model = fastcnn.Sequential([Dense(3), Short(), Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"backward of layer short must return .* \(8, 3\), got \(8, 1\)"):
        model.train_on_batch(*points(8))


def test_errors_of_ones_own_become_such_that_say_where():
    class Two(ValueError):
        def __init__(self, first, second):
            super().__init__(f"{first} and {second}")

    class Own(losses.Loss):
        def value_and_gradient(self, y_true, y_pred):
            if len(y_pred) == 3:
                raise Two(1, 2)
            return 0.0, np.zeros_like(y_pred)

    model = fastcnn.Sequential([Input((4,)), Dense(2)])
    model.compile("sgd", Own())
    with pytest.raises(Two, match="1 and 2"):
        model.train_on_batch(*points(3))
    with pytest.raises(ValueError, match=r"^validation_data: 1 and 2$") as caught:
        model.fit(*points(8), verbose=0, validation_data=points(3))
    assert type(caught.value) is ValueError and type(caught.value.__cause__) is Two


def test_soft_labels_may_be_rounded():
    mean = sum(np.eye(2, dtype=np.float32)[[1, 1, 1]] * np.float32(0.1) for _ in range(10))
    assert mean.max() > 1
    model = fastcnn.Sequential([Input((4,)), Dense(2, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy")
    assert np.isfinite(model.train_on_batch(np.ones((3, 4)), mean))
    with pytest.raises(ValueError, match=r"y must hold probabilities in \[0, 1\], got 1.001"):
        model.train_on_batch(np.ones((3, 4)), np.full((3, 2), 1.001, np.float32))


def test_a_model_has_no_loss_before_it_is_compiled():
    model = fastcnn.Sequential([Input((4,)), Dense(2)])
    for name in ("loss", "metrics"):
        assert not hasattr(model, name)
        with pytest.raises(AttributeError, match=f"the model has no {name} before compile is called"):
            getattr(model, name)


def test_one_optimiser_trains_one_model():
    shared = optimizers.Adam()
    a, b = classifier(optimizer=shared), classifier(optimizer=shared)
    x, y = points(8)
    a.train_on_batch(x, y)
    with pytest.raises(ValueError, match="already trains other weights"):
        b.train_on_batch(x, y)
    a.train_on_batch(x, y)


@pytest.mark.parametrize(
    ("act", "error", "complaint"),
    [
        (lambda m: fastcnn.Sequential([3]), TypeError, "layers must be layers, got 3"),
        (lambda m: fastcnn.Sequential(3), TypeError, "layers must be a list of layers, got 3"),
        (lambda m: fastcnn.Sequential(m.layers[:1] * 2), ValueError, "twice"),
        (lambda m: fastcnn.Sequential([Dense(1, name="a"), Dense(1, name="a")]), ValueError, "'a' twice"),
        (lambda m: fastcnn.Sequential([Dense(1), Input((3,))]), ValueError, "first place"),
        (lambda m: fastcnn.Sequential([]).predict(np.zeros((1, 2))), ValueError, "at least one layer"),
        (lambda m: fastcnn.Sequential([], seed=-1), ValueError, "seed"),
        (lambda m: fastcnn.Sequential([], dtype="int8"), ValueError, "dtype"),
        (lambda m: fastcnn.Sequential([Input((4, 4)), Conv2D(1, 3)]), ValueError, "layer conv2d: input"),
        (lambda m: m.predict(np.zeros((1, 5))), ValueError, r"\(None, 4\).*got \(None, 5\)"),
        (lambda m: m.predict(np.zeros((1, 4), complex)), TypeError, "complex"),
        (lambda m: m.predict(np.float32(1)), ValueError, "x"),
        (lambda m: m.predict_on_batch(np.broadcast_to(1.0, (2**42, 4))), MemoryError, f"a batch of {2**42}, "),
        (lambda m: m.summary(print_fn=3), TypeError, "print_fn must be .*got 3"),
        (lambda m: fastcnn.metrics.Accuracy(name=3), TypeError, "name must be a text, got 3"),
        (lambda m: fastcnn.metrics.BinaryAccuracy(float("inf")), ValueError, "threshold must be a finite number"),
        (lambda m: m.predict(3), TypeError, "x must be an array or an iterable of batches .*got 3"),
        (lambda m: m.fit("abc", np.zeros(3)), TypeError, "x must be an array .*'abc'"),
        (lambda m: m.fit({"a": np.zeros((3, 4))}, np.zeros(3)), TypeError, "x must be an array .*'a'"),
        (
            lambda m: m.fit([[1, 2], [3]], np.zeros(2)),
            ValueError,
            r"x must be an array of numbers, got \[\[1, 2\], \[3\]\]",
        ),
        (lambda m: m.fit([(np.zeros((0, 4)), np.zeros(0))], verbose=0), ValueError, "x gave batches without samples"),
        (
            lambda m: m.fit(*points(8), verbose=0, validation_data=(np.zeros((0, 4)), np.zeros(0))),
            ValueError,
            "validation_data must hold samples",
        ),
        (
            lambda m: m.fit(*points(8), verbose=0, validation_data=[(np.zeros((0, 4)), np.zeros(0))]),
            ValueError,
            "validation_data must hold samples",
        ),
        (lambda m: m.fit(*points(8), validation_data=3), TypeError, "validation_data must be .*got 3"),
        (
            lambda m: m.fit(*points(8), validation_data=(*points(8), 3)),
            ValueError,
            "validation_data must be .*3 values",
        ),
        (lambda m: m.fit(*points(8), validation_data=(points(8)[0], None)), ValueError, "validation_data's y must be"),
        (lambda m: m.fit(*points(8), shuffle="batch"), TypeError, "shuffle must be True or False, got 'batch'"),
        (lambda m: m.evaluate(*points(8), return_dict="x"), TypeError, "return_dict"),
        (lambda m: m.loss_and_gradients(*points(8), training="x"), TypeError, "training"),
        (lambda m: m(points(8)[0], training="x"), TypeError, "training"),
        (lambda m: m.save("never", include_optimizer="x"), TypeError, "include_optimizer"),
        (lambda m: m.set_weights(None), TypeError, "weights must be a list of arrays, got None"),
        (lambda m: m.set_weights([[[1], [1, 2]], 0, 0, 0]), ValueError, "weights for dense/kernel must be an array"),
        (lambda m: m.predict(np.zeros((3, 4)), batch_size=0), ValueError, "batch_size"),
        (lambda m: m.fit(np.zeros((3, 4))), ValueError, "y must be given"),
        (lambda m: m.fit(np.zeros((3, 4)), np.zeros(2)), ValueError, "as many samples as x, 3, got 2"),
        (lambda m: m.fit(np.zeros((0, 4)), np.zeros(0)), ValueError, "must hold samples"),
        (lambda m: m.fit(np.zeros((3, 4)), [0, 1, 2]), ValueError, r"y must hold class numbers.* \[0, 2\), got 2"),
        (lambda m: m.fit([(np.zeros((3, 4)),)]), ValueError, "pairs"),
        (lambda m: m.fit([points(8)], batch_size=4), ValueError, "batch_size"),
        (lambda m: m.fit(*points(8), epochs=-1), ValueError, "epochs"),
        (lambda m: m.fit(*points(8), epochs=1.5), TypeError, "epochs"),
        (lambda m: m.fit(*points(8), verbose=3), ValueError, "verbose"),
        (lambda m: m.fit(*points(8), validation_split=1.0), ValueError, "validation_split"),
        (lambda m: m.fit(*points(8), validation_split=0.999), ValueError, "validation_split"),
        (lambda m: m.fit([points(8)], validation_split=0.5), ValueError, "validation_split"),
        (lambda m: m.fit(*points(8), validation_split=0.5, validation_data=points(8)), ValueError, "both"),
        (lambda m: m.fit(*points(8), seed="0"), TypeError, "seed"),
        (lambda m: m.fit(*points(8), steps_per_epoch=0), ValueError, "steps_per_epoch"),
        (lambda m: m.evaluate(np.zeros((0, 4)), np.zeros(0)), ValueError, "samples"),
        (lambda m: m.compile("adam", "hinge"), ValueError, "'hinge'"),
        (lambda m: m.compile("adam", None), TypeError, "loss"),
        (lambda m: m.compile("lion", "mse"), ValueError, "'lion'"),
        (lambda m: m.compile("adam", "mse", metrics=3), TypeError, "metrics"),
        (lambda m: m.compile("adam", "mse", metrics=["acc", "acc"]), ValueError, "differ"),
        (
            lambda m: m.compile("adam", "mse", metrics=[fastcnn.metrics.Accuracy(name="val_loss")]),
            ValueError,
            r"do not begin as those of validation, got \['val_loss'\]",
        ),
        (lambda m: m.compile(3, "mse"), TypeError, "optimizer must be a string or an Optimizer, got 3"),
        (lambda m: m.fit([(*points(8), 1)], verbose=0), ValueError, r"pairs \(x, y\) .*, got tuple of 3"),
        (lambda m: m.build(4), TypeError, "input_shape"),
        (lambda m: m.build((None, None)), TypeError, "input_shape"),
        (lambda m: fastcnn.Sequential([Dense(1)]).fit(*points(8)), ValueError, "compile must be called"),
        (lambda m: fastcnn.Sequential([Dense(1)]).summary(), ValueError, "no weights yet"),
    ],
)
def test_mistakes_are_named(act, error, complaint):
    with pytest.raises(error, match=complaint):
        act(classifier())


def test_a_failed_compile_leaves_the_old_one():
    model = classifier()
    before = model.loss, model.optimizer
    with pytest.raises(ValueError, match="'lion'"):
        model.compile("lion", "mse")
    assert (model.loss, model.optimizer) == before
