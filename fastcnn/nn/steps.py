"""Optimiser steps over all parameters in one compiled pass; the only ops that work in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._core import _elementwise as _kernels
from .._core import _runtime
from ..arguments import TINY, brief, integer
from ._arrays import FloatArray, flag, number


def _checked(**lists: Sequence[FloatArray]) -> list[list[FloatArray]]:
    """Return lists of plain arrays, each of its param's shape and element type; all but grads must be writable."""
    for name, arrays in lists.items():
        if not isinstance(arrays, (list, tuple)):
            raise TypeError(f"{name} must be a list of arrays, got {brief(arrays)}")
    params = list(lists["params"])
    result = []
    for name in lists:
        arrays = list(lists[name])
        if len(arrays) != len(params):
            raise ValueError(f"{name} must hold {len(params)} arrays, as params does, got {len(arrays)}")
        misfit = _runtime.first_misfit(arrays, params, name != "grads")
        if misfit >= 0:
            raise _complaint(f"{name}[{misfit}]", arrays[misfit], params[misfit])
        result.append(arrays)
    return result


def _complaint(name: str, array: object, param: FloatArray) -> Exception:
    """Say what is wrong with an array that does not fit its param, or is one that can't be."""
    if not isinstance(array, np.ndarray) or not _runtime.are_plain(2, array, param):
        dtype = "float32 or float64" if array is param else param.dtype
        return TypeError(f"{name} must be a C-ordered array of {dtype}, got {_describe(array)}")
    if array.shape != param.shape:
        return ValueError(f"{name} must have shape {param.shape}, got {array.shape}")
    return ValueError(f"{name} is updated in place and must be writable")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape} and strides {value.strides}"
    return repr(value)


def sgd_step(
    params: Sequence[FloatArray],
    grads: Sequence[FloatArray],
    momenta: Sequence[FloatArray] | None,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """Take one step of stochastic gradient descent, in place, over all parameters at once.

    With momentum, v = momentum * v - learning_rate * g and p = p + v; Nesterov's form adds
    momentum * v - learning_rate * g instead. Weight decay is decoupled: p is first scaled by
    1 - learning_rate * weight_decay. What of v falls below the smallest normal number is zero from then on.

    Parameters
    ----------
    params, grads
        Arrays of any shapes and float types, C-ordered, each gradient of its parameter's.
    momenta
        Arrays of the same shapes and types, updated; may be None without momentum.
    learning_rate
        Not negative.
    momentum
        In [0, 1].
    nesterov
        Whether to look ahead.
    weight_decay
        Not negative.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> sgd_step([p], [np.array([2.0])], None, learning_rate=0.25)
    >>> p.tolist()
    [0.5]
    """
    rate = number(learning_rate, "learning_rate", 0.0, np.inf)
    momentum = number(momentum, "momentum", 0.0, 1.0)
    decay = number(weight_decay, "weight_decay", 0.0, np.inf)
    if momentum:
        if momenta is None:
            raise ValueError(f"momenta must be given with momentum={momentum}, got None")
        p, g, v = _checked(params=params, grads=grads, momenta=momenta)
    else:
        (p, g), v = _checked(params=params, grads=grads), []
    _kernels.sgd(p, g, v, rate, momentum, flag(nesterov, "nesterov"), decay)


def adam_step(
    params: Sequence[FloatArray],
    grads: Sequence[FloatArray],
    m: Sequence[FloatArray],
    v: Sequence[FloatArray],
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    weight_decay: float = 0.0,
) -> None:
    """Take one step of Adam, or with weight decay of AdamW, in place, over all parameters at once.

    m and v move towards g and g^2 by 1 - beta_1 and 1 - beta_2; p is first scaled by
    1 - learning_rate * weight_decay and then moves by -alpha * m / (sqrt(v) + epsilon), where alpha is
    learning_rate * sqrt(1 - beta_2^step) / (1 - beta_1^step). What of m or v falls below the smallest normal number is
    zero from then on.

    Parameters
    ----------
    params, grads
        Arrays of any shapes and float types, C-ordered, each gradient of its parameter's.
    m, v
        First and second moments, of the same shapes and types, updated.
    learning_rate
        Not negative.
    beta_1, beta_2
        In [0, 1).
    epsilon
        Positive.
    step
        Number of this step, from 1.
    weight_decay
        Not negative.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    References
    ----------
    Kingma and Ba, "Adam", 2015. Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.

    Examples
    --------
    >>> import numpy as np
    >>> p, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    >>> adam_step([p], [np.array([4.0])], [m], [v], 0.5, 0.9, 0.999, 1e-7, step=1)
    >>> p.round(4).tolist()
    [0.5]
    """
    rate = number(learning_rate, "learning_rate", 0.0, np.inf)
    beta_1 = number(beta_1, "beta_1", 0.0, 1.0, open_end=True)
    beta_2 = number(beta_2, "beta_2", 0.0, 1.0, open_end=True)
    epsilon = number(epsilon, "epsilon", TINY, np.inf)
    decay = number(weight_decay, "weight_decay", 0.0, np.inf)
    step = integer(step, "step")
    alpha = rate * (1 - beta_2**step) ** 0.5 / (1 - beta_1**step)
    p, g, first, second = _checked(params=params, grads=grads, m=m, v=v)
    _kernels.adam(p, g, first, second, alpha, beta_1, beta_2, epsilon, rate * decay)
