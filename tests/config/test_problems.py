"""Problems as values: what they hold, the line that they become, and which are found beside a wrong type."""

import dataclasses

import pytest

from advcore.attacks import LinfPGD
from advcore.config.load import Change, from_dict, list_changes
from advcore.errors import ConfigError, SettingProblem, UserError, check, check_at_least, check_one_of, must, require
from advcore.settings import settings
from advcore.training.attack_steps import ByBudget

RUN = {
    "name": "x",
    "data": {"name": "digits"},
    "model": {"name": "small_cnn"},
    "objective": {"name": "trades"},
    "attack": {"name": "linf_pgd", "eps": 0.1},
    "training": {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.05}},
    "evaluation": {"attacks": [{"name": "linf_pgd", "eps": 0.1}]},
}


def test_a_problem_is_its_parts_and_one_line():
    problem = must("eps", "at most 1", 8 / 255, "write less")
    assert problem == SettingProblem("eps", "must be at most 1", "8/255", "write less")
    assert str(problem) == "eps must be at most 1, got 8/255; write less"
    assert str(problem.inside("attack.").inside("method 'a': ")) == f"method 'a': attack.{problem}"
    assert check(True, "eps", "at most 1", 8) is None and check(0, "eps", "at most 1", 8) == must("eps", "at most 1", 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.path = "x"


def test_a_text_is_a_problem_too():
    (problem,) = UserError("eps is\nodd").problems
    assert (problem.path, str(problem), str(problem.inside("attack."))) == ("", "eps is\\nodd", "attack.eps is\\nodd")


def test_an_error_holds_its_problems_and_is_a_line_for_each():
    error = ConfigError(must("a\nb", "set", None), "a text", SettingProblem("c", "is missing", way_out="set it"))
    assert error.lines == ("a\\nb must be set, got None", "a text", "c is missing; set it")
    assert str(error) == "\n".join(error.lines) and [problem.path for problem in error.problems] == ["a\nb", "", "c"]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (
            ConfigError("eps is odd", must("steps", "even", 3)),
            ("attack.eps is odd", "attack.steps must be even, got 3"),
        ),
        (ValueError("eps is\nodd"), ("attack.eps is\\nodd",)),
    ],
)
def test_what_a_class_of_somebody_else_raises_gets_its_path(monkeypatch, error, lines):
    def refuse(self):
        raise error

    monkeypatch.setattr(LinfPGD, "__post_init__", refuse)
    with pytest.raises(ConfigError) as caught:
        from_dict(RUN | {"evaluation": {"attacks": []}})
    assert caught.value.lines == lines


def test_checks_of_values_never_meet_a_wrong_type_and_blame_nothing_for_it():
    met = []

    @settings
    class Thresholds:
        low: float
        names: list[str]
        most: int | None
        high: float = 1.0
        kind: str = "a"

        def __post_init__(self):
            met.append((repr(self.low), self.names, self.most, self.high, self.kind))
            require(
                check(self.low < 2, "low", "below 2", self.low),
                check(self.low < self.high, "low, high", "in order", self.low),
                check_one_of("kind", self.kind, ["a", "b"]),
                check_at_least("most", self.most, 1),
            )

    for values, seen, lines in [
        ({"low": 2.0, "names": "a"}, ("2.0", (), 3, 1.0, "a"),
         ["low must be below 2, got 2.0", "low, high must be in order, got 2.0", "names must be a list, got 'a'"]),
        ({"low": "x", "high": 0.0}, ("nan", ["a"], 3, 0.0, "a"), ["low must be below 2, got 'x'"]),
        ({"kind": 3, "names": [4]}, ("0.0", (), 3, 1.0, ""),
         ["kind must be one of a, b, got 3", "names.0 must be text, got 4"]),
    ]:  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            Thresholds(**{"low": 0.0, "names": ["a"], "most": 3} | values)
        assert list(caught.value.lines) == lines and met[-1] == seen
    with pytest.raises(ConfigError, match="^most must be a whole number of at least 1, got '3'$"):
        Thresholds(low=0.0, names=[], most="3")


def test_several_settings_are_not_blamed_where_one_of_them_has_the_wrong_type():
    with pytest.raises(ConfigError) as caught:
        ByBudget(mean="x", first=20)
    assert caught.value.lines == ("mean must be a number above 0, got 'x'",)
    with pytest.raises(ConfigError) as caught:
        from_dict(
            RUN | {"training": RUN["training"] | {"attack_steps": {"name": "by_budget", "mean": 3, "first": "x"}}}
        )
    assert caught.value.lines == ("training.attack_steps.first must be a whole number, got 'x'",)


def test_a_tuple_is_read_as_the_list_that_it_is_written_as():
    attack = RUN["attack"]
    config = from_dict(RUN | {"evaluation": {"attacks": (attack, attack)}})
    assert len(config.evaluation.attacks) == 2
    with pytest.raises(ConfigError) as caught:
        from_dict(RUN | {"evaluation": {"attacks": (attack, attack | {"steps": "x", "restarts": 0})}})
    assert caught.value.lines == (
        "evaluation.attacks.1.steps must be a whole number, got 'x'",
        "evaluation.attacks.1.restarts must be a whole number of at least 1, got 0",
    )


def test_sections_that_hold_a_wrong_type_leave_the_checks_of_the_others():
    training = {"epochs": 0, "batch_size": "x", "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 2}}
    with pytest.raises(ConfigError) as caught:
        from_dict(RUN | {"training": training, "device": "gpu"})
    assert sorted(problem.path for problem in caught.value.problems) == [
        "device", "training.batch_size", "training.epochs", "training.optimizer.momentum",
    ]  # fmt: skip


@pytest.mark.parametrize("section", ["", "training", "selection", "cost"])
def test_a_key_may_have_the_name_of_a_class(section):
    selection = {"solver": {"name": "random"}}
    run = RUN | {"selection": selection}
    names = {"": "RunConfig", "training": "TrainingConfig", "selection": "SelectionConfig", "cost": "CostConfig"}
    wrong = {names[section]: 1}
    run |= {section: run.get(section, {}) | wrong} if section else wrong
    with pytest.raises(ConfigError) as caught:
        from_dict(run)
    (line,) = caught.value.lines
    assert line.startswith(
        f"{section and section + '.'}{names[section]} is not a setting of {section or 'the run file'};"
    )


def test_a_change_is_its_parts_and_one_line():
    (change,) = list_changes({"a": {"b": 8 / 255}}, {"a": {"b": 0.5}})
    assert change == Change("a.b", 8 / 255, 0.5) and str(change) == "a.b: 8/255 -> 0.5"
