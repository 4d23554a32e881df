"""The layering rule: imports only go down, and only the ops touch the compiled core."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastcnn

PACKAGE = Path(fastcnn.__file__).parent

# The lowest floor first. Rooms on one floor don't know each other.
FLOORS = [
    {"_core"},
    {"arguments"},
    {"shapes", "registry"},
    {"runtime"},
    {"nn"},
    {"labels"},
    {"initializers", "losses", "metrics", "optimizers"},
    {"ops"},
    {"layers"},
    {"graph", "objective"},
    {"plan"},
    {"io", "batches", "progress", "interrupts"},
    {"interchange"},
    {"model"},
    {"sequential"},
    {"datasets"},
    {"models"},
    {"viz"},
    {"fastcnn"},  # the package's own __init__.py
    {"demo"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LOWEST_WITH_EXTRAS = FLOOR_OF["datasets"]
READS_BY_EXTRAS = {"interchange"}  # files that only h5py can read
MAY_IMPORT_CORE = {"_core", "nn", "runtime"}
RUNTIME_DEPENDENCIES = {"numpy", "safetensors", "tqdm"}


def room_of(module: str) -> str:
    """The room that a dotted name belongs to: the part after the package's name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "fastcnn"


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[str, int, bool]]:
    """The absolute name of everything imported, its line, and whether that is at module level."""
    tree = ast.parse(source)
    deferred = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node not in deferred
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")
                package = package[: len(package) - node.level + is_package]
                base = ".".join(package + ([base] if base else []))
            for alias in node.names:
                # `from fastcnn import nn` imports a room; `from numpy import sqrt` none of ours.
                name = f"{base}.{alias.name}" if base == "fastcnn" else base
                yield name, node.lineno, node not in deferred


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What one module's source does against the rule."""
    room = room_of(module)
    if room not in FLOOR_OF:
        return [f"{module}: the room {room} has no floor; give it one in FLOORS"]
    found = []
    for name, line, at_import in imports(source, module, is_package):
        where = f"{module}:{line} imports {name}"
        top = name.split(".")[0]
        if top == "fastcnn":
            target = room_of(name)
            if target not in FLOOR_OF:
                target = "fastcnn"  # a name that the package itself defines, such as __version__
            if target != room and FLOOR_OF[target] >= FLOOR_OF[room]:
                found.append(f"{where}, which is not on a lower floor")
            if target == "_core" and room not in MAY_IMPORT_CORE:
                found.append(f"{where}: only nn and runtime may")
        elif top not in sys.stdlib_module_names | RUNTIME_DEPENDENCIES:
            if FLOOR_OF[room] < LOWEST_WITH_EXTRAS and room not in READS_BY_EXTRAS:
                found.append(f"{where}, which is optional, below the top floor")
            elif at_import:
                found.append(f"{where}, which is optional, when it is imported itself")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("fastcnn", *path.relative_to(PACKAGE).with_suffix("").parts)
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@pytest.mark.parametrize(("module", "path"), [pytest.param(m, p, id=m) for m, p in modules()])
def test_imports_only_go_down(module, path):
    assert violations(path.read_text(), module, path.name == "__init__.py") == []


@pytest.mark.parametrize("room", sorted(set(FLOOR_OF) - {"fastcnn"}))
def test_every_room_of_the_plan_is_there(room):
    found = {room_of(module) for module, _ in modules()}
    assert room in found


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("fastcnn.shapes", "from .layers import Dense", "lower floor"),
        ("fastcnn.shapes", "from . import nn", "lower floor"),
        ("fastcnn.nn.conv", "from ..layers.conv import Conv2D", "lower floor"),
        ("fastcnn.nn.conv", "import fastcnn.model", "lower floor"),
        ("fastcnn.nn.conv", "from fastcnn import model as m", "lower floor"),
        ("fastcnn.losses", "from .metrics import Accuracy", "lower floor"),
        ("fastcnn.layers.base", "def f():\n    from ..model import Model", "lower floor"),
        ("fastcnn.layers.base", "import fastcnn", "lower floor"),
        ("fastcnn.layers.dense", "from .._core import _gemm", "only nn and runtime"),
        ("fastcnn.model", "from fastcnn._core._gemm import gemm", "only nn and runtime"),
        ("fastcnn.cli", "from fastcnn import _core", "only nn and runtime"),
        ("fastcnn.nn.conv", "def f():\n    import scipy", "optional"),
        ("fastcnn.model", "import matplotlib.pyplot as plt", "optional"),
        ("fastcnn.cli", "import matplotlib", "when it is imported itself"),
        ("fastcnn.interchange.hdf5", "import h5py", "when it is imported itself"),
        ("fastcnn.attic", "import os", "has no floor"),
    ],
)
def test_the_checker_refuses(module, source, complaint):
    assert [complaint in violation for violation in violations(source, module)] == [True]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastcnn.nn.conv", "import math\nimport numpy as np\nfrom .._core import _conv"),
        ("fastcnn.nn.conv", "from .arrays import check\nfrom .. import shapes"),
        ("fastcnn.layers.conv", "from .base import Layer\nfrom .. import nn, initializers"),
        ("fastcnn.cli", "def f():\n    import matplotlib"),
        ("fastcnn.interchange.hdf5", "def f():\n    import h5py"),
        ("fastcnn.demo", "import fastcnn\nfrom fastcnn.layers import Dense"),
    ],
)
def test_the_checker_lets_pass(module, source):
    assert violations(source, module) == []
