"""The table of published cases is the one that the marks in the suite make."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from faults import cases


def test_there_are_44_cases_each_with_a_promise_of_its_own():
    assert len(cases.CASES) == len(set(cases.CASES.values())) == 44
    assert [len([case for case in cases.CASES if case[0] == letter]) for letter in "ABCDEFG"] == [6, 6, 5, 4, 7, 7, 9]


def test_the_table_in_the_documentation_names_the_tests_that_are_marked():
    """`python tests/faults/cases.py` makes it anew."""
    table, (at_tests, elsewhere) = cases.written(), cases.marked()
    assert list(table) == list(cases.CASES)
    for case in cases.CASES:
        for file in {*table[case], *at_tests.get(case, {})}:
            told, here = table[case].get(file, set()), at_tests.get(case, {}).get(file, set())
            text = (cases.ROOT / "tests" / file).read_text()
            assert {name.split("::")[-1] for name in told} >= here, f"{case}, {file}: not in the table"
            more = {name for name in told if name.split("::")[-1] not in here}
            assert not more or case in elsewhere.get(file, ()), f"{case}, {file}: {more} in the table alone"
            assert all(f"def {name.split('::')[-1]}(" in text for name in more)
    loose = {(case, file) for file, found in elsewhere.items() for case in found}
    assert all(table[case].get(file) for case, file in loose)


@pytest.mark.slow
@pytest.mark.parametrize("mark, refused", [("A3", False), ("A9", True), ("a3", True)])
def test_a_mark_of_no_case_is_refused_when_tests_are_collected(root, tmp_path, mark, refused):
    for name in ("conftest.py", "faults/cases.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((root / "tests" / name).read_text())
    (tmp_path / "setup.cfg").write_text("[tool:pytest]\nmarkers = case(*names): a case\n")
    (tmp_path / "test_one.py").write_text(f"import pytest\n\n@pytest.mark.case('{mark}')\ndef test_one():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode != 0) == refused and (not refused or repr(mark) in done.stdout + done.stderr), done


def test_the_hook_refuses_what_is_no_case():
    import conftest

    mark = SimpleNamespace(args=("A3", "Z1"))
    item = SimpleNamespace(nodeid="test_x.py::test_y", iter_markers=lambda name: [mark], extra_keyword_matches=set())
    with pytest.raises(pytest.UsageError, match=r"test_x\.py::test_y.*'Z1'.*tests/faults/cases\.py"):
        conftest.pytest_itemcollected(item)
