"""Methods at a wanted cost, against epochs worked out by hand: 128 examples, PGD-4, 10 epochs of 10 passes per example.

PGD-1 takes 4 passes per example and epoch. Half of the data, selected once, cost 5 per epoch, and 9 to select.
"""

import pytest

from advcore.config.load import from_dict, set_values
from advcore.config.yaml_reader import read
from advcore.data.named import Digits
from advcore.errors import ConfigError
from advcore.suite import bench
from advcore.suite.equal_cost import match_costs, plan_cost
from advcore.suite.extents import Extent
from advcore.suite.layout import BASELINES_FILE
from advcore.suite.suite import load
from advcore.training.lr import MultiStep

BASE = {
    "attack": {"name": "linf_pgd", "eps": 0.1, "steps": 4},
    "selection": None,
    "training.epochs": 10,
    "cost": {"reference_epochs": 10, "reference_steps": 4},
}
ONE_STEP = {"attack.steps": 1, "attack.step_size": 0.1}
HALF = {"selection": {"solver": {"name": "gradmatch"}, "budget": 0.5, "warm_start": 0, "period": None}}


def count_examples(config):
    return Extent(128)  # without prices: costs are passes, which are worked out by hand


@pytest.fixture(scope="module")
def base(root):
    return set_values(read(root / "experiments/linf_full.yaml"), BASE)


@pytest.fixture
def match(base):
    def match_one(changes: dict, wanted: float):
        config = from_dict(set_values(base, changes))
        return match_costs({"method": config}, {"method": wanted}, count_examples)["method"]

    return match_one


@pytest.mark.parametrize(
    ("changes", "wanted", "epochs"),
    [
        ({}, 0.5, 5),
        ({}, 0.33, 3),
        ({}, 2, 20),
        (ONE_STEP, 0.5, 12),  # 0.48; 13 would be as far
        (ONE_STEP, 1, 25),
        (ONE_STEP, 0.04, 1),
        (HALF, 0.5, 8),  # 0.49; 9 would be 0.54
        (HALF, 1, 18),  # 0.99
    ],
)
def test_epochs_are_those_whose_cost_is_nearest(match, changes, wanted, epochs):
    config = match(changes, wanted)
    assert config.training.epochs == epochs
    assert plan_cost(config, count_examples) == pytest.approx(wanted, abs=0.031)


def test_what_is_counted_in_epochs_moves_in_proportion(match):
    schedule = {"training.lr_schedule": {"name": "multi_step", "milestones": [4, 8]}, "training.eps_ramp": 2}
    config = match(ONE_STEP | schedule, 1)
    assert isinstance(config.training.lr_schedule, MultiStep)
    assert (config.training.lr_schedule.milestones, config.training.eps_ramp) == ([10, 20], 5)


def test_a_cost_below_that_of_an_epoch_is_refused(match):
    with pytest.raises(ConfigError, match=r"method 'method': at_cost must be at least 0.04, the cost of 1 epoch, got"):
        match(ONE_STEP, 0.03)


def test_a_rule_that_needs_epochs_to_warm_up_gets_them(match):
    rule = {"minibatch": {"name": "margin", "rho": 0.5, "warm_up": 3, "clean": 0}}
    assert match(rule, 0.16).training.epochs == 3  # half of each batch is attacked
    with pytest.raises(ConfigError, match=r"at_cost must be at least 0.15, the cost of 3 epochs, got 0.14"):
        match(rule, 0.14)


def test_a_selection_of_a_cost_of_its_own_is_refused(match):
    selection = {"selection": {"solver": {"name": "random"}, "cost": 0.4, "warm_start": 0.1}}
    with pytest.raises(ConfigError, match=r"at_cost must be left out where selection\.cost is given"):
        match(selection, 0.5)


METHODS = """
methods:
  full: {selection: null}
  "one step @ {at_cost}": {selection: null, attack.steps: 1, attack.step_size: 0.1, grid: {at_cost: [0.5, 1]}}
  random: {selection: {solver: {name: random}, budget: 0.5, warm_start: 0.4, period: 2}, at_cost: 0.5}
set: {data.train_size: 160, data.test_size: 60, model.width: 4, attack.steps: 4, training.epochs: 6, data.name: digits}
baselines: false
"""


@pytest.fixture
def suite(root, tmp_path):
    """Write a suite of methods at costs, with changes to its text, and return its path."""

    def write(old: str = "", new: str = ""):
        path = tmp_path / "suite.yaml"
        text = f"name: toy\nexperiment: {root}/experiments/trades_gradmatch.yaml\nseeds: [0]\n{METHODS}"
        assert old in text
        path.write_text(text.replace(old, new) if old else text)
        return path

    return write


def test_a_suite_matches_costs_and_saves_the_epochs(suite, tmp_path, monkeypatch):
    first = bench.check_suite(suite(), out=tmp_path / "out")
    epochs = {name: config.training.epochs for name, config in first.methods.items()}
    assert list(epochs) == ["full", "one step @ 0.5", "one step @ 1", "random"]
    assert epochs["full"] == 6 and epochs["one step @ 1"] == 2 * epochs["one step @ 0.5"] > 6
    bench.execute(first, [], lambda *arguments: None, seconds=1)
    assert (tmp_path / "out" / BASELINES_FILE).exists()
    monkeypatch.setattr(Digits, "sketch", lambda self: pytest.fail("the data are read again"))
    again = bench.check_suite(suite(), out=tmp_path / "out")
    assert again.methods == first.methods


def test_a_changed_cost_is_planned_again(suite, tmp_path):
    first = bench.check_suite(suite(), out=tmp_path / "out")
    bench.execute(first, [], lambda *arguments: None, seconds=1)
    again = bench.check_suite(suite("at_cost: [0.5, 1]", "at_cost: [0.5, 2]"), out=tmp_path / "out")
    assert again.methods["one step @ 2"].training.epochs == 4 * again.methods["one step @ 0.5"].training.epochs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("at_cost: 0.5}", "at_cost: 0}", "method 'random': at_cost must be a number above 0, at most 100, got 0"),
        ("at_cost: 0.5}", "at_cost: half}", "at_cost must be a number above 0, at most 100, got 'half'"),
        ("at_cost: 0.5}", "at_cost: 101}", "at_cost must be a number above 0, at most 100, got 101"),
        ("[0.5, 1]", "[0.5, true]", r"at_cost must be a number above 0, at most 100, got True"),
        (
            "full: {selection: null}",
            "full: {selection: null, at_cost: 1}",
            "left out of the reference, whose cost is 1",
        ),
        ("at_cost: 0.5}", "at_cost: 0.5, training.epochs: 3}", "left out where training.epochs is given"),
        ("baselines: false", "baselines: false\nreference: null", "left out where reference is null"),
    ],
)
def test_a_wrong_cost_is_one_line(suite, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load(suite(old, new))
