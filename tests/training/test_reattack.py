"""Rules that attack a part of each batch again and train the rest as remembered: cost, twins, history, first visits."""

import copy
import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from covering import covering
from kernels import by_plain_kernels

from advcore.attacks import FGSMMEP, L2PGD, LinfPGD
from advcore.attacks.memory import Memory, Perturbations
from advcore.cost import CostLedger
from advcore.data.augment import crop_flip
from advcore.data.source import Pooled
from advcore.errors import ConfigError
from advcore.minibatch import RULES, Oldest, RandomSubset
from advcore.minibatch.base import AttackSubset, Picked, is_reattack
from advcore.objectives import Mart, Pgd, Trades
from advcore.rng import Stream
from advcore.runtime.precision import Speed
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.settings import settings
from advcore.solvers import GradMatch, Random
from advcore.training import SGD, Constant
from advcore.training.minibatch import build_stepper
from advcore.training.plan import count_planned_units
from advcore.training.step import Batch, Learner
from advcore.training.trainer import Trainer
from advcore.training.visits import VisitHistory

K, SIZE, N = 2, 16, 96
LINF = LinfPGD(eps=0.1, steps=K, step_size=0.06, start="remembered")
ATTACKS = {"linf": LINF, "l2": L2PGD(eps=0.7, steps=K, start="remembered")}
REATTACKS = {name: kind() for name, kind in RULES.items() if is_reattack(kind())} | {
    "random": RandomSubset(rho=0.5, clean=0, rest="remembered"),
    "margin": RULES["margin"](rho=0.3, rest="remembered", warm_up=1),
    "gradient_matching": RULES["gradient_matching"](rho=0.3, rest="remembered", warm_up=0, clean=0),
}


def trainer(rule, objective=None, *, attack=LINF, epochs=3, solver=None, budget=0.5, period=None, **more):
    objective = objective or Pgd()
    selector = solver and AdversarialCoreset(
        objective=objective, solver=solver, attack=attack.reference(1), budget=budget, block_size=SIZE, chunk_size=32
    )
    schedule = Schedule(epochs=epochs, budget=budget if solver else 1.0, warm_start=0.5, period=period)
    more = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, "probe_examples": 32, **more}
    return Trainer(objective=objective, attack=attack, minibatch=rule, schedule=schedule, selector=selector, **more)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def corrected(rule):
    draw = "systematic" if rule.draw == "top" else rule.draw
    return dataclasses.replace(rule, correction="inverse_probability", draw=draw)


# ---- cost ----


@covering(
    "name, objective, correction",
    {name: name for name in REATTACKS},
    {"pgd": Pgd(), "trades": Trades(), "mart": Mart()},
    {"plain": False, "corrected": True},
)
@by_plain_kernels
def test_an_epoch_costs_the_closed_form(model, source, name, objective, correction):
    """All attacked in the first epoch; then 2 K k, with the clean pass of TRADES' attack, and an update of everyone."""
    rule = dataclasses.replace(REATTACKS[name], warm_up=0)
    rule = corrected(rule) if correction else rule
    trained = trainer(rule, objective, epochs=3).fit(model, source, seed=0)
    k = int(rule.rho * SIZE)
    attack = 2 * K + isinstance(objective, Trades)
    update = SIZE * 2 * len(objective.passes) + 2 * SIZE * (rule.clean > 0)
    scoring = SIZE * (rule.reads in ("logits", "features"))
    batches = N // SIZE
    first, *later = (b - a for a, b in itertools.pairwise([0, *(entry["units"] for entry in trained.epochs)]))
    assert first == batches * (SIZE * attack + update)
    assert later == [batches * (k * attack + update + scoring + 2 * k * correction)] * 2
    assert trained.ledger.sum_units() == count_planned_units(trainer(rule, objective, epochs=3), N)


@covering(
    "name, objective, attack, solver, reset",
    {name: name for name in REATTACKS},
    {"pgd": Pgd(), "trades": Trades()},
    ATTACKS,
    {"all data": None, "random": Random(), "gradmatch": GradMatch()},
    {"kept": None, "reset": 2},
)
@by_plain_kernels
@pytest.mark.slow
def test_the_ledger_is_the_plan_on_all_data_and_on_a_coreset(model, source, name, objective, attack, solver, reset):
    made = trainer(
        REATTACKS[name], objective, attack=attack, solver=solver, epochs=5, memory=Memory(reset=reset), batch_size=40
    )
    trained = made.fit(model, source, seed=0, augment=crop_flip)
    assert trained.ledger.sum_units() == count_planned_units(made, N)


@pytest.mark.parametrize("name", ["random", "mixed", "margin"])
@by_plain_kernels
def test_the_newcomers_of_a_new_coreset_cost_at_most_what_is_planned(model, source, name):
    rule = corrected(REATTACKS[name])
    made = trainer(rule, solver=Random(), epochs=8, period=1)
    trained = made.fit(model, source, seed=0)
    planned = count_planned_units(made, N)
    assert 0.8 * planned < trained.ledger.sum_units() <= planned
    shares = [entry["minibatch"]["attacked"] for entry in trained.epochs]
    assert shares[0] == 1 and all(rule.rho - 0.1 < share < 1 for share in shares[3:])  # some stay, some are new


# ---- the ends of its range ----


@covering(
    "name, objective, correction",
    {name: name for name in REATTACKS},
    {"pgd": Pgd(), "trades": Trades()},
    {"plain": False, "corrected": True},
)
@by_plain_kernels
@pytest.mark.slow
def test_at_rho_one_it_is_the_run_without_a_rule_bitwise(model, source, name, objective, correction):
    rule = dataclasses.replace(REATTACKS[name], rho=1.0, clean=0.0)
    rule = corrected(rule) if correction else rule
    one, other = (
        trainer(this, objective).fit(copy.deepcopy(model), source, source, seed=1, augment=crop_flip)
        for this in (rule, None)
    )
    assert equal(one.last, other.last) and equal(one.best, other.best)
    assert one.ledger.passes == other.ledger.passes


@by_plain_kernels
def test_the_first_epoch_and_those_after_a_reset_attack_everyone(model, source):
    made = trainer(Oldest(), epochs=5, memory=Memory(reset=2))
    facts = [entry["minibatch"] for entry in made.fit(model, source, seed=0).epochs]
    assert [entry["attacked"] for entry in facts] == [1, 0.5, 1, 0.5, 1]
    assert [entry["age"] for entry in facts] == [0, 0.5, 0, 0.5, 0]


@by_plain_kernels
def test_the_oldest_take_turns(model, source):
    """Half of each batch: what was attacked in an epoch rests in the next, unless its batch has too many like it."""
    facts = [entry["minibatch"] for entry in trainer(Oldest(), epochs=6).fit(model, source, seed=0).epochs]
    assert all(entry["overlap"] < 0.35 for entry in facts[2:]) and all(entry["age"] < 0.8 for entry in facts)


# ---- one step against the loss written out ----


@settings
class Written(AttackSubset):
    """Picks the positions that it was given."""

    rest: str = "remembered"
    clean: float = 0.0

    def pick(self, seen, generator):
        weights = torch.ones(len(PICKED)) * WEIGHT
        return Picked(torch.tensor(PICKED), weights, torch.tensor(1.0))


PICKED, WEIGHT = [1, 4, 5, 9], 1.0


def prepare(model, source, rule, **how):
    """A learner whose memory holds where 14 of 16 examples were left, its stepper, and their batch."""
    memory = Perturbations(Memory(precision="float32"), N, (1, 8, 8), torch.device("cpu"))
    indices = torch.arange(20, 20 + SIZE)
    _, x, y = next(source.batches([indices]))
    memory.begin(indices, None)
    left = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    memory.keep(x[:14], left[:14], indices[:14])
    memory.look(Stream(seed=0, purpose="augment"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attack = how.pop("attack", LINF).with_memory(memory)
    learner = Learner(
        model=model,
        attack=attack,
        optimizer=optimizer,
        ledger=CostLedger(),
        memory=memory,
        **{"objective": Pgd(), **how},
    )
    stepper = build_stepper(rule, model, source, attack=attack, batch_size=SIZE)
    stepper.begin(1, [])
    batch = Batch(
        indices=indices, x=x, y=y, weights=torch.linspace(0.2, 1.8, SIZE), where=str, images=SIZE,
        attack_stream=Stream(seed=0, purpose="attack").at(indices),
        rule_stream=Stream(seed=0, purpose="minibatch").at(indices),
    )  # fmt: skip
    return learner, stepper, batch, left


def remember(attack, x, left):
    """The images that are trained on unattacked: where they were left, in the ball of the attack and in [0, 1]."""
    return attack.geometry.project(left, x, attack.eps)


@pytest.mark.parametrize("normalise", ["coreset", "batch"])
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_step_is_sgd_on_the_attacked_and_the_remembered(model, source, attack, objective, normalise):
    fast, slow = copy.deepcopy(model), copy.deepcopy(model)
    learner, stepper, batch, left = prepare(
        fast, source, Written(), objective=objective, normalise=normalise, attack=attack
    )
    got, images = stepper.step(learner, batch)

    attacked = sorted([*PICKED, 14, 15])  # nothing is remembered of the last two
    other, _, _, _ = prepare(slow, source, Written(), objective=objective, attack=attack)
    i = torch.tensor(attacked)
    fresh = other.perturb(batch.x[i], batch.y[i], batch.attack_stream.take(i))
    x_adv = remember(attack, batch.x, left)
    for position, image in zip(attacked, fresh, strict=True):
        x_adv[position] = image
    slow.train()
    inputs = {"clean": batch.x, "adversarial": x_adv}
    losses = objective.loss(batch.y, **{name: slow(inputs[name]) for name in objective.passes})
    total = batch.weights.sum() if normalise == "batch" else SIZE
    loss = sum(weight * own for weight, own in zip(batch.weights, losses, strict=True)) / total
    loss.backward()
    assert float(got) == pytest.approx(loss.item(), rel=1e-5) and images == SIZE
    for parameter, reference in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(parameter, reference - 0.1 * reference.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("normalise", ["coreset", "batch"])
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
def test_a_corrected_step_is_right_on_average_over_all_subsets(model, source, objective, normalise, monkeypatch):
    """Every 3 of 14 known examples are equally likely: the mean of all 364 losses is the loss with all attacked.

    Without BatchNorm, whose statistics would see other batches.
    """
    bare = torch.nn.Sequential(model[0], torch.nn.Tanh(), *model[3:]).double()
    learner, stepper, batch, left = prepare(
        bare, source, corrected(Written()), objective=objective, normalise=normalise
    )
    batch = dataclasses.replace(batch, x=batch.x.double())
    attack = learner.attack
    ends = attack(lambda x: F.cross_entropy(bare(x), batch.y, reduction="none"), batch.x, generator=batch.attack_stream)
    monkeypatch.setattr(Learner, "perturb", lambda self, x, y, stream: ends[stream.examples - int(batch.indices[0])])
    seen = []

    def update(self, compute_loss, device, where):
        seen.append(float(compute_loss(bare).detach()))
        return torch.tensor(0.0)

    monkeypatch.setattr(Learner, "update", update)
    for subset in itertools.combinations(range(14), 3):
        monkeypatch.setitem(globals(), "PICKED", subset)
        stepper.step(learner, batch)
    losses = objective.loss(batch.y, **{"clean": bare(batch.x), "adversarial": bare(ends)} if len(objective.passes) > 1
                            else {"adversarial": bare(ends)})  # fmt: skip
    total = batch.weights.sum() if normalise == "batch" else SIZE
    exact = float((batch.weights * losses.detach()).sum() / total)
    assert len(seen) == 364 and max(seen) - min(seen) > 1e-4
    assert sum(seen) / 364 == pytest.approx(exact, rel=1e-6)


@by_plain_kernels
def test_what_is_trained_on_unattacked_is_in_the_ball_where_the_attack_left_it(model, source, monkeypatch):
    """With crops and flips, in a ball that grows, for as long as they are not attacked again."""
    steps, original = [], Learner.loss

    def loss(self, forward, clean, adversarial, y, weights):
        steps.append((self.attack, clean, adversarial))
        return original(self, forward, clean, adversarial, y, weights)

    monkeypatch.setattr(Learner, "loss", loss)
    made = trainer(REATTACKS["random"], epochs=4, eps_ramp=2, memory=Memory(precision="float32"))
    made.fit(model, source, seed=0, augment=crop_flip)
    for attack, clean, adversarial in steps:
        assert float(attack.excess(clean, adversarial).max()) <= 1e-7
        assert float(adversarial.min()) >= 0 and float(adversarial.max()) <= 1
        assert (adversarial != clean).flatten(1).any(1).all()


# ---- history ----


def test_a_history_by_hand():
    history = VisitHistory(4, torch.device("cpu"))
    some = torch.tensor([3, 1])
    nobody = torch.zeros(2, dtype=torch.bool)
    history.keep(some, torch.tensor([2.0, 0.5]), is_attacked=~nobody, is_first=~nobody)
    visit = history.read(some)
    assert [column.tolist() for column in visit] == [[2.0, 0.5], [2.0, 0.5], [0, 0]]
    history.begin()
    for losses in ([1.5, 1.0], [1.0, 3.0]):
        history.keep(some, torch.tensor(losses), is_attacked=torch.tensor([True, False]), is_first=nobody)
    assert [column.tolist() for column in history.read(some)] == [[1.0, 3.0], [-0.5, 2.0], [0, 2]]
    assert history.summarize() == {"attacked": 0.5, "age": 0.75}
    history.keep(some, torch.tensor([7.0, 7.0]), is_attacked=~nobody, is_first=~nobody)  # forgotten in between
    assert history.read(some).changes.tolist() == [7.0, 7.0]
    other = VisitHistory(4, torch.device("cpu"))
    other.restore(history.state())
    assert other.summarize() == history.summarize() and torch.equal(other.losses, history.losses)


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("correction", ["none", "inverse_probability"])
def test_a_step_records_the_losses_at_the_images_that_it_trains_on(model, source, objective, correction):
    """In train mode, before the update; of what is attacked, at the fresh image."""
    rule = dataclasses.replace(Written(), correction=correction)
    slow = copy.deepcopy(model)
    learner, stepper, batch, left = prepare(model, source, rule, objective=objective)
    stepper.step(learner, batch)
    visit = stepper.history.read(batch.indices)
    attacked = sorted([*PICKED, 14, 15])
    assert visit.ages.tolist() == [0 if i in attacked else 1 for i in range(SIZE)]
    if correction == "none":
        other, _, _, _ = prepare(slow, source, rule, objective=objective)
        i = torch.tensor(attacked)
        x_adv = remember(LINF, batch.x, left)
        x_adv[i] = other.perturb(batch.x[i], batch.y[i], batch.attack_stream.take(i))
        slow.train()
        if len(objective.passes) > 1:
            slow(batch.x)
        losses = [-float(z.detach().log_softmax(0)[y]) for z, y in zip(slow(x_adv), batch.y, strict=True)]
        assert visit.losses.tolist() == pytest.approx(losses, rel=1e-5)
    assert stepper.history.summarize() == {"attacked": 6 / SIZE, "age": 10 / SIZE}


# ---- with the rest of a run ----


@pytest.mark.parametrize("name", ["mixed", "random"])
@by_plain_kernels
def test_one_step_training_is_judged_by_more_steps(model, source, name):
    made = trainer(REATTACKS[name], attack=LINF.with_settings(steps=1), epochs=2, lr_schedule=Constant())
    trained = made.fit(model, source, source, seed=0)
    assert made.few_steps and made.probe.steps > 1 and not made.probe.remembers
    assert all(entry["robust"] <= entry["clean"] for entry in trained.epochs)


@pytest.mark.parametrize("speed", [Speed(), Speed(autocast="bfloat16")], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("attack", [FGSMMEP(eps=0.1, step_size=0.06), LINF], ids=["fgsm_mep", "linf"])
@by_plain_kernels
def test_any_attack_that_tells_its_start_serves_and_repeats_bitwise(model, source, attack, speed):
    made = trainer(REATTACKS["mixed"], attack=attack, speed=speed, memory=Memory(precision="int8"))
    one, two = (made.fit(copy.deepcopy(model), source, seed=1, augment=crop_flip) for _ in range(2))
    assert equal(one.last, two.last) and one.ledger.sum_units() == count_planned_units(made, N)
    assert [entry["minibatch"] for entry in one.epochs] == [entry["minibatch"] for entry in two.epochs]


@pytest.mark.parametrize(
    "rule, settings, line",
    [
        (
            Oldest(),
            {"attack": LinfPGD(eps=0.1)},
            "attack.start must be remembered for .*rest: remembered, got 'uniform'",
        ),
        (RandomSubset(rest="remembered"), {"attack": LinfPGD(eps=0.1)}, "rest: dropped"),
    ],
)
def test_what_it_cannot_serve_is_one_line(rule, settings, line):
    with pytest.raises(ConfigError, match=line) as caught:
        trainer(rule, **settings)
    assert len(caught.value.lines) == 1


def test_a_pool_is_refused(model, source):
    with pytest.raises(ConfigError, match=r"data.pool must be null with .*rest: remembered.*rest: dropped"):
        trainer(Oldest()).fit(model, Pooled(source, source, share=0.5), seed=0)
