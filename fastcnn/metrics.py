"""What training reports beside the loss: the share of right answers, in Keras's forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import labels
from .arguments import integer, number, real_array, real_batch, text
from .registry import Configurable, lookup, register

Array = NDArray[Any]


class Metric(Configurable):
    """Base class of metrics: a value per sample, whose mean is reported under the metric's name.

    What a model gives one of one's own is read-only.
    """

    #: What the metric is called in histories and progress lines.
    name: str = "metric"

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike) -> Array:
        """Return a float per sample, (N,).

        Parameters
        ----------
        y_true
            What is wanted: class numbers, or a value for each class.
        y_pred
            What the model gives, (N, ..., C).
        """
        raise NotImplementedError


@register
class Accuracy(Metric):
    """Share of right answers, in the form that labels and predictions ask for.

    Predictions of one value a sample are right where they lie on the label's side of 1/2. Predictions of several
    values are right where the largest is the label's: a class number, or the largest of a value for each class.

    Parameters
    ----------
    name
        What it is called in histories.

    Examples
    --------
    >>> Accuracy()([1, 0], [[0.2, 0.8], [0.4, 0.6]]).tolist()
    [1.0, 0.0]
    >>> Accuracy()([1, 0], [[0.7], [0.2]]).tolist()
    [1.0, 1.0]
    """

    def __init__(self, name: str = "accuracy") -> None:
        self.name = text(name, "name")

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike) -> Array:
        """Return 1 for every right answer, else 0; of each sample the mean, 0 where it has no values."""
        predicted = _predictions(y_pred)
        if predicted.shape[-1] == 1:
            return BinaryAccuracy()(y_true, predicted)
        # The largest of values with a NaN among them is NaN, which is never right.
        right = predicted.argmax(axis=-1) == _class_numbers(y_true, predicted)
        return _per_sample(right & ~np.isnan(predicted.max(axis=-1)))


@register
class BinaryAccuracy(Metric):
    """Share of values that lie on the label's side of a threshold.

    Parameters
    ----------
    threshold
        Above which a prediction means yes, rounded to the predictions' element type, as in Keras.
    name
        What it is called in histories.

    Examples
    --------
    >>> BinaryAccuracy(threshold=0.0)([[1, 0]], [[3.0, 2.0]]).tolist()
    [0.5]
    """

    def __init__(self, threshold: float = 0.5, name: str = "binary_accuracy") -> None:
        self.threshold = number(threshold, "threshold", -np.inf, np.inf)
        self.name = text(name, "name")

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike) -> Array:
        """Return each sample's share of right answers, 0 where it has no values."""
        predicted = real_batch(y_pred, "y_pred")
        # Labels take on the predictions' type, which is not to round them.
        predicted = predicted.astype(np.result_type(np.float32, predicted), copy=False)
        wanted = labels.values(y_true, predicted)
        _must_not_be_nan(wanted)
        with np.errstate(over="ignore"):  # nothing of a narrower type is above a threshold beyond it
            threshold = predicted.dtype.type(self.threshold)
        return _per_sample(((predicted > threshold) == (wanted > 0.5)) & ~np.isnan(predicted))


@register
class TopKCategoricalAccuracy(Metric):
    """Share of samples whose true class has one of the k largest predictions.

    Parameters
    ----------
    k
        How many may be tried.
    name
        What it is called in histories.

    Examples
    --------
    >>> TopKCategoricalAccuracy(k=2)([0, 2], [[0.3, 0.5, 0.2], [0.3, 0.5, 0.2]]).tolist()
    [1.0, 0.0]
    """

    def __init__(self, k: int = 5, name: str = "top_k_categorical_accuracy") -> None:
        self.k = integer(k, "k")
        self.name = text(name, "name")

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike) -> Array:
        """Return 1 where fewer than k classes have a larger prediction than the true one, else 0."""
        predicted = _predictions(y_pred)
        of_truth = np.take_along_axis(predicted, _class_numbers(y_true, predicted)[..., np.newaxis], axis=-1)
        # Counts what is not known to be smaller or equal, so that a NaN is never right.
        return _per_sample(np.count_nonzero(~(predicted <= of_truth), axis=-1) < self.k)


def _predictions(y_pred: ArrayLike) -> Array:
    predicted = real_array(y_pred, "y_pred")
    if predicted.ndim < 2 or not predicted.shape[-1]:
        raise ValueError(f"y_pred must have shape (N, ..., C), got {predicted.shape}")
    return predicted


def _class_numbers(y_true: ArrayLike, predicted: Array) -> Array:
    wanted = real_array(y_true, "y")
    if wanted.shape != predicted.shape:
        return labels.class_numbers(wanted, predicted)
    _must_not_be_nan(wanted)
    numbers: Array = wanted.argmax(axis=-1)
    return numbers


def _must_not_be_nan(wanted: Array) -> None:
    if np.isnan(wanted).any():
        raise ValueError("y must hold numbers, got nan")


def _per_sample(right: Array) -> Array:
    if not right.size:
        return np.zeros(len(right))
    means: Array = right.reshape(len(right), -1).mean(axis=1, dtype=np.float64)
    return means


_NAMED: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "acc": lambda: Accuracy("acc"),
    "categorical_accuracy": lambda: Accuracy("categorical_accuracy"),
    "sparse_categorical_accuracy": lambda: Accuracy("sparse_categorical_accuracy"),
    "binary_accuracy": BinaryAccuracy,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": lambda: TopKCategoricalAccuracy(name="sparse_top_k_categorical_accuracy"),
}


def get(value: Any) -> Metric:
    """Return a metric from its Keras string, or the metric that was given.

    Parameters
    ----------
    value
        Such as "accuracy" or ``TopKCategoricalAccuracy(k=5)``.

    Raises
    ------
    TypeError, ValueError
        If it is neither.

    Examples
    --------
    >>> get("accuracy")
    Accuracy()
    """
    return lookup(value, "metrics", Metric, _NAMED)
