"""Which records are runs of the same method, and which methods can be compared with each other."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, product
from operator import attrgetter

from advcore.errors import format_value
from advcore.pixels import format_pixels
from advcore.reporting import front, lenient, tables
from advcore.reporting.collapse import drop_collapsed, has_collapsed
from advcore.reporting.costs import PASSES, Unit, choose_unit, sum_training_seconds
from advcore.reporting.record import ELSEWHERE, JsonObject, RunRecord, is_among
from advcore.reporting.settings_parts import flatten

# METHOD-sSEED: how a suite names the record or the folder of a run.
_RUN_NAME = re.compile(r"(?P<method>.+)-s(?P<seed>-?\d+)")
# Settings in which two runs of one method may differ.
_NOT_THE_METHOD = (*ELSEWHERE, "seed", "name", "data.path", "data.split_seed")
# The differences that stand in the name of a method have at most this many characters.
_NAME_LENGTH = 120


@dataclass(frozen=True)
class Run:
    """A run in a folder.

    where : its path relative to the folder, without an ending.
    link : the address of its own report, "" where it has none.
    """

    where: str
    record: RunRecord
    link: str = ""


@dataclass(frozen=True)
class BrokenRun:
    """A run in a folder, without a record that can be read.

    where : as of a `Run`.
    problem : why the record cannot be read.
    """

    where: str
    problem: str


@dataclass(frozen=True)
class Block:
    """Methods whose accuracies can be compared: they have the same data, attacks and numbers of test images.

    conditions : what they have in common, in words.
    """

    title: str
    conditions: str
    groups: tables.Groups


# ---- runs of one method ----


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by method.

    Runs are of one method if they have the same name (METHOD in METHOD-sSEED, else the name in the record) and if
    their settings differ in nothing but the seed, where the run was computed and who was informed of it. Where
    several methods have the same name, the settings in which they differ are added to it.
    """
    by_name: dict[str, list[list[Run]]] = {}
    for run in runs:
        _add_run(by_name.setdefault(_read_name(run), []), run)
    methods: dict[str, list[Run]] = {}
    for name, groups in by_name.items():
        differences = _describe_differences([_method_settings(group[0].record) for group in groups])
        for group, difference in zip(groups, differences, strict=True):
            suffix = difference and f" ({difference})"
            methods[_make_unique(name + suffix, methods)] = group
    return methods


def _read_name(run: Run) -> str:
    match = _RUN_NAME.fullmatch(run.where.rpartition("/")[2])
    return match["method"] if match else run.record.name


def _add_run(groups: list[list[Run]], run: Run) -> None:
    """Add a run to the first group with which its settings are compatible, or to a new one."""
    settings = _method_settings(run.record)
    for group in groups:
        if all(_is_compatible(_method_settings(other.record), settings) for other in group):
            group.append(run)
            return
    groups.append([run])


def _make_unique(name: str, taken: Collection[str]) -> str:
    """Return a name with a number where it is taken: differences that were cut to length may be equal."""
    candidates = chain([name], (f"{name} [{number}]" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _is_compatible(first: JsonObject, second: JsonObject) -> bool:
    """Return whether settings that both runs have are equal. A record of an older version lacks some of them."""
    for key, other in product(first, second):
        if other.startswith(f"{key}.") or key.startswith(f"{other}."):  # one has null where the other has a section
            return False
    return all(first[key] == second[key] for key in first.keys() & second.keys())


def _method_settings(record: RunRecord) -> JsonObject:
    return {key: value for key, value in flatten(record.config).items() if not is_among(key, _NOT_THE_METHOD)}


def _describe_differences(settings: Sequence[JsonObject]) -> list[str]:
    """Say for each method what sets it apart from the others: "selection.budget 0.3". A single one gets ""."""
    differing = [name for name in dict.fromkeys(chain.from_iterable(settings)) if _is_differing(name, settings)]
    return [_describe_settings(entry, differing)[:_NAME_LENGTH] for entry in settings]


def _is_differing(name: str, settings: Sequence[JsonObject]) -> bool:
    return len({repr(entry.get(name)) for entry in settings}) > 1


def _describe_settings(settings: JsonObject, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_format_setting(settings[name])}" for name in names if settings.get(name) is not None)


def _format_setting(value: object) -> str:
    return value if isinstance(value, str) else format_value(value)


def find_repeats(runs: Sequence[Run]) -> dict[str, str]:
    """Return the finished runs of a method whose seed and data split an earlier run has, each with that earlier run.

    A mean over seeds counts each of them once.
    """
    first: dict[str, str] = {}
    repeats = {}
    for run in runs:
        if run.record.finished and "seed" in run.record.config:
            earlier = first.setdefault(repr((run.record.config["seed"], read_split(run.record))), run.where)
            if earlier != run.where:
                repeats[run.where] = earlier
    return repeats


# ---- methods that can be compared ----


def _describe_evaluation(record: RunRecord) -> tuple[str, str]:
    """Return the data and the attacks that a run was evaluated with, in short and in full.

    Accuracies of runs can be compared where both texts are the same.
    """
    last = record.final["last"]
    data = record.config.get("data", {})
    images = last["clean"]["n"]
    sizes = [f", {key} {data[key]}" for key in ("train_size", "test_size") if data.get(key) is not None]
    labels = " and ".join(tables.name_attack(attack) for attack in last["attacks"])
    fewer = [
        f", {attack['n']:,} under {tables.name_attack(attack)}" for attack in last["attacks"] if attack["n"] != images
    ]
    steps = [
        f"; {tables.name_attack(attack)} in steps of {format_pixels(attack['step_size'])}"
        for attack in last["attacks"]
        if attack.get("step_size") is not None
    ]
    name = tables.name_data(record)
    full = f"{name}{''.join(sizes)}; {images:,} test images{''.join(fewer + steps)}"
    return f"{name}, {labels or 'clean images'}", full


def split_into_blocks(groups: Mapping[str, Sequence[Run]]) -> list[Block]:
    """Return the finished runs of each method, each seed once, in blocks that have the same data and evaluation."""
    finished: list[tuple[str, RunRecord]] = []
    for name, runs in groups.items():
        repeats = find_repeats(runs)
        records = [run.record for run in runs if run.where not in repeats]
        finished += [(name, record) for record in records if record.finished and is_readable(record)]
    test_data = _label_test_data([record for _, record in finished])
    blocks: dict[tuple[str, str, str], dict[str, list[RunRecord]]] = {}
    for (name, record), data in zip(finished, test_data, strict=True):
        conditions = (data, *_describe_evaluation(record))
        blocks.setdefault(conditions, {}).setdefault(name, []).append(record)
    return [Block(title, conditions, methods) for (_, title, conditions), methods in blocks.items()]


def _label_test_data(records: Sequence[RunRecord]) -> list[str]:
    """Return a text for each record; those of records whose data and evaluation have one name differ if the data do.

    Test images that depend on the data split are the same data: texts differ where records of one split have different
    images.
    """
    texts = [lenient.read_or("", _read_test_hash, record) for record in records]
    if not all(texts):  # a record of an older version has no hash: all are compared by the path of their data
        texts = [str(record.config.get("data", {}).get("path")) for record in records]
    of_split: dict[tuple[str, str, int], str] = {}
    different = set()
    for record, text in zip(records, texts, strict=True):
        conditions = _describe_evaluation(record)
        if of_split.setdefault((*conditions, read_split(record)), text) != text:
            different.add(conditions)
    pairs = zip(records, texts, strict=True)
    return [text if _describe_evaluation(record) in different else "" for record, text in pairs]


def read_split(record: RunRecord) -> int:
    """Return the seed of a run's data split."""
    return record.config.get("data", {}).get("split_seed", 0)


def _read_test_hash(record: RunRecord) -> str:
    return record.data["hash"]["test"]


def is_readable(record: RunRecord) -> bool:
    """Return whether the record of a finished run holds everything that is compared."""
    return bool(lenient.read_or((), _read_compared, record))


def _read_compared(record: RunRecord) -> tuple[object, ...]:
    """Return everything that a table and a chart of several methods take from a record."""
    return (
        100.0 * record.final["last"]["clean"]["accuracy"],
        has_collapsed(record),
        _describe_evaluation(record),
        front.classify_run(record.config),
        PASSES.compare(record),
        choose_unit([record]).compare(record),
        sum_training_seconds(record),
        robust_accuracy(record),
    )


def find_data_differences(groups: tables.Groups) -> list[str]:
    """Return a sentence for each part of the data, train or test, that differs between methods with equal settings.

    It differs if the hashes do: of another file of the same name, for instance. A hash of labels alone is not compared
    with one of images.
    """
    # For each part, kind of hash and settings: the names of methods by hash. Dictionaries keep names in order, once.
    hashes: dict[tuple[str, str, str], dict[str, dict[str, None]]] = {}
    for name, records in groups.items():
        for record in records:
            settings = {key: value for key, value in _method_settings(record).items() if key.startswith("data.")}
            settings["data.split_seed"] = read_split(record)
            for part, text in record.data.get("hash", {}).items():
                kind, _, value = text.rpartition(" ")
                hashes.setdefault((part, kind, str(settings)), {}).setdefault(value, {})[name] = None
    return [_describe_difference(part, names) for (part, _, _), names in hashes.items() if len(names) > 1]


def _describe_difference(part: str, names: Mapping[str, Iterable[str]]) -> str:
    lists = "; ".join(f"{', '.join(methods)} ({value})" for value, methods in names.items())
    return f"The {part} data differ, although the settings of the data are the same: {lists}."


# ---- accuracies and costs of methods ----


def robust_accuracy(record: RunRecord, which: str = "last") -> float:
    """Return the robust accuracy of a checkpoint, in percent: of images that withstand every attack of the evaluation.

    Without an attack, it is the clean accuracy.
    """
    evaluation = record.final[which]
    entry = tables.find_worst_case(evaluation) or next(iter(evaluation["attacks"]), evaluation["clean"])
    return 100 * entry["accuracy"]


def summarize_methods(groups: tables.Groups, which: str = "last") -> list[front.Method]:
    """Return costs and robust accuracies of each method, the cheapest method first."""
    unit = choose_unit(tables.list_records(groups))
    methods = (_summarize_method(name, records, which, unit) for name, records in groups.items())
    return sorted(methods, key=attrgetter("rank"))


def _summarize_method(name: str, records: Sequence[RunRecord], which: str, unit: Unit) -> front.Method:
    sound = drop_collapsed(records, which)
    return front.Method(
        name,
        kind=front.classify_run(records[0].config),
        costs=list(map(unit.compare, records)),
        robust=[robust_accuracy(record, which) for record in sound or records],
        collapsed=len(records) - len(sound),
    )
