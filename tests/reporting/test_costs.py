"""What costs are counted in, and whether seconds can be compared: by the records that share a column."""

import pytest
from reporting.test_report import final, record, words
from reporting.test_reporting import record as small_record

from advcore.reporting import costs
from advcore.reporting.card import write_card
from advcore.reporting.clock import read_clock
from advcore.reporting.compare import Run, summarize_methods
from advcore.reporting.page import render
from advcore.reporting.run_page import RunFiles, build_run_page
from advcore.reporting.runs_page import build_runs_page
from advcore.reporting.suite import Results, build_table, list_raw_rows
from advcore.reporting.tables import compare_methods, list_closing_rows


def counted(seed: int = 0, seconds: float = 4.0, **environment):
    """A record that counts compute: 0.3 of full training's, and 0.25 of its passes."""
    phases = {"attack": (600, 600, 2e15), "update": (650, 650, 4e15), "evaluation": (10**6, 0, 9e18)}
    ledger = {
        phase: {"forward": forward, "backward": backward, "flops": flops, "seconds": seconds / 2}
        for phase, (forward, backward, flops) in phases.items()
    }
    reference = {"epochs": 6, "steps": 10, "units": 10_000, "flops": 2e16}
    config = {"seed": seed, "data": {"name": "digits"}, "selection": None}
    where = {"device": "cpu", "platform": "linux", "torch": "2.0"} | environment
    return record(config=config, ledger=ledger, reference=reference, relative_cost=0.3, environment=where)


def older(seed: int = 0, cost: float = 1.0):
    """A record of a version that counted only passes."""
    config = {"seed": seed, "data": {"name": "digits"}, "selection": None}
    return record(config=config, relative_cost=cost, reference={"epochs": 6, "steps": 10, "units": 10_000})


def test_what_a_run_took_is_the_sum_of_all_phases_but_evaluation():
    new, old = counted(), older(cost=0.5)
    assert costs.COMPUTE.count(new) == 6e15 and costs.PASSES.count(new) == 2500
    assert (costs.COMPUTE.compare(new), costs.PASSES.compare(new)) == (pytest.approx(0.3), 0.25)
    assert costs.PASSES.compare(old) == 0.5 and costs.count_passes(old) == 5000
    assert costs.has_compute(new) and not costs.has_compute(old)


@pytest.mark.parametrize(
    ("operations", "text"),
    [(0, "0 FLOP"), (999, "999 FLOP"), (999_600, "1 MFLOP"), (3.2e15, "3.2 PFLOP"), (1.2345e12, "1.23 TFLOP")],
)
def test_compute_is_written_with_three_digits(operations, text):
    assert costs.COMPUTE.format(operations) == text


def test_a_column_is_in_compute_only_where_all_of_its_records_are():
    new, old = [counted(0), counted(1)], [older(0), older(1)]
    header, rows = compare_methods({"a": new})
    place = header.index("relative cost (compute)")
    assert rows[0][place] == "0.30"
    header, rows = compare_methods({"a": new, "b": old}, against=old)
    assert not any("compute" in title for title in header)
    assert [row[header.index("relative cost (passes)")] for row in rows] == ["0.25", "1.00"]
    assert [row[header.index("speed-up (passes)")] for row in rows] == ["4.00", "1.00"]
    assert [method.cost for method in summarize_methods({"a": new, "b": old})] == [0.25, 1.0]
    assert [method.cost for method in summarize_methods({"a": new})] == [pytest.approx(0.3)]
    assert costs.explain_unit(new) == costs.explain_unit(old) == []
    (line,) = costs.explain_unit([*new, *old])
    assert line == "Costs are in passes for all rows, since 2 of 4 records do not count compute."


def test_pretraining_without_a_count_of_compute_is_in_passes():
    new = counted()
    new.pretraining = {"run": "x", "passes": 5000}
    header, ((*cells,),) = compare_methods({"a": [new]})
    assert cells[header.index("pretraining")] == "0.50" and "relative cost (passes)" in header
    new.pretraining["flops"] = 2e15
    header, ((*cells,),) = compare_methods({"a": [new]})
    assert cells[header.index("pretraining")] == "0.10" and "relative cost (compute)" in header
    assert ("pretraining, relative cost (compute)", "0.100") in list_closing_rows(new)


def test_a_single_run_shows_compute_and_passes():
    new = counted()
    rows = dict(list_closing_rows(new))
    assert rows["relative cost (compute)"] == "0.300, 6 PFLOP"
    assert rows["relative cost (passes)"] == "0.250, 2,500 passes"
    page = words(render(build_run_page(new, RunFiles())))
    cost = "compute, relative to full training 30.0 % 25.0 % of its passes"
    for text in (cost, "20 PFLOP, 10,000 passes", "2 PFLOP"):
        assert text in page
    new.config |= {"model": {"name": "small_cnn"}, "objective": {"name": "pgd"}, "attack": None}
    new.config |= {"training": {"optimizer": {"name": "sgd"}, "lr_schedule": {"name": "cosine"}, "batch_size": 8}}
    card = write_card(new, "last", 5, {"shape": (1, 8, 8), "num_classes": 10, "standalone": False, "samples": 0,
                                       "coresets": 0, "needs": []})  # fmt: skip
    assert "relative cost (compute): 0.300 of full" in card and "relative cost (passes): 0.250 of full" in card
    assert [row for row in list_closing_rows(older()) if "cost" in row[0]] == [
        ("relative cost (passes)", "1.000, 10,000 passes")
    ]


def test_a_folder_of_old_and_new_records_says_that_costs_are_in_passes():
    runs = [Run("a-s0", counted(0)), Run("a-s1", counted(1)), Run("b-s0", older(0)), Run("b-s1", older(1))]
    for run in runs:
        run.record.final["last"] = final(0.9, 0.5)
    page = words(render(build_runs_page("x", runs)))
    assert "relative cost (passes)" in page and "(compute)" not in page
    assert "since 2 of 4 records do not count compute" in page
    page = words(render(build_runs_page("x", runs[:2])))
    assert "relative cost (compute)" in page and "(passes)" not in page


def test_numbers_for_a_spreadsheet_have_a_column_for_each_unit():
    results = Results(reference=None)
    for seed, entry in enumerate((counted(), older(cost=0.5))):
        entry.final = small_record().final
        results.add("a", seed, entry)
    header, rows = list_raw_rows(results, "s", None)
    places = [header.index(f"relative_cost_{name}") for name in ("compute", "passes")]
    cells = [[row[place] for place in places] for row in rows]
    assert [cells[0][1], *cells[1]] == ["0.25", "", "0.5"] and float(cells[0][0]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([counted(1, 5.9)], ""),
        ([counted(1, 6.1)], "differ in time by a factor of up to 1.5"),
        ([counted(1, torch="2.1")], "several machines"),
        ([counted(1, threads=2)], "several machines"),
        (
            [counted(1, load_warning="the load average is 7 on 2 cores")],
            "at the start of 1 of 2 runs, the machine had more processes ready to run than cores",
        ),
    ],
)
def test_seconds_are_compared_on_one_kind_of_quiet_machine(others, reason):
    clock = read_clock({"a": [counted(), *others]})
    assert clock.comparable == (not reason) and reason in clock.text
    assert ("cpu, 1 thread; its load was not recorded" in clock.text) == clock.comparable


def test_short_runs_and_runs_of_other_work_say_nothing_of_the_machine():
    more = counted(1, 40.0)
    more.ledger["attack"]["forward"] *= 10
    groups = {"a": [counted(), more], "b": [counted(0, 0.9), counted(1, 0.1)]}
    assert "it is unknown whether the machine had other work" in read_clock(groups).text
    for entry in (*groups["a"], *groups["b"]):
        entry.environment["load"] = 0.5
    clock = read_clock(groups)
    assert clock.comparable and "load" not in clock.text


def test_a_table_of_methods_has_seconds_and_says_where_they_cannot_be_compared():
    results = Results(reference="full")
    for seed, seconds in enumerate((8.0, 9.0)):
        results.add("full", seed, counted(seed, seconds))
        results.add("half", seed, counted(seed, seconds / 2))
    table = build_table(results, "t", "last")
    cells = [row[table.header.index("seconds")] for row in table.rows]
    assert cells == ["8.5", "4.2"]
    assert [row[table.header.index("speed-up (seconds)")] for row in table.rows] == ["1.00", "2.00"]
    assert any(note.endswith("cpu, 1 thread; its load was not recorded.") for note in table.notes)
    results.entries[-1].record.ledger["update"]["seconds"] *= 9
    table = build_table(results, "t", "last")
    assert "seconds" in table.header and "speed-up (seconds)" not in table.header
    busy = "They cannot be compared, because the machine had other work: runs of one method"
    assert any(busy in note for note in table.notes)
