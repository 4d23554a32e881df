"""Max and average pooling, forward and backward."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

class Geometry:
    """The sizes of one pooling, checked by whoever makes it."""

    def __init__(
        self,
        input_shape: Sequence[int | None],
        output_shape: Sequence[int | None],
        ksize: tuple[int, int],
        strides: tuple[int, int],
        offsets: tuple[int, int],
    ) -> None: ...
    @property
    def images(self) -> int: ...
    @property
    def in_h(self) -> int: ...
    @property
    def in_w(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def out_h(self) -> int: ...
    @property
    def out_w(self) -> int: ...
    @property
    def stride_h(self) -> int: ...
    @property
    def stride_w(self) -> int: ...
    @property
    def top(self) -> int: ...
    @property
    def left(self) -> int: ...

def forward(
    g: Geometry, x: NDArray[Any], average: bool, y: NDArray[Any], argmax: NDArray[Any] | None = None
) -> None: ...
def backward(
    g: Geometry,
    dy: NDArray[Any],
    x: NDArray[Any],
    average: bool,
    dx: NDArray[Any],
    argmax: NDArray[Any] | None = None,
) -> None: ...
def backward_through(
    g: Geometry,
    dy: NDArray[Any],
    y: NDArray[Any],
    relu: int,
    argmax: NDArray[Any],
    dx: NDArray[Any],
    sums: NDArray[Any],
) -> None: ...
