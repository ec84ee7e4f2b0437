"""What is wrong with settings that are right each by itself, or with the data they meet."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.attacks.memory import Memory
from advcore.data.source import Source
from advcore.errors import ConfigError, at_least, must, require
from advcore.minibatch import RULES
from advcore.minibatch.base import UpdateSubset
from advcore.types import name_in

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer


def refuse_processes(trainer: "Trainer") -> None:
    """Raise ConfigError for settings that several processes cannot work with together."""
    count = distributed.size()
    if count > 1:
        require(*_process_problems(trainer, count))


def _process_problems(trainer: "Trainer", count: int) -> Iterator[str | None]:
    if isinstance(trainer.minibatch, UpdateSubset):
        rule = f"a rule of what to attack with {count} processes"
        name = name_in(RULES, trainer.minibatch)
        yield must("minibatch", rule, name, "it learns from whole batches; use one process")
    if trainer.speed.deferred:
        rule = f"null or false with {count} processes"
        yield must("speed.deferred", rule, True, "one might step while another does not")
    least = distributed.LEAST * count
    way_out = f"{count} processes take {distributed.LEAST} or more each"
    yield at_least("training.batch_size", trainer.batch_size, least, way_out)


def remembers_ends(attack: Attack | None) -> bool:
    """Return whether an attack starts from the perturbation at which it ended in the epoch before."""
    return getattr(attack, "remembers", False)


def memory_problem(memory: Memory, attack: Attack | None) -> str | None:
    """Return why these settings of a memory are not used; None if they are, or are the defaults."""
    if memory == Memory() or remembers_ends(attack):
        return None
    return must("memory", "left out where nothing is remembered", asdict(memory), "set attack.start to remembered")


def refuse_other_images(train: Source) -> None:
    """Raise ConfigError if the data give an index another image when it is read again: none could be remembered."""
    sample = torch.arange(len(train))[:: max(1, len(train) // 16)][:16]
    _, first, _ = next(iter(train.batches([sample])))
    _, again, _ = next(iter(train.batches([sample])))
    differing = (first != again).flatten(1).any(1).nonzero()[:, 0].tolist()
    if not differing:
        return
    example = int(sample[differing[0]])
    got = f"{len(differing)} of {len(sample)} that change from one reading to the next (example {example})"
    way_out = "pass `augment` to the trainer instead of augmenting inside the data set, or use start: uniform"
    raise ConfigError(
        f"attack.start: remembered needs data that give an index the same image each time, got {got}; {way_out}"
    )
