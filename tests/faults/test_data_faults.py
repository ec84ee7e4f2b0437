"""Data that cannot be read: the example's index and what was raised, in one line, and nothing half done."""

import copy
import multiprocessing
import os
import re

import pytest
import torch
from faults.injectors import Broken, Poisoned, crashed, killed, left, raises
from torch.utils.data import Subset

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.data.source import Streamed
from advcore.errors import DataError
from advcore.objectives import Pgd
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.loop import Listener

pytestmark = pytest.mark.case("C7")
ATTACK = LinfPGD(eps=0.1, steps=1)
SELECTOR = AdversarialCoreset(objective=Pgd(), attack=ATTACK, solver=GradMatch(), partition="whole", chunk_size=16)
SCHEDULE = Schedule(epochs=3, budget=0.5, warm_start=0.7, period=None)
TRAINER = Trainer(
    objective=Pgd(), attack=ATTACK, schedule=SCHEDULE, selector=SELECTOR, optimizer=SGD(lr=0.05), batch_size=16
)


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text either")


ERRORS = {
    "key": (KeyError("no such image"), "KeyError: 'no such image'"),
    "missing file": (FileNotFoundError(2, "No such file or directory", "a.png"), "'a.png'"),
    "input and output": (OSError(5, "Input/output error"), "Input/output error"),
    "end of iteration": (StopIteration(), "StopIteration"),
    "several arguments": (Poisoned("poisoned", 7), "('poisoned', 7)"),
    "several lines": (ValueError("one\ntwo"), "one two"),
    "no words": (AssertionError(), "AssertionError"),
    "no text": (Unprintable(), "Unprintable"),
    "runtime": (RuntimeError("DataLoader worker (pid 1) is killed"), "RuntimeError: DataLoader worker (pid 1)"),
    "memory": (MemoryError(), "MemoryError"),
    "type": (TypeError("len() of unsized object"), "len()"),
}
CALLS = {
    "fit": lambda model, data: TRAINER.fit(model, data, seed=0),
    "select": lambda model, data: SELECTOR.select(model, data, seed=0),
    "evaluate": lambda model, data: evaluate(model, data, [ATTACK], batch_size=16),
}


def line_of(call) -> str:
    """Of the DataError that it raises."""
    with pytest.raises(DataError) as refused:
        call()
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize("error, told", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_what_an_example_raises_is_told_with_its_index(model, call, error, told):
    line = line_of(lambda: CALLS[call](model, Broken(41, raises(error))))
    assert line.startswith("example 41 cannot be read: ") and told in line


@pytest.mark.parametrize("error, told", ERRORS.values(), ids=ERRORS)
def test_it_is_the_same_line_from_a_worker(error, told):
    data = Broken(5, raises(error), n=8)
    chunks = [torch.tensor([0, 1]), torch.tensor([4, 5, 6])]
    lines = [line_of(lambda w=w: list(Streamed(data, workers=w).batches(chunks))) for w in (0, 1)]
    assert lines[0] == lines[1] and told in lines[0]


def test_the_error_itself_is_kept_as_the_cause():
    error = Poisoned("poisoned", 7)
    with pytest.raises(DataError) as refused:
        list(Streamed(Broken(5, raises(error), n=8)).batches([torch.arange(8)]))
    assert refused.value.__cause__ is error


@pytest.mark.parametrize("call", CALLS)
def test_the_index_is_of_the_data_that_were_given_and_the_first_example_counts(model, call):
    whole = Broken(41, raises(KeyError("x")))
    part = Subset(whole, list(range(30, 90)))
    assert line_of(lambda: CALLS[call](model, part)).startswith("example 11 cannot be read: ")
    assert line_of(lambda: CALLS[call](model, Broken(0, raises(KeyError("x"))))).startswith("example 0 ")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(4), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_what_is_no_failure_passes(error):
    with pytest.raises(type(error)):
        list(Streamed(Broken(5, raises(error), n=8)).batches([torch.arange(8)]))


@pytest.fixture
def looking_often(monkeypatch):
    """torch looks whether a worker is alive every 5 seconds; this only waits less."""
    by_default = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(by_default, "__defaults__", (0.1,))


DEATHS = {"killed": (killed, "killed by SIGKILL"), "left": (left, "exit code 3"), "crashed": (crashed, "SIGSEGV")}


@pytest.mark.parametrize(
    "fails, told",
    [pytest.param(*both, id=name, marks=pytest.mark.slow if name != "killed" else ()) for name, both in DEATHS.items()],
)
@pytest.mark.usefixtures("looking_often")
def test_a_worker_that_dies_is_told_with_what_it_read(fails, told):
    data = Streamed(Broken(41, fails), workers=2)
    line = line_of(lambda: list(data.batches(torch.arange(96).split(16))))
    assert line.startswith("example 41 cannot be read: the worker process") and told in line


@pytest.mark.usefixtures("looking_often")
def test_a_worker_that_dies_of_nothing_it_read_is_told_with_the_batch():
    data = Streamed(Broken(-1, left, n=600), workers=1)

    def read():
        for _ in data.batches(torch.arange(600).split(100)):
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()

    line = line_of(read)
    assert re.match(r"example(s \d+, \d+, \d+, \d+, \.\.\.| \d+) cannot be read: the worker process", line), line
    assert "SIGKILL" in line


@pytest.mark.usefixtures("looking_often")
def test_a_death_is_told_where_the_batch_is_waited_for(model):
    """torch's handler would raise in the middle of a step; also where a loader of the user's has installed it."""
    list(torch.utils.data.DataLoader(Broken(-1, left, n=4), num_workers=1))
    data, begun, ended = Streamed(Broken(41, killed), workers=2), 0, 0
    with pytest.raises(DataError, match="example 41"):
        for _ in data.batches(torch.arange(96).split(16)):
            begun += 1
            while not ended and os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                torch.zeros(10).sum()  # until a worker is dead; a signal's handler runs between two of these
            for _ in range(1000):
                torch.zeros(10).sum()
            ended += 1
    assert begun < 3 and ended == begun


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_fit_that_failed_saved_whole_epochs_and_goes_on_from_them(model, workers):
    """The data fail in the second epoch, and are mended."""
    states, good = [], Broken(-1, left)

    def fails(i):
        raise OSError(5, "Input/output error")

    listener = Listener(on_checkpoint=lambda state: states.append(state()), on_epoch=lambda *_: breaks())

    def breaks():
        data.index = 41

    data = Broken(-1, fails)
    undisturbed = TRAINER.fit(copy.deepcopy(model), good, seed=0)
    source = Streamed(data, workers=workers)
    source.fingerprint()  # read once, and not for every state
    line = line_of(lambda: TRAINER.fit(copy.deepcopy(model), source, seed=0, listener=listener))
    assert line.startswith("example 41 cannot be read: OSError: [Errno 5]")
    assert len(states) == 1 and states[0]["place"]["epoch"] == 1
    data.index = -1
    resumed = TRAINER.fit(copy.deepcopy(model), source, seed=0, resume=states[0])
    assert all(torch.equal(value, resumed.last[name]) for name, value in undisturbed.last.items())
