"""Adversarial weight perturbation: against a slow step worked by hand, its passes, and what it leaves as it was."""

import copy

import pytest
import torch
from kernels import by_plain_kernels
from torch import nn

from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.errors import ConfigError
from advcore.minibatch import Margin
from advcore.objectives import Mart, Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.training import SGD
from advcore.training.plan import count_planned_units
from advcore.training.step import Learner, step
from advcore.training.weight_attack import AWP, move_weights

ATTACK = LinfPGD(eps=0.1, steps=1)
X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 4
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 0.5])


def build_trainer(objective=None, **settings):
    settings = {"optimizer": SGD(lr=0.05), "batch_size": 32, "probe_examples": 16, **settings}
    attack = None if isinstance(objective, Standard) else ATTACK
    return Trainer(objective=objective or Pgd(), attack=attack, schedule=Schedule(epochs=3), **settings)


def take_step(model, objective, awp):
    ledger = CostLedger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model=model, objective=objective, attack=ATTACK, optimizer=optimizer, ledger=ledger, awp=awp)
    step(learner, X, Y, WEIGHTS, generator=Stream(seed=0, purpose="attack").at(torch.arange(6)))
    return ledger


@by_plain_kernels
@pytest.mark.parametrize("objective", [Pgd(), Trades(beta=2.0), Mart()], ids=lambda objective: type(objective).__name__)
def test_a_step_is_the_papers(model, objective):
    """The slow one: move each matrix and kernel, take the gradient there, and step from where the weights were."""
    quick, slow, plain = (copy.deepcopy(model) for _ in range(3))
    take_step(quick, objective, AWP(gamma=0.02))
    attacked = {}
    hook = slow.register_forward_pre_hook(lambda module, args: attacked.update(x=args[0].detach()))
    take_step(slow, objective, None)  # for the attacked images, which the last pass of the update sees
    hook.remove()
    x_adv = attacked["x"]
    slow = copy.deepcopy(model).train()

    def loss(network):
        images = {"clean": X, "adversarial": x_adv}
        logits = {name: network(images[name]) for name in objective.passes}
        return (WEIGHTS * objective.loss(Y, **logits)).mean()

    before = {name: value.detach().clone() for name, value in slow.named_parameters()}
    scratch = copy.deepcopy(slow)
    gradients = dict(zip(before, torch.autograd.grad(loss(scratch), list(scratch.parameters())), strict=True))
    with torch.no_grad():
        for name, value in slow.named_parameters():
            if value.ndim > 1:
                value.add_(0.02 * value.norm() * gradients[name] / gradients[name].norm())
    there = dict(zip(before, torch.autograd.grad(loss(slow), list(slow.parameters())), strict=True))
    for name, value in quick.named_parameters():
        assert torch.allclose(value, before[name] - 0.1 * there[name], atol=1e-6), name
    assert all(torch.allclose(a, b) for a, b in zip(quick.buffers(), slow.buffers(), strict=True))
    take_step(plain, objective, None)
    assert not torch.equal(quick[0].weight, plain[0].weight)


@pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda objective: type(objective).__name__)
@pytest.mark.parametrize("warm_up", [0, 2])
def test_the_ledger_is_the_plan_and_one_pair_more_for_each_pass(model, source, objective, warm_up):
    made, plain = build_trainer(objective, awp=AWP(warm_up=warm_up)), build_trainer(objective)
    ledger = made.fit(model, source, seed=0).ledger
    assert ledger.sum_units() == count_planned_units(made, len(source))
    more = count_planned_units(made, len(source)) - count_planned_units(plain, len(source))
    assert more == (3 - warm_up) * len(source) * 2 * len(objective.passes)


def test_weights_come_back_bit_for_bit_also_when_the_step_fails(model):
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(KeyError), move_weights(model.train(), 0.1, lambda: model(X).square().sum()):
        assert not torch.equal(model[0].weight, before["0.weight"]) and torch.equal(model[0].bias, before["0.bias"])
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_what_has_no_gradient_stays_and_a_gradient_of_zero_moves_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 4))
    model[2].requires_grad_(False)
    before = [value.clone() for value in model.parameters()]
    with move_weights(model, 0.5, lambda: 0 * model(X).sum()):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_a_mask_of_infinities_does_not_turn_to_nan():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0, 4.0], [0.0, -torch.inf]])
    with move_weights(layer, 0.1, lambda: layer.weight[0, 0] * 2):
        assert torch.equal(layer.weight, torch.tensor([[3.5, 4.0], [0.0, -torch.inf]]))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"gamma": 0.0}, r"gamma must be a number in \(0, 1\]"),
        ({"gamma": float("nan")}, r"gamma must be a number in \(0, 1\]"),
        ({"warm_up": -1}, "warm_up must be a whole number of at least 0"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, line):
    with pytest.raises(ConfigError, match=line):
        AWP(**settings)


def test_a_minibatch_rule_beside_it_is_refused():
    with pytest.raises(ConfigError, match=r"minibatch must be null with training.awp") as caught:
        build_trainer(awp=AWP(), minibatch=Margin(rho=0.5, warm_up=0))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(("path", "value"), [("awp.warm_up", AWP(warm_up=4)), ("head_epochs", 4)])
def test_what_would_wait_for_longer_than_the_run_is_refused(path, value):
    with pytest.raises(ConfigError, match=rf"^{path} must be at most the 3 epochs that run, got 4$"):
        build_trainer(**{path.partition(".")[0]: value})
    build_trainer(awp=AWP(warm_up=3), head_epochs=3)
