"""Element-wise, row-wise and column-wise primitives, dropout, optimiser steps."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RELU: Final[int]
CLIPPED_RELU: Final[int]
CLIPPED_RELU_BACKWARD: Final[int]
LEAKY_RELU: Final[int]
LEAKY_RELU_BACKWARD: Final[int]
SIGMOID: Final[int]
SIGMOID_BACKWARD: Final[int]
TANH: Final[int]
TANH_BACKWARD: Final[int]
HARD_SIGMOID: Final[int]
HARD_SIGMOID_BACKWARD: Final[int]
HARD_SWISH: Final[int]
HARD_SWISH_BACKWARD: Final[int]
SILU: Final[int]
SILU_BACKWARD: Final[int]
GELU: Final[int]
GELU_BACKWARD: Final[int]
GELU_TANH: Final[int]
GELU_TANH_BACKWARD: Final[int]
SOFTMAX: Final[int]
SOFTMAX_BACKWARD: Final[int]
LOG_SOFTMAX: Final[int]
LOG_SOFTMAX_BACKWARD: Final[int]
ADD: Final[int]

def elementwise(op: int, a: NDArray[Any], b: NDArray[Any], alpha: float, out: NDArray[Any]) -> None: ...
def relu_backward(g: NDArray[Any], h: NDArray[Any] | None, y: NDArray[Any], relu: int, out: NDArray[Any]) -> None: ...
def rowwise(op: int, a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None: ...
def softmax_cross_entropy(
    logits: NDArray[Any], targets: NDArray[Any], dlogits: NDArray[Any], losses: NDArray[np.float64]
) -> None: ...
def one_hot(numbers: NDArray[np.int64], out: NDArray[Any]) -> int: ...
def column_sum(x: NDArray[Any], out: NDArray[Any]) -> None: ...
def moments(x: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any]) -> None: ...
def bias_add(x: NDArray[Any], bias: NDArray[Any], relu: int, y: NDArray[Any]) -> None: ...
def inverse_deviation(variance: NDArray[Any], epsilon: float) -> NDArray[Any] | None: ...
def normalize(
    x: NDArray[Any],
    mean: NDArray[Any],
    scale: NDArray[Any],
    offset: NDArray[Any],
    residual: NDArray[Any] | None,
    relu: int,
    y: NDArray[Any],
) -> None: ...
def normalize_sums(
    dy: NDArray[Any],
    x: NDArray[Any],
    mean: NDArray[Any],
    scale: NDArray[Any],
    offset: NDArray[Any],
    relu: int,
    total: NDArray[Any],
    dot: NDArray[Any],
) -> None: ...
def normalize_backward(
    dy: NDArray[Any],
    x: NDArray[Any],
    mean: NDArray[Any],
    scale: NDArray[Any],
    offset: NDArray[Any],
    relu: int,
    g_mean: NDArray[Any],
    slope: NDArray[Any],
    dx: NDArray[Any],
) -> None: ...
def layer_normalize(
    x: NDArray[Any], scale: NDArray[Any], offset: NDArray[Any], epsilon: float, y: NDArray[Any]
) -> None: ...
def layer_normalize_backward(
    dy: NDArray[Any],
    x: NDArray[Any],
    scale: NDArray[Any],
    epsilon: float,
    dx: NDArray[Any],
    dscale: NDArray[Any],
) -> None: ...
def dropout(x: NDArray[Any], seed: int, threshold: int, scale: float, y: NDArray[Any]) -> None: ...
def sgd(
    params: list[NDArray[Any]],
    grads: list[NDArray[Any]],
    momenta: list[NDArray[Any]],
    rate: float,
    momentum: float,
    nesterov: bool,
    decay: float,
) -> None: ...
def adam(
    params: list[NDArray[Any]],
    grads: list[NDArray[Any]],
    m: list[NDArray[Any]],
    v: list[NDArray[Any]],
    alpha: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    rate_decay: float,
) -> None: ...
