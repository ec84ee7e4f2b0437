"""advcore score: a file that runs of other models use."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from advcore import Coreset, cli
from advcore.config.load import load
from advcore.errors import ConfigError
from advcore.reporting.record import RunRecord
from advcore.rng import Stream
from advcore.run.build import build_trainer
from advcore.run.prepare import prepare
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.training.progress import Listener


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

    wider = ["--set", "model.width=6", "--set", f"selection.solver.scores={out}"]
    code, _, err = advcore("run", "easycore_trades.yaml", *wider, "--out", tmp_path / "run")
    assert code == 0, err
    record = RunRecord.load(tmp_path / "run/record.json")
    told = record.inputs["selection.solver.scores"]
    assert told["sha256"] == scores.sha256 and told["path"] == str(out) and told["model"] == "small_cnn"
    assert record.ledger["scoring"]["forward"] == 0 and record.config["selection"]["solver"]["scores"] == str(out)

    easiest = scores.indices[scores.values.argsort(stable=True)[:36]].tolist()
    (path,) = (tmp_path / "run/coresets").glob("*.npz")
    assert sorted(Coreset.load(path).indices.tolist()) == sorted(easiest)


def sum_input_norms(config) -> torch.Tensor:
    """Train, and after each epoch take the norm of the loss's gradient with respect to each image alone: their sums."""
    prepared = prepare(config, scores=False)
    source = prepared.data.train
    sums = torch.zeros(len(source), dtype=torch.float64)

    def measure_each(model):
        model.eval()
        for i in range(len(source)):
            _, x, y = next(source.batches([torch.tensor([i])]))
            x = x.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
            sums[i] += gradient.double().norm()
        model.train()

    trainer = replace(prepared.trainer, schedule=Schedule(epochs=config.training.epochs), selector=None)
    listener = Listener(on_model=measure_each)
    trainer.fit(prepared.model, source, seed=config.seed, augment=prepared.data.augment, listener=listener)
    return sums


def test_easycore_keeps_the_smallest_average_input_gradients_of_standard_training_chosen_once(
    advcore, root, tiny, tmp_path
):
    """As the abstract has it: AIGN is averaged over the training of one network, once; runs of other seeds read it."""
    out = tmp_path / "aign.npz"
    code, _, err = advcore("score", "easycore_standard.yaml", "--set", "attack=null", "--out", out)
    assert code == 0, err
    scores = Scores.load(out)
    sums = sum_input_norms(load(root / "experiments/easycore_standard.yaml", [*tiny, "attack=null"]))
    assert (scores.objective, scores.epochs) == ("standard", 3) and torch.allclose(scores.values, sums / 3)

    easiest = set(scores.indices[sums.argsort(stable=True)[: len(sums) // 2]].tolist())
    for seed in (0, 1):
        folder = tmp_path / f"run{seed}"
        use = ["--set", f"seed={seed}", "--set", f"selection.solver.scores={out}", "--out", folder]
        code, _, err = advcore("run", "easycore_trades.yaml", *use)
        assert code == 0, err
        record = RunRecord.load(folder / "record.json")
        assert [selection["partition"] for selection in record.selections] == ["whole"]
        assert record.pretraining["passes"] == scores.passes and record.ledger["scoring"]["forward"] == 0
        (path,) = (folder / "coresets").glob("*.npz")
        assert set(Coreset.load(path).indices.tolist()) == easiest


def count_successes(config) -> torch.Tensor:
    """Train, and attack each example alone after each epoch: in how many of the epochs it is misclassified."""
    prepared = prepare(config)
    source, attack = prepared.data.train, config.attack
    wrong = torch.zeros(len(source), dtype=torch.float64)

    def attack_each(model):
        model.eval()
        for i in range(len(source)):
            _, x, y = next(source.batches([torch.tensor([i])]))
            numbers = Stream(seed=config.seed, purpose="scoring").at(torch.tensor([i]))
            x_adv = attack(lambda z, y=y: F.cross_entropy(model(z), y, reduction="none"), x, generator=numbers)
            wrong[i] += int(model(x_adv).argmax()) != int(y)
        model.train()

    listener = Listener(on_model=attack_each)
    prepared.trainer.fit(prepared.model, source, seed=config.seed, augment=prepared.data.augment, listener=listener)
    return wrong


def test_learning_stability_is_of_adversarial_training_under_attack_and_balanced_over_classes(
    advcore, root, tiny, tmp_path
):
    out = tmp_path / "stability.npz"
    small = ["data.train_size=40", "training.epochs=2", "training.optimizer.lr=0.2"]
    sets = [part for change in small for part in ("--set", change)]
    code, said, err = advcore("score", "linf_full.yaml", *sets, "--out", out)
    assert code == 0, err
    scores = Scores.load(out)
    assert scores.score == "adversarial_instability" and scores.passes == count_passes(said)
    assert scores.passes == 2 * 36 * ((2 * 2 + 2) + (2 * 2 + 1))  # of training, and of the scores of each epoch
    config = load(root / "experiments/linf_full.yaml", [*tiny, *small])
    wrong = count_successes(config)
    assert torch.equal((2 * scores.values).round(), wrong) and len(wrong.unique()) > 1
    assert "keep: easiest" in said.replace("│", "").replace("\n", " ")

    use = ["--set", f"selection.solver.scores={out}", "--out", tmp_path / "run"]
    code, _, err = advcore("run", "stability_trades.yaml", *sets, *use)
    assert code == 0, err
    record = RunRecord.load(tmp_path / "run/record.json")
    assert record.pretraining == {"run": str(out), "passes": scores.passes, "flops": scores.flops}
    assert record.ledger["scoring"]["forward"] == 0
    (path,) = (tmp_path / "run/coresets").glob("*.npz")
    chosen = Coreset.load(path).indices.tolist()
    labels = prepare(config).data.whole
    stability = dict(zip(scores.indices.tolist(), scores.values.tolist(), strict=True))
    for label in range(10):
        members = [i for i in stability if int(labels[i]) == label]
        kept = [i for i in members if i in chosen]
        assert abs(len(kept) - len(members) / 2) < 1
        assert max((stability[i] for i in kept), default=0) <= min(stability[i] for i in {*members} - {*kept})


def test_scores_of_attacked_images_serve_training_without_an_attack(root):
    assert build_trainer(load(root / "experiments/stability_standard.yaml", []))
    with pytest.raises(ConfigError, match="solver.points must be clean for an objective that is not attacked"):
        build_trainer(load(root / "experiments/stability_standard.yaml", ["selection.solver.scores=null"]))


def test_a_file_of_scores_that_is_not_there_is_one_line_with_the_way_out(advcore, tmp_path):
    code, _, err = advcore("check", "stability_trades.yaml", "--set", f"selection.solver.scores={tmp_path / 's.npz'}")
    line = f"advcore: selection.solver.scores: {tmp_path / 's.npz'} is missing; create it with `advcore score`"
    assert code == 2 and err.replace("\n", " ").strip() == line


def count_passes(said: str) -> int:
    return int(re.search(r"passes[^│]*│ ([\d,]+)", said)[1].replace(",", ""))


def test_the_cost_is_that_of_training_on_all_data_and_of_the_scores_of_every_epoch(advcore, tmp_path):
    _, planned, _ = advcore("check", "linf_full.yaml")
    code, said, err = advcore("score", "linf_full.yaml", "--score", "el2n", "--out", tmp_path / "s.npz")
    assert code == 0, err
    assert count_passes(said) == count_passes(planned) + 3 * 72  # a forward pass of each example after each epoch


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
