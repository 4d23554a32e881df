"""Models: training, evaluation, prediction and files, for whatever connects the layers.

A :class:`Model` is made of symbolic tensors; :class:`fastcnn.Sequential` is the model of layers that follow each
other. All that is random in training is a function of a seed and of the optimiser's number of steps, so that a
training that is resumed from a file goes on exactly where it stopped.
"""

from __future__ import annotations

import copy
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import interchange, io, nn, optimizers, runtime
from .arguments import (
    brief,
    flag,
    float_type,
    fresh_seed,
    in_order,
    integer,
    number,
    plain,
    real_array,
    within,
)
from .arguments import seed as checked_seed
from .batches import ArrayBatches, Batches, batches, samples, split
from .graph import Call, Graph, Tape
from .initializers import Initializer, drawn
from .interrupts import Interrupts
from .layers.base import CHANGING, Layer, WeightSource, apart_from
from .layers.symbolic import Input, Shape, Tensor, tensors_of
from .losses import Loss
from .metrics import Metric
from .objective import Means, Objective
from .optimizers import Optimizer
from .plan import Plan, Plans, StalePlan, StepProfile, table
from .progress import History, Progress, verbosity
from .registry import Configurable, describe, register, restore, snake_case

Array = NDArray[Any]

# What is changed within it may be interrupted.
_AT_ONCE: AbstractContextManager[None] = nullcontext()

FORMAT = 1
_METADATA = "fastcnn"


@register
class Model(Configurable):
    """A network of layers between symbolic tensors, in Keras's functional style.

    Parameters
    ----------
    inputs
        An :class:`fastcnn.Input`, or a list of them: data is then a list of arrays.
    outputs
        A symbolic tensor, or a list of them: predictions, and what is wanted, are then lists of arrays. Layers that
        are called more than once are shared.
    seed
        Determines initial weights, and, where ``fit`` gets no other, the order of samples and dropout's masks. None
        for one from the operating system.
    dtype
        "float32", or "float64" for checks of gradients: the element type of weights and results.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit: if outputs need what is no input, for instance.

    Notes
    -----
    A model that is called on a symbolic tensor gives another, and shares its layers with the network that it becomes
    part of.

    Examples
    --------
    >>> import numpy as np, fastcnn
    >>> from fastcnn.layers import Add, Conv2D, Dense, GlobalAveragePooling2D
    >>> x = fastcnn.Input((28, 28, 1))
    >>> y = Conv2D(8, 3, padding="same", activation="relu")(x)
    >>> y = Add()([y, Conv2D(8, 3, padding="same", activation="relu")(y)])
    >>> model = fastcnn.Model(x, Dense(10, activation="softmax")(GlobalAveragePooling2D()(y)), seed=0)
    >>> model.predict(np.zeros((2, 28, 28, 1))).shape
    (2, 10)
    """

    optimizer: Optimizer

    def __init__(self, inputs: Any, outputs: Any, seed: int | None = None, dtype: str = "float32") -> None:
        self._begin(seed, dtype)
        named = self._describe_by(inputs, outputs)
        try:
            self._build(self._sample_shapes, self._draw)
        except BaseException:
            for layer in named:  # by what would have been
                layer.name = None
            raise

    def _begin(self, seed: int | None, dtype: str) -> None:
        self.seed = fresh_seed() if seed is None else checked_seed(seed)
        self.dtype = float_type(dtype)
        self.weights: dict[str, Array] = {}
        self.layers: list[Layer] = []
        self._graph: Graph | None = None
        # Of the inputs before the model is built, of all values then.
        self._sample_shapes: list[Shape] = []
        self._shapes: list[Shape] = []
        # Of a sample of each input: what every batch is compared with.
        self._sizes: list[Shape] = []
        self._input_names = ["x"]
        self._inputs: list[Input] = []
        self._outputs = _Described()
        # Whether all layers compute in the model's element type, as a plan does.
        self._has_one_dtype = True
        self._plans = Plans()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what a copy begins with: weights are those that its layers have taken over."""
        vars(self).update(state)
        if self.built:
            self.weights = self._named([layer.weights for layer in self.layers])
        if self.compiled:
            self.optimizer.rebind(self.weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """Return a model of its own, of one moment."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        with CHANGING:
            twin.__setstate__(copy.deepcopy(vars(self), memo))
        return twin

    def _describe_by(self, inputs: Any, outputs: Any) -> list[Layer]:
        """Take over the network between symbolic tensors; return the layers that got their names here."""
        first, last = tensors_of(inputs, "inputs"), tensors_of(outputs, "outputs")
        if first is None or not all(isinstance(tensor, Input) for tensor in first):
            raise TypeError(f"inputs must be a fastcnn.Input or a list of them, got {brief(inputs)}")
        if last is None:
            raise TypeError(f"outputs must be a symbolic tensor or a list of them, got {brief(outputs)}")
        if len({id(tensor) for tensor in first}) != len(first):
            raise ValueError(f"inputs must be different objects, got {brief(inputs)}")
        graph = Graph.between(first, last)  # type: ignore[arg-type]  # they are Inputs
        if not graph.layers:
            raise ValueError(f"outputs must come from at least one layer, got {brief(outputs)}")
        names = [tensor.name for tensor in first if isinstance(tensor, Input)]
        for index, name in enumerate(names):
            names[index] = name or next(n for n in numbered("input") if n not in names)
        if len(set(names)) != len(names):
            raise ValueError(f"inputs must have different names, got {names}")
        self._input_names = [str(name) for name in names]
        named = _name_layers(graph.layers)
        self._sample_shapes = [tensor.shape for tensor in first]
        self._inputs, self._outputs = [*first], _Described(last)  # type: ignore[list-item]  # they are Inputs
        self._graph, self.layers = graph, graph.layers
        return named

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` makes the model of again: the layers, and which is called on what."""
        graph = self._traced()
        index = {id(layer): i for i, layer in enumerate(graph.layers)}
        shapes = zip(self._sample_shapes, self._input_names, strict=True)
        return {
            "inputs": [[list(shape[1:]), name] for shape, name in shapes],
            "layers": graph.layers,
            "calls": [[index[id(call.layer)], list(call.sources)] for call in graph.calls],
            "outputs": list(graph.outputs),
            "seed": self.seed,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Model:
        """Return a model that ``get_config`` described, not built yet.

        Raises
        ------
        TypeError, ValueError
            If it describes no network.
        """
        lists = {name: config.get(name) for name in ("inputs", "layers", "calls", "outputs")}
        for name, value in lists.items():
            if not isinstance(value, list):
                raise ValueError(f"a model's {name} must be a list, got {brief(value)}")
        layers = config["layers"]
        if not all(isinstance(layer, Layer) for layer in layers):
            raise ValueError(f"a model's layers must be layers, got {brief(layers)}")
        values: list[Any] = [Input(shape, name) for shape, name in _pairs(config["inputs"], "inputs")]
        inputs = list(values)
        for layer, sources in _pairs(config["calls"], "calls"):
            layer = _entry(layers, layer, "calls")
            if not isinstance(sources, list):
                raise ValueError(f"a model's calls must say what layer {layer.name} is called on, got {brief(sources)}")
            tensors = [_entry(values, source, f"calls, to layer {layer.name},") for source in sources]
            values.append(layer(tensors if layer.many_inputs or len(tensors) != 1 else tensors[0]))
        outputs = [_entry(values, output, "outputs") for output in config["outputs"]]
        model = cls.__new__(cls)
        model._begin(config.get("seed"), config.get("dtype", "float32"))
        model._describe_by(inputs, outputs)
        return model

    def __repr__(self) -> str:
        """Return the model's class, its number of layers, and the shapes of what it takes and gives."""
        return f"<{type(self).__name__} of {len(self.layers)} layers: {self.input_shape} to {self.output_shape}>"

    @property
    def trainable_weights(self) -> dict[str, Array]:
        """The weights that an optimiser moves, ``"layer/weight"``: those of trainable layers."""
        return self._named([layer.trainable_weights for layer in self.layers])

    def _named(self, weights: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Return some weights of each layer by ``"layer/weight"``."""
        return {
            f"{layer.name}/{name}": array
            for layer, own in zip(self.layers, weights, strict=True)
            for name, array in own.items()
        }

    @property
    def trainable(self) -> bool:
        """Whether any layer is trainable. Setting it sets all layers', and belongs before ``compile``, as theirs does.

        Models that were called on tensors to become part of this one share their layers with it: they freeze together.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense, GlobalAveragePooling2D
        >>> base = fastcnn.models.resnet20_cifar(include_top=False)
        >>> base.trainable = False
        >>> head = Dense(5, activation="softmax", name="head")
        >>> x = fastcnn.Input((32, 32, 3))
        >>> model = fastcnn.Model(x, head(GlobalAveragePooling2D()(base(x))))
        >>> list(model.trainable_weights)
        ['head/kernel', 'head/bias']
        """
        return any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        value = flag(value, "trainable")
        for layer in self.layers:
            layer.trainable = value

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return the layer of a name, or of a number in ``layers``, as in Keras.

        Raises
        ------
        TypeError, ValueError
            If there is none, or not one of the two is given.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(8, name="hidden"), Dense(2)])
        >>> model.get_layer("hidden") is model.get_layer(index=0)
        True
        """
        if (name is None) == (index is None):
            raise ValueError(f"name or index must be given, and not both, got {brief(name)} and {brief(index)}")
        if index is not None:
            number = integer(index, "index", -len(self.layers))
            if number >= len(self.layers):
                raise ValueError(f"index must be that of one of {len(self.layers)} layers, got {index!r}")
            return self.layers[number]
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(str(layer.name) for layer in self.layers)
        raise ValueError(f"name must be one of {names}, got {brief(name)}")

    @property
    def inputs(self) -> list[Input]:
        """The symbolic tensors that the network begins with; with ``outputs`` they are what another is made of.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense
        >>> base = fastcnn.Sequential([fastcnn.Input((4,)), Dense(8)])
        >>> fastcnn.Model(base.inputs, Dense(2)(base.output)).output_shape
        (None, 2)
        """
        if not self._inputs:
            self._must_be_built()
            self._inputs = [Input(self._shapes[0][1:])]  # type: ignore[arg-type]  # samples have sizes
        return list(self._inputs)

    @property
    def outputs(self) -> list[Tensor]:
        """The symbolic tensors that the network ends in."""
        if not self._outputs:
            self._must_be_built()
            self._outputs[:] = self._traced().described_on(self.inputs)
        return list(self._outputs)

    @property
    def input(self) -> Any:
        """The symbolic tensor that the network begins with, or a list of them."""
        return self.inputs[0] if self._single_input else self.inputs

    @property
    def output(self) -> Any:
        """The symbolic tensor that the network ends in, or a list of them."""
        return self._given(self.outputs)

    @property
    def input_shape(self) -> Any:
        """(None, ...), or a list of such of several inputs; None where the model is not built yet."""
        shapes = self._shapes[: len(self._input_names)]
        return shapes if not self._single_input else shapes[0] if shapes else None

    @property
    def output_shape(self) -> Any:
        """(None, ...), or a list of such of several outputs; None where the model is not built yet."""
        shapes = [self._shapes[output] for output in self._traced().outputs] if self._shapes else []
        return shapes if not self._single_output else shapes[0] if shapes else None

    @property
    def _single_input(self) -> bool:
        return len(self._input_names) == 1

    @property
    def _single_output(self) -> bool:
        return self._graph is None or len(self._graph.outputs) == 1

    # ---- building ----

    @property
    def built(self) -> bool:
        """Whether the weights have been made."""
        return bool(self._shapes)

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of this shape, unless they are there.

        Parameters
        ----------
        input_shape
            (N, ...); N is not looked at and may be None. A list of such where there are several inputs.

        Raises
        ------
        TypeError, ValueError
            If a layer can't take what the one before it gives, or the model is built for other inputs.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([Dense(2)])
        >>> model.build((None, 4))
        >>> model.output_shape
        (None, 2)
        """
        shapes = [input_shape] if self._single_input else in_order(input_shape, self._input_names, "input_shape")
        for shape in shapes:
            if not isinstance(shape, (list, tuple)) or not shape:
                raise TypeError(f"input_shape must be a tuple that begins with the batch, got {brief(shape)}")
        self._build([(None, *(integer(n, "input_shape", 1, s) for n in s[1:])) for s in shapes], self._draw)

    def _traced(self) -> Graph:
        """Return the graph of the layers."""
        assert self._graph is not None
        return self._graph

    def _build(self, shapes: list[Shape], source: Callable[[int, Layer], WeightSource]) -> None:
        with CHANGING:
            self._build_alone(shapes, source)

    def _build_alone(self, shapes: list[Shape], source: Callable[[int, Layer], WeightSource]) -> None:
        graph = self._traced()
        # A chain of layers that is not built knows no shapes yet; a built model knows those of all values.
        for name, given, wanted in zip(self._input_names, shapes, self._shapes or self._sample_shapes, strict=False):
            if given != wanted:
                why = " as the model is built for it" if self.built else ""
                name = "x" if self._single_input else f"x for {name}"
                raise ValueError(f"{name} must have shape {wanted}{why}, got {given}")
        if self.built:
            return

        new = []

        def build(index: int, layer: Layer, shape: Any) -> Shape:
            if not layer.built:
                new.append((layer, layer.dtype))
            layer.dtype = layer.dtype or self.dtype
            try:
                return layer.build_once(shape, source(index, layer))
            except (TypeError, ValueError) as error:
                raise within(f"layer {layer.name}", error) from error

        try:
            built = graph.build(shapes, build)
        except BaseException:
            # All or none, so that the model can be built for other inputs.
            for layer, dtype in reversed(new):
                layer.unbuild()
                layer.dtype = dtype
            raise
        self.weights = self._named([layer.weights for layer in self.layers])
        graph.dtypes.add(self.dtype)  # of the inputs
        self._has_one_dtype = len(graph.dtypes) == 1
        self._graph, self._shapes = graph, built
        # At last: where another thread finds these it takes all else for granted.
        self._sizes = [shape[1:] for shape in shapes]

    def _draw(self, index: int, layer: Layer) -> WeightSource:
        rng = np.random.default_rng([self.seed, index])

        def source(_: str, shape: tuple[int, ...], initializer: Initializer) -> Array:
            return drawn(initializer, shape, layer.dtype, rng)

        return source

    def _prepared(self, x: Any) -> list[Array]:
        """Return a batch of each input in the model's element type, after building the model for it."""
        return [plain(array, self.dtype, "x") for array in self._batch(x)]

    def _batch(self, x: Any) -> list[Array]:
        """Return a batch of each input, in any element type, after building the model for it."""
        given = samples(x, self._input_names, "x")
        arrays = given if isinstance(given, list) else [given]
        if [array.shape[1:] for array in arrays] != self._sizes:
            self._build([(None, *array.shape[1:]) for array in arrays], self._draw)
        return arrays

    def _targets(self, y: Any) -> list[Any]:
        """Return what is wanted of each output."""
        return [y] if self._single_output else in_order(y, self._output_names, "y")

    def _given(self, results: Sequence[Any]) -> Any:
        """Return the outputs in the form in which they were described."""
        return results[0] if self._single_output else results

    @property
    def _output_names(self) -> list[str]:
        """The names of the layers that give the outputs, with a number where one gives several."""
        graph = self._traced()
        names: list[str] = []
        for output in graph.outputs:
            inside = output >= graph.inputs
            name = str(graph.calls[output - graph.inputs].layer.name) if inside else self._input_names[output]
            names.append(next(n for n in numbered(name) if n not in names))
        return names

    @property
    def _parts(self) -> tuple[list[str], list[str]]:
        """The names of inputs and outputs, as data is split into them."""
        return self._input_names, ["y"] if self._single_output else self._output_names

    def count_params(self) -> int:
        """Return how many numbers the weights hold.

        Raises
        ------
        ValueError
            If the model is not built yet.

        Examples
        --------
        >>> import fastcnn
        >>> fastcnn.models.lenet5().count_params()
        61706
        """
        self._must_be_built()
        return sum(array.size for array in self.weights.values())

    def _must_be_built(self) -> None:
        if not self.built:
            raise ValueError("the model has no weights yet: call it on data, or begin it with an Input, or call build")

    # ---- training ----

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        checkpoint_activations: bool = False,
    ) -> None:
        """Choose what the model is trained with.

        Parameters
        ----------
        optimizer
            "sgd", "adam", "adamw", or an :class:`fastcnn.optimizers.Optimizer`.
        loss
            A Keras string or a :class:`fastcnn.losses.Loss`. Where the last activation is a softmax or sigmoid that
            the loss knows, it works from its logits. Of several outputs, a list, or a dict by the names of the layers
            that give them; a single one is for every output, and their sum is what is minimised.
        metrics
            A list of Keras strings and :class:`fastcnn.metrics.Metric`; reported beside the loss. Of several outputs,
            likewise a list or a dict of such lists.
        loss_weights
            Factors of the outputs' losses in the sum, likewise.
        checkpoint_activations
            Whether training keeps the activations of a few layers only, and works the others out again on the way back
            (Chen et al., "Training deep nets with sublinear memory cost", 2016), where that takes less memory: the same
            results but for their last bits, up to a third more time.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
        >>> model.compile("sgd", fastcnn.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        >>> sorted(model.evaluate(np.ones((3, 4)), [0, 1, 1], return_dict=True))
        ['accuracy', 'loss']
        """
        objective = Objective(loss, metrics, loss_weights, self._parts[1])
        for given, activation in zip(objective.losses, self._last_activations(), strict=True):
            if given.from_logits and given.activation is not None and given.activation == activation:
                warnings.warn(
                    f"loss takes logits, but the last layer gives what follows a {given.activation}, got {given!r}",
                    stacklevel=2,
                )
        checkpoints = flag(checkpoint_activations, "checkpoint_activations")
        self.optimizer = optimizers.get(optimizer)
        self._objective = objective
        self._checkpoints = checkpoints

    def _last_activations(self) -> list[str | None]:
        """Name the activation that each output ends in, None where there is none or the graph is not known yet."""
        graph = self._traced()
        return [graph.last_activation(output) for output in graph.outputs]

    @property
    def loss(self) -> Any:
        """The :class:`fastcnn.losses.Loss` that the model is compiled with; a list where there are several outputs."""
        self._must_have("loss")
        return self._objective.losses[0] if self._single_output else self._objective.losses

    @property
    def metrics(self) -> Any:
        """The list of metrics that the model is compiled with; a list of lists where there are several outputs."""
        self._must_have("metrics")
        return self._objective.metrics[0] if self._single_output else self._objective.metrics

    @property
    def compiled(self) -> bool:
        """Whether ``compile`` has been called."""
        return "_objective" in vars(self)

    def _must_have(self, attribute: str) -> None:
        if not self.compiled:
            raise AttributeError(f"the model has no {attribute} before compile is called")

    def _must_be_compiled(self) -> None:
        if not self.compiled:
            raise ValueError("compile must be called first, with a loss")

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        seed: int | None = None,
    ) -> History:
        """Train the model.

        Parameters
        ----------
        x
            An array (N, ...), or an iterable of batches ``(x, y)`` that can be iterated over once per epoch. A dict by
            the inputs' names is taken too; of several inputs, that or a list of arrays.
        y
            What is wanted for each sample, where x is an array; of several outputs, a list of such, or a dict by the
            names of the layers that give them.
        batch_size
            Samples a step; 32 by default.
        epochs
            Passes over the data, counted from initial_epoch 0.
        verbose
            0 for silence, 1 for a bar per epoch, 2 for a line per epoch; "auto" for a bar on a terminal, else lines.
        validation_split
            Share of the samples, the last ones, that is held out.
        validation_data
            ``(x, y)`` or an iterable of batches, on which loss and metrics are computed after each epoch. The first
            batch is tried before training begins, where that uses nothing up.
        shuffle
            Whether arrays are gone through in another order at each epoch.
        initial_epoch
            Number of the first epoch, for a training that goes on.
        steps_per_epoch
            Steps after which an epoch ends; data is then gone on with, not begun anew, and a training that goes on from
            `initial_epoch` begins with the batches that it would have come to, unless they come from an iterator. Where
            that runs out of batches, a warning says so and training ends; where it gave none at all, that is an error.
        seed
            Determines order and dropout, together with the optimiser's number of steps; None for the model's seed.

        Returns
        -------
        History
            Its ``history`` holds a list per figure: loss, metrics, and the same with ``val_`` before them.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> x = np.random.default_rng(0).standard_normal((256, 4))
        >>> y = (x.sum(axis=1) > 0).astype(int)
        >>> model = fastcnn.Sequential([Dense(16, activation="relu"), Dense(2, activation="softmax")], seed=0)
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = model.fit(x, y, epochs=20, verbose=0)
        >>> history.history["accuracy"][-1] > 0.9
        True
        """
        self._must_be_compiled()
        verbose = verbosity(verbose)
        first, last = integer(initial_epoch, "initial_epoch", 0), integer(epochs, "epochs", 0)
        share = number(validation_split, "validation_split", 0.0, 1.0, open_end=True)
        key = self.seed if seed is None else checked_seed(seed)
        shuffle = flag(shuffle, "shuffle")
        if share:
            if validation_data is not None:
                raise ValueError("validation_split and validation_data can't both be given")
            (x, y), validation_data = split(x, y, share, self._parts)
        data = _with_samples(batches(x, y, batch_size, parts=self._parts), "x")
        held_out = None if validation_data is None else self._validation(validation_data, batch_size)
        steps = None if steps_per_epoch is None else integer(steps_per_epoch, "steps_per_epoch")
        if held_out is not None and not share:
            self._try_first_batch(data, held_out)

        history = History()
        endless = _endless(data, key, shuffle, lambda: self.optimizer.iterations, first * steps) if steps else None
        with ExitStack() as stack:
            stack.callback(runtime.release_memory)
            whole = stack.enter_context(Interrupts()).whole
            for epoch in range(first, last):
                order = np.random.default_rng([key, self.optimizer.iterations]) if shuffle else None
                stream = endless if endless is not None else data.epoch(order)
                total = steps or data.length
                with Progress(f"Epoch {epoch + 1:{len(str(last))}}/{last}", total, verbose) as progress:
                    means = self._train_epoch(stream, steps, key, progress, whole)
                    # An iterator may run out of batches just where an epoch ends.
                    if not means.batches and not (steps and history.epoch):
                        raise ValueError(
                            f"x gave no batches in epoch {epoch + 1}: an iterator can be gone through only once"
                        )
                    if means.batches:
                        if not means.count:
                            raise ValueError(f"x gave batches without samples alone in epoch {epoch + 1}")
                        figures = means.figures()
                        if held_out is not None:
                            found = self._evaluate(held_out, name="validation_data").figures()
                            figures |= {f"val_{name}": value for name, value in found.items()}
                        progress.finish(figures)
                        history.append(epoch, figures)
                if steps and means.batches < steps:
                    warnings.warn(
                        f"x ran out of batches in epoch {epoch + 1}, after {means.batches} of steps_per_epoch={steps}: "
                        "training ends",
                        stacklevel=2,
                    )
                    break
        return history

    def _validation(self, data: Any, batch_size: int | None) -> Batches:
        name = "validation_data"
        if isinstance(data, (tuple, list)) and data and not self._is_batch(data[0]):
            if len(data) != 2:
                raise ValueError(f"{name} must be (x, y) or an iterable of batches, got {len(data)} values")
            x, y = data
            names = (f"{name}'s x", f"{name}'s y")
            return _with_samples(batches(x, y, batch_size, names=names, parts=self._parts), name)
        return batches(data, names=(name, "y"), parts=self._parts)

    def _is_batch(self, first: Any) -> bool:
        """Whether what validation_data begins with is a batch (x, y); else it is x, of several inputs a tuple maybe."""
        is_x = not self._single_input and isinstance(first, tuple) and first and hasattr(first[0], "__array__")
        return isinstance(first, tuple) and not is_x

    def _try_first_batch(self, data: Batches, held_out: Batches) -> None:
        """Find out whether validation_data fits before an epoch has been trained, where that uses nothing up."""
        # The model is built for x, which validation_data is then compared with.
        if isinstance(data, ArrayBatches):
            self._batch(data.x)
        elif not self.built and isinstance(data.source, Sequence):
            for x, _ in itertools.islice(data.epoch(), 1):
                self._batch(x)
        if self.built and (isinstance(held_out, ArrayBatches) or isinstance(held_out.source, Sequence)):
            for x, y in itertools.islice(held_out.epoch(), 1):
                self._test_batch(x, y, "validation_data")

    def _train_epoch(
        self,
        stream: Iterator[Any],
        steps: int | None,
        key: int,
        progress: Progress,
        whole: AbstractContextManager[None],
    ) -> Means:
        means = Means(self._objective.names)
        for x, y in stream:
            means.add(*self._train_batch(x, y, key, whole))
            progress.advance(means.figures())
            if steps is not None and means.batches == steps:
                break
        return means

    def _train_batch(
        self, x: Any, y: Any, key: int, whole: AbstractContextManager[None] = _AT_ONCE
    ) -> tuple[int, list[float]]:
        """Take one step, what it changes ``whole``; return the number of samples and the figures of the batch."""
        inputs = self._prepared(x)
        if not len(inputs[0]):  # which is no step
            return 0, self._figures(inputs, y, False, keeps=False)[0]
        weights = self._traced().trainable_weights()
        with runtime.ReusingMemory():
            figures, gradients, tape = self._loss_and_gradients(inputs, y, True, key, weights)
            with CHANGING, whole:
                self._thaw()  # another thread may have predicted meanwhile
                self.optimizer.bind(self._named(weights))
                self.optimizer.step(list(gradients.values()))
                self._traced().after_step(tape)
        return len(inputs[0]), figures

    def _loss_and_gradients(
        self, inputs: list[Array], y: Any, training: bool, key: int, weights: list[dict[str, Array]]
    ) -> tuple[list[float], dict[str, Array], Tape]:
        """Return the figures of a batch, the gradients by weight, and what the layers have learned."""
        figures, grads, tape = self._figures(inputs, y, training, key)
        return figures, self._traced().backward(grads, tape, self._shapes, weights), tape

    @property
    def _steps(self) -> int:
        """How many steps of training there have been."""
        return self.optimizer.iterations if self.compiled else 0

    def _figures(
        self, inputs: list[Array], y: Any, training: bool, key: int = 0, keeps: bool = True
    ) -> tuple[list[float], list[Array], Tape]:
        """Run a batch: the losses and metrics, the gradients of the outputs, and what backward needs if it is kept."""
        graph, objective, targets = self._traced(), self._objective, self._targets(y)
        activations = self._last_activations()
        raw = [objective.takes_logits(index, activation) for index, activation in enumerate(activations)]
        logits = {output for output, is_raw in zip(graph.outputs, raw, strict=True) if is_raw}
        results, tape = graph.forward(inputs, training, key, self._steps, logits, self._checkpoints, keeps)
        figures, grads = objective.loss(targets, results, raw)
        if any(objective.metrics):
            for index, is_raw in enumerate(raw):
                if is_raw:
                    results[index] = nn.activate(results[index], activations[index])
            figures = [*figures, *objective.measured(targets, results)]
        return figures, grads, tape

    def train_on_batch(self, x: ArrayLike, y: ArrayLike) -> float | list[float]:
        """Take one step of training.

        Parameters
        ----------
        x
            (N, ...).
        y
            What is wanted for each sample.

        Returns
        -------
        float or list
            The loss before the step, and the metrics where there are any.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2, kernel_initializer="zeros")])
        >>> model.compile("sgd", "mse")
        >>> losses = [model.train_on_batch(np.ones((3, 4)), np.ones((3, 2))) for _ in range(2)]
        >>> losses[0] == 1 and losses[1] < 1
        True
        """
        self._must_be_compiled()
        return _alone_or_list(self._train_batch(x, y, self.seed)[1])

    def test_on_batch(self, x: ArrayLike, y: ArrayLike) -> float | list[float]:
        """Return the loss of one batch, and the metrics where there are any; as ``train_on_batch`` without a step.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2, kernel_initializer="zeros")])
        >>> model.compile(loss="mse")
        >>> model.test_on_batch(np.ones((3, 4)), np.full((3, 2), 3.0))
        9.0
        """
        self._must_be_compiled()
        return _alone_or_list(self._test_batch(x, y)[1])

    def loss_and_gradients(self, x: ArrayLike, y: ArrayLike, training: bool = True) -> tuple[float, dict[str, Array]]:
        """Return the loss of a batch and its gradient by every parameter, for a training loop of one's own.

        Nothing is changed, and random masks are those of the step that would come next: the same call gives the same.

        Parameters
        ----------
        x
            (N, ...).
        y
            What is wanted for each sample.
        training
            Whether dropout drops and batch normalisation takes the batch's statistics.

        Returns
        -------
        loss : float
        gradients : dict
            By parameter, ``"layer/weight"``, in the order of ``trainable_weights``.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2, kernel_initializer="zeros")])
        >>> model.compile(loss="mse")
        >>> loss, gradients = model.loss_and_gradients(np.ones((3, 4)), np.ones((3, 2)))
        >>> loss, gradients["dense/bias"].tolist()
        (1.0, [-1.0, -1.0])
        """
        self._must_be_compiled()
        training = flag(training, "training")
        inputs = self._prepared(x)
        weights = self._traced().trainable_weights()
        figures, gradients, _ = self._loss_and_gradients(inputs, y, training, self.seed, weights)
        return figures[0], gradients

    # ---- evaluation and prediction ----

    def evaluate(
        self, x: Any, y: Any = None, batch_size: int | None = None, verbose: Any = 0, return_dict: bool = False
    ) -> Any:
        """Compute loss and metrics over a set of samples.

        Parameters
        ----------
        x, y, batch_size
            As in ``fit``.
        verbose
            0 for silence, 1 for a bar, 2 for a line, "auto".
        return_dict
            Whether to return the figures by name.

        Returns
        -------
        float, list or dict
            The mean loss; with metrics a list ``[loss, *metrics]``.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2, kernel_initializer="zeros")])
        >>> model.compile(loss="mse")
        >>> model.evaluate(np.ones((5, 4)), np.full((5, 2), 2.0), batch_size=2)
        4.0
        """
        self._must_be_compiled()
        return_dict = flag(return_dict, "return_dict")
        data = _with_samples(batches(x, y, batch_size, parts=self._parts), "x")
        with Progress("Evaluation", data.length, verbosity(verbose)) as progress:
            means = self._evaluate(data, progress)
            progress.finish(means.figures())
        return means.figures() if return_dict else _alone_or_list(list(means.figures().values()))

    def _evaluate(self, data: Batches, progress: Progress | None = None, name: str = "x") -> Means:
        means = Means(self._objective.names)
        for x, y in data.epoch():
            means.add(*self._test_batch(x, y, name))
            if progress is not None:
                progress.advance(means.figures())
        if not means.count:
            hint = "" if means.batches else ": an iterator can be gone through only once"
            raise ValueError(f"{name} must hold samples, got none{hint}")
        return means

    def _test_batch(self, x: Any, y: Any, name: str = "x") -> tuple[int, list[float]]:
        """Return the number of samples and the figures of a batch; name is what the data is called in errors."""
        try:
            inputs = self._prepared(x)
            with runtime.ReusingMemory():
                return len(inputs[0]), self._figures(inputs, y, False, keeps=False)[0]
        except (TypeError, ValueError) as error:
            if name == "x":
                raise
            raise within(name, error) from error

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = 0) -> Any:
        """Return what the last layer gives for every sample, as in Keras: probabilities where it is a softmax.

        Several threads may predict with one model at a time, while another trains it or sets its weights too: each
        batch is of the weights between two changes, unless the model has layers of one's own or of another element
        type.

        Parameters
        ----------
        x
            An array (N, ...), or an iterable of batches ``(x, y)`` whose y is not looked at. A dict by the inputs'
            names is taken too; of several inputs, that or a list of arrays.
        batch_size
            Samples that are worked on at once, 32 by default. Where another number of them makes another algorithm
            the faster one, results differ by rounding.
        verbose
            0 for silence, 1 for a bar, 2 for a line, "auto".

        Returns
        -------
        ndarray or list
            (N, ...); a list of such of several outputs.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2, kernel_initializer="ones")])
        >>> model.predict(np.ones((3, 4))).tolist()
        [[4.0, 4.0], [4.0, 4.0], [4.0, 4.0]]
        """
        data = batches(x, None, batch_size, labelled=False, parts=self._parts)
        verbose = verbosity(verbose)
        if data.length == 1 and not verbose and isinstance(data, ArrayBatches):
            return self.predict_on_batch(data.x)
        results = []
        with Progress("Prediction", data.length, verbose) as progress:
            for batch, _ in data.epoch():
                results.append(self._infer(self._batch(batch)))
                progress.advance({})
            progress.finish({})
        if results:
            return self._given([np.concatenate(parts) for parts in zip(*results, strict=True)])
        if isinstance(data, ArrayBatches):
            return self.predict_on_batch(data.x)
        raise ValueError("x gave no batches")

    def predict_on_batch(self, x: Any) -> Any:
        """Return what the last layer gives for one batch, worked on at once.

        Parameters
        ----------
        x
            (N, ...), or a list of such of several inputs.

        Returns
        -------
        ndarray or list
            (N, ...), or a list of such of several outputs.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2, kernel_initializer="ones")])
        >>> model.predict_on_batch(np.ones((1, 4))).tolist()
        [[4.0, 4.0]]
        """
        return self._given(self._infer(self._batch(x)))

    def _infer(self, inputs: list[Array]) -> list[Array]:
        """Return the outputs for a batch of each input."""
        batch = len(inputs[0])
        if not batch or not self._has_one_dtype:
            results = self._traced().infer([plain(x, self.dtype, "x") for x in inputs])
            return apart_from(inputs, results)
        while True:
            plan = self._plans.get(self._traced(), self._shapes, batch, self.dtype)
            try:
                return plan.run(inputs)
            except StalePlan:  # another thread has changed weights just now
                if not plan.stale:
                    raise

    def plan(self, input_shape: Any = None) -> Plan:
        """Return how predictions are computed for batches of one size: see its ``steps`` and ``summary``.

        Batch normalisation is folded into convolutions, bias, activation and sums are worked into them, filters are
        packed or transformed, and everything between the layers has a place in memory. ``predict`` makes a plan when
        it sees a batch of a new size, keeps a few, and makes them anew where weights have changed.

        Parameters
        ----------
        input_shape
            (N, ...) as in ``build``; None for one sample.

        Raises
        ------
        TypeError, ValueError
            If the model is built for other inputs, or a layer has another element type than the model.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Conv2D, GlobalAveragePooling2D
        >>> model = fastcnn.Sequential([fastcnn.Input((8, 8, 3)), Conv2D(16, 3), GlobalAveragePooling2D()])
        >>> [step.op for step in model.plan((4, 8, 8, 3)).steps]
        ['conv 3x3', 'global avg pool']
        """
        batch = 1
        if input_shape is not None:
            self.build(input_shape)
            first = input_shape if self._single_input else in_order(input_shape, self._input_names, "input_shape")[0]
            batch = 1 if first[0] is None else integer(first[0], "input_shape", 1, first)
        self._must_be_built()
        if not self._has_one_dtype:
            others = [f"{layer.dtype} of layer {layer.name}" for layer in self.layers if layer.dtype != self.dtype]
            raise ValueError(f"all layers must have the model's dtype {self.dtype}, got {', '.join(others)}")
        return self._plans.get(self._traced(), self._shapes, batch, self.dtype)

    def profile(self, x: Any, repeats: int = 10) -> list[StepProfile]:
        """Predict a batch a few times, and return the steps of its plan with the seconds that each took at best.

        ``model.plan(x.shape).summary()`` then prints the same, :func:`fastcnn.viz.plot_profile` draws it.

        Parameters
        ----------
        x
            As in ``predict_on_batch``, with at least one sample.
        repeats
            How often.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((8,)), Dense(4), Dense(2)])
        >>> [(step.layers, step.seconds > 0) for step in model.profile(np.ones((1, 8)))]
        [(('dense',), True), (('dense_1',), True)]
        """
        repeats = integer(repeats, "repeats")
        inputs = self._batch(x)
        if not len(inputs[0]):
            raise ValueError(f"x must hold samples, got an array of shape {inputs[0].shape}")
        plan = self.plan(
            [(len(inputs[0]), *size) for size in self._sizes] if not self._single_input else inputs[0].shape
        )
        return plan.profile(inputs, repeats)

    def __call__(self, x: Any, training: bool = False) -> Any:
        """Return the result for one batch; in training mode with the random masks of the step that would come next.

        Called on a symbolic tensor, or a list of them, it gives that of the same layers called on it.
        """
        training = flag(training, "training")
        tensors = tensors_of(x, "x")
        if tensors is not None:
            return self._given(self._described_on(tensors))
        if not training:
            return self.predict_on_batch(x)
        inputs = self._prepared(x)
        results, _ = self._traced().forward(inputs, True, self.seed, self._steps)
        return self._given(apart_from(inputs, results))

    def _described_on(self, tensors: tuple[Tensor, ...]) -> list[Any]:
        if len(tensors) != len(self._input_names):
            raise ValueError(f"x must be {len(self._input_names)} tensors, got {len(tensors)}")
        return self._traced().described_on(tensors)

    def predict_classes(self, x: Any, batch_size: int | None = None) -> Any:
        """Return the most probable class of every sample.

        Parameters
        ----------
        x, batch_size
            As in ``predict``.

        Returns
        -------
        ndarray
            int64 (N, ...): the number of the largest prediction. Where there is only one, 1 if it is above 1/2, or
            above 0 where the loss works from logits.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
        >>> model.set_weights([np.eye(4, 2), np.zeros(2)])
        >>> model.predict_classes(np.eye(2, 4)).tolist()
        [0, 1]
        """
        scores = self.predict(x, batch_size)
        if not self._single_output:
            return [self._classes(array, index) for index, array in enumerate(scores)]
        return self._classes(scores, 0)

    def _classes(self, scores: Array, output: int) -> NDArray[np.int64]:
        if scores.ndim < 2 or scores.shape[-1] != 1:
            classes: NDArray[np.int64] = scores.argmax(axis=-1)
            return classes
        threshold = 0.0 if self.compiled and self._objective.losses[output].from_logits else 0.5
        return (scores[..., 0] > threshold).astype(np.int64)

    # ---- weights ----

    def get_weights(self) -> list[Array]:
        """Return copies of all weights, layer by layer, in the order of ``weights``.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
        >>> [array.shape for array in model.get_weights()]
        [(4, 2), (2,)]
        """
        self._must_be_built()
        with CHANGING:
            return [array.copy() for array in self.weights.values()]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Set all weights, in the order of ``get_weights``; all or, where one does not fit, none.

        Batches that other threads predict are of the weights before or of those after.

        Raises
        ------
        TypeError, ValueError
            If there are more or fewer, or one has another shape or holds no numbers; the message names it.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
        >>> model.set_weights([np.ones((4, 2)), np.zeros(2)])
        >>> model.predict(np.ones((1, 4))).tolist()
        [[4.0, 4.0]]
        """
        self._must_be_built()
        if not isinstance(weights, (list, tuple)):
            raise TypeError(f"weights must be a list of arrays, got {brief(weights)}")
        if len(weights) != len(self.weights):
            raise ValueError(f"weights must be {len(self.weights)} arrays, got {len(weights)}")
        given = []
        own = {id(_owner(array)) for array in self.weights.values()}
        for (name, old), new in zip(self.weights.items(), weights, strict=True):
            array = real_array(new, f"weights for {name}")
            if array.shape != old.shape:
                raise ValueError(f"weights for {name} must have shape {old.shape}, got {array.shape}")
            # Arrays of the model's own, in another order, would change while they are read.
            given.append(array.astype(old.dtype, copy=id(_owner(array)) in own))
        with CHANGING:
            self._thaw()
            for old, new in zip(self.weights.values(), given, strict=True):
                old[...] = new

    def _thaw(self) -> None:
        for layer in self.layers:
            layer.thaw()

    def load_torch_state_dict(self, state_dict: Any, allow_extra: bool = False) -> None:
        """Set all weights to those of the same network in PyTorch; all or, where one does not fit, none.

        Layers have the names of PyTorch's modules, as those of :mod:`fastcnn.models` have torchvision's. Layouts are
        converted; dense layers behind an image that is flattened get their rows in the order that it has here. Where it
        would take more than that, as where such features are added to what a dense layer makes of them, or where
        images get another shape, nothing is loaded.

        Parameters
        ----------
        state_dict
            Arrays by PyTorch's names, ``"layer.weight"`` and so on; or the path of a safetensors file of them. All
            names may begin with ``module.``; ``num_batches_tracked`` is ignored.
        allow_extra
            Whether arrays for which the model has no place are passed over, also those of element types that none of
            its weights can have: those of the last layers, where it was made with ``include_top=False``. It must find
            all of its own in any case.

        Raises
        ------
        OSError
            If there is no such file.
        TypeError, ValueError
            If it is cut off, damaged or a pickle, or its arrays are not those of the network: the message names all
            that are missing, unknown, or of other shapes. Or if a layer takes features in an order that can't be
            converted: the message names it.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((2,)), Dense(1, name="fc")])
        >>> model.load_torch_state_dict({"fc.weight": np.array([[1.0, 2.0]]), "fc.bias": np.array([3.0])})
        >>> model.predict(np.array([[10.0, 1.0]])).tolist()
        [[15.0]]
        """
        self._must_be_built()
        extra = flag(allow_extra, "allow_extra")
        self.set_weights(interchange.torch_weights(self._traced(), self._shapes, state_dict, extra))

    def load_keras_weights(self, weights: Any) -> None:
        """Set all weights to those of the same network in Keras; all or, where one does not fit, none.

        Layers that were given names of their own are matched by them; all others by the order that Keras keeps its
        layers in, as names such as ``conv2d_1`` only tell when a layer was made. Where there is a model inside the
        network, only a whole model's file tells that order, not one of weights alone. Layouts are the same. A model
        that was made with ``include_top=False`` gets them from a whole one, whose first layers are its own:
        ``base.set_weights(whole.get_weights()[: len(base.weights)])``.

        Parameters
        ----------
        weights
            The path of a ``.keras``, ``.h5`` or ``.weights.h5`` file, which takes the extra ``h5``; or arrays by
            the names ``"layer/kernel"`` and so on, which have no order: all names have to be those of the model. Such
            files, unlike safetensors, are read by the HDF5 library, which one that was damaged on purpose can crash or
            stop: load those of people you trust.

        Raises
        ------
        ImportError
            If h5py is needed and not there.
        OSError
            If there is no such file.
        TypeError, ValueError
            If it is cut off or damaged, or its arrays are not those of the network: the message names all that are
            missing, unknown, or of other shapes. Or if nothing tells the place of layers of a model inside the network.

        Examples
        --------
        >>> import numpy as np, fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((2,)), Dense(1, name="fc")])
        >>> model.load_keras_weights({"fc/kernel": np.array([[1.0], [2.0]]), "fc/bias": np.array([3.0])})
        >>> model.predict(np.array([[10.0, 1.0]])).tolist()
        [[15.0]]
        """
        self._must_be_built()
        self.set_weights(interchange.keras_weights(self._traced(), weights))

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers: the shapes of their results, their numbers of parameters and of FLOPs.

        FLOPs are the additions and multiplications of a forward pass for one sample, activations aside. Where layers
        do not simply follow each other, a column says what each is called on.

        Parameters
        ----------
        print_fn
            What is called with each line.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
        >>> model.summary()
        layer          output shape  parameters  FLOPs
        ----------------------------------------------
        dense (Dense)  (None, 2)             10     16
        ----------------------------------------------
        10 parameters, 10 of them trained; 16 FLOPs a sample
        """
        self._must_be_built()
        if not callable(print_fn):
            raise TypeError(f"print_fn must be a function of a line, got {brief(print_fn)}")
        flops = self._flops()
        rows = [
            [
                f"{layer.name} ({type(layer).__name__})",
                str(self._shapes[calls[0].target]),
                f"{layer.count_params():,}",
                f"{sum(flops[call.target] for call in calls):,}",
                ", ".join(self._value_name(source) for call in calls for source in call.sources),
            ]
            for layer, calls in self._calls_of_layers()
        ]
        head = ["layer", "output shape", "parameters", "FLOPs", "called on"]
        if self._traced().is_chain():
            head, rows = head[:-1], [row[:-1] for row in rows]
        lines = [*table(head, rows, (2, 3), "  ")]
        trained = sum(array.size for array in self.trainable_weights.values())
        for line in [*lines, lines[1]]:
            print_fn(line)
        total = sum(flops.values())
        print_fn(f"{self.count_params():,} parameters, {trained:,} of them trained; {total:,} FLOPs a sample")

    def _calls_of_layers(self) -> list[tuple[Layer, list[Call]]]:
        """Return each layer with its calls."""
        calls = self._traced().calls
        return [(layer, [call for call in calls if call.layer is layer]) for layer in self.layers]

    def _flops(self) -> dict[int, int]:
        """Return the FLOPs of each call for one sample, by the number of the value that it gives."""
        shapes = self._shapes
        return {
            call.target: call.layer.count_flops(call.argument(shapes), shapes[call.target])
            for call in self._traced().calls
        }

    def _value_name(self, value: int) -> str:
        """Return the name of the input or the layer that gives a value."""
        graph = self._traced()
        if value < graph.inputs:
            return self._input_names[value]
        return str(graph.calls[value - graph.inputs].layer.name)

    # ---- files ----

    def save(self, path: io.PathLike, include_optimizer: bool = True) -> None:
        """Write the model to a safetensors file, in one step: a crash leaves the old file whole.

        Parameters
        ----------
        path
            The file.
        include_optimizer
            Whether to write the optimiser's state too, so that training can go on exactly where it stopped.

        Raises
        ------
        OSError
            If it cannot be written.
        TypeError
            If a layer of one's own is not registered, or keeps an argument under another name.
        ValueError
            If the model is not built yet, or a layer's arguments have changed so that its weights are none for them.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
        >>> model.save("model.safetensors")
        >>> fastcnn.load("model.safetensors").count_params()
        10
        """
        self._must_be_built()
        include_optimizer = flag(include_optimizer, "include_optimizer")
        for layer in self.layers:
            layer.must_match_arguments()
        about: dict[str, Any] = {"format": FORMAT, "model": describe(self)}
        # What layers that follow each other are built for; other models say so themselves.
        if self._single_input:
            about["input_shape"] = list(self.input_shape)
        with CHANGING:  # what is written is of one moment
            arrays = dict(self.weights)
            if self.compiled:
                about["compiled"] = {
                    "optimizer": describe(self.optimizer),
                    "loss": describe(self.loss),
                    "metrics": describe(self.metrics),
                }
                if self._checkpoints:
                    about["compiled"]["checkpoint_activations"] = True
                if set(self._objective.weights) != {1.0}:
                    about["compiled"]["loss_weights"] = self._objective.weights
                if include_optimizer:
                    about["iterations"] = self.optimizer.iterations
                    arrays |= {f"optimizer/{name}": array for name, array in self.optimizer.state().items()}
            io.save_arrays(path, arrays, {_METADATA: json.dumps(about)})

    def save_weights(self, path: io.PathLike) -> None:
        """Write the weights alone to a safetensors file, by the names that they have in ``weights``, in one step.

        Raises
        ------
        OSError
            If it cannot be written.
        ValueError
            If the model is not built yet.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn.layers import Dense
        >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
        >>> model.save_weights("weights.safetensors")
        >>> model.load_weights("weights.safetensors")
        """
        self._must_be_built()
        with CHANGING:
            io.save_arrays(path, self.weights, {})

    def load_weights(self, path: io.PathLike, allow_extra: bool = False) -> None:
        """Set all weights to those of a file of the same network; all or, where one does not fit, none.

        Parameters
        ----------
        path
            What ``save_weights`` or ``save`` wrote.
        allow_extra
            As in ``load_torch_state_dict``.

        Raises
        ------
        OSError
            If there is no such file.
        TypeError, ValueError
            If it is cut off or damaged, or its arrays are not those of the network: the message names all that are
            missing, unknown, or of other shapes.

        Examples
        --------
        >>> import fastcnn
        >>> whole = fastcnn.models.resnet20_cifar()
        >>> whole.save_weights("weights.safetensors")
        >>> base = fastcnn.models.resnet20_cifar(include_top=False)
        >>> base.load_weights("weights.safetensors", allow_extra=True)
        """
        self._must_be_built()
        extra = flag(allow_extra, "allow_extra")
        skipped: set[str] | None = set() if extra else None
        arrays, texts = io.load_arrays(path, skipped=skipped)
        if _METADATA in texts:
            arrays = {n: a for n, a in arrays.items() if n in self.weights or not n.startswith("optimizer/")}
        self.set_weights(interchange.own_weights(self.weights, arrays, io.titled(path, skipped), extra))


def load(path: io.PathLike) -> Model:
    """Read a model that ``save`` wrote. A file can name no classes but fastcnn's and registered ones, and run no code.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Model
        Compiled as it was, with the optimiser's state where that was saved.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is cut off, damaged, no model file, names an unknown class, or its arrays are not those of its model.

    Examples
    --------
    >>> import numpy as np, fastcnn
    >>> from fastcnn.layers import Dense
    >>> model = fastcnn.Sequential([fastcnn.Input((4,)), Dense(2)])
    >>> model.save("model.safetensors")
    >>> same = fastcnn.load("model.safetensors")
    >>> bool((same.predict(np.ones((1, 4))) == model.predict(np.ones((1, 4)))).all())
    True
    """
    arrays, texts = io.load_arrays(path)
    try:
        return _restored(arrays, texts)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _restored(arrays: dict[str, Array], texts: dict[str, str]) -> Model:
    if _METADATA not in texts:
        raise ValueError("it holds arrays, but no fastcnn model")
    about = json.loads(texts[_METADATA])
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise ValueError(f"its format must be {FORMAT}, got {found!r}; a newer fastcnn may read it")
    model = restore(about.get("model"), Model)
    shapes = model._sample_shapes
    if not shapes:
        sizes = about.get("input_shape")
        if not isinstance(sizes, list) or not sizes:
            raise ValueError(f"its input_shape must be a list, got {brief(sizes)}")
        shapes = [(None, *(integer(n, "input_shape", 1, sizes) for n in sizes[1:]))]
    left = dict(arrays)

    def stored(_: int, layer: Layer) -> WeightSource:
        def source(name: str, shape: tuple[int, ...], __: Initializer) -> Array:
            return _taken(left, f"{layer.name}/{name}", shape, layer.dtype)

        return source

    model._build(shapes, stored)
    if "compiled" in about:
        _compile_as(model, about["compiled"])
        if "iterations" in about:
            model.optimizer.iterations = integer(about["iterations"], "iterations", 0)
        # Of the layers that were trained; others may be trainable by now.
        trained = {name.split("/", 2)[2] for name in left if name.startswith("optimizer/") and name.count("/") > 1}
        if trained:
            model.optimizer.bind({name: array for name, array in model.weights.items() if name in trained})
            for name, slot in model.optimizer.state().items():
                slot[...] = _taken(left, f"optimizer/{name}", slot.shape, slot.dtype)
    if left:
        raise ValueError(f"it holds arrays that the model has not: {', '.join(sorted(left))}")
    return model


def _taken(arrays: dict[str, Array], name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    if name not in arrays:
        raise ValueError(f"it lacks the array {name} of shape {shape}")
    array = arrays.pop(name)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
    return array


def _compile_as(model: Model, data: Any) -> None:
    if not isinstance(data, dict) or not isinstance(data.get("metrics"), list):
        raise ValueError(f"what it was compiled with must be an object, got {brief(data)}")

    def each(kind: Any, value: Any) -> Any:
        return [each(kind, v) for v in value] if isinstance(value, list) else restore(value, kind)

    model.compile(
        restore(data.get("optimizer"), Optimizer),
        each(Loss, data.get("loss")),
        each(Metric, data["metrics"]),
        data.get("loss_weights"),
        data.get("checkpoint_activations", False),
    )


class _Described(list[Tensor]):
    """The tensors that a network ends in. They lead to its layers, so that a copy of a model has to make its own."""

    def __reduce__(self) -> Any:
        return _Described, ()


def _owner(array: Array) -> Array:
    """Return the array whose memory an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _with_samples(data: Batches, name: str) -> Batches:
    """Return data, unless it is known to be empty."""
    if isinstance(data, ArrayBatches) and data.length == 0:
        first = data.x[0] if isinstance(data.x, list) else data.x
        raise ValueError(f"{name} must hold samples, got an array of shape {first.shape}")
    return data


def _endless(data: Batches, key: int, shuffle: bool, iterations: Callable[[], int], done: int) -> Iterator[Any]:
    """Give batches without an end, beginning anew, in another order, where the data ends.

    Of a training that goes on after so many steps the first are those that it would have come to.
    """
    skipped = done % data.length if data.length and not isinstance(data.source, Iterator) else 0
    while True:
        count = 0
        order = np.random.default_rng([key, max(0, iterations() - skipped)]) if shuffle else None
        for batch in itertools.islice(data.epoch(order), skipped, None):
            count += 1
            yield batch
        if not count:
            return
        skipped = 0


def _alone_or_list(figures: list[float]) -> float | list[float]:
    return figures[0] if len(figures) == 1 else figures


def _pairs(values: list[Any], what: str) -> list[tuple[Any, Any]]:
    for value in values:
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"a model's {what} must be pairs, got {brief(value)}")
    return [(value[0], value[1]) for value in values]


def _entry(values: list[Any], index: Any, what: str) -> Any:
    """Return values[index] for an index from a file."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(values):
        raise ValueError(f"a model's {what} must name what comes before, one of {len(values)}, got {index!r}")
    return values[index]


def _name_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Give each layer that has no name one of its own; return these layers.

    Raises
    ------
    ValueError
        If two have the same.
    """
    names: set[str] = set()
    for name in [layer.name for layer in layers if layer.name is not None]:
        if name in names:
            raise ValueError(
                f"layers must have different names, got {name!r} twice: give one of them another, before it is built"
            )
        names.add(name)
    # One run through the candidates of a class serves all of its layers: a network may have thousands.
    candidates = {cls: numbered(snake_case(cls.__name__)) for cls in {type(layer) for layer in layers}}
    unnamed = [layer for layer in layers if layer.name is None]
    for layer in unnamed:
        layer.name = next(name for name in candidates[type(layer)] if name not in names)
        names.add(layer.name)
    return unnamed


def numbered(name: str) -> Iterator[str]:
    """Give a name, then the same with numbers: conv2d, conv2d_1, ..."""
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(1))
