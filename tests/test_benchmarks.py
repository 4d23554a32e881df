"""The comparison of whole networks: what is measured, what a library costs, how the report reads. Without peers."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastcnn import runtime

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("this is no checkout", allow_module_level=True)

from benchmarks import accuracy, choices, data, engine_fastcnn, footprint, layers, networks, peers, worker  # noqa: E402
from benchmarks.layers import CASES, Conv, Network  # noqa: E402
from benchmarks.network_results import Footprint, NetworkReport, NetworkRow  # noqa: E402
from benchmarks.peers import Timing  # noqa: E402
from benchmarks.results import PANELS, Report, Row  # noqa: E402

MEGABYTE = 10**6


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def report(rows):
    footprints = {
        name: Footprint(0.25, 60 * MEGABYTE) for name in ("fastcnn", "torch", "onnxruntime", "openvino", "ncnn")
    }
    return NetworkReport("a CPU", {"fastcnn": "1", "torch": "2"}, footprints, ["ncnn is left out"], [], rows)


def row(what="predict", **timings):
    return NetworkRow(Network("mobilenet2", 16), what, timings, threads=2)


ROW = row(
    fastcnn={"": Timing([0.002, 0.003, 0.004], first=0.5, peak=90 * MEGABYTE, imported=40 * MEGABYTE)},
    torch={"contiguous": Timing([1.5, 1.5]), "oneDNN fusion": Timing([0.006])},
    openvino={"": Timing([0.001])},
)


@pytest.mark.parametrize(
    "name",
    [
        "lenet5 n64",
        "resnet50 n1",
        "resnet50 1x1 64-256 56x56 n1",
        "resnext50 3x3 128 in 32 56x56 n1",
        "deeplab 3x3 256-256 dilated 2 28x28 n16",
        "efficientnet 5x5/2 144 depthwise 56x56 n1",
        "dense 400-120 n64",
        "cifar silu 64 32x32 n64",
        "vgg16 adam step",
    ],
)
def test_processes_speak_of_networks_and_layers_by_name(name):
    assert str(layers.named(name)) == name
    assert isinstance(layers.named(name), Network) == (len(name.split()) == 2)


def test_layers_have_names_of_their_own():
    assert len({case.name for case in layers.CASES}) == len(layers.CASES)


def test_layers_are_selected_by_the_beginnings_of_words_and_whole_numbers():
    names = {batch: {case.name for case in layers.select(f"vgg16 3x3 {batch}")} for batch in ("n1", "n16")}
    assert len(names["n1"]) == len(names["n16"]) == 9
    assert all(name.endswith(" n1") for name in names["n1"])
    assert [case.name for case in layers.select("deep 512 n1")] == ["deeplab 3x3 512-512 dilated 4 28x28 n1"]


def test_a_quick_report_has_some_layers_of_every_group():
    quick = layers.select("", quick=True)
    assert set(quick) < set(layers.select(""))
    missing = {case.group for case in layers.CASES} - {case.group for case in quick}
    assert missing == {"dilated"}
    assert len(quick) == 130
    assert layers.select("deeplab", quick=True) == layers.select("deeplab") != []


@pytest.mark.parametrize(
    "name", ["deeplab 3x3 256-256 dilated 2 28x28 n1", "efficientnet 5x5/2 144 depthwise 56x56 n1"]
)
def test_convolutions_are_called_as_their_names_say(name, ours):
    case = layers.named(name)
    x, w, grad = data.arrays(case)
    for what, operand in (("forward", grad), ("data", x), ("filter", w)):
        result = ours.prepare(case, what, "").call()
        assert result.shape == operand.shape
    both = ours.prepare(case, "gradients", "")
    dx, dw, _ = both.call()
    assert (dx.shape, dw.shape) == (x.shape, w.shape)
    assert both.array((dx, dw, None)).shape == (x.size + w.size,)
    assert "inference" not in case.passes


def test_batches_are_the_usual_ones_unless_others_are_asked_for():
    options = argparse.Namespace(passes=("predict", "train"), batch=None)
    found = [(case.batch, what) for case, what in networks.cases("resnet50", options)]
    assert found == [(1, "predict"), (16, "predict"), (8, "train")]
    options.batch = [3]
    assert [(case.batch, what) for case, what in networks.cases("lenet5", options)] == [(3, "predict"), (3, "train")]


def test_a_report_has_a_table_for_each_pass_and_one_beside_the_fastest_peer():
    lines = report([ROW]).markdown().splitlines()
    assert max(map(len, lines)) <= 100
    assert "ncnn is left out" in lines
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert cells[2] == ["mobilenet2 n16", "predict", "2", "2.00 +50%", "openvino", "1.00 +0%", "0.50"]
    assert "## mobilenet2 n16, predict, 2 threads" in lines
    assert cells[5:] == [
        ["fastcnn", "2.00 +50%", "", "0.500", "90", "50", "0.250", "60"],
        ["torch, contiguous", "1500 +0%", "750.00", "", "", "", "0.250", "60"],
        ["torch, oneDNN fusion", "6.00 +0%", "3.00", "", "", "", "0.250", "60"],
        ["openvino", "1.00 +0%", "0.50", "", "", "", "0.250", "60"],
    ]


def test_a_report_of_layers_tells_what_limits_each():
    names = ("dense 1024-1024 n1", "dense 1024-1024 n1024", "cifar relu 64 32x32 n64", "vgg16 3x3 64-64 224x224 n1")
    rows = [Row(layers.named(name), "forward", {"fastcnn": {"": Timing([0.001])}}) for name in names]
    rows.append(Row(layers.named("cifar adam step"), "update", {"fastcnn": {"": Timing([0.002])}}))
    found = Report("a CPU", 2, 0.0, 0.0, {"fastcnn": "1"}, [], [], rows)
    found.keep_peak(peak=4000.0, bandwidth=20.0)
    found.keep_peak(peak=3000.0, bandwidth=40.0)
    text = found.markdown()
    assert "a CPU, 2 threads, float32, peak of multiply-adds 4000 GFLOP/s, memory 40 GB/s" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "+0%" in line]
    # 1024^2 + 2 * 1024 numbers; 2 * 1024^3 operations; twice 64 * 32^2 * 64 numbers; and 7 times
    # (3 + 64) * 64 + (64 + 128) * 128 + (128 + 256) * 256 filters of nine taps.
    assert [row[3] for row in cells] == ["4 GB/s", "54%", "34 GB/s", "92%", "16 GB/s"]
    assert json.loads(found.json())["bandwidth"] == 40.0


@pytest.fixture
def ours():
    before = runtime.get_num_threads()
    yield engine_fastcnn.FastcnnEngine(1)
    runtime.set_num_threads(before)


def test_the_rate_of_memory_is_measured(ours, monkeypatch):
    monkeypatch.setattr(engine_fastcnn, "MOST_STREAM", 1 << 20)
    assert 0.1 < ours.bandwidth() < 1e4


@pytest.mark.parametrize("case", [*layers.ACTIVATIONS, *layers.OPTIMIZERS[:3]], ids=str)
def test_activations_and_optimisers_can_be_measured(case, ours):
    for what in case.passes:
        prepared = ours.prepare(case, what, "")
        found = prepared.array(prepared.call())
        assert np.isfinite(found).all() and np.any(found)


def test_a_report_of_fastcnn_alone_names_no_peer():
    text = report([row(fastcnn={"": Timing([0.002])})]).markdown()
    assert "| mobilenet2 n16 | predict |       2 |   2.00 +0% |              |    |       |" in text


def test_a_report_as_json_has_every_figure():
    found = json.loads(report([ROW]).json())
    assert found["footprints"]["torch"] == {"import_seconds": 0.25, "installed_bytes": 60 * MEGABYTE}
    (only,) = found["rows"]
    assert (only["network"], only["pass"], only["threads"]) == ("mobilenet2 n16", "predict", 2)
    assert only["seconds"]["fastcnn"][""] == {
        "least": 0.002,
        "median": 0.003,
        "repeats": 3,
        "first": 0.5,
        "peak": 90 * MEGABYTE,
        "imported": 40 * MEGABYTE,
    }


@pytest.mark.parametrize("filters", [3, 24])
def test_choices_are_measured_beside_all_algorithms(filters, monkeypatch, capsys):
    layer = Conv("net", 3, 16, filters, size=20, padding=1)
    monkeypatch.setattr(choices, "SECONDS", 0.0)
    monkeypatch.setattr(choices, "select", lambda only: [layer, Conv("net", 5, 16, 24, size=7, padding=1)])
    found = {what: (chosen, seconds) for what, chosen, seconds in choices.seconds(layer)}
    assert list(found) == list(layer.passes)
    for chosen, seconds in found.values():
        assert chosen in seconds
        assert set(accuracy.ALGORITHMS) <= set(seconds)
        assert all(0 < taken < 1 for taken in seconds.values())
    monkeypatch.setattr(sys, "argv", ["choices", "--threads", str(runtime.get_num_threads())])
    choices.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("|") for line in lines] == [9] * (2 + len(layer.passes)) + [0, 0]
    assert re.fullmatch(r"Choices take \d\.\d{3} times as long .*, and \d+\.\d\d at most\.", lines[-1])


def test_every_layer_is_drawn_once():
    drawn = [[title for panels in PANELS for title, _, wanted in panels if wanted(case)] for case in CASES]
    assert [len(titles) for titles in drawn] == [1] * len(CASES)


def test_a_picture_has_a_column_for_each_peer():
    torch, _, openvino, _ = report([ROW, row("train", fastcnn={"": Timing([1.0])}, torch={"": Timing([2.0])})]).panels()
    assert [(panel.title, panel.peer, len(panel.rows)) for panel in torch] == [("2 threads", "torch", 2)]
    assert [(panel.title, panel.peer, len(panel.rows)) for panel in openvino] == [("2 threads", "openvino", 1)]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["direct", "winograd-2x2", "winograd-4x4", "winograd-6x6"]),
        ({"groups": 4}, ["direct", "auto"]),
        ({"dilation": 2}, ["direct", "winograd-2x2", "winograd-4x4", "winograd-6x6"]),
    ],
)
def test_errors_are_those_of_the_algorithms_that_compute_a_layer(options, names):
    found = list(accuracy.errors(Conv("net", 3, 16, 24, size=7, padding=1, **options)))
    assert [row[:2] for row in found] == [(what, name) for what in ("forward", "data", "filter") for name in names]
    assert all(1e-8 < rms < most < 1e-4 for *_, most, rms in found)


def test_a_table_of_errors_has_a_column_for_each_algorithm(monkeypatch, capsys):
    layers = [Conv("net", 3, 8, 8, size=4, padding=1, groups=groups) for groups in (1, 2)]
    monkeypatch.setattr(accuracy, "select", lambda only: layers)
    monkeypatch.setattr(sys, "argv", ["accuracy"])
    accuracy.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 3
    assert {line.count("|") for line in lines} == {13}
    filled = [[cell.strip() != "" for cell in line.split("|")[3:-1]] for line in lines[2:]]
    assert filled == [[True] * 8 + [False] * 2] * 3 + [[True] * 2 + [False] * 6 + [True] * 2] * 3


@pytest.mark.parametrize("wrong", [(1.0, 0.98), (1.0, math.nan), (math.inf, 1.0)])
def test_results_that_differ_or_are_no_numbers_are_told(wrong):
    right = (1.0, 1.0)
    a, b = ("fastcnn", ""), ("torch", "eager")
    peers.check({a: right, b: (1.0, 0.995)})
    for both in ({a: right, b: wrong}, {b: wrong, a: right}):
        assert peers.outvoted(both) == []
        with pytest.raises(peers.Failure, match=r"the results differ, or are no numbers\n  (fastcnn|torch, eager): "):
            peers.check(both)


def test_who_computes_something_else_than_fastcnn_and_another_is_outvoted():
    ours, theirs, wrong, nan = ("fastcnn", ""), ("torch", "eager"), ("ncnn", ""), ("openvino", "")
    results = {wrong: (1.0, 2.0), ours: (1.0, 1.0), theirs: (1.0, 1.001), nan: (1.0, math.nan)}
    assert peers.outvoted(results) == [wrong, nan]
    assert peers.outvoted({**results, theirs: (1.0, 2.0)}) == []
    assert peers.outvoted({key: results[key] for key in (wrong, theirs)}) == []


@pytest.mark.parametrize("least", [1, 3])
def test_a_turn_has_its_least_number_of_calls_after_one_less_that_are_not_counted(least):
    calls = []
    assert len(worker.times(lambda: calls.append(1), 0.0, least)) == least
    assert len(calls) == 2 * least - 1


def distribution(folder, name, requires, files):
    """Write what an installer would: a package's files, and their list."""
    information = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + "".join(
        f"Requires-Dist: {r}\n" for r in requires
    )
    written = {f"{information}/METADATA": metadata, **files}
    for path, text in written.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / information / "RECORD").write_text("".join(f"{path},,\n" for path in written if path != "hidden/a.py"))
    return len(metadata) + (folder / information / "RECORD").stat().st_size - len(metadata)


def test_an_installed_size_has_the_files_of_all_that_a_package_needs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    distribution(tmp_path, "mine", ["its-part>=2", "absent", 'unwanted; extra == "more"'], {"mine/a.py": "a" * 1000})
    distribution(tmp_path, "its_part", ["mine"], {"part.py": "b" * 200, "__pycache__/part.pyc": "c" * 5000})
    distribution(tmp_path, "unwanted", [], {"unwanted.py": "d" * 7000})
    listed = sum((tmp_path / f"{name}-1.0.dist-info/METADATA").stat().st_size for name in ("mine", "its_part"))
    assert footprint.installed_bytes("mine", tmp_path / "mine") == 1200 + listed


def test_an_installed_size_of_what_is_installed_in_place_has_what_a_wheel_would_have(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    distribution(tmp_path, "mine", [], {"finder.py": "a"})
    source = tmp_path / "elsewhere" / "mine"
    source.mkdir(parents=True)
    (source / "b.py").write_text("b" * 30)
    (source / "c.pyx").write_text("c" * 500)
    listed = (tmp_path / "mine-1.0.dist-info/METADATA").stat().st_size
    assert footprint.installed_bytes("mine", source) == 1 + 30 + listed


def test_what_a_library_costs_is_told_by_a_process_of_its_own():
    result = run("benchmarks.footprint", "tqdm")
    assert result.returncode == 0, result.stderr
    found = Footprint(**json.loads(result.stdout))
    assert found.import_seconds > 0
    assert 50_000 < found.installed_bytes < 5 * MEGABYTE


@pytest.mark.skipif(os.name != "posix", reason="the peer is a shell script")
def test_a_network_is_measured_where_peers_are_missing(tmp_path):
    peer = tmp_path / "python"
    peer.write_text('#!/bin/sh\necho \'{"missing": "no such library"}\'\n')
    peer.chmod(0o755)
    out = tmp_path / "out"
    arguments = ["--network", "lenet5", "--batch", "2", "--threads", "1", "--rounds", "1", "--seconds", "0.001"]
    result = run("benchmarks.networks", *arguments, "--python-for-peers", str(peer), "--out", str(out))
    assert result.returncode == 0, result.stderr
    found = json.loads((out / "networks.json").read_text())
    assert [note.split(" (")[0] for note in found["notes"]] == [
        f"{name} is left out: no such library" for name in ("torch", "onnxruntime", "openvino", "ncnn")
    ]
    assert [(row["network"], row["pass"]) for row in found["rows"]] == [
        ("lenet5 n2", "predict"),
        ("lenet5 n2", "train"),
    ]
    for row in found["rows"]:
        figures = row["seconds"]["fastcnn"][""]
        assert 0 < figures["least"] <= figures["median"] < figures["first"]
        if sys.platform == "linux":
            assert figures["peak"] > figures["imported"] > MEGABYTE
    assert (out / "networks.md").read_text().strip() == result.stdout.strip()


@pytest.mark.parametrize("names", [("fastcnn",), ("fastcnn", "ncnn", "openvino"), ("fastcnn", "torch", "ncnn")])
def test_a_comparison_says_that_files_are_missing_where_torch_is(names, monkeypatch):
    monkeypatch.setattr(networks, "_engines", lambda *_: [networks.Engine(name, ("",)) for name in names])
    notes = networks.measure(argparse.Namespace(network=[], threads=[1])).notes
    missing = "ncnn, openvino: torch is not there to write the files that are read"
    assert notes == ([missing] if "openvino" in names else [])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--threads", "1", "0"], "--threads: must be at least 1, got 0"),
        (["--batch", "-1"], "--batch: must be at least 1, got -1"),
        (["--network", "alexnet"], "invalid choice: 'alexnet'"),
    ],
)
def test_mistakes_in_the_arguments_are_named(arguments, complaint, capsys):
    with pytest.raises(SystemExit):
        networks.main(arguments)
    assert complaint in capsys.readouterr().err
