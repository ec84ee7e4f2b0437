"""Images on disk that go missing or break, seen from the command line."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advcore import cli
from advcore.files import load_tensors
from advcore.reporting.record import RunRecord
from advcore.run import checkpoints

pytestmark = pytest.mark.case("C7")
CHANGES = [
    "model={name: small_cnn, width: 4}",
    "attack.steps=1",
    "training.epochs=5",
    "training.batch_size=8",
    "data.validation=0",
    "evaluation.attacks.0.steps=1",
    "evaluation.attacks.0.restarts=1",
    "evaluation.checks=false",
]
VICTIM = "train/a/03.png"
BREAKS = {
    "missing": (lambda path: path.unlink(), "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot identify image file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:60]), "03.png"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "another format": (lambda path: path.write_text("<html>not found</html>"), "cannot identify image file"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """32 training and 8 test images of two colours, which nobody changes, beside a folder that is no class."""
    root = tmp_path_factory.mktemp("good") / "images"
    for part, count in (("train", 16), ("val", 4)):
        for c, name in enumerate("ab"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng(100 * c + i).integers(0, 90, (12, 12, 3)) + 90 * c
                Image.fromarray(noise.astype(np.uint8)).save(root / part / name / f"{i:02d}.png")
    (root / "train/.ipynb_checkpoints").mkdir()
    return root


@pytest.fixture
def images(good, tmp_path) -> Path:
    """A copy of them."""
    return shutil.copytree(good, tmp_path / "images")


def command_on(root, images) -> list:
    changes = [*CHANGES, f"data={{name: image_folder, path: {images}, size: 10, validation: 0}}"]
    return ["run", root / "experiments/trades_gradmatch.yaml", *(part for one in changes for part in ("--set", one))]


@pytest.fixture
def command(root, images):
    return command_on(root, images)


@pytest.fixture(scope="module")
def undisturbed(root, good, tmp_path_factory):
    """The run on good images that are too large to be held; made once."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advcore.data.split.RESIDENT_LIMIT", 0)
        patch.setattr(sys, "argv", ["advcore", *map(str, command_on(root, good)), "--out", str(out)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert leaving.value.code == 0
    return out


def spoiled(code: int, err: str, told: str) -> None:
    """One line that names file, place and cause."""
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
    assert "03.png" in err and "image 3 " in err and told in err, err


@pytest.mark.parametrize("name", ["empty", "cut", "another format"])
def test_an_image_that_cannot_be_read_is_told_before_the_first_step(advcore, command, images, tmp_path, name):
    breaks, told = BREAKS[name]
    breaks(images / VICTIM)
    code, _, err = advcore(*command, "--out", tmp_path / "run")
    spoiled(code, err, told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("cut", 0),
        *(pytest.param(name, 0, marks=pytest.mark.slow) for name in BREAKS if name != "cut"),
        pytest.param("missing", 1, marks=pytest.mark.slow),
    ],
)
def test_an_image_that_breaks_in_the_middle_ends_the_run_and_it_goes_on_once_it_is_mended(
    advcore, command, good, images, undisturbed, tmp_path, monkeypatch, name, workers
):
    """Data that are too large to be held; the image breaks after the second epoch."""
    breaks, told = BREAKS[name]
    monkeypatch.setattr("advcore.data.split.RESIDENT_LIMIT", 0)
    command = [*command, "--set", f"data.workers={workers}"]
    with monkeypatch.context() as patch:
        original = checkpoints.save

        def save(*arguments):
            original(*arguments)
            if checkpoints._list_numbers(tmp_path / "run") == [1, 2]:
                breaks(images / VICTIM)

        patch.setattr(checkpoints, "save", save)
        code, _, err = advcore(*command, "--out", tmp_path / "run")
    spoiled(code, err, told)
    state = checkpoints.load_newest(tmp_path / "run")[0]
    assert state["place"]["epoch"] == 2 and not state["place"]["begun"]
    shutil.rmtree(images)
    shutil.copytree(good, images)
    assert advcore(*command, "--out", tmp_path / "run", "--resume")[0] == 0
    one, two = (load_tensors(run / "checkpoints/last.safetensors") for run in (tmp_path / "run", undisturbed))
    assert one[1] == two[1]  # their hashes among them


def test_other_images_of_the_same_labels_are_refused_when_a_run_goes_on(
    advcore, command, images, undisturbed, tmp_path, monkeypatch
):
    """Of data that are not held, the hash in the record is of labels alone."""
    monkeypatch.setattr("advcore.data.split.RESIDENT_LIMIT", 0)
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    record = RunRecord.load(folder / "record.json")
    record.finished = False
    record.save(folder / "record.json")
    for path in images.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    more = ("--set", f"data.path={images}", "--resume", "--out", folder)
    code, _, err = advcore(*command, *more)
    assert code == 2 and "--resume must be given the images (hash of some) that the run began with" in err, err


def test_a_record_says_what_was_left_out(good, undisturbed):
    left_out = f"left out of {good / 'train'}: hidden files and folders (1, such as .ipynb_checkpoints)"
    assert json.loads((undisturbed / "record.json").read_text())["data"]["notes"] == [left_out]
