"""What ``import fastcnn`` costs and what it pulls in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import fastcnn

MOST_MILLISECONDS = 40.0
INTERPRETERS = 7


def run_python(code: str) -> str:
    # Without compiled bytecode the import's time would be the compiler's.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=env
    )
    return result.stdout


def test_import_costs_little_over_numpy():
    code = "import time, numpy; start = time.perf_counter(); import fastcnn; print((time.perf_counter() - start) * 1e3)"
    run_python(code)  # writes the bytecode caches
    # The minimum, because whatever else the machine does only ever adds.
    best = min(float(run_python(code)) for _ in range(INTERPRETERS))
    assert best <= MOST_MILLISECONDS


def test_sources_that_are_not_compiled_say_so(tmp_path):
    package = Path(fastcnn.__file__).parent
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(package, tmp_path / "fastcnn", ignore=ignored)
    run = subprocess.run([sys.executable, "-c", "import fastcnn"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert "ImportError: " in run.stderr
    assert "not compiled" in run.stderr.splitlines()[-1]


def test_import_pulls_in_nothing_but_numpy_and_the_standard_library():
    code = (
        "import json, sys, numpy; before = set(sys.modules); import fastcnn; "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    pulled_in = set(json.loads(run_python(code)))
    assert "fastcnn" in pulled_in
    foreign = {name for name in pulled_in - sys.stdlib_module_names if not name.startswith("_")}
    assert foreign - {"cython_runtime"} == {"fastcnn", "numpy"}


def test_installation_needs_three_packages():
    required = metadata.requires("fastcnn") or []
    names = {re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line}
    assert names == {"numpy", "safetensors", "tqdm"}


def test_type_information_is_installed():
    package = Path(fastcnn.__file__).parent
    assert (package / "py.typed").is_file()
    compiled = {
        name.split(".")[0] for name in os.listdir(package / "_core") if name.endswith(tuple(EXTENSION_SUFFIXES))
    }
    assert compiled == {path.stem for path in (package / "_core").glob("*.pyi")}
