"""What a model may return: logits, or an object that names them; anything else is refused in one line."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.data.source import Resident
from advcore.errors import ConfigError, DataError
from advcore.objectives import Pgd
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD

ATTACK = LinfPGD(eps=0.1, steps=2)
SELECTOR = AdversarialCoreset(objective=Pgd(), solver=GradMatch(), attack=ATTACK, budget=0.5)
TRAINER = Trainer(
    objective=Pgd(),
    attack=ATTACK,
    schedule=Schedule(epochs=2, budget=0.5, warm_start=0.5, period=1),
    selector=SELECTOR,
    optimizer=SGD(lr=0.05),
    batch_size=8,
)

Named = namedtuple("GoogLeNetOutputs", ["logits", "aux_logits2", "aux_logits1"])


@dataclass
class Output:
    loss: object
    logits: torch.Tensor


class Net(nn.Module):
    """A small network whose logits are handed over as `wrap` says."""

    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(64, 6)
        self.fc = nn.Linear(6, 4)
        self.wrap = wrap

    def forward(self, x):
        z = self.fc(self.trunk(x.flatten(1)).relu())
        return self.wrap(z, self.training)


def make_source():
    generator = torch.Generator().manual_seed(0)
    return Resident(torch.rand(16, 1, 8, 8, generator=generator), torch.arange(16) % 4)


def return_logits(z, training):
    return z


def return_named_in_training(z, training):
    return Named(z, z, z) if training else z


def return_mapping(z, training):
    return {"logits": z, "hidden": z}


def return_dataclass(z, training):
    return Output(None, z)


def return_object(z, training):
    return SimpleNamespace(logits=z)


def return_mapping_in_eval(z, training):
    return z if training else {"logits": z}


NAMED = "the model returns GoogLeNetOutputs: its logits are used, and not aux_logits2, aux_logits1"
ACCEPTED = {
    return_named_in_training: NAMED,
    return_mapping: "the model returns dict: its logits are used, and not hidden",
    return_dataclass: "the model returns Output: its logits are used, and not loss",
    return_object: "the model returns SimpleNamespace: its logits are used",
    return_mapping_in_eval: "the model returns dict: its logits are used",
}


@pytest.fixture(scope="module")
def expected():
    """What the network gives that returns its logits."""
    return run(return_logits)


def run(wrap):
    """Return a coreset, the weights after training, an accuracy, and the events about the model."""
    net = Net(wrap)
    coreset = SELECTOR.select(net, make_source(), seed=0)
    trained = TRAINER.fit(net, make_source(), seed=0)
    weights = torch.cat([weight.flatten() for weight in net.state_dict().values()])
    robust = evaluate(net, make_source(), [ATTACK]).worst.accuracy
    return coreset, weights, robust, [event["event"] for event in trained.events if event["kind"] == "model"]


@pytest.mark.parametrize("wrap", ACCEPTED, ids=lambda wrap: wrap.__name__)
def test_named_logits_are_used_bit_for_bit_and_the_run_says_so(wrap, expected):
    coreset, weights, robust, events = run(wrap)
    assert torch.equal(coreset.indices, expected[0].indices) and torch.equal(coreset.weights, expected[0].weights)
    assert torch.equal(weights, expected[1]) and robust == expected[2]
    assert events == [ACCEPTED[wrap]] and expected[3] == []


REFUSED = {
    "a pair": (lambda z: (z, z), "got 'tuple of Tensor, Tensor'"),
    "a list": (lambda z: [z], "got 'list of Tensor'"),
    "none": (lambda z: None, "got 'NoneType'"),
    "no logits in a mapping": (lambda z: {"out": z}, "got 'dict'"),
    "one number": (lambda z: z.mean(), "got ()"),
    "a map": (lambda z: z[:, :, None, None], "got (2, 4, 1, 1)"),
    "one row too many": (lambda z: torch.cat([z, z[:1]]), "got (3, 4)"),
    "whole numbers": (lambda z: z.argmax(1, keepdim=True), "in floating point, got 'torch.int64'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_outputs_are_refused_before_any_work(name):
    change, got = REFUSED[name]
    net = Net(lambda z, training: change(z))
    before = [weight.clone() for weight in net.state_dict().values()]
    for call in (SELECTOR.select, TRAINER.fit):
        with pytest.raises(ConfigError, match="^the model's output must be logits") as caught:
            call(net, make_source(), seed=0)
        assert got in str(caught.value) and "\n" not in str(caught.value)
    assert all(map(torch.equal, before, net.state_dict().values()))
    with pytest.raises(ConfigError, match="^the model's output must be logits"):
        evaluate(net, make_source(), [ATTACK])


def test_images_that_the_model_does_not_take_are_told_in_a_selection_too():
    wide = Resident(torch.rand(16, 1, 9, 9), torch.arange(16) % 4)
    for call in (SELECTOR.select, TRAINER.fit):
        with pytest.raises(DataError, match="^images must suit the model, got .1, 9, 9."):
            call(Net(return_logits), wide, seed=0)


class NeedsLabels(nn.Module):
    def forward(self, x, y):
        return x


class NeedsKeyword(nn.Module):
    def forward(self, *, x):
        return x


@pytest.mark.parametrize("kind", [NeedsLabels, NeedsKeyword])
def test_a_model_that_cannot_be_called_with_images_alone_is_not_about_the_images(kind):
    source = Resident(torch.rand(4, 1, 8, 8), torch.arange(4))
    with pytest.raises(DataError, match="; wrap it in a module that takes only images, as a positional argument$"):
        evaluate(kind(), source, [LinfPGD(eps=0.1)])
