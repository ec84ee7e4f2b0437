"""List the images below the folders of a data set: each real file once, with what was left out.

Hidden files, and those that systems and tools add to a user's, are not data. Links are followed, but not in circles.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from advcore.data.images import list_endings
from advcore.errors import DataError

# Folders and files, besides the hidden ones, that Python, file managers and storage systems make.
_SYSTEM = ("__pycache__", "__macosx", "thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found")

_SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{1,6})-of-(?P<total>\d{1,6})\b")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or put there by a system rather than a user."""
    return name.startswith(".") or name.lower() in _SYSTEM


def normalise(name: str) -> str:
    """Write a name as most systems do (NFC): an accented letter may be one character or two, which look the same."""
    return unicodedata.normalize("NFC", name)


def find_folders(parent: Path) -> dict[str, Path]:
    """Return the folders in `parent` by their normalised names, hidden ones too.

    Raises DataError where two of them have the same one.
    """
    folders: dict[str, Path] = {}
    for path in sorted(path for path in parent.iterdir() if path.is_dir()):
        name = normalise(path.name)
        if name in folders:
            raise DataError(f"{parent} must hold each name once, got {name!r} in two spellings; merge the two")
        folders[name] = path
    return folders


def check_shards(files: list[Path]) -> None:
    """Raise DataError where names say that files are missing, or there twice.

    That is so of train-00000-of-00003.parquet without the other two, of two names for one file, and of train.parquet
    next to numbered files, which may hold the same again.
    """
    folder = files[0].parent
    if len({os.path.realpath(file) for file in files}) < len(files):
        raise DataError(f"{folder} must hold each file once, got links to the same among {[f.name for f in files][:5]}")
    shards: dict[tuple[str, str], list[int]] = defaultdict(list)
    for match in filter(None, (_SHARD.match(file.name) for file in files)):
        shards[match["name"], match["total"]].append(int(match["number"]))
    others = [file.name for file in files if not _SHARD.match(file.name)]
    if shards and others:
        rule = "either numbered files (-of-) or unnumbered ones"
        raise DataError(f"{folder} must hold {rule}, got both, such as {others[:5]}; remove the unwanted ones")
    if len(shards) > 1:
        sets = " and ".join(f"{name}-*-of-{total}" for name, total in sorted(shards))
        raise DataError(f"{folder} must hold the files of one set, got {sets}; remove the unwanted ones")
    for (name, total), numbers in shards.items():
        start = int(int(total) in numbers)  # some count from 1
        missing = sorted({*range(start, start + int(total))} - {*numbers})
        if missing or len(numbers) > int(total):
            absent = "".join(f"; {name}-{number:0{len(total)}}-of-{total}.parquet is missing" for number in missing[:3])
            rule = f"all {int(total)} files {name}-*-of-{total}.parquet, each once"
            raise DataError(f"{folder} must hold {rule}, got {sorted(numbers)[:20]}{absent}")


class Listing:
    """The images of some folders, each real file once.

    paths, labels : of each image. left_out : paths that were not taken, by the reason.
    """

    def __init__(self, root: Path):
        self.root = root
        self.paths: list[str] = []
        self.labels: list[int] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self._places: dict[str, tuple[int, str]] = {}  # label and path of each file and folder, by its real path

    def leave_out_strays(self) -> None:
        """Note the files next to the classes' folders, and hidden folders, which are not classes."""
        for entry, _ in self._scan(str(self.root), os.path.realpath(self.root)):
            if not entry.is_dir():
                self.left_out["files outside any class"].append(entry.path)

    def add_images(self, folder: Path, label: int) -> None:
        """Add the images below a folder of class `label`, sorted by their folders and then by their names.

        Raises DataError for a link to nothing, and for what another class has too; OSError for a folder that cannot be
        listed, whose images would otherwise be missing without a word.
        """
        images = []
        pending = [(str(folder), os.path.realpath(folder))]
        above = {str(parent) for parent in Path(pending[0][1]).parents}
        while pending:
            path, real = pending.pop()
            if real in above:
                self.left_out["links to a folder that contains them"].append(path)
            elif self._is_new(label, path, real):
                for entry, target in self._scan(path, real):
                    if entry.is_dir():
                        pending.append((entry.path, target))
                    elif not (entry.is_file() and entry.name.lower().endswith(list_endings())):
                        self.left_out["files that are not images"].append(entry.path)
                    elif self._is_new(label, entry.path, target):
                        images.append(entry.path)
        self.paths += sorted(images, key=os.path.split)
        self.labels += [label] * len(images)

    def _scan(self, path: str, real: str) -> Iterator[tuple[os.DirEntry, str]]:
        """Yield what a folder holds and is not hidden, each with its real path, in the order of the names."""
        with os.scandir(path) as entries:
            ordered = sorted(entries, key=os.fspath)
        for entry in ordered:
            if is_hidden(entry.name):
                self.left_out["hidden files and folders"].append(entry.path)
            elif not entry.is_symlink():
                yield entry, os.path.join(real, entry.name)
            elif os.path.exists(entry.path):
                yield entry, os.path.realpath(entry.path)
            else:
                raise DataError(f"{entry.path} must be a file or a folder, got a broken link; repair or remove it")

    def _is_new(self, label: int, path: str, real: str) -> bool:
        """Remember where a file or folder was met, and return whether that is the first time."""
        if real not in self._places:
            self._places[real] = (label, path)
            return True
        first_label, first = self._places[real]
        if first_label != label:
            raise DataError(
                f"{path} must have one class, but is the same as {first}, of another; remove one of the two"
            )
        self.left_out["links to files that are already listed"].append(path)
        return False

    def describe_left_out(self) -> list[str]:
        """Write how many files and folders were left out for each reason, and the first of them."""
        return [
            f"left out of {self.root}: {reason} ({len(paths):,}, such as {os.path.relpath(paths[0], self.root)})"
            for reason, paths in self.left_out.items()
        ]

    def check_apart(self, training: "Listing") -> None:
        """Raise DataError if an image is in the training part too, of which a link can make a test image."""
        shared = [self._places[real][1] for real in self._places.keys() & training._places.keys()]
        images = sorted(set(shared).intersection(self.paths))
        if images:
            raise DataError(
                f"{self.root} must hold images that {training.root} does not, got {len(images):,} links to the same "
                f"files, such as {images[0]}; remove them, or the accuracies will be those of training images"
            )
