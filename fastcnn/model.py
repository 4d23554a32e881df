"""Models: training, evaluation, prediction and files, for whatever connects the layers.

A subclass such as :class:`Sequential` says how layers are connected; everything else is here. All that is random in
training is a function of a seed and of the optimiser's number of steps, so that a training that is resumed from a
file goes on exactly where it stopped.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import io, losses, metrics, nn, optimizers
from .arguments import brief, flag, float_type, fresh_seed, integer, number, plain, real_array, real_batch
from .arguments import seed as checked_seed
from .batches import ArrayBatches, Batches, batches, split
from .initializers import Initializer
from .layers.base import BUILDING, Layer, Shape, WeightSource
from .losses import Loss
from .metrics import Metric
from .optimizers import Optimizer
from .progress import History, Progress, verbosity
from .registry import Configurable, describe, restore

Array = NDArray[Any]
Tape = list[Any]

FORMAT = 1
_METADATA = "fastcnn"


class Model(Configurable):
    """Base class of models; see :class:`Sequential`.

    A subclass defines ``_connect``, which builds the layers, and the two passes ``_forward`` and ``_backward``.

    Parameters
    ----------
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
    >>> import fastcnn
    >>> isinstance(fastcnn.Sequential([]), fastcnn.Model)
    True
    """

    optimizer: Optimizer
    loss: Loss
    metrics: list[Metric]

    def __init__(self, seed: int | None = None, dtype: str = "float32") -> None:
        self.seed = fresh_seed() if seed is None else checked_seed(seed)
        self.dtype = float_type(dtype)
        self.input_shape: Shape | None = None
        self.output_shape: Shape | None = None
        self.weights: dict[str, Array] = {}

    @property
    def trainable_weights(self) -> dict[str, Array]:
        """The weights that an optimiser moves, ``"layer/weight"``: those of trainable layers."""
        return {f"{layer.name}/{n}": a for layer in self.layers for n, a in layer.trainable_weights.items()}

    # ---- what a subclass defines ----

    layers: list[Layer]

    def _connect(self, input_shape: Shape, build: Callable[[int, Layer, Shape], Shape]) -> Shape:
        """Build every layer by ``build(index, layer, its input's shape)``, and return the result's shape."""
        raise NotImplementedError

    def _forward(self, x: Array, training: bool, seed: int, logits: bool) -> tuple[Array, Tape]:
        """Return the result, or the logits that lead to it, and what backward needs."""
        raise NotImplementedError

    def _backward(self, grad: Array, tape: Tape) -> list[Array]:
        """Return the gradients of ``trainable_weights``, in their order."""
        raise NotImplementedError

    def _infer(self, x: Array) -> Array:
        """Return the result alone."""
        raise NotImplementedError

    def _last_activation(self) -> str | None:
        """Name the activation whose logits ``_forward`` can return."""
        raise NotImplementedError

    # ---- building ----

    @property
    def built(self) -> bool:
        """Whether the weights have been made."""
        return self.output_shape is not None

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for inputs of this shape, unless they are there.

        Parameters
        ----------
        input_shape
            (N, ...); N is not looked at and may be None.

        Raises
        ------
        TypeError, ValueError
            If a layer can't take what the one before it gives, or the model is built for other inputs.
        """
        if not isinstance(input_shape, (list, tuple)) or not input_shape:
            raise TypeError(f"input_shape must be a tuple that begins with the batch, got {input_shape!r}")
        self._build((None, *(integer(n, "input_shape", 1, input_shape) for n in input_shape[1:])), self._draw)

    def _build(self, input_shape: Shape, source: Callable[[int, Layer], WeightSource]) -> None:
        with BUILDING:
            self._build_alone(input_shape, source)

    def _build_alone(self, input_shape: Shape, source: Callable[[int, Layer], WeightSource]) -> None:
        if self.built:
            if input_shape != self.input_shape:
                raise ValueError(
                    f"x must have shape {self.input_shape} as the model is built for it, got {input_shape}"
                )
            return

        new = []

        def build(index: int, layer: Layer, shape: Shape) -> Shape:
            layer.dtype = layer.dtype or self.dtype
            if not layer.built:
                new.append(layer)
            try:
                return layer.build_once(shape, source(index, layer))
            except (TypeError, ValueError) as error:
                raise type(error)(f"layer {layer.name}: {error}") from error

        try:
            output_shape = self._connect(input_shape, build)
        except BaseException:
            # All or none, so that the model can be built for other inputs.
            for layer in new:
                layer.unbuild()
            raise
        self.weights = {f"{layer.name}/{n}": a for layer in self.layers for n, a in layer.weights.items()}
        self.input_shape = input_shape
        self.output_shape = output_shape

    def _draw(self, index: int, layer: Layer) -> WeightSource:
        rng = np.random.default_rng([self.seed, index])

        def source(_: str, shape: tuple[int, ...], initializer: Initializer) -> Array:
            return initializer(shape, layer.dtype, rng)

        return source

    def _prepared(self, x: ArrayLike) -> Array:
        """Return a batch in the model's element type, after building the model for it."""
        array = real_batch(x, "x")
        shape = array.shape
        if self.output_shape is None or self.input_shape is None or shape[1:] != self.input_shape[1:]:
            self._build((None, *shape[1:]), self._draw)
        return plain(array, self.dtype, "x")

    def count_params(self) -> int:
        """Return how many numbers the weights hold.

        Raises
        ------
        ValueError
            If the model is not built yet.
        """
        self._must_be_built()
        return sum(array.size for array in self.weights.values())

    def _must_be_built(self) -> None:
        if not self.built:
            raise ValueError("the model has no weights yet: call it on data, or begin it with an Input, or call build")

    # ---- training ----

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None) -> None:
        """Choose what the model is trained with.

        Parameters
        ----------
        optimizer
            "sgd", "adam", "adamw", or an :class:`fastcnn.optimizers.Optimizer`.
        loss
            A Keras string or a :class:`fastcnn.losses.Loss`. Where the last activation is a softmax or sigmoid that
            the loss knows, it works from its logits.
        metrics
            A list of Keras strings and :class:`fastcnn.metrics.Metric`; reported beside the loss.

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.
        """
        chosen = [] if metrics is None else metrics
        if isinstance(chosen, (str, Metric)):
            chosen = [chosen]
        if not isinstance(chosen, (list, tuple)):
            raise TypeError(f"metrics must be a list, got {metrics!r}")
        found = [_metric(m) for m in chosen]
        names = ["loss", *(m.name for m in found)]
        if len(set(names)) != len(names):
            raise ValueError(f"metrics must have names that differ, got {names[1:]}")
        loss = losses.get(loss)
        if loss.from_logits and self.layers and loss.activation == self._last_activation():
            warnings.warn(
                f"loss takes logits, but the last layer gives what follows a {loss.activation}, got {loss!r}",
                stacklevel=2,
            )
        self.optimizer = optimizers.get(optimizer)
        self.loss = loss
        self.metrics = found

    @property
    def compiled(self) -> bool:
        """Whether ``compile`` has been called."""
        return "loss" in vars(self)

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
            An array (N, ...), or an iterable of batches ``(x, y)`` that can be iterated over once per epoch.
        y
            What is wanted for each sample, where x is an array.
        batch_size
            Samples a step; 32 by default.
        epochs
            Passes over the data, counted from initial_epoch 0.
        verbose
            0 for silence, 1 for a bar per epoch, 2 for a line per epoch; "auto" for a bar on a terminal, else lines.
        validation_split
            Share of the samples, the last ones, that is held out.
        validation_data
            ``(x, y)`` or an iterable of batches, on which loss and metrics are computed after each epoch.
        shuffle
            Whether arrays are gone through in another order at each epoch.
        initial_epoch
            Number of the first epoch, for a training that goes on.
        steps_per_epoch
            Steps after which an epoch ends; an iterator is then gone on with, not begun anew. Where it runs out of
            batches, a warning says so and training ends.
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
            (x, y), validation_data = split(x, y, share)
        data = _with_samples(batches(x, y, batch_size), "x")
        held_out = None if validation_data is None else _validation(validation_data, batch_size)
        steps = None if steps_per_epoch is None else integer(steps_per_epoch, "steps_per_epoch")

        history = History()
        endless = _endless(data, key, shuffle, lambda: self.optimizer.iterations) if steps else None
        for epoch in range(first, last):
            order = np.random.default_rng([key, self.optimizer.iterations]) if shuffle else None
            stream = endless if endless is not None else data.epoch(order)
            total = steps or data.length
            with Progress(f"Epoch {epoch + 1:{len(str(last))}}/{last}", total, verbose) as progress:
                means = self._train_epoch(stream, steps, key, progress)
                if not means.batches:
                    raise ValueError(
                        f"x gave no batches in epoch {epoch + 1}: an iterator can be gone through only once"
                    )
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

    def _train_epoch(self, stream: Iterator[Any], steps: int | None, key: int, progress: Progress) -> _Means:
        means = _Means(self._figure_names())
        for x, y in stream:
            means.add(*self._train_batch(x, y, key))
            progress.advance(means.figures())
            if steps is not None and means.batches == steps:
                break
        return means

    def _train_batch(self, x: ArrayLike, y: ArrayLike, key: int) -> tuple[int, list[float]]:
        """Take one step; return the number of samples and the figures of the batch."""
        x = self._prepared(x)
        self.optimizer.bind(self.trainable_weights)
        value, gradients, result, tape = self._loss_and_gradients(x, y, True, key)
        figures = [value, *self._measure(y, result)]
        self.optimizer.step(gradients)
        for layer, cache in zip(self.layers, tape, strict=True):
            layer.after_step(cache)
        return len(x), figures

    def _loss_and_gradients(
        self, x: Array, y: ArrayLike, training: bool, key: int
    ) -> tuple[float, list[Array], Array, Tape]:
        loss, logits = self.loss, self._takes_logits()
        if logits:
            loss = loss.of_logits()
        iterations = self.optimizer.iterations
        # Distinct for every step and layer: an odd factor, modulo a power of two, maps no two numbers to one.
        result, tape = self._forward(x, training, (key + _ODD * (iterations << 16)) % 2**64, logits)
        value, grad = _loss(loss, y, result)
        gradients = self._backward(grad, tape)
        if self.metrics and logits:
            result = nn.activate(result, self._last_activation())
        return value, gradients, result, tape

    def _takes_logits(self) -> bool:
        """Whether the loss can work from the logits of the last activation."""
        activation = self.loss.activation
        return activation is not None and not self.loss.from_logits and activation == self._last_activation()

    def _measure(self, y: ArrayLike, result: Array) -> list[float]:
        return [_measured(metric, y, result) if len(result) else 0.0 for metric in self.metrics]

    def _figure_names(self) -> list[str]:
        return ["loss", *(metric.name for metric in self.metrics)]

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
        """
        self._must_be_compiled()
        return _alone_or_list(self._train_batch(x, y, self.seed)[1])

    def test_on_batch(self, x: ArrayLike, y: ArrayLike) -> float | list[float]:
        """Return the loss of one batch, and the metrics where there are any; as ``train_on_batch`` without a step."""
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
        """
        self._must_be_compiled()
        training = flag(training, "training")
        value, gradients, _, _ = self._loss_and_gradients(self._prepared(x), y, training, self.seed)
        return value, dict(zip(self.trainable_weights, gradients, strict=True))

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
        """
        self._must_be_compiled()
        return_dict = flag(return_dict, "return_dict")
        data = _with_samples(batches(x, y, batch_size), "x")
        with Progress("Evaluation", data.length, verbosity(verbose)) as progress:
            means = self._evaluate(data, progress)
            progress.finish(means.figures())
        return means.figures() if return_dict else _alone_or_list(list(means.figures().values()))

    def _evaluate(self, data: Batches, progress: Progress | None = None, name: str = "x") -> _Means:
        means = _Means(self._figure_names())
        for x, y in data.epoch():
            means.add(*self._test_batch(x, y))
            if progress is not None:
                progress.advance(means.figures())
        if not means.count:
            hint = "" if means.batches else ": an iterator can be gone through only once"
            raise ValueError(f"{name} must hold samples, got none{hint}")
        return means

    def _test_batch(self, x: ArrayLike, y: ArrayLike) -> tuple[int, list[float]]:
        x = self._prepared(x)
        loss, logits = self.loss, self._takes_logits()
        result, _ = self._forward(x, False, 0, logits)
        value, _ = _loss(loss.of_logits() if logits else loss, y, result)
        if self.metrics and logits:
            result = nn.activate(result, self._last_activation())
        return len(x), [value, *self._measure(y, result)]

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = 0) -> Array:
        """Return what the last layer gives for every sample, as in Keras: probabilities where it is a softmax.

        Several threads may predict with one model at a time.

        Parameters
        ----------
        x
            An array (N, ...), or an iterable of batches ``(x, y)`` whose y is not looked at.
        batch_size
            Samples that are worked on at once, 32 by default. Where another number of them makes another algorithm
            the faster one, results differ by rounding.
        verbose
            0 for silence, 1 for a bar, 2 for a line, "auto".

        Returns
        -------
        ndarray
            (N, ...).

        Raises
        ------
        TypeError, ValueError
            Naming the argument that does not fit.
        """
        data = batches(x, None, batch_size, labelled=False)
        if data.length == 1 and not verbose:
            return self.predict_on_batch(next(iter(data.epoch()))[0])
        results = []
        with Progress("Prediction", data.length, verbosity(verbose)) as progress:
            for batch, _ in data.epoch():
                results.append(self.predict_on_batch(batch))
                progress.advance({})
            progress.finish({})
        if results:
            return np.concatenate(results)
        if isinstance(data, ArrayBatches):
            return self.predict_on_batch(data.x)
        raise ValueError("x gave no batches")

    def predict_on_batch(self, x: ArrayLike) -> Array:
        """Return what the last layer gives for one batch, worked on at once.

        Parameters
        ----------
        x
            (N, ...).

        Returns
        -------
        ndarray
            (N, ...).
        """
        return self._infer(self._prepared(x))

    def __call__(self, x: ArrayLike, training: bool = False) -> Array:
        """Return the result for one batch; in training mode with the random masks of the step that would come next."""
        if not flag(training, "training"):
            return self.predict_on_batch(x)
        iterations = self.optimizer.iterations if self.compiled else 0
        return self._forward(self._prepared(x), True, (self.seed + _ODD * (iterations << 16)) % 2**64, False)[0]

    def predict_classes(self, x: Any, batch_size: int | None = None) -> NDArray[np.int64]:
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
        """
        scores = self.predict(x, batch_size)
        if scores.ndim < 2 or scores.shape[-1] != 1:
            classes: NDArray[np.int64] = scores.argmax(axis=-1)
            return classes
        threshold = 0.0 if self.compiled and self.loss.from_logits else 0.5
        return (scores[..., 0] > threshold).astype(np.int64)

    # ---- weights ----

    def get_weights(self) -> list[Array]:
        """Return copies of all weights, layer by layer, in the order of ``weights``."""
        self._must_be_built()
        return [array.copy() for array in self.weights.values()]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Set all weights, in the order of ``get_weights``; all or, where one does not fit, none.

        Raises
        ------
        TypeError, ValueError
            If there are more or fewer, or one has another shape or holds no numbers; the message names it.
        """
        self._must_be_built()
        if not isinstance(weights, (list, tuple)):
            raise TypeError(f"weights must be a list of arrays, got {brief(weights)}")
        if len(weights) != len(self.weights):
            raise ValueError(f"weights must be {len(self.weights)} arrays, got {len(weights)}")
        given = []
        for (name, old), new in zip(self.weights.items(), weights, strict=True):
            array = real_array(new, f"weights for {name}")
            if array.shape != old.shape:
                raise ValueError(f"weights for {name} must have shape {old.shape}, got {array.shape}")
            given.append(array)
        for old, new in zip(self.weights.values(), given, strict=True):
            old[...] = new

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers, the shapes of their results, and their numbers of parameters.

        Parameters
        ----------
        print_fn
            What is called with each line.
        """
        self._must_be_built()
        if not callable(print_fn):
            raise TypeError(f"print_fn must be a function of a line, got {brief(print_fn)}")
        head = ("layer", "output shape", "parameters")
        rows = [
            (f"{layer.name} ({type(layer).__name__})", str(vars(layer)["_output_shape"]), f"{layer.count_params():,}")
            for layer in self.layers
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(3)]

        def line(cells: tuple[str, str, str]) -> str:
            return f"{cells[0]:{widths[0]}}  {cells[1]:{widths[1]}}  {cells[2]:>{widths[2]}}"

        trained = sum(array.size for array in self.trainable_weights.values())
        rule = "-" * len(line(head))
        for text in (line(head), rule, *map(line, rows), rule):
            print_fn(text)
        print_fn(f"{self.count_params():,} parameters, {trained:,} of them trained")

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
            If the model is not built yet.
        """
        self._must_be_built()
        include_optimizer = flag(include_optimizer, "include_optimizer")
        assert self.input_shape is not None
        about: dict[str, Any] = {"format": FORMAT, "model": describe(self), "input_shape": list(self.input_shape)}
        arrays = dict(self.weights)
        if self.compiled:
            about["compiled"] = {
                "optimizer": describe(self.optimizer),
                "loss": describe(self.loss),
                "metrics": describe(self.metrics),
            }
            if include_optimizer:
                about["iterations"] = self.optimizer.iterations
                arrays |= {f"optimizer/{name}": array for name, array in self.optimizer.state().items()}
        io.save_arrays(path, arrays, {_METADATA: json.dumps(about)})


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
    sizes = about.get("input_shape")
    if not isinstance(sizes, list) or not sizes:
        raise ValueError(f"its input_shape must be a list, got {sizes!r}")
    left = dict(arrays)

    def stored(_: int, layer: Layer) -> WeightSource:
        def source(name: str, shape: tuple[int, ...], __: Initializer) -> Array:
            return _taken(left, f"{layer.name}/{name}", shape, layer.dtype)

        return source

    model._build((None, *(integer(n, "input_shape", 1, sizes) for n in sizes[1:])), stored)
    if "compiled" in about:
        _compile_as(model, about["compiled"])
        if "iterations" in about:
            model.optimizer.iterations = integer(about["iterations"], "iterations", 0)
        if any(name.startswith("optimizer/") for name in left):
            model.optimizer.bind(model.trainable_weights)
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
    return np.array(array)


def _compile_as(model: Model, data: Any) -> None:
    if not isinstance(data, dict) or not isinstance(data.get("metrics"), list):
        raise ValueError(f"what it was compiled with must be an object, got {data!r}")
    model.compile(
        restore(data.get("optimizer"), Optimizer),
        restore(data.get("loss"), Loss),
        [restore(m, Metric) for m in data["metrics"]],
    )


# 2^64 divided by the golden ratio, made odd.
_ODD = 0x9E3779B97F4A7C15


class _Means:
    """Means of figures over samples that come in batches."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._sums = [0.0] * len(names)
        self.count = 0
        self.batches = 0

    def add(self, samples: int, figures: list[float]) -> None:
        self.count += samples
        self.batches += 1
        self._sums = [total + samples * value for total, value in zip(self._sums, figures, strict=True)]

    def figures(self) -> dict[str, float]:
        return {name: total / max(1, self.count) for name, total in zip(self._names, self._sums, strict=True)}


def _loss(loss: Loss, y: ArrayLike, result: Array) -> tuple[float, Array]:
    """Return a loss's value and gradient, if they are such: a loss may be one's own."""
    returned = loss.value_and_gradient(y, result)
    if not (type(returned) is tuple and len(returned) == 2 and np.shape(returned[0]) == ()):
        raise TypeError(
            f"value_and_gradient of {loss!r} must return a number and an array of shape {result.shape}, "
            f"got {brief(returned)}"
        )
    gradient = real_array(returned[1], f"the gradient of {loss!r}")
    if gradient.shape != result.shape:
        raise ValueError(f"the gradient of {loss!r} must have shape {result.shape}, got {gradient.shape}")
    return float(returned[0]), plain(gradient, result.dtype, "the loss's gradient")


def _measured(metric: Metric, y: ArrayLike, result: Array) -> float:
    """Return the mean of a metric that may be one's own."""
    values = real_array(metric(y, result), f"what {metric!r} returns")
    if values.shape != (len(result),):
        raise ValueError(f"{metric!r} must return a value for each of {len(result)} samples, got shape {values.shape}")
    return float(values.mean())


def _metric(metric: Any) -> Metric:
    return metrics.get(metric)


def _validation(data: Any, batch_size: int | None) -> Batches:
    name = "validation_data"
    if isinstance(data, (tuple, list)) and data and not isinstance(data[0], tuple):
        if len(data) != 2:
            raise ValueError(f"{name} must be (x, y) or an iterable of batches, got {len(data)} values")
        x, y = data
        return _with_samples(batches(x, y, batch_size, names=(f"{name}'s x", f"{name}'s y")), name)
    return batches(data, names=(name, "y"))


def _with_samples(data: Batches, name: str) -> Batches:
    """Return data, unless it is known to be empty."""
    if isinstance(data, ArrayBatches) and data.length == 0:
        raise ValueError(f"{name} must hold samples, got an array of shape {data.x.shape}")
    return data


def _endless(data: Batches, key: int, shuffle: bool, iterations: Callable[[], int]) -> Iterator[Any]:
    """Give batches without an end, beginning anew, in another order, where the data ends."""
    while True:
        count = 0
        for batch in data.epoch(np.random.default_rng([key, iterations()]) if shuffle else None):
            count += 1
            yield batch
        if not count:
            return


def _alone_or_list(figures: list[float]) -> float | list[float]:
    return figures[0] if len(figures) == 1 else figures
