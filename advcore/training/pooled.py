"""What training with a pool requires of a trainer's settings, and of the selections that choose from it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from advcore.data.checks import check_labels, count_logits
from advcore.data.contract import Source
from advcore.data.pool import Pooled, name_pool
from advcore.errors import SettingProblem, check, must, require
from advcore.minibatch.base import is_reattack
from advcore.minibatch.epoch_subset import EpochSubset

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer


def refuse_pool(trainer: "Trainer", model: nn.Module, train: Source) -> None:
    """Raise ConfigError or DataError for a pool that these settings cannot work with.

    So too for settings that only work with a pool, where there is none. Cost, where there is a pool: one forward pass
    of two images.
    """
    if not isinstance(train, Pooled):
        require(*_list_pool_only(trainer))
        return
    size = min(trainer.batch_size, len(train))
    count = train.count_from_pool(size)
    rule = f"a share that leaves each batch of {size} at least one image of the pool, and one that is real"
    over_epochs = isinstance(trainer.minibatch, EpochSubset)
    later = "pool images may first be seen in any epoch; use rest: dropped"
    drawn_anew = "a pool's images differ from epoch to epoch; use a rule that works inside batches"
    require(
        check(not over_epochs, "data.pool", "null with a rule that leaves examples out", "a pool", drawn_anew),
        check(
            not is_reattack(trainer.minibatch),
            "data.pool",
            "null with a minibatch rule of rest: remembered",
            "a pool",
            later,
        ),
        check(0 < count < size, "data.pool.share", rule, train.share, f"it takes {count} from the pool"),
    )
    if trainer.schedule.budget < 1:
        require(*_list_selection_problems(trainer))
    with name_pool():
        check_labels(train.pool.labels(), torch.arange(len(train.pool)), count_logits(model, train))


def _list_pool_only(trainer: "Trainer") -> Iterator[SettingProblem | None]:
    """Yield what a run without a pool has of a run with one."""
    is_alone = not trainer.schedule.is_beside_pool
    yield check(is_alone, "selection.schedule", "'compressed' or 'acs' without data.pool", "pool", "name a pool")
    target = getattr(trainer.selector, "target", "train")
    yield check(target != "real", "selection.target", "'train' or 'validation' without data.pool", target)


def _list_selection_problems(trainer: "Trainer") -> Iterator[SettingProblem | None]:
    """Yield what is wrong with selections from a pool."""
    selector = trainer.get_selector()
    schedule = trainer.schedule.schedule
    way_out = "an epoch has the steps of the real data, however few images of the pool are chosen"
    yield check(schedule == "pool", "selection.schedule", "'pool' with data.pool", schedule, way_out)
    is_whole = selector.partition != "per_batch"
    mixed = "a batch holds real images too; use per_class or whole"
    yield check(is_whole, "selection.partition", "one of single images with data.pool", "per_batch", mixed)
    rows_from = selector.rows_from
    caught = "training passes see only few images of a pool"
    yield check(rows_from == "attack", "selection.rows_from", "'attack' with data.pool", rows_from, caught)
    if trainer.score is not None:
        needs_file = "`advcore score --extrapolate` writes one for a pool"
        yield must("selection.solver.scores", "a file for scores over epochs with data.pool", None, needs_file)
