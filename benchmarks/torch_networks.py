"""The networks of fastcnn.models in PyTorch, written from the papers and with torchvision's names of modules.

They give logits. What can be done in place is, as in torchvision: it takes less time and memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn


def conv_norm(
    channels: int,
    filters: int,
    size: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    epsilon: float = 1e-5,
) -> tuple[Any, Any]:
    conv = nn.Conv2d(channels, filters, size, stride, size // 2, groups=groups, bias=bias)
    return conv, nn.BatchNorm2d(filters, epsilon)


class Block(nn.Module):  # type: ignore[misc,unused-ignore]
    """Convolutions, with ReLUs between, whose result is added to what they are made of."""

    def __init__(
        self, channels: int, shapes: Sequence[tuple[int, int, int]], shortcut: str = "downsample", **options: Any
    ) -> None:
        super().__init__()
        width, stride = channels, math.prod(s for _, _, s in shapes)
        self.count, self.shortcut = len(shapes), shortcut
        for number, (filters, size, step) in enumerate(shapes, 1):
            conv, norm = conv_norm(width, filters, size, step, **options)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", norm)
            width = filters
        if stride > 1 or width != channels:
            self.add_module(shortcut, nn.Sequential(*conv_norm(channels, width, 1, stride, **options)))

    def forward(self, x: Any) -> Any:
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = y if number == self.count else y.relu_()
        y += getattr(self, self.shortcut)(x) if hasattr(self, self.shortcut) else x
        return y.relu_()


class ResNet(nn.Module):  # type: ignore[misc,unused-ignore]
    """A stem, stages of blocks, a mean, a dense layer."""

    def __init__(
        self,
        counts: Sequence[int],
        width: int = 64,
        first: int = 1,
        classes: int = 10,
        bottleneck: str | None = None,
        large: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        stem = {key: value for key, value in options.items() if key != "shortcut"}
        self.conv1, self.bn1 = conv_norm(3, width, *((7, 2) if large else (3, 1)), **stem)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.names, channels = [f"layer{first + stage}" for stage in range(len(counts))], width
        for stage, (name, count) in enumerate(zip(self.names, counts, strict=True)):
            blocks = []
            for index in range(count):
                filters, stride = width << stage, 2 if stage and not index else 1
                if bottleneck:
                    in_1x1, in_3x3 = (stride, 1) if bottleneck == "1x1" else (1, stride)
                    shapes = [(filters, 1, in_1x1), (filters, 3, in_3x3), (4 * filters, 1, 1)]
                else:
                    shapes = [(filters, 3, stride), (filters, 3, 1)]
                blocks.append(Block(channels, shapes, **options))
                channels = shapes[-1][0]
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def features(self, x: Any) -> Any:
        x = self.pool(self.bn1(self.conv1(x)).relu_())
        for name in self.names:
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Any) -> Any:
        return self.fc(self.features(x).mean((2, 3)))


class Inverted(nn.Module):  # type: ignore[misc,unused-ignore]
    """A block of MobileNetV2: wider, each channel by itself, narrower."""

    def __init__(self, channels: int, filters: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        wider = [nn.Sequential(*conv_norm(channels, width, 1), nn.ReLU6(True))] if expansion > 1 else []
        apart = nn.Sequential(*conv_norm(width, width, 3, stride, groups=width), nn.ReLU6(True))
        self.conv = nn.Sequential(*wider, apart, *conv_norm(width, filters, 1))
        self.adds = stride == 1 and channels == filters

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers, channels = [nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6(True))], 32
        for filters, count, stride in [
            (16, 1, 1),
            (24, 2, 2),
            (32, 3, 2),
            (64, 4, 2),
            (96, 3, 1),
            (160, 3, 2),
            (320, 1, 1),
        ]:
            for index in range(count):
                layers.append(Inverted(channels, filters, 1 if index else stride, 1 if filters == 16 else 6))
                channels = filters
        layers.append(nn.Sequential(*conv_norm(320, 1280, 1), nn.ReLU6(True)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


class VGG(nn.Module):  # type: ignore[misc,unused-ignore]
    """Stages of 3x3 convolutions, poolings, dense layers of so many units."""

    def __init__(
        self,
        counts: Sequence[int],
        pixels: int,
        units: Sequence[int] = (4096, 4096),
        batch_norm: bool = False,
        classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[Any] = []
        channels = 3
        for stage, count in enumerate(counts):
            for _ in range(count):
                filters = min(64 << stage, 512)
                conv, norm = conv_norm(channels, filters, 3, bias=True)
                layers += [conv, norm, nn.ReLU(True)] if batch_norm else [conv, nn.ReLU(True)]
                channels = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        head: list[Any] = []
        size = channels * (pixels >> len(counts)) ** 2
        for count in units:
            head += [nn.Linear(size, count), nn.ReLU(True), nn.Dropout()]
            size = count
        self.classifier = nn.Sequential(*head, nn.Linear(size, classes))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).flatten(1))


class LeNet5(nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def features(self, x: Any) -> Any:
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(conv(x).relu_(), 2)
        return x

    def forward(self, x: Any) -> Any:
        return self.fc3(self.fc2(self.fc1(self.features(x).flatten(1)).relu_()).relu_())


class Small(nn.Module):  # type: ignore[misc,unused-ignore]
    """Two convolutions and two dense layers, for images of 32x32x3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(64 * 8 * 8, 64), nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(conv(x).relu_(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu_())


# Those that are measured.
NETWORKS: dict[str, Callable[[], Any]] = {
    "lenet5": LeNet5,
    "small": Small,
    "cifar-vgg": partial(VGG, [2, 2, 3], 32, [512]),
    "cifar-resnet18": partial(ResNet, [2, 2, 2, 2]),
    "resnet18": partial(ResNet, [2, 2, 2, 2], large=True, classes=1000),
    "resnet50": partial(ResNet, [3, 4, 6, 3], bottleneck="3x3", large=True, classes=1000),
    "vgg16": partial(VGG, [2, 2, 3, 3, 3], 224, classes=1000),
    "mobilenet2": partial(MobileNetV2, 1000),
}


def randomize(network: Any) -> None:
    """Give a network weights with which the numbers stay of order one, and statistics that are none of a start's."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.0),
                (module.bias, -0.1, 0.1),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.8, 1.2),
            ):
                nn.init.uniform_(tensor, low, high)


def without_dropout(network: Any) -> Any:
    """Return the network with all of its dropout turned off: no other library would draw its masks."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network
