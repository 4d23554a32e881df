"""LeNet-5, for digits.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
"""

from __future__ import annotations

from typing import Any

from ..layers import Conv2D, Dense, Flatten, MaxPool2D
from ..model import Model
from .blocks import Network


def lenet5(
    classes: int = 10,
    input_shape: Any = (28, 28, 1),
    include_top: bool = True,
    seed: int | None = None,
    dtype: str = "float32",
) -> Model:
    """LeNet-5: two convolutions, each with a pooling after it, and three dense layers.

    Rectifiers and maxima stand where the paper has tanh and means with a weight, and every map of the second
    convolution sees all maps of the first. The border that makes the paper's images 32 pixels wide is padding here.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`resnet18`.

    Returns
    -------
    Model
        With random weights; its layers with weights are conv1, conv2, fc1, fc2 and fc3. It gives (N, classes), or
        (N, 5, 5, 16) for images of 28 pixels without a top.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.

    Examples
    --------
    >>> from fastcnn import models
    >>> models.lenet5().count_params()
    61706
    """
    network = Network(classes, input_shape, include_top, seed, dtype, smallest=12)
    y = Conv2D(6, 5, padding=2, activation="relu", kernel_initializer="he_normal", name="conv1")(network.input)
    y = MaxPool2D(2)(y)
    y = Conv2D(16, 5, activation="relu", kernel_initializer="he_normal", name="conv2")(y)
    y = MaxPool2D(2)(y)
    if network.include_top:
        y = Flatten()(y)
        y = Dense(120, activation="relu", kernel_initializer="he_normal", name="fc1")(y)
        y = Dense(84, activation="relu", kernel_initializer="he_normal", name="fc2")(y)
        y = Dense(network.classes, activation="softmax", name="fc3")(y)
    return network.model(y)
