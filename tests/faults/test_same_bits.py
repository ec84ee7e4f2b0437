"""Same inputs, same bits, and nothing global is read or moved."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.objectives import Pgd
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.solvers import SOLVERS, GradMatch
from advcore.training import SGD

EVERYTHING = """
import hashlib
import torch
from torch import nn
from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.data.source import Resident
from advcore.objectives import Pgd, Trades
from advcore.selection.schedule import Schedule
from advcore.solvers import SOLVERS
from advcore.training import SGD

torch.manual_seed(0)
data = Resident(torch.rand(96, 1, 8, 8), torch.arange(96) % 4)
attack = LinfPGD(eps=0.1, steps=2)
torch.seed()  # from here on nothing reads it
for name, kind in SOLVERS.items():
    for objective in (Pgd(), Trades()):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
        needs = {"score": "grand"} if name == "by_score" else {}
        chooser = AdversarialCoreset(objective=objective, solver=kind(**needs), attack=attack)
        schedule = Schedule(epochs=4, budget=0.5, warm_start=0.5, period=1)
        made = Trainer(objective=objective, attack=attack, schedule=schedule, selector=chooser, optimizer=SGD(lr=0.05))
        trained = made.fit(net, data, data, seed=0)
        found = hashlib.sha256()
        for state in (trained.last, trained.best):
            for value in state.values():
                found.update(value.numpy().tobytes())
        for coreset in trained.coresets:
            found.update(coreset.indices.numpy().tobytes() + coreset.weights.numpy().tobytes())
        robust = evaluate(net, data, [attack]).attacks[0]["accuracy"]
        print(name, type(objective).__name__, found.hexdigest(), robust)
"""


@pytest.mark.case("A1")
@pytest.mark.slow
def test_two_fresh_processes_give_the_same_bits_whatever_the_solver_and_the_objective(tmp_path):
    """In other folders, with another order of hashes."""
    told = []
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        own = os.environ | {"PYTHONHASHSEED": str(i), "OMP_NUM_THREADS": "1"}
        told.append(
            subprocess.run(
                [sys.executable, "-c", EVERYTHING],
                capture_output=True,
                text=True,
                check=True,
                env=own,
                cwd=tmp_path / str(i),
            ).stdout
        )
    assert told[0] == told[1]
    names = {line.split()[0] for line in told[0].splitlines()}
    assert names == set(SOLVERS) and told[0].count("Trades") == len(names)
    assert len({line.split()[2] for line in told[0].splitlines()}) == len(told[0].splitlines())


ATTACK = LinfPGD(eps=0.1, steps=1)
SELECTOR = AdversarialCoreset(objective=Pgd(), attack=ATTACK, solver=GradMatch())
TRAINER = Trainer(
    objective=Pgd(),
    attack=ATTACK,
    schedule=Schedule(epochs=2, budget=0.5, warm_start=0.5, period=None),
    selector=SELECTOR,
    optimizer=SGD(lr=0.1),
)
CALLS = {
    "select": lambda model, data: SELECTOR.select(model, data, seed=0).indices.tolist(),
    "fit": lambda model, data: [v.tolist() for v in TRAINER.fit(model, data, data, seed=0).last.values()],
    "evaluate": lambda model, data: evaluate(model, data, [ATTACK], checks=True).as_dict(),
    "attack": lambda model, data: ATTACK(
        lambda x: model.eval()(x).logsumexp(1),
        data._images,
        generator=Stream(seed=0, purpose="a").at(torch.arange(len(data))),
    ).tolist(),
}


@pytest.mark.case("A6")
@pytest.mark.parametrize("call", CALLS)
def test_a_public_call_neither_moves_nor_reads_any_global_random_state(model, source, call):
    import copy

    found = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        found.append(CALLS[call](copy.deepcopy(model), source))
        assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[2])
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    assert found[0] == found[1]
