"""Pools in tar shards: images and labels by key, in the shards' order, read at their places."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from advcore.data import DATASETS, split
from advcore.data.pool import Pool, Pooled
from advcore.data.source import Resident, Streamed
from advcore.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def encode(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def pair(i, label=None):
    return [
        (f"part/{i:04d}.png", encode(IMAGES[i])),
        (f"part/{i:04d}.cls", str(i % 3 if label is None else label).encode()),
    ]


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    write(folder / "a-0.tar", [*pair(0), *pair(1), ("part/0001.json", b"{}"), *pair(2)[::-1]])
    write(folder / "a-1.tar", [*pair(3), *pair(4), *pair(5)])
    real = {f"x_{part}": np.full((12, 3, 8, 8), 9, dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "real.npz", **real, **{f"y_{part}": np.arange(12) % 3 for part in ("train", "test")})
    return folder


def load(shards, path=None, **pool):
    real = str(shards.parent / "real.npz")
    settings = DATASETS["npz"](path=real, validation=0, pool=Pool(path=str(path or shards), **pool))
    train = settings.load(torch.device("cpu")).train
    assert isinstance(train, Pooled)
    return train.pool


@pytest.mark.parametrize("limit, kind", [(2**32, Resident), (100, Streamed)])
def test_images_and_labels_are_those_of_each_key(shards, monkeypatch, limit, kind):
    monkeypatch.setattr(split, "RESIDENT_LIMIT", limit)
    pool = load(shards)
    assert isinstance(pool, kind)
    ((_, x, y),) = pool.batches([torch.arange(6)])
    assert torch.equal((x * 255).round().byte(), torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert y.tolist() == pool.labels().tolist() == [0, 1, 2, 0, 1, 2]
    assert len(load(shards, shards / "a-1.tar")) == 3


def test_without_labels_a_teacher_is_needed(shards):
    write(shards / "a-2.tar", pair(0)[:1])
    with pytest.raises(DataError, match=r"^data.pool: .*a-2.tar must hold a label part/0000.cls next to part/0000.png"):
        load(shards)
    assert load(shards, labels="pseudo", teacher="net.pt").labels().tolist() == [0] * 7


@pytest.mark.parametrize(
    "members, line",
    [
        (pair(0, "dog"), "part/0000.cls must hold a class number, got 'dog'"),
        (pair(0, "7"), "labels must be whole numbers in 0..2, got 7"),
        ([("x.txt", b"")], "must hold images, got none"),
        ([("x.png", b"no image"), ("x.cls", b"1")], "cannot be decoded"),
        ([*pair(0), ("x.png", encode(IMAGES[0][:4])), ("x.cls", b"1")], "images must have one size"),
    ],
)
def test_what_is_no_pool_is_refused_in_a_line(shards, members, line):
    write(shards.parent / "other.tar", members)
    with pytest.raises(DataError) as caught:
        load(shards, shards.parent / "other.tar")
    message = str(caught.value)
    assert message.startswith("data.pool: ") and line in message and "\n" not in message


def test_a_torn_shard_is_named(shards):
    (shards / "a-9.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(DataError, match="a-9.tar cannot be read"):
        load(shards)
