"""ncnn as an engine: inference of single convolutions, with filters and images in the forms that it prepares itself,
and of whole networks.
"""

from __future__ import annotations

from typing import Any

import ncnn  # type: ignore[import-not-found,unused-ignore]
import numpy as np

from .data import Array, arrays
from .engine import NCNN, Engine, Prepared, scores
from .layers import Conv, Network

AS_IT_IS, UNPACKED = 1, 0  # how a result is extracted


class NcnnEngine(Engine):
    """Images are packed as ncnn has them between two layers, so that no call pays for that."""

    def version(self) -> str:
        return str(ncnn.__version__)

    def conv(self, case: Conv, what: str, configuration: str) -> Prepared | None:
        if what != "inference":
            return None
        x, w, _ = arrays(case)
        weights = np.ascontiguousarray(w.transpose(3, 2, 0, 1))
        options = (
            f"0={case.filters} 1={case.kernel} 11={case.kernel} 2=1 3={case.stride} 4={case.padding} 5=0 6={w.size}"
        )
        layer = _Layer(case, f"Convolution layer 1 1 in out {options}", weights, self.threads)
        identity = _Layer(case, "ReLU layer 1 1 in out 0=1.0", weights[:0], self.threads)
        planes = np.ascontiguousarray(x[0].transpose(2, 0, 1))
        # Copied to memory of their own, both before and after.
        images = identity.run(ncnn.Mat(planes).clone()).clone()

        def array(_: Any) -> Array:
            return np.array(layer.run(images, UNPACKED)).transpose(1, 2, 0)[None]

        return Prepared(lambda: layer.run(images), array)

    def network(self, case: Network, what: str, configuration: str) -> Prepared | None:
        if what != "predict":
            return None
        images, _ = arrays(case)
        # It knows no batches: the images of one follow each other.
        # A Mat of an array does not keep it: the planes must be there until they are copied.
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        each = [ncnn.Mat(image).clone() for image in planes]
        net = _net(self.threads)
        net.load_param(str(self.files / f"{NCNN}.ncnn.param"))
        net.load_model(str(self.files / f"{NCNN}.ncnn.bin"))
        return Prepared(
            lambda: [_run(net, "in0", image, "out0") for image in each],
            lambda results: scores(np.array([np.array(result) for result in results])),
        )


class _Layer:
    """A network of one layer, its filters transformed."""

    def __init__(self, case: Conv, layer: str, weights: Array, threads: int) -> None:
        self._net = _net(threads)
        size = f"0={case.size} 1={case.size} 2={case.channels}"
        self._net.load_param_mem(f"7767517\n2 2\nInput in 0 1 in {size}\n{layer}\n")
        # A zero, float32 follows. The network reads it where it is.
        self._model = np.int32(0).tobytes() + weights.tobytes()
        self._net.load_model_mem(self._model)

    def run(self, images: Any, form: int = AS_IT_IS) -> Any:
        return _run(self._net, "in", images, "out", form)


def _net(threads: int) -> Any:
    """Return an empty network in float32."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in dir(net.opt):
        if name.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
            setattr(net.opt, name, False)
    return net


def _run(net: Any, source: str, images: Any, target: str, form: int = UNPACKED) -> Any:
    extractor = net.create_extractor()
    extractor.input(source, images)
    result = ncnn.Mat()
    if extractor.extract(target, result, form) != 0:
        raise RuntimeError(f"ncnn could not compute {target}")
    return result


ENGINE = NcnnEngine
