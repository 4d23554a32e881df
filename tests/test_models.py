"""The networks from the papers: as many parameters and operations as published, arguments, training, files."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest

import fastcnn
from fastcnn import models
from fastcnn.layers import Conv2D, Dense, DepthwiseConv2D, Dropout

# The side of a small image that every family takes, and each network's name, with its arguments.
SMALL = 32
NETWORKS = [
    ("lenet5", {}),
    ("vgg11", {"batch_norm": True}),
    ("cifar_vgg", {}),
    ("cifar_vgg", {"batch_norm": True}),
    ("resnet18", {}),
    ("resnet50", {}),
    ("resnet50", {"stride_in_1x1": True, "use_bias": True, "epsilon": 1e-3}),
    ("resnet20_cifar", {}),
    ("resnet18_cifar", {}),
    ("mobilenet_v2", {}),
    ("squeezenet1_1", {}),
    ("efficientnet_b0", {}),
    ("densenet121", {}),
]


def networks(*names: str) -> pytest.MarkDecorator:
    """Run a test for networks of these names, all where none is given."""
    chosen = [network for network in NETWORKS if not names or network[0] in names]
    ids = ["-".join([name, *options]) for name, options in chosen]
    return pytest.mark.parametrize(("name", "options"), chosen, ids=ids)


@pytest.fixture
def undrawn(monkeypatch):
    """Weights of zeros, which take neither time nor memory as long as nobody reads them."""

    def source(self, index, layer):
        return lambda name, shape, initializer: np.zeros(shape, layer.dtype)

    monkeypatch.setattr(fastcnn.Model, "_draw", source)


def trainable(model: fastcnn.Model) -> int:
    return sum(array.size for array in model.trainable_weights.values())


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("lenet5", {}, 61_706),
        ("vgg11", {}, 132_863_336),
        ("vgg11", {"batch_norm": True}, 132_868_840),
        ("vgg16", {}, 138_357_544),
        ("vgg16", {"batch_norm": True}, 138_365_992),
        ("vgg19", {}, 143_667_240),
        ("vgg19", {"batch_norm": True}, 143_678_248),
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
        # Keras counts the moving statistics too: 25,636,712, of which 53,120 are not trained.
        ("resnet50", {"stride_in_1x1": True, "use_bias": True}, 25_583_592),
        # Option A of the paper's shortcuts has 269,722 and 853,018; B adds two projections with their normalisation.
        ("resnet20_cifar", {}, 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ("resnet56_cifar", {}, 853_018 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ("resnet18_cifar", {}, 11_173_962),
        ("mobilenet_v2", {}, 3_504_872),
        ("squeezenet1_1", {}, 1_235_496),
        ("efficientnet_b0", {}, 5_288_548),
        ("densenet121", {}, 7_978_856),
    ],
)
def test_as_many_parameters_as_published(undrawn, name, options, count):
    assert trainable(getattr(models, name)(**options)) == count


def test_a_cifar_vgg_has_the_parameters_of_its_layers():
    pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    convolutions = sum((9 * c + 1) * k for c, k in pairs)
    assert trainable(models.cifar_vgg()) == convolutions + (4 * 4 * 256 + 1) * 512 + 513 * 10


@pytest.mark.parametrize(
    ("name", "options", "millions"),
    [
        ("vgg16", {}, 15_470),
        ("resnet18", {}, 1_814),
        ("resnet50", {}, 4_089),
        ("resnet50", {"stride_in_1x1": True}, 3_858),
        ("mobilenet_v2", {}, 301),
        ("squeezenet1_1", {}, 349),
        ("efficientnet_b0", {}, 386),
        ("densenet121", {}, 2_834),
    ],
)
def test_as_many_multiplications_and_additions_as_published(undrawn, name, options, millions):
    model = getattr(models, name)(**options)
    flops = model._flops()
    counted = (Conv2D, DepthwiseConv2D, Dense)
    total = sum(flops[call.target] for call in model._traced().calls if isinstance(call.layer, counted))
    assert round(total / 2e6) == millions


def shape_of(name: str) -> tuple[int, int, int]:
    """A small image, with the network's usual channels."""
    return (28, 28, 1) if name == "lenet5" else (SMALL, SMALL, 3)


def small(name: str, options: dict[str, object], **arguments: object) -> fastcnn.Model:
    return getattr(models, name)(**{"classes": 3, "input_shape": shape_of(name), "seed": 0} | options | arguments)


def test_every_network_is_tested():
    functions = {name for name in models.__all__ if "classes" in signature(getattr(models, name)).parameters}
    rest = functions - {"decode_predictions"} - {name for name, _ in NETWORKS}
    assert rest == {"vgg16", "vgg19", "resnet34", "resnet56_cifar"}


@networks()
def test_classes_and_input_shape_count(undrawn, name, options):
    height, width, channels = shape_of(name)
    model = small(name, options, classes=7, input_shape=[height, 2 * width, channels + 1])
    assert model.input_shape == (None, height, 2 * width, channels + 1)
    assert model.output_shape == (None, 7)


@pytest.mark.parametrize(
    ("name", "shape", "features"),
    [
        ("lenet5", (28, 28, 1), (5, 5, 16)),
        ("vgg11", (224, 224, 3), (7, 7, 512)),
        ("vgg16", (224, 224, 3), (7, 7, 512)),
        ("vgg19", (65, 95, 3), (2, 2, 512)),
        ("cifar_vgg", (32, 32, 3), (4, 4, 256)),
        ("resnet18", (224, 224, 3), (7, 7, 512)),
        ("resnet34", (33, 64, 3), (2, 2, 512)),
        ("resnet50", (224, 224, 3), (7, 7, 2048)),
        ("resnet20_cifar", (32, 32, 3), (8, 8, 64)),
        ("resnet56_cifar", (33, 32, 3), (9, 8, 64)),
        ("resnet18_cifar", (32, 32, 3), (4, 4, 512)),
        ("mobilenet_v2", (224, 224, 3), (7, 7, 1280)),
        ("squeezenet1_1", (224, 224, 3), (13, 13, 512)),
        # 97 pixels leave 48 after the convolution, and poolings that count what is left over 24, 12 and 6; 100 leave
        # 49, 24, 12 and 6.
        ("squeezenet1_1", (97, 100, 3), (6, 6, 512)),
        ("efficientnet_b0", (224, 224, 3), (7, 7, 1280)),
        ("densenet121", (224, 224, 3), (7, 7, 1024)),
        ("densenet121", (95, 64, 3), (3, 2, 1024)),
    ],
)
def test_without_a_top_the_features_are_the_result(undrawn, name, shape, features):
    model = getattr(models, name)(input_shape=shape, include_top=False)
    assert model.output_shape == (None, *features)
    assert not any(isinstance(layer, Dense) for layer in model.layers)


@networks()
def test_results_are_probabilities(name, options):
    scores = small(name, options).predict(np.random.default_rng(0).normal(size=(2, *shape_of(name))))
    assert scores.shape == (2, 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(scores) > 0


@networks("lenet5", "resnet20_cifar")
def test_seed_and_element_type_are_passed_on(name, options):
    first, same, other = (small(name, options, seed=seed, dtype="float64") for seed in (1, 1, 2))
    arrays = [model.weights["conv1/kernel"] for model in (first, same, other)]
    assert [array.dtype for array in arrays] == [np.float64] * 3
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], arrays[2])


@networks()
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": 0}, ValueError, "classes must be made of integers from 1 to .*, got 0"),
        ({"classes": "ten"}, TypeError, "classes must be made of integers, got 'ten'"),
        ({"input_shape": 224}, ValueError, r"input_shape must be \(height, width, channels\), got 224"),
        ({"input_shape": (224, 224)}, ValueError, r"input_shape must be \(height, width, .*, got \(224, 224\)"),
        ({"input_shape": (64, 0, 3)}, ValueError, r"input_shape must be made of .*, got \(64, 0, 3\)"),
        ({"input_shape": (64, 6.5, 3)}, TypeError, r"input_shape must be made of .*, got \(64, 6.5, 3\)"),
        ({"include_top": "yes"}, TypeError, "include_top must be True or False, got 'yes'"),
        ({"seed": -1}, ValueError, "seed must be in .*, got -1"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of float32, float64, got 'int8'"),
    ],
)
def test_arguments_that_do_not_fit(undrawn, name, options, arguments, error, message):
    with pytest.raises(error, match=message):
        small(name, options, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg11", {"batch_norm": 1}, "batch_norm must be True or False, got 1"),
        ("resnet50", {"stride_in_1x1": "keras"}, "stride_in_1x1 must be True or False, got 'keras'"),
        ("resnet50", {"use_bias": None}, "use_bias must be True or False, got None"),
        ("resnet50", {"epsilon": "small"}, "epsilon must be a number, got 'small'"),
    ],
)
def test_arguments_of_their_own(undrawn, name, arguments, message):
    with pytest.raises(TypeError, match=message):
        small(name, {}, **arguments)


@pytest.mark.parametrize(
    ("name", "side"), [("lenet5", 12), ("vgg16", 32), ("cifar_vgg", 8), ("squeezenet1_1", 17), ("densenet121", 29)]
)
def test_the_smallest_images(undrawn, name, side):
    assert small(name, {}, input_shape=(side, side, 3)).output_shape == (None, 3)
    for shape in [(side - 1, side, 3), (side, side - 1, 3)]:
        with pytest.raises(ValueError, match=f"input_shape must be images of at least {side} pixels a side, got .*"):
            small(name, {}, input_shape=shape)


@networks("resnet18", "resnet50", "resnet20_cifar", "mobilenet_v2", "efficientnet_b0")
def test_images_of_one_pixel_are_large_enough(undrawn, name, options):
    assert small(name, options, input_shape=(1, 1, 3)).output_shape == (None, 3)


@networks("lenet5", "resnet20_cifar")
def test_files_keep_names_and_results(tmp_path, name, options):
    model = small(name, options)
    model.save(tmp_path / "model.safetensors")
    same = fastcnn.load(tmp_path / "model.safetensors")
    x = np.random.default_rng(0).normal(size=(2, *shape_of(name)))
    assert list(same.weights) == list(model.weights)
    assert np.array_equal(same.predict(x), model.predict(x))


@networks()
def test_a_step_of_training_decreases_the_loss_by_what_the_gradient_says(name, options):
    model = small(name, options, dtype="float64")
    for layer in model.layers:
        if isinstance(layer, Dropout):
            layer.rate = 0.0
    x, y = np.random.default_rng(0).normal(size=(4, *shape_of(name))), np.array([0, 1, 2, 0])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with fastcnn.threads(1):
        loss, gradients = model.loss_and_gradients(x, y)
        # So short a step that the loss is straight: normalised over four samples, it is steep and bent.
        model.optimizer.learning_rate = 1e-4 * loss / sum((g * g).sum() for g in gradients.values())
        losses = [model.train_on_batch(x, y) for _ in range(2)]
    assert losses[0] == pytest.approx(loss)
    assert 0.9e-4 * loss < losses[0] - losses[1] < 1.1e-4 * loss


@pytest.mark.parametrize(
    ("name", "options", "some"),
    [
        ("lenet5", {}, {"conv1/kernel": (5, 5, 1, 6), "conv2/bias": (16,), "fc3/kernel": (84, 3)}),
        ("vgg11", {}, {"features.18/kernel": (3, 3, 512, 512), "classifier.6/bias": (3,)}),
        ("vgg16", {"batch_norm": True}, {"features.40/kernel": (3, 3, 512, 512), "features.41/gamma": (512,)}),
        ("resnet18", {}, {"layer4.0.downsample.0/kernel": (1, 1, 256, 512), "layer1.1.bn2/beta": (64,)}),
        ("resnet50", {}, {"layer1.0.downsample.1/gamma": (256,), "layer4.2.conv3/kernel": (1, 1, 512, 2048)}),
        ("resnet20_cifar", {}, {"layer1.0.short_cut.0/kernel": (1, 1, 16, 32), "layer2.2.bn2/gamma": (64,)}),
        (
            "mobilenet_v2",
            {},
            {
                "features.0.0/kernel": (3, 3, 3, 32),
                "features.1.conv.0.0/kernel": (3, 3, 32, 1),
                "features.1.conv.2/gamma": (16,),
                "features.17.conv.3/moving_mean": (320,),
                "features.18.1/gamma": (1280,),
                "classifier.1/kernel": (1280, 3),
            },
        ),
        (
            "squeezenet1_1",
            {},
            {
                "features.0/kernel": (3, 3, 3, 64),
                "features.12.expand3x3/bias": (256,),
                "classifier.1/kernel": (1, 1, 512, 3),
            },
        ),
        (
            "efficientnet_b0",
            {},
            {
                "features.1.0.block.0.0/kernel": (3, 3, 32, 1),
                "features.1.0.block.1.fc1/kernel": (1, 1, 32, 8),
                "features.1.0.block.2.1/gamma": (16,),
                "features.6.3.block.1.0/kernel": (5, 5, 1152, 1),
                "features.6.3.block.2.fc2/bias": (1152,),
                "features.7.0.block.3.1/beta": (320,),
                "features.8.0/kernel": (1, 1, 320, 1280),
                "classifier.1/bias": (3,),
            },
        ),
        (
            "densenet121",
            {},
            {
                "features.conv0/kernel": (7, 7, 3, 64),
                "features.norm0/gamma": (64,),
                "features.denseblock4.denselayer16.norm1/gamma": (992,),
                "features.denseblock3.denselayer24.conv2/kernel": (3, 3, 128, 32),
                "features.transition3.conv/kernel": (1, 1, 1024, 512),
                "features.norm5/moving_mean": (1024,),
                "classifier/kernel": (1024, 3),
            },
        ),
    ],
)
def test_weights_are_called_as_in_torchvision(undrawn, name, options, some):
    weights = small(name, options).weights
    assert {key: weights[key].shape for key in some} == some
