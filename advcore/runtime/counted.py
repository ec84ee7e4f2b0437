"""A model whose passes are counted where it is called."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from advcore.runtime.cuda_graphs import replay
from advcore.runtime.flops import PassCost, find_cost
from advcore.runtime.precision import get_speed, run_model
from advcore.runtime.signals import check


@dataclass(frozen=True)
class CountedModel:
    """A model that tells how many passes it does; a backward pass is one whose gradient reaches the logits.

    Parameters
    ----------
    model : gives logits (B, C); called on a copy of x, by the active `Speed`.
    count : called with "forward" or "backward", the number of examples and what the pass costs, whenever one happens.
    """

    model: nn.Module
    count: Callable[[str, int, PassCost], None]

    def __call__(self, x: Tensor) -> Tensor:
        check()
        cost = find_cost(self.model, x)
        logits = run_model(self.model, x)
        self.count("forward", len(x), cost)
        if logits.requires_grad:
            logits.register_hook(partial(self._count_backward, len(x), cost))
        return logits

    def _count_backward(self, examples: int, cost: PassCost, gradient: Tensor) -> None:
        self.count("backward", examples, cost)

    def replay_or_run(
        self, key: Hashable, work: Callable[..., Tensor], inputs: Sequence[Tensor], passes: tuple[int, int]
    ) -> Tensor:
        """Return `work(forward, *inputs)`, by its CUDA graph where there is one (`advcore.runtime.cuda_graphs.replay`).

        passes : forward and backward passes of each of the first input's examples, which a graph counts as.
        """
        check()
        output = replay(self.model, (key, get_speed()), partial(work, partial(run_model, self.model)), inputs)
        if output is None:
            return work(self, *inputs)
        cost = find_cost(self.model, inputs[0].detach().requires_grad_(True))
        for kind, count in zip(("forward", "backward"), passes, strict=True):
            self.count(kind, count * len(inputs[0]), cost)
        return output
