"""Networks from the papers, each a function of the functional style, with torchvision's names of layers."""

from __future__ import annotations

from .lenet import lenet5
from .mobilenet import mobilenet_v2
from .resnet import resnet18, resnet18_cifar, resnet20_cifar, resnet34, resnet50, resnet56_cifar
from .vgg import cifar_vgg, vgg11, vgg16, vgg19

__all__ = [
    "cifar_vgg",
    "lenet5",
    "mobilenet_v2",
    "resnet18",
    "resnet18_cifar",
    "resnet20_cifar",
    "resnet34",
    "resnet50",
    "resnet56_cifar",
    "vgg11",
    "vgg16",
    "vgg19",
]
