"""Owns MNIST and Fashion-MNIST: where their four files are found, and what they must hold."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..arguments import file_path
from .fetch import cache_folder, fetch
from .idx import read_idx

Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]

_SIDE = 28
_CLASSES = 10


@dataclass(frozen=True)
class _Source:
    """A data set of four IDX files: its folders, its servers, and its content's checksums."""

    name: str
    cache: str
    urls: tuple[str, ...]
    sha256: dict[str, str]
    system_folder: Path | None = None
    debian_package: str | None = None


# The checksums are of the decompressed files, because packagers and mirrors pack them anew.
_MNIST = _Source(
    name="MNIST",
    cache="mnist",
    urls=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    sha256={
        "train-images-idx3-ubyte": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        "train-labels-idx1-ubyte": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        "t10k-images-idx3-ubyte": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        "t10k-labels-idx1-ubyte": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    },
)

_FASHION_MNIST = _Source(
    name="Fashion-MNIST",
    cache="fashion-mnist",
    urls=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    sha256={
        "train-images-idx3-ubyte": ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        "train-labels-idx1-ubyte": ("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        "t10k-images-idx3-ubyte": ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        "t10k-labels-idx1-ubyte": ("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    },
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    debian_package="dataset-fashion-mnist",
)


def load_mnist(path: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """MNIST: 70,000 grey pictures of handwritten digits.

    Parameters
    ----------
    path : path, optional
        The folder of the four IDX files, each raw or gzipped. By default the folder ``mnist`` in
        the cache folder, which is filled by download at the first call.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images uint8 (60000, 28, 28) and (10000, 28, 28), 0 the background and 255 the ink; labels
        uint8 (60000,) and (10000,), 0 to 9.

    Raises
    ------
    FileNotFoundError
        `path` lacks one of the files.
    ConnectionError
        A file could be downloaded from none of its servers.
    TypeError
        `path` is no path.
    ValueError
        A file is damaged or holds something else.

    Examples
    --------
    >>> from fastcnn import datasets
    >>> (x_train, y_train), (x_test, y_test) = datasets.load_mnist()  # doctest: +SKIP
    >>> x_train.shape, y_train[:5].tolist()  # doctest: +SKIP
    ((60000, 28, 28), [5, 0, 4, 1, 9])

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner (1998). Gradient-based learning applied to
    document recognition. Proceedings of the IEEE 86(11), 2278-2324.
    """
    return _load(_MNIST, path)


def load_fashion_mnist(path: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """Fashion-MNIST: 70,000 grey pictures of clothes in ten classes.

    The classes are T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag and
    ankle boot.

    Parameters
    ----------
    path : path, optional
        The folder of the four IDX files, each raw or gzipped. By default the folder
        ``fashion-mnist`` in the cache folder, or where Debian's package dataset-fashion-mnist puts
        them; where neither has the files, they are downloaded into the cache folder.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images uint8 (60000, 28, 28) and (10000, 28, 28); labels uint8 (60000,) and (10000,),
        0 to 9.

    Raises
    ------
    FileNotFoundError
        `path` lacks one of the files.
    ConnectionError
        A file could be downloaded from none of its servers.
    TypeError
        `path` is no path.
    ValueError
        A file is damaged or holds something else.

    Examples
    --------
    >>> from fastcnn import datasets
    >>> (x_train, y_train), (x_test, y_test) = datasets.load_fashion_mnist()  # doctest: +SKIP
    >>> x_train.shape, y_train[:5].tolist()  # doctest: +SKIP
    ((60000, 28, 28), [9, 0, 0, 3, 0])

    References
    ----------
    H. Xiao, K. Rasul and R. Vollgraf (2017). Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms. arXiv:1708.07747.
    """
    return _load(_FASHION_MNIST, path)


def _load(source: _Source, path: str | os.PathLike[str] | None) -> tuple[Split, Split]:
    folder = _filled_folder(source) if path is None else file_path(path)
    return _read_split(source, folder, "train"), _read_split(source, folder, "t10k")


def _filled_folder(source: _Source) -> Path:
    """Return a folder that holds all files, after downloading those the cache folder lacks."""
    cache = cache_folder() / source.cache
    missing = [name for name in source.sha256 if _find(cache, name) is None]
    system = source.system_folder
    if missing and system and all(_find(system, name) for name in source.sha256):
        return system
    for name in missing:
        _download(source, name, cache)
    return cache


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _download(source: _Source, name: str, folder: Path) -> None:
    failures = []
    for base in source.urls:
        url = f"{base}{name}.gz"
        try:
            return fetch(url, folder / f"{name}.gz", source.sha256[name])
        except (OSError, ValueError) as error:
            failures.append(f"  {url}: {error}")
    package = source.debian_package
    by_hand = f"; or install Debian's package {package}" if package else ""
    raise ConnectionError(
        f"{source.name} is not in {folder} and could not be downloaded:\n"
        + "\n".join(failures)
        + f"\nTo do it by hand, put {', '.join(source.sha256)} (raw or .gz) into that folder, or "
        f"into another and pass it as path={by_hand}."
    )


def _read_split(source: _Source, folder: Path, part: str) -> Split:
    images_path = _existing(source, folder, f"{part}-images-idx3-ubyte")
    labels_path = _existing(source, folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"{images_path} holds images of {images.shape[1]}x{images.shape[2]} pixels; "
            f"{source.name}'s have {_SIDE}x{_SIDE}"
        )
    if len(images) != len(labels):
        raise ValueError(f"{images_path} has {len(images)} images, {labels_path} {len(labels)}")
    if labels.size and labels.max() >= _CLASSES:
        raise ValueError(f"{labels_path} has a label {labels.max()}; {source.name}'s are 0 to {_CLASSES - 1}")
    return images, labels


def _existing(source: _Source, folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise FileNotFoundError(
            f"{folder} has neither {name} nor {name}.gz, one of {source.name}'s four files; "
            "without path= they are downloaded"
        )
    return path
