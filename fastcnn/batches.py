"""Data as batches: from arrays, shuffled or in order, or from any iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import brief, integer, real_batch

Array = NDArray[Any]
Batch = tuple[Any, Any]

DEFAULT_BATCH_SIZE = 32


@dataclass
class Batches:
    """Something that gives one epoch's batches ``(x, y)`` as often as it is asked; y may be None.

    length is the number of batches where it is known.
    """

    source: Any
    length: int | None

    def epoch(self, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """Give the batches of one epoch, in an order drawn from the generator where there is one and it can be."""
        for batch in self.source:
            if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
                raise ValueError(f"x must give pairs (x, y) when it is iterated over, got {type(batch).__name__}")
            yield batch[0], batch[1]


@dataclass
class ArrayBatches(Batches):
    """Batches of equal size from arrays; the last may be smaller."""

    x: Array
    y: Array | None
    batch_size: int

    def epoch(self, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """Give the batches of one epoch; in a shuffled one each is a copy, else a view."""
        count = len(self.x)
        indices = None if order is None else order.permutation(count)
        for start in range(0, count, self.batch_size):
            chosen: Any = slice(start, start + self.batch_size)
            if indices is not None:
                chosen = indices[chosen]
            yield self.x[chosen], None if self.y is None else self.y[chosen]


def batches(
    x: Any, y: Any = None, batch_size: int | None = None, labelled: bool = True, names: tuple[str, str] = ("x", "y")
) -> Batches:
    """Return x and y as batches.

    Parameters
    ----------
    x
        An array, a nested list of numbers, or an iterable of batches ``(x, y)``.
    y
        What is wanted for each sample of x, where x is an array.
    batch_size
        Samples a batch, 32 by default; iterables come in batches already.
    labelled
        Whether there must be a y.
    names
        What to call x and y in errors.

    Raises
    ------
    TypeError, ValueError
        If they do not go together.
    """
    x_name, y_name = names
    if isinstance(x, (str, bytes, Mapping)) or not (_is_array(x) or isinstance(x, Iterable)):
        raise TypeError(f"{x_name} must be an array or an iterable of batches (x, y), got {brief(x)}")
    if _is_array(x):
        array = real_batch(x, x_name)
        size = DEFAULT_BATCH_SIZE if batch_size is None else integer(batch_size, "batch_size")
        if labelled and y is None:
            raise ValueError(f"{y_name} must be given where {x_name} is an array, got None")
        targets = None if y is None else real_batch(y, y_name)
        if targets is not None and len(targets) != len(array):
            raise ValueError(f"{y_name} must have as many samples as {x_name}, {len(array)}, got {len(targets)}")
        return ArrayBatches(None, -(-len(array) // size), array, targets, size)
    for name, value in ((y_name, y), ("batch_size", batch_size)):
        if value is not None:
            raise ValueError(f"{name} must be None where {x_name} is an iterable of batches, got {brief(value)}")
    return Batches(x, len(x) if isinstance(x, Sized) else None)


def split(x: Any, y: Any, share: float) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Cut the last share of the samples off: ((x, y) to train on, (x, y) to validate on).

    Raises
    ------
    ValueError
        If x is no array or either part would be empty.
    """
    if not _is_array(x) or y is None:
        raise ValueError("validation_split needs x and y as arrays; pass validation_data instead")
    x, y = real_batch(x, "x"), real_batch(y, "y")
    count = int(len(x) * (1 - share))
    if not 0 < count < len(x):
        raise ValueError(f"validation_split must leave samples on both sides of {len(x)}, got {share!r}")
    return (x[:count], y[:count]), (x[count:], y[count:])


def _is_array(x: Any) -> bool:
    """Whether x is one array, and not an iterable of batches: lists count as arrays unless they hold tuples."""
    if isinstance(x, (list, tuple)):
        return not (len(x) and isinstance(x[0], tuple))
    return hasattr(x, "__array__") or hasattr(x, "__array_interface__")
