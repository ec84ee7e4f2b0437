"""Single files: written whole or not at all, read, refused outside of their folder, and listed."""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import BinaryIO

from advcore.errors import CheckpointError, UnreadableError, UnsafeFileError, describe_cause, name_path_in_errors

# what file systems answer that do not sync folders, or do not open them
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM)


def write_bytes(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Write `content` to `path`, whole or not at all.

    synced : wait until the content is on the disk. False is for what can be made again: it is faster, but a power cut
        may leave an empty file.
    """
    with name_path_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if synced:
                    sync_file(file)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if synced:
            sync_folder(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to `path`, which does not exist for readers yet, and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        sync_file(file)


def sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk, where its file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises CheckpointError with the cause if it is missing or no file, UnreadableError if the system does not let us
    read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {describe_cause(error)}") from None
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {describe_cause(error)}") from None


def hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_inside(path: Path, folder: Path) -> Path:
    """Return `path` if it lies below `folder` after all links are followed; `folder` itself may be a link.

    Raises UnsafeFileError otherwise.
    """
    try:
        target = path.resolve()
        is_inside = target.is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UnsafeFileError(f"{path} cannot be followed: {error}") from None
    if not is_inside:
        raise UnsafeFileError(f"{path} must stay in its folder {folder}, got a link to {target}; copy the file there")
    return path


def list_entries(folder: Path) -> list[Path]:
    """Return all files and folders in `folder`, sorted; none if it is a link or no folder."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(folder.iterdir())


def list_leftovers(folder: Path, name: str = "") -> list[Path]:
    """Return the temporary files that killed writers left in `folder`: of the file `name`, or of any."""
    unfinished = re.compile(rf"\.{re.escape(name) or '.+'}\.[a-z0-9_]+")  # as tempfile names them
    return [path for path in list_entries(folder) if unfinished.fullmatch(path.name)]
