"""advcore recommend: write the run file of the best known recipe for a cost."""

from pathlib import Path
from typing import Annotated

import typer

from advcore.cli import arguments
from advcore.errors import check, refuse_as_setting, require
from advcore.terminal import command_line, print_next


def recommend(
    file: arguments.RunFile,
    cost: Annotated[float, typer.Option(help="Highest relative cost, below 1, such as 0.2.")],
    set_: arguments.Overrides = None,
    plugin: arguments.Plugins = None,
    out: Annotated[
        Path | None, typer.Option(help="Run file to write; by default NAME-cost-COST.yaml in this folder.")
    ] = None,
) -> None:
    """Write a run file with the best known recipe for a cost.

    FILE describes full training. The recipe comes from committed records; the new file's header names them.
    """
    from advcore.config.load import from_dict, override
    from advcore.config.yaml_reader import read
    from advcore.evidence import format_run_file, load_studies
    from advcore.evidence.recommend import check_cost, recommend
    from advcore.files import write_bytes
    from advcore.run.places import check_writable
    from advcore.run.prepare import prepare

    check_cost(cost)
    path = out or Path(f"{file.stem}-cost-{cost:g}.yaml")
    require(check(not path.exists(), "--out", "a file that does not exist yet", str(path), "choose another name"))
    check_writable(path, file=True)
    with refuse_as_setting():
        recommendation = recommend(override(read(file), set_ or ()), cost, load_studies())
        plan = prepare(from_dict(recommendation.settings)).plan
    text = format_run_file(recommendation, str(file))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
    typer.echo("\n".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")))
    typer.echo("\n".join([plan.text, *plan.notes.values(), f"run file: {path}"]))
    print_next(command_line("run", path, plugins=plugin or ()))
