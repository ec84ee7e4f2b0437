"""What a table says of scores that were made once, by training a network, and then used by several runs."""

from advcore.reporting import costs
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.tables import Groups, list_records

# Where a record holds the facts of the scores that its solver read.
_INPUT = "selection.solver.scores"


def describe_scores(groups: Groups) -> list[str]:
    """Return a line for each file of scores that runs of a table have in common: it was paid for once, not by each.

    There is none for a file of which a record tells the hash alone.
    """
    unit = costs.choose_unit(list_records(groups))
    users: dict[str, list[tuple[str, RunRecord]]] = {}
    for name, records in groups.items():
        for record in records:
            if "epochs" in record.inputs.get(_INPUT, ()):
                users.setdefault(record.inputs[_INPUT]["sha256"], []).append((name, record))
    return [_describe_file(entries, unit) for entries in users.values() if len(entries) > 1]


def _describe_file(entries: list[tuple[str, RunRecord]], unit: costs.Unit) -> str:
    facts: JsonObject = entries[0][1].inputs[_INPUT]
    methods = ", ".join(dict.fromkeys(name for name, _ in entries))
    training = f"{facts['epochs']} epochs of {facts['objective']} training with seed {facts['seed']}"
    share = costs.measure_pretraining([record for _, record in entries], unit)
    cost = "" if share is None else f" ({share:.2f} of the reference, column {costs.PRETRAINING})"
    return (
        f"{methods}: {facts['score']} scores over {training}, made once and used by all {len(entries)} runs; "
        f"this one-time cost{cost} is in no run's relative cost."
    )
