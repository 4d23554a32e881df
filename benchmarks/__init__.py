"""Benchmarks beside the peers: ``pytest benchmarks/`` and ``python -m benchmarks.report``.

Both put the checkout first on ``sys.path``, where the sources may lie uncompiled and would hide the
fastcnn that is installed; the checkout's entry then goes to the end.
"""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _installed_first() -> None:
    files = (ROOT / "fastcnn" / "_core").glob("*")
    if any(file.name.endswith(tuple(EXTENSION_SUFFIXES)) for file in files):
        return
    checkout = [entry for entry in sys.path if Path(entry).resolve() == ROOT]
    sys.path[:] = [entry for entry in sys.path if entry not in checkout] + checkout


_installed_first()
