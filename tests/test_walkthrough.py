"""Every command of README and of the first hour, as it is written, in a fresh folder, to its last line.

The command lines are the pages' own. The files that they name are smaller copies, so that this takes seconds: run files
with few images, steps and epochs (`SMALLER`, `SMALLER_PETS`), a suite with one seed, and a generated folder `pets` of
three or ten classes. The slow tests run the commands as processes, with the page's network, the suite and all of
AutoAttack.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from advcore.config.load import override
from advcore.config.yaml_reader import read
from advcore.files import read_json
from advcore.reporting.record import RunRecord
from advcore.run import run as runner

ROOT = Path(__file__).parents[1]
PAGES = {"README": ROOT / "README.md", "the first hour": ROOT / "docs/index.md"}
TUTORIAL = ROOT / "docs/tutorial.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.S | re.M)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
NOT_RUN = ("make ", "pip install ", "python -m venv ")
"""Lines of the same blocks that install: `.ci/run` does what they say."""
INTERRUPTED = "# Ctrl-C"
SMALLER = [
    "model.width=4",
    "attack.steps=2",
    "training.epochs=4",
    "training.batch_size=32",
    "evaluation.attacks.0.steps=3",
    "evaluation.attacks.0.restarts=1",
    "evaluation.examples=12",
]
SMALLER_PETS = {"size: 64": "size: 16", "epochs: 30": "epochs: 4", "batch_size: 128": "batch_size: 8",
                "steps: 10": "steps: 2", "steps: 50": "steps: 3"}  # fmt: skip
SMALL_NETWORK = {"{name: resnet18}": "{name: small_cnn, width: 4}"}
Run = Callable[[list[str], bool], tuple[int, str, str]]


def lines_of(page: Path) -> list[str]:
    """The lines of the page's blocks that are typed: of blocks without a language."""
    blocks = [text for language, text in BLOCK.findall(page.read_text()) if not language]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def commands(page: Path) -> list[tuple[list[str], bool]]:
    """What is typed after `advcore`, as a shell reads it, and whether it is to be interrupted."""
    lines = [line for line in lines_of(page) if line.startswith("advcore ")]
    return [(shlex.split(line, comments=True)[1:], INTERRUPTED in line) for line in lines]


def test_every_line_of_the_blocks_is_a_command_an_installation_or_an_answer():
    for page in PAGES.values():
        typed = [line for line in lines_of(page) if not line.startswith(("advcore ", "advcore: ", "# ", *NOT_RUN))]
        assert typed == []
    names = {command[0] for page in PAGES.values() for command, _ in commands(page)}
    assert {"run", "check", "report", "bench", "evaluate", "export", "doctor"} <= names
    assert [interrupted for _, interrupted in commands(PAGES["the first hour"])].count(True) == 1


@pytest.fixture(params=[3, pytest.param(10, marks=pytest.mark.slow)], ids="{} classes".format)
def classes(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def experiments() -> dict[str, dict]:
    """The settings of each run file of the repository, with the smaller ones that it has."""
    files = sorted((ROOT / "experiments").glob("*.yaml"))
    return {file.name: _make_smaller(read(file)) for file in files}


@pytest.fixture
def fresh(tmp_path, classes, experiments, monkeypatch, request) -> Path:
    """A fresh folder with smaller copies of what the commands name; the working directory."""
    data = _digits(tmp_path / "digits.npz", classes)
    for name, run in experiments.items():
        _write(tmp_path / "experiments" / name, run | {"data": data})
    suite = read(ROOT / "benchmarks/suites/digits.yaml")
    _write(tmp_path / "benchmarks/suites/digits.yaml", suite | {"seeds": [0]})
    _draw_pets(tmp_path / "pets", classes)
    small_network = {} if request.node.get_closest_marker("slow") else SMALL_NETWORK
    (tmp_path / "pets.yaml").write_text(_pets_file(SMALLER_PETS | small_network))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _make_smaller(run: dict) -> dict:
    changes = SMALLER
    if not run.get("attack"):
        changes = [change for change in SMALLER if not change.startswith(("attack.", "evaluation.attacks"))]
    return override(run, changes)


def _write(path: Path, value: dict) -> None:
    """Write settings as YAML; JSON is. Nobody needs the files after a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _digits(path: Path, classes: int) -> dict[str, str]:
    """Write a few digits of so many classes; the settings that read them."""
    digits = load_digits()
    few = np.concatenate([np.flatnonzero(digits.target == label)[:20] for label in range(classes)])
    images = (digits.images[few] / 16).astype("float32")[:, None]
    test = np.arange(len(few)) % 20 < 4
    parts = {"train": ~test, "test": test}
    arrays = {f"{kind}_{part}": values[mask] for part, mask in parts.items()
              for kind, values in (("x", images), ("y", digits.target[few]))}  # fmt: skip
    np.savez(path, **arrays)
    return {"name": "npz", "path": str(path)}


def _draw_pets(folder: Path, classes: int) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label in range(classes):
            place = folder / part / f"pet{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 100, (24, 20, 3)) + 150 * label // classes
                Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.png")


def _pets_file(smaller_settings: dict[str, str]) -> str:
    """The page's own run file with other settings."""
    (text,) = (text for language, text in BLOCK.findall(PAGES["the first hour"].read_text()) if language == "yaml")
    for written, smaller in smaller_settings.items():
        assert written in text
        text = text.replace(written, smaller)
    return text


@pytest.fixture
def few_iterations(monkeypatch) -> None:
    """Let AutoAttack take few steps and queries."""
    package = pytest.importorskip("pyautoattack", reason="needs the package pyautoattack: install the extra eval")
    run = package.AutoAttack.run_standard_evaluation

    def run_quickly(self, *args, **kwargs):
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = self.square.n_queries = 5
        return run(self, *args, **kwargs)

    monkeypatch.setattr(package.AutoAttack, "run_standard_evaluation", run_quickly)


@pytest.fixture
def in_this_process(advcore, monkeypatch) -> Run:
    """Run a command here; one that is to be interrupted gets SIGINT after its second epoch."""

    def call(words: list[str], interrupted: bool) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            if interrupted:
                patch.setattr(runner, "_record_epoch", _interrupting(runner._record_epoch))
            return advcore(*words)

    return call


def _interrupting(record_epoch: Callable) -> Callable:
    def record_and_interrupt(journal, reporter, tracking, entry, so_far) -> None:
        record_epoch(journal, reporter, tracking, entry, so_far)
        if len(so_far.epochs) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    return record_and_interrupt


def in_a_process(words: list[str], interrupted: bool) -> tuple[int, str, str]:
    """Run a command as a shell would; one that is to be interrupted gets SIGINT after its second epoch."""
    child = subprocess.Popen(
        [sys.executable, "-m", "advcore", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    seen = ""
    while interrupted and "epoch   2" not in seen:
        seen = child.stdout.readline()
        assert child.poll() is None
    if interrupted:
        child.send_signal(signal.SIGINT)
    out, err = child.communicate()
    return child.returncode, seen + out, err


def follow(page: Path, run: Run, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Run the page's commands in their order, each to its last line; what each printed."""
    printed = {}
    for words, interrupted in commands(page):
        if words[0] in without:
            continue
        code, out, err = run(words, interrupted)
        assert code == (130 if interrupted else 0), f"advcore {shlex.join(words)}: {err}"
        printed[shlex.join(words)] = out
    return printed


def look_at_readme(printed: dict[str, str], classes: int) -> None:
    assert RunRecord.load(Path("runs/mine/record.json")).finished and Path("runs/mine/report.html").exists()
    assert "at most 0.2 of full training" in "".join(out for command, out in printed.items() if "--cost" in command)
    assert any(path.name == "model.safetensors" for path in Path("exports").rglob("*"))
    _look_at_autoattack(printed, classes)


def look_at_the_first_hour(printed: dict[str, str], classes: int) -> None:
    first, second = (Path(f"runs/{name}/checkpoints/last.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second, "an interrupted run that went on ends elsewhere"
    assert read_json(Path("runs/second/record.json"))["resumes"]
    assert len(RunRecord.load(Path("runs/pets-s0/record.json")).data["class_counts"]) == classes
    _look_at_autoattack(printed, classes)


def _look_at_autoattack(printed: dict[str, str], classes: int) -> None:
    (judged,) = (out for command, out in printed.items() if command.startswith("evaluate"))
    names = " ".join(" ".join(line.split("│")[1] for line in judged.splitlines() if line.startswith("│")).split())
    told = "AutoAttack standard with apgd-dlr for apgd-t)" if classes == 3 else "AutoAttack standard)"
    assert told in names, judged


def test_the_commands_of_readme_run_to_their_last_line(fresh, classes, in_this_process, few_iterations):
    look_at_readme(follow(PAGES["README"], in_this_process, without=("bench",)), classes)


def test_the_first_hour_runs_to_its_last_line(fresh, classes, in_this_process, few_iterations):
    look_at_the_first_hour(follow(PAGES["the first hour"], in_this_process), classes)


@pytest.mark.slow
def test_the_commands_of_readme_run_as_processes_the_suite_too(fresh, classes):
    pytest.importorskip("pyautoattack", reason="needs the package pyautoattack: install the extra eval")
    printed = follow(PAGES["README"], in_a_process)
    look_at_readme(printed, classes)
    (told,) = (out for command, out in printed.items() if command.startswith("bench"))
    methods = read("benchmarks/suites/digits.yaml")["methods"]
    assert f"[{len(methods)}/{len(methods)}]" in told and "failed" not in told


@pytest.mark.slow
def test_the_first_hour_runs_as_processes(fresh, classes):
    pytest.importorskip("pyautoattack", reason="needs the package pyautoattack: install the extra eval")
    look_at_the_first_hour(follow(PAGES["the first hour"], in_a_process), classes)


@pytest.mark.slow
def test_the_tutorial_on_own_images_runs_as_it_is_typed(tmp_path, monkeypatch):
    """Save the page's files, type its commands in their order, and look at what each leaves behind."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILE.findall(TUTORIAL.read_text()):
        (tmp_path / name).write_text(text)
    typed = [shlex.split(line) for line in lines_of(TUTORIAL)]
    assert [words[1] for words in typed if words[0] == "advcore"] == ["check", "recommend", "run", "report", "export"]
    programs = {"python": [sys.executable], "advcore": [sys.executable, "-m", "advcore"]}
    printed = {}
    for words in typed:
        command = [*programs[words[0]], *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        printed[words[1]] = done.stdout
    planned = float(re.search(r"([\d.]+) of full training", printed["check"])[1])
    assert planned == pytest.approx(0.75, abs=0.02), "the page says: about three quarters"
    count = int(re.search(r"writes (\d+) PNG files", TUTORIAL.read_text())[1])
    assert len(list(tmp_path.glob("shapes/*/*/*.png"))) == count
    record = RunRecord.load(Path("runs/shapes-cost-0.3-s0/record.json"))
    assert record.relative_cost <= 0.31 and not record.selections
    last = record.final["last"]
    assert min(last["clean"]["accuracy"], last["attacks"][0]["accuracy"]) > 0.9
    assert Path("runs/shapes-cost-0.3-s0/report.html").is_file()


def test_breaking_the_file_gives_the_lines_that_the_page_shows(advcore, tmp_path):
    text = (ROOT / "experiments/trades_gradmatch.yaml").read_text()
    attack = re.search(r"^attack:.*", text, re.M)[0]
    broken = re.sub(r"eps: [\d./]+", "eps: 8", attack).replace("steps:", "stepz:")
    assert broken.count("stepz") == broken.count("eps: 8") == 1
    (tmp_path / "copy.yaml").write_text(text.replace(attack, broken))
    expected = [line for line in lines_of(PAGES["the first hour"]) if line.startswith("advcore: ")]
    for command in ("check", "run"):
        code, out, err = advcore(command, tmp_path / "copy.yaml")
        assert code == 2 and out == "" and err.splitlines() == expected
