"""What a run found out about whole networks, and how it reads: tables in Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .peers import OTHERS_FOR_NETWORKS, OURS, Timing
from .results import Panel, Row, failed, milliseconds, significant, table, threads_of, versions_of

MEGABYTE = 1e6


@dataclass
class Footprint:
    """What a library costs before it computes anything."""

    import_seconds: float
    installed_bytes: int


@dataclass
class NetworkRow(Row):
    """One pass of one network on so many threads, measured with each library that has it."""

    threads: int

    def title(self) -> str:
        return f"{self.case}, {self.what}, {threads_of(self.threads)}"

    def fastest_peer(self) -> str | None:
        """Return the fastest library but ours."""
        found = {name: timing.best for name in OTHERS_FOR_NETWORKS if (timing := self.fastest(name))}
        return min(found, key=found.__getitem__, default=None)


@dataclass
class NetworkReport:
    """All that was measured of networks in one run."""

    machine: str
    versions: dict[str, str]
    footprints: dict[str, Footprint]
    notes: list[str]
    failures: list[str]
    rows: list[NetworkRow]

    def title(self) -> str:
        """Return what was measured, and on what, in two lines."""
        return f"{self.machine}, float32\n{versions_of(self.versions)}"

    def markdown(self) -> str:
        """Return the whole report: what was measured on, fastcnn beside the fastest peer, then every library."""
        parts = [
            self.title(),
            *self.notes,
            *failed(self.failures),
            "",
            "ms: the least of the interleaved repeats, and how far their median lies above it.",
            "ratio: how many times as fast fastcnn is.",
            "first s: from the network's file to the first result.",
            "peak MB: resident memory at its peak; own MB: what of it came after the import.",
            "import s, disk MB: of the library; its files and those of all that it depends on.",
        ]
        if self.rows:
            parts += ["", "## Beside the fastest peer", "", table(*self._summary())]
        for row in self.rows:
            parts += ["", f"## {row.title()}", "", table(*self._libraries(row))]
        return "\n".join(parts)

    def _summary(self) -> tuple[list[str], list[list[str]]]:
        cells = []
        for row in self.rows:
            peer = row.fastest_peer()
            beside = [peer, milliseconds(row.fastest(peer)), _ratio(row.ratio(peer))] if peer else [""] * 3
            cells.append([str(row.case), row.what, str(row.threads), milliseconds(row.fastest(OURS)), *beside])
        return ["network", "pass", "threads", "fastcnn ms", "fastest peer", "ms", "ratio"], cells

    def _libraries(self, row: NetworkRow) -> tuple[list[str], list[list[str]]]:
        ours = row.fastest(OURS)
        cells = []
        for name, title, timing in _every(row):
            footprint = self.footprints[name]
            ratio = timing.best / ours.best if ours and name != OURS else None
            own = timing.peak - timing.imported if timing.peak and timing.imported else None
            cells.append(
                [
                    ", ".join(filter(None, (name, title))),
                    milliseconds(timing),
                    _ratio(ratio),
                    significant(timing.first) if timing.first else "",
                    _megabytes(timing.peak),
                    _megabytes(own),
                    significant(footprint.import_seconds),
                    _megabytes(footprint.installed_bytes),
                ]
            )
        return ["engine", "ms", "ratio", "first s", "peak MB", "own MB", "import s", "disk MB"], cells

    def panels(self) -> list[list[Panel]]:
        """Return what is drawn: a column for each peer, in it a panel for each number of threads."""
        numbers = dict.fromkeys(row.threads for row in self.rows)
        return [
            [
                Panel(threads_of(threads), peer, [r for r in self.rows if r.threads == threads and r.ratio(peer)])
                for threads in numbers
            ]
            for peer in OTHERS_FOR_NETWORKS
        ]

    def json(self) -> str:
        """Return everything with the single times left out."""
        rows = [
            {
                "network": row.case.name,
                "pass": row.what,
                "threads": row.threads,
                "seconds": row.figures("first", "peak", "imported"),
            }
            for row in self.rows
        ]
        footprints = {name: asdict(footprint) for name, footprint in self.footprints.items()}
        return json.dumps({**vars(self), "footprints": footprints, "rows": rows}, indent=1)


def _every(row: NetworkRow) -> Iterator[tuple[str, str, Timing]]:
    for name, timings in row.timings.items():
        for title, timing in timings.items():
            yield name, title, timing


def _ratio(ratio: float | None) -> str:
    return f"{ratio:.2f}" if ratio else ""


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / MEGABYTE:.0f}"
