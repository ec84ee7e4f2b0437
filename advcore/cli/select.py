"""advcore select: select one coreset."""

from pathlib import Path
from typing import Annotated

import typer

from advcore.cli import arguments, output, processes
from advcore.errors import ConfigError, format_count, must
from advcore.terminal import show_run


def select(
    file: arguments.RunFile,
    checkpoint: Annotated[Path, typer.Option(help="Weights of the model to attack: a .safetensors, .pt or .pth file.")],
    set_: arguments.Overrides = None,
    plugin: arguments.Plugins = None,
    out: Annotated[Path, typer.Option(help="File of the coreset (.npz); a JSON file is written next to it.")] = Path(
        "coreset.npz"
    ),
) -> None:
    """Select one coreset with a trained model.

    Its indices refer to the whole training set.
    """
    from advcore.config.load import load
    from advcore.reporting.tables import list_selection_rows
    from advcore.run import prepare, weights
    from advcore.run import select as selecting

    with processes.check_together():
        config = load(file, set_ or ())
        if config.selection is None:
            raise ConfigError(must("selection", "set in the run file", None))
        arguments.check_arrays_file(out)
        prepared = prepare.prepare(config, initial=False)
        weights.load_state(prepared.model, checkpoint)
    with show_run() as reporter:
        coreset = selecting.select(prepared, reporter)
    if processes.get_rank():  # the first process alone writes
        return
    path = coreset.save(out)
    title = f"{config.name}: {len(coreset):,} of {format_count(coreset.num_examples, 'training example')}"
    output.print_facts(title, list_selection_rows(selecting.summarise(coreset)))
    typer.echo(f"coreset: {path}")
    typer.echo(f"in Python: advcore.Coreset.load({str(path)!r}).subset(dataset)")
