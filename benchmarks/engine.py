"""What a worker measures with: an engine per library, which prepares calls for the cases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .data import Array
from .layers import Case, Conv, Dense, Network, Norm, Pool

NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Prepared:
    """A call to be timed.

    array makes an array in NHWC or HWIO of its result; around opens the context that it runs in,
    whose cost is not its own.
    """

    call: Callable[[], Any]
    array: Callable[[Any], Array] | None = None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


class Engine:
    """A library. Methods return None for what it doesn't have."""

    #: Ways to set the library up; the fastest of them counts, case by case.
    configurations: tuple[str, ...] = ("",)

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def version(self) -> str:
        raise NotImplementedError

    def peak(self) -> float | None:
        """Return the machine's rate of fused multiply-adds in GFLOP/s."""
        return None

    def scratch(self) -> int | None:
        """Return the bytes of the largest scratch buffer since this was last asked."""
        return None

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

    def network(self, case: Network, what: str, configuration: str) -> Prepared | None:
        return None


def load(name: str, threads: int) -> Engine:
    """Return the engine of this name; ImportError where its library is not installed."""
    engine: type[Engine] = import_module(f".engine_{name}", __package__).ENGINE
    return engine(threads)
