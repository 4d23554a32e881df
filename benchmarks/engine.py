"""What a worker measures with: an engine per library, which prepares calls for the cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .data import Array
from .layers import Activation, Case, Conv, Dense, Network, Norm, Optimizer, Pool

NORM_EPSILON = 1e-3
LEARNING_RATE = 1e-3  # of the training steps of networks: VGG-16 diverges with ten times as much

# The files of a network that several engines read: PyTorch writes them.
WEIGHTS = "weights.npz"
ONNX = "network.onnx"
NCNN = "network"  # and what its tool appends


@dataclass(frozen=True)
class Prepared:
    """A call to be timed.

    array makes an array of its result, in NHWC or HWIO, that tells whether engines computed the same thing; around
    opens the context that it runs in, whose cost is not its own.
    """

    call: Callable[[], Any]
    array: Callable[[Any], Array] | None = None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def scores(probabilities: Array) -> Array:
    """Return the logits of probabilities, but for what all of an image's have in common: small ones count as well.

    Not the smallest, which libraries round to zero in ways of their own.
    """
    logarithms = np.log(np.maximum(probabilities, 1e-6))
    centred: Array = logarithms - logarithms.mean(axis=1, keepdims=True)
    return centred


def gradients(found: Sequence[Array | None]) -> Array:
    """Return several arrays as one, to compare them all."""
    return np.concatenate([array.ravel() for array in found if array is not None])


def optimized(step: Callable[[], object], params: Sequence[Array]) -> Prepared:
    """Return the call of an optimiser's step, which is compared by how many learning rates the parameters move."""
    begun = gradients(params)

    def call() -> Sequence[Array]:
        step()
        return params

    return Prepared(call, lambda found: (gradients(found) - begun) / LEARNING_RATE)


def trained(step: Callable[[], float]) -> Prepared:
    """Return the call of a training step, which gives its loss.

    The loss of the first step comes from the forward pass alone, that of the second from gradients and weights too.
    """
    return Prepared(step, lambda loss: np.array([loss, step()]))


class Engine:
    """A library. Methods return None for what it doesn't have."""

    #: Ways to set the library up; the fastest of them counts, case by case.
    configurations: tuple[str, ...] = ("",)
    #: The same for networks, each of which has a process of its own in each of the ways.
    network_configurations: tuple[str, ...] = ("",)

    def __init__(self, threads: int, files: Path = Path()) -> None:
        self.threads = threads
        #: The folder of the files of a network.
        self.files = files

    def version(self) -> str:
        raise NotImplementedError

    def peak(self) -> float | None:
        """Return the machine's rate of fused multiply-adds in GFLOP/s."""
        return None

    def bandwidth(self) -> float | None:
        """Return the rate at which the machine's memory is read and written in GB/s."""
        return None

    def scratch(self) -> int | None:
        """Return the bytes of the largest scratch buffer since this was last asked."""
        return None

    def export(self, network: str) -> list[str]:
        """Write the files that engines read a network from; return a line for each that could not be written."""
        return []

    def prepare(self, case: Case, what: str, configuration: str) -> Prepared | None:
        """Return the call that makes the pass named what of the case."""
        if isinstance(case, Conv):
            return self.conv(case, what, configuration)
        if isinstance(case, Pool):
            return self.pool(case, what, configuration)
        if isinstance(case, Norm):
            return self.norm(case, what, configuration)
        if isinstance(case, Dense):
            return self.dense(case, what, configuration)
        if isinstance(case, Activation):
            return self.activation(case, what, configuration)
        if isinstance(case, Optimizer):
            return self.optimizer(case, what, configuration)
        assert isinstance(case, Network)
        return self.network(case, what, configuration)

    def conv(self, case: Conv, what: str, configuration: str) -> Prepared | None:
        return None

    def pool(self, case: Pool, what: str, configuration: str) -> Prepared | None:
        return None

    def norm(self, case: Norm, what: str, configuration: str) -> Prepared | None:
        return None

    def dense(self, case: Dense, what: str, configuration: str) -> Prepared | None:
        return None

    def activation(self, case: Activation, what: str, configuration: str) -> Prepared | None:
        return None

    def optimizer(self, case: Optimizer, what: str, configuration: str) -> Prepared | None:
        return None

    def network(self, case: Network, what: str, configuration: str) -> Prepared | None:
        return None


def load(name: str, threads: int, files: Path) -> Engine:
    """Return the engine of this name; ImportError where its library is not installed."""
    engine: type[Engine] = import_module(f".engine_{name}", __package__).ENGINE
    return engine(threads, files)
