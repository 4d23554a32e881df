"""Compares whole networks in fastcnn and in the peers that are installed: tables in Markdown, and their picture.

Run it from the repository as ``python -m benchmarks.networks``. Of a single network, quickly::

    python -m benchmarks.networks --network lenet5 --threads 1 --engines fastcnn torch --quick

Every library in each of its configurations has a process of its own for each measurement, so that the peak of its
memory is that of nothing else. PyTorch writes the files that the others read a network from, with random weights;
where it is missing, only fastcnn is measured. Results are compared: of a prediction the scores, of training the
losses of the first two steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from . import ROOT, peers
from .layers import NETWORKS, Network
from .network_results import Footprint, NetworkReport, NetworkRow
from .peers import OTHERS_FOR_NETWORKS, OURS, Failure, Missing, Peer
from .report import parse, publish
from .results import machine, threads_of

ENGINES = (OURS, *OTHERS_FOR_NETWORKS)
PREDICTION_BATCHES = (1, 16)
ROUNDS, SECONDS = 5, 0.5
QUICK_ROUNDS, QUICK_SECONDS = 2, 0.1
# A step of a large network takes seconds: one call of a turn is not counted, one is.
LEAST_CALLS = 2
IMPORTS = 3


@dataclass(frozen=True)
class Engine:
    """A library that can be measured, and the configurations that it has for networks."""

    name: str
    configurations: tuple[str, ...]


def measure(options: argparse.Namespace) -> NetworkReport:
    """Measure what was asked for; stops early on Ctrl-C."""
    report = NetworkReport(machine(), {}, {}, [], [], [])
    engines = list(_engines(options, report))
    without_files = {engine.name for engine in engines} - {OURS}
    if without_files and "torch" not in without_files:
        report.notes.append(f"{', '.join(sorted(without_files))}: torch is not there to write the files that are read")
    work = [
        (network, [(case, what, threads) for case, what in cases(network, options) for threads in options.threads])
        for network in options.network
    ]
    bar = tqdm(total=sum(len(wanted) for _, wanted in work), disable=None, file=sys.stderr, leave=False)
    try:
        for network, wanted in work:
            with tempfile.TemporaryDirectory(prefix="fastcnn-networks-") as folder:
                bar.set_description(f"{network}: files")
                _export(network, Path(folder), engines, options, report)
                for case, what, threads in wanted:
                    bar.set_description(f"{case} {what}, {threads_of(threads)}")
                    _row(case, what, threads, Path(folder), engines, options, report)
                    bar.update()
    except KeyboardInterrupt:
        report.notes.append(f"interrupted after {bar.n} of {bar.total} measurements")
    return report


def cases(network: str, options: argparse.Namespace) -> Iterator[tuple[Network, str]]:
    """Return what is measured of a network: batches of the usual sizes, unless others were asked for."""
    for what in options.passes:
        usual = PREDICTION_BATCHES if what == "predict" else (NETWORKS[network].training_batch,)
        for batch in options.batch or usual:
            yield Network(network, batch), what


def _engines(options: argparse.Namespace, report: NetworkReport) -> Iterator[Engine]:
    """Return the libraries that are there, and note their versions, what they cost, and which are missing."""
    for name in options.engines:
        try:
            with Peer(name, 1, options.python_for_peers) as peer:
                report.versions[name] = peer.version
        except Missing as error:
            if name == OURS:
                raise
            report.notes.append(f"{name} is left out: {error}")
        else:
            report.footprints[name] = _footprint(name, options.python_for_peers)
            yield Engine(name, tuple(peer.network_configurations))


def _footprint(name: str, python: str | None) -> Footprint:
    """Return what a library costs; of several imports the fastest, with its files in memory."""
    command = [peers.python_for(name, python), "-m", f"{__package__}.footprint", name]
    found = [
        Footprint(**json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout))
        for _ in range(IMPORTS)
    ]
    return min(found, key=lambda footprint: footprint.import_seconds)


def _export(
    network: str, files: Path, engines: list[Engine], options: argparse.Namespace, report: NetworkReport
) -> None:
    """Have the files written: by PyTorch first, with the weights that fastcnn's own gets too."""
    for name in sorted((engine.name for engine in engines), key=lambda name: name != "torch"):
        with Peer(name, peers.threads_here(), options.python_for_peers, files=files) as peer:
            problems = peer.ask(do="export", network=network)["problems"]
        report.notes += [f"{network}: {problem.splitlines()[0]}" for problem in problems]


def _row(
    case: Network,
    what: str,
    threads: int,
    files: Path,
    engines: list[Engine],
    options: argparse.Namespace,
    report: NetworkReport,
) -> None:
    """Measure one pass on so many threads with every library in turn, and add what was found to the report."""
    title = f"{case}, {what}, {threads_of(threads)}"
    with ExitStack() as stack:
        running: list[Peer] = []
        firsts: list[float] = []
        for engine in engines:
            for configuration in engine.configurations:
                if configuration in options.without:
                    continue
                try:
                    peer = stack.enter_context(Peer(engine.name, threads, options.python_for_peers, files=files))
                    first = peer.ask(do="load", case=case.name, what=what, configuration=configuration)["first"]
                except (Failure, RuntimeError) as error:
                    which = ", ".join(filter(None, (engine.name, configuration)))
                    if engine.name == OURS:
                        report.failures.append(f"{title}: {error}")
                    else:
                        report.notes.append(f"{title}: {which} is left out: {str(error).splitlines()[-1]}")
                    continue
                if first is None:
                    peer.close()
                    continue
                peer.configurations = [configuration]
                running.append(peer)
                firsts.append(first)
        wrong: list[str] = []
        try:
            timings = peers.compare(running, case, what, options.rounds, options.seconds, LEAST_CALLS, wrong)
        except (Failure, RuntimeError) as error:
            report.failures.append(f"{title}: {error}")
            return
        report.notes += [f"{title}: {note}" for note in wrong]
        for peer, first in zip(running, firsts, strict=True):
            timing = timings.get(peer.name, {}).get(peer.configurations[0])
            if timing is None:
                continue
            memory = peer.ask(do="memory")
            timing.first, timing.peak, timing.imported = first, memory["peak"], memory["imported"]
        report.rows.append(NetworkRow(case, what, timings, threads))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the report, and write it with its picture into a folder."""
    options = _options(argv)
    try:
        report = measure(options)
    except Missing as error:
        print(f"fastcnn must be installed first, as by `pip install .`: {error}", file=sys.stderr)
        return 1
    return publish(report, options.out / "networks")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks", description="Compare whole networks in fastcnn and its peers."
    )
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="all by default")
    parser.add_argument(
        "--batch", nargs="+", type=int, metavar="N", help="1 and 16 by default; of training the network's own"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="1 and 2 by default")
    parser.add_argument("--pass", dest="passes", nargs="+", choices=Network.passes, default=Network.passes)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="all by default")
    parser.add_argument("--without", nargs="*", default=[], metavar="WORD", help="configurations, such as compile")
    options = parse(parser, argv, "networks", (QUICK_ROUNDS, QUICK_SECONDS), (ROUNDS, SECONDS))
    for name in ("batch", "threads"):
        if min(getattr(options, name) or [1]) < 1:
            parser.error(f"--{name}: must be at least 1, got {min(getattr(options, name))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
