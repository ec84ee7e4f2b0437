"""Arguments, printing, exit codes; no science. torch is imported inside the commands."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from advcore.errors import AdvcoreError, ConfigError, UserError, at_least, in_a_line, must, one_of, positive, require
from advcore.heap import keep_freed_memory
from advcore.signals import Stopped, caught
from advcore.version import __version__

app = typer.Typer(
    name="advcore",
    help="Adversarial training on less: weighted coresets chosen at the attacked points.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="A run file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one setting of the run file; repeatable.")
]
Checkpoint = Annotated[str, typer.Option(help="last, best, or a .safetensors file.")]


@app.command()
def run(
    file: RunFile,
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME-sSEED by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped, in its folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")] = False,
) -> None:
    """Train, select and evaluate as FILE says, and write a record."""
    from advcore import distributed
    from advcore.reporting.tables import closing
    from advcore.runner import run as runner
    from advcore.runner.config import load
    from advcore.runner.folder import target
    from advcore.runner.prepare import prepare
    from advcore.training.trainer import refuse_processes

    job = distributed.launchers()
    with distributed.together():
        config = load(file, set_ or ())
        path, resume = target(config, out, overwrite, resume, job)
        prepared = prepare(config)
        refuse_processes(prepared.trainer)
    with _progress(len(prepared.trainer.schedule.plan())) as reporter:
        record = runner.run(prepared, path, reporter, resume=resume, job=job)
    if not distributed.first():
        return
    _table(f"{record.name}, seed {config.seed}: {record.plan}", ("", ""), closing(record))
    typer.echo(f"record: {path / 'record.json'}")


@app.command()
def select(
    file: RunFile,
    checkpoint: Annotated[Path, typer.Option(help="A .safetensors file of the model to attack.")],
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(help="Where the coreset goes (.npz, and a JSON beside it).")] = Path(
        "coreset.npz"
    ),
) -> None:
    """Choose one coreset with a trained model; indices count in the whole training set."""
    from advcore import distributed
    from advcore.runner import select as selecting
    from advcore.runner.config import load
    from advcore.runner.prepare import prepare
    from advcore.runner.weights import load_state

    with distributed.together():
        config = load(file, set_ or ())
        if config.selection is None:
            raise ConfigError(must("selection", "set in a file that is to select", None))
        _check_arrays_file("--out", out)
        prepared = prepare(config)
        load_state(prepared.model, checkpoint)
    with _progress(1) as reporter:
        coreset = selecting.select(prepared, reporter)
    if not distributed.first():
        return
    path = coreset.save(out)
    facts = selecting.summary(coreset)
    _table(f"{len(coreset)} of {coreset.num_examples} examples", ("", ""), [(k, str(v)) for k, v in facts.items()])
    typer.echo(f"coreset: {path}")


@app.command()
def score(
    file: RunFile,
    score: Annotated[
        str | None, typer.Option(help="input_norm (AIGN), el2n, grand, ...; by default what the file's solver reads.")
    ] = None,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(help="Where the scores go (.npz, and a JSON beside it).")] = Path("scores.npz"),
) -> None:
    """Train FILE's model on all data and score every example, for solvers that name the file as `scores`."""
    from advcore import distributed
    from advcore.gradients import GRADIENTS
    from advcore.runner import select as selecting
    from advcore.runner.config import load
    from advcore.selection.scores import Scores

    with distributed.together():
        config = load(file, set_ or ())
        known = [name for name, gradient in GRADIENTS.items() if gradient.one_number]
        reads = config.selection.solver.reads if config.selection else None
        name = score or (reads if reads in known else "input_norm")
        require(one_of("--score", name, known))
        _check_arrays_file("--out", out)
    with _progress(config.training.epochs) as reporter:
        scores = selecting.score(config, name, reporter)
    if not distributed.first():
        return
    path = scores.save(out)
    scores = Scores.load(path)
    low, middle, high = (float(scores.values.quantile(q)) for q in (0.0, 0.5, 1.0))
    rows = [("score", name), ("examples", str(len(scores.values))), ("epochs", str(scores.epochs))]
    rows += [("lowest, median, highest", f"{low:.4g}, {middle:.4g}, {high:.4g}"), ("sha256", scores.sha256)]
    _table(f"{config.name}: scores", ("", ""), rows)
    typer.echo(f"scores: {path}")


def _check_arrays_file(option: str, path: Path) -> None:
    """Raise ConfigError unless arrays can be written there: the file, and a JSON beside it."""
    from advcore.runner.folder import check_writable

    require(None if path.suffix == ".npz" else must(option, "a file that ends in .npz", str(path)))
    check_writable(path, option, file=True)


def _check_different(*paths: Path | None) -> None:
    """Raise ConfigError where one file would be written over another."""
    given = [path.resolve() for path in paths if path]
    told = ", ".join(path.name for path in given)
    require(None if len({*given}) == len(given) else must("--out, --state and --examples", "different files", told))


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run's folder, or a run file.")],
    checkpoint: Checkpoint = "last",
    suite: Annotated[str, typer.Option(help="seen (the file's attacks), unseen, or autoattack.")] = "seen",
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Also write the accuracies to this JSON file.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Keep each image's verdicts here (.npz); a stopped evaluation goes on from it.")
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="Also write the adversarial examples here (.npz).")] = None,
) -> None:
    """Clean and robust accuracy of a checkpoint on the test set, and what makes the numbers untrustworthy."""
    from advcore import distributed
    from advcore.evaluation.suites import SUITES
    from advcore.files import save_arrays, write_json
    from advcore.reporting.record import RunRecord
    from advcore.reporting.tables import accuracies
    from advcore.runner import weights
    from advcore.runner.config import from_dict, load, overridden
    from advcore.runner.folder import check_writable
    from advcore.runner.prepare import prepare
    from advcore.runner.run import final, to_evaluate

    with distributed.together():
        require(one_of("--suite", suite, SUITES))
        if target.is_dir():
            config = from_dict(overridden(RunRecord.load(target / "record.json").config, set_ or ()))
        else:
            config = load(target, set_ or ())
        path = weights.checkpoint(target, checkpoint)
        _check_different(out, state, *(() if examples is None else (examples, examples.with_suffix(".json"))))
        for option, written in (("--out", out), ("--state", state), ("--examples", examples)):
            if written:
                check_writable(written, option, file=True)
        config = to_evaluate(config, suite)
        prepared = prepare(config)
        weights.load_state(prepared.model, path)
    with _progress(1) as reporter:
        how = {"state": state, "keep_examples": examples is not None}
        evaluation = final(prepared, None, reporter, path.stem, **how)
    if not distributed.first():
        return
    found = evaluation.as_dict()
    _table(f"{config.name}: {path}", ("", ""), accuracies(path.stem, found))
    if examples:
        arrays = {f"x_adv_{key}": own.numpy() for key, own in evaluation.examples.items()}
        arrays |= {f"right_{key}": own.numpy() for key, own in evaluation.verdicts.items()}
        save_arrays(examples, arrays, {"attacks": found["attacks"]})
    if out:
        write_json(out, {"checkpoint": str(path), **found})


@app.command()
def report(
    target: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run's folder, or a folder of runs or records.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; report.html in the folder by default.")] = None,
    images: Annotated[int, typer.Option(help="How many of the highest and of the lowest weights to show.")] = 8,
) -> None:
    """One self-contained HTML page of a run, finished or not, or of several runs beside each other."""
    from advcore.runner import report as pages

    require(at_least("--images", images, 0, most=pages.MOST_IMAGES))
    typer.echo(f"report: {pages.report(target, out, images)}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder; the run may be unfinished.")],
    checkpoint: Annotated[str, typer.Option(help="last or best.")] = "best",
    out: Annotated[Path | None, typer.Option(help="A new folder; exports/RUN-CHECKPOINT by default.")] = None,
    format_: Annotated[str, typer.Option("--format", help="all, model, or coresets.")] = "all",
    parquet: Annotated[bool, typer.Option("--parquet", help="Write the coresets as parquet, too.")] = False,
    samples: Annotated[
        int, typer.Option(help="So many test images go along, to compute their accuracy anew; 0 for none.")
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")] = False,
) -> None:
    """Write RUN's model as safetensors with a card and a loader that needs no advcore, and its coresets."""
    from advcore.runner import export as exporting

    require(
        one_of("--checkpoint", checkpoint, ("last", "best")),
        one_of("--format", format_, exporting.FORMATS),
        at_least("--samples", samples, 0),
    )
    how = {"checkpoint": checkpoint, "kind": format_, "parquet": parquet, "samples": samples, "overwrite": overwrite}
    found = exporting.export(folder, out, **how)
    for note in found.notes:
        typer.echo(note)
    for file in sorted(path for path in found.folder.rglob("*") if path.is_file()):
        typer.echo(f"{file.stat().st_size:>12,}  {file}")
    typer.echo(f"export: {found.folder}")


@app.command(name="list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="attacks, objectives, solvers, ...; all by default.")] = None,
) -> None:
    """What can stand as a `name` in a run file."""
    from advcore.gradients import GRADIENTS
    from advcore.runner.schema import TABLES
    from advcore.selection.partition import PARTITIONS

    tables = TABLES | {"partitions": PARTITIONS, "gradients": GRADIENTS}
    require(one_of("kind", kind, tables) if kind else None)
    rows = [
        (name, entry, _first_line(thing))
        for name, table in tables.items()
        if kind in (None, name)
        for entry, thing in table.items()
    ]
    _table("", ("kind", "name", "what it is"), rows)


@app.command()
def check(
    file: RunFile,
    set_: Overrides = None,
    cost: Annotated[
        float | None, typer.Option(help="Also print settings whose relative cost is this, such as 0.2.")
    ] = None,
) -> None:
    """Validate FILE and its data, print the plan, its cost and what it holds in memory; run nothing."""
    from advcore.reporting.tables import reference_told
    from advcore.runner.build import offered
    from advcore.runner.config import load
    from advcore.runner.prepare import prepare

    require(None if cost is None else positive("--cost", cost, "it is relative to full training"))
    prepared = prepare(load(file, set_ or ()))
    plan = prepared.plan
    found = [] if cost is None else offered(prepared.config, prepared.data, cost)
    rows = [
        ("plan", plan.text),
        ("passes, forward and backward", f"{round(plan.relative_cost * plan.reference.units):,}"),
        (
            "reference",
            f"{reference_told(vars(plan.reference))}: {plan.reference.units:,} passes",
        ),
        *((f"memory, {name}", held) for name, held in plan.memory.items()),
    ]
    _table(str(file), ("", ""), rows)
    if found:
        header = ("attack.steps", "selection.attack.steps", "selection.period", "minibatch", "selection.budget", "cost")
        of = "" if prepared.config.selection else ", on random subsets"
        _table(f"at most {cost:g} of full training{of}", header, [_offer_cells(offer) for offer in found])
        typer.echo("where the steps are not the file's own, the attack's step_size is null")
        if getattr(prepared.config.attack, "start", "remembered") != "remembered":
            typer.echo("attack.start: remembered takes no more passes (docs/savings.md)")


def _offer_cells(offer) -> tuple[str, ...]:
    from advcore.minibatch import RULES
    from advcore.types import name_in

    rule = "null" if offer.rule is None else f"{name_in(RULES, offer.rule)}, {offer.rule.describe()}"
    selects = [offer.selection_steps, "null" if offer.period is None else offer.period]
    whole = offer.budget == 1
    cells = [offer.steps, *(["–", "–"] if whole else selects), rule, "all data" if whole else f"{offer.budget:g}"]
    return (*("–" if cell is None else str(cell) for cell in cells), f"{offer.cost:.3f}")


@app.command()
def bench(
    file: Annotated[Path, typer.Argument(metavar="SUITE", help="A suite (YAML), as docs/bench.md describes.")],
    size: Annotated[str | None, typer.Option(help="One of the suite's sizes.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes beside each other; they share the threads.")] = 1,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts, from 1.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop then, saved; the same command goes on.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of records; the suite's own by default.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    set_: Overrides = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing; write the tables as files, too.")] = False,
) -> None:
    """Run every method of SUITE with every seed, with the baselines at its costs, and compare them in a table."""
    from advcore.runner import bench as runner
    from advcore.runner.suite import shard as part_of

    require(at_least("--jobs", jobs, 1, most=4096), None if seconds is None else positive("--seconds", seconds))
    suite = runner.prepare(file, size, set_ or (), out)
    part = part_of(suite.runs, shard)
    failed = []
    if not table:
        from advcore.runner import engines

        work = engines.engine(engine, jobs)
        left = runner.pending(suite, part)
        if left and engine == "local":
            runner.check_data(left)
        typer.echo(f"{suite.folder}: {len(part)} runs, {len(part) - len(left)} done before")
        with _watcher(len(left)) as watcher:
            ended = runner.execute(
                suite, left, work, seconds=float("inf") if seconds is None else seconds, watcher=watcher
            )
        failed = ended["failed"]
        _tell_rest(ended)
    found = runner.results(suite)
    for one in runner.tables(suite, found):
        whole = [row for row in one.rows if len(row) > 1]
        _table(one.caption, tuple(one.header), whole)
        typer.echo("\n".join([*(row[0] for row in one.rows if len(row) == 1), *one.notes]))
    if table:
        typer.echo("\n".join(str(path) for path in runner.write_tables(suite, found)))
    if failed:
        raise typer.Exit(3)


def _tell_rest(ended: dict) -> None:
    if ended["busy"]:
        typer.echo(f"{len(ended['busy'])} runs are done by another process")
    if ended["stopped"]:
        typer.echo(f"the time is up, {len(ended['stopped'])} runs are left; the same command goes on")
    if ended["failed"]:
        typer.echo(f"{len(ended['failed'])} runs failed; the same command tries them again")


@contextlib.contextmanager
def _watcher(total: int) -> Iterator:
    """Tells of a suite's runs: under a terminal a bar and the last line of each, else a line a start and an end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from advcore.runner.attempt import Watcher

    console = Console(highlight=False, soft_wrap=True)
    live, count, tasks = console.is_terminal, 0, {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        whole = bar.add_task("runs", total=total)

        def on_start(run) -> None:
            tasks[run.slug] = bar.add_task(_run_name(run), total=None)
            if not live:
                console.print(f"{_run_name(run)}: begun", markup=False)

        def on_line(run, line: str) -> None:
            bar.update(tasks[run.slug], description=f"{_run_name(run)}: {line[:70]}")

        def on_end(run, outcome) -> None:
            nonlocal count
            count += outcome.kind in ("done", "failed")
            bar.remove_task(tasks.pop(run.slug))
            bar.update(whole, completed=count)
            told = f"{outcome.kind}{f' in {outcome.seconds:,.0f} s' if outcome.seconds else ''}"
            told += f": {outcome.error}" if outcome.error else ""
            bar.console.print(f"[{count}/{total}] {_run_name(run)}: {told}", markup=False)

        yield Watcher(on_start=on_start, on_line=on_line, on_end=on_end)


def _run_name(run) -> str:
    return f"{run.method}, seed {run.seed}"


@app.command()
def doctor() -> None:
    """What is installed, what is not, and what this machine has."""
    from advcore.runner.doctor import findings

    rows = findings()
    _table(f"advcore {__version__}", ("", ""), rows)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """The console script: exit 0 done, 2 the user's mistake, 3 the run stopped itself, 130 Ctrl-C, 143
    SIGTERM, 1 our bug."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    keep_freed_memory()  # this process is ours alone
    try:
        with caught(), _joined():
            code = app(standalone_mode=False)
    except Stopped as stopped:
        _leave(_fail([f"stopped by {stopped}{_goes_on()}"], 128 + stopped.number, shared=True))
    except UserError as error:
        code = _fail(error.problems, 2, shared=getattr(error, "shared", False))
    except AdvcoreError as error:
        code = _fail([str(error)], 3, shared=getattr(error, "shared", False))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = error.filename or "the disk"
        code = _fail([f"{where}: {error.strerror}{_goes_on()}"], 3)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error
            code = _fail([error.format_message()], 2)
        elif _ran_out(error):
            code = _fail([f"memory ran out: {in_a_line(error)}; use smaller batches, data or model{_goes_on()}"], 3)
        else:
            raise
    if code == 130:  # typer may have turned Ctrl-C into its exit code already
        _fail([f"interrupted{_goes_on()}"], code)
    _leave(code or 0)


def _leave(code: int) -> None:
    """The process's end. One of several ends at once: torch may abort where it takes down what its threads still use,
    and another exit code would be told."""
    if _rank() is None:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, a limit on a file's size


def _goes_on() -> str:
    """How to go on, where that is possible."""
    how = {"run": "the same command with --resume goes on", "bench": "the same command goes on"}.get(
        "".join(sys.argv[1:2])
    )
    return f"; what is done is kept, and {how}" if how else ""


_SHARED = ("run", "select", "score", "evaluate")


@contextlib.contextmanager
def _joined() -> Iterator[None]:
    """One of the processes that torchrun started, of which the first alone talks."""
    if _rank() is None:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns of what is asked for on purpose
    from advcore import distributed

    with contextlib.ExitStack() as held:
        if _rank():
            logging.getLogger("advcore").setLevel(logging.ERROR)
            held.enter_context(contextlib.redirect_stdout(held.enter_context(open(os.devnull, "w"))))
        held.enter_context(distributed.joined())
        yield


def _rank() -> int | None:
    """The number of this process among several; None where it is the only one, or the command is done alone."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and sys.argv[1:2] in ([name] for name in _SHARED)
    return int(os.environ["RANK"]) if several and "RANK" in os.environ else None


def _ran_out(error: Exception) -> bool:
    from advcore.pieces import ran_out

    return ran_out(error)


def _fail(lines, code: int, *, shared: bool = False) -> int:
    """Tell why on stderr; what all processes know is told by the first."""
    rank = _rank()
    for line in () if shared and rank else lines:
        typer.echo(f"advcore: {f'process {rank}: ' if rank else ''}{line}", err=True)
    return code


def _first_line(thing: object) -> str:
    return (getattr(thing, "about", None) or thing.__doc__ or "").strip().splitlines()[0].rstrip(".:")


def _table(title: str, header: tuple[str, ...], rows) -> None:
    from rich.console import Console
    from rich.table import Table

    if title:
        typer.echo(title)
    table = Table(show_header=any(header))
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell).replace("[", "\\[") for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)


@contextlib.contextmanager
def _progress(epochs: int) -> Iterator:
    """A reporter that draws a bar under a terminal and prints plain lines otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from advcore.runner.prepare import Reporter

    if _rank():
        yield Reporter()
        return
    console = Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        whole, phase = bar.add_task("epochs", total=epochs), bar.add_task("", total=1)

        def on_epoch(entry: dict, so_far) -> None:
            bar.update(whole, completed=entry["epoch"] + 1, description=f"epochs, loss {entry['loss']:.3f}")
            bar.console.print(_epoch_line(entry, epochs), markup=False)

        yield Reporter(
            on_plan=lambda plan: bar.console.print(plan.text, markup=False),
            on_epoch=on_epoch,
            on_progress=lambda name, done, total: bar.update(phase, description=name, completed=done, total=total),
            on_coreset=lambda coreset: bar.console.print(_coreset_line(coreset), markup=False),
            on_final=lambda which: bar.console.print(f"evaluating {which}", markup=False),
        )


def _epoch_line(entry: dict, epochs: int) -> str:
    accuracies = [f"{name} {100 * entry[name]:.1f} %" for name in ("clean", "robust") if entry.get(name) is not None]
    seen = f"epoch {entry['epoch'] + 1:3d}/{epochs}  {entry['action']:6s}  {entry['examples']} examples"
    return "  ".join([seen, f"loss {entry['loss']:.4f}", *accuracies, f"{entry['seconds']:.1f} s"])


def _coreset_line(coreset) -> str:
    error, chance = coreset.quality["gradient_error"], coreset.quality["gradient_error_random"]
    compared = "" if error is None else f", gradient error {error:.3f} (random {chance:.3f})"
    full = coreset.quality.get("gradient_error_full")
    compared += "" if full is None else f", against the full attack {full:.3f}"
    return f"selection: {coreset.solver} keeps {len(coreset)} of {coreset.num_examples}{compared}"
