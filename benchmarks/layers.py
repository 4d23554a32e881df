"""What is measured, each with a name: layers of real shapes from real networks, and whole networks.

A layer's name reads ``network kernel/stride channels-filters rows x columns n batch``, as in
``resnet50 3x3/2 128-128 56x56 n1``; it is how processes speak of a layer, and what ``--only``
searches. A network's name is that with its batch alone: ``resnet50 n16``.
"""

from __future__ import annotations

import math
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

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes; inference, with filters that were prepared before, where Winograd's algorithm is at stake."""
        prepared = ("inference",) if self.group == "3x3" and self.batch == 1 else ()
        return ("forward", *prepared, "data", "filter")

    @property
    def name(self) -> str:
        channels = f"{self.channels}-{self.filters}"
        if self.groups > 1:
            channels = f"{self.channels} " + ("depthwise" if self.depthwise else f"in {self.groups}")
        return f"{self.network} {_window(self.kernel, self.stride)} {channels} {self.size}x{self.size} n{self.batch}"

    @property
    def group(self) -> str:
        if self.depthwise:
            return "depthwise"
        if self.groups > 1:
            return "grouped"
        if self.kernel == 1:
            return "1x1"
        if self.kernel == 3 and self.stride == 1 and self.channels >= 32:
            return "3x3"
        return "first, strided, 5x5"

    @property
    def output_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

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
        return float(FLOAT_BYTES * self.batch * self.channels * (self.size**2 + self.output_size**2))


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


def _cifar() -> Iterator[Conv]:
    pairs = ((3, 64, 32), (64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8))
    for channels, filters, size in pairs:
        yield Conv("cifar", 3, channels, filters, size, padding=1, batch=64)


def _vgg16() -> Iterator[Conv]:
    pairs = (
        *((3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56)),
        *((256, 256, 56), (256, 512, 28), (512, 512, 28), (512, 512, 14)),
    )
    for channels, filters, size in pairs:
        yield Conv("vgg16", 3, channels, filters, size, padding=1)
    yield Conv("vgg16", 3, 512, 512, 14, padding=1, batch=16)


def _resnet50() -> Iterator[Conv]:
    """Every shape of the version that strides in the 3x3, and some of them at batch 16."""

    def conv(kernel: int, channels: int, filters: int, size: int, stride: int, batch: int) -> Conv:
        return Conv("resnet50", kernel, channels, filters, size, kernel // 2, stride, batch)

    once = (
        (7, 3, 64, 224, 2),
        *((1, 64, 64, 56, 1), (3, 64, 64, 56, 1), (1, 64, 256, 56, 1), (1, 256, 64, 56, 1)),
        *((1, 256, 128, 56, 1), (3, 128, 128, 56, 2), (1, 256, 512, 56, 2)),
        *((1, 128, 512, 28, 1), (1, 512, 128, 28, 1), (3, 128, 128, 28, 1)),
        *((1, 512, 256, 28, 1), (3, 256, 256, 28, 2), (1, 512, 1024, 28, 2)),
        *((1, 256, 1024, 14, 1), (1, 1024, 256, 14, 1), (3, 256, 256, 14, 1)),
        *((1, 1024, 512, 14, 1), (3, 512, 512, 14, 2), (1, 1024, 2048, 14, 2)),
        *((1, 512, 2048, 7, 1), (1, 2048, 512, 7, 1), (3, 512, 512, 7, 1)),
    )
    in_batches = (
        *((7, 3, 64, 224, 2), (3, 64, 64, 56, 1), (1, 256, 64, 56, 1), (3, 128, 128, 56, 2)),
        *((3, 256, 256, 14, 1), (1, 1024, 256, 14, 1), (1, 1024, 2048, 14, 2), (3, 512, 512, 7, 1)),
    )
    for shape in once:
        yield conv(*shape, batch=1)
    for shape in in_batches:
        yield conv(*shape, batch=16)


def _resnet18() -> Iterator[Conv]:
    """What ResNet-50 does not have: the layers that halve the image, and its 3x3 layers at batch 16."""
    for channels, size in ((64, 56), (128, 28), (256, 14)):
        yield Conv("resnet18", 3, channels, 2 * channels, size, padding=1, stride=2)
        yield Conv("resnet18", 1, channels, 2 * channels, size, padding=0, stride=2)
    yield Conv("resnet18", 3, 128, 128, 28, padding=1, batch=16)
    yield Conv("resnet18", 3, 64, 128, 56, padding=1, stride=2, batch=16)


def _mobilenet_v2() -> Iterator[Conv]:
    """The depthwise layers of both strides, and the products before and after some of them."""

    def depthwise(channels: int, size: int, stride: int, batch: int) -> Conv:
        return Conv("mobilenet2", 3, channels, channels, size, 1, stride, batch, groups=channels)

    layers = (
        (32, 112, 1),
        (96, 112, 2),
        (144, 56, 1),
        (144, 56, 2),
        (192, 28, 1),
        (384, 14, 1),
        (576, 14, 2),
        (960, 7, 1),
    )
    for batch in (1, 16):
        for channels, size, stride in layers:
            yield depthwise(channels, size, stride, batch)
    for channels, filters, size in ((96, 24, 56), (144, 32, 28), (64, 384, 14), (160, 960, 7)):
        yield Conv("mobilenet2", 1, channels, filters, size, 0)


def _resnext50() -> Iterator[Conv]:
    """The 3x3 layers of ResNeXt-50 (32x4d), in 32 groups of 4 to 32 channels."""
    for batch in (1, 16):
        for channels, size in ((128, 56), (256, 28), (512, 14), (1024, 7)):
            yield Conv("resnext50", 3, channels, channels, size, padding=1, batch=batch, groups=32)


CONVS = (*_lenet(), *_cifar(), *_vgg16(), *_resnet18(), *_resnet50(), *_mobilenet_v2(), *_resnext50())

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

_BY_NAME = {case.name: case for case in CASES}


def named(name: str) -> Case:
    """Return the layer or the network of this full name."""
    network, _, batch = name.rpartition(" n")
    return Network(network, int(batch)) if network in NETWORKS else _BY_NAME[name]


def passes(cases: Iterable[Case]) -> list[tuple[Case, str]]:
    """Return every pass of every case."""
    return [(case, what) for case in cases for what in case.passes]


def select(only: str) -> list[Case]:
    """Return the layers in whose name every word of only begins a word."""
    wanted = only.split()
    return [case for case in CASES if all(any(word.startswith(w) for word in case.name.split()) for w in wanted)]
