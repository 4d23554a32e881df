"""What the cost model chooses beside what is fastest: ``python -m benchmarks.choices`` prints a table in Markdown.

Of 3x3 convolutions at stride 1 and their gradients, which "auto" computes directly or by one of Winograd's tiles, as
``fastcnn/nn/_algorithms.py`` says; its constants are to be fitted again where choices cost more than a few percent.
Milliseconds are the least of some rounds, in which the algorithms take turns.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastcnn import nn, runtime
from fastcnn.nn.conv import algorithm_for, geometry_of

from .accuracy import ALGORITHMS
from .data import arrays
from .layers import Conv, select
from .results import significant, table
from .worker import times

ROUNDS, SECONDS, LEAST = 5, 0.02, 3
# As the cost model calls what is computed.
RESULTS = {"forward": "forward", "inference": "prepared", "data": "input", "filter": "filters"}


def seconds(layer: Conv) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Measure one layer: (pass, the algorithm that is chosen, the time of each)."""
    x, w, grad = arrays(layer)
    options = layer.stride, layer.padding, layer.dilation, layer.groups
    geometry, _ = geometry_of(x.shape, w.shape, *options)

    def prepared(algorithm: str) -> Callable[[], Any]:
        made = nn.PreparedConv2D(w, x.shape, *options, algorithm=algorithm)
        return lambda: made(x)

    passes: dict[str, Callable[[str], Callable[[], Any]]] = {
        "forward": lambda a: lambda: nn.conv2d(x, w, *options, algorithm=a),
        "inference": prepared,
        "data": lambda a: lambda: nn.conv2d_backward_input(grad, w, x.shape, *options, algorithm=a),
        "filter": lambda a: lambda: nn.conv2d_backward_filters(grad, x, w.shape, *options, algorithm=a),
    }
    for what in layer.passes:
        chosen = algorithm_for(geometry, "auto", RESULTS[what], np.empty(0, x.dtype))
        # What has no name to ask for is asked for as what it is.
        calls = {a: passes[what](a if a in ALGORITHMS else "auto") for a in dict.fromkeys([*ALGORITHMS, chosen])}
        best = dict.fromkeys(calls, math.inf)
        with runtime.ReusingMemory():
            for _ in range(ROUNDS):
                for algorithm, call in calls.items():
                    best[algorithm] = min(best[algorithm], *times(call, SECONDS, LEAST))
        yield what, chosen, best


def main() -> None:
    """Print the table, and what the choices cost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    parser.add_argument("--only", metavar="WORDS", default="3x3", help="layers whose names have these words")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    runtime.set_num_threads(options.threads)
    rows, costs = [], []
    for layer in select(options.only):
        if not isinstance(layer, Conv) or (layer.kernel, layer.stride, layer.groups) != (3, 1, 1):
            continue
        for what, chosen, found in seconds(layer):
            costs.append(found[chosen] / min(found.values()))
            figures = [significant(1e3 * found[algorithm]) for algorithm in ALGORITHMS]
            rows.append([str(layer), what, *figures, chosen, f"{costs[-1]:.2f}"])
    print(table(["layer", "pass", *ALGORITHMS, "chosen", "of the fastest"], rows))
    if costs:
        mean = math.exp(sum(map(math.log, costs)) / len(costs))
        print(f"\nChoices take {mean:.3f} times as long as the fastest, geometric mean, and {max(costs):.2f} at most.")


if __name__ == "__main__":
    main()
