"""Nested trees of tensors and values, to send to another process or to save as a folder.

A tree is made of mappings, lists, tensors, numbers, text and None; keys are text. Its tensors are stored as
safetensors, and the rest as JSON.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import cast

from torch import Tensor

from advcore.errors import CheckpointError, name_path_in_errors
from advcore.files.content import hash_bytes, read_bytes, sync_folder, write_synced
from advcore.files.sealed import format_sealed, read_sealed
from advcore.files.tensors import format_tensors, parse_tensors

MANIFEST = "manifest.json"
SCHEMA = "advcore-state-2"
_TENSORS = "tensors.safetensors"
_VALUES = "values.json"
_TENSOR = "$tensor"


def split_tree(tree: object, numbers: dict[Tensor, int]) -> object:
    """Return the tree with {"$tensor": number} in each tensor's place, and add the tensors to `numbers`, in order.

    A tensor that occurs twice has one number. Tuples become lists.
    """
    if isinstance(tree, Tensor):
        return {_TENSOR: numbers.setdefault(tree, len(numbers))}
    if isinstance(tree, dict):
        return {key: split_tree(entry, numbers) for key, entry in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [split_tree(entry, numbers) for entry in tree]
    return tree


def join_tree(values: object, tensors: dict[str, Tensor]) -> object:
    """Return the tree that `split_tree` took apart; `tensors` by their number as text."""
    if isinstance(values, list):
        return [join_tree(entry, tensors) for entry in values]
    if not isinstance(values, dict):
        return values
    if values.keys() == {_TENSOR}:
        return tensors[str(values[_TENSOR])]
    return {key: join_tree(entry, tensors) for key, entry in values.items()}


def format_numbered(numbers: dict[Tensor, int]) -> bytes:
    """Return the bytes of a safetensors file in which each tensor's name is its number."""
    return format_tensors({str(number): tensor for tensor, number in numbers.items()})


def pack(tree: object) -> bytes:
    """Return the bytes of a tree, for another process of the same run."""
    numbers: dict[Tensor, int] = {}
    values = json.dumps(split_tree(tree, numbers)).encode()
    return len(values).to_bytes(8, "little") + values + format_numbered(numbers)


def unpack(content: bytes) -> object:
    """Return the tree that `pack` was given, with tensors on the CPU."""
    from safetensors.torch import load

    start = 8 + int.from_bytes(content[:8], "little")
    return join_tree(json.loads(content[8:start]), load(content[start:]))


def save_folder(path: Path, tree: dict, facts: dict) -> None:
    """Write a new folder `path`: the tensors of a tree, its other values, and a manifest.

    The manifest is written last; it holds `facts`, and the sha256 and size of each file. All is written next to `path`,
    synced, and renamed, so that the folder exists whole or not at all. Raises OSError, which names `path`, where the
    system refuses, as for a folder that has files already; ValueError for NaN and infinity outside of tensors.
    """
    numbers: dict[Tensor, int] = {}
    values = split_tree(tree, numbers)
    contents = {
        _TENSORS: format_numbered(numbers),
        _VALUES: json.dumps(values, allow_nan=False).encode(),  # without indentation, which is ten times as fast
    }
    files = {name: {"sha256": hash_bytes(content), "size": len(content)} for name, content in contents.items()}
    with name_path_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            for name, content in contents.items():
                write_synced(temporary / name, content)
            write_synced(temporary / MANIFEST, format_sealed({"schema": SCHEMA, "files": files, **facts}))
            sync_folder(temporary)
            os.chmod(temporary, 0o755)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(path.parent)


def load_folder(path: Path) -> tuple[dict, dict]:
    """Return the tree, with tensors on the CPU, and the facts that `save_folder` wrote, with its "schema" among them.

    Raises CheckpointError if any byte differs from what was written.
    """
    contents, facts = _read_folder(path)
    try:
        tensors = parse_tensors(contents[_TENSORS], path / _TENSORS)
        return cast(dict, join_tree(json.loads(contents[_VALUES]), tensors)), facts
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not what was saved: {type(error).__name__}: {error}") from None


def check_folder(path: Path) -> None:
    """Raise CheckpointError unless every byte of the folder is what `save_folder` wrote."""
    _read_folder(path)


def _read_folder(path: Path) -> tuple[dict[str, bytes], dict]:
    """Return the files' contents, and the facts of the manifest, checked as `load_folder` says."""
    facts = read_sealed(path / MANIFEST, SCHEMA)
    files = facts.pop("files", None)
    is_list_of_files = (
        isinstance(files, dict)
        and files.keys() == {_TENSORS, _VALUES}
        and all(isinstance(entry, dict) for entry in files.values())
    )
    if not is_list_of_files:
        raise CheckpointError(f"{path / MANIFEST} is damaged: its facts are not the ones that were saved")
    contents = {}
    for name in (_TENSORS, _VALUES):
        contents[name] = read_bytes(path / name)
        if hash_bytes(contents[name]) != files[name].get("sha256"):
            raise CheckpointError(f"{path / name} is damaged: its sha256 is not the one in {MANIFEST}")
    return contents, facts
