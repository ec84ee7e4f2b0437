"""Of how many examples nothing is remembered when an epoch begins: they are attacked whatever a minibatch rule says."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer


class FirstVisits(NamedTuple):
    """most : number of an epoch's examples of which nothing is remembered, at most. are_all : surely, these are all."""

    most: int
    are_all: bool


def plan_first_visits(trainer: "Trainer", n: int) -> list[FirstVisits]:
    """Return the first visits of each epoch on n training examples, for a memory that forgets as `Perturbations` does.

    All in the first epoch and where `memory.reset` is due, none while the examples stay the same. After a new selection
    an upper bound: how much of the coreset stays depends on the data.
    """
    visits: list[FirstVisits] = []
    reset = trainer.memory.reset
    remembered = 0  # examples of the epoch before
    action_before = ""
    for i, epoch in enumerate(trainer.schedule.plan()):
        size = trainer.count_examples(epoch.action, n)
        are_all = i == 0 or reset is not None and i % reset == 0
        most = min(size, n - remembered)
        if epoch.action == "reuse" or epoch.action == action_before != "select":
            most = 0
        if are_all:
            most = size
        visits.append(FirstVisits(most, are_all))
        remembered = size
        action_before = epoch.action
    return visits
