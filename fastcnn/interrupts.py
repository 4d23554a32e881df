"""Interrupts from the keyboard, which wait for the end of what is to be done as a whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """A block in which an interrupt waits for the end of what is ``whole``, and comes at once otherwise.

    In the main thread, that is, the only one that Python interrupts, and where a function handles the signal. To begin
    and end the block takes some microseconds, what is whole in it next to nothing.

    Examples
    --------
    >>> try:
    ...     with Interrupts() as interrupts:
    ...         with interrupts.whole:
    ...             signal.raise_signal(signal.SIGINT)
    ...             print("done")
    ...         print("never")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    done
    interrupted
    """

    def __init__(self) -> None:
        self.whole = _Whole()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self.whole.handler = handler
                signal.signal(signal.SIGINT, self.whole.handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self.whole.handler is not None:
            signal.signal(signal.SIGINT, self.whole.handler)


class _Whole:
    """The blocks that an interrupt comes after, and what handled it before."""

    def __init__(self) -> None:
        self.handler: Any = None
        self._inside = False
        self._caught: tuple[int, FrameType | None] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take the signal: keep it for the end of the block, or have it handled as it was before."""
        if self._inside:
            self._caught = number, frame
        else:
            self.handler(number, frame)

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False
        if self._caught is not None:
            caught, self._caught = self._caught, None
            self.handler(*caught)
