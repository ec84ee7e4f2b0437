"""SIGINT and SIGTERM wherever a command spends its time: out soon, with the signal's number, one line, nothing half
written."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from faults.injectors import signal_at
from torch import nn
from torch.utils.data import TensorDataset

from advcore import AdversarialCoreset, evaluate
from advcore.attacks import LinfPGD
from advcore.evaluation.autoattack import AutoAttack
from advcore.objectives import Pgd, Trades
from advcore.runtime.signals import Stopped, catch_signals
from advcore.solvers import Craig, GradMatch

pytestmark = pytest.mark.case("C1")
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(scope="module")
def trained(root, tiny, tmp_path_factory):
    """A tiny run's folder."""
    from advcore.config.load import load
    from advcore.run.prepare import prepare
    from advcore.run.run import run

    folder = tmp_path_factory.mktemp("trained") / "run"
    smaller = [*tiny, "data.train_size=80", "training.epochs=2"]  # only its weights are asked for
    run(prepare(load(root / "experiments/trades_gradmatch.yaml", smaller)), folder)
    return folder


def commands(root, tiny, trained, out):
    """What each command is called with; all write below `out`."""
    file = root / "experiments/trades_gradmatch.yaml"
    changes = [part for one in tiny for part in ("--set", one)]
    weights = trained / "checkpoints/last.safetensors"
    return {
        "run": ["run", file, *changes, "--out", out / "run"],
        "select": ["select", file, *changes, "--checkpoint", weights, "--out", out / "coreset.npz"],
        "score": ["score", file, *changes, "--out", out / "scores.npz"],
        "evaluate": ["evaluate", trained, "--out", out / "found.json", "--examples", out / "examples.npz"],
        "autoattack": ["evaluate", trained, "--suite", "autoattack", "--out", out / "found.json"],
    }


@BOTH
@pytest.mark.parametrize("command, looks", [("run", 40), ("select", 3), ("score", 30), ("evaluate", 4)])
def test_a_command_stops_where_it_looks(advcore, root, tiny, trained, tmp_path, monkeypatch, number, command, looks):
    arguments = commands(root, tiny, trained, tmp_path)[command]
    before = signal.getsignal(number)
    signal_at(monkeypatch, looks, number)
    code, _, err = advcore(*arguments)
    assert code == 128 + number and err.count("\n") == 1 and "Traceback" not in err, err
    assert signal.Signals(number).name in err and ("--resume" in err) == (command == "run")
    assert signal.getsignal(number) is before
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "run" not in path.parts]
    assert not written, written


def test_autoattack_stops_on_the_command_line(advcore, root, tiny, trained, tmp_path, monkeypatch):
    """In the middle of its first attack; it takes nothing for a failure that it could go on after."""
    pytest.importorskip("pyautoattack", reason="extra eval")
    arguments = commands(root, tiny, trained, tmp_path)["autoattack"]
    signal_at(monkeypatch, 25, signal.SIGTERM)
    code, _, err = advcore(*arguments, "--set", "evaluation.checks=false")
    assert code == 143 and err.count("\n") == 1 and not list(tmp_path.iterdir()), err


NET = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


@pytest.mark.parametrize("version", ["apgd-ce", "apgd-dlr", "square", "standard"])
@pytest.mark.parametrize("looks", [2, 9, 60])
def test_every_autoattack_stops_where_it_looks(source, monkeypatch, version, looks):
    pytest.importorskip("pyautoattack", reason="extra eval")
    counted, state = signal_at(monkeypatch, looks, signal.SIGTERM), torch.get_rng_state()
    labels = NET(source._images).argmax(1)  # all right, so that all are attacked
    with catch_signals(), pytest.raises(Stopped):
        evaluate(NET, TensorDataset(source._images, labels), [AutoAttack(eps=0.001, version=version)], batch_size=96)
    assert counted[0] == looks and torch.equal(state, torch.get_rng_state())


LONG = {
    "attack": (GradMatch(), Trades(), LinfPGD(eps=0.1, steps=500, step_size=0.01), 200),
    "gradmatch": (GradMatch(), Pgd(), LinfPGD(eps=0.1, steps=1), None),
    "craig": (Craig(), Pgd(), LinfPGD(eps=0.1, steps=1), None),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_selection_stops_where_it_looks_and_leaves_the_model(model, source, monkeypatch, name):
    """In the attack, and at the last look, which is the solver's."""
    solver, objective, attack, looks = LONG[name]
    chooser = AdversarialCoreset(objective=objective, solver=solver, attack=attack, partition="per_class", budget=0.3)
    if looks is None:
        with monkeypatch.context() as patch:
            counted = signal_at(patch, -1, signal.SIGTERM)
            chooser.select(model, source, seed=0)
        looks = counted[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted, state = signal_at(monkeypatch, looks, signal.SIGTERM), torch.get_rng_state()
    with catch_signals(), pytest.raises(Stopped):
        chooser.select(model, source, seed=0)
    assert counted[0] == looks and model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_pass_of_the_model_goes_by_without_a_look(model, source, monkeypatch):
    """So a stop waits for one pass at most."""
    counted, passes = signal_at(monkeypatch, -1, signal.SIGTERM), []
    model.register_forward_hook(lambda *_: passes.append(counted[0]))
    evaluate(model, source, [LinfPGD(eps=0.1, steps=20)], batch_size=32)
    assert len(passes) > 60 and passes == sorted(set(passes))


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for the signal, as Linux tells it."""
    caught_ones = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(caught_ones, 16) >> (number - 1) & 1)


@BOTH
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("command", ["run", "select", "score", "evaluate", "autoattack"])
def test_a_command_leaves_soon_whenever_the_signal_comes(root, tiny, trained, tmp_path, number, command):
    """A process of its own, three random moments from when it listens on."""
    long = ["attack.steps=300", "data.train_size=1000"]  # a step is finished first
    evaluation = ["evaluation.attacks.0.steps=3000", "evaluation.attacks.0.restarts=9"]
    more = {"run": long, "select": [*long, "attack.steps=3000"], "score": [*long, "training.epochs=50"]}
    generator = random.Random(f"{command} {number}")
    for i in range(3):
        out = tmp_path / str(i)
        out.mkdir()
        arguments = commands(root, tiny, trained, out)[command]
        changes = [part for one in more.get(command, evaluation) for part in ("--set", one)]
        whole = [sys.executable, "-m", "advcore", *map(str, arguments), *changes]
        own = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own)
        while process.poll() is None and not catches(process.pid, signal.SIGTERM):
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 9))
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        lines = [line for line in err.splitlines() if not line.startswith("WARNING")]
        assert process.returncode == 128 + number and len(lines) == 1, err
        assert re.match(r"advcore: (stopped by|interrupted)", lines[0])
