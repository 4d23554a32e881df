"""Shape, padding and stride arithmetic: the one source of truth, on plain integers.

Spatial arguments are accepted in the spellings of Keras, PyTorch and TensorFlow and reduced here to pairs of
integers; shapes are tuples whose batch entry may be None. Every function raises ``TypeError`` or ``ValueError``
that names the argument and echoes what it got.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from .arguments import MAX_ELEMENTS, brief, integer

Pair: TypeAlias = tuple[int, int]
Pads: TypeAlias = tuple[Pair, Pair]
Shape: TypeAlias = tuple[int | None, ...]


def pair(value: Any, name: str, minimum: int = 1) -> Pair:
    """Return (height, width) from an int, a pair, or TensorFlow's list of four with ones outside.

    Parameters
    ----------
    value
        ``2``, ``(2, 3)`` or ``[1, 2, 3, 1]``.
    name
        The argument's name, for the error.
    minimum
        The smallest number allowed.

    Raises
    ------
    TypeError
        If value is neither an integer nor a sequence of integers.
    ValueError
        If it has another length, a number below the minimum, or steps along batch or channels.

    Examples
    --------
    >>> pair(2, "strides"), pair((2, 3), "strides"), pair([1, 2, 3, 1], "strides")
    ((2, 2), (2, 3), (2, 3))
    """
    if isinstance(value, (list, tuple)):
        numbers = [integer(v, name, minimum, value) for v in value]
        if len(numbers) == 4 and numbers[0] == numbers[3] == 1:
            numbers = numbers[1:3]
        if len(numbers) == 1:
            numbers *= 2
        if len(numbers) != 2:
            raise ValueError(
                f"{name} must be an int, a pair (height, width) or [1, height, width, 1], got {brief(value)}"
            )
        return numbers[0], numbers[1]
    number = integer(value, name, minimum)
    return number, number


def pads(padding: Any, size: tuple[int, int], window: Pair, strides: Pair, name: str = "padding") -> Pads:
    """Return ((top, bottom), (left, right)), the zeros that padding puts around an image.

    Parameters
    ----------
    padding
        ``"valid"`` or ``"same"`` in any case of letters; an int; a pair (height, width);
        ``((top, bottom), (left, right))``; or TensorFlow's list of four pairs with zeros outside.
    size
        Height and width of the image, in pixels.
    window
        Height and width that the (dilated) filter or pooling window spans.
    strides
        Steps in pixels.
    name
        The argument's name, for the error.

    Returns
    -------
    tuple
        Four numbers of pixels. For ``"same"``, TensorFlow's rule: the result has ceil(size / stride) pixels and
        an odd zero goes to the bottom and the right.

    Raises
    ------
    TypeError, ValueError
        For anything else.

    Examples
    --------
    >>> pads("same", (5, 6), (3, 3), (2, 2))
    ((1, 1), (0, 1))
    """
    if isinstance(padding, str):
        kind = padding.lower()
        if kind == "valid":
            return (0, 0), (0, 0)
        if kind == "same":
            return _same(size[0], window[0], strides[0]), _same(size[1], window[1], strides[1])
        raise ValueError(f'{name} must be "valid", "same" or numbers of pixels, got {brief(padding)}')
    if not isinstance(padding, (list, tuple)):
        number = integer(padding, name, 0)
        return (number, number), (number, number)
    entries = list(padding)
    if len(entries) == 4 and all(isinstance(e, (list, tuple)) for e in entries):
        if any(any(_sides(e, name, padding)) for e in (entries[0], entries[3])):
            raise ValueError(f"{name} of batch and channels must be zero, got {brief(padding)}")
        entries = entries[1:3]
    if len(entries) != 2:
        raise ValueError(
            f"{name} must be an int, (height, width) or ((top, bottom), (left, right)), got {brief(padding)}"
        )
    sides = [_sides(e, name, padding) for e in entries]
    return sides[0], sides[1]


def checked_padding(padding: Any) -> Any:
    """Return padding in hashable form, words in lower case, once :func:`pads` accepts it.

    Raises
    ------
    TypeError, ValueError
        If no image could be padded so.

    Examples
    --------
    >>> checked_padding("SAME"), checked_padding([[1, 0], [0, 1]])
    ('same', ((1, 0), (0, 1)))
    """
    pads(padding, (1, 1), (1, 1), (1, 1))
    if isinstance(padding, str):
        return padding.lower()
    if isinstance(padding, (list, tuple)):
        return tuple([tuple(p) if isinstance(p, (list, tuple)) else p for p in padding])
    return padding


def _sides(entry: Any, name: str, got: Any) -> Pair:
    if isinstance(entry, (list, tuple)):
        if len(entry) != 2:
            raise ValueError(f"{name} must have two numbers a side, got {brief(got)}")
        return integer(entry[0], name, 0, got), integer(entry[1], name, 0, got)
    number = integer(entry, name, 0, got)
    return number, number


def _same(size: int, window: int, stride: int) -> Pair:
    total = max(0, (-(-size // stride) - 1) * stride + window - size)
    return total // 2, total - total // 2


def sliding(size: int, window: int, stride: int, before: int, after: int) -> int:
    """Return how many windows fit: floor((before + size + after - window) / stride) + 1, at least 0.

    Examples
    --------
    >>> sliding(32, 3, 1, 1, 1), sliding(5, 2, 2, 0, 0), sliding(2, 3, 1, 0, 0)
    (32, 2, 0)
    """
    return max(0, (before + size + after - window) // stride + 1)


def elements(shape: Sequence[int | None], name: str) -> int:
    """Return the number of elements of shape, counting an unknown batch as one.

    Raises
    ------
    ValueError
        If an array of that shape could not be addressed.

    Examples
    --------
    >>> elements((None, 2, 3), "input")
    6
    """
    count = 1
    for n in shape:
        count *= n or 1  # no array has room for other axes beyond the limit, even if one is empty
    if count > MAX_ELEMENTS:
        raise ValueError(f"{name} of shape {tuple(shape)} is too large: {count} elements")
    return count


def known_shape(value: Any, name: str) -> tuple[int, ...]:
    """Return a shape of four known sizes, none negative.

    Raises
    ------
    TypeError, ValueError
        If value is anything else.

    Examples
    --------
    >>> known_shape([1, 4, 4, 2], "input_shape")
    (1, 4, 4, 2)
    """
    if type(value) is tuple and [type(n) for n in value] == [int] * 4 and 0 <= min(value) <= max(value) <= MAX_ELEMENTS:
        return value  # as it nearly always is
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise ValueError(f"{name} must be a shape of four sizes, got {brief(value)}")
    return tuple([integer(v, name, 0, value) for v in value])


def _image_shape(shape: Sequence[int | None], name: str) -> tuple[int | None, int, int, int]:
    if len(shape) != 4:
        raise ValueError(f"{name} must have shape (batch, height, width, channels), got {tuple(shape)}")
    batch, h, w, c = shape
    if not (h and w and c):
        raise ValueError(f"{name} must have height, width and channels of at least 1, got {tuple(shape)}")
    return batch, h, w, c


def conv2d(
    input_shape: Sequence[int | None],
    filters_shape: Sequence[int],
    strides: Any = 1,
    padding: Any = "valid",
    dilations: Any = 1,
    groups: Any = 1,
) -> tuple[Shape, Pair, Pads, Pair, int]:
    """Work out a 2-D convolution.

    Parameters
    ----------
    input_shape
        (N, H, W, C); N may be None.
    filters_shape
        (R, S, C / groups, K).
    strides, padding, dilations, groups
        As in :func:`fastcnn.nn.conv2d`.

    Returns
    -------
    output_shape : tuple
        (N, H', W', K) with H' = floor((top + H + bottom - (R - 1) * dilation - 1) / stride) + 1.
    strides : (int, int)
    pads : ((top, bottom), (left, right))
    dilations : (int, int)
    groups : int

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> conv2d((8, 32, 32, 3), (3, 3, 3, 16), strides=2, padding="same")[0]
    (8, 16, 16, 16)
    """
    batch, h, w, c = _image_shape(input_shape, "input")
    if len(filters_shape) != 4 or 0 in filters_shape:
        raise ValueError(
            "filters must have shape (height, width, channels / groups, filters), all at least 1, "
            f"got {tuple(filters_shape)}"
        )
    rows, cols, depth, filters = filters_shape
    step = pair(strides, "strides")
    dilation = pair(dilations, "dilations")
    groups = integer(groups, "groups")
    if c % groups or filters % groups:
        raise ValueError(
            f"groups must divide the channels of input ({c}) and the number of filters ({filters}), got {groups}"
        )
    if depth * groups != c:
        raise ValueError(
            f"filters must have {c // groups} channels for input of {c} channels and groups={groups}, "
            f"got filters of shape {tuple(filters_shape)}"
        )
    window = (rows - 1) * dilation[0] + 1, (cols - 1) * dilation[1] + 1
    around = pads(padding, (h, w), window, step)
    output = (
        batch,
        sliding(h, window[0], step[0], *around[0]),
        sliding(w, window[1], step[1], *around[1]),
        filters,
    )
    if not (output[1] and output[2]):
        raise ValueError(
            f"filters of shape {tuple(filters_shape)} with dilations={dilations!r} span {window[0]} x {window[1]} "
            f"pixels, more than input of shape {tuple(input_shape)} with padding={padding!r}"
        )
    elements(filters_shape, "filters")
    elements((batch, h + sum(around[0]), w + sum(around[1]), c), "padded input")
    elements(output, "output")
    return output, step, around, dilation, groups


def pool(
    input_shape: Sequence[int | None], ksize: Any, strides: Any = None, padding: Any = "valid", name: str = "ksize"
) -> tuple[Shape, Pair, Pair, Pads]:
    """Work out a 2-D pooling.

    Parameters
    ----------
    input_shape
        (N, H, W, C); N may be None.
    ksize, strides, padding
        As in :func:`fastcnn.nn.max_pool`; strides of None mean ksize.
    name
        What to call ksize in errors.

    Returns
    -------
    output_shape : tuple
        (N, H', W', C) with H' = floor((top + H + bottom - ksize) / stride) + 1.
    ksize, strides : (int, int)
    pads : ((top, bottom), (left, right))

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> pool((8, 32, 32, 3), 2)[0]
    (8, 16, 16, 3)
    """
    batch, h, w, c = _image_shape(input_shape, "input")
    window = pair(ksize, name)
    step = window if strides is None else pair(strides, "strides")
    around = pool_pads(padding, (h, w), window, step, name)
    output = (
        batch,
        sliding(h, window[0], step[0], *around[0]),
        sliding(w, window[1], step[1], *around[1]),
        c,
    )
    if not (output[1] and output[2]):
        raise ValueError(
            f"{name}={ksize!r} is larger than input of shape {tuple(input_shape)} with padding={padding!r}"
        )
    elements(output, "output")
    return output, window, step, around


def pool_pads(padding: Any, size: tuple[int, int], window: Pair, strides: Pair, name: str = "ksize") -> Pads:
    """Return :func:`pads` for a pooling, none of whose windows may lie outside of the image.

    Raises
    ------
    TypeError, ValueError
        If padding is none, or as large as the window, which is called name.

    Examples
    --------
    >>> pool_pads(1, (5, 6), (3, 3), (2, 2))
    ((1, 1), (1, 1))
    """
    around = pads(padding, size, window, strides)
    if max(around[0]) >= window[0] or max(around[1]) >= window[1]:
        raise ValueError(
            f"padding must be smaller than {name}={window!r}, or windows would hold nothing, got {brief(padding)}"
        )
    return around


def conv2d_output_shape(
    input_shape: Sequence[int | None],
    filters_shape: Sequence[int],
    strides: Any = 1,
    padding: Any = "valid",
    dilations: Any = 1,
    groups: Any = 1,
) -> Shape:
    """Return the shape of a convolution's result.

    Parameters
    ----------
    input_shape
        (N, H, W, C); N may be None.
    filters_shape
        (R, S, C / groups, K).
    strides, padding, dilations, groups
        As in :func:`fastcnn.nn.conv2d`.

    Returns
    -------
    tuple
        (N, H', W', K); for H' see :func:`conv2d`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> conv2d_output_shape((None, 28, 28, 1), (5, 5, 1, 6))
    (None, 24, 24, 6)
    """
    return conv2d(input_shape, filters_shape, strides, padding, dilations, groups)[0]


def conv2d_transpose_output_shape(
    input_shape: Sequence[int | None],
    filters_shape: Sequence[int],
    strides: Any = 1,
    padding: Any = "valid",
    output_padding: Any = None,
    dilations: Any = 1,
) -> Shape:
    """Return the shape of a transposed convolution's result, which the convolution takes back to the input's size.

    Parameters
    ----------
    input_shape
        (N, H, W, C); N may be None.
    filters_shape
        (R, S, K, C).
    strides, padding, output_padding, dilations
        As in :func:`fastcnn.nn.conv2d_transpose`.

    Returns
    -------
    tuple
        (N, H', W', K); for H' see :func:`fastcnn.nn.conv2d_transpose`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> conv2d_transpose_output_shape((None, 16, 16, 8), (3, 3, 4, 8), strides=2, padding="same")
    (None, 32, 32, 4)
    """
    batch, *size, c = _image_shape(input_shape, "input")
    if len(filters_shape) != 4 or 0 in filters_shape:
        raise ValueError(
            f"filters must have shape (height, width, filters, channels), all at least 1, got {tuple(filters_shape)}"
        )
    if filters_shape[3] != c:
        raise ValueError(
            f"filters must have {c} channels in their last axis for input of {c} channels, "
            f"got filters of shape {tuple(filters_shape)}"
        )
    step, dilation = pair(strides, "strides"), pair(dilations, "dilations")
    around = pads(padding, (1, 1), (1, 1), (1, 1))  # none where it is a word
    word = padding.lower() if isinstance(padding, str) else ""
    output: list[int] = []
    for axis in (0, 1):
        window = (filters_shape[axis] - 1) * dilation[axis] + 1
        extra = None if output_padding is None else pair(output_padding, "output_padding", 0)[axis]
        # What the last window adds to the steps up to it.
        if word == "same":
            last = step[axis] if extra is None else window % 2 + extra
        elif word == "valid" and extra is None:
            last = max(window, step[axis])
        else:
            last = window + (extra or 0)
        if (extra or 0) >= step[axis] or not last:
            least = f", and at least 1 with padding={padding!r} where filters span an even number of pixels"
            raise ValueError(
                f"output_padding must be below strides={strides!r}{'' if last else least}, got {output_padding!r}"
            )
        output.append((size[axis] - 1) * step[axis] + last - sum(around[axis]))
    shape = batch, output[0], output[1], filters_shape[2]
    if min(output) < 1:
        raise ValueError(f"padding must leave at least one pixel, got {brief(padding)} for a result of shape {shape}")
    elements(shape, "output")
    return shape


def pool_output_shape(
    input_shape: Sequence[int | None], ksize: Any, strides: Any = None, padding: Any = "valid"
) -> Shape:
    """Return the shape of a pooling's result.

    Parameters
    ----------
    input_shape
        (N, H, W, C); N may be None.
    ksize, strides, padding
        As in :func:`fastcnn.nn.max_pool`.

    Returns
    -------
    tuple
        (N, H', W', C); for H' see :func:`pool`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> pool_output_shape((None, 28, 28, 6), 2)
    (None, 14, 14, 6)
    """
    return pool(input_shape, ksize, strides, padding)[0]
