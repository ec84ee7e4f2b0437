"""Runs on disk that are stopped and gone on with: what is equal, what is refused, what a damaged state does."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.injectors import flip
from forked import Forked
from sealed import update
from torch import nn
from torch.utils.data import TensorDataset

from advcore import Trainer, cli
from advcore.attacks import LinfPGD
from advcore.config.load import list_changes
from advcore.data.source import Streamed
from advcore.errors import AdvcoreError, CheckpointError, ConfigError
from advcore.files import load_arrays, load_folder, load_tensors, save_folder
from advcore.objectives import Pgd
from advcore.run import checkpoints
from advcore.runtime.signals import Stopped, catch_signals
from advcore.selection.schedule import Schedule
from advcore.training import SGD
from advcore.training.loop import Listener

TIMES = {"seconds", "peak_memory", "resumes", "environment", "seal"}


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key not in TIMES}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def same_runs(one: Path, two: Path):
    """Records but for times, and every tensor of both checkpoints."""
    records = [without_times(json.loads((path / "record.json").read_text())) for path in (one, two)]
    assert records[0] == records[1]
    for name in ("last", "best"):
        tensors = [load_tensors(path / "checkpoints" / f"{name}.safetensors") for path in (one, two)]
        assert tensors[0][1] == tensors[1][1]  # their hashes among them
    coresets = [{file.name: load_arrays(file)[0] for file in path.glob("coresets/*.npz")} for path in (one, two)]
    assert coresets[0].keys() == coresets[1].keys()
    for name, arrays in coresets[0].items():
        assert all(np.array_equal(own, coresets[1][name][key]) for key, own in arrays.items())


def arguments_of(root, tiny, *more):
    """Of a tiny run with two selections, remembered perturbations, a step schedule and smaller last batches."""
    changed = [
        *tiny, "training.epochs=5", "selection.period=2", "selection.warm_start=0.4", "attack.start=remembered",
        "training.attack_steps={name: linear, first: 1, last: 2}", "data.validation=0.2", "checkpoint.kept=100",
        "data.train_size=100", "data.test_size=20", *more,
    ]  # fmt: skip
    return ["run", root / "experiments/trades_gradmatch.yaml", *(part for c in changed for part in ("--set", c))]


SHORTER = ("training.epochs=3", "selection.warm_start=0.7", "evaluation.checks=false")
"""For runs that are begun, not gone on with from inside their epochs: a full epoch, a selection, an epoch on it."""


@pytest.fixture
def command(root, tiny):
    return arguments_of(root, tiny)


@pytest.fixture
def short_command(root, tiny):
    return arguments_of(root, tiny, *SHORTER)


def run_once(arguments, out: Path) -> Path:
    """A run that is never stopped, with all its states."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advcore", *map(str, arguments), "--out", str(out)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert leaving.value.code == 0
    return out


@pytest.fixture(scope="module")
def finished(root, tiny, tmp_path_factory):
    """The run of `command`, made once."""
    return run_once(arguments_of(root, tiny), tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def undisturbed(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "undisturbed"))


@pytest.fixture(scope="module")
def finished_short(root, tiny, tmp_path_factory):
    """The run of `short_command`, made once."""
    return run_once(arguments_of(root, tiny, *SHORTER), tmp_path_factory.mktemp("finished") / "short")


@pytest.fixture
def short(finished_short, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished_short, tmp_path / "short"))


def cut(folder: Path, states: int, to: Path) -> Path:
    """The run as it was when it had saved so many states; needs all of them kept."""
    shutil.copytree(folder, to)
    for number in checkpoints._list_numbers(to)[states:]:
        shutil.rmtree(checkpoints.locate_states(to) / f"{number:06d}")
    record = json.loads((to / "record.json").read_text())
    update(to / "record.json", finished=False, final={}, epochs=record["epochs"][:states], best_epoch=None)
    return to


@pytest.mark.slow
@pytest.mark.case("A2")
def test_gone_on_with_from_any_state_a_run_ends_as_it_did(advcore, command, tmp_path, undisturbed):
    count = len(checkpoints._list_numbers(undisturbed))
    assert count == 4  # 1 full epoch and 3 on two coresets
    for states in range(count + 1):
        run = cut(undisturbed, states, tmp_path / str(states))
        code, out, err = advcore(*command, "--out", run, "--resume")
        assert code == 0, err
        same_runs(undisturbed, run)
        (note,) = json.loads((run / "record.json").read_text())["resumes"]
        assert note == {"epoch": states, "changed": [], "damaged": []}


@pytest.mark.case("B8")
def test_two_states_are_kept(advcore, short_command, tmp_path):
    more = ["--set", "checkpoint.kept=2", "--set", "training.epochs=4"]
    assert advcore(*short_command, *more, "--out", tmp_path / "run")[0] == 0
    assert checkpoints._list_numbers(tmp_path / "run") == [2, 3]
    assert not list(checkpoints.locate_states(tmp_path / "run").glob(".*"))


def rewrite(path: Path, change):
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "truncated": lambda state: rewrite(state / "tensors.safetensors", lambda content: content[:-9]),
    "zeros": lambda state: rewrite(state / "tensors.safetensors", lambda content: bytes(len(content))),
    "junk": lambda state: (state / "values.json").write_text("junk"),
    "a bit of the tensors": lambda state: flip(state / "tensors.safetensors", 0.9),
    "a bit of the values": lambda state: flip(state / "values.json"),
    "a bit of the manifest": lambda state: flip(state / "manifest.json"),
    "no manifest": lambda state: (state / "manifest.json").unlink(),
    "no tensors": lambda state: (state / "tensors.safetensors").unlink(),
    "empty": lambda state: [entry.unlink() for entry in state.iterdir()],
}


@pytest.mark.case("B3", "B4")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_told_and_the_one_before_it_found(tmp_path, undisturbed, damage):
    run = cut(undisturbed, 3, tmp_path / "run")
    DAMAGES[damage](checkpoints.locate_states(run) / "000003")
    state, _, (line,) = checkpoints.load_newest(run)
    assert state["place"]["epoch"] == 2 and "000003" in line


@pytest.mark.case("B3", "B4")
def test_from_the_state_before_a_damaged_one_a_run_ends_as_it_did(advcore, command, tmp_path, undisturbed):
    run = cut(undisturbed, 3, tmp_path / "run")
    flip(checkpoints.locate_states(run) / "000003" / "tensors.safetensors")
    code, _, err = advcore(*command, "--out", run, "--resume")
    assert code == 0, err
    same_runs(undisturbed, run)
    (note,) = json.loads((run / "record.json").read_text())["resumes"]
    assert note["epoch"] == 2 and len(note["damaged"]) == 1 and "000003" in note["damaged"][0]


@pytest.mark.case("B3")
def test_a_run_without_a_whole_state_stops_itself(advcore, command, tmp_path, undisturbed):
    run = cut(undisturbed, 2, tmp_path / "run")
    for state in checkpoints.locate_states(run).iterdir():
        flip(state / "tensors.safetensors")
    before = (run / "record.json").read_bytes()
    code, _, err = advcore(*command, "--out", run, "--resume")
    assert code == 3 and err.count("\n") == 1 and "no state" in err and "000001" in err and "000002" in err
    assert (run / "record.json").read_bytes() == before


@pytest.mark.case("B8")
def test_a_state_that_replaces_a_damaged_one_does_not_leave_it_the_only_other(tmp_path):
    for i in range(2):
        checkpoints.save(tmp_path, lambda i=i: {"a": i}, {"data": []})
    flip(checkpoints.locate_states(tmp_path) / "000002" / "values.json")
    assert checkpoints.load_newest(tmp_path)[0] == {"a": 0}
    checkpoints.save(tmp_path, lambda: {"a": 2}, {"data": []})
    for number in checkpoints._list_numbers(tmp_path):
        load_folder(checkpoints.locate_states(tmp_path) / f"{number:06d}")
    assert len(checkpoints._list_numbers(tmp_path)) == 2


@pytest.mark.case("B8")
def test_a_state_written_short_does_not_push_out_the_good_ones(tmp_path, monkeypatch):
    from advcore.files import trees

    for i in range(2):
        checkpoints.save(tmp_path, lambda i=i: {"a": torch.ones(3) * i}, {"data": []})
    original = trees.write_synced

    def short(path, content):
        original(path, content)
        if path.suffix == ".safetensors":
            path.write_bytes(content[:-5])

    monkeypatch.setattr(trees, "write_synced", short)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="tensors.safetensors is damaged"):
            checkpoints.save(tmp_path, lambda: {"a": torch.ones(3)}, {"data": []})
    assert float(checkpoints.load_newest(tmp_path)[0]["a"][0]) == 1.0


@pytest.mark.parametrize(
    "tree",
    [
        {"a": "tensor: what", "b": "$tensor"},
        {"a/b": torch.ones(2), "a": {"b": torch.zeros(2)}},
        {"a": [None, 1.5, [True]]},
    ],
)
def test_a_tree_comes_back_as_it_was(tmp_path, tree):
    save_folder(tmp_path / "x", tree, {"fact": 1})
    found, facts = load_folder(tmp_path / "x")
    assert repr(found) == repr(tree) and facts["fact"] == 1


def test_a_tensor_that_stands_twice_is_one_again(tmp_path):
    one = torch.ones(2)
    save_folder(tmp_path / "x", {"a": one, "b": {"c": one}}, {})
    found, _ = load_folder(tmp_path / "x")
    assert found["a"] is found["b"]["c"] and torch.equal(found["a"], one)


@pytest.mark.case("B8")
def test_two_processes_in_one_folder_are_one_too_many(tmp_path):
    refused = pytest.raises(ConfigError, match="no other process")
    with checkpoints.lock_folder(tmp_path / "run"), refused, checkpoints.lock_folder(tmp_path / "run"):
        pass
    with checkpoints.lock_folder(tmp_path / "run"):
        pass


@pytest.mark.case("B3")
def test_done_epochs_without_a_state_are_not_done_again_in_silence(advcore, command, tmp_path, undisturbed):
    run = cut(undisturbed, 3, tmp_path / "run")
    shutil.rmtree(checkpoints.locate_states(run))
    code, _, err = advcore(*command, "--out", run, "--resume")
    assert code == 3 and err.count("\n") == 1 and "epochs done: 3" in err


def test_a_finished_run_needs_no_states(advcore, command, undisturbed):
    for state in checkpoints.locate_states(undisturbed).iterdir():
        flip(state / "tensors.safetensors")
    assert advcore(*command, "--out", undisturbed, "--resume")[0] == 0


@pytest.mark.case("A3")
def test_what_a_stop_left_of_files_is_mended(advcore, command, tmp_path, undisturbed):
    run = cut(undisturbed, 4, tmp_path / "run")
    rewrite(run / "checkpoints" / "best.safetensors", lambda content: content[:-1])
    next(run.glob("coresets/*.npz")).unlink()
    assert advcore(*command, "--out", run, "--resume")[0] == 0
    same_runs(undisturbed, run)


@pytest.mark.case("C1")
def test_a_resume_that_is_stopped_at_once_leaves_the_record(advcore, command, tmp_path, undisturbed, monkeypatch):
    run = cut(undisturbed, 3, tmp_path / "run")
    before = json.loads((run / "record.json").read_text())
    monkeypatch.setattr("advcore.runtime.signals._received", [signal.SIGTERM])
    code, _, err = advcore(*command, "--out", run, "--resume")
    assert code == 143 and err.count("\n") == 1
    after = json.loads((run / "record.json").read_text())
    assert after["epochs"] == before["epochs"] and after["seconds"] >= before["seconds"] and len(after["epochs"]) == 3


def test_a_folder_with_nothing_of_a_run_can_be_begun_with_resume(advcore, short_command, tmp_path, short):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("from the job script")
    assert advcore(*short_command, "--out", tmp_path / "run", "--resume")[0] == 0
    same_runs(short, tmp_path / "run")


@pytest.mark.case("B8")
def test_a_finished_run_stays_as_it_is(advcore, command, undisturbed):
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    assert advcore(*command, "--out", undisturbed, "--resume")[0] == 0
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before


def test_a_run_that_never_began_is_begun(advcore, short_command, tmp_path, short):
    assert advcore(*short_command, "--out", tmp_path / "new", "--resume")[0] == 0
    same_runs(short, tmp_path / "new")


@pytest.mark.case("A8")
@pytest.mark.parametrize(
    "change",
    ["attack.eps=0.2", "model.width=5", "selection.solver={name: craig}", "selection.period=1", "selection.budget=0.4",
     "data.train_size=150", "training.epochs=7", "seed=1", "training.optimizer.lr=0.01", "name=other"],
)  # fmt: skip
def test_other_settings_are_refused_old_and_new(advcore, command, tmp_path, undisturbed, change):
    run = cut(undisturbed, 2, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = advcore(*command, "--set", change, "--out", run, "--resume")
    assert code == 2 and "Traceback" not in err
    assert f"{change.split('=')[0]}: " in err and " -> " in err, err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.case("A8")
def test_all_changed_settings_are_told_at_once(advcore, command, tmp_path, undisturbed):
    run = cut(undisturbed, 2, tmp_path / "run")
    code, _, err = advcore(*command, "--set", "seed=1", "--set", "attack.eps=0.2", "--out", run, "--resume")
    assert code == 2 and err.count("\n") == 2 and "seed: 0 -> 1" in err and "attack.eps: 0.1 -> 0.2" in err


@pytest.mark.case("A8")
def test_settings_that_do_not_train_may_change_and_are_noted(advcore, command, tmp_path, undisturbed):
    run = cut(undisturbed, 2, tmp_path / "run")
    change = ["--set", "evaluation.batch_size=40", "--set", "device=cpu"]
    assert advcore(*command, *change, "--out", run, "--resume")[0] == 0
    (note,) = json.loads((run / "record.json").read_text())["resumes"]
    assert sorted(note["changed"]) == ["device: 'auto' -> 'cpu'", "evaluation.batch_size: 256 -> 40"]


@pytest.mark.case("A8")
def test_other_data_of_the_same_settings_are_refused(advcore, short_command, tmp_path):
    """One pixel of one image."""
    generator = np.random.default_rng(0)
    x, y = generator.random((200, 1, 8, 8)).astype("float32"), np.arange(200) % 4
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:40], y_test=y[:40])
    own = [*short_command, "--set", f"data={{name: npz, path: {tmp_path / 'data.npz'}}}", "--out", tmp_path / "run"]
    assert advcore(*own)[0] == 0
    run = cut(tmp_path / "run", 1, tmp_path / "cut")
    x[17] = x[17][:, ::-1]
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:40], y_test=y[:40])
    code, _, err = advcore(*own[:-1], run, "--resume")
    assert code == 2 and err.count("\n") == 1 and "--resume" in err and "data" in err


def test_both_options_are_too_many(advcore, command, tmp_path):
    code, _, err = advcore(*command, "--out", tmp_path / "run", "--resume", "--overwrite")
    assert code == 2 and "--resume" in err and "--overwrite" in err


@pytest.mark.case("B8")
def test_overwriting_removes_the_states_too(advcore, short_command, short):
    old = (checkpoints.locate_states(short) / "000002").stat().st_mtime_ns
    assert advcore(*short_command, "--out", short, "--overwrite")[0] == 0
    assert (checkpoints.locate_states(short) / "000002").stat().st_mtime_ns > old


def test_changes_name_the_setting_by_its_path():
    before = {"a": 1, "b": {"name": "x", "c": 2, "d": None}, "e": {"name": "x", "f": 1}}
    now = {"a": 1, "b": {"name": "x", "c": 3, "d": 4}, "e": {"name": "y", "g": 1}, "h": 5}
    assert list(map(str, list_changes(before, now))) == [
        "b.c: 2 -> 3", "b.d: None -> 4", "e: {'name': 'x', 'f': 1} -> {'name': 'y', 'g': 1}", "h: None -> 5",
    ]  # fmt: skip


@pytest.mark.case("B1")
def test_a_failed_save_leaves_what_was_there(tmp_path):
    checkpoints.save(tmp_path, lambda: {"a": 1}, {"data": []})
    with pytest.raises(TypeError):
        checkpoints.save(tmp_path, lambda: {"a": object()}, {"data": []})
    assert checkpoints._list_numbers(tmp_path) == [1] and not list(checkpoints.locate_states(tmp_path).glob(".*"))
    assert checkpoints.load_newest(tmp_path)[0] == {"a": 1}


@pytest.mark.case("B2")
def test_what_a_dead_process_left_half_written_goes(tmp_path):
    checkpoints.save(tmp_path, lambda: {"a": 1}, {"data": []})
    (checkpoints.locate_states(tmp_path) / ".000002.abc").mkdir()
    checkpoints.save(tmp_path, lambda: {"a": 2}, {"data": []})
    assert sorted(path.name for path in checkpoints.locate_states(tmp_path).iterdir()) == ["000001", "000002"]


@pytest.mark.case("B8")
def test_a_state_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    for i in range(2):
        checkpoints.save(tmp_path, lambda i=i: {"a": i}, {"data": []})

    def fails(path):
        raise OSError(13, "denied")

    monkeypatch.setattr(checkpoints.shutil, "rmtree", fails)
    checkpoints.save(tmp_path, lambda: {"a": 2}, {"data": []})
    assert "denied" in caplog.text and checkpoints.load_newest(tmp_path)[0] == {"a": 2}


@pytest.mark.case("B3")
def test_no_state_at_all_is_none_and_only_damaged_ones_an_error(tmp_path):
    assert checkpoints.load_newest(tmp_path) is None
    checkpoints.save(tmp_path, lambda: {"a": 1}, {"data": []})
    flip(checkpoints.locate_states(tmp_path) / "000001" / "values.json", 1.0)
    with pytest.raises(AdvcoreError, match="no state in .* is intact: .*values.json is damaged"):
        checkpoints.load_newest(tmp_path)


@pytest.mark.case("B6")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_run_in_a_line_and_it_can_be_gone_on_with(
    advcore, short_command, tmp_path, short, monkeypatch, error
):
    """From the 20th time that bytes are to reach the disk on, there is no room."""
    run, synced, original = tmp_path / "run", [], os.fsync

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) >= 20:
            raise OSError(error, os.strerror(error))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    code, _, err = advcore(*short_command, "--out", run)
    assert code == 3 and err.count("\n") == 1 and os.strerror(error) in err and "--resume" in err
    monkeypatch.setattr(os, "fsync", original)
    assert advcore(*short_command, "--out", run, "--resume")[0] == 0
    same_runs(short, run)


def started(command, out):
    arguments = [sys.executable, "-m", "advcore", *map(str, command), "--out", str(out), "--resume"]
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own)


@pytest.mark.case("C1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_its_number(command, tmp_path, monkeypatch, number):
    run = tmp_path / "run"
    arguments = [*command, "--set", "training.epochs=200", "--out", run]  # far more than it gets to do
    monkeypatch.setattr(sys, "argv", ["advcore", *map(str, arguments)])
    process = Forked(cli.main, tmp_path)
    process.wait_for("epoch   1")
    os.kill(process.pid, number)
    assert process.code() == 128 + number and "Traceback" not in process.stderr, process.stderr
    assert process.stderr.count("\n") == 1 and "--resume" in process.stderr
    state, _, _ = checkpoints.load_newest(run)
    assert state["place"]["epoch"] or state["place"]["step"]


@pytest.mark.case("C1")
def test_a_signal_to_the_whole_group_with_workers_saves_too(tmp_path):
    """As `timeout` and job schedulers send it: the processes that read the data must not die before the run does."""
    process = Forked(lambda: train_with_workers(tmp_path), tmp_path, new_group=True)
    process.wait_until((tmp_path / "began").exists)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.code() == 143, process.stderr
    assert load_folder(tmp_path / "state")[0]["place"]["step"] > 0


def train_with_workers(folder: Path) -> None:
    """Far longer than anybody waits; a signal saves the state and is the exit code."""
    data = Streamed(TensorDataset(torch.rand(1000, 1, 8, 8), torch.arange(1000) % 4), workers=2)
    trainer = Trainer(
        objective=Pgd(), attack=LinfPGD(eps=0.1, steps=10), schedule=Schedule(epochs=500), optimizer=SGD(lr=0.01)
    )
    listener = Listener(
        on_progress=lambda *_: (folder / "began").touch(),
        on_checkpoint=lambda state: save_folder(folder / "state", state(), {}),
    )
    try:
        with catch_signals():
            trainer.fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), data, seed=0, listener=listener)
    except Stopped as stopped:
        sys.exit(128 + stopped.number)


@pytest.mark.case("A3")
@pytest.mark.slow
def test_killed_20_times_a_run_ends_as_if_it_had_not_been(advcore, root, tiny, tmp_path):
    """SIGKILL at random moments, some before the first state, most a while after a new one; gone on with each time."""
    command = arguments_of(root, tiny, "training.epochs=150")
    assert advcore(*command, "--out", tmp_path / "undisturbed")[0] == 0
    run, generator, kills = tmp_path / "run", random.Random(0), 0
    while kills < 20:
        process, before = started(command, run), checkpoints._list_numbers(run)
        while kills % 5 and checkpoints._list_numbers(run) == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.15) if kills % 5 else generator.uniform(0, 5))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        kills += 1
    process = started(command, run)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    same_runs(tmp_path / "undisturbed", run)
