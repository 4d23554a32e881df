"""Winograd's F(m x m, 3x3), m = 2, 4, 6: 3x3 convolution at stride 1, and its gradients."""

from typing import Any

from numpy.typing import NDArray

from ._conv import Geometry

FEW_TILES: int

class Winograd:
    """F(tile x tile, 3x3) for 3x3 filters at stride 1 in one group."""

    def __init__(self, tile: int) -> None: ...
    @property
    def tile(self) -> int: ...
    def prepare(self, g: Geometry, w: NDArray[Any], scale: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def forward(
        self,
        g: Geometry,
        x: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        residual: NDArray[Any] | None,
        relu: int,
        y: NDArray[Any],
        prepared: bool = False,
    ) -> None: ...
    def backward_input(self, g: Geometry, dy: NDArray[Any], w: NDArray[Any], dx: NDArray[Any]) -> None: ...
    def backward_filters(self, g: Geometry, dy: NDArray[Any], x: NDArray[Any], dw: NDArray[Any]) -> None: ...
