"""Owns the demonstration: train a small network on the shipped digits and show what it can do."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fastcnn
from fastcnn import datasets
from fastcnn.arguments import file_path
from fastcnn.io import PathLike, must_be_writable
from fastcnn.layers import Conv2D, Dense, Dropout, Flatten, MaxPool2D

EPOCHS = 10
SEED = 0

_BATCH = 64
_INK = " .:-=+*#%@"
_COLUMN = 16
_GAP = " " * 5
_SHOWN = 4
_LATENCY_CALLS = 2000

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


def run(epochs: int = EPOCHS, seed: int = SEED, out: PathLike | None = None) -> float:
    """Train on the digits, print what came of it, save the model and check the file.

    Parameters
    ----------
    epochs : int
        Passes over the training images and their shifted copies.
    seed : int
        Determines the initial weights, the order of the images and the dropout: the same seed
        gives the same network.
    out : path, optional
        The file to write; by default ``demo.safetensors`` in the cache folder.

    Returns
    -------
    float
        The share of the held-out images that the network recognises.

    Raises
    ------
    OSError
        The model can't be written to `out`.
    RuntimeError
        The model that was loaded back predicts something else.
    """
    path = _writable(out)
    (x_train, y_train), (x_test, y_test) = datasets.load_digits()
    x, y = shifted(x_train, y_train)
    model = build(seed)
    print(f"Digits: {len(x_train):,} images of 8x8 pixels to train on, {len(x_test)} held out")
    print(f"With copies that are shifted by a pixel: {len(x):,} images")
    start = time.perf_counter()
    model.fit(x, y, batch_size=_BATCH, epochs=epochs, seed=seed)
    print(f"Trained {model.count_params():,} parameters in {time.perf_counter() - start:.1f} s")

    scores = model.predict(x_test)
    right = int(np.count_nonzero(scores.argmax(axis=-1) == y_test))
    print(f"\nTest accuracy: {right / len(y_test):.2%}, {right} of {len(y_test)} held-out images\n")
    print(_gallery(x_test, scores, y_test))
    print(f"\nOne image: {_latency(model, x_test[:1]):.1f} us (median of {_LATENCY_CALLS:,} calls)")

    model.save(path)
    if not np.array_equal(fastcnn.load(path).predict(x_test), scores):
        raise RuntimeError(f"the model loaded back from {path} predicts something else")
    print(f"Saved, loaded back, same predictions to the bit: {path}")
    return right / len(y_test)


def build(seed: int = SEED) -> fastcnn.Sequential:
    """Build the demo's network: two convolutions, one pooling, two dense layers.

    Parameters
    ----------
    seed : int
        Seed of the initial weights.

    Returns
    -------
    Sequential
        A compiled model for images (n, 8, 8, 1) and labels 0 to 9.
    """
    model = fastcnn.Sequential(
        [
            Conv2D(32, 3, padding="same", activation="relu"),
            Conv2D(64, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            Flatten(),
            Dense(64, activation="relu"),
            Dropout(0.25),
            Dense(10, activation="softmax"),
        ],
        seed=seed,
    )
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def shifted(x: Array, y: Labels) -> tuple[Array, Labels]:
    """Add to every image its four copies moved by one pixel up, down, left and right.

    Parameters
    ----------
    x : ndarray
        Images (n, height, width, channels).
    y : ndarray
        Labels (n,).

    Returns
    -------
    x, y
        Images (5n, height, width, channels), the originals first, and their labels (5n,).
    """
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    offsets = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    copies = [padded[:, top : top + height, left : left + width] for top, left in offsets]
    return np.concatenate(copies), np.tile(y, len(offsets))


def _writable(out: PathLike | None) -> Path:
    """Find out before the training whether the model will have a place."""
    if out is None:
        folder = datasets.cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "demo.safetensors"
    path = file_path(out, "out")
    folder = must_be_writable(path)[0].parent
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {folder} can't be written to")
    return path


def _gallery(images: Array, scores: Array, labels: Labels) -> str:
    """Draw the most doubtful image, a misread one where there is any, beside the first others."""
    truth = scores[np.arange(len(labels)), labels]
    misread = scores.argmax(axis=-1) != labels
    doubtful = int(np.lexsort((truth, ~misread))[0])
    others = [index for index in range(_SHOWN) if index != doubtful][: _SHOWN - 1]
    columns = [
        [*_picture(images[index]), "", *_caption(scores[index], int(labels[index]))] for index in [*others, doubtful]
    ]
    rows = zip(*columns, strict=True)
    return "\n".join(_GAP.join(f"{cell:{_COLUMN}}" for cell in row).rstrip() for row in rows)


def _picture(image: Array) -> list[str]:
    """Draw each pixel two characters wide, because a character is about twice as high as wide."""
    levels = np.rint(image[:, :, 0] * (len(_INK) - 1)).astype(int)
    return ["".join(_INK[level] * 2 for level in row) for row in levels]


def _caption(scores: Array, label: int) -> list[str]:
    first, second = (int(digit) for digit in np.argsort(scores)[:-3:-1])
    verdict = "right" if first == label else f"wrong: it is a {label}"
    return [f"{digit}  {scores[digit]:8.2%}" for digit in (first, second)] + [verdict]


def _latency(model: fastcnn.Model, image: Array) -> float:
    """Median time of one prediction in microseconds."""
    times = []
    for _ in range(_LATENCY_CALLS):
        start = time.perf_counter()
        model.predict(image)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6
