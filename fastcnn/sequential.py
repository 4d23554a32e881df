"""A chain of layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from .arguments import plain, real_array
from .layers.base import Activated, Input, Layer, Shape, returned_pair
from .model import Array, Model, Tape
from .registry import register


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
        super().__init__(seed, dtype)
        self.layers: list[Layer] = []
        self._input: Input | None = None
        if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, got {layers!r}")
        for layer in layers:
            self._append(layer)
        if self._input is not None and self.layers:
            self.build((None, *self._input.shape))

    def add(self, layer: Layer | Input) -> None:
        """Put a layer at the end of a model that is not built yet.

        Raises
        ------
        TypeError, ValueError
            If it is no layer, its name is taken, or the model is built already.
        """
        if self.built:
            raise ValueError(f"layer can't be added to a model that is built, got {layer!r}")
        self._append(layer)

    def _append(self, layer: Layer | Input) -> None:
        if isinstance(layer, Input):
            if self.layers or self._input is not None:
                raise ValueError(f"layers can have an Input in the first place only, got {layer!r}")
            self._input = layer
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"layers must be layers, got {layer!r}")
        if any(layer is other for other in self.layers):
            raise ValueError(f"layers must be different objects, got {layer!r} twice")
        names = {other.name for other in self.layers}
        layer.name = layer.name or _free_name(type(layer).__name__, names)
        if layer.name in names:
            raise ValueError(f"layers must have different names, got {layer.name!r} twice")
        self.layers.append(layer)

    def _connect(self, input_shape: Shape, build: Callable[[int, Layer, Shape], Shape]) -> Shape:
        if not self.layers:
            raise ValueError("layers must hold at least one layer, got none")
        if self._input is not None and (None, *self._input.shape) != input_shape:
            raise ValueError(f"x must have shape {(None, *self._input.shape)}, got {input_shape}")
        shape = input_shape
        for index, layer in enumerate(self.layers):
            shape = build(index, layer, shape)
        return shape

    def _last_activation(self) -> str | None:
        last = self.layers[-1]
        return last.activation if isinstance(last, Activated) else None

    def _infer(self, x: Array) -> Array:
        for layer in self.layers:
            x, _ = returned_pair(layer, layer.forward(x), "forward")
        return x

    def _forward(self, x: Array, training: bool, seed: int, logits: bool) -> tuple[Array, Tape]:
        tape = []
        last = self.layers[-1] if logits else None
        for index, layer in enumerate(self.layers):
            if layer is last:
                x, cache = layer.logits(x)  # type: ignore[attr-defined]  # _last_activation has seen to it
            elif training and layer.uses_seed:
                given = layer.forward(x, True, seed=(seed + index) % 2**64)  # type: ignore[call-arg]
                x, cache = returned_pair(layer, given, "forward")
            else:
                x, cache = returned_pair(layer, layer.forward(x, training), "forward")
            tape.append(cache)
        return x, tape

    def _backward(self, grad: Array, tape: Tape) -> list[Array]:
        found: list[list[Array]] = []
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            if index:
                count = len(grad)
                grad, gradients = returned_pair(layer, layer.backward(grad, tape[index]), "backward")
                if grad.shape != (wanted := (count, *vars(layer)["_input_shape"][1:])):
                    raise ValueError(
                        f"backward of layer {layer.name} must return its input's gradient in shape {wanted}, "
                        f"got {grad.shape}"
                    )
            else:
                gradients = layer.backward_weights(grad, tape[index])
            if weights := layer.trainable_weights:
                found.append([_gradient(layer, name, gradients, weight) for name, weight in weights.items()])
        return [gradient for gradients in reversed(found) for gradient in gradients]


def _gradient(layer: Layer, name: str, gradients: dict[str, Array], weight: Array) -> Array:
    """Return the gradient of a weight as an optimiser takes it: of the weight's shape and element type."""
    if name not in gradients:
        raise ValueError(f"layer {layer.name}: backward must return a gradient for {name!r}, got {list(gradients)}")
    gradient = plain(real_array(gradients[name], f"gradient of {name}"), weight.dtype, name)
    if gradient.shape != weight.shape:
        raise ValueError(
            f"layer {layer.name}: backward must return a gradient of shape {weight.shape} for {name!r}, "
            f"got {gradient.shape}"
        )
    return gradient


def _free_name(class_name: str, taken: Any) -> str:
    """Return a class's name in Keras's way, conv2d, with a number where it is taken: conv2d_1."""
    stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", class_name).lower()
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name
