"""Dropout and its gradient, from a counter-based generator: the mask is a function of the seed alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._core import _elementwise as _kernels
from ..arguments import fresh_seed
from ..arguments import seed as checked_seed
from ._arrays import FloatArray, flag, floats, number


def dropout(x: ArrayLike, rate: float, training: bool = True, seed: int | None = None) -> FloatArray:
    """Set each element to zero with probability rate and scale the others by 1 / (1 - rate).

    Element i looks at word i % 4 of block i // 4 of the generator Philox4x32-10 under the key seed and is kept
    where the word is at least floor(rate * 2^32): the mask depends on nothing but seed and position.

    Parameters
    ----------
    x
        Any shape.
    rate
        In [0, 1).
    training
        If false, a copy of x is returned.
    seed
        In [0, 2^64), or None for one from the operating system.

    Returns
    -------
    ndarray
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Srivastava et al., "Dropout", 2014. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(set(dropout(np.ones(100), rate=0.5, seed=0).tolist()))
    [0.0, 2.0]
    """
    rate = number(rate, "rate", 0.0, 1.0, open_end=True)
    (x,) = floats(("x",), x)
    if not flag(training, "training"):
        return np.array(x)
    y = np.empty_like(x)
    key = fresh_seed() if seed is None else checked_seed(seed)
    _kernels.dropout(x, key, int(rate * 2**32), 1 / (1 - rate), y)
    return y


def dropout_backward(grad: ArrayLike, rate: float, seed: int) -> FloatArray:
    """Return the gradient of dropout's input: the same mask and scale, applied to grad.

    Parameters
    ----------
    grad
        Gradient of the result.
    rate, seed
        As given to :func:`dropout`.

    Returns
    -------
    ndarray
        Of the shape of grad.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones(8)
    >>> bool((dropout_backward(x, 0.5, seed=3) == dropout(x, 0.5, seed=3)).all())
    True
    """
    (grad,) = floats(("grad",), grad)
    return dropout(grad, rate, True, checked_seed(seed))
