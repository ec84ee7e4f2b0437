"""Write constraints.txt: one exact version per package, for every platform and for Python 3.11 and later.

uv resolves the dependencies of setup.cfg with the extras `dev` and `docs`. It reads its usual settings, so
`UV_CONSTRAINT=FILE make lock` holds a package back.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "constraints.txt"
HEADER = "# The exact versions that `make run`, `make test` and CI install; made by `make lock`, for every platform.\n"
_PIN = re.compile(r"[a-z0-9-]+==(?P<version>[^\s;]+)(?: ; (?P<marker>.+))?")


def find_problems(text: str) -> list[str]:
    """List the lines of a constraints file that other machines could not install, each with the reason."""
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        pin = _PIN.fullmatch(line)
        if pin is None:
            problems.append(f"line {number} must be NAME==VERSION, with a marker where versions differ, got {line!r}")
        elif "+" in pin["version"]:
            problems.append(
                f"line {number} must have no local label, got {line!r}; resolve against an index of plain releases"
            )
    return problems


def resolve() -> str:
    """Ask uv for the newest versions that setup.cfg allows."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--no-header", "--no-annotate", "--extra", "dev", "--extra", "docs", "setup.cfg"]
    return HEADER + subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Renew the file unless a version could not be installed elsewhere; 1 then."""
    text = resolve()
    problems = find_problems(text)
    for problem in problems:
        print(f"constraints.txt stays as it was: {problem}", file=sys.stderr)
    if not problems:
        TARGET.write_text(text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
