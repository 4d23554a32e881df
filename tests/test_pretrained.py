"""Networks with real trained weights recognise real pictures; skipped where tests/fetch_pretrained.py has put none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fastcnn import models

pytestmark = pytest.mark.slow

# ImageNet's classes, any of which is right, and the least probability that the two networks give them together.
PHOTOGRAPHS = {
    "coffee.png": ({967}, 0.95),  # espresso
    "camera.png": ({872}, 0.9),  # tripod
    "motorcycle_left.png": ({665}, 0.45),  # moped
    "china.jpg": ({698}, 0.35),  # palace
    "chelsea.png": ({281, 282, 285}, 0.7),  # tabby, tiger cat, Egyptian cat
}


@pytest.fixture(scope="module")
def folder():
    chosen = os.environ.get("FASTCNN_PRETRAINED")
    if not chosen:
        pytest.skip("FASTCNN_PRETRAINED names no folder that tests/fetch_pretrained.py has filled")
    return Path(chosen).expanduser()


def needed(path):
    if not path.exists():
        pytest.skip(f"{path} is not there: see tests/fetch_pretrained.py")
    return path


def pictures(folder):
    return np.concatenate([models.load_image(needed(folder / name)) for name in PHOTOGRAPHS])


def assert_recognised(probabilities):
    for (name, (classes, least)), given in zip(PHOTOGRAPHS.items(), probabilities, strict=True):
        print(f"{name}: {given.argmax()} ({given.max():.3f})")
        assert given.argmax() in classes, name
        assert sum(given[number] for number in classes) > least, name


def test_mobilenet_v2_recognises_photographs(folder):
    model = models.mobilenet_v2()
    model.load_torch_state_dict(needed(folder / "mobilenet_v2.safetensors"))
    assert_recognised(model.predict(models.preprocess(pictures(folder))))


def torchvisions_name(name):
    """Return torchvision's name of a layer of Keras's ResNet-50: res2a_branch2b is layer1.0.conv2."""
    known = {"conv1": "conv1", "bn_conv1": "bn1", "fc1000": "fc"}
    if name in known:
        return known[name]
    block, branch = name.removeprefix("res").removeprefix("bn").split("_branch")
    is_norm = name.startswith("bn")
    kind, number = "bn" if is_norm else "conv", "abc".find(branch[-1]) + 1
    inside = f"{kind}{number}" if number else f"downsample.{int(is_norm)}"
    return f"layer{int(block[0]) - 1}.{ord(block[1]) - ord('a')}.{inside}"


def test_resnet50_of_keras_recognises_photographs(folder):
    model = models.resnet50(stride_in_1x1=True, use_bias=True, epsilon=1e-3)
    weights = load_file(needed(folder / "resnet50.safetensors"))
    names = {key: key.split("/") for key in weights}
    model.load_keras_weights({f"{torchvisions_name(layer)}/{w}": weights[key] for key, (layer, w) in names.items()})
    assert_recognised(model.predict(models.preprocess(pictures(folder), mode="caffe")))


def test_resnet20_recognises_cifar10(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    model = models.resnet20_cifar()
    model.load_torch_state_dict(needed(folder / "resnet20.safetensors"))
    images = np.asarray(Image.open(needed(folder / "test_batch.png"))).reshape(-1, 32, 32, 3)
    labels = np.array(json.loads(needed(folder / "test_lables.json").read_text()))
    assert len(images) == len(labels) == 10_000
    probabilities = model.predict(models.preprocess(images), batch_size=200)
    right = int((probabilities.argmax(1) == labels).sum())
    print(f"{right} of 10000 right")
    assert abs(right - 8_908) <= 3  # what PyTorch recognises with the same weights
