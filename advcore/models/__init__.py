"""Classifiers whose logits come from a last linear layer, with normalisation as a layer inside."""

from advcore.models.alexnet import AlexNetCIFAR
from advcore.models.resnets import PreActResNet18, ResNet18, ResNet50, WideResNet28x10, WideResNet34x10
from advcore.models.small import SmallCNN
from advcore.models.timm import Timm

MODELS = {
    "small_cnn": SmallCNN,
    "alexnet_cifar": AlexNetCIFAR,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "preact_resnet18": PreActResNet18,
    "wide_resnet28_10": WideResNet28x10,
    "wide_resnet34_10": WideResNet34x10,
    "timm": Timm,
}
