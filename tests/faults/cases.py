"""The published cases, and the table in docs/cases.md of the tests that hold them: python tests/faults/cases.py.

A test says what it holds with `@pytest.mark.case("B4")`. The table is made from the suite as pytest collects it, and
checked (tests/faults/test_cases.py) against the marks as they stand in the sources.
"""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cases.md"
BEGIN, END = "<!-- cases: python tests/faults/cases.py -->", "<!-- /cases -->"

CASES = {
    "A1": "Two fresh processes with the same settings produce the same bits, for every solver and objective.",
    "A2": "A run that is stopped after any epoch ends with the same bits and selections as the uninterrupted run.",
    "A3": "So does a run that is killed at any moment; at most the work since its last saved state is repeated.",
    "A6": "Public calls neither change nor read the global random states, and no two streams of random numbers are the "
    "same.",
    "A7": "Two processes select and train like one, hold the same weights after every epoch, and count every test "
    "example once.",
    "A8": "Other settings or data are refused when a run is resumed, with old and new value; what does not affect "
    "training may change.",
    "B1": "A state that cannot be serialised leaves the previous one unchanged and no other files.",
    "B2": "Whenever a process is killed while it saves, the newest state is intact.",
    "B3": "A state that is truncated, empty or random bytes is reported with the reason, and the previous one leads to "
    "the same result.",
    "B4": "One changed bit is noticed, wherever it is.",
    "B6": "A full disk ends a run with exit code 3, path and cause; with free space it continues to the same bits.",
    "B8": "The newest states are kept, an old one is removed once the new one is verified, NaN is never best, and no "
    "run is overwritten or changed without being asked.",
    "C1": "SIGINT and SIGTERM save and exit within 30 seconds with 130 or 143; existing handlers are called and "
    "restored.",
    "C3": "A loss that is not finite is neither applied nor saved; exit code 3 says where it occurred.",
    "C5": "When one of several processes dies, all end within a minute, and a restart leads to the same bits.",
    "C6": "When memory runs out, an attack, rows or a solve continue in smaller pieces to the same answer; a training "
    "step ends with advice.",
    "C7": "Data that cannot be read, or a worker that dies, are reported within 30 seconds with the example and the "
    "error.",
    "D1": "Files that would run code when they are read are refused by every reader, and nothing runs.",
    "D2": "The source code reads, evaluates and imports nothing in a way that runs code from a file, and needs no "
    "network.",
    "D3": "A name in a run file is one of the known ones; a path to code is refused and imports nothing.",
    "D5": "No path inside a file leads out of the run's folder.",
    "E1": "Every attack stays in its ball and in [0, 1], in every precision.",
    "E2": "Attack, selection and evaluation leave model and inputs unchanged bit for bit, also when they fail.",
    "E3": "On a linear model PGD reaches the closed-form solution.",
    "E5": "At radius 0 robust accuracy equals clean accuracy; more steps, restarts or radius never help the defence, "
    "or it is flagged.",
    "E6": "Models that mask their gradients are flagged, and clean ones are not.",
    "E9": "A robust accuracy is recorded with how it was measured, and was not chosen on the data on which it is "
    "measured.",
    "E10": "A sudden fall of robust accuracy is reported, the weights before it are kept, and noise does not count as "
    "a fall.",
    "F1": "Facility location makes the same greedy picks as the naive algorithm.",
    "F3": "CRAIG's weights count the examples that each pick represents.",
    "F4": "Matching pursuit agrees with scikit-learn, and its non-negative form with nnls.",
    "F5": "Duplicates, zeros, too few rows and similar problems give fewer picks and the reason, never NaN.",
    "F6": "Rows equal the gradients of single examples, for every chunk size.",
    "F8": "Equal rows have distance zero.",
    "F9": "Extreme logits and zero gradients stay finite.",
    "G1": "An unknown key is reported with its path and the nearest known key.",
    "G2": "A value of the wrong type or out of range is reported with the range.",
    "G3": "Numbers mean what they look like; radii in other units, duplicate keys and invalid files are reported.",
    "G4": "A budget is a share: 1 is the full run, and K is exact when it is small.",
    "G5": "Data that are empty, without a length or of another shape are refused.",
    "G6": "Invalid labels are refused; an absent class is a warning.",
    "G7": "Images that are not in [0, 1] or differ in size are reported with the first index and what to do.",
    "G9": "Indices refer to the data that were given, and a coreset of other data is refused.",
    "G10": "A model that does not fit is reported with the way out: the head's name, or the keys that differ.",
}

Found = dict[str, dict[str, dict[str, Counter]]]
"""Case, file, test, and how many of it are quick, slow, gpu."""


class _Collector:
    def __init__(self):
        self.items: list[pytest.Item] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.items = list(items)


def collected() -> Found:
    """The marked tests of the whole suite, as pytest sees them."""
    seen, found = _Collector(), {}
    code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "-m", "", str(ROOT / "tests")], [seen])
    if code:
        raise SystemExit(f"the suite cannot be collected: {code}")
    for item in seen.items:
        kind = next((kind for kind in ("gpu", "slow") if item.get_closest_marker(kind)), "quick")
        file = str(item.path.relative_to(ROOT / "tests"))
        name = item.getmodpath(stopatmodule=True).split("[")[0].replace(".", "::")
        for case in sorted({case for mark in item.iter_markers("case") for case in mark.args}):
            tests = found.setdefault(case, {}).setdefault(file, {})
            tests.setdefault(name, Counter())[kind] += 1
    return found


def table(found: Found) -> str:
    """Markdown: case, promise, tests with their number."""
    lines = ["| case | promise | tests |", "| --- | --- | --- |"]
    for case, promise in CASES.items():
        files = (
            f"`{file}`: {', '.join(map(_told, *zip(*tests.items(), strict=True)))}" for file, tests in _of(found, case)
        )
        lines.append(f"| {case} | {promise} | {'; '.join(files) or 'none yet'} |")
    return "\n".join(lines)


def _of(found: Found, case: str) -> list[tuple[str, dict[str, Counter]]]:
    return sorted(found.get(case, {}).items())


def _told(name: str, kinds: Counter) -> str:
    """ "test_x (12)", or "test_x (12, 3 slow)"."""
    told = [str(kinds.total())] if kinds.total() > 1 else []
    told += [
        kind if kinds[kind] == kinds.total() else f"{kinds[kind]} {kind}" for kind in ("slow", "gpu") if kinds[kind]
    ]
    return f"{name} ({', '.join(told)})" if told else name


def written() -> dict[str, dict[str, set[str]]]:
    """Case, file, tests: what the table in the page names."""
    text, found = PAGE.read_text().split(BEGIN)[1].split(END)[0], {}
    for case, promise, cell in re.findall(r"^\| (\w+) \| (.*) \| (.*) \|$", text, re.M)[1:]:
        if CASES.get(case) != promise:
            raise ValueError(f"the table's line of {case} is not the one in cases.py")
        files = re.findall(r"`([^`]+)`: ((?:\w|::|[ ,()])+)", cell)
        found[case] = {file: set(re.findall(r"\b(?:\w+::)*test_\w+", tests)) for file, tests in files}
    return found


def marked() -> tuple[dict[str, dict[str, set[str]]], dict[str, set[str]]]:
    """Case, file, tests: the marks that stand at tests, without collecting them; and, file by file, the cases whose
    marks stand elsewhere, for all of a file or in a list of parameters."""
    at_tests, elsewhere = {}, {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if ".case(" not in (text := path.read_text()) and "@case(" not in text:
            continue
        file, tree = str(path.relative_to(ROOT / "tests")), ast.parse(text)
        inside = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for decorator in node.decorator_list:
                    for call in _marks(decorator):
                        inside.add(call)
                        for case in _arguments(call):
                            at_tests.setdefault(case, {}).setdefault(file, set()).add(node.name)
        for call in set(_marks(tree)) - inside:
            elsewhere.setdefault(file, set()).update(_arguments(call))
    return at_tests, elsewhere


def _marks(tree: ast.AST) -> list[ast.Call]:
    """Calls of `pytest.mark.case`, or of `case`, the name for it in a file with many."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (getattr(node.func, "attr", None) or getattr(node.func, "id", None)) == "case"
    ]


def _arguments(call: ast.Call) -> list[str]:
    return [argument.value for argument in call.args if isinstance(argument, ast.Constant)]


def main() -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    found = collected()
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{rest.split(END)[1]}")
    missing = [case for case in CASES if case not in found]
    print(f"{len(CASES)} cases, {len(missing)} without a test: {', '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    main()
