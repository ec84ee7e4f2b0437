"""A suite's runs here or on a cluster: finished runs are not repeated, stopped ones continue, failed ones say why.

Its folder holds the runs' files (`RunFiles`), and the plan of the methods that depend on the data (`plan_methods`).
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from advcore.config.run_key import hash_settings, identify, list_differences
from advcore.config.schema import RunConfig
from advcore.errors import CheckpointError, SettingProblem, UserError, must, refuse_as_setting, require
from advcore.files import read_bytes, write_bytes, write_sealed
from advcore.register.plugins import warn_of_changes
from advcore.reporting import formats, page
from advcore.reporting.compare import robust_accuracy
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.reporting.suite import Results, Table, list_raw_rows
from advcore.reporting.suite import build_tables as suite_tables
from advcore.reporting.suite_page import build_suite_page
from advcore.run.places import check_path, check_writable, remove_empty
from advcore.suite import needs
from advcore.suite.layout import list_left_out
from advcore.suite.plan_methods import plan_methods, read_if_whole, save_plan
from advcore.suite.problems import find_column_problems
from advcore.suite.process import Outcome, Watcher, remove_working_files
from advcore.suite.runs import list_runs
from advcore.suite.suite import Run, Suite, load, resolve_methods

_FAILURE = "advcore-failure-1"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """A suite that has been checked.

    folder : of its records.
    methods : resolved settings of all methods, added baselines included.
    runs : each method with each seed.
    """

    suite: Suite
    folder: Path
    methods: dict[str, RunConfig] = field(repr=False)
    runs: list[Run] = field(repr=False)


@refuse_as_setting()
def check_suite(file: Path, size: str | None = None, overrides: Sequence[str] = (), out: Path | None = None) -> Bench:
    """Load a suite, check it completely, match costs and add its baselines.

    Reads data only where costs or baselines have to be planned. Raises ConfigError with all problems, and where
    `overrides` would mix other settings with the records in the suite's usual folder.
    """
    changed_settings = [override.partition("=")[0] for override in overrides]
    require(*map(_find_seed_problem, changed_settings))
    suite = load(file, size, overrides)
    methods = resolve_methods(suite)
    require(_find_folder_problem(changed_settings, out), needs.find_split_problem(suite, methods))
    require(*find_column_problems(suite.columns, methods))
    folder = (out or suite.records) / (size or "")
    check_path(folder)
    methods = plan_methods(suite, methods, folder)
    return Bench(suite, folder, methods, list_runs(suite, methods, folder))


def _find_seed_problem(setting: str) -> SettingProblem | None:
    if setting not in ("seed", "name"):
        return None
    fault = "has no effect in a suite, which sets its own seeds and names"
    return SettingProblem(f"--set {setting}", fault, way_out="write them into the file")


def _find_folder_problem(settings: list[str], out: Path | None) -> SettingProblem | None:
    """Return the problem of overrides whose records would be mixed with those of the suite's settings."""
    harmless = (*ELSEWHERE, "data.path")  # of a path, only the last part is compared with the records
    other = [setting for setting in settings if not is_among(setting, harmless)]
    if not other or out is not None:
        return None
    return must(
        "--out", f"given with --set {other[0]}", None, "the suite's own folder holds records of its unchanged settings"
    )


def collect_results(bench: Bench) -> Results:
    """Read the record of each run, or why it failed.

    Raises ConfigError with every record that belongs to other settings, or to an unfinished run.
    """
    without = list_left_out(bench.suite.added)
    results = Results(reference=bench.suite.reference, without=without, columns=bench.suite.columns)
    differing: dict[Path, list[str]] = {}
    used: dict[str, dict] = {}
    for run in bench.runs:
        files = run.locate_files(bench.folder)
        path = files.record
        failure = read_if_whole(files.failure, _FAILURE)
        hash_of_run = hash_settings(identify(run.config))
        if path.exists():
            record = RunRecord.load(path)
            used |= {entry["sha256"]: entry for entry in record.plugins}
            differing[path] = list_differences(record, run.config)
            if not differing[path] and not record.finished:
                differing[path] = ["finished: False -> True"]
            results.add(run.method, run.seed, record, hash=hash_of_run)
        else:
            is_current = failure.get("settings", hash_of_run) == hash_of_run
            results.add(run.method, run.seed, None, error=failure.get("error") if is_current else None)
    require(*_describe_differences(differing))
    warn_of_changes(used.values())
    return results


def _describe_differences(differing: dict[Path, list[str]]) -> list[str]:
    """Return one line for all records that differ from their run's settings in the same way."""
    paths_of: dict[str, list[Path]] = {}
    for path, lines in differing.items():
        if lines:
            rest = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
            paths_of.setdefault("; ".join(lines[:3]) + rest, []).append(path)
    problems = []
    for difference, paths in paths_of.items():
        others = f", and {len(paths) - 1} more," if len(paths) > 1 else ""
        problems.append(
            f"{paths[0]}{others} must be of the suite's settings, got others ({difference}); "
            "remove it, or give another folder with --out"
        )
    return problems


@refuse_as_setting()
def list_pending(bench: Bench, part: list[Run]) -> list[Run]:
    """Return the runs of `part` that have no record yet.

    Raises ConfigError where a record, or a run that has started, belongs to other settings: neither can be continued.
    """
    collect_results(bench)
    pending = [run for run in part if not run.locate_files(bench.folder).record.exists()]
    differing = {}
    for run in pending:
        files = run.locate_files(bench.folder)
        # A missing or damaged record is not a problem: the run itself looks at its states when it continues.
        with contextlib.suppress(CheckpointError):
            differing[files.folder] = list_differences(RunRecord.load(files.begun_record), run.config)
    problems = needs.find_other_scores(needs.list_scorings(bench.suite, bench.methods, pending))
    weights_gone = needs.find_weights_gone(bench.folder, bench.runs, pending)
    require(*_describe_differences(differing), *weights_gone, *problems)
    for name in ("", "runs", "failed"):
        check_writable(bench.folder / name)
    return pending


def check_data(pending: list[Run]) -> None:
    """Count the examples of each data set once. Raises DataError for a data set that is not there."""
    for data in {str(run.config.data): run.config.data for run in pending}.values():
        data.sketch()


def close(run: Run, folder: Path, outcome: Outcome) -> Outcome:
    """Move the record of a finished run to the others, or save why a run failed; return the outcome to show."""
    files = run.locate_files(folder)
    if outcome.kind == "done":
        record = RunRecord.load(files.begun_record)
        write_bytes(files.record, read_bytes(files.begun_record))
        remove_working_files(run, folder)
        files.failure.unlink(missing_ok=True)
        remove_empty([files.failure.parent])
        return Outcome("done", _summarise_record(record), 0, outcome.seconds)
    if outcome.kind == "failed":
        settings = hash_settings(identify(run.config))
        facts = {"method": run.method, "seed": run.seed, "settings": settings, **asdict(outcome)}
        write_sealed(files.failure, facts, _FAILURE)
    return outcome


def _summarise_record(record: RunRecord) -> str:
    evaluation = record.final["last"]
    robustness = f", robust {robust_accuracy(record):.1f} %" if evaluation["attacks"] else ""
    return f"clean {100 * evaluation['clean']['accuracy']:.1f} %{robustness} at cost {record.relative_cost:.2f}"


def execute(
    bench: Bench, pending: list[Run], engine: Callable[..., None], *, seconds: float, watcher: Watcher | None = None
) -> dict[str, list[Run]]:
    """Do the pending runs by an engine (`engines.py`) until `seconds` are over.

    Returns the runs by how they ended: done, failed, stopped, busy. Those that did not begin count as stopped.
    """
    until = time.monotonic() + seconds
    watcher = watcher or Watcher()
    ended: dict[str, list[Run]] = {"done": [], "failed": [], "stopped": [], "busy": []}
    save_plan(bench.suite, bench.methods, bench.folder)
    if pending:
        # A run that leaves nothing removes the folders that it made, while another one may be writing in this one.
        (bench.folder / "runs").mkdir(parents=True, exist_ok=True)
    watching = replace(watcher, on_end=partial(_on_end, bench.folder, ended, watcher))
    scorings = needs.list_scorings(bench.suite, bench.methods, pending)
    for run, outcome in needs.list_unscored(pending, needs.make_scores(scorings, until, watcher)):
        watcher.on_start(run)
        watching.on_end(run, outcome)
    first, others = needs.split_by_needs(pending)
    engine(first, bench.folder, until, watching)
    # Of the others, those whose weights are not there yet wait for the next command.
    others = [run for run in others if needs.has_weights(run)]
    if others:
        engine(others, bench.folder, until, watching)
    slugs = {run.slug for runs in ended.values() for run in runs}
    ended["stopped"] += [run for run in pending if run.slug not in slugs]
    return ended


def _on_end(folder: Path, ended: dict[str, list[Run]], watcher: Watcher, run: Run, outcome: Outcome) -> None:
    try:
        outcome = close(run, folder, outcome)
    except UserError as error:  # a record that cannot be read
        outcome = close(run, folder, Outcome("failed", str(error), 3, outcome.seconds))
    ended[outcome.kind].append(run)
    watcher.on_end(run, outcome)


def _compose_title(bench: Bench) -> str:
    return bench.suite.title + (f", size {bench.suite.size}" if bench.suite.size else "")


def build_tables(bench: Bench, results: Results) -> list[Table]:
    """Return the tables of the last and of the best checkpoint."""
    return suite_tables(results, _compose_title(bench))


def write_tables(bench: Bench, results: Results) -> list[Path]:
    """Write table.md, .tex, .csv and .html into the suite's folder, and return their paths.

    The CSV has one row per run, with the numbers of the records.
    """
    tables = build_tables(bench, results)
    contents = {
        "md": f"# {bench.suite.name}\n\n" + "\n".join(table.markdown() for table in tables),
        "tex": "\n".join(map(formats.to_latex, tables)),
        "csv": formats.to_csv(*list_raw_rows(results, bench.suite.name, bench.suite.size)),
        "html": page.render(build_suite_page(_compose_title(bench), tables, results)),
    }
    files = {bench.folder / f"table.{suffix}": text.encode() for suffix, text in contents.items()}
    for path, content in files.items():
        write_bytes(path, content)
    return list(files)
