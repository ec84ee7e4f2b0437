"""Cheaper attacks inside the training loop: memory, step schedules, cheap selections, budgets from a wanted cost."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from covering import covering
from kernels import by_plain_kernels
from torch.utils.data import Dataset

from advcore.attacks import L2PGD, NFGSM, FastLPA, LinfPGD, StAdv
from advcore.attacks.memory import Memory, Perturbations
from advcore.cost import CostLedger
from advcore.data.augment import crop_flip
from advcore.data.contract import count_chunks, cut_into_chunks
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.minibatch import RULES
from advcore.minibatch.base import AttackSubset, is_reattack
from advcore.minibatch.whole_batch import WholeBatch
from advcore.objectives import Pgd, Trades
from advcore.rng import Stream
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, EasyCore, GradMatch, Random
from advcore.training import SGD, ByBudget, Linear, Steady
from advcore.training import loop as module
from advcore.training.budget import find_budget_at_cost, list_offers, replace_budget
from advcore.training.mixing import CutMix
from advcore.training.plan import Reference, count_planned_units, plan_reference
from advcore.training.step import Learner
from advcore.training.trainer import Trainer
from advcore.training.weight_attack import AWP
from advcore.work import Work

N, SIZE = 96, 32
ATTACK = LinfPGD(eps=0.1, steps=3)
REMEMBERED = ATTACK.with_settings(start="remembered")


def trainer(attack=REMEMBERED, solver=None, objective=None, *, selecting=None, epochs=4, budget=0.5, period=2, **more):
    objective = objective or Pgd()
    chooser = solver and AdversarialCoreset(
        objective=objective, solver=solver, attack=selecting or attack, budget=budget, block_size=SIZE, chunk_size=32
    )
    when = Schedule(epochs=epochs, budget=budget if solver else 1.0, warm_start=0.5, period=period)
    more = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, "probe_examples": 16, **more}
    return Trainer(objective=objective, attack=attack, schedule=when, selector=chooser, **more)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- memory ----


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("attack", [REMEMBERED, L2PGD(eps=0.7, steps=3, start="remembered")], ids=lambda a: a.norm)
def test_on_frozen_weights_two_epochs_of_attacks_are_one_of_twice_the_steps(model, source, attack, objective):
    attack = attack.with_settings(step_size=attack.length)
    memory = Perturbations(Memory(precision="float32"), N, source.shape, source.device)

    def ends(own, epoch, memory=None):
        made = Learner(
            model=model,
            objective=objective,
            attack=own.with_memory(memory),
            optimizer=None,
            ledger=CostLedger(),
            memory=memory,
        )
        batches = source.batches(cut_into_chunks(torch.arange(N), SIZE))
        stream = Stream(seed=0, purpose="attack", epoch=epoch)
        return torch.cat([made.perturb(x, y, stream.at(indices)) for indices, x, y in batches])

    for epoch in range(2):
        memory.begin(torch.arange(N), None)
        twice = ends(attack, epoch, memory)
    assert torch.equal(twice, ends(attack.with_settings(start="uniform", steps=6), 0))


class Spied(Perturbations):
    """Keeps what it was asked and told."""

    log: list = []

    def begin(self, indices, view, room=None):
        super().begin(indices, view, room)
        self.log.append(("begin", set(indices.tolist()), self._known()))

    def recall(self, x, indices, fresh):
        found = super().recall(x, indices, fresh)
        fresh_ones = (found == fresh()).flatten(1).all(1)
        self.log.append(
            ("recall" if self._view else "plain", set(indices[~fresh_ones].tolist()), set(indices.tolist()))
        )
        return found

    def keep(self, x, x_adv, indices):
        super().keep(x, x_adv, indices)
        self.log.append(("keep", set(indices.tolist()), self._known()))

    def _known(self):
        held = (self.slots >= 0).nonzero()[:, 0]
        return set(held[self.known[self.slots[held]]].tolist())


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(module, "Perturbations", Spied)
    monkeypatch.setattr(Spied, "log", [])
    return Spied.log


@by_plain_kernels
def test_a_coresets_perturbations_are_remembered_while_it_lasts(model, source, log):
    made = trainer(solver=GradMatch(), epochs=8, selecting=ATTACK)
    trained = made.fit(copy.deepcopy(model), source, seed=0, augment=crop_flip)
    epochs = [entry for entry in log if entry[0] == "begin"]
    first, second = (set(c.indices.tolist()) for c in trained.coresets)
    everyone = set(range(N))
    assert [entry[1] for entry in epochs] == [everyone, everyone, first, first, second, second]
    assert [entry[2] for entry in epochs] == [set(), everyone, first, first, first & second, second]
    assert second - first and first & second  # both happen
    recalled = [(entry[1], entry[2]) for entry in log if entry[0] == "recall"]
    per_epoch = [math.ceil(len(entry[1]) / SIZE) for entry in epochs]
    for (_, _, known), count in zip(epochs, per_epoch, strict=True):
        mine, recalled = recalled[:count], recalled[count:]
        assert set().union(*(started for started, _ in mine)) == known
    assert not recalled


@by_plain_kernels
def test_a_selection_starts_from_what_is_remembered_on_the_plain_view_and_writes_nothing(model, source, log):
    made = trainer(solver=GradMatch(), selecting=REMEMBERED.with_settings(steps=1))
    made.fit(copy.deepcopy(model), source, seed=0, augment=crop_flip)
    at = [i for i, entry in enumerate(log) if entry[0] == "plain"]
    assert len(at) == N // 32 and at == list(range(at[0], at[-1] + 1))  # nothing is kept between its chunks
    assert set().union(*(log[i][1] for i in at)) == set(range(N))


@pytest.mark.parametrize(
    "name", [name for name, kind in RULES.items() if not issubclass(kind, WholeBatch) and not is_reattack(kind())]
)
@by_plain_kernels
def test_rules_remember_what_they_attack(model, source, log, name):
    warm = {"warm_up": 0} if issubclass(RULES[name], AttackSubset) else {}
    made = trainer(minibatch=RULES[name](**warm))
    made.fit(copy.deepcopy(model), source, seed=0)
    kept = [entry[1] for entry in log if entry[0] == "keep"]
    recalled = [entry[2] for entry in log if entry[0] == "recall"]
    assert kept == recalled and all(kept)  # the same examples, in the same order
    known = [entry[2] for entry in log if entry[0] == "begin"][-1]
    assert known and known <= set(range(N))


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@by_plain_kernels
def test_remembered_runs_repeat_bitwise_and_cost_no_passes(model, source, precision):
    made = trainer(solver=GradMatch(), memory=Memory(precision=precision), batch_size=32)
    one, two = (made.fit(copy.deepcopy(model), source, seed=1, augment=crop_flip) for _ in range(2))
    assert equal(one.last, two.last)
    fresh = trainer(ATTACK, solver=GradMatch(), batch_size=32)
    fresh = fresh.fit(copy.deepcopy(model), source, seed=1, augment=crop_flip)
    assert one.ledger.passes == fresh.ledger.passes
    assert not equal(one.last, fresh.last)


@by_plain_kernels
def test_a_first_epoch_is_that_of_a_uniform_start(model, source):
    ends = [trainer(attack, epochs=1).fit(copy.deepcopy(model), source, seed=0).last for attack in (ATTACK, REMEMBERED)]
    assert equal(*ends)


def test_memory_told_is_the_most_two_epochs_hold():
    image = (8 * 8 + 1) * 2 + 5
    assert trainer(ATTACK).estimate_memory(N, (1, 8, 8)) == 0
    assert trainer().estimate_memory(N, (1, 8, 8)) == N * image
    assert trainer(solver=Random()).estimate_memory(N, (1, 8, 8)) == (N + 48) * image  # all, then half, while it moves


class Restless(Dataset):
    """A data set that augments by itself: another image each time."""

    def __init__(self, source):
        self.source, self.asked = source, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        self.asked += 1
        x, y = self.source[i]
        return (x + self.asked / 1000) % 1, y


def test_data_that_change_are_refused_in_a_line(model, source):
    with pytest.raises(ConfigError, match=r"start: remembered .* same image each time, got 16 of 16 that change .*exa"):
        trainer().fit(model, Restless(source), seed=0)
    trainer(ATTACK, epochs=1).fit(model, Restless(source), seed=0)


def test_an_augmentation_that_is_not_followed_is_refused_in_a_line(model, source):
    with pytest.raises(ConfigError, match="augment must be one|augment must be an augmentation that only moves pixels"):
        trainer().fit(model, source, seed=0, augment=lambda x, generator: x * 0.9)


def test_a_selection_cannot_remember_by_itself():
    with pytest.raises(ConfigError, match=r"attack\.start must be uniform.* got 'remembered'"):
        trainer(ATTACK, GradMatch(), selecting=REMEMBERED)


def test_what_goes_to_the_host_is_an_event(model, source, monkeypatch):
    monkeypatch.setattr(Memory, "settle", lambda self, needed, device: torch.device("meta"))
    monkeypatch.setattr(module, "Perturbations", lambda *a, **k: Perturbations(*a[:5], torch.device("cpu")))
    (event,) = trainer(epochs=1).fit(model, source, source, seed=0).events
    assert event["kind"] == "memory" and "host's memory" in event["event"]


def test_settings_of_a_memory_that_is_not_used_are_refused():
    with pytest.raises(ConfigError, match="memory must be left out where nothing is remembered, got .*int8"):
        trainer(ATTACK, memory=Memory(precision="int8"))


# ---- step schedules ----


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        (Steady(steps=3), 4, [3, 3, 3, 3]),
        (Linear(first=1, last=7), 4, [1, 3, 5, 7]),
        (Linear(first=5, last=1), 3, [5, 3, 1]),
        (Linear(first=2, last=9), 1, [2]),
        (Linear(first=1, last=4), 3, [1, 3, 4]),
        (ByBudget(mean=2.5, first=1, last=4), 4, [1, 1, 4, 4]),
        (ByBudget(mean=2.0, first=1, last=4), 4, [1, 1, 2, 4]),
        (ByBudget(mean=1.0, first=1, last=4), 3, [1, 1, 1]),
        (ByBudget(mean=4.0, first=1, last=4), 3, [4, 4, 4]),
    ],
)
def test_steps_of_each_epoch(schedule, epochs, expected):
    assert [schedule.count_steps(i, epochs) for i in range(epochs)] == expected


def test_a_budget_of_steps_is_spent_and_never_exceeded():
    for mean, epochs, last in itertools.product((1.0, 1.3, 2.75, 3.1), (1, 2, 7, 30), (4, 9)):
        steps = [ByBudget(mean=mean, first=1, last=last).count_steps(i, epochs) for i in range(epochs)]
        assert (
            sum(steps) == int(mean * epochs + 1e-9) and steps == sorted(steps) and set(steps) <= set(range(1, last + 1))
        )


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Steady(steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: Linear(first=0, last=3), "first must be .* got 0"),
        (lambda: ByBudget(mean=0.5), r"first, mean, last must be in rising order, got \[1, 0.5, 10\]"),
        (lambda: ByBudget(mean="2"), "mean must be a number above 0, got '2'"),
        (lambda: trainer(NFGSM(eps=0.1), attack_steps=Steady(steps=2)), "attack_steps must be null .* got 'NFGSM'"),
    ],
)
def test_bad_schedules_are_a_line(make, line):
    with pytest.raises(ConfigError, match=line):
        make()


@by_plain_kernels
def test_epochs_attack_with_the_steps_of_their_schedule(model, source):
    made = trainer(ATTACK, attack_steps=Linear(first=1, last=4))
    before, spent = 0, []

    def on_epoch(entry, so_far):
        nonlocal before
        spent.append((so_far.ledger.passes["attack"]["backward"] - before) // N)
        before = so_far.ledger.passes["attack"]["backward"]

    trained = made.fit(model, source, seed=0, listener=module.Listener(on_epoch=on_epoch))
    assert spent == [1, 2, 3, 4] == [entry["attack_steps"] for entry in trained.epochs]


@pytest.mark.parametrize(
    ("attack", "schedule", "steps"),
    [
        (ATTACK.with_settings(steps=7), None, 7),
        (ATTACK.with_settings(steps=2), None, 10),
        (ATTACK.with_settings(steps=7), Linear(first=1, last=7), 10),
        (ATTACK.with_settings(steps=7), Linear(first=5, last=7), 7),
        (NFGSM(eps=0.1), None, 10),
        (ATTACK.with_settings(steps=10), Linear(first=1, last=2), 10),
        (FastLPA(eps=0.2, steps=7), None, 7),
        (FastLPA(eps=0.2, steps=7), Linear(first=1, last=7), 10),
        (StAdv(eps=0.1, steps=2), None, 10),
    ],
)
def test_few_steps_in_any_epoch_are_judged_by_many_in_all(attack, schedule, steps):
    made = trainer(attack, attack_steps=schedule)
    assert made.probe.steps == steps and not made.probe.training_only
    assert made.few_steps == (steps == 10)


@pytest.mark.parametrize(
    "attack", [ATTACK.with_settings(steps=1), ATTACK.with_settings(steps=3), REMEMBERED, NFGSM(eps=0.1)]
)
@by_plain_kernels
def test_nobody_watching_few_steps_is_an_event(model, source, attack):
    (event,) = trainer(attack, epochs=1).fit(copy.deepcopy(model), source, seed=0).events
    assert event["kind"] == "validation" and "catastrophic overfitting" in event["event"]
    assert not trainer(attack, epochs=1).fit(copy.deepcopy(model), source, source, seed=0).events
    scheduled = trainer(LinfPGD(eps=0.1, steps=5), epochs=2, attack_steps=Linear(first=2, last=5))
    assert len(scheduled.fit(copy.deepcopy(model), source, seed=0).events) == 1
    assert not trainer(attack.reference(7), epochs=1).fit(copy.deepcopy(model), source, seed=0).events


# ---- costs ----


@covering(
    "objective, solver, rule, schedule, selecting",
    {"pgd": Pgd(), "trades": Trades()},
    {"all data": None, "random": Random(), "gradmatch": GradMatch(), "craig": Craig()},
    {
        "no rule": None,
        "margin": RULES["margin"](warm_up=1),
        **{n: RULES[n]() for n in ("random", "loss_ranked", "mixed")},
    },
    {"own steps": None, "linear": Linear(first=1, last=4), "by budget": ByBudget(mean=1.6, last=4)},
    {"selecting in full": None, "selecting by one step": 1},
)
@by_plain_kernels
@pytest.mark.slow
def test_the_ledger_of_every_combination_is_the_plan(model, source, objective, solver, rule, schedule, selecting):
    if rule and rule.single_image and len(objective.passes) > 1:
        pytest.skip("the rule refuses this objective")
    cheap = selecting and REMEMBERED.with_settings(steps=selecting)
    made = trainer(
        REMEMBERED.with_settings(steps=2),
        solver,
        objective=objective,
        minibatch=rule,
        attack_steps=schedule,
        selecting=cheap,
        batch_size=40,
    )
    trained = made.fit(model, source, seed=0, augment=crop_flip)
    assert trained.ledger.sum_units() == count_planned_units(made, N)


@by_plain_kernels
def test_random_epochs_before_a_selection_of_whole_blocks_are_planned_as_they_run(model, source):
    """38 examples of 96 at random, then one block or two of 32."""
    selector = AdversarialCoreset(
        objective=Pgd(), attack=REMEMBERED, solver=GradMatch(), budget=0.4, partition="per_batch", block_size=SIZE
    )
    made = Trainer(
        objective=Pgd(), attack=REMEMBERED, selector=selector, optimizer=SGD(lr=0.05), batch_size=SIZE,
        schedule=Schedule(epochs=6, budget=0.4, warm_start=0.5, period=4, schedule="acs"),
    )  # fmt: skip
    trained = made.fit(model, source, seed=0)
    assert "random" in [one["action"] for one in trained.epochs]
    assert selector.count_chosen(N) != selector.stand_in.count_chosen(N) == 38
    assert trained.ledger.sum_units() == count_planned_units(made, N)


OTHERS = {
    "per batch": ({"solver": GradMatch(), "partition": "per_batch"}, {}),
    "validation": ({"solver": GradMatch(), "target": "validation"}, {}),
    "acs": ({"solver": GradMatch()}, {"schedule": "acs"}),
    "scores of the warm start": ({"solver": EasyCore()}, {}),
    "scores of a probe": ({"solver": EasyCore()}, {"probe_epochs": 2, "warm_start": 0.0}),
    "n-fgsm": ({"solver": GradMatch(), "attack": NFGSM(eps=0.1)}, {"attack": NFGSM(eps=0.1), "attack_steps": None}),
    "eps ramp": ({"solver": GradMatch()}, {"eps_ramp": 1.5}),
}


@pytest.mark.parametrize("name", OTHERS)
@by_plain_kernels
def test_the_ledger_is_the_plan_in_corners_too(model, source, name):
    chosen, more = OTHERS[name]
    when = {"warm_start": more.pop("warm_start", 0.5), "schedule": more.pop("schedule", "compressed")} if more else {}
    settings = {"attack": REMEMBERED, "attack_steps": Linear(first=1, last=3), **more}
    budgeted = {"objective": Pgd(), "attack": REMEMBERED, "budget": 0.5, "block_size": SIZE, "chunk_size": 32, **chosen}
    made = Trainer(
        objective=Pgd(), schedule=Schedule(epochs=4, budget=0.5, period=2, **({"warm_start": 0.5} | when)),
        selector=AdversarialCoreset(**budgeted), optimizer=SGD(lr=0.05), batch_size=SIZE, probe_examples=16, **settings,
    )  # fmt: skip
    held_out = Resident(torch.rand(150, 1, 8, 8), torch.arange(150) % 4)  # more of them than there are to remember
    trained = made.fit(model, source, held_out, seed=0, augment=crop_flip)
    assert trained.ledger.sum_units() == count_planned_units(made, N, len(held_out))


@pytest.mark.parametrize("size", [50, 150])
@by_plain_kernels
def test_validation_images_are_not_taken_for_training_images(model, source, log, size):
    held_out = Resident(torch.rand(size, 1, 8, 8), torch.arange(size) % 4)
    made = trainer(solver=GradMatch())
    made = dataclasses.replace(made, selector=dataclasses.replace(made.selector, target="validation"))
    made.fit(copy.deepcopy(model), source, held_out, seed=0)
    asked = [entry[2] for entry in log if entry[0] == "plain"]
    assert sum(map(len, asked)) == N and set().union(*asked) == set(range(N))


@by_plain_kernels
def test_blocks_of_different_sizes_do_not_move_what_is_held(model, source, monkeypatch):
    moved, resize = [], Perturbations._resize

    def resized(self, room, staying):
        moved.append(room)
        resize(self, room, staying)

    monkeypatch.setattr(Perturbations, "_resize", resized)
    part = Resident(source._images[:90], source.labels()[:90])  # two batches of 32 and one of 26
    made = trainer(solver=GradMatch(), epochs=12, period=1)
    made = dataclasses.replace(made, selector=dataclasses.replace(made.selector, partition="per_batch"))
    trained = made.fit(copy.deepcopy(model), part, seed=0)
    assert len({len(coreset) for coreset in trained.coresets}) == 2  # with the small block, and without
    assert moved == [90, made.selector.count_chosen(90)]
    assert made.estimate_memory(90, (1, 8, 8)) == sum(moved) * Memory().count_bytes(1, (1, 8, 8))


@pytest.mark.parametrize("steps", [1, 3])
@by_plain_kernels
def test_a_run_written_out_by_hand(model, source, steps):
    """PGD: 2 k + 2 an example and epoch, 2 s + 1 an example and selection; 1 + 2 epochs, one selection."""
    made = trainer(
        solver=GradMatch(),
        selecting=ATTACK.with_settings(steps=steps),
        period=None,
        attack_steps=ByBudget(mean=2.0, last=3),
    )
    k = [1, 2, 3]
    expected = N * (2 * k[0] + 2) + N * (2 * steps + 1) + N // 2 * (2 * k[1] + 2) + N // 2 * (2 * k[2] + 2)
    assert count_planned_units(made, N) == expected == made.fit(model, source, seed=0).ledger.sum_units()


def test_batch_sizes_are_those_that_are_cut():
    for n, size in itertools.product((1, 2, 15, 16, 17, 31, 32, 33, 95, 97), (2, 4, 16, 200)):
        cut = [len(batch) for batch in cut_into_chunks(torch.arange(n), size)]
        assert sorted(cut) == sorted(itertools.chain(*([s] * count for s, count in count_chunks(n, size).items())))


def random_plan(seed):
    """A run drawn from all that a plan knows."""
    generator = torch.Generator().manual_seed(seed)

    def pick(choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    objective = pick([Pgd(), Trades()])
    attack = REMEMBERED.with_settings(steps=pick([2, 4]))
    return trainer(
        attack,
        pick([GradMatch(), Random(), Craig()]),
        objective,
        selecting=pick([None, attack.with_settings(steps=1)]),
        epochs=pick([6, 8]),
        period=pick([1, 3, None]),
        minibatch=pick([None, RULES["margin"](warm_up=0)]),
        attack_steps=pick([None, Linear(first=1, last=4)]),
    )


@pytest.mark.parametrize("seed", range(5))
@by_plain_kernels
def test_a_planned_cost_is_what_is_spent_within_2_percent(model, source, seed):
    made = random_plan(seed)
    reference = plan_reference(made.objective, made.attack, N, epochs=made.schedule.epochs, steps=7)
    units = reference.units
    cost = sum(count_planned_units(replace_budget(made, k / N), N) for k in (2, N - 1)) / 2 / units  # half-way
    budget = find_budget_at_cost(made, N, 0, cost, reference)
    bought = replace_budget(made, budget)
    planned, spent = count_planned_units(bought, N), bought.fit(model, source, seed=0).ledger.sum_units()
    assert abs(planned - spent) <= 0.02 * spent
    assert planned <= cost * units
    more = replace_budget(made, round(budget * N + 1) / N)
    assert count_planned_units(more, N) > cost * units  # one example more is too many


@pytest.mark.parametrize("seed", range(5))
@by_plain_kernels
def test_what_is_offered_costs_what_is_told(model, source, seed):
    made = random_plan(seed)
    reference = plan_reference(made.objective, made.attack, N, epochs=made.schedule.epochs, steps=7)
    units = reference.units
    found = list_offers(made, N, 0, 0.3, reference)
    assert len(found) == len(set(found)) > 1
    assert all(offer.cost <= 0.3 for offer in found)
    one = found[-1]
    attack = (
        made.attack
        if one.steps in (None, made.attack.steps)
        else made.attack.with_settings(steps=one.steps, step_size=None)
    )
    chooser = made.selector
    if one.selection_steps:
        chooser = dataclasses.replace(chooser, attack=chooser.attack.with_settings(steps=one.selection_steps))
    same = dataclasses.replace(made, attack=attack, minibatch=one.rule, selector=chooser)
    same = replace_budget(
        dataclasses.replace(same, schedule=dataclasses.replace(same.schedule, period=one.period)), one.budget
    )
    assert same.fit(model, source, seed=0).ledger.sum_units() / units == pytest.approx(one.cost, rel=1e-9)


@pytest.mark.parametrize(
    "more",
    [{"solver": EasyCore()}, {"solver": GradMatch(), "minibatch": RULES["margin"](warm_up=3)}],
    ids=["scores of the warm start", "a rule that warms up for long"],
)
@by_plain_kernels
def test_budgets_that_the_trainer_refuses_are_stepped_over(model, source, more):
    """With few examples no full epoch is left to score, or fewer epochs than the rule's warm-up."""
    made = trainer(ATTACK, **more)
    with pytest.raises(ConfigError):
        replace_budget(made, 2 / N)
    reference = plan_reference(made.objective, made.attack, N, epochs=made.schedule.epochs, steps=7)
    units = reference.units
    budget = find_budget_at_cost(made, N, 0, 0.3, reference)
    assert replace_budget(made, budget).fit(model, source, seed=0).ledger.sum_units() <= 0.3 * units
    assert list_offers(made, N, 0, 0.3, reference)
    with pytest.raises(ConfigError, match=r"cost must be at least 0\.[12]"):
        find_budget_at_cost(made, N, 0, 0.05, reference)


@pytest.mark.parametrize("more", [{"awp": AWP()}, {"cutmix": CutMix()}], ids=["awp", "cutmix"])
def test_no_rule_is_offered_beside_what_works_on_whole_batches(more):
    made = trainer(ATTACK, solver=GradMatch(), **more)
    reference = plan_reference(made.objective, made.attack, N, epochs=made.schedule.epochs, steps=7)
    assert {offer.rule for offer in list_offers(made, N, 0, 0.4, reference)} == {None}


def test_the_least_cost_there_is_can_be_asked_for():
    """Also where the cost times the reference rounds below the passes that it was computed from."""
    made = trainer(ATTACK, solver=Random())
    least = count_planned_units(replace_budget(made, 2 / N), N)
    rounded_down = [reference for reference in range(10_000, 11_000) if least / reference * reference < least]
    assert len(rounded_down) > 5
    for reference in rounded_down[:5]:
        budget = find_budget_at_cost(made, N, 0, least / reference, Reference(1, None, Work(forward=reference)))
        assert count_planned_units(replace_budget(made, budget), N) == least


def test_full_data_is_offered_where_it_is_cheap_enough():
    made = trainer(solver=GradMatch())
    reference = plan_reference(made.objective, made.attack, N, epochs=made.schedule.epochs, steps=7)
    found = list_offers(made, N, 0, 0.3, reference)
    whole = [offer for offer in found if offer.budget == 1]
    assert whole and all(offer.period is None and offer.selection_steps is None for offer in whole)
    assert {offer.steps for offer in whole if offer.rule is None} == {1}  # (2 + 2) / 16 = 0.25; PGD-2 takes 0.375


@pytest.mark.parametrize(("cost", "line"), [(1e-4, "cost must be at least 0.1"), (3.0, "cost must be at most 0.")])
def test_a_cost_that_nothing_has_is_refused_with_what_there_is(cost, line):
    made = trainer(solver=GradMatch())
    reference = plan_reference(made.objective, made.attack, N, epochs=made.schedule.epochs, steps=7)
    with pytest.raises(ConfigError, match=f"{line}.*examples of 96 cost, got {cost}"):
        find_budget_at_cost(made, N, 0, cost, reference)
    if cost < 1:
        with pytest.raises(ConfigError, match=f"--cost must be at least 0.0.*got {cost}"):
            list_offers(made, N, 0, cost, reference)


# ---- the price of a cheap selection ----


def selector(**more):
    full = LinfPGD(eps=0.2, steps=5)
    settings = {"objective": Pgd(), "solver": GradMatch(), "attack": full.with_settings(steps=1, step_size=0.05)}
    return AdversarialCoreset(**(settings | {"full_attack": full, "budget": 0.3, "chunk_size": 16} | more))


def test_the_error_against_the_full_attack_is_that_of_rows_attacked_in_full(model, source):
    chosen, ledger = selector(), CostLedger()
    coreset = chosen.select(model, source, seed=0, ledger=ledger)
    full = dataclasses.replace(chosen, attack=chosen.full_attack, full_attack=None)
    call_rows = full_rows(full, model, source)
    total = call_rows.sum(0)
    error = (coreset.weights.double()[:, None] * call_rows[coreset.indices]).sum(0) - total
    assert coreset.quality["gradient_error_full"] == pytest.approx(float(error.norm() / total.norm()), rel=1e-6)
    assert coreset.quality["gradient_error_full_noise"] == 0
    assert coreset.quality["gradient_error_full"] > coreset.quality["gradient_error"]
    assert ledger.passes["evaluation"] == {"forward": 6 * N, "backward": 5 * N}
    assert coreset.cost["passes"] == ledger.sum_units() == 3 * N


def full_rows(chosen, model, source):
    from advcore.gradients import GRADIENTS
    from advcore.gradients.base import MeasurementSettings

    stream = Stream(seed=0, purpose="full")
    settings = MeasurementSettings(objective=chosen.objective, attack=chosen.attack, stream=stream, ledger=CostLedger())
    found = GRADIENTS["last_layer"].measure(model, source, settings)
    return found.rows.dense().flatten(1).double()


@pytest.mark.parametrize(
    "more",
    [
        {"full_examples": 0},
        {"full_attack": None},
        {"attack": LinfPGD(eps=0.2, steps=5)},
        {"solver": Random()},
        {"solver": Random(), "attack": None},
        {"budget": 1.0},
    ],
    ids=["none wanted", "no full one", "no cheaper", "no rows", "no attack", "all data"],
)
def test_where_there_is_no_price_none_is_told(model, source, more):
    coreset = selector(**more).select(model, source, seed=0)
    assert "gradient_error_full" not in coreset.quality


def test_the_sample_does_not_change_the_coreset(model, source):
    one, two = (selector(full_examples=n).select(model, source, seed=0) for n in (0, 40))
    assert torch.equal(one.indices, two.indices) and torch.equal(one.weights, two.weights)
    assert two.quality["gradient_error_full_noise"] > 0


def test_a_handful_is_no_sample():
    with pytest.raises(ConfigError, match="full_examples must be 0, or at least 4, got 3"):
        selector(full_examples=3)
