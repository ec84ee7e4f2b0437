"""Small worlds that many tests share."""

import functools
import gc
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported; commands that tests start inherit it

import pytest
import typer
from faults.cases import CASES
from plug_ins import forget_plugins

from advcore import cli
from advcore.runtime.heap import keep_freed_memory

if TYPE_CHECKING:
    from torch import nn

    from advcore.data.source import Resident

keep_freed_memory()
typer.main.get_command = functools.cache(typer.main.get_command)  # else each call of the command line builds it anew
gc.disable()  # until all tests are collected: nearly all that is made until then stays
ROOT = Path(__file__).parents[1]
TINY = [
    "data.train_size=160",
    "data.test_size=60",
    "model.width=4",
    "attack.steps=2",
    "training.epochs=4",
    "training.batch_size=32",
    "evaluation.attacks.0.steps=3",
    "evaluation.attacks.0.restarts=1",
]


def pytest_collection() -> None:
    """Import torch in the processes that run tests; pytest-xdist's own, which only hands them out, does without it."""
    import torch

    torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings
    for logger in logging.root.manager.loggerDict.values():
        # pytest attaches its handlers to each logger that does not propagate, six times a test: torch has dozens.
        if isinstance(logger, logging.Logger):
            logger.propagate = True


def pytest_itemcollected(item: pytest.Item) -> None:
    """`-k A3` selects the tests that are marked as holding case A3; a mark of no published case is refused."""
    named = {name for mark in item.iter_markers("case") for name in mark.args}
    for unknown in sorted(named - set(CASES)):
        raise pytest.UsageError(
            f"{item.nodeid} is marked as holding {unknown!r}, which is none of tests/faults/cases.py"
        )
    item.extra_keyword_matches.update(named)


def pytest_collection_finish() -> None:
    """Leave what imports and collection made out of every later garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def script(root, monkeypatch):
    """Import a module of benchmarks or docs/site by name."""
    for folder in ("docs/site", "benchmarks/measure", "benchmarks/pages"):
        monkeypatch.syspath_prepend(str(root / folder))
    return importlib.import_module


@pytest.fixture
def tables(script):
    """The module that makes pages and tables from the committed records."""
    return script("tables")


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides that make any digits experiment run in about a second."""
    return tuple(TINY)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test begins from the same random state, whatever ran before it."""
    from advcore.runtime.device import seed_torch

    seed_torch(0)


@pytest.fixture
def source() -> "Resident":
    """96 random 1 x 8 x 8 images of 4 uneven classes."""
    import torch

    from advcore.data.source import Resident

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(96, 1, 8, 8, generator=generator)
    labels = torch.tensor([0] * 40 + [1] * 30 + [2] * 20 + [3] * 6)[torch.randperm(96, generator=generator)]
    return Resident(images, labels)


@pytest.fixture
def model() -> "nn.Module":
    """A small BatchNorm network for `source`, whose head is not called fc."""
    import torch
    from torch import nn

    from advcore.runtime.device import seed_torch

    with torch.random.fork_rng():
        seed_torch(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, 1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 4),
        )


@pytest.fixture
def advcore(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["advcore", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    with forget_plugins():
        yield call
