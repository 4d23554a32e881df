"""Convolutions beside batch normalisations, in training: from memory once what would be written and read again.

A normalisation needs the moments of all that it takes, and its gradient two sums over all, before the first element
can be made. What comes after that, element by element, is work for whoever takes the result: in the caches, on the
way. So a convolution

- measures its result while it lies near, for the normalisation after it: :class:`MeasuredResult`,
- makes what it takes of a :class:`NormalizedResult`, which is never written, in its gradients again,
- makes the gradient that it takes of a :class:`NormalizedGradient`,
- and adds up what the normalisation before it needs of the gradient that it gives: :class:`SummedGradient`.

1x1 convolutions of few channels and depthwise ones of large images do so, as ``pays_normalized`` says; others are given
arrays. That depends on the sizes alone, and not on the threads, as the sums are in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core import _conv, _depthwise, _pointwise
from ._arrays import FloatArray, floats, like
from .conv import conv2d, conv2d_backward, geometry_of
from .normalization import (
    NormalizedGradient,
    NormalizedResult,
    SummedGradient,
    moments,
    written_gradient,
    written_result,
)


@dataclass(frozen=True, eq=False)
class MeasuredResult:
    """The result of a convolution and its moments, (C,)."""

    array: FloatArray
    mean: FloatArray
    variance: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array."""
        return self.array.shape


def _pays(input: FloatArray, filters: FloatArray, *options: Any) -> bool:
    """Whether such a convolution, and its gradients, make and measure on the way."""
    geometry, _ = geometry_of(input.shape, filters.shape, *options)
    if input.size == 0 or input.dtype != filters.dtype:
        return False
    return bool((_conv if geometry.groups == 1 else _depthwise).pays_normalized(geometry, input))


def measured(
    input: FloatArray | NormalizedResult, filters: FloatArray, *options: Any
) -> tuple[FloatArray | NormalizedResult, FloatArray | MeasuredResult]:
    """Return what a convolution takes, for its gradients, and what it gives, for the batch normalisation after it.

    Parameters
    ----------
    input, filters
        As of :func:`fastcnn.nn.conv2d`; the input may be unwritten.
    options
        Strides, padding, dilations, groups.
    """
    if _pays(input.x if isinstance(input, NormalizedResult) else input, filters, *options):
        return input, measured_conv2d(input, filters, *options)
    if isinstance(input, NormalizedResult):
        input = written_result(input)
    y = conv2d(input, filters, *options)
    return input, MeasuredResult(y, *moments(y)) if y.size else y


def measured_conv2d(
    input: FloatArray | NormalizedResult,
    filters: FloatArray,
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
) -> MeasuredResult:
    """Return a convolution and the moments of its result, from one pass."""
    geometry, shape = geometry_of(input.shape, filters.shape, strides, padding, dilations, groups)
    x, made = (input.x, input.operands()) if isinstance(input, NormalizedResult) else (input, None)
    result = MeasuredResult(np.empty(shape, x.dtype), np.empty(shape[3], x.dtype), np.empty(shape[3], x.dtype))
    engine: Any = _pointwise if groups == 1 else _depthwise
    engine.forward_measured(geometry, x, made, filters, result.array, result.mean, result.variance)
    return result


def gradients(
    grad: FloatArray | NormalizedGradient,
    input: FloatArray | NormalizedResult,
    filters: FloatArray,
    *options: Any,
    input_grad: bool,
    bias_grad: bool,
) -> tuple[FloatArray | SummedGradient | None, FloatArray, FloatArray | None]:
    """Return what :func:`fastcnn.nn.conv2d_backward` does, of arrays that may be unwritten."""
    if isinstance(grad, NormalizedGradient):
        x = input.x if isinstance(input, NormalizedResult) else input
        same, x, filters = floats(("grad", "input", "filters"), grad.grad, x, filters)
        if same is grad.grad and input_grad and not bias_grad and _pays(x, filters, *options):
            return *normalized_backward(grad, input, filters, *options), None
        grad = written_gradient(grad)
    if isinstance(input, NormalizedResult):
        input = written_result(input)
    return conv2d_backward(grad, input, filters, *options, input_grad=input_grad, bias_grad=bias_grad)


def normalized_backward(
    grad: NormalizedGradient,
    input: FloatArray | NormalizedResult,
    filters: FloatArray,
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
) -> tuple[FloatArray | SummedGradient, FloatArray]:
    """Return the gradients of a convolution's input and filters, from what that of its result is made of."""
    geometry, shape = geometry_of(input.shape, filters.shape, strides, padding, dilations, groups)
    like(grad.grad, shape)
    dinput, dfilters = np.empty(input.shape, filters.dtype), np.empty_like(filters)
    engine: Any = _conv if groups == 1 else _depthwise
    if isinstance(input, NormalizedResult):
        total, dot = np.empty(input.shape[3], filters.dtype), np.empty(input.shape[3], filters.dtype)
        operands = input.x, input.operands(), filters, dinput, dfilters, total, dot
        engine.backward_normalized(geometry, grad.operands(), *operands)
        return SummedGradient(dinput, total, dot), dfilters
    engine.backward_normalized(geometry, grad.operands(), input, None, filters, dinput, dfilters, None, None)
    return dinput, dfilters
