"""Direct convolutions of few filters: the lanes of a vector are pixels, not filters."""

from typing import Any

from numpy.typing import NDArray

from ._conv import Geometry

def pays(g: Geometry, lanes: int, filters: bool = False) -> bool: ...
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
    pools: bool = False,
    argmax: NDArray[Any] | None = None,
) -> None: ...
def backward_filters(g: Geometry, dy: NDArray[Any], x: NDArray[Any], dw: NDArray[Any]) -> None: ...
def backward_filters_pooled(
    g: Geometry,
    dy: NDArray[Any],
    y: NDArray[Any],
    relu: int,
    argmax: NDArray[Any],
    x: NDArray[Any],
    dw: NDArray[Any],
    db: NDArray[Any],
) -> None: ...
