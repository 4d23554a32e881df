"""Wrong calls end in a TypeError or ValueError that names the argument and echoes what it got; nothing crashes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fastcnn import nn

BYTES_ALLOWED = 3 << 30
SECONDS_PER_CALL = 10


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


# One right call for every op; the wrong ones below change one argument of it.
RIGHT = {
    "activate": {"x": ones(2, 3), "activation": "relu"},
    "activate_backward": {"grad": ones(2, 3), "y": ones(2, 3), "activation": "relu", "second": ones(2, 3)},
    "add": {"x": ones(2, 3), "y": ones(2, 3)},
    "adam_step": {
        "params": [ones(2, 3)],
        "grads": [ones(2, 3)],
        "m": [ones(2, 3)],
        "v": [ones(2, 3)],
        "learning_rate": 0.1,
        "beta_1": 0.9,
        "beta_2": 0.99,
        "epsilon": 1e-7,
        "step": 1,
        "weight_decay": 0.0,
    },
    "avg_pool": {"input": ones(2, 4, 6, 3), "ksize": 2, "strides": None, "padding": "VALID"},
    "avg_pool_backward": {
        "grad": ones(2, 2, 3, 3),
        "input_shape": (2, 4, 6, 3),
        "ksize": 2,
        "strides": None,
        "padding": "VALID",
    },
    "batch_normalization": {
        "x": ones(2, 3),
        "mean": ones(3),
        "variance": ones(3),
        "offset": ones(3),
        "scale": ones(3),
        "variance_epsilon": 1e-3,
        "activation": None,
        "residual": ones(2, 3),
    },
    "batch_normalization_backward": {
        "grad": ones(2, 3),
        "x": ones(2, 3),
        "mean": ones(3),
        "variance": ones(3),
        "scale": ones(3),
        "variance_epsilon": 1e-3,
        "training": True,
        "offset": ones(3),
        "activation": "relu",
    },
    "PreparedConv2D": {
        "filters": ones(3, 2, 2, 6),
        "input_shape": (2, 5, 6, 4),
        "strides": 1,
        "padding": "VALID",
        "dilations": 1,
        "groups": 2,
        "bias": ones(6),
        "activation": None,
        "algorithm": "auto",
    },
    "bias_add": {"x": ones(2, 3), "bias": ones(3), "activation": None},
    "bias_add_backward": {"grad": ones(2, 3)},
    "class_probabilities": {"labels": np.array([0, 2]), "logits": ones(2, 3), "label_smoothing": 0.0},
    "conv2d": {
        "input": ones(2, 5, 6, 4),
        "filters": ones(3, 2, 2, 6),
        "strides": 1,
        "padding": "VALID",
        "dilations": 1,
        "groups": 2,
        "bias": ones(6),
        "activation": None,
        "algorithm": "auto",
        "residual": ones(2, 3, 5, 6),
    },
    "conv2d_backward": {
        "grad": ones(2, 3, 5, 6),
        "input": ones(2, 5, 6, 4),
        "filters": ones(3, 2, 2, 6),
        "strides": 1,
        "padding": "VALID",
        "dilations": 1,
        "groups": 2,
    },
    "conv2d_backward_filters": {
        "grad": ones(2, 3, 5, 6),
        "input": ones(2, 5, 6, 4),
        "filters_shape": (3, 2, 2, 6),
        "strides": 1,
        "padding": "VALID",
        "dilations": 1,
        "groups": 2,
    },
    "conv2d_backward_input": {
        "grad": ones(2, 3, 5, 6),
        "filters": ones(3, 2, 2, 6),
        "input_shape": (2, 5, 6, 4),
        "strides": 1,
        "padding": "VALID",
        "dilations": 1,
        "groups": 2,
    },
    "conv2d_max_pool_with_argmax_backward": {
        "grad": ones(2, 1, 2, 6),
        "output": ones(2, 1, 2, 6),
        "argmax": np.ones((2, 1, 2, 6), np.uint8),
        "input": ones(2, 5, 6, 4),
        "filters": ones(3, 2, 4, 6),
        "strides": 1,
        "padding": "VALID",
        "dilations": 1,
        "groups": 1,
        "activation": "relu",
        "algorithm": "auto",
    },
    "conv2d_max_pool_with_argmax": {
        "input": ones(2, 5, 6, 4),
        "filters": ones(3, 2, 4, 6),
        "strides": 1,
        "padding": "VALID",
        "dilations": 1,
        "groups": 1,
        "bias": ones(6),
        "activation": None,
        "algorithm": "auto",
    },
    "conv2d_transpose": {
        "input": ones(2, 3, 4, 6),
        "filters": ones(3, 2, 4, 6),
        "strides": 2,
        "padding": "VALID",
        "output_padding": (1, 0),
        "dilations": 1,
        "bias": ones(4),
        "activation": None,
        "algorithm": "auto",
    },
    "conv2d_transpose_backward": {
        "grad": ones(2, 8, 8, 4),
        "input": ones(2, 3, 4, 6),
        "filters": ones(3, 2, 4, 6),
        "strides": 2,
        "padding": "VALID",
        "output_padding": (1, 0),
        "dilations": 1,
    },
    "dense": {"x": ones(2, 3), "kernel": ones(3, 4), "bias": ones(4), "activation": None},
    "dense_backward": {"grad": ones(2, 4), "x": ones(2, 3), "kernel": ones(3, 4)},
    "dropout": {"x": ones(2, 3), "rate": 0.5, "training": True, "seed": 1},
    "dropout_backward": {"grad": ones(2, 3), "rate": 0.5, "seed": 1},
    "gelu": {"x": ones(2, 3), "approximate": False},
    "gelu_backward": {"grad": ones(2, 3), "x": ones(2, 3), "approximate": False},
    "hard_sigmoid": {"x": ones(2, 3)},
    "hard_sigmoid_backward": {"grad": ones(2, 3), "y": ones(2, 3)},
    "hard_swish": {"x": ones(2, 3)},
    "hard_swish_backward": {"grad": ones(2, 3), "x": ones(2, 3)},
    "layer_normalization": {"x": ones(2, 3), "offset": ones(3), "scale": ones(3), "variance_epsilon": 1e-3},
    "layer_normalization_backward": {
        "grad": ones(2, 3),
        "x": ones(2, 3),
        "scale": ones(3),
        "variance_epsilon": 1e-3,
    },
    "leaky_relu": {"x": ones(2, 3), "alpha": 0.1},
    "leaky_relu_backward": {"grad": ones(2, 3), "x": ones(2, 3), "alpha": 0.1},
    "log_softmax": {"x": ones(2, 3), "axis": -1},
    "log_softmax_backward": {"grad": ones(2, 3), "y": ones(2, 3), "axis": -1},
    "matmul": {"a": ones(2, 3), "b": ones(3, 4), "transpose_a": False, "transpose_b": False},
    "matmul_backward": {
        "grad": ones(2, 4),
        "a": ones(2, 3),
        "b": ones(3, 4),
        "transpose_a": False,
        "transpose_b": False,
    },
    "max_pool": {"input": ones(2, 4, 6, 3), "ksize": 2, "strides": None, "padding": "VALID"},
    "max_pool_with_argmax": {"input": ones(2, 4, 6, 3), "ksize": 2, "strides": None, "padding": "VALID"},
    "max_pool_with_argmax_backward": {
        "grad": ones(2, 2, 3, 3),
        "argmax": np.ones((2, 2, 3, 3), np.uint8),
        "input_shape": (2, 4, 6, 3),
        "ksize": 2,
        "strides": None,
        "padding": "VALID",
    },
    "max_pool_backward": {
        "grad": ones(2, 2, 3, 3),
        "input": ones(2, 4, 6, 3),
        "ksize": 2,
        "strides": None,
        "padding": "VALID",
    },
    "moments": {"x": ones(2, 3)},
    "relu": {"x": ones(2, 3), "max_value": 6.0},
    "relu_backward": {"grad": ones(2, 3), "y": ones(2, 3), "max_value": 6.0},
    "sgd_step": {
        "params": [ones(2, 3)],
        "grads": [ones(2, 3)],
        "momenta": [ones(2, 3)],
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0,
    },
    "sigmoid": {"x": ones(2, 3)},
    "sigmoid_backward": {"grad": ones(2, 3), "y": ones(2, 3)},
    "silu": {"x": ones(2, 3)},
    "silu_backward": {"grad": ones(2, 3), "x": ones(2, 3)},
    "softmax": {"x": ones(2, 3), "axis": -1},
    "softmax_backward": {"grad": ones(2, 3), "y": ones(2, 3), "axis": -1},
    "softmax_cross_entropy": {"labels": np.array([0, 2]), "logits": ones(2, 3), "label_smoothing": 0.0},
    "tanh": {"x": ones(2, 3)},
    "tanh_backward": {"grad": ones(2, 3), "y": ones(2, 3)},
}
OPTIONAL = {
    ("activate_backward", "second"),
    ("batch_normalization", "residual"),
    ("conv2d", "bias"),
    ("conv2d", "residual"),
    ("conv2d_max_pool_with_argmax", "bias"),
    ("conv2d_transpose", "bias"),
    ("PreparedConv2D", "bias"),
    ("dense", "bias"),
}


def fresh(op: str, **changes):
    """The right call of an op with some arguments changed; arrays are copied, since steps write to them."""
    arguments = {**RIGHT[op], **changes}
    return {
        k: [a.copy() for a in v] if k in RIGHT[op] and v is RIGHT[op][k] and isinstance(v, list) else v
        for k, v in arguments.items()
    }


def with_argument(kind) -> list[tuple[str, str]]:
    return [(op, name) for op, right in RIGHT.items() for name, value in right.items() if kind(name, value)]


ARRAYS = with_argument(lambda name, value: isinstance(value, np.ndarray) and name != "labels")
LISTS = with_argument(lambda name, value: isinstance(value, list))
STEPS = with_argument(lambda name, value: name in ("strides", "dilations", "ksize"))
PADDINGS = with_argument(lambda name, value: name == "padding")
GROUPS = with_argument(lambda name, value: name == "groups")
FLAGS = with_argument(lambda name, value: isinstance(value, bool))
AXES = with_argument(lambda name, value: name == "axis")
SHAPES = with_argument(lambda name, value: name in ("input_shape", "filters_shape"))
ACTIVATIONS = with_argument(lambda name, value: name == "activation")
NUMBERS = with_argument(lambda name, value: isinstance(value, float))
SEEDS = with_argument(lambda name, value: name == "seed")


def refused(op: str, name: str, bad, error, echo: str | None = None) -> str:
    """Call the op with one wrong argument; check the error, and return its text."""
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(nn, op)(**fresh(op, **{name: bad}))
    text = str(caught.value)
    assert caught.type in (error if isinstance(error, tuple) else (error,)), text
    assert re.search(rf"\b{name}\b", text), f"{name} is not named: {text}"
    if echo is not None:
        assert echo in text, f"{echo} is not echoed: {text}"
    return text


def test_the_table_has_every_op():
    assert set(RIGHT) == set(nn.__all__) - {"ACTIVATIONS", "BACK_FROM_ARGUMENT"}


@pytest.mark.parametrize("op", RIGHT)
def test_the_right_call_is_right(op):
    getattr(nn, op)(**fresh(op))


# ---- operands ----


@pytest.mark.parametrize(
    ("bad", "echo"),
    [
        (np.ones((2, 3), np.complex64), "complex64"),
        (np.ones((2, 3), np.longdouble), str(np.dtype(np.longdouble))),
        (np.array([[1, None, 2]]), "object"),
        (np.array(["a", "b"]), "<U1"),
        (np.zeros(3, "M8[D]"), "datetime64[D]"),
        (np.zeros(3, "f4,f4"), "f0"),
        ("text", "<U4"),
        (b"text", "S4"),
        ({1: 2}, "object"),
        ([2**70], "object"),
        (lambda: 0, "object"),
        (np.ma.masked_array([1.0, 2.0], mask=[0, 1]), "masked"),
    ],
    ids=[
        "complex",
        "longdouble",
        "object",
        "str",
        "date",
        "record",
        "text",
        "bytes",
        "dict",
        "huge",
        "function",
        "masked",
    ],
)
@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_operands_hold_real_numbers(op, name, bad, echo):
    if np.dtype(np.longdouble).itemsize <= 8 and "longdouble" in str(getattr(bad, "dtype", "")):
        pytest.skip("long double is double here")
    refused(op, name, bad, TypeError, echo)


@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_operands_are_not_ragged(op, name):
    refused(op, name, [[1.0, 2.0], [3.0]], (ValueError, TypeError))


def refuse_none() -> list[str]:
    """Call every op with None for each operand in turn; return what it did not refuse well."""
    wrong = []
    for op, name in [*ARRAYS, ("softmax_cross_entropy", "labels"), ("class_probabilities", "labels")]:
        print(f"{op} with {name}=None", flush=True)
        try:
            getattr(nn, op)(**fresh(op, **{name: None}))
        except (TypeError, ValueError) as error:
            if not re.search(rf"\b{name}\b", str(error)):
                wrong.append(f"{op}: {name} is not named: {error}")
        except Exception as error:
            wrong.append(f"{op}({name}=None): {error!r}")
        else:
            if (op, name) not in OPTIONAL:
                wrong.append(f"{op} takes None for {name}")
    return wrong


def test_none_is_no_operand():
    # In a process of its own: None must not reach the kernels.
    run = survive("assert test_errors.refuse_none() == [], test_errors.refuse_none()")
    assert run.returncode == 0, f"status {run.returncode} at {run.stdout.splitlines()[-1:]}: {run.stderr[-6000:]}"


@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_operands_too_large_for_any_memory_are_refused(op, name):
    # Without memory of their own, so that the arrays themselves can exist.
    ndim = RIGHT[op][name].ndim
    for shape in ((2**40,) + (2**3,) * (ndim - 1), (2**45,) + (2**5,) * (ndim - 1), (2**60,)):
        huge = np.broadcast_to(np.float32(1), shape)
        with pytest.raises((ValueError, MemoryError)):
            getattr(nn, op)(**fresh(op, **{name: huge}))


@pytest.mark.parametrize(
    ("op", "name", "bad"),
    [
        (op, name, shape)
        for op, name in ARRAYS
        for shape in ((), (1,), (2,), (2, 2), (7, 3), (3, 7), (2, 4, 6), (1, 2, 3, 7), (2, 2, 3, 1, 1), (0, 5))
        if (op, name)
        not in {  # one operand of any shape
            *((o, "x") for o in ("activate", "relu", "sigmoid", "tanh", "softmax", "log_softmax", "leaky_relu")),
            *((o, "x") for o in ("gelu", "hard_sigmoid", "hard_swish", "silu")),
            ("dropout", "x"),
            ("dropout_backward", "grad"),
            ("moments", "x"),
            ("bias_add_backward", "grad"),
        }
        and shape != RIGHT[op][name].shape
    ],
)
def test_operands_of_other_shapes_are_refused(op, name, bad):
    right = RIGHT[op][name].shape
    if (
        op in ("dense", "bias_add", "batch_normalization", "layer_normalization")
        and name == "x"
        and bad
        and bad[-1] == right[-1]
    ):
        pytest.skip("any number of leading axes is right")
    if op == "dense" and name == "kernel" and len(bad) == 2 and bad[0] == right[0]:
        pytest.skip("units of another number: the bias is wrong, not the kernel")
    if op == "matmul" and len(bad) == 2 and (bad[1] == 3 if name == "a" else bad[0] == 3):
        pytest.skip("fits")
    if op in ("max_pool", "max_pool_with_argmax", "avg_pool") and len(bad) == 4:
        pytest.skip("fits")
    refused_somewhere(op, name, np.ones(bad, np.uint8 if name == "argmax" else np.float32))


def refused_somewhere(op: str, name: str, bad) -> None:
    """As refused, but of two operands that do not fit each other either may be named."""
    with pytest.raises(ValueError, match=r"got .*[\d)]|of input \(|input of shape") as caught:
        getattr(nn, op)(**fresh(op, **{name: bad}))
    names = [n for n, v in RIGHT[op].items() if isinstance(v, np.ndarray | tuple)]
    pattern = rf"\b({'|'.join(names)})(_shape)?\b".replace("_shape|", "|")
    assert re.search(pattern, str(caught.value)), f"no operand is named: {caught.value}"


@pytest.mark.parametrize(
    ("op", "name", "shape"),
    [
        ("conv2d", "input", (2, 0, 6, 4)),
        ("conv2d", "input", (2, 5, 0, 4)),
        ("conv2d", "input", (2, 5, 6, 0)),
        ("conv2d", "filters", (0, 2, 2, 6)),
        ("conv2d", "filters", (3, 0, 2, 6)),
        ("conv2d", "filters", (3, 2, 0, 6)),
        ("conv2d", "filters", (3, 2, 2, 0)),
        ("max_pool", "input", (2, 0, 6, 3)),
        ("avg_pool", "input", (2, 4, 6, 0)),
        ("conv2d_transpose", "input", (2, 0, 4, 6)),
        ("conv2d_transpose", "filters", (3, 0, 4, 6)),
        ("moments", "x", (0, 3)),
        ("moments", "x", (3, 0)),
        ("moments", "x", ()),
        ("softmax_cross_entropy", "logits", (2, 0)),
        ("softmax_cross_entropy", "logits", ()),
        ("bias_add_backward", "grad", ()),
    ],
)
def test_sizes_of_zero_are_refused(op, name, shape):
    refused(op, name, np.ones(shape, np.float32), ValueError, str(shape))


@pytest.mark.parametrize(("channels", "filters", "size"), [(1, 1, 1), (8, 64, 3), (64, 8, 3), (8, 64, 1)])
@pytest.mark.parametrize("groups", [1, "depthwise"])
def test_an_empty_batch_is_no_error(channels, filters, size, groups):
    if groups == "depthwise":
        groups, filters = channels, channels
    assert_survives(
        f"x, w = np.ones((0, 4, 5, {channels}), 'f4'), "
        f"np.ones(({size}, {size}, {channels // groups}, {filters}), 'f4')\n"
        "for padding in ('same', 'valid'):\n"
        f"    y = nn.conv2d(x, w, padding=padding, groups={groups}, bias=np.ones({filters}, 'f4'))\n"
        f"    dx, dw, db = nn.conv2d_backward(y, x, w, padding=padding, groups={groups})\n"
        f"    assert len(y) == len(dx) == 0 and dw.shape == w.shape\n"
        f"    assert not dw.any() and not db.any()\n"
        "    nn.conv2d_backward(nn.conv2d(x, w, 2, padding, groups=%d), x, w, 2, padding, groups=%d)\n"
        % (groups, groups)
    )


def test_empty_arrays_are_no_error():
    for op in ("relu", "sigmoid", "tanh", "softmax", "log_softmax", "leaky_relu"):
        for shape in ((0,), (0, 3), (3, 0), (0, 0)):
            assert getattr(nn, op)(np.ones(shape)).shape == shape
    assert nn.dropout(np.ones((0, 3)), 0.5).shape == (0, 3)
    assert nn.bias_add(ones(0, 3), ones(3)).shape == (0, 3)
    assert nn.bias_add_backward(ones(0, 3)).tolist() == [0, 0, 0]
    assert nn.batch_normalization(ones(0, 3), *[ones(3)] * 4, 0.1).shape == (0, 3)
    assert nn.dense(ones(0, 3), ones(3, 4), ones(4)).shape == (0, 4)
    for m in (1, 2, 200):
        assert nn.matmul(ones(m, 0), ones(0, 4)).tolist() == [[0, 0, 0, 0]] * m
        assert nn.matmul(ones(m, 0), ones(4, 0), transpose_b=True).tolist() == [[0, 0, 0, 0]] * m
        assert nn.matmul(ones(m, 3), ones(3, 0)).shape == (m, 0)
        assert nn.dense(ones(m, 0), ones(0, 2), [1.0, -1.0], "relu").tolist() == [[1, 0]] * m
    for pool in (nn.max_pool, nn.avg_pool):
        assert pool(ones(0, 4, 4, 3), 2).shape == (0, 2, 2, 3)
    assert nn.max_pool_backward(ones(0, 2, 2, 3), ones(0, 4, 4, 3), 2).shape == (0, 4, 4, 3)
    losses, dlogits = nn.softmax_cross_entropy(np.zeros(0, int), ones(0, 3))
    assert losses.shape == (0,) and dlogits.shape == (0, 3)


# ---- spatial arguments ----

NOT_INTEGERS = [1.0, 2.5, True, False, "2", b"2", "same!", 1j, {1: 2}, {1, 2}, (1, 2.0), (True, 1), (1, None), [1, "a"]]
NO_STEPS = [0, -1, (0, 1), (1, -1), [], (1, 2, 3), (1, 2, 3, 4, 5), (2, 2, 2, 1), 2**62, 2**64, (1, 2**62), 10**30]


def shown(value) -> str:
    """What of a value must be in the message; of a list it may be the wrong entry alone, or a tuple."""
    return "" if isinstance(value, (list, tuple)) else repr(value)


def test_an_integer_of_thousands_of_digits_is_told_by_its_size():
    with pytest.raises(ValueError, match=r"strides must be .* from 1 to 2\*\*47, got an integer of 16610 bits"):
        nn.max_pool(ones(1, 4, 4, 1), 2, 10**5000)


def test_words_may_be_of_numpys_type():
    x = ones(1, 4, 4, 1)
    assert nn.max_pool(x, 3, 1, np.str_("same")).shape == x.shape


@pytest.mark.parametrize("bad", NOT_INTEGERS, ids=repr)
@pytest.mark.parametrize(("op", "name"), [*STEPS, *PADDINGS, *GROUPS])
def test_spatial_arguments_are_made_of_integers(op, name, bad):
    error = (TypeError, ValueError) if isinstance(bad, str) else TypeError
    refused(op, name, bad, error, shown(bad))


@pytest.mark.parametrize("bad", NO_STEPS, ids=repr)
@pytest.mark.parametrize(("op", "name"), STEPS)
def test_steps_are_one_or_two_positive_numbers(op, name, bad):
    refused(op, name, bad, ValueError, shown(bad))


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, name in STEPS if name != "strides" or "pool" not in op])
def test_none_is_no_step(op, name):
    refused(op, name, None, TypeError, "None")


@pytest.mark.parametrize("bad", [[[1, 2], [3, 4]], [(1,)], ((1, 2), 3), np.ones((2, 2), int)], ids=repr)
@pytest.mark.parametrize(("op", "name"), [*STEPS, *GROUPS])
def test_steps_are_not_nested(op, name, bad):
    refused(op, name, bad, (TypeError, ValueError))


@pytest.mark.parametrize(
    "bad",
    [
        -1,
        (1, -1),
        ((0, 0), (0, -1)),
        ((1, 1), (0, 0), (0, 0), (0, 0)),
        ((0, 0), (0, 0), (0, 0), (1, 1)),
        [],
        (1, 2, 3),
        ((1, 2, 3), (0, 0)),
        ((0, 0), (1,)),
        (((1, 1), (1, 1)), 0),
        "SOME",
        "",
        2**62,
        2**64,
        10**30,
        ((0, 0), (0, 2**62)),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("op", "name"), PADDINGS)
def test_paddings_are_words_or_numbers_of_pixels(op, name, bad):
    refused(op, name, bad, (TypeError, ValueError), shown(bad) if bad else None)


@pytest.mark.parametrize("op", ["conv2d", "max_pool"])
def test_none_is_no_padding(op):
    refused(op, "padding", None, TypeError, "None")


@pytest.mark.parametrize("op", [op for op, _ in PADDINGS if "pool" in op and "conv" not in op])
def test_pool_padding_is_smaller_than_the_window(op):
    refused(op, "padding", 2, ValueError, "2")
    refused(op, "padding", ((0, 2), (0, 0)), ValueError, "((0, 2), (0, 0))")


@pytest.mark.parametrize("bad", [0, -2, 3, 4, 8, 2**31, 2**62, 10**30], ids=repr)
@pytest.mark.parametrize(("op", "name"), GROUPS)
def test_groups_divide_the_channels(op, name, bad):
    refused(op, name, bad, ValueError, repr(bad))


@pytest.mark.parametrize("op", [op for op, _ in GROUPS])
@pytest.mark.parametrize(("name", "bad"), [("dilations", 3), ("dilations", (1, 2**31)), ("dilations", 2**40)])
def test_filters_fit_into_the_image(op, name, bad):
    refused(op, name, bad, ValueError, repr(bad))


@pytest.mark.parametrize("op", [op for op, name in STEPS if name == "ksize"])
@pytest.mark.parametrize("bad", [5, (1, 7), 2**31, 2**40], ids=repr)
def test_windows_fit_into_the_image(op, bad):
    refused(op, "ksize", bad, ValueError, repr(bad))


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (None, (TypeError, ValueError)),
        (5, (TypeError, ValueError)),
        ("abcd", (TypeError, ValueError)),
        ((1, 2, 3), ValueError),
        ((1, 2, 3, 4, 5), ValueError),
        ((2, 5, 6, -4), ValueError),
        ((2.0, 5, 6, 4), TypeError),
        ((2, 5, True, 4), TypeError),
        ((None, 5, 6, 4), TypeError),
        ((2, 5, 6, "4"), TypeError),
        ((2, 5, 6, 2**62), ValueError),
        (((2, 5), 6, 4, 1), TypeError),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("op", "name"), SHAPES)
def test_shapes_are_four_sizes(op, name, bad, error):
    refused(op, name, bad, error, shown(bad))


@pytest.mark.parametrize(("op", "name"), SHAPES)
def test_an_array_in_place_of_a_shape_is_shown_by_its_type_and_shape(op, name):
    text = refused(op, name, np.zeros((3, 3, 2, 4)), ValueError)
    assert text.endswith(", got an array of float64 of shape (3, 3, 2, 4)"), text


def test_a_list_that_holds_itself_is_refused():
    loop: list = []
    loop.append(loop)
    for name in ("strides", "padding", "dilations", "groups"):
        with pytest.raises((TypeError, ValueError), match=name):
            nn.conv2d(**fresh("conv2d", **{name: loop}))


# ---- words, numbers, axes, flags, labels ----


@pytest.mark.parametrize("bad", ["mish", "ReLU", "", 1, True, b"relu", ["relu"], np.array(["relu", "tanh"]), len])
@pytest.mark.parametrize(("op", "name"), [*ACTIVATIONS, ("conv2d", "algorithm")])
def test_words_are_known(op, name, bad):
    refused(op, name, bad, (TypeError, ValueError), repr(bad))


def test_none_is_no_algorithm():
    refused("conv2d", "algorithm", None, (TypeError, ValueError), "None")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("0.5", TypeError),
        (None, TypeError),
        (True, TypeError),
        (1j, TypeError),
        ([0.5], TypeError),
        (np.array([0.1, 0.2]), TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (float("-inf"), ValueError),
        (10**400, (TypeError, ValueError)),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("op", "name"), NUMBERS)
def test_numbers_are_finite_real_numbers(op, name, bad, error):
    if name == "max_value" and bad is None:
        pytest.skip("no maximum")
    refused(op, name, bad, error, repr(bad)[:15])


@pytest.mark.parametrize(
    ("op", "name", "bad"),
    [
        *((op, "rate", bad) for op in ("dropout", "dropout_backward") for bad in (1.0, -0.1, 1.5)),
        *((op, "variance_epsilon", -1e-3) for op in ("batch_normalization", "batch_normalization_backward")),
        *((op, "variance_epsilon", 0.0) for op in ("layer_normalization", "layer_normalization_backward")),
        ("softmax_cross_entropy", "label_smoothing", -0.1),
        ("softmax_cross_entropy", "label_smoothing", 1.1),
        *((op, "learning_rate", -0.1) for op in ("sgd_step", "adam_step")),
        *((op, "weight_decay", -0.1) for op in ("sgd_step", "adam_step")),
        ("sgd_step", "momentum", -0.1),
        ("sgd_step", "momentum", 1.1),
        *(("adam_step", name, bad) for name in ("beta_1", "beta_2") for bad in (-0.1, 1.0)),
        ("adam_step", "epsilon", 0.0),
        ("adam_step", "epsilon", -1e-7),
        ("adam_step", "step", 0),
        ("adam_step", "step", -1),
    ],
)
def test_numbers_are_in_their_range(op, name, bad):
    refused(op, name, bad, ValueError, repr(bad))


@pytest.mark.parametrize("bad", [1.0, "1", None, True], ids=repr)
def test_the_step_is_an_integer(bad):
    refused("adam_step", "step", bad, TypeError, repr(bad))


@pytest.mark.parametrize(
    ("bad", "error"),
    [(-1, ValueError), (2**64, ValueError), (1.0, TypeError), ("1", TypeError), (True, TypeError), ([1], TypeError)],
    ids=repr,
)
@pytest.mark.parametrize(("op", "name"), SEEDS)
def test_seeds_are_64_bit_integers(op, name, bad, error):
    refused(op, name, bad, error, repr(bad))


def test_a_gradient_of_dropout_needs_its_seed():
    refused("dropout_backward", "seed", None, TypeError, "None")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (2, ValueError),
        (-3, ValueError),
        (2**70, ValueError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
        ((0, 1), TypeError),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("op", "name"), AXES)
def test_axes_exist(op, name, bad, error):
    refused(op, name, bad, error, repr(bad))


@pytest.mark.parametrize(("op", "name"), AXES)
def test_a_scalar_has_no_axis(op, name):
    arguments = {k: np.float32(1) if isinstance(v, np.ndarray) else v for k, v in RIGHT[op].items()}
    with pytest.raises(ValueError, match=r"axis|axes"):
        getattr(nn, op)(**arguments)


@pytest.mark.parametrize("op", ["batch_normalization", "batch_normalization_backward"])
def test_variances_are_not_negative(op):
    refused(op, "variance", np.float32([1, -2, 1]), ValueError, "-2.0")
    with pytest.raises(ValueError, match="variance"):
        getattr(nn, op)(**fresh(op, variance=np.zeros(3, np.float32), variance_epsilon=0.0))


@pytest.mark.parametrize(
    ("bad", "error", "echo"),
    [
        ([0, 3], ValueError, "3"),
        ([-1, 0], ValueError, "-1"),
        (np.array([0, 2**64 - 1], np.uint64), ValueError, str(2**64 - 1)),
        ([0], ValueError, "(1,)"),
        ([[0, 1]], ValueError, "(1, 2)"),
        ([0.0, 1.0], TypeError, "float64"),
        ([True, False], TypeError, "bool"),
        (np.ones((2, 3), complex), TypeError, "complex128"),
        (np.ones((2, 3), np.longdouble), TypeError, str(np.dtype(np.longdouble))),
        (np.ones((2, 4)), (TypeError, ValueError), "(2, 4)"),
        ("ab", TypeError, "<U2"),
        (["a", "b"], TypeError, "<U1"),
        ([[0], [1, 2]], ValueError, None),
        (np.array([0, None]), TypeError, "object"),
        (np.broadcast_to(0, (2**40,)), ValueError, str(2**40)),
        (np.broadcast_to(0.5, (2**40, 3)), (TypeError, ValueError), str(2**40)),
    ],
    ids=lambda v: str(getattr(v, "dtype", v))[:30],
)
@pytest.mark.parametrize("op", ["class_probabilities", "softmax_cross_entropy"])
def test_labels_are_classes_or_probabilities(op, bad, error, echo):
    refused(op, "labels", bad, error, echo)


@pytest.mark.parametrize(
    ("op", "name"),
    [*with_argument(lambda name, value: isinstance(value, bool)), ("conv2d_backward", "input_grad")],
)
def test_a_flag_is_not_an_array(op, name):
    with pytest.raises((TypeError, ValueError)):
        getattr(nn, op)(**fresh(op, **{name: np.array([True, False])}))


# ---- optimiser steps ----


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (None, (TypeError, ValueError)),
        (5, TypeError),
        ([None], TypeError),
        ([1.0], TypeError),
        ([[[1.0] * 3] * 2], TypeError),
        ([np.ones((2, 3))], TypeError),
        ([np.ones((2, 3), np.int32)], TypeError),
        ([np.ones((2, 3), np.float16)], TypeError),
        ([ones(3, 2).T], TypeError),
        ([ones(2, 6)[:, ::2]], TypeError),
        ([np.ones((2, 3), ">f4")], TypeError),
        ([np.broadcast_to(np.float32(1), (2, 3))], TypeError),
        ([np.broadcast_to(np.float32(1), (2**40, 3))], (TypeError, ValueError)),
        ([ones(3, 2)], ValueError),
        ([ones(6)], ValueError),
        ([], ValueError),
        ([ones(2, 3), ones(2, 3)], ValueError),
    ],
)
@pytest.mark.parametrize(("op", "name"), LISTS)
def test_steps_take_lists_of_plain_arrays(op, name, bad, error):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(nn, op)(**fresh(op, **{name: bad}))
    text = str(caught.value)
    assert caught.type in (error if isinstance(error, tuple) else (error, *[ValueError, TypeError][: name == "params"]))
    # A wrong list of parameters may be noticed as one that the others do not fit.
    assert re.search(name if name != "params" else "|".join(n for o, n in LISTS if o == op), text), text


@pytest.mark.parametrize(("op", "name"), LISTS)
def test_steps_write_only_where_they_may(op, name):
    locked = ones(2, 3)
    locked.flags.writeable = False
    if name == "grads":
        getattr(nn, op)(**fresh(op, grads=[locked]))
    else:
        refused(op, name, [locked], ValueError)
    assert (locked == 1).all()


def test_a_refused_step_changes_nothing():
    for op in ("sgd_step", "adam_step"):
        arguments = fresh(op, params=[ones(2), ones(3)], grads=[ones(2), ones(4)])
        for name in ("momenta", "m", "v"):
            if name in arguments:
                arguments[name] = [ones(2), ones(3)]
        with pytest.raises(ValueError, match=r"grads\[1\]"):
            getattr(nn, op)(**arguments)
        assert (arguments["params"][0] == 1).all()


# ---- extreme geometry: small arrays whose arithmetic could overflow, hang or eat all memory ----


def survive(code: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    prelude = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import numpy as np, test_errors\nfrom fastcnn import nn\nfrom test_errors import ones\n"
        "test_errors.limit_memory()\n"
    )
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", prelude + code],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def assert_survives(code: str) -> None:
    run = survive(code)
    if run.returncode < 0:
        pytest.fail(f"{signal.Signals(-run.returncode).name} in\n{code}\n{run.stderr[:1500]}", pytrace=False)
    assert run.returncode == 0, f"{code}\n{run.stderr[-1500:]}"


def limit_memory() -> None:
    """Let no call of this process take the machine's memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (BYTES_ALLOWED, BYTES_ALLOWED))


EXTREME = [
    # Division by a product of strides that is zero modulo 2**64.
    "nn.conv2d_backward_filters(ones(1, 1, 1, 1), ones(1, 1, 1, 1), (1, 1, 1, 1), strides=(2**31 - 1, 2**31 + 1))",
    "nn.conv2d_backward_filters(ones(1, 1, 1, 1), ones(1, 1, 1, 1), (1, 1, 1, 1), strides=2**32)",
    "nn.conv2d_backward_filters(ones(1, 1, 1, 1), ones(1, 1, 1, 1), (1, 1, 1, 1), strides=2**46)",
    # One pass for each phase of the strides.
    "nn.conv2d_backward_input(ones(1, 1, 1, 1), ones(1, 1, 1, 1), (1, 1, 1, 1), strides=2**31)",
    "nn.conv2d_backward_input(ones(1, 1, 1, 1), ones(1, 1, 1, 1), (1, 1, 1, 1), strides=(2**40, 1))",
    "nn.conv2d_backward_input(ones(1, 3, 1, 1), ones(1, 1, 1, 1), (1, 1, 1, 1), (2**40, 1), (2**40, 0))",
    "nn.conv2d_backward_input(ones(1, 1, 1, 1), ones(2, 1, 1, 1), (1, 9, 1, 1), strides=(2**40, 1), dilations=(7, 1))",
    # A table of taps for a window far larger than the image.
    "nn.avg_pool(ones(1, 100, 100, 1), 2**40, 2**40, 2**39)",
    "nn.max_pool(ones(1, 300, 300, 1), 2**30, 2**30, 2**29)",
    "nn.max_pool(ones(1, 100, 100, 1), 2**32, 2**32, 2**31)",
    "nn.max_pool(ones(1, 300, 300, 1), (2**31, 2**30), (2**31, 2**30), (2**30, 2**29))",
    "nn.max_pool_backward(ones(1, 1, 1, 1), ones(1, 300, 300, 1), 2**32, 2**32, 2**31)",
    "nn.avg_pool_backward(ones(1, 1, 1, 1), (1, 300, 300, 1), 2**32, 2**32, 2**31)",
    "nn.max_pool(ones(1, 3, 3, 1), 2**46, 2**46, 2**46 - 1)",
    "nn.avg_pool(ones(1, 3, 3, 1), 2**20, 2**20, 2**19)",
    # Padding, dilations and strides beyond any memory.
    "nn.conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1), padding=2**40)",
    "nn.conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1), padding=(2**40, 0))",
    "nn.conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1), padding=2**40, strides=2**40)",
    "nn.conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1), padding=(2**40, 0), strides=(2**40, 1))",
    "nn.conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1), padding=((0, 2**46), (0, 0)), strides=(2**46, 1))",
    "nn.conv2d(ones(1, 1, 1, 1), ones(2, 1, 1, 1), padding=(2**40, 0), strides=(2**40, 1), dilations=(2**40, 1))",
    "nn.conv2d(ones(1, 1, 1, 1), ones(1, 2, 1, 1), padding=((0, 0), (0, 2**45)), dilations=(1, 2**45))",
    "nn.conv2d(ones(1, 1, 1, 1), ones(2, 2, 1, 1), padding=2**22, strides=2**22, dilations=2**22)",
    "nn.conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1), strides=2**46)",
    "nn.conv2d_backward_filters(ones(1, 3, 3, 1), ones(1, 1, 1, 1), (1, 1, 1, 1), strides=2**22, padding=2**22)",
    "nn.conv2d_backward_filters(ones(1, 1, 1, 1), ones(1, 1, 1, 1), (1, 2, 1, 1), 1, ((0, 0), (0, 2**45)), (1, 2**45))",
    "nn.conv2d_backward_input(ones(1, 1, 1, 1), ones(1, 2, 1, 1), (1, 1, 1, 1), 1, ((0, 0), (0, 2**45)), (1, 2**45))",
    "nn.conv2d_backward_input(ones(0, 1, 1, 1), ones(1, 1, 1, 1), (0, 2**46, 2**46, 1))",
    "nn.conv2d_transpose(ones(1, 1, 1, 1), ones(1, 1, 1, 1), strides=2**40)",
    "nn.conv2d_transpose(ones(1, 1, 1, 1), ones(2, 2, 1, 1), dilations=(2**46, 1), padding=((2**45, 2**45), (0, 0)))",
    "nn.conv2d_transpose(ones(1, 3, 1, 1), ones(1, 1, 1, 1), (2**40, 1), ((2**40, 2**40), (0, 0)))",
    "nn.conv2d_transpose_backward(ones(1, 1, 1, 1), ones(1, 3, 1, 1), ones(1, 1, 1, 1), (2**40, 1), (2**40, 0))",
]


@pytest.mark.parametrize("call", EXTREME)
def test_extreme_geometry_neither_crashes_nor_hangs(call):
    assert_survives(
        f"import signal\nsignal.alarm({SECONDS_PER_CALL})\n"
        f"try:\n    {call}\nexcept (ValueError, MemoryError) as error:\n    assert str(error)\n"
    )


@pytest.mark.parametrize("bad", ["yes", 1, 0, None, 1.0, np.array([True, False])], ids=repr)
@pytest.mark.parametrize(("op", "name"), FLAGS)
def test_flags_are_true_or_false(op, name, bad):
    refused(op, name, bad, TypeError, "array" if isinstance(bad, np.ndarray) else repr(bad))


@pytest.mark.parametrize("bad", [-0.25, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("op", ["softmax_cross_entropy", "class_probabilities"])
def test_probabilities_of_labels_are_in_0_1(op, bad):
    refused(op, "labels", np.array([[0.5, 0.5, 0], [0, bad, 0]]), ValueError, str(bad))


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ("nn.conv2d(I, F, padding=2**20)", ["padding=1048576", "(1, 2097153, 2097153, 1)"]),
        ("nn.max_pool(np.broadcast_to(I, (2**45, 1, 1, 1)), 1)", ["input", "35184372088832"]),
        ("nn.conv2d_backward_input(nn.conv2d(I, F), F, (1, 2**22, 2**23, 1), (2**22, 2**23))", ["input_shape"]),
        ("nn.avg_pool_backward(I, (1, 2**22, 2**23, 1), (2**22, 2**23))", ["input_shape", "4194304"]),
        ("nn.matmul(np.ones((2**20, 1)), np.ones((1, 2**26)))", ["a=(1048576, 1)", "b=(1, 67108864)"]),
        ("nn.matmul(np.ones((2**30, 0)), np.ones((0, 2**30)))", ["the product of a and b", "1073741824"]),
        ("nn.dense(np.ones((2**20, 1)), np.ones((1, 2**26)))", ["x=(1048576, 1)", "kernel=(1, 67108864)"]),
        ("nn.matmul(np.broadcast_to(np.ones(1), (2**23, 2**23)), np.ones((2**23, 1)))", ["a copy of a", "8388608"]),
        ("nn.conv2d(I[:0], F, padding=2**40)", ["padded input", "(0, 2199023255553, 2199023255553, 1)"]),
        ("nn.conv2d_transpose(I4[:0], F, strides=2**47)", ["(0, 562949953421312, 562949953421312, 1)"]),
        ("nn.conv2d_backward_filters(I[:0], I[:0], (1, 1, 1, 2**47))", ["grad"]),
        ("nn.conv2d_transpose(I, F, strides=2**20)", ["input=(1, 1, 1, 1)", "strides=1048576"]),
        ("fastcnn.layers.UpSampling2D(2**20)(I)", ["size=(1048576, 1048576)", "(1, 1, 1, 1)"]),
        ("fastcnn.layers.UpSampling2D(2**20, 'bilinear')(I)", ["size=(1048576, 1048576)", "(1, 1, 1, 1)"]),
        ("fastcnn.layers.Conv2D(2**40, 3)(I4)", ["kernel", "1099511627776"]),
        ("fastcnn.layers.ZeroPadding2D(2**21)(I)", ["padding", "2097152"]),
    ],
)
def test_a_result_that_finds_no_memory_names_the_argument(call, names):
    assert_survives(
        "import fastcnn, fastcnn.layers\n"
        "I, F, I4 = np.ones((1, 1, 1, 1), 'f4'), np.ones((1, 1, 1, 1), 'f4'), np.ones((1, 4, 4, 1), 'f4')\n"
        f"try:\n    {call}\nexcept (ValueError, MemoryError) as error:\n    text = str(error)\n"
        f"assert all(name in text for name in {names}), text\n"
    )


# ---- junk ----

NUMBERS_OF_ALL_SORTS = [0, 1, 2, 3, -1, 7, 2**20, 2**31, 2**32 - 1, 2**40, 2**46, 2**47, 2**62, 2**63, 2**64, 10**30]
JUNK = [
    *NUMBERS_OF_ALL_SORTS,
    *(0.0, 0.5, 1.0, -1.0, 1e300, 1e-300, float("nan"), float("inf"), 1j, True, False, None),
    *("same", "VALID", "relu", "softmax", "leaky_relu", "auto", "x", "", b"", b"x", object, len, {}, {1: 2}, set()),
    *((), [], (1,), (2, 1), [1, 2], (1, 2, 2, 1), ((0, 1), (1, 0)), [[0, 0], [1, 1], [1, 1], [0, 0]], (1, "a"), [None]),
    *(np.int64(2), np.int8(-1), np.uint64(2**63), np.float32(0.5), np.float16(1), np.bool_(True), np.array(2)),
    *((2, 4, 6, 3), (2, 5, 6, 4), (3, 2, 2, 6), (0, 1, 1, 1), (2**40, 1, 1, 1), (1, 2**46, 2**46, 1), (2, 3), (-1, 3)),
]


def junk_arrays() -> st.SearchStrategy[np.ndarray]:
    vectors = [(), (0,), (1,), (3,), (4,), (6,), (2, 3), (3, 4), (2, 4), (0, 3), (2, 0)]
    images = [(1, 1, 1, 1), (3, 2, 2, 6), (2, 5, 6, 4), (2, 3, 5, 6), (2, 4, 6, 3), (2, 2, 3, 3), (0, 5, 6, 4)]
    shapes = st.sampled_from([*vectors, *images, (2, 0, 6, 4), (1, 9, 9, 1), (1,) * 5])
    kinds = st.sampled_from(["f4", "f4", "f8", ">f4", "f2", "i4", "u8", "?", "c8", "O", "U3", "M8[s]", "g"])
    layouts = st.sampled_from(["plain", "plain", "fortran", "reversed", "broadcast", "read-only", "unaligned"])

    def make(shape, kind, layout):
        x = np.zeros(shape, kind)
        x[...] = 1
        if layout == "fortran":
            return np.asfortranarray(x)
        if layout == "reversed":
            return x[::-1] if x.ndim else x
        if layout == "broadcast":
            return np.broadcast_to(x, (2**40, *shape))
        if layout == "read-only":
            x.flags.writeable = False
        if layout == "unaligned" and x.dtype.kind in "fiu":
            raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype) if x.nbytes else x.ravel()
            return raw[: x.size].reshape(shape)
        return x

    return st.builds(make, shapes, kinds, layouts)


def junk() -> st.SearchStrategy:
    single = st.sampled_from(JUNK) | st.integers() | st.floats() | junk_arrays()
    return single | st.lists(st.sampled_from(JUNK) | junk_arrays(), max_size=4) | st.tuples(single, single)


@st.composite
def calls(draw, op: str):
    """The right call with one to three arguments replaced by junk."""
    names = list(RIGHT[op])
    changed = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return {name: draw(junk()) for name in changed}


def fuzz(examples: int, log: str, *ops: str) -> None:
    """Call every op with junk; the call in progress is in the file log, should the process die in it."""
    limit_memory()
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    for op in ops or RIGHT:
        fuzz_op(op, examples, file)


def fuzz_op(op: str, examples: int, file: int) -> None:
    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls(op))
    def one(changes):
        os.pwrite(file, f"nn.{op} with {changes}".encode()[:4000].ljust(4000), 0)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_CALL)
        try:
            getattr(nn, op)(**fresh(op, **changes))
        except (TypeError, ValueError) as error:
            assert str(error)
        except MemoryError:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    one()


@pytest.mark.parametrize("examples", [15, pytest.param(2000, marks=pytest.mark.slow)])
def test_junk_gives_a_clear_error_or_a_result(examples, tmp_path):
    log = tmp_path / "call"
    code = f"import warnings; warnings.simplefilter('ignore'); test_errors.fuzz({examples}, {str(log)!r})"
    run = survive(code, 3600)
    last = log.read_text().strip() if log.exists() else "before the first call"
    if run.returncode < 0:
        name = signal.Signals(-run.returncode).name
        pytest.fail(f"{name} at {last}\n{run.stderr[:1500]}", pytrace=False)
    assert run.returncode == 0, f"{run.stderr[-4000:]}\nlast call: {last}"
