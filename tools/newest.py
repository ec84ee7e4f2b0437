"""Run the tests with the newest releases that setup.cfg allows, to learn early which one breaks something.

Only packages that moved since constraints.txt are installed, into a separate environment that falls back on the
present one: torch is downloaded again only where its own release moved. A failure of the tests is printed, and this
script still succeeds: the releases are not ours. Its exit status is 0 unless pip cannot resolve the dependencies.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = ".[dev]"
_LAST_LINES = 15


def find_moved(report: dict) -> dict[str, tuple[str | None, str]]:
    """Return {package: (installed version or None, newest version)} from pip's report of what it would install."""
    moved = {}
    for entry in report["install"]:
        name, newest = entry["metadata"]["name"], entry["metadata"]["version"]
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = None
        if name != "advcore" and installed != newest:
            moved[name] = (installed, newest)
    return moved


def resolve_newest() -> dict:
    """Ask pip what it would install where every dependency may move; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", str(report)]
        command += ["--upgrade", "--upgrade-strategy", "eager", "--editable", REQUIREMENT]
        subprocess.run(command, cwd=ROOT, check=True)
        return json.loads(report.read_text())


def build_overlay(folder: Path, moved: dict[str, tuple[str | None, str]]) -> Path:
    """Make an environment with the moved packages in front of the present ones; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    python = folder / "bin" / "python"
    pins = [f"{name}=={newest}" for name, (_, newest) in moved.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *pins], check=True)
    layout = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=layout))
    # a line that begins with `import` is executed: the present environment comes after the moved packages
    present = sysconfig.get_path("purelib")
    (site / "present.pth").write_text(f"import site; site.addsitedir({present!r})\n")
    return python


def run_tests(python: Path) -> tuple[bool, list[str]]:
    """Run the quick tests; whether they pass, and the last lines of what they print."""
    command = [python, "-m", "pytest", "-n", "auto", "--maxprocesses", "8", "--dist", "loadfile"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    return done.returncode == 0, done.stdout.splitlines()[-_LAST_LINES:]


def main() -> int:
    moved = find_moved(resolve_newest())
    if not moved:
        print("newest: no release moved since constraints.txt, so the tests have run with the newest ones")
        return 0
    for name, (installed, newest) in sorted(moved.items()):
        print(f"newest: {name} {installed or '(not installed)'} -> {newest}")
    passed, lines = run_tests(build_overlay(ROOT / "build" / "newest", moved))
    if passed:
        print(f"newest: the tests pass with these releases ({lines[-1].strip()}); `make lock` takes them")
        return 0
    print("newest: THE TESTS FAIL WITH THESE RELEASES, and pass with those of constraints.txt:")
    print("\n".join(f"  | {line}" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
