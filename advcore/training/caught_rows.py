"""Plans rows that are caught in training: which runs can catch them, their memory, and what a refresh costs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from advcore.data.source import Source
from advcore.errors import SettingProblem, must
from advcore.gradients import GRADIENTS
from advcore.gradients.catch import Catch, Shape
from advcore.gradients.last_layer import locate_head
from advcore.minibatch.base import is_reattack
from advcore.models.head import count_classes, count_features
from advcore.selection.rows_from import find_catch
from advcore.work import NO_WORK, Work

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer


def is_catching(trainer: "Trainer") -> bool:
    """Return whether a run catches rows in its training steps."""
    selector = trainer.selector
    return selector is not None and trainer.schedule.budget < 1 and find_catch(selector) is not None


def get_catch(trainer: "Trainer") -> Catch:
    """Return how the rows of a run that is catching some are caught."""
    catch = find_catch(trainer.get_selector())
    assert catch is not None, "`is_catching` says so"
    return catch


def list_catch_problems(trainer: "Trainer") -> Iterator[SettingProblem]:
    """Yield a problem for each setting of a run with which its rows cannot be caught in training."""
    if not is_catching(trainer):
        return
    schedule = trainer.schedule
    if not schedule.warm_epochs:
        way_out = (
            f"round(budget x int(warm_start x epochs)) = round({schedule.budget:g} x {schedule.first}) is 0 epochs on "
            "all data, in which rows are caught; raise warm_start"
        )
        yield must("rows_from", "attack without a warm start", "training", way_out)
    if not _shows_rows(trainer.minibatch, get_catch(trainer)):
        way_out = "its steps do not compute the row of each example; use none, or one with rest: remembered"
        yield must("rows_from", "attack with this minibatch rule", "training", way_out)
    if trainer.cutmix is not None:
        yield must(
            "rows_from", "attack with training.cutmix", "training", "rows of mixed images belong to no single example"
        )
    if trainer.speed.compiled:
        yield must(
            "rows_from",
            "attack with training.speed.compiled",
            "training",
            "features cannot be read inside a compiled model",
        )
    if trainer.probe_epochs:
        yield must(
            "probe_epochs", "0 with rows_from: training", trainer.probe_epochs, "the warm start shows all scores"
        )
    refresh = trainer.get_selector().refresh
    if refresh is not None and not any(_list_refreshing(trainer)):
        yield must("refresh", "null where no selection comes later", refresh, "set a shorter period")


def _shows_rows(rule: object, catch: Catch) -> bool:
    """Return whether training steps under a minibatch rule show the row of each example that they see."""
    if rule is None:
        return True
    return is_reattack(rule) and rule.correction == "none" and not catch.at_start


def count_refreshed(trainer: "Trainer", n: int) -> list[int]:
    """Return how many rows of n examples are remeasured after each epoch that the trainer plans.

    None are after epochs on all data, and once the last selection is made.
    """
    counts = [0] * trainer.schedule.length
    selector = trainer.selector
    if selector is None or selector.refresh is None or not is_catching(trainer):
        return counts
    refresh = selector.refresh
    outside = n - selector.count_chosen(n)
    return [is_refreshing * refresh.count_refreshed(outside) for is_refreshing in _list_refreshing(trainer)]


def _list_refreshing(trainer: "Trainer") -> list[bool]:
    """Return after which epochs rows would be remeasured: those on a subset that a selection comes after."""
    actions = [epoch.action for epoch in trainer.schedule.plan()]
    return [action != "full" and "select" in actions[i + 1 :] for i, action in enumerate(actions)]


def plan_refresh(trainer: "Trainer", n: int) -> Work:
    """Count the passes that remeasure rows of n training examples, over the whole run."""
    count = sum(count_refreshed(trainer, n))
    if not count:
        return NO_WORK
    selector = trainer.get_selector()
    return count * GRADIENTS[str(selector.solver.reads)].plan(selector.objective, selector.attack)


def count_row_bytes(trainer: "Trainer", model: nn.Module, source: Source) -> int | None:
    """Return how many bytes the rows take that a run catches; None for a run that catches none.

    Cost: one forward pass of two images where the head is looked for.
    """
    if not is_catching(trainer):
        return None
    selector = trainer.get_selector()
    classes = features = 0
    itemsize = 4
    if GRADIENTS[str(selector.solver.reads)].reads_head:
        head = locate_head(model, source, selector.head or trainer.head)
        classes, features = count_classes(head), count_features(head)
        itemsize = max(itemsize, head.weight.element_size())
    passes = len(selector.objective.passes)
    shape = Shape(passes=passes, classes=classes, features=features, itemsize=itemsize)
    return len(source) * get_catch(trainer).count_bytes(shape)
