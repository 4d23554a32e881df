"""EfficientNet-B0: inverted residuals with gates for the channels, in proportions that were searched for.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019.
"""

from __future__ import annotations

from typing import Any

from ..initializers import VarianceScaling
from ..layers import Add, Conv2D, GlobalAveragePooling2D, Multiply
from ..layers.symbolic import Tensor
from ..model import Model
from .blocks import HE, Network, channels_of, conv_norm, depthwise_norm, pair

# The paper's table 1: expansion, size of the kernel, filters, number of blocks, stride of the first.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


def efficientnet_b0(
    classes: int = 1000,
    input_shape: Any = (224, 224, 3),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """EfficientNet-B0: 16 blocks that widen, convolve each channel by itself, weigh the channels, and narrow again.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        With random weights; its layers are called as in torchvision: "features.1.0.block.0.0". It gives (N, classes),
        or (N, H', W', 1280) without a top, where H' = H / 32, rounded up.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Notes
    -----
    Images are padded by the same number of pixels on all sides, as in torchvision, and batch normalisation has its
    epsilon and momentum. Its stochastic depth, which leaves out blocks in training, is no part of the network here.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.efficientnet_b0(input_shape=(64, 64, 3), include_top=False).output_shape
    (None, 2, 2, 1280)
    """
    network = Network(classes, input_shape, include_top, seed, dtype)
    y = conv_norm(network.input, 32, 3, 2, "silu", names=pair("features.0"))
    for stage, (expansion, kernel_size, filters, blocks, strides) in enumerate(STAGES, start=1):
        for index in range(blocks):
            name = f"features.{stage}.{index}.block"
            y = _block(y, expansion, kernel_size, filters, 1 if index else strides, name)
    y = conv_norm(y, 1280, 1, 1, "silu", names=pair("features.8"))
    uniform = VarianceScaling(1 / 3, "fan_out", "uniform")
    return network.pooled(y, "classifier.1", dropout=0.2, kernel_initializer=uniform)


def _block(x: Tensor, expansion: int, kernel_size: int, filters: int, strides: int, name: str) -> Tensor:
    channels = channels_of(x)
    y, number = x, 0
    if expansion > 1:
        y = conv_norm(y, expansion * channels, 1, 1, "silu", names=pair(f"{name}.0"))
        number = 1
    y = depthwise_norm(y, kernel_size, strides, "silu", names=pair(f"{name}.{number}"))
    y = _weighed(y, channels // 4, f"{name}.{number + 1}")
    y = conv_norm(y, filters, 1, 1, None, names=pair(f"{name}.{number + 2}"))
    return Add()([x, y]) if strides == 1 and channels == filters else y


def _weighed(x: Tensor, squeezed: int, name: str) -> Tensor:
    """Return each channel times a gate that is made of the means of all: squeeze and excitation."""
    gates = GlobalAveragePooling2D(keepdims=True)(x)
    gates = Conv2D(squeezed, 1, activation="silu", kernel_initializer=HE, name=f"{name}.fc1")(gates)
    gates = Conv2D(channels_of(x), 1, activation="sigmoid", kernel_initializer=HE, name=f"{name}.fc2")(gates)
    product: Tensor = Multiply()([x, gates])
    return product
