"""Optimisers under Keras's names; a step goes over all parameters in one compiled pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nn
from .arguments import TINY, flag, number
from .registry import Configurable, lookup, register
from .runtime import AlignedMemory

Array = NDArray[Any]


class Optimizer(Configurable):
    """Base class: owns the slots, arrays of the shapes of the parameters, that live from step to step.

    A subclass names its slots and takes a step in ``update``. ``learning_rate`` may be changed between steps.
    """

    #: Names of the arrays kept for each parameter.
    slot_names: tuple[str, ...] = ()

    learning_rate: float
    iterations: int = 0

    _params: list[Array] | None = None

    def bind(self, params: Mapping[str, Array]) -> None:
        """Begin to train these parameters, by name, or go on with them; new slots are zero.

        Raises
        ------
        ValueError
            If the optimiser already trains others.
        """
        arrays = list(params.values())
        if self._params is not None:
            if len(arrays) != len(self._params) or any(a is not b for a, b in zip(arrays, self._params, strict=True)):
                raise ValueError(
                    f"this {type(self).__name__} already trains other weights; give each model its own, and compile "
                    "anew where other layers become trainable"
                )
            return
        with AlignedMemory():
            self._slots = {slot: [np.zeros_like(p) for p in arrays] for slot in self.slot_names}  # there may be no room
        self._names = list(params)
        self._params = arrays

    def rebind(self, params: Mapping[str, Array]) -> None:
        """Go on with the same parameters, by name, and slots in arrays of their own, as a copy from a pickle has to."""
        if self._params is not None:
            self._params = [params[name] for name in self._names]
            self._slots = {s: [np.require(a, requirements=["O", "W"]) for a in own] for s, own in self._slots.items()}

    def step(self, grads: list[Array]) -> None:
        """Move the parameters, in place, by one step along their gradients, in the order of ``bind``.

        Raises
        ------
        ValueError
            If there are more or fewer gradients, or of other shapes.
        """
        if self._params is None:
            raise ValueError("bind must be called before step")
        self.iterations += 1
        try:
            self.update(self._params, grads, *self._slots.values())
        except Exception:  # of what is refused there is no step
            self.iterations -= 1
            raise

    def update(self, params: list[Array], grads: list[Array], *slots: list[Array]) -> None:
        """Take step number ``iterations``: change params and slots in place."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """Return the slots as ``{"slot/parameter name": array}``; with ``iterations`` they are all there is to save."""
        if self._params is None:
            return {}
        return {
            f"{slot}/{name}": array
            for slot, arrays in self._slots.items()
            if slot in self.slot_names  # else it has lost its use, as without momentum
            for name, array in zip(self._names, arrays, strict=True)
        }


@register
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum or without: see :func:`fastcnn.nn.sgd_step`.

    Parameters
    ----------
    learning_rate
        Not negative.
    momentum
        In [0, 1].
    nesterov
        Whether to look ahead.
    weight_decay
        Decoupled: every step first scales the parameters by 1 - learning_rate * weight_decay. None for none.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.ones(1)
    >>> sgd = SGD(learning_rate=0.25)
    >>> sgd.bind({"p": p})
    >>> sgd.step([np.array([2.0])])
    >>> p.tolist()
    [0.5]
    """

    @property
    def slot_names(self) -> tuple[str, ...]:  # type: ignore[override]  # others have the same ones always
        """Those of the momentum, where there is any."""
        return ("momentum",) if self.momentum else ()

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
    ) -> None:
        self.learning_rate = number(learning_rate, "learning_rate", 0.0, np.inf)
        self.momentum = number(momentum, "momentum", 0.0, 1.0)
        self.nesterov = flag(nesterov, "nesterov")
        self.weight_decay = _decay(weight_decay)

    def update(self, params: list[Array], grads: list[Array], *slots: list[Array]) -> None:
        """Take one step."""
        momenta = slots[0] if slots else None
        if self.momentum and momenta is None:
            raise ValueError(f"momentum must stay 0.0 once there has been a step, got {self.momentum}; compile anew")
        nn.sgd_step(params, grads, momenta, self.learning_rate, self.momentum, self.nesterov, self.weight_decay or 0.0)


@register
class Adam(Optimizer):
    """Adam: see :func:`fastcnn.nn.adam_step`.

    Parameters
    ----------
    learning_rate
        Not negative.
    beta_1, beta_2
        In [0, 1): how slowly the moments of the gradient follow it.
    epsilon
        Positive, against division by zero.
    weight_decay
        Decoupled, as in AdamW. None for none.

    References
    ----------
    Kingma and Ba, "Adam", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.ones(1)
    >>> adam = Adam(learning_rate=0.5)
    >>> adam.bind({"p": p})
    >>> adam.step([np.array([4.0])])
    >>> p.round(4).tolist()
    [0.5]
    """

    slot_names = ("m", "v")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
    ) -> None:
        self.learning_rate = number(learning_rate, "learning_rate", 0.0, np.inf)
        self.beta_1 = number(beta_1, "beta_1", 0.0, 1.0, open_end=True)
        self.beta_2 = number(beta_2, "beta_2", 0.0, 1.0, open_end=True)
        self.epsilon = number(epsilon, "epsilon", TINY, np.inf)
        self.weight_decay = _decay(weight_decay)

    def update(self, params: list[Array], grads: list[Array], *slots: list[Array]) -> None:
        """Take one step."""
        nn.adam_step(
            params,
            grads,
            m=slots[0],
            v=slots[1],
            learning_rate=self.learning_rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            step=self.iterations,
            weight_decay=self.weight_decay or 0.0,
        )


@register
class AdamW(Adam):
    """Adam with decoupled weight decay: see :class:`Adam`.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        As in :class:`Adam`.
    weight_decay
        Every step first scales the parameters by 1 - learning_rate * weight_decay.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.

    Examples
    --------
    >>> AdamW(weight_decay=0.01)
    AdamW(weight_decay=0.01)
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay)


def _decay(weight_decay: float | None) -> float | None:
    return None if weight_decay is None else number(weight_decay, "weight_decay", 0.0, np.inf)


_NAMED = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def get(value: Any) -> Optimizer:
    """Return an optimiser from its Keras string, or the optimiser that was given.

    Parameters
    ----------
    value
        Such as "adam" or ``Adam(learning_rate=3e-4)``.

    Raises
    ------
    TypeError, ValueError
        If it is neither.

    Examples
    --------
    >>> get("adam")
    Adam()
    """
    return lookup(value, "optimizer", Optimizer, _NAMED)
