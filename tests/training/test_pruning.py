"""Training on a part of each epoch's examples: which, with what weights, what it costs, and what stays as it was."""

import copy
from dataclasses import replace

import pytest
import torch
from kernels import by_plain_kernels

from advcore.attacks import LinfPGD
from advcore.data.augment import crop_flip
from advcore.data.contract import cut_into_chunks
from advcore.data.pool import Pooled
from advcore.errors import ConfigError
from advcore.minibatch import RULES
from advcore.objectives import Pgd, Standard, Trades
from advcore.objectives.base import compute_losses
from advcore.rng import Stream
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.plan import count_planned_units, plan_step
from advcore.training.prices import find_prices
from advcore.training.pruning import EpochSubsetStepper
from advcore.training.step import Learner
from advcore.training.trainer import Trainer

N, SIZE, K = 96, 16, 2
ATTACK = LinfPGD(eps=0.1, steps=K)
PRUNE = RULES["infobatch"](r=0.6, whole=0.25)


def trainer(rule=PRUNE, objective=None, *, solver=None, attack=ATTACK, epochs=4, **more):
    objective = objective or Pgd()
    schedule = Schedule(epochs=epochs, budget=0.5 if solver else 1.0, warm_start=0.5)
    chooser = solver and AdversarialCoreset(objective=objective, solver=solver, attack=attack, chunk_size=32)
    if chooser and "normalise" in more:
        chooser = replace(chooser, normalise=more["normalise"])
    settings = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, "probe_examples": 32, **more}
    return Trainer(objective=objective, attack=attack, minibatch=rule, schedule=schedule, selector=chooser, **settings)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def log(monkeypatch):
    """What each step saw: indices, losses and weights, by epoch."""
    steps = []
    original = EpochSubsetStepper.step

    def step(self, learner, batch):
        steps.append([len(self.trained) - 1, batch.indices, None, batch.weights])
        return original(self, learner, batch)

    def record(self, indices, losses):
        steps[-1][2] = losses
        recorded(self, indices, losses)

    recorded = EpochSubsetStepper._record_losses
    monkeypatch.setattr(EpochSubsetStepper, "step", step)
    monkeypatch.setattr(EpochSubsetStepper, "_record_losses", record)
    return steps


def gather(log, epoch):
    """The indices, losses and weights of an epoch's steps, in order."""
    columns = zip(*(entry[1:] for entry in log if entry[0] == epoch), strict=True)
    return [torch.cat(column) for column in columns]


@by_plain_kernels
def test_each_epoch_is_what_the_rule_leaves_of_the_last_losses_in_full_batches(model, source, log):
    out = trainer().fit(model, source, seed=3)
    losses = torch.full((N,), float("nan"))
    for epoch, entry in enumerate(out.epochs):
        expected = torch.ones(N)
        if epoch < 3:  # the last quarter is whole
            stream = Stream(seed=3, purpose="minibatch", epoch=epoch).child("epoch").at(torch.arange(N))
            expected = PRUNE.weigh(losses, stream)
        indices, met, weights = gather(log, epoch)
        assert torch.equal(indices.sort().values, expected.nonzero()[:, 0])
        assert torch.equal(weights, expected[indices])
        sizes = [len(step[1]) for step in log if step[0] == epoch]
        assert sizes == [len(chunk) for chunk in cut_into_chunks(indices, SIZE)] and len(sizes) == entry["steps"]
        losses[indices] = met
        assert entry["minibatch"]["trained"] == len(indices) / N == entry["examples"] / N
    shares = [entry["minibatch"]["trained"] for entry in out.epochs]
    assert shares[0] == shares[-1] == 1 and 0.4 < min(shares) < 0.9
    assert out.epochs[-1]["minibatch"]["saved"] == pytest.approx(1 - sum(shares) / 4)


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=["pgd", "trades"])
@by_plain_kernels
def test_losses_are_those_of_the_step_itself_without_weights(model, source, objective, log, monkeypatch):
    """The step's losses, from its own logits, one example at a time."""
    seen = []
    original = Learner.losses

    def losses(self, forward, clean, adversarial, y):
        logits = {}

        def watched(x):
            z = forward(x)
            logits["clean" if x is clean else "adversarial"] = z.detach()
            return z

        result = original(self, watched, clean, adversarial, y)
        alone = [
            compute_losses(objective, y[i : i + 1], **{name: z[i : i + 1] for name, z in logits.items()})
            for i in range(len(y))
        ]
        seen.append(torch.cat(alone))
        return result

    monkeypatch.setattr(Learner, "losses", losses)
    trainer(objective=objective, solver=GradMatch(), epochs=2).fit(model, source, seed=0)
    assert len(seen) == len(log)
    assert all(torch.allclose(one, step[2], atol=1e-6) for one, step in zip(seen, log, strict=True))
    assert any((step[3] != 1).any() for step in log)  # there were weights to leave out


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=["pgd", "trades"])
@by_plain_kernels
def test_the_ledger_is_the_closed_form_of_what_was_trained_and_the_plan_its_bound(model, source, objective):
    made = trainer(objective=objective)
    out = made.fit(copy.deepcopy(model), source, seed=1)
    work = sum(entry["examples"] for entry in out.epochs) * plan_step(objective, ATTACK)
    assert out.ledger.sum_units() == work.units
    assert out.ledger.sum_flops() == find_prices(made, model, source).price(work)
    whole = count_planned_units(made, N)
    assert whole == 4 * N * plan_step(objective, ATTACK).units
    assert out.ledger.sum_units() == round(whole * (1 - out.epochs[-1]["minibatch"]["saved"])) < whole
    assert out.ledger.passes["scoring"] == {"forward": 0, "backward": 0}


@pytest.mark.parametrize("solver", [None, GradMatch()], ids=["all data", "coreset"])
@by_plain_kernels
def test_with_r_0_a_run_is_the_run_without_the_rule(model, source, solver):
    none = RULES["infobatch"](r=0.0)
    plain, pruned = (
        trainer(rule, solver=solver).fit(copy.deepcopy(model), source, source, seed=1, augment=crop_flip)
        for rule in (None, none)
    )
    assert equal(plain.last, pruned.last) and plain.ledger.passes == pruned.ledger.passes


@pytest.mark.parametrize("normalise", ["coreset", "none", "equal"])
@by_plain_kernels
def test_on_a_coreset_weights_multiply(model, source, log, normalise):
    out = trainer(solver=GradMatch(), epochs=8, normalise=normalise).fit(model, source, seed=2)
    coreset = out.coresets[-1]
    weights = dict(zip(coreset.indices.tolist(), coreset.training_weights(normalise).tolist(), strict=True))
    actions = [entry["action"] for entry in out.epochs]
    pruned = [epoch for epoch in range(actions.index("select"), len(actions)) if out.epochs[epoch]["minibatch"]]
    assert any(out.epochs[epoch]["minibatch"]["trained"] < 1 for epoch in pruned)
    for epoch in pruned:
        indices, _, trained = gather(log, epoch)
        for index, weight in zip(indices.tolist(), trained.tolist(), strict=True):
            ratio = weight / weights[index]
            assert any(abs(ratio - factor) < 1e-4 for factor in (1, 1 / 0.4))


def test_an_epoch_that_would_not_fill_a_batch_is_whole(source):
    stepper = EpochSubsetStepper(RULES["infobatch"](r=0.9, whole=0), N, torch.device("cpu"), batch_size=64)
    examples = torch.arange(N)
    stream = Stream(seed=0, purpose="minibatch", epoch=0)
    stepper.losses = torch.where(examples < 60, 0.0, 100.0)
    stepper.choose_examples(examples, stream, 4)
    assert stepper.factors is None and stepper.trained == [N]
    stepper.batch_size = 36
    stepper.choose_examples(examples, stream, 4)
    assert stepper.factors is not None and 36 <= stepper.trained[-1] < N


def test_the_loss_of_an_epoch_estimates_the_mean_over_all_that_it_could_train_on(model, source, log):
    out = trainer(replace(PRUNE, whole=0.0)).fit(model, source, seed=0)
    for epoch, entry in enumerate(out.epochs):
        total = sum(float((losses * weights).sum()) for e, _, losses, weights in log if e == epoch)
        assert entry["loss"] == pytest.approx(total / N, rel=1e-5)
    assert out.epochs[-1]["minibatch"]["trained"] < 1


@by_plain_kernels
def test_a_growing_ball_follows_the_epochs_however_few_their_steps(model, source, log, monkeypatch):
    radii = []
    perturb = Learner.perturb
    monkeypatch.setattr(Learner, "perturb", lambda *args: radii.append(args[0].attack.eps) or perturb(*args))
    out = trainer(replace(PRUNE, whole=0.0), eps_ramp_share=1.0).fit(model, source, seed=0)
    assert len(log) == len(radii) < 4 * (N // SIZE)
    for epoch, entry in enumerate(out.epochs):  # the ball of its first step
        first = radii[sum(one["steps"] for one in out.epochs[:epoch])]
        planned = epoch * (N // SIZE)
        assert first == pytest.approx(0.1 * (planned + 1) / (4 * (N // SIZE))), entry


def test_an_objective_without_an_attack_is_pruned_too(model, source):
    out = trainer(objective=Standard(), attack=None).fit(model, source, seed=0)
    assert out.epochs[-1]["minibatch"]["saved"] > 0 and out.ledger.passes["attack"]["forward"] == 0


def test_weights_that_a_batch_would_undo_are_refused():
    with pytest.raises(ConfigError, match="training.normalise must be coreset, none or equal with this rule.*'batch'"):
        trainer(normalise="batch")


def test_a_pool_is_refused(model, source):
    with pytest.raises(ConfigError, match="data.pool must be null with a rule that leaves examples out"):
        trainer().fit(model, Pooled(source, source, share=0.5))
