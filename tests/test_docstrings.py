"""The examples in the docstrings run, in every public module of the installed package."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import fastcnn

# Where everything that a user calls is exported; each callable there shows an example.
PUBLIC = ["fastcnn", "fastcnn.nn", "fastcnn.layers", "fastcnn.models", "fastcnn.datasets"]


def public_modules() -> list[str]:
    found = pkgutil.walk_packages(fastcnn.__path__, "fastcnn.", onerror=_raise)
    names = [module.name for module in found]
    return ["fastcnn", *(n for n in names if not any(p.startswith("_") for p in n.split(".")))]


def _raise(name: str) -> None:
    raise ImportError(name)


def public_callables() -> list[object]:
    found = []
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                found.append(pytest.param(value, id=f"{module_name}.{name}"))
    return found


@pytest.mark.parametrize("name", public_modules())
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_examples_to_run():
    finder = doctest.DocTestFinder()
    nn = importlib.import_module("fastcnn.nn")
    tests = [test for name in nn.__all__ if callable(getattr(nn, name)) for test in finder.find(getattr(nn, name))]
    assert sum(bool(test.examples) for test in tests) > 20


def methods_of_models() -> list[object]:
    functions = {**vars(fastcnn.Model), **vars(fastcnn.Sequential)}
    plain = {n: f for n, f in functions.items() if inspect.isfunction(f) and not n.startswith("_")}
    return [pytest.param(f, id=f"Model.{n}") for n, f in plain.items() if n not in ("get_config", "from_config")]


@pytest.mark.parametrize("value", public_callables() + methods_of_models())
def test_every_public_callable_shows_an_example(value):
    assert ">>>" in (inspect.getdoc(value) or "")
