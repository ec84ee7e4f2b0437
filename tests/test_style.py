"""How densely the package is written: a ratchet, whose numbers are lowered as files are mended, and never raised."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "advcore"
VAGUE = {"own", "found", "one", "told"}

PARTICIPLES = frozenset(Path(__file__).with_name("participles.txt").read_text().split())
"""No function is named by one of these, or begins with one; a property may be, since it is read as a value."""

DENSITIES = {"conditional expressions": 10, "tuple assignments": 2.0, "lambdas": 1.3, "uses of Any": 0.4}
"""At most so many per 1,000 lines."""

COUNTS = {
    "vague names": 0,
    "functions over 40 lines": 0,
    "files over 300 lines": 0,
    "functions of over 7 parameters": 4,  # public ones, whose keywords are in use
    "functions named by a participle": 0,
}
"""At most so many in all."""


def count_parameters(function: ast.FunctionDef) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def classify(node: ast.AST) -> str | None:
    """Name the kind of dense writing that a node is an example of, if any."""
    if isinstance(node, ast.IfExp):
        return "conditional expressions"
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
        return "tuple assignments"
    if isinstance(node, ast.Lambda):
        return "lambdas"
    if isinstance(node, ast.Name) and node.id == "Any":
        return "uses of Any"
    name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None)
    return "vague names" if name in VAGUE else None


def is_named_by_participle(function: ast.FunctionDef) -> bool:
    decorators = {getattr(decorator, "id", "") for decorator in function.decorator_list}
    return function.name.strip("_").split("_")[0] in PARTICIPLES and not decorators & {"property", "cached_property"}


@pytest.fixture(scope="module")
def measured() -> tuple[Counter, int]:
    """How often each kind occurs in the package, and its number of lines."""
    counts: Counter = Counter()
    lines = 0
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        length = len(text.splitlines())
        lines += length
        counts["files over 300 lines"] += length > 300
        for node in ast.walk(ast.parse(text)):
            counts[classify(node)] += 1
            if isinstance(node, ast.FunctionDef):
                counts["functions named by a participle"] += is_named_by_participle(node)
                counts["functions over 40 lines"] += node.end_lineno - node.lineno >= 40
                # the parameters of a command are what can be given to it
                if path.parent != PACKAGE / "cli":
                    counts["functions of over 7 parameters"] += count_parameters(node) > 7
    return counts, lines


@pytest.mark.parametrize("kind", DENSITIES)
def test_a_density_does_not_rise(measured, kind):
    counts, lines = measured
    assert 1000 * counts[kind] / lines <= DENSITIES[kind]


@pytest.mark.parametrize("kind", COUNTS)
def test_a_count_does_not_rise(measured, kind):
    counts, _ = measured
    assert counts[kind] <= COUNTS[kind]


def test_the_numbers_are_those_of_the_package(measured):
    """A number far above the measured one holds nothing: it is lowered with the change that earned it."""
    counts, lines = measured
    for kind, limit in DENSITIES.items():
        assert 1000 * counts[kind] / lines > limit - 1
    for kind, limit in COUNTS.items():
        assert counts[kind] >= limit * 0.95 - 1
