"""Files of named tensors: pairs of safetensors and JSON, and state dicts that others saved."""

import io
import os
from pathlib import Path

import torch
from torch import Tensor

from advcore.errors import CheckpointError, UnsafeFileError
from advcore.files.content import read_bytes
from advcore.files.pairs import locate_json, read_pair, write_pair

_SCHEMA = "advcore-tensors-1"


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write `path` (.safetensors) and the JSON of `facts` beside it, both at once."""
    write_pair(path, format_tensors(tensors), _SCHEMA, facts)


def format_tensors(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read tensors, on the CPU, and the facts saved with them.

    Raises CheckpointError for a missing or damaged file, and for one of another kind.
    """
    content, facts = read_pair(path, _SCHEMA)
    return parse_tensors(content, path), facts


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Parse the content of the safetensors file `path`. Raises CheckpointError."""
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # torch raises errors of its own for the shapes and types that a header claims
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, without the prefixes that wrappers put before names.

    It may be a file of `save_tensors`, which is checked against its hash, any other safetensors file, or one saved by
    torch, alone or as the only mapping of tensors beside other facts. Raises CheckpointError for anything else, and
    UnsafeFileError for what would run code.
    """
    is_safetensors = path.suffix == ".safetensors"
    if is_safetensors and os.path.exists(locate_json(path)):
        return load_tensors(path)[0]
    content = read_bytes(path)
    state = parse_tensors(content, path) if is_safetensors else _parse_torch_file(content, path)
    return {name.removeprefix("_orig_mod.").removeprefix("module."): tensor for name, tensor in state.items()}


def _parse_torch_file(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file that torch.save wrote. Raises as `load_weights` does."""
    try:
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a family of errors
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UnsafeFileError(
                f"{path} holds more than tensors, which can run code; save model.state_dict() alone"
            ) from None
        raise CheckpointError(f"{path} is not a state dict: {type(error).__name__}") from None
    entries = value.values() if isinstance(value, dict) else ()
    states = [state for state in (value, *entries) if _is_state(state)]
    if len(states) != 1:
        raise CheckpointError(f"{path} is not a state dict: it must map names to tensors, and hold one such mapping")
    return states[0]


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(_is_named_tensor(*entry) for entry in value.items())


def _is_named_tensor(name: object, value: object) -> bool:
    """Return whether this is a name and a tensor that holds its numbers: not sparse, quantised or on "meta"."""
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and str(value.layout) == "torch.strided"
        and not (value.is_quantized or value.is_meta)
    )
