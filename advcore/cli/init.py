"""advcore init: write a run file for your own data."""

from pathlib import Path
from typing import Annotated

import typer

from advcore.errors import check, refuse_as_setting, require
from advcore.terminal import command_line, print_next


def init(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder of images (train/CLASS, test/CLASS), an .npz file, or a folder of .npz or parquet files.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Run file to write; by default NAME.yaml in this folder.")] = None,
) -> None:
    """Write a commented run file for your own data.

    There are no questions: classes, image size and counts are read from the data and determine the settings.
    """
    from advcore.cli import init_file
    from advcore.files import write_bytes
    from advcore.run.places import check_writable

    with refuse_as_setting():
        kind = init_file.find_kind(data)
        path = out or Path(f"{init_file.make_name(data)}.yaml")
        require(check(not path.exists(), "--out", "a file that does not exist yet", str(path), "choose another name"))
        check_writable(path, file=True)
        survey = init_file.survey(data, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, init_file.format_run_file(survey, str(path)).encode())
    typer.echo(f"data: {survey.describe()}")
    typer.echo(f"run file: {path}")
    print_next(command_line("check", path), command_line("run", path))
