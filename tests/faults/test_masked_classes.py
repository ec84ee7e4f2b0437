"""Classes that the model masks by logits of -inf, and that no label names: all goes as in the model without them."""

import copy

import pytest
import torch
from examples import build_example
from torch import nn

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import ATTACKS, LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError, NonFiniteError
from advcore.evaluation.autoattack import AutoAttack, is_installed, replace_infinite
from advcore.evaluation.checks import _differ, _measure_size
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.objectives import OBJECTIVES, Pgd, Standard
from advcore.objectives.trades import measure_divergence
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig
from advcore.training import SGD, Adam
from advcore.training.optimizers import AdamW

ATTACK = LinfPGD(eps=0.1, steps=2)
INFINITE = float("inf")
KEPT = [0, 2, 3]
"""The classes of 0 to 3 that are not masked."""
MASK = torch.tensor([False, True, False, False])


class Masked(nn.Module):
    """Masks class 1 of 4, in one of the ways of the field."""

    def __init__(self, net, way):
        super().__init__()
        self.net = copy.deepcopy(net)
        self.way = way
        if way == "bias":
            with torch.no_grad():
                self.net[5].bias[MASK] = -INFINITE
        self.register_buffer("mask", torch.zeros(4).masked_fill(MASK, -INFINITE))

    def forward(self, x):
        logits = self.net(x)
        if self.way == "add":
            return logits + self.mask
        if self.way == "fill":
            return logits.masked_fill(MASK, -INFINITE)
        if self.way == "where":
            return torch.where(MASK, self.mask, logits)
        return logits


class Sliced(nn.Module):
    """The slow twin: the model of the classes that are left."""

    def __init__(self, net):
        super().__init__()
        self.net = nn.Sequential(*copy.deepcopy(net)[:5], nn.Linear(24, 3))
        with torch.no_grad():
            self.net[5].weight.copy_(net[5].weight[KEPT])
            self.net[5].bias.copy_(net[5].bias[KEPT])

    def forward(self, x):
        return self.net(x)


WAYS = ["add", "fill", "where", "bias"]
each_way = pytest.mark.parametrize("way", ["add", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])])
QUICK = ("linf_pgd", "fast_lpa")
each_objective = pytest.mark.parametrize("objective", [build_example(kind) for kind in OBJECTIVES.values()])


@pytest.fixture
def sources(source):
    """The images of three classes, with their labels among four classes, and among three."""
    labels = source.labels() % 3
    images = source._images
    return Resident(images, torch.tensor(KEPT)[labels]), Resident(images, labels)


def assert_near(values, expected) -> None:
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def fit(model, source, **changes):
    settings = {"objective": Pgd(), "attack": ATTACK, "schedule": Schedule(epochs=1), "batch_size": 48}
    optimizer = SGD(lr=0.02, weight_decay=0)
    return Trainer(**settings | {"optimizer": optimizer} | changes).fit(model, source, source, seed=0)


@each_way
@each_objective
def test_training_takes_the_steps_of_the_model_without_the_class(model, sources, way, objective):
    masked, sliced = Masked(model, way), Sliced(model)
    fit(masked, sources[0], objective=objective, ema=0.5)
    fit(sliced, sources[1], objective=objective, ema=0.5)
    assert_near(masked.net[0].weight, sliced.net[0].weight)
    assert_near(masked.net[5].weight[KEPT], sliced.net[5].weight)
    assert torch.isfinite(masked.net[5].weight).all()


@each_way
def test_the_average_of_a_masked_model_is_masked(model, sources, way):
    masked, sliced = Masked(model, way), Sliced(model)
    trained = fit(masked, sources[0], ema=0.5)
    twin = fit(sliced, sources[1], ema=0.5)
    assert trained.epochs[0]["robust"] == twin.epochs[0]["robust"]
    assert_near(trained.last["net.0.weight"], twin.last["net.0.weight"])
    assert torch.equal(trained.last["mask"], masked.mask)


@each_way
@each_objective
def test_a_selection_is_that_of_the_model_without_the_class(model, sources, way, objective):
    selector = AdversarialCoreset(objective=objective, solver=Craig(), attack=ATTACK, budget=0.3)
    chosen = selector.select(Masked(model, way), sources[0], seed=0)
    expected = selector.select(Sliced(model), sources[1], seed=0)
    assert torch.equal(chosen.indices, expected.indices)
    assert_near(chosen.weights, expected.weights)


@pytest.mark.parametrize("name", GRADIENTS)
def test_rows_and_scores_are_those_of_the_model_without_the_class(model, sources, name):
    norms = []
    for net, data in zip([Masked(model, "add"), Sliced(model)], sources, strict=True):
        stream = Stream(seed=0, purpose="masked")
        settings = MeasurementSettings(objective=Pgd(), attack=ATTACK, stream=stream, ledger=CostLedger())
        norms.append(GRADIENTS[name].measure(net, data, settings).rows.dense().flatten(1).double().norm(dim=1))
    assert_near(*norms)


@pytest.mark.parametrize("way", WAYS[:1])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in ATTACKS]
)
def test_robust_accuracy_is_that_of_the_model_without_the_class(model, sources, way, name):
    attack = build_example(ATTACKS[name])
    if attack.training_only:
        pytest.skip("not for evaluation")
    result = evaluate(Masked(model, way), sources[0], [attack], checks=True)
    expected = evaluate(Sliced(model), sources[1], [attack], checks=True)
    assert result.clean == expected.clean and result.worst == expected.worst
    assert result.flags == expected.flags


@pytest.mark.skipif(not is_installed(), reason="needs a package of AutoAttack")
@pytest.mark.slow
@pytest.mark.parametrize("version", ["apgd-ce", "apgd-dlr"])
def test_autoattack_is_that_of_the_model_without_the_class(model, sources, version):
    indices = torch.arange(0, 96, 12)
    attack = AutoAttack(eps=0.3, version=version)
    result = evaluate(Masked(model, "add"), sources[0], [attack], indices=indices)
    expected = evaluate(Sliced(model), sources[1], [attack], indices=indices)
    assert result.worst == expected.worst and result.worst.accuracy < result.clean.accuracy


def test_logits_for_autoattack_keep_their_order_and_their_gradient():
    logits = torch.tensor([[1.0, -INFINITE, 3.0], [-INFINITE, 2.0, -1.0]], requires_grad=True)
    finite = replace_infinite(logits)
    assert torch.equal(finite, torch.tensor([[1.0, 0.0, 3.0], [-2.0, 2.0, -1.0]]))
    (gradient,) = torch.autograd.grad(finite.sum(), logits)
    assert torch.equal(gradient, (~logits.isneginf()).float())
    plain = torch.rand(2, 3)
    assert replace_infinite(plain) is plain


def test_the_divergence_leaves_a_masked_class_out_in_value_and_gradient():
    clean, attacked = torch.randn(2, 5, 4).double().requires_grad_().unbind()
    mask = torch.zeros(4).masked_fill(MASK, -INFINITE).double()
    masked = measure_divergence(clean + mask, attacked + mask)
    expected = measure_divergence(clean[:, KEPT], attacked[:, KEPT])
    torch.testing.assert_close(masked, expected)
    for logits in (clean, attacked):
        gradients = [torch.autograd.grad(values.sum(), logits, retain_graph=True)[0] for values in (masked, expected)]
        torch.testing.assert_close(*gradients)


def test_a_mask_that_comes_and_goes_is_a_difference_and_a_steady_one_is_none():
    logits = torch.randn(4, 3)
    masked = logits.masked_fill(torch.tensor([False, True, False]), -INFINITE)
    size = _measure_size(masked)
    assert 0 < size < 100
    assert not _differ(masked, masked, size)
    assert _differ(logits, masked, size) and _differ(masked, logits, size) and _differ(masked + 1, masked, size)


@each_way
def test_a_label_of_the_masked_class_is_wrong_and_stops_training(model, sources, way):
    labels = sources[0].labels().clone()
    labels[:10] = 1
    spoiled = Resident(sources[0]._images, labels)
    clean = evaluate(Masked(model, way), sources[0]).clean.accuracy
    result = evaluate(Masked(model, way), spoiled, [ATTACK])
    assert result.clean.accuracy <= clean and not result.verdicts["clean"][:10].any()
    with pytest.raises(NonFiniteError, match="loss inf"):
        fit(Masked(model, way), spoiled, objective=Standard(), attack=None)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.02), Adam(weight_decay=1e-4)], ids=["SGD", "Adam"])
def test_a_penalty_on_a_mask_among_the_weights_is_refused_before_it_makes_nan(model, sources, optimizer):
    rule = "optimizer.weight_decay must be 0 for a model with infinity in a parameter"
    way_out = "it would turn net.5.bias to NaN; or hold the mask in a buffer"
    with pytest.raises(ConfigError, match=f"^{rule}, got .*; {way_out}$"):
        fit(Masked(model, "bias"), sources[0], optimizer=optimizer)
    frozen = Masked(model, "bias")
    frozen.net[5].requires_grad_(False)
    fit(frozen, sources[0], optimizer=optimizer)


def test_a_decay_beside_the_gradient_leaves_a_mask_as_it_is(model, sources):
    masked = Masked(model, "bias")
    fit(masked, sources[0], optimizer=AdamW(lr=1e-3))
    assert torch.equal(masked.net[5].bias.isinf(), MASK)


@pytest.mark.parametrize("bad", [float("nan"), INFINITE])
def test_logits_that_are_nan_or_infinite_otherwise_are_an_error_still(model, source, bad):
    with torch.no_grad():
        model[5].bias[0] = bad
    with pytest.raises(NonFiniteError, match="logits are NaN or infinite"):
        evaluate(model, source, [ATTACK])


def test_logits_that_mask_every_class_are_an_error(model, source):
    with torch.no_grad():
        model[5].bias.fill_(-INFINITE)
    with pytest.raises(NonFiniteError, match="logits are NaN or infinite"):
        evaluate(model, source, [ATTACK])
