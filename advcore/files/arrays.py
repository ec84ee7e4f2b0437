"""Files of named arrays: npz files with a seal in them, and pairs of npz and JSON."""

import io
import threading
from pathlib import Path

import numpy as np

from advcore.errors import CheckpointError, UnsafeFileError, format_value
from advcore.files.content import hash_bytes, read_bytes, write_bytes
from advcore.files.pairs import read_pair, write_pair

_SCHEMA = "advcore-arrays-1"
_SEAL_MARK = b"advcore sha256 "
_SEAL_LENGTH = len(_SEAL_MARK) + 64
_END_LENGTH = 22  # bytes of a zip archive's end without a comment; the last two say how long the comment is
_NO_COMMENT = b"\0\0"  # its length
# numpy parses each header with `ast`, and CPython 3.11 counts the depth of all threads' parses in one
# place: two threads reading at once got a SystemError now and then (CPython issue 106905).
_ONE_PARSE = threading.Lock()


def save_arrays(path: Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Write `path` (.npz) and the JSON of `facts` next to it, both at once."""
    write_pair(path, _format_npz(arrays), _SCHEMA, facts)


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read arrays and the facts saved with them.

    Raises CheckpointError on damage, UnsafeFileError for object arrays, which only unpickling could read.
    """
    content, facts = read_pair(path, _SCHEMA)
    return read_npz(io.BytesIO(content), path), facts


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `path` (.npz) alone, whole or not at all, with a seal in it."""
    write_bytes(path, _seal_archive(_format_npz(arrays)))


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_npz` wrote.

    Raises CheckpointError if any byte differs from it, UnsafeFileError for object arrays. Archives without a seal, from
    before there were seals, are not checked.
    """
    content = read_bytes(path)
    is_unsealed = content[-_END_LENGTH:].startswith(b"PK\5\6") and content.endswith(_NO_COMMENT)
    archive = content[: -_SEAL_LENGTH - len(_NO_COMMENT)] + _NO_COMMENT
    if not is_unsealed and content != _seal_archive(archive):
        raise CheckpointError(f"{path} is damaged: it is not the archive that was saved")
    return read_npz(io.BytesIO(content), path)


def _format_npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy: any name might be its option allow_pickle
    return buffer.getvalue()


def _seal_archive(archive: bytes) -> bytes:
    """Append a zip archive's sha256 to it as its comment, which readers of zip archives ignore."""
    comment = _SEAL_MARK + hash_bytes(archive).encode()
    return archive[: -len(_NO_COMMENT)] + _SEAL_LENGTH.to_bytes(2, "little") + comment


def read_npz(source: Path | io.BytesIO, path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file, which errors call `path`.

    Raises UnsafeFileError for object arrays, CheckpointError for anything but an npz file of arrays.
    """
    try:
        with _ONE_PARSE, np.load(source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise UnsafeFileError(f"{path} holds pickled objects, which can run code; save plain arrays") from None
        raise CheckpointError(f"{path} is not an npz file: {error}") from None
    except Exception as error:  # zipfile and numpy raise a family of errors for damaged archives
        raise CheckpointError(f"{path} is not a readable npz file: {type(error).__name__}: {error}") from None
    others = [value for value in arrays.values() if not isinstance(value, np.ndarray)]
    if others:
        raise CheckpointError(f"{path} is not an npz file of arrays: it holds {format_value(others[0])}")
    return arrays
