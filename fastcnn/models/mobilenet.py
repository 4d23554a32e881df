"""MobileNetV2: inverted residuals with linear bottlenecks.

Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018.
"""

from __future__ import annotations

from typing import Any

from ..initializers import RandomNormal
from ..layers import Add
from ..layers.symbolic import Tensor
from ..model import Model
from .blocks import Network, channels_of, conv_norm, depthwise_norm, pair

# The paper's table 2: expansion, filters, number of blocks, stride of the first.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """MobileNetV2 of width 1: 17 blocks that widen, convolve each channel by itself, and narrow again.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        With random weights; its layers are called as in torchvision: "features.1.conv.0.0". It gives (N, classes), or
        (N, H', W', 1280) without a top, where H' = H / 32, rounded up.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.mobilenet_v2(classes=10, input_shape=(64, 64, 3), include_top=False).output_shape
    (None, 2, 2, 1280)
    """
    network = Network(classes, input_shape, include_top, seed, dtype)
    y = conv_norm(network.input, 32, 3, 2, "relu6", names=pair("features.0"))
    number = 1
    for expansion, filters, blocks, strides in STAGES:
        for index in range(blocks):
            y = _inverted_residual(y, expansion, filters, 1 if index else strides, f"features.{number}.conv")
            number += 1
    y = conv_norm(y, 1280, 1, 1, "relu6", names=pair(f"features.{number}"))
    return network.pooled(y, "classifier.1", dropout=0.2, kernel_initializer=RandomNormal(stddev=0.01))


def _inverted_residual(x: Tensor, expansion: int, filters: int, strides: int, name: str) -> Tensor:
    channels = channels_of(x)
    y, number = x, 0
    if expansion > 1:
        y = conv_norm(y, expansion * channels, 1, 1, "relu6", names=pair(f"{name}.0"))
        number = 1
    y = depthwise_norm(y, 3, strides, "relu6", names=pair(f"{name}.{number}"))
    y = conv_norm(y, filters, 1, 1, None, names=(f"{name}.{number + 1}", f"{name}.{number + 2}"))
    return Add()([x, y]) if strides == 1 and channels == filters else y
