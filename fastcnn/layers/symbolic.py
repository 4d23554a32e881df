"""Symbolic tensors: what layers are called on where a network is described and not yet run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

from ..arguments import brief, integer

if TYPE_CHECKING:
    from .base import Layer

Shape = tuple[int | None, ...]


class Tensor:
    """The result of a layer in a network that is being described: a shape, and where it comes from.

    A layer that is called on one gives another; :class:`fastcnn.Model` makes a network of what lies between two.

    Parameters
    ----------
    shape
        (None, ...): None stands for the batch.
    layer
        What gives it; None for an input of the network.
    sources
        What that layer was called on.

    Examples
    --------
    >>> from fastcnn.layers import Conv2D
    >>> Conv2D(8, 3)(Input((28, 28, 1)))
    <Tensor of shape (None, 26, 26, 8) from Conv2D>
    """

    __array_ufunc__ = None  # so that NumPy's operators raise TypeError, too

    def __init__(self, shape: Shape, layer: Layer | None = None, sources: tuple[Tensor, ...] = ()) -> None:
        self.shape = shape
        self.layer = layer
        self.sources = sources

    def __repr__(self) -> str:
        """Return its shape and what gives it."""
        name = getattr(self.layer, "name", None)
        return f"<Tensor of shape {self.shape} from {type(self.layer).__name__}{'' if name is None else ' ' + name}>"

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{self!r} holds no numbers: make a fastcnn.Model of it and call that on arrays")


class Input(Tensor):
    """An input of a network: the shape of a sample.

    A :class:`fastcnn.Sequential` that begins with one is built at once; layers that are called on it, one after the
    other, describe a network for :class:`fastcnn.Model`.

    Parameters
    ----------
    shape
        Sizes of one sample, such as ``(28, 28, 1)``.
    name
        What the input is called where data is given by name; None for one that the model gives.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, or the name no word.

    Examples
    --------
    >>> Input((28, 28, 1))
    Input((28, 28, 1))
    >>> Input((28, 28, 1)).shape
    (None, 28, 28, 1)
    """

    def __init__(self, shape: tuple[int, ...], name: str | None = None) -> None:
        if not isinstance(shape, (list, tuple)):
            raise TypeError(f"shape must be a tuple of sizes, got {brief(shape)}")
        super().__init__((None, *(integer(n, "shape", 1, shape) for n in shape)))
        self.name = checked_name(name)

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"Input({self.shape[1:]!r})" if self.name is None else f"Input({self.shape[1:]!r}, name={self.name!r})"


def checked_name(name: Any) -> str | None:
    """Return a name of a layer or an input, or None.

    Raises
    ------
    ValueError
        If it is no word, has a slash, or half of a character, which no file can hold.
    """
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[^/\s\ud800-\udfff]+", name)):
        raise ValueError(f"name must be a word without '/', got {name!r}")
    return name


def tensors_of(x: Any, what: str) -> tuple[Tensor, ...] | None:
    """Return the symbolic tensors that x is or lists; None where it holds none.

    Raises
    ------
    TypeError
        If only some of it are.
    """
    if isinstance(x, Tensor):
        return (x,)
    if not isinstance(x, (list, tuple)) or not any(isinstance(t, Tensor) for t in x):
        return None
    for t in x:
        if not isinstance(t, Tensor):
            raise TypeError(f"{what} must be symbolic tensors alone or arrays alone, got {brief(t)} among them")
    return tuple(x)
