"""Which methods beat which, in the tables of suites and folders; runs that collapsed are counted, and in no average."""

import pytest
from reporting.test_report import entry, final, record, words

from advcore.reporting.collapse import has_collapsed
from advcore.reporting.compare import (
    Run,
    find_data_differences,
    find_repeats,
    group_runs,
    split_into_blocks,
    summarize_methods,
)
from advcore.reporting.front import find_front
from advcore.reporting.page import render
from advcore.reporting.runs_page import build_runs_page
from advcore.reporting.statistics import Difference
from advcore.reporting.suite import Results, build_tables
from advcore.reporting.tables import compare_methods
from advcore.reporting.verdicts import compare_pairs, describe_varied, list_pairs, pair_runs
from advcore.training.judge import is_collapse


def run(seed: int, robust: float, course=(0.5, 0.6), cost: float = 0.5, split: int = 0, **config):
    settings = {"seed": seed, "data": {"name": "digits", "split_seed": split}, "selection": None, **config}
    judged = {"last": final(0.9, robust), "best": final(0.9, robust)}
    epochs = [{"epoch": i, "robust": value} for i, value in enumerate(course)]
    return record(config=settings, relative_cost=cost, final=judged, epochs=epochs)


@pytest.mark.parametrize("before", [0.6, 0.21, 0.19, 1.0])
@pytest.mark.parametrize("after", [0.85, 0.45, 0.39, 0.3, 0.0])
@pytest.mark.parametrize("n", [20, 200, 10**5])
def test_one_fall_is_a_collapse_by_the_same_rule_as_in_training(before, after, n):
    probes = [entry(value, n) for value in (before, after)]
    epochs = [{"epoch": i, "robust": probe["accuracy"], "probe": probe} for i, probe in enumerate(probes)]
    assert has_collapsed(record(epochs=epochs)) == is_collapse(*probes)


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        ((0.6, 0.1, 0.7), False),  # rose again
        ((0.65, 0.5, 0.35, 0.2), True),  # sank bit by bit
        ((0.1, 0.1), False),
        ((None, None), False),  # nobody watched
        ((), False),
    ],
)
def test_what_counts_is_how_a_run_ends(course, expected):
    one = run(0, 0.5, course)
    assert has_collapsed(one) is expected and not has_collapsed(one, "best")


@pytest.fixture
def groups():
    """Full training, and half of it, whose third run collapsed; at checkpoint `best` it had not."""
    full = [run(seed, 0.7 + 0.01 * seed, cost=1.0) for seed in range(4)]
    half = [run(seed, 0.6 + 0.02 * seed) for seed in range(4)]
    half[2] = run(2, 0.05, (0.6, 0.1))
    half[2].final["best"] = final(0.9, 0.55)
    return {"full": full, "half": half}


def test_collapsed_runs_are_counted_and_in_no_mean_difference_or_front(groups):
    _, rows = compare_methods(groups)
    assert [row[1] for row in rows] == ["4", "3 + 1 collapsed"] and rows[1][3].startswith("62.7 ± 3.1")
    assert [row[1] for row in compare_methods(groups, "best")[1]] == ["4", "4"]
    pairs = [("half", "full")]
    assert [(one.seed, round(one.value, 6)) for one in pair_runs(groups, pairs)] == [(0, -10), (1, -9), (3, -7)]
    assert len(pair_runs(groups, pairs, "best")) == 4
    half, full = summarize_methods(groups)
    assert half.collapsed == 1 and half.describe() == "half: 62.7 ± 3.1 % at 0.50 (1 of 4 collapsed)"
    assert find_front([half, full]) == [full] and find_front([half]) == [half]
    lost = [run(seed, 0.05, (0.6, 0.1)) for seed in range(2)]
    assert compare_methods({"lost": lost})[1][0][1:4] == ("0 + 2 collapsed", "–", "–")
    assert summarize_methods({"lost": lost})[0].accuracy == pytest.approx(5)


def test_runs_are_paired_by_seed_and_data_split():
    first = [run(0, 0.5), run(0, 0.6, split=1), run(1, 0.7)]
    second = [run(0, 0.4, split=1), run(1, 0.5), run(2, 0.1)]
    (one, two) = pair_runs({"a": first, "b": second}, [("a", "b")])
    assert one == Difference(pytest.approx(20), 0, 1) and two == Difference(pytest.approx(20), 1, 0)
    assert compare_pairs({"a": first}, [("a", "b"), ("b", "a")]) == {}
    assert describe_varied({"a": first}) == "The runs have seeds 0 and 1, on data splits 0 and 1."
    assert describe_varied({"a": [run(seed, 0.5, split=seed) for seed in range(3)]}) == (
        "The runs have seeds 0-2, each with its own data split."
    )
    assert describe_varied({"a": first[:1]}).startswith("The runs have seed 0, on data split 0. Intervals do not cover")


def test_runs_of_one_method_may_differ_in_their_data_split():
    """The same seed on two splits is no repeat, and other data on another split no surprise."""
    runs = [Run(f"a-s{split}", run(0, 0.5 + 0.1 * split, split=split)) for split in (0, 1)]
    for one, text in zip(runs, ("images ab", "images cd"), strict=True):
        one.record.data = {"hash": {"train": text, "test": "images ef"}}
    assert list(group_runs(runs)) == ["a"] and find_repeats(runs) == {}
    assert find_data_differences({"a": [one.record for one in runs]}) == []
    again = [*runs, Run("a-s2", run(0, 0.5, split=1))]
    assert find_repeats(again) == {"a-s2": "a-s1"}


def test_test_images_that_vary_with_the_split_are_one_block():
    runs = [Run(f"a-s{split}", run(split, 0.5, split=split)) for split in (0, 1)]
    for one, text in zip(runs, ("images ab", "images cd"), strict=True):
        one.record.data = {"hash": {"train": text, "test": text}}
    (block,) = split_into_blocks({"a": runs})
    assert len(block.groups["a"]) == 2
    other = Run("b-s0", run(0, 0.5))
    other.record.data = {"hash": {"train": "images ab", "test": "images ef"}}
    assert len(split_into_blocks({"a": runs, "b": [other]})) == 3


def test_a_coreset_stands_beside_the_reference_and_random_subsets_of_its_cost_and_attack():
    random, chosen = ({"solver": {"name": name}} for name in ("random", "craig"))
    groups = {
        "full": [run(0, 0.7, cost=1.0)],
        "near, other attack": [run(0, 0.5, cost=0.5, selection=random, attack="x")],
        "near": [run(0, 0.5, cost=0.48, selection=random)],
        "far": [run(0, 0.5, cost=0.4, selection=random)],
        "craig": [run(0, 0.5, cost=0.5, selection=chosen)],
        "small craig": [run(0, 0.5, cost=0.2, selection=chosen)],
    }
    of_reference = [(name, "full") for name in groups if name != "full"]
    assert list_pairs(groups, "full") == [*of_reference, ("craig", "near")]
    assert list_pairs(groups, "not there") == [("craig", "near")]


def test_a_suite_has_a_table_of_verdicts_where_any_can_be_tested(groups):
    results = Results(reference="full")
    for name, records in groups.items():
        for seed, one in enumerate(records):
            results.add(name, seed, one)
    table = build_tables(results, "t")[2]
    assert table.caption == "t: differences, checkpoint last"
    assert table.rows == [("half", "full", "3", "-8.67 ± 3.79", "0.0102", "0.010", "below")]
    made = "1 comparison was made. It is a paired t-test"
    assert table.notes[0].startswith(made) and "data split 0" in table.notes[0]
    results.entries[1:4] = results.entries[5:] = []
    assert len(build_tables(results, "t")) == 2


def test_the_page_of_a_folder_sets_methods_beside_the_dearest_on_all_data(groups):
    runs = [Run(f"{name}-s{one.config['seed']}", one) for name, records in groups.items() for one in records]
    told = words(render(build_runs_page("x", runs)))
    assert "half full 3 -8.67 ± 3.79 0.0102 0.010 below" in told
    assert "1 comparison was made. It is a paired t-test" in told
    assert "3 + 1 collapsed" in told and "their methods are not on the front" in told
    assert "Of 1 tested difference, 1 is beyond chance: half is below full." in told
    assert "Collapsed in at least one run: half." in told
