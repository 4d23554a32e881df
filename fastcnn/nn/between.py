"""Convolutions beside batch normalisations, in training: from memory once what would be written and read again.

A normalisation needs the moments of all that it takes, and its gradient two sums over all, before the first element
can be made. What comes after that, element by element, is work for whoever takes the result: in the caches, on the
way. So a convolution

- measures its result while it lies near, for the normalisation after it: :class:`MeasuredResult`,
- makes what it takes of a :class:`NormalizedResult`, which is never written, and makes it again for its gradients,
- makes the gradient that it takes of a :class:`NormalizedGradient`,
- and adds up what the normalisation before it needs of the gradient that it gives: :class:`SummedGradient`.

1x1 convolutions of few channels and depthwise ones of large images do so, as ``pays_normalized`` says; others are given
arrays. That depends on the sizes alone, and not on the threads, as the sums are in another order. A network's first
convolution, of which only the gradient of the filters is wanted, makes the one that it takes too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .._core import _conv, _depthwise, _pointwise, _runtime
from ._arrays import FloatArray, floats, like, no_memory
from .conv import algorithm_for, conv2d, conv2d_backward, geometry_of
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


@lru_cache(maxsize=4096)
def _pays_for(geometry: _conv.Geometry, dtype: Any, lanes: int) -> bool:
    engine: Any = _conv if geometry.groups == 1 else _depthwise
    return bool(engine.pays_normalized(geometry, np.empty(0, dtype)))


def _pays(input: FloatArray, filters: FloatArray, *options: Any) -> bool:
    """Whether such a convolution, and its gradients, make and measure on the way."""
    geometry, _ = geometry_of(input.shape, filters.shape, *options)
    dtype = input.dtype
    return input.size > 0 and dtype == filters.dtype and _pays_for(geometry, dtype, _runtime.lanes(dtype))


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
    if not isinstance(input, NormalizedResult):
        input, filters = floats(("input", "filters"), input, filters)
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
    try:
        result = MeasuredResult(np.empty(shape, x.dtype), np.empty(shape[3], x.dtype), np.empty(shape[3], x.dtype))
    except MemoryError:
        raise no_memory(shape, input=input.shape, filters=filters.shape, padding=padding) from None
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
    if isinstance(grad, NormalizedGradient) and not bias_grad:
        made = input if isinstance(input, NormalizedResult) else None
        given = input if made is None else made.x
        same, x, w = floats(("grad", "input", "filters"), grad.grad, given, filters)
        fits = same is grad.grad and (made is None or x is given)  # what is made has the type of what it is made of
        if fits and input_grad and _pays(x, w, *options):
            return *normalized_backward(grad, x if made is None else made, w, *options), None
        if fits and made is None and not input_grad and _takes_filters_alone(x, w, *options):
            return None, normalized_backward_filters(grad, x, w.shape, *options), None
    if isinstance(grad, NormalizedGradient):
        grad = written_gradient(grad)
    if isinstance(input, NormalizedResult):
        input = written_result(input)
    return conv2d_backward(grad, input, filters, *options, input_grad=input_grad, bias_grad=bias_grad)


def _takes_filters_alone(input: FloatArray, filters: FloatArray, *options: Any) -> bool:
    """Whether the gradient of the filters alone is computed directly, from what its gradient is made of."""
    geometry, _ = geometry_of(input.shape, filters.shape, *options)
    is_direct = algorithm_for(geometry, "auto", "filters", input) == "direct"
    return is_direct and input.size > 0 and _conv.pays_filters_normalized(geometry, input)


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
    try:
        dinput, dfilters = np.empty(input.shape, filters.dtype), np.empty_like(filters)
    except MemoryError:
        raise no_memory(input.shape, input=input.shape) from None
    engine: Any = _conv if groups == 1 else _depthwise
    if isinstance(input, NormalizedResult):
        total, dot = np.empty(input.shape[3], filters.dtype), np.empty(input.shape[3], filters.dtype)
        operands = input.x, input.operands(), filters, dinput, dfilters, total, dot
        engine.backward_normalized(geometry, grad.operands(), *operands)
        return SummedGradient(dinput, total, dot), dfilters
    engine.backward_normalized(geometry, grad.operands(), input, None, filters, dinput, dfilters, None, None)
    return dinput, dfilters


def normalized_backward_filters(
    grad: NormalizedGradient,
    input: FloatArray,
    filters_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
) -> FloatArray:
    """Return the gradient of the filters alone, as a network's first convolution needs it."""
    geometry, shape = geometry_of(input.shape, filters_shape, strides, padding, dilations, groups)
    like(grad.grad, shape)
    dfilters = np.empty(filters_shape, input.dtype)
    _conv.backward_filters_normalized(geometry, grad.operands(), input, dfilters)
    return dfilters
