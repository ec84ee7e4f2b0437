"""What differs between devices: clocks, memory, random states."""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch

from advcore.errors import ConfigError, must


def read_device(device: torch.device | str) -> torch.device:
    """Return a device that may be given by its name. Raises ConfigError for a name that torch does not know."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(must("device", "cpu, cuda or cuda:N", device)) from None


class Mark(NamedTuple):
    """A moment on the host's clock and, on CUDA, in the device's queue.

    event : recorded in the queue; only `measure_seconds` waits for it. None off CUDA.
    """

    host: float
    event: torch.cuda.Event | None = None


def mark(device: torch.device | None) -> Mark:
    """Mark the present moment in the work of `device`; None means the host."""
    if device is None or device.type != "cuda":
        return Mark(time.perf_counter())
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return Mark(time.perf_counter(), event)


def measure_seconds(start: Mark, end: Mark) -> float:
    """Return the seconds between two marks; waits for the device if both are events."""
    if start.event is None or end.event is None:
        return end.host - start.host
    end.event.synchronize()
    return start.event.elapsed_time(end.event) / 1000


def wait(device: torch.device) -> None:
    """Wait until the device has finished all work in its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the device's allocator on CUDA, else of this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def estimate_rate(device: torch.device) -> float:
    """Return about how many multiplications a device does in a second: a constant, so that no load changes it."""
    if device.type == "cuda":
        return 4e11
    return 4e9


def measure_free_memory(device: torch.device) -> float | None:
    """Return how many bytes are free on `device`; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        return 1024 * int(facts["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def get_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of torch's generators, {"cpu": state}, and "cuda" as well if `device` is one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore what `get_random_state` returned; the state of a kind of device that is not in use is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


_has_cuda = lru_cache(torch.cuda.is_available)


def seed_torch(seed: int) -> None:
    """Seed torch's generators of the CPU and of all CUDA devices.

    Without a CUDA device this is a hundred times as fast as torch.manual_seed, which formats the call stack once for
    each kind of device that is not in use, and keeps it.
    """
    if _has_cuda():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def describe_device(device: torch.device) -> str:
    """Name the device's hardware, for a record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()})"


def get_cuda_version() -> str | None:
    """Return the version of CUDA that torch was built for; None for a build without CUDA."""
    return torch.version.cuda


def count_gpus() -> int:
    """Count the CUDA devices that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def use_gpu(gpu: int) -> None:
    """Make the CUDA device of that number the current one of this process."""
    torch.cuda.set_device(gpu)


def list_generator_devices() -> range:
    """List the CUDA devices that have a random state: all of them once CUDA is initialised, else none."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def release_memory() -> None:
    """Return the CUDA memory that torch's allocator keeps for later use."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def has_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is fast on the device: CUDA devices before Ampere emulate it."""
    return device.type == "cuda" and (
        not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)
    )


def is_faster_pinned(device: torch.device) -> bool:
    """Return whether batches are copied to the device faster from pinned memory."""
    return device.type == "cuda"


def has_graphs(device: torch.device) -> bool:
    """Return whether the device can record work as a graph."""
    return device.type == "cuda"


def capture_graph(work: Callable[[], torch.Tensor], device: torch.device) -> tuple[Callable[[], None], torch.Tensor]:
    """Record the kernels that `work` launches on a CUDA device as one graph.

    Returns a function that launches the graph, and the tensor that each launch writes to. `work` first runs three
    times unrecorded, because what libraries set up at first use must not be recorded. The device's random state is
    restored.
    """
    with torch.cuda.device(device):
        recording_stream = _get_recording_stream(device)
        current_stream = torch.cuda.current_stream(device)
        random_state = torch.cuda.get_rng_state(device)
        recording_stream.wait_stream(current_stream)
        with torch.cuda.stream(recording_stream):
            for _ in range(3):
                work()
        current_stream.wait_stream(recording_stream)
        torch.cuda.set_rng_state(random_state, device)
        graph = torch.cuda.CUDAGraph()
        try:
            # Only calls of this thread are checked: others may pin batches and watch collectives meanwhile.
            with torch.cuda.graph(graph, stream=recording_stream, capture_error_mode="thread_local"):
                output = work()
        finally:
            torch.cuda.set_stream(current_stream)  # a recording that fails leaves its own stream behind
    return graph.replay, output


@lru_cache(maxsize=16)
def _get_recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream for all recordings: libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


def is_faster_batched(tensor: torch.Tensor) -> bool:
    """Return whether many small problems on the tensor's device are solved faster together than one by one."""
    return tensor.is_cuda


@contextlib.contextmanager
def force_float32() -> Iterator[None]:
    """Turn off TF32 and autocast inside, so that float32 products and convolutions are float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with suspend_autocast():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def suspend_autocast() -> Iterator[None]:
    """Turn off autocast inside, and where it was on, its memory of weights.

    It forgets them at its outermost end alone: an autocast within it would read those of before the last step.
    """
    enabled = [kind for kind in ("cuda", "cpu") if torch.is_autocast_enabled(kind)]
    is_remembering = torch.is_autocast_cache_enabled()
    try:
        for kind in enabled:
            torch.set_autocast_enabled(kind, False)
            torch.set_autocast_cache_enabled(False)
        yield
    finally:
        for kind in enabled:
            torch.set_autocast_enabled(kind, True)
        torch.set_autocast_cache_enabled(is_remembering)


def restrict_to_gpu(gpu: int) -> dict[str, str]:
    """Return the environment variables that let a child process see only one of this process's CUDA devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count_gpus())]
    return {"CUDA_VISIBLE_DEVICES": names[gpu]}
