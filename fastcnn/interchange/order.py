"""The order of a network's layers, for ours and for those that Keras describes, whose models in models are laid open.

Keras orders a network's layers by their depth, and a model among them is one of them, however many layers it has. So
the order of a network with models in it is not that of the same network without: both are ordered here alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)
#: A layer of a description: the name in the network, of the model that it is part of where it is of one, and its own.
Place = tuple[str, str]


def by_depth(inputs: int, calls: Sequence[tuple[Key, Sequence[int]]], outputs: Sequence[int]) -> list[Key]:
    """Return the layers by the longest way to an output, and those with one as long as they are met from there on.

    Arguments are as of :class:`fastcnn.graph.Graph`.
    """
    ways: dict[int, int] = {}
    longest: dict[Key, int] = {}
    for index in range(len(calls) - 1, -1, -1):
        layer, sources = calls[index]
        longest[layer] = way = max(ways.get(inputs + index, 0), longest.get(layer, 0))
        for source in sources:
            ways[source] = max(ways.get(source, 0), way + 1)
    met: dict[Key, None] = {}
    seen = set(range(inputs))
    stack = list(reversed(outputs))
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            layer, sources = calls[value - inputs]
            met[layer] = None
            stack.extend(reversed(sources))
    return sorted(met, key=lambda layer: -longest[layer])


def models_in(description: Any) -> list[str]:
    """Return the names of the models among the layers that Keras describes."""
    config = description.get("config", {})
    layers = config.get("layers", []) if isinstance(config, dict) else []  # a list in files of Keras before 2.2.3
    return [layer["config"]["name"] for layer in layers if "layers" in layer["config"]]


def laid_open(description: Any) -> list[Place]:
    """Return the layers of a network that Keras describes, those of models in it among the others.

    Raises
    ------
    LookupError, TypeError, ValueError
        If it describes no network of layers.
    """
    config = description["config"]
    # A model in a row takes one value, even where its description leaves the input out.
    inputs = len(list(_references(config["input_layers"]))) if "input_layers" in config else 1
    calls: list[tuple[Place, Sequence[int]]] = []
    outputs = _results(description, "", list(range(inputs)), inputs, calls)
    return by_depth(inputs, calls, outputs)


def _results(
    model: Any, within: str, given: list[int], inputs: int, calls: list[tuple[Place, Sequence[int]]]
) -> list[int]:
    """Add the calls of a model; return the numbers of the values that it gives.

    Parameters
    ----------
    model
        Its description.
    within
        The name in the network of the model that it is or is part of; empty for the network itself.
    given
        The values that it takes.
    inputs, calls
        Of the network, as far as it is laid open.
    """

    def called(layer: Any, sources: list[int]) -> list[int]:
        name = layer["config"]["name"]
        if "layers" in layer["config"]:
            return _results(layer, within or name, sources, inputs, calls)
        calls.append(((within or name, name), sources))
        return [inputs + len(calls) - 1]

    config = model["config"]
    if "output_layers" not in config:  # each takes what the one before it gives
        for layer in config["layers"]:
            if layer["class_name"] != "InputLayer":
                given = called(layer, given)
        return given
    starts = [reference[:2] for reference in _references(config["input_layers"])]
    values = {start: [value] for start, value in zip(starts, given, strict=True)}
    waiting = [
        (layer, number, list(_references(node)))
        for layer in config["layers"]
        for number, node in enumerate(layer["inbound_nodes"])
    ]
    while waiting:
        later = []
        for layer, number, sources in waiting:
            if all(source[:2] in values for source in sources):
                taken = [values[source[:2]][source[2]] for source in sources]
                values[layer["config"]["name"], number] = called(layer, taken)
            else:
                later.append((layer, number, sources))
        if len(later) == len(waiting):
            raise ValueError("layers must not need their own results")
        waiting = later
    return [values[output[:2]][output[2]] for output in _references(config["output_layers"])]


def _references(data: Any) -> Iterator[tuple[str, int, int]]:
    """Give the values that a part of a description refers to: by a layer's name, its call's number, its result's."""
    if isinstance(data, list) and [type(part) for part in data[:3]] == [str, int, int]:
        yield data[0], data[1], data[2]
    elif isinstance(data, (dict, list)):
        for part in data.values() if isinstance(data, dict) else data:
            yield from _references(part)
