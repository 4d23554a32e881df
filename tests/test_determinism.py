"""Results have the same bits for every number of threads, and from one call to the next."""

from __future__ import annotations

import numpy as np
import pytest
from checks import normals
from ops import OPS

import fastcnn
from fastcnn import nn

pytestmark = pytest.mark.usefixtures("isa")


def digits_of(shape, dtype, seed):
    """Positive numbers with all their bits in use, so that another order of summation shows."""
    return np.abs(normals(*shape, dtype=dtype, seed=seed)) + dtype(0.1)


def assert_same_bits(function, *operands):
    with fastcnn.threads(1):
        wanted = [x.tobytes() for x in function(*operands)]
    for threads in (2, 3, 5, 2):
        with fastcnn.threads(threads):
            assert [x.tobytes() for x in function(*operands)] == wanted, f"{threads} threads"


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_threads_do_not_change_a_bit(op, dtype):
    assert_same_bits(op, *(digits_of(shape, dtype, i) for i, shape in enumerate(op.large)))


def sgd(p, g, v):
    p, v = p.copy(), v.copy()
    nn.sgd_step([p], [g], [v], 0.1, 0.9, True, 0.01)
    return p, v


def adam(p, g, m, v):
    p, m, v = p.copy(), m.copy(), v.copy()
    nn.adam_step([p], [g], [m], [v], 0.1, 0.9, 0.999, 1e-7, 2, 0.01)
    return p, m, v


@pytest.mark.parametrize(("step", "count"), [(sgd, 3), (adam, 4)], ids=["sgd_step", "adam_step"])
def test_threads_do_not_change_a_bit_of_a_step(step, count, dtype):
    assert_same_bits(step, *(digits_of((90_001,), dtype, i) for i in range(count)))


def conv2d(rows, columns, channels, filters, **options):
    shapes = (1, rows, columns, channels), (3, 3, channels, filters)
    return pytest.param(shapes, options, id=f"{rows}x{columns}x{channels}x{filters}")


@pytest.mark.parametrize(
    ("shapes", "options"),
    [conv2d(3, 200, 8, 40), conv2d(200, 3, 8, 40), conv2d(4, 4, 100, 170), conv2d(60, 50, 3, 9, strides=2)],
)
def test_however_a_convolution_of_one_image_is_cut(shapes, options, dtype):
    x, w = (digits_of(s, dtype, i) for i, s in enumerate(shapes))
    grad = nn.conv2d(x, w, padding="same", **options)
    assert_same_bits(lambda: [nn.conv2d(x, w, padding="same", **options)])
    assert_same_bits(lambda: nn.conv2d_backward(grad, x, w, padding="same", **options))


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"strides": 2}], ids=["1", "same", "2"])
@pytest.mark.parametrize("images", [15, 41, 90])
def test_however_images_of_few_channels_are_grouped(images, options, dtype):
    x, w = digits_of((images, 9, 8, 3), dtype, 0), digits_of((5, 5, 3, 40), dtype, 1)
    grad = nn.conv2d(x, w, **options)
    assert_same_bits(lambda: nn.conv2d_backward(grad, x, w, **options))


@pytest.mark.parametrize(("m", "n", "k"), [(1, 40_001, 7), (7, 9, 9000), (129, 3, 3000), (900, 17, 33)])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_however_a_product_is_cut(m, n, k, transpose_b, dtype):
    a, b = digits_of((m, k), dtype, 0), digits_of((n, k) if transpose_b else (k, n), dtype, 1)
    assert_same_bits(lambda: [nn.matmul(a, b, transpose_b=transpose_b)])
