"""advcore check: print the plan of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli import arguments, output
from advcore.errors import check_positive, refuse_as_setting, require
from advcore.terminal import command_line, print_next, print_table

if TYPE_CHECKING:
    from advcore.config.schema import RunConfig
    from advcore.training.budget import Offer
    from advcore.training.plan import Reference
    from advcore.work import Work

_Headroom = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Also say whether selection can be worth its cost, judging by the headroom of this run.",
    ),
]


def check(
    file: arguments.RunFile,
    set_: arguments.Overrides = None,
    plugin: arguments.Plugins = None,
    cost: Annotated[
        float | None, typer.Option(help="Also list settings whose relative cost is at most this, such as 0.2.")
    ] = None,
    from_: _Headroom = None,
) -> None:
    """Check FILE and its data, and print the plan; run nothing.

    The plan includes its cost and its peak memory.
    """
    from advcore.config.load import load
    from advcore.reporting.tables import describe_reference
    from advcore.run import headroom
    from advcore.run.plan import find_offers
    from advcore.run.prepare import prepare

    if cost is not None:
        require(check_positive("--cost", cost, "it is relative to full training"))
    record = None if from_ is None else headroom.load_run_record(from_)
    with refuse_as_setting():
        prepared = prepare(load(file, set_ or ()))
    plan = prepared.plan
    offers = [] if cost is None else find_offers(prepared.config, prepared.data, cost, plan.reference.prices)
    notes = [*plan.notes.values(), *headroom.judge_run(prepared, record)]
    typer.echo("\n".join([str(file), plan.text, *notes, prepared.data.describe()]))
    facts = {
        **_describe_work(plan.work, plan.reference),
        "reference": describe_reference(plan.reference.describe()),
        **{f"memory, {name}": size for name, size in plan.memory.items()},
    }
    output.print_facts("", facts.items())
    if cost is not None and offers:
        _print_offers(offers, cost, prepared.config)
    print_next(command_line("run", file, overrides=set_ or (), plugins=plugin or ()))


def _describe_work(work: "Work", reference: "Reference") -> dict[str, str]:
    """Return the passes and operations of a run, each compared with those of the reference."""
    from advcore.work import format_operations

    units = reference.units
    facts = {"passes, forward and backward": f"{work.units:,}: {work.units / units:.2f} of the reference's {units:,}"}
    flops = reference.price(work)
    of_reference = reference.flops
    if flops is not None and of_reference is not None:
        compared = f"{flops / of_reference:.2f} of the reference's {format_operations(of_reference)}"
        facts["operations"] = f"{format_operations(flops)}: {compared}"
    return facts


def _print_offers(offers: list["Offer"], cost: float, config: "RunConfig") -> None:
    header = ("attack.steps", "selection.attack.steps", "selection.period", "minibatch", "selection.budget", "cost")
    title = f"at most {cost:g} of full training"
    if config.selection is None:
        title += ", on random subsets"
    print_table(title, header, map(_format_offer, offers))
    typer.echo("where attack.steps differs from the file's, attack.step_size is null")
    if getattr(config.attack, "start", "remembered") != "remembered" and config.training.cutmix is None:
        typer.echo("attack.start: remembered costs no extra passes (docs/savings.md)")


def _format_offer(offer: "Offer") -> tuple[str, ...]:
    """Return the cells of an offer's row; "–" where a setting does not apply."""
    from advcore.minibatch import RULES
    from advcore.types import find_name

    rule = "null" if offer.rule is None else f"{find_name(RULES, offer.rule)}, {offer.rule.describe()}"
    if offer.budget == 1:
        cells = [offer.steps, None, None, rule, "all data"]
    else:
        cells = [offer.steps, offer.selection_steps, offer.period or "null", rule, f"{offer.budget:g}"]
    return (*("–" if cell is None else str(cell) for cell in cells), f"{offer.cost:.3f}")
