"""The README keeps its word: its Python runs, and its commands are the ones that are tested."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from idx_files import write_idx_folder
from PIL import Image
from safetensors.numpy import save_file

from fastcnn import models
from fastcnn.layers import DepthwiseConv2D

NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def torchvisions(model):
    """Return a network's weights under torchvision's names and in its layouts."""
    state = {}
    for layer in model.layers:
        for name, array in layer.weights.items():
            if name == "kernel":
                axes = (
                    (1, 0) if array.ndim == 2 else (2, 3, 0, 1) if isinstance(layer, DepthwiseConv2D) else (3, 2, 0, 1)
                )
                array = np.ascontiguousarray(array.transpose(axes))
            state[f"{layer.name}.{NAMES[name]}"] = array
    return state


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    # Small files stand in for what the README downloads.
    monkeypatch.setenv("FASTCNN_CACHE", str(tmp_path / "cache"))
    write_idx_folder(tmp_path / "cache/fashion-mnist")
    write_idx_folder(tmp_path / "cache/mnist")
    Image.new("RGB", (300, 260)).save(tmp_path / "cup.jpg")
    save_file(torchvisions(models.mobilenet_v2()), tmp_path / "mobilenet_v2.safetensors")
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
