"""Named data sets, read from files that each test writes; nothing here needs a network."""

import gzip
import io
import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from advcore.data import DATASETS
from advcore.data.augment import keep_images
from advcore.data.split import draw_stratified, subsample
from advcore.errors import UserError

CPU = torch.device("cpu")
TORCHVISION = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn")


def load(name, **settings):
    return DATASETS[name](**settings).load(CPU)


def contents(source):
    """All images (N, C, H, W) and labels (N,) of a source, in order."""
    ((_, x, y),) = source.batches([torch.arange(len(source))])
    return x, y


def refused(name, **settings):
    """The one line with which a data set is refused."""
    with pytest.raises(UserError) as caught:
        load(name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- digits: sizes and splits ----


def test_digits_parts_have_the_promised_sizes():
    data = load("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)
    assert data.train.shape == (1, 8, 8) and data.num_classes == 10
    assert data.augment is keep_images


@pytest.mark.case("E9")
def test_digits_parts_together_are_the_whole_set_and_nothing_twice():
    data, bunch = load("digits"), load_digits()
    parts = [contents(source) for source in (data.train, data.validation, data.test)]
    ours = np.concatenate([np.column_stack([x.flatten(1).numpy() * 16, y.numpy()]) for x, y in parts])
    theirs = np.column_stack([bunch.data, bunch.target])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_digits_parts_are_stratified():
    data = load("digits")
    counts = [torch.bincount(s.labels(), minlength=10) for s in (data.train, data.validation, data.test)]
    whole = sum(counts)
    assert (counts[2] - 0.2 * whole).abs().max() <= 1
    assert (counts[1] - 0.1 * (whole - counts[2])).abs().max() <= 1


def test_a_split_is_decided_by_its_seed_alone():
    first, again, other = load("digits"), load("digits"), load("digits", split_seed=1)
    for a, b in ((first.train, again.train), (first.validation, again.validation), (first.test, again.test)):
        assert torch.equal(contents(a)[0], contents(b)[0])
    assert torch.equal(first.part, again.part) and not torch.equal(first.part, other.part)
    assert not torch.equal(contents(first.test)[0], contents(other.test)[0])


def test_part_says_where_the_training_examples_stand():
    settings = DATASETS["digits"]()
    raw, data = settings.read()[0], settings.load(CPU)
    assert torch.equal(raw.labels[data.part], data.train.labels())
    assert torch.equal(raw.images(data.part), contents(data.train)[0])


def test_train_and_test_size_thin_by_class():
    data = load("digits", train_size=200, test_size=50)
    assert (len(data.train), len(data.validation), len(data.test)) == (180, 20, 50)
    assert (torch.bincount(data.train.labels(), minlength=10) - 18).abs().max() <= 1
    assert (torch.bincount(data.test.labels(), minlength=10) - 5).abs().max() <= 1


def test_no_validation_keeps_all_training_examples():
    data = load("digits", validation=0)
    assert data.validation is None and len(data.train) == 1438


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"train_size": 1439}, ("train_size", "1438", "1439")),
        ({"test_size": 360}, ("test_size", "359", "360")),
        ({"train_size": 0}, ("train_size", "0")),
        ({"validation": 0.6}, ("validation", "0.5", "0.6")),
        ({"augment": "crops"}, ("augment", "crops", "crop_flip")),
        ({"workers": -1}, ("workers", "-1")),
    ],
)
def test_settings_out_of_range_name_key_rule_and_value(settings, told):
    message = refused("digits", **settings)
    assert all(part in message for part in told)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0, 1), st.integers(0, 5))
def test_a_stratified_sample_has_the_asked_size_and_each_class_its_share(labels, share, seed):
    labels, count = torch.tensor(labels), round(share * len(labels))
    mask = draw_stratified(labels, count, seed, "test")
    assert int(mask.sum()) == count
    for c in labels.unique():
        exact = count * int((labels == c).sum()) / len(labels)
        assert abs(int(mask[labels == c].sum()) - exact) < 1


def test_thinning_keeps_the_order():
    positions = subsample(torch.arange(30) % 3, 9, 0, "train_size")
    assert torch.equal(positions, positions.sort().values) and len(positions.unique()) == 9


# ---- what torchvision reads ----


def write_idx(folder, part, images, labels, pack=False):
    """MNIST's own layout: a magic number, sizes, bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{part}-images-idx3-ubyte": struct.pack(">IIII", 2051, *images.shape) + images.tobytes(),
        f"{part}-labels-idx1-ubyte": struct.pack(">II", 2049, len(labels)) + labels.tobytes(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(gzip.compress(content) if pack else content)


@pytest.mark.parametrize("name, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_are_read_as_gray_images_in_unit_range(tmp_path, name, folder):
    draw = np.random.default_rng(0)
    parts = {part: draw.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in (("train", 40), ("t10k", 10))}
    for part, images in parts.items():
        write_idx(tmp_path / folder / "raw", part, images, (np.arange(len(images)) % 10).astype(np.uint8))
    data = load(name, path=str(tmp_path), validation=0)
    assert data.num_classes == 10 and data.augment is keep_images
    for source, images in ((data.train, parts["train"]), (data.test, parts["t10k"])):
        x, y = contents(source)
        assert np.allclose(x.numpy(), images[:, None] / 255, atol=1e-7)
        assert y.tolist() == [i % 10 for i in range(len(images))]


@pytest.mark.parametrize(
    "content", [b"", b"junk, and not an idx file", struct.pack(">IIII", 2051, 40, 28, 28) + b"cut"]
)
def test_damaged_files_are_refused_by_folder(tmp_path, content):
    for part in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw", part, np.zeros((40, 28, 28), np.uint8), np.zeros(40, np.uint8))
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    assert str(tmp_path) in refused("mnist", path=str(tmp_path))


def color(n, classes, channels_first):
    """Images whose channels say image and channel, so that a wrong axis order shows."""
    value = np.arange(n)[:, None] * 3 + np.arange(3)
    images = np.broadcast_to(value[:, :, None, None], (n, 3, 32, 32)).astype(np.uint8).copy()
    images[:, :, 0, 1] = 200  # top row, second column
    return images if channels_first else images.transpose(0, 2, 3, 1), [i % classes for i in range(n)]


def fake_cifar(classes):
    class Reader:
        def __init__(self, root, train=True, download=False):
            self.data, self.targets = color(30 if train else 10, classes, channels_first=False)

    return Reader


class FakeSvhn:
    def __init__(self, root, split="train", download=False):
        self.data, self.labels = color(30 if split == "train" else 10, 10, channels_first=True)


@pytest.mark.parametrize(
    "name, reader, fake, classes, augment",
    [
        ("cifar10", "CIFAR10", fake_cifar(10), 10, "crop_flip"),
        ("cifar100", "CIFAR100", fake_cifar(100), 100, "crop_flip"),
        ("svhn", "SVHN", FakeSvhn, 10, "crop"),
    ],
)
def test_color_sets_come_channels_first(monkeypatch, tmp_path, name, reader, fake, classes, augment):
    monkeypatch.setattr(f"torchvision.datasets.{reader}", fake)
    data = load(name, path=str(tmp_path), validation=0)
    assert data.num_classes == classes and data.augment.__name__ == augment
    assert (len(data.train), len(data.test)) == (30, 10)
    for source in (data.train, data.test):
        x, y = contents(source)
        assert x.shape[1:] == source.shape == (3, 32, 32)
        for i, image in enumerate(x):
            assert y[i] == i % classes and float(image[0, 0, 1]) == pytest.approx(200 / 255)
            assert image[:, 1, 0].tolist() == pytest.approx([(3 * i + c) / 255 for c in range(3)])


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("there", [True, False], ids=["empty folder", "no folder"])
def test_missing_files_name_the_folder_and_the_option_that_fetches_them(tmp_path, name, there):
    folder = tmp_path if there else tmp_path / "nowhere"
    message = refused(name, path=str(folder))
    assert str(folder) in message and "data.download" in message


@pytest.mark.parametrize("name", TORCHVISION)
def test_nothing_is_fetched_unless_asked(tmp_path, monkeypatch, name):
    def fetched(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("urllib.request.urlopen", fetched)
    refused(name, path=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# ---- npz ----


def arrays(n=40, classes=4, dtype=np.uint8):
    draw = np.random.default_rng(2)
    x = draw.integers(0, 256, (n, 2, 5, 5)).astype(dtype)
    return (x if dtype == np.uint8 else x / 255), np.arange(n) % classes


def write_npz(path, **changes):
    x, y = arrays()
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x[:8], "y_test": y[:8], **changes})
    return str(path)


def test_npz_is_read_as_bytes_or_floats(tmp_path):
    x, y = arrays()
    whole = write_npz(tmp_path / "bytes.npz")
    floats = write_npz(tmp_path / "floats.npz", x_train=x / 255, x_test=x[:8] / 255)
    for path in (whole, floats):
        data = load("npz", path=path, validation=0)
        got, labels = contents(data.train)
        assert np.allclose(got.numpy(), x / 255, atol=1e-7) and labels.tolist() == y.tolist()
        assert data.num_classes == 4 and len(data.test) == 8


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"y_train": np.eye(4)[np.arange(40) % 4]}, ("labels", "(40, 4)")),
        ({"y_train": np.arange(40) % 4 + 0.5}, ("labels", "float64")),
        ({"y_train": np.array(["cat"] * 40)}, ("labels", "<U3")),
        ({"y_train": np.arange(39) % 4}, ("labels", "(39,)", "40")),
        ({"y_test": np.array([0, 1, 2, 3, 0, 9, 2, 3])}, ("0..3", "9", "example 5")),
        ({"y_test": np.array([0, 1, -1, 3, 0, 1, 2, 3])}, ("0..3", "-1", "example 2")),
        ({"x_train": arrays(dtype=np.int32)[0].astype(np.int32)}, ("images", "int32")),
        ({"x_train": np.full((40, 2, 5, 5), 254.0)}, ("254", "divide")),
        ({"x_train": np.zeros((40, 25))}, ("(N, C, H, W)", "(40, 25)")),
    ],
    ids=[
        "one-hot",
        "float",
        "text",
        "too few",
        "too large",
        "negative",
        "int pixels",
        "0-255",
        "no rows",
    ],
)
def test_a_bad_npz_is_told_by_value(tmp_path, changes, told):
    message = refused("npz", path=write_npz(tmp_path / "a.npz", **changes))
    assert all(part in message for part in told), message


def test_an_npz_without_an_array_names_it(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=arrays()[0], y_train=arrays()[1], x_test=arrays()[0])
    assert "y_test is missing" in refused("npz", path=str(tmp_path / "a.npz"))


def test_an_npz_with_objects_is_refused_without_running_them(tmp_path):
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (type(ran).touch, (ran,))

    np.savez(tmp_path / "a.npz", x_train=np.array([Trap()], dtype=object))
    assert "a.npz" in refused("npz", path=str(tmp_path / "a.npz"))
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut off"])
def test_a_damaged_npz_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    assert "a.npz" in refused("npz", path=str(tmp_path / "a.npz"))


def test_a_given_number_of_classes_wins_and_is_checked(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    assert load("npz", path=path, num_classes=7).num_classes == 7
    assert "0..2" in refused("npz", path=path, num_classes=3)


def test_a_relative_path_is_looked_up_below_the_data_folder(tmp_path, monkeypatch):
    write_npz(tmp_path / "only_here.npz")
    monkeypatch.delenv("ADVCORE_DATA", raising=False)
    message = refused("npz", path="only_here.npz")
    assert "only_here.npz" in message and "ADVCORE_DATA" in message
    monkeypatch.setenv("ADVCORE_DATA", str(tmp_path))
    assert load("npz", path="only_here.npz").num_classes == 4


# ---- parquet ----


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(folder, part, images, labels, names=None, shards=1):
    """The Hugging Face image layout: `image` {bytes, path}, `label`, class names in the schema metadata."""
    table = pa.table({"image": [{"bytes": png(image), "path": None} for image in images], "label": labels})
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    per_shard = -(-len(images) // shards)
    for shard in range(shards):
        name = f"{part}-{shard:05}-of-{shards:05}.parquet"
        pq.write_table(table.slice(shard * per_shard, per_shard), folder / name)


def pictures(n, *shape):
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=["gray", "color"])
def test_parquet_gives_the_images_of_all_shards_and_the_classes_of_the_schema(tmp_path, shape):
    train, test = pictures(30, *shape), pictures(7, *shape)
    names = ["cat", "dog", "eel", "fox"]  # no fox among the labels: an absent class is still a class
    write_parquet(tmp_path, "train", train, [i % 3 for i in range(30)], names, shards=3)
    write_parquet(tmp_path, "test", test, [i % 3 for i in range(7)], names)
    data = load("parquet", path=str(tmp_path), validation=0)
    assert data.num_classes == 4
    for source, images in ((data.train, train), (data.test, test)):
        x, y = contents(source)
        expected = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        assert np.allclose(x.numpy(), expected / 255, atol=1e-7)
        assert y.tolist() == [i % 3 for i in range(len(images))]


def test_parquet_without_names_counts_the_labels(tmp_path):
    for part in ("train", "test"):
        write_parquet(tmp_path, part, pictures(20, 4, 4), [i % 5 for i in range(20)])
    assert load("parquet", path=str(tmp_path)).num_classes == 5
    assert load("parquet", path=str(tmp_path), num_classes=9).num_classes == 9


@pytest.mark.parametrize(
    "labels, told",
    [
        (["cat", "dog"] * 10, "string"),
        ([0.5, 1.0] * 10, "double"),
        ([[1, 0], [0, 1]] * 10, "list"),
        ([0, None] * 10, "10 missing"),
        ([0, 1] * 9 + [0, -1], "-1"),
    ],
    ids=["text", "float", "one-hot", "missing", "negative"],
)
def test_bad_parquet_labels_are_refused(tmp_path, labels, told):
    for part in ("train", "test"):
        write_parquet(tmp_path, part, pictures(20, 4, 4), labels)
    assert told in refused("parquet", path=str(tmp_path))


def test_a_parquet_image_that_cannot_be_decoded_is_named(tmp_path):
    write_parquet(tmp_path, "test", pictures(6, 4, 4), [0, 1] * 3)
    broken = [{"bytes": b"junk" if i == 4 else png(image), "path": None} for i, image in enumerate(pictures(6, 4, 4))]
    pq.write_table(pa.table({"image": broken, "label": [0, 1] * 3}), tmp_path / "train-0.parquet")
    assert "image 4" in refused("parquet", path=str(tmp_path))


def test_parquet_images_of_two_sizes_are_refused(tmp_path):
    write_parquet(tmp_path, "test", pictures(6, 4, 4), [0, 1] * 3)
    write_parquet(tmp_path, "train", [*pictures(5, 4, 4), *pictures(1, 7, 4)], [0, 1] * 3)
    message = refused("parquet", path=str(tmp_path), validation=0)
    assert "at 5" in message and "(7, 4)" in message and "(4, 4)" in message


@pytest.mark.parametrize(
    "table, told",
    [
        ({"image": [[[0, 255]]], "label": [0]}, "list"),
        ({"picture": [1], "label": [0]}, "picture"),
    ],
    ids=["bare pixels", "other column"],
)
def test_another_parquet_layout_is_refused(tmp_path, table, told):
    for part in ("train", "test"):
        pq.write_table(pa.table(table), tmp_path / f"{part}-0.parquet")
    assert told in refused("parquet", path=str(tmp_path))


def test_a_parquet_folder_without_a_part_says_which(tmp_path):
    write_parquet(tmp_path, "train", pictures(6, 4, 4), [0, 1] * 3)
    message = refused("parquet", path=str(tmp_path))
    assert "test-*.parquet" in message and str(tmp_path) in message


def test_a_damaged_parquet_file_is_refused_by_name(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"junk")
    assert "train-0.parquet" in refused("parquet", path=str(tmp_path))


# ---- image folders ----

COLORS = {"ant": 10, "bee": 80, "cow": 150, "dog": 220}


def write_folder(root, parts=("train", "val"), animals=tuple(COLORS), each=5):
    for part in parts:
        for animal in animals:
            folder = root / part / animal
            folder.mkdir(parents=True)
            for i in range(each):
                pixels = np.full((16 + i, 20, 3), COLORS[animal], np.uint8)  # not square, not of one size
                (folder / f"{i}.png").write_bytes(png(pixels))
    return str(root)


def colors_by_label(source):
    x, y = contents(source)
    return {label: set((x[y == label] * 255).round().int().flatten().tolist()) for label in y.unique().tolist()}


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, {0: {10}, 1: {80}, 2: {150}, 3: {220}}),
        ({"only": ["dog", "bee"]}, {0: {220}, 1: {80}}),
        ({"groups": {"small": ["bee", "ant"], "big": ["dog"]}}, {0: {10, 80}, 1: {220}}),
    ],
    ids=["all", "only", "groups"],
)
@pytest.mark.parametrize("held_out", ["val", "test"])
def test_sub_folders_become_classes_in_both_parts(tmp_path, settings, expected, held_out):
    path = write_folder(tmp_path, ("train", held_out))
    data = load("image_folder", path=path, size=8, validation=0, **settings)
    assert data.num_classes == len(expected) and data.train.shape == (3, 8, 8)
    assert colors_by_label(data.train) == colors_by_label(data.test) == expected
    assert len(data.train) == 5 * sum(len(shades) for shades in expected.values())


def test_a_class_without_a_test_folder_is_refused_and_shifts_no_label(tmp_path):
    write_folder(tmp_path, ("train",))
    write_folder(tmp_path, ("val",), ("ant", "cow", "dog"))
    assert "bee" in refused("image_folder", path=str(tmp_path), size=8)


def test_a_missing_sub_folder_is_named(tmp_path):
    assert "gnu" in refused("image_folder", path=write_folder(tmp_path), size=8, only=["ant", "gnu"])


def test_a_missing_part_is_named(tmp_path):
    assert "'train'" in refused("image_folder", path=write_folder(tmp_path, ("val",)), size=8)


def test_only_and_groups_exclude_each_other(tmp_path):
    message = refused("image_folder", path=str(tmp_path), only=["ant"], groups={"a": ["ant"]})
    assert "only" in message and "groups" in message


@pytest.mark.parametrize(
    "settings", [{"only": ["ant", "bee", "ant"]}, {"groups": {"small": ["ant", "bee"], "fast": ["ant"]}}]
)
def test_a_sub_folder_named_twice_is_refused(tmp_path, settings):
    message = refused("image_folder", path=str(tmp_path), **settings)
    assert "'ant'" in message and next(iter(settings)) in message


def test_folders_without_images_are_refused(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "ant").mkdir(parents=True)
    assert "images" in refused("image_folder", path=str(tmp_path))


def test_an_image_file_that_cannot_be_read_is_named(tmp_path):
    path = write_folder(tmp_path)
    (tmp_path / "train" / "bee" / "2.png").write_bytes(b"junk")
    message = refused("image_folder", path=path, size=8, validation=0)
    assert "image 7" in message and "2.png" in message


@pytest.mark.parametrize("name", ["npz", "parquet", "image_folder"])
def test_a_path_that_does_not_exist_is_named(tmp_path, name):
    message = refused(name, path=str(tmp_path / "nowhere"))
    assert "data.path" in message and str(tmp_path / "nowhere") in message


def test_digits_that_were_changed_are_read_as_they_were():
    """The file is read once in a process; what a caller does to its images stays with that caller."""
    digits = DATASETS["digits"]()
    train, _ = digits.read()
    before = train.images(slice(None)).clone()
    train.images(slice(None)).zero_()
    assert torch.equal(digits.read()[0].images(slice(None)), before) and before.any()
