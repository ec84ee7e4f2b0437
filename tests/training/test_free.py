"""Free AT: replays, carried perturbations, cost, resume, and what it cannot serve."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels

from advcore.attacks import L1PGD, L2PGD, NFGSM, LinfPGD
from advcore.data import DATASETS
from advcore.data.contract import cut_into_chunks
from advcore.errors import ConfigError
from advcore.minibatch.free import Free
from advcore.models import MODELS
from advcore.objectives import Pgd, Trades
from advcore.rng import Stream
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD, Constant, Linear
from advcore.training.loop_settings import refuse_processes
from advcore.training.lr import Cyclic, OneCycle
from advcore.training.plan import count_planned_units, plan_work
from advcore.training.prices import find_prices
from advcore.training.trainer import Trainer
from advcore.work import Work

N, SIZE, M = 96, 40, 3
ATTACK = LinfPGD(eps=0.1, steps=4)


@pytest.fixture(scope="module")
def digits():
    return DATASETS["digits"]().load(torch.device("cpu"))


def trainer(rule=None, *, attack=ATTACK, objective=None, epochs=1, budget=1.0, **settings):
    objective = objective or Pgd()
    schedule = Schedule(epochs=epochs, budget=budget, warm_start=0.4)
    selector = None
    if budget < 1:
        selector = AdversarialCoreset(objective=objective, solver=GradMatch(), attack=attack, budget=budget)
    settings = {"optimizer": SGD(lr=0.05), "lr_schedule": Constant(), "batch_size": SIZE, **settings}
    rule = rule or Free(replays=M)
    return Trainer(objective=objective, attack=attack, minibatch=rule, schedule=schedule, selector=selector, **settings)


def move(attack, delta, gradient, x):
    """A step of eps along the gradient, back into the ball, and into the image box, as the published codes write it."""
    if attack.norm == "linf":
        delta = (delta + attack.eps * gradient.sign()).clamp(-attack.eps, attack.eps)
    else:
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = delta + attack.eps * gradient / length
        norm = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = delta * (attack.eps / norm).clamp_max(1)
    return (x + delta).clamp(0, 1) - x


@pytest.mark.parametrize("attack", [ATTACK, L2PGD(eps=0.5, steps=4)], ids=["linf", "l2"])
def test_an_epoch_is_algorithm_1_in_plain_torch(model, source, attack):
    """Batches of 40, 40 and 16, each three times: SGD on the images with delta, which goes on to the next batch."""
    made = trainer(attack=attack, optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=5e-4), lr_schedule=Cyclic(peak=0.3))
    fast = made.fit(copy.deepcopy(model), source, seed=1)
    slow = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(slow.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    order = Stream(seed=1, purpose="order").at(torch.arange(N)).permutation()
    delta = torch.zeros(SIZE, 1, 8, 8)
    losses = []
    batches = cut_into_chunks(order, SIZE)
    for i, indices in enumerate(batches):
        _, x, y = next(source.batches([indices]))
        for replay in range(M):
            optimizer.param_groups[0]["lr"] = 0.05 * Cyclic(peak=0.3).factor((i + replay / M) / len(batches), 0)
            images = (x + delta[: len(x)]).clamp(0, 1).requires_grad_(True)
            loss = F.cross_entropy(slow(images), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            inside = (x + delta[: len(x)]).clamp(0, 1) - x
            delta = torch.cat([move(attack, inside, images.grad, x), delta[len(x) :]])
            losses.append((len(x), loss.item()))
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(fast.last[name], value, rtol=1e-4, atol=1e-5)
    mean = sum(n * loss for n, loss in losses) / (M * N)
    assert fast.epochs[0]["loss"] == pytest.approx(mean, rel=1e-4)
    assert fast.epochs[0]["minibatch"]["updates"] == M * len(batches)
    assert 0 < fast.epochs[0]["minibatch"]["distance"] <= attack.eps + 1e-6


@pytest.mark.parametrize("replays", [1, 4])
@by_plain_kernels
def test_an_epoch_costs_2_passes_per_example_and_replay(model, source, replays):
    made = trainer(Free(replays=replays), epochs=2)
    ledger = made.fit(model, source, seed=0).ledger
    assert ledger.passes["update"] == {"forward": 2 * N * replays, "backward": 2 * N * replays}
    assert ledger.passes["attack"] == {"forward": 0, "backward": 0}
    assert ledger.sum_units() == count_planned_units(made, N) == 2 * 2 * N * replays
    assert plan_work(made, N) == Work(forward=2 * N * replays, to_both=2 * N * replays)


@by_plain_kernels
def test_on_a_coreset_with_average_clipping_and_ramp_the_ledger_is_the_plan(model, source):
    made = trainer(epochs=4, budget=0.5, ema=0.9, clip_norm=1.0, eps_ramp_share=0.5)
    trained = made.fit(model, source, source, seed=0)
    work = plan_work(made, N)
    assert trained.ledger.sum_units() == work.units
    assert trained.ledger.sum_flops() == find_prices(made, model, source).price(work)
    assert {entry["action"] for entry in trained.epochs} == {"select", "reuse"}


@by_plain_kernels
def test_images_climb_their_own_loss_whatever_the_sign_of_their_weight(model, source):
    """Two runs of one update each, on weights 1 and -1: the images end in the same place."""
    from advcore.cost import CostLedger
    from advcore.training.free import FreeStepper
    from advcore.training.step import Batch, Learner

    carried = []
    for sign in (1.0, -1.0):
        net = copy.deepcopy(model)
        _, x, y = next(source.batches([torch.arange(SIZE)]))
        stream = Stream(seed=0, purpose="attack").at(torch.arange(SIZE))
        batch = Batch(
            indices=torch.arange(SIZE), x=x, y=y, weights=torch.full((SIZE,), sign), attack_stream=stream,
            rule_stream=stream, where=lambda: "here", images=SIZE,
        )  # fmt: skip
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        stepper = FreeStepper(Free(replays=1), x.device)
        stepper.step(
            Learner(model=net, objective=Pgd(), attack=ATTACK, optimizer=optimizer, ledger=CostLedger()), batch
        )
        carried.append(stepper.carried)
    assert torch.equal(*carried) and float(carried[0].abs().max()) > 0.09


@pytest.mark.parametrize("steps", [1, 10])
@by_plain_kernels
def test_epochs_are_judged_by_an_attack_of_many_steps(source, model, steps):
    made = trainer(attack=LinfPGD(eps=0.1, steps=steps, step_size=0.1))
    trained = made.fit(copy.deepcopy(model), source, source, seed=0)
    assert trained.epochs[0]["probe"]["steps"] == 10
    unseen = made.fit(copy.deepcopy(model), source, seed=0)
    assert [event["kind"] for event in unseen.events] == ["validation"]


@by_plain_kernels
@pytest.mark.slow
def test_it_learns_digits_and_every_epoch_is_probed(digits):
    """Accuracies of 144 held-out images, of which a guess has 0.1 right."""
    model = MODELS["small_cnn"](width=8).build(10, digits.train.shape)
    made = trainer(attack=LinfPGD(eps=0.1, steps=5), epochs=4, batch_size=64, lr_schedule=OneCycle())
    trained = made.fit(model, digits.train, digits.validation, seed=0)
    assert [entry["probe"]["n"] for entry in trained.epochs] == [144] * 4
    assert trained.epochs[-1]["clean"] > 0.8 and trained.epochs[-1]["robust"] > 0.4
    assert not trained.events


def test_what_it_cannot_serve_is_refused_in_one_line(source):
    for settings, line in [
        ({"attack": L1PGD(eps=3.0)}, "attack must be linf_pgd or l2_pgd with minibatch: free, got 'l1_pgd'"),
        ({"attack": NFGSM(eps=0.1)}, "attack must be linf_pgd or l2_pgd with minibatch: free, got 'n_fgsm'"),
        ({"attack": LinfPGD(eps=0.1, start="remembered")}, "attack.start must be other than remembered with"),
        ({"attack_steps": Linear(first=1, last=2)}, "training.attack_steps must be null with minibatch: free"),
        ({"head_epochs": 1}, "training.head_epochs must be 0 with minibatch: free"),
        ({"objective": Trades()}, "objective must be one with a loss of a single image"),
    ]:
        with pytest.raises(ConfigError, match=line) as caught:
            trainer(**settings)
        assert len(caught.value.lines) == 1


def test_several_processes_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("advcore.distributed.size", lambda: 2)
    with pytest.raises(
        ConfigError, match="minibatch must be .* with 2 processes, got 'free'.*use one process"
    ) as caught:
        refuse_processes(trainer())
    assert len(caught.value.lines) == 1
