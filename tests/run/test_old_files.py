"""Files of the version before there were seals: each kind is still read, and a run of then goes on.

`tests/old_files` was written by the commit that its record names: a finished run with one of its states, scores, the
verdicts of an evaluation that was stopped after 32 images, adversarial examples, and what an evaluation printed.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from advcore.files import load_arrays, load_folder, load_npz, load_tensors
from advcore.reporting.record import SCHEMA, UNSEALED, RunRecord
from advcore.run import checkpoints
from advcore.selection.result import Coreset
from advcore.selection.scores import Scores

SETTINGS = [
    *("data.train_size=160", "data.test_size=60", "model.width=1", "attack.steps=2", "training.epochs=4"),
    *("training.batch_size=32", "evaluation.attacks.0.steps=3", "evaluation.attacks.0.restarts=1", "device=cpu"),
]
"""Of the run."""


@pytest.fixture
def old(root, tmp_path) -> Path:
    return Path(shutil.copytree(root / "tests/old_files", tmp_path / "old"))


def arguments(root, out, *more):
    changes = [part for change in (*SETTINGS, *more) for part in ("--set", change)]
    return ["run", root / "experiments/trades_gradmatch.yaml", *changes, "--out", out, "--resume"]


def test_every_kind_of_file_is_read(old):
    record = RunRecord.load(old / "run/record.json")
    assert record.schema == UNSEALED and record.finished and len(record.epochs) == 3
    for name in ("last", "best"):
        assert load_tensors(old / f"run/checkpoints/{name}.safetensors")[1]["epoch"] in range(3)
        assert len(load_npz(old / f"run/checkpoints/{name}-verdicts.npz")["clean"]) == 60
    assert len(Coreset.load(old / "run/coresets/epoch-001.npz")) == 72
    tree, facts = load_folder(old / "run/states/000002")
    assert tree["place"]["epoch"] == 2 and facts["config"] == record.config
    assert checkpoints.load_newest(old / "run")[2] == []
    assert len(Scores.load(old / "scores.npz").values) == 144
    assert len(load_npz(old / "state.npz")["clean"]) == 32
    assert load_arrays(old / "examples.npz")[0]["x_adv_0"].shape == (60, 1, 8, 8)


def test_a_finished_run_of_then_stays_as_it_is_and_is_read_by_every_command(advcore, root, old):
    pytest.importorskip("tensorboard", reason="extra track")
    run = old / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = advcore(*arguments(root, run, "tracking=[{name: tensorboard}]"))
    assert code == 0, err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert advcore("report", run, "--out", old / "page.html")[0] == 0
    assert advcore("export", run, "--out", old / "export")[0] == 0
    assert advcore("evaluate", run, "--out", old / "again.json")[0] == 0
    again, found = (json.loads((old / name).read_text()) for name in ("again.json", "found.json"))
    assert again["clean"]["n"] == found["clean"]["n"]


def test_an_unfinished_run_of_then_goes_on(advcore, root, old):
    run = old / "run"
    record = json.loads((run / "record.json").read_text())
    begun = {"finished": False, "final": {}, "epochs": record["epochs"][:2], "best_epoch": None}
    (run / "record.json").write_text(json.dumps(record | begun))
    code, _, err = advcore(*arguments(root, run))
    assert code == 0, err
    again = RunRecord.load(run / "record.json")
    assert again.finished and again.schema == SCHEMA and len(again.epochs) == 3
    (note,) = again.resumes
    assert note["epoch"] == 2 and note["damaged"] == [] and note["changed"][0].startswith("tracking")


def test_verdicts_of_then_are_gone_on_with(advcore, old):
    code, _, err = advcore("evaluate", old / "run", "--set", "evaluation.batch_size=16", "--state", old / "state.npz")
    assert code == 0, err
    assert len(load_npz(old / "state.npz")["clean"]) == 60
    with np.load(old / "state.npz", allow_pickle=False) as archive:
        assert "identity" in archive.files


def test_scores_of_then_are_selected_from(advcore, root, old):
    changes = [*SETTINGS, f"selection.solver={{name: easycore, scores: {old / 'scores.npz'}}}"]
    sets = [part for change in changes for part in ("--set", change)]
    weights = old / "run/checkpoints/last.safetensors"
    command = ["select", root / "experiments/trades_gradmatch.yaml", *sets, "--checkpoint", weights]
    code, _, err = advcore(*command, "--out", old / "coreset.npz")
    assert code == 0, err
