"""`torchrun -m advcore`: files and words come from the first process; a lost one ends the job, or it goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from advcore.config.load import load
from advcore.run.prepare import prepare
from advcore.run.run import run

ROOT = Path(__file__).parents[2]
FILE = ROOT / "experiments" / "trades_gradmatch.yaml"


def torchrun(*arguments, restarts: int = 0, processes: int = 2, where: tuple[str, ...] = ("--standalone",)):
    command = [sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node", str(processes)]
    command += ["--max-restarts", str(restarts), "-m", "advcore", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def overrides(settings) -> list[str]:
    return [part for one in settings for part in ("--set", one)]


def ended(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def workers(process: subprocess.Popen) -> list[int]:
    """Process numbers of the two that train."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


@pytest.mark.slow
@pytest.mark.case("A7")
def test_a_run_of_two_processes_leaves_what_one_leaves(tmp_path, tiny):
    code, out, err = ended(torchrun("run", FILE, "--out", tmp_path / "two", *overrides(tiny)))
    assert code == 0, err
    alone = run(prepare(load(FILE, tiny)), tmp_path / "one")
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert record["finished"] and record["environment"]["processes"] == 2
    assert record["relative_cost"] == pytest.approx(alone.relative_cost, rel=1e-6)
    assert out.count("record:") == 1 and out.count("epoch ") == len(record["epochs"])
    left = [
        sorted(str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*")) for name in ("one", "two")
    ]
    assert left[0] == left[1]
    assert "Warning" not in err and "Traceback" not in err, err


@pytest.mark.slow
def test_a_mistake_is_told_once(tmp_path, tiny):
    code, _, err = ended(torchrun("run", FILE, "--out", tmp_path, *overrides(tiny), "--set", "training.batch_size=3"))
    told = [line for line in err.splitlines() if line.startswith("advcore: ")]
    assert code != 0 and len(told) == 1 and "training.batch_size" in told[0] and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is_and_evaluated_whatever_it_trained_with(tmp_path, tiny):
    run(prepare(load(FILE, tiny)), tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    code, out, err = ended(torchrun("run", FILE, "--out", tmp_path, "--resume", *overrides(tiny)))
    assert code == 0 and out.count("record:") == 1 and (tmp_path / "record.json").read_bytes() == before, err
    code, out, err = ended(torchrun("evaluate", tmp_path, "--set", "training.batch_size=3"))
    assert code == 0 and "last: clean" in out, err


@pytest.mark.slow
def test_a_mistake_in_what_is_evaluated_is_told_once(tmp_path):
    code, _, err = ended(torchrun("evaluate", tmp_path))
    told = [line for line in err.splitlines() if line.startswith("advcore: ")]
    assert code != 0 and len(told) == 1 and "record.json" in told[0]


def lost(process: subprocess.Popen, folder: Path, which: int, epochs: int) -> None:
    """Kill one of the processes once so many epochs are done."""
    while process.poll() is None:
        if (folder / "states" / f"{epochs:06d}").is_dir():
            os.kill(workers(process)[which], signal.SIGKILL)
            return
        time.sleep(0.02)
    pytest.fail("no state was saved")


@pytest.mark.slow
@pytest.mark.case("C5")
@pytest.mark.parametrize("which", [0, 1])
def test_a_lost_process_ends_the_job_or_is_started_again_and_nothing_changes(tmp_path, tiny, which):
    longer = [*overrides(tiny), "--set", "training.epochs=30"]
    code, _, err = ended(torchrun("run", FILE, "--out", tmp_path / "whole", *longer))
    assert code == 0, err

    process = torchrun("run", FILE, "--out", tmp_path / "ended", *longer)
    lost(process, tmp_path / "ended", which, 3)
    children = workers(process)
    code, _, err = ended(process)
    assert code != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    told = [line for line in err.splitlines() if line.startswith("advcore: ")]
    assert all("has ended" in line or "stopped by" in line for line in told), told

    process = torchrun("run", FILE, "--out", tmp_path / "again", *longer, restarts=1)
    lost(process, tmp_path / "again", which, 3)
    code, _, err = ended(process)
    assert code == 0, err
    for name in ("last", "best"):
        theirs, ours = (load_file(tmp_path / run / "checkpoints" / f"{name}.safetensors") for run in ("whole", "again"))
        assert all((theirs[key] == ours[key]).all() for key in theirs) and theirs.keys() == ours.keys()
    records = [json.loads((tmp_path / run / "record.json").read_text()) for run in ("whole", "again")]
    assert len(records[1]["resumes"]) == 1 and records[1]["resumes"][0]["epoch"] >= 3
    for key in ("selections", "relative_cost", "final", "events"):
        one, other = (json.dumps(without_times(record[key])) for record in records)
        assert one == other


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key != "seconds"}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.case("C1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_is_a_stop_that_is_saved(tmp_path, tiny, number):
    longer = [*overrides(tiny), "--set", "training.epochs=400"]
    process = torchrun("run", FILE, "--out", tmp_path / "run", *longer)
    while not (tmp_path / "run" / "states" / "000002").is_dir():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    code, _, err = ended(process)
    assert code != 0
    told = [line for line in err.splitlines() if line.startswith("advcore: ")]
    assert len(told) == 1 and "stopped by" in told[0] and "--resume" in told[0], err


@pytest.mark.slow
@pytest.mark.case("C5")
def test_a_single_process_is_started_again_too(tmp_path, tiny):
    longer = [*overrides(tiny), "--set", "training.epochs=30"]
    process = torchrun("run", FILE, "--out", tmp_path, *longer, restarts=1, processes=1)
    lost(process, tmp_path, 0, 3)
    code, _, err = ended(process)
    record = json.loads((tmp_path / "record.json").read_text())
    assert code == 0 and record["finished"] and record["resumes"][0]["epoch"] >= 3, err


@pytest.mark.slow
@pytest.mark.case("B8")
def test_a_start_again_does_not_go_on_with_a_run_of_another_job(tmp_path, tiny):
    run(prepare(load(FILE, tiny)), tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    other = [*overrides(tiny), "--set", "evaluation.attacks.0.steps=4"]
    code, _, err = ended(torchrun("run", FILE, "--out", tmp_path, *other, restarts=1))
    assert code != 0 and err.count("must be a new or empty folder") == 2
    assert (tmp_path / "record.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.case("C5")
@pytest.mark.parametrize("option", [(), ("--overwrite",)])
def test_a_loss_on_one_machine_is_gone_on_from_by_all(tmp_path, tiny, option):
    """Two launchers, as on two machines: only the one that lost a process counts the start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    where = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "two", "--rdzv-endpoint", endpoint)
    longer = ["--out", tmp_path / "run", *option, *overrides(tiny), "--set", "training.epochs=30"]
    both = [torchrun("run", FILE, *longer, restarts=1, processes=1, where=where) for _ in range(2)]
    second = next(i for i, one in enumerate(both) if ranks(one, tmp_path / "run", 3) == ["1"])
    os.kill(workers(both[second])[0], signal.SIGKILL)
    told = [ended(one) for one in both]
    assert [code for code, _, _ in told] == [0, 0], told
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["finished"] and len(record["resumes"]) == 1 and record["resumes"][0]["epoch"] >= 3


def ranks(process: subprocess.Popen, folder: Path, epochs: int) -> list[str]:
    """Of the processes of a launcher, once so many epochs are done."""
    while not (folder / "states" / f"{epochs:06d}").is_dir():
        assert process.poll() is None
        time.sleep(0.02)
    known = [Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in workers(process)]
    return [one[5:] for facts in known for one in facts if one.startswith("RANK=")]


WAITING = """
import os, signal, sys, time
from advcore.runtime import signals
from advcore.runtime.signals import caught, requested
assert signals._SAME == 2  # seconds
signals._SAME = 0.5
with caught():
    for wait in map(float, sys.argv[1:]):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(wait)
    sys.exit(requested())
"""


@pytest.mark.case("C1")
@pytest.mark.parametrize(
    ("waits", "known", "code"),
    [
        ((0.1, 0.1, 0.1), {"TORCHELASTIC_RUN_ID": "x"}, 15),
        ((0.7, 0.1), {"TORCHELASTIC_RUN_ID": "x"}, -15),
        ((0.1, 0.1), {}, -15),
    ],
)
def test_a_signal_that_torchrun_hands_on_is_not_a_second_one(waits, known, code):
    """Slurm and systemd send SIGTERM to all processes of a job, torchrun among them, which hands it on."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")} | known
    found = subprocess.run([sys.executable, "-c", WAITING, *map(str, waits)], env=environment, timeout=60)
    assert found.returncode == code
