"""Layers under Keras's names: each with its forward, its backward, and its parameters.

Images are (batch, height, width, channels). A layer of one's own is a subclass of :class:`Layer`.
"""

from ..registry import register
from .activation import Activation, LeakyReLU, ReLU, Softmax
from .base import Activated, Layer
from .conv import Conv2D, DepthwiseConv2D
from .dense import Dense
from .merging import Add, Concatenate, Multiply
from .normalization import BatchNormalization
from .pooling import AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPool2D, MaxPool2D
from .regularization import Dropout
from .reshaping import Flatten, Reshape, ZeroPadding2D
from .symbolic import Input, Tensor

# Keras's second names.
AvgPool2D = AveragePooling2D
GlobalAvgPool2D = GlobalAveragePooling2D
GlobalMaxPooling2D = GlobalMaxPool2D
MaxPooling2D = MaxPool2D

__all__ = [
    "Activated",
    "Activation",
    "Add",
    "AveragePooling2D",
    "AvgPool2D",
    "BatchNormalization",
    "Concatenate",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "GlobalMaxPool2D",
    "GlobalMaxPooling2D",
    "Input",
    "Layer",
    "LeakyReLU",
    "MaxPool2D",
    "MaxPooling2D",
    "Multiply",
    "ReLU",
    "Reshape",
    "Softmax",
    "Tensor",
    "ZeroPadding2D",
    "register",
]
