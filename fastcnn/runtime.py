"""Threads, instruction sets and the machine: what the compiled kernels run on.

The environment is read once, at import: ``FASTCNN_NUM_THREADS``, then ``OMP_NUM_THREADS``, set the number of
threads; ``FASTCNN_ISA`` forces an instruction set.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._core import _memory, _runtime
from .arguments import brief, integer, number

MAX_THREADS = 1024
# Of a number of threads in the environment, leading zeros included.
_DIGITS = 100

# So many threads are known to start.
_startable = os.cpu_count() or 1


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPUs that the container's quota allows, infinity where there is none.

    Looks at this process's group and at every group above it, in cgroup v2 (``cpu.max``) and v1
    (``cpu.cfs_quota_us`` over ``cpu.cfs_period_us``).
    """
    allowed = float("inf")
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return allowed
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Inside a container the group's path may not be visible below the mount: the mount itself is always read.
        folder = root / path.lstrip("/") if not controllers else root / "cpu" / path.lstrip("/")
        top = root if not controllers else root / "cpu"
        while True:
            allowed = min(allowed, _quota(folder))
            if folder in (top, top.parent):
                break
            folder = folder.parent
    return allowed


def _quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else float("inf")
    except (OSError, ValueError, ZeroDivisionError):  # no such file, "max", or nothing that makes sense
        return float("inf")


def _default_threads(environ: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """Return how many threads to start with, and why that many."""
    for name in ("FASTCNN_NUM_THREADS", "OMP_NUM_THREADS"):
        text = environ.get(name, "").strip()
        if not text:
            continue
        # OpenMP allows a list, one number for each nesting level: the outermost counts.
        first = text.split(",")[0].strip()
        if first.isdecimal() and len(first) <= _DIGITS and 1 <= int(first) <= MAX_THREADS:
            _must_start(int(first), name)
            return int(first), f"{name}={text}"
        if name == "FASTCNN_NUM_THREADS":
            raise ValueError(f"{name} must be an integer from 1 to {MAX_THREADS}, got {brief(text)}")
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
        why = f"{cpus} CPUs in this process's affinity"
    else:
        cpus = os.cpu_count() or 1
        why = f"{cpus} CPUs"
    quota = _cgroup_cpus()
    if quota < cpus:
        cpus = max(1, int(quota))
        why = f"container quota of {quota:g} CPUs"
    return min(cpus, MAX_THREADS), why


def set_num_threads(n: int) -> None:
    """Set the number of threads that large primitives use.

    Results do not depend on it: every primitive gives the same bits for every number of threads.

    Parameters
    ----------
    n
        From 1 to 1024.

    Raises
    ------
    TypeError, ValueError
        If n is not such a number.
    RuntimeError
        If the system does not let the process have so many threads.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.set_num_threads(2)
    """
    global _reason
    _runtime.set_num_threads(_checked(n))
    _reason = "set_num_threads"


def _checked(n: Any, name: str = "n") -> int:
    count = integer(n, name)
    if count > MAX_THREADS:
        raise ValueError(f"{name} must be at most {MAX_THREADS} threads, got {count}")
    _must_start(count, name)
    return count


def _must_start(count: int, name: str) -> None:
    """Raise RuntimeError unless the system gives the process so many threads: OpenMP would end the process."""
    global _startable
    if count <= _startable:
        return
    given = 1 + _runtime.startable_threads(count - 1)
    if given < count:
        raise RuntimeError(
            f"{name} must be a number of threads that the system lets the process have, {given}, got {count}"
        )
    _startable = count


def get_num_threads() -> int:
    """Return the number of threads that a large primitive called from here uses.

    It is 1 in a serial build and in the child of a fork, where the parent's threads do not exist.

    Examples
    --------
    >>> import fastcnn
    >>> with fastcnn.threads(1):
    ...     fastcnn.get_num_threads()
    1
    """
    return _runtime.get_num_threads()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use n threads inside a with block, for the calling Python thread alone.

    Parameters
    ----------
    n
        From 1 to 1024.

    Raises
    ------
    TypeError, ValueError
        If n is not such a number.
    RuntimeError
        If the system does not let the process have so many threads.

    Examples
    --------
    >>> import fastcnn
    >>> with fastcnn.threads(1):
    ...     y = fastcnn.nn.relu([-1.0, 2.0])
    """
    before = _runtime.set_own_threads(_checked(n))
    try:
        yield
    finally:
        _runtime.set_own_threads(before)


class ReusingMemory(_memory.Reusing):
    """A context in which large new arrays, of this thread, have memory that other such arrays had before.

    Training works in it: a step makes the same arrays as the one before, and new pages from the system would cost a
    good part of the time. What is used and what waits is never more than twice what has been used at one time.

    Examples
    --------
    >>> import numpy as np
    >>> with ReusingMemory():
    ...     for _ in range(3):
    ...         x = np.ones((256, 256))
    """


class AlignedMemory(_memory.Keeping):
    """A context in which new arrays, of this thread, begin at cache lines; for arrays that stay, such as weights.

    Vectors that cross lines take twice the time to load.

    Examples
    --------
    >>> import numpy as np
    >>> with AlignedMemory():
    ...     x = np.ones(1000)
    >>> x.ctypes.data % 64
    0
    """


def release_memory() -> None:
    """Give memory that waits to be used again by :class:`ReusingMemory` back to the system, as ``fit`` does at its end.

    Examples
    --------
    >>> release_memory()
    """
    _memory.release()


def available_isas() -> tuple[str, ...]:
    """Name the instruction sets that this build has kernels for and this CPU can run, the best last.

    Examples
    --------
    >>> "scalar" in available_isas()
    True
    """
    return _runtime.available_isas()


def active_isa() -> str:
    """Name the instruction set in use: the best one, or that of ``FASTCNN_ISA``.

    Examples
    --------
    >>> active_isa() in available_isas()
    True
    """
    return _runtime.active_isa()


def fma_peak(dtype: Any = "float32", threads: int = 1, seconds: float = 0.2) -> float:
    """Measure the rate of multiply-adds on registers alone, the ceiling of every kernel.

    Parameters
    ----------
    dtype
        float32 or float64.
    threads
        How many run at once.
    seconds
        How long to measure, from 0.001 to 60.

    Returns
    -------
    float
        The best rate seen, in GFLOP/s, all threads together; a multiply-add counts as two operations.

    Raises
    ------
    TypeError, ValueError
        If dtype is another, or threads no such number.

    Examples
    --------
    >>> fma_peak(seconds=0.01) > 0
    True
    """
    try:
        kind = np.dtype(dtype) if dtype is not None else None
    except (TypeError, ValueError, SyntaxError):  # the last from a text that begins like a list of types
        kind = None
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {brief(dtype)}")
    return _runtime.fma_rate(kind, _checked(threads, "threads"), number(seconds, "seconds", 0.001, 60.0)) / 1e9


@dataclass(frozen=True)
class Info:
    """What :func:`info` found; ``str()`` of it is the text that ``fastcnn info`` prints."""

    version: str
    python: str
    numpy: str
    machine: str
    isa: str
    isas: tuple[str, ...]
    threads: int
    threads_reason: str
    openmp: str
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int

    def __str__(self) -> str:
        """Return one line per fact."""
        caches = ", ".join(
            f"{name} {size >> 10} KB"
            for name, size in (("L1d", self.l1_bytes), ("L2", self.l2_bytes), ("L3", self.l3_bytes))
        )
        return "\n".join(
            (
                f"fastcnn   {self.version}",
                f"python    {self.python}, numpy {self.numpy}, {self.machine}",
                f"isa       {self.isa} (possible: {', '.join(self.isas)})",
                f"threads   {self.threads} ({self.threads_reason})",
                f"OpenMP    {self.openmp}",
                f"caches    {caches}",
            )
        )


def info() -> Info:
    """Describe the version, instruction set, threads, OpenMP runtime and caches in use.

    Returns
    -------
    Info
        Print it for a readable summary.

    Examples
    --------
    >>> import fastcnn
    >>> fastcnn.info().isa == fastcnn.runtime.active_isa()
    True
    """
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and rarely wanted

    try:
        release = version("fastcnn")
    except PackageNotFoundError:  # run from a checkout that was built in place
        release = "not installed"
    return Info(
        release,
        platform.python_version(),
        np.__version__,
        platform.machine(),
        active_isa(),
        available_isas(),
        get_num_threads(),
        _why_so_many(),
        _openmp(),
        *_runtime.cache_bytes(),
    )


def _why_so_many() -> str:
    """Say what the number of threads comes from."""
    if not _runtime.openmp_version():
        return "a serial build"
    if _runtime.is_forked():
        return "the child of a fork"
    return "fastcnn.threads" if _runtime.own_threads() else _reason


def _openmp() -> str:
    date = _runtime.openmp_version()
    if not date:
        return "none: this build is serial"
    return f"{_openmp_library()}, specification {date}"


def _openmp_library() -> str:
    """Name the OpenMP runtime that this process has loaded."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return "unknown runtime"
    names = {Path(line.split()[-1]).name for line in maps.splitlines() if "/" in line}
    found = sorted(n for n in names if n.startswith(("libgomp", "libomp", "libiomp")))
    return ", ".join(found) or "unknown runtime"


if os.environ.get("FASTCNN_ISA"):
    _runtime.use_isa(os.environ["FASTCNN_ISA"].strip().lower())
_threads, _reason = _default_threads()
_runtime.set_num_threads(_threads)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_runtime.after_fork_in_child)
