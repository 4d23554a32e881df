"""Draws a report: for everything that was measured, how many times as fast as its peer fastcnn is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .results import Panel, Row, Run

COLOURS = {
    "forward": "#2a6fb0",
    "inference": "#7fb2e0",
    "data": "#e39a2d",
    "filter": "#5aa05a",
    "gradients": "#b3a13c",
    "update": "#8c8c5a",
    "train": "#7d57a8",
    "predict": "#c25b78",
}
LABELS = {
    "inference": "forward, filters prepared",
    "data": "data gradient",
    "filter": "filter gradient",
    "gradients": "both gradients",
    "update": "optimiser's step",
    "train": "training step",
    "predict": "prediction",
}
COLUMN_INCHES = 6.0
BAR_INCHES = 0.13
PANEL_INCHES = 0.7
HEADER_INCHES = 0.9
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8, 12, 20, 50)
PEER_TITLES = {"torch": "PyTorch", "numpy": "NumPy", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
GAP = 0.6  # between layers, in bars
MARGIN = 1.25  # of the axes beyond the longest bars: room for their labels


def draw(run: Run, path: Path) -> bool:
    """Write the picture as a PNG file, unless nothing has a ratio; return whether it did."""
    columns = [shown for panels in run.panels() if (shown := [panel for panel in panels if panel.rows])]
    if not columns:
        return False
    heights = [[_inches(panel.rows) for panel in panels] for panels in columns]
    height = max(map(sum, heights)) + HEADER_INCHES
    figure = Figure(figsize=(COLUMN_INCHES * len(columns), height), layout="constrained")
    FigureCanvasAgg(figure)
    for part, panels, inches in zip(
        figure.subfigures(1, len(columns), squeeze=False)[0], columns, heights, strict=True
    ):
        filler = max(map(sum, heights)) - sum(inches)
        grid = part.add_gridspec(len(panels) + 1, 1, height_ratios=[*inches, filler + 1e-3])
        for place, panel in enumerate(panels):
            _draw(part.add_subplot(grid[place]), panel)
    passes = dict.fromkeys(row.what for panels in columns for panel in panels for row in panel.rows)
    figure.legend(
        handles=[Patch(color=COLOURS[what], label=LABELS.get(what, what)) for what in passes],
        loc="outside upper center",
        ncols=len(passes),
        frameon=False,
        title=f"Speed of fastcnn; 1: its peer's fastest configuration\n{run.title()}",
    )
    figure.savefig(path, dpi=110)
    return True


def _inches(rows: list[Row]) -> float:
    layers = len({row.case.name for row in rows})
    return PANEL_INCHES + BAR_INCHES * (len(rows) + GAP * layers)


def _draw(axes: Any, panel: Panel) -> None:
    """Draw the bars of a layer's passes close together, with a gap before the next layer.

    They start at 1 on a logarithmic axis: twice and half as fast are equally long.
    """
    peer, rows = panel.peer, panel.rows
    y = 0.0
    places: dict[str, list[float]] = {}
    for index, row in enumerate(rows):
        if index and row.case.name != rows[index - 1].case.name:
            y += GAP
        ratio = row.ratio(peer) or 1.0
        axes.barh(y, ratio - 1, left=1, height=0.9, color=COLOURS[row.what])
        axes.annotate(
            f"{ratio:.2f}",
            (ratio, y),
            xytext=(2 if ratio >= 1 else -2, 0),
            textcoords="offset points",
            ha="left" if ratio >= 1 else "right",
            va="center",
            fontsize=6,
        )
        places.setdefault(row.case.name, []).append(y)
        y += 1
    axes.set_yticks([sum(at) / len(at) for at in places.values()], list(places), fontsize=7.5)
    axes.set_ylim(y - 0.2, -0.8)
    ratios = [row.ratio(peer) or 1.0 for row in rows]
    low, high = min(0.7, *ratios) / MARGIN, max(1.4, *ratios) * MARGIN
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(f"{panel.title} ({PEER_TITLES.get(peer, peer)} = 1)", fontsize=10, loc="left")
