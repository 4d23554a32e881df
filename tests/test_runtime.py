"""Threads, instruction sets, quotas, forks and scratch memory: what the ops run on, and that they always do."""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import nn, runtime
from fastcnn._core import _runtime
from fastcnn.layers import Dense
from fastcnn.layers.base import CHANGING

parallel = pytest.mark.skipif(not _runtime.openmp_version(), reason="this build is serial")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
# Python 3.12 warns of a fork beside threads: what is tested here is that it works.
warned = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def restored():
    """Threads and instruction set as they were."""
    shared, isa = runtime._default_threads({})[0], runtime.active_isa()
    before = fastcnn.get_num_threads()
    yield
    _runtime.use_isa(isa)
    fastcnn.set_num_threads(before or shared)


def run(code: str, seconds: float = 60, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter whose environment says nothing of threads but what is given."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("FASTCNN_NUM_THREADS", "OMP_NUM_THREADS")}
    inherited.pop("FASTCNN_ISA", None)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**inherited, **environ},
    )


def printed(code: str, **environ: str) -> str:
    result = run(code, **environ)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def work() -> tuple[bytes, ...]:
    """The bits of some results that are large enough for more than one thread."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 20, 20, 16), np.float32), rng.standard_normal((3, 3, 16, 24), np.float32)
    y = nn.conv2d(x, w, padding="SAME", activation="relu")
    dx, dw, db = nn.conv2d_backward(y, x, w, padding="SAME")
    flat = y.reshape(4 * 400, 24)
    pooled = nn.max_pool(y, 2)
    results = (y, dx, dw, db, nn.matmul(flat, flat, transpose_a=True), nn.softmax(flat), pooled, *nn.moments(y))
    return tuple(r.tobytes() for r in results)


# ---- numbers of threads ----


@parallel
def test_the_number_of_threads_is_what_was_set():
    for n in (1, 2, 7, 1024):
        fastcnn.set_num_threads(n)
        assert fastcnn.get_num_threads() == n
        assert fastcnn.info().threads == n
    assert fastcnn.info().threads_reason == "set_num_threads"


def test_to_ask_for_threads_does_not_change_what_the_last_call_used():
    with fastcnn.threads(3):
        nn.relu(np.ones(3))
        assert (fastcnn.get_num_threads(), _runtime.last_threads()) == (3, 1)


@parallel
def test_blocks_of_threads_nest():
    fastcnn.set_num_threads(3)
    with fastcnn.threads(2):
        assert fastcnn.get_num_threads() == 2
        with fastcnn.threads(5):
            assert fastcnn.get_num_threads() == 5
            fastcnn.set_num_threads(4)  # of those without a setting of their own
            assert fastcnn.get_num_threads() == 5
        assert fastcnn.get_num_threads() == 2
    assert fastcnn.get_num_threads() == 4


@parallel
def test_an_exception_inside_a_block_ends_its_setting():
    fastcnn.set_num_threads(3)
    with pytest.raises(KeyError), fastcnn.threads(2), fastcnn.threads(1):
        raise KeyError
    assert fastcnn.get_num_threads() == 3


@parallel
def test_a_block_holds_for_its_own_python_thread():
    fastcnn.set_num_threads(3)
    inside, seen = threading.Event(), threading.Event()
    found = {}

    def other():
        found["before"] = fastcnn.get_num_threads()
        with fastcnn.threads(7):
            inside.set()
            assert seen.wait(30)
            found["inside"] = fastcnn.get_num_threads()
        found["after"] = fastcnn.get_num_threads()

    with fastcnn.threads(2):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(30)
        assert fastcnn.get_num_threads() == 2
        seen.set()
        thread.join()
    assert found == {"before": 3, "inside": 7, "after": 3}


@pytest.mark.parametrize("bad", [0, -1, 1025, 2**31, 2**64])
@pytest.mark.parametrize("call", [fastcnn.set_num_threads, lambda n: fastcnn.threads(n).__enter__()])
def test_numbers_of_threads_out_of_range_are_refused(call, bad):
    before = fastcnn.get_num_threads()
    with pytest.raises(ValueError, match=rf"\bn\b.*{bad}"):
        call(bad)
    assert fastcnn.get_num_threads() == before


@pytest.mark.parametrize("bad", [1.0, "2", None, True, [1]], ids=repr)
@pytest.mark.parametrize("call", [fastcnn.set_num_threads, lambda n: fastcnn.threads(n).__enter__()])
def test_numbers_of_threads_are_integers(call, bad):
    with pytest.raises(TypeError, match=r"\bn\b"):
        call(bad)


def test_results_have_the_same_bits_for_every_number_of_threads():
    with fastcnn.threads(1):
        wanted = work()
    for n in (2, 3, 5, 16):
        with fastcnn.threads(n):
            assert work() == wanted, f"{n} threads"


# ---- the environment ----

COUNT = "import fastcnn; print(fastcnn.runtime._threads, '|', fastcnn.info().threads_reason)"


@pytest.mark.parametrize(
    ("environ", "threads", "reason"),
    [
        ({"FASTCNN_NUM_THREADS": "3"}, 3, "FASTCNN_NUM_THREADS=3"),
        ({"OMP_NUM_THREADS": "3"}, 3, "OMP_NUM_THREADS=3"),
        ({"FASTCNN_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3, "FASTCNN_NUM_THREADS=3"),
        ({"FASTCNN_NUM_THREADS": "", "OMP_NUM_THREADS": "2"}, 2, "OMP_NUM_THREADS=2"),
        ({"FASTCNN_NUM_THREADS": " 4 "}, 4, "FASTCNN_NUM_THREADS=4"),
        ({"FASTCNN_NUM_THREADS": "4,2"}, 4, "FASTCNN_NUM_THREADS=4,2"),
        ({"OMP_NUM_THREADS": "4, 2"}, 4, "OMP_NUM_THREADS=4, 2"),
        ({"FASTCNN_NUM_THREADS": "1024"}, 1024, "FASTCNN_NUM_THREADS=1024"),
    ],
    ids=str,
)
def test_the_environment_sets_the_number_of_threads(environ, threads, reason):
    assert printed(COUNT, **environ) == f"{threads} | {reason}"


@pytest.mark.parametrize("bad", ["0", "-1", "many", "1.5", "1025", "99999999999999999999", "+2", "0x2", ",2", "²"])
def test_a_wrong_number_of_threads_is_an_error_at_import(bad):
    result = run("import fastcnn", FASTCNN_NUM_THREADS=bad)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ValueError: FASTCNN_NUM_THREADS"), result.stderr
    assert repr(bad) in result.stderr and "1024" in result.stderr


@pytest.mark.parametrize("garbage", ["0", "-1", "many", "1.5", "99999999999999999999", ",2", "²"])
def test_garbage_for_openmp_is_ignored(garbage):
    # libgomp itself complains on stderr and carries on.
    threads = printed(COUNT, OMP_NUM_THREADS=garbage).split(" | ")
    assert threads == printed(COUNT).split(" | ")


@pytest.mark.parametrize("isa", runtime.available_isas())
@pytest.mark.parametrize("spell", [str, str.upper, " {} ".format])
def test_the_environment_forces_an_instruction_set(isa, spell):
    code = "import fastcnn; print(fastcnn.runtime.active_isa(), fastcnn.info().isa, fastcnn.nn.relu([-1, 2]).tolist())"
    assert printed(code, FASTCNN_ISA=spell(isa)) == f"{isa} {isa} [0.0, 2.0]"


def test_without_a_word_the_best_instruction_set_is_used():
    assert printed("import fastcnn; print(fastcnn.runtime.active_isa())") == runtime.available_isas()[-1]


@pytest.mark.parametrize("wrong", ["avx9000", "neon" if platform.machine() == "x86_64" else "avx2", "sse2,avx2"])
def test_an_instruction_set_that_cannot_be_is_an_error_at_import(wrong):
    result = run("import fastcnn", FASTCNN_ISA=wrong)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ValueError") and "FASTCNN_ISA" in last and wrong in last, result.stderr
    assert all(isa in last for isa in runtime.available_isas())


def test_every_isa_agrees_on_the_result():
    wanted = None
    for isa in runtime.available_isas():
        _runtime.use_isa(isa)
        found = [np.frombuffer(b, np.float32) for b in work()]
        wanted = wanted or found
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_scalar_is_always_there_and_the_best_comes_last():
    isas = runtime.available_isas()
    assert isas[0] == "scalar"
    assert runtime.active_isa() in isas
    lanes = []
    for isa in isas:
        _runtime.use_isa(isa)
        lanes.append(_runtime.lanes(np.dtype("float32")))
        assert _runtime.lanes(np.dtype("float64")) in (lanes[-1] // 2, lanes[-1])
    assert lanes == sorted(lanes)


# ---- CPUs that this process may use ----


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_limits_the_threads():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + COUNT
    assert printed(code) == "1 | 1 CPUs in this process's affinity"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        # Version 2.
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "300000 100000\n"}, 2),
        ("0::/a/b\n", {"cpu.max": "200000 50000\n"}, 4),  # the group is not visible inside the container
        ("0::/a/b\n", {"a/c/cpu.max": "100000 100000\n"}, None),  # a sister group
        ("0::/../outside\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/a:b/c\n", {"a:b/c/cpu.max": "200000 100000\n"}, 2),
        # Version 1.
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "250000\n"}, None),
        (
            "4:cpuacct,cpu:/a/b\n",
            {
                "cpu/a/b/cpu.cfs_quota_us": "-1\n",
                "cpu/a/b/cpu.cfs_period_us": "100000\n",
                "cpu/a/cpu.cfs_quota_us": "150000\n",
                "cpu/a/cpu.cfs_period_us": "50000\n",
            },
            3,
        ),
        ("4:cpu:/docker/x\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        # Both at once: the controller is in either.
        (
            "4:cpu:/a\n1:memory:/a\n0::/a\n",
            {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        # Damaged.
        ("0::/\n", {"cpu.max": "\n"}, None),
        ("0::/\n", {"cpu.max": "a b\n"}, None),
        ("0::/\n", {"cpu.max": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "0\n"}, None),
        ("", {"cpu.max": "100000 100000\n"}, None),
        ("nonsense\n", {}, None),
    ],
)
def test_the_quota_of_the_container_counts(groups, files, cpus, tmp_path):
    root, proc = tmp_path / "cgroup", tmp_path / "self"
    root.mkdir()
    proc.write_text(groups)
    for name, text in files.items():
        write(root / name, text)
    assert runtime._cgroup_cpus(root, proc) == (float("inf") if cpus is None else cpus)


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert runtime._cgroup_cpus(tmp_path, tmp_path / "missing") == float("inf")
    write(tmp_path / "self", "0::/a/b\n")
    assert runtime._cgroup_cpus(tmp_path / "missing", tmp_path / "self") == float("inf")


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.9, 1)])
def test_a_quota_rounds_down_to_at_least_one_thread(quota, threads, monkeypatch):
    monkeypatch.setattr(runtime, "_cgroup_cpus", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert runtime._default_threads({}) == (threads, f"container quota of {quota:g} CPUs")


def test_info_says_where_the_number_of_threads_comes_from():
    if not _runtime.openmp_version():
        pytest.skip("a serial build")
    before = runtime.info().threads_reason
    with runtime.threads(1):
        assert runtime.info().threads_reason == "fastcnn.threads"
    assert runtime.info().threads_reason == before


@pytest.mark.parametrize("digits", ["9" * 5000, "0" * 5000 + "2"])
def test_a_number_of_threads_of_any_length_is_no_crash(digits):
    with pytest.raises(ValueError, match=r"FASTCNN_NUM_THREADS must be an integer from 1 to 1024, got '"):
        runtime._default_threads({"FASTCNN_NUM_THREADS": digits})
    assert runtime._default_threads({"OMP_NUM_THREADS": digits}) == runtime._default_threads({})


def test_without_a_quota_the_affinity_counts(monkeypatch):
    monkeypatch.setattr(runtime, "_cgroup_cpus", lambda: float("inf"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert runtime._default_threads({}) == (6, "6 CPUs in this process's affinity")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert runtime._default_threads({}) == (1, "1 CPUs")


# ---- what the machine is ----


def test_info_tells_what_is_used():
    info = fastcnn.info()
    assert info.version == fastcnn.__version__
    assert info.python == platform.python_version() and info.numpy == np.__version__
    assert info.machine == platform.machine()
    assert info.isa == runtime.active_isa() and info.isas == runtime.available_isas()
    assert info.threads == fastcnn.get_num_threads()
    assert 4 << 10 <= info.l1_bytes <= info.l2_bytes <= info.l3_bytes


def test_caches_are_what_the_system_tells(tmp_path):
    for index, facts in enumerate((("1", "Data", "48K"), ("1", "Instruction", "32K"), ("3", "Unified", "32M"))):
        (tmp_path / f"index{index}").mkdir()
        for name, fact in zip(("level", "type", "size"), facts, strict=True):
            (tmp_path / f"index{index}" / name).write_text(f"{fact}\n")
    assert _runtime.found_cache_bytes(1, str(tmp_path)) == 48 << 10
    assert _runtime.found_cache_bytes(3, str(tmp_path)) == 32 << 20
    # Not told there, or told in words that are none: what the C library says.
    elsewhere = _runtime.found_cache_bytes(2, str(tmp_path / "nothing"))
    assert _runtime.found_cache_bytes(2, str(tmp_path)) == elsewhere
    (tmp_path / "index0" / "size").write_text("large\n")
    assert _runtime.found_cache_bytes(1, str(tmp_path)) == _runtime.found_cache_bytes(1, str(tmp_path / "nothing"))


def test_info_prints_one_line_per_fact():
    info = fastcnn.info()
    lines = str(info).splitlines()
    assert [line.split()[0].lower() for line in lines] == ["fastcnn", "python", "isa", "threads", "openmp", "caches"]
    text = str(info)
    assert info.isa in text and str(info.threads) in text and info.threads_reason in text
    assert f"L1d {info.l1_bytes >> 10} KB" in text and "L2" in text and "L3" in text


@parallel
def test_info_names_the_openmp_runtime():
    text = fastcnn.info().openmp
    assert str(_runtime.openmp_version()) in text
    if Path("/proc/self/maps").exists():
        assert any(name in text for name in ("libgomp", "libomp", "libiomp")), text


@pytest.mark.parametrize("dtype", ["float32", np.float64, np.dtype("float32")], ids=str)
def test_the_peak_is_a_rate(dtype):
    assert 0.05 < runtime.fma_peak(dtype, threads=1, seconds=0.02) < 1e4


def test_wider_elements_have_the_lower_peak():
    single, double = (runtime.fma_peak(d, seconds=0.05) for d in ("float32", "float64"))
    if runtime.active_isa() != "scalar":
        assert 1.2 < single / double < 3.5


@parallel
def test_threads_that_the_system_refuses_are_an_error_and_not_the_end():
    code = (
        "import resource, numpy as np, fastcnn\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try:\n    fastcnn.set_num_threads(1024)\nexcept RuntimeError as error:\n    print(error)\n"
        "fastcnn.set_num_threads(2)\n"
        "print(fastcnn.nn.matmul(np.ones((300, 300)), np.ones((300, 300)))[0, 0])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    said, result = run.stdout.splitlines()
    assert re.fullmatch(r"n must be a number of threads that the system lets the process have, \d+, got 1024", said)
    assert result == "300.0"


def test_the_peak_refuses_other_types():
    for dtype in ("int32", "float16", "complex64"):
        with pytest.raises(TypeError, match="dtype"):
            runtime.fma_peak(dtype)
    with pytest.raises(TypeError, match=r"dtype must be .*'foo'"):
        runtime.fma_peak("foo")
    for threads in (0, -1, 2**31):
        with pytest.raises(ValueError, match="threads"):
            runtime.fma_peak(threads=threads)
    with pytest.raises(TypeError, match="threads"):
        runtime.fma_peak(threads=1.5)
    for seconds, error in ((-1, ValueError), (0, ValueError), (1e9, ValueError), ("a", TypeError)):
        with pytest.raises(error, match="seconds"):
            runtime.fma_peak(seconds=seconds)


# ---- forks ----


def in_child(function) -> bytes:
    """What function returns in a fork of this process; fail if the child hangs or dies."""
    read, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            os.write(write_end, function())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    deadline = time.monotonic() + 60
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)
    assert done[1] == 0, f"the child ended with status {done[1]}"
    return answer


def digest() -> bytes:
    import hashlib

    return hashlib.sha256(b"".join(work())).digest()


@forks
@warned
def test_the_child_of_a_fork_computes_the_same_bits():
    fastcnn.set_num_threads(4)
    wanted = digest()  # the pool of threads now exists
    assert in_child(digest) == wanted
    assert digest() == wanted


@forks
@warned
def test_the_child_of_a_child_computes_the_same_bits():
    fastcnn.set_num_threads(4)
    wanted = digest()
    assert in_child(lambda: in_child(digest)) == wanted


@forks
@warned
def test_the_child_of_a_fork_is_serial():
    fastcnn.set_num_threads(4)
    assert in_child(lambda: bytes([fastcnn.get_num_threads()])) == b"\x01"
    with fastcnn.threads(3):
        assert in_child(lambda: bytes([fastcnn.get_num_threads()])) == b"\x01"


@forks
@warned
def test_a_fork_beside_a_thread_at_work_does_not_hang():
    fastcnn.set_num_threads(2)
    wanted = digest()
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            work()

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert [in_child(digest) for _ in range(5)] == [wanted] * 5
    finally:
        stop.set()
        thread.join()


@forks
@warned
def test_a_fork_while_another_thread_changes_weights_does_not_hang():
    model = fastcnn.Sequential([fastcnn.Input((6,)), Dense(4)], seed=0)
    x = np.ones((2, 6), np.float32)
    wanted = model.predict(x).tobytes()
    changes = threading.Event()

    def change():
        with CHANGING:
            changes.set()
            time.sleep(0.2)

    thread = threading.Thread(target=change)
    thread.start()
    changes.wait()

    def predict():
        model.layers[0].bias = np.zeros(4)
        return model.predict(x).tobytes()

    assert in_child(predict) == wanted
    thread.join()
    assert predict() == wanted


def digest_of(number: int) -> bytes:
    return digest()


@forks
@warned
def test_a_pool_of_forks_computes_the_same_bits():
    fastcnn.set_num_threads(4)
    wanted = digest()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map_async(digest_of, range(6)).get(60) == [wanted] * 6


# ---- many Python threads at once ----


def test_python_threads_do_not_disturb_each_other():
    rng = np.random.default_rng(1)
    jobs = []
    for i in range(8):
        x = rng.standard_normal((1 + i % 3, 9 + i, 8, 3 + i)).astype(np.float32)
        w = rng.standard_normal((3, 3, 3 + i, 5 + 3 * i)).astype(np.float32)
        jobs.append((x, w))

    def compute(job):
        x, w = job
        y = nn.conv2d(x, w, padding="SAME")
        flat = y.reshape(-1, y.shape[-1])
        results = (*nn.conv2d_backward(y, x, w, padding="SAME"), nn.max_pool(y, 2), nn.matmul(flat, flat, True))
        return [r.tobytes() for r in (y, *results, *nn.moments(y))]

    fastcnn.set_num_threads(2)
    wanted = [compute(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            assert list(pool.map(compute, jobs)) == wanted


# ---- scratch memory ----


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def call_with_random_shapes(pick: random.Random) -> None:
    kind = pick.choice(("direct", "groups", "depthwise", "winograd-2x2", "winograd-4x4", "winograd-6x6"))
    c, k, size = pick.randint(1, 40), pick.randint(1, 40), pick.randint(1, 3)
    options = {"padding": "SAME"}
    if kind.startswith("winograd"):
        size = 3
        options["algorithm"] = kind
    else:
        options |= {"strides": pick.randint(1, 3), "dilations": pick.randint(1, 3)}
    if kind == "groups":
        options["groups"] = pick.randint(2, 9)
        c, k = (options["groups"] * pick.randint(1, 8) for _ in range(2))
    elif kind == "depthwise":
        options["groups"] = k = c
    x = np.ones((pick.randint(1, 3), pick.randint(3, 24), pick.randint(3, 24), c), np.float32)
    w = np.ones((size, size, c // options.get("groups", 1), k), np.float32)
    y = nn.conv2d(x, w, **options)
    nn.conv2d_backward(y, x, w, **options)
    nn.PreparedConv2D(w, x.shape, **options)(x)
    nn.max_pool_backward(nn.max_pool(x, 2), x, 2)
    nn.matmul(np.ones((pick.randint(1, 300), c)), np.ones((c, k)))
    nn.bias_add_backward(x)


@pytest.mark.parametrize("calls", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_scratch_memory_stays_bounded(calls):
    pick = random.Random(0)
    for _ in range(calls // 3):  # until the largest shapes have come by
        call_with_random_shapes(pick)
    scratch = _runtime.scratch_bytes()
    resident = resident_bytes() if Path("/proc/self/statm").exists() else 0
    for _ in range(calls):
        call_with_random_shapes(pick)
    assert _runtime.scratch_bytes() <= 2 * scratch + (1 << 20)
    assert _runtime.scratch_bytes() < 64 << 20
    if resident:
        assert resident_bytes() - resident < 48 << 20


def test_the_same_call_takes_no_more_memory():
    x, w = np.ones((2, 30, 30, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
    nn.conv2d(x, w, padding="SAME")
    scratch = _runtime.scratch_bytes()
    for _ in range(100):
        nn.conv2d(x, w, padding="SAME")
    assert _runtime.scratch_bytes() == scratch


def test_growing_calls_hold_no_more_scratch_memory_than_the_largest_needs():
    code = (
        "import numpy as np; from fastcnn import nn; from fastcnn._core import _runtime\n"
        "for n in range(40, 400, 20):\n"
        "    nn.matmul(np.ones((n, n), np.float32), np.ones((n, n), np.float32))\n"
        "print(_runtime.scratch_bytes() / _runtime.peak_scratch())"
    )
    assert 1 <= float(printed(code)) < 1.3


def test_the_most_scratch_memory_in_use_is_told_once():
    x, w = np.ones((2, 30, 30, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
    nn.conv2d(x, w, padding="SAME")
    _runtime.peak_scratch()
    nn.conv2d(x, w, padding="SAME")
    assert 9 * 16 * 16 * 4 < _runtime.peak_scratch() <= _runtime.scratch_bytes()
    assert _runtime.peak_scratch() == 0
    # The pixels that strides leave, and beside them the product's packed filters.
    nn.conv2d(np.ones((1, 28, 28, 256), np.float32), np.ones((1, 1, 256, 512), np.float32), strides=2)
    assert _runtime.peak_scratch() > 14 * 14 * 256 * 4 + 256 * 64 * 4


def test_scratch_memory_does_not_leak_on_errors():
    before = _runtime.scratch_bytes()
    x, w = np.ones((1, 1, 1, 1), np.float32), np.ones((2, 1, 1, 1), np.float32)
    for _ in range(20):
        with pytest.raises(MemoryError):
            nn.conv2d(x, w, (2**40, 1), (2**40, 0), (2**40, 1))
    assert _runtime.scratch_bytes() == before


def test_big_scratch_memory_is_given_back():
    # The packed copy of b alone takes more than the 256 MB that may be kept.
    code = (
        "import numpy as np, fastcnn\nfrom fastcnn import nn\nfrom fastcnn._core import _runtime\n"
        "fastcnn.set_num_threads(1)\n"
        "nn.conv2d(np.ones((1, 1, 1, 1), 'f4'), np.ones((2, 1, 1, 1), 'f4'), (2**26, 1), (2**26, 0), (2**26, 1))\n"
        "print(_runtime.scratch_bytes())"
    )
    assert int(printed(code)) <= 256 << 20


def test_two_python_threads_may_share_the_scratch_memory():
    # More calls at once than there are buffers to keep.
    barrier = threading.Barrier(12)
    a = np.ones((200, 300), np.float32)

    def compute(_):
        barrier.wait(30)
        return [nn.matmul(a, a, transpose_b=True).sum() for _ in range(5)]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(compute, range(12))) == [[200 * 200 * 300] * 5] * 12
