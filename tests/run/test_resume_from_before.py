"""A run that was begun before CPUs had a table of defaults goes on to the bits that it would have had."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advcore.config.load import load
from advcore.files import load_folder
from advcore.reporting.record import RunRecord
from advcore.run.prepare import prepare
from advcore.run.run import run
from advcore.run.weights import load_state
from advcore.runtime import cpu_defaults
from advcore.runtime.precision import PLAIN, Speed

BEFORE = Path(__file__).with_name("from_before")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BEFORE, tmp_path / "from_before")


@pytest.fixture(autouse=True)
def everything_is_faster(monkeypatch):
    """Whatever the committed table says of the installed torch."""
    faster = {"small_cnn": {"channels_last": True, "fused": True}}
    monkeypatch.setattr(cpu_defaults, "CPU_DEFAULTS", {"1.0": faster})


def test_it_goes_on_as_it_began(folder):
    before = RunRecord.load(folder / "record.json")
    assert before.environment["speed"]["channels_last"] is False and len(before.epochs) == 1
    prepared = prepare(load(folder / "run.yaml", ()))
    state, _ = load_folder(folder / "states" / "000001")
    plain = replace(prepared.trainer, speed=Speed(channels_last=False, fused=False))
    data, seed = prepared.data, prepared.config.seed
    expected = plain.fit(
        prepared.model, data.train, data.validation, seed=seed, augment=data.augment, resume=state
    ).last

    record = run(prepare(load(folder / "run.yaml", ())), folder, resume=True)
    assert record.finished and len(record.epochs) == 3
    assert Speed(**record.environment["speed"]) == PLAIN
    ended = prepare(load(folder / "run.yaml", ())).model
    load_state(ended, folder / "checkpoints" / "last.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in ended.state_dict().items())
    assert RunRecord.load(folder / "record.json").environment["speed"] == record.environment["speed"]


def test_begun_anew_it_takes_the_defaults_of_now_and_keeps_them(folder, monkeypatch):
    record = run(prepare(load(folder / "run.yaml", ())), folder)
    assert record.environment["speed"]["channels_last"] and record.environment["speed"]["fused"]
    monkeypatch.setattr(cpu_defaults, "CPU_DEFAULTS", {})
    longer = prepare(load(folder / "run.yaml", ["training.epochs=4"]))
    record = run(longer, folder, resume=True)
    assert len(record.epochs) == 4 and record.environment["speed"]["channels_last"]
