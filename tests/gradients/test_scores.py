"""Scores against autograd and plain loops, one example at a time; and what they come to over epochs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.gradients import GRADIENTS
from advcore.gradients.base import AveragedScores, Forgetting, MeasurementSettings
from advcore.gradients.input_norm import INPUT_NORMS
from advcore.gradients.scores import SCORES
from advcore.objectives import Pgd, Trades
from advcore.rng import Stream

ATTACK = LinfPGD(eps=0.1, steps=3)
N = 96


def measure(name, model, source, *, objective=None, ledger=None, chunk_size=32):
    found = GRADIENTS[name].measure(
        model,
        source,
        MeasurementSettings(
            objective=objective or Pgd(),
            attack=ATTACK,
            stream=Stream(seed=0, purpose="scoring"),
            ledger=ledger or CostLedger(),
            chunk_size=chunk_size,
        ),
    )
    return found.rows.dense()[:, 0], found.labels


def one_by_one(name, model, source, x):
    """The clean score's value, each example in a batch of its own, gradients by autograd."""
    model, found = copy.deepcopy(model).eval(), []
    head = model[-1]
    hidden = model[:-1]
    labels = source.labels()
    centres = [hidden(x[labels == c]).detach().double().mean(0) for c in range(4)]
    for image, y in zip(x, labels, strict=True):
        z = model(image[None])
        if name == "el2n":
            value = (z.softmax(1)[0] - F.one_hot(y, 4)).norm()
        elif name == "grand":
            gradients = torch.autograd.grad(F.cross_entropy(z, y[None]), [head.weight, head.bias])
            value = torch.cat([g.flatten() for g in gradients]).norm()
        elif name == "margin":
            value = max(z[0, k] for k in range(4) if k != y) - z[0, y]
        elif name == "forgetting":
            value = (z.argmax(1)[0] == y).float()
        elif name == "instability":
            value = (z.argmax(1)[0] != y).float()
        elif name == "input_norm":
            image = image.clone().requires_grad_(True)
            value = torch.autograd.grad(F.cross_entropy(model(image[None]), y[None]), image)[0].norm()
        else:
            value = (hidden(image[None])[0].double() - centres[int(y)]).norm()
        found.append(float(value.detach()))
    return torch.tensor(found, dtype=torch.float64)


BOTH = SCORES | INPUT_NORMS
NAMES = [name for name in BOTH if not name.startswith("adversarial_")]


@pytest.fixture(scope="module")
def slow_scores() -> dict:
    """Clean scores of one example at a time, by name: chunks of every size are compared with them."""
    return {}


@pytest.mark.case("F6")
@pytest.mark.parametrize("chunk_size", [1, 16, 256])
@pytest.mark.parametrize("name", NAMES)
def test_clean_scores_are_those_of_one_example_at_a_time(model, source, name, chunk_size, slow_scores):
    _, x, _ = next(source.batches([torch.arange(N)]))
    found, labels = measure(name, model, source, chunk_size=chunk_size)
    if name not in slow_scores:
        slow_scores[name] = one_by_one(name, model, source, x)
    assert torch.allclose(found, slow_scores[name], atol=1e-5)
    assert torch.equal(labels, source.labels())


@pytest.mark.case("F6")
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", NAMES)
def test_adversarial_scores_are_the_clean_ones_of_the_attacked_images(model, source, name, objective):
    from advcore.adversary import perturb
    from advcore.runtime.borrow import borrow

    _, x, y = next(source.batches([torch.arange(N)]))
    with borrow(model):
        generator = Stream(seed=0, purpose="scoring").at(torch.arange(N))
        x_adv = perturb(model, objective, ATTACK, x, y, generator=generator)
    found, _ = measure(f"adversarial_{name}", model, source, objective=objective)
    assert torch.allclose(found, one_by_one(name, model, source, x_adv), atol=1e-4)


@pytest.mark.case("E2")
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", BOTH)
@by_plain_kernels
def test_the_ledger_is_what_was_foretold_and_the_model_comes_back(model, source, name, objective):
    ledger, before = CostLedger(), copy.deepcopy(model.state_dict())
    model.train()
    measure(name, model, source, objective=objective, ledger=ledger)
    assert ledger.sum_units() == N * GRADIENTS[name].plan(objective, ATTACK).units
    assert ledger.sum_units() == sum(ledger.passes["scoring"].values())
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", GRADIENTS)
def test_every_kind_says_what_it_is(name):
    gradient = GRADIENTS[name]
    assert gradient.about and gradient.is_attacked == name.startswith("adversarial_")
    assert gradient.is_scalar == (name not in ("last_layer", "divergence", "features"))


# ---- over epochs ----


def test_forgetting_counts_falls_from_right_to_wrong_and_the_never_learned_most():
    """Rows: always right, learned late, forgotten twice, never right, right at first only."""
    epochs = torch.tensor([[1, 0, 1, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).double()
    scores = Forgetting()
    for right in epochs:
        scores.add(right)
    assert scores.rows.dense()[:, 0].tolist() == [0, 0, 2, 4, 1] and scores.epochs == 4


def test_averages_are_over_epochs():
    scores = AveragedScores()
    for values in ([1.0, 0.0], [0.0, 0.0], [1.0, 3.0]):
        scores.add(torch.tensor(values).double())
    assert scores.rows.dense()[:, 0].tolist() == pytest.approx([2 / 3, 1])
