"""Files of named tensors: pairs of safetensors and JSON, and state dicts that others saved."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from advcore.errors import CheckpointError, ConfigError, UnsafeFileError, UserError, must
from advcore.files.content import read_bytes
from advcore.files.pairs import locate_json, read_pair, write_pair
from advcore.runtime.states import dump_value, is_plain

_SCHEMA = "advcore-tensors-1"
AVERAGED = "n_averaged"  # torch's AveragedModel adds this number of steps to the state of the model
_EXTRA = "_extra_state"  # torch's name of what a module's `get_extra_state` returns
_PACKED = "packed:"  # begins the name of a value that is not a plain tensor


def save_tensors(path: Path, tensors: Mapping[str, object], facts: dict) -> None:
    """Write `path` (.safetensors) and the JSON of `facts` next to it, both at once; values as `pack_values` says."""
    write_pair(path, format_tensors(pack_values(tensors)), _SCHEMA, facts)


def format_tensors(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def pack_values(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Return a state dict as plain tensors: any other value becomes the bytes that torch.save writes.

    Its name is then "packed:NAME". Raises ConfigError for a value that could not be read back without running code.
    """
    packed = {}
    for name, value in state.items():
        if is_plain(value):
            packed[name] = value
        else:
            content = dump_value(name, value)
            _refuse_code(name, value, content)
            packed[_PACKED + name] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return packed


def _refuse_code(name: str, value: object, content: bytes) -> None:
    try:
        _load_safely(content, name)
    except UserError as error:
        rule = "made of tensors, numbers, text, lists and dicts, as what runs code is not read back"
        raise ConfigError(must(f"the model's state {name}", rule, type(value).__name__)) from error


def unpack_values(state: Mapping[str, Tensor]) -> dict:
    """Return the state dict that `pack_values` was given. Raises UnsafeFileError for what would run code."""
    unpacked: dict = dict(state)
    for name in [name for name in state if name.startswith(_PACKED)]:
        content = unpacked.pop(name).numpy().tobytes()
        unpacked[name.removeprefix(_PACKED)] = _load_safely(content, name)
    return unpacked


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read tensors, on the CPU, and the facts saved with them.

    Raises CheckpointError for a missing or damaged file, and for one of another kind.
    """
    content, facts = read_pair(path, _SCHEMA)
    return unpack_values(parse_tensors(content, path)), facts


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Parse the content of the safetensors file `path`. Raises CheckpointError."""
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # torch raises its own errors for the shapes and types that a header claims
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict as `read_state` does, without the prefixes that wrappers of torch put before names."""
    return strip_wrappers(read_state(path))


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that wrappers of torch put before names."""
    stripped = {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in state.items()}
    stripped.pop(AVERAGED, None)
    return stripped


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict.

    It may be a file of `save_tensors`, which is checked against its hash, any other safetensors file, or one saved by
    torch, alone or as the only mapping of tensors among other facts. Raises CheckpointError for anything else, and
    UnsafeFileError for what would run code.
    """
    is_safetensors = path.suffix == ".safetensors"
    if is_safetensors and os.path.exists(locate_json(path)):
        return load_tensors(path)[0]
    content = read_bytes(path)
    return unpack_values(parse_tensors(content, path)) if is_safetensors else _parse_torch_file(content, path)


def _parse_torch_file(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file that torch.save wrote. Raises as `load_weights` does."""
    value = _load_safely(content, path)
    entries = value.items() if isinstance(value, dict) else ()
    states = {name: state for name, state in (("", value), *entries) if _is_state(state)}
    if len(states) > 1:
        raise CheckpointError(f"{path} holds several state dicts, {list(states)[:5]}; save only the intended one")
    if not states:
        raise CheckpointError(f"{path} is not a state dict: it must map names to tensors, and hold one such mapping")
    return next(iter(states.values()))


def _load_safely(content: bytes, name: object) -> object:
    """Return what torch.save wrote, unless reading it could run code. Raises as `load_weights` does, with this name."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a family of errors
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UnsafeFileError(
                f"{name} holds more than tensors, which can run code; save model.state_dict() alone"
            ) from None
        raise CheckpointError(f"{name} is not a state dict: {type(error).__name__}") from None


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(_is_named_tensor(*entry) for entry in value.items())


def _is_named_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and (is_plain(value) or name.split(".")[-1] == _EXTRA)
