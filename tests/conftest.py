"""Fixtures that several test files share: the data sets, instruction sets, threads, element types."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import datasets
from fastcnn._core import _runtime

# The benchmarks are no part of the package. At the end: the sources beside them would hide what is installed.
sys.path.append(str(Path(__file__).parents[1]))

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="session")
def digits():
    """The shipped digits: ((x_train, y_train), (x_test, y_test))."""
    return datasets.load_digits()


@pytest.fixture(scope="session")
def fashion_mnist_folder() -> Path:
    if not (DEBIAN_FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    return DEBIAN_FASHION_MNIST


@pytest.fixture(params=fastcnn.runtime.available_isas())
def isa(request):
    """Run the test under each instruction set that this CPU has."""
    before = fastcnn.runtime.active_isa()
    _runtime.use_isa(request.param)
    yield request.param
    _runtime.use_isa(before)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    """Run the test with one thread, and with two for what is large enough."""
    with fastcnn.threads(request.param):
        yield request.param


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    return request.param


@pytest.fixture(scope="session", autouse=True)
def away_from_the_sources(tmp_path_factory) -> Iterator[None]:
    """Run elsewhere: interpreters that tests start would import the checkout's sources, which need not be compiled."""
    here = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(here)
