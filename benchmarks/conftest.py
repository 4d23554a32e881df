"""Lets pytest-benchmark show what the libraries' own processes measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

# Imported before pytest puts the checkout first on sys.path once more.
import fastcnn  # noqa: F401

from . import peers
from .layers import Case
from .peers import Peer, threads_here

ROUNDS, SECONDS = 2, 0.05

Compare = Callable[[Case, str, str], None]
Processes = Callable[[str], list[Peer]]


class Clock:
    """A clock that stands still but for the times that a worker has measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def advance(self, seconds: Iterator[float]) -> None:
        self.now += next(seconds)


CLOCK = Clock()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "compare" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=CLOCK.read))


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Start a library's processes when they are first needed; none where it is missing."""
    running: dict[str, list[Peer]] = {}
    with ExitStack() as stack:

        def get(name: str) -> list[Peer]:
            if name not in running:
                running[name], _ = peers.start([name], threads_here())
                for peer in running[name]:
                    stack.enter_context(peer)
            return running[name]

        yield get


@pytest.fixture
def compare(benchmark: BenchmarkFixture, processes: Processes) -> Compare:
    """Measure a pass of a case with a library, in its fastest configuration."""

    def run(case: Case, what: str, library: str) -> None:
        running = processes(library)
        if not running:
            pytest.skip(f"{library} is not installed")
        benchmark.group = f"{case}, {what}"
        timings = peers.compare(running, case, what, ROUNDS, SECONDS)[library]
        title, timing = min(timings.items(), key=lambda item: item[1].best)
        benchmark.extra_info["configuration"] = title
        moved = case.bytes(what)
        if moved:
            benchmark.extra_info["GB/s"] = round(moved / timing.best / 1e9, 2)
        times = iter(timing.times)
        benchmark.pedantic(  # type: ignore[no-untyped-call]
            CLOCK.advance, args=(times,), rounds=len(timing.times)
        )

    return run
