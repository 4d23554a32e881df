"""fastcnn as an engine."""

from __future__ import annotations

from typing import Any

from fastcnn import nn, runtime
from fastcnn._core import _runtime

from .data import Array, arrays
from .engine import NORM_EPSILON, Engine, Prepared
from .layers import Conv, Dense, Network, Norm, Pool


def _same(result: Array) -> Array:
    return result


class FastcnnEngine(Engine):
    """Calls of the functional layer, and a model for the network."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        runtime.set_num_threads(threads)

    def version(self) -> str:
        return f"{runtime.info().version}, {runtime.active_isa()}"

    def peak(self) -> float:
        return runtime.fma_peak("float32", threads=self.threads)

    def scratch(self) -> int:
        return _runtime.largest_scratch()

    def conv(self, case: Conv, what: str, configuration: str) -> Prepared:
        x, w, g = arrays(case)
        options = case.stride, case.padding, 1, case.groups
        if what == "forward":
            return Prepared(lambda: nn.conv2d(x, w, *options), _same)
        if what == "inference":
            prepared = nn.PreparedConv2D(w, x.shape, *options)
            return Prepared(lambda: prepared(x), _same)
        if what == "data":
            return Prepared(lambda: nn.conv2d_backward_input(g, w, x.shape, *options), _same)
        return Prepared(lambda: nn.conv2d_backward_filters(g, x, w.shape, *options), _same)

    def pool(self, case: Pool, what: str, configuration: str) -> Prepared:
        x, g = arrays(case)
        options = case.window, case.stride, case.padding
        if case.kind == "max":
            if what == "forward":
                return Prepared(lambda: nn.max_pool_with_argmax(x, *options)[0], _same)
            # As in PyTorch they come from the forward pass.
            _, argmax = nn.max_pool_with_argmax(x, *options)
            return Prepared(lambda: nn.max_pool_with_argmax_backward(g, argmax, x.shape, *options), _same)
        if what == "forward":
            return Prepared(lambda: nn.avg_pool(x, *options), _same)
        return Prepared(lambda: nn.avg_pool_backward(g, x.shape, *options), _same)

    def norm(self, case: Norm, what: str, configuration: str) -> Prepared:
        x, scale, offset, g = arrays(case)
        if what == "forward":
            return Prepared(
                lambda: nn.batch_normalization(x, *nn.moments(x), offset, scale, NORM_EPSILON, "relu"), _same
            )
        moments = nn.moments(x)
        options = NORM_EPSILON, True, offset, "relu"
        return Prepared(lambda: nn.batch_normalization_backward(g, x, *moments, scale, *options), lambda r: r[0])

    def dense(self, case: Dense, what: str, configuration: str) -> Prepared:
        x, w, g = arrays(case)
        if what == "forward":
            return Prepared(lambda: nn.matmul(x, w), _same)
        if what == "data":
            return Prepared(lambda: nn.matmul(g, w, transpose_b=True), _same)
        return Prepared(lambda: nn.matmul(x, g, transpose_a=True), _same)

    def network(self, case: Network, what: str, configuration: str) -> Prepared:
        images, labels = arrays(case)
        model = _lenet5()
        if what == "train":
            return Prepared(lambda: model.train_on_batch(images, labels))
        return Prepared(lambda: model.predict(images))


def _lenet5() -> Any:
    from fastcnn import Sequential, layers, losses

    model = Sequential(
        [
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPool2D(2),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10),
        ],
        seed=0,
    )
    model.compile("adam", loss=losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


ENGINE = FastcnnEngine
