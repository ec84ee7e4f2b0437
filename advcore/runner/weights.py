"""The weights that a run keeps, and weights from elsewhere: written, found, and filled into a model."""

import hashlib
import logging
import os
from pathlib import Path

from torch import nn

from advcore.errors import CheckpointError, must
from advcore.files import has_pair, inside, load_tensors, load_weights, read_bytes, save_tensors
from advcore.models.base import Normalize
from advcore.runner.folder import default_folder
from advcore.runner.schema import RunConfig
from advcore.training.loop import State
from advcore.version import __version__

log = logging.getLogger(__name__)


def save_state(path: Path, name: str, state: State, entry: dict) -> None:
    """`checkpoints/NAME.safetensors`, and a JSON with the epoch it is from."""
    save_tensors(path / "checkpoints" / f"{name}.safetensors", state, {"epoch": entry["epoch"], "version": __version__})


def load_state(net: nn.Module, path: Path) -> None:
    """Fill `net` from a checkpoint: one of ours, any safetensors file, or a state dict saved by torch (.pt, .pth).
    Raises CheckpointError with the first keys that do not fit."""
    state = load_weights(path)
    if isinstance(net, nn.Sequential) and isinstance(net[0], Normalize) and state.keys() == net[1].state_dict().keys():
        log.warning("%s has no normalisation; the data's own mean and deviation stand before it", path)
        state = net[0].state_dict(prefix="0.") | {f"1.{name}": value for name, value in state.items()}
    own = net.state_dict()
    wrong = [
        f"{key} {list(own[key].shape) if key in own else 'not in the model'} / "
        f"{list(state[key].shape) if key in state else 'not in the file'}"
        for key in [*own, *(key for key in state if key not in own)]
        if key not in state or key not in own or own[key].shape != state[key].shape
    ]
    if wrong:
        some = "; ".join(wrong[:5])
        raise CheckpointError(
            f"{path} is a checkpoint of another model; {len(wrong)} keys differ (model / file): {some}"
        )
    net.load_state_dict(state)


def checkpoint(path: Path, which: str = "last", config: RunConfig | None = None) -> Path:
    """The file that `--checkpoint` means: a path, or `last` or `best` of the run folder `path`.

    config : of `path` where it is a run file, which has no checkpoints: the run that it would write by default is
        offered if it is there.
    """
    if which not in ("last", "best"):
        return Path(which)
    if config is not None and not path.is_dir():
        raise CheckpointError(_beside_a_run_file(path, which, default_folder(config)))
    found = path / "checkpoints" / f"{which}.safetensors"
    if not has_pair(found):
        raise CheckpointError(must("--checkpoint", "last, best or a file", which, f"{found} does not exist"))
    inside(found.with_suffix(".json"), path)
    return inside(found, path)


def weights_hash(path: Path) -> str:
    """The sha256 of a checkpoint, checked where a JSON beside it tells it."""
    if os.path.exists(path.with_suffix(".json")):
        return load_tensors(path)[1]["sha256"]
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _beside_a_run_file(file: Path, which: str, folder: Path) -> str:
    way_out = f"or name a run's folder in place of {file}"
    if (folder / "record.json").exists():
        way_out += f": {folder} is there"
    rule = "a file of weights where a run file is evaluated (--checkpoint FILE.safetensors)"
    return must("--checkpoint", rule, which, way_out)
