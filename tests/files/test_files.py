"""A file exists whole or not at all, and damage is noticed."""

import errno
import gc
import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from advcore import files
from advcore.errors import CheckpointError, UnsafeFileError


class Poisoned(Exception):
    """What the broken writer raises."""


class HalfWay:
    """A file that takes half of what it is given and then fails."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def fail(*_, **__):
    raise Poisoned


def half_way(monkeypatch):
    opened = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda handle, mode: HalfWay(opened(handle, mode)))


FAULTS = {
    "write": half_way,
    "sync": lambda monkeypatch: monkeypatch.setattr(os, "fsync", fail),
    "permissions": lambda monkeypatch: monkeypatch.setattr(os, "chmod", fail),
    "rename": lambda monkeypatch: monkeypatch.setattr(os, "replace", fail),
}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.case("B1", "B6")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fault):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")
    fault(monkeypatch)
    with pytest.raises((Poisoned, OSError)):
        files.write_bytes(path, b"new content")
    assert content(tmp_path) == {"file": b"old"}


@pytest.mark.case("B1", "B6")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_first_write_that_fails_leaves_nothing(tmp_path, monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises((Poisoned, OSError)):
        files.write_bytes(tmp_path / "file", b"new content")
    assert content(tmp_path) == {}


def tensors(facts):
    """Content that differs where the facts do, so that new content under old facts would show."""
    return {
        "weight": torch.arange(6.0).reshape(2, 3) + facts.get("epoch", 0),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }


def arrays(facts):
    return {"indices": np.arange(4) + facts.get("epoch", 0), "weights": np.ones(4, np.float32)}


PAIRS = {
    "tensors": (
        "state.safetensors",
        lambda path, facts: files.save_tensors(path, tensors(facts), facts),
        files.load_tensors,
    ),
    "arrays": (
        "state.npz",
        lambda path, facts: files.save_arrays(path, arrays(facts), facts),
        files.load_arrays,
    ),
}
each_pair = pytest.mark.parametrize(("name", "save", "load"), PAIRS.values(), ids=PAIRS)
SERIALISERS = {"tensors": (safetensors.torch, "save"), "arrays": (np, "savez_compressed")}


@pytest.mark.case("B1")
@pytest.mark.parametrize("kind", PAIRS)
def test_a_serialiser_that_raises_half_way_leaves_the_old_pair_byte_identical(tmp_path, monkeypatch, kind):
    name, save, load = PAIRS[kind]
    save(tmp_path / name, {"epoch": 1})
    before = content(tmp_path)
    module, function = SERIALISERS[kind]

    def raises_half_way(buffer, *_, **__):
        if hasattr(buffer, "write"):
            buffer.write(b"half of it")
        raise Poisoned

    monkeypatch.setattr(module, function, raises_half_way)
    with pytest.raises(Poisoned):
        save(tmp_path / name, {"epoch": 2})
    assert content(tmp_path) == before
    assert load(tmp_path / name)[1]["epoch"] == 1


@pytest.mark.case("B1")
@each_pair
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), {"deep": [torch.zeros(1)]}])
def test_facts_that_json_cannot_hold_leave_the_old_pair_byte_identical(tmp_path, name, save, load, bad):
    save(tmp_path / name, {"epoch": 1})
    before = content(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        save(tmp_path / name, {"epoch": 2, "bad": bad})
    assert content(tmp_path) == before


@pytest.mark.case("B1", "B6")
@each_pair
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_pair_whose_write_fails_is_still_the_old_one(tmp_path, monkeypatch, name, save, load, fault):
    save(tmp_path / name, {"epoch": 1})
    before = content(tmp_path)
    fault(monkeypatch)
    with pytest.raises((Poisoned, OSError)):
        save(tmp_path / name, {"epoch": 2})
    assert content(tmp_path) == before


@each_pair
def test_a_pair_reads_back_as_it_was(tmp_path, name, save, load):
    facts = {"epoch": 1, "é": [1.5, None, {"1": True}], 7: (1, 2)}
    save(tmp_path / "deep" / name, facts)
    values, read = load(tmp_path / "deep" / name)
    assert {key: read[key] for key in ("epoch", "é", "7")} == {"epoch": 1, "é": facts["é"], "7": [1, 2]}
    saved = (tensors if load is files.load_tensors else arrays)(facts)
    assert values.keys() == saved.keys()
    for key in saved:
        assert values[key].dtype == saved[key].dtype and (values[key] == saved[key]).all()


@each_pair
def test_facts_that_were_read_can_be_saved_again(tmp_path, name, save, load):
    save(tmp_path / name, {"epoch": 1})
    facts = load(tmp_path / name)[1]
    save(tmp_path / name, facts | {"sha256": "of another file"})
    assert load(tmp_path / name)[1] == facts


@pytest.mark.case("B4")
@each_pair
def test_new_bytes_under_old_facts_are_noticed(tmp_path, name, save, load):
    save(tmp_path / name, {"epoch": 1})
    facts = (tmp_path / "state.json").read_bytes()
    files.write_bytes(tmp_path / name, (tmp_path / name).read_bytes() + b"\0")
    (tmp_path / "state.json").write_bytes(facts)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        load(tmp_path / name)


@pytest.mark.case("B4")
@each_pair
def test_changed_facts_are_noticed(tmp_path, name, save, load):
    save(tmp_path / name, {"epoch": 1})
    described = tmp_path / "state.json"
    described.write_bytes(described.read_bytes().replace(b'"epoch": 1', b'"epoch": 3'))
    with pytest.raises(CheckpointError, match="state.json is damaged"):
        load(tmp_path / name)


def test_one_kind_is_not_read_as_the_other(tmp_path):
    files.save_arrays(tmp_path / "state.npz", arrays({}), {})
    with pytest.raises(CheckpointError, match="state.json does not describe advcore-tensors-1"):
        files.load_tensors(tmp_path / "state.safetensors")


@pytest.mark.case("B3")
def test_json_that_is_missing_or_broken_is_a_checkpoint_error(tmp_path):
    path = tmp_path / "facts.json"
    with pytest.raises(CheckpointError, match="facts.json is missing"):
        files.read_json(path)
    for broken in (b"", b"{", b"\xff\xfe", b"{'a': 1}"):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="facts.json cannot be read"):
            files.read_json(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        files.read_json(tmp_path)


def test_json_refuses_what_others_could_not_read(tmp_path):
    path = tmp_path / "facts.json"
    files.write_json(path, {"a": 1})
    for bad in (float("nan"), {"a": float("-inf")}):
        with pytest.raises(ValueError):
            files.write_json(path, bad)
    assert files.read_json(path) == {"a": 1}


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.case("B3")
@pytest.mark.parametrize("cut", [0.3, 0.9, 0.99])
def test_a_cut_npz_is_a_checkpoint_error(tmp_path, cut):
    whole = npz(a=np.arange(100))
    with pytest.raises(CheckpointError, match="data.npz"):
        files.read_npz(io.BytesIO(whole[: int(cut * len(whole))]), tmp_path / "data.npz")


@pytest.mark.case("D1")
def test_objects_in_an_npz_are_unsafe_wherever_they_stand(tmp_path):
    for bad in (np.array([{}], dtype=object), np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")])):
        with pytest.raises(UnsafeFileError, match="data.npz"):
            files.read_npz(io.BytesIO(npz(good=np.arange(3), bad=bad)), tmp_path / "data.npz")


def test_a_lone_array_is_not_an_npz(tmp_path):
    np.save(tmp_path / "data.npy", np.arange(3))
    with pytest.raises(CheckpointError, match="data.npy"):
        files.read_npz(tmp_path / "data.npy", tmp_path / "data.npy")


class Reduces:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/advcore-was-here",)


STATE = {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.zeros(2)}


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_saved_by_torch_are_read_also_when_wrapped(tmp_path, wrapped, prefix):
    path = tmp_path / "weights.pt"
    torch.save(wrapped({prefix + name: value for name, value in STATE.items()}), path)
    found = files.load_weights(path)
    assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_a_safetensors_file_of_someone_else_is_read_and_ours_is_checked(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(STATE, path)
    assert torch.equal(files.load_weights(path)["0.weight"], STATE["0.weight"])
    files.save_tensors(tmp_path / "own.safetensors", STATE, {})
    safetensors.torch.save_file({"0.weight": torch.zeros(2, 3)}, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        files.load_weights(tmp_path / "own.safetensors")


@pytest.mark.parametrize("hostile", [Reduces(), {"state_dict": STATE, "extra": Reduces()}])
@pytest.mark.case("D1")
def test_weights_that_would_run_code_are_unsafe_and_do_not(tmp_path, hostile):
    path = tmp_path / "weights.pt"
    torch.save(hostile, path)
    with pytest.raises(UnsafeFileError, match="run code"):
        files.load_weights(path)
    assert not os.path.exists("/tmp/advcore-was-here")


@pytest.mark.parametrize("bad", [b"", b"junk", None, [1, 2], {"a": 1}])
@pytest.mark.case("D1")
def test_what_is_no_state_dict_is_a_checkpoint_error(tmp_path, bad):
    path = tmp_path / "weights.pt"
    if isinstance(bad, bytes):
        path.write_bytes(bad)
    elif bad is not None:
        torch.save(bad, path)
    with pytest.raises(CheckpointError):
        files.load_weights(path)


class Cycle:
    """Garbage whose collection runs Python code, so that threads change in the middle of what C does."""

    def __init__(self):
        self.me = self

    def __del__(self):
        pass


@pytest.fixture
def threads_that_change_often():
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


def test_threads_that_read_arrays_at_once_all_read_them(threads_that_change_often):
    buffer, problems = io.BytesIO(), []
    np.savez(buffer, a=np.zeros(3))

    def read() -> None:
        for _ in range(300):
            Cycle()
            try:
                files.read_npz(io.BytesIO(buffer.getvalue()), Path("x.npz"))
            except CheckpointError as error:
                problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not problems
