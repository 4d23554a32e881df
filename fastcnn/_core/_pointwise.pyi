"""1x1 convolutions between batch normalisations, in training."""

from typing import Any

from numpy.typing import NDArray

from ._conv import Geometry

def forward_measured(
    g: Geometry,
    x: NDArray[Any],
    made: tuple[Any, ...] | None,
    w: NDArray[Any],
    y: NDArray[Any],
    mean: NDArray[Any],
    variance: NDArray[Any],
) -> None: ...
