"""Networks of fastcnn.models with PyTorch's weights give what PyTorch does; skipped where that is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from fastcnn import models

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from benchmarks import torch_networks as theirs  # noqa: E402  # it needs PyTorch

KERAS = {"use_bias": True, "epsilon": 1e-3, "stride_in_1x1": True}
# Ours, theirs, and the pixels of an image. Odd sizes, which poolings and strides cut off somewhere, where there is no
# dense layer that wants a certain one.
NETWORKS = {
    "lenet5": (models.lenet5, {}, theirs.LeNet5, 28),
    "cifar_vgg": (models.cifar_vgg, {}, lambda: theirs.VGG([2, 2, 3], 32, [512]), 32),
    "cifar_vgg, norm": (
        models.cifar_vgg,
        {"batch_norm": True},
        lambda: theirs.VGG([2, 2, 3], 32, [512], batch_norm=True),
        32,
    ),
    "vgg11": (models.vgg11, {}, lambda: theirs.VGG([1, 1, 2, 2, 2], 64), 64),
    "vgg16, norm": (models.vgg16, {"batch_norm": True}, lambda: theirs.VGG([2, 2, 3, 3, 3], 64, batch_norm=True), 64),
    "vgg19": (models.vgg19, {}, lambda: theirs.VGG([2, 2, 4, 4, 4], 64), 64),
    "resnet18": (models.resnet18, {}, lambda: theirs.ResNet([2, 2, 2, 2], large=True), 97),
    "resnet34": (models.resnet34, {}, lambda: theirs.ResNet([3, 4, 6, 3], large=True), 97),
    "resnet50": (models.resnet50, {}, lambda: theirs.ResNet([3, 4, 6, 3], bottleneck="3x3", large=True), 97),
    "resnet50 of Keras": (
        models.resnet50,
        KERAS,
        lambda: theirs.ResNet([3, 4, 6, 3], bottleneck="1x1", large=True, bias=True, epsilon=1e-3),
        96,
    ),
    "resnet18_cifar": (models.resnet18_cifar, {}, lambda: theirs.ResNet([2, 2, 2, 2]), 33),
    "resnet20_cifar": (models.resnet20_cifar, {}, lambda: theirs.ResNet([3] * 3, 16, 0, shortcut="short_cut"), 33),
    "resnet56_cifar": (models.resnet56_cifar, {}, lambda: theirs.ResNet([9] * 3, 16, 0, shortcut="short_cut"), 32),
    "mobilenet_v2": (models.mobilenet_v2, {}, theirs.MobileNetV2, 97),
}
TORCHVISION = {
    "vgg11": (models.vgg11, {}, 64),
    "vgg16_bn": (models.vgg16, {"batch_norm": True}, 64),
    "vgg19": (models.vgg19, {}, 64),
    "resnet18": (models.resnet18, {}, 97),
    "resnet34": (models.resnet34, {}, 97),
    "resnet50": (models.resnet50, {}, 97),
    "mobilenet_v2": (models.mobilenet_v2, {}, 97),
    "squeezenet1_1": (models.squeezenet1_1, {}, 97),
    "efficientnet_b0": (models.efficientnet_b0, {}, 97),
    "densenet121": (models.densenet121, {}, 97),
}
HEADS = ("fc", "classifier")


def randomised(network, x):
    """Give a network weights, and statistics near those of x, with which numbers keep their size on their way."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0
    network.train()(x)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.2 * torch.randn(buffer.shape)
        elif name.endswith("running_var"):
            buffer *= 0.7 + 0.6 * torch.rand(buffer.shape)
    network.eval()
    # So that the probabilities of classes are neither all alike nor nothing but zeros and ones.
    last = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)][-1]
    spread = network(x).std()
    last.weight /= spread
    last.bias /= spread
    return network


def assert_same(found, wanted):
    """Compare with PyTorch's float64: float32 by the root mean square of the error, in units of that of the result."""
    wanted = wanted.numpy()
    wanted = wanted.transpose(0, 2, 3, 1) if wanted.ndim == 4 else wanted
    error = np.abs(found - wanted) / np.sqrt(np.mean(wanted**2))
    if found.dtype == np.float64:
        assert error.max() < 1e-10
    assert np.sqrt(np.mean(error**2)) < 1e-4


@torch.no_grad()
def compare(build, options, network, pixels):
    torch.manual_seed(0)
    channels = next(network.parameters()).shape[1]
    x = torch.randn(3, channels, pixels, pixels)
    network = randomised(network, x).double()
    images = x.numpy().transpose(0, 2, 3, 1)
    state = network.state_dict()
    below_top = {name: array for name, array in state.items() if not name.startswith(HEADS)}
    for dtype in ("float32", "float64"):
        options = options | {"input_shape": images.shape[1:], "dtype": dtype}
        whole = build(classes=10, **options)
        whole.load_torch_state_dict(state)
        assert_same(whole.predict(images), network(x.double()).softmax(1))
        if type(network).__module__ == theirs.__name__:  # torchvision's are cut elsewhere
            features = build(include_top=False, **options)
            features.load_torch_state_dict(below_top)
            assert_same(features.predict(images), network.features(x.double()))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_random_weights_give_what_pytorch_does(name):
    build, options, network, pixels = NETWORKS[name]
    compare(build, options, network(), pixels)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_with_random_weights_give_what_torchvision_does(name):
    networks = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    build, options, pixels = TORCHVISION[name]
    network = getattr(networks, name)(num_classes=10)
    if "vgg" in name:  # torchvision pools to 7x7, which needs images of 224 pixels to be nothing
        network.avgpool = torch.nn.Identity()
        network.classifier[0] = torch.nn.Linear(512 * (pixels // 32) ** 2, 4096)
    compare(build, options, network, pixels)
