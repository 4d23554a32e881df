"""Inference plans: a network for batches of one size, with everything done beforehand that can be.

``lower`` turns the calls of a graph into ops (ops.py) and fuses what follows each other: batch normalisation goes into
the convolution before it, bias, activation, a residual sum and a max pooling into its last pass, a 1x1 convolution into
the depthwise one that follows, layers without an effect disappear.
A :class:`Plan` prepares the ops for one batch size (algorithms chosen, filters packed or transformed) and gives every
value between them a place in one block of memory, the arena, by how long it is needed. What is left for a prediction
is to run through a list of functions that are bound to their arrays: nothing is checked, and nothing allocated but the
results.

A plan packs copies of some weights, and reads others where they are. So they are read-only while it is used
(``Layer.freeze``), and :class:`Plans` makes a new one where they have been changed by a way that thaws them: assigning
to a layer's attribute, ``set_weights``, loading, training, or arrays from ``trainable_weights``. A view that was made
of a writable weight, as by ``layer.kernel.reshape(-1)``, stays writable, as NumPy does not know of it: which of what is
written through it a plan sees is undefined.

Threads run plans without a lock. Who changes weights marks the plans that read them as stale, and waits until none of
them runs (:meth:`Plans.stop`): a batch is predicted from the weights before a change or from those after it.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import nn
from .arguments import brief, within
from .graph import Graph
from .layers.base import CHANGING, Changes, Layer, Shape
from .ops import Concatenation, Elementwise, Op, Opaque, Run, Same
from .registry import is_own
from .runtime import AlignedMemory

Array = NDArray[Any]

# Bytes to which places in the arena are rounded: a cache line.
LINE = 64
# Runs of a plan in which its steps are timed: after them it runs without a clock.
TIMED_RUNS = 3
# Seconds between two looks whether a plan still runs; one that told would be slower.
PATIENCE = 1e-4
# Of layers' names in a summary, which then fits into 80 columns.
NAME_COLUMNS = 18


@dataclass
class Step:
    """An op, the numbers of the values that it takes and of the one it gives, and the layers that it stands for.

    Room is the number of a value that only the op itself makes use of, where it wants one.
    """

    op: Op
    sources: tuple[int, ...]
    target: int
    layers: list[str]
    flops: int  # for one sample
    room: int | None = None


@dataclass
class Lowered:
    """The ops of a network, fused, and the shapes (None, ...) of its values."""

    steps: list[Step]
    shapes: dict[int, Shape]
    inputs: int
    outputs: list[int]


def lower(graph: Graph, shapes: Sequence[Shape]) -> Lowered:
    """Return what a graph whose values have these shapes computes in inference.

    Raises
    ------
    TypeError, ValueError
        If a layer's arguments have changed since it was built, and it can't take its input any more or gives another
        shape.
    """
    fusing = _Fusing(graph, shapes)
    for call in graph.calls:
        layer, shape, result = call.layer, call.argument(shapes), shapes[call.target]
        try:
            flops = layer.count_flops(shape, result)
            *before, last = _ops_of(layer, shape)
            # Unless it would take a forward pass to find out.
            knows = type(layer).compute_output_shape is not Layer.compute_output_shape
            found = layer.compute_output_shape(shape) if knows else result
        except (TypeError, ValueError) as error:
            raise within(f"layer {layer.name}", error) from error
        if found != result:
            raise ValueError(
                f"layer {layer.name} must give results of shape {result}, for which the model is built, got {found}"
            )
        sources = call.sources
        for op in before:
            shape = op.output_shape(shape)
            own, target = op.count_flops(shape, flops), fusing.new_value(shape)
            fusing.add(Step(op, sources, target, [str(layer.name)], own))
            sources, flops = (target,), flops - own
        fusing.add(Step(last, sources, call.target, [str(layer.name)], flops))
    return fusing.lowered()


def _ops_of(layer: Layer, shape: Any) -> Sequence[Op]:
    own = _from_outside(type(layer))
    overrides = any("forward" in vars(cls) or "apply" in vars(cls) for cls in own)
    if overrides and not any("lowered" in vars(cls) for cls in own):
        return [Opaque(layer)]
    return layer.lowered(shape)


def _from_outside(cls: type) -> list[type]:
    """Return those that are not of this package of a class and its bases."""
    return [base for base in cls.__mro__[:-1] if not is_own(base)]


class _Fusing:
    """A list of steps, each of which is fused with an earlier one where that can be."""

    def __init__(self, graph: Graph, shapes: Sequence[Shape]) -> None:
        self._graph = graph
        self._shapes = dict(enumerate(shapes))
        self._steps: list[Step] = []
        # Where a value is made, for how many it is made, and which other value it is the same as.
        self._makers: dict[int, int] = {}
        self._uses = {value: 0 for value in self._shapes}
        self._same: dict[int, int] = {}
        for value in [*graph.outputs, *(source for call in graph.calls for source in call.sources)]:
            self._uses[value] += 1

    def new_value(self, shape: Shape) -> int:
        """Return the number of a value between the ops of one layer."""
        value = len(self._shapes)
        self._shapes[value] = shape
        self._uses[value] = 1
        return value

    def add(self, step: Step) -> None:
        """Add a step, or make an earlier one do its work."""
        step.sources = tuple(self._same.get(source, source) for source in step.sources)
        if isinstance(step.op, Same) and self._shapes[step.sources[0]] == self._shapes[step.target]:
            source = step.sources[0]
            self._same[step.target] = source
            self._uses[source] += self._uses[step.target] - 1
        elif not self._join(step):
            if step.op.wants_room:
                step.room = self.new_value(self._shapes[step.sources[0]])
            self._makers[step.target] = len(self._steps)
            self._steps.append(step)

    def _join(self, step: Step) -> bool:
        for index, source in sorted(
            ((self._makers[s], s) for s in step.sources if s in self._makers and self._uses[s] == 1), reverse=True
        ):
            maker = self._steps[index]
            op: Op | None = None
            others: tuple[int, ...] = ()
            if len(step.sources) == 1:
                op = maker.op.then(step.op)
            elif self._is_sum_of_two(step):
                others = tuple(s for s in step.sources if s != source)
                if all(self._makers.get(other, -1) < index for other in others):
                    op = maker.op.plus()
            if op is not None:
                maker.op, maker.sources, maker.target = op, maker.sources + others, step.target
                maker.layers += [name for name in step.layers if name not in maker.layers]
                maker.flops += step.flops
                self._makers[step.target] = index
                return True
        return False

    def _is_sum_of_two(self, step: Step) -> bool:
        shapes = {self._shapes[source] for source in step.sources}
        is_sum = isinstance(step.op, Elementwise) and step.op.function is np.add and step.op.activation is None
        return is_sum and len(step.sources) == len(set(step.sources)) == 2 and len(shapes) == 1

    def lowered(self) -> Lowered:
        """Return the steps that are left."""
        outputs = [self._same.get(output, output) for output in self._graph.outputs]
        return Lowered(self._steps, self._shapes, self._graph.inputs, outputs)


class StepProfile(NamedTuple):
    """What a step of a plan is, and what it costs, for the whole batch."""

    #: What it computes: "conv 3x3", "max pool 2x2", ...
    op: str
    #: The layers that it stands for.
    layers: tuple[str, ...]
    #: Of its result, (N, ...).
    shape: tuple[int, ...]
    #: "direct", "winograd-4x4", "depthwise", or "" where there is no choice.
    algorithm: str
    #: Additions and multiplications that the layers' definition takes, whatever the algorithm, activations aside.
    flops: int
    #: Of what it reads, weights as they are packed included, and of what it writes.
    bytes: int
    #: Of its fastest run in the last ``profile``, else in the plan's first three runs; None before any.
    seconds: float | None

    @property
    def title(self) -> str:
        """The op, and with what it is computed where that says more."""
        return self.op if not self.algorithm or self.op.startswith(self.algorithm) else f"{self.op} {self.algorithm}"


def timed(runs: Sequence[Run]) -> list[float]:
    """Run the steps, and return the seconds that each took."""
    seconds = []
    for run in runs:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def fastest(known: list[float] | None, seconds: list[float]) -> list[float]:
    """Return step by step the least of what is known, if anything is, and of new times."""
    return seconds if known is None else [min(pair) for pair in zip(known, seconds, strict=True)]


class _Context:
    """An arena, and the steps bound to their places in it: what one thread works with at a time."""

    #: Which thread has it, or had it last.
    thread = 0

    def __init__(self, plan: Plan) -> None:
        try:
            with AlignedMemory():
                room = np.empty(plan.arena_bytes, np.uint8)
        except MemoryError:
            raise MemoryError(
                f"there is no memory for the activations of a batch of {plan.batch}, {plan.arena_bytes} bytes"
            ) from None
        values: dict[int, Array] = {}
        for value, offset in plan.places.items():
            shape = plan.shape(value)
            size = math.prod(shape) * plan.dtype.itemsize
            values[value] = room[offset : offset + size].view(plan.dtype).reshape(shape)
        for value, (whole, channel) in plan.slices.items():
            values[value] = values[whole][..., channel : channel + plan.shape(value)[-1]]
        self.inputs = [values[i] for i in range(plan.lowered.inputs)]
        self.shapes = [array.shape for array in self.inputs]
        self.outputs = [values[output] for output in plan.lowered.outputs]
        self.runs: list[Run] = []
        for step, op, about in zip(plan.lowered.steps, plan.ops, plan.steps, strict=True):
            if isinstance(op, Same):
                continue
            inputs = step.sources if step.room is None else (*step.sources, step.room)
            run = op.bound([values[value] for value in inputs], values[step.target])
            if nn.VERBOSE:
                from .nn._verbose import timed_step

                shapes = [f"input:{_size(plan.shape(source))}" for source in step.sources]
                shapes.append(f"result:{_size(about.shape)}")
                run = timed_step(run, about.op, " ".join(shapes), about.algorithm, about.flops, about.bytes)
            self.runs.append(run)


class StalePlan(RuntimeError):
    """A plan that is run after weights have changed."""


class Plan:
    """How a network computes batches of one size; made by :meth:`fastcnn.Model.plan`.

    Several threads may use one plan at a time.

    Examples
    --------
    >>> import numpy as np, fastcnn
    >>> from fastcnn.layers import BatchNormalization, Conv2D, Flatten, ReLU
    >>> model = fastcnn.Sequential(
    ...     [fastcnn.Input((8, 8, 3)), Conv2D(4, 3, use_bias=False), BatchNormalization(), ReLU(), Flatten()]
    ... )
    >>> [step.layers for step in model.plan((1, 8, 8, 3)).steps]
    [('conv2d', 'batch_normalization', 're_lu'), ('flatten',)]
    """

    def __init__(self, lowered: Lowered, batch: int, dtype: str, others: Sequence[Plan] = ()) -> None:
        self.lowered = lowered
        self.batch = batch
        self.dtype = np.dtype(dtype)
        prepared = [
            step.op.prepared([self.shape(source) for source in step.sources], [other.ops[index] for other in others])
            for index, step in enumerate(lowered.steps)
        ]
        self.ops: list[Op] = [op.followed_by(prepared[index + 1 :]) for index, op in enumerate(prepared)]
        places = _Places(self)
        #: Where in the arena each value begins, but for those that are some channels of another, from one on.
        self.places = places.offsets
        self.slices = places.slices
        #: Bytes of memory that a thread's activations take, inputs included.
        self.arena_bytes = places.nbytes
        #: The most bytes of values that these steps need at one time: no arena for them can be smaller.
        self.least_bytes = places.least_bytes
        #: Greater than that of another plan of the model if it was asked for later.
        self.last_use = 0
        #: Whether it is of weights that have changed since, or are about to.
        self.stale = False
        self._waiting: list[_Context] = []
        # All that there are. An interrupt may lose one, which then does not count any more.
        self._contexts: list[weakref.ref[_Context]] = []
        # A layer of one's own may want CHANGING while it computes: who holds it must not wait for that.
        self._is_waited_for = not any(
            _from_outside(type(part)) for op in self.ops for part in (op, getattr(op, "layer", op))
        )
        self._timed_runs = 0
        self._seconds: list[float] | None = None

    def shape(self, value: int) -> tuple[int, ...]:
        """Return a value's shape, with the batch."""
        return (self.batch, *(n or 0 for n in self.lowered.shapes[value][1:]))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Return new arrays with the outputs for inputs, arrays (N, ...) of the plan's batch size.

        Raises
        ------
        ValueError
            If there are more or fewer inputs, or of other shapes.
        StalePlan
            If weights have changed since the plan was made.
        """
        try:
            context = self._waiting.pop()
        except IndexError:
            context = _Context(self)
            self._contexts.append(weakref.ref(context))
        try:
            context.thread = get_ident()
            if self.stale:  # asked after the context is taken, as it is set before contexts are looked for
                raise StalePlan("weights have changed since this plan was made: get a new one by model.plan")
            if [getattr(x, "shape", None) for x in inputs] != context.shapes:
                raise ValueError(f"inputs must be arrays of shapes {context.shapes}, got {brief(inputs)}")
            for place, x in zip(context.inputs, inputs, strict=True):
                place[...] = x
            if self._timed_runs < TIMED_RUNS:
                self._timed_runs += 1
                self._seconds = fastest(self._seconds, timed(context.runs))
            else:
                for run in context.runs:
                    run()
            return [output.copy() for output in context.outputs]
        finally:
            self._waiting.append(context)

    def finish(self) -> None:
        """Return when a stale plan runs in no other thread any more, as far as its layers are the package's own."""
        while self._is_waited_for and self._runs():
            time.sleep(PATIENCE)

    def _runs(self) -> bool:
        waiting = set(self._waiting)  # before the others: what is taken from here on is not run
        contexts = [context for known in list(self._contexts) if (context := known()) is not None]
        # But for this thread, where a signal's handler changes weights in the midst of a run, and for those that ended:
        # a fork leaves all others behind.
        others = sys._current_frames().keys() - {get_ident()}
        return any(context not in waiting and context.thread in others for context in contexts)

    def profile(self, inputs: Sequence[Array], repeats: int) -> list[StepProfile]:
        """Run a few times, and return the steps with the time that each took when it was fastest."""
        context = _Context(self)
        seconds: list[float] | None = None
        for _ in range(repeats):
            for place, x in zip(context.inputs, inputs, strict=True):
                place[...] = x
            seconds = fastest(seconds, timed(context.runs))
        self._timed_runs = TIMED_RUNS
        self._seconds = seconds
        return self.steps

    @property
    def steps(self) -> list[StepProfile]:
        """The steps in their order."""
        seconds: Iterator[float] | None = None if self._seconds is None else iter(self._seconds)
        rows = []
        for step, op in zip(self.lowered.steps, self.ops, strict=True):
            is_view = isinstance(op, Same)
            arrays = [math.prod(self.shape(value)) * self.dtype.itemsize for value in (*step.sources, step.target)]
            spent = None if seconds is None else 0.0 if is_view else next(seconds)
            rows.append(
                StepProfile(
                    op.kind,
                    tuple(step.layers),
                    self.shape(step.target),
                    op.algorithm,
                    step.flops * self.batch,
                    0 if is_view else sum(arrays) + op.weight_bytes(),
                    spent,
                )
            )
        return rows

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the steps; once the plan has run, with the time of each and its share.

        Parameters
        ----------
        print_fn
            What is called with each line.
        """
        if not callable(print_fn):
            raise TypeError(f"print_fn must be a function of a line, got {brief(print_fn)}")
        steps = self.steps
        total = sum(step.seconds or 0.0 for step in steps)
        timed = self._seconds is not None
        head = ["layers", "op", "result", "MFLOP", "MB", *(["us", "%"] if timed else [])]
        rows = []
        for step in steps:
            row = [
                _shortened(step.layers),
                step.title,
                _size(step.shape[1:]),
                _figure(step.flops / 1e6),
                _figure(step.bytes / 1e6),
            ]
            if step.seconds is not None:
                row += [_figure(step.seconds * 1e6), f"{100 * step.seconds / (total or 1):.1f}"]
            rows.append(row)
        for line in table(head, rows, range(3, len(head))):
            print_fn(line)
        flops = sum(step.flops for step in steps)
        print_fn(
            f"{len(steps)} steps for a batch of {self.batch}: {flops / 1e6:,.1f} MFLOP"
            + (f" in {total * 1e6:,.1f} us" if timed else "")
        )
        arena, least = self.arena_bytes / 1e6, self.least_bytes / 1e6
        print_fn(f"activations in {arena:.2f} MB, of which {least:.2f} MB are needed at once")


def _shortened(names: tuple[str, ...]) -> str:
    more = "" if len(names) == 1 else f" +{len(names) - 1}"
    room = NAME_COLUMNS - len(more)
    return (names[0] if len(names[0]) <= room else names[0][: room - 1] + "~") + more


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def table(head: list[str], rows: list[list[str]], numbers: Container[int], gap: str = " ") -> Iterator[str]:
    """Return the lines of a table for a terminal: the head, a rule, and the rows; columns of numbers end alike."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return gap.join(
            f"{cell:>{width}}" if i in numbers else f"{cell:{width}}"
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    yield line(head)
    yield "-" * len(line(head))
    yield from map(line, rows)


class _Places:
    """Where values lie in the arena, how large that is, and how much of it is needed at once."""

    def __init__(self, plan: Plan) -> None:
        self.slices = _in_concatenations(plan)
        owner, spans = _owners(plan, self.slices)
        sizes = {root: -(-math.prod(plan.shape(root)) * plan.dtype.itemsize // LINE) * LINE for root in spans}
        offsets = _offsets(spans, sizes)
        self.offsets = {value: offsets[root] for value, root in owner.items() if value not in self.slices}
        self.nbytes = max((offsets[root] + sizes[root] for root in spans), default=0)
        self.least_bytes = max(
            sum(sizes[root] for root, (begin, until) in spans.items() if begin <= index <= until)
            for index in range(-1, len(plan.lowered.steps) + 1)
        )


def _owners(plan: Plan, slices: Mapping[int, tuple[int, int]]) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    """Return the value in whose place each one lies, and the first and the last step that such a place is needed in.

    A value that is another one in another shape, or that may be written over it, lies where that one does.
    """
    steps = plan.lowered.steps
    end = len(steps)
    owner: dict[int, int] = {value: value for value in range(plan.lowered.inputs)}
    first: dict[int, int] = {value: -1 for value in owner}
    last: dict[int, int] = {}
    for index, step in enumerate(steps):
        for source in step.sources:
            last[source] = index
        first[step.target] = index
        if step.room is not None:
            owner[step.room] = step.room
            first[step.room] = index
    for output in plan.lowered.outputs:
        last[output] = end
    for index, step in enumerate(steps):
        roots = [owner[source] for source in step.sources]
        if step.target in slices:
            owner[step.target] = slices[step.target][0]
        elif isinstance(step.op, Same):
            owner[step.target] = roots[0]
        else:
            finished = (
                root
                for root, source in zip(roots, step.sources, strict=True)
                if step.op.in_place
                and source not in slices
                and plan.shape(source) == plan.shape(step.target)
                and roots.count(root) <= 2
                and all(last.get(value, -1) <= index for value, at in owner.items() if at == root)
            )
            owner[step.target] = next(finished, step.target)
    spans: dict[int, tuple[int, int]] = {}
    for value, root in owner.items():
        begin, until = spans.get(root, (first[value], -1))
        spans[root] = min(begin, first[value]), max(until, last.get(value, first[value]))
    return owner, spans


def _offsets(spans: Mapping[int, tuple[int, int]], sizes: Mapping[int, int]) -> dict[int, int]:
    """Return where each place begins: the largest first, each at the lowest place that is free for as long as it lives.

    That is the greedy rule "by size" of Pisarchyk and Lee, "Efficient memory management for deep neural net
    inference", 2020.
    """
    placed: list[tuple[int, int, int, int]] = []
    offsets: dict[int, int] = {}
    for root in sorted(spans, key=lambda root: (-sizes[root], root)):
        begin, until = spans[root]
        place = 0
        for low, high, since, till in placed:  # by where they begin
            if since <= until and begin <= till:
                if low - place >= sizes[root]:
                    break
                place = max(place, high)
        offsets[root] = place
        placed.append((place, place + sizes[root], begin, until))
        placed.sort()
    return offsets


def _in_concatenations(plan: Plan) -> dict[int, tuple[int, int]]:
    """Return the values that can be written where a concatenation wants them: its value, and the channel.

    That is the result of a convolution which nothing else needs, or of another concatenation which nothing else needs
    but what reads some channels of images: as in the blocks of DenseNet, each of whose layers reads what all before it
    have made.
    """
    steps = plan.lowered.steps
    makers = {step.target: op for step, op in zip(steps, plan.ops, strict=True)}
    uses = Counter([*plan.lowered.outputs, *(source for step in steps for source in step.sources)])
    reads = Counter(source for step in steps if makers[step.target].reads_slices() for source in step.sources)
    slices: dict[int, tuple[int, int]] = {}
    for step in reversed(steps):  # what a concatenation is a part of comes first
        shape = plan.shape(step.target)
        if not _joins_channels(step.op, shape):
            continue
        whole, channel = slices.get(step.target, (step.target, 0))
        for source in step.sources:
            op = makers.get(source)
            joins = _joins_channels(op, shape)
            if uses[source] == 1 + joins * reads[source] and (joins or (op is not None and op.writes_slices())):
                slices[source] = whole, channel
            channel += plan.shape(source)[-1]
    return slices


def _joins_channels(op: Op | None, shape: tuple[int, ...]) -> bool:
    """Whether an op puts channels of images side by side."""
    return isinstance(op, Concatenation) and len(shape) == 4 and op.axis in (-1, 3)


class Plans:
    """The plans of one model, by batch size; they follow its weights, and there are never more than ``MOST``.

    One more takes the place of that which has not been used for longest.
    """

    MOST = 8

    def __init__(self) -> None:
        # All that still are, those too that were given up for others while somebody ran them.
        self._made: list[weakref.ref[Plan]] = []
        self._uses = itertools.count(1)
        self._forget()

    def _forget(self) -> None:
        self._plans: dict[int, Plan] = {}
        self._lowered: Lowered | None = None
        self._revisions: list[int] = []
        # Of all layers there are, when those of this model were last looked at.
        self._seen = -1

    def get(self, graph: Graph, shapes: Sequence[Shape], batch: int, dtype: str) -> Plan:
        """Return the plan for batches of a size, of weights as they are."""
        if self._seen == Changes.latest:
            plan = self._plans.get(batch)
            if plan is not None:
                # A number of its own, without the lock, which others may hold for as long as a plan takes to make.
                plan.last_use = next(self._uses)
                return plan
        with CHANGING:
            seen = Changes.latest
            if [layer.revision for layer in graph.layers] != self._revisions:
                self._forget()
            if self._lowered is None:
                # What changes from here on is looked at next time.
                self._revisions = [layer.freeze(self) for layer in graph.layers]
                self._lowered = lower(graph, shapes)
            plan = self._plans.get(batch)
            if plan is None:
                plan = Plan(self._lowered, batch, dtype, list(self._plans.values()))
                if len(self._plans) >= self.MOST:
                    del self._plans[min(self._plans, key=lambda size: self._plans[size].last_use)]
                self._made = [*(made for made in self._made if made() is not None), weakref.ref(plan)]
                self._plans[batch] = plan
            plan.last_use = next(self._uses)
            self._seen = seen
            return plan

    def stop(self) -> None:
        """Give up all plans because weights are about to change; return when none of them runs any more."""
        self._forget()
        plans = [plan for made in self._made if (plan := made()) is not None]
        for plan in plans:
            plan.stale = True
        for plan in plans:
            plan.finish()
        self._made = []

    def __reduce__(self) -> Any:
        """Leave plans behind where a model is copied."""
        return Plans, ()
