"""Losses that are computed together with their gradient, from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._core import _elementwise as _kernels
from ..arguments import must_be_probabilities, plain
from ._arrays import FloatArray, floats, like, number, real_array


def softmax_cross_entropy(
    labels: ArrayLike, logits: ArrayLike, label_smoothing: float = 0.0
) -> tuple[NDArray[np.float64], FloatArray]:
    """Return the cross-entropy of labels with softmax(logits), and its gradient, in one stable step.

    Parameters
    ----------
    labels
        Class numbers, integers of shape (...), or probabilities, floats of shape (..., C).
    logits
        (..., C).
    label_smoothing
        Weight, in [0, 1], of the uniform distribution that is mixed into the labels.

    Returns
    -------
    losses : ndarray
        (...), float64: -sum_c labels[c] log softmax(logits)[c].
    dlogits : ndarray
        (..., C), gradient of each row's own loss: softmax(logits) * sum(labels) - labels.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> losses, dlogits = softmax_cross_entropy([1], [[0.0, 0.0]])
    >>> losses.round(4).tolist(), dlogits.tolist()
    ([0.6931], [[0.5, -0.5]])
    """
    smoothing = number(label_smoothing, "label_smoothing", 0.0, 1.0)
    logits = _with_classes(logits)
    targets = class_probabilities(labels, logits, smoothing)
    losses = np.empty(logits.shape[:-1])
    dlogits = np.empty_like(logits)
    _kernels.softmax_cross_entropy(logits, targets, dlogits, losses)
    return losses, dlogits


def _with_classes(logits: ArrayLike) -> FloatArray:
    (logits,) = floats(("logits",), logits)
    if logits.ndim < 1 or not logits.shape[-1]:
        raise ValueError(f"logits must have at least one class in the last axis, got {logits.shape}")
    return logits


def class_probabilities(labels: ArrayLike, logits: ArrayLike, label_smoothing: float = 0.0) -> FloatArray:
    """Return labels as a probability for each class, smoothed: (1 - s) * labels + s / C.

    Parameters
    ----------
    labels
        Class numbers, integers of shape (...), or probabilities, floats of shape (..., C).
    logits
        (..., C), for the shape and the element type.
    label_smoothing
        Weight s, in [0, 1], of the uniform distribution that is mixed in.

    Returns
    -------
    ndarray
        A new array of the shape of logits.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> class_probabilities([1], [[0.0, 0.0]], label_smoothing=0.5).tolist()
    [[0.25, 0.75]]
    """
    smoothing = number(label_smoothing, "label_smoothing", 0.0, 1.0)
    logits = _with_classes(logits)
    classes = logits.shape[-1]
    given = real_array(labels, "labels")
    if given.shape == logits.shape and given.dtype.kind == "f":
        targets = given.astype(logits.dtype)
        must_be_probabilities(targets, "labels")
    else:
        if given.dtype.kind not in "iu" and given.size:
            raise TypeError(
                f"labels must be integers of shape {logits.shape[:-1]} or floats of shape {logits.shape}, "
                f"got {given.dtype} of shape {given.shape}"
            )
        like(given, logits.shape[:-1], "labels")
        targets = np.empty_like(logits)
        outside = _kernels.one_hot(plain(given, np.int64, "labels"), targets)
        if outside >= 0:
            raise ValueError(f"labels must be in [0, {classes}), got {given.flat[outside]}")
    if smoothing:
        targets *= targets.dtype.type(1 - smoothing)
        targets += targets.dtype.type(smoothing / classes)
    return targets
