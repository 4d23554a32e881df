"""Files: written whole or not at all, and safetensors files of named arrays with a text beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from errno import ENOENT
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arguments import file_path

Array: TypeAlias = NDArray[Any]
PathLike: TypeAlias = "str | os.PathLike[str]"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step: beside its place, then renamed, so that a crash leaves the old file whole.

    A file that is replaced keeps its permissions; where path is a link, what it leads to is replaced.

    Raises
    ------
    OSError
        If the folder is not there or cannot be written; nothing is changed then.
    """
    import tempfile  # slow to import, and reading needs none

    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file to write")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "there is no such folder", str(path.parent))
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
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


def load_arrays(path: PathLike, types: tuple[str, ...] = ("F32", "F64")) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file, such as :func:`save_arrays` writes.

    Parameters
    ----------
    path
        The file.
    types
        The element types that it may hold, in the words of safetensors.

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
        If it is cut off, damaged, no safetensors file, or holds other kinds of numbers.
    """
    from safetensors import SafetensorError, safe_open

    path = file_path(path)
    with path.open("rb"):  # the system's own error, where there is no such file
        pass
    arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                if (found := file.get_slice(name).get_dtype()) not in types:
                    raise ValueError(f"{path} holds {name} as {found}, not as {' or '.join(types)}")
                arrays[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{path} is cut off, damaged, or no safetensors file: {error}") from None
    return arrays, texts
