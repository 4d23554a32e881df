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
from typing import Any

from . import data, engine, layers

WARM_UP_CALLS = 2
LEAST_CALLS = 3
MOST_CALLS = 5000
# A thread's time is brought up to date once per scheduler tick, up to 10 ms apart.
SETTLED_SECONDS = 0.012
SETTLED_SHARE = 0.1
PATIENCE_SECONDS = 1.0


def times(call: Callable[[], Any], seconds: float) -> list[float]:
    """Call over and over for about so many seconds; return how long each call took."""
    for _ in range(WARM_UP_CALLS):
        call()
    clock = time.perf_counter
    taken: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = clock() + seconds
        while len(taken) < MOST_CALLS and (len(taken) < LEAST_CALLS or clock() < end):
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


class Worker:
    """Answers the requests for one engine."""

    def __init__(self, measured: engine.Engine) -> None:
        self._engine = measured
        self._fingerprints: dict[tuple[str, str, str], tuple[float, float]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.pop("do") == "peak":
            return {"peak": self._engine.peak()}
        return self._measure(**request)

    def _measure(self, case: str, what: str, configuration: str, seconds: float) -> dict[str, Any]:
        prepared = self._engine.prepare(layers.named(case), what, configuration)
        if prepared is None:
            return {"times": []}
        key = case, what, configuration
        self._engine.scratch()  # what the preparation took
        with prepared.around():
            if prepared.array and key not in self._fingerprints:
                self._fingerprints[key] = data.fingerprint(prepared.array(prepared.call()))
                settle()
            taken = times(prepared.call, seconds)
        scratch = self._engine.scratch()
        return {"times": taken, "fingerprint": self._fingerprints.get(key), "scratch": scratch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("--threads", type=int, required=True)
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
        measured = engine.load(options.engine, options.threads)
    except ImportError as error:
        say(missing=str(error))
        return
    say(version=measured.version(), configurations=measured.configurations)
    worker = Worker(measured)
    for line in sys.stdin:
        try:
            say(**worker.answer(json.loads(line)))
        except Exception:
            say(error=traceback.format_exc())


if __name__ == "__main__":
    main()
