"""advcore export: write a run's model and coresets for others."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from advcore.cli import arguments
from advcore.errors import check_at_least, check_one_of, require
from advcore.terminal import print_next


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder; the run may be unfinished.")],
    checkpoint: Annotated[str, typer.Option(help="State to export: last or best.")] = "best",
    out: Annotated[Path | None, typer.Option(help="New folder to write; exports/RUN-CHECKPOINT by default.")] = None,
    format_: Annotated[str, typer.Option("--format", help="What to export: all, model, or coresets.")] = "all",
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write the coresets as parquet.")] = False,
    samples: Annotated[
        int, typer.Option(help="Include this many test images so that the accuracy can be recomputed.")
    ] = 0,
    plugin: arguments.Plugins = None,
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
    loader = exported.folder / "model.py"
    if loader.exists():
        print_next(shlex.join(["python", str(loader)]))
