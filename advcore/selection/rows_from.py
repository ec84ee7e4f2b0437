"""Where a selection's rows come from: an attack of all examples, or the training steps before it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advcore.attacks.base import Attack
from advcore.errors import SettingProblem, check_one_of, check_share, must, require, unless
from advcore.gradients import GRADIENTS
from advcore.gradients.catch import Catch
from advcore.objectives.base import is_attacked, needs_clean
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.solvers.base import find_scores_file

if TYPE_CHECKING:
    from advcore.selection.coreset import AdversarialCoreset
    from advcore.selection.settings import SelectionSettings

ROWS_FROM = ("attack", "training")
ORDERS = ("age", "random")
_INSTEAD = "use rows_from: attack"


@settings
class Refresh:
    """Attack some of the examples outside of the coreset after each epoch, and measure their rows again.

    Parameters
    ----------
    share : of the examples outside of the coreset, in (0, 1]; at least one example.
    by : "age", the oldest rows first, at random among those of one age; or "random".
    """

    share: float = setting(default=0.1, unit="share")
    by: str = "age"

    def __post_init__(self) -> None:
        require(check_share("share", self.share), check_one_of("by", self.by, ORDERS))

    def count_refreshed(self, outside: int) -> int:
        """Return how many of the examples outside of the coreset are remeasured after an epoch."""
        return min(outside, max(1, round(self.share * outside)))

    def choose(self, outside: Tensor, epochs: Tensor, count: int, stream: Stream) -> Tensor:
        """Return which `count` examples of `outside` (n,) are remeasured, in ascending order.

        epochs : (n,) long, in which the row of each was taken.
        """
        order = stream.at(outside).permutation()
        if self.by == "age":
            order = order[torch.argsort(epochs[order], stable=True)]
        return outside[order[:count]].sort().values


def find_catch(selector: "AdversarialCoreset") -> Catch | None:
    """Return how the selector's rows are caught in training; None where they are measured, or where none are read."""
    reads = selector.solver.reads
    if selector.rows_from != "training" or reads is None or reads not in GRADIENTS:
        return None
    return GRADIENTS[reads].catch


def find_unread_problem(selector: "AdversarialCoreset") -> SettingProblem | None:
    """Return the problem of a setting that says how rows are caught where they are measured; None if there is none."""
    if selector.rows_from == "training":
        return None
    if selector.refresh is not None:
        return must("refresh", "null with rows_from: attack", selector.refresh, "all rows are remeasured")
    if selector.rows_place != "auto":
        return must("rows_place", "auto with rows_from: attack", selector.rows_place, "use memory_limit")
    return None


def check_attack_is_used(selection: "SelectionSettings", attack: Attack | None) -> SettingProblem | None:
    """Return a problem if a selection has its own attack, and no example that it attacks."""
    is_used = selection.rows_from == "attack" or selection.refresh is not None
    rule = "null for rows_from: training without a refresh"
    return unless(attack is None or is_used, must("attack", rule, attack, "nothing is attacked"))


def find_catch_problem(selector: "AdversarialCoreset") -> SettingProblem | None:
    """Return why the rows that the selector's solver reads cannot be caught in training steps; None if they can."""
    reads = selector.solver.reads
    if selector.rows_from != "training" or reads is None:
        return None
    if find_scores_file(selector.solver):
        return must("rows_from", "attack for a solver that reads scores from a file", "training", "or leave out scores")
    catch = find_catch(selector)
    if catch is None:
        return must(
            "rows_from", f"attack for a solver that reads {reads}", "training", "training steps do not compute it"
        )
    if selector.refresh is not None and catch.read is None:
        way_out = f"{reads} scores are averaged over the epochs on all data"
        return must("refresh", "null for this solver", selector.refresh, way_out)
    if catch.at_start:
        return _find_start_problem(selector, reads)
    passes = selector.objective.passes
    if catch.reads is not None and catch.reads not in passes:
        name = type(selector.objective).__name__.lower()
        rule = f"{' or '.join(passes)} with rows_from: training and the objective {name}"
        return must("solver.points", rule, catch.reads, f"it trains on no other images; or {_INSTEAD}")
    return None


def _find_start_problem(selector: "AdversarialCoreset", reads: str) -> SettingProblem | None:
    """Return why the first step of the attack says nothing about the example; None if it does."""
    attack = selector.attack
    if not is_attacked(selector.objective) or attack is None:
        return must("rows_from", f"attack for {reads} scores without an attack", "training", "no step computes them")
    if needs_clean(selector.objective, getattr(attack, "climbs", "")):
        rule = f"attack for {reads} scores where the attack climbs a divergence"
        return must("rows_from", rule, "training", "its gradient is 0 near the clean image, where the attack starts")
    return None
