"""What a record says about headroom: an upper bound on the gain of an unbiased choice of examples."""

from advcore.reporting.record import JsonObject, RunRecord

_SUBSETS = {"full": "all data", "random": "a random subset"}


def find_last_entry(record: RunRecord) -> JsonObject | None:
    """Return the last epoch that recorded headroom; None for a record without it, such as an older one."""
    entries = [entry for entry in record.epochs if entry.get("headroom") is not None]
    return entries[-1] if entries else None


def describe_headroom(record: RunRecord) -> str | None:
    """Say what headroom was in the last epoch that recorded it, and what that means, without a last full stop.

    Returns None where no epoch recorded it.
    """
    entry = find_last_entry(record)
    if entry is None:
        return None
    headroom = entry["headroom"]
    trained_on = _SUBSETS.get(entry.get("action", ""), "a coreset")
    return (
        f"Headroom was {headroom:.2f} in epoch {entry['epoch']}, on {trained_on}: with the best unbiased choice of "
        f"examples, a step's gradient has {headroom:.0%} of the second moment that it has with a uniform choice. "
        f"Selection can therefore save at most {1 - headroom:.0%} of the training that uses it"
    )


def judge_choosing(record: RunRecord, cost: float | None) -> str:
    """Return in words whether selection can be worth its cost, by what a run recorded.

    cost : of the selections, as a share of the training that uses them; None where nothing is selected.
    """
    sentence = describe_headroom(record)
    if sentence is None:
        return f"{record.name} recorded no headroom: {_explain_missing(record)}"
    if cost is None:
        return f"{sentence}, and can be worth its cost if it costs less than that."
    saved = 1 - find_headroom(record)
    verdict = "can" if cost < saved else "cannot"
    plan = f"The selections planned here cost {cost:.0%} of that training"
    return f"{sentence}. {plan}, so selection {verdict} be worth its cost."


def find_headroom(record: RunRecord) -> float:
    """Return the headroom of the last epoch that recorded it; NaN for a record without it."""
    entry = find_last_entry(record)
    return float("nan") if entry is None else float(entry["headroom"])


def _explain_missing(record: RunRecord) -> str:
    """Return why a record holds no headroom, as its event says; an older record has none."""
    for event in record.events:
        if event.get("kind") == "headroom":
            return str(event["event"]).removeprefix("no headroom is recorded: ") + "."
    if not record.epochs:
        return "no epoch is done."
    return "no norm was measured, as in older versions."
