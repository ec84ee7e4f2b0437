"""advcore/evidence/recipes.json: the recipes of `advcore recommend`, from the records of the suites.

A suite counts if its reference method is full training of its own settings (relative cost 1) on data as they are, from
random weights. Of its methods, those count that differ from full training in attack, selection, minibatch rule and a
few settings of training, with three seeds and more, none of which collapsed; and of these, those on the front.
"""

import functools
import itertools
import json
import statistics
from collections.abc import Iterator, Mapping

import tables
from figures import BENCHMARKS, Groups, cost, robust, unit_of

import advcore.evidence.studies as studies
from advcore.config.load import from_dict
from advcore.evidence.studies import Beside, Recipe, Study
from advcore.reporting import compare, front, verdicts
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.statistics import Comparison
from advcore.reporting.tables import name_attack, name_contents

PAGE = BENCHMARKS.parent / "advcore" / "evidence" / studies.TABLE
LEAST_SEEDS = 3
MOST_COST = 0.95
"""A method that costs more saves nothing worth a recipe."""
SAME_COST = 0.1
"""Costs that differ by less than this share count as equal."""
PARTS = ("attack", "selection", "minibatch")
OF_TRAINING = ("memory", "regularizer", "eps_ramp_share")
"""Settings of training, besides epochs, in which a recipe may differ."""


def find_studies() -> list[Study]:
    """The studies of all suites that have records, by name."""
    names = sorted(path.stem for path in (BENCHMARKS / "suites").glob("*.yaml"))
    found = [build_study(name, tables.groups(name)) for name in names if tables.groups(name)]
    return [study for study in found if study is not None and study.recipes]


def build_study(suite: str, groups: Groups) -> Study | None:
    """The study of a suite; None where the suite does not count."""
    settings = tables.suite_of(suite).methods
    reference = tables.suite_of(suite).reference or ""
    if not groups.get(reference) or not is_full(settings[reference], cost(groups, reference)):
        return None
    sound = {name: records for name, records in groups.items() if len(robust(records)) >= LEAST_SEEDS}
    if reference not in sound:
        return None
    first = groups[reference][0]
    described = describe_data(name_contents(first.config))
    config = from_dict(first.config)
    final = first.final["last"]
    return Study(
        suite=suite,
        title=tables.suite_of(suite).title,
        objective=first.config["objective"]["name"],
        norm=config.attack.norm,
        eps=config.attack.eps,
        contents=name_contents(first.config),
        shape=tuple(described["shape"]),
        classes=len(described["class_counts"]),
        examples=first.reference["units"] // (2 * first.reference["epochs"] * (first.reference["steps"] + 1)),
        network=first.config["model"]["name"],
        unit=unit_of(groups).name,
        epochs=first.reference["epochs"],
        steps=first.reference["steps"],
        evaluation=f"{name_attack(final['attacks'][0])} on {final['clean']['n']:,} test images",
        varied=verdicts.describe_varied(groups),
        robust=round(statistics.fmean(robust(groups[reference])), 2),
        recipes=tuple(build_recipes(sound, settings, reference)),
    )


@functools.cache
def describe_data(contents: str) -> JsonObject:
    """The shape and classes of data of that name, from any record that has them: older ones do not."""
    names = sorted(path.stem for path in (BENCHMARKS / "suites").glob("*.yaml"))
    records = itertools.chain.from_iterable(group for name in names for group in tables.groups(name).values())
    return next(
        record.data for record in records if "shape" in record.data and name_contents(record.config) == contents
    )


def is_full(settings: JsonObject, relative_cost: float) -> bool:
    """Whether a method is full training: of unchanged data, from random weights, by an attack with a radius."""
    data, model = settings["data"], settings["model"]
    plain = not data.get("planted") and not data.get("pool") and not model.get("weights")
    attack = settings.get("attack") or {}
    return plain and "eps" in attack and attack.get("steps", 10) > 1 and abs(relative_cost - 1) < 0.01


def build_recipes(groups: Groups, settings: Mapping[str, JsonObject], reference: str) -> Iterator[Recipe]:
    """The recipes of a study, the cheapest first."""
    full = settings[reference]
    able = {name: records for name, records in groups.items() if is_recipe(settings[name], full)}
    best = [name for name in choose_best(able) if name != reference and cost(able, name) < MOST_COST]
    pairs = {name: list_rivals(groups, able, name, reference) for name in best}
    tested = verdicts.compare_pairs(groups, [(name, rival) for name in best for rival in pairs[name]])
    for name in best:
        records = groups[name]
        yield Recipe(
            method=name,
            settings=find_settings(settings[name], full),
            epochs=round(settings[name]["training"]["epochs"] / records[0].reference["epochs"], 4),
            cost=round(cost(groups, name), 4),
            robust=round(statistics.fmean(robust(records)), 2),
            deviation=round(statistics.stdev(robust(records)), 2),
            seeds=len(records),
            beside=tuple(write_beside(groups, rival, tested[name, rival]) for rival in pairs[name]),
        )


def choose_best(able: Groups) -> list[str]:
    """The methods on the front, without those that are behind another one of about the same cost.

    What trains on a part of the data, or by a minibatch rule, must beat training on all data at about its cost beyond
    chance: of many methods, the luckiest one has the highest mean.
    """
    best = []
    for method in front.find_front(compare.summarize_methods(proved(able))):
        if best and cost(able, method.name) <= (1 + SAME_COST) * cost(able, best[-1]):
            best.pop()
        best.append(method.name)
    return best


def proved(able: Groups) -> Groups:
    """The methods on all data, and of the others those that beat every one of them that costs about the same."""
    plain = [name for name in able if front.classify_run(able[name][0].config) == "all data"]
    others = [name for name in able if name not in plain]
    pairs = [(name, other) for name in others for other in plain if are_level(able, name, other)]
    tested = verdicts.compare_pairs(able, pairs)
    behind = {name for (name, _), comparison in tested.items() if comparison.verdict != "beats"}
    return {name: records for name, records in able.items() if name not in behind}


def is_recipe(settings: JsonObject, full: JsonObject) -> bool:
    """Whether a recipe can have all the differences from full training."""
    parts = {key for key in settings | full if settings.get(key) != full.get(key)}
    training = settings["training"]
    changed = {key for key in training | full["training"] if training.get(key) != full["training"].get(key)}
    return parts <= {*PARTS, "training", "name"} and changed <= {*OF_TRAINING, "epochs"}


def find_settings(settings: JsonObject, full: JsonObject) -> JsonObject:
    """What differs from full training."""
    found = {key: settings.get(key) for key in PARTS if settings.get(key) != full.get(key)}
    training, of_full = settings["training"], full["training"]
    changed = {key: training.get(key) for key in OF_TRAINING if training.get(key) != of_full.get(key)}
    return found | ({"training": changed} if changed else {})


def list_rivals(groups: Groups, able: Groups, name: str, reference: str) -> list[str]:
    """What a recipe is compared with: the best random subset, the next best method of its cost, full training."""
    near = [other for other in groups if other not in (name, reference) and are_level(groups, name, other)]
    by_accuracy = sorted(near, key=lambda other: -statistics.fmean(robust(groups[other])))
    drawn = [other for other in by_accuracy if is_random(groups[other])] or find_random(groups, name)
    rest = [other for other in by_accuracy if other in able and other not in drawn[:1]]
    return [*drawn[:1], *rest[:1], reference]


def find_random(groups: Groups, name: str) -> list[str]:
    """The random subsets, the nearest in cost first, if none costs about the same: whole epochs make costs jump."""
    drawn = [other for other in groups if other != name and is_random(groups[other])]
    near = [other for other in drawn if are_level(groups, name, other, share=2 * SAME_COST)]
    return sorted(near, key=lambda other: abs(cost(groups, other) - cost(groups, name)))


def are_level(groups: Groups, name: str, other: str, share: float = SAME_COST) -> bool:
    """Whether two methods cost about the same."""
    return abs(cost(groups, other) - cost(groups, name)) <= share * cost(groups, name)


def is_random(records: list[RunRecord]) -> bool:
    return front.classify_run(records[0].config) == "random subset"


def write_beside(groups: Groups, rival: str, comparison: Comparison) -> Beside:
    estimate = comparison.estimate
    tested = estimate.freedom > 0
    return Beside(
        method=rival,
        cost=round(cost(groups, rival), 4),
        robust=round(statistics.fmean(robust(groups[rival])), 2),
        difference=round(estimate.mean, 2),
        half_width=round(estimate.half_width, 2) if tested else None,
        p=round(estimate.p, 4) if tested else None,
        corrected=round(comparison.corrected, 3) if tested else None,
        verdict=comparison.verdict,
    )


def text() -> str:
    """The table, as it is committed."""
    return json.dumps([studies.to_plain(study) for study in find_studies()], indent=1, ensure_ascii=False) + "\n"


def write() -> None:
    """Renew the table."""
    PAGE.write_text(text())
