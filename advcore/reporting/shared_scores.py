"""What a table says of scores that were made once, by training a network, and then used by several runs."""

from collections.abc import Iterable

from advcore.reporting import costs
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.tables import Groups

# Where a record holds the facts of the scores that its solver read.
_INPUT = "selection.solver.scores"


def describe_scores(groups: Groups) -> list[str]:
    """Return a line for each file of scores that runs of a table have in common: it was paid for once, not by each."""
    users: dict[str, list[tuple[str, RunRecord]]] = {}
    for name, records in groups.items():
        for record in records:
            if _INPUT in record.inputs:
                users.setdefault(record.inputs[_INPUT]["sha256"], []).append((name, record))
    return [_describe_file(entries) for entries in users.values()]


def _describe_file(entries: list[tuple[str, RunRecord]]) -> str:
    facts: JsonObject = entries[0][1].inputs[_INPUT]
    methods = ", ".join(dict.fromkeys(name for name, _ in entries))
    training = f"{facts['epochs']} epochs of {facts['objective']} training with seed {facts['seed']}"
    cost = _format_share(record for _, record in entries)
    return (
        f"{methods}: {facts['score']} scores over {training}, made once and used by all {len(entries)} runs; "
        f"what that cost once{cost} is in no run's relative cost."
    )


def _format_share(records: Iterable[RunRecord]) -> str:
    """Write the cost of the scores relative to the runs' reference, " (0.25 of the reference)"; "" where unknown."""
    share = costs.measure_pretraining(list(records))
    return "" if share is None else f" ({share:.2f} of the reference, column {costs.PRETRAINING})"
