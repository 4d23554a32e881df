"""What both importers share: how an array is checked, and the error that names all that does not match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..arguments import brief, real_array


def arrays_by_name(mapping: Any, what: str) -> dict[str, Any]:
    """Return the arrays of a mapping.

    Raises
    ------
    TypeError, ValueError
        If it is no mapping, a name is no text, or a value no array of real numbers.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{what} must be a file or a mapping of arrays by name, got {brief(mapping)}")
    for name in mapping:
        if not isinstance(name, str):
            raise TypeError(f"{what} must have texts as names, got {brief(name)}")
    return {name: real_array(value, f"{what}[{name!r}]") for name, value in mapping.items()}


def own_weights(weights: Mapping[str, NDArray[Any]], given: Mapping[str, Any], what: str, extra: bool) -> list[Any]:
    """Return arrays in the order of a network's weights, both by our names.

    Parameters
    ----------
    weights, given
        The network's, and the arrays.
    what
        Where these are from.
    extra
        Whether there may be more of them.

    Raises
    ------
    ValueError
        If they are others than the network's; the message names all that does not match.
    """
    missing = [f"{name} {weight.shape}" for name, weight in weights.items() if name not in given]
    unknown = [f"{name} {array.shape}" for name, array in given.items() if name not in weights and not extra]
    found = [misfit(n.rpartition("/")[0], n, w.shape, given[n]) for n, w in weights.items() if n in given]
    refuse_mismatch(what, [text for text in found if text], missing, unknown)
    return [given[name] for name in weights]


def misfit(layer: str, label: str, shape: tuple[int, ...], array: Any) -> str | None:
    """Return what is wrong with an array where a layer wants another shape or kind of numbers; None if nothing is."""
    if array.dtype.kind != "f":
        return f"layer {layer}: {label} must hold floating-point numbers, got {array.dtype}"
    if tuple(array.shape) != shape:
        return f"layer {layer}: {label} must have shape {shape}, got {tuple(array.shape)}"
    return None


def refuse_mismatch(what: str, misfits: Sequence[str], missing: Sequence[str], unknown: Sequence[str]) -> None:
    """Raise ValueError, naming all that does not match, if there is anything.

    Parameters
    ----------
    what
        Where the arrays are from.
    misfits
        What is wrong with arrays that are there.
    missing, unknown
        Names and shapes of what the network has and the arrays have not, and the other way round.
    """
    parts = [
        opening + separator.join(texts)
        for opening, texts, separator in (
            ("", misfits, "; "),
            ("it lacks ", missing, ", "),
            ("the network has no ", unknown, ", "),
        )
        if texts
    ]
    if parts:
        raise ValueError(f"{what} must hold the weights of this network: {'; '.join(parts)}")
