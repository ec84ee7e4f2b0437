"""The summary at the top of a run's page: what was trained, what it cost, how robust it is, what to bear in mind."""

from advcore.errors import format_count
from advcore.reporting import costs, svg, tables, titles
from advcore.reporting.collapse import has_collapsed
from advcore.reporting.lenient import read_or
from advcore.reporting.parts import KeyNumber, Note, note_if
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.selection_parts import find_coreset_share

# ---- sentences ----


def write_sentences(record: RunRecord) -> list[str]:
    """Return the sentences of a summary that can be read out; what the record does not hold has none."""
    writers = (_write_training, _write_cost, _write_robustness)
    return [sentence for write in writers if (sentence := read_or("", write, record))]


def _write_training(record: RunRecord) -> str:
    model = titles.write_title(str(record.config["model"]["name"]))
    text = f"This run trained the {model} model on {titles.name_data(record)} with "
    text += f"{titles.name_objective(record.config)} for {format_count(len(record.epochs), 'epoch')}"
    choice = titles.describe_choice(record.config, read_or(None, find_coreset_share, record))
    full = sum(entry["action"] == "full" for entry in record.epochs)
    if full in (0, len(record.epochs)):
        return f"{text}, on {choice}." if full == 0 or not record.selections else f"{text}, on all data."
    return f"{text}: {full} on all data, then {len(record.epochs) - full} on {choice}."


def _write_cost(record: RunRecord) -> str:
    unit = costs.list_units(record)[0]
    so_far = "" if record.finished else " so far"
    share = tables.format_percent(unit.compare(record))
    reference = tables.describe_reference(record.reference)
    return f"It cost {share} % of the {unit.name} of full training ({reference}){so_far}."


def _write_robustness(record: RunRecord) -> str:
    evaluation = record.final["last"]
    clean = evaluation["clean"]
    accuracy = tables.format_percent(clean["accuracy"])
    if not evaluation["attacks"]:
        return f"It classifies {accuracy} % of {clean['n']:,} test images correctly; it was not attacked."
    name, entry = find_robust(evaluation)
    return (
        f"Under attack ({name}) it classifies {tables.format_percent(entry['accuracy'])} % of {entry['n']:,} test "
        f"images correctly (95 % interval: {tables.format_interval(entry)}); without an attack, {accuracy} %."
    )


def find_robust(evaluation: JsonObject) -> tuple[str, JsonObject]:
    """Return the robust accuracy by which a run is judged, and the name of its attack; of several, all together."""
    attack = evaluation["attacks"][0]
    if worst := tables.find_worst_case(evaluation):
        return f"all {len(evaluation['attacks'])} attacks", worst
    return tables.name_attack(attack), attack


# ---- what to bear in mind ----


def list_cautions(record: RunRecord) -> list[Note]:
    """Return what to bear in mind when the summary is used, the worst first, and whether the checks passed."""
    cautions: list[Note] = []
    for find in (_find_failures, _find_weak_selections, _find_limits):
        cautions += read_or((), find, record)
    return [*read_or((), _note_checks, record), *cautions]


def _note_checks(record: RunRecord) -> list[Note]:
    evaluations = list(record.final.values())
    if record.config.get("evaluation", {}).get("checks") is False:
        return [Note("The reliability checks were switched off.", "warning")]
    flags = tables.list_run_flags(record)
    if flags:
        text = f"{format_count(len(flags), 'flag')}, shown above: do not trust the accuracies until each is explained."
        return [Note(text, "flag")]
    is_sound = evaluations and all(evaluation["flags"] == [] for evaluation in evaluations)
    return note_if(is_sound, "All reliability checks passed.", "good")


def _find_failures(record: RunRecord) -> list[Note]:
    last, best = record.final.get("last"), record.final.get("best")
    collapsed = has_collapsed(record)
    fell = False
    if last and best and last["attacks"]:
        (attacks, before), (attacks_last, after) = find_robust(best), find_robust(last)
        fell = attacks == attacks_last and before["interval"][0] > after["interval"][1]
    return [
        *note_if(
            collapsed, "The run ended in catastrophic overfitting: robust accuracy fell by over 20 points.", "warning"
        ),
        *note_if(
            fell and not collapsed,
            "Robust overfitting: the last epoch is less robust than the best one; their 95 % intervals do not overlap.",
            "warning",
        ),
        *note_if(record.events, f"{format_count(len(record.events), 'event')}; see the section on events.", "warning"),
    ]


def _find_weak_selections(record: RunRecord) -> list[Note]:
    measured = [entry for entry in record.selections if entry.get("gradient_error") is not None]
    weak = sum(entry["gradient_error"] >= entry["gradient_error_random"] for entry in measured)
    selections = format_count(len(measured), "selection")
    text = f"In {weak} of {selections}, the gradient error is not below that of random subsets."
    return note_if(weak, text, "warning")


def _find_limits(record: RunRecord) -> list[Note]:
    """Return what every reader of the numbers should know: which attacks, how many seeds, and whose seconds."""
    evaluation = record.final.get("last") or {}
    attacks = [attack["name"] for attack in evaluation.get("attacks", ())]
    weak = attacks and "autoattack" not in attacks
    return [
        *note_if(weak, "AutoAttack was not run: a stronger attack may lower the robust accuracy."),
        *note_if(record.final, "One seed: intervals cover the choice of test images, not the variation over seeds."),
        *note_if(
            record.environment.get("load_warning"),
            "Seconds cannot be compared: other processes were using the machine.",
        ),
    ]


# ---- the most important numbers ----


def choose_key_numbers(record: RunRecord) -> list[KeyNumber]:
    """Return the accuracies, the cost and the gradient error that stand at the top of a run's page."""
    numbers: list[KeyNumber] = []
    if "last" in record.final:
        numbers += _list_final_accuracies(record.final["last"])
    elif record.epochs:
        numbers += _list_probe_accuracies(record.epochs[-1])
    return [*numbers, *_list_costs(record), *_list_errors(record)]


def _list_final_accuracies(evaluation: JsonObject) -> list[KeyNumber]:
    """Return robust accuracy, under all attacks together where there are several, and clean accuracy."""
    entries = [("clean accuracy", evaluation["clean"])]
    if evaluation["attacks"]:
        name, entry = find_robust(evaluation)
        together = f", {name}" if len(evaluation["attacks"]) > 1 else ""
        entries.insert(0, (f"robust accuracy{together}", entry))
    return [_draw_accuracy(name, entry) for name, entry in entries]


def _draw_accuracy(name: str, entry: JsonObject) -> KeyNumber:
    value = f"{tables.format_percent(entry['accuracy'])} %"
    low, high = entry["interval"]
    meter = svg.meter(entry["accuracy"], f"{name}: {value}", (low, high))
    return KeyNumber(name, value, f"95 % interval {tables.format_interval(entry)}, n = {entry['n']:,}", meter)


def _list_probe_accuracies(epoch: JsonObject) -> list[KeyNumber]:
    return [
        KeyNumber(
            f"{name} accuracy",
            f"{tables.format_percent(epoch[name])} %",
            f"validation, epochs done: {epoch['epoch'] + 1}",
            svg.meter(epoch[name], f"{name} accuracy: {tables.format_percent(epoch[name])} %"),
        )
        for name in ("robust", "clean")
        if epoch.get(name) is not None
    ]


def _list_costs(record: RunRecord) -> list[KeyNumber]:
    """Return the relative cost in the first unit that the record counts; the second unit is in the remark."""
    unit, *others = costs.list_units(record)
    name = f"{unit.name}, relative to full training"
    value = f"{tables.format_percent(unit.compare(record))} %"
    remark = ", ".join(f"{tables.format_percent(other.compare(record))} % of its {other.name}" for other in others)
    if not record.finished:
        remark = f"so far; {remark}" if remark else "so far"
    return [KeyNumber(name, value, remark, svg.meter(unit.compare(record), f"{name}: {value}"))]


def _list_errors(record: RunRecord) -> list[KeyNumber]:
    selections = [selection for selection in record.selections if selection.get("gradient_error") is not None]
    if not selections:
        return []
    last = selections[-1]
    error, random = last["gradient_error"], last["gradient_error_random"]
    remark = f"random subsets {random:.3f}; last selection, after {format_count(last['epoch'], 'epoch')}"
    share = error / max(error, random, 1e-12)
    return [KeyNumber("gradient error", f"{error:.3f}", remark, svg.meter(share, "gradient error relative to random"))]
