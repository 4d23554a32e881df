"""The command line, in this process and as it is installed, piped and on a terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import cli, demo

COLUMNS = 80


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FASTCNN_CACHE", str(folder))
    return folder


def run(*arguments: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = command or [sys.executable, "-m", "fastcnn"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)


# info, --version and mistakes


@pytest.mark.parametrize("command", [["fastcnn"], [sys.executable, "-m", "fastcnn"]])
def test_both_ways_to_start_it_print_the_version(command):
    if command == ["fastcnn"] and not shutil.which("fastcnn"):
        pytest.skip("the script is not on PATH")
    result = run("--version", command=command)
    assert result.stdout == f"fastcnn {fastcnn.__version__}\n"
    assert result.returncode == 0


def test_info_prints_what_the_runtime_says(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{fastcnn.info()}\n"
    for needed in (fastcnn.__version__, fastcnn.runtime.active_isa(), "thread", "OpenMP"):
        assert needed in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "command"),
        (["train"], "train"),
        (["demo", "--epochs", "0"], "at least 1"),
        (["demo", "--epochs", "-3"], "'-3'"),
        (["demo", "--epochs", "many"], "'many'"),
        (["demo", "--epochs", str(2**47 + 1)], "2**47, got 140737488355329"),
        (["demo", "--seed", "1.5"], "'1.5'"),
        (["demo", "--seed", str(2**64)], "below 2**64, got 18446744073709551616"),
    ],
)
def test_mistakes_are_named_with_status_2(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("out", ["", "nowhere/model.safetensors"])
def test_a_place_that_cannot_be_written_is_told_before_the_training(out, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "build", lambda *_: pytest.fail("trained"))
    assert cli.main(["demo", "--out", str(tmp_path / out)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_the_demo_replaces_files_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "build", lambda *_: pytest.fail("trained"))
    os.mkfifo(tmp_path / "pipe")
    assert cli.main(["demo", "--out", str(tmp_path / "pipe")]) == 1
    assert "pipe is no regular file" in capsys.readouterr().err
    with pytest.raises(TypeError, match="out must be a path, got 5"):
        demo.run(out=5)


def test_the_place_of_the_demo_may_begin_at_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cli.main(["demo", "--epochs=1", "--out=~/m.safetensors"]) == 0
    assert (tmp_path / "m.safetensors").is_file() and str(tmp_path) in capsys.readouterr().out


def test_an_interrupt_ends_quietly(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_reader_that_goes_away_gets_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastcnn", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert errors == b""


# The demo


def test_the_demo_reaches_its_accuracy_in_plain_lines(tmp_path):
    out = tmp_path / "digits.safetensors"
    result = run("demo", "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    accuracy = float(re.search(r"Test accuracy: ([\d.]+)%", result.stdout)[1])
    assert accuracy >= 98.5
    assert re.search(r"One image: [\d.]+ us", result.stdout)
    assert f"same predictions to the bit: {out}" in result.stdout
    assert out.is_file()

    lines = result.stdout.splitlines()
    assert sum(line.startswith("Epoch") for line in lines) == demo.EPOCHS
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert max(len(line) for line in lines if str(out) not in line) < COLUMNS


def test_the_demo_has_a_default_place_and_depends_on_the_seed_alone(cache, capsys):
    first = demo.run(epochs=1, seed=3)
    saved = (cache / "demo.safetensors").read_bytes()
    printed = re.sub(r"[\d.]+ (s|us|ms)\b.*", "", capsys.readouterr().out)
    assert demo.run(epochs=1, seed=3) == first
    assert (cache / "demo.safetensors").read_bytes() == saved
    assert re.sub(r"[\d.]+ (s|us|ms)\b.*", "", capsys.readouterr().out) == printed


def test_the_demo_refuses_a_file_that_predicts_something_else(monkeypatch, capsys):
    monkeypatch.setattr(fastcnn, "load", lambda _: demo.build(seed=99))
    with pytest.raises(RuntimeError, match="predicts something else"):
        demo.run(epochs=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_on_a_terminal_there_is_a_bar_per_epoch_within_80_columns(tmp_path):
    shown = run_on_terminal("demo", "--epochs", "2", "--out", str(tmp_path / "m.safetensors"))
    bars = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("Epoch")]
    for epoch in ("1/2", "2/2"):
        assert any(epoch in bar and "100%" in bar for bar in bars)
    assert max(len(bar) for bar in bars) <= COLUMNS


def run_on_terminal(*arguments: str) -> str:
    """Run the command line on a pseudo-terminal of 80 columns and return all it wrote."""
    import fcntl
    import pty
    import struct
    import termios

    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "fastcnn", *arguments],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
    )
    os.close(secondary)
    written = bytearray()
    try:
        while chunk := os.read(primary, 4096):
            written += chunk
    except OSError:  # Linux's way to say that the other side has closed
        pass
    os.close(primary)
    assert process.wait(timeout=60) == 0
    return written.decode()


# The demo's parts


def test_shifted_moves_the_image_and_keeps_the_label():
    image = np.zeros((1, 8, 8, 1), np.float32)
    image[0, 3, 4, 0] = 1
    x, y = demo.shifted(image, np.array([7]))
    assert y.tolist() == [7] * 5
    assert sorted(tuple(np.argwhere(copy)[0][:2]) for copy in x) == [
        (2, 4),
        (3, 3),
        (3, 4),
        (3, 5),
        (4, 4),
    ]
    assert np.array_equal(x[:1], image)


def test_the_gallery_ends_with_a_misread_image_where_there_is_one():
    images = np.linspace(0, 1, 6 * 64, dtype=np.float32).reshape(6, 8, 8, 1)
    labels = np.array([0, 1, 2, 3, 4, 5])
    scores = np.full((6, 10), 0.01, np.float32)
    scores[np.arange(6), labels] = 0.9
    scores[2, 2], scores[2, 3] = 0.3, 0.29  # doubtful, but right
    gallery = demo._gallery(images, scores, labels)
    assert "wrong" not in gallery
    scores[5, 5], scores[5, 8] = 0.4, 0.5
    gallery = demo._gallery(images, scores, labels).splitlines()
    assert gallery[-1].endswith("wrong: it is a 5")
    assert gallery[-3].endswith("8    50.00%")
    assert max(len(line) for line in gallery) < COLUMNS
