"""Floors, and who may import what."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "advcore"
FLOORS = [
    {
        "types",
        "errors",
        "rng",
        "cost",
        "rows",
        "pairs",
        "spill",
        "files",
        "signals",
        "speed",
        "cpu_defaults",
        "heap",
        "graphs",
        "device",
        "distributed",
        "borrow",
        "apportion",
        "pieces",
        "version",
    },
    {"data", "models", "attacks", "objectives", "solvers", "minibatch"},
    {"adversary"},
    {"gradients"},
    {"selection", "evaluation"},
    {"training", "reporting", "tracking", "integrations"},
    {"runner"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
OPTIONAL = {"torchvision", "sklearn", "timm", "submodlib", "matplotlib", "pyarrow", "PIL", "safetensors", "rich",
            "tensorboard", "wandb", "mlflow", "lightning", "pytorch_lightning"}  # fmt: skip
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[str]:
    """Dotted names of the modules imported anywhere below `tree`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(node.module)
    return found


def at_import(path: Path) -> list[str]:
    """What a module imports when it is imported: not what its functions import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [ast.Pass()]
    return imports(tree)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below(path):
    own = part(path)
    for module in imports(ast.parse(path.read_text())):
        if module.split(".")[0] != "advcore" or module == "advcore":
            continue
        other = module.split(".")[1]
        if other == own:
            continue
        highest = 0 if own in FLOORS[0] | {"reporting", "tracking"} else FLOOR[own] - 1
        assert FLOOR[other] <= highest, module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_special_packages_stay_where_they_belong(path):
    names = {module.split(".")[0] for module in imports(ast.parse(path.read_text()))}
    where = str(path.relative_to(PACKAGE))
    assert "yaml" not in names or where == "runner/config.py"
    assert not names & {"typer", "rich"} or where == "cli.py" or where == "runner/doctor.py"
    assert not names & {"pickle", "benchmarks", "experiments"}
    own = {path.stem, f"pytorch_{path.stem}"} if where.startswith("integrations/") else set()
    assert not {module.split(".")[0] for module in at_import(path)} & OPTIONAL - own
    assert not [module for module in imports(ast.parse(path.read_text())) if module.startswith("advcore.integrations")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
@pytest.mark.case("D2")
def test_no_printing_outside_the_command_line_and_no_code_from_text(path):
    called = {node.func.id for node in ast.walk(ast.parse(path.read_text()))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    assert not called & {"print", "eval", "exec"}
    loads = re.findall(r"torch\.load\([^\n]*", path.read_text())
    assert all("weights_only=True" in call for call in loads)
    assert "allow_pickle=True" not in path.read_text()


def modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    return set(out.stdout.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_differs_between_devices_stands_in_one_place(path):
    """Beside it: which device a run file may name, and what processes send each other."""
    where = str(path.relative_to(PACKAGE))
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not names & {"cuda", "is_cuda"} or where in ("device.py", "distributed.py")
    assert "cuda" not in path.read_text() or where in (
        *("device.py", "distributed.py", "speed.py"),
        *("runner/build.py", "runner/schema.py", "runner/doctor.py"),
    )


def test_the_package_and_the_command_line_import_without_torch():
    assert not modules_after("import advcore, advcore.cli") & {"torch", "torchvision", "sklearn", "yaml", "pydantic"}


def test_the_library_imports_without_torchvision_or_sklearn():
    loaded = modules_after("from advcore import AdversarialCoreset, Trainer, evaluate; import advcore.solvers")
    assert not loaded & {"torchvision", "sklearn", "timm", "submodlib"}


def test_importing_everything_does_not_touch_cuda_or_the_global_state():
    code = "; ".join(
        [
            "import torch, random, numpy as np",
            "a = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])",
        ]
        + ["import advcore.runner.run, advcore.cli, advcore.solvers", "assert not torch.cuda.is_initialized()"]
        + ["assert torch.equal(a[0], torch.get_rng_state()) and a[1] == random.getstate()"]
        + ["assert (a[2] == np.random.get_state()[1]).all()"]
    )
    modules_after(code)
