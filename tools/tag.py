"""Tag a release: python tools/tag.py [--dry-run] makes the annotated tag vVERSION of the present commit.

It refuses unless nothing is uncommitted; the version is the newest of CHANGELOG.md, with a date, and nothing is listed
under Unreleased; CITATION.cff says the same; the badges are fresh; there is no such tag; and `make test` and
`make lint` pass. --dry-run runs all checks and makes no tag. The tag's message is the changelog's entry.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ENTRY = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\S+))?\n(?P<text>.*?)(?=^## \[|\Z)", re.M | re.S)
_TESTS = ("make", "test", "lint")


def read_version(root: Path) -> str:
    """Return the version of the package."""
    (version,) = re.findall(r'^__version__ = "(.+)"$', (root / "advcore/version.py").read_text(), re.M)
    return version


def read_entries(text: str) -> list[re.Match[str]]:
    """Return the entries of a changelog, newest first: version, date and text of each."""
    return list(_ENTRY.finditer(text))


def find_problems(root: Path) -> list[str]:
    """List what keeps a commit from being a release, as far as its files and git say it."""
    version = read_version(root)
    unreleased, newest, *_ = read_entries((root / "CHANGELOG.md").read_text())
    citation = (root / "CITATION.cff").read_text()
    checks = {
        "the tree must be clean; commit or remove what `git status` shows": not git(root, "status", "--porcelain"),
        f"tag v{version} must not exist; raise the version": not git(root, "tag", "--list", f"v{version}"),
        "CHANGELOG.md must begin with Unreleased, which must be empty": (
            unreleased["version"] == "Unreleased" and not unreleased["text"].strip()
        ),
        f"the newest entry of CHANGELOG.md must be [{version}], got [{newest['version']}]": newest["version"]
        == version,
        f"the entry of {newest['version']} must have a date": bool(newest["date"]),
        f"CITATION.cff must say version: {version}": f"\nversion: {version}\n" in citation,
        f"CITATION.cff must say date-released: {newest['date']}": f"\ndate-released: {newest['date']}\n" in citation,
        "docs/badges must be fresh; run python docs/site/badges.py": f">{version}<" in read_badge(root),
    }
    return [problem for problem, holds in checks.items() if not holds]


def read_badge(root: Path) -> str:
    return (root / "docs/badges/version.svg").read_text()


def git(root: Path, *words: str) -> str:
    """Return what a git command prints. Raises CalledProcessError where it fails."""
    return subprocess.run(["git", *words], cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Check the commit, and tag it unless this is a dry run; 1 if it cannot be released, 2 for a wrong argument."""
    if arguments not in ([], ["--dry-run"]):
        print(f"tag: the only option is --dry-run, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    problems = find_problems(root)
    if not problems and subprocess.run(_TESTS, cwd=root).returncode:
        problems = [f"`{' '.join(_TESTS)}` must pass"]
    for problem in problems:
        print(f"tag: {problem}", file=sys.stderr)
    if problems:
        return 1
    version = read_version(root)
    entry = read_entries((root / "CHANGELOG.md").read_text())[1]
    if arguments:
        print(f"tag: v{version} can be tagged")
        return 0
    git(root, "tag", "--annotate", f"v{version}", "--message", f"advcore {version}\n\n{entry['text'].strip()}")
    print(f"tag: v{version} has been created; `git push origin v{version}` publishes it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
