"""Two-dimensional convolution, transposed convolution, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import shapes
from .._core import _conv, _depthwise, _elementwise, _narrow, _runtime, _winograd
from ..arguments import brief, choice, flag, plain
from ._algorithms import algorithm_of
from ._arrays import FloatArray, floats, frozen, like, no_memory, real_array
from .activations import FUSED, apply_in_place, bound_activation, checked_activation, is_elementwise, pass_after
from .normalization import bias_add_backward
from .pool import bytes_of, max_pool_with_argmax, max_pool_with_argmax_backward, relu_max_pool_backward

ALGORITHMS = ("auto", "direct", "winograd", "winograd-2x2", "winograd-4x4", "winograd-6x6")

# What computes by each: forward, backward_input, backward_filters; prepare, whose filters forward takes as prepared.
_ENGINES: dict[str, Any] = {
    "direct": _conv,
    "depthwise": _depthwise,
    "grouped": _depthwise,
    "direct-narrow": _narrow,
    **{f"winograd-{side}x{side}": _winograd.Winograd(side) for side in (2, 4, 6)},
}


@lru_cache(maxsize=4096)
def _plan(
    input_shape: tuple[int, ...],
    filters_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: Any,
) -> tuple[_conv.Geometry, tuple[int, ...]]:
    output, step, around, dilation, groups = shapes.conv2d(
        input_shape, filters_shape, strides, padding, dilations, groups
    )
    offsets = around[0][0], around[1][0]
    geometry = _conv.Geometry(input_shape, filters_shape, output, step, offsets, dilation, groups)
    return geometry, output  # type: ignore[return-value]  # the batch is known here


def geometry_of(
    input_shape: tuple[int, ...],
    filters_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: Any,
) -> tuple[_conv.Geometry, tuple[int, ...]]:
    """Return the checked sizes of a convolution, and the shape of its result.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.
    """
    return _plan(
        input_shape,
        filters_shape,
        frozen(strides, "strides"),
        frozen(padding, "padding"),
        frozen(dilations, "dilations"),
        frozen(groups, "groups"),
    )


@lru_cache(maxsize=4096)
def _halved(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the maxima of every 2 x 2 pixels of a result."""
    return shapes.pool(shape, 2, None, "valid", "max_pool")[0]  # type: ignore[return-value]  # the batch is known


@lru_cache(maxsize=4096)
def _algorithm(geometry: _conv.Geometry, algorithm: str, result: str, is_single: bool, lanes: int, pools: bool) -> str:
    return algorithm_of(geometry, algorithm, result, is_single, lanes, pools)


def algorithm_for(geometry: _conv.Geometry, algorithm: str, result: str, array: FloatArray, pools: bool = False) -> str:
    """Return the algorithm to compute a result with, or maxima of its pixels, from arrays of this one's type."""
    return _algorithm(geometry, algorithm, result, array.itemsize == 4, _runtime.lanes(array.dtype), pools)


def conv2d(
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    algorithm: str = "auto",
    *,
    residual: ArrayLike | None = None,
) -> FloatArray:
    """Convolve images with filters: y = activation(conv(input, filters) + bias + residual).

    As everywhere in deep learning this is a cross-correlation; filters are not flipped.

    Parameters
    ----------
    input
        Images, (N, H, W, C).
    filters
        (R, S, C / groups, K); filter k of group g sees the channels of group g alone.
    strides
        Step in pixels: an int, (height, width) or [1, height, width, 1].
    padding
        "VALID" or "SAME" in any case of letters, an int, (height, width), ((top, bottom), (left, right)), or
        TensorFlow's list of four pairs.
    dilations
        Distance of filter taps in pixels, spelt as strides.
    groups
        Number of groups; C for a depthwise convolution.
    bias
        (K,) or None.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    algorithm
        "direct", "winograd", or "auto" for the faster of them (direct for float64). Direct sums R * S * C / groups
        products, in one chain of multiply-adds, 1x1 filters at few pixels in several: its error is at most about that
        number times an ulp of the sum of their magnitudes. Taps that see padding alone are left out. Winograd (Lavin
        and Gray, 2016) is for 3x3 filters at stride 1, dilated ones too; "winograd-2x2", "winograd-4x4" and
        "winograd-6x6" are its F(m x m, 3x3), "winograd" is the fastest of them. They take 4/9, 1/4 and 16/81 of the
        multiplications; errors of the result are in the root mean square about half of direct's, four and eight times
        as large (README). A NaN or infinity spreads over the m x m pixels (of a dilation, so far apart) computed with
        it, and "winograd-4x4" and "winograd-6x6" overflow earlier: in float32, inputs of 1e37 give infinities or NaN
        where the others are finite. Depthwise convolutions have kernels of their own ("depthwise", as FASTCNN_VERBOSE
        prints it), which "direct" means too. "auto" alone has two more: "grouped", where several groups fit into a
        vector, and "direct-narrow", which has pixels fill the vectors that few filters would not. These add up what
        direct does, but a NaN or infinity spreads over all taps of such few filters' gradients.
    residual
        What a shortcut brings (He et al., 2016), (N, H', W', K), or None: added on the way, without a pass of its own.
        Its gradient is that of the sum.

    Returns
    -------
    ndarray
        (N, H', W', K) with H' = floor((top + H + bottom - (R - 1) * dilation - 1) / stride) + 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.ones((1, 4, 4, 3)), np.ones((3, 3, 3, 2)), padding="SAME")[0, :2, 0, 0].tolist()
    [12.0, 18.0]
    """
    options = strides, padding, dilations, groups
    return _conv2d(input, filters, options, bias, activation, algorithm, residual)[0]


def conv2d_max_pool_with_argmax(
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    algorithm: str = "auto",
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Convolve images with filters, and take the maxima of every 2 x 2 pixels of the result: for training.

    It gives what ``max_pool_with_argmax(conv2d(...), 2)`` does, but the images between, four times as large, are not
    written where the convolution can take the maxima on its way: of one group and filters of more than one tap, not
    dilated, after no activation but "relu" and "relu6".

    Parameters
    ----------
    input, filters, strides, padding, dilations, groups, bias, activation, algorithm
        As in :func:`conv2d`.

    Returns
    -------
    output : ndarray
        (N, H' // 2, W' // 2, K) where ``conv2d`` gives (N, H', W', K).
    argmax : ndarray of uint8
        Likewise: 0 to 3, as of :func:`max_pool_with_argmax`, whose gradient takes it.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0], [8.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> output, argmax = conv2d_max_pool_with_argmax(x, np.ones((1, 1, 1, 1)), activation="relu")
    >>> output.item(), argmax.item()
    (8.0, 2)
    """
    options = strides, padding, dilations, groups
    y, argmax = _conv2d(input, filters, options, bias, activation, algorithm, None, True)
    return (y, argmax) if argmax is not None else max_pool_with_argmax(y, 2)


def can_max_pool(taps: tuple[int, ...], dilations: tuple[int, int], groups: int, activation: str | None) -> bool:
    """Whether a convolution with so many (rows, columns) of taps can take the maxima of 2 x 2 pixels on its way.

    A dilated one is not asked to: it is faster in Winograd's tiles, whose pixels are no neighbours then.
    """
    fuses = activation is None or activation in FUSED
    return groups == 1 and taps != (1, 1) and dilations == (1, 1) and fuses


def _conv2d(
    input: ArrayLike,
    filters: ArrayLike,
    options: tuple[Any, ...],
    bias: ArrayLike | None,
    activation: str | None,
    algorithm: str,
    residual: ArrayLike | None,
    pools: bool = False,
) -> tuple[FloatArray, NDArray[np.uint8] | None]:
    """Return the convolution; or, if that is wanted and possible, its maxima and which pixels they are."""
    choice(algorithm, "algorithm", ALGORITHMS)
    activation = checked_activation(activation)
    input, filters, bias, residual = floats(
        ("input", "filters", "bias", "residual"), input, filters, bias, residual, optional=2
    )
    geometry, shape = geometry_of(input.shape, filters.shape, *options)
    if bias is not None:
        like(bias, shape[3:], "bias")
    if residual is not None:
        like(residual, shape, "residual")
    if pools:
        pooled = _halved(shape)
        dilations = geometry.dilation_h, geometry.dilation_w
        pools = can_max_pool(filters.shape[:2], dilations, geometry.groups, activation)
        shape = pooled if pools else shape
    try:
        y = np.empty(shape, input.dtype)
        argmax = np.empty(shape, np.uint8) if pools else None
    except MemoryError:
        raise no_memory(shape, input=input.shape, filters=filters.shape, padding=options[1]) from None
    engine = _ENGINES[algorithm_for(geometry, algorithm, "forward", input)]
    more = (False, True, argmax) if pools else ()
    return _fill(y, engine, geometry, input, filters, bias, residual, activation, *more), argmax


def _fill(
    y: FloatArray,
    engine: Any,
    geometry: _conv.Geometry,
    input: FloatArray,
    filters: FloatArray,
    bias: FloatArray | None,
    residual: FloatArray | None,
    activation: str | None,
    *options: Any,
) -> FloatArray:
    fused = FUSED.get(activation, 0)
    if y.size:
        engine.forward(geometry, input, filters, bias, residual, fused, y, *options)
    return y if fused else apply_in_place(y, activation)


class PreparedConv2D:
    """A convolution of one shape whose filters are packed or transformed once: for inference, many calls of one layer.

    It keeps copies of its filters and bias, but for those that are read-only and can be used as they are; never
    changes, and may be called from several threads at a time.

    Parameters
    ----------
    filters
        (R, S, C / groups, K).
    input_shape
        (N, H, W, C).
    strides, padding, dilations, groups, bias, activation, algorithm
        As in :func:`conv2d`.
    max_pool
        Whether of every 2 x 2 pixels of the result, which are never written, the maxima are wanted, as by
        :func:`max_pool`; after no activation but "relu" and "relu6", of one group and filters of more than one tap. Of
        dilated filters it takes the direct algorithm, and Winograd is refused.
    scale
        (K,), or None: what each of the filters is multiplied by first, in double precision where it is float64, as for
        a batch normalisation that follows.
    share_with
        Some that were made of the same filters and scale, the very arrays and read-only, for other input shapes: what
        one of them has packed or transformed is shared where it is what this one needs.
    after
        For a depthwise convolution: another one, of 1x1 filters at every pixel, direct and ending in an elementwise
        activation or none, whose result it is that is convolved. That is made on the way, a few rows at a time, and
        never written; as in the blocks of MobileNetV2 (Sandler et al., 2018), where it is the largest array there is.
    streamed
        Whether the filters will have left the caches from call to call, as in a network, whose other layers' filters
        are read in between: "auto" then sees to it that there is not too much to read.

    Attributes
    ----------
    input_shape, filters_shape, output_shape : tuple of int
        (N, H, W, C), (R, S, C / groups, K) and (N, H', W', K), or with max_pool (N, H' // 2, W' // 2, K); what goes in
        is the other one's input where there is one before.
    flops : int
        Multiplications and additions of the convolution by its definition, and of the one before.
    algorithm : str
        What it computes with: "direct", "direct-narrow", "depthwise", "grouped", or one of Winograd's.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> layer = PreparedConv2D(np.ones((3, 3, 3, 2)), (1, 4, 4, 3), padding="SAME")
    >>> layer(np.ones((1, 4, 4, 3)))[0, :2, 0, 0].tolist()
    [12.0, 18.0]
    """

    def __init__(
        self,
        filters: ArrayLike,
        input_shape: tuple[int, ...],
        strides: Any = 1,
        padding: Any = "VALID",
        dilations: Any = 1,
        groups: int = 1,
        bias: ArrayLike | None = None,
        activation: str | None = None,
        algorithm: str = "auto",
        *,
        max_pool: bool = False,
        scale: ArrayLike | None = None,
        share_with: Sequence[PreparedConv2D] = (),
        after: PreparedConv2D | None = None,
        streamed: bool = False,
    ) -> None:
        choice(algorithm, "algorithm", ALGORITHMS)
        self._activation = checked_activation(activation)
        filters, bias = floats(("filters", "bias"), filters, bias, optional=1)
        self.input_shape = shapes.known_shape(input_shape, "input_shape")
        self.filters_shape = filters.shape
        self._geometry, self.output_shape = geometry_of(
            self.input_shape, self.filters_shape, strides, padding, dilations, groups
        )
        self.flops = 2 * math.prod(self.output_shape) * math.prod(self.filters_shape[:3])
        self._before = after
        self._panels: FloatArray | None = None  # of the filters before
        self._pools = flag(max_pool, "max_pool")
        # Of the engine's forward: that filters are prepared, and what only some can do.
        self._options: tuple[Any, ...] = (True, True) if self._pools else (True,)
        if self._pools:
            self.output_shape = self._pooled_shape()
        if bias is not None:
            like(bias, self.output_shape[3:], "bias")
        self._bias = None if bias is None else _constant(bias)
        scale = None if scale is None else real_array(scale, "scale")
        if scale is not None:
            like(scale, self.output_shape[3:], "scale")
        result = "streamed" if flag(streamed, "streamed") else "prepared"
        self.algorithm = algorithm_for(self._geometry, algorithm, result, filters, self._pools)
        if after is not None:
            self._options = True, self._expansion(after, filters.dtype, share_with)
            self.input_shape = after.input_shape
            self.flops += after.flops
        self._engine = _ENGINES[self.algorithm]
        is_direct = self._engine is _conv
        is_plain = self.algorithm in ("depthwise", "direct-narrow") or (
            is_direct and _conv.takes_plain(self._geometry, filters)
        )
        # What prepared filters depend on; those of others are never shared.
        self._source = filters if _is_constant(filters) and (scale is None or _is_constant(scale)) else None
        self._scale = scale
        self._form = self.algorithm, is_plain, self._geometry.groups, self._geometry.taps if is_direct else None
        self._filters: FloatArray
        if not isinstance(share_with, (list, tuple)) or not all(isinstance(p, PreparedConv2D) for p in share_with):
            raise TypeError(f"share_with must be a list of PreparedConv2D, got {brief(share_with)}")
        for other in share_with:
            if other._source is filters and other._scale is scale and other._form == self._form:
                self._filters = other._filters
                return
        factors = None if scale is None else scale.astype(np.float64)
        try:
            made = self._engine.prepare(self._geometry, filters, factors)
            self._filters = _constant(filters) if made is filters else made
        except MemoryError:
            raise no_memory(filters.shape, filters=filters.shape) from None

    def _pooled_shape(self) -> tuple[int, ...]:
        groups, taps = self._geometry.groups, self.filters_shape[:2]
        if groups != 1 or taps == (1, 1):
            raise ValueError(
                f"max_pool needs one group and filters of more than one tap, got {groups} groups and "
                f"{taps[0]}x{taps[1]} filters"
            )
        if self._activation is not None and self._activation not in FUSED:
            raise ValueError(f"max_pool follows no activation but relu and relu6, got {self._activation!r}")
        return _halved(self.output_shape)

    def _expansion(
        self, before: PreparedConv2D, dtype: np.dtype[Any], share_with: Sequence[PreparedConv2D]
    ) -> tuple[Any, ...]:
        """Return the convolution before as the engine wants it: its filters in panels."""
        if not isinstance(before, PreparedConv2D):
            raise TypeError(f"after must be a PreparedConv2D, got {brief(before)}")
        geometry, filters, activation = before._geometry, before._filters, before._activation
        if self.algorithm != "depthwise":
            raise ValueError(f"after must be None before a convolution that is not depthwise, got {self.algorithm!r}")
        if before.output_shape != self.input_shape or filters.dtype != dtype:
            raise ValueError(
                f"after must give {self.input_shape} in {dtype}, got {before.output_shape} in {filters.dtype}"
            )
        if before.algorithm != "direct" or not geometry.is_product() or not is_elementwise(activation):
            raise ValueError(
                "after must be a convolution of 1x1 filters at every pixel, direct and before an elementwise activation"
                f", got {before.filters_shape} filters from {before.input_shape} to {before.output_shape}, "
                f"{before.algorithm!r} and {activation!r}"
            )
        made = (other._panels for other in share_with if other._before and other._before._filters is filters)
        self._panels = next(made, None) if _conv.takes_plain(geometry, filters) else filters
        if self._panels is None:
            self._panels = _conv.prepare(geometry, filters, packs=True)
        return self._panels, before._bias, *pass_after(activation)

    def __call__(self, input: ArrayLike, *, residual: ArrayLike | None = None) -> FloatArray:
        """Return activation(conv(input, filters) + bias + residual), of ``output_shape``, in the filters' element type.

        Parameters
        ----------
        input
            (N, H, W, C).
        residual
            As in :func:`conv2d`; None with max_pool.
        """
        x = self._plain(input, "input")
        like(x, self.input_shape, "input")
        added = None if residual is None else self._plain(residual, "residual")
        if added is not None:
            self._takes_residual()
            like(added, self.output_shape, "residual")
        try:
            y = np.empty(self.output_shape, x.dtype)
        except MemoryError:
            raise no_memory(self.output_shape, input=self.input_shape) from None
        operands = x, self._filters, self._bias, added
        return _fill(y, self._engine, self._geometry, *operands, self._activation, *self._options)

    def _takes_residual(self) -> None:
        if self._pools:
            raise ValueError("residual must be None where max_pool is True")

    def bound(
        self,
        input: FloatArray,
        out: FloatArray,
        residual: FloatArray | None = None,
        ahead: PreparedConv2D | None = None,
    ) -> Callable[[], None]:
        """Return a function that reads these arrays as they then are and writes the result to ``out``.

        Nothing is checked, converted or allocated any more when it is called.

        Parameters
        ----------
        input
            (N, H, W, C), C-ordered, of the filters' element type.
        out
            Of ``output_shape``, likewise, writable and sharing no memory with the others; without a residual, and
            where ``writes_slices`` is true, it may be some channels of such an array.
        residual
            None, or as ``out``.
        ahead
            The convolution that will follow: products, which leave memory time, ask for its filters on the way.

        Raises
        ------
        ValueError
            If one has another shape, order or element type, or ``out`` can't be written to without changing others.
        """
        for name, array, shape in (
            ("input", input, self.input_shape),
            ("out", out, self.output_shape),
            ("residual", residual, self.output_shape),
        ):
            if array is None:
                continue
            like(array, shape, name)
            is_slice = name == "out" and residual is None and self.writes_slices and _is_slice(array)
            if array.dtype != self._filters.dtype or not (is_slice or _runtime.are_plain(1, array)):
                raise ValueError(f"{name} must be C-ordered and of {self._filters.dtype}, got {array.dtype}")
        if not out.flags.writeable:
            raise ValueError(f"out must be writable, got a read-only array of shape {out.shape}")
        for name, array in (("input", input), ("residual", residual)):
            if array is not None and np.shares_memory(array, out):
                raise ValueError(f"out must share no memory with {name}, got arrays of {out.shape} and {array.shape}")
        if not out.size:
            return lambda: None
        if residual is not None:
            self._takes_residual()
        fused = FUSED.get(self._activation, 0)
        operands = input, self._filters, self._bias, residual
        forward = partial(self._engine.forward, self._geometry, *operands, fused, out, *self._options)
        if ahead is not None and self._engine is _conv:
            forward = partial(forward, ahead=ahead._filters)
        if fused or self._activation is None:
            return forward
        activate = bound_activation(self._activation, out, out)

        def both() -> None:
            forward()
            activate()

        return both

    @property
    def writes_slices(self) -> bool:
        """Whether ``out`` of ``bound`` may be some channels of an array: where nothing goes over it once more."""
        return self.algorithm != "depthwise" and (self._activation is None or self._activation in FUSED)

    @property
    def nbytes(self) -> int:
        """Bytes of the filters and the bias, and of those of the convolution before."""
        before = 0 if self._before is None else self._before.nbytes
        return int(self._filters.nbytes) + (0 if self._bias is None else int(self._bias.nbytes)) + before

    def _plain(self, value: Any, name: str) -> Any:
        if _runtime.are_plain(2, value, self._filters):
            return value
        return plain(real_array(value, name), self._filters.dtype, name)


def _is_slice(array: FloatArray) -> bool:
    """Whether these are some channels of images that are C-ordered, aligned and native."""
    _, height, width, _ = array.shape
    pixel = array.strides[2]
    in_order = array.strides[:2] == (height * width * pixel, width * pixel) and array.strides[3] == array.itemsize
    return in_order and pixel >= array.shape[3] * array.itemsize and array.flags.aligned and array.dtype.isnative


def _is_constant(array: FloatArray) -> bool:
    """Whether an array, and what it is a view of, is read-only."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and not owner.flags.writeable:
        owner = owner.base
    return owner is None


def _constant(array: FloatArray) -> FloatArray:
    """Return an array itself where it can't change any more, else a copy of it."""
    return array if _is_constant(array) else array.copy()


def conv2d_backward_input(
    grad: ArrayLike,
    filters: ArrayLike,
    input_shape: tuple[int, ...],
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> FloatArray:
    """Return the gradient of a convolution's input.

    Parameters
    ----------
    grad
        Gradient of the convolution's result (before any activation), (N, H', W', K).
    filters
        (R, S, C / groups, K).
    input_shape
        (N, H, W, C).
    strides, padding, dilations, groups
        As given to :func:`conv2d`.
    algorithm
        As in :func:`conv2d`, with the same errors.

    Returns
    -------
    ndarray
        Of input_shape.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_backward_input(np.ones((1, 2, 2, 1)), np.ones((3, 3, 2, 1)), (1, 4, 4, 2))[0, 1, :, 0].tolist()
    [2.0, 4.0, 4.0, 2.0]
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    grad, filters = floats(("grad", "filters"), grad, filters)
    input_shape = shapes.known_shape(input_shape, "input_shape")
    geometry, shape = geometry_of(input_shape, filters.shape, strides, padding, dilations, groups)
    like(grad, shape)
    try:
        dinput = np.empty(input_shape, grad.dtype)
    except MemoryError:
        raise no_memory(input_shape, input_shape=input_shape) from None
    engine = _ENGINES[algorithm_for(geometry, algorithm, "input", grad)]
    if grad.size:
        engine.backward_input(geometry, grad, filters, dinput)
    return dinput


def conv2d_backward_filters(
    grad: ArrayLike,
    input: ArrayLike,
    filters_shape: tuple[int, ...],
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> FloatArray:
    """Return the gradient of a convolution's filters.

    Parameters
    ----------
    grad
        Gradient of the convolution's result (before any activation), (N, H', W', K).
    input
        (N, H, W, C).
    filters_shape
        (R, S, C / groups, K).
    strides, padding, dilations, groups
        As given to :func:`conv2d`.
    algorithm
        As in :func:`conv2d`. But Winograd's errors are up to three ("winograd-2x2"), three to eleven ("winograd-4x4")
        and five to fourteen times those of direct ("winograd-6x6"; RMS, layers of VGG-16), and the latter two overflow
        from about 1e34 on.

    Returns
    -------
    ndarray
        Of filters_shape.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_backward_filters(np.ones((1, 2, 2, 1)), np.ones((1, 4, 4, 1)), (3, 3, 1, 1))[0, 0, 0].tolist()
    [4.0]
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    grad, input = floats(("grad", "input"), grad, input)
    filters_shape = shapes.known_shape(filters_shape, "filters_shape")
    geometry, shape = geometry_of(input.shape, filters_shape, strides, padding, dilations, groups)
    like(grad, shape)
    try:
        dfilters = (np.empty if grad.size else np.zeros)(filters_shape, grad.dtype)
    except MemoryError:
        raise no_memory(filters_shape, filters_shape=filters_shape) from None
    engine = _ENGINES[algorithm_for(geometry, algorithm, "filters", grad)]
    if grad.size:
        engine.backward_filters(geometry, grad, input, dfilters)
    return dfilters


def conv2d_backward(
    grad: ArrayLike,
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    *,
    input_grad: bool = True,
    bias_grad: bool = True,
) -> tuple[FloatArray | None, FloatArray, FloatArray | None]:
    """Return the gradients of a convolution's input, filters and bias.

    Parameters
    ----------
    grad
        Gradient of the convolution's result (before any activation), (N, H', W', K).
    input
        (N, H, W, C).
    filters
        (R, S, C / groups, K).
    strides, padding, dilations, groups
        As given to :func:`conv2d`.
    algorithm
        As in :func:`conv2d`.
    input_grad
        Whether the input's gradient is wanted; the first layer of a network does not need it.
    bias_grad
        Whether the bias's gradient is wanted.

    Returns
    -------
    dinput : ndarray or None
        (N, H, W, C).
    dfilters : ndarray
        (R, S, C / groups, K).
    dbias : ndarray or None
        (K,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 4, 4, 1)), np.ones((3, 3, 1, 1))
    >>> dinput, dfilters, dbias = conv2d_backward(np.ones((1, 2, 2, 1)), x, w)
    >>> dinput.shape, dfilters.shape, dbias.tolist()
    ((1, 4, 4, 1), (3, 3, 1, 1), [4.0])
    """
    input_grad, bias_grad = flag(input_grad, "input_grad"), flag(bias_grad, "bias_grad")
    grad, input, filters = floats(("grad", "input", "filters"), grad, input, filters)
    options = strides, padding, dilations, groups, algorithm
    dinput: FloatArray | None = None
    is_depthwise = type(groups) is int and groups > 1 and input.shape[3:] == filters.shape[3:] == (groups,)
    if is_depthwise and input_grad and grad.size:
        dinput, dfilters = depthwise_backward(grad, input, filters, *options)
    else:
        dfilters = conv2d_backward_filters(grad, input, filters.shape, *options)
        if input_grad:
            dinput = conv2d_backward_input(grad, filters, input.shape, *options)
    return dinput, dfilters, bias_add_backward(grad) if bias_grad else None


def conv2d_max_pool_with_argmax_backward(
    grad: ArrayLike,
    output: ArrayLike,
    argmax: ArrayLike,
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    dilations: Any = 1,
    groups: int = 1,
    activation: str | None = None,
    algorithm: str = "auto",
    *,
    input_grad: bool = True,
    bias_grad: bool = True,
) -> tuple[FloatArray | None, FloatArray, FloatArray | None]:
    """Return the gradients of the input, filters and bias of a convolution whose maxima were taken.

    Parameters
    ----------
    grad
        Gradient of the maxima, (N, H' // 2, W' // 2, K).
    output, argmax
        What :func:`conv2d_max_pool_with_argmax` gave, likewise.
    input, filters, strides, padding, dilations, groups, algorithm
        As given to it.
    activation
        Likewise; but only "relu" and "relu6", or None, can be gone back through from maxima.
    input_grad, bias_grad
        As in :func:`conv2d_backward`.

    Returns
    -------
    dinput : ndarray or None
        (N, H, W, C).
    dfilters : ndarray
        (R, S, C / groups, K).
    dbias : ndarray or None
        (K,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.array([[1.0, 2.0], [8.0, 4.0]]).reshape(1, 2, 2, 1), np.ones((1, 1, 1, 1))
    >>> output, argmax = conv2d_max_pool_with_argmax(x, w, activation="relu")
    >>> dinput, dfilters, dbias = conv2d_max_pool_with_argmax_backward(output, output, argmax, x, w, activation="relu")
    >>> dinput[0, :, :, 0].tolist(), dfilters.item(), dbias.tolist()
    ([[0.0, 0.0], [8.0, 0.0]], 64.0, [8.0])
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    activation = checked_activation(activation)
    if activation is not None and activation not in FUSED:
        raise ValueError(f"activation must be relu, relu6 or None, got {activation!r}")
    input_grad, bias_grad = flag(input_grad, "input_grad"), flag(bias_grad, "bias_grad")
    names = ("grad", "output", "input", "filters")
    grad, output, input, filters = floats(names, grad, output, input, filters)
    geometry, shape = geometry_of(input.shape, filters.shape, strides, padding, dilations, groups)
    like(grad, _halved(shape))
    like(output, grad.shape, "output")
    options = strides, padding, dilations, groups, algorithm
    dbias: FloatArray | None
    if not input_grad and grad.size:
        chosen = algorithm_for(geometry, algorithm, "filters", grad)
        is_direct = chosen == "direct" and activation is not None
        if chosen == "direct-narrow" or (is_direct and _conv.pays_filters_pooled(geometry, input)):
            operands = grad, output, argmax, input, filters.shape, activation
            dfilters, dbias = max_pool_backward_filters(*operands, *options[:-1], chosen)
            return None, dfilters, dbias if bias_grad else None
    if activation is None:
        of_result = max_pool_with_argmax_backward(grad, argmax, shape, 2)
        dbias = bias_add_backward(grad) if bias_grad else None
    else:
        of_result, dbias = relu_max_pool_backward(grad, output, argmax, shape, activation)
    dinput, dfilters, _ = conv2d_backward(of_result, input, filters, *options, input_grad=input_grad, bias_grad=False)
    return dinput, dfilters, dbias if bias_grad else None


def max_pool_backward_filters(
    grad: FloatArray,
    output: FloatArray,
    argmax: ArrayLike,
    input: FloatArray,
    filters_shape: tuple[int, ...],
    activation: str | None,
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
    algorithm: str,
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of the filters and of the bias, without that of the result, which is never written.

    Arguments are as of :func:`conv2d_max_pool_with_argmax_backward`; grad and output are checked, grad is not empty,
    the algorithm is chosen.
    """
    geometry, _ = geometry_of(input.shape, filters_shape, strides, padding, dilations, groups)
    argmax = bytes_of(argmax)
    like(argmax, grad.shape, "argmax")
    dfilters, dbias = np.empty(filters_shape, grad.dtype), np.empty(filters_shape[3], grad.dtype)
    relu = FUSED.get(activation, 0)
    engine = _ENGINES[algorithm]
    engine.backward_filters_pooled(geometry, grad, output, relu, argmax, input, dfilters, dbias)
    return dfilters, dbias


def depthwise_backward(
    grad: FloatArray,
    input: FloatArray,
    filters: FloatArray,
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
    algorithm: str,
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of a depthwise convolution's input and filters, from one pass over that of its result.

    Arguments are as of :func:`conv2d_backward`; grad is not empty.
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    geometry, shape = geometry_of(input.shape, filters.shape, strides, padding, dilations, groups)
    like(grad, shape)
    algorithm_for(geometry, algorithm, "filters", grad)  # an error where that is another one
    try:
        dinput, dfilters = np.empty(input.shape, grad.dtype), np.empty(filters.shape, grad.dtype)
    except MemoryError:
        raise no_memory(input.shape, input=input.shape) from None
    _depthwise.backward(geometry, grad, input, filters, dinput, dfilters)
    return dinput, dfilters


@lru_cache(maxsize=4096)
def _transposed_shape(*arguments: Any) -> tuple[int, ...]:
    return shapes.conv2d_transpose_output_shape(*arguments)  # type: ignore[return-value]  # the batch is known here


def _transposed(
    input_shape: tuple[int, ...],
    filters_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    output_padding: Any,
    dilations: Any,
) -> tuple[int, ...]:
    return _transposed_shape(
        input_shape,
        filters_shape,
        frozen(strides, "strides"),
        frozen(padding, "padding"),
        frozen(output_padding, "output_padding"),
        frozen(dilations, "dilations"),
    )


def conv2d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    output_padding: Any = None,
    dilations: Any = 1,
    bias: ArrayLike | None = None,
    activation: str | None = None,
    algorithm: str = "auto",
) -> FloatArray:
    """Spread each pixel over a window: the transpose of a convolution, y = activation(conv^T(input, filters) + bias).

    It is what :func:`conv2d_backward_input` computes: the gradient of a convolution from K channels to C.

    Parameters
    ----------
    input
        Images, (N, H, W, C).
    filters
        (R, S, K, C): those of the convolution that it transposes, as in ``tf.nn`` and Keras.
    strides
        Distance of windows in the result in pixels: an int, (height, width) or [1, height, width, 1].
    padding
        Of that convolution: "VALID" or "SAME" in any case of letters, an int, (height, width),
        ((top, bottom), (left, right)), or TensorFlow's list of four pairs. So many pixels the result is smaller.
    output_padding
        Pixels that the result has more at the bottom and the right, below the strides: an int or (height, width).
        None for as many as make H' = H * stride with "SAME" and H' = H * stride + max(0, span - stride) with "VALID",
        as in Keras; for 0 with numbers of pixels, as in PyTorch.
    dilations
        Distance of filter taps in pixels, spelt as strides.
    bias
        (K,) or None.
    activation
        One of :data:`fastcnn.nn.ACTIVATIONS`, or None.
    algorithm
        As in :func:`conv2d`.

    Returns
    -------
    ndarray
        (N, H', W', K) with H' = (H - 1) * stride + span - top - bottom + output_padding, where a filter spans
        (R - 1) * dilation + 1 pixels; with "SAME" span modulo 2 takes the place of span - top - bottom.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Zeiler et al., "Deconvolutional networks", 2010.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_transpose(np.ones((1, 2, 2, 1)), np.ones((3, 3, 1, 1)))[0, 1, :, 0].tolist()
    [2.0, 4.0, 4.0, 2.0]
    """
    choice(algorithm, "algorithm", ALGORITHMS)
    activation = checked_activation(activation)
    input, filters, bias = floats(("input", "filters", "bias"), input, filters, bias, optional=1)
    shape = _transposed(input.shape, filters.shape, strides, padding, output_padding, dilations)
    if bias is not None:
        like(bias, shape[3:], "bias")
    try:
        y = np.empty(shape, input.dtype)
    except MemoryError:
        raise no_memory(shape, input=input.shape, filters=filters.shape, strides=strides) from None
    bound_conv2d_transpose(input, filters, strides, padding, dilations, bias, activation, algorithm, y)()
    return y


def conv2d_transpose_algorithm(
    input_shape: tuple[int, ...],
    filters: FloatArray,
    strides: Any,
    padding: Any,
    output_padding: Any,
    dilations: Any,
) -> str:
    """Return the algorithm that "auto" is for images of this shape, other arguments as of :func:`conv2d_transpose`."""
    shape = _transposed(input_shape, filters.shape, strides, padding, output_padding, dilations)
    geometry, _ = geometry_of(shape, filters.shape, strides, padding, dilations, 1)
    return algorithm_for(geometry, "auto", "input", filters)


def bound_conv2d_transpose(
    input: FloatArray,
    filters: FloatArray,
    strides: Any,
    padding: Any,
    dilations: Any,
    bias: FloatArray | None,
    activation: str | None,
    algorithm: str,
    out: FloatArray,
) -> Callable[[], None]:
    """Return a function that writes the transposed convolution of an array to another.

    Parameters
    ----------
    input, filters, strides, padding, dilations, bias, activation, algorithm
        As in :func:`conv2d_transpose`; arrays C-ordered, of one float type.
    out
        (N, H', W', K), likewise; its size tells the padding of the output.
    """
    geometry, _ = geometry_of(out.shape, filters.shape, strides, padding, dilations, 1)
    engine = _ENGINES[algorithm_for(geometry, algorithm, "input", input)]
    steps: list[Callable[[], Any]] = []
    if input.size:
        steps.append(partial(engine.backward_input, geometry, input, filters, out))
    fused = 0 if bias is None else FUSED.get(activation, 0)
    if bias is not None:
        steps.append(partial(_elementwise.bias_add, out, bias, fused, out))
    if activation is not None and not fused:
        steps.append(bound_activation(activation, out, out))

    def transpose() -> None:
        for step in steps:
            step()

    return transpose


def conv2d_transpose_backward(
    grad: ArrayLike,
    input: ArrayLike,
    filters: ArrayLike,
    strides: Any = 1,
    padding: Any = "VALID",
    output_padding: Any = None,
    dilations: Any = 1,
    algorithm: str = "auto",
    *,
    input_grad: bool = True,
    bias_grad: bool = True,
) -> tuple[FloatArray | None, FloatArray, FloatArray | None]:
    """Return the gradients of a transposed convolution's input, filters and bias.

    Parameters
    ----------
    grad
        Gradient of the result (before any activation), (N, H', W', K).
    input
        (N, H, W, C).
    filters
        (R, S, K, C).
    strides, padding, output_padding, dilations
        As given to :func:`conv2d_transpose`.
    algorithm
        As in :func:`conv2d`.
    input_grad, bias_grad
        Whether the gradients of the input and the bias are wanted.

    Returns
    -------
    dinput : ndarray or None
        (N, H, W, C).
    dfilters : ndarray
        (R, S, K, C).
    dbias : ndarray or None
        (K,).

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 2, 2, 1)), np.ones((3, 3, 1, 1))
    >>> dinput, dfilters, dbias = conv2d_transpose_backward(np.ones((1, 4, 4, 1)), x, w)
    >>> dinput[0, 0, :, 0].tolist(), dfilters[0, 0].tolist(), dbias.tolist()
    ([9.0, 9.0], [[4.0]], [16.0])
    """
    input_grad, bias_grad = flag(input_grad, "input_grad"), flag(bias_grad, "bias_grad")
    grad, input, filters = floats(("grad", "input", "filters"), grad, input, filters)
    like(grad, _transposed(input.shape, filters.shape, strides, padding, output_padding, dilations))
    options = strides, padding, dilations, 1
    dfilters = conv2d_backward_filters(input, grad, filters.shape, *options, algorithm)
    dinput = conv2d(grad, filters, *options, algorithm=algorithm) if input_grad else None
    return dinput, dfilters, bias_add_backward(grad) if bias_grad else None
