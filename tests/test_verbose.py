"""FASTCNN_VERBOSE: a line for every operation, and the same results."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_errors

from fastcnn import nn

HEADER = ["fastcnn", "operation", "shapes", "algorithm", "isa", "threads", "ms", "rate"]


def lines(code: str, **environment: str) -> tuple[list[list[str]], str]:
    """Run code in a process of its own; return the rows on its standard error, and its standard output."""
    code = f"import numpy as np, fastcnn\nfrom fastcnn import nn\n{code}"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTCNN_VERBOSE": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(csv.reader(run.stderr.splitlines())), run.stdout


def test_a_call_is_a_line_of_shapes_algorithm_isa_threads_time_and_rate():
    rows, _ = lines(
        "x, w = np.ones((1, 32, 32, 64), 'f4'), np.ones((3, 3, 64, 64), 'f4')\n"
        "nn.conv2d(x, w, padding='same')\n"
        "with fastcnn.threads(1):\n    nn.conv2d(x, w, padding='same', algorithm='direct')\n"
        "nn.conv2d(x, np.ones((3, 3, 1, 64)), groups=64)\n"
        "nn.matmul([[1, 2]], [[1], [2]])\n",
        FASTCNN_ISA="scalar",
        FASTCNN_NUM_THREADS="2",
    )
    assert rows[0] == HEADER
    table = [dict(zip(HEADER, row, strict=True)) for row in rows[1:]]
    assert [row["operation"] for row in table] == ["conv2d", "conv2d", "conv2d", "matmul"]
    assert [row["algorithm"] for row in table] == ["winograd-4x4", "direct", "depthwise", "-"]
    assert table[0]["shapes"] == "input:1x32x32x64 filters:3x3x64x64"
    assert table[3]["shapes"] == "a:1x2 b:2x1"
    assert {row["isa"] for row in table} == {"scalar"}
    parallel = "2" if "serial" not in lines("print(fastcnn.info())")[1] else "1"
    assert [row["threads"] for row in table] == [parallel, "1", parallel, "1"]
    flops = 2 * 32 * 32 * 64 * 64 * 9
    for row in table[:2]:
        rate, unit = row["rate"].split()
        assert unit == "GFLOP/s"
        assert float(rate) == pytest.approx(flops / float(row["ms"]) / 1e6, rel=0.01)


def test_gradients_of_a_convolution_have_a_line_each():
    rows, _ = lines("x = np.ones((1, 5, 5, 2)); w = np.ones((3, 3, 2, 4)); nn.conv2d_backward(nn.conv2d(x, w), x, w)")
    operations = [row[1] for row in rows[1:]]
    assert operations == ["conv2d", "conv2d_backward_filters", "conv2d_backward_input", "bias_add_backward"]


def test_gradients_of_a_depthwise_convolution_share_a_line():
    rows, _ = lines(
        "x, w = np.ones((1, 40, 40, 64), 'f4'), np.ones((3, 3, 1, 64), 'f4')\n"
        "for _ in range(3): nn.conv2d_backward(x[:, 1:-1, 1:-1], x, w, groups=64, bias_grad=False)"
    )
    assert len(rows) == 4
    row = dict(zip(HEADER, rows[3], strict=True))
    assert (row["operation"], row["algorithm"]) == ("depthwise_backward", "depthwise")
    assert row["shapes"] == "grad:1x38x38x64 input:1x40x40x64 filters:3x3x1x64"
    rate, unit = row["rate"].split()
    assert unit == "GFLOP/s"
    expected = 2 * 2 * 38 * 38 * 64 * 9 / float(row["ms"]) / 1e6
    assert float(rate) == pytest.approx(expected, rel=0.01, abs=0.005)  # it has two decimals


def test_a_transposed_convolution_tells_algorithm_and_rate():
    rows, _ = lines("x = np.ones((1, 30, 30, 64), 'f4'); w = np.ones((3, 3, 64, 64), 'f4'); nn.conv2d_transpose(x, w)")
    row = dict(zip(HEADER, rows[1], strict=True))
    assert (row["operation"], row["algorithm"]) == ("conv2d_transpose", "winograd-4x4")
    rate, unit = row["rate"].split()
    assert unit == "GFLOP/s"
    assert float(rate) == pytest.approx(2 * 30 * 30 * 64 * 64 * 9 / float(row["ms"]) / 1e6, rel=0.01)


def test_a_convolution_whose_maxima_are_taken_on_its_way_tells_algorithm_and_rate():
    rows, _ = lines(
        "x, w = np.ones((1, 33, 30, 64), 'f4'), np.ones((3, 3, 64, 64), 'f4')\n"
        "nn.conv2d_max_pool_with_argmax(x, w, padding='same', algorithm='winograd-4x4')"
    )
    row = dict(zip(HEADER, rows[1], strict=True))
    assert (row["operation"], row["algorithm"]) == ("conv2d_max_pool_with_argmax", "winograd-4x4")
    rate, unit = row["rate"].split()
    assert unit == "GFLOP/s"
    assert float(rate) == pytest.approx(2 * 33 * 30 * 64 * 64 * 9 / float(row["ms"]) / 1e6, rel=0.01)


def test_layers_and_training_are_seen():
    rows, _ = lines(
        "from fastcnn.layers import Conv2D, Dense, Flatten, MaxPool2D\n"
        "model = fastcnn.Sequential([Conv2D(2, 3), MaxPool2D(2), Flatten(), Dense(2, activation='softmax')])\n"
        "model.compile('adam', 'sparse_categorical_crossentropy')\n"
        "model.train_on_batch(np.ones((4, 6, 6, 1)), [0, 1, 0, 1])\n"
    )
    operations = {row[1] for row in rows}
    pooling = {"max_pool_with_argmax", "max_pool_with_argmax_backward"}
    assert {"conv2d", "dense", "softmax_cross_entropy", "adam_step"} | pooling <= operations
    assert all(len(row) == len(HEADER) for row in rows)


def test_what_lies_between_normalisations_is_seen():
    rows, _ = lines(
        "from fastcnn.layers import Conv2D, BatchNormalization, GlobalAveragePooling2D\n"
        "model = fastcnn.Sequential([Conv2D(32, 1, use_bias=False), Conv2D(32, 1, use_bias=False),"
        " BatchNormalization(activation='relu'), Conv2D(16, 3, use_bias=False), BatchNormalization(),"
        " GlobalAveragePooling2D()])\n"
        "model.compile('adam', 'mean_squared_error')\n"
        "model.train_on_batch(np.ones((64, 33, 33, 16), np.float32), np.ones((64, 16), np.float32))\n"
    )
    table = {row[1]: dict(zip(HEADER, row, strict=True)) for row in rows[1:]}
    shapes = {
        "measured_conv2d": "input:64x33x33x32 filters:1x1x32x32",
        "normalized_backward": "grad:64x33x33x32 input:64x33x33x32 filters:1x1x32x32",
        "written_result": "result:64x33x33x32",
        "written_gradient": "grad:64x31x31x16",
    }
    assert {name: table[name]["shapes"] for name in shapes} == shapes
    for name, products in (("measured_conv2d", 1), ("normalized_backward", 2)):
        assert table[name]["algorithm"] == "direct"
        rate, unit = table[name]["rate"].split()
        assert unit == "GFLOP/s"
        assert float(rate) == pytest.approx(
            products * 2 * 64 * 33 * 33 * 32 * 32 / float(table[name]["ms"]) / 1e6, rel=0.01
        )
    for name, elements in (("written_result", 2 * 64 * 33 * 33 * 32), ("written_gradient", 3 * 64 * 31 * 31 * 16)):
        rate, unit = table[name]["rate"].split()
        assert unit == "GB/s"
        assert float(rate) == pytest.approx(4 * elements / float(table[name]["ms"]) / 1e6, rel=0.01)
    assert [row[1] for row in rows].count("unwritten_gradient") == 2


def test_the_steps_of_a_prediction_are_seen():
    rows, _ = lines(
        "from fastcnn.layers import Conv2D, BatchNormalization, Flatten, Dense\n"
        "model = fastcnn.Sequential([fastcnn.Input((16, 16, 8)), Conv2D(32, 3), BatchNormalization(activation='relu'),"
        " Flatten(), Dense(10, activation='softmax')])\n"
        "model.predict(np.ones((2, 16, 16, 8)))\n"
    )
    table = [dict(zip(HEADER, row, strict=True)) for row in rows[1:]]
    assert [row["operation"] for row in table] == ["conv 3x3", "dense"]
    assert table[0]["shapes"] == "input:2x16x16x8 result:2x14x14x32"
    assert table[0]["algorithm"] == "direct" and table[0]["rate"].endswith("GFLOP/s")


def test_every_operation_has_a_line():
    rows, _ = lines(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_errors\n"
        "for op in test_errors.RIGHT:\n"
        "    result = getattr(nn, op)(**test_errors.fresh(op))\n"
        "    if isinstance(result, nn.PreparedConv2D):\n        result(np.ones(result.input_shape))\n",
    )
    composite = {
        "conv2d_backward",
        "conv2d_max_pool_with_argmax_backward",
        "conv2d_transpose_backward",
        "dense_backward",
        "matmul_backward",
        "class_probabilities",
    }
    assert {row[1] for row in rows[1:]} == set(test_errors.RIGHT) - composite | {"relu_max_pool_backward"}
    assert all(len(row) == len(HEADER) for row in rows)


def test_the_shapes_of_every_kind_of_operand_are_told():
    rows, _ = lines(
        "nn.relu(np.array(3.0)); nn.relu(2.0); nn.relu(np.ones((0, 4, 5))); nn.relu(((1.0, 2.0, 3.0),))\n"
        "nn.sgd_step((np.ones(3), np.ones((2, 2))), (np.ones(3), np.ones((2, 2))), None, 0.1)\n"
        "nn.sgd_step([], [], None, 0.1)\n"
        "nn.conv2d(np.ones((0, 4, 5, 2)), np.ones((3, 3, 2, 6)), strides=[1, 2, 2, 1], bias=np.ones(6))\n"
    )
    assert [row[2] for row in rows[1:]] == [
        *("x:1", "x:1", "x:0x4x5", "x:1x3"),
        *("params:2 grads:2", "params:0 grads:0"),
        "input:0x4x5x2 filters:3x3x2x6 bias:6",
    ]
    assert all(len(row) == len(HEADER) for row in rows)


def test_it_is_off_unless_asked_for():
    code = "import numpy as np; from fastcnn import nn; nn.relu(np.ones(3))"
    for setting in ({}, {"FASTCNN_VERBOSE": "0"}, {"FASTCNN_VERBOSE": ""}):
        environment = {key: value for key, value in os.environ.items() if key != "FASTCNN_VERBOSE"} | setting
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert run.stderr == run.stdout == b""
    assert not hasattr(nn.relu, "__wrapped__")


def test_results_and_errors_are_the_same():
    x = np.random.default_rng(0).standard_normal((3, 5))
    _, printed = lines(
        "x = np.random.default_rng(0).standard_normal((3, 5)); print(nn.softmax(x).tobytes().hex())\n"
        "try:\n    nn.relu('a')\nexcept TypeError as error:\n    print(error)\n"
    )
    assert printed.splitlines()[0] == nn.softmax(x).tobytes().hex()
    assert printed.splitlines()[1].startswith("x must hold real numbers")
