"""What is in the source archive, in the wheel and in the compiled modules, and what must not be."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fastcnn._core import _runtime

ROOT = Path(__file__).parents[1]
MODULES = tuple(sorted(path.stem for path in Path(_runtime.__file__).parent.glob("_*.pyi")))
WHEEL_BYTES = 3_000_000

checkout = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="this is no checkout")


def installed(*names: str) -> bool:
    """Whether these packages are installed (a folder build/ in the path can be imported as well)."""
    present = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return present.issuperset(names)


builds = pytest.mark.skipif(not installed("build", "cython"), reason="what archives are built with is not installed")


def sources() -> list[Path]:
    """Every file of the project that a source archive should hold: what git would track, or all but what is built."""
    kept = ("fastcnn", "tests", "benchmarks")
    built = re.compile(r"\.(so|pyd|o|py[cod])$|^fastcnn/_core/_\w+\.c$|__pycache__|\.egg-info|\.\w+_cache")
    names = [p.relative_to(ROOT) for folder in kept for p in (ROOT / folder).rglob("*") if p.is_file()]
    return [name for name in names if not built.search(name.as_posix()) and ".hypothesis" not in name.parts]


def build(kind: str, folder: Path) -> Path:
    """Build from a copy, so that the checkout stays as it is."""
    copy = folder / "checkout"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "*.so", "*.egg-info", ".*_cache", "__pycache__")
    )
    command = [
        sys.executable,
        "-m",
        "build",
        f"--{kind}",
        "--no-isolation",
        "--outdir",
        str(folder / "dist"),
        str(copy),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    (archive,) = (folder / "dist").iterdir()
    return archive


@checkout
@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
@pytest.mark.parametrize("isa", _runtime.available_isas())
def test_clang_takes_the_kernels(isa):
    (isas,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ISAS"
    )
    _, flags = isas[isa]
    command = ["clang", "-fsyntax-only", *flags, str(ROOT / "fastcnn" / "_core" / "kernels" / f"isa_{isa}.c")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


@checkout
@builds
def test_the_source_archive_has_every_source_and_nothing_generated(tmp_path):
    there = sources()
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {path.as_posix() for path in there} | {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "pyproject.toml",
        "setup.py",
    }
    assert wanted - names == set()
    assert {f"fastcnn/_core/{name}.pyx" for name in MODULES} <= names
    assert {"fastcnn/_core/kernels/kernels.h", "fastcnn/_core/_runtime.pxd", "tests/test_build.py"} <= names
    assert {name for name in names if name.endswith((".so", ".o", ".pyc")) or "__pycache__" in name} == set()
    assert {f"fastcnn/_core/{name}.c" for name in MODULES} & names == set()


@checkout
@builds
@pytest.mark.slow
def test_the_wheel_has_what_runs_and_nothing_else(tmp_path):
    there = sources()
    wheel = build("wheel", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        headers = archive.read(metadata).decode()
    assert {name for name in names if name.endswith((".c", ".h", ".pyx", ".pxd", ".o", ".pyc"))} == set()
    assert {name for name in names if not name.startswith("fastcnn")} == set()
    assert "fastcnn/py.typed" in names
    for module in MODULES:
        assert f"fastcnn/_core/{module}.pyi" in names
        assert any(re.fullmatch(rf"fastcnn/_core/{module}\..*\.(so|pyd)", name) for name in names), module
    assert {path.as_posix() for path in there if path.suffix == ".py" and path.parts[0] == "fastcnn"} <= names
    data = {path.as_posix() for path in there if path.match("fastcnn/*/data/*")}
    assert data <= names
    assert {"fastcnn/datasets/data/LICENSE-digits.txt", "fastcnn/models/data/imagenet_classes.txt"} <= data
    assert any(".dist-info/" in name and name.endswith("LICENSE") for name in names)
    assert "License-Expression: MIT" in headers
    size = wheel.stat().st_size
    assert size < WHEEL_BYTES, f"{wheel.name} has {size} bytes"


@checkout
@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="this is no git checkout")
def test_nothing_generated_is_tracked():
    def git(*command: str) -> list[str]:
        result = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    generated = re.compile(r"^fastcnn/_core/_\w+\.c$|\.(so|pyd|o|py[cod])$|__pycache__|\.egg-info|_cache/")
    assert [name for name in git("ls-files") if generated.search(name)] == []
    # Nor would `git add .` track any of it.
    assert [name for name in git("ls-files", "--others", "--exclude-standard") if generated.search(name)] == []


@checkout
def test_nothing_is_built_for_the_build_machine_alone():
    native = re.compile(r"-m(arch|tune|cpu)=" + "native")
    folders = [ROOT / "fastcnn", ROOT / ".ci", ROOT / ".github", ROOT / "benchmarks"]
    files = [p for f in folders if f.is_dir() for p in f.rglob("*") if p.is_file()]
    files += [p for p in ROOT.iterdir() if p.is_file()]
    text = {".py", ".pyx", ".pxd", ".c", ".h", ".toml", ".sh", ".yml", ".yaml", ".cfg", ".in", ""}
    found = [p for p in files if p.suffix in text and native.search(p.read_text(errors="replace"))]
    assert found == []


def symbols(path: str, *options: str) -> list[tuple[str, str]]:
    """Type and name of every defined symbol of a compiled module."""
    nm = shutil.which("nm")
    if nm is None or not sys.platform.startswith("linux"):
        pytest.skip("there is no nm that reads this system's modules")
    run = subprocess.run([nm, "--defined-only", *options, path], capture_output=True, text=True, check=True)
    return [tuple(line.split()[-2:]) for line in run.stdout.splitlines() if len(line.split()) >= 2]


def test_the_tables_are_the_only_symbols_that_kernels_share():
    # A function that two instruction sets define under one name would be linked once, for whichever comes first.
    shared = {name for kind, name in symbols(_runtime.__file__) if kind.isupper() and name.startswith(("fc_", "FC_"))}
    assert {name for name in shared if not re.fullmatch(r"fc_isa_\w+|fc_available", name)} == set()


def test_modules_export_their_initialiser_and_no_kernel():
    for name in MODULES:
        path = _runtime.__file__.replace("_runtime", name)
        exported = {symbol for kind, symbol in symbols(path, "--dynamic") if kind.isupper()}
        assert f"PyInit_{name}" in exported
        own = {s for s in exported if not s.startswith(("_", "PyInit_", "fc_isa_"))}
        assert {s for s in own if re.search(r"avx|sse|neon|scalar|tile|pool|softmax|vec|exp", s)} == set()
