"""Files: written whole or not at all, and safetensors files of named arrays with a text beside them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from errno import ENOENT
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arguments import file_path
from .runtime import AlignedMemory

Array: TypeAlias = NDArray[Any]
PathLike: TypeAlias = "str | os.PathLike[str]"

# What can be read, by the names of safetensors, which are of little-endian numbers.
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}


def must_be_writable(path: Path) -> tuple[Path, int]:
    """Return what a path leads to, and the permissions of the file there, or of a new one, if one can be written.

    Raises
    ------
    OSError
        If there is no such folder, or something else than a regular file is there.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file to write")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no regular file, which another one could take the place of")
        mode = stat.S_IMODE(status.st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "there is no such folder", str(path.parent))
    return path, mode


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step: beside its place, then renamed, so that a crash leaves the old file whole.

    A file that is replaced keeps its permissions; where path is a link, what it leads to is replaced.

    Raises
    ------
    OSError
        If the folder is not there or cannot be written; nothing is changed then.
    """
    import tempfile  # slow to import, and reading needs none

    path, mode = must_be_writable(path)
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        if name:
            with suppress(FileNotFoundError):  # an interrupt may come behind the renaming
                os.unlink(name)
        raise


def save_arrays(path: PathLike, arrays: Mapping[str, Array], texts: Mapping[str, str]) -> None:
    """Write a safetensors file of arrays by name, with texts by name in its metadata.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    from safetensors.numpy import save

    write_atomically(file_path(path), save({k: np.ascontiguousarray(a) for k, a in arrays.items()}, dict(texts)))


def load_arrays(
    path: PathLike, types: tuple[str, ...] = ("F32", "F64"), skipped: set[str] | None = None
) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file, such as :func:`save_arrays` writes.

    Parameters
    ----------
    path
        The file.
    types
        The element types that it may hold, in the words of safetensors.
    skipped
        Where a set is given, arrays of other types are passed over, and their types added to it.

    Returns
    -------
    arrays : dict
        By name.
    texts : dict

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is cut off, damaged, no safetensors file, or holds other kinds of numbers that are not to be passed over.
    """
    from safetensors import SafetensorError, safe_open

    path = file_path(path)
    arrays = {}
    with path.open("rb") as file, AlignedMemory():
        opened = os.fstat(file.fileno())
        start = 8 + int.from_bytes(file.read(8), "little")
        header = file.read(min(start - 8, opened.st_size))
        # Whether the file is whole, and right, the library says. Arrays from it would be copied twice on the way to us.
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is cut off, damaged, or no safetensors file: {error}") from None
        if _version(os.stat(path)) != _version(opened):
            return load_arrays(path, types, skipped)  # another one has taken its place meanwhile
        entries = json.loads(header)
        texts = entries.pop("__metadata__", None) or {}
        for name, entry in entries.items():
            if entry["dtype"] not in types:
                if skipped is not None:
                    skipped.add(entry["dtype"])
                    continue
                raise ValueError(f"{path} holds {name} as {entry['dtype']}, not as {' or '.join(types)}")
            array = np.empty(entry["shape"], _DTYPES[entry["dtype"]])
            file.seek(start + entry["data_offsets"][0])
            if file.readinto(array) != array.nbytes:
                raise ValueError(f"{path} was cut off while it was read, in {name}")
            arrays[name] = array
    return arrays, texts


def titled(path: PathLike, skipped: set[str] | None) -> str:
    """Return what errors call the arrays of a file, of which those of some types were passed over."""
    return f"{path}, without its arrays of {' and '.join(sorted(skipped))}," if skipped else str(path)


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from another one, and from itself before it was written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
