"""Convolutional neural networks for object recognition on CPUs: NumPy arrays in, NumPy arrays out.

``fastcnn.nn`` holds operations on arrays, ``fastcnn.layers`` layers, :class:`Sequential` makes a model of them;
``fastcnn.models`` has networks from the papers, ``fastcnn.datasets`` real pictures to begin with.
"""

from typing import TYPE_CHECKING, Any

from . import initializers, layers, losses, metrics, nn, optimizers, runtime, shapes
from .layers import Input
from .model import Model, load
from .progress import History
from .runtime import get_num_threads, info, set_num_threads, threads
from .sequential import Sequential

if TYPE_CHECKING:
    from . import datasets, models, viz

__version__ = "0.1.0"

__all__ = [
    "History",
    "Input",
    "Model",
    "Sequential",
    "datasets",
    "get_num_threads",
    "info",
    "initializers",
    "layers",
    "load",
    "losses",
    "metrics",
    "models",
    "nn",
    "optimizers",
    "runtime",
    "set_num_threads",
    "shapes",
    "threads",
    "viz",
]


def __getattr__(name: str) -> Any:
    # Loaded when it is first asked for: what reads and checks files costs a fifth of the time of the import.
    if name in ("datasets", "models", "viz"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
