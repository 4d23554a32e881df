"""What is measured, each with a name: layers of real shapes from real networks, and whole networks.

A layer's name reads ``network kernel/stride channels-filters rows x columns n batch``, as in
``resnet50 3x3/2 128-128 56x56 n1``; it is how processes speak of a layer, and what ``--only``
searches. A network's name is that with its batch alone: ``resnet50 n16``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

FLOAT_BYTES = 4


class Case:
    """Something to be measured, in one or several passes."""

    @property
    def passes(self) -> tuple[str, ...]:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def group(self) -> str:
        """The group of cases in whose geometric mean this one is counted."""
        raise NotImplementedError

    def flops(self) -> float | None:
        """Return the additions and multiplications of a pass, unless bytes are what limits it."""
        return None

    def bytes(self, what: str) -> float | None:
        """Return the bytes that a pass moves at the least, where they may be what limits it."""
        return None


@dataclass(frozen=True)
class Conv(Case):
    """A square convolution without bias on square images; padding in pixels on every side.

    A depthwise one has as many groups as channels and filters.
    """

    network: str
    kernel: int
    channels: int
    filters: int
    size: int
    padding: int
    stride: int = 1
    batch: int = 1
    groups: int = 1
    dilation: int = 1

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes; inference, with filters that were prepared before, where Winograd's algorithm is at stake.

        Both gradients are asked for at once, as training does, where they come from one pass over memory.
        """
        if self.depthwise:
            return "forward", "gradients"
        prepared = ("inference",) if self.group == "3x3" and self.batch == 1 else ()
        return ("forward", *prepared, "data", "filter")

    @property
    def name(self) -> str:
        channels = f"{self.channels}-{self.filters}"
        if self.groups > 1:
            channels = f"{self.channels} " + ("depthwise" if self.depthwise else f"in {self.groups}")
        if self.dilation > 1:
            channels += f" dilated {self.dilation}"
        return f"{self.network} {_window(self.kernel, self.stride)} {channels} {self.size}x{self.size} n{self.batch}"

    @property
    def group(self) -> str:
        if self.depthwise:
            return "depthwise"
        if self.groups > 1:
            return "grouped"
        if self.dilation > 1:
            return "dilated"
        if self.kernel == 1:
            return "1x1"
        if self.kernel == 3 and self.stride == 1 and self.channels >= 32:
            return "3x3"
        return "first, strided, 5x5"

    @property
    def output_size(self) -> int:
        span = (self.kernel - 1) * self.dilation + 1
        return (self.size + 2 * self.padding - span) // self.stride + 1

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels == self.filters > 1

    def flops(self) -> float | None:
        if self.depthwise:
            return None
        # The same for all three passes, and always those of the direct method.
        outputs = self.batch * self.output_size**2 * self.filters
        return 2.0 * outputs * self.kernel**2 * self.channels / self.groups

    def bytes(self, what: str) -> float | None:
        if not self.depthwise:
            return None
        # The gradients read the images and write theirs.
        images = 2 if what == "gradients" else 1
        return float(FLOAT_BYTES * self.batch * self.channels * (images * self.size**2 + self.output_size**2))


@dataclass(frozen=True)
class Pool(Case):
    """Max or average pooling with a square window on square images, as in training: a maximum keeps where it was."""

    network: str
    kind: str
    window: int
    channels: int
    size: int
    stride: int
    padding: int = 0
    batch: int = 1
    passes = ("forward", "data")
    group = "pooling"

    @property
    def name(self) -> str:
        return (
            f"{self.network} {self.kind} {_window(self.window, self.stride)} {self.channels} "
            f"{self.size}x{self.size} n{self.batch}"
        )

    @property
    def output_size(self) -> int:
        return (self.size + 2 * self.padding - self.window) // self.stride + 1

    def bytes(self, what: str) -> float:
        inputs = self.batch * self.channels * self.size**2
        outputs = self.batch * self.channels * self.output_size**2
        argmax = outputs if self.kind == "max" else 0  # a byte each
        return float(FLOAT_BYTES * (inputs + outputs) + argmax)


@dataclass(frozen=True)
class Norm(Case):
    """Batch normalisation in training and a ReLU behind it, on square images.

    Forward takes the batch's mean and variance too; data gives the gradients of the scale and the offset as well.
    """

    network: str
    channels: int
    size: int
    batch: int
    passes = ("forward", "data")
    group = "batch norm + relu"

    @property
    def name(self) -> str:
        return f"{self.network} norm {self.channels} {self.size}x{self.size} n{self.batch}"

    def bytes(self, what: str) -> float:
        # Once for the statistics or sums, once for the result: (x, x, y), and (x, g, x, g, dx).
        return float(FLOAT_BYTES * (5 if what == "data" else 3) * self.batch * self.channels * self.size**2)


@dataclass(frozen=True)
class Dense(Case):
    """A dense layer without bias: x @ kernel, grad @ kernel.T and x.T @ grad are its passes."""

    rows: int
    inputs: int
    units: int
    passes = ("forward", "data", "filter")

    @property
    def name(self) -> str:
        return f"dense {self.inputs}-{self.units} n{self.rows}"

    @property
    def group(self) -> str:
        if self.rows == self.inputs == self.units:
            return "matmul, square"
        return "matmul, n <= 16" if self.rows <= 16 else "matmul, batches"

    def flops(self) -> float:
        return 2.0 * self.rows * self.inputs * self.units

    def bytes(self, what: str) -> float:
        # Of the three matrices each pass reads two and writes the other.
        return float(FLOAT_BYTES * (self.rows * (self.inputs + self.units) + self.inputs * self.units))


@dataclass(frozen=True)
class Activation(Case):
    """An activation of square images, or of rows, as softmax is: images of one pixel."""

    network: str
    kind: str
    channels: int
    size: int
    batch: int
    passes = ("forward", "data")
    group = "activations"

    @property
    def name(self) -> str:
        return f"{self.network} {self.kind} {self.channels} {self.size}x{self.size} n{self.batch}"

    def bytes(self, what: str) -> float:
        # (x, y), and (grad, x or y, dx).
        return float(FLOAT_BYTES * (3 if what == "data" else 2) * self.batch * self.channels * self.size**2)


@dataclass(frozen=True)
class Optimizer(Case):
    """A step over the filters of some convolutions, all in one call."""

    network: str
    kind: str
    passes = ("update",)
    group = "optimisers"

    @property
    def name(self) -> str:
        return f"{self.network} {self.kind} step"

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        layers = (case for case in CONVS if case.network == self.network)
        return list(dict.fromkeys((case.kernel, case.kernel, case.channels, case.filters) for case in layers))

    def bytes(self, what: str) -> float:
        # All are read, all but the gradients are written: (p, g), (p, g, v), (p, g, m, v).
        arrays = {"sgd": 3, "momentum": 5, "adam": 7}[self.kind]
        return float(FLOAT_BYTES * arrays * sum(math.prod(shape) for shape in self.shapes))


@dataclass(frozen=True)
class Images:
    """What a network takes, square images, and its number of classes; how many images its training steps have."""

    size: int
    channels: int
    classes: int
    training_batch: int


NETWORKS = {
    "lenet5": Images(28, 1, 10, training_batch=64),
    "small": Images(32, 3, 10, training_batch=64),
    "cifar-vgg": Images(32, 3, 10, training_batch=64),
    "cifar-resnet18": Images(32, 3, 10, training_batch=64),
    "resnet18": Images(224, 3, 1000, training_batch=16),
    "resnet50": Images(224, 3, 1000, training_batch=8),
    "vgg16": Images(224, 3, 1000, training_batch=4),
    "mobilenet2": Images(224, 3, 1000, training_batch=16),
}


@dataclass(frozen=True)
class Network(Case):
    """A whole network: the prediction of a batch, or a training step with plain SGD and cross-entropy."""

    network: str
    batch: int
    passes = ("predict", "train")
    group = "networks"

    @property
    def images(self) -> Images:
        return NETWORKS[self.network]

    @property
    def name(self) -> str:
        return f"{self.network} n{self.batch}"


def _window(size: int, stride: int) -> str:
    return f"{size}x{size}" + (f"/{stride}" if stride > 1 else "")


def _lenet() -> Iterator[Conv]:
    for batch in (64, 1):
        yield Conv("lenet5", 5, 1, 6, size=28, padding=2, batch=batch)
        yield Conv("lenet5", 5, 6, 16, size=14, padding=0, batch=batch)


def _fashion() -> Iterator[Conv]:
    """The two layers of a usual network for images of clothes."""
    yield Conv("fashion", 3, 1, 32, 28, padding=1, batch=64)
    yield Conv("fashion", 3, 32, 64, 14, padding=1, batch=64)


def _cifar() -> Iterator[Conv]:
    pairs = ((3, 64, 32), (64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8))
    for channels, filters, size in pairs:
        yield Conv("cifar", 3, channels, filters, size, padding=1, batch=64)


VGG16 = (
    *((3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56)),
    *((256, 256, 56), (256, 512, 28), (512, 512, 28), (512, 512, 14)),
)

# Of the version that strides in the 3x3: size of the filters, channels, filters, size of the image, stride.
RESNET50 = (
    (7, 3, 64, 224, 2),
    *((1, 64, 64, 56, 1), (3, 64, 64, 56, 1), (1, 64, 256, 56, 1), (1, 256, 64, 56, 1)),
    *((1, 256, 128, 56, 1), (3, 128, 128, 56, 2), (1, 256, 512, 56, 2)),
    *((1, 128, 512, 28, 1), (1, 512, 128, 28, 1), (3, 128, 128, 28, 1)),
    *((1, 512, 256, 28, 1), (3, 256, 256, 28, 2), (1, 512, 1024, 28, 2)),
    *((1, 256, 1024, 14, 1), (1, 1024, 256, 14, 1), (3, 256, 256, 14, 1)),
    *((1, 1024, 512, 14, 1), (3, 512, 512, 14, 2), (1, 1024, 2048, 14, 2)),
    *((1, 512, 2048, 7, 1), (1, 2048, 512, 7, 1), (3, 512, 512, 7, 1)),
)

# What ResNet-50 does not have: the layers that halve the image, by channels and size.
RESNET18 = ((64, 56), (128, 28), (256, 14))

# Depthwise layers by channels, size, stride; and the products before and after them.
MOBILENET2 = (
    *((32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2)),
    *((384, 14, 1), (576, 14, 1), (576, 14, 2), (960, 7, 1)),
)
MOBILENET2_PRODUCTS = (
    *((32, 16, 112), (16, 96, 112), (96, 24, 56), (24, 144, 56), (144, 24, 56), (144, 32, 28), (32, 192, 28)),
    *((192, 32, 28), (192, 64, 14), (64, 384, 14), (384, 64, 14), (384, 96, 14), (96, 576, 14), (576, 96, 14)),
    *((576, 160, 7), (160, 960, 7), (960, 160, 7), (960, 320, 7), (320, 1280, 7)),
)

# EfficientNet-B0's depthwise layers of 5x5.
EFFICIENTNET = ((144, 56, 2), (240, 28, 1), (480, 14, 1), (672, 14, 1), (672, 14, 2), (1152, 7, 1))


def _vgg16(batch: int) -> Iterator[Conv]:
    for channels, filters, size in VGG16:
        yield Conv("vgg16", 3, channels, filters, size, padding=1, batch=batch)


def _resnet50(batch: int) -> Iterator[Conv]:
    for kernel, channels, filters, size, stride in RESNET50:
        yield Conv("resnet50", kernel, channels, filters, size, kernel // 2, stride, batch)


def _resnet18(batch: int) -> Iterator[Conv]:
    for channels, size in RESNET18:
        yield Conv("resnet18", 3, channels, 2 * channels, size, padding=1, stride=2, batch=batch)
        yield Conv("resnet18", 1, channels, 2 * channels, size, padding=0, stride=2, batch=batch)
    if batch > 1:
        yield Conv("resnet18", 3, 128, 128, 28, padding=1, batch=batch)


def _mobilenet_v2(batch: int) -> Iterator[Conv]:
    for channels, size, stride in MOBILENET2:
        yield Conv("mobilenet2", 3, channels, channels, size, 1, stride, batch, groups=channels)
    yield Conv("mobilenet2", 3, 3, 32, 224, padding=1, stride=2, batch=batch)
    for channels, filters, size in MOBILENET2_PRODUCTS:
        yield Conv("mobilenet2", 1, channels, filters, size, padding=0, batch=batch)


def _efficientnet(batch: int) -> Iterator[Conv]:
    for channels, size, stride in EFFICIENTNET:
        yield Conv("efficientnet", 5, channels, channels, size, 2, stride, batch, groups=channels)


def _deeplab(batch: int) -> Iterator[Conv]:
    """Dilated layers, of a ResNet that keeps images of 28x28 to its end."""
    for channels, dilation in ((256, 2), (512, 4)):
        yield Conv("deeplab", 3, channels, channels, 28, padding=dilation, batch=batch, dilation=dilation)


def _resnext50(batch: int) -> Iterator[Conv]:
    """The 3x3 layers of ResNeXt-50 (32x4d), in 32 groups of 4 to 32 channels."""
    for channels, size in ((128, 56), (256, 28), (512, 14), (1024, 7)):
        yield Conv("resnext50", 3, channels, channels, size, padding=1, batch=batch, groups=32)


NETWORKS_BY_BATCH = (_vgg16, _resnet18, _resnet50, _mobilenet_v2, _efficientnet, _resnext50, _deeplab)

CONVS = (
    *_lenet(),
    *_fashion(),
    *_cifar(),
    *(conv for network in NETWORKS_BY_BATCH for batch in (1, 16) for conv in network(batch)),
)

POOLS = (
    Pool("lenet5", "max", 2, 6, 28, stride=2, batch=64),
    Pool("cifar", "max", 2, 64, 32, stride=2, batch=64),
    Pool("vgg16", "max", 2, 64, 224, stride=2),
    Pool("resnet50", "max", 3, 64, 112, stride=2, padding=1),
    Pool("resnet50", "avg", 7, 2048, 7, stride=7),
    Pool("cifar", "avg", 2, 64, 32, stride=2, batch=64),
)

NORMS = (
    Norm("cifar", 64, 32, batch=64),
    Norm("cifar", 256, 8, batch=64),
    Norm("resnet50", 64, 112, batch=1),
    Norm("resnet50", 64, 56, batch=16),
    Norm("resnet50", 256, 56, batch=16),
    Norm("resnet50", 256, 14, batch=16),
    Norm("resnet50", 2048, 7, batch=16),
)

# The small ones are LeNet-5's; the rows straddle the places where the method changes.
DENSES = (
    *(Dense(n, n, n) for n in (512, 1024, 2048)),
    *(Dense(rows, 1024, 1024) for rows in (1, 2, 4, 8, 16)),
    *(Dense(rows, 4096, 4096) for rows in (1, 16)),
    *(Dense(rows, 1024, 1024) for rows in (64, 128, 192)),
    *(Dense(rows, *pair) for rows in (1, 64) for pair in ((400, 120), (120, 84), (84, 10))),
)

ACTIVATIONS = (
    *(Activation("cifar", kind, 64, 32, batch=64) for kind in ("relu", "sigmoid", "silu", "gelu")),
    Activation("resnet50", "softmax", 1000, 1, batch=64),
)

OPTIMIZERS = tuple(Optimizer(network, kind) for network in ("cifar", "vgg16") for kind in ("sgd", "momentum", "adam"))

CASES: tuple[Case, ...] = (*CONVS, *POOLS, *NORMS, *DENSES, *ACTIVATIONS, *OPTIMIZERS)

# Of VGG-16 and the ResNets a quick report has the layers at batch 1, and these at batch 16; of MobileNetV2 these
# products, of one image, and eight depthwise layers of both strides.
QUICK_AT_16 = {
    "vgg16 3x3 512-512 14x14 n16",
    *("resnet18 3x3 128-128 28x28 n16", "resnet18 3x3/2 64-128 56x56 n16"),
    *("resnet50 7x7/2 3-64 224x224 n16", "resnet50 3x3 64-64 56x56 n16", "resnet50 1x1 256-64 56x56 n16"),
    *("resnet50 3x3/2 128-128 56x56 n16", "resnet50 3x3 256-256 14x14 n16", "resnet50 1x1 1024-256 14x14 n16"),
    *("resnet50 1x1/2 1024-2048 14x14 n16", "resnet50 3x3 512-512 7x7 n16"),
}
QUICK_PRODUCTS = {(96, 24, 56), (144, 32, 28), (64, 384, 14), (160, 960, 7)}


def _is_quick(case: Case) -> bool:
    if not isinstance(case, Conv) or case.network in ("lenet5", "cifar", "resnext50"):
        return True
    if case.network == "mobilenet2" and case.depthwise:
        return (case.channels, case.size, case.stride) not in ((192, 28, 2), (576, 14, 1))
    if case.network == "mobilenet2":
        return case.batch == 1 and (case.channels, case.filters, case.size) in QUICK_PRODUCTS
    if case.network in ("vgg16", "resnet18", "resnet50"):
        return case.batch == 1 or case.name in QUICK_AT_16
    return False


#: What a quick report has: it takes minutes.
QUICK = tuple(case for case in CASES if _is_quick(case))

_BY_NAME = {case.name: case for case in CASES}


def named(name: str) -> Case:
    """Return the layer or the network of this full name."""
    network, _, batch = name.rpartition(" n")
    return Network(network, int(batch)) if network in NETWORKS else _BY_NAME[name]


def passes(cases: Iterable[Case]) -> list[tuple[Case, str]]:
    """Return every pass of every case."""
    return [(case, what) for case in cases for what in case.passes]


def select(only: str, quick: bool = False) -> list[Case]:
    """Return the layers in whose name every word of only begins a word, its last number whole: "n1" is not "n16".

    Where only is empty, all of them, or those for a quick report.
    """
    if quick and not only:
        return list(QUICK)
    wanted = [rf"(?<!\S){re.escape(word)}" + (r"(?!\d)" if word[-1].isdigit() else "") for word in only.split()]
    return [case for case in CASES if all(re.search(pattern, case.name) for pattern in wanted)]
