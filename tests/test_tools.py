"""constraints.txt and tools/: versions are exact, can be installed elsewhere, and cover what is asked for."""

import configparser
import importlib.metadata
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture
def tool(root, monkeypatch):
    """Import a script of tools/ by name."""
    monkeypatch.syspath_prepend(str(root / "tools"))

    def load(name: str):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def read_pins(root) -> list[Requirement]:
    lines = (root / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_every_line_can_be_installed_anywhere(root, tool):
    text = (root / "constraints.txt").read_text()
    assert tool("lock").find_problems(text) == []
    assert "://" not in text and "--" not in text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("torch==2.14.1+cpu", "local label"),
        ("torch==2.14.1+cu130 ; sys_platform == 'linux'", "local label"),
        ("torch>=2.14", "NAME==VERSION"),
        ("--index-url somewhere", "NAME==VERSION"),
        ("torch @ file:///wheels/torch.whl", "NAME==VERSION"),
        ("-e .", "NAME==VERSION"),
    ],
)
def test_a_line_that_other_machines_cannot_install_is_refused(tool, line, reason, monkeypatch, tmp_path, capsys):
    lock = tool("lock")
    assert len(lock.find_problems(f"# made by\nnumpy==2.4.6\n{line}\n")) == 1
    target = tmp_path / "constraints.txt"
    target.write_text("numpy==2.4.6\n")
    monkeypatch.setattr(lock, "TARGET", target)
    monkeypatch.setattr(lock, "resolve", lambda: f"{line}\n")
    assert lock.main() == 1 and target.read_text() == "numpy==2.4.6\n"
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("python", ["3.11.9", "3.12.4", "3.13.1"])
@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")])
def test_every_dependency_has_one_version_within_its_bounds(root, python, system, machine):
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": system,
        "platform_machine": machine,
        "platform_system": system.capitalize(),
        "implementation_name": "cpython",
        "os_name": "posix",
        "extra": "",
    }
    versions = {}
    for pin in read_pins(root):
        if pin.marker is None or pin.marker.evaluate(environment):
            assert canonicalize_name(pin.name) not in versions, pin
            versions[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = "\n".join([setup["options"]["install_requires"], extras["dev"], extras["docs"]])
    for line in filter(None, wanted.splitlines()):
        requirement = Requirement(line)
        assert requirement.url is None and all(bound.operator == ">=" for bound in requirement.specifier), line
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), line


def test_bits_compare_events_by_what_is_shown(tool):
    old, new = {"epoch": 2, "event": "fell"}, {"epoch": 2, "kind": "collapse", "event": "fell"}
    assert tool("bits").without_varying({"events": [new], "seconds": 2.0, "kind": "x"}) == {
        "events": [old],
        "kind": "x",
    }


def test_only_releases_that_moved_are_installed_anew(tool):
    installed = importlib.metadata.version("numpy")
    entries = [("numpy", installed), ("scipy", "99.0"), ("new-package", "1.0"), ("advcore", "99.0")]
    report = {"install": [{"metadata": {"name": name, "version": version}} for name, version in entries]}
    assert tool("newest").find_moved(report) == {
        "scipy": (importlib.metadata.version("scipy"), "99.0"),
        "new-package": (None, "1.0"),
    }


@pytest.mark.parametrize(
    ("moved", "passed", "words"),
    [
        ({}, True, ["no release moved"]),
        ({"numpy": ("1.0", "2.0")}, True, ["numpy 1.0 -> 2.0", "the tests pass with these releases (9 passed)"]),
        ({"numpy": (None, "2.0")}, False, ["numpy (not installed) -> 2.0", "THE TESTS FAIL", "| 9 passed"]),
    ],
)
def test_a_failure_with_the_newest_releases_is_named_and_is_none_of_ours(
    tool, monkeypatch, capsys, moved, passed, words
):
    newest = tool("newest")
    monkeypatch.setattr(newest, "resolve_newest", dict)
    monkeypatch.setattr(newest, "find_moved", lambda report: moved)
    monkeypatch.setattr(newest, "build_overlay", lambda folder, moved: sys.executable)
    monkeypatch.setattr(newest, "run_tests", lambda python: (passed, ["9 passed"]))
    assert newest.main() == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)
