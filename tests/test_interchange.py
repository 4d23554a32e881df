"""Weights from elsewhere: PyTorch's and Keras's names, layouts and files; what does not match changes nothing."""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import save_file

import fastcnn
from fastcnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    LayerNormalization,
    Multiply,
    PReLU,
    Reshape,
    SeparableConv2D,
)

# ---- PyTorch's layers, from their definitions: (N, C, H, W) ----


def conv2d(x, weight, bias, strides=(1, 1), padding=0, groups=1):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, :: strides[0], :: strides[1]]
    parts = zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    y = np.concatenate([np.einsum("nchwrs,ocrs->nohw", part, filters) for part, filters in parts], 1)
    return y + bias[:, None, None]


def conv_transpose2d(x, weight, bias, stride):
    (n, _, h, w), (_, filters, rows, cols) = x.shape, weight.shape
    y = np.zeros((n, filters, (h - 1) * stride + rows, (w - 1) * stride + cols))
    for i, j in np.ndindex(h, w):
        window = np.einsum("nc,cors->nors", x[:, :, i, j], weight)
        y[:, :, i * stride : i * stride + rows, j * stride : j * stride + cols] += window
    return y + bias[:, None, None]


def linear(x, weight, bias):
    return x.reshape(len(x), -1) @ weight.T + bias


def batch_norm(x, weight, bias, running_mean, running_var):
    shape = -1, *[1] * (x.ndim - 2)
    mean, variance, gamma, beta = (a.reshape(shape) for a in (running_mean, running_var, weight, bias))
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * weight + bias


def prelu(x, weight):
    return np.where(x < 0, x * weight.reshape(-1, *[1] * (x.ndim - 2)), x)


def arrays(**shapes):
    """Random arrays of one layer, those that must be so positive."""
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.5, 1.5, shape) - (name != "running_var") for name, shape in shapes.items()}


NORM = {"weight": 4, "bias": 4, "running_mean": 4, "running_var": 4}
NORM_OF_ROWS = dict.fromkeys(NORM, 120)
ONE_LAYER = {
    "conv": (
        Conv2D(6, (3, 2), strides=(2, 1), padding=1, groups=2, name="it"),
        {"weight": (6, 2, 3, 2), "bias": 6},
        lambda x, w: conv2d(x, w["weight"], w["bias"], (2, 1), 1, groups=2),
    ),
    "depthwise conv": (
        DepthwiseConv2D((3, 2), depth_multiplier=3, name="it"),
        {"weight": (12, 1, 3, 2), "bias": 12},
        lambda x, w: conv2d(x, w["weight"], w["bias"], groups=4),
    ),
    "transposed conv": (
        Conv2DTranspose(3, (3, 2), strides=2, padding=0, name="it"),
        {"weight": (4, 3, 3, 2), "bias": 3},
        lambda x, w: conv_transpose2d(x, w["weight"], w["bias"], 2),
    ),
    "batch norm": (BatchNormalization(name="it"), NORM, lambda x, w: batch_norm(x, **w)),
    "layer norm": (
        LayerNormalization(name="it"),
        {"weight": 4, "bias": 4},
        lambda x, w: layer_norm(x.transpose(0, 2, 3, 1), **w).transpose(0, 3, 1, 2),
    ),
    "slope for each channel": (PReLU(shared_axes=(1, 2), name="it"), {"weight": 4}, lambda x, w: prelu(x, **w)),
    "one slope": (PReLU(shared_axes=(1, 2, 3), name="it"), {"weight": 1}, lambda x, w: prelu(x, **w)),
}


def images(count=2):
    return np.random.default_rng(1).standard_normal((count, 4, 5, 6))


def last(x):
    """Put channels last."""
    return x.transpose(0, 2, 3, 1)


def named(layer, arrays):
    return {f"{layer}.{name}": array for name, array in arrays.items()}


@pytest.mark.parametrize("case", ONE_LAYER)
def test_each_layer_computes_what_pytorch_defines(case):
    layer, shapes, definition = ONE_LAYER[case]
    x, weights = images(), arrays(**shapes)
    model = fastcnn.Model(
        start := Input((5, 6, 4)), type(layer).from_config(layer.get_config())(start), dtype="float64"
    )
    model.load_torch_state_dict(named("it", weights))
    np.testing.assert_allclose(model.predict(last(x)), last(definition(x, weights)), rtol=1e-9, atol=1e-9)


FLATTENED = {
    "flattened": lambda x: Flatten()(x),
    "reshaped": lambda x: Reshape((120,))(x),
    "through what keeps the order": lambda x: Dropout(0.5)(Activation("relu")(Flatten()(x))),
}


@pytest.mark.parametrize("case", FLATTENED)
def test_dense_layers_behind_an_image_get_their_rows_in_order(case):
    x, first, second = images(), arrays(weight=(120, 120), bias=120), arrays(weight=(7, 120), bias=7)
    start = Input((5, 6, 4))
    y = Dense(7, name="second")(Dense(120, name="first")(FLATTENED[case](start)))
    model = fastcnn.Model(start, y, dtype="float64")
    model.load_torch_state_dict(named("first", first) | named("second", second))
    flat = np.maximum(x, 0) if "through" in case else x
    np.testing.assert_allclose(model.predict(last(x)), linear(linear(flat, **first), **second), rtol=1e-9, atol=1e-9)


def test_what_is_learned_of_each_feature_behind_an_image_is_put_in_order():
    x, norm, rows = images(), arrays(**NORM_OF_ROWS), arrays(weight=(3, 120), bias=3)
    slopes, layer = arrays(weight=120), arrays(weight=120, bias=120)
    start = Input((5, 6, 4))
    y = BatchNormalization(name="norm")(Flatten()(start))
    y = LayerNormalization(name="layer")(PReLU(name="slopes")(y))
    model = fastcnn.Model(start, Dense(3, name="rows")(y), dtype="float64")
    weights = {"norm": norm, "slopes": slopes, "layer": layer, "rows": rows}
    model.load_torch_state_dict({key: a for name, w in weights.items() for key, a in named(name, w).items()})
    flat = layer_norm(prelu(batch_norm(x.reshape(2, -1), **norm), **slopes), **layer)
    np.testing.assert_allclose(model.predict(last(x)), linear(flat, **rows), rtol=1e-9, atol=1e-9)


def test_images_that_are_flattened_and_joined_keep_their_orders():
    x, row, weights = images(), np.ones((2, 5)), arrays(weight=(3, 245), bias=3)
    start, other = Input((5, 6, 4)), Input((5,))
    joined = Concatenate()([Flatten()(start), other, Flatten()(start)])
    model = fastcnn.Model([start, other], Dense(3, name="it")(joined), dtype="float64")
    model.load_torch_state_dict(named("it", weights))
    flat = np.concatenate([x.reshape(2, -1), row, x.reshape(2, -1)], 1)
    np.testing.assert_allclose(model.predict([last(x), row]), linear(flat, **weights), rtol=1e-9, atol=1e-9)


def model_of(start, y):
    return fastcnn.Model(start, y, dtype="float64")


def test_gates_without_order_multiply_what_has_one_and_what_has_not():
    """A gate of one number for each sample behind a flattened image, and one for each channel of an image."""
    x, gate, rows = images(), arrays(weight=(1, 5), bias=1), arrays(weight=(3, 120), bias=3)
    start, other = Input((5, 6, 4)), Input((5,))
    flat, one = Flatten()(start), Dense(1, name="gate")(other)
    for joined in ([flat, one], [one, flat]):
        model = model_of([start, other], Dense(3, name="rows")(Multiply()(joined)))
        model.load_torch_state_dict(named("gate", gate) | named("rows", rows))
        wanted = linear(x.reshape(2, -1) * linear(np.ones((2, 5)), **gate), **rows)
        np.testing.assert_allclose(model.predict([last(x), np.ones((2, 5))]), wanted, rtol=1e-9, atol=1e-9)
    squeezed = Flatten()(Reshape((1, 1, 4))(GlobalAveragePooling2D()(start)))
    model = model_of(start, Multiply()([start, Reshape((1, 1, 4))(Dense(4, name="gate")(squeezed))]))
    gate = arrays(weight=(4, 4), bias=4)
    model.load_torch_state_dict(named("gate", gate))
    wanted = x * linear(x.mean((2, 3)), **gate)[:, :, None, None]
    np.testing.assert_allclose(model.predict(last(x)), last(wanted), rtol=1e-9, atol=1e-9)


def test_flattened_images_are_added_where_they_have_one_order():
    x, rows = images(), arrays(weight=(3, 120), bias=3)
    start = Input((5, 6, 4))
    flat = Flatten()(start)
    model = model_of(start, Dense(3, name="rows")(Add()([flat, Activation("relu")(flat)])))
    model.load_torch_state_dict(named("rows", rows))
    flat = x.reshape(2, -1)
    np.testing.assert_allclose(model.predict(last(x)), linear(flat + np.maximum(flat, 0), **rows), rtol=1e-9, atol=1e-9)


def test_one_slope_is_that_of_all_features_behind_an_image():
    x, slope, rows = images(), arrays(weight=1), arrays(weight=(3, 120), bias=3)
    start = Input((5, 6, 4))
    model = model_of(start, Dense(3, name="rows")(PReLU(shared_axes=(1,), name="slope")(Flatten()(start))))
    model.load_torch_state_dict(named("slope", slope) | named("rows", rows))
    wanted = linear(prelu(x.reshape(2, -1), **slope), **rows)
    np.testing.assert_allclose(model.predict(last(x)), wanted, rtol=1e-9, atol=1e-9)


def twice(layer, x):
    return layer(layer(x))


OTHER_ORDERS = {
    "a gate": (
        lambda x: Multiply(name="it")([Flatten()(x), Dense(24, name="fc")(Flatten()(x))]),
        "layer it has inputs whose features PyTorch has in different orders",
    ),
    "a sum": (
        lambda x: Add(name="it")([Dense(24, name="fc")(Flatten()(x)), Flatten()(x)]),
        "layer it has inputs whose features PyTorch has in different orders",
    ),
    "a shared layer": (
        lambda x: twice(Dense(24, name="fc"), Flatten()(x)),
        "layer fc is called on features that PyTorch has in different orders",
    ),
    "features as a pixel": (
        lambda x: Conv2D(3, 1, name="fc")(Reshape((1, 1, 24), name="it")(Flatten()(x))),
        "layer it makes (None, 1, 1, 24) of (None, 24), which PyTorch has in another order",
    ),
    "an image as a pixel": (
        lambda x: Conv2D(3, 1, name="fc")(Reshape((1, 1, 24), name="it")(x)),
        "layer it makes (None, 1, 1, 24) of (None, 2, 3, 4), which PyTorch has in another order",
    ),
    "another image": (
        lambda x: Conv2D(3, 1, name="fc")(Reshape((2, 6, 2), name="it")(x)),
        "layer it makes (None, 2, 6, 2) of (None, 2, 3, 4), which PyTorch has in another order",
    ),
    "pixels in a row": (
        lambda x: Dense(3, name="fc")(Flatten()(Reshape((6, 4), name="it")(x))),
        "layer it makes (None, 6, 4) of (None, 2, 3, 4), which PyTorch has in another order",
    ),
    "an image of a pixel": (
        lambda x: Conv2D(3, 1, name="fc")(Reshape((2, 2, 1 + 1), name="it")(Conv2D(8, (2, 3), name="all")(x))),
        "layer it makes (None, 2, 2, 2) of (None, 1, 1, 8), which PyTorch has in another order",
    ),
}


@pytest.mark.parametrize("case", OTHER_ORDERS)
def test_orders_of_features_that_are_not_converted_are_refused(case):
    build, message = OTHER_ORDERS[case]
    model = fastcnn.Model(start := Input((2, 3, 4)), build(start))
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.escape(message)):
        model.load_torch_state_dict(in_pytorch(model))
    assert all((a == b).all() for a, b in zip(model.get_weights(), before, strict=True))


# ---- PyTorch's names and files ----


def small(seed=0):
    """A network of two layers of other kinds, with its weights in PyTorch."""
    layers = [Input((4, 4, 2)), Conv2D(3, 3, name="conv"), BatchNormalization(name="norm"), Flatten()]
    return fastcnn.Sequential([*layers, Dense(5, name="fc")], seed=seed)


STATE = {
    **named("conv", arrays(weight=(3, 2, 3, 3), bias=3)),
    **named("norm", arrays(weight=3, bias=3, running_mean=3, running_var=3)),
    **named("fc", arrays(weight=(5, 12), bias=5)),
}


@pytest.fixture
def model():
    return small()


@pytest.fixture
def unchanged(model):
    """Check that the test has changed no weight."""
    before = model.get_weights()
    yield
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_files_hold_floats_of_any_size(dtype, model, tmp_path):
    given = {name: array.astype(dtype) for name, array in STATE.items()}
    save_file(given | {"norm.num_batches_tracked": np.array(7)}, tmp_path / "state.safetensors")
    model.load_torch_state_dict(str(tmp_path / "state.safetensors"))
    other = small(1)
    other.load_torch_state_dict({name: array.astype("float32") for name, array in given.items()})
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))
    assert model.weights["conv/kernel"][2, 1, 0, 1] == given["conv.weight"][1, 0, 2, 1].astype("float32")


def test_a_model_that_has_predicted_takes_new_weights(model):
    x = np.ones((1, 4, 4, 2))
    before = model.predict(x)
    model.load_torch_state_dict(STATE)
    after = model.predict(x)
    other = small(1)
    other.load_torch_state_dict(STATE)
    assert not np.array_equal(before, after)
    assert np.array_equal(other.predict(x), after)


def test_the_prefix_of_data_parallel_is_taken_off_where_all_have_it(model):
    model.load_torch_state_dict({f"module.{name}": array for name, array in STATE.items()})
    assert model.weights["norm/gamma"].tolist() == STATE["norm.weight"].astype("float32").tolist()
    with pytest.raises(ValueError, match=re.escape("the network has no module.fc.bias (5,)")):
        model.load_torch_state_dict(STATE | {"module.fc.bias": STATE["fc.bias"]})


def in_pytorch(model):
    """Return the weights of a network without grouped convolutions as PyTorch has them."""
    parts = {"moving_mean": "running_mean", "moving_variance": "running_var", "bias": "bias", "beta": "bias"}
    state = {}
    for name, weight in model.weights.items():
        layer, _, part = name.partition("/")
        state[f"{layer}.{parts.get(part, 'weight')}"] = weight.T if weight.ndim < 4 else weight.transpose(3, 2, 0, 1)
    return state


def test_densenets_under_their_older_names():
    """Published files have "denselayer1.norm.1" where torchvision's modules are called "denselayer1.norm1"."""
    source, model = (fastcnn.models.densenet121(10, (32, 32, 3), seed=seed) for seed in (0, 1))
    old = re.compile(r"(denselayer\d+\.[a-z]+)(\d\.)")
    state = {old.sub(r"\1.\2", name): array for name, array in in_pytorch(source).items()}
    assert state["features.denseblock1.denselayer1.norm.1.weight"].shape == (64,)
    assert state["features.denseblock4.denselayer16.conv.2.weight"].shape == (32, 128, 3, 3)
    model.load_torch_state_dict(state)
    assert all(np.array_equal(a, b) for a, b in zip(source.get_weights(), model.get_weights(), strict=True))
    # One array can't have both names.
    first = "features.denseblock1.denselayer1.norm"
    with pytest.raises(ValueError, match=re.escape(f"the network has no {first}.1.bias (64,)") + "$"):
        model.load_torch_state_dict(state | {f"{first}1.bias": np.ones(64)})


def test_a_whole_networks_weights_go_into_one_without_a_top():
    whole = fastcnn.models.resnet20_cifar(seed=0)
    base = fastcnn.models.resnet20_cifar(include_top=False, seed=1)
    state = in_pytorch(whole)
    before = base.get_weights()
    with pytest.raises(ValueError, match=re.escape("the network has no fc.weight (10, 64), fc.bias (10,)") + "$"):
        base.load_torch_state_dict(state)
    lacking = {name: array for name, array in state.items() if name != "bn1.bias"}
    with pytest.raises(ValueError, match=re.escape("it lacks bn1.bias (16,)") + "$"):
        base.load_torch_state_dict(lacking, allow_extra=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, base.get_weights(), strict=True))
    base.load_torch_state_dict(state, allow_extra=True)
    assert all(np.array_equal(w, whole.weights[name]) for name, w in base.weights.items())


def test_extra_arrays_of_a_file_may_have_any_type(model, tmp_path):
    path = tmp_path / "state.safetensors"
    save_file(STATE | {"mask": np.ones(3, bool), "steps": np.ones(2, "int32")}, path)
    with pytest.raises(ValueError, match=r"holds (mask as BOOL|steps as I32), not as F16"):
        model.load_torch_state_dict(path)
    model.load_torch_state_dict(path, allow_extra=True)
    other = small(1)
    other.load_torch_state_dict(STATE)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))
    save_file(STATE | {"fc.bias": np.ones(5, "int32")}, path)
    with pytest.raises(
        ValueError, match=r"without its arrays of I32, must hold the weights .* it lacks fc\.bias \(5,\)$"
    ):
        model.load_torch_state_dict(path, allow_extra=True)


def test_tensors_that_need_a_gradient_are_named(model, unchanged):
    class Tensor:
        def __array__(self, *_, **__):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")

    with pytest.raises(
        ValueError, match=r"state_dict\['fc\.bias'\] must be an array of numbers, .* tensor\.detach\(\)"
    ):
        model.load_torch_state_dict(STATE | {"fc.bias": Tensor()})


def without(*names):
    return {name: array for name, array in STATE.items() if name not in names}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (without("fc.bias", "norm.running_var"), ValueError, "it lacks norm.running_var (3,), fc.bias (5,)"),
        (STATE | {"head.weight": np.ones((2, 5))}, ValueError, "the network has no head.weight (2, 5)"),
        (
            STATE | {"conv.weight": np.ones((3, 3, 2, 3)), "fc.weight": np.ones((5, 9))},
            ValueError,
            "layer conv: conv.weight must have shape (3, 2, 3, 3), got (3, 3, 2, 3); "
            "layer fc: fc.weight must have shape (5, 12), got (5, 9)",
        ),
        (
            without("fc.bias") | {"fc.b": np.ones(5), "conv.bias": np.ones(4)},
            ValueError,
            "state_dict must hold the weights of this network: layer conv: conv.bias must have shape (3,), got (4,); "
            "it lacks fc.bias (5,); the network has no fc.b (5,)",
        ),
        (
            {f"other.{i}": np.ones(i) for i in range(30)},
            ValueError,
            "the network has no " + ", ".join(f"other.{i} ({i},)" for i in range(30)),
        ),
        (
            {name: array[..., None] for name, array in STATE.items()},
            ValueError,
            "; ".join(
                f"layer {name.partition('.')[0]}: {name} must have shape {array.shape}, got {(*array.shape, 1)}"
                for name, array in STATE.items()
            ),
        ),
        (STATE | {"fc.bias": np.ones(5, "int8")}, ValueError, "layer fc: fc.bias must hold floating-point numbers"),
        (STATE | {"fc.bias": np.ones(5, complex)}, TypeError, "state_dict['fc.bias'] must hold real numbers"),
        (STATE | {"fc.bias": None}, TypeError, "state_dict['fc.bias'] must hold real numbers"),
        ({7: np.ones(3)}, TypeError, "state_dict must have texts as names, got 7"),
        (
            [np.ones(3)],
            TypeError,
            "state_dict must be a file or a mapping of arrays by name, got [array([1., 1., 1.])]",
        ),
        ({}, ValueError, "it lacks conv.weight (3, 2, 3, 3), conv.bias (3,)"),
    ],
)
def test_a_state_dict_that_does_not_match_changes_nothing(given, error, message, model, unchanged):
    with pytest.raises(error, match=re.escape(message)):
        model.load_torch_state_dict(given)


def test_layers_that_pytorch_has_not_are_named():
    start = Input((4, 4, 2))
    y = PReLU(name="each")(SeparableConv2D(2, 3, name="separable")(start))
    with pytest.raises(
        ValueError, match=r"separable/depthwise_kernel \(3, 3, 2, 1\), which PyTorch's modules have not"
    ):
        fastcnn.Model(start, y).load_torch_state_dict({"each.weight": np.ones(8)})
    with pytest.raises(ValueError, match=r"each/alpha \(2, 2, 2\), which PyTorch's modules have not"):
        fastcnn.Model(start, y).load_torch_state_dict({"each.weight": np.ones(8)})


def test_rows_that_become_images_are_refused():
    model = fastcnn.Sequential(
        [Input((6,)), Dense(24, name="fc"), Reshape((2, 3, 4), name="image"), Conv2D(2, 1, name="c")]
    )
    before = model.get_weights()
    state = {
        "fc.weight": np.ones((24, 6)),
        "fc.bias": np.ones(24),
        "c.weight": np.ones((2, 4, 1, 1)),
        "c.bias": np.ones(2),
    }
    with pytest.raises(ValueError, match=r"layer image makes images \(None, 2, 3, 4\) of rows \(None, 24\)"):
        model.load_torch_state_dict(state)
    assert all((a == b).all() for a, b in zip(model.get_weights(), before, strict=True))


def test_weights_that_pytorchs_layer_has_not_are_named():
    class Scaled(Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.add_weight("scale", (1,))

    model = fastcnn.Sequential([Input((2,)), Scaled(3, use_bias=False, name="fc")])
    with pytest.raises(ValueError, match=r"it lacks fc/scale \(1,\), which PyTorch's modules have not$"):
        model.load_torch_state_dict({"fc.weight": np.ones((3, 2))})


def test_a_model_that_is_not_built_has_no_weights_to_set():
    for method in ("load_torch_state_dict", "load_keras_weights"):
        with pytest.raises(ValueError, match="the model has no weights yet"):
            getattr(fastcnn.Sequential([Dense(1)]), method)({})


def test_pickles_are_refused_unread(model, tmp_path, unchanged):
    class Trap:
        def __reduce__(self):
            return sys.exit, (1,)

    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    old.write_bytes(pickle.dumps(Trap(), 2))
    with zipfile.ZipFile(new, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(), 2))
    for path in (old, new):
        with pytest.raises(ValueError, match=r"pth is a pickle, .* could run code: convert it"):
            model.load_torch_state_dict(path)


def test_damaged_safetensors_files_are_refused(model, tmp_path, unchanged):
    path = tmp_path / "state.safetensors"
    save_file(STATE, path)
    whole = path.read_bytes()
    for size in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"state\.safetensors is cut off, damaged, or no safetensors file"):
            model.load_torch_state_dict(path)
    header = json.dumps({"fc.bias": {"dtype": "BF16", "shape": [5], "data_offsets": [0, 10]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(10))
    with pytest.raises(ValueError, match=r"holds fc\.bias as BF16, not as F16 or F32 or F64 or I64"):
        model.load_torch_state_dict(path)
    with pytest.raises(FileNotFoundError):
        model.load_torch_state_dict(tmp_path / "none.safetensors")


# ---- Keras's names and files ----

KERAS_SHAPES = {
    "conv": {"kernel": (3, 3, 2, 3), "bias": 3},
    "norm": {"gamma": 3, "beta": 3, "moving_mean": 3, "moving_variance": 3},
    "fc": {"kernel": (12, 5), "bias": 5},
}
KERAS = {layer: arrays(**shapes) for layer, shapes in KERAS_SHAPES.items()}
CLASSES = {"conv": "conv2d", "norm": "batch_normalization", "fc": "dense"}


def is_keras(model, layers=KERAS):
    weights = [array for given in layers.values() for array in given.values()]
    return all(np.array_equal(a, b.astype(a.dtype)) for a, b in zip(model.get_weights(), weights, strict=True))


def older(path, layers, ending=":0", inside="", split=None):
    """Write Keras 2's layout: attributes name the layers and the weights of each."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as root:
        group = root.create_group(inside) if inside else root
        names = [name.encode() for name in layers]
        if split:
            group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:split], names[split:]
        else:
            group.attrs["layer_names"] = names
        for name, given in layers.items():
            layer = group.create_group(name)
            keys = {key if "/" in key else f"{name}/{key}": array for key, array in given.items()}
            layer.attrs["weight_names"] = [f"{key}{ending}".encode() for key in keys]
            for key, array in keys.items():
                layer[f"{key}{ending}"] = array


def newer(path, layers, names=None):
    """Write Keras 3's layout, its layers by the names of their groups; names are those that it keeps beside them."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as root:
        root["optimizer/vars/0"] = np.array(3)
        root.create_group("layers/flatten/vars")
        root["layers/dropout/seed_generator/vars/0"] = np.array([1, 2], "uint32")
        for group, given in layers.items():
            weights = root.create_group(f"layers/{group}/vars")
            if names:
                weights.attrs["name"] = names[group]
            for number, array in enumerate(given.values()):
                weights[str(number)] = array


def archived(path, layers, names, classes):
    """Write a .keras file of the layers, whose description has their names in another order than the groups'."""
    newer(path.with_suffix(".h5"), layers)
    described = [{"class_name": classes[group], "config": {"name": names[group]}} for group in names]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": described}}))
        archive.write(path.with_suffix(".h5"), "model.weights.h5")


def by_class(layers=KERAS):
    return {CLASSES[name]: given for name, given in layers.items()}


def renamed(layers=KERAS):
    return {f"other_{name}": given for name, given in layers.items()}


WRITERS = {
    "older": lambda path: older(path, dict(reversed(KERAS.items()))),
    "older, of a whole model": lambda path: older(path, KERAS, inside="model_weights"),
    "older, names cut in two": lambda path: older(path, KERAS, split=2),
    "older, by Keras 3": lambda path: older(path, KERAS, ending=""),
    "older, a model in it": lambda path: older(
        path, {"conv": KERAS["conv"], "inner": {f"{n}/{k}": a for n in ("norm", "fc") for k, a in KERAS[n].items()}}
    ),
    "older, other names": lambda path: older(path, renamed()),
    "older, weights of other names": lambda path: older(
        path, {name: {f"{name}_{i}": a for i, a in enumerate(given.values())} for name, given in KERAS.items()}
    ),
    "older, weights in other scopes": lambda path: older(
        path, {n: {f"{n}_1/{k}": a for k, a in KERAS[n].items()} for n in reversed(KERAS)}
    ),
    "newer, with names": lambda path: newer(path, by_class(), {group: name for name, group in CLASSES.items()}),
    "newer, with other names": lambda path: newer(path, by_class(), {group: f"x_{group}" for group in by_class()}),
    "newer, without names": lambda path: newer(path, by_class()),
}


@pytest.mark.parametrize("case", WRITERS)
def test_layouts_of_h5_files(case, model, tmp_path):
    WRITERS[case](tmp_path / "weights.h5")
    model.load_keras_weights(tmp_path / "weights.h5")
    assert is_keras(model)


def test_arrays_by_name(model):
    model.load_keras_weights({f"{layer}/{name}": a for layer in reversed(KERAS) for name, a in KERAS[layer].items()})
    assert is_keras(model)
    model.load_keras_weights({f"net/{layer}/{name}:0": 2 * a for layer in KERAS for name, a in KERAS[layer].items()})
    assert is_keras(model, {layer: {name: 2 * a for name, a in given.items()} for layer, given in KERAS.items()})


def many(count=12):
    """A chain of layers of one kind, named as the first models of a session are, and what each begins with."""
    layers = [Conv2D(2, 1, use_bias=False) for _ in range(count)]
    return fastcnn.Sequential([Input((2, 2, 2)), *layers]), [np.full((1, 1, 2, 2), float(n)) for n in range(count)]


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_numbered_names_count_by_number_or_as_the_description_has_them(suffix, tmp_path):
    model, kernels = many()
    groups = ["conv2d", *(f"conv2d_{n}" for n in range(1, 12))]
    path = tmp_path / f"weights{suffix}"
    stored = {group: {"kernel": kernel} for group, kernel in zip(groups, kernels, strict=True)}
    if suffix == ".h5":
        newer(path, stored)
    else:
        archived(
            path, stored, {group: f"conv2d_{30 - n}" for n, group in enumerate(groups)}, dict.fromkeys(groups, "Conv2D")
        )
    model.load_keras_weights(path)
    assert [array[0, 0, 0, 0] for array in model.get_weights()] == list(range(12))


def test_names_of_their_own_count_more_than_the_order(tmp_path):
    layers = [Conv2D(2, 1, use_bias=False, name=name) for name in ("first", None, "third", None)]
    model = fastcnn.Sequential([Input((2, 2, 2)), *layers])
    order = {"conv2d_8": 1, "third": 2, "first": 0, "conv2d_9": 3}
    older(tmp_path / "weights.h5", {name: {"kernel": np.full((1, 1, 2, 2), float(n))} for name, n in order.items()})
    model.load_keras_weights(tmp_path / "weights.h5")
    assert [array[0, 0, 0, 0] for array in model.get_weights()] == [0, 1, 2, 3]


def branched(shortcut_first, names):
    """Two layers on the way and one beside it; which of them was called first makes no difference to Keras."""
    x = Input((3, 3, 2))
    first, second, beside, end = (Conv2D(2, 1, use_bias=False, name=name) for name in names)
    short = beside(x) if shortcut_first else None
    y = second(first(x))
    return fastcnn.Model(x, GlobalAveragePooling2D()(end(Add()([beside(x) if short is None else short, y]))))


@pytest.mark.parametrize("shortcut_first", [False, True])
def test_the_order_is_that_of_keras(shortcut_first, tmp_path):
    names = ["first", "second", "beside", "end"]
    wanted = dict(zip(names, range(4), strict=True))
    # By the longest way to the output; of as long ones the shortcut, which the sum has first.
    order = ["first", "beside", "second", "end"]
    path = tmp_path / "weights.h5"
    older(
        path, {f"conv2d_{n}": {"kernel": np.full((1, 1, 2, 2), float(wanted[name]))} for n, name in enumerate(order, 5)}
    )
    model = branched(shortcut_first, names)
    model.load_keras_weights(path)
    assert {name: model.weights[f"{name}/kernel"][0, 0, 0, 0] for name in names} == wanted


def test_layers_of_keras_that_have_other_names_for_weights(tmp_path):
    start = Input((4, 4, 2))
    model = fastcnn.Model(start, SeparableConv2D(3, 3, name="b")(DepthwiseConv2D(1, name="a")(start)))
    given = {
        "a": arrays(depthwise_kernel=(1, 1, 2, 1), bias=2),
        "b": arrays(depthwise_kernel=(3, 3, 2, 1), pointwise_kernel=(1, 1, 2, 3), bias=3),
    }
    model.load_keras_weights({f"{layer}/{name}": a for layer, w in given.items() for name, a in w.items()})
    assert is_keras(model, given)
    older(tmp_path / "weights.h5", given)
    again = fastcnn.Model(start, SeparableConv2D(3, 3, name="b")(DepthwiseConv2D(1, name="a")(start)))
    again.load_keras_weights(tmp_path / "weights.h5")
    assert is_keras(again, given)


def changed(**layers):
    return {name: given for name, given in (KERAS | layers).items() if given}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (changed(fc=arrays(kernel=(12, 4), bias=5)), "layer fc: fc/kernel must have shape (12, 5), got (12, 4)"),
        (changed(fc=arrays(kernel=(12, 5))), "it lacks fc/bias (5,)"),
        (changed(fc=arrays(kernel=(12, 5), bias=5, scale=5)), "the network has no fc/scale (5,)"),
        (changed(fc=arrays(kernel=(12, 5), scale=5)), "it lacks fc/bias (5,); the network has no fc/scale (5,)"),
        (changed(fc=None), "it lacks fc/kernel (12, 5), fc/bias (5,)"),
        (changed(top=arrays(kernel=(5, 2))), "the network has no top/kernel (5, 2)"),
        (changed(fc={**KERAS["fc"], "bias": np.ones(5, int)}), "layer fc: fc/bias must hold floating-point numbers"),
    ],
)
@pytest.mark.parametrize("is_file", [False, True])
def test_weights_that_do_not_match_change_nothing(stored, message, is_file, model, tmp_path, unchanged):
    older(path := tmp_path / "weights.h5", stored)
    by_name = {f"{layer}/{name}": array for layer, given in stored.items() for name, array in given.items()}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        model.load_keras_weights(path if is_file else by_name)
    assert str(caught.value).startswith(
        f"{f'{path}: ' if is_file else ''}weights must hold the weights of this network: "
    )


def test_weights_that_do_not_match_in_order_change_nothing(model, tmp_path, unchanged):
    older(
        path := tmp_path / "weights.h5",
        renamed(changed(norm=arrays(gamma=3, beta=2, moving_mean=3, moving_variance=3))),
    )
    with pytest.raises(ValueError, match=r"layer norm: other_norm/beta must have shape \(3,\), got \(2,\)$"):
        model.load_keras_weights(path)


def test_names_in_a_mapping_have_no_order(model, unchanged):
    with pytest.raises(ValueError, match=r"it lacks conv/kernel .* the network has no other_conv/kernel"):
        model.load_keras_weights({f"{layer}/{k}": a for layer, given in renamed().items() for k, a in given.items()})
    for wrong in (None, [np.ones(3)], 7):
        with pytest.raises(TypeError, match="weights must be a file or a mapping"):
            model.load_keras_weights(wrong)


def test_classes_in_another_order_are_no_match(model, tmp_path, unchanged):
    newer(tmp_path / "weights.h5", {"conv2d": KERAS["conv"], "dense": KERAS["norm"], "dense_1": KERAS["fc"]})
    with pytest.raises(ValueError, match=r"it lacks conv/kernel .* the network has no conv2d/0"):
        model.load_keras_weights(tmp_path / "weights.h5")


def test_models_in_models_need_names(tmp_path, model, unchanged):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "weights.h5"
    newer(path, {"conv2d": KERAS["conv"]})
    with h5py.File(path, "a") as root:
        root.create_group("layers/sequential/vars")
        root["layers/sequential/layers/dense/vars/0"] = np.ones((12, 5))
    with pytest.raises(ValueError, match=r"sequential is a model .* save it as a \.keras file"):
        model.load_keras_weights(path)


def test_models_in_models_have_their_place_in_an_archive(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "weights.h5", "w") as root:
        for number, group in enumerate(
            ["sequential/layers/conv2d", "conv2d", "sequential_1/layers/conv2d", "conv2d_1"]
        ):
            root[f"layers/{group}/vars/0"] = np.full((1, 1, 2, 2), float(number))
    inside = {"layers": [{"class_name": "Conv2D", "config": {"name": "inner"}}]}
    layers = [
        {"class_name": kind, "config": {"name": name} | (inside if kind == "Sequential" else {})}
        for kind, name in [("Sequential", "a"), ("Conv2D", "b"), ("Sequential", "c"), ("Conv2D", "d")]
    ]
    with zipfile.ZipFile(tmp_path / "weights.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.write(tmp_path / "weights.h5", "model.weights.h5")
    model, _ = many(4)
    model.load_keras_weights(tmp_path / "weights.keras")
    assert [array[0, 0, 0, 0] for array in model.get_weights()] == [0, 1, 2, 3]


def beside(names=(None,) * 5):
    """A model of two layers beside a branch of three."""
    first, second, third, *inside = (Dense(2, use_bias=False, name=name) for name in names)
    start = Input((2,))
    inner = fastcnn.Sequential([Input((2,)), *inside])(start)
    return fastcnn.Model(start, Add()([third(second(first(start))), inner]))


def described_beside(called):
    """Keras's description of it; called gives that of a call on the results of layers."""
    inside = {"layers": [{"class_name": "Dense", "config": {"name": name}} for name in ("dense_3", "dense_4")]}
    layers = [
        ("InputLayer", {"name": "start"}, []),
        ("Dense", {"name": "dense"}, [called("start")]),
        ("Dense", {"name": "dense_1"}, [called("dense")]),
        ("Dense", {"name": "dense_2"}, [called("dense_1")]),
        ("Sequential", {"name": "inner"} | inside, [called("start")]),
        ("Add", {"name": "sum"}, [called("dense_2", "inner")]),
    ]
    described = [{"class_name": kind, "config": config, "inbound_nodes": nodes} for kind, config, nodes in layers]
    return {"config": {"layers": described, "input_layers": [["start", 0, 0]], "output_layers": [["sum", 0, 0]]}}


def in_keras_2(*names):
    return [[name, 0, 0, {}] for name in names]


def in_keras_3(*names):
    return {"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}} for name in names]}


# What ours calls them, as those inside are named first, and the groups of Keras's file.
NAMES_BESIDE = ["dense_2", "dense_3", "dense_4", "dense", "dense_1"]
BESIDE = ["dense", "dense_1", "dense_2", "sequential/layers/dense", "sequential/layers/dense_1"]


def written_beside(path, kind):
    """Write what Keras does of it: its layers by depth, where the model counts as one."""
    h5py = pytest.importorskip("h5py")
    kernels = [np.full((2, 2), float(number)) for number in range(5)]
    if kind == "older":
        names = [f"dense_{n}" if n else "dense" for n in range(5)]
        inner = {f"{name}/kernel": kernel for name, kernel in zip(names[3:], kernels[3:], strict=True)}
        older(
            path,
            {n: {"kernel": k} for n, k in zip(names[:3], kernels, strict=False)} | {"inner": inner},
            inside="model_weights",
        )
        with h5py.File(path, "a") as root:
            root.attrs["model_config"] = json.dumps(described_beside(in_keras_2))
        return
    with h5py.File(path, "w") as root:
        for number, (group, kernel) in enumerate(zip(BESIDE, kernels, strict=True)):
            root[f"layers/{group}/vars/0"] = kernel
            root[f"layers/{group}/vars"].attrs["name"] = f"dense_{number}" if number else "dense"
        root.create_group("layers/sequential/vars").attrs["name"] = "inner"
    if kind == "archive":
        content = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(described_beside(in_keras_3)))
            archive.writestr("model.weights.h5", content)


def firsts(model):
    return {name: array[0, 0] for name, array in model.weights.items()}


@pytest.mark.parametrize("kind", ["older", "archive"])
def test_models_beside_branches_are_laid_open_as_they_are_described(kind, tmp_path):
    written_beside(tmp_path / "weights", kind)
    model = beside()
    model.load_keras_weights(tmp_path / "weights")
    assert firsts(model) == {f"{name}/kernel": number for number, name in enumerate(NAMES_BESIDE)}


def test_models_in_files_of_weights_alone_are_refused_unless_names_tell(tmp_path):
    """In Keras a model's layers are behind the others there, and nothing tells where they were."""
    written_beside(path := tmp_path / "weights.h5", "weights")
    model = beside()
    before = firsts(model)
    message = r"sequential is a model .* nothing tells their place .* are dense_2, dense_3, dense, dense_4, dense_1$"
    with pytest.raises(ValueError, match=message):
        model.load_keras_weights(path)
    assert firsts(model) == before
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "a") as root:
        for group, name in zip(BESIDE, "abcde", strict=True):
            root[f"layers/{group}/vars"].attrs["name"] = name
    model = beside("abcde")
    model.load_keras_weights(path)
    assert firsts(model) == {f"{name}/kernel": float(i) for i, name in enumerate("abcde")}
    model = beside([None, None, None, "d", "e"])  # the others follow each other
    model.load_keras_weights(path)
    assert list(firsts(model).values()) == [0, 1, 2, 3, 4]
    model = beside(["a", "b", None, "d", None])  # which of the two is which, nothing tells
    with pytest.raises(ValueError, match=r"nothing tells their place .* without one of their own are dense_1, dense$"):
        model.load_keras_weights(path)


def test_branches_beside_models_whose_layers_have_names_are_refused(tmp_path):
    """Which of two branches Keras has first depends on how long it takes the model in one of them to be."""
    h5py = pytest.importorskip("h5py")
    groups = {"dense": "dense", "dense_1": "dense_1", "sequential/layers/dense": "inside"}
    with h5py.File(path := tmp_path / "weights.h5", "w") as root:
        for number, (group, name) in enumerate(groups.items()):
            root[f"layers/{group}/vars/0"] = np.full((2, 2), float(number))
            root[f"layers/{group}/vars"].attrs["name"] = name
        root.create_group("layers/sequential/vars").attrs["name"] = "sequential"
    start = Input((2,))
    inner = fastcnn.Sequential([Input((2,)), Dense(2, use_bias=False, name="inside")])
    beside, before = (Dense(2, use_bias=False) for _ in range(2))
    model = fastcnn.Model(start, Add()([beside(start), inner(before(start))]))
    with pytest.raises(ValueError, match=r"sequential is a model .* without one of their own are dense_1, dense$"):
        model.load_keras_weights(path)


@pytest.mark.parametrize("change", ["needs itself", "unknown", "no layers"])
def test_models_in_networks_that_are_not_described_well_have_no_place(change, tmp_path):
    written_beside(path := tmp_path / "weights.h5", "older")
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "a") as root:
        description = json.loads(root.attrs["model_config"])
        layers = description["config"]["layers"]
        if change == "needs itself":
            layers[1]["inbound_nodes"] = [[["dense", 0, 0, {}]]]
        elif change == "unknown":
            layers[4]["config"]["layers"][0]["config"]["name"] = "other"
        else:
            description["config"] = layers
        root.attrs["model_config"] = json.dumps(description)
    with pytest.raises(ValueError, match="inner is a model with layers of its own, and nothing tells their place"):
        beside().load_keras_weights(path)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_damaged_files_of_keras_are_refused(suffix, model, tmp_path, unchanged):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".h5":
        older(path, KERAS)
    else:
        names = {group: name for name, group in CLASSES.items()}
        classes = {"conv2d": "Conv2D", "batch_normalization": "BatchNormalization", "dense": "Dense"}
        archived(path, by_class(), names, classes)
    whole = path.read_bytes()
    for size in (0, 1, 8, 600, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"weights\{suffix} is cut off, damaged, or no file of Keras's weights"):
            model.load_keras_weights(path)
    with pytest.raises(FileNotFoundError):
        model.load_keras_weights(tmp_path / f"none{suffix}")


def test_damage_inside_an_archive_is_found(model, tmp_path, unchanged):
    path = tmp_path / "weights.keras"
    names = {group: name for name, group in CLASSES.items()}
    archived(path, by_class(), names, dict.fromkeys(CLASSES.values(), "Conv2D"))
    content = bytearray(path.read_bytes())
    place = content.index(KERAS["fc"]["kernel"].tobytes()) + 9
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.keras is cut off, damaged, .* Bad CRC-32"):
        model.load_keras_weights(path)


def test_nothing_is_taken_from_outside_of_a_file(model, tmp_path, unchanged):
    h5py = pytest.importorskip("h5py")
    older(tmp_path / "other.h5", KERAS)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(24))
    for kind in ("link", "external", "virtual"):
        older(path := tmp_path / f"{kind}.h5", KERAS)
        with h5py.File(path, "a") as root:
            del root["conv/conv/bias:0"]
            if kind == "link":
                root["conv/conv/bias:0"] = h5py.ExternalLink("other.h5", "conv/conv/bias:0")
            elif kind == "external":
                root["conv/conv"].create_dataset("bias:0", (3,), "f8", external=[(str(raw), 0, 24)])
            else:
                layout = h5py.VirtualLayout((3,), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "conv/conv/bias:0", (3,))
                root["conv/conv"].create_virtual_dataset("bias:0", layout)
        with pytest.raises(ValueError, match=f"{kind}.h5: conv/bias:0 must lie in the file itself"):
            model.load_keras_weights(path)


def test_shapes_are_looked_at_before_arrays_are_read(model, tmp_path, unchanged):
    h5py = pytest.importorskip("h5py")
    older(path := tmp_path / "weights.h5", KERAS)
    with h5py.File(path, "a") as root:
        del root["fc/fc/kernel:0"]
        root["fc/fc"].create_dataset("kernel:0", (2**40, 5), "f4", chunks=(1, 5))
    with pytest.raises(ValueError, match=r"fc/kernel must have shape \(12, 5\), got \(1099511627776, 5\)"):
        model.load_keras_weights(path)


def test_an_empty_h5_file_is_none_of_weights(model, tmp_path, unchanged):
    h5py = pytest.importorskip("h5py")
    h5py.File(tmp_path / "weights.h5", "w").close()
    with pytest.raises(ValueError, match="it holds no layers with weights"):
        model.load_keras_weights(tmp_path / "weights.h5")


def test_the_extra_is_named_where_h5py_is_not_there(model, tmp_path, monkeypatch, unchanged):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'fastcnn[h5]'")):
        model.load_keras_weights(tmp_path / "weights.h5")
