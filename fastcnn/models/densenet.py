"""DenseNets: every layer of a block sees the results of all layers before it.

Huang, Liu, van der Maaten and Weinberger, "Densely connected convolutional networks", 2017.
"""

from __future__ import annotations

from typing import Any

from ..initializers import VarianceScaling
from ..layers import AveragePooling2D, Concatenate, MaxPool2D
from ..layers.symbolic import Tensor
from ..model import Model
from .blocks import Network, channels_of, conv, norm

# How many feature maps a layer adds.
GROWTH = 32
HE_BY_INPUTS = VarianceScaling(2.0, "fan_in", "untruncated_normal")


def densenet121(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """DenseNet-121: a stem, four dense blocks of 6, 12, 24 and 16 layers, the mean of each channel, a dense layer.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        With random weights; its layers are called as in torchvision: "features.denseblock1.denselayer1.conv1". It gives
        (N, classes), or (N, 7, 7, 1024) for images of 224 pixels without a top.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.densenet121(input_shape=(64, 64, 3), include_top=False).output_shape
    (None, 2, 2, 1024)
    """
    network = Network(classes, input_shape, include_top, seed, dtype, smallest=29)
    y = conv(network.input, 2 * GROWTH, 7, 2, name="features.conv0", kernel_initializer=HE_BY_INPUTS)
    y = norm(y, "features.norm0")
    y = MaxPool2D(3, 2, padding=1, name="features.pool0")(y)
    for number, layers in enumerate([6, 12, 24, 16], start=1):
        if number > 1:
            y = _transition(y, f"features.transition{number - 1}")
        for layer in range(1, layers + 1):
            y = _dense_layer(y, f"features.denseblock{number}.denselayer{layer}")
    return network.pooled(norm(y, "features.norm5"), "classifier")


def _dense_layer(x: Tensor, name: str) -> Tensor:
    y = norm(x, f"{name}.norm1")
    y = conv(y, 4 * GROWTH, 1, name=f"{name}.conv1", kernel_initializer=HE_BY_INPUTS)
    y = norm(y, f"{name}.norm2")
    y = conv(y, GROWTH, 3, name=f"{name}.conv2", kernel_initializer=HE_BY_INPUTS)
    joined: Tensor = Concatenate()([x, y])
    return joined


def _transition(x: Tensor, name: str) -> Tensor:
    """Halve the images and the number of feature maps."""
    y = norm(x, f"{name}.norm")
    y = conv(y, channels_of(x) // 2, 1, name=f"{name}.conv", kernel_initializer=HE_BY_INPUTS)
    pooled: Tensor = AveragePooling2D(2, name=f"{name}.pool")(y)
    return pooled
