"""Graphs: which layer is called on what, in order, and the passes through them.

A network's values are numbered: first its inputs, then the result of each call. A call comes after what it is called
on, so that a pass forward is a loop over the calls, and a pass backward the same loop from the end. A layer that is
called several times is shared: its gradients add up. In training, normalisations, sums, activations and max poolings
are done by the layers beside them where these can.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nn, ops
from .arguments import plain, read_only, real_array
from .layers.activation import Activation, ReLU, ReLU6
from .layers.base import Activated, Layer, returned_pair
from .layers.conv import Conv2D, DepthwiseConv2D
from .layers.merging import Add
from .layers.normalization import BatchNormalization
from .layers.pooling import MaxPool2D
from .layers.regularization import Dropout
from .layers.symbolic import Input, Shape, Tensor
from .nn.activations import FUSED
from .registry import is_own
from .shapes import elements

Array = NDArray[Any]

# 2^64 divided by the golden ratio, made odd.
_ODD = 0x9E3779B97F4A7C15

# What the layers compute that may be fused with the one after them.
FOLLOWED = tuple(layer.forward for layer in (BatchNormalization, Activated, Add, Activation, ReLU, ReLU6))


@dataclass(frozen=True)
class Call:
    """One call of a layer: the numbers of the values that it takes, and of the one that it gives."""

    layer: Layer
    sources: tuple[int, ...]
    target: int

    def argument(self, values: Mapping[int, Any] | Sequence[Any]) -> Any:
        """Return what the layer is called on, of values by number: one, or a list of them."""
        if self.layer.many_inputs:
            return [values[source] for source in self.sources]
        return values[self.sources[0]]


@dataclass(frozen=True)
class Done:
    """What backward finds of a sum, a relu or a max pooling that the layer before it has done on the way.

    ``relu`` is the name and the result of one that the normalisation does not go back through itself, as behind a sum.
    """

    relu: tuple[str, Array] | None = None

    def backward(self, pending: _Sums, value: int) -> Array:
        """Return the gradient before the relu, whose result is the value of that number."""
        if self.relu is None:
            return pending.pop_sum(value)
        name, y = self.relu
        first, *second = pending.pop(value)
        return nn.activate_backward(first, y, name, *second)


@dataclass
class Part:
    """Calls first to last - 1 of a pass, and the values that they take from before: enough to do them again."""

    first: int
    last: int
    values: dict[int, Any]


@dataclass
class Tape:
    """What backward needs of a pass: of each call what forward returned beside the result, or the part it belongs to.

    ``training``, ``seed``, ``step`` and ``logits`` are those of the pass, so that a part that is done again gives the
    same.
    """

    entries: list[Any]
    parts: list[Part]
    training: bool
    seed: int
    step: int
    logits: Set[int]


class Graph:
    """The calls of a network in order, and which values are its results.

    Parameters
    ----------
    inputs
        Number of inputs.
    calls
        Layers with the numbers of the values that they take; the i-th call gives the value ``inputs + i``.
    outputs
        The numbers of the results.
    """

    def __init__(self, inputs: int, calls: Sequence[tuple[Layer, tuple[int, ...]]], outputs: Sequence[int]) -> None:
        self.inputs = inputs
        self.outputs = tuple(outputs)
        self.calls = [Call(layer, sources, inputs + i) for i, (layer, sources) in enumerate(calls)]
        self.layers = list({id(call.layer): call.layer for call in self.calls}.values())
        last_use = {source: i for i, call in enumerate(self.calls) for source in call.sources}
        for output in self.outputs:
            last_use.pop(output, None)
        # Of each call the values that nothing needs after it.
        self._freed = [[v for v in set(call.sources) if last_use.get(v) == i] for i, call in enumerate(self.calls)]
        # Of a layer that could be fused with the one after it, whose result is for one call alone, the index of that.
        users: dict[int, list[int]] = {}
        for i, call in enumerate(self.calls):
            for source in call.sources:
                users.setdefault(source, []).append(i)
        self._followers = {
            i: users[call.target][0]
            for i, call in enumerate(self.calls)
            if type(call.layer).forward in FOLLOWED
            and len(users.get(call.target, [])) == 1
            and call.target not in self.outputs
        }
        # Of layers from elsewhere, which might change in place what others read too.
        self._guarded = {i for i, call in enumerate(self.calls) if not is_own(type(call.layer))}
        self._normalizes = any(type(layer) is BatchNormalization for layer in self.layers)
        # Elements of each call's result for one sample, once the graph is built.
        self._sizes = [1] * len(self.calls)
        # The first and last calls of the parts that a pass with checkpoints is made of, once there is one.
        self._parts: list[tuple[int, int]] | None = None
        #: The element types that its layers compute in, likewise; and that of its inputs, which the model adds.
        self.dtypes: set[str | None] = set()

    @classmethod
    def chain(cls, layers: Sequence[Layer]) -> Graph:
        """Return the graph of layers that follow each other."""
        return cls(1, [(layer, (index,)) for index, layer in enumerate(layers)], [len(layers)])

    @classmethod
    def between(cls, inputs: Sequence[Input], outputs: Sequence[Tensor]) -> Graph:
        """Return the graph of the layers that lead from inputs to outputs.

        Raises
        ------
        ValueError
            If an output needs another input, an input leads nowhere, or a layer's result leads back to it.
        """
        numbers = {id(tensor): i for i, tensor in enumerate(inputs)}
        calls: list[tuple[Layer, tuple[int, ...]]] = []
        open_ones: set[int] = set()
        # Depth first, without recursion, which Python allows a thousand layers only.
        stack = list(reversed(outputs))
        while stack:
            tensor = stack[-1]
            if id(tensor) in numbers:
                stack.pop()
                continue
            if tensor.layer is None:
                users = [f": {user!r} needs it" for user in stack if any(s is tensor for s in user.sources)]
                raise ValueError(
                    f"inputs must hold all that the outputs need, but {tensor!r} is not among them{''.join(users[-1:])}"
                )
            missing = [source for source in tensor.sources if id(source) not in numbers]
            if missing and id(tensor) in open_ones:
                raise ValueError(f"outputs must come from inputs, but {tensor!r} needs its own result")
            open_ones.add(id(tensor))
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            numbers[id(tensor)] = len(inputs) + len(calls)
            calls.append((tensor.layer, tuple(numbers[id(source)] for source in tensor.sources)))
        used = {source for _, sources in calls for source in sources} | {numbers[id(tensor)] for tensor in outputs}
        for number, tensor in enumerate(inputs):
            if number not in used:
                raise ValueError(f"inputs must lead to the outputs, but nothing that does uses {tensor!r}")
        return cls(len(inputs), calls, [numbers[id(tensor)] for tensor in outputs])

    def is_chain(self) -> bool:
        """Whether each call takes what the one before it gave, and nothing else."""
        return all(call.sources == (i,) for i, call in enumerate(self.calls)) and self.outputs == (len(self.calls),)

    def described_on(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of the same calls, by the same layers, on other symbolic tensors."""
        values = list(inputs)
        for call in self.calls:
            values.append(call.layer(call.argument(values)))
        return [values[output] for output in self.outputs]

    def build(self, input_shapes: Sequence[Shape], build: Callable[[int, Layer, Any], Shape]) -> list[Shape]:
        """Build every layer by ``build(its index, layer, its input's shape)``; return the shapes of all values."""
        shapes = list(input_shapes)
        index = {id(layer): i for i, layer in enumerate(self.layers)}
        for call in self.calls:
            shapes.append(build(index[id(call.layer)], call.layer, call.argument(shapes)))
        self._sizes = [elements(shape, "result") for shape in shapes[self.inputs :]]
        self._parts = None
        self.dtypes = {layer.dtype for layer in self.layers}
        return shapes

    def last_activation(self, output: int) -> str | None:
        """Name the activation that gives an output, where ``forward`` can return its logits instead."""
        is_used_again = self.outputs.count(output) > 1 or any(output in call.sources for call in self.calls)
        if output < self.inputs or is_used_again:
            return None
        layer = self.calls[output - self.inputs].layer
        return layer.activation if isinstance(layer, Activated) else None

    def infer(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the outputs alone; what is between is let go of as soon as nothing needs it any more."""
        return self.forward(inputs, False, keeps=False)[0]

    def forward(
        self,
        inputs: Sequence[Array],
        training: bool,
        seed: int = 0,
        step: int = 0,
        logits: Set[int] = frozenset(),
        checkpoints: bool = False,
        keeps: bool = True,
    ) -> tuple[list[Array], Tape]:
        """Return the outputs, and what backward needs.

        Parameters
        ----------
        inputs
            As many arrays as the graph has inputs.
        training
            Whether this is a step of training.
        seed, step
            The numbers that all random masks of a training pass are functions of, beside the call.
        logits
            The numbers of outputs of which not the result of the activation, but the logits are wanted.
        checkpoints
            Whether only what some parts of the graph begin with is kept, and backward does the rest again, where that
            takes less memory.
        keeps
            Whether there will be a backward; without one nothing is kept for it.
        """
        tape = Tape([None] * len(self.calls), [], training, seed, step, logits)
        values: list[Any] = [*inputs, *[None] * len(self.calls)]
        parts = [(0, len(self.calls))]
        if checkpoints and keeps:
            self._parts = parts = self._parts or self._cut()
        for first, last in parts:
            is_last = last == len(self.calls)  # of the last part backward needs everything at once
            if not is_last:
                taken = {source for call in self.calls[first:last] for source in call.sources}
                before = {value: values[value] for value in taken if value < self.inputs + first}
                tape.parts.append(Part(first, last, before))
            self._run(values, first, last, tape, keeps and is_last)
        results = [values[output] for output in self.outputs]
        if len(self.dtypes) > 1:  # what is done on the way is done in the type of the layer before
            results = [_as_type(r, self._dtype(output)) for r, output in zip(results, self.outputs, strict=True)]
        return results, tape

    def _dtype(self, value: int) -> str | None:
        """Return the element type of the layer that gives a value; an input keeps its own."""
        return self.calls[value - self.inputs].layer.dtype if value >= self.inputs else None

    def _run(self, values: Any, first: int, last: int, tape: Tape, keeps: bool) -> None:
        """Add the results of some calls to the values by number; what backward needs goes to the tape if it is kept."""
        done: dict[int, Done] = {}  # by index: sums, relus and max poolings that the layer before has done on the way
        between = tape.training and self._normalizes  # whether anything may stay unwritten
        pooled = None  # the index of a max pooling that goes back through the activation of the layer before it
        for index in range(first, last):
            call = self.calls[index]
            layer, x = call.layer, call.argument(values)
            given: Any
            is_array = True
            if len(self.dtypes) > 1:
                x = _as_type(x, layer.dtype)
            if index in self._guarded:
                x = read_only(x)
            if index in done:
                given, is_array = (values[call.target - 1], done.pop(index)), False
            elif index == pooled:
                given = layer.activated(x, self.calls[index - 1].layer.activation)  # type: ignore[attr-defined]
            elif between and self._is_measured(index, last):
                given, is_array = layer.measured(x), False  # type: ignore[attr-defined]  # it is a convolution
            elif (after := self._after_normalization(index, last, values)) is not None:
                relu, residual = after
                if between and residual is None and self._leaves_result(index, index + 1, last):
                    given, is_array = layer.unwritten(x, relu), False  # type: ignore[attr-defined]  # it normalises
                else:
                    given = layer.activated(x, tape.training, relu, residual)  # type: ignore[attr-defined]
                done[index + 1] = Done()
                if relu is not None and residual is not None:
                    done[index + 2] = Done((relu, given[0]))
            elif between and self._leaves_result(index, index, last):
                given, is_array = layer.unwritten(x, layer.activation), False  # type: ignore[attr-defined]
            elif tape.training and (pool := self._pool_after(index, last)) is not None:
                if self._pools(index, pool):
                    given = layer.pooled(x)  # type: ignore[attr-defined]  # it is a convolution
                    done[index + 1] = Done()
                else:
                    pooled = index + 1
                    given = layer.handed_on(x)  # type: ignore[attr-defined]  # it is activated
            elif call.target in tape.logits:
                given = layer.logits(x)  # type: ignore[attr-defined]  # last_activation has seen to it
            elif tape.training and layer.uses_seed:
                given = layer.forward(x, True, seed=self._seed(index, tape))  # type: ignore[call-arg]
            else:
                given = layer.forward(x, tape.training)
            values[call.target], cache = returned_pair(layer, given, "forward") if is_array else given
            if keeps:
                tape.entries[index] = cache
            for value in self._freed[index]:
                values[value] = None

    def _seed(self, index: int, tape: Tape) -> int:
        """Return the seed of a call's random numbers: of its index, the pass's seed and the step.

        Where a dropout has a seed of its own, of the step and the calls of the layer before this one alone.
        """
        layer = self.calls[index].layer
        # Distinct for every step and call: an odd factor, modulo a power of two, maps no two numbers to one.
        step = _ODD * (tape.step << 16)
        if isinstance(layer, Dropout) and layer.seed is not None:
            return (step + 1 + sum(call.layer is layer for call in self.calls[:index])) % 2**64
        return (tape.seed + step + index) % 2**64

    def _after_normalization(self, index: int, last: int, values: Any) -> tuple[str | None, Array | None] | None:
        """Return the relu after a normalisation without activation, and what is added between, where either is there.

        That is for calls that follow at once, and are the only ones to take what the one before gives.
        """
        call = self.calls[index]
        if not isinstance(call.layer, BatchNormalization) or call.layer.activation:
            return None
        residual = None
        follower = self._follower(index, last)
        if follower is not None and type(follower.layer) is Add and len(follower.sources) == 2:
            (other,) = (values[source] for source in follower.sources if source != call.target)
            x = values[call.sources[0]]
            if other.shape == x.shape:
                residual = other
                index += 1
        relu = self._relu_after(index, last)
        return None if residual is None and relu is None else (relu, residual)

    def _follower(self, index: int, last: int) -> Call | None:
        """Return the next call, where it alone takes what this one gives."""
        return self.calls[index + 1] if self._followers.get(index) == index + 1 < last else None

    def _relu_after(self, index: int, last: int) -> str | None:
        """Name the relu that the next call is, where it alone takes what this one gives."""
        follower = self._follower(index, last)
        if follower is None:
            return None
        relu = follower.layer
        if type(relu) not in (Activation, ReLU, ReLU6):
            return None
        (op,) = relu.lowered(())
        name = op.named() if isinstance(op, ops.Activation) else None
        return name if name in FUSED else None

    def _pool_after(self, index: int, last: int) -> MaxPool2D | None:
        """Return the layer that takes the maxima of this call's result, alone and next, where this ends in a relu."""
        layer, follower = self.calls[index].layer, self._follower(index, last)
        if follower is None or not isinstance(layer, Activated) or layer.activation not in FUSED:
            return None
        pool = follower.layer
        return pool if type(pool) is MaxPool2D and pool.counts else None

    def _pools(self, index: int, pool: MaxPool2D) -> bool:
        """Whether a call is a convolution that takes the maxima of the layer after it on its way."""
        (op,) = pool.lowered(())
        return type(self.calls[index].layer) is Conv2D and isinstance(op, ops.Pool) and op.halves

    def _is_bare(self, index: int) -> bool:
        """Whether a call is a convolution that has no bias and no activation, which can work on what is unwritten."""
        layer = self.calls[index].layer
        return type(layer) in (Conv2D, DepthwiseConv2D) and not layer.use_bias and layer.activation is None  # type: ignore[attr-defined]

    def _is_measured(self, index: int, last: int) -> bool:
        """Whether a call is such a convolution, and in training a normalisation alone takes its result, next."""
        follower = self._follower(index, last)
        return (
            follower is not None
            and type(follower.layer) is BatchNormalization
            and follower.layer.trainable
            and self._is_bare(index)
        )

    def _leaves_result(self, index: int, end: int, last: int) -> bool:
        """Whether a normalisation need not be written: in training such a convolution alone takes what it gives, next.

        ``end`` is the index of the relu that it does on the way, or its own.
        """
        layer = self.calls[index].layer
        return (
            type(layer) is BatchNormalization
            and (layer.activation is None or layer.activation in FUSED)
            and self._follower(end, last) is not None
            and self._is_measured(end + 1, last)
        )

    def _leaves_gradient(self, index: int) -> bool:
        """Whether a normalisation need not write its input's gradient, for such a convolution just before."""
        return (
            type(self.calls[index].layer) is BatchNormalization
            and self._followers.get(index - 1) == index
            and self._is_bare(index - 1)
        )

    def _cut(self) -> list[tuple[int, int]]:
        """Return the calls in parts, of which it takes little memory to keep what they begin with, and do them again.

        Of up to as many parts as the root of the number of calls, with results about equally large, those that take
        least; one part where that is not a tenth less. None ends between calls that are done together.
        """
        sizes = [0 if self._is_passed_on(index) else size for index, size in enumerate(self._sizes)]
        sums = [0, *itertools.accumulate(sizes)]
        # On the way back: the results up to a call's, and the gradients of that and of what it takes.
        needs = [
            sums[index + 1]
            + size
            + sum(sizes[source - self.inputs] for source in call.sources if source >= self.inputs)
            for index, (call, size) in enumerate(zip(self.calls, sizes, strict=True))
        ]
        found: list[tuple[int, list[tuple[int, int]]]] = []
        for count in range(1, math.isqrt(len(self.calls)) + 1):
            edges = {0, len(self.calls)}
            for part in range(1, count):
                edge = bisect.bisect_left(sums, sums[-1] * part / count)
                while 0 < edge < len(self.calls) and self._goes_on(edge - 1):
                    edge += 1
                edges.add(edge)
            parts = list(itertools.pairwise(sorted(edges)))
            kept = {
                source - self.inputs
                for first, last in parts
                for call in self.calls[first:last]
                for source in call.sources
                if self.inputs <= source < self.inputs + first
            }
            most = max(max(needs[first:last]) - sums[first] for first, last in parts)
            found.append((sum(self._sizes[index] for index in kept) + most, parts))
        least = min(found)
        return least[1] if 10 * least[0] < 9 * found[0][0] else found[0][1]

    def _goes_on(self, index: int) -> bool:
        """Whether a call and the next one are done together in training."""
        return self._is_passed_on(index) or self._is_measured(index, len(self.calls))

    def _is_passed_on(self, index: int) -> bool:
        """Whether a call's result is not written in training, as the next one is done with it."""
        end, layer = len(self.calls), self.calls[index].layer
        if type(layer) is Add:
            before = self.calls[index - 1].layer if self._followers.get(index - 1) == index else None
            return type(before) is BatchNormalization and self._relu_after(index, end) is not None
        if type(layer) is BatchNormalization and not layer.activation:
            follower = self._follower(index, end)
            if self._relu_after(index, end) or (follower is not None and type(follower.layer) is Add):
                return True
        if (pool := self._pool_after(index, end)) is not None:
            return self._pools(index, pool)
        return self._leaves_result(index, index, end)

    def trainable_weights(self) -> list[dict[str, Array]]:
        """Return the weights that an optimiser moves, by name, layer by layer."""
        return [layer.trainable_weights for layer in self.layers]

    def backward(
        self, grads: Sequence[Array], tape: Tape, shapes: Sequence[Shape], weights: Sequence[dict[str, Array]]
    ) -> dict[str, Array]:
        """Return the gradients of the trainable weights by ``"layer/weight"``, layer by layer.

        The tape is used up: of each call is left what its layer has learned.

        Parameters
        ----------
        grads
            Gradients of the outputs.
        tape
            What forward returned beside them.
        shapes
            Those of all values, from ``build``.
        weights
            What ``trainable_weights`` returned.

        Raises
        ------
        TypeError, ValueError
            If a layer's backward returns something else than gradients.
        """
        pending = _Sums()
        for output, grad in zip(self.outputs, grads, strict=True):
            pending.add(output, grad)
        trainable = {id(layer): own for layer, own in zip(self.layers, weights, strict=True)}
        wanted: set[int] = set()  # the values behind which, on the way to the inputs, there is anything to train
        for call in self.calls:
            if trainable[id(call.layer)] or not wanted.isdisjoint(call.sources):
                wanted.add(call.target)
        found: dict[str, Array] = {}
        for index in range(len(self.calls) - 1, -1, -1):
            if tape.parts and tape.parts[-1].last == index + 1:
                again = tape.parts.pop()
                self._run(again.values, again.first, again.last, tape, True)
                del again
            call, cache = self.calls[index], tape.entries[index]
            layer = call.layer
            tape.entries[index] = None if isinstance(cache, Done) else layer.learned(cache)
            if call.target not in wanted:
                continue
            if isinstance(cache, Done):
                grad = cache.backward(pending, call.target)
                for source in call.sources:
                    if source in wanted:
                        pending.add(source, grad)
                continue
            grad = pending.pop_sum(call.target)
            if len(self.dtypes) > 1:
                grad = _as_type(grad, layer.dtype)
            if index in self._guarded:
                grad = read_only(grad)
            if not wanted.isdisjoint(call.sources):
                parts: Sequence[Any]
                if self._normalizes and self._leaves_gradient(index):
                    dx, gradients = layer.unwritten_backward(grad, cache)  # type: ignore[attr-defined]  # it normalises
                    parts = [dx]
                elif self._normalizes and self._is_bare(index):
                    dx, gradients = layer.backward(grad, cache)
                    parts = [dx]
                else:
                    dx, gradients = returned_pair(layer, layer.backward(grad, cache), "backward")
                    parts = _parts(call, dx)
                del dx
                for source, part in zip(call.sources, parts, strict=True):
                    if part.shape != (expected := (len(grad), *shapes[source][1:])):
                        raise ValueError(
                            f"backward of layer {layer.name} must return its input's gradient in shape {expected}, "
                            f"got {part.shape}"
                        )
                    if source in wanted:
                        pending.add(source, part)
                del parts, part
            else:
                gradients = layer.backward_weights(grad, cache)
            for name, weight in trainable[id(layer)].items():
                gradient = _gradient(layer, name, gradients, weight)
                key = f"{layer.name}/{name}"
                found[key] = found[key] + gradient if key in found else gradient
        keys = [f"{layer.name}/{name}" for layer in self.layers for name in trainable[id(layer)]]
        return {key: found[key] for key in keys}

    def after_step(self, tape: Tape) -> None:
        """Let every layer take in what it has learned in a step."""
        for call, learned in zip(self.calls, tape.entries, strict=True):
            call.layer.after_step(learned)


class _Sums:
    """Gradients by the number of the value, of which the last two are still to be added where several calls use it."""

    def __init__(self) -> None:
        self._arrays: dict[int, list[Array]] = {}

    def add(self, value: int, grad: Array) -> None:
        arrays = self._arrays.setdefault(value, [])
        if len(arrays) == 2:
            arrays[:] = [nn.add(*arrays)]
        arrays.append(grad)

    def pop(self, value: int) -> list[Array]:
        """Return one or two arrays."""
        return self._arrays.pop(value)

    def pop_sum(self, value: int) -> Array:
        arrays = self.pop(value)
        return arrays[0] if len(arrays) == 1 else nn.add(*arrays)


def _as_type(x: Any, dtype: str | None) -> Any:
    """Return an array, or a list of them, in an element type; what is not written yet is made in its own."""
    if isinstance(x, list):
        return [_as_type(array, dtype) for array in x]
    return x.astype(dtype, copy=False) if dtype and isinstance(x, np.ndarray) else x


def _parts(call: Call, dx: Any) -> list[Array]:
    """Return the gradients of a call's inputs."""
    if not call.layer.many_inputs and isinstance(dx, np.ndarray):
        return [dx]
    parts = dx if call.layer.many_inputs else [dx]
    if (
        not isinstance(parts, (list, tuple))
        or len(parts) != len(call.sources)
        or not all(isinstance(part, np.ndarray) for part in parts)
    ):
        raise TypeError(
            f"backward of layer {call.layer.name} must return a list of {len(call.sources)} arrays, one for each input"
        )
    return list(parts)


def _gradient(layer: Layer, name: str, gradients: dict[str, Array], weight: Array) -> Array:
    """Return the gradient of a weight as an optimiser takes it: of the weight's shape and element type."""
    if name not in gradients:
        raise ValueError(f"layer {layer.name}: backward must return a gradient for {name!r}, got {list(gradients)}")
    gradient = gradients[name]
    # What is right, as it nearly always is, is known at a glance.
    is_plain = type(gradient) is np.ndarray and gradient.dtype == weight.dtype and gradient.flags.carray
    if is_plain and gradient.shape == weight.shape:
        return gradient
    gradient = plain(real_array(gradient, f"gradient of {name}"), weight.dtype, name)
    if gradient.shape != weight.shape:
        raise ValueError(
            f"layer {layer.name}: backward must return a gradient of shape {weight.shape} for {name!r}, "
            f"got {gradient.shape}"
        )
    return gradient
