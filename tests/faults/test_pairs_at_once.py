"""A file and the JSON beside it are both of before or both of now, whenever their writer is stopped or read."""

import builtins
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.injectors import killed_at

from advcore import files
from advcore.errors import CheckpointError
from advcore.run.weights import compute_weights_hash, find_checkpoint, load_state, save_state
from advcore.selection.result import Coreset

pytestmark = pytest.mark.case("B2")


def save_arrays(path: Path, number: int) -> None:
    files.save_arrays(path, {"a": np.full(50, number)}, {"number": number})


def save_tensors(path: Path, number: int) -> None:
    files.save_tensors(path, {"a": torch.full((50,), float(number))}, {"number": number})


PAIRS = {
    "arrays": ("x.npz", save_arrays, files.load_arrays),
    "tensors": ("x.safetensors", save_tensors, files.load_tensors),
}
each_pair = pytest.mark.parametrize(("name", "save", "load"), PAIRS.values(), ids=PAIRS)


def names(folder: Path) -> list[str]:
    """Of all files but those that a killed write left half-written, which the next run sweeps."""
    return sorted(one.name for one in folder.iterdir() if one not in files.list_leftovers(folder))


def number_of(path: Path, load) -> int:
    """Which version is read, all of it; 0 for none."""
    if not files.has_pair(path):
        return 0
    values, facts = load(path)
    assert {float(value) for value in values["a"]} == {float(facts["number"])}
    return facts["number"]


@each_pair
@pytest.mark.parametrize("before", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_killed_at_any_touch_of_the_disk_both_files_are_old_or_both_new(tmp_path, name, save, load, before):
    import safetensors.torch  # noqa: F401  # or every process of its own would look for it on the disk

    seen, n = [], 0
    while True:
        n, path = n + 1, tmp_path / str(n) / name
        path.parent.mkdir()
        for number in range(1, before + 1):
            save(path, number)
        if not killed_at(n, lambda path=path: save(path, before + 1)):
            break
        seen.append(number_of(path, load))
        save(path, 9)
        assert number_of(path, load) == 9 and names(path.parent) == sorted([name, "x.json"])
    assert seen == sorted(seen) and set(seen) == {before, before + 1} and len(seen) > 12


class Stop(BaseException):
    """As a signal raises it, anywhere."""


def stopped_at(monkeypatch, n: int, work) -> bool:
    """Whether `work` was stopped before or, for an odd n, right after the n-th half of a system call."""
    count = [0]

    def wrapped(original):
        def call(*given, **named):
            count[0] += 1
            if count[0] == n:
                raise Stop
            found = original(*given, **named)
            count[0] += 1
            if count[0] == n:
                raise Stop
            return found

        return call

    with monkeypatch.context() as patch:
        for module, attribute in (
            *((os, one) for one in ("open", "fsync", "chmod", "replace", "unlink", "fdopen", "mkdir", "close")),
            (builtins, "open"),
        ):
            patch.setattr(module, attribute, wrapped(getattr(module, attribute)))
        try:
            work()
        except Stop:
            return True
    return False


@each_pair
@pytest.mark.parametrize("before", [0, 1])
def test_stopped_before_or_after_any_system_call_both_files_are_old_or_both_new(
    tmp_path, monkeypatch, name, save, load, before
):
    seen, n = [], 0
    while True:
        n, path = n + 1, tmp_path / str(n) / name
        path.parent.mkdir()
        for number in range(1, before + 1):
            save(path, number)
        if not stopped_at(monkeypatch, n, lambda path=path: save(path, before + 1)):
            break
        seen.append(number_of(path, load))
        if before:
            with contextlib.suppress(CheckpointError):
                files.settle(path)
            assert number_of(path, load) == seen[-1]  # finishing it changes nothing that is read
    assert seen == sorted(seen) and set(seen) == {before, before + 1} and len(seen) > 20


def interrupted(path: Path, save, number: int) -> Path:
    """Write a pair and stop between its two renames; returns the file that waits."""
    original = os.replace

    def replace(source, target):
        if Path(target) == path:
            raise Stop
        original(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(os, "replace", replace)
        save(path, number)
    (pending,) = path.parent.glob(".*.new-*")
    return pending


@each_pair
def test_a_pair_that_was_stopped_twice_is_the_one_that_its_json_speaks_of(tmp_path, monkeypatch, name, save, load):
    path = tmp_path / name
    save(path, 1)
    interrupted(path, save, 2)
    n = 0
    while True:
        n += 1
        if not stopped_at(monkeypatch, n, lambda: save(path, 3)):
            break
        assert number_of(path, load) in (2, 3)
    assert number_of(path, load) == 3 and names(tmp_path) == sorted([name, "x.json"])


@each_pair
def test_facts_alone_can_be_written_anew(tmp_path, name, save, load):
    """The file is the same, and has the same name while it waits."""
    path = tmp_path / name
    save(path, 1)
    values, facts = load(path)
    again = files.save_arrays if name.endswith("npz") else files.save_tensors
    again(path, values, facts | {"more": 1})
    assert load(path)[1]["more"] == 1 and len(list(tmp_path.iterdir())) == 2


def test_what_waits_is_found_by_all_who_read_a_run(tmp_path):
    """Its weights, their hash, and its coresets, where nobody finished the pair."""
    from torch import nn

    net = nn.Linear(2, 2)
    interrupted(tmp_path / "checkpoints/last.safetensors", lambda path, _: save_state(
        tmp_path, "last", net.state_dict(), {"epoch": 3}), 1)  # fmt: skip
    found = find_checkpoint(tmp_path, "last")
    other = nn.Linear(2, 2)
    load_state(other, found)
    assert torch.equal(other.weight, net.weight) and not found.exists()
    facts = json.loads(found.with_suffix(".json").read_text())
    assert compute_weights_hash(found) == facts["sha256"] == files.load_tensors(found)[1]["sha256"]
    coreset = Coreset(
        indices=torch.arange(3), weights=torch.ones(3), num_examples=9, fingerprint="x", solver="s", partition="p",
        seed=0, budget=0.3,
    )  # fmt: skip
    interrupted(tmp_path / "coresets/epoch-001.npz", lambda path, _: coreset.save(path), 1)
    from advcore.export.export import _load_coresets
    from advcore.export.report import _load_coreset

    assert len(_load_coreset(tmp_path, 1)) == 3 and [name for name, _ in _load_coresets(tmp_path)] == ["epoch-001"]


@each_pair
def test_a_pair_is_finished_and_what_came_to_no_json_goes(tmp_path, name, save, load):
    path = tmp_path / name
    save(path, 1)
    interrupted(path, save, 2)
    lost = tmp_path / f".{name}.new-0123456789ab"
    lost.write_bytes(b"of a writer that was killed before its JSON")
    other = tmp_path / f".other{path.suffix}.new-0123456789ab"
    other.write_bytes(b"of one that never had a JSON")
    files.settle_all(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([name, "x.json"]) and number_of(path, load) == 2


def test_leftovers_are_not_what_waits(tmp_path):
    save_arrays(tmp_path / "x.npz", 1)
    interrupted(tmp_path / "x.npz", save_arrays, 2)
    (tmp_path / "..x.npz.new-0123456789ab.abcd1234").write_bytes(b"half")
    assert [one.name for one in files.list_leftovers(tmp_path)] == ["..x.npz.new-0123456789ab.abcd1234"]


def test_where_the_json_cannot_be_read_all_is_left_as_it_is(tmp_path):
    path = tmp_path / "x.npz"
    save_arrays(path, 1)
    interrupted(path, save_arrays, 2)
    (tmp_path / "x.json").write_text("{")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    files.settle_all(tmp_path)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


@pytest.mark.case("D5")
def test_what_waits_is_looked_for_beside_the_pair_and_behind_no_link(tmp_path):
    path, beyond = tmp_path / "here/x.npz", tmp_path / "beyond"
    beyond.mkdir()
    save_arrays(path, 1)
    pending = interrupted(path, save_arrays, 2)
    pending.rename(beyond / "file")
    pending.symlink_to(beyond / "file")
    with pytest.raises(CheckpointError, match="x.npz is damaged"):
        files.load_arrays(path)
    files.settle_all(tmp_path / "here")
    assert (beyond / "file").exists() and not path.is_symlink()
    for digest in ("../../beyond/file", "0" * 63 + "/", None, 7, "0" * 64):
        files.write_sealed(tmp_path / "here/x.json", {"number": 1, "sha256": digest}, "advcore-arrays-1")
        with pytest.raises(CheckpointError, match="x.npz is damaged"):
            files.load_arrays(path)


@each_pair
def test_a_reader_beside_a_writer_reads_one_version_or_the_other(tmp_path, name, save, load):
    path, done, problems, seen = tmp_path / name, threading.Event(), [], set()
    save(path, 1)

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(number_of(path, load))
            except Exception as error:
                problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(2, 40):
        save(path, number)
    done.set()
    for reader in readers:
        reader.join()
    assert not problems and seen <= set(range(1, 40)), problems[:3]


LOOP = """
import sys
from pathlib import Path
import numpy as np
from advcore import files
number = int(sys.argv[2])
while True:
    number += 1
    files.save_arrays(Path(sys.argv[1]), {"a": np.full(50_000, number)}, {"number": number})
    print(number, flush=True)
"""


@pytest.mark.slow
def test_killed_25_times_in_a_loop_of_pairs_both_files_are_of_one_version(tmp_path):
    generator, path, told = random.Random(0), tmp_path / "x.npz", 0
    for _ in range(25):
        command = [sys.executable, "-c", LOOP, str(path), str(told)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(generator.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        told = number_of(path, files.load_arrays)
        assert told >= int(lines[-1] if lines else 1) > 0
