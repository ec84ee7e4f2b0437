"""Labels of a pool by a teacher: what they are, what they cost, that they are predicted once, and what is refused."""

import hashlib

import numpy as np
import pytest
import torch

from advcore.config.load import load
from advcore.data.relabelled import Relabelled, relabel
from advcore.data.source import Resident, Streamed
from advcore.errors import UserError
from advcore.files import load_arrays
from advcore.reporting.record import RunRecord
from advcore.run import build, teacher, weights
from advcore.run.prepare import prepare

TINY = ["data.train_size=80", "data.test_size=20", "model.width=4", "attack.steps=1", "training.batch_size=32"]
TINY += ["training.epochs=1", "evaluation.attacks.0.steps=2", "evaluation.checks=false"]


@pytest.fixture
def pool(tmp_path):
    path = tmp_path / "pool.npz"
    np.savez(path, image=np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    return path


@pytest.fixture
def bare(root, tmp_path):
    """Random weights of the run file's network, in a file."""
    config = load(root / "experiments/linf_full.yaml", [*TINY, "seed=5"])
    data = config.data.load(torch.device("cpu"))
    model = build.build_model(config, data, torch.device("cpu"))
    path = tmp_path / "teacher.pt"
    torch.save(model.state_dict(), path)
    return path, model


def pseudo(root, pool, name, *more):
    changes = [f"data.pool={{path: {pool}, share: 0.5, labels: pseudo, teacher: {name}}}", *TINY, *more]
    return load(root / "experiments/linf_full.yaml", changes)


def test_an_unlabelled_pool_gets_the_classes_that_the_teacher_predicts_once(root, tmp_path, pool, bare, monkeypatch):
    path, model = bare
    prepared = prepare(pseudo(root, pool, path))
    source = prepared.data.train.pool
    ((_, x, _),) = source.batches([torch.arange(60)])
    expected = model.eval()(x).argmax(1)
    assert torch.equal(source.labels(), expected) and len(expected.unique()) > 1
    facts = prepared.inputs["data.pool.teacher"]
    assert facts["sha256"] == weights.compute_weights_hash(path) and facts["passes"] == 60 and facts["flops"] > 0
    assert facts["labels"] == hashlib.sha256(expected.numpy().tobytes()).hexdigest()
    assert prepared.pretraining == {"run": f"labels by {path}", "passes": 60, "flops": facts["flops"]}
    assert f"pool: labels predicted by {path}" in prepared.data.describe()

    monkeypatch.setattr(teacher, "predict_labels", None)  # the labels that were kept are read
    again = prepare(pseudo(root, pool, path, "seed=1"))
    assert again.inputs == prepared.inputs and again.pretraining == prepared.pretraining
    assert torch.equal(again.data.train.pool.labels(), expected)
    monkeypatch.undo()

    (kept,) = tmp_path.glob("pool-labels-*.npz")
    kept.write_bytes(kept.read_bytes()[:-3])  # damaged: predicted again
    assert prepare(pseudo(root, pool, path)).inputs == prepared.inputs
    torch.save({name: -value for name, value in model.state_dict().items()}, path)
    other = prepare(pseudo(root, pool, path))
    assert other.inputs["data.pool.teacher"]["sha256"] != facts["sha256"]
    arrays, saved = load_arrays(kept)
    assert saved["teacher"] == other.inputs["data.pool.teacher"]["sha256"]
    assert torch.equal(torch.from_numpy(arrays["labels"]), other.data.train.pool.labels())


@pytest.mark.slow
def test_a_run_is_a_teacher_whose_cost_is_pretraining(advcore, root, tmp_path, pool):
    def run(*changes, out, more=()):
        overrides = [part for change in (*TINY, *changes) for part in ("--set", change)]
        code, _, err = advcore("run", root / "experiments/linf_full.yaml", "--out", out, *overrides, *more)
        assert code == 0, err
        return RunRecord.load(out / "record.json")

    first = run("model.width=8", out=tmp_path / "teacher")
    change = f"data.pool={{path: {pool}, share: 0.5, labels: pseudo, teacher: {tmp_path / 'teacher'}}}"
    record = run(change, out=tmp_path / "student")
    spent = sum(sum((c["forward"], c["backward"])) for p, c in first.ledger.items() if p != "evaluation")
    assert record.pretraining["passes"] == spent + 60
    assert record.inputs["data.pool.teacher"]["path"] == str(tmp_path / "teacher")
    assert [path.parent for path in tmp_path.rglob("pool-labels-*.npz")] == [tmp_path / "teacher"]
    more = ["--resume", "--set", "training.epochs=2"]
    assert run(change, out=tmp_path / "student", more=more).inputs == record.inputs
    code, _, err = advcore("evaluate", tmp_path / "student")
    assert code == 0, err


@pytest.mark.parametrize(
    "pool_settings, line",
    [
        (
            "labels: pseudo",
            "data.pool.teacher must be set with labels: pseudo, got None; name a run's folder",
        ),
        ("teacher: runs/x", "data.pool.teacher must be left out with labels: given, got 'runs/x'"),
        ("labels: guessed", "data.pool.labels must be one of given, pseudo, got 'guessed'"),
        ("share: 0", "data.pool.share must be a number in [0.001, 0.999], got 0"),
        ("labels: pseudo, teacher: nowhere", "data.pool.teacher: it must be the folder of a run, or a file of weights"),
        ("labels: pseudo, teacher: other.pt", "is a checkpoint of another model"),
    ],
)
def test_what_cannot_label_a_pool_is_refused_in_a_line(advcore, root, tmp_path, pool, monkeypatch, pool_settings, line):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pt")
    overrides = [f"data.pool={{path: {pool}, {pool_settings}}}", *TINY]
    file = root / "experiments/linf_full.yaml"
    code, _, err = advcore("check", file, *(part for change in overrides for part in ("--set", change)))
    assert code == 2 and err.count("\n") == 1 and line in err, err


def test_relabelled_images_stay_where_they_are():
    images = torch.rand(5, 1, 4, 4)
    labels = torch.tensor([4, 3, 2, 1, 0])
    held = relabel(Resident(images, torch.zeros(5, dtype=torch.long)), labels)
    streamed = relabel(Streamed([(image, 0) for image in images]), labels)
    assert isinstance(held, Resident) and isinstance(streamed, Relabelled)
    for source in (held, streamed):
        ((i, x, y),) = source.batches([torch.tensor([3, 1])])
        assert i.tolist() == [3, 1] and y.tolist() == [1, 3] and torch.equal(x, images[[3, 1]])
        assert torch.equal(source.labels(), labels) and source.list_changed() == []
    assert held.fingerprint() == streamed.fingerprint()
    with pytest.raises(UserError, match="labels must be one for each of 5 images"):
        relabel(Streamed([(image, 0) for image in images]), labels[:3])
