"""A suite's runs on this machine or a cluster: what is done is kept, what was stopped goes on, what failed says so.

Of a suite's folder: SLUG.json is a run's record; runs/SLUG its states until then, runs/SLUG.log what it says;
failed/SLUG.json why it did not come to its end; baselines.json what the suite added by itself.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from advcore.errors import CheckpointError, UserError, before_work, must, require
from advcore.files import read_bytes, read_sealed, write_bytes, write_sealed
from advcore.reporting.compare import robust
from advcore.reporting.formats import csv_text, latex
from advcore.reporting.page import html
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.reporting.suite import Results, Table, raw
from advcore.reporting.suite import tables as suite_tables
from advcore.reporting.suite_page import suite_page
from advcore.runner.attempt import Outcome, Watcher, tidy
from advcore.runner.baselines import with_baselines
from advcore.runner.config import from_dict, resolved
from advcore.runner.identity import differences, identity, settings_hash
from advcore.runner.places import check_path, check_writable
from advcore.runner.schema import RunConfig
from advcore.runner.suite import Run, Suite, configs, load, runs
from advcore.runner.suite_file import BASELINES, BASELINES_FILE

_BASELINES, _UNSEALED_BASELINES = "advcore-baselines-2", "advcore-baselines-1"
_FAILURE = "advcore-failure-1"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """A suite that is checked and ready: its folder, the settings of all methods, added baselines too, and its runs."""

    suite: Suite
    folder: Path
    methods: dict[str, RunConfig] = field(repr=False)
    runs: list[Run] = field(repr=False)


@before_work()
def prepare(file: Path, size: str | None = None, overrides: Sequence[str] = (), out: Path | None = None) -> Bench:
    """The suite, with its baselines, checked whole. Reads data only where baselines have to be planned.

    Raises ConfigError with all problems; also where `overrides` would mix other settings with a suite's own records.
    """
    require(*(_own_problem(override.partition("=")[0]) for override in overrides))
    suite = load(file, size, overrides)
    methods = configs(suite)
    require(_trial_problem(overrides, out))
    folder = (out or suite.records) / (size or "")
    check_path(folder)
    methods = _with_baselines(suite, methods, folder)
    return Bench(suite, folder, methods, runs(suite, methods))


def _own_problem(path: str) -> str | None:
    if path not in ("seed", "name"):
        return None
    return f"--set {path} changes nothing in a suite: its seeds and names are its own; write them into the file"


def _trial_problem(overrides: Sequence[str], out: Path | None) -> str | None:
    paths = [override.partition("=")[0] for override in overrides]
    free = (*ELSEWHERE, "data.path")  # of which the last part is compared with the records'
    other = [path for path in paths if not is_among(path, free)]
    if not other or out is not None:
        return None
    return must(
        "--out", f"given with --set {other[0]}", None, "the suite's own folder keeps records of its own settings"
    )


def _with_baselines(suite: Suite, methods: dict[str, RunConfig], folder: Path) -> dict[str, RunConfig]:
    """As planned before in this folder for the same methods; else planned now."""
    kept = _read(folder / BASELINES_FILE, _BASELINES, _UNSEALED_BASELINES)
    if not suite.added or kept.get("of") == _basis(suite, methods):
        return methods | {name: from_dict(raw) for name, raw in kept.get("methods", {}).items() if suite.added}
    check_writable(folder)  # before any data are read
    sizes: dict[str, tuple[int, int]] = {}

    def counts(config: RunConfig) -> tuple[int, int]:
        key = str(config.data)
        if key not in sizes:
            sizes[key] = config.data.counts()
        return sizes[key]

    return with_baselines(methods, suite.reference, suite.added, counts)


def _basis(suite: Suite, methods: dict[str, RunConfig]) -> str:
    """A hash of what baselines follow from."""
    own = {name: identity(config) for name, config in methods.items()}
    return settings_hash({"methods": own, "added": suite.added, "reference": suite.reference})


def _keep_baselines(bench: Bench) -> None:
    """So that the same command, and `--table` where the data are not, has the same methods."""
    if bench.suite.added:
        own = {name: config for name, config in bench.methods.items() if name in bench.suite.methods}
        added = {name: resolved(config) for name, config in bench.methods.items() if name not in own}
        kept = {"of": _basis(bench.suite, own), "methods": added}
        write_sealed(bench.folder / BASELINES_FILE, kept, _BASELINES)


def _read(path: Path, schema: str, unsealed: str) -> dict:
    """Read sealed JSON. Empty where it is missing, and, with a warning, where it is damaged: what it holds can be
    found anew."""
    if not os.path.exists(path):
        return {}
    try:
        return read_sealed(path, schema, unsealed=unsealed)
    except CheckpointError as error:
        log.warning("%s; it is not used", error)
        return {}


def results(bench: Bench) -> Results:
    """What there is of each run. Raises ConfigError, with every record that is of other settings, or unfinished."""
    without = [BASELINES[name] for name in bench.suite.without]
    found, differ = Results(reference=bench.suite.reference, without=without), {}
    for run in bench.runs:
        path = bench.folder / f"{run.slug}.json"
        failed = _read(bench.folder / "failed" / path.name, _FAILURE, "")
        wanted = settings_hash(identity(run.config))
        if path.exists():
            record = RunRecord.load(path)
            differ[path] = differences(record, run.config) or ([] if record.finished else ["finished: False -> True"])
            found.add(run.method, run.seed, record, hash=wanted)
        else:
            error = failed.get("error") if failed.get("settings", wanted) == wanted else None
            found.add(run.method, run.seed, None, error=error)
    require(*_others(differ))
    return found


def _others(differ: dict[Path, list[str]]) -> list[str]:
    """A line for all that differ alike."""
    alike: dict[str, list[Path]] = {}
    for path, lines in differ.items():
        if lines:
            some = "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
            alike.setdefault(some, []).append(path)
    way_out = "remove it, or give another folder with --out"
    return [
        f"{paths[0]}{f', and {len(paths) - 1} more,' if paths[1:] else ''} must be of the suite's settings, got others "
        f"({some}); {way_out}"
        for some, paths in alike.items()
    ]


@before_work()
def pending(bench: Bench, part: list[Run]) -> list[Run]:
    """The runs of `part` without a record. Raises ConfigError where a record, or a run that was begun, is of other
    settings: neither is gone on with."""
    results(bench)
    differ, left = {}, [run for run in part if not (bench.folder / f"{run.slug}.json").exists()]
    for run in left:
        begun = bench.folder / "runs" / run.slug / "record.json"
        with contextlib.suppress(CheckpointError):  # missing, or damaged: the run's states know, and it looks at them
            differ[begun.parent] = differences(RunRecord.load(begun), run.config)
    require(*_others(differ))
    for name in ("", "runs", "failed"):
        check_writable(bench.folder / name)
    return left


def check_data(left: list[Run]) -> None:
    """Read how many examples there are, of each data set once. Raises DataError where one is not there."""
    known = set()
    for run in left:
        if str(run.config.data) not in known:
            known.add(str(run.config.data))
            run.config.data.counts()


def close(run: Run, folder: Path, outcome: Outcome) -> Outcome:
    """Put the record of a run that is done beside the others; note why one failed."""
    where, failed = folder / "runs" / run.slug, folder / "failed" / f"{run.slug}.json"
    if outcome.kind == "done":
        record = RunRecord.load(where / "record.json")
        write_bytes(folder / f"{run.slug}.json", read_bytes(where / "record.json"))
        tidy(run, folder)
        failed.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in it, or it never was
            failed.parent.rmdir()
        return Outcome("done", _headline(record), 0, outcome.seconds)
    if outcome.kind == "failed":
        settings = settings_hash(identity(run.config))
        facts = {"method": run.method, "seed": run.seed, "settings": settings, **asdict(outcome)}
        write_sealed(failed, facts, _FAILURE)
    return outcome


def _headline(record: RunRecord) -> str:
    found = record.final["last"]
    told = f", robust {robust(record):.1f} %" if found["attacks"] else ""
    return f"clean {100 * found['clean']['accuracy']:.1f} %{told} at cost {record.relative_cost:.2f}"


def execute(
    bench: Bench, left: list[Run], engine: Callable[..., None], *, seconds: float, watcher: Watcher | None = None
) -> dict[str, list[Run]]:
    """Every run of `left` by an engine (`engines.py`), until `seconds` are over. Returns the runs by how they ended:
    done, failed, stopped, busy; those that did not begin count as stopped."""
    watcher, until = watcher or Watcher(), time.monotonic() + seconds
    ended: dict[str, list[Run]] = {"done": [], "failed": [], "stopped": [], "busy": []}

    def on_end(run: Run, outcome: Outcome) -> None:
        try:
            outcome = close(run, bench.folder, outcome)
        except UserError as error:  # a record that cannot be read
            outcome = close(run, bench.folder, Outcome("failed", str(error), 3, outcome.seconds))
        ended[outcome.kind].append(run)
        watcher.on_end(run, outcome)

    _keep_baselines(bench)
    engine(left, bench.folder, until, replace(watcher, on_end=on_end))
    known = {run.slug for runs in ended.values() for run in runs}
    ended["stopped"] += [run for run in left if run.slug not in known]
    return ended


def _title(bench: Bench) -> str:
    return bench.suite.title + (f", size {bench.suite.size}" if bench.suite.size else "")


def tables(bench: Bench, found: Results) -> list[Table]:
    """Of the last and of the best checkpoint."""
    return suite_tables(found, _title(bench))


def write_tables(bench: Bench, found: Results) -> list[Path]:
    """table.md, .tex, .csv and .html in the suite's folder; the CSV has a row a run, with the records' own numbers."""
    made = tables(bench, found)
    contents = {
        "md": f"# {bench.suite.name}\n\n" + "\n".join(one.markdown() for one in made),
        "tex": "\n".join(map(latex, made)),
        "csv": csv_text(*raw(found, bench.suite.name, bench.suite.size)),
        "html": html(suite_page(_title(bench), made)),
    }
    paths = {end: bench.folder / f"table.{end}" for end in contents}
    for end, path in paths.items():
        write_bytes(path, contents[end].encode())
    return list(paths.values())
