"""A chain of layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .arguments import brief
from .graph import Graph
from .layers.base import Layer
from .layers.symbolic import Input
from .model import Model, numbered
from .registry import register, snake_case


@register
class Sequential(Model):
    """A model whose layers follow each other.

    Parameters
    ----------
    layers
        Layers, the first of which may be an :class:`fastcnn.Input`: then the weights are made at once, else at the
        first call, from the shape of its data.
    seed
        Determines initial weights, and, where ``fit`` gets no other, the order of samples and dropout's masks. None
        for one from the operating system.
    dtype
        "float32", or "float64" for checks of gradients: the element type of weights and results.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np, fastcnn
    >>> from fastcnn.layers import Conv2D, Dense, Flatten, MaxPool2D
    >>> model = fastcnn.Sequential([
    ...     Conv2D(8, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(10, activation="softmax")], seed=0)
    >>> model.predict(np.zeros((2, 28, 28, 1))).shape
    (2, 10)
    """

    def __init__(self, layers: Iterable[Layer | Input] = (), seed: int | None = None, dtype: str = "float32") -> None:
        self._begin(seed, dtype)
        if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, got {brief(layers)}")
        for layer in layers:
            self._append(layer)
        if self._sample_shapes and self.layers:
            self._build(self._sample_shapes, self._draw)

    def add(self, layer: Layer | Input) -> None:
        """Put a layer at the end of a model that is not built yet.

        Raises
        ------
        TypeError, ValueError
            If it is no layer, its name is taken, or the model is built already.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential()
        >>> model.add(Dense(2))
        >>> len(model.layers)
        1
        """
        if self.built:
            raise ValueError(f"layer can't be added to a model that is built, got {layer!r}")
        self._append(layer)

    def _append(self, layer: Layer | Input) -> None:
        if isinstance(layer, Input):
            if self.layers or self._sample_shapes:
                raise ValueError(f"layers can have an Input in the first place only, got {layer!r}")
            self._sample_shapes, self._inputs = [layer.shape], [layer]
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"layers must be layers, got {layer!r}")
        if layer.many_inputs:
            raise ValueError(f"layers must take one input each, got {layer!r}: connect it in a fastcnn.Model")
        if any(layer is other for other in self.layers):
            raise ValueError(f"layers must be different objects, got {layer!r} twice")
        names = [other.name for other in self.layers]
        name = layer.name or next(n for n in numbered(snake_case(type(layer).__name__)) if n not in names)
        if name in names:
            raise ValueError(f"layers must have different names, got {name!r} twice")
        layer.name = name
        self.layers.append(layer)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments by name."""
        return {"layers": self.layers, "seed": self.seed, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Sequential:
        """Return a model that ``get_config`` described, not built yet."""
        return cls(**config)

    def _traced(self) -> Graph:
        # As long as the model is not built, layers may be added.
        if self._graph is not None:
            return self._graph
        if not self.layers:
            raise ValueError("layers must hold at least one layer, got none")
        return Graph.chain(self.layers)

    def _last_activations(self) -> list[str | None]:
        return super()._last_activations() if self.layers else [None]
