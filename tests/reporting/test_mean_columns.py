"""Means over attacks as columns of a suite's table, and what it says of scores that several runs share."""

import statistics

import pytest
from reporting.test_suite_tables import one

from advcore.config.load import resolve
from advcore.errors import ConfigError
from advcore.reporting.columns import find_accuracy, is_named
from advcore.reporting.shared_scores import describe_scores
from advcore.reporting.suite import Results, build_table
from advcore.suite import bench
from advcore.suite.suite import load, resolve_methods

NAMES = (("autoattack", "linf"), ("autoattack", "l2"), ("stadv", "stadv"), ("ppgd", "lpips"), ("lpa", "lpips"))
COLUMNS = {"Unseen": ["autoattack linf", "autoattack l2", "stadv"], "Seen": ["ppgd", "lpa"]}
SUITE = """name: toy
methods: {full: {experiment: EXPERIMENT, selection: null}}
baselines: false
"""


def make_record(accuracies, **changes):
    """A record whose attacks are those of NAMES, with these accuracies."""
    made = one()
    entry = made.final["last"]["attacks"][0] | {"version": "standard"}
    attacks = [
        entry | {"name": name, "norm": norm, "accuracy": accuracy}
        for (name, norm), accuracy in zip(NAMES, accuracies, strict=True)
    ]
    evaluation = made.final["last"] | {"attacks": attacks}
    made.final = {"last": evaluation, "best": evaluation}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def results():
    found = Results(reference="full", columns=COLUMNS)
    found.add("full", 0, make_record([0.1, 0.2, 0.6, 0.3, 0.5]))
    found.add("full", 1, make_record([0.2, 0.3, 0.4, 0.1, 0.2]))
    found.add("half", 0, make_record([0.0, 0.0, 0.3, 0.2, 0.0]))
    return found


def test_a_column_is_the_mean_of_a_runs_accuracies_then_over_runs(results):
    table = build_table(results, "PAT", "last")
    header = list(table.header)
    assert header[2:5] == ["clean, %", "Unseen, % (mean of 3)", "Seen, % (mean of 2)"]
    of_runs = [30.0, 30.0], [40.0, 15.0]
    expected = [f"{statistics.fmean(runs):.1f} ± {statistics.stdev(runs):.1f}" for runs in of_runs]
    assert list(table.rows[0][3:5]) == expected == ["30.0 ± 0.0", "27.5 ± 17.7"]
    assert list(table.rows[1][3:5]) == ["10.0", "10.0"]
    assert "Unseen: the mean of a run's accuracies under autoattack linf, autoattack l2, stadv." in table.notes
    plain = build_table(Results(reference="full", entries=results.entries), "PAT", "last")
    assert [row[:3] + row[5:] for row in table.rows] == plain.rows  # nothing else moves


def test_a_run_that_lacks_one_of_the_attacks_is_not_in_the_mean(results):
    lacking = make_record([0.9, 0.9, 0.9, 0.9, 0.9])
    attacks = lacking.final["last"]["attacks"][1:]
    lacking.final = {"last": lacking.final["last"] | {"attacks": attacks}, "best": lacking.final["best"]}
    results.add("half", 1, lacking)
    assert list(build_table(results, "PAT", "last").rows[1][3:5]) == ["10.0", "50.0 ± 56.6"]
    assert find_accuracy(lacking, "last", "autoattack linf") is None
    assert find_accuracy(lacking, "best", "autoattack") == 0.9
    assert is_named("stadv", "stadv", "stadv") and not is_named("autoattack l1", "autoattack", "l2")


def test_scores_that_runs_share_are_told_once(results):
    inputs = {"selection.solver.scores": {"sha256": "a" * 64, "score": "input_norm", "epochs": 9, "objective": "trades",
                                          "seed": 2}}  # fmt: skip
    reference = {"units": 400, "epochs": 3, "steps": 10}
    users = [make_record([0.1] * 5, inputs=inputs, reference=reference, pretraining={"passes": 100}) for _ in range(3)]
    (line,) = describe_scores({"full": [make_record([0.1] * 5)], "easy": users[:2], "easy, per class": users[2:]})
    assert line == (
        "easy, easy, per class: input_norm scores over 9 epochs of trades training with seed 2, made once and used by "
        "all 3 runs; this one-time cost (0.25 of the reference, column pretraining) is in no run's relative cost."
    )
    assert describe_scores(results.groups()) == []


@pytest.fixture
def check(root, tmp_path):
    def check_suite(more: str, experiment: str = "", size: str | None = None):
        path = tmp_path / "suite.yaml"
        path.write_text(SUITE.replace("EXPERIMENT", experiment or f"{root}/experiments/pat_craig.yaml") + more)
        return bench.check_suite(path, size, out=tmp_path / "out")

    return check_suite


@pytest.mark.parametrize("columns, line", [
    ("[ppgd]", "columns must be a mapping of titles to lists of attacks"),
    ("{Seen: ppgd}", "columns.Seen must be a list of attacks' names, got 'ppgd'"),
    ("{Seen: []}", "columns.Seen must be a list of attacks' names, got []"),
    ("{Seen: [ppgd, pgd]}", "columns.Seen must be the name, or name and norm, of one attack that method 'full' is "
                            "evaluated by (ppgd lpips, lpa lpips, linf_pgd linf), got 'pgd'"),
])  # fmt: skip
def test_a_column_of_no_attack_is_one_line(check, columns, line):
    with pytest.raises(ConfigError) as caught:
        check(f"columns: {columns}\n")
    (got,) = caught.value.lines
    assert got.startswith(line)
    assert check("columns: {Seen: [ppgd, lpa lpips]}\n").suite.columns == {"Seen": ["ppgd", "lpa lpips"]}


def test_a_size_has_columns_and_run_files_of_its_own(check, root):
    files = f"{{small: {root}/experiments/pat_craig.yaml, full: {root}/experiments/pat_gradmatch.yaml}}"
    sizes = "columns: {Seen: [ppgd]}\nsizes: {small: {columns: {Unseen: [linf_pgd]}}, full: {}}\n"
    found = {size: check(sizes, files, size) for size in ("small", "full")}
    assert [prepared.suite.columns for prepared in found.values()] == [{"Unseen": ["linf_pgd"]}, {"Seen": ["ppgd"]}]
    clipped = [resolve(prepared.methods["full"])["training"]["clip_value"] for prepared in found.values()]
    assert clipped == [1.0, 1.0]
    with pytest.raises(ConfigError, match="method 'full': experiment must be a run file, or one for each size, got"):
        check("sizes: {small: {}, medium: {}}\n", files, "small")


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("name, fewest", [("table2-cifar10", 4), ("table2-imagenet12", 5)])
def test_table_2_has_the_papers_two_means(root, name, fewest, size):
    """Unseen: five attacks (on digits four, whose images have no colours); Seen: PPGD and LPA."""
    suite = load(root / f"benchmarks/suites/papers/{name}.yaml", size)
    seen, unseen = suite.columns["Seen"], suite.columns["Unseen"]
    assert seen == ["ppgd", "lpa"] and len(unseen) == (5 if size == "full" else fewest)
    for config in resolve_methods(suite).values():
        assert len(config.evaluation.attacks) == len(seen) + len(unseen)
