"""What the command line draws while something runs, and what stays of it."""

import contextlib
import io
import logging
import os
import pty
import select
import shlex
import sys
from types import SimpleNamespace

import pytest
from screen import Terminal

from advcore.runtime.signals import Stopped
from advcore.suite.process import Outcome
from advcore.terminal import command_line, print_table, show_run, show_suite


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def entry(epoch: int, examples: int = 144) -> dict:
    return {"epoch": epoch, "action": "full", "examples": examples, "loss": 2.3, "seconds": 0.1}


def a_run(reporter, epochs: int) -> None:
    """Tell the reporter what a run with a selection and an evaluation tells it."""
    reporter.on_plan(SimpleNamespace(text="3 full epochs", notes={"cost": "a note"}))
    for epoch in range(epochs):
        for step in range(1, 6):
            reporter.on_progress("train", step, 5)
        reporter.on_epoch(entry(epoch, 1 if epoch else 144), None)
        reporter.on_progress("select", 72, 144)
        reporter.on_final("nothing, but the bars are drawn")
        reporter.on_progress("select", 144, 144)
    reporter.on_progress("evaluate last", 0, 60)
    reporter.on_final("last")
    reporter.on_progress("evaluate last", 60, 60)


def test_bars_have_names_go_when_they_are_full_and_leave_nothing(terminal):
    with terminal.attached(), show_run(3) as reporter:
        a_run(reporter, 3)
    bars = terminal.bars()
    assert any(bar.startswith("select | 72/144") for bar in bars) and any("evaluate last | 0/60" in bar for bar in bars)
    assert any(bar.startswith("epochs, loss 2.300 | 1/3") for bar in bars)
    assert not [bar for bar in bars if bar.startswith(" |") or "0/1 " in bar], "a bar without a name, of nothing"
    assert not [bar for bar in bars for part in bar.split() if part in ("3/3", "5/5", "144/144", "60/60")]
    kept = terminal.frames()[-1]
    assert not [line for line in kept if "━" in line] and kept[:2] == ["3 full epochs", "a note"]
    assert "epoch   1/3  full    144 examples  loss 2.3000  0.1 s" in kept
    assert "epoch   2/3  full    1 example  loss 2.3000  0.1 s" in kept


def test_a_command_without_epochs_draws_no_bar_for_them(terminal):
    with terminal.attached(), show_run() as reporter:
        reporter.on_progress("select", 10, 144)
        reporter.on_final("last")
    assert terminal.bars() and not [bar for bar in terminal.bars() if "epoch" in bar]


@pytest.mark.parametrize("error", [Stopped(2), KeyboardInterrupt(), ValueError("x"), SystemExit(1)])
def test_whatever_ends_a_run_no_bar_stays(terminal, error):
    def interrupted() -> None:
        with terminal.attached(), show_run(3) as reporter:
            reporter.on_progress("train", 2, 5)
            reporter.on_final("here")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert terminal.bars() and not [line for line in terminal.frames()[-1] if "━" in line]


def on_a_terminal(command: list[str], interrupt_at: str, timeout: float = 300) -> tuple[Terminal, int]:
    """Run a command with a pseudo-terminal as its own, Ctrl-C typed once `interrupt_at` was printed; exit code."""
    screen, typed = Terminal(), False
    child, descriptor = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm", COLUMNS="100")
        os.execvp(command[0], command)
    while select.select([descriptor], [], [], timeout)[0]:
        try:
            screen.write(os.read(descriptor, 65536).decode(errors="replace"))
        except OSError:  # the other end is closed
            break
        if interrupt_at in screen.getvalue() and not typed:
            os.write(descriptor, b"\x03")
            typed = True
    return screen, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_leaves_no_bar_and_the_command_to_continue(root, tiny, tmp_path):
    changes = [part for change in (*tiny, "training.epochs=40") for part in ("--set", change)]
    file = str(root / "experiments/trades_gradmatch.yaml")
    command = [sys.executable, "-m", "advcore", "run", file, "--out", str(tmp_path / "run"), *changes]
    screen, code = on_a_terminal(command, "epoch   2/28")
    kept = [line for line in screen.frames()[-1] if line]
    assert code == 130 and any(bar.startswith("epochs, loss") for bar in screen.bars())
    assert not [line for line in kept if "━" in line] and "Traceback" not in screen.getvalue()
    assert kept[-1].startswith("advcore: stopped by SIGINT")
    (told,) = (line for line in kept if line.startswith("next: "))
    assert "--resume" in shlex.split(told)


def test_without_a_terminal_lines_are_plain(capsys):
    with show_run(3) as reporter:
        a_run(reporter, 3)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "━" not in out and "\r" not in out
    assert out.startswith("3 full epochs\na note\nepoch   1/3") and out.count("\n") == 2 + 3 * 2 + 1


def test_a_warning_is_printed_above_the_bars_and_the_log_is_put_back(terminal):
    handler = logging.StreamHandler(terminal)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with terminal.attached(), show_run(3) as reporter:
            reporter.on_progress("train", 2, 5)
            reporter.on_final("before")
            logging.getLogger("advcore").warning("something fell back")
            reporter.on_final("after")
        assert handler.stream is terminal
    finally:
        root.removeHandler(handler)
    assert terminal.frames()[-1][:3] == ["evaluating before", "something fell back", "evaluating after"]


def test_a_redirected_stderr_stays_redirected(terminal):
    log = io.StringIO()
    with terminal.attached(), contextlib.redirect_stderr(log), show_run(3) as reporter:
        reporter.on_progress("train", 2, 5)
        print("a warning", file=sys.stderr)
    assert log.getvalue() == "a warning\n" and "a warning" not in terminal.getvalue()


def test_runs_of_a_suite_are_counted_and_their_lines_go_with_them(terminal):
    runs = [SimpleNamespace(slug=f"a-s{seed}", method="GradMatch", seed=seed) for seed in range(2)]
    with terminal.attached(), show_suite(2) as watcher:
        for run in runs:
            watcher.on_start(run)
            watcher.on_line(run, "epoch   1/3  full    144 examples")
            watcher.on_line(run, "└──────┘")
            watcher.on_end(run, Outcome("done", seconds=3))
    bars = terminal.bars()
    assert any(bar.startswith("GradMatch, seed 0") for bar in bars) and any("0 of 2 runs" in bar for bar in bars)
    assert not [bar for bar in bars if "└" in bar or "?" in bar]
    kept = [line for line in terminal.frames()[-1] if line]
    assert kept == ["[1/2] GradMatch, seed 0: done in 3 s", "[2/2] GradMatch, seed 1: done in 3 s"]


def test_a_suite_with_nothing_to_run_draws_nothing(terminal):
    with terminal.attached(), show_suite(0):
        pass
    assert not terminal.bars()


def test_a_command_that_is_printed_is_the_one_that_a_shell_reads(monkeypatch):
    words, overrides = ["run", "my files/a.yaml", "--out", "it's"], ["attack={name: linf_pgd, eps: 8/255}", "name=a b"]
    for program, called in (("/usr/bin/advcore", ["advcore"]), ("/x/advcore/__main__.py", ["python", "-m", "advcore"])):
        monkeypatch.setattr(sys, "argv", [program, "check"])
        told = command_line(*words, overrides=overrides)
        assert shlex.split(told) == [*called, *words, "--set", overrides[0], "--set", overrides[1]]


def test_brackets_in_a_table_are_text(capsys):
    print_table("title", ("a",), [("[bold]x[/bold]",)])
    assert "[bold]x[/bold]" in capsys.readouterr().out
