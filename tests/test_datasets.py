"""The data sets: what ships, how files are read and refused, and how downloads behave."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from idx_files import FILES, idx_bytes, write_idx_folder

from fastcnn import datasets
from fastcnn.datasets import mnist as mnist_module
from fastcnn.datasets.fetch import fetch
from fastcnn.datasets.idx import read_idx

# The shipped digits


def test_digits_have_the_documented_shapes_types_and_range(digits):
    (x_train, y_train), (x_test, y_test) = digits
    assert x_train.shape == (1442, 8, 8, 1)
    assert x_test.shape == (355, 8, 8, 1)
    assert y_train.shape == (1442,)
    assert y_test.shape == (355,)
    for x, y in digits:
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert x.flags.c_contiguous
        assert x.min() == 0.0
        assert x.max() == 1.0
        assert np.array_equal(x * 16, np.rint(x * 16))
        assert np.array_equal(np.unique(y), np.arange(10))


def test_digits_hold_out_a_fifth_of_each_class_and_nothing_twice(digits):
    (x_train, y_train), (x_test, y_test) = digits
    total = np.bincount(y_train) + np.bincount(y_test)
    assert np.array_equal(np.bincount(y_test), total // 5)
    assert total.sum() == 1797
    train_images = {image.tobytes() for image in x_train}
    assert not any(image.tobytes() in train_images for image in x_test)


def test_first_digit_is_the_zero_that_it_looks_like(digits):
    (x_train, y_train), _ = digits
    assert y_train[0] == 0
    assert (x_train[0, 1, :, 0] * 16).tolist() == [0, 0, 13, 15, 10, 15, 5, 0]


def test_digits_are_new_arrays_at_each_call(digits):
    (x, _), _ = datasets.load_digits()
    x[:] = 0
    (again, _), _ = datasets.load_digits()
    assert np.array_equal(again, digits[0][0])


def test_digits_ship_with_their_licence():
    text = (Path(datasets.__file__).parent / "data/LICENSE-digits.txt").read_text()
    for needed in ("Alpaydin", "Kaynak", "CC BY 4.0", "10.24432/C50P49"):
        assert needed in text


# Reading a folder of IDX files


@pytest.mark.parametrize("load", [datasets.load_mnist, datasets.load_fashion_mnist])
def test_a_folder_is_read_as_keras_returns_it(load, tmp_path):
    images, labels, test_images, test_labels = write_idx_folder(tmp_path)
    (x_train, y_train), (x_test, y_test) = load(tmp_path)
    for got, wanted in (
        (x_train, images),
        (y_train, labels),
        (x_test, test_images),
        (y_test, test_labels),
    ):
        assert got.dtype == np.uint8
        assert got.flags.writeable
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_gzip_is_told_by_content_and_not_by_name(tmp_path, suffix):
    images, *_ = write_idx_folder(tmp_path)
    raw = tmp_path / FILES[0]
    content = gzip.compress(raw.read_bytes())
    raw.unlink()
    (tmp_path / (FILES[0] + suffix)).write_bytes(content)
    (x_train, _), _ = datasets.load_mnist(str(tmp_path))
    assert np.array_equal(x_train, images)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_and_nothing_is_downloaded(tmp_path, monkeypatch, name):
    write_idx_folder(tmp_path)
    (tmp_path / name).unlink()
    monkeypatch.setattr(mnist_module, "fetch", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(FileNotFoundError, match=name) as caught:
        datasets.load_mnist(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("load", [datasets.load_mnist, datasets.load_fashion_mnist])
def test_a_path_is_a_path(load):
    with pytest.raises(TypeError, match="path must be a path, got 3"):
        load(3)


@pytest.mark.parametrize("keep", [0, 3, 4, 10, 15, 16, 1000, -1])
@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_off_file_is_refused_by_name(tmp_path, keep, packed):
    write_idx_folder(tmp_path)
    path = tmp_path / FILES[0]
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content[:keep]) if packed else content[:keep])
    with pytest.raises(ValueError, match=FILES[0]):
        datasets.load_mnist(tmp_path)


@pytest.mark.parametrize("keep", [2, 11, 500, -1])
def test_a_cut_off_gzip_stream_is_refused_by_name(tmp_path, keep):
    write_idx_folder(tmp_path)
    path = tmp_path / FILES[0]
    path.write_bytes(gzip.compress(path.read_bytes())[:keep])
    with pytest.raises(ValueError, match=FILES[0]):
        datasets.load_mnist(tmp_path)


def test_a_flipped_bit_in_a_gzip_stream_is_refused(tmp_path):
    write_idx_folder(tmp_path)
    path = tmp_path / FILES[0]
    content = bytearray(gzip.compress(path.read_bytes()))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        datasets.load_mnist(tmp_path)


def test_more_data_than_announced_is_refused(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(idx_bytes(np.zeros((2, 3, 3))) + b"\0")
    with pytest.raises(ValueError, match="more follow"):
        read_idx(path, ndim=3)


def test_a_header_that_announces_no_images_of_any_size_is_named(tmp_path):
    path = tmp_path / "none"
    path.write_bytes(bytes([0, 0, 8, 3]) + bytes(4) + b"\xff" * 8)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged: its header announces shape \(0, "):
        read_idx(path, 3)


def test_the_cache_folder_is_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTCNN_CACHE", "here")
    assert datasets.cache_folder() == tmp_path / "here"


def test_a_header_that_announces_terabytes_allocates_nothing(tmp_path):
    path = tmp_path / "huge"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3) + b"\0" * 99)
    with pytest.raises(ValueError, match="only 99 follow"):
        read_idx(path, ndim=3)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 something else entirely",
        struct.pack(">HBB3I", 0, 0x0D, 3, 1, 2, 2) + b"\0" * 16,
        struct.pack(">HBB1I", 0, 0x08, 1, 4) + b"\0" * 4,
        struct.pack("<I3I", 0x803, 1, 2, 2) + b"\0" * 4,
    ],
    ids=["foreign", "float32", "labels", "little-endian"],
)
def test_a_foreign_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "foreign-file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign-file is not an IDX file.*3 dimension"):
        read_idx(path, ndim=3)


def test_wrong_image_size_count_or_label_is_refused(tmp_path):
    write_idx_folder(tmp_path)
    images, labels = tmp_path / FILES[0], tmp_path / FILES[1]
    whole = images.read_bytes()

    images.write_bytes(idx_bytes(np.zeros((40, 8, 8))))
    with pytest.raises(ValueError, match="8x8"):
        datasets.load_mnist(tmp_path)
    images.write_bytes(idx_bytes(np.zeros((39, 28, 28))))
    with pytest.raises(ValueError, match=r"39 images.*40"):
        datasets.load_mnist(tmp_path)
    images.write_bytes(whole)
    labels.write_bytes(idx_bytes(np.arange(40)))
    with pytest.raises(ValueError, match="label 39"):
        datasets.load_mnist(tmp_path)


def test_debians_fashion_mnist_has_the_checksums_that_downloads_must_have(fashion_mnist_folder):
    for name, sha256 in mnist_module._FASHION_MNIST.sha256.items():
        content = gzip.decompress((fashion_mnist_folder / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == sha256


def test_fashion_mnist_is_read_where_debian_puts_it(fashion_mnist_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCNN_CACHE", str(tmp_path))
    monkeypatch.setattr(mnist_module, "fetch", lambda *_: pytest.fail("downloaded"))
    (x_train, y_train), (x_test, y_test) = datasets.load_fashion_mnist()
    assert x_train.shape == (60000, 28, 28)
    assert x_test.shape == (10000, 28, 28)
    assert np.array_equal(np.bincount(y_train), [6000] * 10)
    assert np.array_equal(np.bincount(y_test), [1000] * 10)
    assert not list(tmp_path.iterdir())


# The cache folder and downloads, from a server that is a folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    """MNIST's source made to be a folder of small gzipped files, and an empty cache."""
    folder = tmp_path / "server"
    write_idx_folder(folder)
    checksums = {}
    for name in FILES:
        content = (folder / name).read_bytes()
        checksums[name] = hashlib.sha256(content).hexdigest()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        (folder / name).unlink()
    source = mnist_module._Source("MNIST", "mnist", (f"{folder.as_uri()}/",), checksums)
    monkeypatch.setattr(mnist_module, "_MNIST", source)
    monkeypatch.setenv("FASTCNN_CACHE", str(tmp_path / "cache"))
    return folder


def with_urls(monkeypatch, *urls: str) -> None:
    old = mnist_module._MNIST
    source = mnist_module._Source(old.name, old.cache, urls, old.sha256)
    monkeypatch.setattr(mnist_module, "_MNIST", source)


def test_the_first_call_downloads_and_the_second_does_not(server, tmp_path, monkeypatch):
    first = datasets.load_mnist()
    cached = sorted(path.name for path in (tmp_path / "cache/mnist").iterdir())
    assert cached == sorted(f"{name}.gz" for name in FILES)
    with_urls(monkeypatch)
    second = datasets.load_mnist()
    for (x, y), (x_again, y_again) in zip(first, second, strict=True):
        assert np.array_equal(x, x_again)
        assert np.array_equal(y, y_again)


def test_only_what_is_missing_is_downloaded(server, tmp_path, monkeypatch):
    datasets.load_mnist()
    (tmp_path / "cache/mnist" / f"{FILES[3]}.gz").unlink()
    fetched = []

    def counting(url, target, sha256):
        fetched.append(target.name)
        fetch(url, target, sha256)

    monkeypatch.setattr(mnist_module, "fetch", counting)
    datasets.load_mnist()
    assert fetched == [f"{FILES[3]}.gz"]


def test_a_second_server_stands_in_for_the_first(server, tmp_path, monkeypatch):
    with_urls(monkeypatch, (tmp_path / "nowhere").as_uri() + "/", f"{server.as_uri()}/")
    (x_train, _), _ = datasets.load_mnist()
    assert x_train.shape == (40, 28, 28)


@pytest.mark.parametrize("damage", ["other content", "cut off", "not gzip"])
def test_a_wrong_download_is_refused_and_leaves_nothing(server, tmp_path, damage):
    path = server / f"{FILES[0]}.gz"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "other content": gzip.compress(gzip.decompress(whole)[:-1] + b"\xff"),
            "cut off": whole[:-9],
            "not gzip": b"<html>sorry</html>",
        }[damage]
    )
    with pytest.raises(ConnectionError, match=FILES[0]):
        datasets.load_mnist()
    cache = tmp_path / "cache/mnist"
    assert not cache.exists() or not list(cache.iterdir())


def test_no_network_is_explained(server, tmp_path, monkeypatch):
    missing = (tmp_path / "nowhere").as_uri() + "/"
    with_urls(monkeypatch, missing)
    with pytest.raises(ConnectionError) as caught:
        datasets.load_mnist()
    message = str(caught.value)
    assert f"{missing}{FILES[0]}.gz" in message
    assert str(tmp_path / "cache/mnist") in message
    assert "path=" in message
    for name in FILES:
        assert name in message


def test_fashion_mnist_without_network_names_debians_package(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCNN_CACHE", str(tmp_path))
    monkeypatch.setattr(mnist_module, "fetch", _no_network)
    monkeypatch.setattr(mnist_module, "_find", lambda *_: None)
    with pytest.raises(ConnectionError, match="dataset-fashion-mnist"):
        datasets.load_fashion_mnist()


def _no_network(*_):
    raise OSError("no network")


def test_a_failing_rename_leaves_the_old_file_whole(tmp_path, monkeypatch):
    content = gzip.compress(b"new")
    (tmp_path / "source.gz").write_bytes(content)
    target = tmp_path / "target.gz"
    target.write_bytes(b"old")

    def failing(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", failing)
    url = (tmp_path / "source.gz").as_uri()
    with pytest.raises(OSError, match="disk full"):
        fetch(url, target, hashlib.sha256(b"new").hexdigest())
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.gz", "target.gz"]


def test_cache_folder_follows_the_environment_and_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTCNN_CACHE", str(tmp_path / "mine"))
    assert datasets.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FASTCNN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert datasets.cache_folder() == tmp_path / ".cache/fastcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert datasets.cache_folder() == tmp_path / "xdg/fastcnn"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert datasets.cache_folder() == tmp_path / "Library/Caches/fastcnn"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert datasets.cache_folder() == tmp_path / "Local/fastcnn"
