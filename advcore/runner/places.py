"""The places that a command writes to, tried before it reads any data.

Whether a file can be written is tried, not asked: permission bits say nothing to root, and no question finds a
read-only file system, a name that is too long or a link that leads nowhere. What a trial makes, it removes.
"""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advcore.errors import NO_ROOM, ConfigError, UserError, cause_of, must, naming
from advcore.files import try_write

_RULE = "where files can be written"


def check_writable(path: Path, option: str = "--out", *, file: bool = False) -> None:
    """Raise ConfigError unless the folder `path`, or with `file` the file, can be made and written to.

    Raises OSError where the disk has no room: that is no wrong setting.
    """
    with as_setting(option, path):
        found = _follow(path)
        if not file:
            try_in(path)
            return
        if found is not None and not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, a pipe or a socket"
            raise ConfigError(must(option, "a file", str(path), f"it is {what}"))
        try_in(path.parent, path.name)


def check_path(path: Path, option: str = "--out") -> None:
    """Raise ConfigError for what no file system takes as a path, such as a name that is too long, for a link that leads
    nowhere, and for what is below either or below a file."""
    with as_setting(option, path):
        _follow(path)
        _nearest_folder(path.parent)


@contextlib.contextmanager
def as_setting(option: str, path: Path) -> Iterator[None]:
    """Raise ConfigError, with the option, for what the system refuses; a disk without room passes as it is."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        elsewhere = error.filename not in (None, str(path))
        cause = f"{error.filename}: {cause_of(error)}" if elsewhere else cause_of(error)
        raise ConfigError(must(option, _RULE, str(path), cause)) from None
    except ValueError as error:  # a null byte
        raise ConfigError(must(option, _RULE, str(path), str(error))) from None


def try_in(folder: Path, name: str = "record.json") -> None:
    """Write a file as `name` would be written in `folder`, with the folders that are missing on the way, and remove all
    of that again. Raises OSError."""
    above = _nearest_folder(folder)
    missing = folder.relative_to(above)
    if missing == Path():
        try_write(folder / name)
        return
    if ".." in missing.parts:  # it could lead out of the trial's folder
        missing = Path()
    with naming(above):
        trial = Path(tempfile.mkdtemp(dir=above, prefix=".advcore-"))
    try:
        with naming(folder / name):
            try_write(trial / missing / name)
    finally:
        inner = trial / missing
        remove_empty([inner, *(one for one in inner.parents if one.is_relative_to(trial))])


def try_replace(path: Path) -> None:
    """Open a file that is to be replaced, if it is there, and leave it as it is. Raises OSError, but not for permission
    bits: they protect what the file holds, not its place."""
    try:
        with open(path, "r+b"):
            pass
    except FileNotFoundError:
        pass
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise


def missing_folders(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, from the inside out."""
    return [one for one in (folder, *folder.parents) if not os.path.lexists(one)]


def remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders, given from the inside out, that hold nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there. Raises OSError where a file, or a link that leads nowhere,
    is in the way."""
    for above in (folder, *folder.parents):
        found = _follow(above)
        if found is None:
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
        return above
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _follow(path: Path) -> os.stat_result | None:
    """What stands at the path; None where nothing does yet. Raises OSError for a link that leads nowhere."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.islink(path):
            return None
        cause = f"{cause_of(error)} (it is a link to {os.readlink(path)!r})"
        raise OSError(error.errno, cause, str(path)) from None
