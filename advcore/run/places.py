"""Try the places that a command writes to, before it reads any data.

Only an attempt to write shows whether a file can be written: permission bits mean nothing to root, and nothing on a
read-only file system, a name that is too long or a link that leads nowhere. What an attempt creates, it removes.
"""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advcore.errors import NO_ROOM, ConfigError, UserError, describe_cause, must, name_path_in_errors
from advcore.files import try_write

_RULE = "where files can be written"


def check_writable(path: Path, option: str = "--out", *, file: bool = False) -> None:
    """Raise ConfigError unless the folder `path`, or with `file` the file, can be created and written to.

    `option` names the setting in the error. Raises OSError where the disk is full, which is not a wrong setting.
    """
    with refuse_as_option(option, path):
        status = _follow(path)
        if not file:
            try_in(path)
            return
        if status is not None and not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, a pipe or a socket"
            raise ConfigError(must(option, "a file", str(path), f"it is {kind}"))
        try_in(path.parent, path.name)


def check_path(path: Path, option: str = "--out") -> None:
    """Raise ConfigError for a path that can never be written to.

    It may be one that no file system takes, such as one with a name that is too long; a link that leads nowhere; or
    anything below either of these, or below a file.
    """
    with refuse_as_option(option, path):
        _follow(path)
        _find_nearest_folder(path.parent)


@contextlib.contextmanager
def refuse_as_option(option: str, path: Path) -> Iterator[None]:
    """Raise ConfigError, naming the option, for what the system refuses inside the block.

    The OSError of a disk without room passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        cause = describe_cause(error)
        if error.filename not in (None, str(path)):
            cause = f"{error.filename}: {cause}"
        raise ConfigError(must(option, _RULE, str(path), cause)) from None
    except ValueError as error:  # a null byte
        raise ConfigError(must(option, _RULE, str(path), str(error))) from None


def try_in(folder: Path, name: str = "record.json") -> None:
    """Write a file as `name` would be written in `folder`, and remove it again; raise OSError if that fails.

    Folders that are missing on the way are created, and removed again, inside a temporary folder.
    """
    above = _find_nearest_folder(folder)
    missing = folder.relative_to(above)
    if missing == Path():
        try_write(folder / name)
        return
    if ".." in missing.parts:  # it could lead out of the temporary folder
        missing = Path()
    with name_path_in_errors(above):
        trial = Path(tempfile.mkdtemp(dir=above, prefix=".advcore-"))
    try:
        with name_path_in_errors(folder / name):
            try_write(trial / missing / name)
    finally:
        innermost = trial / missing
        remove_empty([innermost, *(parent for parent in innermost.parents if parent.is_relative_to(trial))])


def try_replace(path: Path) -> None:
    """Open a file that is to be replaced, if there is one, and leave it as it is; raise OSError if that fails.

    Permission bits of the file are not an obstacle: they protect its content, and a new file takes its place.
    """
    try:
        with open(path, "r+b"):
            pass
    except FileNotFoundError:
        pass
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise


def list_missing_folders(folder: Path) -> list[Path]:
    """Return the folder and those above it that do not exist, from the innermost to the outermost."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders, listed from the innermost to the outermost, that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _find_nearest_folder(folder: Path) -> Path:
    """Return the folder, or the nearest folder above it that exists.

    Raises OSError where a file, or a link that leads nowhere, is in the way.
    """
    for path in (folder, *folder.parents):
        status = _follow(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if status is not None:
            return path
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _follow(path: Path) -> os.stat_result | None:
    """Return the status of what is at the path; None where nothing is. Raises OSError for a link that leads nowhere."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.islink(path):
            return None
        cause = f"{describe_cause(error)} (it is a link to {os.readlink(path)!r})"
        raise OSError(error.errno, cause, str(path)) from None
