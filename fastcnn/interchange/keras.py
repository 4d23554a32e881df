"""Weights under Keras's names, whose layouts are ours: which layer of a file is which of a network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from ..graph import Graph
from ..layers import DepthwiseConv2D
from ..layers.base import Layer
from ..registry import snake_case
from .hdf5 import Stored, opened
from .matching import arrays_by_name, misfit, refuse_mismatch
from .order import by_depth

Array = NDArray[Any]


def keras_weights(graph: Graph, weights: Any) -> list[Array]:
    """Return a network's weights, layer by layer, from those of the same network in Keras.

    Parameters
    ----------
    graph
        The network.
    weights
        The path of a .keras, .h5 or .weights.h5 file; or arrays by name, ``"layer/weight"``.

    Raises
    ------
    ImportError
        If h5py is needed and not there.
    OSError
        If there is no such file.
    TypeError, ValueError
        If it is none, or its arrays are not those of the network, when the message names all that does not match; or
        if nothing tells the place of layers that are inside a model in it.
    """
    if isinstance(weights, (str, os.PathLike)):
        with opened(weights) as stored:
            return _taken(graph, stored, True)
    return _taken(graph, _of_mapping(weights), False)


def _of_mapping(weights: Any) -> list[Stored]:
    """Return the layers of a mapping."""
    found: dict[str, dict[str, Array]] = {}
    for name, array in arrays_by_name(weights, "weights").items():
        layer, _, weight = name.removesuffix(":0").rpartition("/")
        found.setdefault(layer.rpartition("/")[2], {})[weight] = array
    return [Stored(name, arrays) for name, arrays in found.items()]


def _taken(graph: Graph, stored: Sequence[Stored], has_order: bool) -> list[Array]:
    """Return the network's weights, layer by layer, from stored layers, whose order counts where they have one."""
    calls = [(call.layer, call.sources) for call in graph.calls]
    layers = [layer for layer in by_depth(graph.inputs, calls, graph.outputs) if layer.weights]
    pairs = _pairs(layers, stored, has_order)
    if has_order:
        left = [layer for layer in layers if layer not in pairs]
        others = _others(stored, pairs)
        _refuse_unknown_places(graph, left, others, stored)
        pairs |= _pairs_in_order(left, others)
    found: dict[tuple[Layer, str], Any] = {}
    misfits = []
    missing = [_titled(layer, n, w) for layer in layers if layer not in pairs for n, w in layer.weights.items()]
    unknown = [_titled(given, n, array) for given in _others(stored, pairs) for n, array in given.arrays.items()]
    for layer, given in pairs.items():
        arrays = _by_weight(layer, given)
        for name, weight in layer.weights.items():
            if name not in arrays:
                missing.append(_titled(layer, name, weight))
            elif text := misfit(str(layer.name), f"{given.name}/{name}", weight.shape, arrays[name]):
                misfits.append(text)
            found[layer, name] = arrays.get(name)
        unknown += [_titled(given, name, array) for name, array in arrays.items() if name not in layer.weights]
    refuse_mismatch("weights", misfits, missing, unknown)
    return [found[layer, name][()] for layer in graph.layers for name in layer.weights]


def _titled(owner: Layer | Stored, name: str, array: Any) -> str:
    return f"{owner.name}/{name} {array.shape}"


def _pairs(layers: Sequence[Layer], stored: Sequence[Stored], has_order: bool) -> dict[Layer, Stored]:
    """Return which stored layer is which, as far as names tell.

    Those that were given their names are matched by them. Names such as conv2d_1 tell in which order layers were made,
    if that, and not which is which; where there is an order, they and all others are to be matched by it.
    """
    by_name = {given.name: given for given in stored}
    return {
        layer: by_name[str(layer.name)]
        for layer in layers
        if layer.name in by_name and not (has_order and _is_named_by_class(layer))
    }


def _others(stored: Sequence[Stored], pairs: Mapping[Layer, Stored]) -> list[Stored]:
    """Return the stored layers that are in no pair."""
    paired = set(pairs.values())
    return [given for given in stored if given not in paired]


def _is_named_by_class(layer: Layer) -> bool:
    word, _, number = str(layer.name).rpartition("_")
    name = word if number.isdecimal() else str(layer.name)
    return name.replace("_", "") == type(layer).__name__.lower()


def _refuse_unknown_places(
    graph: Graph, layers: Sequence[Layer], others: Sequence[Stored], stored: Sequence[Stored]
) -> None:
    """Raise ValueError if layers are left whose order is not that of the stored ones which are left.

    That may be where there is a model in the network: it has one place there, so that of branches with as many layers
    one may be the longer one. Nor are its layers among the others, but in the older layout, which tells no kinds.
    """
    model = next((given.model for given in stored if given.model), "")
    is_apart = len({given.model for given in others}) > 1 and any(given.kind for given in others)
    if model and layers and (is_apart or not _follow_each_other(graph, layers)):
        raise ValueError(
            f"{model} is a model with layers of its own, and nothing tells their place among the others: save it as a "
            f".keras file, or give layers names, here and in Keras; without one of their own are "
            f"{', '.join(str(layer.name) for layer in layers)}"
        )


def _follow_each_other(graph: Graph, layers: Sequence[Layer]) -> bool:
    """Whether each layer needs what the one before it gives, so that they can have no other order."""
    behind: dict[int, set[Layer]] = {}
    needed: dict[Layer, set[Layer]] = {}
    for call in graph.calls:
        before = set().union(*(behind.get(source, set()) for source in call.sources))
        needed.setdefault(call.layer, set()).update(before)
        behind[call.target] = before | {call.layer}
    return all(first in needed[second] for first, second in pairwise(layers))


def _pairs_in_order(layers: Sequence[Layer], stored: Sequence[Stored]) -> dict[Layer, Stored]:
    """Return pairs by the order of all, or of those of a class where the file tells it; none if numbers differ."""

    def kind(layer: Layer) -> str:
        return snake_case(type(layer).__name__)

    if any(given.kind for given in stored):
        layers, stored = sorted(layers, key=kind), sorted(stored, key=lambda given: given.kind)
        if [kind(layer) for layer in layers] != [given.kind for given in stored]:
            return {}
    return dict(zip(layers, stored, strict=True)) if len(layers) == len(stored) else {}


def _by_weight(layer: Layer, given: Stored) -> dict[str, Any]:
    """Return the arrays of a stored layer under the names that they have in ours; by their order if it names none."""
    arrays = dict(given.arrays)
    if isinstance(layer, DepthwiseConv2D) and "depthwise_kernel" in arrays:
        arrays = {"kernel": arrays.pop("depthwise_kernel"), **arrays}
    if len(arrays) == len(layer.weights) and not any(name in layer.weights for name in arrays):
        return dict(zip(layer.weights, arrays.values(), strict=True))
    return arrays
