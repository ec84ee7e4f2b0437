"""advcore select: choose one coreset."""

from pathlib import Path
from typing import Annotated

import typer

from advcore.cli.arguments import Overrides, RunFile, check_arrays_file
from advcore.cli.output import print_facts
from advcore.cli.processes import check_together, get_rank
from advcore.errors import ConfigError, format_count, must
from advcore.terminal import show_run


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
    from advcore.config.load import load
    from advcore.reporting.tables import list_selection_rows
    from advcore.run import prepare, weights
    from advcore.run import select as selecting

    with check_together():
        config = load(file, set_ or ())
        if config.selection is None:
            raise ConfigError(must("selection", "set in a file that is to select", None))
        check_arrays_file(out)
        prepared = prepare.prepare(config)
        weights.load_state(prepared.model, checkpoint)
    with show_run() as reporter:
        coreset = selecting.select(prepared, reporter)
    if get_rank():  # the first process alone writes
        return
    path = coreset.save(out)
    title = f"{config.name}: {len(coreset):,} of {format_count(coreset.num_examples, 'training example')}"
    print_facts(title, list_selection_rows(selecting.summarise(coreset)))
    typer.echo(f"coreset: {path}")
    typer.echo(f"in Python: advcore.Coreset.load({str(path)!r}).subset(dataset)")
