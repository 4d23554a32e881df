"""Initial weights have the distributions that their names promise."""

from __future__ import annotations

import numpy as np
import pytest

from fastcnn import initializers
from fastcnn.initializers import Constant, HeNormal, RandomNormal, RandomUniform, VarianceScaling

SHAPE = (3, 3, 32, 64)
FAN_IN, FAN_OUT = 9 * 32, 9 * 64


@pytest.mark.parametrize(
    ("name", "variance", "limit"),
    [
        ("glorot_uniform", 2 / (FAN_IN + FAN_OUT), 3**0.5),
        ("glorot_normal", 2 / (FAN_IN + FAN_OUT), 2 / 0.8796),
        ("he_uniform", 2 / FAN_IN, 3**0.5),
        ("he_normal", 2 / FAN_IN, 2 / 0.8796),
        ("lecun_normal", 1 / FAN_IN, 2 / 0.8796),
        ("random_normal", 0.05**2, None),
        ("random_uniform", 0.05**2 / 3, 3**0.5),
    ],
)
def test_variances_and_limits(name, variance, limit):
    w = initializers.get(name)(SHAPE, "float64", np.random.default_rng(0))
    assert w.shape == SHAPE
    assert abs(w.mean()) < 5 * (variance / w.size) ** 0.5
    assert w.var() == pytest.approx(variance, rel=0.03)
    if limit:
        assert 0.98 * limit < np.abs(w).max() / variance**0.5 < 1.001 * limit


def test_variance_scaling_takes_mode_and_distribution():
    w = VarianceScaling(3.0, "fan_out", "untruncated_normal")(SHAPE, "float32", np.random.default_rng(0))
    assert w.dtype == np.float32
    assert w.var() == pytest.approx(3 / FAN_OUT, rel=0.03)
    assert np.abs(w).max() > 3 * w.std()


def test_a_seed_of_its_own_makes_it_independent_of_the_generator():
    draws = [HeNormal(seed=4)((5,), "float64", np.random.default_rng(i)).tolist() for i in range(2)]
    assert draws[0] == draws[1]
    draws = [HeNormal()((5,), "float64", np.random.default_rng(i)).tolist() for i in range(2)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    ("make", "error", "complaint"),
    [
        (lambda: Constant("1"), TypeError, "value"),
        (lambda: Constant(float("inf")), ValueError, "value"),
        (lambda: RandomNormal(stddev=-1), ValueError, "stddev"),
        (lambda: RandomUniform(1, 0), ValueError, "maxval"),
        (lambda: RandomUniform(-1.7e308, 1.7e308), ValueError, r"minval and maxval .*minval=-1\.7e\+308 .*=1\.7e\+308"),
        (lambda: VarianceScaling(scale=0), ValueError, "scale"),
        (lambda: VarianceScaling(mode="fan"), ValueError, "mode"),
        (lambda: VarianceScaling(distribution="cauchy"), ValueError, "distribution"),
        (lambda: HeNormal(seed=-1), ValueError, "seed"),
        (lambda: HeNormal(seed=0.5), TypeError, "seed"),
        (lambda: initializers.get("he"), ValueError, "'he'"),
        (lambda: initializers.get(np.zeros(3)), TypeError, "initializer"),
    ],
)
def test_mistakes_are_named(make, error, complaint):
    with pytest.raises(error, match=complaint):
        make()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 0), (-3, 3), (2, 2)])
def test_uniform_numbers_stay_below_the_end_also_where_they_are_rounded(low, high):
    class Highest:
        def uniform(self, low, high, shape):
            return np.full(shape, np.nextafter(high, low))

    for dtype in ("float32", "float64"):
        drawn = RandomUniform(low, high)((3,), dtype, Highest())
        assert drawn.dtype == dtype
        assert (drawn < high).all() if low < high else (drawn == high).all()
        assert np.allclose(drawn, high, atol=1e-6)
