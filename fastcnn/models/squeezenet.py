"""SqueezeNet 1.1: fire modules, which narrow before they convolve, and no dense layer.

Iandola, Han, Moskewicz, Ashraf, Dally and Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
<0.5MB model size", 2016.
"""

from __future__ import annotations

from typing import Any

from ..initializers import RandomNormal
from ..layers import Activation, Concatenate, Conv2D, Dropout, GlobalAveragePooling2D, MaxPool2D
from ..layers.symbolic import Tensor
from ..model import Model
from .blocks import Network


def squeezenet1_1(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """SqueezeNet 1.1: a convolution, eight fire modules, a 1x1 convolution to the classes, the mean of each.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        With random weights; its layers are called as in torchvision: "features.3.squeeze". It gives (N, classes), or
        (N, 13, 13, 512) for images of 224 pixels without a top.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.squeezenet1_1().count_params()
    1235496
    """
    network = Network(classes, input_shape, include_top, seed, dtype, smallest=17)
    y = _conv(network.input, 64, 3, "features.0", strides=2)
    y = _pool(y)
    y = _fire(y, 16, 64, "features.3")
    y = _fire(y, 16, 64, "features.4")
    y = _pool(y)
    y = _fire(y, 32, 128, "features.6")
    y = _fire(y, 32, 128, "features.7")
    y = _pool(y)
    y = _fire(y, 48, 192, "features.9")
    y = _fire(y, 48, 192, "features.10")
    y = _fire(y, 64, 256, "features.11")
    y = _fire(y, 64, 256, "features.12")
    if network.include_top:
        y = Dropout(0.5)(y)
        y = _conv(y, network.classes, 1, "classifier.1", kernel_initializer=RandomNormal(stddev=0.01))
        y = Activation("softmax")(GlobalAveragePooling2D()(y))
    return network.model(y)


def _fire(x: Tensor, squeezed: int, expanded: int, name: str) -> Tensor:
    y = _conv(x, squeezed, 1, f"{name}.squeeze")
    wide = [_conv(y, expanded, 1, f"{name}.expand1x1"), _conv(y, expanded, 3, f"{name}.expand3x3", padding=1)]
    joined: Tensor = Concatenate()(wide)
    return joined


def _conv(
    x: Tensor,
    filters: int,
    kernel_size: int,
    name: str,
    strides: int = 1,
    padding: int = 0,
    kernel_initializer: Any = "he_uniform",
) -> Tensor:
    y: Tensor = Conv2D(
        filters, kernel_size, strides, padding, activation="relu", kernel_initializer=kernel_initializer, name=name
    )(x)
    return y


def _pool(x: Tensor) -> Tensor:
    """Halve the images; a last row or column that fills no whole window counts too, as in PyTorch's ceil_mode."""
    bottom, right = (((size or 0) - 3) % 2 for size in x.shape[1:3])
    pooled: Tensor = MaxPool2D(3, 2, padding=((0, bottom), (0, right)))(x)
    return pooled
