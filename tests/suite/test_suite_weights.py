"""Methods of a suite that begin with the weights of another: trained after it, with its cost in a column."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from plug_ins import forget_plugins
from test_suite_runs import TINY, execute, record_of, stub

from advcore.config.run_key import identify
from advcore.errors import ConfigError
from advcore.files import write_bytes
from advcore.register import plugins
from advcore.reporting import tables
from advcore.reporting.record import RunRecord
from advcore.suite import bench
from advcore.suite.process import Outcome

METHODS = """seeds: [0, 1]
reference: null
baselines: false
methods:
  tuned: {weights_of: plain training}
  plain training: {objective: {name: standard}, attack: null, selection: null}
"""


@pytest.fixture
def write_suite(root, tmp_path):
    def write(methods: str = METHODS) -> Path:
        path = tmp_path / "suite.yaml"
        path.write_text(f"name: toy\nexperiment: {root}/experiments/trades_gradmatch.yaml\n{methods}{TINY}")
        return path

    return write


@pytest.fixture
def prepared(write_suite, tmp_path):
    return bench.check_suite(write_suite(), out=tmp_path / "out")


def test_a_method_begins_with_the_weights_of_the_same_seed(prepared):
    for run in prepared.runs:
        weights = prepared.folder / f"runs/plain-training-s{run.seed}/checkpoints/last.safetensors"
        assert run.config.model.weights == (str(weights) if run.method == "tuned" else None)
    tuned = [run.config for run in prepared.runs if run.method == "tuned"]
    assert identify(tuned[1])["model"]["weights"] == "plain-training-s1/checkpoints/last.safetensors"


@pytest.mark.parametrize("jobs", [1, 2])
def test_weights_are_trained_before_they_are_needed(prepared, jobs):
    done = []
    ended = execute(prepared, jobs=jobs, done=done)
    assert len(ended["done"]) == 4 and sorted(done[:2]) == ["plain-training-s0", "plain-training-s1"]


def test_without_its_weights_a_run_waits(prepared):
    ended = execute(prepared, wrong=("plain-training-s0",))
    slugs = {kind: [run.slug for run in runs] for kind, runs in ended.items()}
    assert slugs == {
        "done": ["plain-training-s1", "tuned-s1"], "failed": ["plain-training-s0"], "stopped": ["tuned-s0"], "busy": []
    }  # fmt: skip
    assert [run.slug for run in execute(prepared)["done"]] == ["plain-training-s0", "tuned-s0"]


def test_weights_that_are_gone_are_named_before_anything_runs(prepared):
    execute(prepared, wrong=("tuned-s0", "tuned-s1"))
    weights = prepared.folder / "runs/plain-training-s0/checkpoints/last.safetensors"
    weights.unlink()
    with pytest.raises(ConfigError) as caught:
        execute(prepared)
    (line,) = caught.value.lines
    record = prepared.folder / "plain-training-s0.json"
    assert line == (
        f"weights of 'plain training', seed 0, must be there, got '{weights}'; "
        f"remove {record}, so that it is trained again"
    )


@pytest.mark.parametrize("change, line", [
    ("weights_of: plain trainin", "'plain trainin'; did you mean 'plain training'?"),
    ("weights_of: tuned", "'tuned'"),
    ("weights_of: 3", "3"),
    ("weights_of: waiting", "'waiting'"),
])  # fmt: skip
def test_what_a_method_cannot_begin_with_is_one_line(write_suite, change, line):
    methods = METHODS.replace("weights_of: plain training", change) + "  waiting: {weights_of: plain training}\n"
    with pytest.raises(ConfigError) as caught:
        bench.check_suite(write_suite(methods))
    (got,) = caught.value.lines
    rule = "method 'tuned': weights_of must be another method that has neither weights_of nor a grid, got "
    assert got.startswith(rule + line)


@pytest.mark.parametrize("more", ["model.weights: net.pt", "grid: {model.weights: [net.pt]}"])
def test_weights_of_a_file_and_of_a_method_exclude_each_other(write_suite, more):
    methods = METHODS.replace("weights_of: plain training", f"weights_of: plain training, {more}")
    with pytest.raises(ConfigError, match="weights_of must be left out where model.weights is given"):
        bench.check_suite(write_suite(methods))


WITH_BASELINES = """seeds: [0]
reference: full
methods:
  full: {selection: null}
  plain training: {objective: {name: standard}, attack: null, selection: null}
  tuned: {weights_of: plain training, model.new_head: true}
"""


def test_weights_of_methods_whose_names_end_alike_are_told_apart(write_suite, tmp_path):
    plain, tuned = WITH_BASELINES.splitlines(keepends=True)[-2:]
    methods = WITH_BASELINES.replace(plain + tuned, "")
    for eps in ("4/255", "8/255"):
        methods += plain.replace("training", eps) + tuned.replace("training", eps).replace("tuned", f"tuned {eps}")
    prepared = bench.check_suite(write_suite(methods), out=tmp_path / "out")
    begun = {run.weights_of for run in prepared.runs if run.method.startswith("random 0.5")}
    assert begun == {"plain 4/255", "plain 8/255"}


def test_what_a_method_is_compared_with_begins_with_the_same_weights(write_suite, tmp_path):
    prepared = bench.check_suite(write_suite(WITH_BASELINES), out=tmp_path / "out")
    random, shortened = ([run for run in prepared.runs if run.method.startswith(name)] for name in ("random", "short"))
    assert random and shortened
    for run in (*random, *shortened):
        assert run.weights_of == "plain training" and run.config.model.new_head
        assert run.config.model.weights.endswith("out/runs/plain-training-s0/checkpoints/last.safetensors")


def test_records_made_with_another_content_of_a_plug_in_are_told_of(prepared, tmp_path, caplog):
    execute(prepared)
    (tmp_path / "net.py").write_text("import torch\n")
    with forget_plugins():
        plugins.load_plugins([tmp_path / "net.py"])
        now = plugins.LOADED[0].describe()
        of_runs = [now], [now | {"sha256": "0" * 64}], [now | {"sha256": "0" * 64}], [now | {"path": "else.py"}]
        for run, entries in zip(prepared.runs, of_runs, strict=True):
            path = run.locate_files(prepared.folder).record
            replace(RunRecord.load(path), plugins=entries).save(path)
        caplog.clear()
        bench.collect_results(prepared)
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith(f"net.py has changed since the run was started: sha256 {'0' * 12}, now ")


def attempt_with_costs(run, folder, **more) -> Outcome:
    """In place of `attempt`: the runs of `plain training` spent 30 passes, the others began with their weights."""
    outcome = stub(run, folder, **more)
    record = record_of(run)
    record.reference["units"] = 60
    if run.weights_of:
        record.pretraining = {"run": "plain", "passes": 30}
    path = folder / "runs" / run.slug / "record.json"
    record.save(path)
    write_bytes(folder / "runs" / run.slug / "checkpoints/last.safetensors", b"weights")
    return outcome


def test_the_cost_of_pretraining_has_a_column(prepared):
    execute(prepared, work=partial(attempt_with_costs))
    header, rows = tables.compare_methods(bench.collect_results(prepared).groups())
    place = header.index("pretraining")
    assert header[place - 1] == "relative cost (passes)"
    assert {row[0]: row[place] for row in rows} == {"tuned": "0.50", "plain training": tables.NOTHING}
