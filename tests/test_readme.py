"""The README keeps its word: its Python runs, and its commands are the ones that are tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from idx_files import write_idx_folder
from PIL import Image

from fastcnn import models

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    # Small files stand in for what the README downloads.
    monkeypatch.setenv("FASTCNN_CACHE", str(tmp_path / "cache"))
    write_idx_folder(tmp_path / "cache/fashion-mnist")
    write_idx_folder(tmp_path / "cache/mnist")
    Image.new("RGB", (300, 260)).save(tmp_path / "cup.jpg")
    models.mobilenet_v2().save(tmp_path / "mobilenet_v2.safetensors")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    sources = blocks("python")
    assert len(sources) >= 5
    for number, source in enumerate(sources, start=1):
        exec(compile(source, f"README.md, python block {number}", "exec"), namespace)

    assert namespace["fmap"].shape == (1, 32, 32, 2)
    assert namespace["pooled"].shape == (1, 16, 16, 2)
    assert namespace["acc"] > 0.95
    assert namespace["small"].count_params() == 273754
    assert namespace["labels"].tolist() == namespace["scores"].argmax(axis=-1).tolist()


def test_both_commands_stand_where_the_ci_takes_them_from():
    commands = re.findall(r"<!-- (\S+)-command -->\n```bash\n(.*?)\n```", README, re.DOTALL)
    assert dict(commands) == {
        "demo": "pip install . && fastcnn demo",
        "test": "pip install '.[test]' && pytest",
    }
    assert "<!-- test-command -->" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(document):
    text = (ROOT / document).read_text()
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    assert all((ROOT / target).exists() for target in targets)
