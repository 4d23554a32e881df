"""No kernel reads or writes a byte outside its operands: arrays that end, or begin, at an inaccessible page.

Each case runs in a process of its own, where a stray access is a segmentation fault, and is compared with the
same call on ordinary arrays: results depend neither on alignment nor on what lies around the operands.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import math
import mmap
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastcnn import nn, runtime
from fastcnn._core import _runtime
from fastcnn.nn import normalization

SLOTS = 24
ARENA_BYTES = 8 << 20
GUARD_BYTES = 1 << 16  # wider than any stray vector, and whole pages everywhere
PROT_NONE = 0
PLACES = ("before a guard", "after a guard", "side by side")


class Arena:
    """Memory between two inaccessible zones."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.memory = mmap.mmap(-1, ARENA_BYTES + 2 * GUARD_BYTES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for guard in (start, start + GUARD_BYTES + ARENA_BYTES):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(GUARD_BYTES), PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def array(self, shape: tuple[int, ...], dtype: np.dtype, at_end: bool, behind: int = 0) -> np.ndarray:
        """An array that touches the guard after it, or lies so many bytes behind the one before it."""
        size = math.prod(shape) * dtype.itemsize
        assert behind + size <= ARENA_BYTES
        offset = GUARD_BYTES + (ARENA_BYTES - size if at_end else behind)
        return np.frombuffer(self.memory, dtype, math.prod(shape), offset).reshape(shape)


class GuardedNumPy:
    """NumPy for the modules of the ops, whose fresh arrays lie between guards."""

    def __init__(self) -> None:
        self.arenas = [Arena() for _ in range(SLOTS)]
        self.where = "ordinary memory"

    def put(self, where: str) -> None:
        """Say where the next arrays go: one of PLACES, or ordinary memory."""
        self.where, self.used, self.bytes = where, 0, 0

    def __getattr__(self, name: str):
        return getattr(np, name)

    def empty(self, shape, dtype=np.float64):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if self.where not in PLACES or math.prod(shape) == 0:
            return np.empty(shape, dtype)
        if self.where == "side by side":
            behind = -(-self.bytes // np.dtype(dtype).itemsize) * np.dtype(dtype).itemsize
            array = self.arenas[0].array(shape, np.dtype(dtype), False, behind)
            self.bytes = behind + array.nbytes
        else:
            array = self.arenas[self.used].array(shape, np.dtype(dtype), self.where == "before a guard")
            self.used += 1
        array.fill(np.nan if array.dtype.kind == "f" else 255)
        return array

    def empty_like(self, x):
        return self.empty(x.shape, x.dtype)

    def zeros(self, shape, dtype=np.float64):
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def zeros_like(self, x):
        return self.zeros(x.shape, x.dtype)

    def copy(self, value):
        """Put an operand between the guards; lists go item by item, other arguments stay."""
        if isinstance(value, list):
            return [self.copy(v) for v in value]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fu":
            return value
        array = self.empty(value.shape, value.dtype)
        array[...] = value
        return array


def cases(dtype: np.dtype, vl: int):
    """Yield (op, arguments, options) over sizes about the vector length and its multiples."""
    rng = np.random.default_rng(0)
    pick = random.Random(0)
    around = sorted({max(1, n + d) for n in (vl, 2 * vl, 4 * vl) for d in (-1, 0, 1)} | {1, 2, 3, 5})
    few = sorted({1, 3, vl - 1 or 1, vl, vl + 1, 2 * vl + 1})

    def values(*shape):
        return rng.standard_normal(shape).astype(dtype)

    for n in [*around, 4 * vl + 3, 7 * vl + 5, 8191, 8192, 8193]:
        x, g = values(n), values(n)
        for name in nn.ACTIVATIONS:
            y = nn.activate(x, name)
            yield nn.activate, (x, name), {}
            yield nn.activate_backward, (g, y, name), {}
        yield nn.activate_backward, (g, x, "relu6", values(n)), {}
        yield nn.add, (g, x), {}
        yield nn.leaky_relu, (x, 0.3), {}
        yield nn.leaky_relu_backward, (g, x, 0.3), {}
        yield nn.gelu, (x, True), {}
        yield nn.gelu_backward, (g, x, True), {}
        yield nn.dropout, (x, 0.4), {"seed": 7}
        yield nn.dropout_backward, (g, 0.4, 7), {}
        for momentum in (0.0, 0.9):
            for nesterov in (False, True):
                yield nn.sgd_step, ([x, values(3)], [g, values(3)], [values(n), values(3)], 0.1, momentum, nesterov), {}
        m, v = values(n), values(n) ** 2
        yield nn.adam_step, ([x], [g], [m], [v], 0.1, 0.9, 0.99, 1e-7, 3), {}

    for c in around:
        for rows in (1, 2, 3, 7, 8, 9, 15):
            x, g = values(rows, c), values(rows, c)
            mean, variance, scale, offset = values(c), values(c) ** 2, values(c), values(c)
            yield nn.softmax, (x,), {}
            yield nn.softmax_backward, (g, nn.softmax(x)), {}
            yield nn.log_softmax, (x,), {}
            yield nn.log_softmax_backward, (g, nn.log_softmax(x)), {}
            yield nn.softmax, (x, 0), {}
            yield nn.softmax_cross_entropy, (rng.integers(0, c, rows), x), {}
            yield nn.softmax_cross_entropy, (nn.softmax(g), x, 0.1), {}
            for activation in (None, "relu", "tanh"):
                yield nn.bias_add, (x, offset, activation), {}
            yield nn.bias_add_backward, (g,), {}
            yield nn.moments, (x,), {}
            yield nn.batch_normalization, (x, mean, variance, offset, scale, 1e-3), {}
            yield nn.batch_normalization, (x, mean, variance, offset, scale, 1e-3, "relu"), {}
            yield nn.batch_normalization, (x, mean, variance, offset, scale, 1e-3, "relu", g), {}
            yield nn.layer_normalization, (x, offset, scale, 1e-3), {}
            yield nn.layer_normalization_backward, (g, x, scale, 1e-3), {}
            for training in (False, True):
                yield nn.batch_normalization_backward, (g, x, mean, variance, scale, 1e-3, training), {}
                relu = training, offset, "relu"
                yield nn.batch_normalization_backward, (g, x, mean, variance, scale, 1e-3, *relu), {}

    for m in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 17, 29, 127, 128, 129, 131):
        for n in around if m < 20 else few:
            for k in few if m < 20 else (1, 2 * vl + 1):
                for ta in (False, True):
                    for tb in (False, True):
                        a, b = values(*((k, m) if ta else (m, k))), values(*((n, k) if tb else (k, n)))
                        yield nn.matmul, (a, b, ta, tb), {}
                yield nn.dense, (values(m, k), values(k, n), values(n), pick.choice([None, "relu", "sigmoid"])), {}
    # Long reductions in several slabs, few and odd columns; work for more than one thread.
    for m, k, n in (
        (1, 3001, 7),
        (2, 2999, vl + 1),
        (7, 1025, 3),
        (5, 2048, 1),
        (130, 700, 2 * vl + 3),
        (33, 1500, 17),
    ):
        for tb in (False, True):
            yield nn.matmul, (values(m, k), values(*((n, k) if tb else (k, n))), False, tb), {}
        yield nn.matmul_backward, (values(m, n), values(m, k), values(k, n)), {}
        yield nn.dense_backward, (values(m, n), values(m, k), values(k, n)), {}

    for i in range(700):
        c, n = pick.choice(around), pick.choice((1, 1, 2, 3))
        h, w = pick.randint(1, 9), pick.randint(1, 9)
        ksize = pick.randint(1, min(h, 4)), pick.randint(1, min(w, 4))
        options = {
            "ksize": ksize,
            "strides": pick.choice((None, 1, 2, (2, 1), (1, 3))),
            "padding": pick.choice(("VALID", "SAME", (ksize[0] - 1, ksize[1] // 2), ((0, ksize[0] - 1), (0, 0)))),
        }
        x = values(n, h, w, c)
        if i % 5 == 0:
            x[rng.random(x.shape) < 0.1] = np.nan
        y = nn.max_pool(x, **options)
        yield nn.max_pool, (x,), options
        g = values(*y.shape)
        yield nn.max_pool_backward, (g, x), options
        yield nn.max_pool_with_argmax, (x,), options
        yield nn.max_pool_with_argmax_backward, (g, nn.max_pool_with_argmax(x, **options)[1], x.shape), options
        yield nn.avg_pool, (x,), options
        yield nn.avg_pool_backward, (values(*y.shape), x.shape), options

    for i in range(1500):
        groups = pick.choice((1, 1, 1, 1, 2, 3))
        c, k = pick.choice(few) * groups, pick.choice(around) * groups
        if i % 10 == 0:
            groups, k = c, c * pick.choice((1, 1, 2))
        n, h, w = pick.choice((1, 1, 2, 3)), pick.randint(1, 10), pick.randint(1, 18)
        rows, cols = pick.randint(1, min(h, 5)), pick.randint(1, min(w, 5))
        fits = (h - 1) // max(1, rows - 1), (w - 1) // max(1, cols - 1)
        dilations = pick.randint(1, max(1, min(3, fits[0]))), pick.randint(1, max(1, min(3, fits[1])))
        options = {
            "strides": pick.choice((1, 1, 2, 3, (2, 1), (1, 2), (4, 5))),
            "padding": pick.choice(("VALID", "VALID", "SAME", 1, (0, 2), ((0, 1), (3, 0)))),
            "dilations": pick.choice((1, dilations)),
            "groups": groups,
        }
        x, f = values(n, h, w, c), values(rows, cols, c // groups, k)
        y = nn.conv2d(x, f, **options)
        g = values(*y.shape)
        added = {"residual": g} if i % 3 == 0 else {}
        yield nn.conv2d, (x, f), {**options, "bias": values(k) if i % 2 else None, "activation": "relu", **added}
        yield nn.conv2d_backward_input, (g, f, x.shape), options
        yield nn.conv2d_backward_filters, (g, x, f.shape), options
        if groups == 1 and isinstance(options["padding"], str):
            options = {name: options[name] for name in ("strides", "padding", "dilations")}
            yield nn.conv2d_transpose, (g, f), {**options, "bias": values(c)}
    for n, h, w, c, r, k in ((2, 20, 20, 5, 3, 2 * vl + 1), (1, 40, 33, 3, 3, vl), (3, 17, 19, vl + 1, 1, vl - 1 or 1)):
        x, f = values(n, h, w, c), values(r, r, c, k)
        g = values(n, h, w, k)
        yield nn.conv2d, (x, f), {"padding": "SAME", "bias": values(k)}
        yield nn.conv2d, (x, f), {"padding": "SAME", "residual": g}
        yield nn.conv2d_backward, (g, x, f), {"padding": "SAME"}
    for c, k in ((1, 4 * vl + 1), (vl + 1, 5 * vl), (3 * vl + 2, 6 * vl - 1), (7 * vl, 8 * vl)):
        x, g = values(2, 9, 17, c), values(2, 9, 17, k)
        yield nn.conv2d_backward_filters, (g, x, (1, 1, c, k)), {}
        yield nn.conv2d_backward_filters, (g[:, ::2, ::2], x, (1, 1, c, k)), {"strides": 2}
    for c in around:
        for side in (3, 5):
            n, h, w, stride = pick.choice((1, 2)), pick.randint(3, 11), pick.randint(3, 18), pick.choice((1, 2, 3))
            padding = pick.choice(("SAME", ((1, 1), (2, 0)), ((1, 1), (0, 2))))
            x, f = values(n, h, w, c), values(side, side, 1, c)
            options = {"groups": c, "strides": stride, "padding": padding}
            g = values(*nn.conv2d(x, f, **options).shape)
            yield nn.conv2d, (x, f), {**options, "bias": values(c), "activation": "relu"}
            yield nn.conv2d_backward_input, (g, f, x.shape), options
            yield nn.conv2d_backward_filters, (g, x, f.shape), options
            yield nn.conv2d_backward, (g, x, f), options
    for c, k in zip(pick.sample(around, len(around)), around, strict=True):
        n, h, w = pick.choice((1, 2)), pick.randint(3, 11), pick.randint(3, 18)
        padding = pick.choice(("VALID", "SAME", ((0, 1), (3, 0))))
        x, f = values(n, h, w, c), values(3, 3, c, k)
        dilations = pick.choice((1, 2, (3, 1))) if min(h, w) > 6 else 1
        options = {"padding": padding, "dilations": dilations, "algorithm": pick.choice(nn.conv.ALGORITHMS[3:])}
        y = nn.conv2d(x, f, **options)
        b = values(k)
        yield nn.conv2d, (x, f), {**options, "bias": b, "activation": "relu"}
        yield prepared_conv2d, (x, f), {**options, "bias": b}
        g = values(*y.shape)
        yield nn.conv2d_backward_input, (g, f, x.shape), options
        yield nn.conv2d_backward_filters, (g, x, f.shape), options
    for c, k in itertools.product((1, 3, vl + 1), around):
        n, h, w = pick.choice((1, 2)), pick.randint(4, 11), pick.randint(4, 18)
        x, f = values(n, h, w, c), values(3, 3, c, k)
        options = {
            "padding": pick.choice(("VALID", "SAME")),
            "algorithm": pick.choice(("direct", *nn.conv.ALGORITHMS[3:])),
        }
        yield prepared_conv2d, (x, f), {**options, "bias": values(k), "activation": "relu", "max_pool": True}
        yield nn.conv2d_max_pool_with_argmax, (x, f), {**options, "bias": values(k)}
        options["activation"] = pick.choice(("relu", "relu6"))
        y, argmax = nn.conv2d_max_pool_with_argmax(x, f, **options)
        yield nn.conv2d_max_pool_with_argmax_backward, (values(*y.shape), y, argmax, x, f), options
    for c, k in itertools.product((1, 3, 6), sorted({1, 3, max(1, vl // 2), max(1, vl - 4)})):  # pixels fill vectors
        x, f = values(pick.choice((1, 9)), 21, pick.randint(vl, 3 * vl) + 4, c), values(3, 5, c, k)
        options = {"padding": ((0, 1), (2, 2)), "strides": (2, 1)}
        yield nn.conv2d, (x, f), {**options, "bias": values(k)}
        yield nn.conv2d_backward_filters, (nn.conv2d(x, f, **options), x, f.shape), options
        for pools in (False, True):
            yield prepared_conv2d, (x, f), {**options, "bias": values(k), "max_pool": pools}
        yield nn.conv2d_max_pool_with_argmax, (x, f), options
        y, argmax = nn.conv2d_max_pool_with_argmax(x, f, **options, activation="relu")
        last = {**options, "activation": "relu", "input_grad": False}
        yield nn.conv2d_max_pool_with_argmax_backward, (values(*y.shape), y, argmax, x, f), last
    for c, k in itertools.product((1, 3, vl + 1), (vl, 2 * vl, 5 * vl)):  # from maxima of many images
        x, f = values(pick.randint(16, 19), pick.randint(11, 13), pick.randint(13, 15), c), values(2, 3, c, k)
        options = {"padding": "SAME", "algorithm": "direct", "activation": pick.choice(("relu", "relu6"))}
        y, argmax = nn.conv2d_max_pool_with_argmax(x, f, **options)
        last = {**options, "input_grad": False}
        yield nn.conv2d_max_pool_with_argmax_backward, (values(*y.shape), y, argmax, x, f), last
    for c, k in itertools.product((1, vl + 1), (k for k in around if k > 1)):
        n, h, w, stride = pick.choice((1, 2)), pick.randint(3, 11), pick.randint(3, 18), pick.choice((1, 2))
        operands = values(n, h, w, c), values(1, 1, c, k), values(k), values(3, pick.randint(2, 3), 1, k)
        yield expanded_depthwise, operands, {"strides": stride, "padding": pick.choice(("VALID", "SAME"))}
    for c, k in itertools.product(few, around):
        n, h, w, stride = pick.choice((1, 2)), pick.randint(3, 11), pick.randint(3, 18), pick.choice((1, 2))
        channels = values(k), values(k) ** 2, values(k), values(k)
        before = [values(c), values(c) ** 2, values(c), values(c)]
        x, f, g = values(n, h, w, c), values(1, 1, c, k), values(n, h, w, k)
        yield measured_conv2d, (x, before, f, 1, "VALID", 1, 1), {}
        yield backward_between, (g, values(*g.shape), *channels, x, before, f, 1, "VALID", 1, 1), {}
        yield backward_behind, (g, values(*g.shape), *channels, x, f, 1, "VALID", 1, 1), {}
        options = stride, "SAME", 1, 1
        g = values(*nn.conv2d(x, values(3, 3, c, k), *options).shape)
        yield filters_behind, (g, values(*g.shape), *channels, x, (3, 3, c, k), *options), {}
        if k > 1:
            x, f = values(n, h, w, k), values(3, pick.choice((3, 2)), 1, k)
            before = [values(k), values(k) ** 2, values(k), values(k)]
            options = stride, pick.choice(("VALID", "SAME", 2)), 1, k
            g = values(*nn.conv2d(x, f, *options).shape)
            yield measured_conv2d, (x, before, f, *options), {}
            yield backward_between, (g, values(*g.shape), *channels, x, before, f, *options), {}
            yield backward_behind, (g, values(*g.shape), *channels, x, f, *options), {}
    x, f = values(41, 9, 8, 3), values(5, 5, 3, 2 * vl + 1)  # pixels of several images at a time
    yield nn.conv2d_backward_input, (nn.conv2d(x, f), f, x.shape), {}
    for c, k in itertools.product(sorted({1, 2, 3, max(1, vl // 2)}), repeat=2):
        n, h, w, stride = pick.choice((1, 2)), pick.randint(3, 11), pick.randint(3, 18), pick.choice((1, 2))
        groups = pick.choice((vl, vl + 1, 2 * vl + 3))
        x, f = values(n, h, w, groups * c), values(3, pick.randint(1, 3), c, groups * k)
        options = {"groups": groups, "strides": stride, "padding": pick.choice(("VALID", "SAME"))}
        g = values(*nn.conv2d(x, f, **options).shape)
        yield nn.conv2d, (x, f), {**options, "bias": values(groups * k), "activation": "relu"}
        yield nn.conv2d_backward_input, (g, f, x.shape), options
        yield nn.conv2d_backward_filters, (g, x, f.shape), options


def measured_conv2d(x, before, filters, *options):
    """Of an input that a normalisation makes of x, by `before`: mean, variance, offset and scale."""
    y = nn.between.measured_conv2d(normalization.unwritten_result(x, *before, 1e-3, "relu"), filters, *options)
    return y.array, y.mean, y.variance, *vars(nn.between.measured_conv2d(x, filters, *options)).values()


def backward_between(g, z, mean, variance, scale, offset, x, before, filters, *options):
    dz, dscale, doffset = normalization.unwritten_gradient(g, z, mean, variance, scale, 1e-3, True, offset, "relu6")
    made = normalization.unwritten_result(x, *before, 1e-3, "relu")
    summed, dfilters = nn.between.normalized_backward(dz, made, filters, *options)
    return dscale, doffset, summed.grad, summed.total, summed.dot, dfilters


def filters_behind(g, z, mean, variance, scale, offset, x, filters_shape, *options):
    dz, *_ = normalization.unwritten_gradient(g, z, mean, variance, scale, 1e-3, True, offset, "relu")
    return nn.between.normalized_backward_filters(dz, x, filters_shape, *options)


def backward_behind(g, z, mean, variance, scale, offset, x, filters, *options):
    dz, *_ = normalization.unwritten_gradient(g, z, mean, variance, scale, 1e-3, True, offset, "relu6")
    return normalization.written_gradient(dz), *nn.between.normalized_backward(dz, x, filters, *options)


def expanded_depthwise(x, filters, bias, taps, **options):
    first = nn.PreparedConv2D(filters, x.shape, bias=bias, activation="relu", algorithm="direct")
    return nn.PreparedConv2D(taps, first.output_shape, groups=taps.shape[3], bias=bias, after=first, **options)(x)


def prepared_conv2d(x, filters, **options):
    return nn.PreparedConv2D(filters, x.shape, **options)(x)


def leaves(result) -> list[bytes]:
    """The bytes of every array in a result; of a NaN only that it is one."""
    if isinstance(result, (tuple, list)):
        return [b for r in result for b in leaves(r)]
    return [] if result is None else [np.where(np.isnan(result), np.nan, result).tobytes()]


def main(isa: str, dtype_name: str, log: str, every: str = "1") -> None:
    faulthandler.enable()
    _runtime.use_isa(isa)
    dtype = np.dtype(dtype_name)
    guarded = GuardedNumPy()
    for name, module in list(sys.modules.items()):
        if name.startswith("fastcnn.nn.") and hasattr(module, "np"):
            module.np = guarded
    number = wrong = 0
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    for op, arguments, options in itertools.islice(cases(dtype, _runtime.lanes(dtype)), 0, None, int(every)):
        in_place = op in (nn.sgd_step, nn.adam_step)
        shown = [
            [v.shape for v in a] if isinstance(a, list) else a.shape if isinstance(a, np.ndarray) else a
            for a in arguments
        ]
        wanted = None
        for where in ("ordinary memory", *PLACES):
            guarded.put(where)
            case = f"{op.__name__}{shown} {options} in {where}".replace("array(", "(")
            os.pwrite(file, case.encode()[:2000].ljust(2000), 0)
            given = [guarded.copy(a) for a in arguments]
            result = op(*given, **{name: guarded.copy(value) for name, value in options.items()})
            found = leaves([a for a in given if isinstance(a, list)] if in_place else result)
            if wanted is None:
                wanted = found
            elif found != wanted:
                wrong += 1
                print(f"other bits: {case}")
            if not in_place:
                for before, after in zip(arguments, given, strict=True):
                    if isinstance(before, np.ndarray) and before.tobytes() != after.tobytes():
                        wrong += 1
                        print(f"operand changed: {case}")
        guarded.put("ordinary memory")  # the next case is made in ordinary memory
        number += 1
    print(f"{number} cases, {wrong} wrong")
    sys.exit(wrong > 0)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no mprotect on Windows")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", runtime.available_isas())
def test_no_op_leaves_its_operands(isa, dtype, tmp_path):
    log = tmp_path / "case"
    # Threads that wait do not spin: beside other work on the same CPUs that took six times as long.
    environ = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, isa, dtype, str(log)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environ)
    case = log.read_text().strip() if log.exists() else "before the first case"
    if run.returncode < 0:
        name = signal.Signals(-run.returncode).name
        pytest.fail(f"{name} with {isa} {dtype} at {case}\n{run.stderr[:2000]}", pytrace=False)
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-3000:]}\nlast case: {case}"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no mprotect on Windows")
@pytest.mark.parametrize(("at_end", "step"), [(True, 1), (False, -1)])
def test_the_guard_bites(at_end, step):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import ctypes, numpy as np, test_guard_pages as t\n"
        f"x = t.Arena().array((5,), np.dtype('float32'), {at_end})\n"
        f"last = x.ctypes.data + 4 * {4 if at_end else 0}\n"
        "ctypes.c_float.from_address(last).value\n"
        "print('inside is fine', flush=True)\n"
        f"ctypes.c_float.from_address(last + 4 * {step}).value\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.strip() == "inside is fine"
    assert run.returncode == -signal.SIGSEGV


if __name__ == "__main__":
    main(*sys.argv[1:])
