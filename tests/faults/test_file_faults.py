"""States and records that break, in every place that a fault can be put: an older good one is always there."""

import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.injectors import Poisoned, flipped, killed_at, poisoned

from advcore import files
from advcore.errors import CheckpointError
from advcore.run import checkpoints

case = pytest.mark.case


def tree(number: int) -> dict:
    generator = torch.Generator().manual_seed(number)
    return {
        "number": number,
        "model": {"weight": torch.rand(30, generator=generator), "half": torch.ones(3, dtype=torch.bfloat16)},
        "values": [1e-05, None, "é", True, number / 3],
    }


def save(run: Path, number: int) -> None:
    checkpoints.save(run, lambda: tree(number), {"data": [number, "é"], "small": 1e-07})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- written half-way ----


class HalfWay(dict):
    """A state that fails while it is taken apart, after its first half."""

    def items(self):
        yield from list(super().items())[:1]
        poisoned()


BROKEN = {
    "the state cannot be had": (poisoned, Poisoned),
    "it fails half-way": (lambda: HalfWay(tree(3)), Poisoned),
    "a value is none": (lambda: tree(3) | {"z": object()}, TypeError),
    "a number is none": (lambda: tree(3) | {"z": float("nan")}, ValueError),
    "a tensor holds nothing": (lambda: tree(3) | {"z": [torch.ones(1), torch.ones(2, device="meta")]}, Exception),
}


@case("B1")
@pytest.mark.parametrize("state, error", BROKEN.values(), ids=BROKEN)
def test_a_state_that_cannot_be_serialised_leaves_the_old_ones_byte_identical(tmp_path, state, error):
    for number in (1, 2):
        save(tmp_path, number)
    before = content(tmp_path)
    with pytest.raises(error):
        checkpoints.save(tmp_path, state, {"data": []})
    assert content(tmp_path) == before and len(list(checkpoints.locate_states(tmp_path).iterdir())) == 2


@case("B1")
@pytest.mark.parametrize(
    "place", ["safetensors.torch.save", "advcore.files.sealed.format_json", "advcore.files.trees.write_synced"]
)
def test_a_serialiser_that_raises_leaves_the_old_states_byte_identical(tmp_path, monkeypatch, place):
    save(tmp_path, 1)
    before = content(tmp_path)
    monkeypatch.setattr(place, poisoned)
    with pytest.raises(Poisoned):
        save(tmp_path, 2)
    assert content(tmp_path) == before and not list(checkpoints.locate_states(tmp_path).glob(".*"))


# ---- killed ----


@case("B2")
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.slow
def test_killed_at_any_touch_of_the_disk_the_newest_state_is_whole(tmp_path, before):
    """At every opening, making, renaming and removing of a save, the first one and one that rotates: one kill each."""
    import safetensors.torch  # noqa: F401  # or every process of its own would look for it on the disk

    newest, n = [], 0
    while True:
        n, run = n + 1, tmp_path / str(n)
        for number in range(1, before + 1):
            save(run, number)
        if not killed_at(n, lambda run=run: save(run, before + 1)):
            break
        found = checkpoints.load_newest(run)
        number, damaged = (found[0]["number"], found[2]) if found else (0, [])
        assert not damaged and number == max(checkpoints._list_numbers(run), default=0) >= before
        assert not found or torch.equal(tree(number)["model"]["weight"], found[0]["model"]["weight"])
        newest.append(number)
        save(run, 7)  # and it goes on: what was left is gone
        assert len(checkpoints._list_numbers(run)) <= 2 and not list(checkpoints.locate_states(run).glob(".*"))
    assert set(newest) == {before, before + 1} and newest == sorted(newest) and len(newest) > 9


@case("B2")
@pytest.mark.parametrize("path", ["one.json", "one.npz"])
@pytest.mark.slow
def test_a_file_that_is_written_again_and_again_is_whole_whenever_it_is_killed(tmp_path, path):
    def write(i):
        if path.endswith("json"):
            files.write_json(tmp_path / path, {"i": i, "filled": "x" * 100})
        else:
            files.write_npz(tmp_path / path, {"i": np.full(100, i)})

    write(0)
    n = 1
    while killed_at(n, lambda: [write(i) for i in range(1, 4)]):
        own = tmp_path / path
        found = files.read_json(own) if path.endswith("json") else files.read_npz(own, own)
        assert found["i"] in range(4) if path.endswith("json") else len(set(found["i"])) == 1
        files.write_json(tmp_path / "one.json" if path.endswith("json") else tmp_path / "other.json", {"i": 0})
        n += 1
    assert n > 5
    for left in files.list_leftovers(tmp_path):
        left.unlink()
    assert not list(tmp_path.glob(".*"))


LOOP = """
import sys
from pathlib import Path
import torch
from advcore.run import checkpoints
number = int(sys.argv[2])
while True:
    number += 1
    checkpoints.save(Path(sys.argv[1]), lambda: {"number": number, "w": torch.full((200_000,), float(number))}, {})
    print(number, flush=True)
"""


@case("B2")
@pytest.mark.slow
def test_killed_25_times_in_a_loop_of_saves_the_newest_state_is_whole_and_at_most_one_is_lost(tmp_path):
    generator, told = random.Random(0), 0
    for _ in range(25):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path), str(told)], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(generator.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        state, _, damaged = checkpoints.load_newest(tmp_path)
        assert not damaged and bool((state["w"] == state["number"]).all())
        assert state["number"] >= int(lines[-1] if lines else 0) > 0 or not lines
        told = state["number"]


# ---- damaged ----


@case("B4", "B3")
@pytest.mark.parametrize("name", ["manifest.json", "values.json", "tensors.safetensors"])
def test_one_bit_anywhere_in_a_state_is_noticed(tmp_path, name):
    """Every byte of its files, each bit in turn; capital letters in numbers and in escapes among them."""
    files.save_folder(tmp_path / "x", tree(1), {"data": ["é", 1e-07]})
    good = (tmp_path / "x" / name).read_bytes()
    for i, bad in enumerate(flipped(good, 1)):
        (tmp_path / "x" / name).write_bytes(bad)
        with pytest.raises(CheckpointError):
            files.load_folder(tmp_path / "x")
            pytest.fail(f"byte {i} of {name}: {bad[max(0, i - 9) : i + 9]}")
    (tmp_path / "x" / name).write_bytes(good)
    assert files.load_folder(tmp_path / "x")[0]["number"] == 1


@case("B4", "B3")
def test_another_spelling_of_the_same_facts_is_noticed(tmp_path):
    files.save_arrays(tmp_path / "x.npz", {"a": np.ones(2)}, {"b": "é", "c": 1e-07})
    described = tmp_path / "x.json"
    good = described.read_bytes()
    for old, new in ((b"\\u00e9", b"\\u00E9"), (b"1e-07", b"1E-07"), (b"\n}", b"}")):
        assert old in good
        described.write_bytes(good.replace(old, new))
        with pytest.raises(CheckpointError, match="x.json is damaged"):
            files.load_arrays(tmp_path / "x.npz")


@case("B4")
@pytest.mark.parametrize("name", ["x.npz", "x.json"])
def test_one_bit_anywhere_in_a_coreset_is_noticed(tmp_path, name):
    files.save_arrays(tmp_path / "x.npz", {"indices": np.arange(9), "weights": np.ones(9)}, {"epoch": 3})
    good = (tmp_path / name).read_bytes()
    for bad in flipped(good, 1):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(CheckpointError):
            files.load_arrays(tmp_path / "x.npz")


@case("B3")
@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_files_cut_anywhere_are_noticed_and_the_state_before_is_used(tmp_path, caplog, size):
    for name in ("manifest.json", "values.json", "tensors.safetensors"):
        run = tmp_path / name
        for number in (1, 2):
            save(run, number)
        bad = checkpoints.locate_states(run) / "000002" / name
        bad.write_bytes(bad.read_bytes()[:size])
        caplog.clear()
        state, _, (line,) = checkpoints.load_newest(run)
        assert state["number"] == 1 and name in line and "000002" in line
        (told,) = caplog.messages
        assert line in told and "continuing from" in told and "000001" in told


# ---- a full disk ----


@case("B6")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_a_disk_that_is_full_at_any_call_leaves_the_states_before(tmp_path, monkeypatch, call, error):
    for number in (1, 2):
        save(tmp_path, number)
    before = content(tmp_path)

    def full(*_, **__):
        raise OSError(error, os.strerror(error), "here")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError) as stopped:
        save(tmp_path, 3)
    assert stopped.value.errno == error
    monkeypatch.undo()
    assert content(tmp_path) == before and not list(checkpoints.locate_states(tmp_path).glob(".*"))
    save(tmp_path, 3)
    assert checkpoints.load_newest(tmp_path)[0]["number"] == 3


SMALLER = ("data.train_size=80", "data.test_size=20", "evaluation.checks=false")


def arguments(root, tiny, out, *more):
    changes = [part for one in (*tiny, *SMALLER, *more) for part in ("--set", one)]
    return ["run", str(root / "experiments/trades_gradmatch.yaml"), *changes, "--out", str(out)]


@case("B6")
def test_a_file_that_may_not_grow_ends_the_run_in_a_line_with_path_and_cause(advcore, root, tiny, tmp_path):
    """The system's own refusal: no file over 9 kB, which the record fits in and the state does not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, before[1]))
    try:
        code, _, err = advcore(*arguments(root, tiny, tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 3 and err.count("\n") == 1 and "File too large" in err and "--resume" in err, err
    assert not list(checkpoints.locate_states(tmp_path / "run").glob("*")) and (tmp_path / "run/record.json").is_file()
    assert advcore(*arguments(root, tiny, tmp_path / "run"), "--resume")[0] == 0


@case("B6")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_rows_that_do_not_fit_on_the_disk_end_a_run_in_a_line(advcore, root, tiny, tmp_path, monkeypatch, error):
    class Full:
        def __init__(self, *_, **__):
            pass

        def write(self, content):
            raise OSError(error, os.strerror(error))

    place = "advcore.selection.measure.place_rows"
    monkeypatch.setattr(place, lambda selector, call, **_: (tmp_path, ()))  # as if they did not fit in memory
    monkeypatch.setattr("advcore.rows.on_disk.tempfile.TemporaryFile", Full)
    code, _, err = advcore(*arguments(root, tiny, tmp_path / "run"))
    assert code == 3 and err.count("\n") == 1 and os.strerror(error) in err and str(tmp_path) in err, err
    assert "gradient rows" in err and "TMPDIR" in err and "--resume" in err
    assert checkpoints.load_newest(tmp_path / "run")[0]["place"]["epoch"] == 1


@case("B6")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")
def test_a_column_says_which_folder_is_full(tmp_path, monkeypatch):
    from advcore.rows.on_disk import Column

    monkeypatch.setattr("advcore.rows.on_disk.tempfile.TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    with pytest.raises(OSError, match="gradient rows go there; free space, or set TMPDIR") as stopped:
        Column(100, tmp_path).append(torch.ones(100, 2))
    assert stopped.value.errno == errno.ENOSPC and stopped.value.filename == str(tmp_path)


@case("B6")
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a file system")
def test_on_a_tiny_disk_a_run_stops_in_a_line_and_goes_on_once_there_is_room(advcore, root, tiny, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", disk], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    try:
        code, _, err = advcore(*arguments(root, tiny, disk / "run"))
        assert code == 3 and err.count("\n") == 1 and "No space left on device" in err
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert advcore(*arguments(root, tiny, disk / "run"), "--resume")[0] == 0
        assert advcore(*arguments(root, tiny, tmp_path / "undisturbed"))[0] == 0
        weights = [path / "checkpoints/last.safetensors" for path in (disk / "run", tmp_path / "undisturbed")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- what is left, and what is lost ----


@pytest.fixture(scope="module")
def begun(root, tiny, tmp_path_factory):
    """A run that was stopped after its third epoch, and one that was not."""
    from advcore.config.load import load
    from advcore.run.prepare import Reporter, prepare
    from advcore.run.run import run

    folder = tmp_path_factory.mktemp("runs")
    config = load(root / "experiments/trades_gradmatch.yaml", [*tiny, *SMALLER])
    run(prepare(config), folder / "undisturbed")

    class Enough(Exception):
        pass

    def on_epoch(entry, so_far):
        if entry["epoch"] == 2:
            raise Enough

    with pytest.raises(Enough):
        run(prepare(config), folder / "begun", Reporter(on_epoch=on_epoch))
    return folder


@pytest.fixture
def stopped(begun, tmp_path):
    return Path(shutil.copytree(begun / "begun", tmp_path / "run"))


@case("B8")
def test_what_a_killed_write_left_goes_at_the_next_start_and_nothing_else(advcore, root, tiny, stopped):
    left = [".record.json.ab12cd_8", "checkpoints/.last.safetensors.abcdefgh", "coresets/.epoch-001.npz.abcdefgh"]
    kept = [".gitignore", ".record.json", "checkpoints/.gitkeep", "notes.txt", ".other.json.abcdefgh"]
    for name in (*left, *kept):
        (stopped / name).parent.mkdir(exist_ok=True)
        (stopped / name).write_text("half")
    assert advcore(*arguments(root, tiny, stopped), "--resume")[0] == 0
    assert not [name for name in left if (stopped / name).exists()]
    assert all((stopped / name).exists() for name in kept)


@case("B8")
def test_leftovers_are_not_looked_for_behind_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".a.npz.abcdefgh").write_text("theirs")
    (tmp_path / "coresets").symlink_to(tmp_path / "elsewhere")
    assert files.list_leftovers(tmp_path / "coresets") == [] and len(files.list_leftovers(tmp_path / "elsewhere")) == 1


RECORDS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "zeros": lambda path: path.write_bytes(bytes(900)),
    "another kind": lambda path: path.write_text(json.dumps({"schema": "other"})),
}


@case("B8", "B3")
@pytest.mark.parametrize("damage", RECORDS.values(), ids=RECORDS)
def test_without_its_record_a_run_goes_on_from_its_states(advcore, root, tiny, stopped, begun, damage, request):
    damage(stopped / "record.json")
    if request.node.callspec.id in ("cut", "missing"):  # other settings are refused all the same
        code, _, err = advcore(*arguments(root, tiny, stopped, "attack.eps=0.2"), "--resume")
        assert code == 2 and "attack.eps: 0.1 -> 0.2" in err
    code, _, err = advcore(*arguments(root, tiny, stopped), "--resume")
    assert code == 0 and "Traceback" not in err, err
    one, two = (json.loads((path / "record.json").read_text()) for path in (stopped, begun / "undisturbed"))
    assert one["finished"] and one["selections"] and len(one["epochs"]) == len(two["epochs"])
    assert "record.json" in one["resumes"][0]["damaged"][0] and one["final"] == two["final"]
    assert (one["relative_cost"], one["config"], one["inputs"]) == tuple(
        two[key] for key in ("relative_cost", "config", "inputs")
    )
    weights = [path / "checkpoints/last.safetensors" for path in (stopped, begun / "undisturbed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@case("B8")
def test_without_record_and_states_the_way_out_is_told(advcore, root, tiny, stopped):
    (stopped / "record.json").write_text("{")
    shutil.rmtree(checkpoints.locate_states(stopped))
    code, _, err = advcore(*arguments(root, tiny, stopped), "--resume")
    assert code == 3 and err.count("\n") == 1 and "record.json" in err and "--overwrite" in err


@case("B8")
def test_a_run_is_not_mixed_with_another_unless_told_to(advcore, root, tiny, stopped):
    before = content(stopped)
    code, _, err = advcore(*arguments(root, tiny, stopped))
    assert code == 2 and "--resume" in err and "--overwrite" in err and content(stopped) == before
