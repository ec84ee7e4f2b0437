"""What pages and commands say of headroom, and that they say nothing of it for older records."""

import csv
import io

import pytest

from advcore.reporting.formats import to_csv
from advcore.reporting.headroom import describe_headroom, judge_choosing
from advcore.reporting.learning_parts import build_learning
from advcore.reporting.parts import Figures
from advcore.reporting.record import RunRecord
from advcore.reporting.suite import Results, list_raw_rows


def measured(*headrooms, action="full", events=()):
    entries = [
        {"epoch": i, "loss": 1.0, "action": action} | ({} if headroom is None else {"headroom": headroom})
        for i, headroom in enumerate(headrooms)
    ]
    attack = {"name": "linf_pgd", "norm": "linf", "eps": 0.1, "steps": 50, "restarts": 3, "n": 100, "accuracy": 0.9}
    accuracies = {
        "clean": {"accuracy": 0.99, "n": 100, "interval": [0.95, 1.0]},
        "attacks": [attack | {"step_size": 0.01, "seed": 0, "split": "test", "interval": [0.8, 0.95]}],
    }
    return RunRecord(
        name="x",
        config={},
        environment={"device": "cpu"},
        plan="",
        reference={},
        ledger={"attack": {"forward": 1, "backward": 1, "seconds": 2.0}},
        epochs=entries,
        events=list(events),
        final={"last": accuracies, "best": accuracies},
    )


def titles(run) -> list[str]:
    return [figure.caption for part in build_learning(run) if isinstance(part, Figures) for figure in part.figures]


def test_the_sentence_is_of_the_last_epoch_that_measured_it():
    assert describe_headroom(measured(0.9, 0.42, None)).startswith("Headroom was 0.42 in epoch 1, on all data: ")
    assert ", on a random subset: " in describe_headroom(measured(0.5, action="random"))
    assert ", on a coreset: " in describe_headroom(measured(0.5, action="reuse"))
    assert describe_headroom(measured(0.42)).endswith("at most 58% of the training that uses it")


@pytest.mark.parametrize(("cost", "verdict"), [(0.1, "can"), (0.6, "cannot"), (0.59, "cannot")])
def test_selection_can_be_worth_its_cost_where_it_costs_less_than_it_can_save(cost, verdict):
    sentence = judge_choosing(measured(0.5, 0.42), cost)
    assert sentence.endswith(f"cost {cost:.0%} of that training, so selection {verdict} be worth its cost.")


def test_without_selections_the_sentence_says_what_they_may_cost():
    assert judge_choosing(measured(0.42), None).endswith(", and can be worth its cost if it costs less than that.")


def test_a_record_without_headroom_says_why():
    assert judge_choosing(measured(None), 0.1) == "x recorded no headroom: no norm was measured, as in older versions."
    assert judge_choosing(measured(), 0.1) == "x recorded no headroom: no epoch is done."
    event = {"epoch": 0, "kind": "headroom", "event": "no headroom is recorded: it is compiled"}
    assert judge_choosing(measured(None, events=[event]), None) == "x recorded no headroom: it is compiled."


def test_a_run_page_draws_it_and_says_what_it_means():
    run = measured(0.9, 0.42)
    assert any(title.startswith("Headroom") for title in titles(run))
    assert any("Headroom was 0.42" in getattr(part, "text", "") for part in build_learning(run))
    older = measured(None, None)
    assert not any(title.startswith("Headroom") for title in titles(older))
    assert not any("Headroom" in getattr(part, "text", "") for part in build_learning(older))


def test_a_suites_csv_has_a_column():
    results = Results(reference=None)
    results.add("new", 0, measured(0.9, 0.42))
    results.add("old", 0, measured(None))
    rows = list(csv.DictReader(io.StringIO(to_csv(*list_raw_rows(results, "s", None)), newline="")))
    assert [row["headroom"] for row in rows] == ["0.42", ""]
