"""Model files: the same model comes back, training goes on to the bit, and nothing else is ever loaded."""

from __future__ import annotations

import json
import os
import re
import stat

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import fastcnn
from fastcnn import io, optimizers
from fastcnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, Layer, MaxPool2D


def small_model(optimizer="adam"):
    model = fastcnn.Sequential(
        [
            Conv2D(4, 3, padding=((1, 0), (0, 1)), activation="relu"),
            BatchNormalization(),
            MaxPool2D(2),
            Flatten(),
            Dropout(0.5),
            Dense(10, activation="softmax"),
        ],
        seed=7,
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def nested(depth):
    """The description of a model in a model in a model."""
    model = {"class": "Sequential", "config": {"layers": []}}
    for _ in range(depth):
        model = {"class": "Sequential", "config": {"layers": [model]}}
    return model


def equal(a, b):
    return all(np.array_equal(v, w) for v, w in zip(a.get_weights(), b.get_weights(), strict=True))


@pytest.fixture
def saved(tmp_path, digits):
    (x, y), _ = digits
    model = small_model()
    model.fit(x[:100], y[:100], verbose=0)
    path = tmp_path / "model.safetensors"
    model.save(path)
    return model, path


def test_everything_comes_back(saved, digits):
    model, path = saved
    _, (x_test, y_test) = digits
    twin = fastcnn.load(str(path))
    assert equal(model, twin)
    assert np.array_equal(model.predict(x_test), twin.predict(x_test))
    assert model.evaluate(x_test, y_test) == twin.evaluate(x_test, y_test)
    assert repr(twin) == repr(model)
    assert twin.optimizer.iterations == model.optimizer.iterations == 4
    assert [m.name for m in twin.metrics] == ["accuracy"]


@pytest.mark.parametrize(
    "make", [lambda: "adam", lambda: optimizers.AdamW(1e-3), lambda: optimizers.SGD(0.05, momentum=0.9)]
)
def test_training_goes_on_to_the_bit(make, tmp_path, digits):
    (x, y), _ = digits
    x, y = x[:200], y[:200]
    straight, first = small_model(make()), small_model(make())
    straight.fit(x, y, epochs=4, verbose=0, seed=9)
    first.fit(x, y, epochs=2, verbose=0, seed=9)
    first.save(tmp_path / "half.safetensors")
    resumed = fastcnn.load(tmp_path / "half.safetensors")
    history = resumed.fit(x, y, epochs=4, initial_epoch=2, verbose=0, seed=9)
    assert history.epoch == [2, 3]
    assert equal(straight, resumed)
    assert straight.optimizer.state().keys() == resumed.optimizer.state().keys()
    for name, slot in straight.optimizer.state().items():
        assert np.array_equal(slot, resumed.optimizer.state()[name])


def test_single_steps_go_on_to_the_bit(tmp_path, digits):
    (x, y), _ = digits
    model = small_model()
    model.train_on_batch(x[:32], y[:32])
    model.save(tmp_path / "m")
    twin = fastcnn.load(tmp_path / "m")
    for _ in range(3):
        assert model.train_on_batch(x[32:64], y[32:64]) == twin.train_on_batch(x[32:64], y[32:64])
    assert equal(model, twin)


def test_layers_that_are_frozen_or_freed_after_training_leave_a_file_that_loads(tmp_path, digits):
    (x, y), _ = digits
    path = tmp_path / "m.safetensors"
    for before in (True, False):
        model = small_model()
        model.build((None, *x.shape[1:]))
        model.layers[0].trainable = before
        model.train_on_batch(x[:8], y[:8])
        model.layers[0].trainable = not before
        model.save(path)
        same = fastcnn.load(path)
        for one in (model, same):
            with pytest.raises(ValueError, match="compile anew where other layers become trainable"):
                one.train_on_batch(x[:8], y[:8])
            one.layers[0].trainable = before
            one.train_on_batch(x[:8], y[:8])
        assert equal(model, same)


def test_slots_that_an_optimiser_has_no_use_for_any_more_are_left_out(tmp_path, digits):
    (x, y), _ = digits
    model = small_model(optimizers.SGD(0.1, momentum=0.9))
    model.train_on_batch(x[:8], y[:8])
    model.optimizer.momentum = 0.0
    model.optimizer.learning_rate = np.array(0.5)
    model.save(tmp_path / "m.safetensors")
    same = fastcnn.load(tmp_path / "m.safetensors")
    assert (same.optimizer.momentum, same.optimizer.learning_rate) == (0.0, 0.5)
    for one in (model, same):
        one.train_on_batch(x[:8], y[:8])
    assert equal(model, same)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("filters", 5, r"weights of layer conv2d must be .*\(3, 3, 1, 5\).*, got .*\(3, 3, 1, 4\)"),
        ("dtype", "float64", "weights of layer conv2d must be .*float64.*, got .*float32"),
        ("kernel_size", (99, 99), "layer conv2d can't be built by its arguments any more"),
    ],
)
def test_a_model_whose_weights_are_none_for_its_arguments_is_not_saved(name, value, complaint, saved):
    _, path = saved
    model, content = fastcnn.load(path), path.read_bytes()
    setattr(model.layers[0], name, value)
    with pytest.raises(ValueError, match=complaint):
        model.save(path)
    assert path.read_bytes() == content


def test_a_layer_keeps_its_name_once_it_is_built(saved):
    model, _ = saved
    with pytest.raises(ValueError, match="name of layer conv2d must not change once it is built, got 'other'"):
        model.layers[0].name = "other"
    model.layers[0].name = "conv2d"


def test_the_optimisers_state_can_be_left_out(saved, tmp_path):
    model, path = saved
    model.save(tmp_path / "bare", include_optimizer=False)
    assert (tmp_path / "bare").stat().st_size < path.stat().st_size / 1.8
    twin = fastcnn.load(tmp_path / "bare")
    assert equal(model, twin)
    assert twin.optimizer.iterations == 0


def test_a_model_that_was_never_compiled_is_saved_too(tmp_path):
    model = fastcnn.Sequential([Input((3,)), Dense(2)], seed=0, dtype="float64")
    model.save(tmp_path / "m")
    twin = fastcnn.load(tmp_path / "m")
    assert equal(model, twin)
    assert not twin.compiled
    assert twin.predict(np.ones((1, 3))).dtype == np.float64


def test_a_file_is_plain_safetensors_with_the_architecture_as_json(saved):
    model, path = saved
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["fastcnn"])
        names = set(file.keys())
    assert [layer["class"] for layer in about["model"]["config"]["layers"]] == [type(v).__name__ for v in model.layers]
    assert set(model.weights) <= names
    assert "optimizer/m/conv2d/kernel" in names


# Whole or not at all


def test_a_crash_leaves_the_old_file_whole(saved, monkeypatch):
    model, path = saved
    old = path.read_bytes()
    model.set_weights([w + 1 for w in model.get_weights()])

    def failing(*_):
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(io.os, name, failing)
            with pytest.raises(OSError, match="disk full"):
                model.save(path)
        assert path.read_bytes() == old
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_interrupt_behind_the_renaming_stays_one(tmp_path, monkeypatch):
    rename = os.replace

    def interrupted(*paths):
        rename(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        io.write_atomically(tmp_path / "m", b"whole")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m", b"whole")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is no regular file"):
        io.write_atomically(tmp_path / "pipe", b"")
    assert [stat.S_ISFIFO(p.stat().st_mode) for p in tmp_path.iterdir()] == [True]


def test_permissions_and_links_are_kept(saved, tmp_path):
    model, path = saved
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    model.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert equal(fastcnn.load(link), model)


@pytest.mark.parametrize(("where", "error"), [("nowhere/m", FileNotFoundError), (".", IsADirectoryError)])
def test_a_place_that_cannot_be_written_is_named(saved, tmp_path, where, error):
    with pytest.raises(error, match=str(tmp_path)):
        saved[0].save(tmp_path / where)
    with pytest.raises(error, match=str(tmp_path)):
        fastcnn.load(tmp_path / where)
    with pytest.raises(TypeError, match="path must be a path, got 3"):
        saved[0].save(3)


@pytest.mark.parametrize(("path", "complaint"), [("~nobody-of-that-name/m", "user"), ("a\0b", "null character")])
def test_a_path_that_no_file_can_have_is_named(saved, path, complaint):
    for act in (saved[0].save, fastcnn.load):
        with pytest.raises(ValueError, match=f"^path must .*{complaint}.*got {re.escape(repr(path))}"):
            act(path)


def test_an_unbuilt_model_has_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match="no weights yet"):
        small_model().save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_class_that_is_not_registered_is_told_before_anything_is_written(tmp_path):
    class Unknown(Layer):
        def forward(self, x, training=False):
            return x, None

    model = fastcnn.Sequential([Input((3,)), Unknown()])
    with pytest.raises(TypeError, match="Unknown is not registered"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


# Files that are not what they should be


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.3, 0.9, 0.9999])
def test_a_file_that_was_cut_off_is_refused_by_name(saved, share):
    _, path = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"model\.safetensors is cut off, damaged"):
        fastcnn.load(path)


def test_arrays_come_back_in_memory_of_their_own(tmp_path):
    arrays = {
        "scalar": np.array(2.5, "float32"),
        "none": np.zeros((0, 3), "float32"),
        "half": np.arange(3, dtype="float16"),
        "integers": np.arange(-2, 3),
        "ö": np.random.default_rng(0).standard_normal((2, 3, 4)),
    }
    path = tmp_path / "arrays.safetensors"
    save_file(arrays, path, {"about": "text"})
    back, texts = io.load_arrays(path, ("F16", "F32", "F64", "I64"))
    assert texts == {"about": "text"}
    assert back.keys() == arrays.keys()
    for name, array in back.items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name], strict=True)
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match=r"arrays\.safetensors holds \w+ as (F16|I64), not as F32 or F64"):
        io.load_arrays(path)


def test_a_file_that_is_cut_off_while_it_is_read_is_refused(saved, monkeypatch):
    _, path = saved
    content = path.read_bytes()

    class Cutting:
        """Opens a file to check it, and cuts it off when that is done."""

        def __init__(self, path, framework):
            self.file = safe_open(path, framework)

        def __enter__(self):
            return self.file.__enter__()

        def __exit__(self, *raised):
            self.file.__exit__(*raised)
            os.truncate(path, path.stat().st_size - 1)

    monkeypatch.setattr("safetensors.safe_open", Cutting)
    with pytest.raises(ValueError, match=r"model\.safetensors is cut off, damaged"):
        fastcnn.load(path)  # read anew
    monkeypatch.setattr(io, "_version", lambda status: ())  # as where it happens later
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors was cut off while it was read"):
        fastcnn.load(path)


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(tmp_path, monkeypatch):
    path, other = tmp_path / "arrays.safetensors", tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3)}, path, {"version": "old"})
    save_file({"b": np.ones(4)}, other, {"version": "new"})

    def replacing(name, framework):
        if other.exists():
            os.replace(other, path)
        return safe_open(name, framework)

    monkeypatch.setattr("safetensors.safe_open", replacing)
    arrays, texts = io.load_arrays(path)
    assert texts == {"version": "new"}
    assert list(arrays) == ["b"]
    np.testing.assert_array_equal(arrays["b"], np.ones(4), strict=True)


def test_no_file_of_random_damage_does_worse_than_an_error(saved):
    _, path = saved
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    header = int.from_bytes(content[:8], "little")
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, header + 8, rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            fastcnn.load(path)
            outcomes.add("loaded")
        except ValueError as error:
            assert str(path) in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes


def rewritten(path, change=None, arrays=None):
    """Write the file anew with another description, or with other arrays."""
    kept, texts = io.load_arrays(path)
    about = json.loads(texts["fastcnn"])
    if change:
        change(about)
    if arrays:
        arrays(kept)
    save_file(kept, path, {"fastcnn": json.dumps(about)})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.update(format=2), "format must be 1, got 2"),
        (lambda a: a.update(model=None), "described by its class"),
        (lambda a: a["model"].update({"class": "os.system"}), "no model class 'os.system' is known"),
        (lambda a: a["model"].update({"class": "Dense"}), "no model class 'Dense'"),
        (lambda a: a["model"]["config"].update(layers=[3]), "layers must be layers, got 3"),
        (lambda a: a["model"]["config"]["layers"][0].update({"class": "Adam"}), "cannot be made from"),
        (lambda a: a["model"]["config"]["layers"][0]["config"].update(filters=-1), "filters"),
        (lambda a: a["model"]["config"]["layers"][0]["config"].update(filters=10**9), "conv2d/kernel must be"),
        (lambda a: a["model"]["config"]["layers"][0]["config"].update(surprise=1), "surprise"),
        (lambda a: a["model"]["config"]["layers"][0]["config"].update(name="other"), "lacks the array other/kernel"),
        (lambda a: a.update(input_shape=[None, 8, 8, 3]), "conv2d/kernel must be float32 of shape"),
        (lambda a: a.update(input_shape="8"), "input_shape"),
        (lambda a: a.update(iterations=-1), "iterations"),
        (lambda a: a.update(compiled=3), "compiled with"),
        (lambda a: a["compiled"].update(optimizer={"class": "Zeros", "config": {}}), "no optimizer class 'Zeros'"),
        (lambda a: a["compiled"].update(optimizer={"class": "SGD", "config": {}}), "arrays that the model has not"),
        (
            lambda a: a["compiled"].update(metrics=[{"class": "Accuracy", "config": {"name": [1]}}]),
            "name must be a text",
        ),
        (lambda a: a.update(iterations="a"), "iterations must be made of integers, got 'a'"),
        (lambda a: a.update(input_shape=[None, "8", 8, 1]), "input_shape must be made of integers"),
        (lambda a: a.update(model=nested(300)), "recursion"),
    ],
)
def test_a_description_of_something_else_is_refused(saved, change, complaint):
    _, path = saved
    rewritten(path, change)
    with pytest.raises(ValueError, match=complaint) as caught:
        fastcnn.load(path)
    assert str(path) in str(caught.value)


def test_metadata_nested_beyond_reason_are_refused(saved):
    _, path = saved
    arrays = {"a": np.zeros(1, np.float32)}
    save_file(arrays, path, {"fastcnn": "[" * 100_000 + "]" * 100_000})
    with pytest.raises(ValueError, match=re.escape(str(path))):
        fastcnn.load(path)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        (lambda a: a.pop("dense/bias"), "lacks the array dense/bias"),
        (lambda a: a.update({"dense/bias": np.zeros(3, np.float32)}), r"dense/bias must be float32 of shape \(10,\)"),
        (lambda a: a.update({"dense/bias": np.zeros(10)}), "got float64"),
        (lambda a: a.update({"dense/bias": np.zeros(10, np.int32)}), "dense/bias as I32"),
        (lambda a: a.update(extra=np.zeros(3, np.float32)), "arrays that the model has not: extra"),
        (lambda a: a.pop("optimizer/v/dense/bias"), "lacks the array optimizer/v/dense/bias"),
    ],
)
def test_arrays_of_another_model_are_refused_by_name(saved, arrays, complaint):
    _, path = saved
    rewritten(path, arrays=arrays)
    with pytest.raises(ValueError, match=complaint):
        fastcnn.load(path)


def test_files_of_others_are_refused(tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other")
    with pytest.raises(ValueError, match="no fastcnn model"):
        fastcnn.load(tmp_path / "other")
    (tmp_path / "pickle").write_bytes(b"\x80\x04cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(ValueError, match="no safetensors file"):
        fastcnn.load(tmp_path / "pickle")


def test_weights_alone_go_into_the_same_network_or_none_of_them_does(saved, tmp_path):
    model, path = saved
    model.save_weights(tmp_path / "weights.safetensors")
    with safe_open(tmp_path / "weights.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(model.weights)
    with pytest.raises(ValueError, match="it holds arrays, but no fastcnn model"):
        fastcnn.load(tmp_path / "weights.safetensors")
    for source in (path, str(tmp_path / "weights.safetensors")):  # a whole model's file does, too
        other = small_model()
        other.build((None, 8, 8, 1))
        assert not equal(other, model)
        other.load_weights(source)
        assert equal(other, model)

    arrays, _ = io.load_arrays(tmp_path / "weights.safetensors")
    bias = arrays.pop("dense/bias")
    wrong = arrays | {"dense/b": bias, "conv2d/bias": np.ones(5, "float32")}
    save_file(wrong, tmp_path / "wrong.safetensors")
    other.set_weights([0 * w for w in other.get_weights()])
    for extra, rest in ((False, "; the network has no dense/b (10,)"), (True, "")):
        complaint = "wrong.safetensors must hold the weights of this network: layer conv2d: conv2d/bias must have "
        complaint += f"shape (4,), got (5,); it lacks dense/bias (10,){rest}"
        with pytest.raises(ValueError, match=re.escape(complaint) + "$"):
            other.load_weights(tmp_path / "wrong.safetensors", allow_extra=extra)
    save_file(arrays | {"dense/bias": bias, "mask": np.ones(3, bool)}, tmp_path / "extra.safetensors")
    with pytest.raises(ValueError, match="holds mask as BOOL, not as F32 or F64"):
        other.load_weights(tmp_path / "extra.safetensors")
    other.load_weights(tmp_path / "extra.safetensors", allow_extra=True)
    assert equal(other, model)
    other.set_weights([0 * w for w in other.get_weights()])
    whole = path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.safetensors is cut off"):
        other.load_weights(tmp_path / "cut.safetensors")
    assert not any(w.any() for w in other.weights.values())
    with pytest.raises(ValueError, match="the model has no weights yet"):
        small_model().load_weights(path)
