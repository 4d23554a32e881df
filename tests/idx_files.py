"""Writes small data sets in the form of MNIST's four files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

PARTS = {"train": 40, "t10k": 10}
FILES = [f"{part}-{kind}" for part in PARTS for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def idx_bytes(array: np.ndarray) -> bytes:
    """The content of an IDX file of unsigned bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_folder(folder: Path) -> list[np.ndarray]:
    """Fill a folder with random images and labels, and return them in the order of FILES."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for count in PARTS.values():
        arrays.append(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        arrays.append((np.arange(count) % 10).astype(np.uint8))
    for name, array in zip(FILES, arrays, strict=True):
        (folder / name).write_bytes(idx_bytes(array))
    return arrays
