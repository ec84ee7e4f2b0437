"""The code of docs/extending.md, run by pytest as it stands there: one new method of each kind, under its contract."""

import re
import subprocess
import sys


def test_the_methods_of_the_page_pass_their_contracts_and_work_together(root, tmp_path):
    page = (root / "docs/extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "test_mine.py").write_text("\n\n".join(blocks))
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    passed = int(re.search(r"(\d+) passed", ran.stdout)[1])
    assert passed > 80 and "failed" not in ran.stdout
