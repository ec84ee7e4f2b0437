"""The guides: the command line accepts their commands, run files are valid, examples run, and terms are linked."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from plug_ins import forget_plugins
from torch import nn
from torch.utils.data import TensorDataset

from advcore import cli
from advcore.config.load import from_dict
from advcore.config.yaml_reader import parse, read
from advcore.testing import AttackContract

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("howto_*.md"))
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("landing", "index", "tutorial", "choosing", "savings", "minibatch")]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.S | re.M)
FILE = re.compile(r"^ *<!-- file: (\S+) -->\n( *)```\w+\n(.*?)^\2```", re.S | re.M)
COMMANDS = typer.main.get_command(cli.app).commands
TASKS = ("attack", "cluster", "finetune", "paper", "pool", "timm")
TERMS = """remembered perturbation, ridge, gradient error, shortened, effective sample size, row, warm start, FAT,
N-FGSM, rho, headroom, compute, pass, coreset, budget, partition, period, pool, collapse, masking"""


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks in a language, without the indentation of the list that they are in."""
    found = [(indent, text) for indent, kind, text in FENCE.findall(page.read_text()) if kind == language]
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, text in found]


def commands(page: Path) -> list[list[str]]:
    """The words after `advcore` of each command on a page, under torchrun or not."""
    lines = "".join(blocks(page, "") + blocks(page, "sh")).replace("\\\n", " ").splitlines()
    calls = [re.search(r"^(?:exec )?(?:torchrun .*-m )?advcore (.*)$", line) for line in lines]
    return [shlex.split(call[1], comments=True) for call in calls if call]


@pytest.mark.parametrize("page", [*GUIDES, *PAGES], ids=lambda path: path.stem)
def test_the_command_line_accepts_every_command_of_the_page(page, tmp_path, monkeypatch):
    calls = commands(page)
    assert calls
    files = {name: text for name, indent, text in FILE.findall(page.read_text())}
    for name, *words in calls:
        for word in words:
            in_repository = (ROOT / word).is_file()
            assert in_repository or not word.startswith(("experiments/", "benchmarks/")), f"{page.name} names {word}"
            if word.startswith("runs/"):
                (tmp_path / word).mkdir(parents=True, exist_ok=True)
            elif re.search(r"\.(yaml|py)$", word):
                (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
                text = (ROOT / word).read_text() if in_repository else files.get(word, "name: any\n")
                (tmp_path / word).write_text("" if word.endswith(".py") else text)
        monkeypatch.chdir(tmp_path)
        with forget_plugins():
            COMMANDS[name].make_context(name, list(words))


def test_a_command_that_does_not_exist_would_be_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "1. Do\n\n   ```\n   torchrun -m advcore run \\\n     x.yaml --resum\n   advcore: an answer\n   ```\n"
    )
    assert commands(page) == [["run", "x.yaml", "--resum"]]
    with pytest.raises(Exception, match="--resum"):
        COMMANDS["run"].make_context("run", ["x.yaml", "--resum"])


@pytest.mark.parametrize("page", [*GUIDES, *PAGES], ids=lambda path: path.stem)
def test_every_run_file_of_the_page_is_valid(page):
    for text in blocks(page, "yaml"):
        settings = parse(text.replace(", ...", ""), page.name)
        if "name" in settings:
            from_dict(settings)


def test_the_lines_about_the_pool_are_those_of_its_run_file():
    (text,) = blocks(ROOT / "docs/howto_pool.md", "yaml")
    settings, experiment = parse(text, "page"), read(ROOT / "experiments/pool_gradmatch.yaml")
    assert settings["data"] == experiment["data"]
    assert settings["selection"].items() <= experiment["selection"].items()


def test_there_is_a_guide_for_each_task_and_each_leads_on():
    assert [page.stem for page in GUIDES] == [f"howto_{task}" for task in TASKS]
    for page in GUIDES:
        assert page.read_text().startswith("# How to ") and "See also: " in page.read_text()


@pytest.mark.slow
def test_the_attack_of_the_guide_passes_its_contract_and_trains(tmp_path, advcore, tiny, monkeypatch):
    """As the page says: by pytest on the page's own test, then in a run file."""
    page = ROOT / "docs/howto_attack.md"
    for name, indent, text in FILE.findall(page.read_text()):
        (tmp_path / name).write_text(re.sub(rf"^{indent}", "", text, flags=re.M))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_momentum.py"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    tests = [name for name in dir(AttackContract) if name.startswith("test_")]
    assert done.returncode == 0 and int(re.search(r"(\d+) passed", done.stdout)[1]) >= len(tests), done.stdout
    monkeypatch.chdir(tmp_path)
    lists, run = commands(page)
    code, out, _ = advcore(*lists)
    assert code == 0 and "momentum_fgsm" in out
    run[1] = str(ROOT / run[1])
    smaller = [setting for change in tiny if not change.startswith("attack") for setting in ("--set", change)]
    code, out, err = advcore(*run, *smaller)
    assert code == 0, err


@pytest.mark.parametrize("package", ["adversary", "selection", "training", "evaluation"])
def test_the_example_of_the_api_page_runs(package, script, tmp_path, monkeypatch):
    code = script("docstrings").example(package).removeprefix("```python\n").removesuffix("```")
    for slow, quick in (("epochs=30", "epochs=3"), ("steps=10", "steps=1"), ("steps=50", "steps=2")):
        code = code.replace(slow, quick)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))
    sets = {name: TensorDataset(torch.rand(32, 3, 8, 8), torch.arange(32) % 4) for name in ("dataset", "train", "test")}
    names = {"model": model, "x": torch.rand(8, 3, 8, 8), "y": torch.arange(8) % 4, "held_out": sets["test"], **sets}
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"examples.md, {package}", "exec"), names)


def test_the_first_screen_of_an_api_page_is_its_example_and_what_is_called(script):
    contents, docstrings = script("contents"), script("docstrings")
    known = docstrings.known_names(contents.API)
    for package, names in contents.FIRST.items():
        page = docstrings.page("Title", package, known)
        places = [page.index("```python"), *(page.index(f"\n## {name.rpartition('.')[2]}\n") for name in names)]
        assert places == sorted(places) and page.index("\n## ") == places[1]
        for name in names:
            assert page.count(f" {name.rpartition('.')[2]}(") >= 1


def test_every_term_is_in_the_glossary_and_linked_from_another_page(script):
    glossary, build, contents = script("glossary"), script("build"), script("contents")
    terms = glossary.terms()
    names = {term.name for term in terms}
    assert {term.strip() for term in TERMS.replace("\n", " ").split(",")} <= names and len(names) == len(terms)
    pages = {name: build.staged_text(name) for name in contents.pages() if name != glossary.GLOSSARY}
    for term in terms:
        assert any(f"glossary.md#{term.anchor})" in text for text in pages.values()), f"nothing links to {term.name}"


def test_each_page_links_the_first_use_of_a_term_and_nothing_inside_code(script):
    glossary = script("glossary")
    (entry,) = glossary._read(
        "### effective sample size\n<!-- linked: effective sample size, effective size -->\n\nText.\n"
    )
    assert entry.anchor == "effective-sample-size"
    text = "# Effective size\n\n`effective size` and [effective size](x.md), ineffective sizes;\n"
    text += "Effective\nsize, effective size.\n"
    linked = glossary.link(text, "docs/page", [entry])
    assert linked == text.replace("Effective\nsize", "[Effective\nsize](glossary.md#effective-sample-size)")
    assert glossary.link(linked, "docs/page", [entry]) == linked
    assert "(../docs/glossary.md#effective" in glossary.link("An effective size.", "benchmarks/page", [entry])
    picture = "[![a picture](effective-size.png)](effective size.md)"
    assert glossary.link(picture, "docs/page", [entry]) == picture
    (silent,) = glossary._read("### row\n<!-- linked: -->\n\nText.\n")
    assert silent.phrases == () and glossary.link("a row", "docs/page", [silent]) == "a row"


@pytest.mark.parametrize(
    "code",
    ["```\nname: pgd\n```", "1. A list:\n\n   ```yaml\n   name: pgd\n   ```", "A block:\n\n    attack: pgd", "`pgd`"],
)
def test_code_is_never_linked_wherever_it_is(script, code):
    glossary = script("glossary")
    (entry,) = glossary._read("### PGD\n")

    assert glossary.link(code, "docs/page", [entry]) == code
    assert glossary.link(f"{code}\n\nThen PGD-7.", "docs/page", [entry]).endswith("Then [PGD](glossary.md#pgd)-7.")


def test_the_landing_page_becomes_the_first_page_of_the_site(script):
    build = script("build")
    text = build.moved("[a](index.md) [b](../README.md#x) [c](https://a.b/c)", "docs/landing")
    assert text == "[a](docs/index.md) [b](README.md#x) [c](https://a.b/c)"
    landing = (ROOT / "docs/landing.md").read_text()
    doors = re.search(r"^## Start from what you want to do\n(.*?)^## ", landing, re.S | re.M)[1]
    assert len(re.findall(r"^### ", doors, re.M)) == 3 and len(FENCE.findall(doors)) == 3
    assert "start-from-what-you-want-to-do" in (ROOT / "docs/site/static/style.css").read_text()
