"""What surprises in a plan is explained beside it: epochs that do not run, and a cost above full training."""

import re

import pytest

from advcore.config.load import load
from advcore.errors import ConfigError
from advcore.reporting.record import RunRecord
from advcore.run.explanations import explain_epochs
from advcore.run.prepare import prepare
from advcore.selection.schedule import Schedule


@pytest.fixture
def plan(root):
    """The plan of a digits experiment with changes."""

    def build(*changes: str, name: str = "trades_gradmatch"):
        return prepare(load(root / f"experiments/{name}.yaml", ["data.train_size=160", *changes])).plan

    return build


@pytest.mark.parametrize(
    ("schedule", "parts"),
    [
        ((10, 0.6), ["7 of training.epochs: 10 run", "50 %", "of 6 epochs is cut to 3", "then 4 epochs on coresets"]),
        ((3, 0.6), ["2 of training.epochs: 3 run", "of 1 epoch is left out", "then 2 epochs on coresets"]),
        ((3, 0.7), ["2 of training.epochs: 3 run", "of 2 epochs is cut to 1", "then 1 epoch on coresets"]),
    ],
)
def test_epochs_that_do_not_run_are_explained_by_the_warm_start_and_the_budget(schedule, parts):
    epochs, warm_start = schedule
    told = explain_epochs(Schedule(epochs=epochs, budget=0.5, warm_start=warm_start))
    assert all(part in told for part in parts), told


@pytest.mark.parametrize(
    "schedule", [Schedule(epochs=10), Schedule(epochs=10, budget=0.5), Schedule(epochs=9, budget=0.9, warm_start=0.4)]
)
def test_where_all_epochs_run_there_is_nothing_to_explain(schedule):
    assert schedule.length == schedule.epochs and explain_epochs(schedule) is None


def test_selections_that_make_a_run_dearer_than_full_training_are_named_with_the_ways_out(plan):
    found = plan("training.epochs=8", "selection.budget=0.9", "selection.period=1")
    assert found.relative_cost > 1 and found.text.endswith("of full training; full training is cheaper")
    told = found.notes["cost"]
    share = float(re.search(r"([\d.]+) for 4 selections \(22 passes for each of 144 training examples\)", told)[1])
    assert 0 < found.relative_cost - share < 1 and "training steps" not in told
    for way in ("a longer selection.period", "fewer steps in selection.attack", "more training.epochs"):
        assert way in told
    for cheaper in ("selection.period=4", "selection.attack={name: linf_pgd, eps: 0.1, steps: 1}"):
        changed = plan("training.epochs=8", "selection.budget=0.9", "selection.period=1", cheaper)
        assert changed.relative_cost < found.relative_cost


def test_only_ways_that_there_are_are_offered(plan):
    told = plan("training.epochs=1", "selection.warm_start=0", "selection.budget=0.9").notes["cost"]
    assert "1 selection (" in told and "selection.period" not in told
    one_step = "selection.attack={name: linf_pgd, eps: 0.1, steps: 1}"
    told = plan("training.epochs=8", "selection.budget=0.99", "selection.period=1", one_step).notes["cost"]
    assert "selection.attack" not in told and "selection.period" in told


def test_a_dear_attack_a_rule_and_scores_are_named_too(plan):
    told = plan("attack.steps=40", "selection=null").notes
    assert told.keys() == {"cost"} and "for training steps" in told["cost"] and "attack.steps" in told["cost"]
    assert "no minibatch rule" in plan(name="loss_ranked_fixed").notes["cost"]
    told = plan(
        "training.epochs=2", "selection.probe_epochs=9", "selection.solver.scores=null", name="easycore_trades"
    ).notes["cost"]
    assert "for scores over epochs" in told and "selection.probe_epochs" in told and "selections" not in told


def test_ramps_that_take_another_share_than_of_full_training_are_told(plan):
    """144 images in batches of 64, after the split: 3 steps an epoch on all data and 1 on a tenth."""
    ramps = ("training.eps_ramp=5", "training.head_epochs=1", "training.awp={warm_up: 2}")
    small = ("selection.budget=0.1", "training.epochs=20", "selection.warm_start=0.5")
    lines = [
        "training.eps_ramp: 5 takes 100% of this run's steps, 25% of full training's",
        "training.head_epochs: 1 takes 23% of this run's steps, 5% of full training's",
        "training.awp.warm_up: 2 takes 31% of this run's steps, 10% of full training's",
    ]
    assert plan(*ramps, *small).notes["ramps"] == "; ".join(lines)
    assert "ramps" not in plan("training.eps_ramp_share=0.2", *small).notes
    assert "ramps" not in plan(*ramps, "selection=null").notes


@pytest.mark.parametrize("changes", [["selection=null"], ["selection.budget=1.0"], ["selection.warm_start=0"]])
def test_a_plan_without_surprises_has_no_notes(plan, changes):
    assert plan(*changes).notes == {}


def test_both_commands_print_the_plan_with_its_notes_and_the_record_keeps_the_plan(advcore, root, tiny, tmp_path):
    file = root / "experiments/trades_gradmatch.yaml"
    sets = [part for change in tiny for part in ("--set", change)]
    _, out, _ = advcore("check", file, *sets)
    assert f"{file}\n1 full epoch, then 2 at 50 %" in out and "\n3 of training.epochs: 4 run" in out
    code, out, err = advcore("run", file, *sets, "--out", tmp_path / "run")
    assert code == 0 and "\n3 of training.epochs: 4 run" in out, err
    assert "; 3 of 4 epochs run: " in RunRecord.load(tmp_path / "run/record.json").plan


def test_a_plan_refuses_images_that_nothing_can_be_remembered_of(plan):
    with pytest.raises(ConfigError, match=r"^data\.augment must be an augmentation that only moves pixels") as caught:
        plan("attack.start=remembered", "data.augment=crop+color_jitter")
    assert len(caught.value.lines) == 1
