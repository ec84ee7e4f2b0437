"""Who works in a run's folder keeps others out, for as long as it lives itself."""

import subprocess
import sys

import pytest

from advcore.errors import ConfigError
from advcore.runner.checkpoints import alone, begin, begun_by

pytest.importorskip("fcntl")
HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from advcore.runner.checkpoints import alone
with alone(Path(sys.argv[1])):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,)).start()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.case("C5")
def test_helpers_of_a_dead_process_keep_nobody_out(tmp_path):
    """A killed run's readers of images live on for some seconds, while torchrun starts it again."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(ConfigError, match="no other process runs"), alone(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with alone(tmp_path):
        pass


def test_a_run_is_of_the_job_that_began_it(tmp_path):
    assert not begun_by(tmp_path / "none", ["a 1 2"]) and not begun_by(tmp_path, [])
    begin(tmp_path, ["a 1 2", "b 3 4"])
    assert begun_by(tmp_path, ["b 3 4", "c 5 6"]) and not begun_by(tmp_path, ["a 1 3"])
    begin(tmp_path, [])
    assert not begun_by(tmp_path, ["a 1 2"]) and not begun_by(tmp_path, [])
