"""Files that Keras writes give its results here; skipped where Keras or PyTorch, which runs it, is not installed."""

from __future__ import annotations

import os

import numpy as np
import pytest

import fastcnn

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed")


def network(library, layers, named, nested):
    """Every layer with weights, branches of the same shapes, a model in the model; made by either library."""
    numbers = iter(range(100))

    def layer(kind, *args, **options):
        if named:
            options["name"] = f"{kind.lower()}_of_number_{next(numbers)}"
        return getattr(layers, kind)(*args, **options)

    def same(kind, *args, **options):
        return layer(kind, *args, padding="same", **options)

    inner = [same("Conv2D", 6, 3), layer("BatchNormalization")]
    x = start = library.Input((9, 8, 3))
    x = same("Conv2D", 6, 3, activation="relu")(x)
    for shortcut_first in (True, False):
        shortcut = same("Conv2D", 6, 3)(x) if shortcut_first else None
        y = layer("BatchNormalization")(same("Conv2D", 6, 3, activation="relu")(x))
        y = same("Conv2D", 6, 3)(y)
        if shortcut is None:
            shortcut = same("Conv2D", 6, 3)(x)
        x = layers.Add()([layer("BatchNormalization")(shortcut), y])
    x = same("DepthwiseConv2D", 3, strides=2)(x)
    x = library.Sequential([library.Input((5, 4, 6)), *inner])(x) if nested else inner[1](inner[0](x))
    x = same("SeparableConv2D", 6, 3)(layer("PReLU", shared_axes=[1, 2])(x))
    x = layer("LayerNormalization")(same("Conv2DTranspose", 4, 3, strides=2)(x))
    x = layer("Dense", 5, activation="tanh")(layers.Dropout(0.5)(layers.Flatten()(x)))
    return library.Model(start, [layer("Dense", 3)(x), layers.GlobalAveragePooling2D()(y)])


def beside(library, layers):
    """A model of two layers beside a branch of three, which is the longer one only where a model counts as one."""
    x = library.Input((4,))
    first = layers.Dense(4)(x)
    inner = library.Sequential([library.Input((4,)), layers.Dense(4), layers.Dense(4)])(x)
    return library.Model(x, layers.Add()([layers.Dense(4)(layers.Dense(4)(first)), inner]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_beside_a_branch(suffix, tmp_path):
    theirs, ours = beside(keras, keras.layers), beside(fastcnn, fastcnn.layers)
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.normal(size=weight.shape) for weight in theirs.get_weights()])
    theirs.save(tmp_path / f"network{suffix}")
    ours.load_keras_weights(tmp_path / f"network{suffix}")
    x = rng.standard_normal((3, 4)).astype("float32")
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x, verbose=0), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras's own calls
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_files_of_keras(suffix, named, nested, tmp_path):
    theirs = network(keras, keras.layers, named, nested)
    rng = np.random.default_rng(0)
    shapes = [weight.shape for weight in theirs.get_weights()]
    theirs.set_weights([rng.uniform(0.5, 1.5, s) if len(s) == 1 else rng.normal(0, 0.2, s) for s in shapes])
    path = tmp_path / f"network{suffix}"
    (theirs.save_weights if suffix == ".weights.h5" else theirs.save)(path)
    ours = network(fastcnn, fastcnn.layers, named, nested)
    if suffix == ".weights.h5" and nested and not named:
        with pytest.raises(ValueError, match=r"is a model .* nothing tells their place .* save it as a \.keras file"):
            ours.load_keras_weights(path)
        return
    ours.load_keras_weights(path)
    x = rng.standard_normal((4, 9, 8, 3)).astype("float32")
    for found, wanted in zip(ours.predict(x), theirs.predict(x, verbose=0), strict=True):
        assert np.abs(found - wanted).max() < 1e-5 * np.sqrt(np.mean(np.square(wanted)))
