"""What differs between devices: clocks, memory, random states."""

import time
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
