"""Pictures, by matplotlib, which the extra ``plot`` brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arguments import brief, file_path
from .plan import StepProfile


def plot_profile(profile: Sequence[StepProfile], path: Any = None) -> Any:
    """Draw where the time of a prediction goes: a bar for each step, with its rate of floating-point operations.

    Parameters
    ----------
    profile
        What :meth:`fastcnn.Model.profile` returned.
    path
        Where to save the picture, in the format that the ending names; None not to.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError
        If the picture can't be written.
    TypeError, ValueError
        If that is no profile, nothing in it took time, or path is none.

    Examples
    --------
    >>> import numpy as np, fastcnn
    >>> from fastcnn.layers import Conv2D, Flatten, Dense
    >>> from fastcnn.viz import plot_profile
    >>> model = fastcnn.Sequential([fastcnn.Input((16, 16, 3)), Conv2D(8, 3), Flatten(), Dense(10)])
    >>> figure = plot_profile(model.profile(np.zeros((1, 16, 16, 3))))  # doctest: +SKIP
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_profile needs matplotlib: pip install 'fastcnn[plot]'") from error
    if not isinstance(profile, (list, tuple)) or not all(isinstance(step, StepProfile) for step in profile):
        raise TypeError(f"profile must be what Model.profile returned, got {type(profile).__name__}")
    path = None if path is None else file_path(path)
    if path is not None and not path.suffix:
        raise ValueError(f"path must end in a format's name, such as .png, got {brief(str(path))}")
    steps = [step for step in profile if step.seconds]
    if not steps:
        raise ValueError("profile must hold steps that took time, got none")
    times = [1e6 * (step.seconds or 0.0) for step in steps]
    figure = Figure(figsize=(9, 1.4 + 0.24 * len(steps)), layout="constrained")
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(map(_kind, steps)))
    places = range(len(steps))
    bars = axes.barh(places, times, color=[f"C{kinds.index(_kind(step)) % 10}" for step in steps])
    axes.bar_label(bars, [_rate(step) for step in steps], padding=3, fontsize=7)
    # A name may hold dollars, between which there would be formulas.
    axes.set_yticks(places, [f"{step.layers[0]}: {step.title}" for step in steps], fontsize=7, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel("microseconds")
    axes.set_title(f"{sum(times):,.1f} us for a batch of {steps[0].shape[0]}", fontsize=10)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _kind(step: StepProfile) -> str:
    """Return what steps have a colour in common for: the algorithm, or the sort of op."""
    return step.algorithm or step.op


def _rate(step: StepProfile) -> str:
    """Return the operations a second, where there are any to speak of."""
    rate = step.flops / (step.seconds or 1.0) / 1e9
    return f"{rate:.0f} GFLOP/s" if rate >= 1 else ""
