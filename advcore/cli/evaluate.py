"""advcore evaluate: measure clean and robust accuracy."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli import arguments, output, processes
from advcore.errors import ConfigError, check_one_of, must, require
from advcore.terminal import show_run

if TYPE_CHECKING:
    from advcore.config.schema import RunConfig
    from advcore.evaluation.evaluate import Evaluation

_Checkpoint = Annotated[
    str, typer.Option(help="last or best for a run; a weights file (.safetensors, .pt, .pth) for a run file.")
]
_Verdicts = Annotated[
    Path | None,
    typer.Option(help="Save the result for each image in this file (.npz), so that a stopped evaluation can continue."),
]


def evaluate(
    target: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE", help="A run's folder, or a run file.", callback=arguments.check_run_file),
    ],
    checkpoint: _Checkpoint = "last",
    suite: Annotated[str, typer.Option(help="Attacks: seen (those in the run file), unseen, or autoattack.")] = "seen",
    set_: arguments.Overrides = None,
    plugin: arguments.Plugins = None,
    out: Annotated[Path | None, typer.Option(help="Also write the accuracies to this JSON file.")] = None,
    state: _Verdicts = None,
    examples: Annotated[
        Path | None, typer.Option(help="Also write the adversarial examples to this .npz file.")
    ] = None,
) -> None:
    """Measure clean and robust accuracy on the test set.

    Flags warn when the numbers may be unreliable.
    """
    from advcore.evaluation.suites import ALIASES, SUITES
    from advcore.reporting.tables import list_accuracy_rows
    from advcore.run import prepare, weights
    from advcore.run import run as runner

    with processes.check_together():
        require(check_one_of("--suite", suite, SUITES, ALIASES))
        config = _load_config(target, set_ or ())
        path = weights.find_checkpoint(target, checkpoint, config)
        _check_outputs(out, state, examples)
        prepared = prepare.prepare(runner.configure_suite(config, suite), initial=False, pool_labels=False)
        weights.load_state(prepared.model, path)
    with show_run() as reporter:
        evaluation = runner.evaluate_final(prepared, reporter, path.stem, state=state, keep_examples=bool(examples))
    if processes.get_rank():  # the first process alone writes
        return
    output.print_facts(f"{config.name}: {path}", list_accuracy_rows(path.stem, evaluation.as_dict()))
    _save_evaluation(evaluation, path, config, out=out, examples=examples)
    if suite == "seen":
        output.suggest_autoattack(target, config, checkpoint, set_ or (), plugin or ())


def _load_config(target: Path, overrides: Sequence[str]) -> "RunConfig":
    """Return the settings of a run's folder or of a run file, with the overrides."""
    from advcore.config.load import from_dict, load, override
    from advcore.register.plugins import check_plugins
    from advcore.reporting.record import RunRecord

    if target.is_dir():
        record = RunRecord.load(target / "record.json")
        check_plugins(record.plugins, same_content=False)
        return from_dict(override(record.config, overrides))
    return load(target, overrides)


def _check_outputs(out: Path | None, state: Path | None, examples: Path | None) -> None:
    """Raise ConfigError where an evaluation cannot write a file, or would write two to the same place."""
    from advcore.run.places import check_writable

    files = {option: path for option, path in (("--out", out), ("--state", state), ("--examples", examples)) if path}
    places = [os.path.realpath(path) for path in files.values()]
    if examples:
        places.append(os.path.realpath(examples.with_suffix(".json")))
    if len({*places}) < len(places):
        names = ", ".join(map(os.path.basename, places))
        raise ConfigError(must("--out, --state and --examples", "different files", names))
    for option, path in files.items():
        check_writable(path, option, file=True)


def _save_evaluation(
    evaluation: "Evaluation", checkpoint: Path, config: "RunConfig", *, out: Path | None, examples: Path | None
) -> None:
    """Write the accuracies to `out`, and the adversarial examples with the verdicts on them to `examples`.

    Next to the accuracies are the weights' sha256, and the settings of model, data and evaluation.
    """
    from advcore.config.load import resolve
    from advcore.files import save_arrays, write_sealed
    from advcore.run.weights import compute_weights_hash

    results = evaluation.as_dict()
    if examples:
        arrays = {f"x_adv_{key}": images.numpy() for key, images in evaluation.examples.items()}
        arrays |= {f"right_{key}": verdicts.numpy() for key, verdicts in evaluation.verdicts.items()}
        save_arrays(examples, arrays, {"attacks": results["attacks"]})
    if out:
        settings = {key: value for key, value in resolve(config).items() if key in ("model", "data", "evaluation")}
        facts = {"checkpoint": str(checkpoint), "sha256": compute_weights_hash(checkpoint), "config": settings}
        write_sealed(out, facts | results, "advcore-evaluation-1")
