"""What is written row by row reads as a whole, wherever it is stored, and through a checkpoint."""

from pathlib import Path

import pytest
import torch

from advcore.errors import CheckpointError, ConfigError
from advcore.rows import row_store
from advcore.rows.row_store import NEVER, RowStore, StoragePlace, settle_place

CPU = torch.device("cpu")


@pytest.fixture(params=["memory", "files"])
def place(request, tmp_path) -> StoragePlace:
    return StoragePlace(CPU, tmp_path if request.param == "files" else None)


def test_rows_read_as_they_were_last_written(place):
    """The slow twin: a list of rows, each replaced whenever it is written."""
    generator = torch.Generator().manual_seed(0)
    store = RowStore(20, place)
    expected = {"a": [torch.zeros(3)] * 20, "b": [torch.zeros(1, dtype=torch.float64)] * 20}
    epochs = [NEVER] * 20
    for epoch in range(6):
        indices = torch.randperm(20, generator=generator)[:7]
        columns = {"a": torch.rand(7, 3, generator=generator), "b": torch.rand(7, 1, generator=generator).double()}
        store.write(indices, columns, epoch)
        for position, i in enumerate(indices.tolist()):
            epochs[i] = epoch
            for name, column in columns.items():
                expected[name][i] = column[position]
    for name, rows in expected.items():
        assert torch.equal(store.columns[name], torch.stack(rows))
    assert store.epochs.tolist() == epochs and len(store) == 20
    assert store.measure_ages(6).tolist() == [6 - epoch for epoch in epochs]
    assert (store.find_release() is None) == (place.folder is None)


def test_a_state_is_a_copy_that_another_store_takes_over(place, tmp_path):
    store = RowStore(5, place)
    store.write(torch.tensor([1, 4]), {"a": torch.ones(2, 3)}, 2)
    state = store.state()
    store.write(torch.arange(5), {"a": torch.zeros(5, 3)}, 3)
    for other in (StoragePlace(CPU), StoragePlace(CPU, tmp_path)):
        taken = RowStore(5, other)
        taken.restore(state)
        assert taken.columns["a"].sum(1).tolist() == [0, 3, 0, 0, 3]
        assert taken.epochs.tolist() == [NEVER, 2, NEVER, NEVER, 2]
    with pytest.raises(CheckpointError, match="the number of remembered rows must be 6, got 5"):
        RowStore(6, place).restore(state)


def test_a_file_has_no_name_and_a_disk_without_room_is_named(tmp_path):
    store = RowStore(4, StoragePlace(CPU, tmp_path))
    store.write(torch.arange(4), {"a": torch.ones(4, 2)}, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="gradient rows go there; free space, or set TMPDIR"):
        store.write(torch.arange(4), {"b": torch.ones(4, 1).expand(4, 2**50)}, 0)


FREE = {"cuda": 100.0, "cpu": 1000.0}


@pytest.mark.parametrize(
    ("wanted", "needed", "expected"),
    [("auto", 50, "cuda"), ("auto", 51, "cpu"), ("auto", 500, "cpu"), ("auto", 501, "disk"), ("device", 99, "cuda"),
     ("host", 999, "cpu"), ("disk", 1, "disk")],
)  # fmt: skip
def test_the_first_place_with_room_is_taken(monkeypatch, tmp_path, wanted, needed, expected):
    monkeypatch.setattr(row_store, "measure_free_memory", lambda device: FREE[device.type])
    monkeypatch.setattr(row_store, "find_temporary_folder", lambda: tmp_path)
    place = settle_place(wanted, needed, torch.device("cuda"))
    folder: Path | None = tmp_path if expected == "disk" else None
    assert place == StoragePlace(torch.device("cpu" if folder else expected), folder)


@pytest.mark.parametrize(("wanted", "needed"), [("device", 101), ("host", 1001)])
def test_what_does_not_fit_is_refused(monkeypatch, wanted, needed):
    monkeypatch.setattr(row_store, "measure_free_memory", lambda device: FREE[device.type])
    with pytest.raises(ConfigError, match="rows_place must be where .* of gradient rows fit, got") as raised:
        settle_place(wanted, needed, torch.device("cuda"))
    assert "use selection.rows_place: disk" in str(raised.value)


def test_a_system_that_tells_nothing_is_taken_to_have_room(monkeypatch):
    monkeypatch.setattr(row_store, "measure_free_memory", lambda device: None)
    assert settle_place("auto", 10**15, CPU) == StoragePlace(CPU)
