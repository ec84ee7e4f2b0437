"""Baselines against values worked out by hand: 128 examples, batches of 64, PGD-4, 10 epochs: 10 passes an example and
epoch, 12,800 in all; GradMatch's selection 9 an example."""

import pytest

from advcore.attacks import NFGSM, LinfPGD
from advcore.attacks.memory import Memory
from advcore.config.load import from_dict, set_values
from advcore.config.yaml_reader import read
from advcore.errors import ConfigError
from advcore.minibatch.infobatch import InfoBatch
from advcore.minibatch.uniform import RandomMix, RandomSubset
from advcore.run import build
from advcore.solvers.uniform import Random
from advcore.suite.baselines import add_baselines
from advcore.suite.equal_cost import plan_cost, set_epochs
from advcore.suite.extents import Extent
from advcore.suite.layout import list_added
from advcore.suite.suite import load, resolve_methods
from advcore.training.lr import MultiStep

ADDED = list_added(None)


def counts(config):
    return Extent(128)  # without prices: costs are passes, which are worked out by hand


BASE = {
    "attack": {"name": "linf_pgd", "eps": 0.1, "steps": 4},
    "selection": None,
    "training.epochs": 10,
    "cost": {"reference_epochs": 10, "reference_steps": 4},
}
HALF = {"solver": {"name": "gradmatch"}, "budget": 0.5, "warm_start": 0, "period": None}
MARGIN = {"name": "margin", "rho": 0.2, "warm_up": 0, "clean": 0}


def _of(base: dict, changes: dict):
    return from_dict(set_values(base, changes))


@pytest.fixture(scope="module")
def base(root):
    return set_values(read(root / "experiments/linf_full.yaml"), BASE)


@pytest.fixture
def added(base):
    """The baselines that come to `full` and one other method."""

    def found(changes: dict, names=ADDED, full=None) -> dict:
        raw = set_values(base, full or {})
        methods = {"full": from_dict(raw), "method": from_dict(set_values(raw, changes))}
        return {name: c for name, c in add_baselines(methods, "full", names, counts).items() if name not in methods}

    return found


def test_a_coreset_of_half_costs_059_and_gets_every_baseline(base, added):
    assert plan_cost(from_dict(set_values(base, {"selection": HALF})), counts) == pytest.approx(0.5 + 0.09)
    found = added({"selection": HALF})
    names = ["random 0.5", "random of cost 0.59", "shortened to 6 epochs", "fewer steps (2)", "FAT", "N-FGSM"]
    assert list(found) == names
    drawn = found["random 0.5"].selection
    assert drawn.solver == Random() and (drawn.budget, drawn.warm_start, drawn.period) == (0.5, 0, None)
    assert found["shortened to 6 epochs"].training.epochs == 6
    few = found["fewer steps (2)"]  # 6 of 10 passes are 0.6, and 9.83 epochs of them 0.59
    assert (few.attack.steps, few.attack.length, few.training.epochs) == (2, pytest.approx(0.125), 10)
    assert found["FAT"].attack == LinfPGD(eps=0.1, steps=1, step_size=0.125)
    assert found["N-FGSM"].attack == NFGSM(eps=0.1)
    assert all(one.cost.reference_epochs == 10 and one.cost.reference_steps == 4 for one in found.values())


def test_a_margin_rule_costs_029_and_its_steps_are_shortened(base, added):
    """12 of 64 attacked and learned from, 64 looked at: 184 of 640 passes. One step is 4 of 10, so 7.2 epochs of it."""
    rule = {"minibatch": {"name": "margin", "rho": 0.2, "warm_up": 0, "clean": 0}}
    assert plan_cost(from_dict(set_values(base, rule)), counts) == pytest.approx(0.2875)
    found = added(rule, ("random", "shortened", "fewer_steps"))
    assert list(found) == ["random minibatch 0.2", "shortened to 3 epochs", "fewer steps (1, 7 epochs)"]
    assert found["random minibatch 0.2"].minibatch == RandomSubset(rho=0.2, clean=0)
    assert found["fewer steps (1, 7 epochs)"].training.epochs == 7


def test_the_random_twin_of_a_rule_trains_the_rest_as_the_rule_does(base, added):
    rule = {"name": "mixed", "rho": 0.4, "correction": "inverse_probability"}
    found = added({"attack.start": "remembered", "minibatch": rule}, ("random",))
    (twin,) = found.values()
    assert twin.minibatch == RandomSubset(rho=0.4, clean=0, rest="remembered", correction="inverse_probability")


def test_what_choosing_costs_is_what_random_of_equal_cost_spends(base, added):
    """59 % of 128 examples are 75; a margin rule's looks pay for random to attack 18 of 64 instead of 12."""
    (one,) = added({"selection": HALF}, ("random_of_cost",)).values()
    assert one.selection.solver == Random() and one.selection.cost == 0.59
    assert plan_cost(one, counts) == pytest.approx(75 / 128)
    (one,) = added({"minibatch": MARGIN}, ("random_of_cost",)).values()
    assert one.minibatch == RandomSubset(rho=0.2813, clean=0)
    assert plan_cost(one, counts) == pytest.approx(18 / 64)


def test_in_a_composition_random_of_equal_cost_has_more_data_or_attacks_more_of_them(base, added):
    """All data, 12 of 64 of them attacked, cost 0.19; half of the data and the margin rule 0.23."""
    small, half = ({"selection": HALF | {"budget": b}, "minibatch": MARGIN} for b in (0.1, 0.5))
    (one,) = added(small, ("random_of_cost",)).values()
    assert one.minibatch.rho == 0.2 and one.selection.cost == round(plan_cost(_of(base, small), counts), 4)
    (one,) = added(half, ("random_of_cost",)).values()
    assert one.selection.budget == 0.5 and one.selection.cost is None
    cost = plan_cost(_of(base, half), counts)
    assert cost - 0.5 / 64 < plan_cost(one, counts) <= cost


def test_a_static_random_subset_is_added_where_it_is_asked_for(base, added):
    """Beside the redrawn one, and in a composition with a rule over epochs, which stays."""
    names = list_added({"random_static": True, "shortened": False, "fewer_steps": False, "fat": False, "n_fgsm": False})
    assert names == ("random", "random_static", "random_of_cost") and "random_static" not in list_added(None)
    found = added({"selection": HALF | {"warm_start": 0.4, "period": 2}}, ("random", "random_static"))
    assert list(found) == ["random 0.5", "random static 0.5"]
    redrawn, static = (found[name].selection for name in found)
    assert (redrawn.solver, static.solver) == (Random(), Random(redraw=False))
    assert (static.budget, static.warm_start, static.period) == (0.5, 0.4, 2)
    both = added({"selection": HALF, "minibatch": {"name": "infobatch"}}, ("random", "random_static"))
    assert [one.minibatch for one in both.values()] == [InfoBatch()] * 2
    assert added({"minibatch": MARGIN}, ("random_static",)) == {}


def test_a_rule_over_epochs_alone_has_no_random_twin_and_is_planned_as_full_training(base, added):
    rule = {"minibatch": {"name": "infobatch"}}
    assert plan_cost(_of(base, rule), counts) == 1
    assert list(added(rule)) == ["FAT", "N-FGSM"]


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"selection": HALF | {"budget": 0.95}}, "it costs more than all data"),
        ({"minibatch": {"name": "loss_ranked", "p_up": 0.3}, "training.epochs": 6}, "what is learned from is no cost"),
        (
            {"minibatch": {"name": "margin", "rho": 0.2, "warm_up": 0, "clean": 0}, "attack.steps": 50},
            "below one of 64",
        ),
        ({"selection": HALF | {"solver": {"name": "random"}}}, "it is random"),
        ({"selection": {n: v for n, v in HALF.items() if n != "budget"} | {"cost": 0.27}}, "random has that cost"),
        (
            {"selection": {"solver": {"name": "gradmatch"}, "warm_start": 0, "cost": 0.28}, "minibatch": MARGIN},
            "as well",
        ),
    ],
)
def test_random_of_equal_cost_is_left_out_where_it_would_add_nothing(added, changes, why):
    steps = {name: changes[name] for name in changes if name == "attack.steps"}
    own = {name: value for name, value in changes.items() if name not in steps}
    full = steps | {"cost.reference_steps": 50} if steps else None
    assert not added(own, ("random_of_cost",), full=full), why


def test_no_baseline_costs_more_than_the_method_by_more_than_half_an_epoch(base, added):
    for budget in (0.1, 0.2, 0.3, 0.5, 0.7):
        method = {"selection": HALF | {"budget": budget}}
        cost = plan_cost(from_dict(set_values(base, method)), counts)
        for name, one in added(method, ("shortened", "fewer_steps")).items():
            assert abs(plan_cost(one, counts) - cost) <= 0.05 + 1e-9, (budget, name)


def test_a_single_step_in_the_linf_ball_is_no_longer_than_fats(base, added):
    """One of 2.5 eps ends in the ball's corners, which is known to collapse."""
    rule = {"minibatch": {"name": "margin", "rho": 0.2, "warm_up": 0, "clean": 0}}
    (few,) = added(rule, ("fewer_steps",)).values()
    assert (few.attack.steps, few.attack.length) == (1, pytest.approx(0.125))
    (few,) = added(rule, ("fewer_steps",), {"attack": {"name": "l2_pgd", "eps": 0.5, "steps": 4}}).values()
    assert few.attack.length == pytest.approx(1.25)  # where a direction has no corners


def test_random_keeps_a_wanted_cost_and_both_savings_of_a_composition(added):
    both = {"selection": {"solver": {"name": "craig"}, "cost": 0.4, "warm_start": 0}, "minibatch": {"name": "margin"}}
    found = added(both, ("random",))
    assert list(found) == ["random, cost 0.4 x random minibatch 0.25"]
    mix = added({"minibatch": {"name": "loss_ranked", "p_up": 0.3}}, ("random", "shortened"))
    assert list(mix) == ["random mix 0.3"]  # it costs more than full, so nothing is there to be shortened
    assert mix["random mix 0.3"].minibatch == RandomMix(p_up=0.3)


def test_what_is_written_down_already_is_not_added_again(base, added):
    selection = HALF | {"solver": {"name": "random"}, "attack": {"name": "linf_pgd", "eps": 0.1, "steps": 1}}
    methods = {
        "full": from_dict(base),
        "GradMatch": from_dict(set_values(base, {"selection": HALF})),
        "mine": from_dict(set_values(base, {"selection": selection})),  # a random selection attacks nothing
        "six": from_dict(set_values(base, {"training.epochs": 6})),
    }
    found = add_baselines(methods, "full", ("random", "shortened"), counts)
    assert list(found) == list(methods)
    assert not added({"selection": selection})  # nothing is chosen, so nothing has to be beaten


def test_equal_names_are_told_apart_by_what_differs(base):
    methods = {
        "full": from_dict(base),
        **{f"{p}": from_dict(set_values(base, {"selection": HALF | {"partition": p}})) for p in ("whole", "per_class")},
    }
    assert list(add_baselines(methods, "full", ("random",), counts))[3:] == [
        "random 0.5",
        "random 0.5, partition per_class",
    ]


def test_other_data_have_baselines_of_their_own(base):
    """Files are known by their name, wherever they lie."""
    full = from_dict(set_values(base, {"data": {"name": "parquet", "path": "/a/mnist"}}))
    paths = {"one": "/a/mnist", "same": "/b/mnist", "other": "/a/cifar10"}
    methods = {"full": full} | {
        name: from_dict(set_values(base, {"selection": HALF, "data": {"name": "parquet", "path": path}}))
        for name, path in paths.items()
    }
    found = add_baselines(methods, "full", ("random",), counts)
    assert list(found)[len(methods) :] == ["random 0.5", "random 0.5, path cifar10"]


def test_a_name_that_would_be_too_long_is_numbered(base):
    attack = {"name": "linf_pgd", "eps": 0.1, "steps": 1}
    long = set_values(base, {"selection": HALF, "evaluation.attacks": [attack] * 9})
    methods = {"full": from_dict(base), "a": from_dict(set_values(base, {"selection": HALF})), "b": from_dict(long)}
    assert list(add_baselines(methods, "full", ("random",), counts))[3:] == ["random 0.5", "random 0.5 (2)"]


def test_only_linf_has_fat_and_what_is_not_attacked_has_no_fewer_steps(added):
    l2 = {"attack": {"name": "l2_pgd", "eps": 0.5, "steps": 4}}
    names = ["random 0.5", "random of cost 0.59", "shortened to 6 epochs", "fewer steps (2)"]
    assert list(added({"selection": HALF}, full=l2)) == names
    plain = {"attack": None, "objective": {"name": "standard"}}
    assert [name.split()[0] for name in added({"selection": HALF}, full=plain)] == ["random", "random", "shortened"]


def test_milestones_come_as_much_earlier_as_the_run_is_shorter(base):
    schedule = {"name": "multi_step", "milestones": [5, 8], "ramp": 5}
    config = from_dict(set_values(base, {"training.lr_schedule": schedule}))
    assert set_epochs(config, 4).training.lr_schedule == MultiStep(milestones=[2, 3], ramp=2)
    assert set_epochs(config, 3).training.lr_schedule == MultiStep(milestones=[2, 2], ramp=2)  # both decays are left


def test_ramps_and_warm_ups_come_as_much_earlier_too(base):
    changes = {"eps_ramp": 5, "head_epochs": 1, "awp": {"warm_up": 5}}
    config = from_dict(set_values(base, {f"training.{name}": value for name, value in changes.items()}))
    shorter = set_epochs(config, 4).training
    assert (shorter.eps_ramp, shorter.head_epochs, shorter.awp.warm_up) == (2, 1, 2)
    share = from_dict(set_values(base, {"training.eps_ramp_share": 0.5}))
    assert set_epochs(share, 4).training.eps_ramp_share == 0.5 and set_epochs(share, 10) == share


def test_a_baseline_can_be_trained_where_the_reference_remembers(added):
    """FAT and N-FGSM begin anew each time, so the reference's way of remembering is not theirs."""
    full = {"attack.start": "remembered", "training.memory": {"precision": "float32"}}
    found = added({"selection": HALF}, full=full)
    assert found["FAT"].training.memory == Memory() and found["fewer steps (2)"].training.memory.precision == "float32"
    assert all(build.build_trainer(config) for config in found.values())


def test_a_method_whose_full_training_cannot_be_planned_is_named(added):
    plain = {"attack": None, "objective": {"name": "standard"}}
    attacked = {"attack": BASE["attack"], "objective": {"name": "pgd"}, "selection": HALF}
    with pytest.raises(ConfigError, match="method 'method': attack must be set"):
        added(attacked, full=plain)


def test_a_cost_that_nothing_has_is_told_with_the_methods_name(added):
    with pytest.raises(ConfigError, match="method 'method': cost must be at least"):
        added({"selection": HALF | {"budget": None, "cost": 0.01}})


@pytest.mark.slow
def test_the_papers_suites_on_digits_can_be_planned(root):
    """Every one whose small version is on digits, with baselines at its costs."""
    extent = Extent(1294, 143)
    suites = [load(path, "small") for path in sorted((root / "benchmarks/suites/papers").glob("*.yaml"))]
    on_digits = {suite.name: suite for suite in suites if "digits" in suite.title}
    assert len(on_digits) >= 10
    for name, suite in on_digits.items():
        found = add_baselines(resolve_methods(suite), suite.reference, suite.added, lambda config: extent)
        assert any(method.startswith("random") for method in found), name
