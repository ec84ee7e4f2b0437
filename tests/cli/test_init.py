"""advcore init: a run file that follows from the data, and refusals in one line."""

import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from advcore.cli import init_file
from advcore.config.load import from_dict, load
from advcore.config.yaml_reader import parse
from advcore.data import ImageFolder, Npz, Parquet
from advcore.models import ResNet18, SmallCNN


def write_pictures(folder, counts, side=20):
    """Write PNG files: counts are {part: {class: number}}, sides grow from one image to the next."""
    for part, classes in counts.items():
        for name, count in classes.items():
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((side + i, side + 2 * i, 3), 10 * i, np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_pictures(tmp_path / "pets", {"train": {"cat": 5, "dog": 3}, "val": {"cat": 1, "dog": 1}})


def write_arrays(path, shape=(12, 1, 8, 8)):
    x, y = np.zeros(shape, np.uint8), np.arange(shape[0]) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    return path


def test_a_folder_of_images_becomes_a_run_file(advcore, pets):
    code, out, err = advcore("init", "pets")
    assert (code, err) == (0, "")
    assert "data: 8 training and 2 test images, used at 3 x 21 x 21; 2 classes (cat, dog) of 3 to 5 training" in out
    assert out.splitlines()[-2:] == ["next: advcore check pets.yaml", "next: advcore run pets.yaml"]
    config = load("pets.yaml")
    assert config.name == "pets" and config.data == ImageFolder(path="pets", size=21)
    assert config.model == SmallCNN(width=32) and config.attack.eps == 8 / 255
    assert config.selection.budget == 0.5 and config.training.batch_size == 2
    text = (pets.parent / "pets.yaml").read_text()
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(text.split(line)[0].rstrip("\n").rpartition("\n")[2].startswith("#") for line in settings[2:])


def test_the_written_file_has_a_plan(advcore, pets):
    assert advcore("init", pets, "--out", "new/own.yaml")[0] == 0
    code, out, err = advcore("check", "new/own.yaml")
    assert (code, err) == (0, "") and "full epochs, then" in out


def test_arrays_and_parquet_become_run_files_too(advcore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_arrays(tmp_path / "my digits.npz")
    assert advcore("init", "my digits.npz")[0] == 0
    config = load("my_digits.yaml")
    assert config.data == Npz(path="my digits.npz") and config.attack.eps == 0.1
    (tmp_path / "table").mkdir()
    Image.new("RGB", (120, 120)).save(tmp_path / "x.png")
    images = [{"bytes": (tmp_path / "x.png").read_bytes(), "path": ""}] * 4
    for part in ("train", "test"):
        columns = pyarrow.table({"image": images, "label": [0, 1, 0, 1]})
        pyarrow.parquet.write_table(columns, tmp_path / "table" / f"{part}-00000-of-00001.parquet")
    assert advcore("init", "table")[0] == 0
    config = load("table.yaml")
    assert config.data == Parquet(path="table") and config.model == ResNet18(stem="imagenet")
    assert config.attack.eps == 4 / 255


def describe(**changes) -> init_file.Survey:
    facts = {"name": "x", "kind": "image_folder", "path": "x", "size": 32, "channels": 3, "train": 50_000, "test": 10}
    return init_file.Survey(**facts | {"classes": (25_000, 25_000), "class_names": ("a", "b")} | changes)


@pytest.mark.parametrize(
    ("changes", "model", "eps", "batch_size"),
    [
        ({}, ResNet18(stem="cifar"), 8 / 255, 128),
        ({"train": 900}, SmallCNN(width=32), 8 / 255, 64),
        ({"size": 224}, ResNet18(stem="imagenet"), 4 / 255, 128),
        ({"size": 96, "train": 300}, ResNet18(stem="cifar"), 8 / 255, 32),
        ({"channels": 1, "kind": "npz", "train": 3}, SmallCNN(width=32), 0.1, 2),
    ],
)
def test_network_radius_and_batch_follow_from_the_data(changes, model, eps, batch_size):
    config = from_dict(parse(init_file.format_run_file(describe(**changes), "x.yaml"), "x.yaml"))
    assert (config.model, config.attack.eps, config.training.batch_size) == (model, eps, batch_size)
    assert config.evaluation.attacks[0].eps == eps and config.training.optimizer.lr == 0.05


def test_names_of_any_kind_leave_the_file_readable():
    names = ("a\nname: b", "# $file {x}", "ü")
    survey = describe(path='a"b\n$c: #', class_names=names, name="x")
    text = init_file.format_run_file(survey, "a b\n.yaml")
    assert from_dict(parse(text, "x")).data.path == survey.path
    assert len(text.splitlines()) == len(init_file.format_run_file(describe(), "x.yaml").splitlines())


@pytest.mark.parametrize(
    ("path", "name"), [("Mein Bild.npz", "Mein_Bild"), ("..x", "x"), ("ü", "run"), ("a" * 200, "a" * 100)]
)
def test_a_name_is_made_that_a_run_may_have(tmp_path, path, name):
    assert init_file.make_name(tmp_path / path) == name


def remove_test_part(folder):
    os.rename(folder / "val", folder / "other")


def damage_image(folder):
    (folder / "train/cat/0.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        (["nowhere"], None, "DATA must be a folder of images, an .npz file, or a folder of .npz or parquet files, got "
                            "'nowhere'; it does not exist"),
        (["pets/train"], None, "got 'pets/train'; it has no folder train and no folder test; put the images of each"),
        (["pets"], remove_test_part, "it has no folder test; put the images of each class into train/CLASS"),
        (["pets/train/cat/0.png"], None, "DATA must be a folder of images"),
        (["pets"], damage_image, "0.png) cannot be decoded"),
        (["pets", "--out", "pets"], None, "--out must be a file that does not exist yet, got 'pets'"),
        (["pets", "--out", "pets/train/cat/0.png/x.yaml"], None, "--out must be where files can be written"),
        (["\udc80"], os.mkdir, "DATA must be a path of characters in UTF-8"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(advcore, pets, words, change, message):
    if change is os.mkdir:
        os.mkdir(pets.parent / words[0])
    elif change:
        change(pets)
    before = sorted(pets.parent.rglob("*"))
    code, out, err = advcore("init", *words)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err
    assert sorted(pets.parent.rglob("*")) == before
