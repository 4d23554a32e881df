"""Matrix product C = act(A B + bias) with A, B or both transposed."""

from typing import Any

from numpy.typing import NDArray

def matmul(
    a: object, b: object, transpose_a: bool, transpose_b: bool, bias: object, relu: int
) -> NDArray[Any] | None: ...
