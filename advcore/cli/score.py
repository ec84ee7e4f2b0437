"""advcore score: score every training example, or extrapolate such scores to a pool."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli import arguments, output, processes
from advcore.errors import check, require
from advcore.terminal import command_line, print_next, show_run

if TYPE_CHECKING:
    from advcore.cost import CostLedger
    from advcore.selection.scores import Scores

_Score = Annotated[
    str | None,
    typer.Option(
        help="input_norm (AIGN), el2n, grand, ... The default is the score that FILE's solver reads; if it reads none, "
        "adversarial_instability (1 - learning stability), or input_norm if the objective uses no attack."
    ),
]
_Out = Annotated[Path, typer.Option(help="File of the scores (.npz); a JSON file is written next to it.")]
_Extrapolate = Annotated[
    Path | None,
    typer.Option(
        metavar="SCORES",
        help="Train nothing: give each image of FILE's data.pool the mean of these scores over its nearest neighbours "
        "among the training examples.",
    ),
]
_Checkpoint = Annotated[
    Path | None,
    typer.Option(help="With --extrapolate: weights (.safetensors, .pt, .pth) of the model that computes the features."),
]
_Neighbours = Annotated[int | None, typer.Option(help="With --extrapolate: number of neighbours; 12 by default.")]


def score(
    file: arguments.RunFile,
    score: _Score = None,
    extrapolate: _Extrapolate = None,
    checkpoint: _Checkpoint = None,
    neighbours: _Neighbours = None,
    set_: arguments.Overrides = None,
    plugin: arguments.Plugins = None,
    out: _Out = Path("scores.npz"),
) -> None:
    """Train FILE's model on all data and score every example.

    Score-based solvers read the file named by `selection.solver.scores`.
    """
    _check_options(score, extrapolate, checkpoint, neighbours)
    if extrapolate is not None and checkpoint is not None:
        _extrapolate(file, set_ or (), extrapolate, checkpoint, neighbours=neighbours, out=out)
        return

    from advcore.config.load import load
    from advcore.run import select

    overrides = set_ or []
    with processes.check_together():
        config = load(file, overrides)
        name = select.choose_score(config, score)
        arguments.check_arrays_file(out)
    with show_run(config.training.epochs) as reporter:
        scores, ledger = select.score(config, name, reporter)
    if processes.get_rank():  # the first process alone writes
        return
    path = _save(f"{config.name}: scores", scores, ledger, out)
    overrides = [*overrides, *select.list_overrides(config, name, path)]
    print_next(command_line("run", file, overrides=overrides, plugins=plugin or ()))


def _check_options(
    score: str | None, extrapolate: Path | None, checkpoint: Path | None, neighbours: int | None
) -> None:
    """Raise ConfigError for options that do not go together."""
    if extrapolate is None:
        rule = "left out without --extrapolate"
        require(
            check(checkpoint is None, "--checkpoint", rule, str(checkpoint)),
            check(neighbours is None, "--neighbours", rule, neighbours),
        )
        return
    require(
        check(score is None, "--score", "left out with --extrapolate", score, "the file records which score it holds"),
        check(
            checkpoint is not None,
            "--checkpoint",
            "set with --extrapolate",
            None,
            "to weights of a model for the features",
        ),
    )


def _extrapolate(
    file: Path, overrides: Sequence[str], known: Path, checkpoint: Path, *, neighbours: int | None, out: Path
) -> None:
    """Extrapolate the scores in the file `known` to the pool, and write them to `out`."""
    from advcore.config.load import load
    from advcore.gradients.extrapolation import NEIGHBOURS
    from advcore.run.extrapolate import extrapolate

    with processes.check_together():
        config = load(file, overrides)
        arguments.check_arrays_file(out)
    count = NEIGHBOURS if neighbours is None else neighbours
    with show_run():
        scores, ledger = extrapolate(config, known, checkpoint, neighbours=count)
    if processes.get_rank():
        return
    _save(f"{config.name}: scores of the pool", scores, ledger, out)


def _save(title: str, scores: "Scores", ledger: "CostLedger", out: Path) -> Path:
    """Write the scores, say what they are, and return their path."""
    from advcore.selection.scores import Scores

    path = scores.save(out)
    output.print_facts(title, _list_facts(scores, ledger, Scores.load(path).sha256))
    typer.echo(f"scores: {path}")
    return path


def _list_facts(scores: "Scores", ledger: "CostLedger", sha256: str) -> list[tuple[str, object]]:
    import numpy as np

    quantiles = [f"{value:.4g}" for value in np.quantile(scores.values.numpy(), (0.0, 0.5, 1.0))]
    facts: list[tuple[str, object]] = [
        ("score", scores.score),
        ("examples", len(scores.values)),
        ("epochs", scores.epochs),
        ("lowest, median, highest", ", ".join(quantiles)),
        ("passes", f"{ledger.sum_units():,}"),
        ("sha256", sha256),
    ]
    if scores.neighbours:
        facts.insert(2, ("neighbours", scores.neighbours))
    return facts
