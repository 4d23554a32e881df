"""Optimiser steps, in place over many parameters of any size, against the update rules in float64."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from checks import assert_close, normals

from fastcnn import nn

pytestmark = pytest.mark.usefixtures("isa", "threads")

# Runs have 8192 elements; the last are enough for two threads.
SHAPES = [(), (1,), (0, 3), (3, 3, 2, 5), (17,), (8192,), (8193,), (7, 10, 500)]
STEPS = 3


def arrays(seed, dtype):
    return [normals(*shape, dtype=dtype, seed=[seed, i]) for i, shape in enumerate(SHAPES)]


def assert_all_close(actual, expected, dtype):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, dtype, depth=8 * STEPS, scale=1 + np.abs(e))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True), (1.0, False)])
def test_sgd(momentum, nesterov, decay, dtype):
    p, v = arrays(0, dtype), [np.zeros(shape, dtype) for shape in SHAPES]
    exact_p, exact_v = [a.astype(np.float64) for a in p], [a.astype(np.float64) for a in v]
    for step in range(STEPS):
        g = arrays(step + 1, dtype)
        nn.sgd_step(p, g, v if momentum else None, 0.05, momentum, nesterov, decay)
        pairs = [reference.sgd_step(*a, 0.05, momentum, nesterov, decay) for a in zip(exact_p, g, exact_v, strict=True)]
        exact_p, exact_v = ([np.asarray(pair[i]) for pair in pairs] for i in range(2))
    assert_all_close(p, exact_p, dtype)
    if momentum:
        assert_all_close(v, exact_v, dtype)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.999), (0.0, 0.5)])
def test_adam(beta_1, beta_2, decay, dtype):
    p, m, v = arrays(0, dtype), *([np.zeros(shape, dtype) for shape in SHAPES] for _ in range(2))
    exact = [[a.astype(np.float64) for a in list_] for list_ in (p, m, v)]
    for step in range(1, STEPS + 1):
        g = arrays(step, dtype)
        nn.adam_step(p, g, m, v, 0.01, beta_1, beta_2, 1e-3, step, decay)
        triples = [
            reference.adam_step(q, h, *moments, 0.01, beta_1, beta_2, 1e-3, step, decay)
            for q, h, *moments in zip(exact[0], g, *exact[1:], strict=True)
        ]
        exact = [[np.asarray(t[i]) for t in triples] for i in range(3)]
    for actual, wanted in zip((p, m, v), exact, strict=True):
        assert_all_close(actual, wanted, dtype)


def steps(*dtypes):
    """Return what a step of each kind makes of parameters and moments, of the types that follow each other in turn."""
    made = []
    for kind in ("sgd", "adam"):
        p, g, m, v = ([a.astype(dtypes[i % len(dtypes)]) for i, a in enumerate(arrays(k, "float64"))] for k in range(4))
        v = [np.asarray(abs(a)) for a in v]
        if kind == "sgd":
            nn.sgd_step(p, g, m, 0.05, 0.9)
        else:
            nn.adam_step(p, g, m, v, 0.01, 0.9, 0.999, 1e-3, 1)
        made.append((p, m, v))
    return made


def test_adam_without_memory_forgets_large_gradients(dtype):
    p, m, v = np.zeros(20, dtype), np.zeros(20, dtype), np.zeros(20, dtype)
    for step, size in enumerate((1e4, 1e-4), 1):
        before = p.copy()
        nn.adam_step([p], [np.full(20, size, dtype)], [m], [v], 0.1, 0.0, 0.0, 1e-7, step)
    np.testing.assert_allclose(before - p, 0.1, rtol=2e-3)


def test_types_may_differ_from_parameter_to_parameter():
    of_each = [steps("float32"), steps("float64")]
    for kind, lists in enumerate(steps("float32", "float64")):
        for which, made in enumerate(lists):
            for i, array in enumerate(made):
                alone = of_each[i % 2][kind][which][i]
                assert array.dtype == alone.dtype and np.array_equal(array, alone)
    before = [normals(2, 3, dtype="float32"), normals(4)]
    moved = [a.copy() for a in before]
    nn.sgd_step(moved, [np.ones_like(a) for a in before], None, 0.5)
    assert all(np.array_equal(a, b - 0.5) for a, b in zip(moved, before, strict=True))


def test_the_first_adam_step_moves_by_the_learning_rate_against_the_sign(dtype):
    p, g = [np.zeros(4, dtype)], [np.array([1e-3, -1e-3, 5, -5], dtype)]
    nn.adam_step(p, g, [np.zeros(4, dtype)], [np.zeros(4, dtype)], 0.1, 0.9, 0.999, 1e-12, 1)
    np.testing.assert_allclose(p[0], [-0.1, 0.1, -0.1, 0.1], rtol=1e-5)


def test_a_zero_gradient_moves_nothing(dtype):
    p, zero = [np.ones(4, dtype)], [np.zeros(4, dtype)]
    nn.sgd_step(p, zero, None, 0.1)
    nn.adam_step(p, zero, [np.zeros(4, dtype)], [np.zeros(4, dtype)], 0.1, 0.9, 0.999, 1e-7, 1)
    assert (p[0] == 1).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_moments_below_the_smallest_normal_number_end(sign, dtype):
    """Rounded to nearest, 0.9 times the smallest number there is is that number, and slow for ever."""
    tiny = sign * np.finfo(dtype).tiny
    small = np.array([*[tiny * dtype(0.9)] * 37, 2 * tiny, np.nan, -np.inf], dtype)
    for nesterov in (False, True):
        p, v = np.zeros_like(small), small.copy()
        nn.sgd_step([p], [np.zeros_like(small)], [v], 0.5, 0.9, nesterov)
        assert (v[:37] == 0).all() and (p[:37] == 0).all()
        assert v[37] == dtype(0.9) * 2 * tiny and np.isnan(v[38]) and v[39] == -np.inf
    p, m, squares = np.zeros_like(small), small.copy(), np.abs(small)
    nn.adam_step([p], [np.zeros_like(small)], [m], [squares], 0.5, 0.9, 0.9, 1e-7, step=9)
    for moment in (m, squares):
        assert (moment[:37] == 0).all() and (moment[37] != 0) and np.isnan(moment[38])
    assert (p[:37] == 0).all() and p[37] * sign < 0


def test_gradients_are_not_touched_and_may_be_read_only(dtype):
    p, g, m, v = ([normals(5, dtype=dtype, seed=i) ** 2] for i in range(4))
    before = g[0].copy()
    g[0].flags.writeable = False
    nn.sgd_step(p, g, m, 0.1, 0.9)
    nn.adam_step(p, g, m, v, 0.1, 0.9, 0.999, 1e-7, 1)
    assert (g[0] == before).all()


def test_no_parameters_are_no_work():
    nn.sgd_step([], [], None, 0.1)
    nn.adam_step([], [], [], [], 0.1, 0.9, 0.999, 1e-7, 1)


def sgd(p=(3,), g=(3,), v=(3,), **options):
    nn.sgd_step([np.zeros(p)], [np.zeros(g)], [np.zeros(v)], **{"learning_rate": 0.1, "momentum": 0.9, **options})


def adam(m=(3,), v=(3,), **options):
    values = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "step": 1, **options}
    nn.adam_step([np.zeros(3)], [np.zeros(3)], [np.zeros(m)], [np.zeros(v)], **values)


def read_only():
    array = np.zeros(3)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: sgd(g=(4,)), ValueError, r"^grads\[0\] .*\(4,\)"),
        (lambda: sgd(v=(4,)), ValueError, r"^momenta\[0\] .*\(4,\)"),
        (lambda: sgd(learning_rate=-1), ValueError, "^learning_rate .*-1"),
        (lambda: sgd(learning_rate=np.nan), ValueError, "^learning_rate .*nan"),
        (lambda: sgd(momentum=1.5), ValueError, "^momentum .*1.5"),
        (lambda: sgd(weight_decay="a"), TypeError, "^weight_decay .*'a'"),
        (lambda: nn.sgd_step([np.zeros(3)], [np.zeros(3)], None, 0.1, 0.9), ValueError, "^momenta .*None"),
        (lambda: nn.sgd_step([np.zeros(3)], [], None, 0.1), ValueError, "^grads .*0"),
        (lambda: nn.sgd_step([[0.0]], [np.zeros(1)], None, 0.1), TypeError, r"^params\[0\] "),
        (lambda: nn.sgd_step([np.zeros((3, 2)).T], [np.zeros((2, 3))], None, 0.1), TypeError, r"^params\[0\] "),
        (lambda: nn.sgd_step([np.zeros(3)], [np.zeros(3, "f4")], None, 0.1), TypeError, r"^grads\[0\] .*float32"),
        (lambda: nn.sgd_step([np.zeros(3)], [None], None, 0.1), TypeError, r"^grads\[0\] .*None"),
        (lambda: nn.sgd_step([np.zeros(3, int)], [np.zeros(3, int)], None, 0.1), TypeError, r"^params\[0\] .*int"),
        (lambda: nn.sgd_step([read_only()], [np.zeros(3)], None, 0.1), ValueError, r"^params\[0\] .*writable"),
        (lambda: adam(m=(4,)), ValueError, r"^m\[0\] .*\(4,\)"),
        (lambda: adam(v=(4,)), ValueError, r"^v\[0\] .*\(4,\)"),
        (lambda: adam(beta_1=1.0), ValueError, "^beta_1 .*1.0"),
        (lambda: adam(beta_2=-0.1), ValueError, "^beta_2 .*-0.1"),
        (lambda: adam(epsilon=0.0), ValueError, "^epsilon .*0.0"),
        (lambda: adam(step=0), ValueError, "^step .*0"),
        (lambda: adam(step=1.5), TypeError, "^step .*1.5"),
        (lambda: adam(weight_decay=-1), ValueError, "^weight_decay .*-1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_nothing_is_changed_when_an_argument_does_not_fit():
    p = [np.ones(3), np.ones(2)]
    with pytest.raises(ValueError, match=r"^grads\[1\]"):
        nn.sgd_step(p, [np.ones(3), np.ones(3)], None, 0.1)
    assert all((x == 1).all() for x in p)
