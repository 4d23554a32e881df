"""Matrix product C = act(A B + bias) with A, B or both transposed."""

from typing import Any

from numpy.typing import NDArray

def matmul(
    a: NDArray[Any],
    b: NDArray[Any],
    out: NDArray[Any],
    transpose_a: bool,
    transpose_b: bool,
    bias: NDArray[Any] | None,
    relu: bool,
) -> None: ...
