"""Files by name and number: each real image once, what is no image left out and counted, what is missing refused."""

import gzip
import io
import struct
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import make_dataset

from advcore.data import DATASETS
from advcore.data.images import list_endings
from advcore.errors import UserError

CPU = torch.device("cpu")
LEVELS = {"ant": 10, "bee": 80, "cow": 150}


def encode(level: int, form="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), level, np.uint8)).save(buffer, form)
    return buffer.getvalue()


PIXELS = {level: encode(level) for level in LEVELS.values()}


@pytest.fixture
def root(tmp_path):
    """Two images of each class in each part."""
    for part in ("train", "test"):
        for name, level in LEVELS.items():
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(2):
                (folder / f"{i}.png").write_bytes(PIXELS[level])
    return tmp_path / "images"


def read(path, **settings):
    return DATASETS["image_folder"](path=str(path), size=8, validation=0, **settings).load(CPU)


def list_levels(source) -> list[tuple[int, int]]:
    """Label and grey level of each image, in order."""
    ((_, x, y),) = source.batches([torch.arange(len(source))])
    return [(int(label), round(255 * float(image.mean()))) for image, label in zip(x, y, strict=True)]


USUAL = [(0, 10), (0, 10), (1, 80), (1, 80), (2, 150), (2, 150)]


def refuse(name="image_folder", **settings) -> str:
    with pytest.raises(UserError) as caught:
        DATASETS[name](**settings).load(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what is no data ----

HIDDEN_FOLDERS = [".ipynb_checkpoints", "__pycache__", ".git", "@eaDir", "__MACOSX", ".thumbnails", "$RECYCLE.BIN"]
HIDDEN_FILES = [".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", ".hidden.jpg"]


@pytest.mark.parametrize("name", HIDDEN_FOLDERS)
@pytest.mark.parametrize("place", ["train", "test", "train/bee"])
def test_hidden_folders_are_no_classes_and_hold_no_images(root, name, place):
    (root / place / name).mkdir()
    (root / place / name / "0.png").write_bytes(PIXELS[80])
    data = read(root)
    assert data.num_classes == 3 and list_levels(data.train) == list_levels(data.test) == USUAL
    part, *below = place.split("/")
    where = "/".join([*below, name])
    assert data.notes == (f"left out of {root / part}: hidden files and folders (1, such as {where})",)


@pytest.mark.parametrize("name", HIDDEN_FILES)
def test_hidden_files_are_left_out_and_counted(root, name):
    for folder in ("train", "train/ant", "train/bee"):
        (root / folder / name).write_bytes(b"\0\x05\x16\x07 no picture")
    data = read(root)
    assert list_levels(data.train) == USUAL
    assert data.notes == (f"left out of {root / 'train'}: hidden files and folders (3, such as {name})",)


def test_nothing_is_said_where_nothing_is_left_out(root):
    assert read(root).notes == ()


def test_files_that_are_no_images_are_counted_by_place(root):
    (root / "train/ant/labels.csv").write_text("")
    (root / "train/ant/photo.heic").write_bytes(b"")
    (root / "train/loose.png").write_bytes(PIXELS[10])
    (root / "train/ant/more.zip").mkdir()  # a folder, whatever its name
    (root / "train/ant/more.zip/2.png").write_bytes(PIXELS[10])
    data = read(root)
    assert list_levels(data.train) == [(0, 10), *USUAL]
    assert data.notes == (
        f"left out of {root / 'train'}: files outside any class (1, such as loose.png)",
        f"left out of {root / 'train'}: files that are not images (2, such as ant/labels.csv)",
    )


@pytest.mark.parametrize(
    "ending, form",
    [
        *((".jfif", "JPEG"), (".gif", "GIF"), (".webp", "WEBP"), (".tiff", "TIFF"), (".bmp", "BMP"), (".jpe", "JPEG")),
        *((".ppm", "PPM"), (".TIF", "TIFF"), (".JPG", "JPEG"), (".avif", "AVIF"), (".png", "JPEG")),
    ],
)
def test_every_file_that_can_be_decoded_is_read(root, ending, form):
    if ending.lower() not in list_endings():
        pytest.skip(f"this Pillow decodes no {ending}")
    (root / f"train/ant/2{ending}").write_bytes(encode(10, form))
    assert len(read(root).train) == 7


def test_a_second_held_out_part_is_not_read_and_that_is_said(root):
    (root / "val").mkdir()
    test, train = root / "test", root / "train"
    note = f"{root / 'val'}: not read, because {test} is; validation images come from {train}"
    assert read(root).notes == (note,)


# ---- each real file once ----

LOOPS = {
    "to itself": ("train/ant/again", "train/ant", "links to files that are already listed"),
    "to the part": ("train/ant/again", "train", "links to a folder that contains them"),
    "to the whole": ("train/ant/again", "", "links to a folder that contains them"),
    "to a folder beside": ("train/ant/a/again", "train/ant/b", "links to files that are already listed"),
    "to an image": ("train/ant/9.png", "train/ant/0.png", "links to files that are already listed"),
}


@pytest.mark.parametrize("link, target, reason", LOOPS.values(), ids=LOOPS)
def test_links_multiply_no_image(root, link, target, reason):
    for name in "ab":
        (root / "train/ant" / name).mkdir()
        (root / "train/ant" / name / "0.png").write_bytes(PIXELS[10])
    (root / link).symlink_to(root / target)
    data = read(root)
    assert list_levels(data.train) == [(0, 10), (0, 10), *USUAL]
    (note,) = data.notes
    assert note.startswith(f"left out of {root / 'train'}: {reason} (1, such as ant/")


def test_two_links_that_lead_to_each_other_are_refused(root):
    (root / "train/ant/a").symlink_to(root / "train/ant/b")
    (root / "train/ant/b").symlink_to(root / "train/ant/a")
    message = refuse(path=str(root), size=8)
    assert message.startswith(f"{root}/train/ant/a must be a file or a folder, got a broken link")


def test_links_to_images_elsewhere_are_followed(root, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "7.png").write_bytes(PIXELS[80])
    (root / "train/bee/7.png").symlink_to(store / "7.png")
    (store / "more").mkdir()
    (store / "more/8.png").write_bytes(PIXELS[80])
    (root / "train/bee/more").symlink_to(store / "more")
    data = read(root)
    assert list_levels(data.train) == [*USUAL[:2], *[(1, 80)] * 4, *USUAL[4:]] and data.notes == ()


def test_the_folder_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert list_levels(read(tmp_path / "link").train) == USUAL


def test_a_link_to_nothing_is_refused_before_any_image_is_read(root):
    (root / "train/ant/gone.png").symlink_to(root / "nowhere.png")
    assert f"{root}/train/ant/gone.png" in refuse(path=str(root), size=8)


@pytest.mark.parametrize("link, target", [("bee/0_ant.png", "ant/0.png"), ("bee/more", "ant"), ("dog", "ant")])
def test_an_image_of_two_classes_is_refused(root, link, target):
    (root / "train" / link).symlink_to(root / "train" / target)
    if link == "dog":
        (root / "test/dog").mkdir()
        (root / "test/dog/0.png").write_bytes(PIXELS[10])
    message = refuse(path=str(root), size=8)
    assert "must have one class" in message and str(root / "train" / link) in message


def test_test_images_that_are_links_to_training_images_are_refused(root):
    (root / "test/ant/9.png").symlink_to(root / "train/ant/0.png")
    message = refuse(path=str(root), size=8)
    assert f"got 1 links to the same files, such as {root}/test/ant/9.png" in message


def test_images_come_in_the_order_of_torchvision(root):
    """Their indices are what coresets and the records of earlier runs speak of."""
    for name in ("b/deep/er", "a", "b", "b-c", "B"):
        (root / "train/ant" / name).mkdir(parents=True, exist_ok=True)
        for i in (10, 9):
            (root / "train/ant" / name / f"{i}.png").write_bytes(PIXELS[10])
    train, _ = DATASETS["image_folder"](path=str(root), size=8).read()
    samples = make_dataset(root / "train", {name: i for i, name in enumerate(LEVELS)}, (".png",))
    assert list(zip(train.images.args[0], train.labels.tolist(), strict=True)) == samples


# ---- classes ----

COMPOSED = unicodedata.normalize("NFC", "bébé")
TAKEN_APART = unicodedata.normalize("NFD", "bébé")


@pytest.mark.parametrize("train, test", [(COMPOSED, TAKEN_APART), (TAKEN_APART, COMPOSED)])
@pytest.mark.parametrize("settings", [{}, {"only": ["ant", COMPOSED]}, {"groups": {"x": ["ant"], "y": [TAKEN_APART]}}])
def test_a_class_has_one_name_however_its_accents_are_written(root, train, test, settings):
    (root / "train/bee").rename(root / "train" / train)
    (root / "test/bee").rename(root / "test" / test)
    data = read(root, **settings)
    expected = USUAL if not settings else USUAL[:4]
    assert list_levels(data.train) == list_levels(data.test) == expected


def test_two_folders_of_one_name_are_refused(root):
    for name in (COMPOSED, TAKEN_APART):
        (root / "train" / name).mkdir()
    assert "each name once" in refuse(path=str(root), size=8)
    assert "'bébé'" in refuse(path=str(root), size=8, only=[COMPOSED, TAKEN_APART])


def test_a_class_that_only_the_test_part_has_is_refused(root):
    (root / "test/dog").mkdir()
    assert refuse(path=str(root), size=8) == (
        f"{root / 'test'} must hold the classes of the training part and no other, got ['dog'] more and none for []; "
        "rename or remove them, or name the classes in data.only"
    )
    assert read(root, only=["ant", "bee", "cow"]).num_classes == 3


def test_names_that_differ_in_case_are_no_match_and_both_are_named(root):
    (root / "test/bee").rename(root / "test/Bee")
    assert "got ['Bee'] more and none for ['bee']" in refuse(path=str(root), size=8)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_images_is_refused_with_what_was_left_out(root, part):
    for path in (root / part / "bee").iterdir():
        path.rename(path.with_suffix(".heic"))
    assert refuse(path=str(root), size=8) == (
        f"{root / part} must hold images of each class, got none in ['bee']; "
        f"left out of {root / part}: files that are not images (2, such as bee/0.heic)"
    )


def test_a_file_of_no_bytes_is_refused_by_name(root):
    (root / "test/cow/1.png").write_bytes(b"")
    assert f"image 5 ({root}/test/cow/1.png)" in refuse(path=str(root), size=8)


# ---- numbered files ----


def write_shards(folder, *names, part="train"):
    for name in names:
        images = [{"bytes": PIXELS[80], "path": None}] * 2
        pq.write_table(pa.table({"image": images, "label": [0, 1]}), folder / name)


def name_shards(part: str, numbers, total: int) -> list[str]:
    return [f"{part}-{number:05}-of-{total:05}.parquet" for number in numbers]


SHARDS = {
    "one missing": (name_shards("train", [0, 2], 3), "train-00001-of-00003.parquet is missing"),
    "the last missing": (name_shards("train", [0, 1], 3), "train-00002-of-00003.parquet is missing"),
    "the first missing": (name_shards("train", [1], 2), "train-00000-of-00002.parquet is missing"),
    "two missing": (name_shards("train", [1], 3), "train-00000-of-00003.parquet is missing; train-00002-of-00003"),
    "one begun": ([*name_shards("train", [0], 2), "train-00001-of-00002.parquet.incomplete"], "train-00001-of-00002"),
    "two sets": ([*name_shards("train", [0], 1), *name_shards("train", [0, 1], 2)], "00001 and train-*-of-00002"),
    "numbered and not": (["train-00000-of-00001.parquet", "train.parquet"], "got both, such as ['train.parquet']"),
    "a file more": (
        [*name_shards("train", [0, 1], 2), "train-extra.parquet"],
        "got both, such as ['train-extra.parquet']",
    ),
    "twice": (["train-00000-of-00001-aa.parquet", "train-00000-of-00001-bb.parquet"], "each once, got [0, 0]"),
}


@pytest.mark.parametrize("names, reason", SHARDS.values(), ids=SHARDS)
def test_missing_and_repeated_shards_are_refused_by_name(tmp_path, names, reason):
    write_shards(tmp_path, *names, "test-00000-of-00001.parquet")
    assert reason in refuse("parquet", path=str(tmp_path))


def test_a_missing_test_shard_is_refused_too(tmp_path):
    write_shards(tmp_path, "train-0.parquet", *name_shards("test", [0, 1], 3))
    assert "test-00002-of-00003.parquet is missing" in refuse("parquet", path=str(tmp_path))


WHOLE = {
    "all": name_shards("train", range(3), 3),
    "with hashes": [f"train-{i:05}-of-00003-{i}abc.parquet" for i in range(3)],
    "from one": [f"train-{i}-of-3.parquet" for i in (1, 2, 3)],
    "without a total": ["train-0.parquet", "train-1.parquet", "train-7.parquet"],
    "beside those of a Mac": [*name_shards("train", range(3), 3), "._train-00000-of-00003.parquet"],
}


@pytest.mark.parametrize("names", WHOLE.values(), ids=WHOLE)
def test_whole_sets_of_shards_are_read(tmp_path, names):
    write_shards(tmp_path, *names[:3], "test-0.parquet")
    for name in names[3:]:
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07")
    assert len(DATASETS["parquet"](path=str(tmp_path), validation=0).load(CPU).train) == 6


def test_two_names_of_one_parquet_file_are_refused(tmp_path):
    write_shards(tmp_path, "train-0.parquet", "test-0.parquet")
    (tmp_path / "train-1.parquet").symlink_to(tmp_path / "train-0.parquet")
    assert "must hold each file once" in refuse("parquet", path=str(tmp_path))


def write_idx(folder, part, images, labels, pack=False):
    """MNIST's layout: so many images and labels, whatever the other file holds."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        f"{part}-images-idx3-ubyte": struct.pack(">IIII", 2051, images, 28, 28) + bytes(images * 28 * 28),
        f"{part}-labels-idx1-ubyte": struct.pack(">II", 2049, labels) + bytes(i % 10 for i in range(labels)),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content) if pack else content)


@pytest.mark.parametrize("name, reader", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("train, test", [((200, 150), (20, 20)), ((150, 200), (20, 20)), ((200, 200), (20, 10))])
def test_images_without_labels_and_labels_without_images_are_refused(tmp_path, name, reader, train, test):
    write_idx(tmp_path / reader / "raw", "train", *train)
    write_idx(tmp_path / reader / "raw", "t10k", *test)
    images, labels = next(counts for counts in (train, test) if counts[0] != counts[1])
    rule = f"{tmp_path} must hold {reader} files with one label per image"
    assert refuse(name, path=str(tmp_path)) == f"{rule}, got {images} images and {labels} labels"


@pytest.mark.parametrize("name, reader", [("cifar10", "CIFAR10"), ("svhn", "SVHN")])
def test_every_set_that_torchvision_reads_has_a_label_an_image(tmp_path, monkeypatch, name, reader):
    class Reader:
        def __init__(self, *arguments, **settings):
            self.data = np.zeros((8, 3, 32, 32) if name == "svhn" else (8, 32, 32, 3), np.uint8)
            self.targets = self.labels = list(range(6))

    monkeypatch.setattr(f"torchvision.datasets.{reader}", Reader)
    assert "got 8 images and 6 labels" in refuse(name, path=str(tmp_path))


@pytest.mark.parametrize("cut", [-1, -784, 20, 3])
def test_idx_files_that_were_cut_are_refused(tmp_path, cut):
    for part in ("train", "t10k"):
        write_idx(tmp_path / "MNIST/raw", part, 10, 10)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:cut])
    assert "torchvision's MNIST files" in refuse("mnist", path=str(tmp_path))
