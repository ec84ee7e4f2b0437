"""The one writer and reader: atomic, hashed, no pickle.

A file is written to a temporary name in its own folder, synced, and renamed, so it exists whole or not at all. What
carries a result has a seal, a hash of all that it holds, and reading checks it. Tensors go out as safetensors, and
arrays as npz, with a sealed JSON beside them that holds their sha256.

Two files cannot be renamed at once. A pair is therefore new as soon as its JSON is: the other file was written before
under a pending name that holds its hash, `.NAME.new-HASH`, where readers look for what the JSON speaks of until it has
its place.

Writers raise OSError, with the path that was to be written as its `filename`. Readers raise CheckpointError.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from advcore.errors import CheckpointError, UnreadableError, UnsafeFileError, cause_of, naming, shown


def inside(path: Path, folder: Path) -> Path:
    """`path`, which is below `folder` also where links are followed; `folder` itself may be a link. Raises
    UnsafeFileError where it leads out."""
    try:
        found = path.resolve()
        led_out = not found.is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UnsafeFileError(f"{path} cannot be followed: {error}") from None
    if led_out:
        raise UnsafeFileError(f"{path} must stay in its folder {folder}, got a link to {found}; copy the file there")
    return path


def write_bytes(path: Path, content: bytes, *, synced: bool = True) -> str:
    """Write `content` to `path`, whole or not at all; returns its sha256. Not `synced`: for what can be made anew;
    nobody waits for the disk, and a power cut may leave an empty file."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                digest = _synced(file, content) if synced else _written(file, content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if synced:
            _sync_folder(path.parent)
    return digest


def try_write(path: Path) -> None:
    """Meet every refusal that writing `path`, alone or as one of a pair, would meet: write another file beside it in
    the same way, and remove that. Raises OSError."""
    trial = _pending(path, "0" * 64)
    with naming(path):
        write_bytes(trial, b"\n")
        trial.unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises CheckpointError: it is missing, or the system does not let us read it, and why."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {cause_of(error)}") from None
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {cause_of(error)}") from None


def leftovers(folder: Path, name: str = "") -> list[Path]:
    """What writes that were killed left in a folder; of one file `name`, or of any."""
    unfinished = re.compile(rf"\.{re.escape(name) if name else '.+'}\.[a-z0-9_]+")  # as tempfile names them
    return [path for path in _entries(folder) if unfinished.fullmatch(path.name)]


def _entries(folder: Path) -> list[Path]:
    """All that lies in a folder; nothing behind a link."""
    return [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())


_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM)
"""What file systems say that do not sync folders, or do not open them."""


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def write_json(path: Path, value: object) -> None:
    """JSON without NaN or infinity: what cannot be read elsewhere is not written."""
    write_bytes(path, _json(value))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> object:
    """Raises CheckpointError if the file is missing or is not JSON; NaN and infinity are none."""
    return parsed_json(read_bytes(path), path)


def parsed_json(content: bytes, path: Path) -> object:
    """Parse what `path` holds. Raises CheckpointError as `read_json` does."""
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _no_number(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no JSON")


# ---- sealed JSON ----


def write_sealed(path: Path, facts: dict, schema: str) -> None:
    """Write JSON of `facts` with the name of their `schema` and, last, a seal."""
    write_bytes(path, _sealed({**facts, "schema": schema}))


def _sealed(facts: dict) -> bytes:
    read_back = json.loads(json.dumps(facts, allow_nan=False))  # without the lines, which take most of the time
    return _json({**facts, "seal": _seal(read_back)})


def _seal(facts: dict) -> str:
    """A hash of the facts as they are read back, so that damage to the JSON is noticed too."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path, schema: str, *, unsealed: str | None = None) -> dict:
    """Read what `write_sealed` wrote, without the seal. Raises CheckpointError where a byte is not what was written.

    unsealed : the schema of files from before there were seals ("" where they named none), which are taken as they are.
    """
    content = read_bytes(path)
    return check_seal(content, parsed_json(content, path), path, schema, unsealed)


def check_seal(content: bytes, facts: object, path: Path, schema: str, unsealed: str | None) -> dict:
    """Return the parsed facts of a file's content, without the seal. Raises as `read_sealed` does."""
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} does not describe {schema}")
    if "seal" not in facts and facts.get("schema", "") == unsealed:
        return facts
    if facts.get("schema") != schema:
        raise CheckpointError(f"{path} does not describe {schema}")
    seal = facts.pop("seal", None)
    if seal != _seal(facts) or content != _json({**facts, "seal": seal}):  # 1E-5 is 1e-5, and not what was written
        raise CheckpointError(f"{path} is damaged: its facts are not the ones that were saved")
    return facts


# ---- pairs: a file, and a sealed JSON that describes it ----


def _described(path: Path) -> Path:
    return path.with_suffix(".json")


_PENDING = re.compile(r"\.(.+)\.new-[0-9a-f]{12}")


def _pending(path: Path, digest: str) -> Path:
    """The name under which a pair's file waits until its JSON is there."""
    return path.with_name(f".{path.name}.new-{digest[:12]}")


def _write_described(path: Path, content: bytes, schema: str, facts: dict) -> None:
    """Write `path` and the JSON beside it: readers see both of before or both of now, whenever this is stopped.

    What cannot be serialised fails before either is touched.
    """
    digest = hashlib.sha256(content).hexdigest()
    described = _sealed({**facts, "schema": schema, "sha256": digest})
    try:
        with naming(path):
            write_bytes(_pending(path, digest), content)
        write_bytes(_described(path), described)
    except BaseException:
        with contextlib.suppress(OSError):
            settle(path)
        raise
    settle(path)


def settle(path: Path) -> None:
    """Give a pair's file its place if its JSON speaks of it already, and remove what came to no JSON.

    Where the JSON cannot be read, all is left as it is: which file it speaks of is not known.
    """
    with naming(path):
        pending = [entry for entry in _entries(path.parent) if _name_pending(entry) == path.name]
        try:
            committed = _committed(path) if pending else None
        except CheckpointError:
            return
        for entry in pending:
            if entry == committed:
                os.replace(entry, path)
            else:
                entry.unlink(missing_ok=True)


def _committed(path: Path) -> Path | None:
    """Where the file waits, or waited, that the JSON speaks of; None without a JSON."""
    if not os.path.exists(_described(path)):
        return None
    facts = read_json(_described(path))
    digest = facts.get("sha256") if isinstance(facts, dict) else None
    return _pending(path, str(digest))


def settle_all(folder: Path) -> None:
    """`settle` every pair of a folder."""
    names = {_name_pending(entry) for entry in _entries(folder)}
    for name in sorted(name for name in names if name):
        settle(folder / name)


def _name_pending(entry: Path) -> str | None:
    """The name that a pending file waits for; None for any other file."""
    match = _PENDING.fullmatch(entry.name)
    return match[1] if match and not entry.is_symlink() else None


def has_pair(path: Path) -> bool:
    """Whether there is a file, or a JSON that speaks of one."""
    return os.path.exists(path) or os.path.exists(_described(path))


_READS = 3  # a writer may rename one of the two files between our looks at them


def _read_described(path: Path, schema: str) -> tuple[bytes, dict]:
    """The file's bytes and the facts beside it, checked against the hash they name."""
    for _ in range(_READS - 1):
        with contextlib.suppress(CheckpointError):
            return _read_once(path, schema)
    return _read_once(path, schema)


def _read_once(path: Path, schema: str) -> tuple[bytes, dict]:
    facts = read_sealed(_described(path), schema)
    return _content(path, facts.get("sha256")), facts


def _content(path: Path, digest: object) -> bytes:
    """The bytes of that hash, at `path` or still pending. Raises CheckpointError where neither holds them."""
    try:
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() == digest:
            return content
        problem = CheckpointError(f"{path} is damaged: its sha256 is not the one in {_described(path).name}")
    except CheckpointError as error:
        problem = error
    if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
        pending = _pending(path, digest)
        if pending.is_file() and not pending.is_symlink():
            content = read_bytes(pending)
            if hashlib.sha256(content).hexdigest() == digest:
                return content
    raise problem


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write `path` (.safetensors) and the JSON of `facts` beside it, both at once."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    _write_described(path, content, "advcore-tensors-1", facts)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors on the CPU and the facts saved with them. Raises CheckpointError for a missing, damaged or other file."""
    content, facts = _read_described(path, "advcore-tensors-1")
    return _parsed(content, path), facts


def _parsed(content: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # what torch raises for shapes and types that a header claims, too
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict: one of ours (checked against its hash), any safetensors file, or one saved by torch, alone or as
    the only mapping of tensors beside other facts; without the prefixes that wrappers put before names.

    Raises CheckpointError for what is none, UnsafeFileError for what would run code.
    """
    if path.suffix == ".safetensors" and os.path.exists(_described(path)):
        return load_tensors(path)[0]
    content = read_bytes(path)
    if path.suffix == ".safetensors":
        return _unwrapped(_parsed(content, path))
    try:
        import torch

        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a family of errors
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UnsafeFileError(
                f"{path} holds more than tensors, which can run code; save model.state_dict() alone"
            ) from None
        raise CheckpointError(f"{path} is not a state dict: {type(error).__name__}") from None
    if not _is_state(state) and isinstance(state, dict):
        inside = [value for value in state.values() if _is_state(value)]
        state = inside[0] if len(inside) == 1 else state
    if not _is_state(state):
        raise CheckpointError(f"{path} is not a state dict: it must map names to tensors, and hold one such mapping")
    return _unwrapped(state)


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(_is_plain(*entry) for entry in value.items())


def _is_plain(name: object, value: object) -> bool:
    """Whether this is a named tensor that holds its numbers itself: not sparse, quantised or of no device."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return str(value.layout) == "torch.strided" and not value.is_quantized and not value.is_meta


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of DataParallel, DDP and torch.compile."""
    return {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in state.items()}


def save_folder(path: Path, tree: dict, facts: dict) -> None:
    """`path`, a new folder: the tensors of a nested `tree`, its other values, and, last, a manifest with the sha256 and
    size of each file and `facts`. All is written beside `path`, synced, and renamed: it exists whole or not at all.

    Leaves are tensors, numbers, text, None and lists of these; keys are text.
    """
    from safetensors.torch import save

    tensors: list[Tensor] = []
    values = split(tree, tensors)
    contents = {
        "tensors.safetensors": save({str(i): t.detach().cpu().contiguous() for i, t in enumerate(tensors)}),
        "values.json": json.dumps(values, allow_nan=False).encode(),  # in one line, which is ten times as fast
    }
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            files = {}
            for name, content in contents.items():
                files[name] = {"sha256": _write_synced(temporary / name, content), "size": len(content)}
            _write_synced(temporary / MANIFEST, _sealed({"schema": _FOLDER, "files": files, **facts}))
            _sync_folder(temporary)
            os.chmod(temporary, 0o755)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def pack(tree: object) -> bytes:
    """A nested tree, as `save_folder` takes it, for another process of the same run."""
    from safetensors.torch import save

    tensors: list[Tensor] = []
    values = json.dumps(split(tree, tensors)).encode()
    content = save({str(i): t.detach().cpu().contiguous() for i, t in enumerate(tensors)})
    return len(values).to_bytes(8, "little") + values + content


def unpack(content: bytes) -> object:
    """The tree that `pack` was given, tensors on the CPU."""
    from safetensors.torch import load

    start = 8 + int.from_bytes(content[:8], "little")
    return join(json.loads(content[8:start]), load(content[start:]))


def load_folder(path: Path) -> tuple[dict, dict]:
    """The tree, tensors on the CPU, and the facts of what `save_folder` wrote. Raises CheckpointError where a byte is
    not what was written."""
    contents, facts = _whole(path)
    try:
        tensors = _parsed(contents["tensors.safetensors"], path / "tensors.safetensors")
        return join(json.loads(contents["values.json"]), tensors), facts
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not what was saved: {type(error).__name__}: {error}") from None


def check_folder(path: Path) -> None:
    """Raise CheckpointError unless every byte of the folder is what `save_folder` wrote."""
    _whole(path)


def _whole(path: Path) -> tuple[dict[str, bytes], dict]:
    """The files' contents, and the facts of the manifest, all checked against their hashes."""
    facts = read_sealed(path / MANIFEST, _FOLDER)
    files = facts.get("files")
    known = isinstance(files, dict) and files.keys() == set(_FILES)
    if not known or not all(isinstance(one, dict) for one in files.values()):
        raise CheckpointError(f"{path / MANIFEST} is damaged: its facts are not the ones that were saved")
    contents = {}
    for name in _FILES:
        contents[name] = read_bytes(path / name)
        if hashlib.sha256(contents[name]).hexdigest() != files[name].get("sha256"):
            raise CheckpointError(f"{path / name} is damaged: its sha256 is not the one in {MANIFEST}")
    del facts["files"]
    return contents, facts


_FILES = ("tensors.safetensors", "values.json")
MANIFEST = "manifest.json"
_FOLDER = "advcore-state-2"
_TENSOR = "$tensor"


def split(value: object, tensors: list[Tensor], numbers: dict[int, int] | None = None) -> object:
    """The tree with {"$tensor": number} in the tensors' places, and these into `tensors`; one that stands twice goes
    once. numbers : of the tensors that are there already, by id."""
    numbers = {} if numbers is None else numbers
    if isinstance(value, Tensor):
        if id(value) not in numbers:
            numbers[id(value)] = len(tensors)
            tensors.append(value)
        return {_TENSOR: numbers[id(value)]}
    if isinstance(value, dict):
        return {key: split(entry, tensors, numbers) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [split(entry, tensors, numbers) for entry in value]
    return value


def join(value: object, tensors: dict[str, Tensor]) -> object:
    """The tree that `split` took apart."""
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[str(value[_TENSOR])]
        return {key: join(entry, tensors) for key, entry in value.items()}
    return [join(entry, tensors) for entry in value] if isinstance(value, list) else value


def _write_synced(path: Path, content: bytes) -> str:
    with open(path, "wb") as file:
        return _synced(file, content)


def _synced(file: BinaryIO, content: bytes) -> str:
    """Write, and wait until it is on the disk; the content's sha256."""
    digest = _written(file, content)
    file.flush()
    os.fsync(file.fileno())
    return digest


def _written(file: BinaryIO, content: bytes) -> str:
    file.write(content)
    return hashlib.sha256(content).hexdigest()


def save_arrays(path: Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Write `path` (.npz) and the JSON of `facts` beside it, both at once."""
    _write_described(path, _npz(arrays), "advcore-arrays-1", facts)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `path` (.npz) alone, whole or not at all, with a seal in it."""
    write_bytes(path, _with_comment(_npz(arrays)))


_MARK = b"advcore sha256 "
_COMMENT = len(_MARK) + 64
_END = 22  # bytes of a zip archive's end without a comment; the last two say how long the comment is


def _with_comment(archive: bytes) -> bytes:
    """A zip archive with its own sha256 as its comment, which those who read zip archives pass over."""
    comment = _MARK + hashlib.sha256(archive).hexdigest().encode()
    return archive[:-2] + _COMMENT.to_bytes(2, "little") + comment


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_npz` wrote. Raises CheckpointError where a byte is not what was written, UnsafeFileError for
    object arrays. Archives without a seal, from before there were any, are taken as they are."""
    content = read_bytes(path)
    unsealed = content[-_END:].startswith(b"PK\5\6") and content.endswith(b"\0\0")
    archive = content[: -_COMMENT - 2] + b"\0\0"
    if not unsealed and content != _with_comment(archive):
        raise CheckpointError(f"{path} is damaged: it is not the archive that was saved")
    return read_npz(io.BytesIO(content), path)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and the facts saved with them; object arrays, which would unpickle, are refused."""
    content, facts = _read_described(path, "advcore-arrays-1")
    return read_npz(io.BytesIO(content), path), facts


def read_npz(source: Path | io.BytesIO, path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz. Raises UnsafeFileError for object arrays, CheckpointError for what is no npz."""
    try:
        with np.load(source, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise UnsafeFileError(f"{path} holds pickled objects, which can run code; save plain arrays") from None
        raise CheckpointError(f"{path} is not an npz file: {error}") from None
    except Exception as error:  # zipfile and numpy raise a family of errors for damaged archives
        raise CheckpointError(f"{path} is not a readable npz file: {type(error).__name__}: {error}") from None
    others = [name for name, value in found.items() if not isinstance(value, np.ndarray)]
    if others:
        raise CheckpointError(f"{path} is not an npz file of arrays: it holds {shown(others[0])}")
    return found
