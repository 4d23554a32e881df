"""Compares fastcnn with the peers that are installed, layer by layer: one table in Markdown, and its picture.

Run it from the repository as ``python -m benchmarks.report``; with ``--quick`` it takes minutes, and leaves out layers
that are much like others. Of a single layer, quickly::

    python -m benchmarks.report --only 'resnet50 3x3 56x56 n1' --pass forward --quick
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from . import ROOT, layers, peers
from .peers import OURS, Peer
from .results import PASSES, Report, Row, Run, machine

DEFAULT_OUT = ROOT / "build" / "benchmarks"
ROUNDS, SECONDS = 3, 0.06
QUICK_ROUNDS, QUICK_SECONDS = 3, 0.02


def measure(options: argparse.Namespace) -> Report:
    """Start the libraries' processes and measure what was asked for; stops early on Ctrl-C."""
    with ExitStack() as stack:
        ours = stack.enter_context(Peer(OURS, options.threads))
        others, missing = peers.start(options.peers, options.threads, options.python_for_peers)
        for peer in others:
            stack.enter_context(peer)
        running = [ours, *others]
        versions = {peer.name: peer.version for peer in running}
        report = Report(machine(), options.threads, 0.0, 0.0, versions, missing, [], [])
        report.keep_peak(**ours.ask(do="peak"))
        cases = layers.select(options.only, options.quick)
        work = [(case, what) for case, what in layers.passes(cases) if what in options.passes]
        bar = tqdm(work, disable=None, file=sys.stderr, leave=False)
        try:
            for case, what in bar:
                bar.set_description(f"{case.name} {what}")
                try:
                    timings = peers.compare(running, case, what, options.rounds, options.seconds)
                except peers.Failure as failure:
                    report.failures.append(f"{case}, {what}: {failure}")
                else:
                    report.rows.append(Row(case, what, timings))
        except KeyboardInterrupt:
            report.notes.append(f"interrupted after {len(report.rows)} of {len(work)} measurements")
        else:
            report.keep_peak(**ours.ask(do="peak"))
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the report, and write it with its picture into a folder."""
    options = _options(argv)
    try:
        report = measure(options)
    except peers.Missing as error:
        print(f"fastcnn must be installed first, as by `pip install .`: {error}", file=sys.stderr)
        return 1
    return publish(report, options.out / "report")


def publish(found: Run, path: Path) -> int:
    """Print what was found, and write it as path.md, .json and .png; return the exit status."""
    text = found.markdown()
    print(text)
    for failure in found.failures:
        print(f"\n{failure}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(text + "\n")
    path.with_suffix(".json").write_text(found.json() + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        print("\nno picture: matplotlib is not installed", file=sys.stderr)
    else:
        from . import picture

        picture.draw(found, path.with_suffix(".png"))
    print(f"\nwritten to {path.parent}", file=sys.stderr)
    return 1 if found.failures else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Compare fastcnn with its peers.")
    parser.add_argument("--threads", type=int, default=peers.threads_here(), help="of every library (%(default)s)")
    parser.add_argument("--only", default="", metavar="WORDS", help="layers whose names have words that begin so")
    parser.add_argument("--pass", dest="passes", nargs="+", choices=PASSES, default=PASSES, help="all by default")
    parser.add_argument("--peers", nargs="*", choices=peers.OTHERS, default=peers.OTHERS, help="all by default")
    options = parse(parser, argv, "report", (QUICK_ROUNDS, QUICK_SECONDS), (ROUNDS, SECONDS))
    if options.threads < 1:
        parser.error(f"--threads: must be at least 1, got {options.threads}")
    if not layers.select(options.only):
        parser.error(f"--only: no layer's name fits {options.only!r}")
    return options


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    name: str,
    quick: tuple[int, float],
    whole: tuple[int, float],
) -> argparse.Namespace:
    """Parse the arguments, among them those that all comparisons have: rounds and seconds are quick or whole ones."""
    parser.add_argument(
        "--python-for-peers",
        metavar="PATH",
        help=f"the interpreter that has the peers; ${peers.PYTHON_VARIABLE}, or else this one",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer layers, unless --only names them, and fewer and shorter rounds"
    )
    parser.add_argument("--rounds", type=int, help="how often each library gets its turn")
    parser.add_argument("--seconds", type=float, help="of each turn")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder for {name}.md, .json, .png")
    options = parser.parse_args(argv)
    rounds, seconds = quick if options.quick else whole
    options.rounds, options.seconds = options.rounds or rounds, options.seconds or seconds
    return options


if __name__ == "__main__":
    sys.exit(main())
