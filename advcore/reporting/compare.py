"""Which records are runs of one method, and which methods can be set beside each other."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advcore.errors import shown
from advcore.pixels import format_pixels
from advcore.reporting.front import Method, kind
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.reporting.run_page import flat, known
from advcore.reporting.tables import attack_label, data_name, together

Groups = Mapping[str, Sequence[RunRecord]]
NAMED = re.compile(r"(?P<method>.+)-s(?P<seed>-?\d+)")
"""METHOD-sSEED: a record's file, or a run's folder, of a suite."""
_NOT_THE_METHOD = (*ELSEWHERE, "seed", "name", "data.path")


@dataclass(frozen=True)
class Run:
    """where : relative to the folder, without an ending. link : to the run's own report, if it has one. problem : why
    there is no record."""

    where: str
    record: RunRecord | None = None
    link: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Block:
    """Methods whose accuracies can be set beside each other: the same data, attacks and numbers of test images."""

    title: str
    told: str
    groups: Groups


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by method: of one name (METHOD of METHOD-sSEED, else the run's own) and of settings that do not differ but
    in the seed, in where it was done and who was told. Two methods of one name are told apart by the settings in which
    they differ."""
    by_name: dict[str, list[list[Run]]] = {}
    for run in (one for one in runs if one.record):
        named = NAMED.fullmatch(run.where.rpartition("/")[2])
        several = by_name.setdefault(named["method"] if named else run.record.name, [])
        settings = _method(run.record)
        same = next((own for own in several if all(_alike(_method(one.record), settings) for one in own)), None)
        if same is None:
            several.append([run])
        else:
            same.append(run)
    found: dict[str, list[Run]] = {}
    for name, several in by_name.items():
        for own, what in zip(several, _differences([_method(runs[0].record) for runs in several]), strict=True):
            found[_free(f"{name} ({what})" if what else name, found)] = own
    return found


def _free(name: str, taken: Collection[str]) -> str:
    """`name`, numbered where it is taken: what sets methods apart may be too long to stand in it."""
    return next(n for n in (name, *(f"{name} [{i}]" for i in range(2, len(taken) + 2))) if n not in taken)


def _alike(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether no setting that both know differs: a record of an older version does not know them all."""
    sections = any(b.startswith(f"{a}.") or a.startswith(f"{b}.") for a in one for b in two)  # null beside a section
    return not sections and all(one[key] == two[key] for key in one.keys() & two.keys())


def _method(record: RunRecord) -> dict[str, Any]:
    """Settings that make a method: all but the seed and where things lie."""
    return {key: value for key, value in flat(record.config).items() if not is_among(key, _NOT_THE_METHOD)}


def different_data(groups: Groups) -> list[str]:
    """A line for each part of the data, train or test, of which methods had other images or labels, as their hashes
    tell, where the settings are the same: another file of the same name, say."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for name, record in ((name, record) for name, records in groups.items() for record in records):
        settings = {key: value for key, value in _method(record).items() if key.startswith("data.")}
        for part, told in record.data.get("hash", {}).items():
            what, _, value = told.rpartition(" ")  # labels alone are not compared with images
            found.setdefault(f"{part} {what} {settings}", {}).setdefault(value, {})[name] = None
    return [
        f"Not of the same {key.split()[0]} data, although the settings of the data are the same: "
        + "; ".join(f"{', '.join(names)} ({value})" for value, names in apart.items()) + "."
        for key, apart in found.items() if len(apart) > 1
    ]  # fmt: skip


def _differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each apart from the others: "selection.budget 0.3"; nothing for the only one."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    differing = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    return [
        ", ".join(f"{key} {_setting(one[key])}" for key in differing if one.get(key) is not None)[:120]
        for one in settings
    ]


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def repeated(runs: Sequence[Run]) -> dict[str, str]:
    """Finished runs of one method and a seed that another one of it has, by that one: a mean over seeds counts each
    seed once."""
    first: dict[str, str] = {}
    found = {}
    for run in (run for run in runs if run.record.finished and "seed" in run.record.config):
        seed = repr(run.record.config["seed"])
        if first.setdefault(seed, run.where) != run.where:
            found[run.where] = first[seed]
    return found


def blocks(groups: Mapping[str, Sequence[Run]]) -> list[Block]:
    """Finished runs, each seed of a method once, apart where data or evaluation differ."""
    once = {name: repeated(runs) for name, runs in groups.items()}
    rows = [
        (name, run.record)
        for name, runs in groups.items()
        for run in runs
        if run.record.finished and run.where not in once[name] and readable(run.record)
    ]
    tests = [known(lambda record=record: record.data["hash"]["test"], "") for _, record in rows]
    found: dict[tuple, dict[str, list[RunRecord]]] = {}
    for (name, record), test in zip(rows, tests, strict=True):
        where = test if all(tests) else str(record.config.get("data", {}).get("path"))  # an older record has no hash
        found.setdefault((str(where), *_evaluation(record)), {}).setdefault(name, []).append(record)
    return [Block(*_told(key[1:]), own) for key, own in found.items()]


def _point(record: RunRecord) -> tuple[str, float, float, float]:
    """What a table and a picture take from it."""
    return kind(record.config), record.relative_cost, robust(record), 100.0 * record.final["last"]["clean"]["accuracy"]


def readable(record: RunRecord) -> bool:
    """Whether a finished run's record holds what it takes to be compared."""
    return bool(known(lambda: [_evaluation(record), _point(record)], []))


def _evaluation(record: RunRecord) -> tuple:
    last, data = record.final["last"], record.config.get("data", {})
    facts = tuple(f"{key} {data[key]}" for key in ("train_size", "test_size") if data.get(key) is not None)
    attacks = tuple((attack_label(one), one["n"], _step_size(one)) for one in last["attacks"])
    return data_name(record), facts, attacks, last["clean"]["n"]


def _step_size(attack: Mapping[str, Any]) -> str:
    size = attack.get("step_size")
    return "" if size is None else format_pixels(size)


def _told(key: tuple) -> tuple[str, str]:
    data, facts, attacks, n = key
    told = f"{', '.join([data, *facts])}; {n:,} test images"
    told += "".join(f", {m:,} under {name}" for name, m, _ in attacks if m != n)
    told += "".join(f"; {name} in steps of {size}" for name, _, size in attacks if size)
    names = " and ".join(name for name, _, _ in attacks)
    return f"{data}, {names or 'clean images'}", told


def robust(record: RunRecord, which: str = "last") -> float:
    """Percent right under every attack of the evaluation; clean where there is none."""
    found = record.final[which]
    return 100 * (together(found) or next(iter(found["attacks"]), found["clean"]))["accuracy"]


def methods(groups: Groups, which: str = "last") -> list[Method]:
    """By cost, the cheapest first."""
    found = [
        Method(
            name,
            kind(records[0].config),
            [one.relative_cost for one in records],
            [robust(one, which) for one in records],
        )
        for name, records in groups.items()
    ]
    return sorted(found, key=lambda one: (one.cost, -one.mean))
