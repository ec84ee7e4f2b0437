import copy

import pytest
import torch

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.errors import NonFiniteError
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.training.step import Learner, reduce_losses, step

X = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 4
W = torch.linspace(0.2, 1.8, 12)
STREAM = Stream(seed=0, purpose="attack").at(torch.arange(12))


def take(model, *, objective, attack=None, weights=W, ledger=None, lr=0.1, **settings):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    where = settings.pop("where", lambda: "")
    ledger = ledger or CostLedger()
    one = Learner(model=model, objective=objective, attack=attack, optimizer=optimizer, ledger=ledger, **settings)
    return step(one, X, Y, weights, generator=STREAM, where=where)


def test_the_weighted_step_is_one_sgd_step_on_the_hand_made_loss(model):
    slow = copy.deepcopy(model).train()
    losses = [torch.nn.functional.cross_entropy(z[None], y[None]) for z, y in zip(slow(X), Y, strict=True)]
    loss = sum(w * one for w, one in zip(W, losses, strict=True)) / 12
    loss.backward()
    found = take(model, objective=Standard())
    assert float(found) == pytest.approx(loss.item(), rel=1e-5)
    for fast, reference in zip(model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(fast, reference - 0.1 * reference.grad)


def test_the_three_forms_of_the_weighted_loss():
    losses = torch.tensor([1.0, 2.0, 4.0])
    weights = torch.tensor([0.5, 1.0, 3.0])
    assert float(reduce_losses(losses, weights, "coreset")) == pytest.approx(14.5 / 3)
    assert float(reduce_losses(losses, weights, "none")) == pytest.approx(14.5 / 3)
    assert float(reduce_losses(losses, weights, "batch")) == pytest.approx(14.5 / 4.5)


@pytest.mark.parametrize(("objective", "units"), [(Standard(), 2), (Pgd(), 2 * 3 + 2), (Trades(), 2 * 3 + 1 + 4)])
def test_the_ledger_counts_every_pass(model, objective, units):
    ledger = CostLedger()
    take(model, objective=objective, attack=LinfPGD(eps=0.1, steps=3), ledger=ledger)
    assert ledger.sum_units() == 12 * units
    assert ledger.passes["update"]["forward"] == ledger.passes["update"]["backward"] == 12 * len(objective.passes)


def test_attacking_in_either_mode_leaves_the_batchnorm_statistics_to_the_update(model):
    counts = {}
    for mode in ("eval", "train"):
        net = copy.deepcopy(model)
        take(net, objective=Pgd(), attack=LinfPGD(eps=0.1, steps=3), attack_mode=mode)
        counts[mode] = int(net[1].num_batches_tracked)
    assert counts == {"eval": 1, "train": 1}


@pytest.mark.case("C3")
def test_a_loss_that_is_not_finite_changes_nothing_and_says_where(model):
    before = {
        name: value.clone() for name, value in model.state_dict().items() if "running" not in name and "num" not in name
    }
    with pytest.raises(NonFiniteError, match="epoch 7"):
        take(model, objective=Standard(), weights=torch.full((12,), float("nan")), where=lambda: "epoch 7")
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name])


def test_clipping_bounds_the_update(model):
    before = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
    take(model, objective=Standard(), clip_norm=1e-3, lr=1.0)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_values_are_clipped_one_by_one(model):
    slow = copy.deepcopy(model)
    take(slow, objective=Standard(), lr=1.0)
    moved = {name: p - q for (name, p), q in zip(model.named_parameters(), slow.parameters(), strict=True)}
    take(model := copy.deepcopy(model), objective=Standard(), lr=1.0, clip_value=0.01)
    for name, p in model.named_parameters():
        start = dict(slow.named_parameters())[name] + moved[name]
        torch.testing.assert_close(start - p, moved[name].clamp(-0.01, 0.01), atol=1e-6, rtol=0)
    assert max(float(m.abs().max()) for m in moved.values()) > 0.01
