"""Pairs of a file and a sealed JSON that describes it, of which readers see both old or both new.

Two files cannot be renamed at once. The file is therefore written first, under a pending name that contains its hash,
`.NAME.new-HASH`. The pair is new as soon as its JSON is: readers look for the file of that hash under both names.
"""

import contextlib
import os
import re
from pathlib import Path

from advcore.errors import CheckpointError, name_path_in_errors
from advcore.files.content import hash_bytes, list_entries, read_bytes, write_bytes
from advcore.files.sealed import format_sealed, read_json, read_sealed

_PENDING = re.compile(r"\.(.+)\.new-[0-9a-f]{12}")
_ATTEMPTS = 3  # a writer may rename one of the two files between our reading of them


def locate_json(path: Path) -> Path:
    return path.with_suffix(".json")


def _locate_pending(path: Path, digest: str) -> Path:
    """Return the name under which a file of the hash `digest` waits until its JSON is written."""
    return path.with_name(f".{path.name}.new-{digest[:12]}")


def _find_target(entry: Path) -> str | None:
    """Return the name for which a pending file waits; None for any other file."""
    match = _PENDING.fullmatch(entry.name)
    return match[1] if match and not entry.is_symlink() else None


def try_write(path: Path) -> None:
    """Meet every refusal that writing `path`, alone or as one of a pair, would meet, and leave no file behind.

    Another file is written next to it in the same way, and removed. Raises OSError.
    """
    trial = _locate_pending(path, "0" * 64)
    with name_path_in_errors(path):
        write_bytes(trial, b"\n")
        trial.unlink(missing_ok=True)


def write_pair(path: Path, content: bytes, schema: str, facts: dict) -> None:
    """Write `path` and the JSON of `facts` next to it, so that readers see both old or both new, even if it is stopped.

    Facts that JSON cannot hold fail before either file is touched.
    """
    digest = hash_bytes(content)
    description = format_sealed({**facts, "schema": schema, "sha256": digest})
    try:
        with name_path_in_errors(path):
            write_bytes(_locate_pending(path, digest), content)
        write_bytes(locate_json(path), description)
    except BaseException:
        with contextlib.suppress(OSError):
            settle(path)
        raise
    settle(path)


def settle(path: Path) -> None:
    """Rename a pair's pending file to `path` if its JSON names it, and remove pending files that no JSON names.

    Where the JSON cannot be read, it is unknown which file it names, and nothing is changed.
    """
    with name_path_in_errors(path):
        pending = [entry for entry in list_entries(path.parent) if _find_target(entry) == path.name]
        if not pending:
            return
        try:
            described = _find_described(path)
        except CheckpointError:
            return
        for entry in pending:
            if entry == described:
                os.replace(entry, path)
            else:
                entry.unlink(missing_ok=True)


def settle_all(folder: Path) -> None:
    """Settle every pair of a folder."""
    targets = set(filter(None, map(_find_target, list_entries(folder))))
    for name in sorted(targets):
        settle(folder / name)


def _find_described(path: Path) -> Path | None:
    """Return the pending name of the file that the pair's JSON names; None without a JSON."""
    if not os.path.exists(locate_json(path)):
        return None
    facts = read_json(locate_json(path))
    digest = facts.get("sha256") if isinstance(facts, dict) else None
    return _locate_pending(path, str(digest))


def has_pair(path: Path) -> bool:
    """Return whether the file exists, or a JSON that describes one."""
    return os.path.exists(path) or os.path.exists(locate_json(path))


def read_pair(path: Path, schema: str) -> tuple[bytes, dict]:
    """Read a file and the facts next to it. Raises CheckpointError if they are missing, damaged, or do not match."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(CheckpointError):
            return _read_pair_once(path, schema)
    return _read_pair_once(path, schema)


def _read_pair_once(path: Path, schema: str) -> tuple[bytes, dict]:
    facts = read_sealed(locate_json(path), schema)
    return _read_hashed(path, facts.get("sha256")), facts


def _read_hashed(path: Path, digest: object) -> bytes:
    """Return the bytes of that hash, still pending or at `path`. Raises CheckpointError if neither holds them."""
    if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
        pending = _locate_pending(path, digest)
        if pending.is_file() and not pending.is_symlink():
            with contextlib.suppress(CheckpointError):
                content = read_bytes(pending)
                if hash_bytes(content) == digest:
                    return content
    content = read_bytes(path)
    if hash_bytes(content) != digest:
        raise CheckpointError(f"{path} is damaged: its sha256 is not the one in {locate_json(path).name}")
    return content
