"""ncnn as an engine: inference of single convolutions, with filters and images in the forms that it prepares itself."""

from __future__ import annotations

from typing import Any

import ncnn  # type: ignore[import-not-found,unused-ignore]
import numpy as np

from .data import Array, arrays
from .engine import Engine, Prepared
from .layers import Conv

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


class _Layer:
    """A network of one layer in float32, its filters transformed."""

    def __init__(self, case: Conv, layer: str, weights: Array, threads: int) -> None:
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        for name in dir(self._net.opt):
            if name.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
                setattr(self._net.opt, name, False)
        size = f"0={case.size} 1={case.size} 2={case.channels}"
        self._net.load_param_mem(f"7767517\n2 2\nInput in 0 1 in {size}\n{layer}\n")
        # A zero, float32 follows. The network reads it where it is.
        self._model = np.int32(0).tobytes() + weights.tobytes()
        self._net.load_model_mem(self._model)

    def run(self, images: Any, form: int = AS_IT_IS) -> Any:
        extractor = self._net.create_extractor()
        extractor.input("in", images)
        result = ncnn.Mat()
        if extractor.extract("out", result, form) != 0:
            raise RuntimeError("ncnn could not compute the layer")
        return result


ENGINE = NcnnEngine
