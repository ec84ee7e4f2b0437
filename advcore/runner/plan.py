"""The plan of a run: what it will do, what that costs, and what it will hold in memory."""

from dataclasses import dataclass, field

from torch import nn

from advcore.data.base import Data
from advcore.runner import build
from advcore.runner.explain import explain_cost, explain_epochs
from advcore.runner.schema import RunConfig
from advcore.selection.memory import estimate_for, settle
from advcore.training.plan import Reference, planned_parts
from advcore.training.trainer import Trainer

_NEAR = 0.95
"""Share of a wanted cost; the plan mentions a cost that is below it."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, what it will cost, and what it will hold in memory.

    text : the plan in one line. relative_cost : its units over those of the reference. memory : sizes of the largest
    things held, by name. notes : explanations of what may surprise in the plan, by what they are about.
    """

    text: str
    relative_cost: float
    reference: Reference
    memory: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)


def make_plan(config: RunConfig, built: Trainer, loaded: Data, net: nn.Module, wanted: float | None = None) -> Plan:
    """Return what the run will do, its cost relative to the reference, and what it will hold in memory.

    wanted : the cost that the budget was computed for; None where the budget was set.
    """
    n = len(loaded.train)
    compared = build.find_reference(config, n)
    planned = planned_parts(built, n, build.count_held_out(loaded))
    cost = planned.total / compared.units
    text = built.schedule.describe()
    if config.minibatch:
        text += f", {config.minibatch.describe()}"
    text += f": {cost:.2f} of full training"
    if planned.total > compared.units:
        text += "; full training is cheaper"
    if wanted is not None and cost < _NEAR * wanted:
        text += f", of {wanted:g} wanted: the next larger budget takes a whole epoch more, and too much"
    notes = {"epochs": explain_epochs(built.schedule), "cost": explain_cost(built, planned, compared, n)}
    return Plan(
        text=text,
        relative_cost=cost,
        reference=compared,
        memory=estimate_memory(built, loaded, net),
        notes={subject: note for subject, note in notes.items() if note},
    )


def estimate_memory(built: Trainer, loaded: Data, net: nn.Module) -> dict[str, str]:
    """Return what a run holds, in MB: images, parameters with gradients and momentum, and a selection at its peak.

    Raises ConfigError if a selection does not fit into `selection.memory_limit` even with its rows in a file, or if
    remembered perturbations do not fit.
    """
    device = loaded.train.device
    sizes = {
        "images": loaded.train.nbytes,
        "model and optimiser": 3 * sum(p.numel() * p.element_size() for p in net.parameters()),
    }
    if built.remembers:
        sizes["remembered perturbations"] = built.memory_bytes(len(loaded.train), loaded.train.shape)
        with build.under("training"):
            built.memory.settle(sizes["remembered perturbations"], device)
    selector = built.selector
    estimate = selector and estimate_for(selector, net, loaded.train, build.count_held_out(loaded))
    rows = {}
    if estimate is not None:
        with build.under("selection"):
            estimate, event = settle(estimate, selector.memory_limit, device)
        sizes["largest problem"] = estimate.problem + estimate.matrix + estimate.solver
        sizes["selection at its height"] = estimate.peak
        rows["gradient rows"] = _megabytes(estimate.rows) + (" in a temporary file" if event else "")
    return rows | {name: _megabytes(size) for name, size in sizes.items()}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
