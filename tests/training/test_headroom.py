"""Headroom: what training steps measure of it equals autograd, example by example, and disturbs nothing."""

import copy
import dataclasses
import math

import pytest
import torch
from kernels import by_plain_kernels
from torch import nn

from advcore.adversary import perturb
from advcore.attacks import LinfPGD
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.minibatch import RULES
from advcore.objectives import Pgd, Standard, Trades
from advcore.objectives.base import compute_losses
from advcore.rng import Stream
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule, When
from advcore.solvers import GradMatch, Random
from advcore.training import SGD
from advcore.training.headroom import HeadroomMeter, compute_headroom
from advcore.training.plan import plan_parts
from advcore.training.progress import Listener
from advcore.training.step import Learner
from advcore.training.trainer import Trainer
from advcore.training.weight_attack import AWP

N, SIZE = 96, 32
ATTACK = LinfPGD(eps=0.1, steps=2)
REMEMBERED = ATTACK.with_settings(start="remembered")
NO_STEP = SGD(lr=1e-30)  # which moves no weight by as much as a bit

each_objective = pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda o: type(o).__name__)


def build(objective=None, *, solver=None, attack=ATTACK, when=None, **more) -> Trainer:
    objective = objective or Pgd()
    attack = None if isinstance(objective, Standard) else attack
    selector = None
    if solver is not None:
        selector = AdversarialCoreset(
            objective=objective, solver=solver, attack=attack, chunk_size=SIZE, block_size=SIZE
        )
    schedule = Schedule(**{"epochs": 2, **(when or {})})
    more = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, "probe_examples": 16, **more}
    return Trainer(objective=objective, attack=attack, schedule=schedule, selector=selector, **more)


@pytest.fixture
def plain(model) -> nn.Module:
    """Without BatchNorm: train mode is eval mode."""
    return nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.BatchNorm2d)))


def differentiate(model: nn.Module, source: Resident, objective, epoch: int) -> list[float]:
    """The norm of the last layer's gradient of each example, by autograd of one example at a time."""
    norms = []
    for i in range(len(source)):
        indices, x, y = next(source.batches([torch.tensor([i])]))
        images = {"clean": x, "adversarial": x}
        if not isinstance(objective, Standard):
            stream = Stream(seed=3, purpose="attack", epoch=epoch).at(indices)
            images["adversarial"] = perturb(model, objective, ATTACK, x, y, generator=stream)
        loss = compute_losses(objective, y, **{name: model(images[name]) for name in objective.passes}).sum()
        parts = torch.autograd.grad(loss, list(model[-1].parameters()))
        norms.append(math.sqrt(sum(float(part.double().square().sum()) for part in parts)))
    return norms


def relate(norms: list[float]) -> float:
    """The least second moment of one draw over that of a uniform draw, by the probabilities that give the least."""
    n, total = len(norms), sum(norms)
    probabilities = [norm / total for norm in norms]
    least = sum((norm / n) ** 2 / p for norm, p in zip(norms, probabilities, strict=True) if p)
    return least / sum((norm / n) ** 2 * n for norm in norms)


@each_objective
def test_equals_autograd_of_one_example_at_a_time(plain, source, objective):
    entries = build(objective, optimizer=NO_STEP).fit(plain, source, seed=3).epochs
    for entry in entries:
        assert entry["headroom"] == pytest.approx(relate(differentiate(plain, source, objective, entry["epoch"])), 1e-4)


def test_a_coresets_is_that_of_weighted_gradients(plain, source):
    run = build(solver=GradMatch(), when={"budget": 0.5}, optimizer=NO_STEP).fit(plain, source, seed=3)
    coreset = run.coresets[0]
    norms = torch.tensor(differentiate(plain, source, Pgd(), 1))[coreset.indices]
    assert run.epochs[1]["headroom"] == pytest.approx(relate((coreset.weights * norms).tolist()), 1e-4)


def test_no_unbiased_choice_has_a_smaller_second_moment():
    norms = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    headroom = compute_headroom(40, float(norms.sum()), float(norms.square().sum()))
    uniform = float(norms.square().mean())
    for seed in range(50):
        p = torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        p = p / p.sum()
        assert float(((norms / 40).square() / p).sum()) >= headroom * uniform


@pytest.mark.parametrize("sums", [(0, 0.0, 0.0), (4, 0.0, 0.0), (4, math.inf, math.inf), (4, math.nan, math.nan)])
def test_nothing_measurable_is_none(sums):
    assert compute_headroom(*sums) is None


def test_equal_norms_leave_no_headroom():
    assert compute_headroom(4, 8.0, 16.0) == 1.0


RUNS = {
    "plain": {},
    "awp": {"awp": AWP(gamma=0.01)},
    "free": {"minibatch": RULES["free"](replays=2)},
    "bullettrain": {"minibatch": RULES["bullettrain"]()},
    "infobatch": {"minibatch": RULES["infobatch"](r=0.5)},
    "attacked again": {"attack": REMEMBERED, "minibatch": RULES["random"](rest="remembered")},
}


@pytest.mark.parametrize("name", RUNS)
@by_plain_kernels
def test_changes_no_bit_and_adds_no_pass(model, source, monkeypatch, name):
    measured = build(**RUNS[name]).fit(copy.deepcopy(model), source, seed=3)
    monkeypatch.setattr(HeadroomMeter, "begin", lambda self, weights: None)
    bare = build(**RUNS[name]).fit(model, source, seed=3)
    assert all(0 < entry["headroom"] <= 1 for entry in measured.epochs)
    assert not any("headroom" in entry for entry in bare.epochs)
    assert all(torch.equal(value, bare.last[key]) for key, value in measured.last.items())
    passes = [(name, entry["forward"], entry["backward"]) for name, entry in measured.ledger.summarise().items()]
    assert passes == [(name, entry["forward"], entry["backward"]) for name, entry in bare.ledger.summarise().items()]


def test_each_update_counts_once(model, source, monkeypatch):
    """A weight perturbation runs the loss twice for an update, and Free AT takes several updates of a batch."""
    counts = []
    collect = HeadroomMeter.collect

    def count(self):
        sums = collect(self)
        if not isinstance(sums, float):  # as at an epoch's end
            counts.append(float(sums[0]))
        return sums

    monkeypatch.setattr(HeadroomMeter, "collect", count)
    build(**RUNS["awp"]).fit(copy.deepcopy(model), source)
    assert counts == [SIZE] * (2 * N // SIZE)
    counts.clear()
    build(**RUNS["free"]).fit(model, source)
    assert counts == [2 * SIZE] * (2 * N // SIZE)


@pytest.mark.parametrize("rule", ["margin", "loss_ranked"])
def test_an_event_says_why_a_rule_shows_none(model, source, rule):
    run = build(minibatch=RULES[rule]()).fit(model, source, source)
    texts = [event["event"] for event in run.events if event["kind"] == "headroom"]
    assert len(texts) == 1 and texts[0].startswith("no headroom is recorded: the minibatch rule ")
    assert not any("headroom" in entry for entry in run.epochs)


class Scaled(nn.Module):
    """Has no head: its logits are twice what its last layer returns."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x):
        return 2 * self.body(x)


def test_an_event_says_why_a_model_shows_none(model, source):
    run = build().fit(Scaled(model), source)
    assert [event["kind"] for event in run.events].count("headroom") == 1
    assert "headroom" not in run.epochs[0]


def test_a_learner_measures_none_by_default(model):
    learner = Learner(
        model=model, objective=Pgd(), attack=ATTACK, optimizer=torch.optim.SGD(model.parameters(), 0.1), ledger=None
    )
    assert learner.meter.head is None


# ---- selecting only once choosing can gain enough ----

WAITING = {"epochs": 8, "budget": 0.5, "warm_start": 0.25, "period": 2}


def wait_for(headroom: float | None) -> Trainer:
    when = None if headroom is None else When(headroom=headroom)
    return build(solver=GradMatch(), when={**WAITING, "when": when})


@by_plain_kernels
def test_a_headroom_that_every_epoch_is_below_selects_as_without_it(model, source):
    waiting = wait_for(1.0).fit(copy.deepcopy(model), source, seed=3)
    plain = wait_for(None).fit(model, source, seed=3)
    assert [entry["action"] for entry in waiting.epochs] == [entry["action"] for entry in plain.epochs]
    assert all(torch.equal(value, plain.last[key]) for key, value in waiting.last.items())


@by_plain_kernels
def test_selections_wait_and_cost_nothing_until_then(model, source):
    """The plan is an upper bound: a selection that is held back takes no passes."""
    never = wait_for(1e-6)
    run = never.fit(copy.deepcopy(model), source, seed=3)
    assert [entry["action"] for entry in run.epochs] == ["full"] + ["random"] * 6
    assert not run.coresets
    planned = plan_parts(never, N)
    assert run.ledger.sum_units() == planned.training.units
    assert planned.selection.units == 3 * N * (2 * ATTACK.steps + 1)


@by_plain_kernels
def test_selecting_starts_once_headroom_is_low_enough(model, source):
    """And goes on: the ledger lacks just the selections that were held back."""
    free = wait_for(1e-6).fit(copy.deepcopy(model), source, seed=3)
    before = [free.epochs[epoch]["headroom"] for epoch in (0, 2, 4)]
    threshold = before[1] * (1 + 1e-9)
    starts = next(i for i, headroom in enumerate(before) if headroom < threshold)
    trainer = wait_for(threshold)
    run = trainer.fit(model, source, seed=3)
    expected = ["full"] + ["random"] * 2 * starts + ["select", "reuse"] * (3 - starts)
    assert [entry["action"] for entry in run.epochs] == expected
    planned = plan_parts(trainer, N)
    held_back = starts * N * (2 * ATTACK.steps + 1)
    assert run.ledger.sum_units() == planned.total.units - held_back


@pytest.mark.parametrize("stop", [1, 2, 4])
@by_plain_kernels
def test_a_run_that_waits_resumes_bit_for_bit(model, source, stop):
    states = []
    listener = Listener(on_checkpoint=lambda take: states.append(take()))
    trainer = wait_for(0.999)
    begun = copy.deepcopy(model)
    whole = trainer.fit(model, source, seed=3, listener=listener)
    again = trainer.fit(begun, source, seed=3, resume=states[stop - 1])
    assert all(torch.equal(value, again.last[key]) for key, value in whole.last.items())
    assert [entry["headroom"] for entry in again.epochs] == [entry["headroom"] for entry in whole.epochs]


@pytest.mark.parametrize("headroom", [0, -0.1, 1.1, float("nan")])
def test_a_headroom_is_a_share(headroom):
    with pytest.raises(ConfigError, match="headroom"):
        When(headroom=headroom)


def test_nothing_waits_for_a_headroom_that_is_not_measured(model, source):
    schedule = {**WAITING, "when": When(headroom=0.5)}
    with pytest.raises(ConfigError, match="when must be null where no headroom is measured"):
        build(solver=GradMatch(), when=schedule, minibatch=RULES["margin"]())
    with pytest.raises(ConfigError, match="when must be null with partition: per_batch"):
        selector = AdversarialCoreset(objective=Pgd(), solver=GradMatch(), attack=ATTACK, partition="per_batch")
        dataclasses.replace(
            build(solver=GradMatch(), when=schedule), selector=dataclasses.replace(selector, block_size=SIZE)
        )
    with pytest.raises(ConfigError, match="when must be null where no headroom is measured"):
        build(solver=Random(), when=schedule).fit(Scaled(model), source)
