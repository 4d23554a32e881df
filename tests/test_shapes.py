"""Shape arithmetic against brute force, every spelling of its arguments, and errors that name them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcnn import shapes


def windows(size, window, stride):
    """Count the windows that fit, by laying them."""
    count, start = 0, 0
    while start + window <= size:
        count, start = count + 1, start + stride
    return count


SIZES = range(1, 12)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 9])
def test_same_is_the_rule_of_tensorflow(window, stride):
    for size in SIZES:
        (before, after), _ = shapes.pads("same", (size, 1), (window, 1), (stride, 1))
        wanted = -(-size // stride)
        assert windows(before + size + after, window, stride) == wanted
        assert after - before in (0, 1)
        if before + after:
            assert windows(before + size + after - 1, window, stride) < wanted
        assert shapes.pads("SAME", (1, size), (1, window), (1, stride)) == ((0, 0), (before, after))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(*[st.integers(1, 20)] * 3, st.integers(0, 9), st.integers(0, 9))
def test_sliding_counts_the_windows_that_fit(size, window, stride, before, after):
    assert shapes.sliding(size, window, stride, before, after) == windows(before + size + after, window, stride)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_conv2d_counts_the_windows_that_fit(data):
    size = st.integers(1, 9)
    n, h, w, depth, filters, groups, r, s, sh, sw, dh, dw = (data.draw(size) for _ in range(12))
    side = st.integers(0, 3)
    (top, bottom), (left, right) = padding = tuple((data.draw(side), data.draw(side)) for _ in range(2))
    args = (n, h, w, depth * groups), (r, s, depth, filters * groups), (sh, sw), padding, (dh, dw), groups
    out = (
        windows(top + h + bottom, (r - 1) * dh + 1, sh),
        windows(left + w + right, (s - 1) * dw + 1, sw),
    )
    if 0 in out:
        with pytest.raises(ValueError, match=r"^filters "):
            shapes.conv2d(*args)
    else:
        shape = n, *out, filters * groups
        assert shapes.conv2d(*args) == (shape, (sh, sw), padding, (dh, dw), groups)
        assert shapes.conv2d_output_shape(*args) == shape
        assert shapes.conv2d_output_shape((None, *args[0][1:]), *args[1:]) == (None, *shape[1:])


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_sizes_of_a_transposed_convolution_are_those_of_keras_and_pytorch(kernel, stride, dilation, size):
    span = (kernel - 1) * dilation + 1

    def height(padding, extra=None):
        shape = shapes.conv2d_transpose_output_shape(
            (None, size, 1, 4), (kernel, 1, 6, 4), (stride, 1), padding, extra and (extra, 0), (dilation, 1)
        )
        back = shapes.conv2d_output_shape(shape, (kernel, 1, 6, 4), (stride, 1), padding, (dilation, 1))
        assert back == (None, size, 1, 4)
        return shape[1]

    assert height("same") == size * stride
    assert height("VALID") == size * stride + max(span - stride, 0)
    for extra in range(1, stride):
        assert height("same", extra) == (size - 1) * stride + span - 2 * (span // 2) + extra
        assert height("valid", extra) == (size - 1) * stride + span + extra
    for pad in range((span + 1) // 2):
        for extra in range(stride):
            # torch.nn.ConvTranspose2d
            wanted = (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + extra + 1
            assert height(((pad, pad), (0, 0)), extra) == wanted


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_pool_counts_the_windows_that_fit(data):
    size = st.integers(1, 9)
    n, h, w, c, r, s, sh, sw = (data.draw(size) for _ in range(8))
    padding = tuple((data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k - 1))) for k in (r, s))
    (top, bottom), (left, right) = padding
    out = windows(top + h + bottom, r, sh), windows(left + w + right, s, sw)
    if 0 in out:
        with pytest.raises(ValueError, match=r"^ksize="):
            shapes.pool((n, h, w, c), (r, s), (sh, sw), padding)
    else:
        assert shapes.pool((n, h, w, c), (r, s), (sh, sw), padding) == ((n, *out, c), (r, s), (sh, sw), padding)
        assert shapes.pool_output_shape((None, h, w, c), (r, s), (sh, sw), padding) == (None, *out, c)


def test_strides_of_a_pool_are_its_ksize_where_not_given():
    assert shapes.pool((1, 9, 9, 1), (2, 3)) == shapes.pool((1, 9, 9, 1), (2, 3), (2, 3))


@pytest.mark.parametrize(
    ("given", "meant"),
    [(2, (2, 2)), ([3], (3, 3)), ((2, 3), (2, 3)), ([2, 3], (2, 3)), ([1, 2, 3, 1], (2, 3)), (np.int64(2), (2, 2)),
     ((np.int8(2), 3), (2, 3))],
)  # fmt: skip
def test_spellings_of_a_pair(given, meant):
    assert shapes.pair(given, "strides") == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("valid", ((0, 0), (0, 0))),
        ("VALID", ((0, 0), (0, 0))),
        ("Same", ((1, 1), (1, 1))),
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([[1, 2], [3, 4]], ((1, 2), (3, 4))),
        ((1, (2, 3)), ((1, 1), (2, 3))),
        ([[0, 0], [1, 2], [3, 4], [0, 0]], ((1, 2), (3, 4))),
    ],
)
def test_spellings_of_padding(given, meant):
    assert shapes.pads(given, (7, 7), (3, 3), (1, 1)) == meant


INPUT, FILTERS = (2, 5, 5, 4), (3, 3, 4, 6)


def transposed(input=INPUT, filters=(3, 3, 6, 4), **options):
    return shapes.conv2d_transpose_output_shape(input, filters, **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: shapes.pair("2", "strides"), TypeError, "^strides .*'2'"),
        (lambda: shapes.pair(2.0, "ksize"), TypeError, "^ksize .*2.0"),
        (lambda: shapes.pair(True, "ksize"), TypeError, "^ksize .*True"),
        (lambda: shapes.pair(None, "ksize"), TypeError, "^ksize .*None"),
        (lambda: shapes.pair((1, 2.5), "ksize"), TypeError, r"^ksize .*\(1, 2.5\)"),
        (lambda: shapes.pair((1, 0), "ksize"), ValueError, r"^ksize .*\(1, 0\)"),
        (lambda: shapes.pair((), "ksize"), ValueError, r"^ksize .*\(\)"),
        (lambda: shapes.pair((1, 2, 3), "ksize"), ValueError, r"^ksize .*\(1, 2, 3\)"),
        (lambda: shapes.pair((2, 2, 2, 1), "strides"), ValueError, r"^strides .*\(2, 2, 2, 1\)"),
        (lambda: shapes.pair((1, 2, 2, 2), "strides"), ValueError, r"^strides .*\(1, 2, 2, 2\)"),
        (lambda: shapes.pair(2**60, "strides"), ValueError, "^strides .*1152921504606846976"),
        (lambda: shapes.pads([[], [1, 1], [1, 1], []], (5, 5), (3, 3), (1, 1)), ValueError, "^padding .*two numbers"),
        (lambda: shapes.pads("full", (5, 5), (3, 3), (1, 1)), ValueError, "^padding .*'full'"),
        (lambda: shapes.pads(-1, (5, 5), (3, 3), (1, 1)), ValueError, "^padding .*-1"),
        (lambda: shapes.pads(1.0, (5, 5), (3, 3), (1, 1)), TypeError, "^padding .*1.0"),
        (lambda: shapes.pads(None, (5, 5), (3, 3), (1, 1)), TypeError, "^padding .*None"),
        (lambda: shapes.pads((1, 2, 3), (5, 5), (3, 3), (1, 1)), ValueError, r"^padding .*\(1, 2, 3\)"),
        (lambda: shapes.pads(((1, 2, 3), 1), (5, 5), (3, 3), (1, 1)), ValueError, r"^padding .*\(1, 2, 3\)"),
        (lambda: shapes.pads(((1, -2), 1), (5, 5), (3, 3), (1, 1)), ValueError, r"^padding .*\(1, -2\)"),
        (lambda: shapes.pads([(1, 0), 1, 1, (0, 0)], (5, 5), (3, 3), (1, 1)), ValueError, r"^padding .*\(1, 0\)"),
        (lambda: shapes.pads([[1, 0], *[[1, 1]] * 3], (5, 5), (3, 3), (1, 1)), ValueError, r"^padding .*\[1, 0\]"),
        (lambda: shapes.conv2d(INPUT[1:], FILTERS), ValueError, r"^input .*\(5, 5, 4\)"),
        (lambda: shapes.conv2d((2, 0, 5, 4), FILTERS), ValueError, r"^input .*\(2, 0, 5, 4\)"),
        (lambda: shapes.conv2d((2, 5, None, 4), FILTERS), ValueError, r"^input .*None"),
        (lambda: shapes.conv2d(INPUT, FILTERS[1:]), ValueError, r"^filters .*\(3, 4, 6\)"),
        (lambda: shapes.conv2d(INPUT, (3, 0, 4, 6)), ValueError, r"^filters .*\(3, 0, 4, 6\)"),
        (lambda: shapes.conv2d(INPUT, (3, 3, 5, 6)), ValueError, r"^filters .*\(3, 3, 5, 6\)"),
        (lambda: shapes.conv2d(INPUT, (6, 3, 4, 6)), ValueError, r"^filters .*\(6, 3, 4, 6\)"),
        (lambda: shapes.conv2d(INPUT, FILTERS, dilations=3), ValueError, r"^filters .*dilations=3"),
        (lambda: shapes.conv2d(INPUT, FILTERS, groups=3), ValueError, "^groups .*3"),
        (lambda: shapes.conv2d(INPUT, FILTERS, groups=4), ValueError, "^groups .*4"),
        (lambda: shapes.conv2d(INPUT, FILTERS, groups="a"), TypeError, "^groups .*'a'"),
        (lambda: shapes.conv2d(INPUT, FILTERS, strides=0), ValueError, "^strides .*0"),
        (lambda: shapes.conv2d(INPUT, FILTERS, dilations=0), ValueError, "^dilations .*0"),
        (lambda: shapes.conv2d((2**40, 99, 99, 4), FILTERS), ValueError, "^padded input .*too large"),
        (lambda: shapes.conv2d(INPUT, FILTERS, padding=2**40), ValueError, "^padded input .*too large"),
        (lambda: shapes.conv2d((2**40, 9, 1, 1), (1, 1, 1, 99)), ValueError, "^output .*too large"),
        (lambda: transposed(INPUT[1:]), ValueError, r"^input .*\(5, 5, 4\)"),
        (lambda: transposed(filters=(3, 4, 6)), ValueError, r"^filters .*\(3, 4, 6\)"),
        (lambda: transposed(filters=(3, 3, 4, 6)), ValueError, r"^filters must have 4 channels .*\(3, 3, 4, 6\)"),
        (lambda: transposed(strides=0), ValueError, "^strides .*0"),
        (lambda: transposed(dilations=(1, 0)), ValueError, r"^dilations .*\(1, 0\)"),
        (lambda: transposed(padding="full"), ValueError, "^padding .*'full'"),
        (lambda: transposed(padding=4), ValueError, r"^padding must leave .* 4 .*\(2, -1, -1, 6\)"),
        (lambda: transposed(output_padding=1), ValueError, "^output_padding must be below strides=1, got 1"),
        (lambda: transposed(strides=(3, 2), output_padding=2), ValueError, r"^output_padding .*strides=\(3, 2\).* 2$"),
        (lambda: transposed(output_padding=-1), ValueError, "^output_padding .*-1"),
        (lambda: transposed(output_padding=0.0), TypeError, "^output_padding .*0.0"),
        (lambda: transposed(filters=(2, 2, 6, 4), strides=2, padding="same", output_padding=0), ValueError,
         "^output_padding .* at least 1 with padding='same' .*got 0"),
        (lambda: transposed(strides=2**46), ValueError, "^output .*too large"),
        (lambda: shapes.pool(INPUT[1:], 2), ValueError, r"^input .*\(5, 5, 4\)"),
        (lambda: shapes.pool(INPUT, 6), ValueError, "^ksize=6 "),
        (lambda: shapes.pool(INPUT, 2, padding=2), ValueError, "^padding .*2"),
        (lambda: shapes.pool(INPUT, (2, 3), padding=((0, 0), (0, 3))), ValueError, r"^padding .*\(0, 3\)"),
        (lambda: shapes.pool(INPUT, 2, strides="a"), TypeError, "^strides .*'a'"),
        (lambda: shapes.pool((2**40, 99, 99, 4), 1), ValueError, "^output .*too large"),
        (lambda: shapes.known_shape((1, 2, 3), "input_shape"), ValueError, r"^input_shape .*\(1, 2, 3\)"),
        (lambda: shapes.known_shape((1, 2, 3, None), "input_shape"), TypeError, "^input_shape .*None"),
        (lambda: shapes.known_shape((1, 2, 3, -1), "input_shape"), ValueError, "^input_shape .*-1"),
        (lambda: shapes.known_shape("abcd", "input_shape"), ValueError, "^input_shape .*'abcd'"),
        (lambda: shapes.elements((2**30, 2**30), "x"), ValueError, "^x .*too large"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_echo_it(call, error, words):
    with pytest.raises(error, match=words):
        call()
