"""Architectures of timm and torchvision: their names, their tags, and the options that their constructors take."""

import pytest
import torch

from advcore.errors import ConfigError
from advcore.models import MODELS

pytest.importorskip("timm", reason="needs the package timm: install the extra hf")
NAMES = {"timm": "resnet10t", "torchvision": "resnet18"}


def build(library, architecture, shape=(3, 32, 32), num_classes=7, **settings):
    with torch.device("meta"):
        return MODELS[library](architecture=architecture, **settings).build(num_classes, shape)


def test_options_reach_the_constructor():
    slim = build("timm", "convnext_atto", options={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]})
    assert slim.num_features == 16 and [len(stage.blocks) for stage in slim.stages] == [1, 1, 1, 1]
    assert build("timm", "resnet10t", options={"drop_rate": 0.25}).drop_rate == 0.25
    assert build("torchvision", "mobilenet_v3_small", options={"dropout": 0.125}).classifier[2].p == 0.125


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    "architecture", ["resnet18", "vgg11", *slow("densenet121", "convnext_tiny", "vit_b_16", "googlenet")]
)
def test_torchvision_networks_take_as_many_channels_as_the_data_have(architecture):
    grey = build("torchvision", architecture, (1, 224, 224))
    colour = build("torchvision", architecture)
    shapes = {name: value.shape for name, value in colour.state_dict().items()}
    grey(torch.empty(2, 1, 224, 224, device="meta"))
    changed = {name: value.shape for name, value in grey.state_dict().items() if value.shape != shapes[name]}
    ((name, shape),) = changed.items()
    assert shape[1] == 1 and shapes[name] == (shape[0], 3, *shape[2:])


def test_a_tag_names_the_same_architecture():
    for library, tagged in (("timm", "resnet10t.c3_in1k"), ("torchvision", "resnet18.IMAGENET1K_V1")):
        plain = build(library, NAMES[library])
        assert build(library, tagged).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("library", "architecture", "options", "line"),
    [
        ("timm", "resnet10t", {"widht": 2}, "model.options must be options that resnet10t can be built with.*widht"),
        ("torchvision", "resnet18", {"widht": 2}, "model.options must be options that resnet18 .*widht"),
        ("timm", "convnext_atto", {"depths": [0.5, 1, 2, 1]}, "got {'depths': .*; linspace.. received an invalid"),
        ("timm", "vit_tiny_patch16_224", {"embed_dim": 1e301}, "got {'embed_dim': 1e.301}; "),
        ("torchvision", "vit_b_16", {"image_size": "large"}, "got {'image_size': 'large'}; "),
        ("timm", "resnet10t", {"pretrained": True}, "^options must be without pretrained, got .*; the data and"),
        (
            "timm",
            "resnet10t",
            {"in_chans": 1, "checkpoint_path": "x"},
            "^options must be without checkpoint_path, in_",
        ),
        ("torchvision", "resnet18", {"weights": "DEFAULT"}, "^options must be without weights"),
        ("timm", "resnet10t.a1", {}, r"a tag timm knows \(resnet10t.c3_in1k\), got 'resnet10t.a1'"),
        ("torchvision", "resnet18.V2", {}, r"weights torchvision knows \(IMAGENET1K_V1\), got 'resnet18.V2'"),
        ("torchvision", "resnet19", {}, "model.name must be torchvision:NAME.*did you mean 'resnet18'"),
        ("torchvision", "fcn_resnet50", {}, "model.name must be torchvision:NAME"),
    ],
)
def test_what_the_library_does_not_take_is_one_line(library, architecture, options, line):
    with pytest.raises(ConfigError, match=line) as caught:
        build(library, architecture, options=options)
    assert len(caught.value.lines) == 1
    assert "TypeError" not in str(caught.value)
