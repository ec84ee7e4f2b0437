"""Who works in a run's folder keeps others out, for as long as it lives itself."""

import multiprocessing
import os
import signal
import time

import pytest

from advcore.errors import ConfigError
from advcore.run.checkpoints import begin, lock_folder, was_begun_by

pytest.importorskip("fcntl")
FORK = multiprocessing.get_context("fork")


def hold(folder, ready) -> None:
    """Work in the folder with a helper, whose number is sent once all is ready; both would take a minute."""
    with lock_folder(folder):
        helper = FORK.Process(target=time.sleep, args=(60,))
        helper.start()
        ready.send(helper.pid)
        time.sleep(60)


@pytest.mark.case("C5")
def test_helpers_of_a_dead_process_keep_nobody_out(tmp_path):
    """A killed run's readers of images live on for some seconds, while torchrun starts it again."""
    receiver, sender = FORK.Pipe(duplex=False)
    holder = FORK.Process(target=hold, args=(tmp_path, sender))
    holder.start()
    helper = receiver.recv()
    try:
        with pytest.raises(ConfigError, match="no other process is using"), lock_folder(tmp_path):
            pass
        holder.kill()
        holder.join()
        assert holder.exitcode == -signal.SIGKILL
        os.kill(helper, 0)  # it still lives
        with lock_folder(tmp_path):
            pass
    finally:
        holder.kill()
        os.kill(helper, signal.SIGKILL)


def test_a_run_is_of_the_job_that_began_it(tmp_path):
    assert not was_begun_by(tmp_path / "none", ["a 1 2"]) and not was_begun_by(tmp_path, [])
    begin(tmp_path, ["a 1 2", "b 3 4"])
    assert was_begun_by(tmp_path, ["b 3 4", "c 5 6"]) and not was_begun_by(tmp_path, ["a 1 3"])
    begin(tmp_path, [])
    assert not was_begun_by(tmp_path, ["a 1 2"]) and not was_begun_by(tmp_path, [])
