"""ResNets: for ImageNet with two or three convolutions a block, and the small ones for CIFAR-10.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..arguments import flag
from ..layers import Add, MaxPool2D, ReLU
from ..layers.symbolic import Tensor
from ..model import Model
from .blocks import Network, channels_of, conv_norm, pair

Block = Callable[[Tensor, int, int, str], Tensor]


def resnet18(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """ResNet-18: a stem, eight blocks of two 3x3 convolutions, the mean of each channel, a dense layer.

    Parameters
    ----------
    classes
        Number of classes.
    input_shape
        Height, width and channels of an image.
    include_top
        Whether the result is a probability for each class; else it is the last feature map, to train something of
        one's own on, and ``classes`` counts for nothing.
    seed
        Determines initial weights; None for one from the operating system.
    dtype
        "float32" or "float64".

    Returns
    -------
    Model
        With random weights; its layers are called as in torchvision: "layer1.0.conv1". It gives (N, classes), or
        (N, H', W', 512) without a top, where H' = H / 32, rounded up.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.resnet18(classes=10, input_shape=(64, 64, 3)).output_shape
    (None, 10)
    """
    network = Network(classes, input_shape, include_top, seed, dtype)
    return network.pooled(_stages(_stem(network.input), _basic, 64, [2, 2, 2, 2]), "fc")


def resnet34(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """ResNet-34: as ResNet-18, with 16 blocks.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        As of :func:`resnet18`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.resnet34(input_shape=(64, 64, 3), include_top=False).output_shape
    (None, 2, 2, 512)
    """
    network = Network(classes, input_shape, include_top, seed, dtype)
    return network.pooled(_stages(_stem(network.input), _basic, 64, [3, 4, 6, 3]), "fc")


def resnet50(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
    *,
    stride_in_1x1: bool = False,
    use_bias: bool = False,
    epsilon: float = 1e-5,
) -> Model:
    """ResNet-50: a stem, 16 blocks of a 1x1, a 3x3 and a 1x1 convolution, the mean of each channel, a dense layer.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.
    stride_in_1x1
        Whether a block that halves the image does so in its first 1x1 convolution, as in the paper and in Keras; else
        in the 3x3 one, which is version 1.5 of the network, torchvision's.
    use_bias
        Whether the convolutions have biases, as in Keras.
    epsilon
        Of batch normalisation: 1e-5 in torchvision, 1.001e-5 in Keras, 1e-3 in Keras before 2019.

    Returns
    -------
    Model
        As of :func:`resnet18`, with 2048 feature maps.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.resnet50(input_shape=(64, 64, 3), include_top=False).output_shape
    (None, 2, 2, 2048)
    """
    network = Network(classes, input_shape, include_top, seed, dtype)
    stride_in_1x1 = flag(stride_in_1x1, "stride_in_1x1")
    options: dict[str, Any] = {"use_bias": use_bias, "epsilon": epsilon}

    def bottleneck(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        first, second = (strides, 1) if stride_in_1x1 else (1, strides)
        y = conv_norm(x, filters, 1, first, names=_numbered(name, 1), **options)
        y = conv_norm(y, filters, 3, second, names=_numbered(name, 2), **options)
        y = conv_norm(y, 4 * filters, 1, 1, None, names=_numbered(name, 3), **options)
        return _sum(y, x, strides, f"{name}.downsample", **options)

    return network.pooled(_stages(_stem(network.input, **options), bottleneck, 64, [3, 4, 6, 3]), "fc")


def resnet20_cifar(
    classes: int = 10,
    input_shape: Any = (32, 32, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """ResNet-20 for CIFAR-10: the paper's section 4.2 with three blocks a stage, and 16, 32 and 64 feature maps.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        With random weights; it gives (N, classes), or (N, H', W', 64) without a top, where H' = H / 4, rounded up. The
        layers are called "layer0.0.conv1" and, where the feature maps become more, "layer1.0.short_cut.0": this
        shortcut is a 1x1 convolution, the paper's option B.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.resnet20_cifar().output_shape
    (None, 10)
    """
    return _cifar(3, Network(classes, input_shape, include_top, seed, dtype))


def resnet56_cifar(
    classes: int = 10,
    input_shape: Any = (32, 32, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """ResNet-56 for CIFAR-10: as ResNet-20, with nine blocks a stage.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        As of :func:`resnet20_cifar`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.resnet56_cifar(include_top=False).output_shape
    (None, 8, 8, 64)
    """
    return _cifar(9, Network(classes, input_shape, include_top, seed, dtype))


def resnet18_cifar(
    classes: int = 10,
    input_shape: Any = (32, 32, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """ResNet-18 for small images: a stem of one 3x3 convolution, which keeps their size, and no pooling after it.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        As of :func:`resnet18`, where H' = H / 8, rounded up.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.resnet18_cifar(include_top=False).output_shape
    (None, 4, 4, 512)
    """
    network = Network(classes, input_shape, include_top, seed, dtype)
    y = conv_norm(network.input, 64, 3, names=("conv1", "bn1"))
    return network.pooled(_stages(y, _basic, 64, [2, 2, 2, 2]), "fc")


def _stem(x: Tensor, **options: Any) -> Tensor:
    """Halve the images twice, on the way to 64 feature maps."""
    y = conv_norm(x, 64, 7, 2, names=("conv1", "bn1"), **options)
    pooled: Tensor = MaxPool2D(3, 2, padding=1, name="maxpool")(y)
    return pooled


def _stages(x: Tensor, block: Block, filters: int, blocks: Sequence[int], first: int = 1) -> Tensor:
    """Return the result of stages of blocks: each has twice the filters of the one before, and halves the images."""
    for stage, count in enumerate(blocks):
        for index in range(count):
            strides = 2 if stage and not index else 1
            x = block(x, filters << stage, strides, f"layer{first + stage}.{index}")
    return x


def _basic(x: Tensor, filters: int, strides: int, name: str, shortcut: str = "downsample") -> Tensor:
    y = conv_norm(x, filters, 3, strides, names=_numbered(name, 1))
    y = conv_norm(y, filters, 3, 1, None, names=_numbered(name, 2))
    return _sum(y, x, strides, f"{name}.{shortcut}")


def _sum(y: Tensor, x: Tensor, strides: int, name: str, **options: Any) -> Tensor:
    """Return what a block makes of x, added to x, or to a projection where the shapes differ."""
    if strides != 1 or channels_of(x) != channels_of(y):
        x = conv_norm(x, channels_of(y), 1, strides, None, names=pair(name), **options)
    activated: Tensor = ReLU()(Add()([y, x]))
    return activated


def _cifar(blocks: int, network: Network) -> Model:
    y = conv_norm(network.input, 16, 3, names=("conv1", "bn1"))
    return network.pooled(_stages(y, partial(_basic, shortcut="short_cut"), 16, [blocks] * 3, first=0), "fc")


def _numbered(block: str, number: int) -> tuple[str, str]:
    """Return the names of a block's convolution and of the normalisation after it."""
    return f"{block}.conv{number}", f"{block}.bn{number}"
