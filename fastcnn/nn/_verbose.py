"""FASTCNN_VERBOSE=1: one line on the standard error for every operation, as comma-separated values.

The operations are wrapped when the package is imported with this setting, and are what they are without it.
"""

from __future__ import annotations

import inspect
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

import numpy as np

from .._core import _runtime
from . import between, conv, normalization, pool

HEADER = "fastcnn,operation,shapes,algorithm,isa,threads,ms,rate"

# What consists of other operations, which have lines of their own.
_COMPOSITE = {
    "conv2d_backward",
    "conv2d_max_pool_with_argmax_backward",
    "conv2d_transpose_backward",
    "dense_backward",
    "matmul_backward",
    "class_probabilities",
}
_RESULTS = {
    "conv2d": "forward",
    "conv2d_max_pool_with_argmax": "forward",
    "conv2d_backward_input": "input",
    "conv2d_backward_filters": "filters",
    "depthwise_backward": "filters",
    "max_pool_backward_filters": "filters",
    "measured_conv2d": "forward",
    "normalized_backward": "filters",
    "normalized_backward_filters": "filters",
}

_state = threading.local()


def install(package: ModuleType) -> None:
    """Wrap the operations of ``fastcnn.nn``, and what one of them does in one pass, wherever its modules name them.

    Parameters
    ----------
    package
        The package itself.
    """
    print(HEADER, file=sys.stderr)
    modules = [package, *(value for value in vars(package).values() if isinstance(value, ModuleType))]
    public = (getattr(package, name) for name in package.__all__ if name not in _COMPOSITE)
    hidden = (
        between.measured_conv2d,
        between.normalized_backward,
        between.normalized_backward_filters,
        conv.depthwise_backward,
        conv.max_pool_backward_filters,
        normalization.unwritten_gradient,
        normalization.written_gradient,
        normalization.written_result,
        pool.relu_max_pool_backward,
    )
    for operation in (*public, *hidden):
        if not callable(operation):
            continue
        if isinstance(operation, type):
            setattr(operation, "__call__", _timed(operation.__call__))  # noqa: B010
            continue
        wrapped = _timed(operation)
        for module in modules:
            for key, value in list(vars(module).items()):
                if value is operation:
                    setattr(module, key, wrapped)


def _timed(operation: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(operation)
    kinds = {name: str(parameter.annotation) for name, parameter in signature.parameters.items()}
    operands = [name for name, kind in kinds.items() if "Array" in kind or "Normalized" in kind]

    @wraps(operation)
    def timed(*args: Any, **kwargs: Any) -> Any:
        if getattr(_state, "inside", False):
            return operation(*args, **kwargs)
        _state.inside = True
        try:
            start = time.perf_counter()
            result = operation(*args, **kwargs)
            seconds = time.perf_counter() - start
        finally:
            _state.inside = False
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        name = operation.__qualname__.removesuffix(".__call__")
        print(line(name, bound.arguments, operands, result, seconds), file=sys.stderr)
        return result

    return timed


def timed_step(run: Callable[[], Any], name: str, shapes: str, algorithm: str, flops: int, nbytes: int) -> Any:
    """Return a function that runs a step of a plan and prints its line.

    Parameters
    ----------
    run
        The step.
    name, shapes, algorithm
        What the line says.
    flops, nbytes
        What its rate is worked out of: operations where there are any, else bytes.
    """

    def timed() -> None:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        rate = f"{flops / seconds / 1e9:.2f} GFLOP/s" if flops else f"{nbytes / seconds / 1e9:.2f} GB/s"
        print(_record(name, shapes, algorithm or "-", seconds, rate), file=sys.stderr)

    return timed


def line(name: str, arguments: Mapping[str, Any], operands: Sequence[str], result: Any, seconds: float) -> str:
    """Return the line about one call.

    Parameters
    ----------
    name
        Of the operation.
    arguments, result
        What it was called with, and what it returned.
    operands
        Which of the arguments are arrays; those that are None are left out.
    seconds
        How long it took.
    """
    arrays = {key: arguments[key] for key in operands if arguments[key] is not None}
    shapes = " ".join(f"{key}:{_shape(value)}" for key, value in arrays.items())
    flops = _flops(name, arguments, result)
    if flops is None:
        results = result if isinstance(result, tuple) else (result,)
        moved = [*arrays.values(), *(value for value in results if not isinstance(value, normalization.UNWRITTEN))]
        if isinstance(arrays.get("grad"), normalization.SummedGradient):
            moved = [value for value in moved if np.ndim(value) == 1]  # its images are not looked at again
        rate = f"{sum(map(_nbytes, moved)) / seconds / 1e9:.2f} GB/s"
    else:
        rate = f"{flops / seconds / 1e9:.2f} GFLOP/s"
    return _record(name, shapes, _algorithm(name, arguments, result), seconds, rate)


def _record(name: str, shapes: str, algorithm: str, seconds: float, rate: str) -> str:
    threads = _runtime.last_threads()
    return f"fastcnn,{name},{shapes},{algorithm},{_runtime.active_isa()},{threads},{seconds * 1e3:.4f},{rate}"


def _shape(value: Any) -> str:
    """Return an operand's shape, or of several arrays, as an optimiser takes, their number."""
    several = isinstance(value, (list, tuple)) and any(isinstance(item, np.ndarray) for item in value)
    shape = (len(value),) if several else np.shape(value)
    return "x".join(map(str, shape)) or "1"


def _nbytes(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return sum(map(_nbytes, value))
    if isinstance(value, normalization.NormalizedGradient):
        return value.grad.nbytes + value.result.x.nbytes
    if isinstance(value, normalization.NormalizedResult):
        return value.x.nbytes
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _flops(name: str, arguments: Mapping[str, Any], result: Any) -> Any:
    """Return the floating-point operations of the direct method, None for what moves more than it computes."""
    if name == "PreparedConv2D":
        return arguments["self"].flops
    if name in _RESULTS:
        (_, output), filters = _convolution(arguments)
        gradients = 2.0 if name in ("depthwise_backward", "normalized_backward") else 1.0
        return gradients * 2.0 * math.prod(output) * math.prod(filters[:3])
    if name == "conv2d_transpose":
        return 2.0 * np.size(arguments["input"]) * math.prod(np.shape(arguments["filters"])[:3])
    if name == "matmul":
        return 2.0 * np.size(arguments["a"]) * result.shape[1]
    if name == "dense":
        return 2.0 * np.size(arguments["x"]) * result.shape[-1]
    return None


def _algorithm(name: str, arguments: Mapping[str, Any], result: Any) -> str:
    if name == "PreparedConv2D":
        prepared: str = arguments["self"].algorithm
        return prepared
    if name == "conv2d_transpose":
        name, arguments = "conv2d_backward_input", {**arguments, "input_shape": result.shape, "groups": 1}
    if name not in _RESULTS:
        return "-"
    (geometry, _), _ = _convolution(arguments)
    array = result[0] if isinstance(result, tuple) else result
    if isinstance(array, (between.MeasuredResult, normalization.SummedGradient)):
        array = arguments["filters"]
    return conv.algorithm_for(geometry, arguments.get("algorithm", "auto"), _RESULTS[name], array)


def _convolution(arguments: Mapping[str, Any]) -> tuple[tuple[Any, tuple[int, ...]], tuple[int, ...]]:
    """Return geometry and output shape of the convolution that a call is one of, or a gradient of, and its filters'."""
    image, filters = (
        tuple(arguments[f"{operand}_shape"] if f"{operand}_shape" in arguments else np.shape(arguments[operand]))
        for operand in ("input", "filters")
    )
    options = (arguments[option] for option in ("strides", "padding", "dilations", "groups"))
    return conv.geometry_of(image, filters, *options), filters
