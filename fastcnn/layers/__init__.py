"""Layers under Keras's names: each with its forward, its backward, and its parameters.

Images are (batch, height, width, channels). A layer of one's own is a subclass of :class:`Layer`.
"""

from ..registry import register
from .activation import GELU, Activation, HardSwish, LeakyReLU, PReLU, ReLU, ReLU6, SiLU, Softmax
from .base import Activated, Layer
from .conv import Conv2D, Conv2DTranspose, DepthwiseConv2D, SeparableConv2D
from .dense import Dense
from .merging import Add, Concatenate, Multiply
from .normalization import BatchNormalization, LayerNormalization
from .pooling import AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPool2D, MaxPool2D
from .regularization import Dropout, SpatialDropout2D
from .reshaping import Flatten, Reshape, ZeroPadding2D
from .symbolic import Input, Tensor
from .upsampling import UpSampling2D

# Keras's second names.
AvgPool2D = AveragePooling2D
GlobalAvgPool2D = GlobalAveragePooling2D
GlobalMaxPooling2D = GlobalMaxPool2D
MaxPooling2D = MaxPool2D

__all__ = [
    "GELU",
    "Activated",
    "Activation",
    "Add",
    "AveragePooling2D",
    "AvgPool2D",
    "BatchNormalization",
    "Concatenate",
    "Conv2D",
    "Conv2DTranspose",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "GlobalMaxPool2D",
    "GlobalMaxPooling2D",
    "HardSwish",
    "Input",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "MaxPool2D",
    "MaxPooling2D",
    "Multiply",
    "PReLU",
    "ReLU",
    "ReLU6",
    "Reshape",
    "SeparableConv2D",
    "SiLU",
    "Softmax",
    "SpatialDropout2D",
    "Tensor",
    "UpSampling2D",
    "ZeroPadding2D",
    "register",
]
