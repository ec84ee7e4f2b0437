"""Share chunks, rows and batches between processes, and collect what each makes of its part."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from advcore.cost import PHASES, CostLedger
from advcore.distributed.failures import fail_together
from advcore.distributed.group import is_first, rank, size
from advcore.distributed.wire import (
    broadcast_bytes,
    carrier_of,
    gather_parts,
    gather_values,
    name_lost_process,
    receive_tree,
    reduce_numbers,
    send_tree,
)
from advcore.files import pack, unpack
from advcore.shares import divide
from advcore.types import Event

Item = TypeVar("Item")
Value = TypeVar("Value")

LEAST = 2  # examples of a training batch that a process needs: BatchNorm cannot train on one

_HALF = 2**40


def sum_numbers(numbers: Sequence[float]) -> list:
    """Sum each number over the processes; integers stay integers."""
    dtype = torch.int64 if all(isinstance(number, int) for number in numbers) else torch.float64
    return reduce_numbers(numbers, dist.ReduceOp.SUM, dtype)


def average_number(number: float) -> float:
    """Return the mean of a number over the processes."""
    return sum_numbers([number])[0] / size()


def is_everywhere(fact: bool) -> bool:
    """Return whether a fact holds in every process."""
    return bool(reduce_numbers([int(fact)], dist.ReduceOp.MIN)[0])


def gather_events(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the events of all processes, in their order; an event of several processes appears once."""
    parts = gather_values([vars(event) for event in events])
    return tuple(dict.fromkeys(map(Event.load, itertools.chain.from_iterable(parts))))


def concatenate(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenate each tensor's parts (B_r, ...) of all processes into one (B, ...), on the part's own device."""
    if size() == 1:
        return tensors
    parts = gather_parts(*tensors)
    return tuple(torch.cat(parts).to(tensor.device) for tensor, parts in zip(tensors, parts, strict=True))


def entry_of_process(entries: Sequence[Item], missing: Item) -> Item:
    """Return this process's entry of what `gather_values` returned, perhaps in an earlier run.

    missing : returned where fewer processes gave theirs.
    """
    return entries[rank()] if rank() < len(entries) else missing


def part_of_sum(parts: Sequence[Tensor | float]) -> Tensor | float:
    """Return this process's part of a sum whose parts an earlier run's processes gave.

    Where there were not as many of them, all of it is the first one's part.
    """
    if len(parts) == size():
        return parts[rank()]
    return sum(parts) if is_first() else 0.0


def run_on_first(function: Callable[[], Value]) -> Value:
    """Call `function()` in the first process, and return its result in all.

    The result holds nested dicts and lists of tensors and plain values; tensors are on the CPU in the other processes.
    What the function raises is raised in all.
    """
    if size() == 1:
        return function()
    results: list[Value] = []
    with fail_together():
        if is_first():
            results.append(function())
    if is_first():
        broadcast_bytes(pack(results[0]))
        return results[0]
    return cast(Value, unpack(broadcast_bytes(None)))


def chunks_of_process(chunks: Sequence[Tensor]) -> list[Tensor]:
    """Return the chunks that this process does: every size-th."""
    return list(chunks[rank() :: size()])


def gather_in_order(chunks: Sequence[Tensor], results: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """Yield the results of all chunks, in order, in the first process; nothing in the others.

    Parameters
    ----------
    results : those of `chunks_of_process(chunks)`, computed as they are asked for: nested dicts and lists of tensors
        and plain values.
    device : where tensors go that other processes computed on a GPU.

    Cost: each process sends its result to the first, after each round of one chunk per process.
    """
    if size() == 1:
        yield from results
        return
    for start in range(0, len(chunks), size()):
        busy = min(size(), len(chunks) - start)
        result = []
        with fail_together():
            if rank() < busy:
                result.append(next(results))
        if not is_first():
            for item in result:
                send_tree(item, 0)
            continue
        yield from result
        for other in range(1, busy):
            yield cast(Item, receive_tree(other, device))


def gather_combined(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the parts that the first process has, concatenated tensor by tensor, in every process.

    They are on the CPU in all processes but the first.
    """
    parts = list(parts)
    return tuple(run_on_first(lambda: [torch.cat(columns) for columns in zip(*parts, strict=True)]))


def deal(items: Sequence[Item] | None, describe: Callable[[Item], object], device: torch.device) -> list[Item | object]:
    """Deal the first process's items out, every size-th to each process.

    Parameters
    ----------
    items : those of the first process; the others give None.
    describe : turns an item into nested dicts and lists of tensors and plain values, which is what others receive, one
        by one. The first process keeps its own items as they are.
    device : where received tensors go, unless they were on the CPU.
    """
    count = run_on_first(lambda: len(items or ()))
    if not is_first() or items is None:
        return [receive_tree(0, device) for _ in range(rank(), count, size())]
    for i, item in enumerate(items):
        if i % size():
            send_tree(describe(item), i % size())
    return list(items[:: size()])


def measure_largest_share(amounts: Sequence[float]) -> float:
    """Return the largest sum that falls to a process of amounts that are dealt out as `deal` does."""
    return max(sum(amounts[process :: size()]) for process in range(size()))


def is_divided(n: int) -> bool:
    """Return whether the processes share a training batch of n.

    A batch that cannot give each process 2 examples is done as a whole by each.
    """
    return n >= LEAST * size()


def share_sizes(n: int) -> list[int]:
    """Return the sizes of the processes' parts of a training batch of n: n / size, or one more; n if not divided."""
    if not is_divided(n):
        return [n] * size()
    return [n // size() + (process < n % size()) for process in range(size())]


def share_of_batch(batch: Tensor) -> Tensor:
    """Return this process's part of a training batch (B,)."""
    if not is_divided(len(batch)):
        return batch
    return batch.split(share_sizes(len(batch)))[rank()]


def share_of_count(count: int) -> float:
    """Return how much of a count falls to each process on average."""
    return count / size()


def weigh_mean(part: float, total: float) -> float:
    """Return a factor for this process's mean; with it, the mean over the processes is the mean over all.

    part : what the process's mean is taken over, a count or a sum of weights. total : the same of all processes.
    """
    return divide(size() * part, total)


def counts_here(batch: Tensor) -> bool:
    """Return whether no other process does the same work on a training batch as well."""
    return is_first() or is_divided(len(batch))


@name_lost_process()
def sum_tensor(tensor: Tensor) -> Tensor:
    """Return the tensor's sum over the processes, on its own device."""
    if size() == 1:
        return tensor
    carrier = carrier_of(tensor.clone())
    dist.all_reduce(carrier)
    return carrier.to(tensor.device)


def average_gradients_of(model: nn.Module) -> nn.Module | None:
    """Wrap the model so that its gradients are averaged over the processes; return None where there is one process.

    The model itself stays as it is, for attacks and all that reads it. Buffers are not sent before a forward pass:
    TRADES makes two before one backward pass. Buckets stay those of the first step (`find_unused_parameters`): rebuilt
    ones would sum in another order than a run that continues.
    """
    if size() == 1:
        return None
    wrap: Callable[..., nn.Module] = nn.parallel.DistributedDataParallel
    parameters = inspect.signature(wrap).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"  # its former name
    return wrap(model, find_unused_parameters=True, **{buffers: False})


def average(tensors: Sequence[Tensor]) -> None:
    """Replace floating-point tensors, such as BatchNorm's statistics, by their mean over the processes, in place."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if size() == 1 or not floating:
        return
    flat = sum_tensor(torch.cat([tensor.detach().flatten().double() for tensor in floating]))
    parts = (flat / size()).split([tensor.numel() for tensor in floating])
    for tensor, part in zip(floating, parts, strict=True):
        tensor.data.copy_(part.view_as(tensor))


def merge_ledgers(ledger: CostLedger) -> None:
    """Move the passes and operations that all processes counted into the first one's ledger.

    Seconds stay each process's own.
    """
    names = [(phase, kind) for phase in PHASES for kind in ("forward", "backward")]
    totals = sum_numbers([ledger.passes[phase][kind] for phase, kind in names])
    for (phase, kind), count in zip(names, totals, strict=True):
        ledger.passes[phase][kind] = count if is_first() else 0
    # In two parts, since the sum of a large run has more than 63 bits.
    high = sum_numbers([ledger.flops[phase] // _HALF for phase in PHASES])
    low = sum_numbers([ledger.flops[phase] % _HALF for phase in PHASES])
    for i, phase in enumerate(PHASES):
        ledger.flops[phase] = high[i] * _HALF + low[i] if is_first() else 0
