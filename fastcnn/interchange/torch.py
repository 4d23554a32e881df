"""Weights under PyTorch's names: its layouts, its order of features, and the safetensors files that hold them.

PyTorch has channels before rows and columns. So kernels have their axes in another order, and where an image is
flattened, what comes behind it counts the features in another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import io
from ..arguments import file_path
from ..graph import Graph
from ..layers import (
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Flatten,
    LayerNormalization,
    PReLU,
    Reshape,
)
from ..layers.base import Layer
from ..layers.symbolic import Shape
from .matching import arrays_by_name, misfit, refuse_mismatch

Array = NDArray[Any]

_KINDS = (BatchNormalization, Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D, LayerNormalization, PReLU)
_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "alpha": "weight",
}
# How many batches a normalisation has seen, which no result depends on.
_IGNORED = ".num_batches_tracked"
# How PyTorch's own files begin, today's and those before version 1.6.
_PICKLES = (b"PK\x03\x04", b"\x80\x02")
# Names in torchvision's files of DenseNets, which are older than its code: denselayer1.norm.1 is now norm1.
_OLD = re.compile(r"(\bdenselayer\d+\.(?:norm|conv))\.(?=\d\.)")
_TYPES = ("F16", "F32", "F64", "I64")


@dataclass(frozen=True)
class _Slot:
    """A weight of ours: the layer's name, PyTorch's name and shape of it, and what makes ours of PyTorch's array."""

    layer: str
    name: str
    shape: tuple[int, ...]
    converted: Callable[[Array], Array]


def torch_weights(graph: Graph, shapes: Sequence[Shape], state_dict: Any, extra: bool = False) -> list[Array]:
    """Return a network's weights, layer by layer, from those of the same network in PyTorch.

    Parameters
    ----------
    graph
        The network, its layers named as PyTorch's modules are.
    shapes
        Those of all its values.
    state_dict
        Arrays by name, or the path of a safetensors file.
    extra
        Whether it may hold more than the network.

    Raises
    ------
    OSError
        If there is no such file.
    TypeError, ValueError
        If it is none, or its arrays are not those of the network; the message names all that does not match.
    """
    what, given = _read(state_dict, extra)
    orders = _orders_of_features(graph, shapes)
    weights = [(layer, name, weight) for layer in graph.layers for name, weight in layer.weights.items()]
    wanted = [_slot(layer, name, weight, orders.get(id(layer))) for layer, name, weight in weights]
    taken = {slot.name for slot in wanted if slot is not None}
    given = _renamed(given, taken)
    slots, missing = [], []
    for (layer, name, weight), slot in zip(weights, wanted, strict=True):
        if slot is None:
            missing.append(f"{layer.name}/{name} {weight.shape}, which PyTorch's modules have not")
        elif slot.name not in given:
            missing.append(f"{slot.name} {slot.shape}")
        else:
            slots.append(slot)
    unknown = [f"{name} {array.shape}" for name, array in given.items() if name not in taken and not extra]
    found = [misfit(slot.layer, slot.name, slot.shape, given[slot.name]) for slot in slots]
    refuse_mismatch(what, [text for text in found if text], missing, unknown)
    return [slot.converted(given[slot.name]) for slot in slots]


def _read(state_dict: Any, extra: bool) -> tuple[str, dict[str, Array]]:
    """Return what errors call the arrays, and those that count by name; with extra, a file may hold other types."""
    what = "state_dict"
    if isinstance(state_dict, (str, os.PathLike)):
        path = file_path(state_dict)
        what = str(path)
        skipped: set[str] | None = set() if extra else None
        try:
            state_dict, _ = io.load_arrays(path, _TYPES, skipped)
            what = io.titled(path, skipped)
        except ValueError as error:
            with path.open("rb") as file:
                if not file.read(4).startswith(_PICKLES):
                    raise
            raise ValueError(
                f"{what} is a pickle, or an archive of one, which could run code: convert it, in PyTorch, with "
                "safetensors.torch.save_file(torch.load(path, weights_only=True), ...)"
            ) from error
    arrays = arrays_by_name(state_dict, what)
    if all(name.startswith("module.") for name in arrays):  # as DataParallel has them
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return what, {name: array for name, array in arrays.items() if not name.endswith(_IGNORED)}


def _renamed(given: dict[str, Array], taken: Set[str]) -> dict[str, Array]:
    """Return arrays under the names that are wanted today, where they have older ones that are not wanted."""
    names = {name: _OLD.sub(r"\1", name) for name in given.keys() - taken}
    return {name if (new := names.get(name, name)) in given else new: array for name, array in given.items()}


def _slot(layer: Layer, name: str, weight: Array, order: Array | None) -> _Slot | None:
    """Return what a weight is in PyTorch; None where it has no such layer.

    Parameters
    ----------
    layer, name, weight
        The layer, and its weight.
    order
        The number, in PyTorch, of each feature of the layer's input, where that is another one.
    """
    if not isinstance(layer, _KINDS) or name not in _NAMES:
        return None
    shape = weight.shape
    by_feature = slice(None) if order is None or weight.size == 1 else order  # one slope is that of all features

    def slot(theirs: tuple[int, ...], converted: Callable[[Array], Array]) -> _Slot:
        return _Slot(str(layer.name), f"{layer.name}.{_NAMES[name]}", theirs, converted)

    if name == "bias":
        return slot(shape, lambda array: array)
    if isinstance(layer, Dense):
        return slot(shape[::-1], lambda array: array.T[by_feature])
    if isinstance(layer, DepthwiseConv2D):
        return slot((shape[2] * shape[3], 1, *shape[:2]), lambda array: array.transpose(2, 3, 1, 0).reshape(shape))
    if name == "kernel":
        return slot((shape[3], shape[2], *shape[:2]), lambda array: array.transpose(2, 3, 1, 0))
    if weight.size != shape[-1]:  # slopes for each pixel
        return None
    return slot(shape[-1:], lambda array: array[by_feature].reshape(shape))


def _orders_of_features(graph: Graph, shapes: Sequence[Shape]) -> dict[int, Array]:
    """Return, by the layer's id, the numbers in PyTorch of the features of its input, where they are other ones.

    Behind an image that is flattened they are until a dense layer mixes them.

    Raises
    ------
    ValueError
        If it would take more than that: where numbers get another shape in which PyTorch has them in another order, or
        where features that are in PyTorch's order meet those that are in ours.
    """
    of_values: dict[int, Array] = {}
    of_layers: dict[int, Array | None] = {}
    for call in graph.calls:
        first, layer = call.sources[0], call.layer
        shape, result = shapes[first], shapes[call.target]
        # What has one feature goes with any order.
        orders = [of_values.get(source) for source in call.sources if shapes[source][-1] != 1] or [None]
        order = orders[0]
        if len(shape) == 2 and len(result) == 4 and result[1:3] != (1, 1):
            raise ValueError(
                f"layer {layer.name} makes images {result} of rows {shape}, which PyTorch has in another order: "
                "weights of such a network can't be loaded"
            )
        if isinstance(layer, (Flatten, Reshape)) and result != shape:
            if order is not None or (len(result) != 2 and not (_has_one_order(shape) and _has_one_order(result))):
                raise ValueError(
                    f"layer {layer.name} makes {result} of {shape}, which PyTorch has in another order: weights of "
                    "such a network can't be loaded; an image may be flattened, and a dense layer called on that"
                )
            if not _has_one_order(shape):
                rows, cols, channels = (n or 0 for n in shape[1:])
                numbers = np.arange(rows * cols * channels).reshape(channels, rows, cols)
                of_values[call.target] = numbers.transpose(1, 2, 0).reshape(-1)
        elif isinstance(layer, Concatenate) and any(source in of_values for source in call.sources):
            sizes = [shapes[source][-1] or 0 for source in call.sources]
            parts = [of_values.get(source, np.arange(n)) for source, n in zip(call.sources, sizes, strict=True)]
            starts = np.cumsum([0, *sizes[:-1]])
            of_values[call.target] = np.concatenate([part + n for part, n in zip(parts, starts, strict=True)])
        elif any(not _is_same(order, other) for other in orders):
            raise ValueError(
                f"layer {layer.name} has inputs whose features PyTorch has in different orders, such as a flattened "
                "image and what a dense layer makes of it: weights of such a network can't be loaded; only a "
                "Concatenate may join them"
            )
        else:
            if layer.weights and not _is_same(of_layers.setdefault(id(layer), order), order):
                raise ValueError(
                    f"layer {layer.name} is called on features that PyTorch has in different orders, such as a "
                    "flattened image and what a dense layer makes of it: weights of such a network can't be loaded; "
                    "each takes a layer of its own"
                )
            if order is not None and result[1:] == order.shape and not isinstance(layer, Dense):
                of_values[call.target] = order
    return {layer: order for layer, order in of_layers.items() if order is not None}


def _has_one_order(shape: Shape) -> bool:
    """Whether the numbers of a sample are in the same order with channels first: no image, one pixel or one channel."""
    return len(shape) != 4 or shape[1:3] == (1, 1) or shape[3] == 1


def _is_same(order: Array | None, other: Array | None) -> bool:
    return order is other or (order is not None and other is not None and np.array_equal(order, other))
