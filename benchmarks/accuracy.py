"""The error of each algorithm on real layers: ``python -m benchmarks.accuracy`` prints a table in Markdown.

Operands are random normal in float32. Errors are those of the float32 result against the direct algorithm in
float64 on the same operands, in units of the exact result's root mean square.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from fastcnn import nn

from .data import arrays
from .layers import Conv, select

ALGORITHMS = ("direct", "winograd-2x2", "winograd-4x4", "winograd-6x6")
# Of groups; the code for groups that share a vector has no name to ask for.
WITHOUT_WINOGRAD = ("direct", "auto")


def algorithms(layer: Conv) -> tuple[str, ...]:
    """Return what is measured of a layer."""
    return ALGORITHMS if layer.groups == 1 else WITHOUT_WINOGRAD


def errors(layer: Conv) -> Iterator[tuple[str, str, float, float]]:
    """Measure one layer: (pass, algorithm, largest error, root mean square of the errors)."""
    x, w, grad = arrays(layer)
    options = {"strides": layer.stride, "padding": layer.padding, "dilations": layer.dilation, "groups": layer.groups}
    passes: dict[str, Callable[..., np.ndarray]] = {
        "forward": lambda x, w, g, **k: nn.conv2d(x, w, **options, **k),
        "data": lambda x, w, g, **k: nn.conv2d_backward_input(g, w, x.shape, **options, **k),
        "filter": lambda x, w, g, **k: nn.conv2d_backward_filters(g, x, w.shape, **options, **k),
    }
    for name, run in passes.items():
        exact = run(*(a.astype(np.float64) for a in (x, w, grad)), algorithm="direct")
        size = np.sqrt(np.mean(exact**2))
        for algorithm in algorithms(layer):
            error = np.abs(run(x, w, grad, algorithm=algorithm) - exact) / size
            yield name, algorithm, float(error.max()), float(np.sqrt(np.mean(error**2)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--only", metavar="WORDS", default="vgg16 3x3 n1", help="layers whose names have these words")
    layers = [
        layer
        for layer in select(parser.parse_args().only)
        if isinstance(layer, Conv) and (layer.kernel, layer.stride, layer.depthwise) == (3, 1, False)
    ]
    columns = list(dict.fromkeys(a for layer in layers for a in algorithms(layer)))
    print("| layer | pass | " + " | ".join(f"{a}: max | RMS" for a in columns) + " |")
    print("| --- | --- |" + " ---: |" * 2 * len(columns))
    for layer in layers:
        cells: dict[str, dict[str, str]] = {}
        for name, algorithm, most, rms in errors(layer):
            cells.setdefault(name, {})[algorithm] = f"{most:.1e} | {rms:.1e}"
        for name, found in cells.items():
            print(f"| {layer} | {name} | " + " | ".join(found.get(a, " | ") for a in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
