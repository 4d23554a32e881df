"""Owns the command line: ``fastcnn info``, ``fastcnn demo`` and ``fastcnn --version``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastcnn
from fastcnn.arguments import MAX_ELEMENTS

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; by default those the process was started with.

    Returns
    -------
    int
        The exit status: 0, or 1 after an error that was printed, or 130 after an interrupt.

    Examples
    --------
    >>> from fastcnn import cli
    >>> status = cli.main(["info"])  # doctest: +ELLIPSIS
    fastcnn ...
    >>> status
    0
    """
    options = vars(_parser().parse_args(argv))
    run = options.pop("run")
    try:
        run(**options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (as in `fastcnn info | head -1`); the interpreter's own flush at exit
        # would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _INTERRUPTED
    except (OSError, RuntimeError) as error:
        print(f"fastcnn: error: {error}", file=sys.stderr)
        return 1
    return 0


def _info() -> None:
    print(fastcnn.info())


def _demo(**options: Any) -> None:
    # Imported here because `fastcnn info` needs none of it.
    from fastcnn import demo

    demo.run(**options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastcnn", description="Convolutional neural networks on CPUs.")
    parser.add_argument("--version", action="version", version=f"fastcnn {fastcnn.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    info = commands.add_parser("info", help="show version, instruction set, threads and caches")
    info.set_defaults(run=_info)
    demo = commands.add_parser(
        "demo",
        help="train a network on handwritten digits and show what it can do",
        description="Train a small network on the digits that ship inside the package, test it on "
        "held-out images, and save it.",
        argument_default=argparse.SUPPRESS,
    )
    demo.set_defaults(run=_demo)
    demo.add_argument("--epochs", type=_positive, help="passes over the training images")
    demo.add_argument("--seed", type=_seed, help="another seed gives another network")
    demo.add_argument("--out", type=Path, metavar="PATH", help="where to save the model")
    return parser


def _positive(text: str) -> int:
    number = _natural(text)
    if not 1 <= number <= MAX_ELEMENTS:  # as fit takes them
        raise argparse.ArgumentTypeError(f"must be at least 1 and at most 2**47, got {number}")
    return number


def _seed(text: str) -> int:
    number = _natural(text)
    if number >= 2**64:
        raise argparse.ArgumentTypeError(f"must be below 2**64, got {number}")
    return number


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 up, got {text!r}")
    return int(text)
