"""Owns the reading of IDX files, MNIST's format, raw or gzipped; trusts nothing in them."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UBYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 24


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The file, raw or gzipped; its first bytes tell which, not its name.
    ndim : int
        The number of dimensions it must have: 3 for images, 1 for labels.

    Returns
    -------
    ndarray
        uint8, of the shape that the file's header gives.

    Raises
    ------
    ValueError
        The file is cut off, too long, damaged, or no IDX file of that kind.
    """
    try:
        with _open(path) as file:
            shape = _read_header(file, path, ndim)
            content = _read(file, math.prod(shape) + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a damaged or cut-off gzip file: {error}") from error
    if len(content) != math.prod(shape):
        found = "more" if len(content) > math.prod(shape) else f"only {len(content)}"
        raise ValueError(
            f"{path} is damaged: its header announces {math.prod(shape)} bytes of shape {shape}, but {found} follow"
        )
    try:
        return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)
    except ValueError as error:  # of no bytes in too great a shape
        raise ValueError(f"{path} is damaged: its header announces shape {shape}: {error}") from None


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path) if compressed else path.open("rb")


def _read_header(file: gzip.GzipFile | BufferedReader, path: Path, ndim: int) -> tuple[int, ...]:
    expected = struct.pack(">HBB", 0, _UBYTE, ndim)
    magic = file.read(4)
    if magic != expected:
        raise ValueError(
            f"{path} is not an IDX file of unsigned bytes in {ndim} dimension(s): "
            f"it begins with {magic.hex(' ') or 'nothing'} instead of {expected.hex(' ')}"
        )
    sizes = file.read(4 * ndim)
    if len(sizes) != 4 * ndim:
        raise ValueError(f"{path} is cut off: it ends within its {4 + 4 * ndim}-byte header")
    return struct.unpack(f">{ndim}I", sizes)


def _read(file: gzip.GzipFile | BufferedReader, size: int) -> bytes:
    """Read up to ``size`` bytes without allocating more than the file really holds."""
    chunks = []
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)
