"""Layers, and who may import what."""

import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "advcore"
sys.path.insert(0, str(PACKAGE.parent / "docs" / "site"))
import architecture  # noqa: E402

LEVEL = {part: -level for level, parts in enumerate(architecture.LAYERS.values()) for part in parts}
OPTIONAL = {"torchvision", "sklearn", "timm", "submodlib", "matplotlib", "pyarrow", "PIL", "safetensors", "rich",
            "tensorboard", "wandb", "mlflow", "lightning", "pytorch_lightning"}  # fmt: skip
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
PARTS = {name: list(files) for name, files in itertools.groupby(FILES, key=architecture.part_of)}
each_part = pytest.mark.parametrize("files", PARTS.values(), ids=PARTS)


class Source(NamedTuple):
    """Facts of a source file that the checks below read: each file is read, parsed and walked once.

    imported : dotted names of the modules imported anywhere. at_import : those imported when the module is, which
    leaves out what its functions and type checkers import. called : names of the functions called by name.
    attributes : names of all attributes.
    """

    text: str
    imported: list[str]
    at_import: list[str]
    called: set[str]
    attributes: set[str]


@cache
def source(path: Path) -> Source:
    text = path.read_text()
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    return Source(
        text=text,
        imported=imports(nodes),
        at_import=imports(run_at_import(tree)),
        called={node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)},
        attributes={node.attr for node in nodes if isinstance(node, ast.Attribute)},
    )


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(nodes: Iterable[ast.AST]) -> list[str]:
    """Dotted names of the modules that `nodes` import."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(node.module)
    return found


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those inside of functions, and those that only a type checker reads."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending += ast.iter_child_nodes(node)


@each_part
def test_a_module_imports_only_from_layers_below(files):
    """The base layer's modules import each other; reporting and tracking know nothing but them."""
    for path in files:
        importer = architecture.part_of(path)
        base = LEVEL["errors"]
        highest = base if LEVEL[importer] == base or importer in ("reporting", "tracking") else LEVEL[importer] - 1
        for module in architecture.modules_imported(path):
            imported = architecture.part_imported(module)
            if imported not in (None, importer, "__version__"):
                assert LEVEL.get(imported, base) <= highest, module


def test_no_part_imports_itself_through_others():
    used: dict[str, set[str]] = {}
    for importer, imported in architecture.count_imports():
        used.setdefault(importer, set()).add(imported)
    assert list(TopologicalSorter(used).static_order())


def test_the_page_of_the_architecture_is_fresh():
    """Renew it with python docs/site/architecture.py."""
    assert architecture.page() == architecture.PAGE.read_text()
    assert {part.name.removesuffix(".py") for part in PACKAGE.iterdir() if part.suffix in ("", ".py")} - {
        "__init__",
        "__pycache__",
    } == set(LEVEL)


@each_part
def test_special_packages_stay_where_they_belong(files):
    for path in files:
        names = {module.split(".")[0] for module in source(path).imported}
        where = str(path.relative_to(PACKAGE))
        assert "yaml" not in names or where in ("config/yaml_events.py", "config/yaml_reader.py")
        assert (
            not names & {"typer", "rich"}
            or where.startswith("cli/")
            or where in (*("terminal.py", "training/display.py", "run/doctor.py"),)
        )
        assert not names & {"pickle", "benchmarks", "experiments"}
        own = {path.stem, f"pytorch_{path.stem}"} if where.startswith("integrations/") else set()
        assert not {module.split(".")[0] for module in source(path).at_import} & OPTIONAL - own
        assert not [module for module in source(path).imported if module.startswith("advcore.integrations")]


@each_part
@pytest.mark.case("D2")
def test_no_printing_outside_the_command_line_and_no_code_from_text(files):
    for path in files:
        assert not source(path).called & {"print", "eval", "exec"}
        loads = re.findall(r"torch\.load\([^\n]*", source(path).text)
        assert all("weights_only=True" in call for call in loads)
        assert "allow_pickle=True" not in source(path).text


@each_part
def test_what_differs_between_devices_stands_in_one_place(files):
    """Beside it: which device a run file may name, and what processes send each other."""
    for path in files:
        where = str(path.relative_to(PACKAGE))
        assert not source(path).attributes & {"cuda", "is_cuda"} or where in (
            *("runtime/device.py", "distributed/launch.py", "distributed/wire.py"),
        )
        assert not re.search(r"\bcuda\b", source(path).text) or where in (
            *("runtime/device.py", "runtime/precision.py", "distributed/launch.py", "distributed/wire.py"),
            *("run/build.py", "config/schema.py", "run/doctor.py"),
        )


def asks_for_processes(path: Path) -> bool:
    """Return whether a file asks how many processes there are, or uses torch.distributed itself."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return bool(
        {"distributed.size", "distributed.rank", "torch.distributed"} & attributes
        or {"torch.distributed", "advcore.distributed.group", "WORLD_SIZE", "RANK"} & {*texts, *imports(nodes)}
    )


def test_few_modules_know_how_many_processes_there_are():
    """The record names the number, a message too, and two modules may not import torch.

    All others call functions of advcore.distributed that say what they want.
    """
    asking = [path for path in FILES if part(path) != "distributed" and asks_for_processes(path)]
    assert len(asking) <= 4, asking


IMPORTING = """
import json, random, sys
import numpy
before = random.getstate(), numpy.random.get_state()[1].copy()
import advcore, advcore.cli
loaded = {"command line": list(sys.modules)}
import torch
torch_before = torch.get_rng_state()
from advcore import AdversarialCoreset, Trainer, evaluate
import advcore.solvers
loaded["library"] = list(sys.modules)
import advcore.run.run
unchanged = {
    "CUDA": not torch.cuda.is_initialized(),
    "torch": torch.equal(torch_before, torch.get_rng_state()),
    "random": before[0] == random.getstate(),
    "numpy": bool((before[1] == numpy.random.get_state()[1]).all()),
}
print(json.dumps({"loaded": loaded, "unchanged": unchanged}))
"""


@pytest.fixture(scope="module")
def importing() -> dict:
    """What one fresh process tells that imports the command line, then the library, then everything."""
    process = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_the_package_and_the_command_line_import_without_torch(importing):
    assert not set(importing["loaded"]["command line"]) & {"torch", "torchvision", "sklearn", "yaml", "pydantic"}


def test_the_library_imports_without_torchvision_or_sklearn(importing):
    assert not set(importing["loaded"]["library"]) & {"torchvision", "sklearn", "timm", "submodlib"}


def test_importing_everything_does_not_touch_cuda_or_the_global_state(importing):
    assert importing["unchanged"] == {"CUDA": True, "torch": True, "random": True, "numpy": True}
