"""Files that carry a result notice every changed bit: records, verdicts, and what suites, exports and trackers keep."""

import json
import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.injectors import flip, flipped
from sealed import rewrite

from advcore import files
from advcore.config.load import load
from advcore.errors import CheckpointError, UserError
from advcore.reporting.record import SCHEMA, UNSEALED, RunRecord
from advcore.run import checkpoints
from advcore.run.prepare import Reporter, prepare
from advcore.run.run import run
from advcore.run.select import keep_coreset
from advcore.selection.result import Coreset

pytestmark = pytest.mark.case("B4")
RECORD = RunRecord(
    name="é",
    config={"a": {"b": 1e-07}},
    environment={},
    plan="p",
    reference={"units": 5},
    finished=True,
    final={"last": {"clean": {"accuracy": 0.25}}},
)


@pytest.fixture
def saved(tmp_path) -> Path:
    RECORD.save(tmp_path / "record.json")
    return tmp_path / "record.json"


# ---- records ----


def test_a_record_is_read_as_it_was_saved(saved):
    found = RunRecord.load(saved)
    assert found == RECORD and found.schema == SCHEMA
    assert list(json.loads(saved.read_text()))[-1] == "seal"


def test_one_bit_anywhere_in_a_record_is_noticed(saved):
    """Each bit in turn of each byte, and every bit of the lines of the schema and the seal."""
    good = saved.read_bytes()
    edges = [*range(good.index(b'"schema"') - 2, good.index(b'"finished"')), *range(good.index(b'"seal"'), len(good))]
    assert len(edges) > 100
    bits = [(i, i % 8) for i in range(len(good))] + [(i, bit) for i in edges for bit in range(8)]
    for i, bit in bits:
        saved.write_bytes(good[:i] + bytes([good[i] ^ 1 << bit]) + good[i + 1 :])
        with pytest.raises(CheckpointError) as caught:
            RunRecord.load(saved)
            pytest.fail(f"bit {bit} of byte {i}: {good[max(0, i - 9) : i + 9]}")
        assert len(caught.value.lines) == 1 and str(saved) in str(caught.value)


def test_a_record_cut_anywhere_is_noticed(saved):
    good = saved.read_bytes()
    for size in range(len(good)):
        saved.write_bytes(good[:size])
        with pytest.raises(CheckpointError):
            RunRecord.load(saved)


EDITS = {
    "a number": lambda text: text.replace("0.25", "0.75"),
    "a number by one digit": lambda text: text.replace("0.25", "0.250"),
    "the seal is gone": lambda text: text[: text.index(',\n "seal"')] + "\n}\n",
    "the seal is empty": lambda text: text[: text.index('"seal": "') + 9] + '"\n}\n',
    "the seal of nothing": lambda text: text[: text.index('"seal": "') + 8] + "null\n}\n",
    "the older schema": lambda text: text.replace(SCHEMA, UNSEALED),
    "a newer schema": lambda text: text.replace(SCHEMA, "advcore-record-3"),
    "a key more": lambda text: text.replace('"plan"', '"other": 1,\n "plan"'),
    "a key twice": lambda text: text.replace('"plan"', '"plan": "q",\n "plan"'),
    "another order": lambda text: json.dumps(dict(sorted(json.loads(text).items())), indent=1),
    "other spaces": lambda text: json.dumps(json.loads(text)),
    "a line's end": lambda text: text + "\n",
    "a byte order mark": lambda text: "\ufeff" + text,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_record_is_noticed(saved, edit):
    before = saved.read_text()
    saved.write_text(edit(before))
    assert saved.read_text() != before
    with pytest.raises(CheckpointError):
        RunRecord.load(saved)


def test_records_from_before_there_were_seals_are_read(root, saved):
    """Those of the benchmarks, and one that is saved again has a seal then."""
    paths = sorted((root / "benchmarks/records").glob("main-mnist/*.json"))
    assert paths
    for path in paths[:3]:
        assert json.loads(path.read_text())["schema"] == UNSEALED
        old = RunRecord.load(path)
        old.save(saved)
        assert json.loads(saved.read_text())["schema"] == SCHEMA
        assert RunRecord.load(saved).final == old.final


# ---- commands ----

TINY = [
    *("data.train_size=60", "data.test_size=20", "model.width=1", "attack.steps=1", "training.epochs=5"),
    *("training.batch_size=32", "selection.full_examples=0"),
    *("evaluation.attacks.0.steps=1", "evaluation.attacks.0.restarts=1", "evaluation.checks=false"),
]


def arguments(root, out: Path) -> list:
    changes = [part for change in TINY for part in ("--set", change)]
    return ["run", root / "experiments/trades_gradmatch.yaml", *changes, "--out", out, "--resume"]


class Enough(Exception):
    """Ends a run in the middle."""


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory) -> Path:
    """A finished run with a selection in its third epoch, and two that were stopped: one before there was a state after
    the selection, one later."""
    folder = tmp_path_factory.mktemp("runs")
    config = load(root / "experiments/trades_gradmatch.yaml", TINY)
    run(prepare(config), folder / "finished")
    for name, last in (("at the selection", 2), ("stopped", 3)):

        def on_epoch(entry, so_far, last=last):
            if entry["epoch"] == last:
                raise Enough

        with pytest.raises(Enough):
            run(prepare(config), folder / name, Reporter(on_epoch=on_epoch))
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return lambda name: Path(shutil.copytree(folder / name, tmp_path / name))


def test_60_of_60_flipped_bits_of_a_runs_record_are_noticed(folder, tmp_path):
    good, generator = (folder / "finished/record.json").read_bytes(), random.Random(0)
    for _ in range(60):
        bad, place = bytearray(good), generator.randrange(len(good))
        bad[place] ^= 1 << generator.randrange(8)
        (tmp_path / "record.json").write_bytes(bad)
        with pytest.raises(CheckpointError):
            RunRecord.load(tmp_path / "record.json")


def change_the_result(path: Path) -> None:
    """By one bit: a digit of the final accuracy."""
    content = bytearray(path.read_bytes())
    place = content.index(b'"accuracy": ', content.index(b'"final"')) + len(b'"accuracy": 0.')
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("command", ["evaluate", "report", "export"])
def test_no_command_prints_a_changed_result(advcore, copy, tmp_path, command):
    run = copy("finished")
    change_the_result(run / "record.json")
    out = () if command == "report" else ("--out", tmp_path / "out")
    code, printed, err = advcore(command, run, *out)
    assert code == 2 and err.count("\n") == 1 and f"{run / 'record.json'} is damaged" in err and not printed, err
    assert not (tmp_path / "out").exists() and not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["finished", "stopped"])
def test_a_run_whose_record_has_changed_goes_on_from_its_states_to_the_same_end(
    advcore, root, folder, copy, caplog, name
):
    run = copy(name)
    flip(run / "record.json", 0.9) if name == "stopped" else change_the_result(run / "record.json")
    code, _, err = advcore(*arguments(root, run))
    assert code == 0 and f"{run / 'record.json'} " in caplog.text and "continuing from the newest" in caplog.text, err
    one, two = (RunRecord.load(path / "record.json") for path in (run, folder / "finished"))
    assert (one.final, one.best_epoch, one.relative_cost) == (two.final, two.best_epoch, two.relative_cost)
    assert one.resumes[-1]["damaged"][0].startswith(f"{run / 'record.json'} ")
    for which in ("last", "best"):
        paths = [path / f"checkpoints/{which}.safetensors" for path in (run, folder / "finished")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_changed_record_without_states_is_a_line_with_the_way_out(advcore, root, copy):
    run = copy("finished")
    change_the_result(run / "record.json")
    shutil.rmtree(checkpoints.locate_states(run))
    code, _, err = advcore(*arguments(root, run))
    assert code == 3 and err.count("\n") == 1 and "record.json is damaged" in err and "--overwrite" in err


def test_a_changed_record_in_a_folder_of_records_is_told_on_the_page(advcore, copy, tmp_path):
    copy("finished")
    change_the_result(Path(shutil.copytree(tmp_path / "finished", tmp_path / "study/b")) / "record.json")
    shutil.copytree(tmp_path / "finished", tmp_path / "study/a")
    assert advcore("report", tmp_path / "study")[0] == 0
    page = (tmp_path / "study/report.html").read_text()
    assert "record.json is damaged" in page and "1 method, 1 run" in page


# ---- suites ----


@pytest.fixture
def suite(root, tmp_path) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(
        f"name: toy\nexperiment: {root}/experiments/trades_gradmatch.yaml\nseeds: [0]\n"
        "methods: {full: {selection: null}, GradMatch: {}}\n"
        "set: {data.train_size: 160, data.test_size: 60, model.width: 4, attack.steps: 2, training.epochs: 3}\n"
    )
    return path


def test_a_suites_record_that_has_changed_is_a_line(advcore, suite, tmp_path):
    from suite.test_suite_runs import execute

    from advcore.suite import bench

    prepared = bench.check_suite(suite, out=tmp_path / "out")
    execute(prepared)
    assert advcore("bench", suite, "--out", tmp_path / "out", "--table")[0] == 0
    path = tmp_path / "out/gradmatch-s0.json"
    change_the_result(path)
    for more in ((), ("--table",)):
        code, _, err = advcore("bench", suite, "--out", tmp_path / "out", *more)
        assert code == 2 and err.count("\n") == 1 and f"{path} is damaged" in err


def test_baselines_that_have_changed_are_planned_anew_with_a_word(suite, tmp_path, caplog):
    from advcore.suite import bench
    from advcore.suite.plan_methods import save_plan

    first = bench.check_suite(suite, out=tmp_path / "out")
    save_plan(first.suite, first.methods, first.folder)
    path = tmp_path / "out/baselines.json"
    good = path.read_bytes()
    assert bench.check_suite(suite, out=tmp_path / "out").methods == first.methods and not caplog.text
    place = good.index(b'"epochs": ') + len(b'"epochs": ')
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert bench.check_suite(suite, out=tmp_path / "out").methods == first.methods
    assert f"{path} is damaged" in caplog.text


def test_baselines_from_before_there_were_seals_are_read(suite, tmp_path, monkeypatch):
    from advcore.data.named import Digits
    from advcore.suite import bench
    from advcore.suite.plan_methods import save_plan

    first = bench.check_suite(suite, out=tmp_path / "out")
    save_plan(first.suite, first.methods, first.folder)
    path = tmp_path / "out/baselines.json"
    facts = json.loads(path.read_text())
    del facts["seal"]
    path.write_text(json.dumps(facts | {"schema": "advcore-baselines-1"}))
    monkeypatch.setattr(Digits, "sketch", lambda self: 1 / 0)
    assert bench.check_suite(suite, out=tmp_path / "out").methods == first.methods


# ---- other sealed JSON ----


def test_what_an_evaluation_and_an_export_say_has_a_seal(advcore, copy, tmp_path):
    run = copy("finished")
    assert advcore("evaluate", run, "--out", tmp_path / "e.json")[0] == 0
    assert advcore("export", run, "--out", tmp_path / "x")[0] == 0
    for path, schema in (
        (tmp_path / "e.json", "advcore-evaluation-1"),
        (tmp_path / "x/config.json", "advcore-export-1"),
        (tmp_path / "x/coresets/index.json", "advcore-export-1"),
    ):
        assert files.read_sealed(path, schema)["schema"] == schema
        good = path.read_bytes()
        for bad in flipped(good, 7):
            path.write_bytes(bad)
            with pytest.raises(CheckpointError):
                files.read_sealed(path, schema)
        path.write_bytes(good)


def test_what_a_tracker_was_told_has_a_seal_and_the_older_form_is_read(tmp_path):
    from advcore.tracking.dispatch import _SCHEMA

    path = tmp_path / "x.json"
    files.write_sealed(path, {"told": 3, "kept": {}}, _SCHEMA)
    read = partial(files.read_sealed, path, _SCHEMA, unsealed="")
    assert read()["told"] == 3
    good = path.read_bytes()
    for bad in flipped(good, 1):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            read()
    path.write_text('{"told": 3, "kept": {}}')
    assert read() == {"told": 3, "kept": {}}


# ---- verdicts ----

ARRAYS = {"clean": np.ones(9, bool), "identity": np.array("abc")}


@pytest.fixture
def verdicts(tmp_path) -> Path:
    files.write_npz(tmp_path / "v.npz", ARRAYS)
    return tmp_path / "v.npz"


def test_verdicts_come_back_and_any_reader_of_arrays_reads_them(verdicts):
    with np.load(verdicts) as archive:
        others = {name: archive[name] for name in archive.files}
    for found in (files.load_npz(verdicts), others):
        assert found.keys() == ARRAYS.keys() and all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)


def test_one_bit_anywhere_in_verdicts_is_noticed(verdicts):
    """Each bit in turn of each byte, and every bit of the archive's end and of the seal."""
    good = verdicts.read_bytes()
    edges = range(len(good) - 101, len(good))
    assert good[edges[0] :].startswith(b"PK\5\6")
    for i, bit in [(i, i % 8) for i in range(len(good))] + [(i, bit) for i in edges for bit in range(8)]:
        verdicts.write_bytes(good[:i] + bytes([good[i] ^ 1 << bit]) + good[i + 1 :])
        with pytest.raises(CheckpointError):
            files.load_npz(verdicts)
            pytest.fail(f"bit {bit} of byte {i} of {len(good)}")


def test_verdicts_cut_or_continued_anywhere_are_noticed(verdicts):
    good = verdicts.read_bytes()
    for bad in (*(good[:size] for size in range(len(good))), good + b"\0", good + good, b"\0" + good):
        verdicts.write_bytes(bad)
        with pytest.raises(CheckpointError):
            files.load_npz(verdicts)


def test_verdicts_from_before_there_were_seals_are_read(verdicts):
    np.savez_compressed(verdicts, **ARRAYS)
    assert files.load_npz(verdicts).keys() == ARRAYS.keys()


def test_an_evaluation_does_not_go_on_from_changed_verdicts(advcore, copy, tmp_path):
    run, state = copy("finished"), tmp_path / "state.npz"
    assert advcore("evaluate", run, "--state", state)[0] == 0
    good = state.read_bytes()
    assert advcore("evaluate", run, "--state", state)[0] == 0
    flip(state, 0.3)
    code, _, err = advcore("evaluate", run, "--state", state)
    assert code == 2 and err.count("\n") == 1 and f"{state} is damaged" in err and "remove it" in err
    assert len(good) == len(state.read_bytes())


def test_a_run_with_changed_verdicts_evaluates_anew_with_a_word(advcore, root, folder, copy, caplog):
    run = copy("finished")
    rewrite(run / "record.json", lambda record: record.update(finished=False, final={}))
    flip(run / "checkpoints/last-verdicts.npz", 0.3)
    assert advcore(*arguments(root, run))[0] == 0
    assert "last-verdicts.npz is damaged" in caplog.text and "evaluating last again" in caplog.text
    assert RunRecord.load(run / "record.json").final == RunRecord.load(folder / "finished/record.json").final


# ---- coresets that a resumed run makes again ----

DAMAGES = {
    "missing": (lambda path: [path.unlink(), path.with_suffix(".json").unlink()], "is missing"),
    "no arrays": (lambda path: path.unlink(), "is missing"),
    "no facts": (lambda path: path.with_suffix(".json").unlink(), "is missing"),
    "a bit of the arrays": (lambda path: flip(path), "is damaged"),
    "a bit of the facts": (lambda path: flip(path.with_suffix(".json")), ".json"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "another coreset": (
        lambda path: Coreset(**vars(Coreset.load(path)) | {"weights": torch.ones(len(Coreset.load(path)))}).save(path),
        "holds another coreset",
    ),
}


@pytest.mark.case("A3")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_coreset_that_a_resumed_run_makes_again_says_so(advcore, root, folder, copy, caplog, damage):
    run, (break_it, told) = copy("stopped"), DAMAGES[damage]
    (path,) = sorted((run / "coresets").glob("*.npz"))
    break_it(path)
    code, _, err = advcore(*arguments(root, run))
    assert code == 0, err
    (line,) = RunRecord.load(run / "record.json").resumes[-1]["damaged"]
    assert path.stem in line and told in line and line.endswith("it is written again") and line in caplog.text
    one, two = (Coreset.load(where / "coresets" / path.name) for where in (run, folder / "finished"))
    assert torch.equal(one.indices, two.indices) and torch.equal(one.weights, two.weights)


@pytest.mark.case("A3")
def test_a_coreset_that_is_there_and_whole_is_left_as_it_is(advcore, root, copy, caplog):
    run = copy("stopped")
    (path,) = sorted((run / "coresets").glob("*.npz"))
    before = [(one.stat().st_ino, one.read_bytes()) for one in (path, path.with_suffix(".json"))]
    assert advcore(*arguments(root, run))[0] == 0
    assert [(one.stat().st_ino, one.read_bytes()) for one in (path, path.with_suffix(".json"))] == before
    assert RunRecord.load(run / "record.json").resumes[-1]["damaged"] == [] and "again" not in caplog.text


@pytest.mark.parametrize("damaged", [True, False])
def test_a_selection_that_is_done_again_after_a_stop_leaves_a_whole_file(advcore, root, copy, damaged):
    """The stop came between the coreset's file and the next state."""
    run = copy("at the selection")
    (path,) = sorted((run / "coresets").glob("*.npz"))
    before = path.read_bytes()
    if damaged:
        flip(path)
    assert advcore(*arguments(root, run))[0] == 0
    lines = RunRecord.load(run / "record.json").resumes[-1]["damaged"]
    assert [path.name in line for line in lines] == [True] * damaged and path.read_bytes() == before


def test_a_selection_that_is_done_again_replaces_a_damaged_file_with_a_word(tmp_path, caplog):
    coreset = Coreset(
        indices=torch.arange(3), weights=torch.ones(3), num_examples=9, fingerprint="x", solver="s", partition="p",
        seed=0, budget=0.3, epoch=7,
    )  # fmt: skip
    assert keep_coreset(tmp_path, coreset) is None and keep_coreset(tmp_path, coreset) is None and not caplog.text
    flip(tmp_path / "coresets/epoch-007.npz")
    assert "epoch-007.npz is damaged" in keep_coreset(tmp_path, coreset) and "written again" in caplog.text
    assert keep_coreset(tmp_path, coreset) is None
    with pytest.raises(UserError):
        Coreset.load(tmp_path / "coresets/epoch-008.npz")
