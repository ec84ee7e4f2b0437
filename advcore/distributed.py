"""Several processes that do one run: who does what, and how they stay alike.

Work is cut where it would be cut for one process, into chunks that do not depend on how many processes there are, and
each chunk is done whole by one of them. Where torch.distributed is not set up there is one process, and everything here
does nothing. Otherwise all processes call the same functions in the same order.
"""

import contextlib
import gc
import inspect
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from advcore import errors, signals
from advcore.cost import PHASES, CostLedger
from advcore.device import gpus, use
from advcore.errors import AdvcoreError, ConfigError, UserError, must
from advcore.files import join, pack, split, unpack
from advcore.pieces import ran_out

Item = TypeVar("Item")

LEAST = 2  # examples of a training batch that a process needs: BatchNorm cannot learn from one


def launched() -> bool:
    """Whether torchrun, or another launcher that names processes as it does, started several of us."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def launchers() -> list[str]:
    """Names of the torchruns that started these processes, one a machine: they stay when a job is started again. Empty
    without torchrun. Its count of starts differs between machines, and is none's where a machine was replaced."""
    own = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        own = f"{socket.gethostname()} {os.getppid()} {_since(os.getppid())}"
    return sorted({name for name in gathered(own) if name is not None})


def _since(process: int) -> str:
    """When a process began, as far as the system tells: numbers of processes are used again."""
    try:
        with open(f"/proc/{process}/stat") as facts:
            return facts.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def local_rank() -> int:
    """The number of this process on its machine, as torchrun, Slurm or MPI tell it."""
    names = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
    return int(next((os.environ[name] for name in names if name in os.environ), "0"))


def own_gpu() -> int:
    """The number of this process's GPU: its own on the machine, or 0 where the launcher lets it see one alone."""
    isolated = gpus() == 1 and "CUDA_VISIBLE_DEVICES" in os.environ
    return 0 if isolated else local_rank()


@contextlib.contextmanager
def joined(timeout: timedelta = timedelta(hours=2)) -> Iterator[None]:
    """The processes that a launcher started, as one group; nothing where there is one.

    timeout : how long one waits for the others, who may be solving. One that dies is noticed at once.
    """
    if not launched():
        yield
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        way_out = "start it with torchrun, or unset WORLD_SIZE for one process"
        raise ConfigError(must(missing[0], "set where WORLD_SIZE and RANK are", None, way_out))
    cuda = own_gpu() < gpus()
    if cuda:
        use(own_gpu())
    with _told():
        store, own, count = next(dist.rendezvous("env://", timeout=timeout))
        store = dist.PrefixStore(_attempt(store, own, count, timeout), store)
        backends = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backends, store=store, rank=own, world_size=count, timeout=timeout)
    yield
    gc.collect()  # what averaged gradients holds on to the group
    dist.destroy_process_group()  # not after an error: it would wait for those that are gone


def _attempt(store: dist.Store, own: int, count: int, timeout: timedelta) -> str:
    """A name for this start of the job, that no process of an earlier one has.

    torchrun keeps the store when it starts a job again, with the addresses of dead processes in it, and no count of
    starts that its machines agree on (pytorch#135712). So each process says hello by a number of its own, and the first
    answers until all have answered back.
    """
    number = uuid.uuid4().hex
    if own:
        store.set(f"hello {own}", number)
        name = store.get(f"answer {number}").decode()
        store.set(f"{name} {own}", "here")
        return name
    missing, late = set(range(1, count)), time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > late:
            raise AdvcoreError(f"processes {', '.join(map(str, sorted(missing)))} of {count} did not come")
        for other in [other for other in missing if store.check([f"hello {other}"])]:
            store.set(f"answer {store.get(f'hello {other}').decode()}", number)
        missing = {other for other in missing if not store.check([f"{number} {other}"])}
        time.sleep(0.01)
    return number


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; 0 is the first, which reads and writes files."""
    return dist.get_rank() if size() > 1 else 0


def first() -> bool:
    """Whether this process is the one that reads and writes files."""
    return rank() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What is inside is done by each process alone, and left by all alike: an error, or a signal to stop, that one of
    them meets is raised in all. Nothing inside may wait for another process."""
    if size() == 1:
        yield
        return
    failed = None
    try:
        with signals.alone():
            yield
    except BaseException as error:
        failed = error
    agree(failed)


def agree(failed: BaseException | None = None) -> None:
    """Raise what any process failed with, and Stopped if a signal came to any, in all of them. Cost: one reduction."""
    if size() == 1:
        return
    asked = signals.requested() or 0
    stop, worst = _reduced([asked, int(failed is not None)], dist.ReduceOp.MAX)
    if worst:
        told = gathered(None if failed is None else _said(failed))
        failures = [i for i, one in enumerate(told) if one is not None]
        who = next((i for i in failures if "stopped" not in told[i]), failures[0])  # a stop is saved, an error is not
        own = failed is not None and isinstance(failed, signals.Stopped) == ("stopped" in told[who])
        error = failed if own else _error(told[who], who)
        error.shared = True
        raise error
    if stop:
        raise signals.Stopped(int(stop))


def _said(error: BaseException) -> dict[str, Any]:
    if isinstance(error, signals.Stopped):
        return {"stopped": error.number}
    problems = error.problems if isinstance(error, UserError) else (str(error),)
    return {"kind": type(error).__name__, "problems": list(problems)}


def _error(told: dict[str, Any], who: int) -> BaseException:
    """The error that process `who` told of: of its class if it is one of ours."""
    if "stopped" in told:
        return signals.Stopped(told["stopped"])
    kind = getattr(errors, told["kind"], None)
    if isinstance(kind, type) and issubclass(kind, AdvcoreError):
        return kind(*told["problems"])
    return AdvcoreError(f"process {who} failed: {told['kind']}: {' '.join(told['problems'])}")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What torch raises where another process is gone becomes one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if ran_out(error):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise AdvcoreError(f"another process of the run is gone: {said}") from None


@contextlib.contextmanager
def reducing() -> Iterator[None]:
    """Around a backward pass that averages gradients over processes: as what else waits for them, a loss of one is an
    AdvcoreError."""
    if size() == 1:
        yield
        return
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("peer", "gloo", "nccl", "connection", "timed out", "timeout")):
            with _told():
                raise
        raise


def _channel(tensor: Tensor) -> Tensor:
    """The tensor where the group can send it from."""
    backends = str(dist.get_backend_config())
    if tensor.is_cuda:
        return tensor if "nccl" in backends else tensor.cpu()
    return tensor if "gloo" in backends else tensor.cuda()


def _reduced(numbers: Sequence[float], how: dist.ReduceOp, dtype: torch.dtype = torch.int64) -> list:
    carrier = _channel(torch.tensor(numbers, dtype=dtype))
    with _told():
        dist.all_reduce(carrier, how)
    return carrier.tolist()


def summed(numbers: Sequence[float]) -> list:
    """Each number's sum over the processes; whole ones stay whole."""
    if size() == 1:
        return list(numbers)
    whole = all(isinstance(number, int) for number in numbers)
    return _reduced(numbers, dist.ReduceOp.SUM, torch.int64 if whole else torch.float64)


def everywhere(fact: bool) -> bool:
    """Whether it holds in every process."""
    return fact if size() == 1 else bool(_reduced([int(fact)], dist.ReduceOp.MIN)[0])


def gathered(tree: Any) -> list[Any]:
    """What each process gives, in their order: nested dicts and lists of tensors and plain values."""
    if size() == 1:
        return [tree]
    return [unpack(_content(part)) for part in _parts(_carried(pack(tree)))[0]]


def events(own: Sequence[str]) -> tuple[str, ...]:
    """What fell back in any process."""
    return tuple(event for one in gathered(list(own)) for event in one)


def joint(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each tensor's parts (B_r, ...) of all processes as one (B, ...), on its own device."""
    if size() == 1:
        return tensors
    return tuple(torch.cat(parts).to(own.device) for own, parts in zip(tensors, _parts(*tensors), strict=True))


def _parts(*tensors: Tensor) -> list[list[Tensor]]:
    """Each tensor (B_r, ...) of every process, where all of a process have one length."""
    own = len(tensors[0])
    lengths = [int(n) for n in _all(torch.tensor([own]))]
    padded = [torch.cat([t, t.new_zeros(max(lengths) - own, *t.shape[1:])]) for t in tensors]
    return [[part[:n] for part, n in zip(_all(t), lengths, strict=True)] for t in padded]


def _all(tensor: Tensor) -> list[Tensor]:
    """The tensor of every process, where it has one shape."""
    own = _channel(tensor.contiguous())
    parts = [torch.empty_like(own) for _ in range(size())]
    with _told():
        dist.all_gather(parts, own)
    return parts


def _carried(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _content(carrier: Tensor) -> bytes:
    return bytes(carrier.cpu().numpy())


def by_first(function: Callable[[], Any]) -> Any:
    """`function()` of the first process, in all: nested dicts and lists of tensors (on the CPU in the others) and plain
    values. What it raises is raised in all."""
    if size() == 1:
        return function()
    found = None
    with together():
        found = function() if first() else None
    content = _carried(pack(found) if first() else b"?")
    length = _channel(torch.tensor([len(content)]))
    with _told():
        dist.broadcast(length, 0)
        carrier = _channel(content if first() else content.new_empty(int(length)))
        dist.broadcast(carrier, 0)
    return found if first() else unpack(_content(carrier))


def own(chunks: Sequence[Tensor]) -> list[Tensor]:
    """The chunks that this process does: every size-th."""
    return list(chunks[rank() :: size()])


def in_order(chunks: Sequence[Tensor], results: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The results of all `chunks`, in order, in the first process; none in the others.

    results : of `own(chunks)`, worked out as they are asked for; tensors with one row an example.
    Cost: each process sends what it found to the first, after each round of one chunk a process.
    """
    if size() == 1:
        yield from results
        return
    for start in range(0, len(chunks), size()):
        lengths = [len(chunk) for chunk in chunks[start : start + size()]]
        with together():
            mine = next(results) if rank() < len(lengths) else None
        if not first():
            for part in mine or ():
                with _told():
                    dist.send(_channel(part.contiguous()), 0)
            continue
        yield mine
        for other, n in enumerate(lengths[1:], 1):
            yield tuple(_received(part, n, other) for part in mine)


def combined(chunks: Sequence[Tensor], results: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results of all `chunks`, as `in_order`, joined; in every process, on the CPU in all but the first."""
    parts = list(in_order(chunks, results))
    return tuple(by_first(lambda: [torch.cat(own) for own in zip(*parts, strict=True)]))


def _received(like: Tensor, length: int, other: int) -> Tensor:
    carrier = torch.empty_like(_channel(like[:1])).expand(length, *like.shape[1:]).contiguous()
    with _told():
        dist.recv(carrier, other)
    return carrier.to(like.device)


def dealt(items: Sequence[Item] | None, tree: Callable[[Item], Any], device: torch.device) -> list[Item | Any]:
    """The first process's `items`, every size-th to each process: its own as they are, to the others what `tree` tells
    of them (dicts and lists of tensors and plain values), one by one, tensors on `device`, or on the CPU if they were
    there. The others give None."""
    count = by_first(lambda: len(items))
    if not first():
        return [_receive(0, device) for _ in range(rank(), count, size())]
    for i, item in enumerate(items):
        if i % size():
            _send(tree(item), i % size())
    return list(items[:: size()])


def _send(tree: Any, other: int) -> None:
    """How long the facts are, the facts, then each tensor by itself, from where it is."""
    tensors: list[Tensor] = []
    facts = {"values": split(tree, tensors), "tensors": [[str(t.dtype)[6:], list(t.shape), t.is_cuda] for t in tensors]}
    content = _carried(json.dumps(facts).encode())
    with _told():
        for part in (torch.tensor([len(content)]), content, *tensors):
            dist.send(_channel(part.contiguous()), other)


def _receive(other: int, device: torch.device) -> Any:
    def received(dtype: torch.dtype, shape: Sequence[int], cuda: bool = False) -> Tensor:
        carrier = _channel(torch.empty(tuple(shape), dtype=dtype, device="cuda" if cuda else "cpu"))
        with _told():
            dist.recv(carrier, other)
        return carrier

    length = int(received(torch.int64, [1]))
    facts = json.loads(_content(received(torch.uint8, [length])))
    tensors = [
        received(getattr(torch, name), shape, cuda).to(device if cuda else "cpu")
        for name, shape, cuda in facts["tensors"]
    ]
    return join(facts["values"], {str(i): tensor for i, tensor in enumerate(tensors)})


def divided(n: int) -> bool:
    """Whether the processes share a training batch of n; one that cannot give each of them 2 is done by each whole."""
    return n >= LEAST * size()


def share_sizes(n: int) -> list[int]:
    """How large the processes' parts of a training batch of n are: n / size, or one more; n where it is not divided."""
    if not divided(n):
        return [n] * size()
    return [n // size() + (own < n % size()) for own in range(size())]


def share(batch: Tensor) -> Tensor:
    """This process's part of a training batch (B,)."""
    return batch.split(share_sizes(len(batch)))[rank()] if divided(len(batch)) else batch


def counts_here(batch: Tensor) -> bool:
    """Whether what this process does of a training batch is work that no other does as well."""
    return first() or divided(len(batch))


def total(tensor: Tensor) -> Tensor:
    """Its sum over the processes, on its own device."""
    if size() == 1:
        return tensor
    carrier = _channel(tensor.clone())
    with _told():
        dist.all_reduce(carrier)
    return carrier.to(tensor.device)


def parallel(model: nn.Module) -> nn.Module | None:
    """The model with gradients averaged over the processes; None where there is one process.

    The model itself stays as it is, for attacks and all that reads it. Buffers are not sent before a forward pass:
    TRADES makes two before one backward pass. Buckets are those of the first step for good
    (`find_unused_parameters`): rebuilt ones would sum in another order than a run that is gone on with.
    """
    if size() == 1:
        return None
    from torch.nn.parallel import DistributedDataParallel

    known = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its former name
    return DistributedDataParallel(model, find_unused_parameters=True, **{buffers: False})


def average(tensors: Sequence[Tensor]) -> None:
    """In place, the mean over the processes of floating-point tensors, such as BatchNorm's statistics."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if size() == 1 or not floating:
        return
    flat = total(torch.cat([tensor.detach().flatten().double() for tensor in floating]))
    parts = (flat / size()).split([tensor.numel() for tensor in floating])
    for tensor, part in zip(floating, parts, strict=True):
        tensor.data.copy_(part.view_as(tensor))


def merge(ledger: CostLedger) -> None:
    """What all processes counted goes to the first one's ledger, the others' are at 0; seconds are each one's own."""
    if size() == 1:
        return
    names = [(phase, kind) for phase in PHASES for kind in ("forward", "backward")]
    found = summed([ledger.passes[phase][kind] for phase, kind in names])
    for (phase, kind), count in zip(names, found, strict=True):
        ledger.passes[phase][kind] = count if first() else 0
