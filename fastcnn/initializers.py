"""Initial values of weights, under Keras's names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import TINY, choice, number
from .arguments import seed as checked_seed
from .registry import Configurable, is_own, lookup, register

Array = NDArray[Any]


class Initializer(Configurable):
    """Base class: makes the initial value of a weight."""

    def __call__(self, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Array:
        """Return an array of the given shape and element type, drawn from the given generator."""
        raise NotImplementedError


@register
class Zeros(Initializer):
    """All zero, as biases begin.

    Examples
    --------
    >>> Zeros()((2,), "float32", None).tolist()
    [0.0, 0.0]
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator | None) -> Array:
        """Return zeros."""
        return np.zeros(shape, dtype)


@register
class Constant(Initializer):
    """One value everywhere.

    Parameters
    ----------
    value
        Any finite number.

    Examples
    --------
    >>> Constant(0.5)((2,), "float32", None).tolist()
    [0.5, 0.5]
    """

    def __init__(self, value: float = 0.0) -> None:
        self.value = number(value, "value", -np.inf, np.inf)

    def __call__(self, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator | None) -> Array:
        """Return an array full of the value."""
        return np.full(shape, self.value, dtype)


@register
class Ones(Initializer):
    """All one, as the scales of a normalisation begin.

    Examples
    --------
    >>> Ones()((2,), "float32", None).tolist()
    [1.0, 1.0]
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator | None) -> Array:
        """Return ones."""
        return np.ones(shape, dtype)


class _Random(Initializer):
    """Base of those that draw: a seed of their own makes them independent of the model's generator."""

    seed: int | None = None

    def __call__(self, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator | None) -> Array:
        """Return random numbers of the initialiser's distribution."""
        generator = np.random.default_rng(self.seed) if self.seed is not None or rng is None else rng
        return self.draw(shape, generator).astype(dtype)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return float64 numbers."""
        raise NotImplementedError


@register
class RandomNormal(_Random):
    """Normally distributed.

    Parameters
    ----------
    mean
        Centre.
    stddev
        Standard deviation, not negative.
    seed
        None for the generator of the model.

    Examples
    --------
    >>> RandomNormal(stddev=0.1, seed=0)((3, 3), "float32", None).dtype.name
    'float32'
    """

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean = number(mean, "mean", -np.inf, np.inf)
        self.stddev = number(stddev, "stddev", 0.0, np.inf)
        self.seed = _checked(seed)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return float64 numbers."""
        return rng.normal(self.mean, self.stddev, shape)


@register
class RandomUniform(_Random):
    """Uniformly distributed in [minval, maxval).

    Parameters
    ----------
    minval, maxval
        The interval, whose length must be finite too.
    seed
        None for the generator of the model.

    Examples
    --------
    >>> bool((RandomUniform(0, 1, seed=0)((9,), "float64", None) >= 0).all())
    True
    """

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        self.minval = number(minval, "minval", -np.inf, np.inf)
        self.maxval = number(maxval, "maxval", self.minval, np.inf)
        if self.maxval - self.minval == np.inf:
            raise ValueError(
                f"minval and maxval must differ by a finite number, got minval={self.minval} and maxval={self.maxval}"
            )
        self.seed = _checked(seed)

    def __call__(self, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator | None) -> Array:
        """Return random numbers below maxval, also where float32 rounds them up to it."""
        drawn = super().__call__(shape, dtype, rng)
        if self.minval < self.maxval:
            below = np.nextafter(drawn.dtype.type(self.maxval), drawn.dtype.type(self.minval))
            np.minimum(drawn, below, out=drawn, where=drawn >= self.maxval)
        return drawn

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return float64 numbers."""
        return rng.uniform(self.minval, self.maxval, shape)


@register
class VarianceScaling(_Random):
    """Random with variance scale / n, where n is the number of inputs, of outputs, or their mean.

    Parameters
    ----------
    scale
        Positive.
    mode
        "fan_in", "fan_out" or "fan_avg".
    distribution
        "truncated_normal" (cut at two standard deviations), "untruncated_normal" or "uniform".
    seed
        None for the generator of the model.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    He et al., "Delving deep into rectifiers", 2015.

    Examples
    --------
    >>> w = VarianceScaling(2.0, "fan_in", seed=0)((3, 3, 64, 64), "float32", None)
    >>> bool(abs(w.std() - (2 / 576) ** 0.5) < 1e-3)
    True
    """

    MODES = ("fan_in", "fan_out", "fan_avg")
    DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        self.mode = choice(mode, "mode", self.MODES)
        self.distribution = choice(distribution, "distribution", self.DISTRIBUTIONS)
        self.scale = number(scale, "scale", TINY, np.inf)
        self.seed = _checked(seed)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return float64 numbers."""
        fan_in, fan_out = _fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = math.sqrt(self.scale / max(1.0, n))
        if self.distribution == "uniform":
            limit = math.sqrt(3) * deviation
            return rng.uniform(-limit, limit, shape)
        if self.distribution == "untruncated_normal":
            return rng.normal(0.0, deviation, shape)
        return _truncated_normal(rng, shape) * (deviation / _TRUNCATED_DEVIATION)


# Standard deviation of a standard normal variable that is cut at -2 and 2.
_TRUNCATED_DEVIATION = 0.8796256610342398


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    values: Array = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(np.count_nonzero(outside))
    return values


def _fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Return how many inputs an output sees, and the other way round: a filter's taps count for both."""
    if len(shape) < 2:
        size = float(math.prod(shape))
        return size, size
    taps = math.prod(shape[:-2])
    return float(taps * shape[-2]), float(taps * shape[-1])


def _checked(value: Any) -> int | None:
    return None if value is None else checked_seed(value)


class _Glorot(VarianceScaling):
    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_avg", self.form, seed)

    form = "uniform"


class _He(VarianceScaling):
    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_in", self.form, seed)

    form = "uniform"


@register
class GlorotUniform(_Glorot):
    """Uniform with variance 2 / (inputs + outputs), Keras's default; see :class:`VarianceScaling`.

    Examples
    --------
    >>> GlorotUniform(seed=0)((3, 3, 3, 8), "float32", None).shape
    (3, 3, 3, 8)
    """


@register
class GlorotNormal(_Glorot):
    """Truncated normal with variance 2 / (inputs + outputs); see :class:`VarianceScaling`.

    Examples
    --------
    >>> GlorotNormal(seed=0)((4, 4), "float32", None).shape
    (4, 4)
    """

    form = "truncated_normal"


@register
class HeUniform(_He):
    """Uniform with variance 2 / inputs, made for relu; see :class:`VarianceScaling`.

    Examples
    --------
    >>> HeUniform(seed=0)((4, 4), "float32", None).shape
    (4, 4)
    """


@register
class HeNormal(_He):
    """Truncated normal with variance 2 / inputs, made for relu; see :class:`VarianceScaling`.

    Examples
    --------
    >>> HeNormal(seed=0)((4, 4), "float32", None).shape
    (4, 4)
    """

    form = "truncated_normal"


@register
class LecunNormal(VarianceScaling):
    """Truncated normal with variance 1 / inputs; see :class:`VarianceScaling`.

    Examples
    --------
    >>> LecunNormal(seed=0)((4, 4), "float32", None).shape
    (4, 4)
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_in", "truncated_normal", seed)


_NAMED = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "random_normal": RandomNormal,
    "random_uniform": RandomUniform,
    "variance_scaling": VarianceScaling,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_normal": LecunNormal,
}


def drawn(initializer: Initializer, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Array:
    """Return what an initialiser gives, in memory of its own: one of one's own may keep the array for itself.

    Examples
    --------
    >>> drawn(Zeros(), (2,), "float32", np.random.default_rng()).tolist()
    [0.0, 0.0]
    """
    array = initializer(shape, dtype, rng)
    return array if is_own(type(initializer)) or not isinstance(array, np.ndarray) else array.copy()


def get(value: Any, name: str = "initializer") -> Initializer:
    """Return an initialiser from its Keras string, or the initialiser that was given.

    Parameters
    ----------
    value
        Such as "he_normal" or ``HeNormal(seed=0)``.
    name
        The argument's name, for the error.

    Raises
    ------
    TypeError, ValueError
        If it is neither.

    Examples
    --------
    >>> get("he_normal")
    HeNormal()
    """
    return lookup(value, name, Initializer, _NAMED)  # type: ignore[type-abstract,unused-ignore]
