"""What a run found out about layers, and how it reads: a table in Markdown, geometric means, JSON."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .layers import Activation, Case, Conv, Dense, Norm, Optimizer, Pool
from .peers import CPU_INFO, OTHERS, OURS, Timing

PASSES = ("forward", "inference", "data", "filter", "gradients", "update")
GRADIENTS = ("data", "filter", "gradients")
TEXTS = ("layer", "pass", "group", "network", "engine", "fastest peer")


@dataclass
class Row:
    """One pass of one layer, measured with each library that has it."""

    case: Case
    what: str
    timings: dict[str, dict[str, Timing]]

    def fastest(self, name: str) -> Timing | None:
        """Return the figures of a library's fastest configuration."""
        return min(self.timings.get(name, {}).values(), key=lambda t: t.best, default=None)

    def ratio(self, peer: str) -> float | None:
        """Return how many times as fast as the peer fastcnn is, from the least times of both."""
        ours, theirs = self.fastest(OURS), self.fastest(peer)
        return theirs.best / ours.best if ours and theirs else None

    def figures(self, *others: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what JSON gets of each library and configuration: least and median time, repeats, these others."""
        return {
            name: {
                configuration: {
                    "least": timing.best,
                    "median": timing.median,
                    "repeats": len(timing.times),
                    **{other: getattr(timing, other) for other in others},
                }
                for configuration, timing in timings.items()
            }
            for name, timings in self.timings.items()
        }


class Run(Protocol):
    """All that was measured in one run, as it is published."""

    @property
    def failures(self) -> list[str]:
        """What failed, with tracebacks."""

    def title(self) -> str:
        """Return what was measured, and on what, in two lines."""

    def markdown(self) -> str:
        """Return the whole report."""

    def json(self) -> str:
        """Return everything with the single times left out."""

    def panels(self) -> list[list[Panel]]:
        """Return what is drawn, column by column."""


@dataclass
class Panel:
    """Rows that are drawn beside the same peer, which all of them have."""

    title: str
    peer: str
    rows: list[Row]


def _convs_of(*networks: str, batch: int | None = None) -> Callable[[Case], bool]:
    return lambda case: isinstance(case, Conv) and case.network in networks and batch in (None, case.batch)


# Columns of panels of layers: title, peer, cases.
PANELS: tuple[tuple[tuple[str, str, Callable[[Case], bool]], ...], ...] = (
    (
        ("ResNet-50, batch 1", "torch", _convs_of("resnet50", batch=1)),
        ("MobileNetV2, EfficientNet-B0", "torch", _convs_of("mobilenet2", "efficientnet")),
    ),
    (
        ("LeNet-5, two convolutions, CIFAR-VGG, VGG-16", "torch", _convs_of("lenet5", "fashion", "cifar", "vgg16")),
        ("ResNet-50, batch 16", "torch", _convs_of("resnet50", batch=16)),
        ("ResNet-18, ResNeXt-50, DeepLab", "torch", _convs_of("resnet18", "resnext50", "deeplab")),
    ),
    (
        ("Matrix products", "numpy", lambda case: isinstance(case, Dense)),
        ("Pooling", "torch", lambda case: isinstance(case, Pool)),
        ("Batch norm and ReLU", "torch", lambda case: isinstance(case, Norm)),
        ("Activations and optimisers", "torch", lambda case: isinstance(case, Activation | Optimizer)),
    ),
)


@dataclass
class Report:
    """All that was measured of layers in one run.

    peak is the machine's rate of multiply-adds in GFLOP/s, bandwidth that of its memory in GB/s.
    """

    machine: str
    threads: int
    peak: float
    bandwidth: float
    versions: dict[str, str]
    notes: list[str]
    failures: list[str]
    rows: list[Row]

    def keep_peak(self, peak: float, bandwidth: float) -> None:
        """Keep the higher of what is measured more than once: a machine that was busy would flatter all figures."""
        self.peak, self.bandwidth = max(self.peak, peak), max(self.bandwidth, bandwidth)

    @property
    def peers(self) -> list[str]:
        """The peers that have figures, in the order of the columns."""
        return [name for name in OTHERS if any(name in row.timings for row in self.rows)]

    def title(self) -> str:
        """Return what was measured, and on what, in two lines."""
        peak = f"peak of multiply-adds {self.peak:.0f} GFLOP/s, memory {self.bandwidth:.0f} GB/s"
        return f"{self.machine}, {threads_of(self.threads)}, float32, {peak}\n{versions_of(self.versions)}"

    def markdown(self) -> str:
        """Return the whole report: what was measured on, the table, the geometric means."""
        parts = [
            self.title(),
            *self.notes,
            *failed(self.failures),
            "",
            "ms: the least of the interleaved repeats, and how far their median lies above it.",
            "of peak: the share of the peak of multiply-adds; where memory takes longer than they, the rate at which",
            "operands and results go by, if only in the caches.",
            "scratch: the memory that fastcnn took besides operands and result.",
            "ratio: how many times as fast as the peer in its fastest configuration fastcnn is.",
            *self._configurations(),
            "",
            table(*self._layers()),
            "",
            "Geometric means of the ratios:",
            "",
            table(*self._means()),
        ]
        return "\n".join(parts)

    def panels(self) -> list[list[Panel]]:
        """Return what is drawn, column by column."""
        return [
            [
                Panel(title, peer, [row for row in self.rows if wanted(row.case) and row.ratio(peer)])
                for title, peer, wanted in panels
            ]
            for panels in PANELS
        ]

    def _configurations(self) -> list[str]:
        lines = []
        for peer in self.peers:
            names = dict.fromkeys(name for row in self.rows for name in row.timings.get(peer, {}))
            if len(names) > 1:
                tried = "; ".join(name or "as it comes" for name in names)
                lines.append(f"{peer}: the fastest of: {tried}.")
        return lines

    def _layers(self) -> tuple[list[str], list[list[str]]]:
        head = ["layer", "pass", "fastcnn ms", "of peak", "scratch"]
        for peer in self.peers:
            head += [f"{peer} ms", "ratio"]
        cells = []
        for row in self.rows:
            cells.append(
                [row.case.name, row.what, milliseconds(row.fastest(OURS)), self._rate(row), _scratch(row.fastest(OURS))]
            )
            for peer in self.peers:
                ratio = row.ratio(peer)
                cells[-1] += [milliseconds(row.fastest(peer)), f"{ratio:.2f}" if ratio else ""]
        return head, cells

    def _rate(self, row: Row) -> str:
        """Return the share of the machine's peak, or the memory traffic where that is the limit."""
        timing, flops, moved = row.fastest(OURS), row.case.flops() or 0.0, row.case.bytes(row.what) or 0.0
        if timing is None or not flops + moved:
            return ""
        if moved * self.peak > flops * self.bandwidth:
            return f"{moved / timing.best / 1e9:.0f} GB/s"
        return f"{flops / timing.best / 1e9 / self.peak:.0%}"

    def _means(self) -> tuple[list[str], list[list[str]]]:
        groups = list(dict.fromkeys(row.case.group for row in self.rows))
        cells = [
            [group, title, str(len(rows)), *(_geometric_mean(rows, peer) for peer in self.peers)]
            for group in groups
            for title, rows in _by_pass(row for row in self.rows if row.case.group == group)
        ]
        convs = [row for row in self.rows if isinstance(row.case, Conv)]
        if len({row.case.group for row in convs}) > 1:
            cells += [
                ["all convolutions", title, str(len(rows))] + [_geometric_mean(rows, peer) for peer in self.peers]
                for title, rows in _by_pass(convs)
            ]
        return ["group", "pass", "layers", *self.peers], cells

    def json(self) -> str:
        """Return everything with the single times left out."""
        rows = [
            {
                "layer": row.case.name,
                "group": row.case.group,
                "pass": row.what,
                "seconds": row.figures("scratch"),
            }
            for row in self.rows
        ]
        return json.dumps({**vars(self), "rows": rows}, indent=1)


def _by_pass(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Sort rows by pass; those of gradients also together, where there are several."""
    rows = list(rows)
    found = [(what, [row for row in rows if row.what == what]) for what in PASSES]
    backward = [row for row in rows if row.what in GRADIENTS]
    if len({row.what for row in backward}) > 1:
        found.append(("data + filter", backward))
    return [(title, members) for title, members in found if members]


def _geometric_mean(rows: Iterable[Row], peer: str) -> str:
    ratios = [ratio for row in rows if (ratio := row.ratio(peer))]
    if not ratios:
        return ""
    return f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}"


def machine() -> str:
    """Return the CPU's name."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def threads_of(number: int) -> str:
    """Return the number of threads in words."""
    return "1 thread" if number == 1 else f"{number} threads"


def versions_of(versions: Mapping[str, str]) -> str:
    """Return the libraries that were measured, in a line."""
    return "; ".join(f"{name} {version}" for name, version in versions.items())


def failed(failures: Iterable[str]) -> list[str]:
    """Return a line for each failure."""
    return [f"FAILED: {failure.splitlines()[0]}" for failure in failures]


def milliseconds(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{significant(timing.best * 1e3)} +{timing.median / timing.best - 1:.0%}"


def significant(number: float) -> str:
    """Return a number with three digits that mean something."""
    return f"{number:#.3g}".rstrip(".") if number < 1000 else f"{number:.0f}"


def _scratch(timing: Timing | None) -> str:
    return f"{timing.scratch / 1e6:.2f} MB" if timing and timing.scratch else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Lay out a Markdown table whose source is aligned too: text left, numbers right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    texts = [name in TEXTS for name in head]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(cells, widths, texts, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if text else "-" * (width - 1) + ":" for width, text in zip(widths, texts, strict=True)]
    return "\n".join([line(head), line(rule), *map(line, rows)])
