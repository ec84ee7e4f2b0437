"""The pages: none is missing from the site or dead-ends, what is generated is fresh, what is public is documented.
`make docs` builds the site itself."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^(```|~~~).*?^\1", re.S | re.M)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def written() -> list[Path]:
    return [
        path
        for folder in ("", "docs", "docs/gallery", "benchmarks", "benchmarks/papers")
        for path in sorted((ROOT / folder).glob("*.md"))
    ]


def anchors(text: str) -> set[str]:
    """The anchors that a code-hosting page and the site give headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)", FENCED.sub("", text), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = next(n for n in range(100) if (f"{name}-{n}" if n else name) not in found)
        found.add(f"{name}-{number}" if number else name)
    return found


@pytest.mark.parametrize("page", written(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_file() and path.is_relative_to(ROOT), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in anchors(path.read_text()), f"{page.name} links to {link}: no such heading"


def test_a_dead_link_would_be_seen():
    assert LINK.findall("see [this](../x.md#some-place), ![a picture](y.png)") == ["../x.md#some-place", "y.png"]
    assert anchors("# A `name: x`!\n## A\n## A\n```\n# none\n```\n") == {"a-name-x", "a", "a-1"}


def test_the_site_has_every_page_and_no_other(script):
    contents = script("contents")
    assert {ROOT / f"{page}.md" for page in contents.pages()} == set(written())
    assert len(contents.pages()) == len(set(contents.pages()))
    for package in contents.API:
        assert (ROOT / "advcore" / package).is_dir() or (ROOT / "advcore" / f"{package}.py").is_file()


def test_the_page_of_settings_is_fresh(script):
    page = script("settings_page")
    assert page.PAGE.read_text() == page.text(), "run python docs/site/settings_page.py"


def test_the_page_of_settings_holds_every_key_and_what_each_means(script):
    from advcore.config.schema import TABLES

    page = script("settings_page")
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \| (.+) \|$", page.PAGE.read_text(), re.M)
    told = {path for path, *_ in rows}
    wanted = {field.name for field in dataclasses.fields(page.RunConfig)}
    for title, place in page.PLACES.items():
        wanted |= {f"{place}.{field.name}" for cls in TABLES[title].values() for field in dataclasses.fields(cls)}
    for place, cls in page.CONFIGS.items():
        wanted |= {f"{place}.{field.name}" for field in dataclasses.fields(cls)}
    assert wanted <= told and {"training.memory.reset", "training.speed.autocast"} <= told
    assert [path for path, _, _, meaning in rows if not meaning.strip()] == []
    numbers = {path.split(".")[-1] for path, kind, *_ in rows if re.match(r"(whole )?number( or null)?$", kind.strip())}
    assert numbers == {"seed", "split_seed", "quality"}, "a number's unit stands in its field: setting(unit=...)"


def test_the_figures_of_the_choosing_page_are_fresh(script):
    choosing = script("choosing_page")
    text = choosing.PAGE.read_text()
    assert choosing.page(text) == text, "run make pages"
    rows, more = choosing.held(1000, 10, 6, "per_class", choosing.Craig())
    assert rows == 1000 * (10 + 6) * 4 and more > 8 * 100**2


def test_the_run_of_the_first_hour_works_on_a_users_own_model_and_data():
    code = re.search(r"<!-- own -->\n```python\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.S)[1]
    for slow, quick in (("epochs=30", "epochs=3"), ("steps=10", "steps=1"), ("steps=50", "steps=2")):
        assert slow in code
        code = code.replace(slow, quick)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))
    sets = {name: TensorDataset(torch.rand(n, 3, 8, 8), torch.arange(n) % 4) for name, n in PARTS.items()}
    names = {"model": model, **sets}
    exec(compile(code, "docs/index.md", "exec"), names)
    assert len(names["trained"].coresets) == 1 and names["result"].clean.n == PARTS["test"]


PARTS = {"train": 32, "held_out": 16, "test": 16}


def test_all_that_the_api_pages_show_says_what_it_is(script):
    contents, docstrings = script("contents"), script("docstrings")
    for package in contents.API:
        for module, names in docstrings.on_page(package):
            for name in names:
                assert ast.get_docstring(docstrings.tree(module)[name]), f"{module}.{name} has no docstring"


def test_every_setting_is_documented_where_it_is_made(script):
    """By its own class or one that it comes from, in a section or in prose."""
    docstrings, contents = script("docstrings"), script("contents")
    for package in contents.API:
        for module, names in docstrings.on_page(package):
            for name in names:
                thing = getattr(importlib.import_module(module), name)
                if not dataclasses.is_dataclass(thing):
                    continue
                said = " ".join(base.__doc__ or "" for base in thing.__mro__ if base is not object)
                fields = [f.name for f in dataclasses.fields(thing) if not f.name.startswith("_")]
                assert [f for f in fields if not re.search(rf"\b{f}\b", said)] == [], f"{module}.{name}"


def test_what_the_command_line_lists_is_told_whole_in_the_first_line():
    from advcore.config.schema import TABLES
    from advcore.selection.partition import PARTITIONS

    things = [thing for table in (*TABLES.values(), PARTITIONS) for thing in table.values()]
    firsts = [thing.__doc__.strip().splitlines()[0] for thing in things]
    assert [line for line in firsts if not line.endswith((".", ":"))] == []


def test_a_docstring_becomes_a_list_of_what_it_says(script):
    docstrings = script("docstrings")
    doc = (
        "Do it; see `Known`.\n\nParameters\n----------\nx : (N,) in [0, 1];\n    more of it.\nk, m : how\n    many.\n\n"
    )
    doc += (
        "Raises DataError for a bad x. Cost O(N). Reference: A 2020, eq. 1. Differs: not\nat all.\n\na : one. b : two."
    )
    assert docstrings.meanings(doc) == {
        "x": "(N,) in [0, 1]; more of it.",
        "k": "how many.",
        "m": "how many.",
        "a": "one.",
        "b": "two.",
    }
    shown = docstrings.described(doc, {"Known": "advcore.Known"}, {"x": docstrings.Parameter("x", "Tensor", "None")})
    assert "{py:obj}`Known <advcore.Known>`" in shown and "- **x** `Tensor = None`: (N,) in \\[0, 1\\]; more" in shown
    for lead in ("- *Raises:* DataError", "- *Cost:* O(N).", "- *Reference:* A 2020", "- *Differs:* not at all."):
        assert lead in shown
