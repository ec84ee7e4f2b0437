"""Scores that a suite makes once, by training a method, for the runs of all seeds that select by them."""

import time
from functools import partial

import pytest
from test_suite_runs import TINY, execute

from advcore.config.load import resolve
from advcore.config.run_key import identify
from advcore.errors import ConfigError
from advcore.files import write_bytes, write_json
from advcore.run.checkpoints import lock_folder
from advcore.selection.scores import Scores
from advcore.suite import bench, needs
from advcore.suite.engines import run_locally
from advcore.suite.process import Outcome

METHODS = """seeds: [3, 4]
reference: null
baselines: false
methods:
  plain training: {objective: {name: standard}, attack: null, selection: null}
  EasyCore: {scores_of: plain training, selection.solver: {name: easycore}, selection.warm_start: 0}
  "EasyCore, per class {budget}":
    scores_of: plain training
    selection: {solver: {name: easycore}, partition: per_class, warm_start: 0}
    grid: {selection.budget: [0.2, 0.4]}
"""


@pytest.fixture
def write_suite(root, tmp_path):
    def write(methods: str = METHODS):
        path = tmp_path / "suite.yaml"
        path.write_text(f"name: toy\nexperiment: {root}/experiments/trades_gradmatch.yaml\n{methods}{TINY}")
        return path

    return write


@pytest.fixture
def prepared(write_suite, tmp_path):
    return bench.check_suite(write_suite(), out=tmp_path / "out")


@pytest.fixture
def scored(monkeypatch):
    """In place of training: a file that stands for scores. The list of (settings, score) that it was made from."""
    calls = []

    def score_method(config, score, path, **more):
        calls.append((config, score))
        write_json(path.with_suffix(".yaml"), resolve(config))
        if config.training.optimizer.lr > 1:
            return Outcome("failed", "loss is NaN", 3, 1.0)
        write_bytes(path, b"scores")
        return Outcome("done", seconds=1.0)

    monkeypatch.setattr(needs, "score_method", score_method)
    return calls


def test_runs_of_all_seeds_read_the_scores_of_the_first(prepared):
    path = prepared.folder / "scores/plain-training-s3-input_norm.npz"
    runs = [run for run in prepared.runs if run.method != "plain training"]
    assert len(runs) == 6 and all(run.scores_of == "plain training" for run in runs)
    assert {run.config.selection.solver.scores for run in runs} == {str(path)}
    assert identify(runs[0].config)["selection"]["solver"]["scores"] == path.name


def test_scores_are_made_once_before_anything_runs(prepared, scored):
    ended = execute(prepared)
    assert len(ended["done"]) == 8
    ((config, score),) = scored
    assert score == "input_norm" and config.seed == 3 and config.selection is None and config.attack is None
    assert len(execute(prepared)["done"]) == 0 and len(scored) == 1


def test_runs_without_scores_say_why_and_the_next_command_tries_again(write_suite, tmp_path, scored):
    failing = METHODS.replace("selection: null}", "selection: null, training.optimizer.lr: 2}")
    prepared = bench.check_suite(write_suite(failing), out=tmp_path / "out")
    for _ in range(2):
        ended = execute(prepared)
        assert {run.method for run in ended["failed"]} == {name for name in prepared.methods if "EasyCore" in name}
    assert len(scored) == 2
    errors = {entry.error for entry in bench.collect_results(prepared).entries if entry.status == "failed"}
    assert errors == {"scores of 'plain training': loss is NaN"}


def test_runs_wait_for_scores_that_the_time_does_not_suffice_for_or_another_process_makes(prepared, scored):
    assert needs.make_scores(_list_scorings(prepared), time.monotonic() - 1, None) == {} and not scored
    with lock_folder(prepared.folder / "scores/plain-training-s3-input_norm"):
        ended = execute(prepared)
    assert {run.method for run in ended["done"]} == {"plain training"} and not scored
    assert len(ended["stopped"]) == 6 and len(execute(prepared)["done"]) == 6


def _list_scorings(prepared):
    return needs.list_scorings(prepared.suite, prepared.methods, prepared.runs)


def test_scores_of_other_settings_are_refused_with_the_way_out(prepared, write_suite, tmp_path, scored):
    (scoring,) = _list_scorings(prepared)
    needs.make_scores([scoring], time.monotonic() + 60, needs.Watcher())
    changed = METHODS.replace("selection: null}", "selection: null, training.batch_size: 16}")
    other = bench.check_suite(write_suite(changed), out=tmp_path / "out")
    with pytest.raises(ConfigError) as caught:
        execute(other)
    (line,) = caught.value.lines
    assert line == (
        "scores of 'plain training' must be of the suite's settings, got 'others (training.batch_size: 32 -> 16)'; "
        f"remove {scoring.path}, so that it is made again"
    )


@pytest.mark.parametrize("source, line", [
    ("plain trainin", "'plain trainin'; did you mean 'plain training'?"),
    ("EasyCore", "'EasyCore'"),
    ("7", "7"),
])  # fmt: skip
def test_a_method_that_cannot_be_scored_is_one_line(write_suite, source, line):
    methods = METHODS.replace("EasyCore: {scores_of: plain training", f"EasyCore: {{scores_of: {source}")
    with pytest.raises(ConfigError) as caught:
        bench.check_suite(write_suite(methods))
    (got,) = caught.value.lines
    rule = "method 'EasyCore': scores_of must be another method that has no weights_of, scores_of or grid, got "
    assert got.startswith(rule + line)


def test_scores_of_a_file_and_of_a_method_exclude_each_other(write_suite):
    methods = METHODS.replace("selection.warm_start: 0}", "selection.warm_start: 0, selection.solver.scores: s.npz}")
    with pytest.raises(ConfigError, match="scores_of must be left out where selection.solver.scores is given"):
        bench.check_suite(write_suite(methods))


def test_scores_that_are_made_once_are_of_one_split(write_suite):
    with pytest.raises(ConfigError) as caught:
        bench.check_suite(write_suite(METHODS + "vary_split: true\n"))
    (line,) = caught.value.lines
    assert line.startswith("vary_split must be false with scores_of, got True; scores_of (EasyCore, EasyCore, per")


@pytest.mark.slow
def test_a_suite_trains_and_scores_once_and_every_run_tells_what_that_cost(write_suite, tmp_path):
    """With real runs: AIGN by hand from the run's own epochs is in tests/run/test_score.py."""
    prepared = bench.check_suite(write_suite(), out=tmp_path / "out")
    pending = bench.list_pending(prepared, [run for run in prepared.runs if run.method == "EasyCore"])
    ended = bench.execute(prepared, pending, partial(run_locally, jobs=1), seconds=300)
    assert [run.seed for run in ended["done"]] == [3, 4], ended
    assert sorted(path.name for path in (prepared.folder / "scores").iterdir()) == [
        "plain-training-s3-input_norm.json",
        "plain-training-s3-input_norm.npz",
        "plain-training-s3-input_norm.yaml",
    ]
    scores = Scores.load(prepared.folder / "scores/plain-training-s3-input_norm.npz")
    assert (scores.epochs, scores.objective, scores.seed) == (3, "standard", 3)
    results = bench.collect_results(prepared)
    (records,) = results.groups().values()
    for record in records:
        assert record.pretraining["passes"] == scores.passes > 0
        assert record.inputs["selection.solver.scores"]["sha256"] == scores.sha256
        assert record.ledger["scoring"]["forward"] == 0
    table = bench.build_tables(prepared, results)[0]
    (row,) = [row for row in table.rows if row[0].startswith("EasyCore") and len(row) > 1]
    share = float(row[list(table.header).index("pretraining")])
    (note,) = [note for note in table.notes if "made once" in note]
    assert share > 0 and note == (
        "EasyCore: input_norm scores over 3 epochs of standard training with seed 3, made once and used by all 2 runs; "
        f"what that cost once ({share:.2f} of the reference, column pretraining) is in no run's relative cost."
    )
