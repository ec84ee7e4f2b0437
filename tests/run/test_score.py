"""advcore score: a file that runs of other models use."""

import json
import sys

import pytest

from advcore import cli
from advcore.reporting.record import RunRecord
from advcore.selection.scores import Scores


@pytest.fixture(scope="module")
def tiny(tiny):
    """Fewer images and epochs than elsewhere: nobody looks at the accuracies of these runs."""
    return (*tiny, "data.train_size=80", "data.test_size=20", "training.epochs=3", "evaluation.checks=false")


@pytest.fixture
def advcore(monkeypatch, capsys, root, tiny):
    def call(command, file, *arguments):
        changes = [part for change in tiny for part in ("--set", change)]
        line = ["advcore", command, str(root / "experiments" / file), *changes, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        return leaving.value.code, *capsys.readouterr()

    return call


def test_scores_of_one_architecture_choose_the_coreset_of_another_and_the_record_names_them(advcore, tmp_path):
    out = tmp_path / "aign.npz"
    code, said, err = advcore("score", "easycore_trades.yaml", "--out", out)
    assert code == 0, err
    scores = Scores.load(out)
    assert scores.score == "input_norm" and scores.epochs == 3 and len(scores.values) == 72
    assert scores.sha256 in said.replace("│", "").replace("\n", "") and str(out) in said

    wider = ["--set", "model.width=6", "--set", "selection.probe_epochs=0", "--set", f"selection.solver.scores={out}"]
    code, _, err = advcore("run", "easycore_trades.yaml", *wider, "--out", tmp_path / "run")
    assert code == 0, err
    record = RunRecord.load(tmp_path / "run/record.json")
    told = record.inputs["selection.solver.scores"]
    assert told["sha256"] == scores.sha256 and told["path"] == str(out) and told["model"] == "small_cnn"
    assert record.ledger["scoring"]["forward"] == 0 and record.config["selection"]["solver"]["scores"] == str(out)

    easiest = scores.indices[scores.values.argsort(stable=True)[:36]].tolist()
    from advcore import Coreset

    (path,) = (tmp_path / "run/coresets").glob("*.npz")
    assert sorted(Coreset.load(path).indices.tolist()) == sorted(easiest)


def test_a_finished_run_is_evaluated_without_its_scores(advcore, tmp_path):
    out = tmp_path / "s.npz"
    assert advcore("score", "linf_full.yaml", "--score", "el2n", "--out", out)[0] == 0
    use = ["--set", f"selection.solver={{name: by_score, scores: {out}}}", "--out", tmp_path / "run"]
    assert advcore("run", "linf_gradmatch.yaml", *use)[0] == 0
    out.unlink()
    code, _, err = advcore("evaluate", tmp_path / "run")
    assert code == 0, err
    code, _, err = advcore("check", "linf_gradmatch.yaml", *use[:2])
    assert code == 2 and "selection.solver.scores: " in err


def test_the_attack_of_the_selection_is_checked_before_scoring(advcore, tmp_path):
    far = ["--set", "selection.attack={name: l2_pgd, eps: 100}", "--score", "adversarial_el2n"]
    code, _, err = advcore("score", "linf_gradmatch.yaml", *far, "--out", tmp_path / "s.npz")
    assert code == 2 and "selection.attack.eps" in err and not (tmp_path / "s.npz").exists()


@pytest.mark.parametrize("score", ["el2n", "adversarial_grand", "forgetting", "centre_distance"])
def test_any_score_can_be_asked_for(advcore, tmp_path, score):
    small = ["--set", "data.train_size=60", "--set", "training.epochs=2"]
    code, _, err = advcore("score", "linf_full.yaml", *small, "--score", score, "--out", tmp_path / "s.npz")
    assert code == 0, err
    assert Scores.load(tmp_path / "s.npz").score == score


@pytest.mark.parametrize(
    "file, arguments, words",
    [
        ("linf_full.yaml", ["--score", "el3n"], "--score must be one of"),
        ("linf_full.yaml", ["--score", "last_layer"], "--score must be one of"),
        ("linf_full.yaml", ["--score", "adversarial_el2n", "--set", "objective={name: standard}"], "not attacked"),
        ("linf_full.yaml", ["--out", "s.txt"], "--out must be a file that ends in .npz"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_runs(advcore, file, arguments, words):
    code, _, err = advcore("score", file, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1


@pytest.mark.case("G9")
def test_scores_of_other_data_stop_a_run_before_it_starts(advcore, tmp_path):
    code, _, err = advcore("score", "linf_full.yaml", "--score", "el2n", "--out", tmp_path / "s.npz")
    assert code == 0, err
    use = ["--set", f"selection.solver={{name: by_score, scores: {tmp_path / 's.npz'}}}", "--out", tmp_path / "run"]
    code, _, err = advcore("run", "linf_gradmatch.yaml", *use, "--set", "data.split_seed=5")
    assert code == 2 and "selection.solver.scores: " in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["score"] == "el2n"
