"""PyTorch as an engine: eager in both of its layouts; networks also fused by oneDNN and compiled.

Each pass of a layer calls the one operator that autograd would call for it, in inference mode, so that
nothing is recorded and no gradient is computed that was not asked for. Whole networks are trained as usual.
It also writes the networks' files for the other engines.
"""

from __future__ import annotations

import logging
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]

from . import torch_networks
from .data import Array, arrays
from .engine import (
    LEARNING_RATE,
    NCNN,
    NORM_EPSILON,
    ONNX,
    WEIGHTS,
    Engine,
    Prepared,
    gradients,
    optimized,
    scores,
    trained,
)
from .layers import NETWORKS, Activation, Case, Conv, Dense, Network, Norm, Optimizer, Pool

LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last, oneDNN": torch.channels_last,
}
EAGER = ("contiguous", "channels_last")
FUSED, COMPILED = "oneDNN fusion", "compile"
STATE = "weights.pt"


class TorchEngine(Engine):
    """Two layouts; on one thread a third way is tried for 1x1 convolutions.

    There PyTorch leaves oneDNN for im2col and MKL, which is slower on some CPUs. A dilation, which
    means nothing to a 1x1 filter, brings it back to oneDNN.
    """

    configurations = tuple(LAYOUTS)
    network_configurations = (*EAGER, FUSED, COMPILED)

    def __init__(self, threads: int, files: Path = Path()) -> None:
        super().__init__(threads, files)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        torch.manual_seed(0)
        # Of forms that are to go, and of libraries that its exporter does not find.
        warnings.filterwarnings("ignore", module=r"torch\.|copyreg")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)

    def version(self) -> str:
        return str(torch.__version__)

    def prepare(self, case: Case, what: str, configuration: str) -> Prepared | None:
        leaves_onednn = isinstance(case, Conv) and case.kernel == case.stride == self.threads == 1
        if configuration == "channels_last, oneDNN" and not leaves_onednn:
            return None
        return super().prepare(case, what, configuration)

    def conv(self, case: Conv, what: str, configuration: str) -> Prepared:
        x, w, g = arrays(case)
        layout = LAYOUTS[configuration]
        x, g = _images(x, layout), _images(g, layout)
        w = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous(memory_format=layout)
        dilation = 2 if configuration == "channels_last, oneDNN" else case.dilation
        places = [case.stride] * 2, [case.padding] * 2, [dilation] * 2
        if what == "forward":
            return _prepared(lambda: torch.conv2d(x, w, None, *places, case.groups), _nhwc)
        if what == "inference":
            # Filters in oneDNN's own order, as torch.compile has them in a frozen model.
            onednn = torch.ops.mkldnn
            options = places[1], places[0], places[2], case.groups
            packed = onednn._reorder_convolution_weight(w, *options, x.shape)
            return _prepared(lambda: onednn._convolution_pointwise(x, packed, None, *options, "none", [], ""), _nhwc)
        mask = [what in ("data", "gradients"), what in ("filter", "gradients"), False]
        options = None, *places, False, [0, 0], case.groups, mask
        backward = torch.ops.aten.convolution_backward
        if what == "data":
            return _prepared(lambda: backward(g, x, w, *options)[0], _nhwc)
        if what == "gradients":
            return _prepared(lambda: backward(g, x, w, *options), lambda r: gradients((_nhwc(r[0]), _hwio(r[1]))))
        return _prepared(lambda: backward(g, x, w, *options)[1], _hwio)

    def pool(self, case: Pool, what: str, configuration: str) -> Prepared:
        layout = LAYOUTS[configuration]
        x, g = (_images(array, layout) for array in arrays(case))
        window, stride, padding = [case.window] * 2, [case.stride] * 2, [case.padding] * 2
        aten = torch.ops.aten
        if case.kind == "max":
            places = window, stride, padding, [1, 1], False
            if what == "forward":
                return _prepared(lambda: torch.max_pool2d(x, *places), _nhwc)
            # The indices come from the forward pass, which has been paid for by then.
            _, indices = aten.max_pool2d_with_indices(x, *places)
            backward = aten.max_pool2d_with_indices_backward
            return _prepared(lambda: backward(g, x, *places, indices), _nhwc)
        average = window, stride, padding, False, False
        if what == "forward":
            return _prepared(lambda: aten.avg_pool2d(x, *average), _nhwc)
        return _prepared(lambda: aten.avg_pool2d_backward(g, x, *average, None), _nhwc)

    def norm(self, case: Norm, what: str, configuration: str) -> Prepared:
        layout = LAYOUTS[configuration]
        images, scale, offset, grad = arrays(case)
        x, g = _images(images, layout), _images(grad, layout)
        weight, bias = torch.from_numpy(scale), torch.from_numpy(offset)
        mean, variance = torch.zeros_like(weight), torch.ones_like(weight)
        aten = torch.ops.aten

        def forward() -> Any:
            return aten.native_batch_norm(x, weight, bias, mean, variance, True, 0.01, NORM_EPSILON)

        if what == "forward":
            return _prepared(lambda: torch.relu_(forward()[0]), _nhwc)
        y, saved_mean, saved_deviation = forward()
        y = torch.relu_(y)
        statistics = weight, mean, variance, saved_mean, saved_deviation, True, NORM_EPSILON, [True] * 3

        def backward() -> Any:
            return aten.native_batch_norm_backward(aten.threshold_backward(g, y, 0), x, *statistics)[0]

        return _prepared(backward, _nhwc)

    def dense(self, case: Dense, what: str, configuration: str) -> Prepared | None:
        if configuration != "contiguous":  # matrices have only one layout
            return None
        x, w, g = (torch.from_numpy(array) for array in arrays(case))
        if what == "forward":
            return _prepared(lambda: x @ w, _matrix)
        if what == "data":
            return _prepared(lambda: g @ w.T, _matrix)
        return _prepared(lambda: x.T @ g, _matrix)

    def activation(self, case: Activation, what: str, configuration: str) -> Prepared | None:
        if configuration != "contiguous":  # the order of elements is nothing to it
            return None
        x, g = (torch.from_numpy(array) for array in arrays(case))
        aten = torch.ops.aten
        forward = {
            "relu": torch.relu,
            "sigmoid": torch.sigmoid,
            "silu": aten.silu,
            "gelu": aten.gelu,
            "softmax": lambda x: torch.softmax(x, -1),
        }[case.kind]
        if what == "forward":
            return _prepared(lambda: forward(x), _matrix)
        y = forward(x)
        backward = {
            "relu": lambda: aten.threshold_backward(g, y, 0),
            "sigmoid": lambda: aten.sigmoid_backward(g, y),
            "silu": lambda: aten.silu_backward(g, x),
            "gelu": lambda: aten.gelu_backward(g, x),
            "softmax": lambda: aten._softmax_backward_data(g, y, -1, torch.float32),
        }[case.kind]
        return _prepared(backward, _matrix)

    def optimizer(self, case: Optimizer, what: str, configuration: str) -> Prepared | None:
        if configuration != "contiguous":
            return None
        operands = [torch.from_numpy(array) for array in arrays(case)]
        params = [torch.nn.Parameter(p) for p in operands[: len(operands) // 2]]
        for param, grad in zip(params, operands[len(params) :], strict=True):
            param.grad = grad
        optimizer: torch.optim.Optimizer = torch.optim.Adam(params, LEARNING_RATE, fused=True)
        if case.kind != "adam":
            momentum = 0.9 if case.kind == "momentum" else 0.0
            optimizer = torch.optim.SGD(params, LEARNING_RATE, momentum=momentum, fused=True)
        return optimized(optimizer.step, [param.detach().numpy() for param in params])

    def export(self, network: str) -> list[str]:
        model = torch_networks.NETWORKS[network]()
        torch_networks.randomize(model)
        model.eval()
        torch.save(model.state_dict(), self.files / STATE)
        np.savez(self.files / WEIGHTS, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
        model = _with_softmax(model).eval()
        images = NETWORKS[network]
        problems = []
        for write in (self._export_onnx, self._export_ncnn):
            try:
                write(model, torch.zeros(1, images.channels, images.size, images.size))
            except Exception as error:
                problems.append(f"{type(error).__name__}: {error}")
        return problems

    def _export_onnx(self, model: Any, image: Any) -> None:
        batch = torch.export.Dim("batch")
        # Of a batch of one it would take the size for a constant.
        torch.onnx.export(
            model,
            (image.repeat(2, 1, 1, 1),),
            self.files / ONNX,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )

    def _export_ncnn(self, model: Any, image: Any) -> None:
        import pnnx  # type: ignore[import-not-found,unused-ignore]

        traced = self.files / f"{NCNN}.pt"
        torch.jit.trace(model, image).save(traced)
        shape = ",".join(map(str, image.shape))
        # The program alone: the package would also import what it has written in Python.
        command = [str(Path(pnnx.__file__).parent / "pnnx"), traced.name, f"inputshape=[{shape}]", "fp16=0"]
        subprocess.run(command, cwd=self.files, check=True, capture_output=True)

    def network(self, case: Network, what: str, configuration: str) -> Prepared | None:
        if what == "train" and configuration == FUSED:
            return None
        layout = torch.contiguous_format if configuration == "contiguous" else torch.channels_last
        images, labels = arrays(case)
        images, labels = _images(images, layout), torch.from_numpy(labels)
        with torch.device("meta"):
            model = torch_networks.without_dropout(torch_networks.NETWORKS[case.network]())
        model.load_state_dict(torch.load(self.files / STATE), assign=True)
        model.to(memory_format=layout)
        if what == "predict":
            model = _for_inference(_with_softmax(model).eval(), images, configuration)
            return _prepared(lambda: model(images), lambda result: scores(result.numpy()))
        if configuration == COMPILED:
            model = torch.compile(model, dynamic=False)
        # The fastest of SGD's forms.
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, fused=True)
        loss = torch.nn.CrossEntropyLoss()

        def step() -> float:
            optimizer.zero_grad()
            value = loss(model(images), labels)
            value.backward()
            optimizer.step()
            return float(value.item())

        return trained(step)


def _with_softmax(model: Any) -> Any:
    """Return the network as it predicts: in training the loss takes its logits."""
    return torch.nn.Sequential(model, torch.nn.Softmax(1))


def _for_inference(model: Any, images: Any, configuration: str) -> Any:
    """Return the network as it predicts fastest in this configuration."""
    if configuration == FUSED:
        torch.jit.enable_onednn_fusion(True)
        with torch.inference_mode():
            fused = torch.jit.freeze(torch.jit.trace(model, images))
            for _ in range(2):  # it is compiled by the second call, which fails for some networks
                fused(images)
            return fused
    if configuration == COMPILED:
        from torch._inductor import config  # type: ignore[import-not-found,unused-ignore]

        config.freezing = True  # the weights are constants, and brought into oneDNN's own order
        return torch.compile(model, dynamic=False)
    return model


def _prepared(call: Callable[[], Any], array: Callable[[Any], Array] | None) -> Prepared:
    return Prepared(call, array, torch.inference_mode)


def _images(array: Array, layout: Any) -> Any:
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def _nhwc(result: Any) -> Array:
    array: Array = result.permute(0, 2, 3, 1).numpy()
    return array


def _hwio(result: Any) -> Array:
    array: Array = result.permute(2, 3, 1, 0).numpy()
    return array


def _matrix(result: Any) -> Array:
    array: Array = result.numpy()
    return array


ENGINE = TorchEngine
