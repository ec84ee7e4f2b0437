"""Parquet as the hub lays it out: names of columns, of files and of folders, and files too large for one array."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from advcore.data import DATASETS, parquet
from advcore.data.base import Data
from advcore.errors import ConfigError, UserError

PICTURES = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(12)]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


ENCODED = [png(picture) for picture in PICTURES]
STRUCTS = [{"bytes": content, "path": None} for content in ENCODED]


def write(path, columns: dict, names: dict | None = None, **options) -> None:
    """Write a table, with {column: class names} in the hub's metadata."""
    table = pa.table(columns)
    if names:
        features = {column: {"names": classes, "_type": "ClassLabel"} for column, classes in names.items()}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def write_parts(folder, columns: dict, names: dict | None = None) -> None:
    for part in ("train", "test"):
        write(folder / f"{part}-00000-of-00001.parquet", columns, names)


def load(folder, **settings) -> Data:
    return DATASETS["parquet"](path=str(folder), validation=0, **settings).load(torch.device("cpu"))


def line_of(folder, **settings) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, **settings)
    (line,) = caught.value.lines
    return line


def assert_read(data: Data, labels: list[int] = LABELS) -> None:
    for source in (data.train, data.test):
        ((_, x, y),) = source.batches([torch.arange(len(source))])
        expected = torch.from_numpy(PICTURES[: len(x)]).permute(0, 3, 1, 2).float() / 255
        assert torch.equal(x, expected) and y.tolist() == labels[: len(x)]


COLUMNS = {
    "CIFAR-10": ({"img": STRUCTS, "label": LABELS}, ("columns img and label",)),
    "CIFAR-100": (
        {"img": STRUCTS, "fine_label": LABELS, "coarse_label": [0] * 12},
        ("columns img and fine_label",),
    ),
    "plural": ({"image": STRUCTS, "labels": LABELS}, ("columns image and labels",)),
    "processor": ({"pixel_values": STRUCTS, "target": LABELS}, ("columns pixel_values and target",)),
    "plain binary": ({"image": ENCODED, "label": LABELS}, ()),
    "large binary": ({"image": pa.array(ENCODED, pa.large_binary()), "label": LABELS}, ()),
    "bytes first": ({"label": pa.array(LABELS, pa.uint8()), "id": ["x"] * 12, "image": STRUCTS}, ()),
}


@pytest.mark.parametrize("columns, notes", COLUMNS.values(), ids=COLUMNS)
def test_the_columns_of_the_hub_are_read_and_told_unless_usual(tmp_path, columns, notes):
    write_parts(tmp_path, columns)
    data = load(tmp_path)
    assert_read(data)
    assert data.notes == notes


def test_bool_labels_are_two_classes(tmp_path):
    write_parts(tmp_path, {"image": STRUCTS, "label": [i % 3 == 0 for i in range(12)]})
    data = load(tmp_path)
    assert_read(data, [int(i % 3 == 0) for i in range(12)])
    assert data.num_classes == 2


def test_the_class_names_are_those_of_the_column_that_is_read(tmp_path):
    names = {"fine_label": ["a", "b", "c", "d"], "coarse_label": ["x", "y"]}
    write_parts(tmp_path, {"img": STRUCTS, "fine_label": LABELS, "coarse_label": [i % 2 for i in range(12)]}, names)
    assert load(tmp_path).num_classes == 4
    data = load(tmp_path, columns={"label": "coarse_label"})
    assert data.num_classes == 2 and data.notes == ("columns img and coarse_label",)
    assert_read(data, [i % 2 for i in range(12)])


def test_any_columns_can_be_named(tmp_path):
    write_parts(tmp_path, {"photo.rgb": ENCODED, "species": LABELS, "image": STRUCTS[::-1], "label": [0] * 12})
    assert_read(load(tmp_path, columns={"image": "photo.rgb", "label": "species"}))


CHOICES = {
    "no image": ({"photo": STRUCTS, "label": LABELS}, {}, "image", "photo, label", "[]"),
    "no label": ({"img": STRUCTS, "coarse_label": LABELS}, {}, "label", "img, coarse_label", "[]"),
    "two images": (
        {"image": STRUCTS, "img": STRUCTS, "label": LABELS},
        {},
        "image",
        "image, img, label",
        "['image', 'img']",
    ),
    "two labels": (
        {"image": STRUCTS, "label": LABELS, "fine_label": LABELS},
        {},
        "label",
        "image, label, fine_label",
        "['label', 'fine_label']",
    ),
    "a name that is none": (
        {"image": STRUCTS, "label": LABELS},
        {"label": "lable"},
        "label",
        "image, label",
        "'lable'",
    ),
}


@pytest.mark.parametrize("columns, asked, kind, names, got", CHOICES.values(), ids=CHOICES)
def test_columns_that_are_not_clear_are_refused_with_the_line_to_write(tmp_path, columns, asked, kind, names, got):
    write_parts(tmp_path, columns)
    assert line_of(tmp_path, columns=asked or None) == (
        f"data.columns.{kind} must be the column of {kind}s of {tmp_path}/train-00000-of-00001.parquet, "
        f"one of {names}, got {got}; write data.columns: {{{kind}: NAME}}"
    )


@pytest.mark.parametrize("columns, line", [({"lable": "x"}, "columns must be one of image, label, got 'lable'")])
def test_other_keys_are_refused_before_anything_is_read(columns, line):
    with pytest.raises(ConfigError, match=line):
        DATASETS["parquet"](path="nowhere", columns=columns)


TYPES = {
    "text": (
        {"label": ["cat", "dog", "eel"] * 4},
        "label must be a column of whole numbers, one per image, got string;",
    ),
    "categories": (
        {"label": pa.array(["cat", "dog", "eel"] * 4).dictionary_encode()},
        "label must be a column of whole numbers, one per image, got dictionary<",
    ),
    "one-hot": ({"label": np.eye(3)[LABELS].tolist()}, "one per image, got list<"),
    "missing": (
        {"label": [0, None, 1] * 4},
        "label must be a column of whole numbers, one per image, got int64 with 4",
    ),
    "pixels": (
        {"image": PICTURES[..., 0].tolist()},
        "image must be a column of encoded images, {bytes, path} or bytes, got list<",
    ),
    "paths": (
        {"image": ["a.png"] * 12},
        "image must be a column of encoded images, {bytes, path} or bytes, got string",
    ),
}


@pytest.mark.parametrize("changes, told", TYPES.values(), ids=TYPES)
def test_other_types_are_refused_by_file_and_column(tmp_path, changes, told):
    write_parts(tmp_path, {"image": STRUCTS, "label": LABELS} | changes)
    assert line_of(tmp_path).startswith(f"{tmp_path}/train-00000-of-00001.parquet: ") and told in line_of(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_rows_is_refused_by_name(tmp_path, part):
    write_parts(tmp_path, {"image": STRUCTS, "label": LABELS})
    path = tmp_path / f"{part}-00000-of-00001.parquet"
    write(path, {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    assert line_of(tmp_path) == f"{path} must hold images, got no rows"


CONFLICTS = {
    "other label type": ({"image": STRUCTS, "label": ["cat"] * 12}, None, "label must be a column of whole numbers"),
    "other columns": ({"img": STRUCTS, "label": LABELS}, None, "must have the columns image and label of "),
    "other image type": ({"image": [[1]] * 12, "label": LABELS}, None, "image must be a column of encoded images"),
    "other classes": ({"image": STRUCTS, "label": LABELS}, ["b", "a", "c"], "must have the class names of "),
}


@pytest.mark.parametrize("name", ["train-00001-of-00002.parquet", "test-00000-of-00001.parquet"])
@pytest.mark.parametrize("columns, classes, told", CONFLICTS.values(), ids=CONFLICTS)
def test_a_file_that_differs_is_named(tmp_path, name, columns, classes, told):
    usual = {"image": STRUCTS, "label": LABELS}
    for path in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"):
        write(tmp_path / path, usual, {"label": ["a", "b", "c"]})
    write(tmp_path / name, columns, {"label": classes or ["a", "b", "c"]})
    line = line_of(tmp_path)
    assert line.startswith(f"{tmp_path / name}") and told in line


def test_files_whose_types_differ_in_width_alone_are_read_together(tmp_path):
    """As different writers leave them: a path that is always null, small labels, long arrays."""
    write(tmp_path / "train-0.parquet", {"image": STRUCTS[:5], "label": pa.array(LABELS[:5], pa.int8())})
    write(
        tmp_path / "train-1.parquet",
        {"image": [{"bytes": one, "path": "a"} for one in ENCODED[5:]], "label": LABELS[5:]},
    )
    write(tmp_path / "test-0.parquet", {"image": pa.array(ENCODED, pa.large_binary()), "label": LABELS})
    assert_read(load(tmp_path))


PLACES = {
    "data": ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
    "with a hash": ("train-00000-of-00001-ab12.parquet", "test-00000-of-00001-cd34.parquet"),
    "one file a part": ("train.parquet", "test.parquet"),
    "converted by the hub": ("train/0000.parquet", "test/0000.parquet"),
    "validation for test": ("data/train-0.parquet", "data/validation-00000-of-00001.parquet"),
    "val for test": ("train-0.parquet", "val-0.parquet"),
}


@pytest.mark.parametrize("train, test", PLACES.values(), ids=PLACES)
def test_the_places_of_the_hub_are_read_and_what_stands_for_test_is_told(tmp_path, train, test):
    write(tmp_path / train, {"image": STRUCTS, "label": LABELS})
    write(tmp_path / test, {"image": STRUCTS[:6], "label": LABELS[:6]})
    data = load(tmp_path)
    assert_read(data)
    name = test.rpartition("/")[2]
    assert data.notes == ((f"{name} is the test set",) if name.startswith("val") else ())


@pytest.mark.parametrize("place", ["plain_text/train-00000-of-00001", "default/train/0000"])
def test_a_folder_of_configurations_is_refused_with_the_first_that_has_files(tmp_path, place):
    write(tmp_path / f"{place}.parquet", {"image": STRUCTS, "label": LABELS})
    rule = "data.path must be a folder with train-*.parquet files"
    below = tmp_path / place.partition("/")[0]
    assert line_of(tmp_path) == f"{rule}, got '{tmp_path}'; name the folder that has them, such as {below}"


def test_a_validation_part_beside_a_test_part_is_not_the_test_set(tmp_path):
    write_parts(tmp_path, {"image": STRUCTS, "label": LABELS})
    write(tmp_path / "validation-0.parquet", {"image": STRUCTS[:2], "label": [7, 7]})
    assert len(load(tmp_path).test) == 12


def test_a_file_is_read_piece_by_piece(tmp_path, monkeypatch):
    """No array ever holds more than a few rows, whatever the row groups, and nothing is held twice."""
    monkeypatch.setattr(parquet, "_ROWS", 4)
    write(tmp_path / "train-0.parquet", {"image": STRUCTS, "label": LABELS}, row_group_size=12)
    write(tmp_path / "train-1.parquet", {"image": STRUCTS, "label": LABELS}, row_group_size=5)
    write(tmp_path / "test-0.parquet", {"image": STRUCTS, "label": LABELS})
    before = pa.total_allocated_bytes()
    train, _ = DATASETS["parquet"](path=str(tmp_path)).read()
    encoded = train.images.args[0].images
    assert len(encoded) == 24 and max(map(len, encoded.chunks)) <= 4
    assert pa.total_allocated_bytes() - before < 2 * 3 * sum(map(len, ENCODED))
    expected = torch.from_numpy(PICTURES[[11, 0, 5]]).permute(0, 3, 1, 2)
    assert torch.equal(train.images(torch.tensor([11, 12, 17])), expected)
