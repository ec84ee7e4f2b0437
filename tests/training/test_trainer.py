"""The loop: the same bits twice, what each epoch trains on, exact cost, what is kept."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from kernels import by_plain_kernels
from torch.utils.data import TensorDataset

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.objectives import Pgd, Standard, Trades
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, EasyCore, GradMatch, Random
from advcore.training import SGD, Adam, Constant
from advcore.training.loop import Listener
from advcore.training.plan import count_planned_units, plan_reference, plan_step

ATTACK = LinfPGD(eps=0.1, steps=2)


def trainer(
    solver=None, objective=None, *, epochs=4, budget=0.5, warm=0.5, period=1, partition="per_class", **settings
) -> Trainer:
    objective = objective or Pgd()
    chooser = solver and AdversarialCoreset(
        objective=objective, solver=solver, attack=ATTACK, budget=budget, partition=partition, block_size=16
    )
    schedule = (
        Schedule(epochs=epochs, budget=budget, warm_start=warm, period=period) if solver else Schedule(epochs=epochs)
    )
    settings = {"optimizer": SGD(lr=0.05), "batch_size": 16, "probe_examples": 32, **settings}
    return Trainer(objective=objective, attack=ATTACK, schedule=schedule, selector=chooser, **settings)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.case("A1", "A6")
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("solver", [Random(), Craig(), GradMatch(), EasyCore()], ids=lambda s: type(s).__name__)
@pytest.mark.slow
def test_same_seed_same_bits_whatever_the_global_state(model, source, solver, objective):
    made = trainer(solver, objective, period=None, batch_size=32)
    one = made.fit(copy.deepcopy(model), source, source, seed=1)
    torch.manual_seed(99)
    np.random.seed(3)
    before = torch.get_rng_state()
    two = made.fit(copy.deepcopy(model), source, source, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert equal(one.last, two.last) and equal(one.best, two.best)
    assert not equal(one.last, made.fit(copy.deepcopy(model), source, source, seed=2).last)


@pytest.mark.case("A1")
@by_plain_kernels
def test_looking_at_validation_or_not_does_not_change_training(model, source):
    made = trainer(GradMatch())
    assert equal(
        made.fit(copy.deepcopy(model), source, source, seed=0).last, made.fit(copy.deepcopy(model), source, seed=0).last
    )


@pytest.mark.case("G4")
@by_plain_kernels
def test_budget_1_is_bitwise_the_full_run(model, source):
    full = trainer().fit(copy.deepcopy(model), source, seed=0)
    kept = trainer(GradMatch(), budget=1.0).fit(copy.deepcopy(model), source, seed=0)
    assert equal(full.last, kept.last) and full.ledger.passes == kept.ledger.passes


@pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("solver", [None, Random(), GradMatch(), EasyCore()], ids=lambda s: type(s).__name__)
@by_plain_kernels
def test_the_ledger_equals_the_plan_exactly(model, source, solver, objective):
    made = trainer(solver, objective, batch_size=40)  # batches of 40, 40 and 16
    trained = made.fit(model, source, source, seed=0)
    assert trained.ledger.sum_units() == count_planned_units(made, 96)


@by_plain_kernels
def test_the_full_run_costs_its_reference(model, source):
    trained = trainer().fit(model, source, seed=0)
    assert (
        trained.ledger.sum_units()
        == plan_reference(Pgd(), ATTACK, 96, epochs=4, steps=2).units
        == 4 * 96 * plan_step(Pgd(), ATTACK).units
    )


@by_plain_kernels
def test_epochs_train_on_what_the_plan_says(model, source):
    trained = trainer(Craig(), epochs=6, warm=0.34, period=2).fit(model, source, seed=0)
    assert [e["action"] for e in trained.epochs] == ["full", "select", "reuse", "select", "reuse"]
    assert [e["examples"] for e in trained.epochs] == [96, 48, 48, 48, 48]
    assert [c.epoch for c in trained.coresets] == [1, 3]
    assert trained.coresets[1].quality["overlap"] is not None


@by_plain_kernels
def test_whole_blocks_are_replayed_and_others_are_shuffled(model, source):
    seen: list[list[list[int]]] = []
    original = type(source).batches

    class Watched(type(source)):
        def batches(self, chunks):
            if self.training:
                seen.append([sorted(chunk.tolist()) for chunk in chunks])
            return original(self, chunks)

    source.__class__ = Watched
    source.training = False
    listener = Listener(on_coreset=lambda c: setattr(source, "training", True))
    trained = trainer(GradMatch(), partition="per_batch", period=None, warm=0.0).fit(
        model, source, seed=0, listener=listener
    )
    coreset = trained.coresets[0]
    blocks = sorted(sorted(coreset.indices[coreset.blocks == b].tolist()) for b in coreset.blocks.unique())
    assert len(seen) == 4 and all(sorted(epoch) == blocks for epoch in seen)
    assert len({str(epoch) for epoch in seen}) > 1


@pytest.mark.case("E9")
@by_plain_kernels
def test_best_is_the_state_of_the_best_validation_epoch(model, source):
    states = {}
    made = trainer(optimizer=Adam(lr=0.02), lr_schedule=Constant())
    keep = Listener(
        on_model=lambda m: states.__setitem__(len(states), {k: v.clone() for k, v in m.state_dict().items()})
    )
    trained = made.fit(model, source, source, seed=0, listener=keep)
    scores = [entry["robust"] for entry in trained.epochs]
    assert trained.best_epoch == scores.index(max(scores))
    assert equal(trained.best, states[trained.best_epoch]) and equal(trained.last, states[3])


@pytest.mark.case("E9")
def test_without_validation_best_is_last(model, source):
    trained = trainer().fit(model, source, seed=0)
    assert trained.best_epoch is None and equal(trained.best, trained.last)


@by_plain_kernels
def test_the_moving_average_is_what_is_kept(model, source):
    raw, averaged = copy.deepcopy(model), copy.deepcopy(model)
    one = trainer().fit(raw, source, seed=0)
    two = trainer(ema=0.9).fit(averaged, source, seed=0)
    assert equal(one.last, dict(averaged.state_dict())) and not equal(two.last, one.last)
    still = trainer(ema=0.0).fit(copy.deepcopy(model), source, seed=0)
    assert equal(still.last, one.last)


@pytest.mark.parametrize(
    "changes, steps", [({"eps_ramp": 1}, 6), ({"eps_ramp_share": 0.75}, 9), ({"eps_ramp_share": 1.0}, 12)]
)
@by_plain_kernels
def test_the_ball_grows_over_epochs_on_all_data_or_over_a_share_of_the_steps_that_run(model, source, changes, steps):
    """Of a run on coresets: 6 steps of 16 of the 96 images, then two epochs of 3 on the half."""
    sizes = []

    class Spy(LinfPGD):
        def __call__(self, loss_fn, x, *, generator):
            sizes.append(self.eps)
            return super().__call__(loss_fn, x, generator=generator)

    made = Trainer(
        objective=Pgd(),
        attack=Spy(eps=0.3, steps=1),
        schedule=Schedule(epochs=4, budget=0.5, warm_start=0.5),
        selector=AdversarialCoreset(objective=Pgd(), solver=Random(), attack=LinfPGD(eps=0.3), budget=0.5),
        optimizer=SGD(lr=0.01),
        batch_size=16,
        **changes,
    )
    made.fit(model, source, seed=0)
    assert len(sizes) == 12 and set(sizes[steps:]) <= {0.3}
    assert sizes[:steps] == pytest.approx([0.3 * (i + 1) / steps for i in range(steps)])


@by_plain_kernels
def test_easycore_scores_come_from_the_warm_start_or_from_a_probe(model, source):
    warm = trainer(EasyCore(), partition="whole").fit(copy.deepcopy(model), source, seed=0)
    assert sum(warm.ledger.passes["scoring"].values()) == 96 * 2 * 1
    probe = trainer(EasyCore(), partition="whole", warm=0.0, period=None, probe_epochs=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = probe.fit(model, source, seed=0)
    assert sum(trained.ledger.passes["scoring"].values()) == 96 * 2 * 4
    assert len(trained.coresets) == 1 and not equal(before, trained.last)
    with pytest.raises(ConfigError, match="probe_epochs must be at least 1"):
        trainer(EasyCore(), warm=0.0)


@by_plain_kernels
def test_learning_rates_follow_milestones_of_the_full_run(model, source):
    from advcore.training import MultiStep

    made = trainer(Random(), epochs=10, warm=0.6, period=2, lr_schedule=MultiStep(milestones=[7]))
    trained = made.fit(model, source, seed=0)
    assert [e["lr_index"] for e in trained.epochs] == [0, 1, 2, 6, 7, 8, 9]
    assert [round(e["lr"], 6) for e in trained.epochs] == [0.05] * 4 + [0.005] * 3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 1),
        ("normalise", "x"),
        ("eps_ramp", -1),
        ("eps_ramp_share", 1.5),
        ("ema", 2),
        ("clip_norm", 0),
        ("probe_examples", 0),
    ],
)
def test_bad_settings_name_themselves_and_their_value(setting, value):
    with pytest.raises(ConfigError) as error:
        trainer(**{setting: value})
    assert setting in str(error.value) and repr(value) in str(error.value)


def test_a_ramp_has_one_length():
    with pytest.raises(ConfigError) as error:
        trainer(eps_ramp=2, eps_ramp_share=0.5)
    line = "eps_ramp_share must be 0 with eps_ramp, got 0.5; one of them says how long the ramp is"
    assert str(error.value) == line


def test_a_selector_that_contradicts_its_trainer_is_refused():
    other = trainer(GradMatch()).selector
    for change in ({"schedule": Schedule(epochs=4, budget=0.25)}, {"normalise": "batch"}, {"attack_mode": "train"}):
        with pytest.raises(ConfigError, match="selector"):
            dataclasses.replace(trainer(GradMatch()), selector=other, **change)


def test_a_probe_for_a_solver_that_reads_no_scores_is_refused():
    with pytest.raises(ConfigError, match="probe_epochs must be 0"):
        trainer(GradMatch(), probe_epochs=2)


@by_plain_kernels
def test_the_probe_is_a_fair_sample_of_sorted_validation_data(model, source):
    order = source.labels().argsort()
    ordered = Resident(source._images[order], source.labels()[order])
    seen = []
    original = Resident.batches
    ordered.batches = lambda chunks: (seen.extend(torch.cat(list(chunks)).tolist()), original(ordered, chunks))[1]
    trainer(probe_examples=48).fit(model, source, ordered, seed=0)
    counts = torch.bincount(ordered.labels()[seen[2:50]])  # two for a look at whether they fit the model
    assert counts.tolist() == [20, 15, 10, 3]


def test_a_streamed_data_set_trains_to_the_same_bits_as_a_resident_one(model, source):
    plain = TensorDataset(source._images, source.labels())
    made = trainer(GradMatch(), epochs=2, warm=0.0)
    one = made.fit(copy.deepcopy(model), source, source, seed=0)
    two = made.fit(copy.deepcopy(model), plain, plain, seed=0)
    assert equal(one.last, two.last) and torch.equal(one.coresets[0].weights, two.coresets[0].weights)


def test_objective_attack_and_budget_are_given_once():
    """`solver` and `budget` stand for a selector and a schedule that say the same as the trainer."""
    shared = {"objective": Trades(beta=2.0), "attack": ATTACK, "optimizer": SGD(lr=0.05), "head": "fc"}
    shared |= {"batch_size": 16, "attack_mode": "train", "normalise": "none"}
    selector = AdversarialCoreset(
        objective=Trades(beta=2.0), attack=ATTACK, solver=GradMatch(), budget=0.3, head="fc", block_size=16,
        attack_mode="train", normalise="none",
    )  # fmt: skip
    by_hand = Trainer(**shared, selector=selector, schedule=Schedule(epochs=4, budget=0.3, period=1))
    when = Schedule(epochs=4, period=1)
    for solver in ("gradmatch", GradMatch()):
        assert Trainer(**shared, solver=solver, budget=0.3, schedule=when) == by_hand
    assert Trainer(**shared, solver="gradmatch", schedule=dataclasses.replace(when, budget=0.3)) == by_hand
    assert Trainer(**shared, selector=dataclasses.replace(selector, budget=0.5), budget=0.3, schedule=when) == by_hand
    assert dataclasses.replace(by_hand, clip_norm=None) == by_hand
    smaller = dataclasses.replace(by_hand, budget=0.2)
    assert (smaller.schedule.budget, smaller.selector.budget) == (0.2, 0.2)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"solver": "gradmatch"},
            "budget must be set where a solver is, got None; such as 0.5, .*",
        ),
        ({"budget": 0.5}, "selector must be set for a schedule with a budget below 1, got None; or name a solver"),
        ({"budget": 2, "solver": "craig"}, r"budget must be a share in \(0, 1\], got 2; .*"),
        ({"budget": 0.5, "solver": "crag"}, "solver must be a solver, such as .*, got 'crag'.*"),
        ({"budget": 0.5, "solver": "craig", "schedule": 4}, "schedule must be an object of the class .*, got 4"),
    ],
)
def test_what_is_given_once_and_wrong_is_one_line(given, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        Trainer(objective=Pgd(), attack=ATTACK, optimizer=SGD(lr=0.05), **{"schedule": Schedule(epochs=4)} | given)


def test_a_solver_beside_a_selector_is_refused():
    with pytest.raises(ConfigError, match="^solver must be left out with a selector, which has one, got 'craig'$"):
        dataclasses.replace(trainer(GradMatch()), solver="craig")
