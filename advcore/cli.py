"""Arguments, printing, exit codes; no science. torch is imported inside the commands."""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from advcore.errors import (
    AdvcoreError,
    ConfigError,
    UserError,
    at_least,
    before_work,
    counted,
    describe_refusal,
    in_a_line,
    must,
    one_line,
    one_of,
    positive,
    require,
)
from advcore.heap import keep_freed_memory
from advcore.signals import Stopped, caught
from advcore.terminal import command_line, print_next, print_table, show_run, show_suite
from advcore.threads import prepare_environment
from advcore.version import __version__

app = typer.Typer(
    name="advcore",
    help="Adversarial training on less: weighted coresets chosen at the attacked points.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _check_file(path: Path) -> Path:
    """Refuse a YAML file that cannot be read before torch is imported. A pipe can be read only once, so not here."""
    if _rank() is None and (os.path.isfile(path) or not os.path.exists(path)):
        from advcore.runner.yaml_reader import read

        read(path)
    return path


def _check_overrides(texts: list[str] | None) -> list[str] | None:
    """Refuse an override that cannot be read before torch is imported."""
    if _rank() is None:
        from advcore.runner.yaml_reader import parse_overrides

        parse_overrides(texts or ())
    return texts


RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="A run file (YAML).", callback=_check_file)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Override one setting; may be given several times.",
        callback=_check_overrides,
    ),
]
Weights = Annotated[
    str, typer.Option(help="last or best of a run, or a file of weights (.safetensors, .pt, .pth) for a run file.")
]


@app.command()
def run(
    file: RunFile,
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME-sSEED by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run in its folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")] = False,
) -> None:
    """Train, select and evaluate as FILE says, and write a record."""
    from advcore import distributed
    from advcore.reporting.tables import closing
    from advcore.runner import run as runner
    from advcore.runner.checkpoints import alone
    from advcore.runner.config import load
    from advcore.runner.folder import target
    from advcore.runner.prepare import prepare
    from advcore.training.trainer import refuse_processes

    job = distributed.launchers()
    where = [] if out is None else ["--out", out]
    with contextlib.ExitStack() as held:
        with _before_work():
            config = load(file, set_ or ())
            path, resume = target(config, out, overwrite, resume, job)
            if distributed.first():
                held.enter_context(alone(path))
            prepared = prepare(config)
            refuse_processes(prepared.trainer)
        try:
            with show_run(len(prepared.trainer.schedule.plan())) as reporter:
                record = runner.run(prepared, path, reporter, resume=resume, job=job, locked=True)
        except (Stopped, KeyboardInterrupt):
            if not distributed.launched():  # else torchrun's own command continues it
                print_next(command_line("run", file, *where, "--resume", overrides=set_ or ()))
            raise
    if not distributed.first():
        return
    print_table(f"{record.name}, seed {config.seed}: {record.plan}", ("", ""), closing(record))
    typer.echo(f"record: {path / 'record.json'}")
    print_next(command_line("report", path), *_judge_by_autoattack(path, config))


@app.command()
def select(
    file: RunFile,
    checkpoint: Annotated[Path, typer.Option(help="Weights of the model to attack: a .safetensors, .pt or .pth file.")],
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(help="File of the coreset (.npz); a JSON is written beside it.")] = Path(
        "coreset.npz"
    ),
) -> None:
    """Choose one coreset with a trained model.

    Its indices count in the whole training set.
    """
    from advcore import distributed
    from advcore.reporting.tables import selection_rows
    from advcore.runner import select as selecting
    from advcore.runner.config import load
    from advcore.runner.prepare import prepare
    from advcore.runner.weights import load_state

    with _before_work():
        config = load(file, set_ or ())
        if config.selection is None:
            raise ConfigError(must("selection", "set in a file that is to select", None))
        _check_arrays_file("--out", out)
        prepared = prepare(config)
        load_state(prepared.model, checkpoint)
    with show_run() as reporter:
        coreset = selecting.select(prepared, reporter)
    if not distributed.first():
        return
    path = coreset.save(out)
    title = f"{config.name}: {len(coreset):,} of {counted(coreset.num_examples, 'training example')}"
    print_table(title, ("", ""), selection_rows(selecting.summary(coreset)))
    typer.echo(f"coreset: {path}")
    typer.echo(f"in Python: advcore.Coreset.load({str(path)!r}).subset(dataset)")


@app.command()
def score(
    file: RunFile,
    score: Annotated[
        str | None,
        typer.Option(help="input_norm (AIGN), el2n, grand, ...; by default the score that FILE's solver reads."),
    ] = None,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(help="File of the scores (.npz); a JSON is written beside it.")] = Path(
        "scores.npz"
    ),
) -> None:
    """Train FILE's model on all data and score every example.

    Solvers by score read the file that `selection.solver.scores` names.
    """
    from advcore import distributed
    from advcore.gradients import GRADIENTS
    from advcore.runner import select as selecting
    from advcore.runner.config import load
    from advcore.selection.scores import Scores
    from advcore.solvers.scored import SCORE_ALIASES

    with _before_work():
        config = load(file, set_ or ())
        known = [name for name, gradient in GRADIENTS.items() if gradient.one_number]
        reads = config.selection.solver.reads if config.selection else None
        name = score or (reads if reads in known else "input_norm")
        require(one_of("--score", name, known, SCORE_ALIASES))
        _check_arrays_file("--out", out)
    with show_run(config.training.epochs) as reporter:
        scores = selecting.score(config, name, reporter)
    if not distributed.first():
        return
    path = scores.save(out)
    scores = Scores.load(path)
    low, middle, high = (float(scores.values.quantile(q)) for q in (0.0, 0.5, 1.0))
    rows = [("score", name), ("examples", str(len(scores.values))), ("epochs", str(scores.epochs))]
    rows += [("lowest, median, highest", f"{low:.4g}, {middle:.4g}, {high:.4g}"), ("sha256", scores.sha256)]
    print_table(f"{config.name}: scores", ("", ""), rows)
    typer.echo(f"scores: {path}")
    reading = selecting.solver_reading(config, name, path)
    print_next(command_line("run", file, overrides=[*(set_ or ()), *reading]))


def _check_arrays_file(option: str, path: Path) -> None:
    """Raise ConfigError unless arrays can be written there: the file, and a JSON beside it."""
    from advcore.runner.places import check_writable

    require(None if path.suffix == ".npz" else must(option, "a file that ends in .npz", str(path)))
    check_writable(path, option, file=True)


def _check_different(*paths: Path | None) -> None:
    """Raise ConfigError where one file would be written over another."""
    given = [os.path.realpath(path) for path in paths if path]
    told = ", ".join(map(os.path.basename, given))
    require(None if len({*given}) == len(given) else must("--out, --state and --examples", "different files", told))


@app.command()
def evaluate(
    target: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A run's folder, or a run file.", callback=_check_file)
    ],
    checkpoint: Weights = "last",
    suite: Annotated[str, typer.Option(help="Attacks: seen (those of the file), unseen, or autoattack.")] = "seen",
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Also write the accuracies to this JSON file.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Keep the verdict on each image in this file (.npz); a stopped evaluation continues from it."
        ),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Also write the adversarial examples to this file (.npz).")
    ] = None,
) -> None:
    """Measure clean and robust accuracy on the test set.

    Flags say what makes the numbers untrustworthy.
    """
    from advcore import distributed
    from advcore.evaluation.suites import ALIASES, SUITES
    from advcore.files import save_arrays, write_sealed
    from advcore.reporting.record import RunRecord
    from advcore.reporting.tables import accuracies
    from advcore.runner import weights
    from advcore.runner.config import from_dict, load, overridden
    from advcore.runner.places import check_writable
    from advcore.runner.prepare import prepare
    from advcore.runner.run import final, to_evaluate

    with _before_work():
        require(one_of("--suite", suite, SUITES, ALIASES))
        if target.is_dir():
            config = from_dict(overridden(RunRecord.load(target / "record.json").config, set_ or ()))
        else:
            config = load(target, set_ or ())
        path = weights.checkpoint(target, checkpoint, config)
        _check_different(out, state, *(() if examples is None else (examples, examples.with_suffix(".json"))))
        for option, written in (("--out", out), ("--state", state), ("--examples", examples)):
            if written:
                check_writable(written, option, file=True)
        config = to_evaluate(config, suite)
        prepared = prepare(config)
        weights.load_state(prepared.model, path)
    with show_run() as reporter:
        how = {"state": state, "keep_examples": examples is not None}
        evaluation = final(prepared, None, reporter, path.stem, **how)
    if not distributed.first():
        return
    found = evaluation.as_dict()
    print_table(f"{config.name}: {path}", ("", ""), accuracies(path.stem, found))
    if examples:
        arrays = {f"x_adv_{key}": own.numpy() for key, own in evaluation.examples.items()}
        arrays |= {f"right_{key}": own.numpy() for key, own in evaluation.verdicts.items()}
        save_arrays(examples, arrays, {"attacks": found["attacks"]})
    if out:
        write_sealed(out, {"checkpoint": str(path), **found}, "advcore-evaluation-1")
    if suite == "seen":
        print_next(*_judge_by_autoattack(target, config, checkpoint, set_ or ()))


def _judge_by_autoattack(target: Path, config, checkpoint: str = "best", overrides: Sequence[str] = ()) -> list[str]:
    """Return the command that judges a run by AutoAttack, if that is installed and has not judged it yet."""
    from advcore.attacks.geometry import LP
    from advcore.evaluation.autoattack import AutoAttack, is_installed

    attacks = config.evaluation.attacks
    judged = any(isinstance(attack, AutoAttack) for attack in attacks)
    if judged or not is_installed() or not any(attack.norm in LP for attack in attacks):
        return []
    words = ("evaluate", target, "--checkpoint", checkpoint, "--suite", "autoattack")
    return [command_line(*words, overrides=overrides)]


@app.command()
def report(
    target: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run's folder, or a folder of runs or records.")],
    out: Annotated[Path | None, typer.Option(help="Page to write; report.html in the folder by default.")] = None,
    images: Annotated[
        int, typer.Option(help="Show the training images of this many of the highest and of the lowest weights.")
    ] = 8,
) -> None:
    """Write one HTML page about a run, or comparing several.

    The page loads nothing from elsewhere. Runs may be unfinished.
    """
    from advcore.runner import report as pages

    require(at_least("--images", images, 0, most=pages.MOST_IMAGES))
    typer.echo(f"report: {pages.report(target, out, images)}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder; the run may be unfinished.")],
    checkpoint: Annotated[str, typer.Option(help="State to export: last or best.")] = "best",
    out: Annotated[Path | None, typer.Option(help="New folder to write; exports/RUN-CHECKPOINT by default.")] = None,
    format_: Annotated[str, typer.Option("--format", help="What to export: all, model, or coresets.")] = "all",
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write the coresets as parquet.")] = False,
    samples: Annotated[
        int, typer.Option(help="Include this many test images so that the accuracy can be recomputed.")
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")] = False,
) -> None:
    """Write RUN's model and coresets for use without advcore.

    The model is a safetensors file with a card and a loader.
    """
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
    if (found.folder / "model.py").exists():
        print_next(shlex.join(["python", str(found.folder / "model.py")]))


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="Kind of name: attacks, objectives, solvers, ...; all by default.")
    ] = None,
) -> None:
    """List the available names, such as attacks and solvers."""
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
    print_table("", ("kind", "name", "what it is"), rows)


@app.command()
def check(
    file: RunFile,
    set_: Overrides = None,
    cost: Annotated[
        float | None, typer.Option(help="Also list settings of at most this relative cost, such as 0.2.")
    ] = None,
) -> None:
    """Check FILE and its data, and print the plan; run nothing.

    The plan comes with its cost and with what it will hold in memory.
    """
    from advcore.reporting.tables import reference_told
    from advcore.runner.build import offered
    from advcore.runner.config import load
    from advcore.runner.prepare import prepare

    require(None if cost is None else positive("--cost", cost, "it is relative to full training"))
    with before_work():
        prepared = prepare(load(file, set_ or ()))
    plan = prepared.plan
    found = [] if cost is None else offered(prepared.config, prepared.data, cost)
    rows = [
        ("passes, forward and backward", f"{round(plan.relative_cost * plan.reference.units):,}"),
        (
            "reference",
            f"{reference_told(vars(plan.reference))}: {plan.reference.units:,} passes",
        ),
        *((f"memory, {name}", held) for name, held in plan.memory.items()),
    ]
    typer.echo("\n".join([str(file), plan.text, *plan.notes.values()]))
    print_table("", ("", ""), rows)
    if found:
        header = ("attack.steps", "selection.attack.steps", "selection.period", "minibatch", "selection.budget", "cost")
        of = "" if prepared.config.selection else ", on random subsets"
        print_table(f"at most {cost:g} of full training{of}", header, [_offer_cells(offer) for offer in found])
        typer.echo("where the steps are not the file's own, the attack's step_size is null")
        if getattr(prepared.config.attack, "start", "remembered") != "remembered":
            typer.echo("attack.start: remembered takes no more passes (docs/savings.md)")
    print_next(command_line("run", file, overrides=set_ or ()))


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
    file: Annotated[
        Path, typer.Argument(metavar="SUITE", help="A suite (YAML), as docs/bench.md describes.", callback=_check_file)
    ],
    size: Annotated[str | None, typer.Option(help="Size to run, one of those that the suite names.")] = None,
    jobs: Annotated[int, typer.Option(help="Number of runs at the same time; they share the threads.")] = 1,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Run only part I of N parts, counted from 1.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Stop after this many seconds; progress is saved, rerun the same command to continue."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the records; by default the one in the suite.")] = None,
    engine: Annotated[str, typer.Option(help="Where runs are executed: local, or ray for a cluster.")] = "local",
    set_: Overrides = None,
    table: Annotated[
        bool, typer.Option("--table", help="Run nothing; print the tables and write them to files.")
    ] = False,
) -> None:
    """Run SUITE's methods with all its seeds and compare them.

    Baselines of the same cost are added: what one would do instead.
    """
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
        typer.echo(f"{suite.folder}: {counted(len(part), 'run')}, {len(part) - len(left)} done before")
        with show_suite(len(left)) as watcher:
            ended = runner.execute(
                suite, left, work, seconds=float("inf") if seconds is None else seconds, watcher=watcher
            )
        failed = ended["failed"]
        _tell_rest(ended)
    found = runner.results(suite)
    for one in runner.tables(suite, found):
        whole = [row for row in one.rows if len(row) > 1]
        print_table(one.caption, tuple(one.header), whole)
        typer.echo("\n".join([*(row[0] for row in one.rows if len(row) == 1), *one.notes]))
    if table:
        typer.echo("\n".join(str(path) for path in runner.write_tables(suite, found)))
    if found.groups():
        print_next(command_line("report", suite.folder))
    if failed:
        raise typer.Exit(3)


def _tell_rest(ended: dict) -> None:
    if ended["busy"]:
        typer.echo(f"left to another process: {counted(len(ended['busy']), 'run')}")
    if ended["stopped"]:
        typer.echo(f"the time is up, left: {counted(len(ended['stopped']), 'run')}; rerun the same command to continue")
    if ended["failed"]:
        typer.echo(f"failed: {counted(len(ended['failed']), 'run')}; rerun the same command to try again")


@app.command()
def doctor() -> None:
    """Print what is installed and what this machine has."""
    from advcore.runner.doctor import findings

    rows = findings()
    print_table(f"advcore {__version__}", ("", ""), rows)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """The console script: exit 0 done, 2 the user's mistake, 3 the run stopped itself, 130 Ctrl-C, 143
    SIGTERM, 1 our bug."""
    prepare_environment()  # torch, which the commands import, reads it once
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
        refused = describe_refusal(error)
        if refused is None:
            raise
        code = _fail([f"{refused}{_goes_on() or _AGAIN}"], 3, shared=getattr(error, "shared", False))
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


_AGAIN = "; mend that, and give the same command again"


def _goes_on() -> str:
    """How to go on, where that is possible."""
    command = "".join(sys.argv[1:2])
    if command == "evaluate" and not any(argument.startswith("--state") for argument in sys.argv):
        return ""
    how = {
        "run": "the same command with --resume goes on",
        "bench": "the same command goes on",
        "evaluate": "the same command goes on from --state",
    }.get(command)
    return f"; what is done is kept, and {how}" if how else ""


_SHARED = ("run", "select", "score", "evaluate")


@contextlib.contextmanager
def _before_work() -> Iterator[None]:
    """What each process checks before any of them works: errors reach all of them, and files that the system refuses
    are mistakes in settings."""
    from advcore import distributed

    with distributed.together(), before_work():
        yield


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
        typer.echo(f"advcore: {f'process {rank}: ' if rank else ''}{one_line(line)}", err=True)
    return code


def _first_line(thing: object) -> str:
    return (getattr(thing, "about", None) or thing.__doc__ or "").strip().splitlines()[0].rstrip(".:")
