"""Layers that make one tensor of several: Add, Multiply, Concatenate."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import nn, ops
from ..arguments import integer
from ..registry import register
from ..shapes import elements
from .base import Array, Gradients, Layer, Shape


class _Elementwise(Layer):
    """What Add and Multiply share: samples that broadcast as NumPy has it."""

    many_inputs = True

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return (None, ...), as the inputs broadcast."""
        rank = max(len(shape) for shape in input_shape)
        try:
            if any(len(shape) != rank for shape in input_shape):
                raise ValueError
            return (None, *np.broadcast_shapes(*(shape[1:] for shape in input_shape)))  # type: ignore[arg-type]
        except ValueError:
            raise ValueError(
                f"inputs must have the same shape, or 1 where another has more, got {_listed(input_shape)}"
            ) from None

    def count_flops(self, input_shape: list[Shape], output_shape: Shape) -> int:
        """Return one operation for each element, and each input but the first."""
        return (len(input_shape) - 1) * elements(output_shape, "result")


@register
class Add(_Elementwise):
    """The sum of its inputs.

    Parameters
    ----------
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input: a list of tensors (N, ...) of one shape, or such as broadcast. Result (N, ...).

    Examples
    --------
    >>> import fastcnn
    >>> from fastcnn.layers import Dense
    >>> x = fastcnn.Input((4,))
    >>> fastcnn.Model(x, Add()([x, Dense(4)(x)])).output_shape
    (None, 4)
    """

    def forward(self, x: list[Array], training: bool = False) -> tuple[Array, Any]:
        """Return the sum."""
        total = x[0] if len(x) > 1 else x[0].copy()
        for other in x[1:]:
            total = nn.add(total, other) if total.shape == other.shape else total + other
        return total, [array.shape for array in x]

    def lowered(self, input_shape: list[Shape]) -> list[ops.Op]:
        """Return the sum."""
        return [ops.Elementwise(np.add)] if len(input_shape) > 1 else [ops.Same()]

    def backward(self, grad: Array, cache: list[tuple[int, ...]]) -> tuple[list[Array], Gradients]:
        """Return the gradient as it comes, for each input, summed where the input was broadcast."""
        return [_summed_to(grad, shape) for shape in cache], {}


@register
class Multiply(_Elementwise):
    """The product of its inputs, element by element, such as a feature map (N, H, W, C) and a gate (N, 1, 1, C).

    Parameters
    ----------
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input: a list of tensors (N, ...) of one shape, or such as broadcast. Result (N, ...).

    Examples
    --------
    >>> Multiply()([[[1.0, 2.0]], [[3.0, 4.0]]]).tolist()
    [[3.0, 8.0]]
    """

    def forward(self, x: list[Array], training: bool = False) -> tuple[Array, Any]:
        """Return the product."""
        return _product(x), x

    def lowered(self, input_shape: list[Shape]) -> list[ops.Op]:
        """Return the product."""
        return [ops.Elementwise(np.multiply)] if len(input_shape) > 1 else [ops.Same()]

    def backward(self, grad: Array, cache: list[Array]) -> tuple[list[Array], Gradients]:
        """Return for each input the gradient times the product of the others."""
        others = ([x for j, x in enumerate(cache) if j != i] for i in range(len(cache)))
        return [_summed_to(_product([grad, *rest]), x.shape) for x, rest in zip(cache, others, strict=True)], {}


@register
class Concatenate(Layer):
    """Its inputs side by side along an axis, such as the channels of several feature maps.

    Parameters
    ----------
    axis
        The axis along which they may differ: counted from the batch, which is 0, or from the end.
    name, dtype, trainable
        As in :class:`Layer`.

    Notes
    -----
    Input: a list of tensors (N, ...). Result (N, ...), whose size along the axis is the sum of theirs.

    Raises
    ------
    TypeError, ValueError
        If axis is no integer or that of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> Concatenate()([np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4, 5))]).shape
    (1, 4, 4, 8)
    """

    many_inputs = True

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = integer(axis, "axis", -64)
        if self.axis == 0:
            raise ValueError("axis must not be that of the batch, got 0")

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return (None, ...), with the sum of the sizes along the axis."""
        first = input_shape[0]
        if not -len(first) < self.axis < len(first):
            raise ValueError(f"axis must be one of a sample of shape {first}, got {self.axis}")
        axis = self.axis % len(first)
        if any(len(s) != len(first) or _without(s, axis) != _without(first, axis) for s in input_shape):
            raise ValueError(f"inputs must have the same shape but for axis {self.axis}, got {_listed(input_shape)}")
        return (*first[:axis], sum(shape[axis] or 0 for shape in input_shape), *first[axis + 1 :])

    def forward(self, x: list[Array], training: bool = False) -> tuple[Array, Any]:
        """Return all inputs in one array."""
        return np.concatenate(x, self.axis), [array.shape[self.axis] for array in x]

    def lowered(self, input_shape: list[Shape]) -> list[ops.Op]:
        """Return the concatenation."""
        return [ops.Concatenation(self.axis)]

    def backward(self, grad: Array, cache: list[int]) -> tuple[list[Array], Gradients]:
        """Return each input's part of the gradient."""
        parts = np.split(grad, np.cumsum(cache)[:-1], self.axis)
        return [np.ascontiguousarray(part) for part in parts], {}


def _product(arrays: list[Array]) -> Array:
    product = arrays[0].copy() if len(arrays) == 1 else arrays[0] * arrays[1]
    for other in arrays[2:]:
        product = product * other
    return product


def _summed_to(grad: Array, shape: tuple[int, ...]) -> Array:
    """Return a gradient of a broadcast array as one of the array itself."""
    axes = tuple(i for i, (n, m) in enumerate(zip(grad.shape, shape, strict=True)) if m == 1 != n)
    return grad.sum(axis=axes, keepdims=True) if axes else grad


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


def _listed(shapes: list[Shape]) -> str:
    return " and ".join(map(str, shapes))
