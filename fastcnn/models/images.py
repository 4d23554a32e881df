"""From an image file to what a network for ImageNet takes, and from its scores to the names of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import brief, choice, file_path, integer, real_array

# Means and standard deviations of ImageNet's channels: torchvision's of RGB in [0, 1], Caffe's of BGR in [0, 255].
_MEAN_RGB, _DEVIATION_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MEAN_BGR = (103.939, 116.779, 123.68)
# The largest square that is read, of 0.8 GB: many times what networks are shown.
_MAX_SIZE = 8192


class Prediction(NamedTuple):
    """One of the classes that a network thinks of: its number, its name, its score.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.Prediction(1, "dog", 0.75).name
    'dog'
    """

    number: int
    name: str
    score: float


def load_image(path: Any, size: int = 224) -> NDArray[np.float32]:
    """Read the middle of an image file, as networks for ImageNet are shown it.

    The short side is resized to 8/7 of the size, which is 256 pixels for 224, bilinearly, and a square of the size is
    cut out of the middle, as torchvision does. Pillow reads the file, which the extra ``images`` brings: JPEG, PNG and
    many others, grey ones, of 16 bits too, and ones with a palette. An image that its file says is to be turned is
    turned.

    Parameters
    ----------
    path
        Of the file.
    size
        Height and width of the result, up to 8192.

    Returns
    -------
    ndarray
        float32 (1, size, size, 3), red, green and blue from 0 to 255.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    OSError
        If the file can't be opened.
    TypeError, ValueError
        Naming the argument that does not fit, or if the file holds no image, or one of 32-bit values, which do not say
        what is white.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.load_image("cup.jpg").shape  # doctest: +SKIP
    (1, 224, 224, 3)
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("load_image needs Pillow: pip install 'fastcnn[images]'") from error
    size = integer(size, "size")
    if size > _MAX_SIZE:
        raise ValueError(f"size must be at most {_MAX_SIZE}, got {size}")
    with file_path(path).open("rb") as file:
        try:
            image = ImageOps.exif_transpose(Image.open(file))
            mode = image.mode
            if mode.startswith("I;16"):  # convert would clip what is above 255
                image = Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8))
            image = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"path must lead to an image that Pillow can read, got {str(path)!r}: {error}") from error
    if mode in ("I", "F"):
        raise ValueError(f"path must lead to an image of 8 or 16 bits a channel, got {str(path)!r} of mode {mode}")
    short = size * 8 // 7
    width, height = (short * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    # Where the square comes from: resized alone, as of a long strip the whole could take all memory.
    rows, cols = image.height / height, image.width / width
    box = (left * cols, top * rows, (left + size) * cols, (top + size) * rows)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box)
    return np.asarray(image, np.float32)[np.newaxis]


def preprocess(x: ArrayLike, mode: str = "torch") -> NDArray[Any]:
    """Bring the colours of images to the scale that a network's weights were trained for.

    Parameters
    ----------
    x
        Images (..., 3), red, green and blue from 0 to 255, of any real type.
    mode
        "torch": in [0, 1], minus ImageNet's mean, by its standard deviation, for weights from torchvision. "caffe":
        blue, green and red minus their means, for Keras's weights of VGG and ResNet.

    Returns
    -------
    ndarray
        A new one of the same shape, float64 if x is so, else float32.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import models
    >>> models.preprocess(np.full((1, 1, 1, 3), 127.5)).round(3).tolist()
    [[[[0.066, 0.196, 0.418]]]]
    """
    mode = choice(mode, "mode", ("torch", "caffe"))
    images = real_array(x, "x")
    if images.ndim < 1 or images.shape[-1] != 3:
        raise ValueError(f"x must be images of three channels, got shape {images.shape}")
    dtype = np.float64 if images.dtype == np.float64 else np.float32
    scaled: NDArray[Any] = images.astype(dtype)
    if mode == "torch":
        scaled = (scaled / dtype(255) - np.array(_MEAN_RGB, dtype)) / np.array(_DEVIATION_RGB, dtype)
    else:
        scaled = scaled[..., ::-1] - np.array(_MEAN_BGR, dtype)
    return scaled


def decode_predictions(scores: ArrayLike, top: int = 5, classes: Any = None) -> list[list[Prediction]]:
    """Name the classes with the highest scores.

    Parameters
    ----------
    scores
        What a network predicts for N images: (N, classes).
    top
        How many classes of each image, all if there are fewer.
    classes
        Their names, in the order of the scores; None for ImageNet's.

    Returns
    -------
    list of list of Prediction
        For each image the number, name and score of classes, the highest score first, of equals the lower number.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> for number, name, score in models.decode_predictions([[0.25, 0.75]], classes=["cat", "dog"])[0]:
    ...     print(number, name, score)
    1 dog 0.75
    0 cat 0.25
    """
    top = integer(top, "top")
    rows = real_array(scores, "scores")
    names = imagenet_classes() if classes is None else _names(classes)
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise ValueError(f"scores must have shape (N, {len(names)}), a score for each class, got {rows.shape}")
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :top]
    return [
        [Prediction(int(number), names[number], float(row[number])) for number in numbers]
        for row, numbers in zip(rows, best, strict=True)
    ]


def imagenet_classes() -> list[str]:
    """List the names of ImageNet's 1,000 classes, in the order of their numbers.

    Two names stand for two classes each: 134 and 517 are a crane, 638 and 639 a maillot.

    Returns
    -------
    list of str
        A new one at each call.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.imagenet_classes()[207]
    'golden retriever'
    """
    text = (Path(__file__).parent / "data" / "imagenet_classes.txt").read_text("ascii")
    return [line for line in text.splitlines() if not line.startswith("#")]


def _names(classes: Any) -> list[str]:
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        raise TypeError(f"classes must be a list of names, got {brief(classes)}")
    return list(classes)
