"""What training shows while it runs: a bar per epoch on a terminal, plain lines elsewhere; and its history."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from numbers import Integral
from typing import Any


class History:
    """What ``fit`` returns: ``history`` holds a list per figure, one entry per epoch; ``epoch`` the epochs' numbers.

    Examples
    --------
    >>> history = History()
    >>> history.append(0, {"loss": 0.5})
    >>> history.history, history.epoch
    ({'loss': [0.5]}, [0])
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def append(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Add an epoch's figures."""
        self.epoch.append(epoch)
        for name, value in figures.items():
            self.history.setdefault(name, []).append(value)

    def __repr__(self) -> str:
        """Return the last epoch's figures."""
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items())
        return f"<History of {len(self.epoch)} epochs: {last}>"


def verbosity(verbose: Any) -> int:
    """Return 0 for silence, 1 for a bar, 2 for plain lines; "auto" is a bar on a terminal and lines elsewhere.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if isinstance(verbose, str) and verbose == "auto":
        stdout: Any = sys.stdout  # None in a process without one; or an object of one's own that can write
        return 1 if getattr(stdout, "isatty", bool)() else 2
    if isinstance(verbose, Integral) and verbose in (0, 1, 2):
        return int(verbose)
    raise ValueError(f'verbose must be "auto", 0, 1 or 2, got {verbose!r}')


class Progress:
    """One pass over the data, as it is shown; use it in a ``with`` block."""

    def __init__(self, title: str, total: int | None, verbose: int) -> None:
        self._title = title
        self._verbose = verbose
        self._start = time.perf_counter()
        self._bar: Any = None
        if verbose == 1:
            import shutil

            from tqdm import tqdm

            size = shutil.get_terminal_size()  # which knows what to say of a terminal that says 0 x 0
            self._bar = tqdm(
                total=total,
                unit=title,
                file=sys.stdout,
                ncols=size.columns,
                nrows=size.lines,
                ascii=True,
                bar_format=_COUNTING if total is None else _RUNNING,
            )

    def advance(self, figures: Mapping[str, float]) -> None:
        """Count a batch, and show the figures so far."""
        if self._bar is not None:
            self._bar.set_description_str(_text(figures, " "), refresh=False)
            self._bar.update()

    def finish(self, figures: Mapping[str, float]) -> None:
        """Show the final figures."""
        if self._bar is not None:
            self._bar.total = self._bar.n  # which no one may have known
            self._bar.bar_format = _FINISHED
            self._bar.set_description_str(_text(figures, " "))
        elif self._verbose == 2:
            seconds = time.perf_counter() - self._start
            print(f"{self._title}  {_text(figures)}  {seconds:.1f} s", flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


# Of tqdm's fields the unit is the title, and the description the figures: what it calls a postfix begins with a comma.
_COUNTING = "{unit} {n_fmt} batches {elapsed} {desc}"
_RUNNING = "{unit} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {desc}"
# Loss and accuracy, and the same in validation, fit into 80 columns.
_FINISHED = "{unit} {percentage:3.0f}%|{bar}| {elapsed} {desc}"
_SHORT = {"accuracy": "acc", "val_accuracy": "val_acc"}


def _text(figures: Mapping[str, float], gap: str = "  ") -> str:
    return gap.join(f"{_SHORT.get(name, name)} {value:.4f}" for name, value in figures.items())
