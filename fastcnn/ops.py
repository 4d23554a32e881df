"""Ops: what layers compute in inference, as data that a plan can fuse, and bind to arrays.

A layer says by ``Layer.lowered`` which ops it is made of, with its weights in them. Two that follow each other become
one where there is a kernel for both: ``then`` says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import nn, shapes
from .arguments import read_only
from .nn.activations import bound_activation, is_elementwise
from .nn.conv import bound_conv2d_transpose, can_max_pool, conv2d_transpose_algorithm
from .nn.normalization import (
    bound_batch_normalization,
    bound_layer_normalization,
    bound_prelu,
    inverse_deviation,
)
from .nn.pool import bound_pool
from .nn.upsampling import bound_repeat, bound_stretch

Array = NDArray[Any]
Shape = tuple[int | None, ...]
Run = Callable[[], Any]
Pads = tuple[tuple[int, int], tuple[int, int]]

# Ops hold arrays and are compared by identity; what else a dataclass writes would take 2 ms of the import.


class Op:
    """One step of inference: of arrays of known shapes, without a state."""

    #: What summaries call it.
    kind: str = ""
    #: What it is computed with, where there is a choice, once it is bound.
    algorithm: str = ""
    #: Whether ``out`` may be one of the inputs, of its shape, that is among them no more than twice.
    in_place: bool = False
    #: Whether ``bound`` wants one more input, last: room for an array as the first one, whatever it holds.
    wants_room: bool = False

    def then(self, after: Op) -> Op | None:
        """Return the op that gives at once what another makes of this one's result, None where there is none."""
        return None

    def plus(self) -> Op | None:
        """Return the op that adds one more array, its last, to its result; None where there is none."""
        return None

    def output_shape(self, shape: Shape) -> Shape:
        """Return what it makes of an input of this shape, (None, ...), where another op of its layer follows."""
        return shape

    def count_flops(self, shape: Shape, of_layer: int) -> int:
        """Return its part, for a result of this shape, of the operations that its layer has yet to do."""
        return of_layer

    def weight_bytes(self) -> int:
        """Return the bytes of what it reads besides its inputs, once it is prepared."""
        return 0

    def prepared(self, shapes: Sequence[tuple[int, ...]], others: Sequence[Op]) -> Op:
        """Return the same op for inputs of these shapes, with all done that needs to be done but once.

        Others are the same op as it was prepared for other shapes: what they hold may be shared.
        """
        return self

    def followed_by(self, after: Sequence[Op]) -> Op:
        """Return the same op, prepared, which may ask for what these, prepared too, will read from memory."""
        return self

    def writes_slices(self) -> bool:
        """Whether ``out`` may be some channels of images, once it is prepared."""
        return False

    def reads_slices(self) -> bool:
        """Whether the input may be some channels of images."""
        return False

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that computes the op from arrays, as they then are, into another."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class Activation(Op):
    """An activation by name; the parameter is that of a leaky or a clipped relu, None for the name's own.

    Beside those of ``nn.ACTIVATIONS`` there is "gelu_tanh", the approximate form of "gelu".
    """

    name: str
    parameter: float | None = None

    kind = "activation"
    in_place = True

    def named(self) -> str | None:
        """Return the name where it says all there is, and every op knows it."""
        return self.name if self.parameter is None and self.name in nn.ACTIVATIONS else None

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that applies it."""
        return bound_activation(self.name, inputs[0], out, self.parameter)


@dataclass(frozen=True, eq=False, repr=False)
class Softmax(Op):
    """Softmax along an axis that is not the last."""

    axis: int

    kind = "softmax"
    wants_room = True

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that applies it where the axis has been turned into the last."""
        x, room = inputs
        turned = np.moveaxis(x, self.axis, -1)
        rows = room.reshape(turned.shape)
        back = partial(np.copyto, np.moveaxis(out, self.axis, -1), rows)
        return _in_turn([partial(np.copyto, rows, turned), bound_activation("softmax", rows, rows), back])


@dataclass(frozen=True, eq=False, repr=False)
class PReLU(Op):
    """The input where it is positive, else its product with a slope."""

    slopes: Array

    kind = "prelu"

    def weight_bytes(self) -> int:
        """Return the bytes of the slopes."""
        return self.slopes.nbytes

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that applies it."""
        return bound_prelu(inputs[0], self.slopes, out)


@dataclass(frozen=True, eq=False, repr=False)
class Same(Op):
    """The input's numbers in another shape, or in the same: nothing to compute."""

    kind = "view"


@dataclass(frozen=True, eq=False, repr=False)
class Padding(Op):
    """Zeros around images."""

    pads: Pads

    kind = "pad"

    def then(self, after: Op) -> Op | None:
        """Leave the padding to a convolution."""
        if isinstance(after, Convolution):
            (top, bottom), (left, right) = self.pads
            rows, cols = after.pads
            return replace(after, pads=((top + rows[0], bottom + rows[1]), (left + cols[0], right + cols[1])))
        return None

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that writes the zeros and the images."""
        (top, bottom), (left, right) = self.pads
        inside = out[:, top : out.shape[1] - bottom, left : out.shape[2] - right]

        def pad() -> None:
            out.fill(0)
            np.copyto(inside, inputs[0])

        return pad


@dataclass(frozen=True, eq=False, repr=False)
class Normalization(Op):
    """Batch normalisation by running statistics: (x - mean) * scale + offset, of each channel."""

    mean: Array
    scale: Array
    offset: Array
    activation: str | None = None

    kind = "normalize"
    in_place = True

    @classmethod
    def of(cls, mean: Array, variance: Array, epsilon: float, gamma: Array, beta: Array) -> Normalization:
        """Return the normalisation with these statistics and factors."""
        return cls(mean, gamma * inverse_deviation(variance, epsilon), beta)

    def then(self, after: Op) -> Op | None:
        """Take over an activation by name."""
        if isinstance(after, Activation) and self.activation is None and after.named():
            return replace(self, activation=after.named())
        return None

    def reads_slices(self) -> bool:
        """Say that it reads pixel by pixel."""
        return True

    def weight_bytes(self) -> int:
        """Return the bytes of what is added and multiplied."""
        return self.mean.nbytes + self.scale.nbytes + self.offset.nbytes

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that normalises."""
        return bound_batch_normalization(inputs[0], self.mean, self.scale, self.offset, self.activation, out)

    def folded(self, bias: Array | None) -> tuple[Array, Array]:
        """Return what a product before it is multiplied by, in double precision, and the bias that it then has."""
        scale = self.scale.astype(np.float64)
        # What is folded is rounded once.
        before = (0.0 if bias is None else bias.astype(np.float64)) - self.mean
        return scale, (before * scale + self.offset).astype(self.scale.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class RowNormalization(Op):
    """Layer normalisation: of each row, along the last axis, by its own moments."""

    scale: Array
    offset: Array
    epsilon: float

    kind = "normalize rows"

    def weight_bytes(self) -> int:
        """Return the bytes of what is added and multiplied."""
        return self.scale.nbytes + self.offset.nbytes

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that normalises."""
        return bound_layer_normalization(inputs[0], self.scale, self.offset, self.epsilon, out)


@dataclass(frozen=True, eq=False, repr=False)
class Convolution(Op):
    """activation(conv(x, kernel) + bias), plus a second input where there is a residual; or, of rows, x @ kernel.

    With max_pool, of every 2 x 2 pixels of that the maximum. With an expansion, x is what that makes of the input, on
    the way. A dense layer is a convolution of 1x1 pixels.
    """

    kernel: Array  # (R, S, C / groups, K)
    bias: Array | None
    strides: tuple[int, int] = (1, 1)
    pads: Pads = ((0, 0), (0, 0))
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str | None = None
    residual: bool = False
    max_pool: bool = False
    expansion: Convolution | None = None  # of 1x1 filters, where this one is depthwise
    scale: Array | None = None  # float64, (K,): what the kernel is multiplied by when it is prepared
    ready: nn.PreparedConv2D | None = field(default=None, compare=False)
    ahead: nn.PreparedConv2D | None = None  # what comes after it, and has filters in memory

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Say what sort of convolution it is."""
        if self.ready is not None and self.ready.input_shape[1:3] == self.kernel.shape[:2] == (1, 1):
            return "dense"
        rows, cols = self.kernel.shape[:2]
        name = f"depthwise {rows}x{cols}" if self.groups == self.kernel.shape[3] > 1 else f"conv {rows}x{cols}"
        name = name if self.strides == (1, 1) else f"{name}/{self.strides[0]}"
        name = f"{name}+pool" if self.max_pool else name
        return name if self.expansion is None else f"{self.expansion.kind} + {name}"

    @property
    def algorithm(self) -> str:  # type: ignore[override]
        """Name what it is prepared for."""
        return "" if self.ready is None or self.expansion or self.kind == "dense" else self.ready.algorithm

    def then(self, after: Op) -> Op | None:
        """Take over an activation by name, a normalisation, which is folded into kernel and bias, or a max pooling.

        Or be the expansion of a depthwise convolution.
        """
        if self.max_pool:
            return None
        if isinstance(after, Convolution) and self._expands(after):
            return replace(after, expansion=self)
        if isinstance(after, Pool) and self._pools(after):
            return replace(self, max_pool=True)
        if self.activation is not None:
            return None
        if isinstance(after, Activation) and after.named():
            return replace(self, activation=after.named())
        if isinstance(after, Normalization) and not self.residual:
            scale, bias = after.folded(self.bias)
            if self.scale is not None:
                scale *= self.scale
            bias.flags.writeable = scale.flags.writeable = False
            return replace(self, scale=scale, bias=bias, activation=after.activation)
        return None

    def _expands(self, after: Convolution) -> bool:
        is_depthwise = after.groups == after.kernel.shape[3] == self.kernel.shape[3] > 1
        is_product = self.kernel.shape[:2] == self.strides == (1, 1) and self.pads == ((0, 0), (0, 0))
        plain = self.groups == 1 and not self.residual and self.expansion is None
        return is_depthwise and is_product and plain and is_elementwise(self.activation)

    def _pools(self, after: Pool) -> bool:
        can = can_max_pool(self.kernel.shape[:2], self.dilations, self.groups, self.activation)
        return can and after.halves and not self.residual

    def plus(self) -> Op | None:
        """Make the sum on the way."""
        can = self.activation is None and not (self.residual or self.max_pool)
        return replace(self, residual=True) if can else None

    def output_shape(self, shape: Shape) -> Shape:
        """Return that of the convolution, or of the product of rows."""
        if len(shape) != 4:
            return (*shape[:-1], self.kernel.shape[3])
        options = self.strides, self.pads, self.dilations, self.groups
        return shapes.conv2d_output_shape(shape, self.kernel.shape, *options)

    def count_flops(self, shape: Shape, of_layer: int) -> int:
        """Return two operations for each weight and each pixel of the result."""
        return min(of_layer, 2 * self.kernel.size * math.prod(n or 0 for n in shape[1:-1]))

    def weight_bytes(self) -> int:
        """Return the bytes of the packed kernel and the bias."""
        return 0 if self.ready is None else self.ready.nbytes

    def prepared(self, shapes: Sequence[tuple[int, ...]], others: Sequence[Op]) -> Op:
        """Pack or transform the filters."""
        like_this = [other for other in others if isinstance(other, Convolution)]
        if self.expansion is None:
            return replace(self, ready=self._made_ready(_images(shapes[0]), like_this))
        before = [other.expansion for other in like_this if other.expansion is not None]
        first = self.expansion._made_ready(shapes[0], before, algorithm="direct")
        ready = self._made_ready(first.output_shape, like_this, after=first)
        return replace(self, expansion=replace(self.expansion, ready=first), ready=ready)

    def _made_ready(self, shape: tuple[int, ...], others: Sequence[Convolution], **options: Any) -> nn.PreparedConv2D:
        windows = self.strides, self.pads, self.dilations, self.groups, self.bias, self.activation
        made = [other.ready for other in others if other.ready is not None]
        options.update(max_pool=self.max_pool, scale=self.scale, share_with=made, streamed=True)
        return nn.PreparedConv2D(self.kernel, shape, *windows, **options)

    def followed_by(self, after: Sequence[Op]) -> Op:
        """Have the filters of the next convolution, if it is one of the next two ops, asked for on the way."""
        found = [op.ready for op in after[:2] if isinstance(op, Convolution) and op.ready is not None]
        return replace(self, ahead=found[0]) if found else self

    def writes_slices(self) -> bool:
        """Say what the prepared convolution says."""
        return self.ready is not None and self.ready.writes_slices and not self.residual

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that convolves."""
        assert self.ready is not None
        images = [array.reshape(_images(array.shape)) for array in (*inputs, out)]
        residual = images[1] if self.residual else None
        return self.ready.bound(images[0], images[-1], residual, self.ahead)


def _images(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the same rows of channels as images."""
    return shape if len(shape) == 4 else (math.prod(shape[:-1]), 1, 1, shape[-1])


@dataclass(frozen=True, eq=False, repr=False)
class TransposedConvolution(Op):
    """activation(conv^T(x, kernel) + bias)."""

    kernel: Array  # (R, S, K, C)
    bias: Array | None
    strides: Any
    padding: Any
    output_padding: Any
    dilations: Any
    activation: str | None = None
    algorithm: str = ""

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Say what sort of convolution it is."""
        rows, cols = self.kernel.shape[:2]
        return f"transposed {rows}x{cols}" + (f"/{self.strides[0]}" if self.strides != (1, 1) else "")

    def then(self, after: Op) -> Op | None:
        """Take over an activation by name, or a normalisation, which is folded into kernel and bias."""
        if self.activation is not None:
            return None
        if isinstance(after, Activation) and after.named():
            return replace(self, activation=after.named())
        if isinstance(after, Normalization):
            scale, bias = after.folded(self.bias)
            kernel = (self.kernel * scale[:, None]).astype(self.kernel.dtype)
            return replace(self, kernel=kernel, bias=bias, activation=after.activation)
        return None

    def weight_bytes(self) -> int:
        """Return the bytes of kernel and bias."""
        return self.kernel.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def prepared(self, shapes: Sequence[tuple[int, ...]], others: Sequence[Op]) -> Op:
        """Find out the algorithm; the filters are packed at each call."""
        windows = self.strides, self.padding, self.output_padding, self.dilations
        return replace(self, algorithm=conv2d_transpose_algorithm(shapes[0], self.kernel, *windows))

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that convolves."""
        windows = self.strides, self.padding, self.dilations
        return bound_conv2d_transpose(inputs[0], self.kernel, *windows, self.bias, self.activation, "auto", out)


@dataclass(frozen=True, eq=False, repr=False)
class Repetition(Op):
    """Each pixel of images so many times, (rows, columns)."""

    size: tuple[int, int]

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Say how many times."""
        return f"repeat {self.size[0]}x{self.size[1]}"

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that repeats."""
        return bound_repeat(inputs[0], self.size, out)


@dataclass(frozen=True, eq=False, repr=False)
class Stretch(Op):
    """Images of so many times as many rows (axis 1) or columns (axis 2), on straight lines between those there are."""

    axis: int
    times: int

    wants_room = True

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Say in which direction, and how many times."""
        return f"bilinear {self.times}x1" if self.axis == 1 else f"bilinear 1x{self.times}"

    def output_shape(self, shape: Shape) -> Shape:
        """Return the larger shape."""
        return (*shape[: self.axis], (shape[self.axis] or 0) * self.times, *shape[self.axis + 1 :])

    def count_flops(self, shape: Shape, of_layer: int) -> int:
        """Return three operations for each element."""
        return 3 * math.prod(n or 0 for n in shape[1:])

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that draws the lines."""
        x, room = inputs
        return bound_stretch(x, self.axis, self.times, out, room)


@dataclass(frozen=True, eq=False, repr=False)
class Pool(Op):
    """The maximum or mean of windows; of the whole image where size is None."""

    average: bool
    size: tuple[int, int] | None
    strides: tuple[int, int] | None = None
    padding: Any = "valid"

    @property
    def halves(self) -> bool:
        """Whether it takes the maxima of 2 x 2 pixels side by side, as a convolution can do on its way."""
        side_by_side = self.size == (2, 2) and self.strides in (None, (2, 2)) and self.padding in ("valid", 0)
        return side_by_side and not self.average

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Say which pooling it is."""
        name = "avg pool" if self.average else "max pool"
        return f"global {name}" if self.size is None else f"{name} {self.size[0]}x{self.size[1]}"

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that pools."""
        x = inputs[0]
        size: Any = x.shape[1:3] if self.size is None else self.size
        if self.size is None:
            out = out.reshape(x.shape[0], 1, 1, x.shape[3])
        return bound_pool(x, size, self.strides, self.padding, self.average, out)


@dataclass(frozen=True, eq=False, repr=False)
class Elementwise(Op):
    """The sum or product of inputs, which broadcast, and an activation of it."""

    function: np.ufunc
    activation: str | None = None

    in_place = True

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Name the function."""
        return self.function.__name__

    def then(self, after: Op) -> Op | None:
        """Take over an activation by name."""
        if isinstance(after, Activation) and self.activation is None and after.named():
            return replace(self, activation=after.named())
        return None

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that takes the inputs together, from left to right, but first what it writes over."""
        first, *others = sorted(inputs, key=lambda x: not np.may_share_memory(x, out))
        steps: list[Run] = []
        for other in others:
            gated = _gated(first, other, out) if self.function is np.multiply else []
            steps += gated or [partial(self.function, first, other, out)]
            first = out
        if self.activation is not None:
            steps.append(bound_activation(self.activation, out, out))
        return _in_turn(steps)


def _gated(x: Array, gate: Array, out: Array) -> list[Run]:
    """Return functions that multiply each sample by a factor for each channel, where one of the arrays is such factors.

    NumPy takes memory of its own for that, and one thread.
    """
    factors = (len(out), *(1,) * (out.ndim - 2), out.shape[-1])
    if x.shape == factors:
        x, gate = gate, x
    if x.shape != out.shape or gate.shape != factors or factors == out.shape:
        return []
    zeros = np.zeros(out.shape[-1], out.dtype)
    return [
        bound_batch_normalization(sample, zeros, scale.reshape(-1), zeros, None, y)
        for sample, scale, y in zip(x, gate, out, strict=True)
    ]


@dataclass(frozen=True, eq=False, repr=False)
class Concatenation(Op):
    """The inputs side by side along an axis."""

    axis: int

    kind = "concat"

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that copies each to its place, unless it is there already."""
        ends = np.cumsum([x.shape[self.axis] for x in inputs])
        places = zip(np.split(out, ends[:-1], self.axis), inputs, strict=True)
        return _in_turn([partial(np.copyto, to, x) for to, x in places if not np.may_share_memory(to, x)])


class Inferring(Protocol):
    """What is needed of a layer that is run as it is."""

    name: str | None
    many_inputs: bool

    def infer(self, x: Any) -> Array:
        """Return the result."""


@dataclass(frozen=True, eq=False, repr=False)
class Opaque(Op):
    """A layer that is called as it is, and whose result is copied to where the plan wants it."""

    layer: Inferring

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Name the layer's class."""
        return type(self.layer).__name__

    def bound(self, inputs: Sequence[Array], out: Array) -> Run:
        """Return a function that calls the layer."""
        layer = self.layer
        given = read_only(list(inputs))  # others may read them too
        x: Any = given if layer.many_inputs else given[0]

        def call() -> None:
            y = layer.infer(x)
            if y.shape != out.shape:
                raise ValueError(f"layer {layer.name} must give a result of shape {out.shape}, got {y.shape}")
            np.copyto(out, y)

        return call


def _in_turn(steps: list[Run]) -> Run:
    """Return a function that calls others."""
    if len(steps) == 1:
        return steps[0]

    def run() -> None:
        for step in steps:
            step()

    return run
