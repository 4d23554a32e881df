"""What is wanted of a model, checked against what it predicts: class numbers, or values of the predictions' shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import must_be_probabilities, real_array

Array = NDArray[Any]


def class_numbers(y_true: ArrayLike, y_pred: Array) -> NDArray[np.int64]:
    """Return class numbers for predictions (N, ..., C).

    Parameters
    ----------
    y_true
        Whole numbers in [0, C), of any real type, (N, ...) or (N, ..., 1).
    y_pred
        For the shape.

    Returns
    -------
    ndarray
        (N, ...).

    Raises
    ------
    TypeError, ValueError
        Naming y, if it has another shape or holds anything else.

    Examples
    --------
    >>> class_numbers([[1.0], [0.0]], np.zeros((2, 3))).tolist()
    [1, 0]
    """
    labels = real_array(y_true, "y")
    if labels.ndim == y_pred.ndim and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.shape != y_pred.shape[:-1]:
        raise ValueError(f"y must have shape {y_pred.shape[:-1]} for predictions {y_pred.shape}, got {labels.shape}")
    classes = y_pred.shape[-1]
    inside = (labels >= 0) & (labels < classes)
    if labels.dtype.kind == "f":
        inside &= labels == np.rint(labels)
    if not inside.all():
        raise ValueError(f"y must hold class numbers, whole and in [0, {classes}), got {labels[~inside][0]}")
    return labels.astype(np.int64, copy=False)


def values(y_true: ArrayLike, y_pred: Array) -> Array:
    """Return values of the shape and element type of the predictions.

    Parameters
    ----------
    y_true
        Real numbers of the predictions' shape; where that ends in 1, the 1 may be missing.
    y_pred
        For shape and type.

    Raises
    ------
    TypeError, ValueError
        Naming y, if it has another shape or holds anything else.

    Examples
    --------
    >>> values([1, 0], np.zeros((2, 1))).tolist()
    [[1.0], [0.0]]
    """
    wanted = real_array(y_true, "y")
    if wanted.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        wanted = wanted[..., np.newaxis]
    if wanted.shape != y_pred.shape:
        raise ValueError(f"y must have the shape of the predictions, {y_pred.shape}, got {wanted.shape}")
    return wanted.astype(y_pred.dtype, copy=False)


def probabilities(y_true: ArrayLike, y_pred: Array) -> Array:
    """Return probabilities of the shape and element type of the predictions.

    Parameters
    ----------
    y_true, y_pred
        As for :func:`values`.

    Raises
    ------
    TypeError, ValueError
        Naming y, if it has another shape or holds anything but numbers in [0, 1].

    Examples
    --------
    >>> probabilities([[True, False]], np.zeros((1, 2))).tolist()
    [[1.0, 0.0]]
    """
    wanted = values(y_true, y_pred)
    must_be_probabilities(wanted, "y")
    return wanted
