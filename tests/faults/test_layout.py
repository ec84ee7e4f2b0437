"""Arrays in the layouts that exist: what shape and names say is used and told, what they leave open is refused."""

import numpy as np
import pytest
import torch

from advcore.data import DATASETS
from advcore.data.base import Data
from advcore.errors import ConfigError, UserError

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (12, 3, 8, 6), dtype=np.uint8)
SQUARE = DRAW.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
BANDS = DRAW.integers(0, 256, (12, 13, 8, 8), dtype=np.uint8)
LABELS = np.arange(12) % 3


def channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def write(path, x, y=LABELS, names=("x_train", "y_train", "x_test", "y_test")) -> str:
    np.savez(path, **dict(zip(names, (x, y, x[:6], y[:6]), strict=True)))
    return str(path)


def load(path, **settings) -> Data:
    return DATASETS["npz"](path=str(path), validation=0, **settings).load(torch.device("cpu"))


def contents(data: Data) -> tuple[torch.Tensor, list[int]]:
    """Images (N, C, H, W) and labels of the training set."""
    ((_, x, y),) = data.train.batches([torch.arange(len(data.train))])
    return x, y.tolist()


def line_of(path, kind=UserError, **settings) -> str:
    with pytest.raises(kind) as caught:
        load(path, **settings)
    (line,) = caught.value.lines
    return line


def is_same(x: torch.Tensor, expected: np.ndarray) -> bool:
    return torch.equal(x, torch.from_numpy(np.ascontiguousarray(expected)).float() / 255) and x.is_contiguous()


READ = {
    "numpy's order": (channels_last(SQUARE), SQUARE, "x_train (12, 8, 8, 3) read as (N, H, W, C)"),
    "not square": (channels_last(COLOUR), COLOUR, "x_train (12, 8, 6, 3) read as (N, H, W, C)"),
    "one channel last": (channels_last(GREY), GREY, "x_train (12, 8, 8, 1) read as (N, H, W, C)"),
    "no channel": (GREY[:, 0], GREY, "x_train (12, 8, 8) read as grey images (N, H, W)"),
    "no channel, not square": (GREY[:, 0, :5], GREY[:, :, :5], "x_train (12, 5, 8) read as grey images (N, H, W)"),
    "many channels last": (channels_last(BANDS), BANDS, "x_train (12, 8, 8, 13) read as (N, H, W, C)"),
    "channels first": (SQUARE, SQUARE, None),
    "not square, channels first": (COLOUR, COLOUR, None),
    "many channels first": (BANDS, BANDS, None),
    "tiny, channels first": (SQUARE[..., :4, :4], SQUARE[..., :4, :4], None),
    "in Fortran's order": (np.asfortranarray(channels_last(SQUARE)), SQUARE, "(N, H, W, C)"),
}


@pytest.mark.parametrize("x, expected, note", READ.values(), ids=READ)
def test_what_the_shape_says_is_read_and_told(tmp_path, x, expected, note):
    data = load(write(tmp_path / "a.npz", x))
    images, labels = contents(data)
    assert is_same(images, expected) and labels == LABELS.tolist()
    row = f"data: 12 training, 6 test images of {' x '.join(map(str, expected.shape[1:]))}, 3 classes, on cpu"
    assert data.describe().partition(";")[0] == row
    assert note in data.describe() if note else data.notes == ()


@pytest.mark.parametrize("shape", [(3, 32, 3), (3, 3, 3), (4, 8, 4), (1, 1, 28), (16, 16, 16), (6, 5, 13), (3, 3, 8)])
def test_a_shape_that_leaves_it_open_is_refused_with_the_line_to_write(tmp_path, shape):
    x = DRAW.integers(0, 256, (12, *shape), dtype=np.uint8)
    path = write(tmp_path / "a.npz", x)
    assert line_of(path) == (
        f"data.layout must be channels_first or channels_last where x_train is {x.shape}, which may be either, "
        "got None; write layout: channels_last for images (N, H, W, C)"
    )
    assert is_same(contents(load(path, layout="channels_first"))[0], x)
    assert is_same(contents(load(path, layout="channels_last"))[0], x.transpose(0, 3, 1, 2))


def test_a_layout_of_another_name_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="layout must be one of channels_first, channels_last, got 'nhwc'"):
        DATASETS["npz"](path="nowhere.npz", layout="nhwc")


@pytest.mark.parametrize("last", [True, False])
def test_four_channels_may_be_rgba_and_are_taken_by_the_setting_alone(tmp_path, last):
    x = DRAW.integers(0, 256, (12, 4, 8, 8), dtype=np.uint8)
    layout = "channels_last" if last else "channels_first"
    path = write(tmp_path / "a.npz", channels_last(x) if last else x)
    assert line_of(path) == (
        "x_train must be images of 1 or 3 channels, got 4, which may be RGBA; put it on a background, or write "
        f"data.layout: {layout} if all four are to be trained on and attacked"
    )
    assert is_same(contents(load(path, layout=layout))[0], x)


NAMES = {
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
    "capitals": ("X_train", "Y_train", "X_test", "Y_test"),
    "part first": ("train_x", "train_y", "test_x", "test_y"),
    "words": ("images_train", "targets_train", "images_test", "targets_test"),
    "val for test": ("x_train", "y_train", "x_val", "y_val"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_other_names_are_read(tmp_path, names):
    data = load(write(tmp_path / "a.npz", SQUARE, LABELS[:, None].astype(np.uint8), names))
    images, labels = contents(data)
    assert is_same(images, SQUARE) and labels == LABELS.tolist() and len(data.test) == 6


def test_medmnist_with_its_validation_part_is_read_and_what_is_not_used_is_told(tmp_path):
    parts = {"train": 12, "val": 4, "test": 6}
    arrays = {f"{part}_images": GREY[:n, 0] for part, n in parts.items()}
    arrays |= {f"{part}_labels": LABELS[:n, None] for part, n in parts.items()}
    np.savez(tmp_path / "m.npz", **arrays)
    data = load(tmp_path / "m.npz")
    assert (len(data.train), len(data.test), data.num_classes) == (12, 6, 3)
    assert "val_images, val_labels not used" in data.notes


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_a_folder_has_a_file_for_each_part_as_generated_sets_do(tmp_path, held_out):
    np.savez(tmp_path / "train.npz", image=channels_last(SQUARE), label=LABELS)
    np.savez(tmp_path / f"{held_out}.npz", image=channels_last(SQUARE[:6]), label=LABELS[:6])
    data = load(tmp_path)
    assert is_same(contents(data)[0], SQUARE) and len(data.test) == 6
    assert ("image_val is the test set" in data.notes) == (held_out != "test")


WAY_OUT = "a file with one part must be train.npz or test.npz, in the folder that data.path names"


def test_one_part_alone_and_arrays_that_lack_are_refused_with_the_way_out(tmp_path):
    np.savez(tmp_path / "1m.npz", image=channels_last(SQUARE), label=LABELS)
    assert line_of(tmp_path / "1m.npz") == (
        f"{tmp_path}/1m.npz must hold x_train, y_train, x_test, y_test, got image, label; x_train is missing; {WAY_OUT}"
    )
    (tmp_path / "1m.npz").rename(tmp_path / "train.npz")
    assert "got image_train, label_train; x_test is missing" in line_of(tmp_path)
    (tmp_path / "train.npz").unlink()
    assert line_of(tmp_path) == (
        f"data.path must be an .npz file, or a folder with train.npz and test.npz, got {str(tmp_path)!r}; the folder "
        "holds neither"
    )


def test_images_of_one_part_do_not_get_the_labels_of_another(tmp_path):
    arrays = {"x_train": SQUARE, "y_train": LABELS, "x_val": SQUARE[:6], "y_val": LABELS[:6]}
    np.savez(tmp_path / "a.npz", **arrays, x_test=SQUARE[6:])  # an unlabelled test part of as many images
    assert f"y_test is missing; {WAY_OUT}" in line_of(tmp_path / "a.npz")


def test_two_arrays_of_one_meaning_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=SQUARE, train_images=SQUARE, y_train=LABELS, x_test=SQUARE, y_test=LABELS)
    assert line_of(tmp_path / "a.npz").endswith(
        "must hold one array that can be x_train, got x_train, train_images; remove the others"
    )


ONE_HOT = "save one-hot labels as labels.argmax(1); several labels per image are not supported"
LABEL_RULE = "y_train must be labels, one whole number per image and at least one, got"
REFUSED = {
    "one-hot": (SQUARE, np.eye(3, dtype=int)[LABELS], f"{LABEL_RULE} int64 (12, 3) for 12 images; {ONE_HOT}"),
    "several labels": (SQUARE, np.zeros((12, 14), np.uint8), f"{LABEL_RULE} uint8 (12, 14) for 12 images; {ONE_HOT}"),
    "float labels": (SQUARE, LABELS / 1, f"{LABEL_RULE} float64 (12,) for 12 images; save class numbers as int64"),
    "flat images": (
        SQUARE.reshape(12, -1),
        LABELS,
        "x_train must be images (N, C, H, W), (N, H, W, C) or (N, H, W), got (12, 192); reshape it",
    ),
    "flat channels": (
        SQUARE.reshape(12, 3, 64),
        LABELS,
        "x_train must be images (N, C, H, W), (N, H, W, C) or (N, H, W), got (12, 3, 64); reshape it",
    ),
    "volumes": (
        np.zeros((12, 1, 8, 8, 8), np.uint8),
        LABELS,
        "x_train must be images (N, C, H, W), (N, H, W, C) or (N, H, W), got (12, 1, 8, 8, 8); reshape it",
    ),
    "0-255 in float64": (
        np.full((12, 3, 8, 8), 254.0),
        LABELS,
        "images must be finite and in [0, 1], got minimum 254 and maximum 254 in image 0; divide 0-255 values by 255, "
        "and make normalisation the model's first layer (advcore.models.add_normalization)",
    ),
    "0-255 in int64": (
        SQUARE.astype(np.int64),
        LABELS,
        "x_train must be images in uint8, or floats in [0, 1], got int64; save whole numbers from 0 to 255 as uint8",
    ),
    "0 and 1 in uint8": (
        (SQUARE > 99).astype(np.uint8),
        LABELS,
        "x_train must be images from 0 to 255, got uint8 of at most 1; save them as float32",
    ),
}


@pytest.mark.parametrize("x, y, line", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_in_a_line(tmp_path, x, y, line):
    assert line_of(write(tmp_path / "a.npz", x, y)) == line


def test_floats_of_any_width_and_byte_order_give_the_same_images(tmp_path):
    expected = (SQUARE / 255).astype(np.float32)
    for dtype in ("f4", ">f4", "f8", ">f8"):
        images, _ = contents(load(write(tmp_path / "a.npz", (SQUARE / 255).astype(dtype), LABELS.astype(">i2"))))
        assert torch.equal(images, torch.from_numpy(expected))


def test_check_prints_one_row_of_the_data(advcore, root, tmp_path):
    write(tmp_path / "a.npz", channels_last(SQUARE))
    change = f"data={{name: npz, path: {tmp_path}/a.npz, validation: 0.25}}"
    code, out, err = advcore("check", root / "experiments/linf_full.yaml", "--set", change)
    assert code == 0, err
    row = "data: 9 training, 3 validation, 6 test images of 3 x 8 x 8, 3 classes, on cpu; "
    assert row + "x_train (12, 8, 8, 3) read as (N, H, W, C); x_test (6, 8, 8, 3) read as (N, H, W, C)\n" in out


@pytest.mark.slow
def test_run_prints_it_too(advcore, root, tmp_path, tiny):
    file = root / "experiments/linf_full.yaml"
    code, out, err = advcore(
        "run", file, *(part for change in tiny for part in ("--set", change)), "--out", tmp_path / "r"
    )
    assert code == 0, err
    assert out.startswith("data: ") and " images of 1 x 8 x 8, 10 classes, on cpu\n" in out
