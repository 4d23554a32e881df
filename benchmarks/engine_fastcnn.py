"""fastcnn as an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from timeit import repeat
from typing import Any

import numpy as np

import fastcnn
from fastcnn import layers, models, nn, optimizers, runtime
from fastcnn._core import _runtime

from .data import Array, arrays
from .engine import LEARNING_RATE, NORM_EPSILON, WEIGHTS, Engine, Prepared, gradients, optimized, scores, trained
from .layers import Activation, Case, Conv, Dense, Network, Norm, Optimizer, Pool

# Bytes of the arrays that the memory's rate is measured with, and how often they go by.
LEAST_STREAM, MOST_STREAM, STREAMS = 64 << 20, 1 << 30, 5
MODEL = "network.safetensors"


def _same(result: Array) -> Array:
    return result


def _small(seed: int) -> fastcnn.Model:
    """Return a network of two convolutions and two dense layers, for images of 32x32x3."""
    return fastcnn.Sequential(
        [
            fastcnn.Input((32, 32, 3)),
            layers.Conv2D(32, 3, padding=1, activation="relu", name="conv1"),
            layers.MaxPool2D(2),
            layers.Conv2D(64, 3, padding=1, activation="relu", name="conv2"),
            layers.MaxPool2D(2),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="fc1"),
            layers.Dense(10, activation="softmax", name="fc2"),
        ],
        seed=seed,
    )


MODELS: dict[str, Callable[..., fastcnn.Model]] = {
    "lenet5": models.lenet5,
    "small": _small,
    "cifar-vgg": models.cifar_vgg,
    "cifar-resnet18": models.resnet18_cifar,
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "vgg16": models.vgg16,
    "mobilenet2": models.mobilenet_v2,
}


class FastcnnEngine(Engine):
    """Calls of the functional layer, and models of the zoo from its own files."""

    def __init__(self, threads: int, files: Path = Path()) -> None:
        super().__init__(threads, files)
        runtime.set_num_threads(threads)

    def version(self) -> str:
        return f"{runtime.info().version}, {runtime.active_isa()}"

    def peak(self) -> float:
        return runtime.fma_peak("float32", threads=self.threads)

    def bandwidth(self) -> float:
        # In place: what is written is read too, as caches do before they write, and there are no new pages. Each array
        # takes as much as L3.
        size = min(max(runtime.info().l3_bytes, LEAST_STREAM), MOST_STREAM) // 4
        weights, gradients = np.ones(size, np.float32), np.ones(size, np.float32)
        taken = repeat(lambda: nn.sgd_step([weights], [gradients], None, 0.0), number=1, repeat=STREAMS)
        return 3 * weights.nbytes / min(taken) / 1e9

    def scratch(self) -> int:
        return _runtime.peak_scratch()

    def prepare(self, case: Case, what: str, configuration: str) -> Prepared | None:
        prepared = super().prepare(case, what, configuration)
        if prepared is None or isinstance(case, Network):
            return prepared
        # Results have memory as they have in training.
        return replace(prepared, around=runtime.ReusingMemory)

    def conv(self, case: Conv, what: str, configuration: str) -> Prepared:
        x, w, g = arrays(case)
        options = case.stride, case.padding, case.dilation, case.groups
        if what == "forward":
            return Prepared(lambda: nn.conv2d(x, w, *options), _same)
        if what == "inference":
            prepared = nn.PreparedConv2D(w, x.shape, *options)
            return Prepared(lambda: prepared(x), _same)
        if what == "data":
            return Prepared(lambda: nn.conv2d_backward_input(g, w, x.shape, *options), _same)
        if what == "gradients":
            return Prepared(lambda: nn.conv2d_backward(g, x, w, *options, bias_grad=False), gradients)
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

    def activation(self, case: Activation, what: str, configuration: str) -> Prepared:
        x, g = arrays(case)
        if what == "forward":
            return Prepared(lambda: nn.activate(x, case.kind), _same)
        kept = x if case.kind in nn.BACK_FROM_ARGUMENT else nn.activate(x, case.kind)
        return Prepared(lambda: nn.activate_backward(g, kept, case.kind), _same)

    def optimizer(self, case: Optimizer, what: str, configuration: str) -> Prepared:
        operands = arrays(case)
        params, grads = (list(part) for part in (operands[: len(operands) // 2], operands[len(operands) // 2 :]))
        optimizer: optimizers.Optimizer = optimizers.Adam(LEARNING_RATE)
        if case.kind != "adam":
            optimizer = optimizers.SGD(LEARNING_RATE, momentum=0.9 if case.kind == "momentum" else 0.0)
        optimizer.bind({str(i): param for i, param in enumerate(params)})
        return optimized(lambda: optimizer.step(grads), params)

    def export(self, network: str) -> list[str]:
        model = MODELS[network](seed=0)
        for layer in model.layers:
            if isinstance(layer, layers.Dropout):  # of masks that PyTorch does not draw
                layer.rate = 0.0
        weights = self.files / WEIGHTS
        if weights.exists():
            with np.load(weights) as arrays_by_name:
                model.load_torch_state_dict(dict(arrays_by_name))
        model.save(self.files / MODEL)
        return []

    def network(self, case: Network, what: str, configuration: str) -> Prepared:
        images, labels = arrays(case)
        model: Any = fastcnn.load(self.files / MODEL)
        if what == "predict":
            return Prepared(lambda: model.predict_on_batch(images), scores)
        model.compile(optimizers.SGD(LEARNING_RATE), "sparse_categorical_crossentropy")
        return trained(lambda: model.train_on_batch(images, labels))


ENGINE = FastcnnEngine
