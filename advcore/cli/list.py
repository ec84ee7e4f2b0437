"""advcore list: list the available names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from advcore.cli import arguments
from advcore.cli.experiments import list_experiments, summarize_experiment
from advcore.errors import check_one_of, require
from advcore.terminal import print_table


def list_names(
    kind: Annotated[
        str | None, typer.Argument(help="Kind of name: attacks, objectives, solvers, ...; by default all kinds.")
    ] = None,
    plugin: arguments.Plugins = None,
) -> None:
    """List the available names, such as attacks and solvers."""
    from advcore.config.schema import TABLES
    from advcore.gradients import GRADIENTS
    from advcore.selection.partition import PARTITIONS

    tables: dict[str, Mapping[str, object]] = {**TABLES, "partitions": PARTITIONS, "gradients": GRADIENTS}
    tables["experiments"] = list_experiments()
    if kind:
        require(check_one_of("kind", kind, tables))
        tables = {kind: tables[kind]}
    rows = []
    for table_name, table in tables.items():
        rows += [(table_name, name, _summarize_entry(entry)) for name, entry in table.items()]
    print_table("", ("kind", "name", "what it is"), rows)


def _summarize_entry(entry: object) -> str:
    """Return the first line of an entry's `about`, or else of its docstring, without a last dot or colon."""
    if isinstance(entry, Path):
        return summarize_experiment(entry)
    return (getattr(entry, "about", None) or entry.__doc__ or "").strip().splitlines()[0].rstrip(".:")
