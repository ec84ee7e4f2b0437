"""What may change when a run is gone on with, and what a stop in the final evaluation keeps."""

import json
import shutil
import signal
import sys

import pytest
from safetensors.torch import load_file
from sealed import rewrite, update

from advcore import cli
from advcore.evaluation import evaluate as evaluation
from advcore.run import checkpoints, resume, run
from advcore.runtime.signals import Stopped

pytestmark = [pytest.mark.case("A8"), pytest.mark.usefixtures("tiny")]


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


@pytest.fixture(scope="module")
def command(root, tiny):
    """A run on all data: no selection is ever to come."""
    settings = [*tiny, "selection=null", "data.train_size=60"]  # 32 and 22 images an epoch
    return ["run", root / "experiments/trades_gradmatch.yaml", *(part for s in settings for part in ("--set", s))]


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    """The run of `command`, made once; nobody changes it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advcore", *map(str, command), "--out", str(out)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert leaving.value.code == 0
    return out


@pytest.fixture
def ended(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def test_more_epochs_go_where_no_selection_is_left(advcore, command, ended):
    before = record_of(ended)
    code, _, err = advcore(*command, "--set", "training.epochs=6", "--out", ended, "--resume")
    assert code == 0, err
    after = record_of(ended)
    assert after["epochs"][:4] == before["epochs"] and len(after["epochs"]) == 6 and after["finished"]
    assert after["resumes"][0]["changed"] == ["training.epochs: 4 -> 6"] and after["resumes"][0]["epoch"] == 4
    code, _, err = advcore(*command, "--set", "training.epochs=5", "--out", ended, "--resume")
    assert code == 2 and "training.epochs: 6 -> 5" in err


@pytest.mark.parametrize("more", [["selection.period=2"], ["selection.warm_start=0.5", "selection.period=null"]])
def test_more_epochs_that_would_plan_anew_are_refused_with_the_plan(advcore, root, tiny, tmp_path, more):
    settings = [*tiny, *more, "data.train_size=60", "data.test_size=20"]
    command = ["run", root / "experiments/trades_gradmatch.yaml", *(part for s in settings for part in ("--set", s))]
    assert advcore(*command, "--out", tmp_path / "run")[0] == 0
    code, _, err = advcore(*command, "--set", "training.epochs=9", "--out", tmp_path / "run", "--resume")
    assert code == 2 and "training.epochs: 4 -> 9" in err and "full epochs" in err and "selecting at" in err


def test_a_setting_that_is_newer_than_the_run_has_its_default(advcore, command, ended):
    def change(record):
        assert record["config"]["training"].pop("ema") is None

    rewrite(ended / "record.json", change)
    code, _, err = advcore(*command, "--out", ended, "--resume")
    assert code == 0 and record_of(ended)["resumes"] == [], err


def test_a_suites_run_that_is_done_stays_done_elsewhere(advcore, command, ended):
    """Its states are gone; where it is done decides nothing of it."""
    before = record_of(ended)
    shutil.rmtree(checkpoints.locate_states(ended))
    code, _, err = advcore(*command, "--set", "device=cpu", "--out", ended, "--resume")
    assert code == 0 and record_of(ended) == before, err
    code, _, err = advcore(*command, "--set", "evaluation.checks=false", "--out", ended, "--resume")
    assert code != 0 and "holds no state" in err


def test_states_at_a_period_and_how_many(advcore, command, tmp_path):
    settings = [
        "--set",
        "checkpoint.period=3",
        "--set",
        "checkpoint.kept=3",
        "--set",
        "training.epochs=8",
        "--set",
        "data.test_size=20",
    ]
    assert advcore(*command, *settings, "--out", tmp_path / "run")[0] == 0
    states = checkpoints.locate_states(tmp_path / "run")
    epochs = [json.loads((state / "values.json").read_text())["place"]["epoch"] for state in sorted(states.glob("0*"))]
    assert epochs == [3, 6, 8]
    shutil.rmtree(sorted(states.glob("0*"))[-1])
    record = record_of(tmp_path / "run")
    update(tmp_path / "run/record.json", finished=False, final={})
    code, _, err = advcore(*command, *settings, "--set", "checkpoint.period=1", "--out", tmp_path / "run", "--resume")
    assert code == 0, err
    again = record_of(tmp_path / "run")
    assert again["resumes"][0] == {"epoch": 6, "changed": ["checkpoint.period: 3 -> 1"], "damaged": []}
    assert [entry["loss"] for entry in again["epochs"]] == [entry["loss"] for entry in record["epochs"]]


@pytest.mark.slow
def test_a_stopped_final_evaluation_goes_on_from_its_verdicts(advcore, command, tmp_path, monkeypatch):
    settings = ["--set", "evaluation.batch_size=16", "--set", "training.epochs=2"]
    assert advcore(*command, *settings, "--out", tmp_path / "whole")[0] == 0
    seen = []

    def final(*arguments, **how):
        def on_chunk(done, total):
            seen.append(done)
            if len(seen) == 2:
                raise Stopped(15)

        return evaluation.evaluate(*arguments, **how | {"on_chunk": on_chunk})

    monkeypatch.setattr(run, "evaluate", final)
    assert advcore(*command, *settings, "--out", tmp_path / "run")[0] == 143
    assert advcore(*command, *settings, "--out", tmp_path / "run", "--resume")[0] == 0
    assert seen[:3] == [16, 32, 48]
    whole, again = record_of(tmp_path / "whole"), record_of(tmp_path / "run")
    assert again["final"] == whole["final"] and again["relative_cost"] == whole["relative_cost"]
    counts = [
        {phase: (own["forward"], own["backward"]) for phase, own in one["ledger"].items()} for one in (whole, again)
    ]
    assert counts[0] == counts[1]


def test_verdicts_of_other_settings_or_damaged_ones_go_with_a_word(advcore, command, ended, caplog):
    (ended / "checkpoints/last-verdicts.npz").write_bytes(b"junk")
    change = ["--set", "evaluation.attacks.0.eps=0.05"]
    assert advcore(*command, *change, "--out", ended, "--resume")[0] == 0
    assert "evaluating last again" in caplog.text
    assert record_of(ended)["final"]["last"]["attacks"][0]["eps"] == 0.05


def test_another_network_that_distances_are_measured_in_is_refused(advcore, command, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "other")
    attack = f"attack={{name: ppgd, eps: 0.5, steps: 1, network: {tmp_path / 'other'}}}"
    settings = [part for part in command if part not in ("attack.steps=2",)]
    settings = [
        part for i, part in enumerate(settings) if not (part == "--set" and settings[i + 1 : i + 2] in ([], ["--set"]))
    ]
    small = ["data.train_size=40", "data.test_size=10", "training.epochs=1", "evaluation.checks=false"]
    changes = ["objective={name: pgd}", attack, *small]
    settings += [part for change in changes for part in ("--set", change)]
    code, _, err = advcore(*settings, "--out", tmp_path / "run")
    assert code == 0, err
    assert list(record_of(tmp_path / "run")["inputs"]) == ["attack.network"]
    weights = tmp_path / "other/checkpoints/best.safetensors"
    shutil.copy(tmp_path / "run/checkpoints/last.safetensors", weights)
    shutil.copy(tmp_path / "run/checkpoints/last.json", weights.with_suffix(".json"))
    assert load_file(weights)
    update(tmp_path / "run/record.json", finished=False)
    code, _, err = advcore(*settings, "--out", tmp_path / "run", "--resume")
    assert code == 2 and "attack.network" in err


def test_a_state_alone_keeps_the_defaults_of_the_version_that_wrote_it(monkeypatch, tmp_path):
    facts = {"config": {"name": "ranked", "minibatch": {"name": "loss_ranked", "p_up": 0.5}}}
    monkeypatch.setattr(checkpoints, "load_newest", lambda path: ({}, facts, []))
    record, (line,) = resume._load_record(tmp_path)
    assert record.config["minibatch"] == {"look": "eval", "name": "loss_ranked", "p_up": 0.5} and "missing" in line


def test_a_run_goes_on_with_the_budget_that_its_cost_paid_for(advcore, root, tiny, tmp_path, monkeypatch):
    """Other versions count costs otherwise, and find another budget for the same cost."""

    def stop(*_):
        raise Stopped(signal.SIGINT)

    settings = [*tiny, "selection.period=2", "selection.budget=null", "selection.cost=0.4", "data.train_size=60"]
    command = ["run", root / "experiments/trades_gradmatch.yaml", *(part for s in settings for part in ("--set", s))]
    begin = [*command, "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(run, "_evaluate_states", stop)
        code, _, err = advcore(*begin)
    assert code != 0 and "--resume" in err, err
    began = record_of(tmp_path / "run")
    assert began["epochs"] and not began["finished"] and began["config"]["selection"]["cost"] is None
    budget = began["config"]["selection"]["budget"]

    monkeypatch.setattr("advcore.run.plan.find_budget_at_cost", lambda *_: 0.9 * budget)
    code, _, err = advcore(*command, "--set", "selection.cost=0.3", "--out", tmp_path / "run", "--resume")
    assert code == 2 and "selection.cost: 0.4 -> 0.3" in err
    code, _, err = advcore(*begin, "--resume")
    assert code == 0, err
    record = record_of(tmp_path / "run")
    assert record["finished"] and record["config"]["selection"]["budget"] == budget
    assert advcore(*begin, "--resume")[0] == 0  # finished, it stays as it is
    assert advcore(*begin, "--overwrite")[0] == 0
    assert record_of(tmp_path / "run")["config"]["selection"]["budget"] == pytest.approx(0.9 * budget)
    (tmp_path / "run" / "record.json").write_text("{")
    monkeypatch.undo()
    assert advcore(*begin, "--resume")[0] == 0  # by the state alone
