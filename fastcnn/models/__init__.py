"""Networks from the papers, each a function of the functional style, with torchvision's names of layers.

Beside them what leads from an image file to the input of a network for ImageNet, and from its scores to names.
"""

from __future__ import annotations

from .densenet import densenet121
from .efficientnet import efficientnet_b0
from .images import Prediction, decode_predictions, imagenet_classes, load_image, preprocess
from .lenet import lenet5
from .mobilenet import mobilenet_v2
from .resnet import resnet18, resnet18_cifar, resnet20_cifar, resnet34, resnet50, resnet56_cifar
from .squeezenet import squeezenet1_1
from .vgg import cifar_vgg, vgg11, vgg16, vgg19

__all__ = [
    "Prediction",
    "cifar_vgg",
    "decode_predictions",
    "densenet121",
    "efficientnet_b0",
    "imagenet_classes",
    "lenet5",
    "load_image",
    "mobilenet_v2",
    "preprocess",
    "resnet18",
    "resnet18_cifar",
    "resnet20_cifar",
    "resnet34",
    "resnet50",
    "resnet56_cifar",
    "squeezenet1_1",
    "vgg11",
    "vgg16",
    "vgg19",
]
