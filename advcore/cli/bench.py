"""advcore bench: run the methods of a suite and compare them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli.arguments import Overrides, Plugins, check_file
from advcore.errors import check_at_least, check_positive, format_count, require
from advcore.terminal import command_line, print_next, print_table, show_suite

if TYPE_CHECKING:
    from advcore.reporting.suite import Table
    from advcore.suite.bench import Bench
    from advcore.suite.suite import Run

_Seconds = Annotated[
    float | None, typer.Option(help="Stop after N seconds; progress is saved, rerun the same command to continue.")
]
_Table = Annotated[bool, typer.Option("--table", help="Run nothing; print the tables and write them to files.")]


def bench(
    file: Annotated[
        Path,
        typer.Argument(metavar="SUITE", help="A suite file (YAML), described in docs/bench.md.", callback=check_file),
    ],
    size: Annotated[str | None, typer.Option(help="Size to run, one of those defined in the suite.")] = None,
    jobs: Annotated[int, typer.Option(help="Number of simultaneous runs; they share the CPU threads.")] = 1,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Run only part I of N, counting from 1.")] = None,
    seconds: _Seconds = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the records; by default the one named in the suite.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Where runs are executed: local, or ray for a cluster.")] = "local",
    set_: Overrides = None,
    plugin: Plugins = None,
    table: _Table = False,
) -> None:
    """Run all methods of SUITE with all its seeds and compare them.

    Baselines of the same cost are added: random subsets, fewer epochs, fewer attack steps.
    """
    from advcore.suite import bench as runner
    from advcore.suite.runs import shard as take_part

    time_limit = [] if seconds is None else [check_positive("--seconds", seconds)]
    require(check_at_least("--jobs", jobs, 1, most=4096), *time_limit)
    suite = runner.check_suite(file, size, set_ or (), out)
    part = take_part(suite.runs, shard)
    failed = []
    if not table:
        failed = _run_part(suite, part, engine=engine, jobs=jobs, seconds=seconds or float("inf"))
    results = runner.collect_results(suite)
    for entry in runner.build_tables(suite, results):
        _print(entry)
    if table:
        typer.echo("\n".join(str(path) for path in runner.write_tables(suite, results)))
    if results.groups():
        print_next(command_line("report", suite.folder))
    if failed:
        raise typer.Exit(3)


def _print(table: "Table") -> None:
    """Print a table of the comparison, and its notes below; a row of one cell is a note, too."""
    print_table(table.caption, tuple(table.header), [row for row in table.rows if len(row) > 1])
    typer.echo("\n".join([*(row[0] for row in table.rows if len(row) == 1), *table.notes]))


def _run_part(suite: "Bench", part: list["Run"], *, engine: str, jobs: int, seconds: float) -> list["Run"]:
    """Do the runs of `part` that have no record yet, and return those that failed.

    Prints how many runs there are, their progress, and how many did not finish, and why.
    """
    from advcore.suite import bench as runner
    from advcore.suite.engines import choose_engine

    run_all = choose_engine(engine, jobs)
    pending = runner.list_pending(suite, part)
    if pending and engine == "local":
        runner.check_data(pending)
    typer.echo(f"{suite.folder}: {format_count(len(part), 'run')}, {len(part) - len(pending)} already done")
    with show_suite(len(pending)) as watcher:
        ended = runner.execute(suite, pending, run_all, seconds=seconds, watcher=watcher)
    if ended["busy"]:
        typer.echo(f"running in another process: {format_count(len(ended['busy']), 'run')}")
    if ended["stopped"]:
        typer.echo(f"not finished: {format_count(len(ended['stopped']), 'run')}; rerun the same command to continue")
    if ended["failed"]:
        typer.echo(f"failed: {format_count(len(ended['failed']), 'run')}; rerun the same command to try again")
    return ended["failed"]
