"""What people read of the command line: whole sentences, plain cells, and the next command to type."""

import re
import shlex
import shutil

import pytest
import typer
from typer.testing import CliRunner

from advcore import cli
from advcore.config.schema import TABLES
from advcore.evaluation import autoattack
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import list_selection_rows
from advcore.run.select import list_overrides

COMMANDS = typer.main.get_command(cli.app).commands
STOPPED_READERS = (
    "can stand as",
    "Stop then",
    "goes on",
    "go along",
    "anew",
    "1 full epochs",
    "Processes beside each other",
    "Go on with",
    "and leave",
)
"""Texts that readers stumbled over (see the project's list), and their kind."""


@pytest.fixture(scope="module")
def tiny(tiny):
    """Fewer images and epochs than elsewhere: nobody looks at the accuracies of these runs."""
    return (*tiny, "data.train_size=80", "data.test_size=20", "training.epochs=3", "evaluation.checks=false")


def help_of(*words: str, columns: int) -> str:
    found = CliRunner().invoke(
        cli.app, [*words, "--help"], env={"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    )
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_of_commands_says_whole_sentences(columns):
    lines = help_of(columns=columns).partition("Commands:")[2].strip().splitlines()
    told = dict(re.fullmatch(r"\s*(\w+)\s+(.*)", line).groups() for line in lines)
    assert told.keys() == COMMANDS.keys(), "a command's sentence takes more than its line"
    for name, sentence in told.items():
        assert sentence == COMMANDS[name].help.partition("\n")[0] and sentence.endswith("."), name


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_never_cut_and_speaks_plainly(command, columns):
    text = " ".join(help_of(*command.split(), columns=columns).split())
    assert not re.search(r"(?<!, )\.\.\.(?!\w)", text.replace("[ARGS]...", "")), "a sentence is cut"
    assert not [phrase for phrase in STOPPED_READERS if phrase in text]
    parameters = COMMANDS[command].params if command else []
    assert [one.name for one in parameters if not (one.help or "").endswith(".")] == []


@pytest.fixture(scope="module")
def finished(root, tiny, tmp_path_factory):
    """The folder of a tiny run, its file, and what was changed in it."""
    folder = tmp_path_factory.mktemp("words") / "my run"
    file = root / "experiments/trades_gradmatch.yaml"
    words = [str(file), *(part for change in tiny for part in ("--set", change)), "--out", str(folder)]
    found = CliRunner().invoke(cli.app, ["run", *words])
    assert found.exit_code == 0, found.output
    return folder, file, tuple(tiny), found.stdout


def next_commands(out: str) -> list[list[str]]:
    """What is offered to type, as a shell would read it, without the program."""
    told = [shlex.split(line.removeprefix("next: ")) for line in out.splitlines() if line.startswith("next: ")]
    return [words[words.index("advcore") + 1 :] if "advcore" in words else words for words in told]


def test_a_check_offers_the_run_that_was_checked(advcore, root, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "my files"
    folder.mkdir()
    file = folder / "a 'run'.yaml"
    shutil.copy(root / "experiments/trades_gradmatch.yaml", file)
    changes = [*tiny, "name=words", "attack={name: linf_pgd, eps: 8/255, steps: 2}"]
    sets = [part for change in changes for part in ("--set", change)]
    monkeypatch.chdir(tmp_path)
    code, out, err = advcore("check", file, *sets)
    assert code == 0, err
    (command,) = next_commands(out)
    assert command == ["run", str(file), *sets]
    code, _, err = advcore(*command)
    assert code == 0, err
    assert RunRecord.load(tmp_path / "runs/words-s0/record.json").config["attack"]["eps"] == 8 / 255


def test_a_run_offers_its_report_and_the_stronger_suite(advcore, finished, monkeypatch):
    folder, _, _, out = finished
    report, evaluate = next_commands(out)
    assert report == ["report", str(folder)] and advcore(*report)[0] == 0
    assert evaluate == ["evaluate", str(folder), "--checkpoint", "best", "--suite", "autoattack"]
    monkeypatch.setattr(autoattack, "is_installed", lambda: False)
    code, out, _ = advcore("evaluate", folder)
    assert code == 0 and next_commands(out) == []


def test_an_evaluation_offers_the_stronger_suite_for_the_same_checkpoint(advcore, finished):
    folder, *_ = finished
    code, out, _ = advcore("evaluate", folder, "--checkpoint", "best", "--set", "evaluation.batch_size=30")
    expected = ["evaluate", str(folder), "--checkpoint", "best", "--suite", "autoattack"]
    assert code == 0 and next_commands(out) == [[*expected, "--set", "evaluation.batch_size=30"]]


def test_a_stopped_run_offers_the_same_command_with_resume(advcore, root, tiny, tmp_path, monkeypatch):
    """Whatever was asked for before: --overwrite would begin again."""
    from advcore.run import run as runner

    def stopping(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", stopping)
    file, sets = root / "experiments/linf_full.yaml", [part for change in tiny for part in ("--set", change)]
    code, out, err = advcore("run", file, *sets, "--out", tmp_path / "a b", "--overwrite")
    assert code == 130 and err.count("\n") == 1
    assert next_commands(out) == [["run", str(file), "--out", str(tmp_path / "a b"), "--resume", *sets]]
    monkeypatch.undo()
    code, out, err = advcore(*next_commands(out)[0])
    assert code == 0, err


def test_scores_offer_a_run_that_reads_them(advcore, root, tiny, tmp_path):
    file, sets = root / "experiments/trades_gradmatch.yaml", [part for change in tiny for part in ("--set", change)]
    code, out, err = advcore("score", file, "--score", "adversarial_el2n", *sets, "--out", tmp_path / "my scores.npz")
    assert code == 0, err
    (command,) = next_commands(out)
    code, _, err = advcore(*command, "--out", tmp_path / "run")
    assert code == 0, err
    solver = RunRecord.load(tmp_path / "run/record.json").config["selection"]["solver"]
    assert solver == {
        "name": "by_score", "score": "el2n", "points": "adversarial", "keep": "hardest",
        "scores": str(tmp_path / "my scores.npz"),
    }  # fmt: skip


def test_a_solver_that_reads_the_score_keeps_its_name(root):
    from pathlib import Path

    from advcore.config.load import load

    config = load(root / "experiments/easycore_trades.yaml")
    assert list_overrides(config, "input_norm", Path("s.npz")) == ['selection.solver.scores="s.npz"']
    (other,) = list_overrides(config, "forgetting", Path("s.npz"))
    assert other.startswith("selection.solver={name: by_score, score: forgetting, points: clean")
    beside_pool = load(root / "experiments/linf_full.yaml", ["data.pool.path=more.npz"])
    assert list_overrides(beside_pool, "forgetting", Path("s.npz")) == [other, "data.pool=null"]


def test_a_run_file_without_a_checkpoint_is_told_what_to_give(advcore, finished, root, tiny, tmp_path, monkeypatch):
    folder, file, *_ = finished
    monkeypatch.chdir(tmp_path)
    for which in ([], ["--checkpoint", "best"]):
        code, _, err = advcore("evaluate", file, *which)
        assert code == 2 and err.count("\n") == 1
        assert f"got '{'best' if which else 'last'}'; or name a run's folder in place of {file}\n" in err
        assert "--checkpoint FILE.safetensors" in err and "checkpoints" not in err
    shutil.copytree(folder, tmp_path / "runs/trades_gradmatch-s0")
    _, _, err = advcore("evaluate", file)
    assert err.endswith(": runs/trades_gradmatch-s0 exists\n")
    assert advcore("evaluate", "runs/trades_gradmatch-s0")[0] == 0
    code, _, err = advcore("evaluate", tmp_path / "nothing")
    assert code == 2 and err.count("\n") == 1


RAW = re.compile(r"\d\.\d{5,}|\bNone\b|\bTrue\b|\bFalse\b|\{'|\('|<\w|tensor\(|Path\(|e-\d\d")
"""What Python prints and no person writes."""


def test_no_command_prints_what_only_python_writes(advcore, finished, root, tiny, tmp_path):
    folder, file, changes, told = finished
    sets = [part for change in changes for part in ("--set", change)]
    sets_of_probes = ["--set", "selection.solver.scores=null", "--set", "selection.probe_epochs=10"]
    state = folder / "checkpoints/last.safetensors"
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"name: toy\nexperiment: {file}\nmethods: {{full: {{selection: null}}}}\nbaselines: false\n")
    outputs = {"run": told}
    for command in (
        ("select", file, "--checkpoint", state, *sets, "--out", tmp_path / "c.npz"),
        ("evaluate", folder),
        ("check", file, *sets, "--cost", "0.3"),
        ("check", root / "experiments/easycore_trades.yaml", *sets_of_probes),
        ("report", folder),
        ("export", folder, "--out", tmp_path / "export"),
        ("list",),
        ("bench", suite, "--table", "--out", tmp_path / "records"),
    ):
        code, out, err = advcore(*command)
        assert code == 0, err
        outputs[" ".join(map(str, command))] = out
    for command, out in outputs.items():
        lines = [line for line in out.splitlines() if not line.startswith(("next: ", "in Python: "))]
        assert [line for line in lines if RAW.search(line)] == [], command


def test_a_coreset_is_told_in_the_words_of_the_other_tables():
    found = {
        "solver": "gradmatch", "partition": "per_class", "k": 3, "epoch": 1, "weight_sum": 0.98908715,
        "effective_sample_size": 0.914370006, "class_counts": [1, 2], "gradient_error": 0.0720498, "overlap": None,
        "gradient_error_trained": 0.07109, "gradient_error_random": 0.8012205, "target_error": None, "filled": 0,
        "gradient_error_full": 0.125006, "gradient_error_full_noise": 0.0, "passes": 12864, "rounds": 1,
        "seconds": {"attack": 0.0599783, "rows": 0.01, "solve": 0.1235},
    }  # fmt: skip
    rows = dict(list_selection_rows(found))
    assert rows["gradient error"] == "0.072 (random 0.801); against the full attack 0.125"
    assert rows["seconds"] == "attack 0.06, rows 0.01, solve 0.12" and rows["passes"] == "12,864"
    assert rows["examples per class"] == "1, 2" and "error against the target" not in rows
    nothing = dict.fromkeys(("gradient_error", "gradient_error_trained", "gradient_error_random"), None)
    rows = dict(list_selection_rows(found | nothing | {"class_counts": [3, 5] * 50}))
    assert "gradient error" not in rows and rows["examples per class"] == "3 to 5, in 100 classes"


def test_every_kind_of_name_is_listed(advcore):
    for kind in TABLES:
        code, out, _ = advcore("list", kind)
        assert code == 0 and all(name in out for name in TABLES[kind])
