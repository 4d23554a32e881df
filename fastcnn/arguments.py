"""What arguments go through: checks whose errors name the argument and echo the value."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from reprlib import Repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: No array can have more elements: their bytes would not fit into the 47-bit address space of today's CPUs. Products
#: with an element's size and a number of threads then fit into the kernels' 64-bit offsets.
MAX_ELEMENTS = 2**47
#: The least normal float32: a smaller divisor would be lost in the kernels.
TINY = float(np.finfo(np.float32).tiny)

# How far beyond 1 a sum of probabilities may be rounded.
_ROUNDING = 1e-6


def integer(value: Any, name: str, minimum: int = 1, got: Any = None) -> int:
    """Return value as an int of at least minimum.

    Parameters
    ----------
    value
        Anything with ``__index__`` but a bool.
    name
        The argument's name, for the error.
    minimum
        The smallest value allowed.
    got
        What to echo in the error, where value is part of something larger.

    Raises
    ------
    TypeError
        If value is no integer.
    ValueError
        If it is smaller than minimum, or larger than any array.

    Examples
    --------
    >>> integer(3, "strides")
    3
    """
    got = value if got is None else got
    try:
        if _is_bool(value):
            raise TypeError
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be made of integers, got {brief(got)}") from None
    if not minimum <= number <= MAX_ELEMENTS:
        raise ValueError(f"{name} must be made of integers from {minimum} to 2**47, got {brief(got)}")
    return number


def seed(value: Any, name: str = "seed") -> int:
    """Return value as an int in [0, 2^64), the key of a random generator.

    Raises
    ------
    TypeError, ValueError
        If value is no such integer.

    Examples
    --------
    >>> seed(7)
    7
    """
    try:
        if _is_bool(value):
            raise TypeError
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {brief(value)}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} must be in [0, 2**64), got {brief(value)}")
    return number


def fresh_seed() -> int:
    """Return a seed from the operating system.

    Examples
    --------
    >>> 0 <= fresh_seed() < 2**64
    True
    """
    return int.from_bytes(os.urandom(8), "little")


def number(value: Any, name: str, low: float, high: float, open_end: bool = False) -> float:
    """Return value as a float in [low, high], or in [low, high) where the end is open.

    Raises
    ------
    TypeError
        If value is no real number.
    ValueError
        If it is outside, or NaN.
    """
    if _is_bool(value) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a number, got {brief(value)}")
    try:
        x = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a number, got {brief(value)}") from None
    if not low <= x <= high or (open_end and x == high) or abs(x) == float("inf"):
        raise ValueError(f"{name} must be {_interval(low, high, open_end)}, got {brief(value)}")
    return x


def _interval(low: float, high: float, open_end: bool) -> str:
    if high < float("inf"):
        return f"in [{low}, {high}{')' if open_end else ']'}"
    return "a finite number" + (f" of at least {low}" if low > -float("inf") else "")


def choice(value: Any, name: str, allowed: Sequence[str], got: Any = None) -> str:
    """Return value if it is one of the allowed words; else the error echoes it, or what it was made of.

    Raises
    ------
    ValueError
        If it is not.

    Examples
    --------
    >>> choice("fan_in", "mode", ("fan_in", "fan_out"))
    'fan_in'
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {brief(value if got is None else got)}")
    return value


def text(value: Any, name: str) -> str:
    """Return value if it is a string that is not empty.

    Raises
    ------
    TypeError
        If it is not.

    Examples
    --------
    >>> text("accuracy", "name")
    'accuracy'
    """
    if not (isinstance(value, str) and value):
        raise TypeError(f"{name} must be a text, got {brief(value)}")
    return value


def file_path(value: Any, name: str = "path") -> Path:
    """Return value as a path, with ``~`` resolved.

    Raises
    ------
    TypeError, ValueError
        If it is none that a file or folder can have.

    Examples
    --------
    >>> file_path("model.safetensors").suffix
    '.safetensors'
    """
    try:
        found = Path(value)
    except TypeError:
        raise TypeError(f"{name} must be a path, got {brief(value)}") from None
    if "\0" in str(found):
        raise ValueError(f"{name} must be without null characters, got {brief(value)}")
    try:
        return found.expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{name} must begin with the name of a user where it begins with ~, got {brief(value)}"
        ) from error


def flag(value: Any, name: str) -> bool:
    """Return value as a bool.

    Raises
    ------
    TypeError
        If it is anything but True, False, or NumPy's.

    Examples
    --------
    >>> flag(True, "use_bias")
    True
    """
    if not _is_bool(value):
        raise TypeError(f"{name} must be True or False, got {brief(value)}")
    return bool(value)


def real_array(value: Any, name: str) -> NDArray[Any]:
    """Return value as an array of real numbers of at most 64 bits, of any kind; a masked one is refused.

    Raises
    ------
    TypeError, ValueError
        If it is none.

    Examples
    --------
    >>> real_array([[1, 2]], "x").shape
    (1, 2)
    """
    if type(value) is not np.ndarray and isinstance(value, np.ndarray) and hasattr(value, "mask"):
        raise TypeError(f"{name} must not be masked, as the mask would be ignored, got {brief(value)}")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # the last of tensors that need a gradient
        raise ValueError(f"{name} must be an array of numbers, got {brief(value)}: {error}") from None
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{name} must hold real numbers of at most 64 bits, got {brief(value)}, an array of dtype {array.dtype}"
        )
    return array


def read_only(x: Any) -> Any:
    """Return an array, or a list of them, as views that can't be written to.

    Examples
    --------
    >>> read_only(np.ones(2)).flags.writeable
    False
    """
    if isinstance(x, list):
        return [read_only(array) for array in x]
    view = x.view()
    view.flags.writeable = False
    return view


def real_batch(value: Any, name: str) -> NDArray[Any]:
    """Return value as an array of real numbers whose first axis counts samples.

    Raises
    ------
    TypeError, ValueError
        If it is none.

    Examples
    --------
    >>> len(real_batch([[1, 2]], "x"))
    1
    """
    array = real_array(value, name)
    if array.ndim < 1:
        raise ValueError(f"{name} must have a batch axis, got shape {array.shape}")
    return array


def plain(array: NDArray[Any], dtype: Any, name: str) -> NDArray[Any]:
    """Return an array as kernels read it, C-ordered, aligned and native, a copy where it is not so already.

    Raises
    ------
    MemoryError
        If there is none for the copy.

    Examples
    --------
    >>> plain(np.eye(2).T, "float32", "x").dtype
    dtype('float32')
    """
    if type(array) is np.ndarray and array.dtype == dtype:
        flags = array.flags
        if flags.c_contiguous and flags.aligned:
            return array  # as it nearly always is; NumPy takes four times as long to find out
    try:
        return np.require(array, dtype, ["C", "A"])
    except MemoryError:
        raise MemoryError(f"there is no memory for a copy of {name}, got an array of shape {array.shape}") from None


def must_be_probabilities(array: NDArray[Any], name: str) -> None:
    """Raise ValueError unless the array holds numbers in [0, 1] alone, but for what sums of such are rounded by.

    Examples
    --------
    >>> must_be_probabilities(np.array([0.0, 1.0]), "labels")
    """
    inside = (array >= -_ROUNDING) & (array <= 1 + _ROUNDING)
    if not inside.all():
        raise ValueError(f"{name} must hold probabilities in [0, 1], got {array[~inside][0]}")


def within(place: str, error: Exception) -> Exception:
    """Return an error that says where another one was met: a TypeError or a ValueError, as that one is.

    Examples
    --------
    >>> within("layer dense", ValueError("units must be at least 1, got 0"))
    ValueError('layer dense: units must be at least 1, got 0')
    """
    return (TypeError if isinstance(error, TypeError) else ValueError)(f"{place}: {error}")


def brief(value: Any) -> str:
    """Return a text that shows value in one line, cut short where it is long.

    Examples
    --------
    >>> brief("word"), brief([1, 2, 3, 4, 5, 6, 7, 8])
    ("'word'", '[1, 2, 3, 4, 5, 6, ...]')
    >>> brief(np.zeros((8, 32, 32, 3)))
    'an array of float64 of shape (8, 32, 32, 3)'
    """
    return " ".join(_brief.repr(value).split())


class _Brief(Repr):
    """Knows what to show of arrays, by the name of their class."""

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no numbers of thousands of digits
            return f"an integer of {x.bit_length()} bits"

    def repr_ndarray(self, array: NDArray[Any], _level: int) -> str:
        return repr(array) if array.size <= 6 else f"an array of {array.dtype} of shape {array.shape}"


_brief = _Brief()
_brief.maxother = _brief.maxstring = 60


def in_order(values: Any, names: Sequence[str], what: str) -> list[Any]:
    """Return one value for each name, from a list of as many or a dict by name.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or there are others.

    Examples
    --------
    >>> in_order({"b": 2, "a": 1}, ["a", "b"], "x")
    [1, 2]
    """
    if isinstance(values, Mapping):
        if set(values) != set(names):
            raise ValueError(f"{what} must be given by the names {', '.join(names)}, got {brief(list(values))}")
        return [values[name] for name in names]
    if not isinstance(values, (list, tuple)):
        raise TypeError(
            f"{what} must be a list of {len(names)} or a dict by the names {', '.join(names)}, got {brief(values)}"
        )
    if len(values) != len(names):
        raise ValueError(f"{what} must be {len(names)}, for {', '.join(names)}, got {len(values)}")
    return list(values)


def float_type(value: Any, name: str = "dtype") -> str:
    """Return the name of an element type that results can have.

    Raises
    ------
    TypeError, ValueError
        If it is neither float32 nor float64, in any of NumPy's spellings.

    Examples
    --------
    >>> float_type("float32"), float_type(np.float64)
    ('float32', 'float64')
    """
    try:
        found = np.dtype(value).name if value is not None else ""
    except (TypeError, ValueError, SyntaxError):  # the last from a text that begins like a list of types
        found = ""
    return choice(found, name, ("float32", "float64"), value)


def _is_bool(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")
