"""The process that measures: reads a request per line from its input, answers each with a line.

It measures only while it is asked to. Before it answers it waits until its pool threads, which spin
for a while in the hope of more work, have gone to sleep: the next worker then has the cores alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import data, engine, layers

MOST_CALLS = 5000
# A thread's time is brought up to date once per scheduler tick, up to 10 ms apart.
SETTLED_SECONDS = 0.012
SETTLED_SHARE = 0.1
PATIENCE_SECONDS = 1.0
STATUS = Path("/proc/self/status")


def times(call: Callable[[], Any], seconds: float, least: int) -> list[float]:
    """Call over and over for about so many seconds, and at least so often; return how long each call took.

    Calls before them, one less, bring what they work on back into the caches, and are not counted.
    """
    for _ in range(least - 1):
        call()
    clock = time.perf_counter
    taken: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = clock() + seconds
        while len(taken) < MOST_CALLS and (len(taken) < least or clock() < end):
            start = clock()
            call()
            taken.append(clock() - start)
    finally:
        if collecting:
            gc.enable()
    return taken


def settle() -> None:
    """Wait until no thread of this process is running any more."""
    end = time.perf_counter() + PATIENCE_SECONDS
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(SETTLED_SECONDS)
        if time.process_time() - before < SETTLED_SHARE * SETTLED_SECONDS:
            return
    print("a thread goes on running while its process is idle", file=sys.stderr)


def resident(peak: bool = False) -> int | None:
    """Return how many bytes of memory this process has, or had at its peak; None where the system does not tell."""
    name = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


class Worker:
    """Answers the requests for one engine."""

    def __init__(self, measured: engine.Engine) -> None:
        self._engine = measured
        self._imported = resident()
        self._fingerprints: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._loaded: tuple[tuple[str, str, str], engine.Prepared] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what the request asks for: each has a method here."""
        answered: dict[str, Any] = getattr(self, f"_{request.pop('do')}")(**request)
        return answered

    def _peak(self) -> dict[str, Any]:
        return {"peak": self._engine.peak(), "bandwidth": self._engine.bandwidth()}

    def _export(self, network: str) -> dict[str, Any]:
        return {"problems": self._engine.export(network)}

    def _load(self, case: str, what: str, configuration: str) -> dict[str, Any]:
        """Prepare a network for the requests that follow; tell how long it took until there was a result."""
        data.arrays(layers.named(case))  # no part of it
        start = time.perf_counter()
        prepared = self._engine.prepare(layers.named(case), what, configuration)
        if prepared is None:
            return {"first": None}
        with prepared.around():
            result = prepared.call()
            first = time.perf_counter() - start
            key = case, what, configuration
            if prepared.array:
                self._fingerprints[key] = data.fingerprint(prepared.array(result))
        self._loaded = key, prepared
        return {"first": first}

    def _memory(self) -> dict[str, Any]:
        """Tell the peak of what was resident, and how much was before anything was prepared."""
        return {"peak": resident(peak=True), "imported": self._imported}

    def _measure(self, case: str, what: str, configuration: str, seconds: float, least: int) -> dict[str, Any]:
        key = case, what, configuration
        if self._loaded and self._loaded[0] == key:
            prepared: engine.Prepared | None = self._loaded[1]
        else:
            prepared = self._engine.prepare(layers.named(case), what, configuration)
        if prepared is None:
            return {"times": []}
        self._engine.scratch()  # what the preparation took
        with prepared.around():
            if prepared.array and key not in self._fingerprints:
                self._fingerprints[key] = data.fingerprint(prepared.array(prepared.call()))
                settle()
            taken = times(prepared.call, seconds, least)
        scratch = self._engine.scratch()
        return {"times": taken, "fingerprint": self._fingerprints.get(key), "scratch": scratch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--files", type=Path, default=Path(), help="the folder of a network's files")
    options = parser.parse_args()
    # Ctrl-C is for the process that asks: this one ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        settle()
        print(json.dumps(answer), file=answers)

    try:
        measured = engine.load(options.engine, options.threads, options.files)
    except ImportError as error:
        say(missing=str(error))
        return
    say(
        version=measured.version(),
        configurations=measured.configurations,
        network_configurations=measured.network_configurations,
    )
    worker = Worker(measured)
    for line in sys.stdin:
        try:
            say(**worker.answer(json.loads(line)))
        except Exception:
            say(error=traceback.format_exc())


if __name__ == "__main__":
    main()
