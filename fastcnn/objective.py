"""What a model is trained for: a loss and metrics for each output, and the figures that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import losses, metrics
from .arguments import brief, in_order, number, plain, read_only, real_array, within
from .losses import Loss
from .metrics import Metric
from .registry import is_own

Array = NDArray[Any]


class Objective:
    """Losses and metrics, one list entry for each output of a model.

    Parameters
    ----------
    loss
        A loss or its string, for every output; or a list or, by the outputs' names, a dict of them.
    metrics
        A list of metrics or their strings; where there are several outputs a list or a dict of such lists.
    loss_weights
        The factor of each output's loss in the sum, likewise; 1 where there is none.
    outputs
        The outputs' names.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.
    """

    def __init__(self, loss: Any, metrics: Any, loss_weights: Any, outputs: Sequence[str]) -> None:
        self.outputs = list(outputs)
        self.losses = [losses.get(one) for one in _for_each(loss, self.outputs, "loss")]
        several = len(self.outputs) > 1
        # Metrics come in a list even for one output: only lists in a list, or a dict, tell outputs apart.
        shared = isinstance(metrics, (list, tuple)) and not any(isinstance(one, (list, tuple)) for one in metrics)
        chosen = (
            _for_each(metrics, self.outputs, "metrics") if several and not shared else [metrics] * len(self.outputs)
        )
        self.metrics = [_metrics(one) for one in chosen]
        weights = _for_each(1.0 if loss_weights is None else loss_weights, self.outputs, "loss_weights")
        self.weights = [number(one, "loss_weights", 0.0, np.inf) for one in weights]
        self.names = ["loss"]
        if several:
            self.names += [f"{output}_loss" for output in self.outputs]
        for output, own in zip(self.outputs, self.metrics, strict=True):
            self.names += [f"{output}_{metric.name}" if several else metric.name for metric in own]
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"metrics must have names that differ, got {self.names[1:]}")
        if any(name.startswith("val_") for name in self.names):
            raise ValueError(f"metrics must have names that do not begin as those of validation, got {self.names[1:]}")

    def loss(
        self, y: Sequence[ArrayLike], results: Sequence[Array], logits: Sequence[bool]
    ) -> tuple[list[float], list[Array]]:
        """Return the figures of the loss, the sum first, and its gradient by each result.

        Parameters
        ----------
        y
            What is wanted of each output.
        results
            What it gave.
        logits
            Whether that is the logits of what the loss expects.
        """
        values: list[float] = []
        gradients: list[Array] = []
        for loss, weight, wanted, result, raw in zip(self.losses, self.weights, y, results, logits, strict=True):
            try:
                value, gradient = _value_and_gradient(loss.of_logits() if raw else loss, wanted, result)
            except (TypeError, ValueError) as error:
                if len(self.outputs) == 1:
                    raise
                raise within(f"output {self.outputs[len(values)]}", error) from error
            values.append(value)
            gradients.append(gradient if weight == 1.0 else gradient * gradient.dtype.type(weight))
        total = sum(weight * value for weight, value in zip(self.weights, values, strict=True))
        return [total, *values] if len(values) > 1 else [total], gradients

    def measured(self, y: Sequence[ArrayLike], results: Sequence[Array]) -> list[float]:
        """Return the metrics of a batch."""
        return [
            _measured(metric, wanted, result) if len(result) else 0.0
            for own, wanted, result in zip(self.metrics, y, results, strict=True)
            for metric in own
        ]

    def takes_logits(self, index: int, activation: str | None) -> bool:
        """Whether an output's loss can work from the logits of the activation that the output ends in."""
        loss = self.losses[index]
        return loss.activation is not None and not loss.from_logits and loss.activation == activation


class Means:
    """Means of figures over samples that come in batches."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._sums = [0.0] * len(names)
        self.count = 0
        self.batches = 0

    def add(self, samples: int, figures: list[float]) -> None:
        """Take in the figures of a batch."""
        self.count += samples
        self.batches += 1
        self._sums = [total + samples * value for total, value in zip(self._sums, figures, strict=True)]

    def figures(self) -> dict[str, float]:
        """Return the means so far, by name."""
        return {name: total / max(1, self.count) for name, total in zip(self._names, self._sums, strict=True)}


def _for_each(value: Any, names: Sequence[str], what: str) -> list[Any]:
    """Return what is given for each output; a single one is for all of them."""
    return in_order(value, names, what) if isinstance(value, (Mapping, list, tuple)) else [value] * len(names)


def _metrics(chosen: Any) -> list[Metric]:
    chosen = [] if chosen is None else chosen
    if isinstance(chosen, (str, Metric)):
        chosen = [chosen]
    if not isinstance(chosen, (list, tuple)):
        raise TypeError(f"metrics must be a list, got {brief(chosen)}")
    return [metrics.get(metric) for metric in chosen]


def _value_and_gradient(loss: Loss, y: ArrayLike, result: Array) -> tuple[float, Array]:
    """Return a loss's value and gradient, if they are such: a loss may be one's own."""
    returned = loss.value_and_gradient(*_guarded(loss, y, result))
    is_pair = type(returned) is tuple and len(returned) == 2
    if not is_pair or (type(returned[0]) is not float and np.shape(returned[0])):
        raise TypeError(
            f"value_and_gradient of {loss!r} must return a number and an array of shape {result.shape}, "
            f"got {brief(returned)}"
        )
    gradient = returned[1]
    if type(gradient) is not np.ndarray or gradient.dtype != result.dtype:  # else to name it takes the most time
        gradient = real_array(gradient, f"the gradient of {loss!r}")
    if gradient.shape != result.shape:
        raise ValueError(f"the gradient of {loss!r} must have shape {result.shape}, got {gradient.shape}")
    return float(returned[0]), plain(gradient, result.dtype, "the loss's gradient")


def _measured(metric: Metric, y: ArrayLike, result: Array) -> float:
    """Return the mean of a metric that may be one's own."""
    values = real_array(metric(*_guarded(metric, y, result)), f"what {metric!r} returns")
    if values.shape != (len(result),):
        raise ValueError(f"{metric!r} must return a value for each of {len(result)} samples, got shape {values.shape}")
    return float(values.mean())


def _guarded(judge: Loss | Metric, y: ArrayLike, result: Array) -> tuple[ArrayLike, Array]:
    """Return what a loss or a metric is given; one's own might change in place what others read too."""
    if is_own(type(judge)):
        return y, result
    return read_only(y) if isinstance(y, np.ndarray) else y, read_only(result)
