"""The page of the solver benchmark, from its records alone: tables, limits, plot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import BENCHMARKS, RECORDS

from advcore.errors import format_count
from advcore.files import read_json
from advcore.reporting.tables import Row, to_markdown

IMAGENET_CLASSES = 1000
SUBMODLIB = "submodlib LazyGreedy"
PEERS = ("scikit-learn", "scipy", "submodlib-py", "apricot-select")
TITLES = {"synthetic": "synthetic", "mnist": "MNIST", "cifar10": "CIFAR-10 (JPEG copies)"}
Facts = dict[str, Any]


HEAD = """`python benchmarks/measure/solvers.py` measures the numbers of this page and writes them to
[records](../docs/glossary.md#record).

- n or N is the number of [gradient rows](../docs/glossary.md#row), C the number of classes, and D the number of
  features. k is the number of rows that a solver picks.
- The *Gram* is the matrix of inner products of rows.
- *ours* is the solver of advcore ([how it works](../docs/solvers.md)) without preparation. *ours, whole call* also
  computes the Gram or the distances. *default* has the default settings, and *any sign* allows negative weights.
- *own Gram*: sklearn computes the Gram. *our Gram*: sklearn receives the Gram from advcore. *overwriting* allows
  sklearn to overwrite the Gram. *scipy nnls on our support* fits weights to the rows that advcore picked.
- *peak memory increase* is how much the resident memory of the process grows during the call. *peak of the process* is
  all of its memory."""


def text(records: dict[str, Facts]) -> str:
    """The page, from the records there are."""
    lines = ["# Solvers", "", HEAD]
    found = [gate for part, make in GATES.items() if part in records for gate in _verdicts(records[part], make)]
    if found:
        lines += ["", to_markdown(("quantity", "measured", "limit", "within the limit"), found)]
    for part, section in SECTIONS.items():
        if part in records:
            lines += ["", f"## {HEADINGS[part]}", "", _made_with(records[part]["environment"]), ""]
            lines += section(records[part])
    return "\n".join(lines)


def _verdicts(record: Facts, make: Callable[[Facts], list["Gate"]]) -> list[Row]:
    """A part's limits, each with yes or no; a small run has neither."""
    own = record["settings"]
    small = own["quick"] or own.get("solved_classes", IMAGENET_CLASSES) < IMAGENET_CLASSES
    verdict = {True: "yes", False: "no", None: "–"}
    return [
        (what, figure, limit, "a small run" if small else verdict[holds]) for what, figure, limit, holds in make(record)
    ]


def _made_with(facts: Facts) -> str:
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "numpy", *PEERS) if facts.get(name))
    commit = f" and commit {facts['commit'][:10]} of advcore" if facts.get("commit") else ""
    return f"Measured on {facts['device']} with {format_count(facts['threads'], 'thread')}, {versions}{commit}."


def duration(seconds: float | None) -> str:
    """Format in ms below a second, in minutes from ten minutes on."""
    if seconds is None:
        return "–"
    if seconds >= 600:
        return f"{seconds / 60:.1f} min"
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def megabytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 1e6:.0f} MB"


def _cells(record: Facts, solver: str) -> list[tuple[Facts, dict[str, Facts]]]:
    """Each cell of a solver, with its peers by name."""
    own = [cell for cell in record["results"]["cells"] if cell["solver"] == solver]
    return [(cell, {peer["peer"]: peer for peer in cell["peers"]}) for cell in own]


def _grid(cells: list, show: Callable[[Facts, dict[str, Facts]], str], names: list[str]) -> str:
    """One row per cell, one column per peer."""
    rows = [
        (TITLES[cell["rows"]], str(cell["n"]), str(cell["k"]), *(show(own[p], own) if p in own else "–" for p in names))
        for cell, own in cells
    ]
    return to_markdown(("rows", "n", "k", *names), rows)


def _peers_section(record: Facts) -> list[str]:
    turns = format_count(record["settings"]["repeats"], "turn")
    lines = [
        f"Times are medians over {turns}. In parentheses is the time divided by the time of *ours*. For *own Gram*, it "
        "is divided by the time of *ours, whole call*.",
    ]
    for solver, answer in (("GradMatch", _fit), ("CRAIG", _objective)):
        cells = _cells(record, solver)
        names = list(dict.fromkeys(name for _, own in cells for name in own))
        judged = [name for name in names if any(answer(own[name], own) != "–" for _, own in cells if name in own)]
        lines += [
            "",
            f"{solver}, time:",
            "",
            _grid(cells, lambda p, _: f"{duration(p['seconds'])} ({p['ratio']:.2f})", names),
        ]
        lines += ["", f"{solver}, {MEANING[solver]}:", "", _grid(cells, answer, judged)]
        reasons = sorted(
            {p["stopped"] for _, own in cells for p in own.values() if p.get("stopped", "budget") != "budget"}
        )
        lines += ["", f"Reasons for fewer rows than k: {'; '.join(reasons)}."] if reasons else []
    missing = [note for cell in record["results"]["cells"] for note in cell["left_out"]]
    missing = list(dict.fromkeys([*record["results"]["left_out"], *missing]))
    return lines + (["", "These were left out:", "", *(f"- {note}" for note in missing)] if missing else [])


TIMES = {"seconds": "whole call", "solve": "solver alone"}
MEANING = {
    "GradMatch": "relative residual, number of rows used (for nnls: the largest relative difference of a weight)",
    "CRAIG": "objective divided by submodlib's, minus 1, and the number of rows used",
}


def _fit(peer: Facts, own: dict[str, Facts]) -> str:
    if peer.get("difference") is not None:
        return f"{peer['difference']:.1e}"
    return f"{peer['residual']:.3g}, {peer['used']}" if "residual" in peer else "–"


def _objective(peer: Facts, own: dict[str, Facts]) -> str:
    base = own.get(SUBMODLIB)
    if base is None or "objective" not in peer:
        return "–"
    return f"{peer['objective'] / base['objective'] - 1:+.1e}, {peer['used']}"


def _growth_section(record: Facts) -> list[str]:
    points, lines = record["results"]["points"], ["![Time and memory over n, k, C and D](solvers.png)"]
    around = ", ".join(f"{name} = {value}" for name, value in record["settings"]["around"].items())
    lines += [
        "",
        f"In each row of the table, one number varies. The others are {around}, but k = n / 4 where n varies. Gradient "
        "rows are synthetic. *Peak* is the increase of the resident memory.",
    ]
    rows = []
    for one, other in zip(points[::2], points[1::2], strict=True):
        fit = (duration(one["seconds"]), duration(one["solve"]), megabytes(one["above"]))
        rows.append(
            (f"{one['axis']} = {one[one['axis']]}", *fit, duration(other["seconds"]), megabytes(other["above"]))
        )
    header = ("varied", "GradMatch: time", "solver alone", "peak", "CRAIG: time", "peak")
    lines += ["", to_markdown(header, rows)]
    for curve in record["results"]["over_k"]:
        title = f"GradMatch, {curve['name']}, {TITLES[curve['rows']]}, n = {curve['n']}"
        slopes = ", ".join(
            f"{TIMES[key]} {value:.2f}" for key, value in curve["exponents"].items() if value is not None
        )
        slopes = slopes or "not measured"
        lines += ["", f"{title}. Time grows as a power of k; its exponent between 500 and 2500: {slopes}.", ""]
        lines.append(
            to_markdown(("k", "whole call", "solver alone", "rows used", "rounds"), map(_over_k_row, curve["points"]))
        )
    return lines + [line for note in record["results"]["left_out"] for line in ("", f"Left out: {note}.")]


def _over_k_row(point: Facts) -> Row:
    counts = (str(point["used"]), str(point["rounds"]))
    return (str(point["k"]), duration(point["seconds"]), duration(point["solve"]), *counts)


def _cifar_section(record: Facts) -> list[str]:
    header = ("selection", "time", "memory of the rows", "peak memory increase", "limit", "advcore's estimate")
    keys = ("rows", "above", "bound", "estimate")
    cases = record["results"]["cases"]
    rows = [(_case(one), duration(one["seconds"]), *(megabytes(one[key]) for key in keys)) for one in cases]
    shape = f"The shape is N = {record['settings']['n']}, C = 10, D = 512, for TRADES. Half of the data is picked."
    return [shape, "", to_markdown(header, rows)]


def _case(one: Facts) -> str:
    return f"{one['solver']}, {one['partition']}" + (
        f", blocks of {one['block_size']}" if one.get("block_size") else ""
    )


def _imagenet_section(record: Facts) -> list[str]:
    own = record["settings"]
    shape = (
        f"The shape is N = {own['n']}, C = {own['classes']}, D = {own['features']}, with float16 rows. 10 % are "
        "picked, one class at a time"
    )
    trial = "" if own["solved_classes"] == own["classes"] else f"; a trial of {own['solved_classes']} classes"
    errors = ("gradient error", "gradient error of a random subset")
    header = ("solver", "time to generate rows", "time to solve", "peak of the process", *errors)
    rows = [
        (one["solver"], duration(one["generating"]), duration(one["solving"]), megabytes(one["peak"]))
        + (f"{one['error']:.3f}", f"{one['error_random']:.3f}")
        for one in record["results"]["passes"]
    ]
    return [f"{shape}{trial}.", "", to_markdown(header, rows)]


def _share_section(record: Facts) -> list[str]:
    own, results = record["settings"], record["results"]
    what = f"{own['network']}, {own['attack']}, {own['n']} images ({own['images']}), {own['dtype']}"
    spent = f"the attack takes {duration(results['attack'])}, and the gradient rows take {duration(results['rows'])}"
    rows = [
        (_case(one), f"{one['budget']:g}", duration(one["solve"]), f"{100 * one['share']:.2f} %")
        for one in results["shares"]
    ]
    return [
        f"{what}: {spent}.",
        "",
        to_markdown(("selection", "budget", "time to solve", "time of rows and solver relative to the attack"), rows),
    ]


SECTIONS = {
    "peers": _peers_section,
    "growth": _growth_section,
    "cifar-shape": _cifar_section,
    "imagenet-shape": _imagenet_section,
    "attack-share": _share_section,
}

HEADINGS = {
    "peers": "Comparison with other libraries",
    "growth": "Growth of time and memory",
    "cifar-shape": "A selection of CIFAR-10's size",
    "imagenet-shape": "A selection of ImageNet's size",
    "attack-share": "Time of a selection after its attack",
}

Gate = tuple[str, str, str, bool | None]
"""What is measured, the figure, its limit, and whether it holds; None where it is not measured in full."""


def _at_most(what: str, figure: float | None, limit: float, form: Callable[[float], str] = "{:.3g}".format) -> Gate:
    if figure is None:
        return what, "–", f"≤ {form(limit)}", None
    return what, form(figure), f"≤ {form(limit)}", bool(figure <= limit)


def _told(what: str, figure: float | None) -> Gate:
    """A figure without a limit."""
    return what, "–" if figure is None else f"{figure:.3g}", "none", None


def _find(record: Facts, solver: str, rows: str, k: int) -> dict[str, Facts]:
    """The peers of the cell with n = 5000; none if there is no such cell."""
    wanted = (rows, 5000, k)
    return next((own for cell, own in _cells(record, solver) if (cell["rows"], cell["n"], cell["k"]) == wanted), {})


def _ratio(own: dict[str, Facts], one: str, other: str, key: str = "seconds") -> float | None:
    return own[one][key] / own[other][key] if one in own and other in own else None


def _off(ratio: float | None) -> float | None:
    """How far a ratio is from 1."""
    return None if ratio is None else abs(ratio - 1)


def _peers_gates(record: Facts) -> list[Gate]:
    own, where = _find(record, "GradMatch", "synthetic", 500), "GradMatch, synthetic, n = 5000, k = 500"
    dense, gram = "sklearn, own Gram", "sklearn, our Gram"
    gates = [
        _at_most(
            f"{where}: time of the whole call relative to sklearn with its own Gram",
            _ratio(own, "ours, whole call", dense),
            1 / 4,
        ),
        _told(
            f"{where}: the same, if sklearn overwrites its Gram",
            _ratio(own, "ours, whole call", f"{dense}, overwriting"),
        ),
        _at_most(f"{where}: time of the solver relative to sklearn on our Gram", _ratio(own, "ours", gram), 1 / 3),
        _told(f"{where}: the same, if sklearn overwrites the Gram", _ratio(own, "ours", "sklearn, overwriting")),
        _at_most(
            f"{where}: time with non-negative weights relative to weights of any sign",
            _ratio(own, "ours", "ours, any sign"),
            1.3,
        ),
        _at_most(
            f"{where}: relative difference from sklearn's residual",
            _off(_ratio(own, "ours, any sign", gram, "residual")),
            1e-3,
        ),
    ]
    for kind, limit in {"synthetic": 1 / 5, "mnist": 1 / 3, "cifar10": 1 / 3}.items():
        own, where = _find(record, "CRAIG", kind, 2500), f"CRAIG, {TITLES[kind]}, n = 5000, k = 2500"
        gates.append(_at_most(f"{where}: time relative to submodlib's", _ratio(own, "ours", SUBMODLIB), limit))
        gates.append(
            _at_most(
                f"{where}: relative difference from submodlib's objective",
                _off(_ratio(own, "ours", SUBMODLIB, "objective")),
                1e-5,
            )
        )
    return gates


def _cifar_gates(record: Facts) -> list[Gate]:
    gates = []
    for one in record["results"]["cases"]:
        gates.append(_at_most(f"{_case(one)}: peak memory increase", one["above"], one["bound"], megabytes))
        known = one["estimate"] is not None and one["above"]
        off = abs(one["estimate"] / one["above"] - 1) if known else None
        gates.append(_at_most(f"{_case(one)}: relative error of advcore's memory estimate", off, 0.15))
    return gates


def _growth_gates(record: Facts) -> list[Gate]:
    """The call's time is held to k^2; its solve alone, whose refits take O(k^2) per pick, has no limit."""
    gates = []
    for one in record["results"]["over_k"]:
        where = f"GradMatch, {one['name']}, {TITLES[one['rows']]}: exponent of k in the time"
        gates.append(_at_most(f"{where}, whole call", one["exponents"]["seconds"], 2))
        gates.append(_told(f"{where}, solver alone", one["exponents"]["solve"]))
    return gates


def _imagenet_gates(record: Facts) -> list[Gate]:
    gates = []
    for one in record["results"]["passes"]:
        where, seconds = f"ImageNet's shape, {one['solver']}", one["generating"] + one["solving"]
        gates.append(_at_most(f"{where}: time to generate rows and solve", seconds, 1200, duration))
        gates.append(_at_most(f"{where}: peak of the process", one["peak"], 24e9, megabytes))
        gates.append(_at_most(f"{where}: peak memory increase", one["above"], one["bound"], megabytes))
    return gates


def _share_gates(record: Facts) -> list[Gate]:
    most = max(record["results"]["shares"], key=lambda one: one["share"])
    where = f"{_case(most)}, budget {most['budget']:g}, the largest of its table"
    return [_at_most(f"time of rows and solver relative to the attack: {where}", most["share"], 0.05)]


GATES = {
    "peers": _peers_gates,
    "growth": _growth_gates,
    "cifar-shape": _cifar_gates,
    "imagenet-shape": _imagenet_gates,
    "attack-share": _share_gates,
}


def plot(record: Facts, path: Path) -> None:
    """Time above, memory below, over n, k, C and D."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = record["settings"]["axes"]
    figure, panels = pyplot.subplots(2, len(axes), figsize=(9, 4.8), dpi=100, sharex="col", sharey="row")
    drawn = [
        ("GradMatch", "seconds", "above", "-"),
        ("GradMatch", "solve", None, ":"),
        ("CRAIG", "seconds", "above", "-"),
    ]
    for column, axis in enumerate(axes):
        for (solver, seconds, memory, style), color in zip(drawn, ("tab:blue", "tab:blue", "tab:orange"), strict=True):
            own = [p for p in record["results"]["points"] if (p["axis"], p["solver"]) == (axis, solver)]
            label = {"solve": f"{solver}, solve only"}.get(seconds, f"{solver}, whole call")
            for panel, key, scale in ((panels[0, column], seconds, 1), (panels[1, column], memory, 1e6)):
                known = [(p[axis], p[key] / scale) for p in own if key and p[key]]
                panel.loglog(
                    *zip(*known, strict=True), style, color=color, marker="o", ms=3, label=label
                ) if known else None
        panels[1, column].set_xlabel(axis)
        panels[1, column].set_xticks(axes[axis][::2], [str(value) for value in axes[axis][::2]])
        panels[1, column].minorticks_off()
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak increase, MB")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path)
    pyplot.close(figure)


def read() -> dict[str, Facts]:
    """Read the committed records, by part, in the order of the page."""
    paths = {part: RECORDS / "solvers" / f"{part}.json" for part in SECTIONS}
    return {part: read_json(path) for part, path in paths.items() if path.exists()}


def write() -> None:
    """Write page and plot from the committed records."""
    records = read()
    (BENCHMARKS / "solvers.md").write_text(f"{text(records)}\n")
    if "growth" in records:
        plot(records["growth"], BENCHMARKS / "solvers.png")
