"""Chooses the recipe with the best evidence for a run file and a cost, and fits it to that cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from advcore.attacks import ATTACKS
from advcore.config.load import from_dict, list_changes, resolve, set_values
from advcore.config.schema import RunConfig
from advcore.errors import UserError, check, format_count, require
from advcore.evidence.match import Conditions, find_study, list_differences, read_conditions
from advcore.evidence.studies import Recipe, Study
from advcore.suite.equal_cost import plan_cost, set_epochs
from advcore.suite.extents import Extents
from advcore.training.budget import find_largest, format_limit
from advcore.types import Facts

# A recipe is run for at most this factor more epochs than measured, and at most this factor fewer.
MOST_STRETCH = 1.5
# Settings of training that belong to the attack which a recipe replaces.
_OF_ATTACK = ("attack_steps", "regularizer")


@dataclass(frozen=True)
class Exclusion:
    """A recipe that the run file's other settings exclude. method : its name. reason : why, one line."""

    method: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A recipe for a run file.

    settings : the new run file's, as plain values. cost : its relative cost by its plan, in the file's unit.
    wanted : the cost that was asked for. stretch : its epochs, or its budget, over those measured.
    differences : what the evidence did not have; empty where all is as it was measured.
    excluded : recipes that the run file's other settings exclude.
    """

    study: Study
    recipe: Recipe
    settings: Facts
    cost: float
    wanted: float
    stretch: float
    differences: tuple[str, ...]
    excluded: tuple[Exclusion, ...] = ()

    @property
    def trains_on_all(self) -> bool:
        """Return whether the recipe trains on all data, without a coreset."""
        return not self.recipe.settings.get("selection")

    @property
    def epochs(self) -> tuple[int, int]:
        """Return the epochs of the new run, and of full training."""
        return self.settings["training"]["epochs"], self.settings["cost"]["reference_epochs"]


@dataclass(frozen=True)
class _Candidate:
    """A recipe with the run file that it becomes, and what that costs with as many epochs as were measured.

    changes : of the settings of full training, by path.
    """

    recipe: Recipe
    changes: Facts
    config: RunConfig
    cost: float


def recommend(values: Facts, wanted: float, studies: Sequence[Study]) -> Recommendation:
    """Return the best known recipe for a run file at the relative cost `wanted`, below 1.

    values : of the run file, as plain values. It describes full training: its selection and minibatch rule, if any,
    are left out. Each recipe of the nearest study (`find_study`) is planned on the run file, with the file's reference,
    so that like is compared with like; the one nearest to the cost is then fitted to it, by epochs, or by its budget
    where it selects by cost.
    Raises ConfigError, one line, for a cost, data or a threat model without evidence.
    Cost: plans; no training.
    """
    check_cost(wanted)
    full = _make_full(values)
    conditions = read_conditions(from_dict(full))
    study = find_study(conditions, studies)
    extents = Extents()
    tried = [_try_recipe(recipe, full, study, conditions, extents) for recipe in study.recipes]
    excluded = [entry for entry in tried if isinstance(entry, Exclusion)]
    candidates = [entry for entry in tried if isinstance(entry, _Candidate)]
    chosen = _choose(candidates, wanted, study, excluded)
    config = _fit(chosen, wanted, extents)
    name = f"{config.name[:80]}-cost-{wanted:g}"
    config = replace(config, name=name)
    return Recommendation(
        study=study,
        recipe=chosen.recipe,
        settings=_write_settings(full, chosen, config),
        cost=plan_cost(config, extents),
        wanted=wanted,
        stretch=config.training.epochs / chosen.config.training.epochs,
        differences=tuple(list_differences(study, conditions)),
        excluded=tuple(excluded),
    )


def check_cost(wanted: float) -> None:
    """Raise ConfigError unless a wanted cost is above 0 and below 1."""
    way_out = "it is relative to full training, which costs 1: advcore run FILE"
    require(check(0 < wanted < 1, "--cost", "a number above 0 and below 1", wanted, way_out))


def _make_full(values: Facts) -> Facts:
    """Return the settings of full training, with its epochs and steps pinned as what costs are relative to."""
    config = from_dict(values)
    epochs = config.cost.reference_epochs or config.training.epochs
    pinned = {"selection": None, "minibatch": None, "training.epochs": epochs, "cost.reference_epochs": epochs}
    return set_values(values, pinned | {"cost.reference_steps": config.cost.reference_steps})


def _try_recipe(
    recipe: Recipe, full: Facts, study: Study, conditions: Conditions, extents: Extents
) -> _Candidate | Exclusion:
    """Return a recipe on a run file, or why the file's other settings exclude it."""
    epochs = max(1, round(recipe.epochs * conditions.epochs))
    changes: dict = _list_changes(recipe, conditions.eps / study.eps, conditions.epochs / study.epochs)
    if "attack" in changes:
        outdated = [name for name in _OF_ATTACK if full["training"].get(name) is not None]
        changes = {f"training.{name}": None for name in outdated} | changes
        if full["training"].get("memory") and not _remembers(changes["attack"]):
            changes = {"training.memory": {}} | changes
    try:
        config = set_epochs(from_dict(set_values(full, changes)), epochs)
        return _Candidate(recipe, changes, config, plan_cost(config, extents))
    except UserError as error:
        return Exclusion(recipe.method, str(error).partition("\n")[0])


def _remembers(attack: Mapping) -> bool:
    """Return whether an attack starts from the perturbation of an earlier epoch."""
    kind = ATTACKS[attack["name"]]
    return attack.get("start") == "remembered" or getattr(kind, "remembers", False) is True


def _list_changes(recipe: Recipe, of_eps: float, of_epochs: float) -> Facts:
    """Return the settings that a recipe changes, by path.

    of_eps, of_epochs : the run's radius and epochs of full training over the study's. Radii and steps, and periods of
    selections, are scaled by these.
    """
    changes: Facts = {}
    settings = recipe.settings
    if "attack" in settings:
        changes["attack"] = _scale_attack(settings["attack"], of_eps)
    if settings.get("selection"):
        selection = dict(settings["selection"])
        if selection.get("period"):
            selection["period"] = max(1, round(selection["period"] * of_epochs))
        if selection.get("attack"):
            selection["attack"] = _scale_attack(selection["attack"], of_eps)
        changes["selection"] = selection
    if settings.get("minibatch"):
        changes["minibatch"] = settings["minibatch"]
    return changes | {f"training.{name}": value for name, value in settings.get("training", {}).items()}


def _scale_attack(attack: Facts, ratio: float) -> Facts:
    lengths = {name: attack[name] * ratio for name in ("eps", "step_size") if attack.get(name) is not None}
    return attack | lengths


def _choose(candidates: Sequence[_Candidate], wanted: float, study: Study, excluded: Sequence[Exclusion]) -> _Candidate:
    """Return the candidate whose planned cost is nearest to the wanted one, as a ratio, of those on their front.

    One that costs more, by a factor of `MOST_STRETCH` at most, is run for fewer epochs: the next cheaper one may be far
    less robust. Raises ConfigError where all cost more than that.
    """
    reason = excluded[0].reason if excluded else None
    rule = f"a run file to which a recipe of {study.suite} can be applied"
    require(check(candidates, "FILE", rule, f"settings that exclude all of them ({reason})", "remove that setting"))
    front = [entry for entry in candidates if not any(_is_behind(entry, other) for other in candidates)]
    least = min(entry.cost for entry in front) / MOST_STRETCH
    way_out = f"no cheaper recipe has evidence ({study.suite}); advcore check FILE --cost X lists settings, untested"
    require(check(wanted >= least, "--cost", f"at least {format_limit(least)}", wanted, way_out))
    able = [entry for entry in front if entry.cost <= MOST_STRETCH * wanted]
    return min(able, key=lambda entry: abs(math.log(entry.cost / wanted)))


def _is_behind(entry: _Candidate, other: _Candidate) -> bool:
    """Return whether a candidate is less robust than another one that costs no more."""
    return entry.recipe.robust < other.recipe.robust and entry.cost >= other.cost


def _fit(chosen: _Candidate, wanted: float, extents: Extents) -> RunConfig:
    """Return the run of at most the wanted cost, with the measured epochs times or over `MOST_STRETCH` at most.

    Raises ConfigError where the fewest such epochs cost more.
    """
    config = chosen.config
    if config.selection is not None and config.selection.cost is not None:
        return replace(config, selection=replace(config.selection, cost=wanted))
    measured = config.training.epochs
    least = max(1, math.floor(measured / MOST_STRETCH))
    most = math.floor(measured * MOST_STRETCH)
    costs_at_most = _limit_epochs(config, wanted, extents)
    way_out = "raise it, or increase training.epochs"
    rule = f"enough for {format_count(least, 'epoch')} of this recipe"
    require(check(costs_at_most(least), "--cost", rule, wanted, way_out))
    return set_epochs(config, find_largest(costs_at_most, least, most))


def _limit_epochs(config: RunConfig, wanted: float, extents: Extents) -> Callable[[int], bool]:
    """Return the test whether a run of a number of epochs costs at most `wanted`."""
    return lambda epochs: plan_cost(set_epochs(config, epochs), extents) <= wanted


def _write_settings(full: Facts, chosen: _Candidate, config: RunConfig) -> Facts:
    """Return the run file's settings: the user's, with those that the recipe and the fit to the cost change."""
    settings = set_values(full, chosen.changes)
    moved = list_changes(resolve(from_dict(settings)), resolve(config))
    return set_values(settings, {change.path: change.new for change in moved})
