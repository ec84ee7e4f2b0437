"""Write the weights of a run, find them again, and load them, or weights from elsewhere, into a model."""

import hashlib
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from advcore.config.schema import RunConfig
from advcore.data.checks import list_first
from advcore.errors import CheckpointError, must
from advcore.files import check_inside, has_pair, load_tensors, read_bytes, save_tensors
from advcore.files.tensors import AVERAGED, read_state, strip_wrappers
from advcore.models.base import LIBRARIES, ModelSettings, Normalize
from advcore.reporting import costs
from advcore.reporting.record import RunRecord
from advcore.run.folder import choose_default_folder
from advcore.runtime.states import load_state as load_values
from advcore.training.loop import State
from advcore.version import __version__

log = logging.getLogger(__name__)

_COUNT = "num_batches_tracked"
_BARE = "%s has no normalisation; the one from the settings is put in front of it"
# What torch.compile, FSDP and activation checkpointing add to the names of what they wrap.
_WRAPPERS = r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."


def save_state(path: Path, name: str, state: State, entry: dict) -> None:
    """Write `checkpoints/NAME.safetensors` in the run's folder `path`, and a JSON next to it.

    The JSON holds the epoch of `entry`, which is the epoch's entry in the record, and advcore's version.
    """
    save_tensors(path / "checkpoints" / f"{name}.safetensors", state, {"epoch": entry["epoch"], "version": __version__})


def load_initial_weights(
    model: nn.Module, path: Path, head: nn.Module, settings: ModelSettings, shape: tuple[int, int, int]
) -> list[str]:
    """Load trained weights to begin training with; with `new_head`, those of the file's own head are left out.

    Where they do not fit as they are, they are loaded as the network's library fits them to images (C, H, W).
    head : the model's linear head. Returns what was reshaped, each as "name [old shape] -> [new shape]". Raises as
    `load_state`, with the way out where the heads alone differ.
    """
    (name,) = (name for name, module in model.named_modules() if module is head)
    of_head = {f"{name}.{key}" for key in head.state_dict()}
    left_out = of_head if settings.new_head else set()
    saved = read_state(path)
    given = [(name, value.clone()) for name, value in model.state_dict().items() if name in ("0.mean", "0.std")]
    reshaped = []
    try:
        try:
            is_bare = put_state(model, saved, path, left_out=left_out)
        except OtherModelError:
            fitted = settings.fit_weights(strip_wrappers(saved), shape)
            if fitted is None:
                raise
            is_bare = put_state(model, fitted, path, left_out=left_out)
            reshaped = _list_reshaped(strip_wrappers(saved), fitted)
    except OtherModelError as error:
        if error.names <= of_head:
            raise CheckpointError(f"{error}; model.new_head: true starts from a random head") from None
        raise
    if is_bare and settings.weights not in LIBRARIES:  # whose normalisation is known, and in the model
        log.warning(_BARE, path)
    state = model.state_dict()
    if settings.mean is not None and not all(torch.equal(state[name], value) for name, value in given):
        log.warning("%s has its own normalisation, which replaces model.mean and model.std", path)
    return reshaped


def _list_reshaped(saved: State, fitted: State) -> list[str]:
    """Write name and shapes of each tensor that was fitted to another shape."""
    reshaped = []
    for name in saved.keys() & fitted.keys():
        old = _find_shape(saved[name])
        new = _find_shape(fitted[name])
        if old != new:
            reshaped.append(f"{name} {old} -> {new}")
    return sorted(reshaped)


class OtherModelError(CheckpointError):
    """Weights of another model; `names` are those of the model's, or the file's, that differ."""

    names: frozenset[str] = frozenset()


def load_state(model: nn.Module, path: Path, *, left_out: Collection[str] = ()) -> None:
    """Load a checkpoint into `model`: advcore's own, any safetensors file, or a state dict saved by torch (.pt, .pth).

    Names may have a prefix, such as "module.", or "model." in a checkpoint of Lightning; what is stored outside that
    prefix is left out, with a warning in the log. Weights without normalisation are put behind that of `model`, with
    another. left_out : names in the model that keep their values, whatever the file holds for them.
    Raises CheckpointError for a missing or damaged file, for one that holds the weights twice, and with the first five
    keys that do not fit (OtherModelError); UnsafeFileError for what would run code.
    """
    if put_state(model, read_state(path), path, left_out=left_out):
        log.warning(_BARE, path)


def put_state(model: nn.Module, saved: State, path: Path, *, left_out: Collection[str] = ()) -> bool:
    """Load what was read from the file `path` into `model`, as `load_state` says.

    Returns whether the model's normalisation stays as it was, since the file has none. BatchNorm's counts of batches
    keep their values where the file has none, as torch did not save them before 2018.
    """
    expected = model.state_dict()
    if not any(name.endswith(_COUNT) for name in saved):
        left_out = {*left_out, *(name for name in expected if name.endswith(_COUNT))}
    present = {name: expected.pop(name) for name in left_out}
    state = _unwrap_names(saved, expected, path)
    is_bare = False
    if state is None and isinstance(model, nn.Sequential) and isinstance(model[0], Normalize):
        inner = {name.removeprefix("1."): value for name, value in expected.items() if name.startswith("1.")}
        state = _unwrap_names(saved, inner, path)
        if state is None and not any(name.endswith("0.mean") for name in saved):
            state = strip_wrappers(saved)  # which is then refused by the names that differ in the network itself
        if state is not None:
            is_bare = True
            state = model[0].state_dict(prefix="0.") | {f"1.{name}": value for name, value in state.items()}
    if state is None:
        state = strip_wrappers(saved)
    state = {name: value for name, value in state.items() if name not in present}
    _refuse_other_keys(expected, state, path)
    load_values(model, state | present)
    return is_bare


def _unwrap_names(saved: State, expected: State, path: Path) -> State | None:
    """Return what is saved under the expected names, all of which have the same prefix; None unless all exist.

    Without a prefix, all else that is saved is returned too, so that it is refused as not of the model. What
    `_WRAPPERS` names is left out. Raises CheckpointError where the names occur under several prefixes.
    """
    names = {_leave_out_wrappers(name): name for name in expected}
    values = {_leave_out_wrappers(name): value for name, value in saved.items() if name != AVERAGED}
    longest = max(names, key=len, default="")
    prefixes = [name.removesuffix(longest) for name in values if f".{name}".endswith(f".{longest}")]
    prefixes = [prefix for prefix in prefixes if all(prefix + name in values for name in names)]
    if len(prefixes) > 1:
        got = " and ".join(repr(prefix) for prefix in prefixes)
        raise CheckpointError(f"{path} holds the weights under {got}; save the state dict of only one of the models")
    if not prefixes:
        return None
    (prefix,) = prefixes
    if not prefix:
        return {names.get(name, name): value for name, value in values.items()}
    others = [name for name in values if name.removeprefix(prefix) not in names]
    if others:
        log.warning("%s: left out entries outside the model under %s: %s", path, prefix, list_first(others, 5))
    return {names[name]: values[prefix + name] for name in names}


def _leave_out_wrappers(name: str) -> str:
    return re.sub(_WRAPPERS, "", name)


def _refuse_other_keys(expected: State, state: State, path: Path) -> None:
    """Raise OtherModelError unless the state in the file `path` has the expected keys, and shapes."""
    shapes, shapes_in_file = ({key: _find_shape(value) for key, value in part.items()} for part in (expected, state))
    wrong = [key for key in shapes | shapes_in_file if shapes.get(key) != shapes_in_file.get(key)]
    if wrong:
        differences = [
            f"{key} {shapes.get(key, 'not in the model')} / {shapes_in_file.get(key, 'not in the file')}"
            for key in wrong[:5]
        ]
        counts = f"{len(wrong)} keys differ (model / file)"
        error = OtherModelError(f"{path} is a checkpoint of another model; {counts}: {'; '.join(differences)}")
        error.names = frozenset(wrong)
        raise error


def _find_shape(value: object) -> list[int]:
    """Return the shape of a tensor; none of what has none, such as extra state."""
    if isinstance(value, Tensor) and not value.is_nested:
        return list(value.shape)
    return []


def find_checkpoint(path: Path, which: str = "last", config: RunConfig | None = None) -> Path:
    """Return the file that `--checkpoint` means: `last` or `best` of the run folder `path`, or the path `which`.

    config : the settings in `path`, where that may be a run file. A run file has no checkpoints; the error suggests the
        folder that its run is written to by default, if that exists.

    Raises CheckpointError where the run has no such file, UnsafeFileError for a link that leads out of the folder. Of a
    path `which`, nothing is checked.
    """
    if which not in ("last", "best"):
        return Path(which)
    if config is not None and not path.is_dir():
        folder = choose_default_folder(config)
        hint = f": {folder} exists" if (folder / "record.json").exists() else ""
        rule = "a file of weights where a run file is evaluated (--checkpoint FILE.safetensors)"
        raise CheckpointError(must("--checkpoint", rule, which, f"or name a run's folder in place of {path}{hint}"))
    file = path / "checkpoints" / f"{which}.safetensors"
    if not has_pair(file):
        raise CheckpointError(must("--checkpoint", "last, best or a file", which, f"{file} does not exist"))
    check_inside(file.with_suffix(".json"), path)
    return check_inside(file, path)


def find_pretraining(path: Path) -> dict[str, dict[str, int]]:
    """Return {name: {passes, flops}} of the run that wrote the weights `path`, by its record; {} of other weights.

    What its own weights cost is included. flops is left out where some operations were not counted.
    """
    record_path = path.parent.parent / "record.json"
    if path.parent.name != "checkpoints" or not record_path.exists():
        return {}
    record = RunRecord.load(record_path)
    earlier = record.pretraining or {"passes": 0, "flops": 0}
    spent = {"passes": round(costs.count_passes(record)) + earlier.get("passes", 0)}
    flops = costs.count_flops(record)
    if flops is not None and "flops" in earlier:
        spent["flops"] = flops + earlier["flops"]
    return {record.name: spent}


def compute_weights_hash(path: Path) -> str:
    """Return the sha256 of a checkpoint's file.

    Raises CheckpointError for a missing file, and where the JSON next to it is damaged or holds another sha256.
    """
    if os.path.exists(path.with_suffix(".json")):
        return load_tensors(path)[1]["sha256"]
    return hashlib.sha256(read_bytes(path)).hexdigest()
