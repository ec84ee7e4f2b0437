"""Ten kinds of model that people train: each is selected with, trained for an epoch and evaluated, in the library."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.data.source import Resident
from advcore.objectives import Trades
from advcore.runtime.states import copy_state
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD

ATTACK = LinfPGD(eps=8 / 255, steps=2)
CLASSES = 4
ABSENT = 3
"""The class without examples."""


class Small(nn.Module):
    """A small network with BatchNorm, of a trunk and a head."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.head(self.trunk(x))


class HuggingFaceStyle(Small):
    """Returns an object that holds its logits, as the classifiers of transformers do."""

    def forward(self, pixel_values):
        return SimpleNamespace(loss=None, logits=super().forward(pixel_values), hidden_states=None)


class Masked(Small):
    """Gives a class that is not in the task a logit of -inf, from a persistent buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.zeros(CLASSES).index_fill(0, torch.tensor([ABSENT]), float("-inf")))

    def forward(self, x):
        return super().forward(x) + self.mask


def build_vit(folder):
    timm = pytest.importorskip("timm")
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **settings)


def build_convnext(folder):
    timm = pytest.importorskip("timm")
    return timm.create_model("convnext_atto", num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


def build_mobilenet(folder):
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.25)


def build_resnet_from_a_file(folder):
    torchvision = pytest.importorskip("torchvision")
    resnet = torchvision.models.ResNet
    block = torchvision.models.resnet.BasicBlock
    torch.save(resnet(block, [1, 1, 1, 1], num_classes=CLASSES).state_dict(), folder / "weights.pth")
    net = resnet(block, [1, 1, 1, 1], num_classes=CLASSES)
    net.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    return net


def build_compiled(folder):
    return torch.compile(Small(), backend="aot_eager")


def build_compiled_in_place(folder):
    net = Small()
    net.compile(backend="aot_eager")
    return net


def build_frozen_trunk(folder):
    net = Small()
    net.trunk.requires_grad_(False)
    net.trunk.eval()
    return net


def build_weight_normed(folder):
    net = Small()
    nn.utils.parametrizations.weight_norm(net.head)
    return net


def slow(name: str, build) -> object:
    return pytest.param(build, id=name, marks=pytest.mark.slow)


MODELS = [
    slow("timm ViT", build_vit),
    slow("timm ConvNeXt", build_convnext),
    slow("MobileNetV3", build_mobilenet),
    slow("torchvision ResNet", build_resnet_from_a_file),
    pytest.param(lambda folder: HuggingFaceStyle(), id="Hugging Face style"),
    slow("torch.compile", build_compiled),
    slow("compile in place", build_compiled_in_place),
    pytest.param(lambda folder: nn.DataParallel(Small()), id="DataParallel"),
    pytest.param(build_frozen_trunk, id="frozen trunk"),
    pytest.param(build_weight_normed, id="weight norm"),
    pytest.param(lambda folder: Masked(), id="masked class"),
]


@pytest.fixture
def examples() -> Resident:
    """12 images of 3 classes, of different brightness."""
    labels = torch.arange(12) % ABSENT
    return Resident(0.3 * torch.rand(12, 3, 32, 32) + 0.3 * labels[:, None, None, None], labels)


@pytest.mark.parametrize("build", MODELS)
def test_it_selects_trains_and_is_evaluated(build, examples, tmp_path):
    model = build(tmp_path)
    before = copy_state(model)
    coreset = AdversarialCoreset(objective=Trades(), solver=GradMatch(), attack=ATTACK).select(model, examples, seed=0)
    assert 0 < len(coreset) < 12 and torch.isfinite(coreset.weights).all()
    assert coreset.quality["gradient_error"] < 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    trainer = Trainer(
        objective=Trades(), attack=ATTACK, schedule=Schedule(epochs=1), optimizer=SGD(lr=0.05), batch_size=6
    )
    modes = [module.training for module in model.modules()]
    trained = trainer.fit(model, examples, examples, seed=0)
    assert modes == [module.training for module in model.modules()]
    assert 0 < trained.epochs[0]["loss"] < 10
    moved = {name for name, value in trained.last.items() if not torch.equal(value, before[name])}
    assert moved >= {name for name, parameter in model.named_parameters() if parameter.requires_grad and "head" in name}
    if build is build_frozen_trunk:
        assert not [name for name in moved if name.startswith("trunk.")]

    result = evaluate(model, examples, [ATTACK], checks=True)
    assert result.clean.n == 12 and result.worst.accuracy <= result.clean.accuracy
    assert not [flag for flag in result.flags if not flag.startswith("weak")]
