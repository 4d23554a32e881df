"""Owns the UCI digits that ship inside the package, and their fixed split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .idx import read_idx

Split = tuple[NDArray[np.float32], NDArray[np.int64]]

_DATA = Path(__file__).parent / "data"
_CLASSES = 10
_LEVELS = 16.0
_TEST_EVERY = 5


def load_digits() -> tuple[Split, Split]:
    """1,797 real handwritten digits of 8x8 pixels, which ship inside the package.

    Of each class every fifth picture in the file's order is held out for the test: a split without
    a seed that keeps the classes in proportion. Neighbours in the file are mostly by one writer, so
    the test asks for new pictures by known hands, not for new hands.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images float32 (1442, 8, 8, 1) and (355, 8, 8, 1), from 0 (paper) to 1 (ink) in steps of
        1/16; labels int64 (1442,) and (355,), 0 to 9. New arrays at each call.

    Examples
    --------
    >>> from fastcnn import datasets
    >>> (x_train, y_train), (x_test, y_test) = datasets.load_digits()
    >>> x_train.shape, x_test.shape, y_train[:5].tolist()
    ((1442, 8, 8, 1), (355, 8, 8, 1), [0, 1, 2, 3, 4])

    References
    ----------
    E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine
    Learning Repository. https://doi.org/10.24432/C50P49. Licensed under CC BY 4.0.
    """
    images = read_idx(_DATA / "digits-images-idx3-ubyte.gz", ndim=3)
    labels = read_idx(_DATA / "digits-labels-idx1-ubyte.gz", ndim=1)
    x: NDArray[np.float32] = images[..., np.newaxis] / np.float32(_LEVELS)  # type: ignore[assignment]
    y = labels.astype(np.int64)
    test = _held_out(y)
    return (x[~test], y[~test]), (x[test], y[test])


def _held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark every fifth picture of each class."""
    held_out = np.zeros(len(labels), dtype=np.bool_)
    for digit in range(_CLASSES):
        held_out[np.flatnonzero(labels == digit)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return held_out
