"""Whatever the operating system refuses is one line with the path and the cause, told before data are read where it can
be; what is done is kept. Never a traceback."""

import contextlib
import errno
import importlib
import io
import itertools
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.injectors import CALLS, NUMBERS, refuse

from advcore import files
from advcore.errors import (
    NO_ROOM,
    CheckpointError,
    ConfigError,
    UnreadableError,
    UserError,
    describe_refusal,
    name_path_in_errors,
    refuse_as_setting,
)
from advcore.reporting.record import RunRecord
from advcore.run import checkpoints
from advcore.selection.result import Coreset
from advcore.selection.scores import Scores
from advcore.tracking import metrics

pytestmark = [pytest.mark.case("B6"), pytest.mark.skipif(sys.platform != "linux", reason="the system's own numbers")]
TINY = [
    *("data.train_size=60", "data.test_size=20", "model.width=1", "attack.steps=1", "training.epochs=5"),
    *("training.batch_size=32", "selection.full_examples=0"),
    *("evaluation.attacks.0.steps=1", "evaluation.attacks.0.restarts=1", "evaluation.checks=false"),
]
SETS = [part for change in TINY for part in ("--set", change)]


def check_line(err: str, path: Path, number: int) -> None:
    """One line on stderr, with the path and what the system calls the error."""
    lines = [line for line in err.splitlines() if not line.startswith("WARNING")]
    assert len(lines) == 1 and "Traceback" not in err, err
    assert lines[0].startswith("advcore: ") and str(path) in lines[0] and os.strerror(number) in lines[0], err


# ---- writers and readers ----

RECORD = RunRecord(name="x", config={}, environment={}, plan="", reference={})
OF = {"num_examples": 3, "fingerprint": "x", "seed": 0}
CORESET = Coreset(indices=torch.arange(3), weights=torch.ones(3), solver="s", partition="p", budget=0.3, **OF)
SCORES = Scores(torch.arange(3), torch.ones(3).double(), score="el2n", epochs=1, model="m", objective="o", **OF)
WRITERS = {
    "bytes": ("file", lambda path: files.write_bytes(path, b"new")),
    "json": ("file.json", lambda path: files.write_json(path, {"a": 1})),
    "record": ("record.json", RECORD.save),
    "verdicts": ("file.npz", lambda path: files.write_npz(path, {"a": np.ones(2)})),
    "arrays": ("file.npz", lambda path: files.save_arrays(path, {"a": np.ones(2)}, {})),
    "tensors": ("file.safetensors", lambda path: files.save_tensors(path, {"a": torch.ones(2)}, {})),
    "coreset": ("file.npz", CORESET.save),
    "scores": ("file.npz", SCORES.save),
    "state": ("000001", lambda path: files.save_folder(path, {"a": torch.ones(2)}, {})),
    "metrics": ("metrics.jsonl", lambda path: metrics.write_metrics(path.parent, [])),
}
NEVER = {("metrics", "sync"), ("state", "write")}
"""What a writer does not do, or not in that way."""


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", [what for what in CALLS if what not in ("lock", "remove")])
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_raises_what_the_system_says_with_the_path_and_leaves_what_was_there(
    tmp_path, monkeypatch, name, what
):
    file, write = WRITERS[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/other").write_text("theirs")
    path = tmp_path / ("new" if what == "make" else "folder") / file
    before = content(tmp_path)
    for number in NUMBERS:
        with monkeypatch.context() as patch:
            refused = refuse(patch, what, number, tmp_path)
            if (name, what) in NEVER:
                write(path)
                assert not refused
                return
            with pytest.raises(OSError) as caught:
                write(path)
        told = describe_refusal(caught.value)
        assert refused and caught.value.errno == number, told
        assert told.startswith(str(path.with_suffix(""))) and told.endswith(f": {os.strerror(number)}"), told
        assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["bytes", "arrays", "state"])
def test_a_folder_that_cannot_be_synced_is_told_but_for_file_systems_that_never_sync_one(tmp_path, monkeypatch, name):
    file, write = WRITERS[name]
    original = os.fsync
    for number in NUMBERS:

        def fsync(descriptor, number=number):
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(number, os.strerror(number))
            original(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        path = tmp_path / str(number) / file
        if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM):
            write(path)
            assert path.exists()
            continue
        with pytest.raises(OSError) as caught:
            write(path)
        assert caught.value.errno == number and str(tmp_path / str(number)) in caught.value.filename


READERS = {
    "json": ("file.json", files.read_json),
    "sealed": ("file.json", lambda path: files.read_sealed(path, "x")),
    "record": ("record.json", RunRecord.load),
    "verdicts": ("file.npz", files.load_npz),
    "arrays": ("file.npz", files.load_arrays),
    "tensors": ("file.safetensors", files.load_tensors),
    "weights": ("file.safetensors", files.load_weights),
    "weights of torch": ("file.pt", files.load_weights),
    "coreset": ("file.npz", Coreset.load),
    "scores": ("file.npz", Scores.load),
    "state": ("000001", files.load_folder),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_raises_an_error_of_ours_with_path_and_cause(tmp_path, monkeypatch, name):
    file, read = READERS[name]
    path = tmp_path / file
    if name in WRITERS:
        WRITERS[name][1](path)
    else:
        path.write_bytes(b"{}")
    for number in NUMBERS:
        with monkeypatch.context() as patch:
            patch.setattr("io.open", lambda *given, number=number, **_: _raise(number, given[0]))
            with pytest.raises(CheckpointError) as caught:
                read(path)
        (line,) = caught.value.lines
        missing = number == errno.ENOENT
        assert str(path.with_suffix("")) in line and ("is missing" if missing else os.strerror(number)) in line, line
        assert isinstance(caught.value, UnreadableError) != (number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR))


def _raise(number, path=None):
    raise OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


def test_what_is_not_about_a_file_stays_a_bug():
    """An error without a path is of a socket, a pipe or a child process as often as of a file: only numbers that leave
    no doubt are told in a line."""
    import socket
    import ssl

    for error in (
        *(OSError("could not get source code"), OSError(), ConnectionResetError(errno.ECONNRESET, "reset")),
        *(BrokenPipeError(errno.EPIPE, "broken"), ChildProcessError(errno.ECHILD, "none"), TimeoutError("late")),
        *(BlockingIOError(errno.EAGAIN, "fork"), ProcessLookupError(errno.ESRCH, "gone")),
        *(socket.gaierror(-2, "unknown"), ssl.SSLError(errno.EIO, "closed"), OSError(errno.EBADF, "bad")),
    ):
        assert describe_refusal(error) is None, error
        with pytest.raises(type(error)), refuse_as_setting():
            raise error
    for number in (*NO_ROOM, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        assert os.strerror(number) in describe_refusal(OSError(number, os.strerror(number)))


def test_a_path_is_one_line_whatever_it_holds():
    assert describe_refusal(OSError(errno.EIO, "bad", "a\nb\x1b[0m\udcff")) == "a\\nb\\x1b[0m\\udcff: bad"
    assert describe_refusal(OSError(errno.EIO, "bad", b"a\xff")) == "a\\udcff: bad"
    with pytest.raises(OSError) as caught, name_path_in_errors("x"):
        raise OSError(errno.EXDEV, "other", "a", None, "b")
    assert describe_refusal(caught.value) == "x: other"


# ---- commands, before they read data ----


@pytest.fixture(scope="module")
def old(root) -> Path:
    """A finished run's folder."""
    return root / "tests/old_files/run"


@pytest.fixture
def suite(root, tmp_path) -> Path:
    path = tmp_path / "suite.yaml"
    sets = ", ".join(change.replace("=", ": ", 1) for change in TINY if "evaluation" not in change)
    path.write_text(
        f"name: toy\nexperiment: {root}/experiments/trades_gradmatch.yaml\nseeds: [0]\nbaselines: false\n"
        f"methods: {{full: {{selection: null}}}}\nset: {{{sets}, evaluation.attacks: []}}\n"
    )
    return path


def commands(root: Path, old: Path, suite: Path, out: Path) -> dict[str, list]:
    """Each command that writes, and what it writes to."""
    file, weights = root / "experiments/trades_gradmatch.yaml", old / "checkpoints/last.safetensors"
    npz = out.with_name(f"{out.name}.npz")
    return {
        "run": ["run", file, *SETS, "--out", out],
        "select": ["select", file, *SETS, "--checkpoint", weights, "--out", npz],
        "score": ["score", file, *SETS, "--out", npz],
        "evaluate --out": ["evaluate", old, "--out", out],
        "evaluate --state": ["evaluate", old, "--state", out],
        "evaluate --examples": ["evaluate", old, "--examples", npz],
        "report": ["report", old, "--out", out],
        "export": ["export", old, "--out", out],
        "bench": ["bench", suite, "--out", out],
    }


COMMANDS = ("run", "select", "score", "evaluate --out", "evaluate --state", "evaluate --examples", "report", "export",
            "bench")  # fmt: skip


@pytest.fixture
def no_data(monkeypatch):
    """Nothing gets as far as reading data, or as starting a run."""

    def read(*_, **__):
        raise AssertionError("data are read")

    monkeypatch.setattr("advcore.data.base.DataSettings._read", read)
    monkeypatch.setattr("advcore.suite.bench.execute", read)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", CALLS)
@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_told_before_data_are_read(
    advcore, root, old, suite, tmp_path, monkeypatch, no_data, command, what
):
    """And leaves nothing behind. `run` meets every number in every call, the others each number in one of them."""
    place, turn = tmp_path / "place", list(CALLS).index(what)
    place.mkdir()
    arguments = commands(root, old, suite, place / "new" / "out")[command]
    if what == "lock" and command != "run":
        pytest.skip("no other command locks")
    for number in NUMBERS if command == "run" else NUMBERS[turn :: len(CALLS) - 1]:
        if (what, number) == ("remove", errno.ENOENT):
            continue  # what is gone is gone
        with monkeypatch.context() as patch:
            refused = refuse(patch, what, number, place)
            code, _, err = advcore(*arguments)
        assert refused, "the place was not tried"
        check_line(err, place, number)
        assert code == (3 if number in NO_ROOM else 2), err
        assert ("--resume" in err) == (command == "run" and code == 3)
        if what == "remove":
            shutil.rmtree(place)
            place.mkdir()
        assert not list(place.iterdir()), list(place.rglob("*"))


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A file system of its own in the folder."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


PLACES = {
    "dangling": errno.ENOENT,
    "dangling/x/y": errno.ENOENT,
    "loop": errno.ELOOP,
    "circle/x/y": errno.ELOOP,
    "file/x": errno.ENOTDIR,
    "file/x/y": errno.ENOTDIR,
    f"new/{'n' * 300}": errno.ENAMETOOLONG,
    "read-only/x": errno.EROFS,
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", PLACES, ids=[place[:12] for place in PLACES])
def test_real_places_that_cannot_be_written_are_told_before_data_are_read(
    advcore, root, old, suite, tmp_path, no_data, command, place
):
    here = tmp_path / "here"
    here.mkdir()
    (here / "file").write_text("theirs")
    for name, aim in {"dangling": "nowhere/at all", "loop": "loop", "circle": "other", "other": "circle"}.items():
        (here / name).symlink_to(aim)
        (here / f"{name}.npz").symlink_to(f"{aim}.npz")
    with contextlib.ExitStack() as stack:
        if place.startswith("read-only"):
            stack.enter_context(mounted(here / "read-only", "size=1m,ro"))
        before = sorted(here.rglob("*"))
        code, _, err = advcore(*commands(root, old, suite, here / place)[command])
        check_line(err, here, PLACES[place])
        assert code == 2 and sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", [name for name in COMMANDS if name.startswith(("eval", "report"))])
def test_a_device_is_not_replaced_by_a_file(advcore, root, old, suite, tmp_path, no_data, command):
    os.mkfifo(tmp_path / "out")
    os.mkfifo(tmp_path / "out.npz")
    code, _, err = advcore(*commands(root, old, suite, tmp_path / "out")[command])
    assert code == 2 and err.count("\n") == 1 and "must be a file" in err and str(tmp_path / "out") in err
    assert (tmp_path / "out").is_fifo() and (tmp_path / "out.npz").is_fifo()


def arguments(root: Path, out: Path, *more: str) -> list:
    return ["run", root / "experiments/trades_gradmatch.yaml", *SETS, "--out", out, *more]


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> Path:
    """A run that nothing disturbed, with two selections."""
    from advcore import cli

    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advcore", *map(str, arguments(root, out))])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert leaving.value.code == 0
    return out


@contextlib.contextmanager
def bound_read_only(path: Path):
    """A file or folder that is mounted onto itself, read-only."""
    if subprocess.run(["mount", "--bind", path, path], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("name", [*checkpoints.FOLDERS, "record.json", "metrics.csv", ".lock"])
def test_a_read_only_place_in_a_runs_folder_is_told_before_data_are_read(
    advcore, root, finished, tmp_path, no_data, name
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "tracking").mkdir()
    before = content(run)
    with bound_read_only(run / name):
        code, _, err = advcore(*arguments(root, run, "--resume"))
    check_line(err, run / name, errno.EROFS)
    assert code == 2 and content(run) == before


@pytest.mark.parametrize("name", checkpoints.FOLDERS)
def test_a_place_in_a_runs_folder_that_is_a_link_to_nowhere_is_told_before_data_are_read(
    advcore, root, finished, tmp_path, no_data, name
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to("nowhere")
    before = content(run)
    code, _, err = advcore(*arguments(root, run, "--resume"))
    check_line(err, run / name, errno.ENOENT)
    assert code == 2 and content(run) == before


def test_a_folder_in_the_place_of_the_lock_is_told_before_data_are_read(advcore, root, tmp_path, no_data):
    (tmp_path / "run/.lock").mkdir(parents=True)
    code, _, err = advcore(*arguments(root, tmp_path / "run", "--resume"))
    check_line(err, tmp_path / "run/.lock", errno.EISDIR)
    assert code == 2


def test_another_process_is_told_before_data_are_read(advcore, root, tmp_path, no_data):
    with checkpoints.lock_folder(tmp_path / "run"):
        code, _, err = advcore(*arguments(root, tmp_path / "run"))
        assert code == 2 and err.count("\n") == 1 and "no other process is using" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["data={name: npz, path: nowhere.npz}", "data.train_size=100000", "model.head=none"])
def test_what_is_wrong_with_the_data_leaves_no_folder(advcore, root, tmp_path, wrong):
    """The lock was taken before."""
    code, _, err = advcore(*arguments(root, tmp_path / "new/run"), "--set", wrong)
    assert code == 2 and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    (tmp_path / "there/log.txt").write_text("from the job script")
    assert advcore(*arguments(root, tmp_path / "there", "--resume"), "--set", wrong)[0] == 2
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "there", tmp_path / "there/log.txt"]


# ---- the lock ----


@pytest.mark.parametrize("number", NUMBERS)
def test_a_lock_that_cannot_be_taken_is_not_taken_for_another_process(tmp_path, monkeypatch, number):
    """As on a network's file system without locks."""
    refuse(monkeypatch, "lock", number, tmp_path)
    error = OSError if number in NO_ROOM else ConfigError
    with pytest.raises(error, match=os.strerror(number)) as caught, checkpoints.lock_folder(tmp_path / "run"):
        pass
    assert "no other process" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_lock_that_its_owner_removes_is_taken_anew(tmp_path, monkeypatch):
    """Between opening it and locking it: the one who had it found its folder empty and removed both."""
    import fcntl

    original, times = fcntl.flock, []

    def flock(file, how):
        if len(times) < 2:
            times.append(1)
            (tmp_path / "run/.lock").unlink()
            (tmp_path / "run").rmdir()
        return original(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with checkpoints.lock_folder(tmp_path / "run"):
        assert len(times) == 2 and (tmp_path / "run/.lock").exists()
        with pytest.raises(ConfigError, match="no other process"), checkpoints.lock_folder(tmp_path / "run"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_lock_stays_with_what_a_run_left(tmp_path):
    with checkpoints.lock_folder(tmp_path / "run"):
        (tmp_path / "run/record.json").write_text("{}")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "record.json"]


def test_a_suites_run_whose_folder_cannot_be_made_is_failed_and_not_busy(tmp_path, root):
    from advcore.config.load import load
    from advcore.suite.process import attempt
    from advcore.suite.suite import Run

    run = Run("full", 0, load(root / "experiments/trades_full.yaml", TINY[:2]))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / run.slug).write_text("in the way")
    outcome = attempt(run, tmp_path)
    assert (outcome.kind, outcome.code) == ("failed", 2) and os.strerror(errno.EEXIST) in outcome.error


# ---- in the middle of a run ----

CHANGES = ("open", "write", "rename", "sync", "permissions", "make")


def cases(firsts, quick: int) -> list:
    """Each of `firsts` with the next number; those after the first `quick` are slow tests."""
    found = []
    for place, (first, number) in enumerate(zip(firsts, itertools.cycle(NUMBERS), strict=False)):
        parts = (*first, number) if isinstance(first, tuple) else (first, number)
        marks = () if place < quick else pytest.mark.slow
        found.append(pytest.param(*parts, marks=marks, id="-".join([*map(str, parts[:-1]), errno.errorcode[number]])))
    return found


@pytest.mark.parametrize(("what", "number"), cases(itertools.islice(itertools.cycle(CHANGES), len(NUMBERS)), 6))
@pytest.mark.slow
def test_in_the_middle_of_a_run_it_is_a_line_and_what_is_done_is_kept(
    advcore, root, finished, tmp_path, monkeypatch, what, number
):
    """Once the second state is there, the system refuses; mended, the run ends in the same bits."""
    run, original = tmp_path / "run", checkpoints.save

    def save(*given):
        original(*given)
        if len(checkpoints._list_numbers(run)) == 2:
            refuse(patch, what, number, run)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save)
        code, _, err = advcore(*arguments(root, run))
    check_line(err, run, number)
    assert code == 3 and "progress is saved" in err and "with --resume to continue" in err
    assert checkpoints.load_newest(run)[2] == [] and RunRecord.load(run / "record.json").epochs
    code, _, err = advcore(*arguments(root, run, "--resume"))
    assert code == 0, err
    for name in ("checkpoints/last.safetensors", "checkpoints/best.safetensors"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()
    one, two = (RunRecord.load(folder / "record.json") for folder in (run, finished))
    assert (one.final, one.relative_cost, len(one.epochs)) == (two.final, two.relative_cost, len(two.epochs))
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]


# ---- at the end of the other commands ----

LAST_BEFORE = {
    "select": "advcore.run.prepare.prepare",
    "score": "advcore.run.select.prepare",
    "evaluate --out": "advcore.run.prepare.prepare",
    "evaluate --state": "advcore.run.prepare.prepare",
    "evaluate --examples": "advcore.run.prepare.prepare",
    "report": "advcore.reporting.run_page.build_run_page",
    "export": "advcore.export.export._load_coresets",
    "bench": "advcore.suite.bench.check_data",
}
"""What each command calls after it has tried its places and before it writes."""
LATE = [*zip(LAST_BEFORE, itertools.cycle(CHANGES[:4]), strict=False)]
LATE += [pair for pair in itertools.product(LAST_BEFORE, CHANGES[:4]) if pair not in LATE]


@pytest.mark.parametrize(("command", "what", "number"), cases(LATE, len(LAST_BEFORE)))
def test_at_the_end_of_a_command_it_is_a_line_and_nothing_half_written(
    advcore, root, old, suite, tmp_path, monkeypatch, command, what, number
):
    place, name = tmp_path / "place", LAST_BEFORE[command]
    place.mkdir()
    module = importlib.import_module(name.rpartition(".")[0])
    original = getattr(module, name.rpartition(".")[2])

    def last(*given, **named):
        found = original(*given, **named)
        refuse(patch, what, number, place)
        return found

    arguments = commands(root, old, suite, place / "out")[command]
    with monkeypatch.context() as patch:
        patch.setattr(module, original.__name__, last)
        code, _, err = advcore(*arguments)
    check_line(err, place, number)
    to_continue = {"bench": "rerun the same command to continue", "evaluate --state": "to continue from --state"}
    assert code == 3 and to_continue.get(command, "fix this, then rerun the same command") in err, err
    left = [path for path in place.rglob("*") if path.is_file() and not path.name.endswith((".log", ".yaml"))]
    assert not left or command == "bench", left
    if command != "bench":  # whose runs are processes of their own
        assert advcore(*arguments)[0] == 0


# ---- real full disks and limits ----


@pytest.mark.parametrize("command", ["list", "check"])
def test_what_is_printed_onto_a_full_disk_is_a_line(advcore, root, command):
    """An error that names no file."""
    file = [root / "experiments/trades_gradmatch.yaml", *SETS] if command == "check" else []
    full = open("/dev/full", "w")  # noqa: SIM115
    try:
        with contextlib.redirect_stdout(full):
            code, _, err = advcore(command, *file)
    finally:
        with contextlib.suppress(OSError):
            full.close()
    assert code == 3 and err.count("\n") == 1 and os.strerror(errno.ENOSPC) in err, err


def test_a_process_with_too_many_open_files_is_a_line(advcore, root, finished, tmp_path):
    """The system's own refusal, of every file at once; nothing is taken for damaged."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "record.json").unlink()
    before, limit = content(run), resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limit[1]))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        with pytest.raises((OSError, UserError), match=os.strerror(errno.EMFILE)):
            checkpoints.load_newest(run)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert content(run) == before


def unreadable(monkeypatch, folder: Path) -> None:
    """What is in the folder, for a while or for good."""
    original = Path.read_bytes

    def read_bytes(path):
        return _raise(errno.EIO, path) if folder in path.parents else original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_a_state_that_cannot_be_read_now_is_passed_over_and_kept(finished, tmp_path, monkeypatch, caplog):
    """It may be whole; a damaged one goes."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    unreadable(monkeypatch, checkpoints.locate_states(run) / f"{checkpoints._list_numbers(run)[-1]:06d}")
    _, _, (line,) = checkpoints.load_newest(run)
    assert os.strerror(errno.EIO) in line and line in caplog.text
    monkeypatch.undo()
    assert content(run) == content(finished)


@pytest.mark.parametrize("record", [True, False])
def test_where_nothing_can_be_read_now_no_fresh_start_is_advised(
    advcore, root, finished, tmp_path, monkeypatch, record
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    unreadable(monkeypatch, run if record else checkpoints.locate_states(run))
    if not record:
        (run / "record.json").unlink()
    before = sorted(run.rglob("*"))
    code, _, err = advcore(*arguments(root, run, "--resume"))
    check_line(err, run, errno.EIO)
    assert code == 3 and "fix what prevents reading" in err and "--overwrite" not in err
    assert sorted(run.rglob("*")) == before


def test_a_finished_run_whose_folder_became_read_only_is_still_read(advcore, finished, tmp_path):
    """By what writes elsewhere."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    with bound_read_only(run):
        for command in (["evaluate", run], ["report", run, "--out", tmp_path / "r.html"],
                        ["export", run, "--out", tmp_path / "e"]):  # fmt: skip
            code, _, err = advcore(*command)
            assert code == 0, err
        check_line(advcore("report", run)[2], run, errno.EROFS)


# ---- data ----


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A few images, laid out as each kind of data set reads them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    pixels, labels = np.zeros((12, 8, 8), "uint8"), np.arange(12) % 2
    encoded = io.BytesIO()
    Image.fromarray(pixels[0]).save(encoded, "PNG")
    for part in ("train", "test"):
        for label in ("0", "1"):
            where = folder / "image_folder" / part / label
            where.mkdir(parents=True)
            for i in range(6):
                (where / f"{i}.png").write_bytes(encoded.getvalue())
        (folder / "parquet").mkdir(exist_ok=True)
        table = pa.table({"image": [{"bytes": encoded.getvalue(), "path": "x"}] * 12, "label": labels})
        pq.write_table(table, folder / "parquet" / f"{part}-0.parquet")
    x = pixels[:, None]
    np.savez(folder / "npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    (folder / "npz.npz").rename(folder / "npz")
    return folder


LOOKS = [
    *((name, "os.stat", "") for name in ("npz", "image_folder", "parquet")),
    *(("npz", "builtins.open", ""), ("parquet", "os.listdir", "")),
    ("image_folder", "os.listdir", "/train"),
    *(("image_folder", "os.scandir", place) for place in ("/train/0", "/test/1")),
]


@pytest.mark.parametrize(("name", "call", "place"), LOOKS)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT])
def test_data_that_the_system_does_not_let_us_read_are_a_line(
    advcore, root, data, monkeypatch, name, call, place, number
):
    where, module = data / name, importlib.import_module(call.rpartition(".")[0])
    original = getattr(module, call.rpartition(".")[2])

    def refused(path, *given, **named):
        return _raise(number, path) if str(path) == f"{where}{place}" else original(path, *given, **named)

    settings = f"data={{name: {name}, path: {where}{', size: 8' if name == 'image_folder' else ''}}}"
    monkeypatch.setattr(module, original.__name__, refused)
    code, _, err = advcore("check", root / "experiments/trades_gradmatch.yaml", *SETS[4:], "--set", settings)
    check_line(err, where, number)
    assert code == 2


READING = {
    "evaluate": ("evaluate", "RUN"),
    "report": ("report", "RUN"),
    "report of a folder": ("report", "FOLDER"),
    "export": ("export", "RUN"),
    "select": ("select", "FILE", *SETS, "--checkpoint", "RUN/checkpoints/last.safetensors"),
    "check": ("check", "FILE", *SETS),
}


@pytest.mark.parametrize("command", READING)
def test_what_a_command_cannot_read_is_a_mistake_in_its_settings(
    advcore, root, finished, tmp_path, monkeypatch, command
):
    """Whatever looks at the run's folder, or at the run file."""
    folder = tmp_path / "folder"
    shutil.copytree(finished, folder / "run")
    shutil.copy(root / "experiments/trades_gradmatch.yaml", folder / "run/file.yaml")
    places = {"RUN": folder / "run", "FOLDER": folder, "FILE": folder / "run/file.yaml"}
    filled = []
    for part in READING[command]:
        for name, place in places.items():
            part = part.replace(name, str(place))
        filled.append(part)
    monkeypatch.chdir(tmp_path)
    numbers = (errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE)
    for call, number in itertools.product(("os.stat", "os.scandir", "builtins.open"), numbers):
        module = importlib.import_module(call.rpartition(".")[0])
        original, refused = getattr(module, call.rpartition(".")[2]), []

        def look(path, *given, original=original, refused=refused, number=number, **named):
            if str(path).startswith(str(folder / "run")):
                refused.append(path)
                raise OSError(number, os.strerror(number), str(path))
            return original(path, *given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(module, original.__name__, look)
            if call == "builtins.open":
                patch.setattr("io.open", look)
            code, _, err = advcore(*filled)
        assert code == 2 or code == 0 and not (refused and call == "builtins.open"), err
        assert not code or err.count("\n") == 1 and (str(folder) in err or "does not exist" in err), err
        for path in ("out", "exports", "coreset.npz", "coreset.json"):
            where = tmp_path / path
            shutil.rmtree(where) if where.is_dir() else where.unlink(missing_ok=True)
