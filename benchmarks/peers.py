"""Measures libraries against each other, each in a process of its own.

Two thread pools in one process slow each other several times over, and so do two processes that
work at the same time. The processes here are asked in turn, round after round, and only one of them
is ever awake: this one waits for the answer meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import ROOT
from .layers import Case

OURS = "fastcnn"
OTHERS = ("torch", "ncnn", "numpy")
OTHERS_FOR_NETWORKS = ("torch", "onnxruntime", "openvino", "ncnn")
PYTHON_VARIABLE = "FASTCNN_BENCH_PYTHON"
CPU_INFO = Path("/proc/cpuinfo")

# How far apart two engines' fingerprints may be: rounding stays far below, mistakes far above.
SAME = 1e-2
LEAST_CALLS = 3


class Missing(Exception):
    """A library that can't be imported."""


class Failure(Exception):
    """A library that failed, or computed something else than another one."""


def threads_here() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def python_for(name: str, python_for_peers: str | None = None) -> str:
    """Return the interpreter that has a library: NumPy is compared as it lies beside fastcnn."""
    if name in (OURS, "numpy"):
        return sys.executable
    return python_for_peers or os.environ.get(PYTHON_VARIABLE) or sys.executable


def variants(name: str) -> dict[str, dict[str, str]]:
    """Return the environments to run a library in, by what they are called in the results.

    The OpenBLAS inside NumPy takes its AVX2 kernels on CPUs that are newer than it; it is tried
    with those for AVX-512 as well where the CPU has it.
    """
    if name == "numpy" and CPU_INFO.exists() and " avx512bw " in CPU_INFO.read_text():
        return {"": {}, "SkylakeX kernels": {"OPENBLAS_CORETYPE": "SkylakeX"}}
    return {"": {}}


def _environment(name: str, threads: int) -> dict[str, str]:
    """Return what every library gets: its threads, and memory that is not the system's business.

    Freed memory stays with the process and large pages back it, or a call on large images would
    measure how the kernel clears pages. NumPy asks for large pages by itself, PyTorch has a switch.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Where BLAS isn't measured it must have no threads to keep awake.
        "OPENBLAS_NUM_THREADS": str(threads) if name == "numpy" else "1",
        "MALLOC_MMAP_MAX_": "0",  # the threshold cannot be higher than 32 MB
        "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
        "THP_MEM_ALLOC_ENABLE": "1",
        # What it compiled in another run would be found at once.
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
    }


class Peer:
    """One library in its process, with an addition to its environment that has a name.

    Where files are given, which is a network's folder, it is there for that network alone.
    """

    def __init__(
        self, name: str, threads: int, python: str | None = None, variant: str = "", files: Path | None = None
    ) -> None:
        self.name = name
        self.variant = variant
        interpreter = python_for(name, python)
        command = [interpreter, "-m", f"{__package__}.worker", name, "--threads", str(threads)]
        if files:
            command += ["--files", str(files)]
        environment = os.environ | _environment(name, threads) | variants(name)[variant]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        about = self._answer()
        if "missing" in about:
            self.close()
            raise Missing(f"{about['missing']} ({interpreter})")
        self.version: str = about["version"]
        self.configurations: list[str] = about["configurations"]
        self.network_configurations: list[str] = about["network_configurations"]

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer; Failure with the traceback if there is none."""
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        if "error" in answer:
            raise Failure(f"{self.name} failed\n{answer['error']}")
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended: {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process, which does so by itself when its input ends."""
        self._process.communicate()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass
class Timing:
    """How long a library in one configuration took for a pass, each time, in seconds; and the bytes of scratch memory
    that it held meanwhile, if it tells.

    Of a network also the seconds from its file to the first result, the peak of the process's resident bytes, and how
    many of them there were before it was loaded.
    """

    times: list[float]
    scratch: int | None = None
    first: float | None = None
    peak: int | None = None
    imported: int | None = None

    @property
    def best(self) -> float:
        return min(self.times)

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def compare(
    peers: Sequence[Peer],
    case: Case,
    what: str,
    rounds: int,
    seconds: float,
    least: int = LEAST_CALLS,
    notes: list[str] | None = None,
) -> dict[str, dict[str, Timing]]:
    """Measure one pass with every peer in turn, so many rounds of so many seconds each, and at least so many calls.

    Returns
    -------
    dict
        By the peer's name, then by configuration; a peer that has no such pass is not in it, nor, where notes can tell
        of it, one that alone computed something else.

    Raises
    ------
    Failure
        A peer failed, or two of them computed different things.
    """
    timings: dict[str, dict[str, Timing]] = {}
    fingerprints: dict[tuple[str, str], Sequence[float]] = {}
    for _ in range(rounds):
        for peer in peers:
            for configuration in peer.configurations:
                answer = peer.ask(
                    do="measure",
                    case=case.name,
                    what=what,
                    configuration=configuration,
                    seconds=seconds,
                    least=least,
                )
                if not answer["times"]:
                    continue
                title = ", ".join(filter(None, (peer.variant, configuration)))
                timing = timings.setdefault(peer.name, {}).setdefault(title, Timing([]))
                timing.times.extend(answer["times"])
                timing.scratch = answer["scratch"]
                if answer["fingerprint"]:
                    fingerprints[peer.name, title] = answer["fingerprint"]
    if notes is not None:
        for name, title in outvoted(fingerprints):
            del timings[name][title], fingerprints[name, title]
            if not timings[name]:
                del timings[name]
            notes.append(
                f"{', '.join(filter(None, (name, title)))} is left out: it computes something else than others"
            )
    check(fingerprints)
    return timings


def outvoted(fingerprints: dict[tuple[str, str], Sequence[float]]) -> list[tuple[str, str]]:
    """Return who computed something else than fastcnn, where another library computed the same as fastcnn."""
    ours = [found for (name, _), found in fingerprints.items() if name == OURS]
    same = {key for key, found in fingerprints.items() if ours and agree([ours[0], found])}
    return [key for key in fingerprints if key not in same] if any(name != OURS for name, _ in same) else []


def check(fingerprints: dict[tuple[str, str], Sequence[float]]) -> None:
    """Raise Failure unless all libraries computed the same numbers."""
    if not agree(fingerprints.values()):
        found = "\n".join(f"  {', '.join(filter(None, key))}: {value}" for key, value in fingerprints.items())
        raise Failure(f"the results differ, or are no numbers\n{found}")


def agree(results: Iterable[Sequence[float]]) -> bool:
    """Whether all results are the same numbers."""
    return all(
        all(map(math.isfinite, component)) and max(component) - min(component) <= SAME * max(1.0, abs(component[0]))
        for component in zip(*results, strict=True)
    )


def start(names: Iterable[str], threads: int, python: str | None = None) -> tuple[list[Peer], list[str]]:
    """Start the processes of these libraries; return them, and a line for each that is missing."""
    peers, missing = [], []
    for name in names:
        try:
            peers += [Peer(name, threads, python, variant) for variant in variants(name)]
        except Missing as error:
            missing.append(f"{name} is left out: {error}")
    return peers, missing
