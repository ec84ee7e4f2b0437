"""Write the weights of a run, find them again, and load them, or weights from elsewhere, into a model."""

import hashlib
import logging
import os
from pathlib import Path

from torch import nn

from advcore.config.schema import RunConfig
from advcore.errors import CheckpointError, SettingProblem, must
from advcore.files import check_inside, has_pair, load_tensors, load_weights, read_bytes, save_tensors
from advcore.models.base import Normalize
from advcore.run.folder import default_folder
from advcore.training.loop import State
from advcore.version import __version__

log = logging.getLogger(__name__)


def save_state(path: Path, name: str, state: State, entry: dict) -> None:
    """Write `checkpoints/NAME.safetensors`, and a JSON with the epoch of `entry`, in the run's folder `path`."""
    save_tensors(path / "checkpoints" / f"{name}.safetensors", state, {"epoch": entry["epoch"], "version": __version__})


def load_state(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`: one of ours, any safetensors file, or a state dict saved by torch (.pt, .pth).

    Weights without normalisation are put behind that of `model`. Raises CheckpointError with the first five keys that
    do not fit.
    """
    state = load_weights(path)
    if (
        isinstance(model, nn.Sequential)
        and isinstance(model[0], Normalize)
        and state.keys() == model[1].state_dict().keys()
    ):
        log.warning("%s has no normalisation; the data's own mean and deviation stand before it", path)
        state = model[0].state_dict(prefix="0.") | {f"1.{name}": value for name, value in state.items()}
    _check_shapes(model.state_dict(), state, path)
    model.load_state_dict(state)


def _check_shapes(expected: State, state: State, path: Path) -> None:
    shapes, shapes_in_file = ({key: list(value.shape) for key, value in part.items()} for part in (expected, state))
    wrong = [
        f"{key} {shapes.get(key, 'not in the model')} / {shapes_in_file.get(key, 'not in the file')}"
        for key in shapes | shapes_in_file
        if shapes.get(key) != shapes_in_file.get(key)
    ]
    if wrong:
        some = "; ".join(wrong[:5])
        raise CheckpointError(
            f"{path} is a checkpoint of another model; {len(wrong)} keys differ (model / file): {some}"
        )


def find_checkpoint(path: Path, which: str = "last", config: RunConfig | None = None) -> Path:
    """Return the file that `--checkpoint` means: a path, or `last` or `best` of the run folder `path`.

    config : the config of `path`, where that may be a run file. A run file has no checkpoints; the error suggests the
        folder that its run is written to by default, if that is there.

    Raises CheckpointError where there is no such file, UnsafeFileError for a link that leads out of the folder.
    """
    if which not in ("last", "best"):
        return Path(which)
    if config is not None and not path.is_dir():
        raise CheckpointError(_no_checkpoint_message(path, which, default_folder(config)))
    file = path / "checkpoints" / f"{which}.safetensors"
    if not has_pair(file):
        raise CheckpointError(must("--checkpoint", "last, best or a file", which, f"{file} does not exist"))
    check_inside(file.with_suffix(".json"), path)
    return check_inside(file, path)


def weights_hash(path: Path) -> str:
    """Return the sha256 of a checkpoint, which is checked where a JSON beside the file holds it."""
    if os.path.exists(path.with_suffix(".json")):
        return load_tensors(path)[1]["sha256"]
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _no_checkpoint_message(file: Path, which: str, folder: Path) -> SettingProblem:
    hint = f": {folder} is there" if (folder / "record.json").exists() else ""
    rule = "a file of weights where a run file is evaluated (--checkpoint FILE.safetensors)"
    return must("--checkpoint", rule, which, f"or name a run's folder in place of {file}{hint}")
