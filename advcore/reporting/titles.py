"""Names for readers: of methods, data and models, from the names that settings and files give them."""

import re
from collections.abc import Iterable

from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.tables import format_percent, name_contents

# How the field writes the words of names.
_TERMS = {
    "at": "AT",
    "bullettrain": "BulletTrain",
    "ccs": "CCS",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cnn": "CNN",
    "craig": "CRAIG",
    "easycore": "EasyCore",
    "ep": "EP",
    "fat": "FAT",
    "fgsm": "FGSM",
    "gradalign": "GradAlign",
    "gradmatch": "GradMatch",
    "infobatch": "InfoBatch",
    "mart": "MART",
    "mep": "MEP",
    "mnist": "MNIST",
    "pgd": "PGD",
    "pgi": "PGI",
    "preact": "PreAct",
    "rcs": "RCS",
    "resnet18": "ResNet-18",
    "resnet28": "ResNet-28",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "svhn": "SVHN",
    "trades": "TRADES",
}
# Two words that the field joins: a term, and the number or the term after it.
_JOINED = re.compile(r"\b(PGD|FGSM|ResNet-28|ResNet-34) (\d+|EP|MEP|PGI)\b")
# A name that was written for files and settings: words of lower case with a sign between them.
_SLUG = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_OBJECTIVES = {"standard": "standard training", "pgd": "adversarial training"}


def write_title(name: str) -> str:
    """Write the name of a method, data set or model for a reader: "gradmatch-pgd-2" as "GradMatch PGD-2".

    Any other name is returned unchanged.
    """
    if not _SLUG.fullmatch(name):
        return name
    words = " ".join(_TERMS.get(word, word) for word in re.split("[-_]", name))
    return _JOINED.sub(r"\1-\2", words)


def write_titles(names: Iterable[str]) -> dict[str, str]:
    """Return a title for each name; names that would have the same title keep theirs."""
    titles = {name: write_title(name) for name in names}
    counts = list(titles.values())
    return {name: title if counts.count(title) == 1 else name for name, title in titles.items()}


def name_data(record: RunRecord) -> str:
    """Return the title of a run's data: a known data set, or the last part of a path."""
    return write_title(name_contents(record.config))


def name_objective(config: JsonObject) -> str:
    """Return what a run trains with: "TRADES", or "adversarial training"."""
    name = str(config["objective"]["name"])
    return _OBJECTIVES.get(name) or write_title(name)


def describe_choice(config: JsonObject, share: float | None) -> str:
    """Say which examples a run trains on: "the 50 % that GradMatch chose", "a random 50 %", "all data".

    share : of the data, that a coreset holds.
    """
    solver = _find_solver(config)
    if solver is None:
        rule = _find_rule(config)
        return f"all data, with the minibatch rule {rule}" if rule else "all data"
    if solver == "random":
        return f"a random {_format_share(share)}"
    return f"the {_format_share(share)} that {write_title(solver)} chose"


def name_run(record: RunRecord, share: float | None) -> str:
    """Return the title of a run, from its settings: "TRADES on 50 % of digits, chosen by GradMatch"."""
    objective, data = name_objective(record.config), name_data(record)
    solver, rule = _find_solver(record.config), _find_rule(record.config)
    place = f"on {data}"
    if solver == "random":
        place = f"on a random {_format_share(share)} of {data}"
    elif solver is not None:
        place = f"on {_format_share(share)} of {data}, chosen by {write_title(solver)}"
    elif rule:
        place = f"on {data}, with the minibatch rule {rule}"
    text = f"{objective} {place}"
    return text[0].upper() + text[1:]


def _find_solver(config: JsonObject) -> str | None:
    selection = config.get("selection")
    return str(selection["solver"]["name"]) if selection else None


def _find_rule(config: JsonObject) -> str:
    """Return the title of a run's minibatch rule, "" without one."""
    return write_title(str((config.get("minibatch") or {}).get("name", "")))


def _format_share(share: float | None) -> str:
    return "part" if share is None else f"{format_percent(share).removesuffix('.0')} %"
