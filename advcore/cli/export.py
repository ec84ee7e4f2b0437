"""advcore export: write a run's model and coresets for others."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli import arguments
from advcore.errors import check, check_at_least, check_one_of, format_count, require
from advcore.terminal import command_line, print_next

if TYPE_CHECKING:
    from advcore.export.export import Exported
    from advcore.export.robustbench import Submission

_Samples = Annotated[int, typer.Option(help="Include this many test images so that the accuracy can be recomputed.")]
_Robustbench = Annotated[
    bool, typer.Option("--robustbench", help="Also write the files needed to submit the model to RobustBench.")
]
_Evaluation = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="With --robustbench: claim the accuracies in this file (advcore evaluate --out)."
    ),
]
_Repo = Annotated[
    str | None,
    typer.Option("--push", metavar="OWNER/REPO", help="Upload the export to this repository on the Hugging Face Hub."),
]


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; the run may be unfinished.")],
    checkpoint: Annotated[str, typer.Option(help="Checkpoint to export: last or best.")] = "best",
    out: Annotated[Path | None, typer.Option(help="New folder to write; by default exports/RUN-CHECKPOINT.")] = None,
    format_: Annotated[str, typer.Option("--format", help="What to export: all, model, or coresets.")] = "all",
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write the coresets as parquet.")] = False,
    samples: _Samples = 0,
    plugin: arguments.Plugins = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")] = False,
    robustbench: _Robustbench = False,
    evaluation: _Evaluation = None,
    repo: _Repo = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make the repository private.")] = False,
) -> None:
    """Write RUN's model and coresets for use without advcore.

    The model is a safetensors file with a card and a loader.
    """
    from advcore.export import export as exporting

    require(
        check_one_of("--checkpoint", checkpoint, ("last", "best")),
        check_one_of("--format", format_, exporting.FORMATS),
        check_at_least("--samples", samples, 0),
        check(not robustbench or format_ != "coresets", "--format", "all or model with --robustbench", format_),
        check(robustbench or not evaluation, "--evaluation", "given with --robustbench", str(evaluation)),
        check(repo or not private, "--private", "given with --push", private),
    )
    submission = _prepare(folder, checkpoint, evaluation, robustbench=robustbench, repo=repo)
    exported = exporting.export(
        folder, out, checkpoint=checkpoint, kind=format_, parquet=parquet, samples=samples, overwrite=overwrite
    )
    if submission:
        submission.write(exported.folder, repo)
    _print_files(exported)
    if submission:
        _print_claim(submission, exported.folder, run=folder, checkpoint=checkpoint, plugins=plugin or ())
    if repo:
        _push(exported.folder, repo, private)


def _prepare(
    run: Path, checkpoint: str, evaluation: Path | None, *, robustbench: bool, repo: str | None
) -> "Submission | None":
    """Check the options besides the export itself; return what --robustbench writes, if it is given."""
    if repo is not None:
        from advcore.export.push import check_push

        check_push(repo)
    if not robustbench:
        return None
    from advcore.export.robustbench import prepare_submission

    return prepare_submission(run, checkpoint, evaluation)


def _print_files(exported: "Exported") -> None:
    for note in exported.notes:
        typer.echo(note)
    for file in sorted(path for path in exported.folder.rglob("*") if path.is_file()):
        typer.echo(f"{file.stat().st_size:>12,}  {file}")
    typer.echo(f"export: {exported.folder}")
    loader = exported.folder / "model.py"
    if loader.exists():
        print_next(shlex.join(["python", str(loader)]))


def _print_claim(
    submission: "Submission", folder: Path, *, run: Path, checkpoint: str, plugins: Sequence[Path]
) -> None:
    """Print what is claimed; where that is nothing, the reasons, and the commands that measure it."""
    entry = submission.describe()
    if not submission.faults:
        typer.echo(f"claim: clean {entry['clean_acc']} %, AutoAttack {entry['autoattack_acc']} %")
    for fault in submission.faults:
        typer.echo(f"no claim: {fault}")
    overrides = submission.board.list_overrides(submission.record.config["data"])
    if submission.faults and overrides:
        file = run / "robustbench.json"
        options = ("--checkpoint", checkpoint)
        replaced = ("--out", folder, "--overwrite")
        print_next(
            command_line(
                "evaluate",
                run,
                *options,
                "--out",
                file,
                "--state",
                file.with_suffix(".npz"),
                overrides=overrides,
                plugins=plugins,
            ),
            command_line("export", run, *options, *replaced, "--robustbench", "--evaluation", file, plugins=plugins),
        )


def _push(folder: Path, repo: str, private: bool) -> None:
    """Print what is uploaded, and upload it."""
    from advcore.export.push import list_files, push

    typer.echo(f"uploading {format_count(len(list_files(folder)), 'file')} of {folder} to {repo}")
    typer.echo(f"pushed: {push(folder, repo, private=private)}")
