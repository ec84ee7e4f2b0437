"""Save all that the rest of a run depends on, and put it back: what `fit(resume=...)` continues from."""

import math
import random
from collections.abc import Callable
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from advcore import distributed
from advcore.cost import CostLedger
from advcore.errors import CheckpointError, ConfigError, UserError, describe_exception, must
from advcore.files.tensors import pack_values, unpack_values
from advcore.runtime.device import get_random_state, set_random_state
from advcore.runtime.states import load_state
from advcore.selection.result import Coreset
from advcore.training.judge import Verdict
from advcore.training.progress import Entry, Place, Snapshot

if TYPE_CHECKING:
    from advcore.training.loop import Loop


_SUMS = ("total", "norms")  # of a `Place`, of which each process has a part


def take_snapshot(loop: "Loop") -> Snapshot:
    """Return a copy, on the CPU, of all that the rest of a run depends on.

    Of several processes, all must call this; the first one's snapshot is the complete one.
    """
    learning = loop.epoch_trainer
    if learning.gate is not None:
        learning.gate.look()
    out = loop.run.out
    distributed.merge_ledgers(out.ledger)
    optimizer = learning.optimizer.state_dict()
    judge = loop.judge
    snapshot = copy_to_cpu(
        {
            "of": _identify(loop),
            "speed": loop.speed.record(loop.device),
            "place": vars(loop.place) | {name: distributed.gather_values(getattr(loop.place, name)) for name in _SUMS},
            "steps_done": learning.steps_done,
            "model": pack_values(loop.run.model.state_dict()),
            "optimizer": {
                "param_groups": [_keep_plain(group) for group in optimizer["param_groups"]],
                "state": {str(key): slots for key, slots in optimizer["state"].items()},
            },
            "average": learning.average and pack_values(learning.average.state_dict()),
            "rule": learning.stepper.state(),
            "scores": loop.scores and loop.scores.collected.state(),
            "coresets": [coreset.state() for coreset in out.coresets],
            "coreset": loop.coreset and loop.coreset.state(),
            "best": pack_values(out.best),
            "best_epoch": out.best_epoch,
            "best_score": None if judge.best_score == -math.inf else judge.best_score,
            "previous": judge.previous and [pack_values(judge.previous.state), *judge.previous[1:]],
            "epochs": out.epochs,
            "events": out.events,
            "ledger": out.ledger.summarise(),
            "random": distributed.gather_values(_get_random_states(loop.device)),
        }
    )
    rows = loop.catcher and loop.catcher.store.state()
    return snapshot | {"memory": loop.memory and loop.memory.state(), "rows": rows}  # copies already


def restore(loop: "Loop", snapshot: Snapshot) -> None:
    """Put a snapshot into a loop of the same run; the snapshot stays as it is.

    Raises ConfigError for a snapshot of another seed or other data, CheckpointError for anything but a snapshot.
    """
    try:
        _restore(loop, snapshot)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"resume must be a state of this run, got one that fails with {describe_exception(error)}"
        ) from error


def _restore(loop: "Loop", snapshot: Snapshot) -> None:
    if snapshot["of"] != _identify(loop):
        raise ConfigError(must("resume", f"a state of this run, {_identify(loop)}", snapshot["of"]))
    snapshot = copy_to_cpu(snapshot)
    learning = loop.epoch_trainer
    place = _map_tensors(methodcaller("to", loop.device), snapshot["place"])
    # A state of an older version lacks some of the sums.
    loop.place = Place(**place | {name: distributed.part_of_sum(place[name]) for name in _SUMS if name in place})
    learning.steps_done = snapshot["steps_done"]
    load_state(loop.run.model, unpack_values(snapshot["model"]))
    _restore_optimizer(learning.optimizer, snapshot["optimizer"])
    if learning.average is not None:
        load_state(learning.average, unpack_values(snapshot["average"]))
    learning.stepper.restore(snapshot["rule"])
    if loop.memory is not None:
        loop.memory.restore(snapshot["memory"])
    if loop.catcher is not None:
        loop.catcher.store.restore(snapshot["rows"])
    if loop.scores is not None:
        loop.scores.collected.restore(_map_tensors(methodcaller("to", loop.run.train.device), snapshot["scores"]))
    _restore_results(loop, snapshot)
    random_states = distributed.entry_of_process(snapshot["random"], missing=None)
    if random_states is not None:  # a process that was not there keeps its own
        _set_random_states(random_states, loop.device)


def _identify(loop: "Loop") -> Entry:
    """Return what a snapshot must agree on, for its indices and names of random numbers to mean the same."""
    return {"seed": loop.run.seed, "examples": len(loop.run.train), "labels": loop.run.train.fingerprint()}


def _restore_results(loop: "Loop", snapshot: Snapshot) -> None:
    out, judge = loop.run.out, loop.judge
    out.coresets = [Coreset.from_state(fields) for fields in snapshot["coresets"]]
    loop.coreset = snapshot["coreset"] and Coreset.from_state(snapshot["coreset"])
    out.best, out.best_epoch = unpack_values(snapshot["best"]), snapshot["best_epoch"]
    if snapshot["best_score"] is not None:
        judge.best_score = snapshot["best_score"]
    if snapshot["previous"]:
        state, *facts = snapshot["previous"]
        judge.previous = Verdict(unpack_values(state), *facts)
    out.epochs, out.events = list(snapshot["epochs"]), list(snapshot["events"])
    out.ledger.restore(snapshot["ledger"])
    if not distributed.is_first():  # the first process's ledger holds all counts
        out.ledger = CostLedger()


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: Snapshot) -> None:
    """Load an optimiser's state dict, but keep how this optimiser steps and how its tensors are laid out in memory.

    Snapshots hold no memory layout, which a fused step follows. They hold only settings that
    are plain values.
    """
    present_groups = optimizer.state_dict()["param_groups"]
    groups = [
        present | saved | {setting: present[setting] for setting in ("foreach", "fused") if setting in present}
        for saved, present in zip(state["param_groups"], present_groups, strict=True)
    ]
    slots_of = {int(key): slots for key, slots in state["state"].items()}
    optimizer.load_state_dict({"param_groups": groups, "state": slots_of})
    keys = [key for group in groups for key in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, parameter in zip(keys, parameters, strict=True):
        present = optimizer.state.get(parameter, {})
        for name, saved in slots_of.get(key, {}).items():
            if isinstance(saved, Tensor) and saved.ndim and saved.shape == parameter.shape:
                # torch has cast it to the parameter's dtype, which not every optimiser keeps its state in
                present[name] = torch.empty_like(parameter, dtype=saved.dtype).copy_(saved)


def _keep_plain(group: Entry) -> Entry:
    """Return the settings of a group of parameters that can be written down; a dtype, for one, cannot."""
    plain = (int, float, str, list, tuple, Tensor, type(None))
    return {name: value for name, value in group.items() if isinstance(value, plain)}


def copy_to_cpu(tree: Snapshot) -> Snapshot:
    """Return a tree with each tensor copied to the CPU; a tensor that occurs twice is copied once."""
    copies: dict[int, Tensor] = {}

    def copy_tensor(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().to("cpu", copy=True)
        return copies[id(tensor)]

    return _map_tensors(copy_tensor, tree)


def _map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `function` to each tensor in nested dicts and lists; tuples become lists, other values stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_map_tensors(function, value) for value in tree]
    return tree


def _get_random_states(device: torch.device) -> Snapshot:
    """Return the global random states, which layers such as dropout draw from."""
    _, words, gauss = random.getstate()
    state = np.random.get_state(legacy=False)
    keys = torch.from_numpy(state["state"]["key"].astype(np.int64))
    return {
        "torch": get_random_state(device),
        "python": [torch.tensor(words), gauss],
        "numpy": [keys, state["state"]["pos"], state["has_gauss"], state["gauss"]],
    }


def _set_random_states(states: Snapshot, device: torch.device) -> None:
    set_random_state(states["torch"], device)
    words, gauss = states["python"]
    random.setstate((random.getstate()[0], tuple(words.tolist()), gauss))
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy(), *rest))
