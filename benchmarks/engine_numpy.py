"""NumPy as an engine: its BLAS, for the matrix products."""

from __future__ import annotations

import numpy as np

from .data import Array, arrays
from .engine import Engine, Prepared
from .layers import Dense


def _same(result: Array) -> Array:
    return result


class NumpyEngine(Engine):
    """The number of threads is in the environment that the worker was started with."""

    def version(self) -> str:
        return np.__version__

    def dense(self, case: Dense, what: str, configuration: str) -> Prepared:
        x, w, g = arrays(case)
        if what == "forward":
            return Prepared(lambda: x @ w, _same)
        if what == "data":
            return Prepared(lambda: g @ w.T, _same)
        return Prepared(lambda: x.T @ g, _same)


ENGINE = NumpyEngine
