"""Objects as plain data and back: what a model file may name, and nothing else.

Layers, losses, metrics, optimisers and initialisers keep their constructor's arguments as attributes of the same
names, as scikit-learn's estimators do. ``describe`` turns such an object into JSON-ready data; ``restore`` makes it
again, from classes in this registry only, so that a file can never run code of its own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from .arguments import brief

_CLASSES: dict[str, type[Configurable]] = {}

T = TypeVar("T", bound="type[Configurable]")
Kind = TypeVar("Kind", bound="Configurable")


class Configurable:
    """Base of everything that a model file can describe."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments by name, from the attributes of the same names.

        Raises
        ------
        TypeError
            If an argument is kept under no attribute of its name.
        """
        config = {}
        for name in _arguments(type(self)):
            if not hasattr(self, name):
                raise TypeError(
                    f"{type(self).__name__} must keep its argument {name!r} as the attribute self.{name} to be saved"
                )
            config[name] = getattr(self, name)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return an object of this class from what ``get_config`` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        """Return the call that makes the object, without the arguments that are at their defaults."""
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, default in _arguments(type(self)).items()
            if hasattr(self, name) and not _same(getattr(self, name), default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


@lru_cache(maxsize=512)
def _parameters(constructor: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(constructor).parameters.values())[1:]


def _arguments(cls: type) -> dict[str, Any]:
    """Return a constructor's arguments and their defaults; ``**kwargs`` stands for those of the base class."""
    arguments: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = _parameters(vars(base)["__init__"])
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                arguments.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return arguments


def register(cls: T) -> T:
    """Let model files name this class; use it as a decorator.

    Parameters
    ----------
    cls
        A layer, loss, metric, optimiser or initialiser. Its name is what files call it; a second class of that name
        takes the place of the first, unless the first is fastcnn's own.

    Returns
    -------
    type
        cls itself.

    Raises
    ------
    TypeError
        If cls is no such class.
    ValueError
        If its name is that of one of fastcnn's classes.

    Examples
    --------
    >>> from fastcnn.layers import Layer, register
    >>> @register
    ... class Double(Layer):
    ...     def forward(self, x, training=False):
    ...         return x * 2, None
    ...
    ...     def backward(self, grad, cache):
    ...         return grad * 2, {}
    """
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise TypeError(f"cls must be a layer, loss, metric, optimiser or initialiser class, got {cls!r}")
    known = _CLASSES.get(cls.__name__)
    if known is not None and is_own(known) and not is_own(cls):
        raise ValueError(f"cls must not have the name of fastcnn's own class {cls.__name__}, got {cls!r}")
    _CLASSES[cls.__name__] = cls
    return cls


def is_own(cls: type) -> bool:
    """Whether a class is of this package, not of whoever uses it."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def snake_case(name: str) -> str:
    """Return what Keras calls an object of a class of this name.

    Examples
    --------
    >>> snake_case("Conv2DTranspose"), snake_case("PReLU")
    ('conv2d_transpose', 'p_re_lu')
    """
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def describe(value: Any) -> Any:
    """Return value as data that JSON can hold: objects become ``{"class": name, "config": {...}}``.

    Raises
    ------
    TypeError
        If there is anything in it that a file could not give back.
    """
    if isinstance(value, Configurable):
        name = type(value).__name__
        if _CLASSES.get(name) is not type(value):
            raise TypeError(f"{name} is not registered and cannot be saved; decorate it with fastcnn.layers.register")
        return {"class": name, "config": {key: describe(v) for key, v in value.get_config().items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be saved in a model file")


def restore(data: Any, kind: type[Kind]) -> Kind:
    """Make the object again that :func:`describe` described; it must be of the given kind.

    Raises
    ------
    ValueError
        If data describes anything else, or its class is not registered or refuses the arguments.
    """
    noun = kind.__name__.lower()
    if not (isinstance(data, dict) and isinstance(data.get("class"), str) and isinstance(data.get("config"), dict)):
        raise ValueError(f"a {noun} must be described by its class and config, got {data!r}")
    name, config = data["class"], data["config"]
    cls = _CLASSES.get(name)
    if cls is None or not issubclass(cls, kind):
        raise ValueError(
            f"no {noun} class {name!r} is known; a class of your own must be decorated with fastcnn.layers.register "
            "before a file that names it is loaded"
        )
    try:
        made: Kind = cls.from_config({key: _restored(value) for key, value in config.items()})
        return made
    except TypeError as error:
        raise ValueError(f"{name} cannot be made from {dict(config)!r}: {error}") from error


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return restore(value, Configurable)
    if isinstance(value, list):
        return [_restored(v) for v in value]
    return value


def lookup(value: Any, name: str, kind: type[Kind], named: Mapping[str, Callable[[], Kind]]) -> Kind:
    """Return value if it is of the kind, or what the string that it is stands for.

    Parameters
    ----------
    value
        An object of the kind, or one of the strings.
    name
        The argument's name, for the error.
    kind
        The class.
    named
        What makes the object, by the string that names it.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if isinstance(value, kind):
        return value
    noun = f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string or {noun}, got {brief(value)}")
    if value.lower() not in named:
        raise ValueError(f"{name} must be one of {', '.join(named)} or {noun}, got {brief(value)}")
    return named[value.lower()]()
