"""Inspects a data set and writes a run file with settings that suit it."""

import json
import re
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from advcore.errors import ConfigError, SettingProblem, check, escape_control_characters, must, require

if TYPE_CHECKING:
    from advcore.data.base import DataSettings

_LOOKED_AT = 50  # images of a folder whose size is read
_LARGEST_SIZE = 224  # of a square image in pixels, as ImageNet's
_NAMED_CLASSES = 5
_KINDS = "a folder of images, an .npz file, or a folder of .npz or parquet files"
_LAYOUT = "put the images of each class into train/CLASS, and others into test/CLASS"


@dataclass(frozen=True)
class Survey:
    """Facts of a data set.

    Parameters
    ----------
    name : of the run. kind : as data.name. path : as the user wrote it.
    size : side of the images in pixels; channels : of an image.
    train, test : numbers of images. classes : number of training images of each class.
    class_names : names of the classes; empty where the data give none.
    """

    name: str
    kind: str
    path: str
    size: int
    channels: int
    train: int
    test: int
    classes: tuple[int, ...]
    class_names: tuple[str, ...]

    def describe(self) -> str:
        """Return one line: how many images of which shape, and the classes."""
        names = ", ".join(self.class_names[:_NAMED_CLASSES])
        if len(self.class_names) > _NAMED_CLASSES:
            names += ", ..."
        smallest, largest = min(self.classes), max(self.classes)
        counts = f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
        classes = f"{len(self.classes):,} classes{names and f' ({names})'} of {counts} training images each"
        size = f"{self.channels} x {self.size} x {self.size}"
        text = f"{self.train:,} training and {self.test:,} test images, used at {size}; {classes}"
        return escape_control_characters(text)


def find_kind(path: Path) -> str:
    """Return the `data.name` of the data at a path. Raises ConfigError for anything else."""
    require(check(path.exists(), "DATA", _KINDS, str(path), "it does not exist"), _check_characters(path))
    if path.is_file():
        require(check(path.suffix == ".npz", "DATA", _KINDS, str(path)))
        return "npz"
    if any(path.glob("*.npz")):
        return "npz"
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        return "parquet"
    missing = [name for name, folders in _list_parts(path).items() if not any(map(Path.is_dir, folders))]
    if missing:
        raise ConfigError(
            must("DATA", _KINDS, str(path), f"it has no folder {' and no folder '.join(missing)}; {_LAYOUT}")
        )
    return "image_folder"


def _list_parts(path: Path) -> dict[str, tuple[Path, ...]]:
    return {"train": (path / "train",), "test": (path / "test", path / "val")}


def _check_characters(path: Path) -> SettingProblem | None:
    """Return a problem with a path that no run file can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return must("DATA", "a path of characters in UTF-8", str(path), "rename it")
    return None


def make_name(path: Path) -> str:
    """Return a run's name made from the last part of a path."""
    stem = path.resolve().name.removesuffix(".npz")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-")[:100] or "run"


def survey(path: Path, kind: str) -> Survey:
    """Read what a run file must say of the data at `path`. Raises DataError for data that a run would refuse."""
    import torch

    from advcore.data import DATASETS

    settings: DataSettings = DATASETS[kind](path=str(path))
    train, test = settings.read()
    require(check(len(train.labels) and len(test.labels), "DATA", "data with training and test images", str(path)))
    num_classes = settings.count_classes(train)
    _, channels, height, width = train.images(torch.tensor([0])).shape
    size, names = max(height, width), tuple(train.class_names)
    if kind == "image_folder":
        size = _choose_size(path / "train")
        names = _list_class_names(path / "train")
    return Survey(
        name=make_name(path),
        kind=kind,
        path=str(path),
        size=size,
        channels=channels,
        train=len(train.labels),
        test=len(test.labels),
        classes=tuple(torch.bincount(train.labels, minlength=num_classes).tolist()),
        class_names=names,
    )


def _list_class_names(folder: Path) -> tuple[str, ...]:
    from advcore.data.listing import find_folders, is_hidden

    return tuple(sorted(name for name in find_folders(folder) if not is_hidden(name)))


def _choose_size(folder: Path) -> int:
    """Return the median of the shorter sides of some images, from 8 to 224 pixels."""
    from advcore.data.images import decode_image
    from advcore.data.listing import Listing

    listing = Listing(folder)
    listing.add_images(folder, 0)
    paths = listing.paths[:: max(1, len(listing.paths) // _LOOKED_AT)]
    sides = [min(decode_image(path, i, path).size) for i, path in enumerate(paths)]
    return min(max(8, int(statistics.median(sides))), _LARGEST_SIZE)


# ---- the settings that follow ----

_SMALL_SIZE = 32  # pixels, and fewer training images than this: a small network trains in minutes on a CPU
_SMALL_SET = 5_000
_CIFAR_SIZE = 96  # pixels up to which a ResNet keeps its first layers at full resolution
_TEXT = Template("""\
# Adversarial training on a coreset of $described.
# Written by `advcore init`; `advcore check $file` plans it, `advcore run $file` runs it.
# What is not set here has a default: docs/settings.md lists every setting.
name: $name
seed: 0

# $about_data
data: {$data}

# $about_model
model: {$model}

# TRADES weighs robust against clean accuracy: beta 6 is usual, 1 gives more clean accuracy.
# {name: pgd} trains on attacked images only.
objective: {name: trades, beta: 6}

# $about_eps
attack: {name: linf_pgd, eps: $eps, steps: 10}

# Half of the images, selected again every 5 epochs; `selection: null` trains on all of them.
# A cheaper attack on all images is often the better saving: `advcore check $file --cost 0.3` lists both.
selection: {solver: {name: gradmatch}, budget: 0.5, period: 5}

# epochs: those of the full training that this run replaces. batch_size: at most 128, and at least 8 batches per epoch.
training: {epochs: 30, batch_size: $batch_size, optimizer: {name: sgd, lr: 0.05}}

# A robust accuracy under PGD alone is an upper bound: `advcore evaluate runs/$name-s0 --suite autoattack` is stricter.
evaluation: {attacks: [{name: linf_pgd, eps: $eps, steps: 50}]}
""")


def format_run_file(survey: Survey, file: str) -> str:
    """Return the text of a run file for the data. file : its own path, for the comments."""
    about_model, model = _choose_model(survey)
    about_eps, eps = _choose_eps(survey)
    return _TEXT.substitute(
        described=f"{survey.name}: {survey.describe()}",
        file=escape_control_characters(shlex.quote(file)),
        name=survey.name,
        about_data=_explain_data(survey),
        data=_format_data(survey),
        about_model=about_model,
        model=model,
        about_eps=about_eps,
        eps=eps,
        batch_size=_choose_batch_size(survey.train),
    )


def _format_data(survey: Survey) -> str:
    data = f"name: {survey.kind}, path: {json.dumps(survey.path, ensure_ascii=False)}"
    if survey.kind == "image_folder":
        data += f", size: {survey.size}"
    return data


def _explain_data(survey: Survey) -> str:
    held_out = "A tenth of the training images is held out to choose the best state (validation)."
    if survey.kind != "image_folder":
        return f"{held_out} Add augment: crop_flip where mirrored images keep their class."
    size = "size: the median of the shorter sides of some images, at most 224; a smaller size is faster."
    return f"{held_out} Images are cropped and mirrored (augment).\n# {size}"


def _choose_model(survey: Survey) -> tuple[str, str]:
    """Return a comment and the settings of a network for the images."""
    if survey.size <= _SMALL_SIZE and survey.train < _SMALL_SET:
        return "A small network for few small images; resnet18 is the next larger one.", "name: small_cnn, width: 32"
    if survey.size <= _CIFAR_SIZE:
        about = "ResNet-18 as for CIFAR-10. On a CPU, {name: small_cnn, width: 32} is much faster."
        return about, "name: resnet18, stem: cifar"
    about = "ResNet-18 as for ImageNet. Pretrained weights save most of the work (docs/hardening.md)."
    return about, "name: resnet18, stem: imagenet"


def _choose_eps(survey: Survey) -> tuple[str, str]:
    """Return a comment and the radius of the attack, in the units of pixels in [0, 1]."""
    if survey.channels == 1:
        return "Grey images: 0.1 is moderate, 0.3 usual for MNIST. Pixels are in [0, 1].", "0.1"
    if survey.size <= _CIFAR_SIZE:
        return "8/255 is the usual radius for CIFAR-10. Pixels are in [0, 1].", "8/255"
    return "4/255 is the usual radius for ImageNet. Pixels are in [0, 1].", "4/255"


def _choose_batch_size(images: int) -> int:
    """Return a power of two, from 2 to 128, that makes at least 8 batches where there are images enough."""
    return min(128, max(2, 2 ** max(0, (images // 8).bit_length() - 1)))
