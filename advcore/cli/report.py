"""advcore report: write a page about runs."""

from pathlib import Path
from typing import Annotated

import typer

from advcore.cli import arguments
from advcore.errors import check_at_least, require
from advcore.terminal import command_line, print_next


def report(
    target: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run folder, or a folder of runs or records.")],
    out: Annotated[Path | None, typer.Option(help="Page to write; by default report.html in the folder.")] = None,
    images: Annotated[
        int, typer.Option(help="Show this many training images with the highest weights and as many with the lowest.")
    ] = 8,
    plugin: arguments.Plugins = None,
) -> None:
    """Write an HTML page that describes one run or compares several.

    The page is self-contained. Runs may be unfinished.
    """
    from advcore.export import report as pages

    require(check_at_least("--images", images, 0, most=pages.MOST_IMAGES))
    typer.echo(f"report: {pages.report(target, out, images)}")
    if (target / "checkpoints" / "best.safetensors").is_file():
        print_next(command_line("export", target, plugins=plugin or ()))
