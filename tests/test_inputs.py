"""Every kind of array that ops accept gives what its plain float twin gives, and is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_equal
from ops import OPS

from fastcnn import nn

pytestmark = pytest.mark.usefixtures("isa")


def every_second(x):
    """A view with a gap after each element of the last axis."""
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def misaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class Subclass(np.ndarray):
    """An ndarray of another name."""


KINDS = {
    "every second element": every_second,
    "negative strides": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "Fortran order": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "read only": read_only,
    "misaligned": misaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "a broadcast view": lambda x: np.broadcast_to(x, x.shape),
    "a subclass": lambda x: x.view(Subclass),
}

each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)


def assert_same(results, wanted):
    assert len(results) == len(wanted)
    for result, want in zip(results, wanted, strict=True):
        assert type(result) is np.ndarray
        assert result.flags.c_contiguous
        assert result.flags.writeable
        assert_equal(result, want, want.dtype)


@each_op
@pytest.mark.parametrize("kind", KINDS)
def test_layouts(op, kind, dtype):
    plain = op.operands(op.small, dtype)
    assert_same(op(*(KINDS[kind](x) for x in plain)), op(*plain))


@each_op
@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint8, np.uint64, bool, np.float16])
def test_integers_and_half_floats_are_taken_for_float32(op, kind):
    operands = [np.floor(x) if kind is not np.float16 else x for x in op.operands(op.small)]
    operands = [x.astype(kind) for x in operands]
    wanted = op(*(x.astype(np.float32) for x in operands))
    assert_same(op(*operands), wanted)
    assert all(w.dtype == np.float32 for w in wanted) or op.name == "softmax_cross_entropy"


@each_op
def test_lists_are_taken_for_arrays(op):
    plain = op.operands(op.small)
    assert_same(op(*(x.tolist() for x in plain)), op(*plain))
    integers = [np.floor(x).astype(int) for x in plain]
    assert_same(op(*(x.tolist() for x in integers)), op(*(x.astype(np.float32) for x in integers)))


@each_op
def test_float32_and_float64_together_are_float64(op):
    plain = op.operands(op.small)
    for i in range(len(plain) if len(plain) > 1 else 0):
        mixed = [x.astype(np.float32) if i == j else x for j, x in enumerate(plain)]
        assert_same(op(*mixed), op(*plain))


@each_op
@pytest.mark.parametrize("kind", [np.int64, np.float16])
def test_integers_and_half_floats_follow_the_other_operands(op, kind, dtype):
    plain = [np.floor(x) for x in op.operands(op.small, dtype)]
    for i in range(len(plain) if len(plain) > 1 else 0):
        mixed = [x.astype(kind) if i == j else x for j, x in enumerate(plain)]
        assert_same(op(*mixed), op(*plain))


@each_op
def test_operands_are_left_as_they_were_and_results_are_new(op, dtype):
    operands = op.operands(op.small, dtype)
    copies = [x.copy() for x in operands]
    results = op(*operands)
    for x, copy in zip(operands, copies, strict=True):
        assert_equal(x, copy, dtype)
        assert not any(np.shares_memory(x, result) for result in results)


@each_op
def test_calling_again_gives_the_same_bits_in_new_arrays(op, dtype):
    operands = op.operands(op.small, dtype)
    first = op(*operands)
    kept = [x.copy() for x in first]
    second = op(*operands)
    for x, y, z in zip(first, kept, second, strict=True):
        assert x.tobytes() == y.tobytes() == z.tobytes()
        assert not np.shares_memory(x, z)


@pytest.mark.parametrize("op", [op for op in OPS if op.batched and op.name != "moments"], ids=lambda op: op.name)
@pytest.mark.usefixtures("threads")
def test_a_batch_of_none(op, dtype):
    results = op(*op.operands(op.empty(), dtype))
    one = op(*op.operands(op.small, dtype))
    for result, other in zip(results, one, strict=True):
        assert result.dtype == other.dtype
        per_batch = other.ndim > 0 and other.shape[0] == op.small[0][0]
        if result.shape == other.shape:
            assert (result == 0).all()
        else:
            assert per_batch
            assert result.shape == (0, *other.shape[1:])


@each_op
@pytest.mark.parametrize("value", [1j, "a", object()], ids=["complex", "text", "object"])
def test_what_is_no_number_is_refused(op, value):
    operands = op.operands(op.small)
    for i, x in enumerate(operands):
        with pytest.raises(TypeError):
            op(*operands[:i], np.full(x.shape, value), *operands[i + 1 :])


ROWS, IMAGES, FILTERS, C = np.ones((2, 3)), np.ones((1, 3, 3, 2)), np.ones((3, 3, 2, 4)), np.ones(3)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *(("x", lambda op=op: op(None)) for op in (nn.relu, nn.leaky_relu, nn.sigmoid, nn.tanh, nn.gelu, nn.softmax)),
        *(("x", lambda name=name: nn.activate(None, name)) for name in nn.ACTIVATIONS),
        *(("grad", lambda name=name: nn.activate_backward(None, ROWS, name)) for name in nn.ACTIVATIONS),
        *(("y", lambda name=name: nn.activate_backward(ROWS, None, name)) for name in nn.ACTIVATIONS),
        ("x", lambda: nn.leaky_relu_backward(ROWS, None)),
        ("x", lambda: nn.gelu_backward(ROWS, None)),
        ("grad", lambda: nn.softmax_backward(None, ROWS)),
        ("a", lambda: nn.matmul(None, ROWS)),
        ("b", lambda: nn.matmul(ROWS, None)),
        ("grad", lambda: nn.matmul_backward(None, ROWS, ROWS)),
        ("x", lambda: nn.dense(None, ROWS)),
        ("kernel", lambda: nn.dense(ROWS, None)),
        ("x", lambda: nn.dense_backward(ROWS, None, ROWS)),
        ("input", lambda: nn.conv2d(None, FILTERS)),
        ("filters", lambda: nn.conv2d(IMAGES, None)),
        ("grad", lambda: nn.conv2d_backward(None, IMAGES, FILTERS)),
        ("grad", lambda: nn.conv2d_backward_input(None, FILTERS, (1, 3, 3, 2))),
        ("input", lambda: nn.conv2d_backward_filters(np.ones((1, 1, 1, 4)), None, (3, 3, 2, 4))),
        ("input", lambda: nn.conv2d_transpose(None, FILTERS)),
        ("filters", lambda: nn.conv2d_transpose(np.ones((1, 3, 3, 4)), None)),
        ("grad", lambda: nn.conv2d_transpose_backward(None, np.ones((1, 3, 3, 4)), FILTERS)),
        ("input", lambda: nn.max_pool(None, 2)),
        ("input", lambda: nn.avg_pool(None, 2)),
        ("input", lambda: nn.max_pool_backward(IMAGES, None, 2)),
        ("grad", lambda: nn.avg_pool_backward(None, (1, 3, 3, 2), 2)),
        ("x", lambda: nn.bias_add(None, C)),
        ("bias", lambda: nn.bias_add(ROWS, None)),
        ("grad", lambda: nn.bias_add_backward(None)),
        ("x", lambda: nn.moments(None)),
        ("mean", lambda: nn.batch_normalization(ROWS, None, C, C, C, 0.1)),
        ("scale", lambda: nn.batch_normalization_backward(ROWS, ROWS, C, C, None, 0.1)),
        ("offset", lambda: nn.layer_normalization(ROWS, None, C, 0.1)),
        ("grad", lambda: nn.layer_normalization_backward(None, ROWS, C, 0.1)),
        ("x", lambda: nn.dropout(None, 0.5)),
        ("x", lambda: nn.dropout(None, 0.5, training=False)),
        ("grad", lambda: nn.dropout_backward(None, 0.5, 0)),
        ("logits", lambda: nn.softmax_cross_entropy([0, 1], None)),
        ("labels", lambda: nn.softmax_cross_entropy(None, ROWS)),
    ],
)  # fmt: skip
def test_none_is_no_array(name, call):
    with pytest.raises((TypeError, ValueError), match=f"^{name} "):
        call()


def test_numbers_of_more_than_64_bits_are_refused():
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is double here")
    with pytest.raises(TypeError, match=r"^x .*dtype (longdouble|float128)"):
        nn.relu(np.ones(3, np.longdouble))
