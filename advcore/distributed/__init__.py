"""Several processes that share one run: who does what, and how they stay in step.

Work is cut where it would be cut for one process, into chunks that do not depend on how many processes there are, and
each chunk is done as a whole by one of them. Where torch.distributed is not set up there is one process, and everything
here does nothing. Otherwise all processes call the same functions in the same order.
"""

from advcore.deprecation import forward_renamed
from advcore.distributed.exchange import (
    LEAST,
    average,
    average_gradients_of,
    average_number,
    chunks_of_process,
    concatenate,
    counts_here,
    deal,
    entry_of_process,
    gather_combined,
    gather_events,
    gather_in_order,
    is_divided,
    is_everywhere,
    measure_largest_share,
    merge_ledgers,
    part_of_sum,
    run_on_first,
    share_of_batch,
    share_of_count,
    share_sizes,
    sum_numbers,
    sum_tensor,
    weigh_mean,
)
from advcore.distributed.failures import fail_together, is_raised_in_all, name_loss_in_backward, raise_in_all
from advcore.distributed.group import is_first, name_for_process, rank, size
from advcore.distributed.launch import gpu_of_process, is_launched, join_group, local_rank, name_launchers
from advcore.distributed.wire import gather_values

__all__ = [
    "LEAST",
    "average",
    "average_gradients_of",
    "average_number",
    "chunks_of_process",
    "concatenate",
    "counts_here",
    "deal",
    "entry_of_process",
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
    "is_raised_in_all",
    "join_group",
    "local_rank",
    "measure_largest_share",
    "merge_ledgers",
    "name_for_process",
    "name_launchers",
    "name_loss_in_backward",
    "part_of_sum",
    "raise_in_all",
    "rank",
    "run_on_first",
    "share_of_batch",
    "share_of_count",
    "share_sizes",
    "size",
    "sum_numbers",
    "sum_tensor",
    "weigh_mean",
]


__getattr__ = forward_renamed(
    __name__,
    {
        "agree": "advcore.distributed.raise_in_all",
        "by_first": "advcore.distributed.run_on_first",
        "combined": "advcore.distributed.gather_combined",
        "dealt": "advcore.distributed.deal",
        "divided": "advcore.distributed.is_divided",
        "events": "advcore.distributed.gather_events",
        "everywhere": "advcore.distributed.is_everywhere",
        "first": "advcore.distributed.is_first",
        "gathered": "advcore.distributed.gather_values",
        "in_order": "advcore.distributed.gather_in_order",
        "joined": "advcore.distributed.join_group",
        "joint": "advcore.distributed.concatenate",
        "launched": "advcore.distributed.is_launched",
        "launchers": "advcore.distributed.name_launchers",
        "merge": "advcore.distributed.merge_ledgers",
        "own": "advcore.distributed.chunks_of_process",
        "own_gpu": "advcore.distributed.gpu_of_process",
        "parallel": "advcore.distributed.average_gradients_of",
        "reducing": "advcore.distributed.name_loss_in_backward",
        "share": "advcore.distributed.share_of_batch",
        "summed": "advcore.distributed.sum_numbers",
        "together": "advcore.distributed.fail_together",
        "total": "advcore.distributed.sum_tensor",
    },
)
