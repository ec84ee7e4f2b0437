"""How many threads a process may use, by affinity and quota, and what the environment says of their waiting."""

import os
import subprocess
import sys

import pytest

from advcore.runtime import threads
from advcore.runtime.threads import (
    CoreLimit,
    count_threads_per_process,
    describe_overload,
    describe_threads,
    measure_core_limit,
    prepare_environment,
)


def build_system(folder, groups: str, limits: dict[str, str]):
    """Write /proc/self/cgroup and control-group files below `folder`."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    for name, content in limits.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture
def host_of_64(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


@pytest.mark.parametrize(
    ("groups", "limits", "quota", "count"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, 1),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 0.2, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None, 64),
        ("0::/\n", {}, None, 64),
        ("", {}, None, 64),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "800000 100000\n"}, 3.0, 3),
        ("0::/a/b\n", {"a/cpu.max": "max 100000\n", "a/b/cpu.max": "800000 100000\n"}, 8.0, 8),
        ("0::/../../other\n", {"cpu.max": "500000 100000\n"}, 5.0, 5),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None, 64),
        ("0::/\n", {"cpu.max": "0 100000\n"}, None, 64),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 99.0, 64),
        (
            "4:cpu,cpuacct:/job\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
            4.0,
            4,
        ),
        (
            "4:cpu,cpuacct:/\n2:memory:/x\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            2.0,
            2,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, 64),
    ],
)
def test_the_quota_of_a_control_group_limits_the_cores(tmp_path, host_of_64, groups, limits, quota, count):
    limit = measure_core_limit(build_system(tmp_path, groups, limits))
    assert limit == CoreLimit(count=count, affinity=64, host=64, quota=quota)


def test_the_affinity_limits_the_cores(tmp_path, host_of_64, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    limit = measure_core_limit(build_system(tmp_path, "0::/\n", {"cpu.max": "800000 100000\n"}))
    assert limit.count == 2 and limit.reason == "the CPU affinity, 2 of 64 cores"


def test_without_affinity_the_host_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    limit = measure_core_limit(tmp_path)
    assert limit == CoreLimit(count=1, affinity=1, host=1) and limit.reason == "the host's 1 core"


QUOTA_OF_2 = CoreLimit(count=2, affinity=64, host=64, quota=2.0)
NO_QUOTA = CoreLimit(count=64, affinity=64, host=64)
SHORT_SPIN = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}


@pytest.mark.parametrize(
    ("before", "limit", "added"),
    [
        ({}, NO_QUOTA, SHORT_SPIN),
        ({}, QUOTA_OF_2, SHORT_SPIN | {"OMP_NUM_THREADS": "2"}),
        ({"OMP_NUM_THREADS": "7"}, QUOTA_OF_2, SHORT_SPIN),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, NO_QUOTA, {}),
        ({"GOMP_SPINCOUNT": "1000"}, NO_QUOTA, {}),
        ({"KMP_BLOCKTIME": "0"}, QUOTA_OF_2, {"OMP_NUM_THREADS": "2"}),
    ],
)
def test_the_environment_is_set_unless_the_user_has_set_it(before, limit, added):
    environment = dict(before)
    prepare_environment(environment, limit)
    assert environment == before | added


def test_processes_share_the_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "measure_core_limit", lambda: CoreLimit(count=6, affinity=8, host=64, quota=6.0))
    assert [count_threads_per_process(processes) for processes in (1, 2, 4, 9)] == [6, 3, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    assert count_threads_per_process(4) == 3


@pytest.mark.parametrize(
    ("stated", "count", "limit", "reason"),
    [
        (None, 64, NO_QUOTA, "the host's 64 cores"),
        ("2", 2, QUOTA_OF_2, "the control group's quota of 2 cores"),
        ("5", 5, NO_QUOTA, "OMP_NUM_THREADS"),
        ("5", 1, NO_QUOTA, "torch's own choice, or the program's"),
        (None, 32, NO_QUOTA, "torch's own choice, or the program's"),
    ],
)
def test_a_record_says_how_many_threads_and_why(monkeypatch, stated, count, limit, reason):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    if stated:
        monkeypatch.setenv("OMP_NUM_THREADS", stated)
    monkeypatch.setattr(threads, "measure_core_limit", lambda: limit)
    facts = describe_threads(count)
    assert (facts["threads"], facts["threads_from"]) == (count, reason)
    assert "OMP_WAIT_POLICY=PASSIVE" in facts["waiting"]


def test_a_load_above_the_cores_is_a_warning():
    assert describe_overload(2.0, 2) is None and describe_overload(None, 2) is None
    assert "3.5 on 2 cores" in describe_overload(3.5, 2)


@pytest.mark.parametrize("stated", [None, "ACTIVE"])
def test_the_command_line_sets_the_waiting_policy_before_torch_is_imported(root, stated):
    """A module named torch, found first, tells what the environment held when it was imported."""
    code = (
        "import os, sys, types\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print('policy', os.environ.get('OMP_WAIT_POLICY')); sys.stdout.flush(); os._exit(0)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['advcore', 'list', 'attacks']\n"
        "from advcore.cli import main\n"
        "main()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= {"PYTHONPATH": str(root)} | ({"OMP_WAIT_POLICY": stated} if stated else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == f"policy {stated or 'PASSIVE'}", done.stderr
