"""What `fit` shows: in a terminal the bars of the command line, on stderr; where nobody looks, nothing."""

import contextlib
import copy
import io
import re
from types import SimpleNamespace

import pytest
from screen import Terminal

from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.errors import ConfigError
from advcore.objectives import Pgd, Standard
from advcore.selection.schedule import Schedule
from advcore.training import SGD
from advcore.training.display import show_training
from advcore.training.progress import Listener

TRAINER = Trainer(
    objective=Pgd(),
    attack=LinfPGD(eps=0.1, steps=1),
    solver="easycore",
    budget=0.5,
    schedule=Schedule(epochs=4, warm_start=0.5, period=1),
    optimizer=SGD(lr=0.05),
    batch_size=48,
)
LINES = [
    r"1 full epoch, then 2 at 50 %, selecting at 1 and 2; 3 of 4 epochs run",
    r"epoch   1/3  full    96 examples  loss \d\.\d{4}  \d+\.\d s",
    r"selection: easycore keeps 48 of 96",
    r"epoch   2/3  select  48 examples  loss \d\.\d{4}  \d+\.\d s",
    r"selection: easycore keeps 48 of 96",
    r"epoch   3/3  select  48 examples  loss \d\.\d{4}  \d+\.\d s",
]


@pytest.fixture
def trainer(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return TRAINER


def assert_lines(lines: list[str]) -> None:
    assert len(lines) == len(LINES), lines
    for line, expected in zip(lines, LINES, strict=True):
        assert re.fullmatch(expected, line), line


def fit(trainer, model, source, **options):
    return trainer.fit(copy.deepcopy(model), source, **options)


def test_where_nobody_looks_it_is_quiet_unless_asked(trainer, model, source, capsys):
    """Also with a listener of the caller's, which hears the same."""
    quick = Trainer(objective=Standard(), schedule=Schedule(epochs=1), optimizer=SGD(lr=0.05), batch_size=96)
    for progress in (None, False):
        fit(quick, model, source, progress=progress)
        assert capsys.readouterr() == ("", "")
    heard = []
    listener = Listener(on_coreset=heard.append, on_epoch=lambda entry, so_far: heard.append(entry["epoch"]))
    trained = fit(trainer, model, source, progress=True, listener=listener)
    out, err = capsys.readouterr()
    assert_lines(err.splitlines())
    assert out == "" and heard == [0, trained.coresets[0], 1, trained.coresets[1], 2]


def test_in_a_terminal_bars_come_and_go_and_stdout_stays_the_callers(trainer, model, source):
    terminal, out = Terminal(), io.StringIO()
    with contextlib.redirect_stderr(terminal), contextlib.redirect_stdout(out):
        fit(trainer, model, source, augment=lambda x, stream: print("mine") or x)
    assert_lines([line for line in terminal.frames()[-1] if line])
    assert out.getvalue() == "mine\n" * 4 and any(bar.startswith("epochs") for bar in terminal.bars())


@pytest.mark.parametrize(
    ("listener", "progress", "is_shown"),
    [
        (Listener(), None, True),
        (Listener(on_state=print), None, True),
        (Listener(on_epoch=print), None, False),
        (Listener(on_progress=print), None, False),
        (Listener(), False, False),
        (Listener(on_epoch=print), True, True),
    ],
)
def test_a_listener_that_may_draw_keeps_a_terminal_clean(trainer, listener, progress, is_shown):
    run = SimpleNamespace(trainer=trainer, listener=listener)
    with Terminal().attached(), show_training(run, progress) as shown:
        assert (shown != listener) == is_shown


def test_one_line_of_what_it_must_be(trainer, model, source):
    with pytest.raises(ConfigError, match="^progress must be true or false, got 'yes'$"):
        fit(trainer, model, source, progress="yes")
