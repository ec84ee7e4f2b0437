"""advcore report: write a page about runs."""

from pathlib import Path
from typing import Annotated

import typer

from advcore.cli import arguments
from advcore.errors import check_at_least, require
from advcore.terminal import command_line, print_next


def report(
    target: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run's folder, or a folder of runs or records.")],
    out: Annotated[Path | None, typer.Option(help="Page to write; report.html in the folder by default.")] = None,
    images: Annotated[
        int, typer.Option(help="Show the training images of this many of the highest and of the lowest weights.")
    ] = 8,
    plugin: arguments.Plugins = None,
) -> None:
    """Write one HTML page about a run, or comparing several.

    The page loads nothing from elsewhere. Runs may be unfinished.
    """
    from advcore.export import report as pages

    require(check_at_least("--images", images, 0, most=pages.MOST_IMAGES))
    typer.echo(f"report: {pages.report(target, out, images)}")
    if (target / "checkpoints" / "best.safetensors").is_file():
        print_next(command_line("export", target, plugins=plugin or ()))
