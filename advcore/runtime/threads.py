"""How many threads this process may use, and how they wait for each other. Never imports torch.

Torch's OpenMP threads meet at a barrier after every operation. By default a thread that waits there spins, which is
fastest while every thread has a core to itself, and tens of times slower as soon as another process needs one of the
cores: the others spin for a thread that is not scheduled. `prepare_environment` therefore lets a waiting thread spin
for some 50 microseconds, about as long as it takes to wake one, and then sleep. It must run before torch is imported,
since OpenMP reads its environment once.
"""

import math
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

COUNT = "OMP_NUM_THREADS"
WAITING = "OMP_WAIT_POLICY"
SPIN_COUNT = "GOMP_SPINCOUNT"
SPINS = 2000
"""How often a waiting thread of GNU OpenMP looks again before it sleeps; other OpenMP libraries sleep at once."""
_WAITING_SETTINGS = (WAITING, SPIN_COUNT, "KMP_BLOCKTIME")
_FILES_V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


@dataclass(frozen=True, kw_only=True)
class CoreLimit:
    """How many cores this process may use.

    Parameters
    ----------
    count : whole cores, at least 1: the smaller of the affinity and the quota, rounded down.
    affinity : cores that the process may be scheduled on.
    host : cores that the host shows.
    quota : cores' worth of time that the control group grants, possibly a fraction; None without a limit.
    """

    count: int
    affinity: int
    host: int
    quota: float | None = None

    @property
    def reason(self) -> str:
        """What decided the count, in a few words."""
        if self.quota is not None and self.quota < self.affinity:
            return f"the control group's quota of {_format_cores(self.quota)}"
        if self.affinity < self.host:
            return f"the CPU affinity, {self.affinity} of {_format_cores(self.host)}"
        return f"the host's {_format_cores(self.host)}"


def _format_cores(count: float) -> str:
    return f"{count:g} core" if count == 1 else f"{count:g} cores"


def measure_core_limit(system: Path = Path("/")) -> CoreLimit:
    """Measure how many cores this process may use, by its CPU affinity and the quota of its control groups.

    `system` is where `proc` and `sys` are found. Reads a few small files; a file that is missing sets no limit.
    """
    host = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else host  # macOS has none
    quota = _read_smallest_quota(system)
    count = affinity if quota is None else min(affinity, max(1, math.floor(quota)))
    return CoreLimit(count=count, affinity=affinity, host=host, quota=quota)


def _read_smallest_quota(system: Path) -> float | None:
    """Return the smallest quota, in cores, of the process's control group and of the groups above it."""
    quotas = []
    for line in _read_text(system / "proc/self/cgroup").splitlines():
        _, _, entry = line.partition(":")
        controllers, _, group = entry.partition(":")
        if not controllers:
            quotas += _list_quotas(system / "sys/fs/cgroup", group, ("cpu.max",))
        elif "cpu" in controllers.split(","):
            for folder in (controllers, "cpu"):
                quotas += _list_quotas(system / "sys/fs/cgroup" / folder, group, _FILES_V1)
    return min(quotas, default=None)


def _list_quotas(root: Path, group: str, files: tuple[str, ...]) -> list[float]:
    """List the quotas of `group`, a path below `root`, and of every group above it."""
    names = [name for name in group.split("/") if name not in ("", ".", "..")]
    folders = [root.joinpath(*names[:depth]) for depth in range(len(names) + 1)]
    return [quota for folder in folders if (quota := _read_quota(folder, files)) is not None]


def _read_quota(folder: Path, files: tuple[str, ...]) -> float | None:
    """Divide the quota by the period, which `files` hold; None where there is no limit ("max", -1, or no file)."""
    limits = " ".join(_read_text(folder / name) for name in files).split()
    if len(limits) != 2 or not all(text.isdigit() and int(text) for text in limits):
        return None
    return int(limits[0]) / int(limits[1])


def _read_text(path: Path) -> str:
    """Return a file's text, "" for a file that is missing or cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def prepare_environment(environment: MutableMapping[str, str] = os.environ, limit: CoreLimit | None = None) -> None:
    """Set what OpenMP reads when torch is imported, unless the user has set it.

    Waiting threads sleep after a short while. A quota below the CPU affinity limits their number; torch follows the
    affinity alone.
    """
    if not any(name in environment for name in _WAITING_SETTINGS):
        environment.update({WAITING: "PASSIVE", SPIN_COUNT: str(SPINS)})  # GNU OpenMP goes by the second
    limit = limit or measure_core_limit()
    if COUNT not in environment and limit.count < limit.affinity:
        environment[COUNT] = str(limit.count)


def read_stated_threads() -> int | None:
    """Return the number of threads that OMP_NUM_THREADS states, the first where it lists several; None without one."""
    stated = os.environ.get(COUNT, "").split(",")[0].strip()
    return int(stated) if stated.isdigit() and int(stated) else None


def count_threads_per_process(processes: int) -> int:
    """Return how many threads each of `processes` side by side should use: an equal share, at least 1."""
    available = read_stated_threads() or measure_core_limit().count
    return max(1, available // processes)


def build_thread_environment(processes: int) -> dict[str, str]:
    """Return the variables that give each of `processes` side by side its share of the threads; {} for one alone."""
    if processes == 1:
        return {}
    return dict.fromkeys((COUNT, "MKL_NUM_THREADS"), str(count_threads_per_process(processes)))


def describe_threads(count: int) -> dict[str, str | int]:
    """Describe for a record how many threads there are, what decided that, and how they wait.

    count : torch's number of threads. Where it is neither OMP_NUM_THREADS nor this process's limit, torch chose it, or
        the program did.

    Returns {"threads": count, "threads_from": reason, "waiting": variables of the environment, as text}.
    """
    limit = measure_core_limit()
    if count == read_stated_threads():
        reason = limit.reason if count == limit.count < limit.affinity else COUNT
    elif count == limit.count:
        reason = limit.reason
    else:
        reason = "torch's own choice, or the program's"
    waiting = [f"{name}={os.environ[name]}" for name in _WAITING_SETTINGS if name in os.environ]
    return {"threads": count, "threads_from": reason, "waiting": ", ".join(waiting) or "OpenMP's default"}


def measure_load() -> float | None:
    """Return the host's load over the last minute, in processes that want to run; None where it is not known."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def describe_overload(load: float | None, host: int | None = None) -> str | None:
    """Return a warning where the load is higher than the host's cores, else None."""
    host = host or os.cpu_count() or 1
    if load is None or load <= host:
        return None
    return (
        f"the load average is {load:g} on {_format_cores(host)}: other processes compete for them, "
        "so times cannot be compared with those of a quiet machine"
    )
