"""Memory that arrays leave to those after them."""

from __future__ import annotations

import itertools
import mmap
import subprocess
import sys
import threading

import numpy as np
import pytest
from checks import normals

import fastcnn
from fastcnn import runtime
from fastcnn._core import _memory
from fastcnn.layers import Conv2D, Dense, Dropout, Flatten, MaxPool2D

LARGE = 1 << 16


@pytest.fixture(autouse=True)
def nothing_waits():
    runtime.release_memory()
    yield
    runtime.release_memory()
    assert _memory.held() == (0, 0)


@pytest.fixture(params=[runtime.ReusingMemory, runtime.AlignedMemory])
def memory(request):
    return request.param


def address(array):
    return array.__array_interface__["data"][0]


def test_an_array_has_the_memory_of_the_one_before():
    with runtime.ReusingMemory():
        first = np.empty(LARGE, np.uint8)
        place = address(first)
        assert place % 64 == 0
        del first
        second = np.empty((2, LARGE // 8), np.float32)
        assert address(second) == place
        third = np.empty(LARGE, np.uint8)
        assert address(third) != place
    outside = np.empty(LARGE, np.uint8)
    del second, third
    used, waiting = _memory.held()
    assert used == 0 and 2 * LARGE <= waiting <= 2 * LARGE + 3 * 4096
    assert outside.size == LARGE


def test_an_array_outlives_the_context():
    with runtime.ReusingMemory():
        array = np.arange(LARGE)
    runtime.release_memory()
    assert (array == np.arange(LARGE)).all()
    assert _memory.held()[0] >= array.nbytes


def test_zeros_are_zeros_in_used_memory(memory):
    with memory():
        np.full(LARGE, 7)
        zeros = np.zeros(LARGE, int)
        assert not zeros.any()
        del zeros
        small = np.zeros(100)
        assert not small.any()


def test_arrays_that_change_their_size_keep_what_they_hold(memory):
    with memory():
        array = np.arange(LARGE)
        for size in (2 * LARGE, 5 * LARGE, 10, 3 * LARGE):
            kept = min(size, array.size)
            before = array[:kept].copy()
            array.resize(size, refcheck=False)
            assert (array[:kept] == before).all()
        del before
        del array


@pytest.mark.parametrize("shape", [(0,), (0, 500, 500), (500, 0, 500), (), (1,)])
def test_empty_and_small_arrays(memory, shape):
    with memory():
        array = np.ones(shape, np.float32)
        assert address(array) % 64 == 0
        assert array.sum() == array.size
        del array


def test_what_numpy_makes_for_itself_comes_back(memory):
    x = normals(3, 200, 150)
    expected = np.sort(x, axis=0), np.argsort(x, axis=None, kind="stable"), np.linalg.qr(x[0])[1], x[0] @ x[1].T
    with memory():
        found = np.sort(x, axis=0), np.argsort(x, axis=None, kind="stable"), np.linalg.qr(x[0])[1], x[0] @ x[1].T
        assert all((a == b).all() for a, b in zip(expected, found, strict=True))
        del found


def test_what_waits_is_bounded():
    with runtime.ReusingMemory():
        for size in range(1, 60):
            np.empty(size * LARGE, np.uint8)
            used, waiting = _memory.held()
            assert used == 0 and waiting <= 2 * (size * LARGE + 4096)
        many = [np.empty(LARGE + 4096 * (i % 10), np.uint8) for i in range(3000)]
        apart = many[::2]  # more of them wait than there is room for
        del many
        assert _memory.held()[0] >= 1500 * LARGE
        del apart
        assert _memory.held()[0] == 0


def test_what_waits_side_by_side_is_one_and_is_cut():
    size = 1 << 20
    step = size + mmap.PAGESIZE  # what an array takes
    with runtime.ReusingMemory():
        whole = np.empty(8 * step - 64, np.uint8)
        start = address(whole)
        del whole
        arrays = sorted((np.empty(size, np.uint8) for _ in range(8)), key=address)
        assert [address(array) for array in arrays] == [start + i * step for i in range(8)]
        assert _memory.held() == (8 * step, 0)
        kept = arrays[4]
        kept[:] = 4
        for i in (2, 0, 1, 3, 6, 5, 7):  # before one that waits, behind it, between two
            arrays[i] = None
        four = np.full(4 * size, 1, np.uint8)
        assert address(four) == start
        small = [np.full(size // 4, 2, np.uint8) for _ in range(8)]
        assert all(start + 5 * step <= address(array) < start + 8 * step for array in small)
        assert sum(_memory.held()) == 8 * step
    assert (kept == 4).all() and (four == 1).all() and all((array == 2).all() for array in small)
    del arrays, kept, four, small


def test_many_blocks_wait_beside_a_large_one():
    with runtime.ReusingMemory():
        large = np.empty(64 << 20, np.uint8)  # more than half of what will wait
        many = [np.full(LARGE // 2, i % 256, np.uint8) for i in range(3000)]
        del large
        kept = many[::2]  # between those that will wait, more than there is room for
        del many
        used, waiting = _memory.held()
        assert used >= 1500 * LARGE // 2 and waiting >= 500 * LARGE // 2
        again = [np.full(LARGE, i % 256, np.uint8) for i in range(300)]
    for i, array in enumerate(kept):
        assert (array == 2 * i % 256).all()
    for i, array in enumerate(again):
        assert (array == i % 256).all()
    del kept, again, array


def test_a_block_that_fits_nothing_takes_the_place_of_those_that_wait():
    size = 24 << 20
    with runtime.ReusingMemory():
        arrays = [np.empty(size, np.uint8) for _ in range(5)]
        held = sum(_memory.held())
        del arrays[::2]
        more = np.full(2 * size, 3, np.uint8)
        used, waiting = _memory.held()
        assert used + waiting <= held + 2 * mmap.PAGESIZE
        for array in (*arrays, more):
            array[:] = 5
    assert used >= 4 * size and waiting <= size + 2 * mmap.PAGESIZE
    del arrays, more, array


def test_there_is_an_error_where_there_is_no_memory(memory):
    with memory(), pytest.raises(MemoryError):
        np.empty(1 << 60, np.uint8)
    with memory(), pytest.raises(MemoryError):
        np.zeros(1 << 60, np.uint8)


def test_contexts_can_be_nested_and_are_left_by_errors():
    with pytest.raises(ZeroDivisionError), runtime.ReusingMemory():
        with runtime.ReusingMemory():
            pass
        inside = np.empty(LARGE)
        assert _memory.held()[0] >= inside.nbytes
        del inside
        1 / 0  # noqa: B018
    outside = np.empty(LARGE)
    assert _memory.held()[0] == 0
    assert outside.size == LARGE


def test_aligned_memory_does_not_wait():
    with runtime.AlignedMemory():
        arrays = [np.ones(size, np.uint8) for size in (1, 100, LARGE // 8, LARGE, 100 * LARGE)]
    assert all(address(array) % 64 == 0 for array in arrays)
    assert all(array.all() for array in arrays)
    del arrays
    assert _memory.held() == (0, 0)


def test_large_arrays_lie_side_by_side(memory):
    size = 1 << 20  # less than a huge page, which several then share
    with memory():
        arrays = [np.full(size, i, np.uint8) for i in range(100)]
    places = [address(array) for array in arrays]
    apart = [after - before for before, after in itertools.pairwise(places)]
    assert apart.count(size + mmap.PAGESIZE) >= 97  # all but those where a region ends
    del arrays[::2]
    assert [int(array[-1]) for array in arrays] == list(range(1, 100, 2))
    with memory():
        arrays += [np.full(1 << 27, 200, np.uint8), np.full(size, 201, np.uint8)]  # more than a region
    for array, value in zip(arrays, [*range(1, 100, 2), 200, 201], strict=True):
        assert (array == value).all()


def test_weights_begin_at_cache_lines(tmp_path):
    model = network()
    model.save(tmp_path / "model.safetensors")
    for weights in (model.weights, fastcnn.load(tmp_path / "model.safetensors").weights):
        assert [address(array) % 64 for array in weights.values()] == [0] * 4


def test_several_threads_at_a_time():
    def work(seed):
        rng = np.random.default_rng(seed)
        with runtime.ReusingMemory():
            for _ in range(200):
                size = int(rng.integers(1, 4)) * LARGE
                array = np.full(size, seed, np.uint8)
                wrong.extend([seed] * int((array != seed).any()))

    wrong: list[int] = []
    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def network():
    model = fastcnn.Sequential(
        [fastcnn.Input((20, 20, 3)), Conv2D(16, 3), MaxPool2D(2), Flatten(), Dropout(0.2), Dense(10)], seed=0
    )
    model.compile("adam", fastcnn.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_steps_of_training_take_no_new_memory_and_give_the_same(monkeypatch):
    x, y = normals(32, 20, 20, 3, dtype=np.float32), np.arange(32) % 10
    model = network()
    for _ in range(2):
        model.train_on_batch(x, y)
    before = _memory.held()
    assert before[1] > 32 * 18 * 18 * 16 * 4
    for _ in range(3):
        model.train_on_batch(x, y)
    assert _memory.held() == before
    plain = network()

    class Nothing:
        def __enter__(self):
            return None

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(runtime, "ReusingMemory", Nothing)
    for _ in range(5):
        plain.train_on_batch(x, y)
    assert all((a == b).all() for a, b in zip(model.get_weights(), plain.get_weights(), strict=True))


def test_fit_leaves_nothing_waiting():
    model = network()
    model.fit(normals(32, 20, 20, 3), np.arange(32) % 10, verbose=0)
    assert _memory.held() == (0, 0)


def test_a_process_ends_well_with_arrays_alive():
    code = (
        "import numpy as np, fastcnn\n"
        "with fastcnn.runtime.ReusingMemory():\n    kept = [np.ones(100000) for _ in range(3)]\n"
        "with fastcnn.runtime.AlignedMemory():\n    kept += [np.ones(100000) for _ in range(3)]\n"
        "import sys; sys.kept = kept\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
