"""Recommended run files: what they hold, what they cost, what they say, and when there are none."""

import dataclasses

import pytest
from typer.testing import CliRunner

from advcore import cli
from advcore.attacks.memory import Memory
from advcore.config.load import from_dict, override, resolve
from advcore.config.yaml_reader import parse, read
from advcore.errors import ConfigError
from advcore.evidence import format_run_file, load_studies, recommend
from advcore.evidence.match import MOST_RATIO, find_study, read_conditions
from advcore.evidence.studies import Beside, Recipe, Study
from advcore.reporting.record import RunRecord
from advcore.run.prepare import prepare

REMEMBERED = {"name": "linf_pgd", "eps": 0.2, "steps": 1, "step_size": 0.25, "start": "remembered"}
SELECTED = {"solver": {"name": "gradmatch"}, "warm_start": 0.6, "period": 4,
            "attack": {"name": "linf_pgd", "eps": 0.2, "steps": 1}}  # fmt: skip


def make_recipe(robust: float, epochs: float = 1.0, **settings: object) -> Recipe:
    full = Beside("full", 1.0, 80.0, robust - 80, 1.5, 0.04, 0.08, "level")
    return Recipe(f"recipe {robust:g}", settings, epochs, 0.3, robust, 0.5, 3, (full,))


def make_study(*recipes: Recipe, **changes: object) -> Study:
    """A study of digits under the conditions of experiments/linf_full.yaml, unless `changes` say otherwise."""
    facts = {"suite": "s", "title": "t", "objective": "pgd", "norm": "linf", "eps": 0.1, "contents": "digits",
             "shape": (1, 8, 8), "classes": 10, "examples": 1294, "network": "small_cnn", "unit": "passes",
             "epochs": 30, "steps": 10, "evaluation": "PGD-50 on 359 test images", "varied": "Seeds 0-2.",
             "robust": 80.0}  # fmt: skip
    return Study(**facts | {"recipes": recipes} | changes)


@pytest.fixture
def values(root):
    return read(root / "experiments/linf_full.yaml")


def plan(settings):
    return prepare(from_dict(settings)).plan


def test_the_recipe_nearest_to_the_cost_is_taken_and_meets_it_by_epochs(values):
    cheap = make_recipe(70, attack=REMEMBERED)  # (2 + 3) of (20 + 3) units of compute: 0.22
    weaker = make_recipe(60, attack=REMEMBERED, epochs=0.5)
    dearer = make_recipe(75, attack=REMEMBERED, epochs=2.0)
    study = make_study(weaker, cheap, dearer)
    result = recommend(values, 0.25, [study])
    assert result.recipe is cheap
    assert result.cost <= 0.25 == result.wanted
    longer = override(result.settings, [f"training.epochs={result.settings['training']['epochs'] + 1}"])
    assert plan(longer).relative_cost > 0.25, "an epoch more would still fit"
    assert plan(result.settings).relative_cost == result.cost
    assert recommend(values, 0.9, [study]).recipe is dearer


def test_a_recipe_runs_for_at_most_half_as_many_epochs_more_than_measured(values):
    result = recommend(values, 0.9, [make_study(make_recipe(70, attack=REMEMBERED))])
    assert result.settings["training"]["epochs"] == 45 and result.cost < 0.4
    assert "epochs: 1.50 times those measured" in format_run_file(result, "f.yaml")


def test_lengths_scale_with_the_radius_and_periods_with_the_epochs(values):
    study = make_study(make_recipe(70, attack=REMEMBERED, selection=SELECTED | {"budget": 0.3}), eps=0.08, epochs=15)
    result = recommend(values, 0.5, [study])
    attack = result.settings["attack"]
    ratio = 0.1 / 0.08
    assert (attack["eps"], attack["step_size"]) == (pytest.approx(0.2 * ratio), pytest.approx(0.25 * ratio))
    assert result.settings["selection"]["period"] == 8
    assert result.settings["selection"]["attack"]["eps"] == attack["eps"]
    text = format_run_file(result, "f.yaml")
    assert "on a coreset" in text and "eps: 0.08, here 0.1" in text


def test_a_coreset_that_is_chosen_by_cost_meets_it_by_its_budget(values):
    result = recommend(values, 0.5, [make_study(make_recipe(70, selection=SELECTED | {"cost": 0.3}))])
    assert result.settings["selection"]["cost"] == 0.5 and result.settings["training"]["epochs"] == 30
    assert 0.45 < plan(result.settings).relative_cost <= 0.5


def test_the_users_selection_rule_and_steps_by_epoch_are_left_out(root):
    values = read(root / "experiments/linf_steps_by_budget.yaml")
    settings = recommend(values, 0.3, [make_study(make_recipe(70, attack=REMEMBERED))]).settings
    config = from_dict(settings)
    assert config.selection is config.minibatch is config.training.attack_steps is None


def test_the_users_memory_is_left_out_with_the_attack_unless_the_recipe_remembers(values):
    kept = values | {"attack": values["attack"] | {"start": "remembered"}}
    kept["training"] = values["training"] | {"memory": {"precision": "int8"}}
    pgd_1 = {"name": "linf_pgd", "eps": 0.1, "steps": 1, "step_size": 0.125}
    plain = from_dict(recommend(kept, 0.3, [make_study(make_recipe(70, attack=pgd_1))]).settings)
    assert plain.training.memory == Memory()
    remembered = from_dict(recommend(kept, 0.3, [make_study(make_recipe(70, attack=REMEMBERED))]).settings)
    assert remembered.training.memory == Memory(precision="int8")


def test_recipes_that_other_settings_exclude_are_named_with_the_reason(values):
    rule = {"name": "random", "rho": 0.5, "rest": "remembered", "clean": 0}
    mixed = values | {"training": values["training"] | {"cutmix": {}}}
    recipes = (make_recipe(70, attack=REMEMBERED), make_recipe(60, selection=None))
    found = recommend(mixed, 0.9, [make_study(*recipes)])
    assert [entry.reason for entry in found.excluded] and "cutmix" in found.excluded[0].reason
    assert "Excluded by the run file's settings: " in format_run_file(found, "run.yaml")
    with pytest.raises(ConfigError, match=r"FILE must be a run file to which .*cutmix"):
        recommend(mixed, 0.3, [make_study(make_recipe(70, attack=REMEMBERED, minibatch=rule))])


def test_costs_are_relative_to_the_users_full_training(values):
    settings = recommend(values, 0.25, [make_study(make_recipe(70, attack=REMEMBERED))]).settings
    full = plan(values).reference
    assert plan(settings).reference.describe() == full.describe()


def test_the_run_file_holds_the_settings_and_names_the_evidence(values):
    result = recommend(values, 0.25, [make_study(make_recipe(70, attack=REMEMBERED), network="resnet18")])
    text = format_run_file(result, "f.yaml")
    assert resolve(from_dict(parse(text, "f.yaml"))) == resolve(from_dict(result.settings))
    header = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    for phrase in ("suite s", "3 runs", "70.0 ± 0.5 %", "Seeds 0-2", "p = 0.04, corrected 0.08", "in passes",
                   "network: resnet18, here small_cnn", "no coreset of that study beats it"):  # fmt: skip
        assert phrase in header
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"norm": "l2"}, "attack.norm must be one that there is evidence for (l2), got 'linf'"),
        ({"objective": "trades"}, "objective must be one that there is evidence for (trades), got 'pgd'"),
        ({"shape": (3, 32, 32)}, "images of shape must be one that there is evidence for (3x32x32)"),
        ({"eps": 0.1 / MOST_RATIO - 0.01}, "attack.eps must be one that there is evidence for"),
    ],
)
def test_without_evidence_there_is_one_line_and_no_recipe(values, change, line):
    with pytest.raises(ConfigError) as raised:
        recommend(values, 0.25, [make_study(make_recipe(70, attack=REMEMBERED), **change)])
    assert len(raised.value.lines) == 1 and line in raised.value.lines[0]


@pytest.mark.parametrize(("cost", "line"), [(0.01, "--cost must be at least 0.1"), (0, "above 0"), (1, "below 1")])
def test_a_cost_without_evidence_is_refused_in_one_line(values, cost, line):
    with pytest.raises(ConfigError) as raised:
        recommend(values, cost, [make_study(make_recipe(70, attack=REMEMBERED))])
    assert len(raised.value.lines) == 1 and line in raised.value.lines[0]


def test_a_slightly_cheaper_run_than_any_measured_has_fewer_epochs(values):
    result = recommend(values, 0.16, [make_study(make_recipe(70, attack=REMEMBERED))])
    assert result.cost <= 0.16 and result.stretch < 1


def test_a_recipe_that_costs_a_little_more_is_shortened_rather_than_a_far_weaker_one_stretched(values):
    """Costs .13 and .26: at .2 both are within their limits, and the second is nearer."""
    weak, strong = make_recipe(50, attack=REMEMBERED, epochs=0.6), make_recipe(87, attack=REMEMBERED, epochs=1.2)
    result = recommend(values, 0.2, [make_study(weak, strong)])
    assert result.recipe is strong and result.cost <= 0.2 and result.stretch < 1


def test_a_recipe_that_another_one_of_no_higher_cost_is_ahead_of_is_not_taken(values):
    """Which of two costs more can be another order on the run file than in the study."""
    weak, strong = make_recipe(50, attack=REMEMBERED, epochs=1.1), make_recipe(87, attack=REMEMBERED)
    assert recommend(values, 0.24, [make_study(weak, strong)]).recipe is strong


@pytest.mark.parametrize("change", ["attack=null", "objective.name=standard"])
def test_training_without_an_attack_in_a_ball_has_no_evidence(values, change):
    values = override(values, ["objective.name=standard", "attack=null", change])
    with pytest.raises(ConfigError, match="attack must be one in a ball"):
        recommend(values, 0.25, [make_study(make_recipe(70, attack=REMEMBERED))])


def test_of_several_studies_the_same_data_come_first_and_then_the_nearest_length(values):
    recipe = make_recipe(70, attack=REMEMBERED)
    studies = [
        make_study(recipe, suite="other data", contents="other"),
        make_study(recipe, suite="shorter", epochs=3),
        make_study(recipe, suite="nearest", epochs=25),
        make_study(recipe, suite="longer", epochs=300),
    ]
    assert find_study(read_conditions(from_dict(values)), studies).suite == "nearest"


COMMITTED = [
    pytest.param(dataclasses.replace(study, recipes=(recipe,)), id=f"{study.suite}: {recipe.method}")
    for study in load_studies()
    for recipe in study.recipes
]


@pytest.mark.parametrize("study", COMMITTED)
@pytest.mark.slow
def test_each_committed_recipe_can_be_run_within_its_cost(values, study):
    """On digits, which have the radius of no other study: both are set to the study's."""
    values = override(values, [f"attack.eps={study.eps}", f"cost.reference_steps={study.steps}"])
    wanted = min(0.95, 1.2 * study.recipes[0].cost)
    on_digits = dataclasses.replace(study, shape=(1, 8, 8), objective="pgd")
    result = recommend(values, wanted, [on_digits])
    assert plan(result.settings).relative_cost == result.cost <= wanted


def call(*words: object):
    return CliRunner().invoke(cli.app, ["recommend", *map(str, words)])


def test_the_command_writes_a_file_once(root, tmp_path):
    out = tmp_path / "new folder" / "cheap.yaml"
    file = root / "experiments/linf_full.yaml"
    result = call(file, "--cost", 0.2, "--out", out)
    assert result.exit_code == 0, result.output
    assert "suite digits-cheap" in result.stdout and f"run {out}" in result.stdout.splitlines()[-1].replace("'", "")
    before = out.read_bytes()
    again = call(file, "--cost", 0.2, "--out", out)
    assert isinstance(again.exception, ConfigError) and "does not exist yet" in str(again.exception)
    assert out.read_bytes() == before


def test_what_cannot_be_recommended_leaves_no_file(root, tmp_path):
    out = tmp_path / "cheap.yaml"
    for file, cost in (("l2_gradmatch", 0.2), ("linf_full", 0.001), ("linf_full", 2)):
        result = call(root / f"experiments/{file}.yaml", "--cost", cost, "--out", out)
        assert isinstance(result.exception, ConfigError) and len(result.exception.lines) == 1, file
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_recommended_file_runs_and_costs_what_was_planned(root, tmp_path, tiny):
    out = tmp_path / "cheap.yaml"
    changes = [part for change in tiny if "attack.steps" not in change for part in ("--set", change)]
    result = call(root / "experiments/linf_full.yaml", "--cost", 0.3, "--out", out, *changes)
    assert result.exit_code == 0, result.output
    run = CliRunner().invoke(cli.app, ["run", str(out), "--out", str(tmp_path / "run")])
    assert run.exit_code == 0, run.output
    record = RunRecord.load(tmp_path / "run" / "record.json")
    assert record.finished and record.relative_cost <= 0.3
    assert record.relative_cost == pytest.approx(plan(read(out)).relative_cost, abs=1e-4)
