"""What a page of several methods says first: what was compared, which are worth their cost, what to bear in mind."""

from collections.abc import Collection, Sequence
from itertools import chain

from advcore.errors import format_count
from advcore.reporting import compare, costs, front, tables, titles, verdicts
from advcore.reporting.collapse import drop_collapsed
from advcore.reporting.parts import Figure, Note, note_if
from advcore.reporting.record import RunRecord
from advcore.reporting.statistics import Comparison

# Width and height of the chart on a telephone, and on a wide screen.
_NARROW = (340.0, 380.0)
_WIDE = (1100.0, 520.0)
# At most this many verdicts are written out.
_MOST = 3


def find_reference(groups: tables.Groups) -> str:
    """Return the dearest method that trains on all data, "" if there is none."""
    trained = [entry for entry in compare.summarize_methods(groups) if entry.kind == "all data"]
    return next((entry.name for entry in reversed(trained)), "")


# ---- sentences ----


def write_sentences(groups: tables.Groups, reference: str) -> list[str]:
    """Return sentences that can be read out about methods that can be compared."""
    return [_write_conditions(groups), _write_front(groups), _write_verdicts(groups, reference)]


def _write_conditions(groups: tables.Groups) -> str:
    records = tables.list_records(groups)
    evaluation = records[0].final["last"]
    seeds = sorted({record.config.get("seed", 0) for record in records})
    word = "seed" if len(seeds) == 1 else "seeds"
    counts = f"{format_count(len(groups), 'method')} on {titles.name_data(records[0])}"
    text = f"This page compares {counts}: {format_count(len(records), 'run')} with {word} "
    text += f"{verdicts.format_numbers(seeds)}, tested on {format_count(evaluation['clean']['n'], 'image')}"
    return f"{text} under {name_attacks(records[0])}." if evaluation["attacks"] else f"{text}, without an attack."


def name_attacks(record: RunRecord) -> str:
    """Return the name of the attacks by which methods are compared."""
    attacks = [tables.name_attack(attack) for attack in record.final["last"]["attacks"]]
    if len(attacks) > 1:
        return "all attacks"
    return next(iter(attacks), "clean")


def _write_front(groups: tables.Groups) -> str:
    """Say which methods are the most robust and the cheapest on the Pareto front."""
    methods = front.find_front(compare.summarize_methods(groups))
    cheapest, best = methods[0], methods[-1]
    unit = costs.choose_unit(tables.list_records(groups))
    text = f"The most robust is {best.name}, with {_describe(best)} of the {unit.name} of full training"
    if best is cheapest:
        return f"{text}; it is alone on the Pareto front."
    return f"{text}. The cheapest on the Pareto front is {cheapest.name}, with {_describe(cheapest)}."


def _describe(method: front.Method) -> str:
    return f"{tables.format_mean(method.robust)} % robust accuracy at {tables.format_percent(method.cost)} %"


def _write_verdicts(groups: tables.Groups, reference: str) -> str:
    """Say how many of the tested differences are beyond chance, and the first of them."""
    tested = verdicts.compare_pairs(groups, verdicts.list_pairs(groups, reference))
    counted = {pair: entry for pair, entry in tested.items() if entry.among}
    if not counted:
        return "No difference can be tested."
    return _describe_verdicts(counted)


def _describe_verdicts(counted: dict[verdicts.Pair, Comparison]) -> str:
    decided = {pair: entry.verdict for pair, entry in counted.items() if entry.verdict != "level"}
    number = format_count(len(counted), "tested difference")
    if not decided:
        return f"Of {number}, none is beyond chance, which does not show that the methods are equal."
    words = {"beats": "beats", "below": "is below"}
    texts = [f"{first} {words[verdict]} {second}" for (first, second), verdict in decided.items()]
    rest = f"; and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    verb = "is" if len(texts) == 1 else "are"
    return f"Of {number}, {len(texts)} {verb} beyond chance: {'; '.join(texts[:_MOST])}{rest}."


# ---- what to bear in mind ----


def list_cautions(groups: tables.Groups) -> list[Note]:
    """Return which methods collapsed or have flags, and whether there are too few seeds to test anything."""
    flagged = {name for name, _ in chain(*(tables.iterate_flags(groups, which) for which in ("last", "best")))}
    collapsed = [name for name, records in groups.items() if len(drop_collapsed(records)) < len(records)]
    single = max(map(len, groups.values())) == 1
    return [
        *note_if(flagged, f"Flagged, so do not trust their accuracies: {_list_names(flagged, groups)}.", "flag"),
        *note_if(not flagged, "No evaluation has a flag.", "good"),
        *note_if(collapsed, f"Collapsed in at least one run: {_list_names(collapsed, groups)}.", "warning"),
        *note_references(groups, "warning"),
        *note_if(single, "One run per method: the variation over seeds is unknown.", "warning"),
    ]


def note_references(groups: tables.Groups, kind: str = "flag") -> list[Note]:
    """Return a note where the costs of methods are relative to different full trainings."""
    records = tables.list_records(groups)
    unit = costs.choose_unit(records)
    counts = {record.reference.get(unit.of_reference) for record in records}
    texts = [unit.format(number) for number in sorted(number for number in counts if number is not None)]
    if None in counts:
        texts.insert(0, "none")
    text = (
        f"Costs here are relative to different references ({', '.join(texts)}), each the full training with a method's "
        "objective and data. Costs that are relative to different references cannot be compared."
    )
    return note_if(len(counts) > 1, text, kind)


def _list_names(names: Collection[str], groups: tables.Groups) -> str:
    """List methods in the order of the page; of many, the first ones and how many more there are."""
    ordered = [name for name in groups if name in names]
    rest = f" and {len(ordered) - 6} more" if len(ordered) > 6 else ""
    return ", ".join(ordered[:6]) + rest


# ---- the picture ----


def draw_front(
    methods: Sequence[front.Method], records: Sequence[RunRecord], numbers: Sequence[int] | None = None
) -> Figure:
    """Draw robust accuracy over relative cost, with the Pareto front.

    numbers : of the methods in the table below; by default they are counted from 1.
    """
    unit = costs.choose_unit(records)
    caption = f"Robust accuracy over {unit.title}, checkpoint last; full training costs 1. "
    if any(len(method.robust) > 1 for method in methods):
        caption += "Points are means over seeds, bars their sample standard deviations. "
    caption += "The dashed line is the Pareto front: the methods for which no other is both cheaper and more robust. "
    caption += "Numbers refer to the table."
    if any(method.collapsed for method in methods):
        caption += " Collapsed runs are in no mean, and their methods are not on the front."
    title = f"robust accuracy, % ({name_attacks(records[0])})"
    narrow, wide = (front.draw_front(methods, title, size, numbers) for size in (_NARROW, _WIDE))
    return Figure(caption, narrow, wide, broad=True)
