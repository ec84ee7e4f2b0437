"""advcore score: score every training example."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli import arguments, output, processes
from advcore.terminal import command_line, print_next, show_run

if TYPE_CHECKING:
    from advcore.cost import CostLedger
    from advcore.selection.scores import Scores

_Score = Annotated[
    str | None,
    typer.Option(
        help="input_norm (AIGN), el2n, grand, ...; by default the score that FILE's solver reads, else "
        "adversarial_instability (1 - learning stability), or input_norm where nothing is attacked."
    ),
]
_Out = Annotated[Path, typer.Option(help="File of the scores (.npz); a JSON is written beside it.")]


def score(
    file: arguments.RunFile,
    score: _Score = None,
    set_: arguments.Overrides = None,
    plugin: arguments.Plugins = None,
    out: _Out = Path("scores.npz"),
) -> None:
    """Train FILE's model on all data and score every example.

    Solvers by score read the file that `selection.solver.scores` names.
    """
    from advcore.config.load import load
    from advcore.run import select
    from advcore.selection.scores import Scores

    overrides = set_ or []
    with processes.check_together():
        config = load(file, overrides)
        name = select.choose_score(config, score)
        arguments.check_arrays_file(out)
    with show_run(config.training.epochs) as reporter:
        scores, ledger = select.score(config, name, reporter)
    if processes.get_rank():  # the first process alone writes
        return
    path = scores.save(out)
    output.print_facts(f"{config.name}: scores", _list_facts(scores, name, ledger, Scores.load(path).sha256))
    typer.echo(f"scores: {path}")
    overrides = [*overrides, *select.list_overrides(config, name, path)]
    print_next(command_line("run", file, overrides=overrides, plugins=plugin or ()))


def _list_facts(scores: "Scores", name: str, ledger: "CostLedger", sha256: str) -> list[tuple[str, object]]:
    quantiles = [f"{float(scores.values.quantile(q)):.4g}" for q in (0.0, 0.5, 1.0)]
    return [
        ("score", name),
        ("examples", len(scores.values)),
        ("epochs", scores.epochs),
        ("lowest, median, highest", ", ".join(quantiles)),
        ("passes", f"{ledger.sum_units():,}"),
        ("sha256", sha256),
    ]
