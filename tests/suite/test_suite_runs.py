"""A suite's runs: done once, gone on with, failed in the open, cut into shards; with a stub in place of training."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from advcore.config.load import resolve
from advcore.cost import PHASES
from advcore.data.named import Digits
from advcore.errors import ConfigError
from advcore.files import write_bytes, write_json
from advcore.reporting.record import RunRecord
from advcore.run.checkpoints import lock_folder
from advcore.runtime.signals import Stopped, catch_signals
from advcore.runtime.threads import build_thread_environment, count_threads_per_process
from advcore.suite import bench, engines
from advcore.suite.process import Outcome
from advcore.suite.runs import shard

OFF = "baselines: false\n"
METHODS = "seeds: [0, 1]\nmethods: {full: {selection: null}, GradMatch: {}, CRAIG: {selection.solver: {name: craig}}}\n"
TINY = (
    "set: {data.train_size: 160, data.test_size: 60, model.width: 4, attack.steps: 2, training.epochs: 3, "
    "training.batch_size: 32, evaluation.attacks: [{name: linf_pgd, eps: 0.1, steps: 3}], data.name: digits}\n"
)


@pytest.fixture
def suite(root, tmp_path):
    """The path of a suite of 3 methods and 2 seeds; what is added to its text."""

    def made(more: str = OFF):
        path = tmp_path / "suite.yaml"
        path.write_text(f"name: toy\nexperiment: {root}/experiments/trades_gradmatch.yaml\n{METHODS}{TINY}{more}")
        return path

    return made


@pytest.fixture
def prepared(suite, tmp_path):
    return bench.check_suite(suite(), out=tmp_path / "out")


def record_of(run) -> RunRecord:
    """What a run might have left: numbers that follow from its settings."""
    robust = (len(run.method) + run.seed) / 20
    attack = {"name": "linf_pgd", "norm": "linf", "eps": 0.1, "steps": 3, "restarts": 1, "n": 60, "accuracy": robust}
    final = {"clean": {"accuracy": 0.9, "n": 60}, "attacks": [attack], "flags": []}
    return RunRecord(
        name=run.config.name,
        config=resolve(run.config),
        environment={"device": "cpu", "threads": 1},
        plan="",
        reference={},
        finished=True,
        relative_cost=1.0 if run.method == "full" else 0.5,
        ledger={phase: {"forward": 1, "backward": 1, "seconds": 1.0} for phase in PHASES},
        final={"last": final, "best": final},
    )


def stub(run, folder, *, stop, on_line, environment, done=None, wrong=()):
    """In place of `attempt`."""
    if run.slug in wrong:
        return Outcome("failed", "selection.budget must be smaller", 2, 1.0)
    on_line("epoch 1")
    where = folder / "runs" / run.slug
    record_of(run).save(where / "record.json")
    write_bytes(where / "checkpoints/last.safetensors", b"weights")
    for rest in (where / "states/000001/manifest.json", where.with_name(f"{run.slug}.log")):
        write_bytes(rest, b"what only going on would need")
    if done is not None:
        done.append(run.slug)
    return Outcome("done", seconds=1.0)


def execute(prepared, part=None, jobs=1, seconds=60.0, work=stub, **more):
    left = bench.list_pending(prepared, shard(prepared.runs, part))
    return bench.execute(
        prepared, left, partial(engines.run_locally, jobs=jobs, work=partial(work, **more)), seconds=seconds
    )


def kept(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_what_is_done_is_done_once(prepared):
    done = []
    first = execute(prepared, done=done)
    assert [run.slug for run in first["done"]] == done == [run.slug for run in prepared.runs] and len(done) == 6
    assert sorted(kept(prepared.folder)) == sorted(f"{slug}.json" for slug in done)
    left = sorted(str(path.relative_to(prepared.folder / "runs")) for path in prepared.folder.glob("runs/**/*.*"))
    of_each = [[f"{slug}/checkpoints/last.safetensors", f"{slug}/record.json"] for slug in sorted(done)]
    assert left == [name for names in of_each for name in names] and not (prepared.folder / "failed").exists()
    assert execute(prepared, done=done) == {"done": [], "failed": [], "stopped": [], "busy": []} and len(done) == 6


def test_two_shards_together_are_one_run(prepared, suite, tmp_path):
    execute(prepared)
    other = bench.check_suite(suite(), out=tmp_path / "shards")
    halves = [execute(other, part)["done"] for part in ("1/2", "2/2")]
    assert [len(half) for half in halves] == [3, 3]
    assert kept(other.folder) == kept(prepared.folder)


def test_a_record_of_other_settings_is_refused_with_a_way_out(prepared, suite, tmp_path):
    execute(prepared)
    other = bench.check_suite(suite(OFF), overrides=["training.epochs=4"], out=tmp_path / "out")
    with pytest.raises(ConfigError) as error:
        execute(other)
    (line,) = error.value.lines
    assert "and 5 more" in line and "training.epochs: 3 -> 4" in line and "--out" in line
    with pytest.raises(ConfigError, match="training.epochs: 3 -> 4"):
        bench.collect_results(other)


def test_a_run_that_was_begun_with_other_settings_is_refused(prepared):
    run = prepared.runs[0]
    record = record_of(run)
    record.config["training"]["epochs"], record.finished = 9, False
    record.save(prepared.folder / "runs" / run.slug / "record.json")
    with pytest.raises(ConfigError, match=f"{run.slug} must be of the suite's settings.*training.epochs: 9 -> 3"):
        execute(prepared)


def test_changes_beside_a_suites_own_records_need_another_folder(suite):
    with pytest.raises(ConfigError, match="--out must be given with --set training.epochs"):
        bench.check_suite(suite(), overrides=["training.epochs=4"])
    assert bench.check_suite(suite(), overrides=["device=cpu", "data.workers=1"]).folder.name == "toy"
    with pytest.raises(ConfigError, match="--set seed has no effect in a suite"):
        bench.check_suite(suite(), overrides=["seed=4"])


def test_a_failed_run_is_told_and_tried_again(prepared):
    ended = execute(prepared, wrong=("gradmatch-s1",))
    assert [run.slug for run in ended["failed"]] == ["gradmatch-s1"] and len(ended["done"]) == 5
    (table, _) = bench.build_tables(prepared, bench.collect_results(prepared))
    assert ("GradMatch, seed 1: failed: selection.budget must be smaller",) in table.rows
    assert [row[1] for row in table.rows if row[0] == "GradMatch"] == ["1"]
    assert len(execute(prepared)["done"]) == 1 and not (prepared.folder / "failed").exists()
    assert all(len(row) > 1 for row in bench.build_tables(prepared, bench.collect_results(prepared))[0].rows)


def test_a_failure_of_other_settings_is_not_told(prepared, suite, tmp_path):
    execute(prepared, wrong=[run.slug for run in prepared.runs])
    other = bench.check_suite(suite(), overrides=["training.epochs=4"], out=tmp_path / "out")
    assert {entry.error for entry in bench.collect_results(other).entries} == {None}
    assert None not in {entry.error for entry in bench.collect_results(prepared).entries}


def test_a_begun_run_whose_record_is_damaged_stands_in_nobodys_way(prepared):
    """Its states know what it takes to go on."""
    begun = prepared.folder / "runs" / prepared.runs[0].slug / "record.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{")
    assert len(execute(prepared)["done"]) == 6


def test_a_record_that_cannot_be_read_is_a_failure(prepared):
    def broken(run, folder, **how):
        write_json(folder / "runs" / run.slug / "record.json", [])
        return Outcome("done")

    assert len(execute(prepared, work=broken)["failed"]) == 6


def test_a_run_that_leaves_nothing_leaves_the_folder_in_which_others_write(prepared):
    def leave_nothing(run, folder, **how):
        with lock_folder(folder / "runs" / run.slug):
            pass
        return Outcome("failed", "no reason", 2, 1.0)

    assert len(execute(prepared, work=leave_nothing)["failed"]) == 6
    assert (prepared.folder / "runs").is_dir()


def test_jobs_run_beside_each_other_and_share_the_threads(prepared, monkeypatch):
    both, seen = threading.Barrier(2, timeout=10), []

    def work(run, folder, **how):
        both.wait()  # with one at a time it would time out
        seen.append(how["environment"])
        return stub(run, folder, **how)

    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert len(execute(prepared, jobs=2, work=work)["done"]) == 6
    assert seen == [{"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}] * 6
    assert build_thread_environment(1) == {} and count_threads_per_process(9) == 1


def test_the_time_is_up(prepared):
    def until_told(run, folder, *, stop, **how):
        while not stop():
            time.sleep(0.01)
        return Outcome("stopped")

    assert execute(prepared, seconds=-1.0) == {"done": [], "failed": [], "stopped": prepared.runs, "busy": []}
    assert len(execute(prepared, seconds=0.2, work=until_told)["stopped"]) == 6


def test_ctrl_c_stops_every_child_before_it_leaves(prepared):
    stopped = []

    def until_told(run, folder, *, stop, **how):
        os.kill(os.getpid(), signal.SIGINT)
        while not stop():
            time.sleep(0.01)
        stopped.append(run.slug)
        return Outcome("stopped")

    with pytest.raises(Stopped) as stopping, catch_signals():
        execute(prepared, work=until_told)
    assert stopping.value.number == signal.SIGINT and stopped == ["full-s0"]
    assert len(execute(prepared)["done"]) == 6


def test_another_process_that_runs_it_is_left_alone(prepared):
    assert len(execute(prepared, work=lambda run, folder, **how: Outcome("busy"))["busy"]) == 6
    assert not kept(prepared.folder)


def test_sizes_never_mix(suite, tmp_path):
    path = suite(OFF + "sizes: {small: {set: {model.width: 2}}, full: {}}\n")
    folders = [bench.check_suite(path, size, out=tmp_path / "out").folder for size in ("small", "full")]
    assert [folder.name for folder in folders] == ["small", "full"]


def test_baselines_are_planned_once_and_kept_beside_the_records(suite, tmp_path, monkeypatch):
    first = bench.check_suite(suite(""), out=tmp_path / "out")
    assert {"random 0.5", "FAT", "N-FGSM"} <= first.methods.keys()
    execute(first)
    monkeypatch.setattr(Digits, "sketch", lambda self: 1 / 0)  # as on a machine without the data
    again = bench.check_suite(suite(""), out=tmp_path / "out")
    assert again.methods == first.methods and len(again.runs) == len(kept(again.folder)) - 1
    monkeypatch.undo()
    fewer = bench.check_suite(suite("baselines: {fat: false}\n"), out=tmp_path / "out")
    assert first.methods.keys() - fewer.methods.keys() == {"FAT"}


def test_counts_are_those_of_the_data_that_is_loaded():
    import torch

    data = Digits(train_size=160, validation=0.13)
    loaded = data.load(torch.device("cpu"))
    assert data.sketch()[1:] == (len(loaded.train), len(loaded.validation))


class FakeRay:
    """The few calls of ray that are used; tasks run when they are waited for."""

    def __init__(self, gpus=0):
        self.gpus, self.asked, self.cancelled = gpus, [], []

    def init(self, **how):
        assert how == {"ignore_reinit_error": True}

    def cluster_resources(self):
        return {"CPU": 8.0, "GPU": self.gpus} if self.gpus else {"CPU": 8.0}

    def remote(self, **how):
        self.asked.append(how)

        class Task:
            def __init__(self, function):
                self.function = function

            def remote(self, *given):
                return partial(self.function, *json.loads(json.dumps(given)))

        return Task

    def wait(self, references, num_returns, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        return reference()

    def cancel(self, reference):
        self.cancelled.append(reference)


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_a_cluster_does_a_task_a_run_and_sends_the_records_back(prepared, ray, monkeypatch):
    how = {"environment": {}, "on_line": lambda line: None, "wrong": ("craig-s0",)}
    monkeypatch.setattr(engines, "attempt", lambda run, folder, stop: stub(run, folder, stop=stop, **how))
    work = engines.choose_engine("ray", 1)
    ended = bench.execute(prepared, prepared.runs, work, seconds=60)
    assert len(ended["done"]) == 5 and [run.slug for run in ended["failed"]] == ["craig-s0"]
    assert ray.asked == [{"max_retries": 0, "num_cpus": count_threads_per_process(1)}]
    assert len(bench.collect_results(prepared).groups()["full"]) == 2
    assert [run.slug for run in bench.execute(prepared, ended["failed"], work, seconds=-1)["stopped"]] == ["craig-s0"]
    monkeypatch.setattr(ray, "wait", lambda references, **how: (time.sleep(0.02), (references[:1], references[1:]))[1])
    ended = bench.execute(prepared, prepared.runs, work, seconds=0.05)
    assert len(ended["stopped"]) >= 3  # the time is that of all tasks together, not of each
    ray.gpus = 2
    bench.execute(prepared, [], engines.choose_engine("ray", 1), seconds=60)
    assert ray.asked[-1] == {"max_retries": 0, "num_gpus": 1}


def test_a_worker_that_dies_is_a_failed_run_and_a_stop_cancels_the_rest(prepared, ray, monkeypatch):
    monkeypatch.setattr(ray, "get", lambda reference: (_ for _ in ()).throw(OSError("worker died")))
    ended = bench.execute(prepared, prepared.runs[:1], engines.choose_engine("ray", 1), seconds=60)
    assert [run.slug for run in ended["failed"]] == ["full-s0"]
    assert "OSError: worker died" in (prepared.folder / "failed/full-s0.json").read_text()
    monkeypatch.setattr(ray, "wait", lambda *given, **how: (_ for _ in ()).throw(Stopped(signal.SIGINT)))
    with pytest.raises(Stopped):
        bench.execute(prepared, prepared.runs, engines.choose_engine("ray", 1), seconds=60)
    assert len(ray.cancelled) == 6


def test_an_engine_that_is_not_there_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--engine ray needs the package ray.*advcore\[cluster\]"):
        engines.choose_engine("ray", 1)
    with pytest.raises(ConfigError, match="--engine must be one of local, ray, got 'rye'"):
        engines.choose_engine("rye", 1)


def test_the_command_runs_compares_and_leaves_with_3_where_a_run_failed(advcore, suite, tmp_path, monkeypatch):
    path, out = suite(""), tmp_path / "out"
    wrong = partial(stub, wrong=("random-0-5-s0",))
    monkeypatch.setattr(
        engines, "choose_engine", lambda name, jobs: partial(engines.run_locally, jobs=jobs, work=wrong)
    )
    code, told, _ = advcore("bench", path, "--out", out, "--jobs", "2")
    assert code == 3 and "random 0.5, seed 0: failed" in told and "FAT" in told
    assert "failed: 1 run; rerun the same command to try again" in told and "checkpoint best" in told
    monkeypatch.setattr(engines, "choose_engine", lambda name, jobs: partial(engines.run_locally, jobs=jobs, work=stub))
    code, told, _ = advcore("bench", path, "--out", out)
    assert code == 0 and "16 runs, 15 already done" in told
    code, told, _ = advcore("bench", path, "--out", out, "--table")
    assert code == 0 and all(f"table.{end}" in told for end in ("md", "tex", "csv", "html"))
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert len(rows) == 16 and {row["status"] for row in rows} == {"done"}
    assert advcore("report", out)[0] == 0
    page = (out / "report.html").read_text()
    assert "Without a readable record" not in page and "Found twice, counted once" in page
    code, _, said = advcore("bench", path, "--out", out, "--jobs", "0", "--seconds", "-3")
    assert code == 2 and "--jobs must be" in said and "--seconds must be" in said


@pytest.fixture
def in_a_process(root, tmp_path):
    def call(*given, wait=True):
        where = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "advcore", "bench", *map(str, given)]
        child = subprocess.Popen(command, env=where, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
        return (child.communicate(), child.returncode) if wait else child

    return call


def numbers(folder) -> dict:
    """Of all records, without times."""
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("*-s*.json")}
    drop = ("seconds", "peak_memory", "resumes", "environment", "ledger", "seal")
    for record in found.values():
        for part in (record, *record["epochs"], *record["selections"]):
            for key in drop:
                part.pop(key, None)
    return found


@pytest.mark.slow
def test_real_shards_stops_and_failures(suite, in_a_process, tmp_path):
    """Bit-equal numbers whole, in shards beside each other, and stopped by the clock and by Ctrl-C."""
    path = suite(OFF)
    path.write_text(path.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    (told, _), code = in_a_process(path, "--out", tmp_path / "whole")
    assert code == 0 and "[3/3]" in told
    for part in ("1/2", "2/2"):
        _, code = in_a_process(path, "--out", tmp_path / "shards", "--shard", part, "--jobs", "2")
        assert code == 0
    (told, _), code = in_a_process(path, "--out", tmp_path / "stopped", "--seconds", "4")
    assert code == 0 and "rerun the same command to continue" in told
    child = in_a_process(path, "--out", tmp_path / "stopped", "--jobs", "2", wait=False)
    assert any("begun" in line for line in iter(child.stdout.readline, ""))
    while not list((tmp_path / "stopped/runs").glob("*/states/*")):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=90)
    assert child.returncode == 130 and "rerun the same command to continue" in said
    assert not subprocess.run(["pgrep", "-f", str(tmp_path / "stopped")], capture_output=True).stdout
    _, code = in_a_process(path, "--out", tmp_path / "stopped")
    assert code == 0
    whole = numbers(tmp_path / "whole")
    assert len(whole) == 3 and whole == numbers(tmp_path / "shards") == numbers(tmp_path / "stopped")
    path.write_text(path.read_text().replace("CRAIG: {", "wrong: {model.head: nothere}, CRAIG: {"))
    (told, _), code = in_a_process(path, "--out", tmp_path / "whole")
    assert code == 3 and "wrong, seed 0: failed: model.head must be" in told


@pytest.mark.slow
def test_a_real_cluster_of_one_machine(suite, in_a_process, tmp_path):
    pytest.importorskip("ray", reason="needs the extra cluster")
    path = suite(OFF)
    path.write_text(path.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    _, code = in_a_process(path, "--out", tmp_path / "ray", "--engine", "ray")
    assert code == 0 and len(numbers(tmp_path / "ray")) == 3
