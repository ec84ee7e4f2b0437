"""Several processes that do one run: who does what, and how they stay alike.

Work is cut where it would be cut for one process, into chunks that do not depend on how many processes there are, and
each chunk is done as a whole by one of them. Where torch.distributed is not set up there is one process, and everything
here does nothing. Otherwise all processes call the same functions in the same order.
"""

from advcore.distributed.exchange import (
    LEAST,
    average,
    average_gradients_of,
    chunks_of_process,
    concatenate,
    counts_here,
    deal,
    gather_combined,
    gather_events,
    gather_in_order,
    is_divided,
    is_everywhere,
    merge_ledgers,
    run_on_first,
    share_of_batch,
    share_sizes,
    sum_numbers,
    sum_tensor,
)
from advcore.distributed.failures import fail_together, name_loss_in_backward, raise_in_all
from advcore.distributed.group import is_first, rank, size
from advcore.distributed.launch import gpu_of_process, is_launched, join_group, local_rank, name_launchers
from advcore.distributed.wire import gather_values

__all__ = [
    "LEAST",
    "average",
    "average_gradients_of",
    "chunks_of_process",
    "concatenate",
    "counts_here",
    "deal",
    "fail_together",
    "gather_combined",
    "gather_events",
    "gather_in_order",
    "gather_values",
    "gpu_of_process",
    "is_divided",
    "is_everywhere",
    "is_first",
    "is_launched",
    "join_group",
    "local_rank",
    "merge_ledgers",
    "name_launchers",
    "name_loss_in_backward",
    "raise_in_all",
    "rank",
    "run_on_first",
    "share_of_batch",
    "share_sizes",
    "size",
    "sum_numbers",
    "sum_tensor",
]

launched, launchers, own_gpu, joined, together, agree = (
    is_launched,
    name_launchers,
    gpu_of_process,
    join_group,
    fail_together,
    raise_in_all,
)
reducing, summed, everywhere, gathered, events, joint = (
    name_loss_in_backward,
    sum_numbers,
    is_everywhere,
    gather_values,
    gather_events,
    concatenate,
)
by_first, own, in_order, combined, dealt, divided = (
    run_on_first,
    chunks_of_process,
    gather_in_order,
    gather_combined,
    deal,
    is_divided,
)
share, total, parallel, merge, first = share_of_batch, sum_tensor, average_gradients_of, merge_ledgers, is_first
