"""Keras's files: HDF5 in its older layout and in that of Keras 3, and the archives that hold the latter.

Nothing of a file is taken from outside of it, as HDF5's links could, and of a network's description names and order
alone. But it is the HDF5 library that reads the file, and one that was damaged on purpose can crash or stop that:
only files of people who are trusted should be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, BinaryIO

from ..arguments import file_path
from ..io import PathLike
from ..registry import snake_case
from .order import laid_open, models_in


@dataclass(frozen=True, eq=False)
class Stored:
    """A layer with weights as Keras stores it: arrays by name or, where it keeps no names, by number.

    The kind is Keras's word for the layer's class; empty where the file does not tell. The model is the one in the
    network that it is part of; empty where it is of none, or where the layer is in its place among all others.
    """

    name: str
    arrays: Mapping[str, Any]
    kind: str = ""
    model: str = ""


@contextmanager
def opened(path: PathLike) -> Iterator[list[Stored]]:
    """Give the layers of a file in order; their arrays are read when they are asked for, as long as it is open.

    Raises
    ------
    ImportError
        If h5py is not there.
    OSError
        If there is no such file.
    ValueError
        If it is cut off, damaged, or no such file; then, or while an array is read. Not all damage is told: some
        crashes the HDF5 library.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("files of Keras's weights are read by h5py: pip install 'fastcnn[h5]'") from error

    path = file_path(path)
    with path.open("rb") as file:
        try:
            content, description = _unpacked(file)
            with h5py.File(content, "r") as root:
                yield _layers(root, description)
        except (AttributeError, KeyError, OSError, RuntimeError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is cut off, damaged, or no file of Keras's weights: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _unpacked(file: BinaryIO) -> tuple[BinaryIO, Any]:
    """Return the HDF5 file, and the description of the network that an archive has beside it."""
    import zipfile  # slow to import

    if not zipfile.is_zipfile(file):
        return file, {}
    try:
        with zipfile.ZipFile(file) as archive:
            return BytesIO(archive.read("model.weights.h5")), json.loads(archive.read("config.json"))
    except zipfile.BadZipFile as error:
        raise OSError(str(error)) from error


def _layers(root: Any, description: Any) -> list[Stored]:
    """Return the layers of either layout."""
    if "model_weights" in root:
        description = json.loads(root.attrs.get("model_config", "{}"))
        root = _member(root, "model_weights")
    if any(name in root.attrs for name in ("layer_names", "layer_names0")):
        models = models_in(description)
        found = [s for n in _texts(root, "layer_names") for s in _of_group(n, _member(root, n), n in models)]
    else:
        found = list(_of_containers(root, description))
        if not found:
            raise ValueError("it holds no layers with weights")
    return _laid_open(found, description) if models_in(description) else found


def _laid_open(found: list[Stored], description: Any) -> list[Stored]:
    """Return layers in the order of the same network without models in it; as they are if it can't be told."""
    try:
        order = {place: index for index, place in enumerate(laid_open(description))}
    except (LookupError, TypeError, ValueError):
        return found
    places = [(stored.model or stored.name, stored.name) for stored in found]
    if len(set(places)) < len(places) or not order.keys() >= set(places):
        return found
    ordered = sorted(zip(places, found, strict=True), key=lambda pair: order[pair[0]])
    return [replace(stored, model="") for _, stored in ordered]


# ---- the older layout: attributes name the layers, and each layer's weights ----


def _texts(group: Any, name: str) -> list[str]:
    """Return an attribute's texts; a long one is cut into several, which are numbered."""
    parts = [name] if name in group.attrs else [f"{name}{n}" for n in range(len(group.attrs))]
    texts = [text for part in parts if part in group.attrs for text in group.attrs[part]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _of_group(name: str, group: Any, is_model: bool) -> Iterator[Stored]:
    """Give the layer of a group; or those of the model that it stands for, which its weights' names begin with.

    It stands for one, too, where it has the weights of several layers.
    """
    paths = _texts(group, "weight_names")
    owners = {path: path.split("/")[-2] if "/" in path else name for path in paths}
    names = list(dict.fromkeys(owners.values()))
    for owner in names:
        arrays = {
            path.rsplit("/")[-1].removesuffix(":0"): _member(group, path) for path in paths if owners[path] == owner
        }
        yield Stored(owner, arrays, model=name) if is_model or len(names) > 1 else Stored(name, arrays)


# ---- Keras 3: a group for each layer, named after its class, with numbered weights ----


def _of_containers(group: Any, description: Any, model: str = "") -> Iterator[Stored]:
    """Give the layers inside a model's group, those of models among them too.

    The model is the one in the network that it is or is part of, and empty for the network itself.
    """
    described = _described(description)
    order = {key: index for index, key in enumerate(described)}
    for container in ("layers", "_layer_checkpoint_dependencies"):
        if container not in group:
            continue
        layers = _member(group, container)
        for key in sorted(layers, key=lambda key: (order.get(key, len(order)), _parts(key))):
            layer = _member(layers, key)
            name, inner = described.get(key, (key, {}))
            if "vars" in layer:
                weights = _member(layer, "vars")
                arrays = {number: _member(weights, number) for number in sorted(weights, key=int)}
                if arrays:
                    yield Stored(str(weights.attrs.get("name", name)), arrays, _parts(key)[0], model)
            nested = list(_of_containers(layer, inner, model or name))
            if nested and key not in described and "name" not in _member(layer, "vars").attrs:
                raise ValueError(
                    f"{key} is a model with layers of its own, and nothing tells their names or their place among the "
                    "others: save it as a .keras file"
                )
            yield from nested


def _described(description: Any) -> dict[str, tuple[str, Any]]:
    """Return the layers' names, and their own descriptions, by the name of the group that Keras gives each."""
    found: dict[str, tuple[str, Any]] = {}
    counts: dict[str, int] = {}
    for layer in description.get("config", {}).get("layers", []):
        kind = snake_case(layer["class_name"])
        count = counts[kind] = counts.get(kind, -1) + 1
        found[f"{kind}_{count}" if count else kind] = (layer["config"]["name"], layer)
    return found


def _parts(key: str) -> tuple[str, int]:
    """Split a group's name into the class's and the number."""
    word, _, number = key.rpartition("_")
    return (word, int(number)) if word and number.isdecimal() else (key, 0)


def _member(group: Any, path: str) -> Any:
    """Return a group or an array inside a group.

    Raises
    ------
    ValueError
        If it lies elsewhere: in another file, or put together from other arrays.
    """
    import h5py

    for name in path.split("/"):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} must lie in the file itself, got a link")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise ValueError(f"{path} must lie in the file itself, got an array that is stored elsewhere")
    return group
