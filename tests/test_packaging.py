"""What is shipped: metadata, extras, experiments by name, badges, the container, and a wheel in a fresh environment."""

import configparser
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from advcore import __version__
from advcore.cli import experiments
from advcore.config.yaml_reader import read
from advcore.reporting.record import SCHEMA, UNSEALED
from advcore.suggestions import suggest_nearest

LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}
MAC = {"sys_platform": "darwin", "platform_machine": "arm64"}
ARM = {"sys_platform": "linux", "platform_machine": "aarch64"}
WINDOWS = {"sys_platform": "win32", "platform_machine": "AMD64"}


@pytest.fixture(scope="module")
def setup(root) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(root / "setup.cfg")
    return parser


def read_requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_version_stands_everywhere(root):
    changelog = (root / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d{2}-\d{2})$", changelog, re.M)
    citation = read(root / "CITATION.cff")
    assert versions[0] == (__version__, str(citation["date-released"])) and citation["version"] == __version__
    assert [version for version, _ in versions] == ["0.2.0", "0.1.0"]
    assert not {"url", "doi", "repository-code"} & set(citation)
    assert f"advcore-{__version__}-py3-none-any.whl" in (root / "docs/install.md").read_text()


def test_the_package_says_that_it_is_typed(root, setup):
    assert (root / "advcore/py.typed").is_file()
    assert setup["options.package_data"]["advcore"] == "py.typed"


def test_no_address_is_claimed(setup):
    assert not {"url", "project_urls", "author_email", "download_url"} & set(setup["metadata"])


def test_the_badges_are_fresh(root, script):
    badges = script("badges")
    assert {path: path.read_text() for path in sorted(badges.FOLDER.iterdir())} == dict(
        sorted(badges.draw_all().items())
    )
    assert set(badges.read_facts()) == {"license", "python", "version"}
    assert badges.read_facts()["python"] == "3.11 | 3.12 | 3.13"


def test_the_page_lists_every_extra_with_its_packages(root, setup):
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (root / "docs/install.md").read_text(), re.M)
    extras = {}
    for extra, text in setup["options.extras_require"].items():
        requirements = read_requirements(text)
        extras[extra] = [next(iter(r.extras)) if r.name == "advcore" else r.name for r in requirements]
    assert {extra: packages.split(", ") for extra, packages in rows} == extras


def test_users_install_without_test_tools(setup):
    names = {requirement.name for requirement in read_requirements(setup["options"]["install_requires"])}
    tools = {r.name for r in read_requirements(setup["options.extras_require"]["dev"])}
    assert "torchvision" in names and not names & tools


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", [LINUX, MAC, ARM, WINDOWS], ids=["linux", "mac", "arm", "windows"])
def test_submodlib_is_required_where_it_has_a_wheel(setup, python, machine):
    (submodlib,) = [r for r in read_requirements(setup["options"]["install_requires"]) if r.name == "submodlib-py"]
    has_wheel = python != "3.13" and machine in (LINUX, MAC)
    assert submodlib.marker.evaluate({"python_version": python, **machine}) is has_wheel


def test_the_policy_of_old_names_is_what_happens(root):
    page = " ".join((root / "docs/install.md").read_text().split())
    source = (root / "advcore/deprecation.py").read_text()
    assert SCHEMA in page and UNSEALED in page
    assert "the old name will be removed in the next release" in source
    assert "removed in the next release" in page
    minor = int(__version__.split(".")[1])
    assert f"renamed by 0.{minor}.0 works in all of 0.{minor} and is removed in 0.{minor + 1}.0." in page


# ---- experiments ----


def test_the_experiments_of_the_repository_are_those_of_the_package(root, setup):
    paths = sorted((root / "experiments").glob("*.yaml"))
    assert experiments.list_experiments() == {path.stem: path for path in paths}
    assert setup["options.package_data"]["advcore.experiments"] == "*.yaml"


def test_an_experiment_is_checked_by_its_name_in_any_folder(advcore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = advcore("check", "trades_gradmatch")
    assert (code, err) == (0, "") and "full epochs, then" in out


def test_a_file_of_the_users_goes_before_an_experiment(advcore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trades_gradmatch").write_text("[]")
    code, _, err = advcore("check", "trades_gradmatch")
    assert code == 2 and "trades_gradmatch must hold a mapping" in err


def test_a_name_that_is_none_is_one_line(advcore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = advcore("check", "trades_gradmatc")
    rule = "FILE must be a run file, or the name of an experiment that comes with advcore"
    assert (code, err) == (2, f"advcore: {rule}, got 'trades_gradmatc'; did you mean 'trades_gradmatch'?\n")
    assert not suggest_nearest("qq", experiments.list_experiments())
    code, _, err = advcore("check", "qq")
    assert code == 2 and err.endswith("got 'qq'; advcore list experiments shows their names\n")


def test_the_experiments_are_listed_with_their_first_sentence(advcore):
    code, out, _ = advcore("list", "experiments")
    assert code == 0 and "linf_full" in out and "trades_gradmatch" in out
    sentence = "TRADES on half of the data, chosen by GradMatch; digits, 2 cores"
    assert experiments.summarize_experiment(experiments.list_experiments()["trades_gradmatch"]) == sentence


# ---- a container, forms, hooks ----


def test_the_container_names_no_index(root):
    text = (root / "Dockerfile").read_text()
    assert "://" not in text and re.findall(r"^ARG \w*INDEX\w*(.*)$", text, re.M) == ["", ""]
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for name in line.split()}
    sent = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == sent and all((root / name).exists() for name in copied)


def test_forms_and_hooks_can_be_read(root):
    for path in (root / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = read(path)
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(form)
            names = [part["id"] for part in form["body"]]
            assert len(set(names)) == len(names)
    hooks = read(root / ".pre-commit-config.yaml")
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert [hook["id"] for hook in hooks["repos"][0]["hooks"]] == ["ruff-check", "ruff-format", "mypy"]


# ---- tags ----


@pytest.fixture
def release(root, tmp_path, monkeypatch):
    """A small repository that may be tagged, and the script that does so."""
    monkeypatch.syspath_prepend(str(root / "tools"))
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    entries = ["# Changelog", "## [Unreleased]", "## [1.2.0] - 2026-05-04", "- New.", "## [1.1.0] - 2026-01-02", ""]
    files = {
        "advcore/version.py": '__version__ = "1.2.0"\n',
        "CHANGELOG.md": "\n\n".join(entries),
        "CITATION.cff": "title: x\nversion: 1.2.0\ndate-released: 2026-05-04\n",
        "docs/badges/version.svg": "<text>1.2.0</text>",
        "Makefile": "test lint:\n\t@echo $@ >> ../made\n",
    }
    for name, text in files.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = tmp_path / "repository"
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    import tag

    return folder, tag


def list_tags(folder) -> str:
    return subprocess.run(["git", "tag", "-n9"], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_dry_run_checks_and_tags_nothing(release, capfd):
    folder, tag = release
    assert tag.main(["--dry-run"], folder) == 0 and list_tags(folder) == ""
    assert "v1.2.0 can be tagged" in capfd.readouterr().out and (folder / "../made").read_text() == "test\nlint\n"


def test_a_release_is_tagged_once_with_its_changes(release, capfd):
    folder, tag = release
    assert tag.main([], folder) == 0
    assert "v1.2.0" in list_tags(folder) and "- New." in list_tags(folder) and "1.1.0" not in list_tags(folder)
    assert tag.main([], folder) == 1 and "tag v1.2.0 must not exist" in capfd.readouterr().err
    assert tag.main(["--fast"], folder) == 2


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("advcore/version.py", "1.2.0", "1.3.0", "must be [1.3.0], got [1.2.0]"),
        ("CHANGELOG.md", " - 2026-05-04", "", "must have a date"),
        ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- More.\n", "must be empty"),
        ("CITATION.cff", "1.2.0", "1.1.0", "CITATION.cff must say version: 1.2.0"),
        ("CITATION.cff", "2026-05-04", "2026-05-03", "must say date-released"),
        ("docs/badges/version.svg", "1.2.0", "1.1.0", "badges must be fresh"),
        ("Makefile", "@echo", "@false", "`make test lint` must pass"),
    ],
)
def test_what_is_no_release_is_not_tagged(release, capfd, name, old, new, problem):
    folder, tag = release
    path = folder / name
    path.write_text(path.read_text().replace(old, new, 1))
    assert tag.main([], folder) == 1 and "the tree must be clean" in capfd.readouterr().err
    subprocess.run(["git", "commit", "-qam", "more"], cwd=folder, check=True)
    assert tag.main([], folder) == 1 and problem in capfd.readouterr().err and list_tags(folder) == ""


# ---- the wheel ----


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of PNG files: two classes that differ in brightness."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "pictures" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(level - 40, level + 40, (12, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory):
    """A fresh environment with the wheel; torch and the other dependencies are the present environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    source = folder / "source"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    shipped = ("advcore/", "experiments/", "setup.", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
    for name in filter(None, names.split("\0")):
        if name.startswith(shipped):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env/bin/python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    present = sysconfig.get_path("purelib")
    (site / "present.pth").write_text(f"import site; site.addsitedir({present!r})\n")
    return python


@pytest.mark.slow
def test_the_wheel_alone_writes_a_run_file_runs_it_and_reports(installed, pictures, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*words: object) -> str:
        done = subprocess.run(
            [installed, "-P", *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = call("-c", "import advcore; print(advcore.__file__)")
    assert str(installed.parents[1]) in place
    advcore = ("-m", "advcore")
    assert "trades_gradmatch" in call(*advcore, "list", "experiments")
    call(*advcore, "init", pictures, "--out", "pets.yaml")
    call(*advcore, "run", "pets.yaml", "--set", "training.epochs=4", "--out", "run")
    assert (tmp_path / "run/record.json").is_file()
    call(*advcore, "report", "run")
    assert "<html" in (tmp_path / "run/report.html").read_text()
    changes = [f"--set={change}" for change in ("training.epochs=1", "selection=null", "data.train_size=100")]
    call(*advcore, "run", "trades_gradmatch", *changes, "--out", "digits")
    assert (tmp_path / "digits/record.json").is_file()
