"""Several processes find what one finds. They run once, on the CPU, and do all jobs of `processes_jobs`."""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import processes_jobs as jobs
import pytest
import torch

from advcore import distributed
from advcore.distributed import launch
from advcore.errors import AdvcoreError
from advcore.files import load_folder, pack, save_folder, unpack

pytestmark = pytest.mark.case("A7")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def one() -> dict:
    """What one process finds."""
    found = {job.__name__: job() for job in jobs.JOBS if job not in (jobs.failures, jobs.stopped, jobs.parts)}
    return unpack(pack(found))


SEVERAL = [pytest.param(2, id="two", marks=pytest.mark.slow), pytest.param(3, id="three", marks=pytest.mark.slow)]
"""Slow, for half a minute; .ci/run has the two."""


@pytest.fixture(scope="module", params=SEVERAL)
def several(request, one, tmp_path_factory) -> list[dict]:
    """What each of several processes finds, in their order."""
    folder = tmp_path_factory.mktemp("found")
    for name, found in one["resumed"].items():
        save_folder(folder / name, found["state"], {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(request.param)}
    known |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, HERE / "processes_jobs.py", folder],
            env=os.environ | known | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(request.param)
    ]
    try:
        told = [process.communicate(timeout=200)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * request.param, "\n".join(told)
    return [load_folder(folder / str(rank))[0] for rank in range(request.param)]


def same(a, b, path: str = "") -> None:
    """Every leaf is equal, bit for bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            same(left, right, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    else:
        assert a == b, path


def trained(tree: dict) -> dict:
    """Without what only the first process counts."""
    return {name: {key: value for key, value in run.items() if key != "passes"} for name, run in tree.items()}


@pytest.mark.parametrize("name", jobs.SELECTIONS)
def test_the_same_coreset_in_every_process_and_for_any_number_of_them(one, several, name):
    alone = one["select"][name]
    for rank, found in enumerate(several):
        theirs = found["select"][name]
        same(theirs["coreset"], several[0]["select"][name]["coreset"])
        assert torch.equal(theirs["coreset"]["indices"], alone["coreset"]["indices"])
        assert torch.allclose(theirs["coreset"]["weights"], alone["coreset"]["weights"], rtol=0, atol=1e-6)
        same(theirs["coreset"]["quality"], alone["coreset"]["quality"])
        assert theirs["coreset"]["cost"] == alone["coreset"]["cost"]
        assert theirs["untouched"]
        if rank == 0:
            assert theirs["passes"] == alone["passes"]


def test_an_evaluation_counts_every_example_once_whatever_their_number(one, several):
    for found in several:
        for n, theirs in found["evaluations"].items():
            alone = one["evaluations"][n]
            same({**theirs, "passes": None}, {**alone, "passes": None}, n)
            assert theirs["told"]["clean"]["n"] == int(n) == len(theirs["verdicts"]["clean"])
    assert several[0]["evaluations"]["33"]["passes"] == one["evaluations"]["33"]["passes"]


def test_one_update_is_that_of_one_process(one, several):
    for found in several:
        for name, alone in one["one_update"].items():
            theirs = found["one_update"][name]
            assert theirs["loss"] == pytest.approx(alone["loss"], rel=1e-12) and theirs["counted"] == alone["counted"]
            for key, value in alone["model"].items():
                assert torch.allclose(theirs["model"][key], value, rtol=0, atol=1e-10), (name, key)


def rounded(several: list[dict], name: str) -> bool:
    """Whether a rule's share of a part is not the part of its share: 20 images among 3, or newcomers of a coreset."""
    return name == "attacked again" or len(several) == 3 and name in ("margin", "gradient matching, batch")


def test_all_processes_leave_out_the_same_examples_as_one_would(one, several):
    alone, theirs = one["pruned"]["run"], several[0]["pruned"]["run"]
    for state in theirs["everyone"][1:]:
        same(state, theirs["everyone"][0])
    shares = [[entry["minibatch"]["trained"] for entry in run["epochs"]] for run in (alone, theirs)]
    assert shares[0] == shares[1] and min(shares[0]) < 0.9
    assert theirs["passes"]["attack"] == alone["passes"]["attack"]
    for found in (one, several[0]):
        same(found["pruned"]["again"]["everyone"], found["pruned"]["run"]["everyone"])


def test_extrapolated_scores_are_the_same_in_every_process_and_count_each_image_once(one, several):
    for found in several:
        same(found["extrapolated"]["rows"], one["extrapolated"]["rows"])
    assert several[0]["extrapolated"]["passes"] == one["extrapolated"]["passes"]


@pytest.mark.parametrize("name", jobs.RUNS)
def test_after_training_all_processes_hold_the_same(one, several, name):
    alone, theirs = one["train"][name], several[0]["train"][name]
    for state in theirs["everyone"][1:]:
        same(state, theirs["everyone"][0])
    for found in several[1:]:
        same(trained(found["train"])[name], trained(several[0]["train"])[name])
    phases = ("attack", "update", "scoring")
    if rounded(several, name):
        phases = ()
    assert [theirs["passes"][phase] for phase in phases] == [alone["passes"][phase] for phase in phases]
    assert [len(one) for one in theirs["coresets"]] == [len(one) for one in alone["coresets"]]


def test_the_accuracy_is_that_of_one_process_within_its_interval(one, several):
    for name in ("trades", "selecting", "remembered, equal average"):
        alone, theirs = (tree["train"][name]["accuracy"]["worst"] for tree in (one, several[0]))
        low, high = alone["interval"]
        assert low <= theirs["accuracy"] <= high and alone["accuracy"] > 0.8


@pytest.mark.parametrize("name", jobs.RUNS)
def test_a_run_that_is_gone_on_with_ends_where_the_undisturbed_one_ends(several, name):
    for found in several:
        same(found["resumed"][name]["run"], found["train"][name])


@pytest.mark.parametrize("name", jobs.RUNS)
def test_another_number_of_processes_goes_on_with_a_run(one, several, name):
    here = jobs.fitted(*jobs.build(name), resume=several[0]["resumed"][name]["state"])
    there = several[0]["of_others"][name]
    for found in (here, there):
        assert len(found["epochs"]) == len(one["train"][name]["epochs"])
        for phase in () if rounded(several, name) else ("attack", "update", "scoring"):
            assert found["passes"][phase] == one["train"][name]["passes"][phase]
        entry = one["train"][name]["epochs"][-1]
        if "minibatch" in entry:  # the loss is that of other picks
            accuracy = one["train"][name]["accuracy"]["worst"]["accuracy"]
            assert found["accuracy"]["worst"]["accuracy"] == pytest.approx(accuracy, abs=0.1)
        else:
            assert found["epochs"][-1]["loss"] == pytest.approx(entry["loss"], rel=0.25)


def test_what_one_process_meets_all_tell(several):
    count = len(several)
    for found in several:
        told = found["failures"]
        for name in ("select", "fit", "evaluate"):
            assert told[name] == [told[name][0]] * count and told[name][0].startswith("DataError: example 20 cannot be")
        assert len(set(told["diverged"])) == 1 and told["diverged"][0].startswith("NonFiniteError: ")
        assert len(set(told["stopped and failed"])) == 1 and "an image cannot be read" in told["stopped and failed"][0]
        assert told["first"][0] == "ZeroDivisionError: division by zero"
        assert told["first"][1:] == ["AdvcoreError: process 0 failed: ZeroDivisionError: division by zero"] * (
            count - 1
        )
        assert told["alone"] == []
        assert all("training.batch_size" in line and f"{count} processes" in line for line in told["too small"])


@pytest.mark.parametrize("name", jobs.MISTAKES)
def test_an_error_is_the_one_that_one_process_raises_and_is_told_once(one, several, name):
    for found in several:
        assert found["mistakes"][name]["error"] == one["mistakes"][name]["error"]
        assert found["mistakes"][name]["agreed"]


@pytest.mark.case("C1")
def test_a_signal_to_one_process_stops_all_at_one_place_and_they_go_on_from_it(several):
    for found in several:
        told = found["stopped"]["told"]
        assert told == [told[0]] * len(several) and told[0][0] == 15
        same(found["stopped"]["run"], found["train"]["selecting"])


def test_the_parts_that_processes_exchange(several):
    count = len(several)
    for found in several:
        parts = found["parts"]
        assert parts["joint"].tolist() == [i for rank in range(count) for i in range(rank + 1)]
        assert parts["summed"] == [sum(range(count)), count] and parts["everywhere"] == [True, False]
        assert parts["events"] == ["in all", *(f"in {rank}" for rank in range(count))]
        for n in range(1, 12):
            shares = [own[n - 1] for own in parts["shares"]]
            if n < 2 * count:
                assert all(torch.equal(own, torch.arange(n)) for own in shares)
            else:
                assert torch.equal(torch.cat(shares), torch.arange(n))
                assert max(map(len, shares)) - min(map(len, shares)) <= 1 and min(map(len, shares)) >= 2


def test_a_launcher_that_names_no_meeting_place_is_a_mistake(advcore, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "TORCH_CPP_LOG_LEVEL": "ERROR"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "_exit", sys.exit)  # which a process of several ends with
    code, _, err = advcore("run", "none.yaml")
    assert code == 2 and err.startswith("advcore: MASTER_ADDR must be set"), err


def test_processes_that_never_come_are_not_waited_for_without_end():
    with pytest.raises(AdvcoreError, match="processes 1, 2 of 3 did not connect"):
        launch.agree_on_start(torch.distributed.HashStore(), 0, 3, timedelta(seconds=0.2))


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"])
def test_the_number_on_a_machine_is_the_launchers(monkeypatch, name):
    for other in ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"):
        monkeypatch.delenv(other, raising=False)
    assert distributed.local_rank() == 0
    monkeypatch.setenv(name, "3")
    assert distributed.local_rank() == 3
