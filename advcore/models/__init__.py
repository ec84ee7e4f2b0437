"""Classifiers whose logits come from a last linear layer, with normalisation as a layer inside."""

from advcore.models.alexnet import AlexNetCIFAR
from advcore.models.base import add_normalization as add_normalization
from advcore.models.mnist_cnn import MnistCNN
from advcore.models.resnets import PreActResNet18, ResNet18, ResNet50, WideResNet28x10, WideResNet34x10
from advcore.models.small import SmallCNN
from advcore.models.timm import Timm
from advcore.models.torchvision import Torchvision

MODELS = {
    "small_cnn": SmallCNN,
    "mnist_cnn": MnistCNN,
    "alexnet_cifar": AlexNetCIFAR,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "preact_resnet18": PreActResNet18,
    "wide_resnet28_10": WideResNet28x10,
    "wide_resnet34_10": WideResNet34x10,
    "timm": Timm,
    "torchvision": Torchvision,
}
# Names that the field uses, to the names here (`errors.suggest_nearest`).
ALIASES = {
    "cnn": "small_cnn",
    "simplecnn": "small_cnn",
    "convnet": "small_cnn",
    "lenet": "small_cnn",
    "alexnet": "alexnet_cifar",
    "resnet": "resnet18",
    "rn18": "resnet18",
    "rn50": "resnet50",
    "resnet34": "timm:resnet34",
    "resnet101": "timm:resnet101",
    "preactresnet": "preact_resnet18",
    "preact": "preact_resnet18",
    "prn18": "preact_resnet18",
    "wrn": "wide_resnet28_10",
    "wideresnet": "wide_resnet28_10",
    "wrn28": "wide_resnet28_10",
    "wrn2810": "wide_resnet28_10",
    "wideresnet28": "wide_resnet28_10",
    "wrn34": "wide_resnet34_10",
    "wrn3410": "wide_resnet34_10",
    "wideresnet34": "wide_resnet34_10",
    "vgg": "timm:vgg16",
    "vgg16": "timm:vgg16",
    "vit": "timm:vit_tiny_patch16_224",
    "densenet": "timm:densenet121",
    "densenet121": "timm:densenet121",
}
