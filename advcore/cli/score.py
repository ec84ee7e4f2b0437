"""advcore score: score every training example."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli.arguments import Overrides, RunFile, check_arrays_file
from advcore.cli.output import print_facts
from advcore.cli.processes import check_together
from advcore.errors import check_one_of, require
from advcore.terminal import command_line, print_next, show_run

if TYPE_CHECKING:
    from advcore.selection.scores import Scores


def score(
    file: RunFile,
    score: Annotated[
        str | None,
        typer.Option(help="input_norm (AIGN), el2n, grand, ...; by default the score that FILE's solver reads."),
    ] = None,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option(help="File of the scores (.npz); a JSON is written beside it.")] = Path(
        "scores.npz"
    ),
) -> None:
    """Train FILE's model on all data and score every example.

    Solvers by score read the file that `selection.solver.scores` names.
    """
    from advcore import distributed
    from advcore.config.load import load
    from advcore.gradients import GRADIENTS
    from advcore.run import select as selecting
    from advcore.selection.scores import Scores
    from advcore.solvers.scored import SCORE_ALIASES

    with check_together():
        config = load(file, set_ or ())
        names = [name for name, gradient in GRADIENTS.items() if gradient.one_number]
        name = score or "input_norm"
        if not score and config.selection and config.selection.solver.reads in names:
            name = config.selection.solver.reads
        require(check_one_of("--score", name, names, SCORE_ALIASES))
        check_arrays_file(out)
    with show_run(config.training.epochs) as reporter:
        scores = selecting.score(config, name, reporter)
    if not distributed.is_first():
        return
    path = scores.save(out)
    print_facts(f"{config.name}: scores", [("score", name), *_describe_scores(Scores.load(path))])
    typer.echo(f"scores: {path}")
    print_next(command_line("run", file, overrides=[*(set_ or ()), *selecting.list_overrides(config, name, path)]))


def _describe_scores(scores: "Scores") -> list[tuple[str, str]]:
    quantiles = [f"{float(scores.values.quantile(q)):.4g}" for q in (0.0, 0.5, 1.0)]
    return [
        ("examples", str(len(scores.values))),
        ("epochs", str(scores.epochs)),
        ("lowest, median, highest", ", ".join(quantiles)),
        ("sha256", scores.sha256),
    ]
