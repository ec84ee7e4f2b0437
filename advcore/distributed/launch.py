"""Recognise the launcher that started several processes, and join them into a group."""

import contextlib
import gc
import os
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist

from advcore.distributed.wire import gather_values, name_lost_process
from advcore.errors import AdvcoreError, ConfigError, must
from advcore.runtime.device import count_gpus, use_gpu
from advcore.runtime.launcher import get_launched_rank

_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


def is_launched() -> bool:
    """Return whether torchrun, or another launcher that sets the same variables, started several processes."""
    return get_launched_rank() is not None


def name_launchers() -> list[str]:
    """Return names of the torchruns that started these processes, one per machine; empty without torchrun.

    A name stays when its torchrun starts the job again. torchrun's own count of starts would not do: it differs between
    machines, and starts again where a machine was replaced.
    """
    name = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
        name = f"{socket.gethostname()} {launcher} {_start_time(launcher)}"
    return sorted({name for name in gather_values(name) if name is not None})


def _start_time(process: int) -> str:
    """Return when a process began, as far as the system says: numbers of processes are used again."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def local_rank() -> int:
    """Return the number of this process on its machine, as torchrun, Slurm or MPI states it; 0 if none does."""
    return int(next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), 0))


def gpu_of_process() -> int:
    """Return the number of this process's GPU: its local rank, or 0 where the launcher shows it a single GPU."""
    is_isolated = count_gpus() == 1 and "CUDA_VISIBLE_DEVICES" in os.environ
    return 0 if is_isolated else local_rank()


@contextlib.contextmanager
def join_group(timeout: timedelta = timedelta(hours=2)) -> Iterator[None]:
    """Join the processes that a launcher started into one group; do nothing where there is one process.

    timeout : how long a process waits for the others, which may be solving. One that dies is noticed at once.

    Raises ConfigError if the launcher's variables are incomplete, AdvcoreError if a process does not come.
    """
    if not is_launched():
        yield
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            way_out = "start it with torchrun, or unset WORLD_SIZE for one process"
            raise ConfigError(must(name, "set where WORLD_SIZE and RANK are", None, way_out))
    has_gpu = gpu_of_process() < count_gpus()
    if has_gpu:
        use_gpu(gpu_of_process())
    with name_lost_process():
        store, rank, count = next(dist.rendezvous("env://", timeout=timeout))
        store = dist.PrefixStore(agree_on_start(store, rank, count, timeout), store)
        backends = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        dist.init_process_group(backends, store=store, rank=rank, world_size=count, timeout=timeout)
    yield
    gc.collect()  # averaged gradients hold on to the group
    dist.destroy_process_group()  # not after an error: it would wait for processes that are gone


def agree_on_start(store: dist.Store, rank: int, count: int, timeout: timedelta) -> str:
    """Return a name for this start of the job, the same in all processes, that no earlier start had.

    torchrun keeps the store when it starts a job again, with the addresses of dead processes in it, and has no count of
    starts that its machines agree on (pytorch#135712). Each process therefore says hello with a random number, and the
    first process answers each until all have answered back.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"hello {rank}", name)
        start = store.get(f"answer {name}").decode()
        store.set(f"{start} {rank}", "here")
        return start
    missing = set(range(1, count))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise AdvcoreError(f"processes {', '.join(map(str, sorted(missing)))} of {count} did not connect")
        for other in [other for other in missing if store.check([f"hello {other}"])]:
            store.set(f"answer {store.get(f'hello {other}').decode()}", name)
        missing = {other for other in missing if not store.check([f"{name} {other}"])}
        time.sleep(0.01)
    return name
