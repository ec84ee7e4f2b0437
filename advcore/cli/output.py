"""What several commands print."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advcore.terminal import command_line, print_next, print_table

if TYPE_CHECKING:
    from advcore.config.schema import RunConfig


def print_facts(title: str, facts: Iterable[Sequence[object]]) -> None:
    """Print a table of names and values, without a header."""
    print_table(title, ("", ""), facts)


def suggest_autoattack(
    target: Path,
    config: "RunConfig",
    checkpoint: str = "best",
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
) -> None:
    """Print the command that evaluates a run by AutoAttack, if it could run and has not.

    That is: a package of it is installed, `config` evaluates an attack in an lp ball, and no AutoAttack yet.
    target : the run's folder or run file. overrides : of its settings, as "a.b=c". plugins : files that it needs.
    """
    from advcore.attacks.geometry import LP
    from advcore.evaluation.autoattack import AutoAttack, is_installed

    attacks = config.evaluation.attacks
    is_evaluated = any(isinstance(attack, AutoAttack) for attack in attacks)
    if not is_evaluated and is_installed() and any(attack.norm in LP for attack in attacks):
        options = ("--checkpoint", checkpoint, "--suite", "autoattack")
        print_next(command_line("evaluate", target, *options, overrides=overrides, plugins=plugins))
