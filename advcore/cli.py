"""The command line: arguments, printing and exit codes. Torch is imported inside the commands."""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.errors import (
    AdvcoreError,
    ConfigError,
    UserError,
    check_at_least,
    check_one_of,
    check_positive,
    describe_exception,
    describe_refusal,
    escape_control_characters,
    format_count,
    must,
    refuse_as_setting,
    require,
)
from advcore.runtime.heap import keep_freed_memory
from advcore.runtime.launcher import get_launched_rank
from advcore.runtime.signals import Stopped, catch_signals
from advcore.runtime.threads import prepare_environment
from advcore.terminal import command_line, print_next, print_table, show_run, show_suite
from advcore.version import __version__

if TYPE_CHECKING:
    from advcore.config.schema import RunConfig
    from advcore.evaluation.evaluate import Evaluation
    from advcore.selection.scores import Scores
    from advcore.suite.bench import Bench
    from advcore.suite.suite import Run
    from advcore.training.budget import Offer

app = typer.Typer(
    name="advcore",
    help="Adversarial training on less: weighted coresets chosen at the attacked points.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _check_file(path: Path) -> Path:
    """Refuse a YAML file that cannot be read, before torch is imported.

    A pipe is not checked, since it can be read only once.
    """
    if _rank() is None and (os.path.isfile(path) or not os.path.exists(path)):
        from advcore.config.yaml_reader import read

        read(path)
    return path


def _check_overrides(texts: list[str] | None) -> list[str] | None:
    """Refuse an override that cannot be read, before torch is imported."""
    if _rank() is None:
        from advcore.config.yaml_reader import parse_overrides

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
Verdicts = Annotated[
    Path | None,
    typer.Option(help="Keep the verdict on each image in this file (.npz); a stopped evaluation continues from it."),
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
    from advcore.config.load import load
    from advcore.reporting.tables import list_closing_rows
    from advcore.run import run as runner
    from advcore.run.checkpoints import lock_folder
    from advcore.run.folder import choose_folder
    from advcore.run.prepare import prepare
    from advcore.training.trainer import refuse_processes

    job = distributed.name_launchers()
    out_options = [] if out is None else ["--out", out]
    with contextlib.ExitStack() as stack:
        with _before_work():
            config = load(file, set_ or ())
            path, resume = choose_folder(config, out, overwrite, resume, job)
            if distributed.is_first():
                stack.enter_context(lock_folder(path))
            prepared = prepare(config)
            refuse_processes(prepared.trainer)
        try:
            with show_run(len(prepared.trainer.schedule.plan())) as reporter:
                record = runner.run(prepared, path, reporter, resume=resume, job=job, locked=True)
        except (Stopped, KeyboardInterrupt):
            if not distributed.is_launched():  # otherwise the command that started torchrun continues the run
                print_next(command_line("run", file, *out_options, "--resume", overrides=set_ or ()))
            raise
    if not distributed.is_first():
        return
    print_table(f"{record.name}, seed {config.seed}: {record.plan}", ("", ""), list_closing_rows(record))
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
    from advcore.config.load import load
    from advcore.reporting.tables import list_selection_rows
    from advcore.run import select as selecting
    from advcore.run.prepare import prepare
    from advcore.run.weights import load_state

    with _before_work():
        config = load(file, set_ or ())
        if config.selection is None:
            raise ConfigError(must("selection", "set in a file that is to select", None))
        _check_arrays_file("--out", out)
        prepared = prepare(config)
        load_state(prepared.model, checkpoint)
    with show_run() as reporter:
        coreset = selecting.select(prepared, reporter)
    if not distributed.is_first():
        return
    path = coreset.save(out)
    title = f"{config.name}: {len(coreset):,} of {format_count(coreset.num_examples, 'training example')}"
    print_table(title, ("", ""), list_selection_rows(selecting.summarise(coreset)))
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
    from advcore.config.load import load
    from advcore.gradients import GRADIENTS
    from advcore.run import select as selecting
    from advcore.selection.scores import Scores
    from advcore.solvers.scored import SCORE_ALIASES

    with _before_work():
        config = load(file, set_ or ())
        names = [name for name, gradient in GRADIENTS.items() if gradient.is_scalar]
        name = score or "input_norm"
        if not score and config.selection and config.selection.solver.reads in names:
            name = config.selection.solver.reads
        require(check_one_of("--score", name, names, SCORE_ALIASES))
        _check_arrays_file("--out", out)
    with show_run(config.training.epochs) as reporter:
        scores = selecting.score(config, name, reporter)
    if not distributed.is_first():
        return
    path = scores.save(out)
    print_table(f"{config.name}: scores", ("", ""), [("score", name), *_describe_scores(Scores.load(path))])
    typer.echo(f"scores: {path}")
    print_next(command_line("run", file, overrides=[*(set_ or ()), *selecting.list_overrides(config, name, path)]))


def _describe_scores(scores: "Scores") -> list[tuple[str, str]]:
    quantiles = [f"{float(scores.values.quantile(q)):.4g}" for q in (0.0, 0.5, 1.0)]
    return [
        ("examples", str(len(scores.values))),
        ("epochs", str(scores.epochs)),
        ("lowest, median, highest", ", ".join(quantiles)),
        ("sha256", scores.sha256),
    ]


def _check_arrays_file(option: str, path: Path) -> None:
    """Raise ConfigError unless arrays can be written to `path`, and a JSON beside it."""
    from advcore.run.places import check_writable

    if path.suffix != ".npz":
        raise ConfigError(must(option, "a file that ends in .npz", str(path)))
    check_writable(path, option, file=True)


def _check_outputs(out: Path | None, state: Path | None, examples: Path | None) -> None:
    """Raise ConfigError where an evaluation cannot write a file, or would write two to the same place."""
    from advcore.run.places import check_writable

    options = {"--out": out, "--state": state, "--examples": examples}
    files = [path for path in options.values() if path]
    if examples:
        files.append(examples.with_suffix(".json"))
    real = [os.path.realpath(path) for path in files]
    if len({*real}) < len(real):
        names = ", ".join(map(os.path.basename, real))
        raise ConfigError(must("--out, --state and --examples", "different files", names))
    for option, path in options.items():
        if path:
            check_writable(path, option, file=True)


@app.command()
def evaluate(
    target: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A run's folder, or a run file.", callback=_check_file)
    ],
    checkpoint: Weights = "last",
    suite: Annotated[str, typer.Option(help="Attacks: seen (those of the file), unseen, or autoattack.")] = "seen",
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Also write the accuracies to this JSON file.")] = None,
    state: Verdicts = None,
    examples: Annotated[
        Path | None, typer.Option(help="Also write the adversarial examples to this .npz file.")
    ] = None,
) -> None:
    """Measure clean and robust accuracy on the test set.

    Flags say what makes the numbers untrustworthy.
    """
    from advcore import distributed
    from advcore.evaluation.suites import ALIASES, SUITES
    from advcore.reporting.tables import list_accuracy_rows
    from advcore.run import weights
    from advcore.run.prepare import prepare
    from advcore.run.run import config_for_evaluation, evaluate_final

    with _before_work():
        require(check_one_of("--suite", suite, SUITES, ALIASES))
        config = _load_config(target, set_ or ())
        path = weights.find_checkpoint(target, checkpoint, config)
        _check_outputs(out, state, examples)
        prepared = prepare(config_for_evaluation(config, suite))
        weights.load_state(prepared.model, path)
    with show_run() as reporter:
        evaluation = evaluate_final(prepared, None, reporter, path.stem, state=state, keep_examples=bool(examples))
    if not distributed.is_first():
        return
    print_table(f"{config.name}: {path}", ("", ""), list_accuracy_rows(path.stem, evaluation.as_dict()))
    _save_evaluation(evaluation, path, out=out, examples=examples)
    if suite == "seen":
        print_next(*_judge_by_autoattack(target, config, checkpoint, set_ or ()))


def _load_config(target: Path, overrides: Sequence[str]) -> "RunConfig":
    """Return the settings of a run's folder or of a run file, with the overrides."""
    from advcore.config.load import from_dict, load, override
    from advcore.reporting.record import RunRecord

    if target.is_dir():
        return from_dict(override(RunRecord.load(target / "record.json").config, overrides))
    return load(target, overrides)


def _save_evaluation(evaluation: "Evaluation", checkpoint: Path, *, out: Path | None, examples: Path | None) -> None:
    """Write the accuracies to `out`, and the adversarial examples with the verdicts on them to `examples`."""
    from advcore.files import save_arrays, write_sealed

    results = evaluation.as_dict()
    if examples:
        arrays = {f"x_adv_{key}": images.numpy() for key, images in evaluation.examples.items()}
        arrays |= {f"right_{key}": verdicts.numpy() for key, verdicts in evaluation.verdicts.items()}
        save_arrays(examples, arrays, {"attacks": results["attacks"]})
    if out:
        write_sealed(out, {"checkpoint": str(checkpoint), **results}, "advcore-evaluation-1")


def _judge_by_autoattack(
    target: Path, config: "RunConfig", checkpoint: str = "best", overrides: Sequence[str] = ()
) -> list[str]:
    """Return the command that evaluates a run by AutoAttack, if that is installed and the run was not evaluated so."""
    from advcore.attacks.geometry import LP
    from advcore.evaluation.autoattack import AutoAttack, is_installed

    attacks = config.evaluation.attacks
    is_judged = any(isinstance(attack, AutoAttack) for attack in attacks)
    if is_judged or not is_installed() or not any(attack.norm in LP for attack in attacks):
        return []
    options = ("--checkpoint", checkpoint, "--suite", "autoattack")
    return [command_line("evaluate", target, *options, overrides=overrides)]


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
    from advcore.export import report as pages

    require(check_at_least("--images", images, 0, most=pages.MOST_IMAGES))
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
    from advcore.export import export as exporting

    require(
        check_one_of("--checkpoint", checkpoint, ("last", "best")),
        check_one_of("--format", format_, exporting.FORMATS),
        check_at_least("--samples", samples, 0),
    )
    exported = exporting.export(
        folder,
        out,
        checkpoint=checkpoint,
        kind=format_,
        parquet=parquet,
        samples=samples,
        overwrite=overwrite,
    )
    for note in exported.notes:
        typer.echo(note)
    for file in sorted(path for path in exported.folder.rglob("*") if path.is_file()):
        typer.echo(f"{file.stat().st_size:>12,}  {file}")
    typer.echo(f"export: {exported.folder}")
    if (exported.folder / "model.py").exists():
        print_next(shlex.join(["python", str(exported.folder / "model.py")]))


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="Kind of name: attacks, objectives, solvers, ...; all by default.")
    ] = None,
) -> None:
    """List the available names, such as attacks and solvers."""
    from advcore.config.schema import TABLES
    from advcore.gradients import GRADIENTS
    from advcore.selection.partition import PARTITIONS

    tables: dict[str, Mapping[str, object]] = {**TABLES, "partitions": PARTITIONS, "gradients": GRADIENTS}
    if kind:
        require(check_one_of("kind", kind, tables))
        tables = {kind: tables[kind]}
    rows = []
    for table_name, table in tables.items():
        rows += [(table_name, name, _first_line(entry)) for name, entry in table.items()]
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
    from advcore.config.load import load
    from advcore.reporting.tables import describe_reference
    from advcore.run.build import find_offers
    from advcore.run.prepare import prepare

    if cost is not None:
        require(check_positive("--cost", cost, "it is relative to full training"))
    with refuse_as_setting():
        prepared = prepare(load(file, set_ or ()))
    plan = prepared.plan
    offers = [] if cost is None else find_offers(prepared.config, prepared.data, cost)
    rows = [
        ("passes, forward and backward", f"{round(plan.relative_cost * plan.reference.units):,}"),
        ("reference", f"{describe_reference(vars(plan.reference))}: {plan.reference.units:,} passes"),
        *((f"memory, {name}", size) for name, size in plan.memory.items()),
    ]
    typer.echo("\n".join([str(file), plan.text, *plan.notes.values()]))
    print_table("", ("", ""), rows)
    if cost is not None and offers:
        _print_offers(offers, cost, prepared.config)
    print_next(command_line("run", file, overrides=set_ or ()))


def _print_offers(offers: list["Offer"], cost: float, config: "RunConfig") -> None:
    header = ("attack.steps", "selection.attack.steps", "selection.period", "minibatch", "selection.budget", "cost")
    title = f"at most {cost:g} of full training"
    if config.selection is None:
        title += ", on random subsets"
    print_table(title, header, [_format_offer(offer) for offer in offers])
    typer.echo("where the steps are not the file's own, the attack's step_size is null")
    if getattr(config.attack, "start", "remembered") != "remembered":
        typer.echo("attack.start: remembered takes no more passes (docs/savings.md)")


def _format_offer(offer: "Offer") -> tuple[str, ...]:
    """Return the cells of an offer's row; "–" stands where a setting does not apply."""
    from advcore.minibatch import RULES
    from advcore.types import find_name

    rule = "null" if offer.rule is None else f"{find_name(RULES, offer.rule)}, {offer.rule.describe()}"
    if offer.budget == 1:
        cells = [offer.steps, None, None, rule, "all data"]
    else:
        cells = [offer.steps, offer.selection_steps, offer.period or "null", rule, f"{offer.budget:g}"]
    return (*("–" if cell is None else str(cell) for cell in cells), f"{offer.cost:.3f}")


@app.command()
def bench(
    file: Annotated[
        Path, typer.Argument(metavar="SUITE", help="A suite (YAML), as docs/bench.md describes.", callback=_check_file)
    ],
    size: Annotated[str | None, typer.Option(help="Size to run, one of those that the suite names.")] = None,
    jobs: Annotated[int, typer.Option(help="Number of runs at the same time; they share the threads.")] = 1,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Run only part I of N, counted from 1.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after N seconds; progress is saved, rerun the same command to continue.")
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
    from advcore.suite import bench as runner
    from advcore.suite.suite import shard as take_part

    require(
        check_at_least("--jobs", jobs, 1, most=4096), None if seconds is None else check_positive("--seconds", seconds)
    )
    suite = runner.prepare(file, size, set_ or (), out)
    part = take_part(suite.runs, shard)
    failed = []
    if not table:
        failed = _run_part(suite, part, engine=engine, jobs=jobs, seconds=seconds or float("inf"))
    results = runner.collect_results(suite)
    for entry in runner.build_tables(suite, results):
        print_table(entry.caption, tuple(entry.header), [row for row in entry.rows if len(row) > 1])
        typer.echo("\n".join([*(row[0] for row in entry.rows if len(row) == 1), *entry.notes]))
    if table:
        typer.echo("\n".join(str(path) for path in runner.write_tables(suite, results)))
    if results.groups():
        print_next(command_line("report", suite.folder))
    if failed:
        raise typer.Exit(3)


def _run_part(suite: "Bench", part: list["Run"], *, engine: str, jobs: int, seconds: float) -> list["Run"]:
    """Do the runs of a suite's part that have no record yet, print how many did not finish, and return those failed."""
    from advcore.suite import bench as runner
    from advcore.suite.engines import choose_engine

    run_all = choose_engine(engine, jobs)
    pending = runner.list_pending(suite, part)
    if pending and engine == "local":
        runner.check_data(pending)
    typer.echo(f"{suite.folder}: {format_count(len(part), 'run')}, {len(part) - len(pending)} done before")
    with show_suite(len(pending)) as watcher:
        ended = runner.execute(suite, pending, run_all, seconds=seconds, watcher=watcher)
    if ended["busy"]:
        typer.echo(f"left to another process: {format_count(len(ended['busy']), 'run')}")
    if ended["stopped"]:
        typer.echo(
            f"the time is up, left: {format_count(len(ended['stopped']), 'run')}; rerun the same command to continue"
        )
    if ended["failed"]:
        typer.echo(f"failed: {format_count(len(ended['failed']), 'run')}; rerun the same command to try again")
    return ended["failed"]


@app.command()
def doctor() -> None:
    """Print what is installed and what this machine has."""
    from advcore.run.doctor import describe_installation

    print_table(f"advcore {__version__}", ("", ""), describe_installation())


@app.callback(invoke_without_command=True)
def print_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """Run the console script and exit.

    The exit code is 0 for success, 1 for a bug of ours, 2 for the user's mistake, 3 for a run that stopped itself, 130
    for Ctrl-C and 143 for SIGTERM.
    """
    prepare_environment()  # before a command imports torch, which reads the environment once
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    keep_freed_memory()  # allowed here, since nobody else uses this process
    try:
        with catch_signals(), _joined():
            code = app(standalone_mode=False) or 0
    except Stopped as stopped:
        _leave(_fail([f"stopped by {stopped}{_way_to_continue()}"], 128 + stopped.number, shared=True))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = _fail_with(error)
        if code is None:
            raise
    if code == 130:  # typer may have turned Ctrl-C into its exit code already
        _fail([f"interrupted{_way_to_continue()}"], code)
    _leave(code)


def _fail_with(error: Exception) -> int | None:
    """Print an error as lines on stderr, and return the exit code; None for a bug, whose traceback says more."""
    shared = False
    if _rank() is not None:
        from advcore import distributed  # not for a process alone, which may fail before it needs torch

        shared = distributed.is_raised_in_all(error)
    if isinstance(error, UserError):
        return _fail(error.lines, 2, shared=shared)
    if isinstance(error, AdvcoreError):
        return _fail([str(error)], 3, shared=shared)
    if isinstance(error, OSError):
        refusal = describe_refusal(error)
        if refusal is None:
            return None
        return _fail([f"{refusal}{_way_to_continue() or _TRY_AGAIN}"], 3, shared=shared)
    if hasattr(error, "format_message"):  # a usage error
        return _fail([error.format_message()], 2)
    from advcore.runtime.out_of_memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    advice = f"use smaller batches, data or model{_way_to_continue()}"
    return _fail([f"memory ran out: {describe_exception(error)}; {advice}"], 3)


def _leave(code: int) -> None:
    """End the process.

    One of several processes ends without cleaning up: torch may abort while it removes what its threads still use, and
    the exit code would be another.
    """
    if _rank() is None:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_TRY_AGAIN = "; fix that, then rerun the same command"
_CONTINUATIONS = {
    "run": "rerun the same command with --resume to continue",
    "bench": "rerun the same command to continue",
    "evaluate": "rerun the same command to continue from --state",
}


def _way_to_continue() -> str:
    """Say how to continue the command that was stopped; "" where that is not possible."""
    command = "".join(sys.argv[1:2])
    is_lost = command == "evaluate" and not any(argument.startswith("--state") for argument in sys.argv)
    if command not in _CONTINUATIONS or is_lost:
        return ""
    return f"; progress is saved, {_CONTINUATIONS[command]}"


_COMMANDS_OF_SEVERAL = ("run", "select", "score", "evaluate")  # which several processes can do together


@contextlib.contextmanager
def _before_work() -> Iterator[None]:
    """Surround what is checked before any work is done.

    An error in one process is raised in all of them; a file that the system refuses becomes a ConfigError.
    """
    from advcore import distributed

    with distributed.fail_together(), refuse_as_setting():
        yield


@contextlib.contextmanager
def _joined() -> Iterator[None]:
    """Join the processes that torchrun started into one group, of which only the first prints. Does nothing alone."""
    if _rank() is None:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns about settings that are made on purpose
    from advcore import distributed

    with contextlib.ExitStack() as stack:
        if _rank():
            logging.getLogger("advcore").setLevel(logging.ERROR)
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(distributed.join_group())
        yield


def _rank() -> int | None:
    """Return this process's number among several; None for a process alone, or a command that one process does."""
    return get_launched_rank() if "".join(sys.argv[1:2]) in _COMMANDS_OF_SEVERAL else None


def _fail(lines: Iterable[str], code: int, *, shared: bool = False) -> int:
    """Print lines on stderr, and return the exit code.

    shared : whether every process has the same lines, so that only the first prints them.
    """
    rank = _rank()
    prefix = f"advcore: process {rank}: " if rank else "advcore: "
    if not rank or not shared:
        typer.echo("\n".join(prefix + escape_control_characters(line) for line in lines), err=True)
    return code


def _first_line(entry: object) -> str:
    return (getattr(entry, "about", None) or entry.__doc__ or "").strip().splitlines()[0].rstrip(".:")
