"""ONNX Runtime as an engine: prediction by whole networks."""

from __future__ import annotations

import numpy as np
import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

from .data import arrays
from .engine import ONNX, Engine, Prepared, scores
from .layers import Network


class OnnxRuntimeEngine(Engine):
    """All of its optimisations of the graph, for a batch whose size it knows."""

    def version(self) -> str:
        return str(onnxruntime.__version__)

    def network(self, case: Network, what: str, configuration: str) -> Prepared | None:
        if what != "predict":
            return None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_free_dimension_override_by_name("batch", case.batch)
        session = onnxruntime.InferenceSession(self.files / ONNX, options, providers=["CPUExecutionProvider"])
        images, _ = arrays(case)
        feed = {"x": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
        return Prepared(lambda: session.run(None, feed)[0], scores)


ENGINE = OnnxRuntimeEngine
