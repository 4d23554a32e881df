"""What the networks share: their input, convolutions with batch normalisation, the classifier at the end."""

from __future__ import annotations

from typing import Any

from ..arguments import brief, flag, integer
from ..initializers import VarianceScaling
from ..layers import BatchNormalization, Conv2D, Dense, DepthwiseConv2D, Dropout, GlobalAveragePooling2D, Input
from ..layers.symbolic import Tensor
from ..model import Model

#: He's initialisation, by the outputs of a filter, so that the gradients keep their size on the way back.
HE = VarianceScaling(2.0, "fan_out", "untruncated_normal")


class Network:
    """The arguments that every network has, checked, and the two ends that they decide.

    Parameters
    ----------
    classes, input_shape, include_top, seed, dtype
        As of :func:`fastcnn.models.resnet18`.
    smallest
        The smallest side of an image that leaves something to the last layer.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit.
    """

    def __init__(
        self, classes: int, input_shape: Any, include_top: bool, seed: int | None, dtype: str, smallest: int = 1
    ) -> None:
        self.classes = integer(classes, "classes")
        if not isinstance(input_shape, (list, tuple)) or len(input_shape) != 3:
            raise ValueError(f"input_shape must be (height, width, channels), got {brief(input_shape)}")
        height, width, channels = (integer(n, "input_shape", 1, input_shape) for n in input_shape)
        if min(height, width) < smallest:
            raise ValueError(f"input_shape must be images of at least {smallest} pixels a side, got {input_shape!r}")
        self.input = Input((height, width, channels))
        self.include_top = flag(include_top, "include_top")
        self.seed = seed
        self.dtype = dtype

    def model(self, outputs: Tensor) -> Model:
        """Return the model whose results these are."""
        return Model(self.input, outputs, self.seed, self.dtype)

    def pooled(self, features: Tensor, name: str, dropout: float = 0.0, kernel_initializer: Any = None) -> Model:
        """Return the model with a dense classifier on the features' means, or of the features alone without a top."""
        if not self.include_top:
            return self.model(features)
        y = GlobalAveragePooling2D()(features)
        if dropout:
            y = Dropout(dropout)(y)
        kernel_initializer = kernel_initializer or "glorot_uniform"
        return self.model(
            Dense(self.classes, activation="softmax", kernel_initializer=kernel_initializer, name=name)(y)
        )


def norm(x: Tensor, name: str, activation: str | None = "relu", epsilon: float = 1e-5) -> Tensor:
    """Return activation(batch normalisation(x)), with PyTorch's momentum: theirs of 0.1 is 0.9 here."""
    y: Tensor = BatchNormalization(momentum=0.9, epsilon=epsilon, activation=activation, name=name)(x)
    return y


def conv(
    x: Tensor,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    *,
    name: str,
    use_bias: bool = False,
    kernel_initializer: Any = HE,
) -> Tensor:
    """Return the convolution of x, padded by half a kernel on all sides, as PyTorch's networks have it."""
    padding = kernel_size // 2
    y: Tensor = Conv2D(
        filters, kernel_size, strides, padding, use_bias=use_bias, kernel_initializer=kernel_initializer, name=name
    )(x)
    return y


def conv_norm(
    x: Tensor,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    activation: str | None = "relu",
    *,
    names: tuple[str, str],
    use_bias: bool = False,
    epsilon: float = 1e-5,
) -> Tensor:
    """Return activation(batch normalisation(convolution(x))); the names are those of convolution and normalisation."""
    y = conv(x, filters, kernel_size, strides, name=names[0], use_bias=use_bias)
    return norm(y, names[1], activation, epsilon)


def depthwise_norm(x: Tensor, kernel_size: int, strides: int, activation: str, *, names: tuple[str, str]) -> Tensor:
    """Return activation(batch normalisation(convolution of each channel(x))), padded and named likewise."""
    y = DepthwiseConv2D(
        kernel_size, strides, kernel_size // 2, use_bias=False, depthwise_initializer=HE, name=names[0]
    )(x)
    return norm(y, names[1], activation)


def pair(name: str) -> tuple[str, str]:
    """Return the names of a convolution and of the normalisation after it where PyTorch has them in a Sequential."""
    return f"{name}.0", f"{name}.1"


def channels_of(x: Tensor) -> int:
    """Return the number of channels of images."""
    channels = x.shape[3]
    assert channels is not None
    return channels
