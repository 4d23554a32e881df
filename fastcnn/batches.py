"""Data as batches: from arrays, shuffled or in order, or from any iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import brief, in_order, integer, real_batch

Array = NDArray[Any]
Batch = tuple[Any, Any]

DEFAULT_BATCH_SIZE = 32


@dataclass
class Batches:
    """Something that gives one epoch's batches ``(x, y)`` as often as it is asked; y may be None.

    length is the number of batches where it is known, name what to call the source in errors.
    """

    source: Any
    length: int | None
    name: str = field(default="x", kw_only=True)

    def epoch(self, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """Give the batches of one epoch, in an order drawn from the generator where there is one and it can be."""
        for batch in self._given():
            if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
                size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
                raise ValueError(
                    f"{self.name} must give pairs (x, y) when it is iterated over, got {type(batch).__name__}{size}"
                )
            yield batch[0], batch[1]

    def _given(self) -> Iterator[Any]:
        if not isinstance(self.source, Iterable) and self.length is not None:
            return (self.source[index] for index in range(self.length))
        return iter(self.source)


@dataclass
class ArrayBatches(Batches):
    """Batches of equal size from arrays; the last may be smaller."""

    x: Array | list[Array]
    y: Array | list[Array] | None
    batch_size: int

    def epoch(self, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """Give the batches of one epoch; in a shuffled one each is a copy, else a view."""
        count = _count(self.x)
        indices = None if order is None else order.permutation(count)
        for start in range(0, count, self.batch_size):
            chosen: Any = slice(start, start + self.batch_size)
            if indices is not None:
                chosen = indices[chosen]
            yield _some(self.x, chosen), None if self.y is None else _some(self.y, chosen)


def batches(
    x: Any,
    y: Any = None,
    batch_size: int | None = None,
    labelled: bool = True,
    names: tuple[str, str] = ("x", "y"),
    parts: tuple[Sequence[str], Sequence[str]] = (("x",), ("y",)),
) -> Batches:
    """Return x and y as batches.

    Parameters
    ----------
    x
        An array, a nested list of numbers, a dict of it by the input's name, or an iterable of batches ``(x, y)``;
        where there are several inputs, a list of arrays, or a dict by their names, or an iterable of batches of such.
    y
        What is wanted for each sample of x, where x is an array.
    batch_size
        Samples a batch, 32 by default; iterables come in batches already.
    labelled
        Whether there must be a y.
    names
        What to call x and y in errors.
    parts
        The names of a model's inputs and of its outputs: y is a list too where there are several.

    Raises
    ------
    TypeError, ValueError
        If they do not go together.
    """
    x_name, y_name = names
    is_data = _is_data(x, parts[0])
    gives = isinstance(x, Iterable) or hasattr(type(x), "__getitem__")
    if not is_data and (isinstance(x, (str, bytes, Mapping)) or not gives):
        raise TypeError(f"{x_name} must be an array or an iterable of batches (x, y), got {brief(x)}")
    if is_data:
        data = samples(x, parts[0], x_name)
        size = DEFAULT_BATCH_SIZE if batch_size is None else integer(batch_size, "batch_size")
        if labelled and y is None:
            raise ValueError(f"{y_name} must be given where {x_name} is an array, got None")
        targets = None if y is None else samples(y, parts[1], y_name)
        if targets is not None and _count(targets) != _count(data):
            raise ValueError(f"{y_name} must have as many samples as {x_name}, {_count(data)}, got {_count(targets)}")
        return ArrayBatches(None, -(-_count(data) // size), data, targets, size)
    for name, value in ((y_name, y), ("batch_size", batch_size)):
        if value is not None:
            raise ValueError(f"{name} must be None where {x_name} is an iterable of batches, got {brief(value)}")
    return Batches(x, _length(x), name=x_name)


def split(
    x: Any, y: Any, share: float, parts: tuple[Sequence[str], Sequence[str]] = (("x",), ("y",))
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Cut the last share of the samples off: ((x, y) to train on, (x, y) to validate on).

    Raises
    ------
    ValueError
        If x is no array or either part would be empty.
    """
    if not _is_data(x, parts[0]) or y is None:
        raise ValueError("validation_split needs x and y as arrays; pass validation_data instead")
    x, y = samples(x, parts[0], "x"), samples(y, parts[1], "y")
    total = _count(x)
    count = int(total * (1 - share))
    if not 0 < count < total:
        raise ValueError(f"validation_split must leave samples on both sides of {total}, got {share!r}")
    first, rest = slice(count), slice(count, None)
    return (_some(x, first), _some(y, first)), (_some(x, rest), _some(y, rest))


def samples(value: Any, names: Sequence[str], what: str) -> Array | list[Array]:
    """Return one array, or, where there are several names, a list of arrays of as many samples each.

    Raises
    ------
    TypeError, ValueError
        If value is no such.
    """
    if len(names) == 1:
        if type(value) is not np.ndarray and isinstance(value, Mapping):  # the first is quick to see
            value = in_order(value, names, what)[0]
        return real_batch(value, what)
    arrays = [
        real_batch(array, f"{what} for {n}") for n, array in zip(names, in_order(value, names, what), strict=True)
    ]
    for name, array in zip(names, arrays, strict=True):
        if len(array) != len(arrays[0]):
            raise ValueError(
                f"{what} for {name} must have as many samples as for {names[0]}, {len(arrays[0])}, got {len(array)}"
            )
    return arrays


def _length(source: Any) -> int | None:
    """Return the number of batches of an iterable; None where it has none, or does not know it."""
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None


def _some(data: Array | list[Array], chosen: Any) -> Any:
    return [array[chosen] for array in data] if isinstance(data, list) else data[chosen]


def _count(data: Array | list[Array]) -> int:
    return len(data[0] if isinstance(data, list) else data)


def _is_data(x: Any, names: Sequence[str]) -> bool:
    """Whether x is data, and not an iterable of batches; of several inputs it is a list or dict of arrays."""
    if len(names) == 1:
        return _is_array(x) or (isinstance(x, Mapping) and names[0] in x)
    return isinstance(x, Mapping) or (isinstance(x, (list, tuple)) and _is_array(x))


def _is_array(x: Any) -> bool:
    """Whether x is one array, and not an iterable of batches: lists count as arrays unless they hold tuples."""
    if isinstance(x, (list, tuple)):
        return not (len(x) and isinstance(x[0], tuple))
    return hasattr(x, "__array__") or hasattr(x, "__array_interface__")
