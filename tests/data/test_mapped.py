"""Pools whose arrays stay in their files: the same images as those that are read, and none of them held."""

import numpy as np
import pytest
import torch

from advcore.data import DATASETS, mapped, split
from advcore.data.pool import Pool, Pooled
from advcore.data.source import Resident, Streamed
from advcore.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(40) % 3


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "stored.npz", image=IMAGES, label=LABELS)
    np.savez_compressed(tmp_path / "packed.npz", image=IMAGES, label=LABELS)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder/image.npy", IMAGES)
    np.save(tmp_path / "folder/label.npy", LABELS)
    real = {f"x_{part}": np.full((12, 3, 8, 8), 9, dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "real.npz", **real, **{f"y_{part}": np.arange(12) % 3 for part in ("train", "test")})
    return tmp_path


def load(files, name, **pool):
    settings = DATASETS["npz"](path=str(files / "real.npz"), validation=0, pool=Pool(path=str(files / name), **pool))
    train = settings.load(torch.device("cpu")).train
    assert isinstance(train, Pooled)
    return train.pool


def read_all(source):
    ((_, x, y),) = source.batches([torch.arange(len(source))])
    return x, y


@pytest.mark.parametrize("name", ["stored.npz", "folder"])
def test_what_stays_in_its_file_is_what_would_be_read(files, name, monkeypatch):
    held = load(files, "packed.npz")
    monkeypatch.setattr(split, "RESIDENT_LIMIT", 100)
    monkeypatch.setattr(mapped, "RESIDENT_LIMIT", 100)
    streamed = load(files, name)
    assert isinstance(held, Resident) and isinstance(streamed, Streamed) and streamed.nbytes == 0
    for one, other in zip(read_all(held), read_all(streamed), strict=True):
        assert torch.equal(one, other)
    assert streamed.class_counts() == held.class_counts() and streamed.list_changed() == []


def test_only_large_files_without_compression_are_mapped(files, monkeypatch):
    assert mapped.map_npz(files / "stored.npz") is None
    monkeypatch.setattr(mapped, "RESIDENT_LIMIT", 100)
    arrays = mapped.map_npz(files / "stored.npz")
    assert np.array_equal(arrays["image"], IMAGES) and isinstance(arrays["image"], np.memmap)
    assert mapped.map_npz(files / "packed.npz") is None
    np.savez(files / "objects.npz", image=np.array([{}], dtype=object))
    assert mapped.map_npz(files / "objects.npz") is None
    content = (files / "stored.npz").read_bytes()
    (files / "torn.npz").write_bytes(content[: len(content) // 2])
    assert mapped.map_npz(files / "torn.npz") is None
    with pytest.raises(DataError, match="npz"):
        load(files, "torn.npz")


def test_a_folder_without_labels_needs_a_teacher(files):
    (files / "folder/label.npy").unlink()
    with pytest.raises(DataError, match="^data.pool: .*must hold images and labels, called image and label"):
        load(files, "folder")
    pool = load(files, "folder", labels="pseudo", teacher="net.pt")
    assert len(pool) == 40 and pool.labels().tolist() == [0] * 40
    np.save(files / "folder/label.npy", np.array([{}] * 40, dtype=object))
    with pytest.raises(DataError, match="label.npy must hold an array of numbers"):
        load(files, "folder")
