"""Losses with their gradients, under Keras's names: the mean over a batch, from predictions or from logits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import labels, nn
from .arguments import flag, number, real_array
from .registry import Configurable, lookup, register

Array = NDArray[Any]

# Probabilities are kept this far from 0 and 1 where their logarithm is taken, as in Keras.
_EPSILON = 1e-7
# How far from [0, 1] the rounding of an activation may lead.
_ROUNDING = 1e-3


class Loss(Configurable):
    """Base class of losses.

    A subclass has one method, ``value_and_gradient``. Where it has a ``from_logits`` attribute, ``activation`` names
    what turns logits into the predictions it expects: a model whose last activation that is then hands over its
    logits, so that loss and gradient are computed in one stable step. What a model gives one
    of one's own is read-only.
    """

    #: What makes predictions of logits: "softmax", "sigmoid", or None where the loss has no such form.
    activation: str | None = None

    #: Whether the predictions are logits.
    from_logits: bool = False

    def value_and_gradient(self, y_true: ArrayLike, y_pred: Array) -> tuple[float, Array]:
        """Return the mean loss of a batch and its gradient by y_pred.

        Parameters
        ----------
        y_true
            What is wanted.
        y_pred
            What was predicted, (N, ...), float32 or float64.

        Returns
        -------
        value : float
        gradient : ndarray
            Of the shape of y_pred.
        """
        raise NotImplementedError

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike) -> float:
        """Return the mean loss of a batch."""
        predicted = real_array(y_pred, "y_pred")
        if predicted.ndim < 1:
            raise ValueError(f"y_pred must have a batch axis, got {predicted}")
        return self.value_and_gradient(y_true, predicted.astype(np.result_type(np.float32, predicted), copy=False))[0]

    def of_logits(self) -> Loss:
        """Return the same loss for predictions that are logits."""
        twin = copy.copy(self)
        twin.from_logits = True
        return twin


class _CrossEntropy(Loss):
    """Cross-entropy of a softmax: both forms of labels share the arithmetic.

    Probabilities are divided by their sum first, as in Keras; a sum of 0 counts as 1.
    """

    activation = "softmax"
    label_smoothing = 0.0

    def labels(self, y_true: ArrayLike, y_pred: Array) -> Array:
        """Return the labels in the form that the softmax's cross-entropy takes."""
        raise NotImplementedError

    def value_and_gradient(self, y_true: ArrayLike, y_pred: Array) -> tuple[float, Array]:
        """Return the mean loss of a batch and its gradient by y_pred."""
        wanted = self.labels(y_true, y_pred)
        if self.from_logits:
            losses, gradient = nn.softmax_cross_entropy(wanted, y_pred, self.label_smoothing)
        else:
            _must_be_probabilities(y_pred)
            targets = nn.class_probabilities(wanted, y_pred, self.label_smoothing)
            sums = y_pred.sum(axis=-1, keepdims=True)
            sums[sums == 0] = 1
            p = y_pred / sums
            clipped = np.clip(p, _EPSILON, 1 - _EPSILON)
            losses = -(targets * np.log(clipped)).sum(axis=-1, dtype=np.float64)
            dp = np.where(clipped == p, -targets / clipped, y_pred.dtype.type(0))
            gradient = (dp - (dp * p).sum(axis=-1, keepdims=True)) / sums
        count = max(1, losses.size)
        gradient *= gradient.dtype.type(1 / count)
        return float(losses.sum()) / count, gradient


@register
class SparseCategoricalCrossentropy(_CrossEntropy):
    """Cross-entropy with class numbers: the mean of -log of the true class's probability.

    Predictions that are not logits are divided by their sum over the classes first, as in Keras.

    Parameters
    ----------
    from_logits
        Whether predictions are logits and not probabilities. It need not be set where the model's last activation
        is a softmax: the loss then takes its logits by itself.
    label_smoothing
        Weight, in [0, 1], of the uniform distribution that is mixed into the labels.

    Examples
    --------
    >>> loss = SparseCategoricalCrossentropy(from_logits=True)
    >>> round(loss([1], [[0.0, 0.0]]), 4)
    0.6931
    """

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = flag(from_logits, "from_logits")
        self.label_smoothing = number(label_smoothing, "label_smoothing", 0.0, 1.0)

    def labels(self, y_true: ArrayLike, y_pred: Array) -> Array:
        """Return class numbers as integers of shape (N, ...)."""
        return labels.class_numbers(y_true, y_pred)


@register
class CategoricalCrossentropy(_CrossEntropy):
    """Cross-entropy with a probability for each class, such as one-hot labels.

    Predictions that are not logits are divided by their sum over the classes first, as in Keras.

    Parameters
    ----------
    from_logits
        Whether predictions are logits and not probabilities. It need not be set where the model's last activation
        is a softmax: the loss then takes its logits by itself.
    label_smoothing
        Weight, in [0, 1], of the uniform distribution that is mixed into the labels.

    Examples
    --------
    >>> round(CategoricalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]), 4)
    0.6931
    """

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = flag(from_logits, "from_logits")
        self.label_smoothing = number(label_smoothing, "label_smoothing", 0.0, 1.0)

    def labels(self, y_true: ArrayLike, y_pred: Array) -> Array:
        """Return probabilities of the shape and element type of y_pred."""
        return labels.probabilities(y_true, y_pred)


@register
class BinaryCrossentropy(Loss):
    """Cross-entropy of independent yes-or-no labels, the mean over all of them.

    Parameters
    ----------
    from_logits
        Whether predictions are logits and not probabilities. It need not be set where the model's last activation
        is a sigmoid: the loss then takes its logits by itself.
    label_smoothing
        In [0, 1]: labels move this far from 0 and 1 towards 1/2.

    Examples
    --------
    >>> round(BinaryCrossentropy(from_logits=True)([[1]], [[0.0]]), 4)
    0.6931
    """

    activation = "sigmoid"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.from_logits = flag(from_logits, "from_logits")
        self.label_smoothing = number(label_smoothing, "label_smoothing", 0.0, 1.0)

    def value_and_gradient(self, y_true: ArrayLike, y_pred: Array) -> tuple[float, Array]:
        """Return the mean loss of a batch and its gradient by y_pred."""
        t = labels.probabilities(y_true, y_pred)
        t = t * t.dtype.type(1 - self.label_smoothing) + t.dtype.type(self.label_smoothing / 2)
        if self.from_logits:
            # log(1 + exp(z)) - t z without overflow.
            losses = np.maximum(y_pred, 0) - y_pred * t + np.log1p(np.exp(-np.abs(y_pred)))
            gradient = nn.sigmoid(y_pred) - t
        else:
            _must_be_probabilities(y_pred)
            p = np.clip(y_pred, _EPSILON, 1 - _EPSILON)
            losses = -(t * np.log(p) + (1 - t) * np.log1p(-p))
            gradient = np.where(p == y_pred, (p - t) / (p * (1 - p)), y_pred.dtype.type(0))
        return _mean(losses, gradient)


@register
class MeanSquaredError(Loss):
    """The mean of (y_pred - y_true)^2.

    Examples
    --------
    >>> MeanSquaredError()([[1.0, 2.0]], [[1.0, 4.0]])
    2.0
    """

    def value_and_gradient(self, y_true: ArrayLike, y_pred: Array) -> tuple[float, Array]:
        """Return the mean loss of a batch and its gradient by y_pred."""
        difference = y_pred - labels.values(y_true, y_pred)
        return _mean(difference * difference, 2 * difference)


def _must_be_probabilities(y_pred: Array) -> None:
    # A NaN passes: it shows in the loss.
    outside = (y_pred < -_ROUNDING) | (y_pred > 1 + _ROUNDING)
    if outside.any():
        raise ValueError(
            f"y_pred must hold probabilities in [0, 1], got {y_pred[outside][0]}; the loss takes logits with "
            "from_logits=True"
        )


def _mean(losses: Array, gradient: Array) -> tuple[float, Array]:
    count = max(1, losses.size)
    return float(losses.sum(dtype=np.float64)) / count, gradient * gradient.dtype.type(1 / count)


_NAMED = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
}


def get(value: Any) -> Loss:
    """Return a loss from its Keras string, or the loss that was given.

    Parameters
    ----------
    value
        Such as "mse" or ``MeanSquaredError()``.

    Raises
    ------
    TypeError, ValueError
        If it is neither.

    Examples
    --------
    >>> get("mse")
    MeanSquaredError()
    """
    return lookup(value, "loss", Loss, _NAMED)
