"""VGG: 3x3 convolutions, poolings that halve the images, and three dense layers; and a small one for CIFAR-10.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import flag
from ..initializers import RandomNormal
from ..layers import Conv2D, Dense, Dropout, Flatten, MaxPool2D
from ..layers.symbolic import Tensor
from ..model import Model
from .blocks import HE, Network, conv_norm


def vgg11(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
    *,
    batch_norm: bool = False,
) -> Model:
    """VGG-11, the paper's configuration A: eight convolutions and three dense layers.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype, batch_norm
        As of :func:`vgg16`.

    Returns
    -------
    Model
        As of :func:`vgg16`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.vgg11(input_shape=(64, 64, 3), include_top=False).output_shape
    (None, 2, 2, 512)
    """
    network = Network(classes, input_shape, include_top, seed, dtype, smallest=32)
    return _imagenet(network, [1, 1, 2, 2, 2], batch_norm)


def vgg16(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
    *,
    batch_norm: bool = False,
) -> Model:
    """VGG-16, the paper's configuration D: 13 convolutions and three dense layers.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.
    batch_norm
        Whether each convolution has a batch normalisation after it.

    Returns
    -------
    Model
        With random weights; its layers are called as in torchvision, whose numbers count activations and poolings:
        "features.2", "classifier.0". It gives (N, classes), or (N, H', W', 512) without a top, where H' = H / 32,
        rounded down.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Notes
    -----
    The first dense layer takes the last feature map in the order (H', W', 512), so that its kernel has the rows of
    torchvision's, whose order is (512, H', W'), in another order. It is made for the given size of images, while
    torchvision pools other sizes to 7x7.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.vgg16(input_shape=(64, 64, 3), include_top=False).output_shape
    (None, 2, 2, 512)
    """
    network = Network(classes, input_shape, include_top, seed, dtype, smallest=32)
    return _imagenet(network, [2, 2, 3, 3, 3], batch_norm)


def vgg19(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
    *,
    batch_norm: bool = False,
) -> Model:
    """VGG-19, the paper's configuration E: 16 convolutions and three dense layers.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype, batch_norm
        As of :func:`vgg16`.

    Returns
    -------
    Model
        As of :func:`vgg16`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.vgg19(input_shape=(64, 64, 3), include_top=False, batch_norm=True).output_shape
    (None, 2, 2, 512)
    """
    network = Network(classes, input_shape, include_top, seed, dtype, smallest=32)
    return _imagenet(network, [2, 2, 4, 4, 4], batch_norm)


def cifar_vgg(
    classes: int = 10,
    input_shape: Any = (32, 32, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
    *,
    batch_norm: bool = False,
) -> Model:
    """VGG for CIFAR-10: seven 3x3 convolutions with 64, 128 and 256 feature maps, and two dense layers.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype, batch_norm
        As of :func:`vgg16`.

    Returns
    -------
    Model
        As of :func:`vgg16`, without a top (N, H', W', 256), where H' = H / 8, rounded down.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.cifar_vgg().output_shape
    (None, 10)
    """
    network = Network(classes, input_shape, include_top, seed, dtype, smallest=8)
    y = _features(network.input, [2, 2, 3], batch_norm)
    if network.include_top:
        y = Flatten()(y)
        y = Dense(512, activation="relu", kernel_initializer="he_normal", name="classifier.0")(y)
        y = Dropout(0.5)(y)
        y = Dense(network.classes, activation="softmax", name="classifier.3")(y)
    return network.model(y)


def _imagenet(network: Network, convolutions: Sequence[int], batch_norm: bool) -> Model:
    y = _features(network.input, convolutions, batch_norm)
    if network.include_top:
        y = Flatten()(y)
        for name in ("classifier.0", "classifier.3"):
            y = Dense(4096, activation="relu", kernel_initializer=RandomNormal(stddev=0.01), name=name)(y)
            y = Dropout(0.5)(y)
        kernel_initializer = RandomNormal(stddev=0.01)
        y = Dense(network.classes, activation="softmax", kernel_initializer=kernel_initializer, name="classifier.6")(y)
    return network.model(y)


def _features(x: Tensor, convolutions: Sequence[int], batch_norm: bool) -> Tensor:
    """Return the result of stages of convolutions, 64 filters each in the first, twice as many in the next, up to 512.

    The names count what PyTorch has as modules of their own: convolution, normalisation, activation, pooling.
    """
    batch_norm = flag(batch_norm, "batch_norm")
    number = 0
    for stage, count in enumerate(convolutions):
        filters = min(64 << stage, 512)
        for _ in range(count):
            name = f"features.{number}"
            if batch_norm:
                x = conv_norm(x, filters, 3, names=(name, f"features.{number + 1}"), use_bias=True)
            else:
                x = Conv2D(filters, 3, padding=1, activation="relu", kernel_initializer=HE, name=name)(x)
            number += 3 if batch_norm else 2
        x = MaxPool2D(2, name=f"features.{number}")(x)
        number += 1
    return x
