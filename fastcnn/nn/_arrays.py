"""Checks that all ops share: operands to plain float arrays, arguments to hashable form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import arguments
from .._core import _runtime
from ..arguments import brief, flag, number, plain
from ..shapes import elements

__all__ = ["FloatArray", "flag", "floats", "frozen", "like", "no_memory", "number", "real_array"]

FloatArray: TypeAlias = NDArray[Any]


def floats(names: tuple[str, ...], *values: Any, optional: int = 0) -> Sequence[FloatArray]:
    """Return the operands as C-ordered, aligned, native arrays of one float type.

    float32 and float64 stay, a mix of both becomes float64; integers, bools and half floats become the float of
    the other operands, or float32 if there is none. The last `optional` operands may be None and then stay so.

    Raises
    ------
    TypeError
        If an operand holds anything but real numbers.
    ValueError
        If it is ragged, or too large.
    """
    required = len(values) - optional
    if _runtime.are_plain(required, *values):
        return values
    arrays: list[Any] = [v if v is None and i >= required else real_array(v, names[i]) for i, v in enumerate(values)]
    native = [a.dtype.newbyteorder("=") for a in arrays if a is not None]
    dtype = np.float64 if np.float64 in native else np.float32
    ready: list[Any] = [None if a is None else plain(a, dtype, names[i]) for i, a in enumerate(arrays)]
    return ready


def real_array(value: Any, name: str) -> FloatArray:
    """Return value as an array of real numbers of any kind, of a size that the kernels can count.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """
    array = arguments.real_array(value, name)
    elements(array.shape, name)
    return array


def like(grad: FloatArray, shape: tuple[int | None, ...], name: str = "grad") -> None:
    """Raise ValueError unless the array called name has the given shape."""
    if grad.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {grad.shape}")


def no_memory(shape: tuple[int, ...], **got: Any) -> MemoryError:
    """Return the error to raise where a result can't be allocated, with the arguments that asked for it."""
    asked = ", ".join(f"{name}={value!r}" for name, value in got.items())
    return MemoryError(f"there is no memory for a result of shape {shape}, got {asked}")


def frozen(value: Any, name: str, depth: int = 0) -> Any:
    """Return a hashable twin of a spatial argument: ints, strings, None and tuples of them.

    Raises
    ------
    TypeError
        If there is anything else in it.
    """
    kind = type(value)
    if kind is int or kind is str or value is None:
        return value
    if kind is tuple:
        for v in value:
            if type(v) is not int:
                break
        else:
            return value
    if kind is tuple or kind is list:
        if depth > 3:
            raise TypeError(f"{name} must not be nested so deeply, got {brief(value)}")
        return tuple([frozen(v, name, depth + 1) for v in value])
    if isinstance(value, np.ndarray) and value.size <= 16:
        return frozen(value.tolist(), name)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{name} must be made of integers, got {brief(value)}")
