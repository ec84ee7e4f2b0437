"""The page on training that has converged: its verdicts and tables, on records made by hand."""

import dataclasses
from types import SimpleNamespace

import pytest

from advcore.reporting.costs import COMPUTE
from advcore.reporting.record import RunRecord


@pytest.fixture
def page(script):
    return script("converged_page")


@pytest.fixture(scope="module")
def record(root):
    """A committed record, whose accuracies are then replaced."""
    return RunRecord.load(root / "benchmarks/records/reattack-mnist/all-s0.json")


@pytest.fixture
def make(record):
    """Make a run by its held-out curve, in percent, and its robust accuracy of `last` and `best`."""

    def make_run(curve=(50, 60), last=60.0, best=61.0, cost=1.0) -> RunRecord:
        epochs = [record.epochs[-1] | {"robust": value / 100, "probe": {}} for value in curve]
        final = {
            which: record.final[which] | {"attacks": [record.final[which]["attacks"][0] | {"accuracy": value / 100}]}
            for which, value in (("last", last), ("best", best))
        }
        for part in final.values():
            part["worst"] = part["attacks"][0]
        reference = record.reference | {"flops": COMPUTE.count(record) / cost}
        return dataclasses.replace(record, epochs=epochs, final=final, reference=reference)

    return make_run


@pytest.mark.parametrize(
    ("full", "twice", "converged"),
    [
        ((50, 60), (50, 60.4), True),
        ((50, 60), (50, 58), True),  # lowered
        ((50, 60), (60.2, 55), True),  # overfitted
        ((50, 60), (60.6, 55), False),  # the best epoch gains .6
        ((60.9, 60), (60, 61.1), False),  # the last epoch gains 1.1
    ],
)
def test_training_has_converged_if_twice_the_epochs_add_little(page, make, full, twice, converged):
    found = {page.FULL: [make(full)], page.TWICE: [make(twice)]}
    verdict = "has converged" if converged else "has not converged"
    assert page.judge_anchor(found).endswith(f"**full training {verdict}**.")


def test_without_both_runs_there_is_no_verdict(page, make):
    assert page.judge_anchor({page.FULL: [make()]}) == "One of the two runs is missing so far."


def test_curves_have_a_column_per_share_and_the_reference_is_the_end_of_full(page, make):
    found = {
        "full": [make(last=50, best=52)],
        "shortened @ 0.5": [make(last=45, cost=0.5)],
        "PGD-2 @ 0.5": [make(last=48, cost=0.5)],
        "PGD-2 @ 1": [make(last=49, best=48.5)],
        "standard training": [make(last=1)],
    }
    assert page.tabulate_curves(found).splitlines()[2:] == [
        "| full | 45.0 | **50.0** | -2.0 |",
        "| PGD-2 | **48.0** | 49.0 | +0.5 |",
    ]


def test_collapsed_runs_are_counted_and_in_no_mean(page, make):
    collapsed = make(curve=(60, 20), last=10)
    assert page._format_cell([make(last=50), make(last=52), collapsed], False) == "51.0 ± 1.4 (1 collapsed)"
    assert page._format_cell([collapsed], False) == "collapsed"


def test_the_picture_is_drawn_of_every_curve(page, make, tmp_path):
    found = {"full": [make()], "shortened @ 0.5": [make(cost=0.5)], "PGD-2 @ 0.5": [make(cost=0.5)]}
    page.draw({"one": found, "two": found}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_page_of_all_parts_has_them_in_order(page, make):
    anchors = {"Anchor": {page.FULL: [make()], page.TWICE: [make()]}}
    text = page.text(anchors, {"Curves": {"full": [make()], "shortened @ 0.5": [make(cost=0.5)]}}, "curves.png")
    places = [text.index(part) for part in ("# Training", "## Full training", "Anchor:", "## Robust", "### Curves")]
    assert places == sorted(places)


def test_the_page_comes_from_the_committed_records(root, tables):
    assert (root / "benchmarks/converged.md").read_text() == tables.converged_text()


def test_every_method_of_the_curves_is_at_three_shares_of_the_compute(tables, page):
    for name in tables.CURVES:
        methods = tables.suite_of(name).methods
        curves = page.list_curves({method: SimpleNamespace() for method in methods})
        assert {tuple(curve) for curve in curves.values()} <= {("0.25", "0.5", "1"), ("1", "0.25", "0.5")}
        assert len(curves) >= 20
