"""The networks of fastcnn.models in PyTorch, written from the papers and with torchvision's names of modules."""

from __future__ import annotations

import math

from torch import nn


def conv_norm(channels, filters, size, stride=1, groups=1, bias=False, epsilon=1e-5):
    conv = nn.Conv2d(channels, filters, size, stride, size // 2, groups=groups, bias=bias)
    return conv, nn.BatchNorm2d(filters, epsilon)


class Block(nn.Module):
    """Convolutions, with ReLUs between, whose result is added to what they are made of."""

    def __init__(self, channels, shapes, shortcut="downsample", **options):
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

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = y if number == self.count else y.relu()
        return (y + (getattr(self, self.shortcut)(x) if hasattr(self, self.shortcut) else x)).relu()


class ResNet(nn.Module):
    """A stem, stages of blocks, a mean, a dense layer."""

    def __init__(self, counts, width=64, first=1, classes=10, bottleneck=None, large=False, **options):
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

    def features(self, x):
        x = self.pool(self.bn1(self.conv1(x)).relu())
        for name in self.names:
            x = getattr(self, name)(x)
        return x

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class Inverted(nn.Module):
    """A block of MobileNetV2: wider, each channel by itself, narrower."""

    def __init__(self, channels, filters, stride, expansion):
        super().__init__()
        width = channels * expansion
        wider = [nn.Sequential(*conv_norm(channels, width, 1), nn.ReLU6())] if expansion > 1 else []
        apart = nn.Sequential(*conv_norm(width, width, 3, stride, groups=width), nn.ReLU6())
        self.conv = nn.Sequential(*wider, apart, *conv_norm(width, filters, 1))
        self.adds = stride == 1 and channels == filters

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        layers, channels = [nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())], 32
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
        layers.append(nn.Sequential(*conv_norm(320, 1280, 1), nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class VGG(nn.Module):
    """Stages of 3x3 convolutions, poolings, dense layers of so many units."""

    def __init__(self, counts, pixels, units=(4096, 4096), batch_norm=False, classes=10):
        super().__init__()
        layers, channels = [], 3
        for stage, count in enumerate(counts):
            for _ in range(count):
                filters = min(64 << stage, 512)
                conv, norm = conv_norm(channels, filters, 3, bias=True)
                layers += [conv, norm, nn.ReLU()] if batch_norm else [conv, nn.ReLU()]
                channels = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        head, size = [], channels * (pixels >> len(counts)) ** 2
        for count in units:
            head += [nn.Linear(size, count), nn.ReLU(), nn.Dropout()]
            size = count
        self.classifier = nn.Sequential(*head, nn.Linear(size, classes))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class LeNet5(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def features(self, x):
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(conv(x).relu(), 2)
        return x

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(self.features(x).flatten(1)).relu()).relu())
