"""The pages on where selection is worth its cost: fresh, and their verdicts follow from the tests of the records."""

import dataclasses

import pytest

from advcore.reporting.statistics import Comparison, Difference, compare_all

TITLE = "a suite"


@pytest.fixture
def pages(script):
    return script("selection_page")


def differ(mean: float) -> list[Difference]:
    """Differences of five seeds around `mean`, each with a split of its own."""
    return [Difference(mean + 0.1 * (seed - 2), seed, seed) for seed in range(5)]


def compare(pages, gains: dict[str, float]) -> dict[tuple[str, str], Comparison]:
    return compare_all({(TITLE, question): differ(gain) for question, gain in gains.items()})


@pytest.mark.parametrize(
    ("growing", "rule", "says"),
    [
        (3, 2, "the selector is worth its cost"),
        (3, 0, "a gain of the schedule, not of the selector"),
        (-3, 2, "no gain over the schedule"),
        (-3, 0, "no gain"),
    ],
)
def test_success_takes_both_a_gain_over_the_growing_ball_and_one_over_the_random_rule(pages, growing, rule, says):
    gains = {pages.AGAINST_ALL: 4, pages.AGAINST_GROWING: growing, pages.BOTH_GROW: 0, pages.LOW: rule, pages.OLDEST: 0}

    verdict = pages.judge_reattack(TITLE, compare(pages, gains))

    assert verdict.endswith(f"**{says}**")


def test_a_loss_is_never_called_a_gain(pages):
    gains = {pages.AGAINST_ALL: -4, pages.AGAINST_GROWING: -3, pages.BOTH_GROW: -3, pages.LOW: -2, pages.OLDEST: -2}

    assert pages.judge_reattack(TITLE, compare(pages, gains)).endswith("**no gain**")


def test_without_runs_there_is_no_verdict(pages):
    assert pages.judge_reattack(TITLE, {}) == "there are not enough runs for a verdict yet"
    assert pages.list_verdicts(TITLE, pages.REATTACK, {}) == ["- There are not enough runs for a test yet."]


def test_what_was_tested_and_is_level_is_said_to_be_so(pages):
    tested = compare(pages, {pages.LOW: 0})

    assert pages.list_verdicts(TITLE, pages.REATTACK, tested) == ["- No tested difference is beyond chance."]


@pytest.mark.parametrize(("slope", "says"), [(-1, "predicts"), (1, "does not predict")])
def test_headroom_predicts_only_where_low_headroom_goes_with_gains(script, slope, says):
    pages = script("headroom_page")
    point = pages.Point("coresets", "a suite", "GradMatch", 0.5, 0.0, 0.1)
    points = [dataclasses.replace(point, headroom=0.1 * i, gain=slope * i) for i in range(1, 9)]

    assert f"Headroom {says} here" in pages.describe(points)


def test_every_pair_that_is_asked_about_is_in_its_suite(pages, tables):
    asked = ((tables.REATTACK, pages.REATTACK), (tables.FREE_ROWS, pages.FREE_ROWS), (tables.POOLS, pages.POOLS))
    for suites, questions in asked:
        methods = {method for suite in suites for method in tables.suite_of(suite).methods}
        for pairs in questions.values():
            assert {name for pair in pairs for name in pair} <= methods


def test_the_pages_come_from_the_committed_records(root, tables):
    for name, text in tables.selection_texts().items():
        assert (root / "benchmarks" / name).read_text() == text
    assert (root / "benchmarks/headroom.png").exists()
    assert tables.SAVINGS_GUIDE.read_text() == tables.savings_guide_text()


@pytest.mark.parametrize(
    ("gain", "says"),
    [(3, "are better than random"), (-3, "are worse than random"), (0, "are not distinguishable from random")],
)
def test_the_sentence_on_stored_rows_follows_the_test(pages, monkeypatch, gain, says):
    tested = compare(pages, {pages.GRADMATCH: gain, pages.SHORTENED: 0})
    monkeypatch.setattr(pages, "test", lambda sections, questions: tested)

    sentence = pages.describe_free_rows({TITLE: {}})

    assert says in sentence and sentence.count("not distinguishable from") == 1 + (gain == 0)


def test_the_schedule_is_fresh_and_within_its_hours(root, script):
    schedule = script("schedule_page")

    assert (root / "benchmarks/schedule.md").read_text() == schedule.text()
    for parts, limit in schedule.STUDIES.values():
        assert schedule.table(parts)[1] <= limit
