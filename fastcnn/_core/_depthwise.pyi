"""Depthwise convolution: every channel has its own filter."""

from typing import Any

from numpy.typing import NDArray

from ._conv import Geometry

def prepare(g: Geometry, w: NDArray[Any], scale: NDArray[Any] | None = None) -> NDArray[Any]: ...
def forward(
    g: Geometry,
    x: NDArray[Any],
    w: NDArray[Any],
    bias: NDArray[Any] | None,
    residual: NDArray[Any] | None,
    relu: int,
    y: NDArray[Any],
    prepared: bool = False,
    expansion: tuple[NDArray[Any], NDArray[Any] | None, int, int, float] | None = None,
) -> None: ...
def backward_input(g: Geometry, dy: NDArray[Any], w: NDArray[Any], dx: NDArray[Any]) -> None: ...
def backward_filters(g: Geometry, dy: NDArray[Any], x: NDArray[Any], dw: NDArray[Any]) -> None: ...
def backward(
    g: Geometry, dy: NDArray[Any], x: NDArray[Any], w: NDArray[Any], dx: NDArray[Any], dw: NDArray[Any]
) -> None: ...
def pays_normalized(g: Geometry, x: NDArray[Any]) -> bool: ...
def backward_normalized(
    g: Geometry,
    normalized: tuple[Any, ...],
    x: NDArray[Any],
    made: tuple[Any, ...] | None,
    w: NDArray[Any],
    dx: NDArray[Any],
    dw: NDArray[Any],
    total: NDArray[Any] | None,
    dot: NDArray[Any] | None,
) -> None: ...
def forward_measured(
    g: Geometry,
    x: NDArray[Any],
    made: tuple[Any, ...] | None,
    w: NDArray[Any],
    y: NDArray[Any],
    mean: NDArray[Any],
    variance: NDArray[Any],
) -> None: ...
