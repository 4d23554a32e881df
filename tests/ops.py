"""All ops that return new arrays, each as a function of its array operands alone, with shapes for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastcnn import nn


@dataclass(frozen=True)
class Op:
    """`batched` of the operands, the first ones, have the batch for their first axis."""

    name: str
    function: Callable[..., Any]
    batched: int
    small: tuple[tuple[int, ...], ...]
    large: tuple[tuple[int, ...], ...]  # enough work for several threads

    def __call__(self, *operands):
        """Return a list of result arrays."""
        results = self.function(*operands)
        return list(results) if isinstance(results, tuple) else [results]

    def operands(self, shapes, dtype=np.float64):
        """Positive numbers that have halves at most, so that every element type and a variance can hold them."""
        draws = [np.random.default_rng([i, *s]).integers(1, 8, s) / 2 for i, s in enumerate(shapes)]
        return [x.astype(dtype) for x in draws]

    def empty(self):
        """The small shapes with no batch."""
        return tuple((0, *s[1:]) if i < self.batched else s for i, s in enumerate(self.small))


def _labels(logits):
    return np.arange(np.prod(np.shape(logits)[:-1], dtype=int)).reshape(np.shape(logits)[:-1]) % np.shape(logits)[-1]


def _through_maxima(x, w):
    y, argmax = nn.conv2d_max_pool_with_argmax(x, w, **SAME, activation="relu")
    return nn.conv2d_max_pool_with_argmax_backward(y, y, argmax, x, w, **SAME, activation="relu")


def _from_maxima(g):
    batch, height, width, channels = np.shape(g)
    argmax = np.arange(np.size(g), dtype=np.uint8).reshape(np.shape(g)) % 4
    return nn.max_pool_with_argmax_backward(g, argmax, (batch, 2 * height, 2 * width, channels), 2)


ROWS = ((3, 7),), ((300, 90),)
TWO = tuple(shapes * 2 for shapes in ROWS)
CHANNELS = ((2, 3, 7), *((7,),) * 4), ((9, 40, 90), *((90,),) * 4)
SAME = {"strides": (1, 2), "padding": "same"}
IMAGE, FILTERS, GRAD = (2, 5, 6, 3), (3, 3, 3, 5), (2, 5, 3, 5)
LARGE_IMAGE, LARGE_FILTERS, LARGE_GRAD = (3, 29, 30, 13), (3, 3, 13, 21), (3, 29, 15, 21)
POOLED, LARGE_POOLED = (2, 3, 3, 3), (3, 15, 15, 13)

OPS = [
    *(
        Op(f"{name}", lambda x, name=name: nn.activate(x, name), 1, *ROWS)
        for name in nn.ACTIVATIONS
    ),
    *(
        Op(f"{name}_backward", lambda g, y, name=name: nn.activate_backward(g, y, name), 2, *TWO)
        for name in nn.ACTIVATIONS
    ),
    Op("softmax of the first axis", lambda x: nn.softmax(x, 0), 1, *ROWS),
    Op("log_softmax_backward of the first axis", lambda g, y: nn.log_softmax_backward(g, y, 0), 2, *TWO),
    Op("relu with a most", lambda x: nn.relu(x, 2.5), 1, *ROWS),
    Op("leaky_relu with a slope", lambda x: nn.leaky_relu(x, 0.3), 1, *ROWS),
    Op("gelu by tanh", lambda x: nn.gelu(x, True), 1, *ROWS),
    Op("gelu_backward by tanh", lambda g, x: nn.gelu_backward(g, x, True), 2, *TWO),
    Op("add", nn.add, 2, *TWO),
    Op("activate_backward, second", lambda g, y, h: nn.activate_backward(g, y, "relu", h), 3,
       *((s[0], *s) for s in TWO)),
    Op("matmul", nn.matmul, 1, ((3, 7), (7, 5)), ((150, 90), (90, 50))),
    Op("matmul of few rows", nn.matmul, 1, ((2, 7), (7, 5)), ((20, 190), (190, 101))),
    Op("matmul of one row", nn.matmul, 1, ((1, 7), (7, 5)), ((1, 790), (790, 501))),
    Op("matmul, b transposed", lambda a, b: nn.matmul(a, b, False, True), 1,
       ((3, 70), (5, 70)), ((7, 500), (101, 500))),
    Op("matmul, both transposed", lambda a, b: nn.matmul(a, b, True, True), 0,
       ((7, 3), (5, 7)), ((90, 150), (50, 90))),
    Op("matmul_backward", nn.matmul_backward, 2, ((3, 5), (3, 7), (7, 5)), ((150, 50), (150, 90), (90, 50))),
    Op("dense", nn.dense, 1, ((3, 7), (7, 5), (5,)), ((60, 190), (190, 50), (50,))),
    Op("dense_backward", nn.dense_backward, 2, ((3, 5), (3, 7), (7, 5)), ((150, 50), (150, 90), (90, 50))),
    Op("conv2d", lambda x, w, b: nn.conv2d(x, w, bias=b, **SAME), 1,
       (IMAGE, FILTERS, (5,)), (LARGE_IMAGE, LARGE_FILTERS, (21,))),
    Op("conv2d, residual", lambda x, r, w: nn.conv2d(x, w, **SAME, residual=r, activation="relu"), 2,
       (IMAGE, GRAD, FILTERS), (LARGE_IMAGE, LARGE_GRAD, LARGE_FILTERS)),
    Op("conv2d of one image", lambda x, w: nn.conv2d(x, w, padding=1, activation="tanh"), 1,
       ((1, 5, 6, 3), FILTERS), ((1, 14, 13, 32), (3, 3, 32, 144))),
    Op("conv2d in groups", lambda x, w: nn.conv2d(x, w, groups=3, dilations=(2, 1), padding="same"), 1,
       (IMAGE, (3, 3, 1, 6)), ((3, 29, 30, 12), (3, 3, 4, 24))),
    Op("conv2d, depthwise", lambda x, w: nn.conv2d(x, w, groups=np.shape(x)[3], **SAME), 1,
       (IMAGE, (3, 3, 1, 3)), ((3, 39, 40, 19), (3, 3, 1, 19))),
    Op("conv2d_backward, depthwise", lambda g, x, w: nn.conv2d_backward(g, x, w, groups=np.shape(x)[3], padding="same"),
       2, (IMAGE, IMAGE, (3, 3, 1, 3)), ((3, 39, 40, 19), (3, 39, 40, 19), (3, 3, 1, 19))),
    Op("conv2d, groups that share a vector", lambda x, w: nn.conv2d(x, w, groups=np.shape(x)[3] // 2, **SAME), 1,
       ((2, 5, 6, 18), (3, 3, 2, 27)), ((3, 39, 40, 34), (3, 3, 2, 51))),
    Op("conv2d_backward, groups that share a vector",
       lambda g, x, w: nn.conv2d_backward(g, x, w, groups=np.shape(x)[3] // 2, padding="same"), 2,
       ((2, 5, 6, 27), (2, 5, 6, 18), (3, 3, 2, 27)), ((3, 39, 40, 51), (3, 39, 40, 34), (3, 3, 2, 51))),
    Op("PreparedConv2D", lambda x, w, b: nn.PreparedConv2D(w, np.shape(x), **SAME, bias=b)(x), 1,
       (IMAGE, FILTERS, (5,)), (LARGE_IMAGE, LARGE_FILTERS, (21,))),
    Op("conv2d_max_pool_with_argmax", lambda x, w, b: nn.conv2d_max_pool_with_argmax(x, w, **SAME, bias=b)[0], 1,
       (IMAGE, FILTERS, (5,)), (LARGE_IMAGE, LARGE_FILTERS, (21,))),
    Op("conv2d_max_pool_with_argmax_backward", _through_maxima, 1,
       (IMAGE, FILTERS), (LARGE_IMAGE, LARGE_FILTERS)),
    Op("conv2d by a product", nn.conv2d, 1, (IMAGE, (1, 1, 3, 5)), (LARGE_IMAGE, (1, 1, 13, 21))),
    Op("conv2d_backward", lambda g, x, w: nn.conv2d_backward(g, x, w, **SAME), 2,
       (GRAD, IMAGE, FILTERS), (LARGE_GRAD, LARGE_IMAGE, LARGE_FILTERS)),
    Op("conv2d_backward_input",
       lambda g, w: nn.conv2d_backward_input(g, w, (np.shape(g)[0], np.shape(g)[1], 2 * np.shape(g)[2], np.shape(w)[2]),
                                             **SAME), 1,
       (GRAD, FILTERS), (LARGE_GRAD, LARGE_FILTERS)),
    Op("conv2d_backward_filters",
       lambda g, x: nn.conv2d_backward_filters(g, x, (3, 3, np.shape(x)[3], np.shape(g)[3]), **SAME), 2,
       (GRAD, IMAGE), (LARGE_GRAD, LARGE_IMAGE)),
    Op("conv2d_transpose", lambda x, w, b: nn.conv2d_transpose(x, w, bias=b, activation="relu", **SAME), 1,
       (GRAD, FILTERS, (3,)), (LARGE_GRAD, LARGE_FILTERS, (13,))),
    Op("conv2d_transpose_backward", lambda g, x, w: nn.conv2d_transpose_backward(g, x, w, **SAME), 2,
       (IMAGE, GRAD, FILTERS), (LARGE_IMAGE, LARGE_GRAD, LARGE_FILTERS)),
    Op("max_pool", lambda x: nn.max_pool(x, 2, padding="same"), 1, (IMAGE,), (LARGE_IMAGE,)),
    Op("max_pool_with_argmax", lambda x: nn.max_pool_with_argmax(x, 2, padding="same")[0], 1, (IMAGE,), (LARGE_IMAGE,)),
    Op("max_pool_with_argmax_backward", _from_maxima, 1, (POOLED,), (LARGE_POOLED,)),
    Op("max_pool_backward", lambda g, x: nn.max_pool_backward(g, x, 2, padding="same"), 2,
       (POOLED, IMAGE), (LARGE_POOLED, LARGE_IMAGE)),
    Op("max_pool_backward with windows that overlap", lambda g, x: nn.max_pool_backward(g, x, 3, 1, padding="same"), 2,
       (IMAGE, IMAGE), ((1, 70, 30, 13), (1, 70, 30, 13))),
    Op("avg_pool", lambda x: nn.avg_pool(x, 2, padding="same"), 1, (IMAGE,), (LARGE_IMAGE,)),
    Op("avg_pool_backward",
       lambda g: nn.avg_pool_backward(g, (np.shape(g)[0], *(2 * n for n in np.shape(g)[1:3]), np.shape(g)[3]), 3, 2,
                                      padding="same"), 1,
       (POOLED,), (LARGE_POOLED,)),
    Op("bias_add", nn.bias_add, 1, *(s[:2] for s in CHANNELS)),
    Op("bias_add_backward", nn.bias_add_backward, 1, *(s[:1] for s in CHANNELS)),
    Op("moments", nn.moments, 1, *(s[:1] for s in CHANNELS)),
    Op("batch_normalization", lambda *a: nn.batch_normalization(*a, 0.1), 1, *CHANNELS),
    Op("batch_normalization, residual",
       lambda x, r, *a: nn.batch_normalization(x, *a, 0.1, "relu", r), 2, *((s[0], *s) for s in CHANNELS)),
    Op("batch_normalization_backward", lambda *a: nn.batch_normalization_backward(*a, 0.1), 2,
       *((s[0], *s[:4]) for s in CHANNELS)),
    Op("batch_normalization_backward through relu",
       lambda g, x, m, v, s: nn.batch_normalization_backward(g, x, m, v, s, 0.1, True, m, "relu"), 2,
       *((s[0], *s[:4]) for s in CHANNELS)),
    Op("layer_normalization", lambda *a: nn.layer_normalization(*a, 0.1), 1, *(s[:3] for s in CHANNELS)),
    Op("layer_normalization_backward", lambda *a: nn.layer_normalization_backward(*a, 0.1), 2,
       *((s[0], *s[:2]) for s in CHANNELS)),
    Op("dropout", lambda x: nn.dropout(x, 0.4, seed=7), 1, *ROWS),
    Op("dropout out of training", lambda x: nn.dropout(x, 0.4, training=False), 1, *ROWS),
    Op("dropout_backward", lambda g: nn.dropout_backward(g, 0.4, 7), 1, *ROWS),
    Op("class_probabilities", lambda x: nn.class_probabilities(_labels(x), x, 0.1), 1, *ROWS),
    Op("softmax_cross_entropy", lambda x: nn.softmax_cross_entropy(_labels(x), x, 0.1), 1, *ROWS),
]  # fmt: skip
