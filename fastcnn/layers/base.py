"""What every layer is: parameters, a forward and a backward; and the two kinds most layers belong to."""

from __future__ import annotations

import copy
import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from .. import initializers, nn, ops
from ..arguments import brief, flag, float_type, integer, plain, read_only, real_array, real_batch, within
from ..initializers import Initializer
from ..registry import Configurable, is_own
from ..runtime import AlignedMemory
from ..shapes import elements
from .symbolic import Shape as Shape
from .symbolic import Tensor, checked_name, tensors_of

Array = NDArray[Any]
Gradients = dict[str, Array]
WeightSource = Callable[[str, tuple[int, ...], Initializer], Array]

# Held by whoever makes weights, changes them, or makes a plan of them: threads that share a layer build it once, and
# plans are of weights between two changes. It is one for all, as layers may be in several models, and as two locks
# could be taken in either order. Whoever runs a plan does without it.
CHANGING = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits for it: the child would have it for ever from a thread that it has not.
    os.register_at_fork(before=CHANGING.acquire, after_in_parent=CHANGING.release, after_in_child=CHANGING.release)

_REVISIONS = itertools.count(1)


class Changes:
    """What has changed last, of all layers there are: so one look tells that nothing has."""

    latest = 0


class Reader(Protocol):
    """What reads weights without ``CHANGING``, and therefore has to be stopped before they change."""

    def stop(self) -> None:
        """Return when nothing reads weights any more, and before anything does again."""


class _Readers(WeakSet[Reader]):
    """The readers of a layer, which do not go with a copy of it."""

    def __reduce__(self) -> Any:
        return _Readers, ()


class Layer(Configurable):
    """Base class of layers, those of one's own too.

    A subclass has ``forward`` and ``backward``; ``build`` where it has weights; ``compute_output_shape`` where a
    forward pass would be a dear way to find that out. A layer keeps its constructor's arguments, under their names,
    and its weights, nothing of a call: what backward needs is returned by forward. So several threads may use one
    layer at a time. What a model gives forward and backward is read-only, as others read it too.

    Parameters
    ----------
    name
        What the layer is called in summaries and files; None for one that the model gives. It stays once the layer is
        built.
    dtype
        "float32" or "float64", the element type of weights and results; None for that of the model.
    trainable
        Whether an optimiser moves the weights. It may be changed before the model is compiled.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn.layers import Layer, register
    >>> @register
    ... class Square(Layer):
    ...     def forward(self, x, training=False):
    ...         return x * x, x
    ...
    ...     def backward(self, grad, x):
    ...         return 2 * grad * x, {}
    >>> Square()(np.array([[3.0]])).tolist()
    [[9.0]]
    """

    #: Arguments that must not change once the layer is built.
    settled: tuple[str, ...] = ("name",)

    #: Whether forward takes a ``seed``, the key of its random numbers, in training.
    uses_seed: bool = False

    #: Whether x, in ``forward``, is a list of arrays, one for each tensor that the layer is called on. ``build`` and
    #: ``compute_output_shape`` then take a list of shapes, and ``backward`` returns a list of gradients.
    many_inputs: bool = False

    # So a class of one's own that has no more to keep need not call the constructor below.
    name: str | None = None
    dtype: str | None = None

    #: Whether an optimiser moves the weights.
    trainable: bool = True

    #: Another number whenever a weight or an argument may have changed since ``freeze``.
    revision: int = 0

    _frozen: bool = False

    def __init__(self, name: str | None = None, dtype: str | None = None, trainable: bool = True) -> None:
        self.name = checked_name(name)
        self.dtype = None if dtype is None else float_type(dtype)
        self.trainable = trainable

    # ---- what a subclass defines ----

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of this shape, (None, ...), by ``add_weight``."""

    def forward(self, x: Any, training: bool = False) -> tuple[Array, Any]:
        """Return the result, and whatever backward needs to know.

        Parameters
        ----------
        x
            (N, ...), of the layer's element type.
        training
            Whether this is a step of training: dropout drops, batch normalisation takes the batch's statistics.
        """
        raise NotImplementedError

    def backward(self, grad: Array, cache: Any) -> tuple[Any, Gradients]:
        """Return the gradient of the input, and those of the trainable weights by name.

        Parameters
        ----------
        grad
            Gradient of the result.
        cache
            What forward returned beside the result.
        """
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Return the result's shape, (None, ...): unless a subclass knows better, that of one sample of zeros."""

        def sample(shape: Shape) -> Array:
            return np.zeros((1, *(n or 0 for n in shape[1:])), self.dtype or "float32")

        x = [sample(shape) for shape in input_shape] if self.many_inputs else sample(input_shape)
        return (None, *returned_pair(self, self.forward(x), "forward")[0].shape[1:])

    def count_flops(self, input_shape: Any, output_shape: Shape) -> int:
        """Return how many additions and multiplications a forward pass takes for one sample, activations aside."""
        return 0

    def lowered(self, input_shape: Any) -> list[ops.Op]:
        """Return what inference computes, one op after the other, which a plan may fuse with those of other layers.

        Unless a subclass knows better that is ``forward``, as it is; and so it is for a class of one's own that
        overrides ``forward`` and not this.
        """
        return [ops.Opaque(self)]

    def infer(self, x: Any) -> Array:
        """Return the result alone, outside of training."""
        result: Array = returned_pair(self, self.forward(x, False), "forward")[0]
        return result

    def backward_weights(self, grad: Array, cache: Any) -> Gradients:
        """Return the gradients of the weights alone, as the first layer of a network wants them."""
        return self.backward(grad, cache)[1]

    def learned(self, cache: Any) -> Any:
        """Return what ``after_step`` wants to know of what forward returned for backward, and what is kept until then.

        Unless a subclass knows better that is all of it where there is an ``after_step``, and nothing elsewhere.
        """
        return None if type(self).after_step is Layer.after_step else cache

    def after_step(self, learned: Any) -> None:
        """Take in what a step of training has learned besides gradients, such as running statistics."""

    # ---- weights ----

    def add_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: str | Initializer = "glorot_uniform",
        trainable: bool = True,
    ) -> Array:
        """Make a weight, which is then the attribute of that name; called from ``build``.

        Parameters
        ----------
        name
            A Python name; backward returns its gradient under it.
        shape
            All sizes at least 1.
        initializer
            A Keras string or an initialiser.
        trainable
            Whether an optimiser moves it, where it moves the layer; others, such as running statistics, are only saved.

        Returns
        -------
        ndarray
            The weight; assigning to the attribute copies into it.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.
        """
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"name of a weight must be a Python name, got {name!r}")
        if name in self.weights or hasattr(self, name):
            raise ValueError(f"name of a weight must be new to the layer, got {name!r}")
        if not isinstance(shape, (list, tuple)):
            raise TypeError(f"shape of {name} must be a tuple of sizes, got {brief(shape)}")
        trainable = flag(trainable, "trainable")
        sizes = tuple([n if type(n) is int and n > 0 else integer(n, f"shape of {name}", 1, shape) for n in shape])
        elements(sizes, name)
        source = vars(self).get("_source") or self._draw
        try:
            array = source(name, sizes, initializers.get(initializer))
        except MemoryError:
            raise MemoryError(f"there is no memory for {name} of shape {sizes}") from None
        # What is right is known at a glance; to say what is wrong takes long.
        if type(array) is not np.ndarray or array.dtype.char not in "fd":
            array = real_array(array, f"what {initializer!r} gives for {name}")
        if array.shape != sizes:
            raise ValueError(f"{initializer!r} must give {name} in shape {sizes}, got {array.shape}")
        dtype = self.dtype or "float32"
        if array.dtype != dtype or not (array.flags.carray and array.flags.owndata):
            array = np.require(array, dtype, ["C", "A", "W", "O"])
        vars(self)[name] = vars(self).setdefault("_weights", {})[name] = array
        if trainable:
            vars(self).setdefault("_trainable", []).append(name)
        return array

    def _draw(self, name: str, shape: tuple[int, ...], initializer: Initializer) -> Array:
        return initializers.drawn(initializer, shape, self.dtype or "float32", np.random.default_rng())

    @property
    def weights(self) -> Mapping[str, Array]:
        """All weights by name, in the order in which build made them; to be read, as the arrays stay the same ones."""
        return MappingProxyType(vars(self).setdefault("_weights", {}))

    @property
    def trainable_weights(self) -> dict[str, Array]:
        """The weights that an optimiser moves, by name; none where the layer is not trainable. They can be written to.

        Other ways to a weight may find it read-only, and so do these once there is a prediction: it packs copies of
        weights, which would not see the change. Assigning to the attribute always works.
        """
        state = vars(self)
        if self._frozen:
            self.thaw()
        if "_trainable" not in state or not self.trainable:
            return {}
        weights = state["_weights"]
        return {name: weights[name] for name in state["_trainable"]}

    def freeze(self, reader: Reader) -> int:
        """Make the weights read-only for a reader; return the revision, which is another one after ``thaw``.

        Whoever calls this holds ``CHANGING``, until there is something to stop.
        """
        vars(self).setdefault("_readers", _Readers()).add(reader)
        vars(self)["_frozen"] = True
        for array in self.weights.values():
            array.flags.writeable = False
        return self.revision

    def thaw(self) -> None:
        """Let the weights be changed, once no plan reads them any more.

        Whoever holds ``CHANGING`` meanwhile can be sure that no other thread freezes them before they are changed.
        """
        if self._frozen:
            with CHANGING:
                for reader in vars(self).get("_readers", ()):
                    reader.stop()
                for array in self.weights.values():
                    array.flags.writeable = True
                vars(self)["_frozen"] = False
                vars(self).pop("_readers", None)
                self._changed()

    def _changed(self) -> None:
        vars(self)["revision"] = Changes.latest = next(_REVISIONS)

    def __setattr__(self, name: str, value: Any) -> None:
        """Copy into a weight of that name, so that whoever else holds it sees the change; else set an attribute."""
        weight = vars(self).get("_weights", {}).get(name)
        if weight is None:
            if name in self.settled and self.built and getattr(self, name) not in (None, value):
                raise ValueError(f"{name} of layer {self.name} must not change once it is built, got {brief(value)}")
            if name == "trainable":
                value = flag(value, name)
            elif self.built and is_own(type(self)) and not name.startswith("_"):
                value = self._as_made(name, value)
            super().__setattr__(name, value)
            if self._frozen:
                self._changed()
        elif value is not weight:
            array = real_array(value, name)
            if array.shape != weight.shape:
                raise ValueError(f"{name} must have shape {weight.shape}, got {array.shape}")
            array = array.astype(weight.dtype, copy=False)
            with CHANGING:
                self.thaw()
                weight[...] = array

    def _as_made(self, name: str, value: Any) -> Any:
        """Return a new argument as the constructor keeps it, once that has checked it; another attribute as it is."""
        arguments = self.get_config()
        return getattr(type(self)(**{**arguments, name: value}), name) if name in arguments else value

    def __delattr__(self, name: str) -> None:
        """Delete an attribute that is no weight."""
        if name in self.weights:
            raise AttributeError(f"{name} of {self._title()} is a weight, which a layer keeps")
        super().__delattr__(name)

    def __copy__(self) -> Layer:
        """Return a layer with weights of its own, as ``copy.deepcopy`` does."""
        return copy.deepcopy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what a copy begins with; weights that lie in the bytes of a pickle become arrays of their own."""
        vars(self).update(state)
        weights = state.get("_weights", {})
        for name, array in weights.items():
            if not array.flags.owndata:
                with AlignedMemory():
                    vars(self)[name] = weights[name] = array.copy()

    def count_params(self) -> int:
        """Return how many numbers the weights hold."""
        return sum(array.size for array in self.weights.values())

    @property
    def built(self) -> bool:
        """Whether the weights have been made."""
        return "_input_shape" in vars(self)

    def build_once(self, input_shape: Any, source: WeightSource | None = None) -> Shape:
        """Build the layer unless it is built, and return the shape of its result.

        Parameters
        ----------
        input_shape
            (None, ...), or a list of such where the layer has ``many_inputs``.
        source
            What makes a weight from its name, shape and initialiser; None to draw it.

        Raises
        ------
        ValueError
            If the layer is built for inputs whose weights would have other shapes.
        """
        state = vars(self)
        if not self.built:
            with CHANGING, AlignedMemory():
                if not self.built:
                    self._build(input_shape, source)
        if state["_input_shape"] == input_shape:
            shape: Shape = state["_output_shape"]
            return shape
        twin = self._twin(input_shape)
        if [w.shape for w in twin.weights.values()] != [w.shape for w in self.weights.values()]:
            raise ValueError(
                f"x must have shape {state['_input_shape']} as the layer is built for it, got {input_shape}"
            )
        return twin.build_once(input_shape)

    def must_match_arguments(self) -> None:
        """Check that a built layer would be built the same again.

        Raises
        ------
        ValueError
            If arguments have changed since, to which other weights belong.
        """
        try:
            weights = self._twin(vars(self)["_input_shape"]).weights
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self._title()} can't be built by its arguments any more: {error}") from error
        wanted, got = ({n: (w.shape, w.dtype.name) for n, w in ws.items()} for ws in (weights, self.weights))
        if wanted != got:
            raise ValueError(f"weights of {self._title()} must be {wanted} by its arguments as they are now, got {got}")

    def _twin(self, input_shape: Any) -> Layer:
        """Return the same layer as it would be built for inputs of this shape; its weights have never been written."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        twin.unbuild()
        twin._build(input_shape, lambda _, shape, __: np.empty(shape, self.dtype or "float32"))
        return twin

    def _build(self, input_shape: Any, source: WeightSource | None) -> None:
        state = vars(self)
        state["_source"] = source
        try:
            self.build(input_shape)
            output_shape = self.compute_output_shape(input_shape)
        except BaseException:
            self.unbuild()
            raise
        finally:
            del state["_source"]
        state["_output_shape"] = output_shape
        state["_input_shape"] = input_shape

    def unbuild(self) -> None:
        """Forget the weights and the shape that they were made for."""
        state = vars(self)
        for name in [*self.weights, "_weights", "_trainable", "_input_shape", "_output_shape", "_frozen", "_readers"]:
            state.pop(name, None)

    def __call__(self, x: Any, training: bool = False, **options: Any) -> Any:
        """Return the result for a batch, building the layer at the first call; or, of symbolic tensors, another one.

        Parameters
        ----------
        x
            (N, ...), or a symbolic tensor; a list of them where the layer has ``many_inputs``.
        training
            As in ``forward``; ``seed=`` goes with it where the layer uses one.

        Raises
        ------
        TypeError, ValueError
            If the layer can't take what it is given.
        """
        training = flag(training, "training")
        tensors = tensors_of(x, "x")
        if tensors is not None:
            return self._described(x, tensors)
        arrays = [real_batch(a, "x") for a in self._inputs(x)]
        counts = [len(array) for array in arrays]
        if len(set(counts)) > 1:
            raise ValueError(f"x must hold as many samples of each input, got {counts}")
        shapes = [(None, *array.shape[1:]) for array in arrays]
        self.build_once(shapes if self.many_inputs else shapes[0])
        arrays = [plain(array, self.dtype or "float32", "x") for array in arrays]
        if not is_own(type(self)):
            arrays = read_only(arrays)
        given = self.forward(arrays if self.many_inputs else arrays[0], training, **options)
        return apart_from(arrays, [returned_pair(self, given, "forward")[0]])[0]

    def _inputs(self, x: Any) -> list[Any]:
        """Return what the layer is called on as a list."""
        if not self.many_inputs:
            return [x]
        if not isinstance(x, (list, tuple)) or not x:
            raise TypeError(f"{self._title()} must be called on a list of arrays or tensors, got {brief(x)}")
        return list(x)

    def _described(self, x: Any, tensors: tuple[Tensor, ...]) -> Tensor:
        if not self.many_inputs and not isinstance(x, Tensor):
            raise TypeError(f"{self._title()} must be called on one tensor, got a list of {len(tensors)}")
        self._inputs(x)
        shapes = [tensor.shape for tensor in tensors]
        given: Any = shapes if self.many_inputs else shapes[0]
        try:
            shape = self.build_once(given) if self.built else self._twin(given).build_once(given)
        except (TypeError, ValueError) as error:
            raise within(self._title(), error) from error
        return Tensor(shape, self, tensors)

    def _title(self) -> str:
        """Return what errors call the layer."""
        return f"layer {self.name}" if self.name else f"layer {type(self).__name__}"


def apart_from(given: Sequence[Array], results: Sequence[Array]) -> list[Array]:
    """Return results, copied where they may be views of each other or of what the caller gave, and change with it."""
    kept: list[Array] = []
    for result in results:
        shared = not result.flags.writeable or any(np.may_share_memory(result, array) for array in [*given, *kept])
        kept.append(result.copy() if shared else result)
    return kept


def returned_pair(layer: Layer, returned: Any, method: str) -> tuple[Any, Any]:
    """Return what a layer's forward or backward returned, if it is a pair.

    Raises
    ------
    TypeError
        If it is anything else, as a method of one's own may return.
    """
    if (
        type(returned) is tuple
        and len(returned) == 2
        and (isinstance(returned[0], np.ndarray) or (layer.many_inputs and method == "backward"))
        and (method == "forward" or isinstance(returned[1], dict))
    ):
        return returned
    second = "what backward needs" if method == "forward" else "a dict of the weights' gradients by name"
    raise TypeError(
        f"{method} of layer {layer.name or type(layer).__name__} must return two values, an array and {second}, "
        f"got {brief(returned)}"
    )


class Activated(Layer):
    """Base of layers that end in an activation: a subclass defines what comes before it.

    The activation is fused into the operation where there is a fused form. A model whose loss works from logits takes
    them from ``logits`` instead of ``forward``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn.layers import Dense
    >>> layer = Dense(1, activation="sigmoid", kernel_initializer="ones")
    >>> layer(np.zeros((1, 2))).tolist()
    [[0.5]]
    >>> logits, _ = layer.logits(np.zeros((1, 2), np.float32))
    >>> logits.tolist()
    [[0.0]]
    """

    activation: str | None

    def apply(self, x: Array, activation: str | None) -> Array:
        """Return the activated result."""
        raise NotImplementedError

    def apply_backward(self, grad: Array, x: Array, input_grad: bool) -> tuple[Array | None, Gradients]:
        """Return the gradients of the input (if wanted) and the weights, from that of the result before activation."""
        raise NotImplementedError

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Any]:
        """Return the activated result."""
        if training and self.activation in nn.BACK_FROM_ARGUMENT:
            z = self.apply(x, None)
            return nn.activate(z, self.activation), (x, z, True)
        y = self.apply(x, self.activation)
        return y, (x, y, False)

    def logits(self, x: Array) -> tuple[Array, Any]:
        """Return the result before the activation; backward then takes its gradient."""
        return self.apply(x, None), (x, None, False)

    def handed_on(self, x: Array) -> tuple[Array, Any]:
        """Return the activated result; backward then takes the gradient of what is before the activation.

        For whoever goes back through the activation where that is less to do, as :class:`MaxPool2D` does.
        """
        return self.apply(x, self.activation), (x, None, False)

    def backward(self, grad: Array, cache: Any) -> tuple[Array, Gradients]:
        """Return the gradients of the input and the weights."""
        dx, gradients = self._gradients(grad, cache, True)
        assert dx is not None
        return dx, gradients

    def backward_weights(self, grad: Array, cache: Any) -> Gradients:
        """Return the gradients of the weights alone."""
        return self._gradients(grad, cache, False)[1]

    def _gradients(self, grad: Array, cache: Any, input_grad: bool) -> tuple[Array | None, Gradients]:
        return self.apply_backward(self._before_activation(grad, cache), cache[0], input_grad)

    def lowered_activation(self) -> list[ops.Op]:
        """Return the activation, where there is one."""
        return [] if self.activation is None else [ops.Activation(self.activation)]

    def _before_activation(self, grad: Array, cache: Any) -> Array:
        x, kept, is_argument = cache
        if kept is None or self.activation is None:
            return grad
        if self.activation in nn.BACK_FROM_ARGUMENT and not is_argument:
            kept = self.apply(x, None)  # of a forward pass outside of training, which is rarely gone back through
        return nn.activate_backward(grad, kept, self.activation)
