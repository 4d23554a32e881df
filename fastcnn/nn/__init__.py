"""Functional ops on NumPy arrays, in the words of ``tf.nn``: validate, allocate, call a kernel.

Images are NHWC, (batch, height, width, channels); filters HWIO, (height, width, channels, filters). Arrays are
float32 or float64; integers and half floats are promoted to the float of the other operands, to float32 if
there is none. Every op returns new C-ordered arrays and changes nothing in place, but for the optimiser steps,
``sgd_step`` and ``adam_step``; each op that layers are made of has its gradient beside it.
"""

import os as _os
import sys as _sys

from .activations import (
    ACTIVATIONS,
    BACK_FROM_ARGUMENT,
    activate,
    activate_backward,
    add,
    gelu,
    gelu_backward,
    hard_sigmoid,
    hard_sigmoid_backward,
    hard_swish,
    hard_swish_backward,
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from .conv import (
    PreparedConv2D,
    conv2d,
    conv2d_backward,
    conv2d_backward_filters,
    conv2d_backward_input,
    conv2d_max_pool_with_argmax,
    conv2d_max_pool_with_argmax_backward,
    conv2d_transpose,
    conv2d_transpose_backward,
)
from .dense import dense, dense_backward, matmul, matmul_backward
from .dropout import dropout, dropout_backward
from .loss import class_probabilities, softmax_cross_entropy
from .normalization import (
    batch_normalization,
    batch_normalization_backward,
    bias_add,
    bias_add_backward,
    layer_normalization,
    layer_normalization_backward,
    moments,
)
from .pool import (
    avg_pool,
    avg_pool_backward,
    max_pool,
    max_pool_backward,
    max_pool_with_argmax,
    max_pool_with_argmax_backward,
)
from .steps import adam_step, sgd_step

__all__ = [
    "ACTIVATIONS",
    "BACK_FROM_ARGUMENT",
    "PreparedConv2D",
    "activate",
    "activate_backward",
    "adam_step",
    "add",
    "avg_pool",
    "avg_pool_backward",
    "batch_normalization",
    "batch_normalization_backward",
    "bias_add",
    "bias_add_backward",
    "class_probabilities",
    "conv2d",
    "conv2d_backward",
    "conv2d_backward_filters",
    "conv2d_backward_input",
    "conv2d_max_pool_with_argmax",
    "conv2d_max_pool_with_argmax_backward",
    "conv2d_transpose",
    "conv2d_transpose_backward",
    "dense",
    "dense_backward",
    "dropout",
    "dropout_backward",
    "gelu",
    "gelu_backward",
    "hard_sigmoid",
    "hard_sigmoid_backward",
    "hard_swish",
    "hard_swish_backward",
    "layer_normalization",
    "layer_normalization_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "matmul",
    "matmul_backward",
    "max_pool",
    "max_pool_backward",
    "max_pool_with_argmax",
    "max_pool_with_argmax_backward",
    "moments",
    "relu",
    "relu_backward",
    "sgd_step",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "tanh",
    "tanh_backward",
]

#: Whether every operation prints a line, as it was when the package was imported.
VERBOSE = _os.environ.get("FASTCNN_VERBOSE", "0") not in ("", "0")
if VERBOSE:
    from ._verbose import install as _install

    _install(_sys.modules[__name__])
