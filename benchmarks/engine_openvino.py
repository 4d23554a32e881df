"""OpenVINO as an engine: prediction by whole networks, from their ONNX files."""

from __future__ import annotations

import numpy as np
import openvino  # type: ignore[import-not-found,import-untyped,unused-ignore]

from .data import arrays
from .engine import ONNX, Engine, Prepared, scores
from .layers import Network


class OpenVinoEngine(Engine):
    """Its setting for the least latency, in float32, which it would leave for bfloat16 where the CPU has that."""

    def version(self) -> str:
        return str(openvino.__version__).partition("-")[0]

    def network(self, case: Network, what: str, configuration: str) -> Prepared | None:
        if what != "predict":
            return None
        images, _ = arrays(case)
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        core = openvino.Core()
        model = core.read_model(self.files / ONNX)
        model.reshape(planes.shape)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()
        return Prepared(lambda: request.infer({0: planes}, share_inputs=True, share_outputs=True)[0], scores)


ENGINE = OpenVinoEngine
