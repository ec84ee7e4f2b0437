"""What differs between devices: clocks, memory, random states."""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch


class Mark(NamedTuple):
    """A moment: on the host's clock, and as an event in a CUDA device's queue, which is waited for once it is read."""

    host: float
    event: Any = None


def mark(device: torch.device | None) -> Mark:
    """Now, in what `device` is doing."""
    if device is None or device.type != "cuda":
        return Mark(time.perf_counter())
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return Mark(time.perf_counter(), event)


def between(start: Mark, end: Mark) -> float:
    """Seconds; waits for the device if both are events."""
    if start.event is None or end.event is None:
        return end.host - start.host
    end.event.synchronize()
    return start.event.elapsed_time(end.event) / 1000


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak allocation on CUDA, this process's peak resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew; it cannot off CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_memory(device: torch.device) -> float | None:
    """Bytes that are free on `device`; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        return 1024 * int(facts["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Of torch's generators on the host and on `device`."""
    own = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **own}


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """What `random_state` gave; one of another kind of device is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@lru_cache(maxsize=1)
def _has_cuda() -> bool:
    return torch.cuda.is_available()


def seed_torch(seed: int) -> None:
    """Seed torch's generators of the CPU and of all CUDA devices.

    Without a CUDA device this is a hundred times as fast as torch.manual_seed, which formats the call stack once for
    each kind of device that is not in use, and keeps it.
    """
    if _has_cuda():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def name(device: torch.device) -> str:
    """For a record."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def cuda_version() -> str | None:
    """Of the CUDA that torch was built for."""
    return torch.version.cuda


def gpus() -> int:
    """How many CUDA devices torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def use(gpu: int) -> None:
    """Let that CUDA device be this process's."""
    torch.cuda.set_device(gpu)


def with_generators() -> range:
    """CUDA devices whose random states there are."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def release() -> None:
    """Give back the memory that is held for later."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast there: CUDA devices before Ampere emulate it."""
    if device.type != "cuda":
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def pins(device: torch.device) -> bool:
    """Whether batches get there faster from pinned memory."""
    return device.type == "cuda"


def captures(device: torch.device) -> bool:
    """Whether work there can be recorded as a graph."""
    return device.type == "cuda"


def captured(work: Callable[[], torch.Tensor], device: torch.device) -> tuple[Callable[[], None], torch.Tensor]:
    """What `work` asks of a CUDA device, recorded as one graph: a function that has it done again, and the tensor that
    it then writes to. `work` is done thrice before, since what a library sets up at first use must not be recorded; the
    device's random state stays as it was."""
    with torch.cuda.device(device):
        aside, here, drawn = _aside(device), torch.cuda.current_stream(device), torch.cuda.get_rng_state(device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(3):
                work()
        here.wait_stream(aside)
        torch.cuda.set_rng_state(drawn, device)
        graph = torch.cuda.CUDAGraph()
        try:
            # only this thread's calls: others pin batches and watch over collectives meanwhile, and may
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                output = work()
        finally:
            torch.cuda.set_stream(here)  # a recording that fails leaves its own
    return graph.replay, output


@lru_cache(maxsize=16)
def _aside(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: libraries hold memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


def batches(tensor: torch.Tensor) -> bool:
    """Whether problems are better solved together, in tensor operations, where this lies."""
    return tensor.is_cuda


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 and no autocast: float32 products and convolutions are float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def only(gpu: int) -> dict[str, str]:
    """The environment of a process that is to see one of this process's CUDA devices."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = seen.split(",") if seen else [str(i) for i in range(gpus())]
    return {"CUDA_VISIBLE_DEVICES": known[gpu]}
