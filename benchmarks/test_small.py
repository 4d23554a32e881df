"""Small work: what a call costs at least, and where a second thread begins to pay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from fastcnn import nn, runtime

from .peers import threads_here

Array = NDArray[np.float32]


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


PIXEL, FILTER, MATRIX = normal(1, 1, 1, 8), normal(1, 1, 8, 8), normal(8, 8)
MEAN, VARIANCE = normal(8), np.abs(normal(8))
PREPARED = nn.PreparedConv2D(FILTER, PIXEL.shape)
CALLS: dict[str, Callable[[], Any]] = {
    "relu": lambda: nn.relu(MATRIX),
    "matmul": lambda: nn.matmul(MATRIX, MATRIX),
    "conv2d": lambda: nn.conv2d(PIXEL, FILTER),
    "PreparedConv2D": lambda: PREPARED(PIXEL),
    "max_pool": lambda: nn.max_pool(PIXEL, 1),
    "dense": lambda: nn.dense(MATRIX, MATRIX, MEAN, "relu"),
    "batch_normalization": lambda: nn.batch_normalization(MATRIX, MEAN, VARIANCE, MEAN, MEAN, 1e-3),
    "moments": lambda: nn.moments(MATRIX),
    "softmax": lambda: nn.softmax(MATRIX),
    "sgd_step": lambda: nn.sgd_step([MATRIX], [MATRIX], None, 0.0),
    "relu_backward": lambda: nn.relu_backward(MATRIX, MATRIX),
    "dense_backward": lambda: nn.dense_backward(MATRIX, MATRIX, MATRIX),
    "conv2d_backward_input": lambda: nn.conv2d_backward_input(PIXEL, FILTER, PIXEL.shape),
    "conv2d_backward_filters": lambda: nn.conv2d_backward_filters(PIXEL, PIXEL, FILTER.shape),
    "batch_normalization_backward": lambda: nn.batch_normalization_backward(MATRIX, MATRIX, MEAN, VARIANCE, MEAN, 1e-3),
}


@pytest.mark.benchmark(group="a call on 8 to 64 numbers", max_time=0.1)
@pytest.mark.parametrize("name", CALLS)
def test_call(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(CALLS[name])


@pytest.mark.benchmark(max_time=0.1)
@pytest.mark.parametrize("threads", sorted({1, threads_here()}))
@pytest.mark.parametrize("rows", [40, 50, 60, 100, 200, 400])
def test_threads(benchmark: BenchmarkFixture, rows: int, threads: int) -> None:
    x, kernel = normal(rows, 64), normal(64, 64)
    flops = 2 * x.size * kernel.shape[1]
    benchmark.group = f"matmul of {flops / 1e6:.1f} million operations"
    with runtime.threads(threads):
        benchmark(nn.matmul, x, kernel)
