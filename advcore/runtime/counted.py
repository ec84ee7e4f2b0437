"""A model whose passes are counted where it is called."""

import contextlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from advcore.runtime.cuda_graphs import replay
from advcore.runtime.flops import NO_COST, PassCost, find_cost, find_gradient_costs
from advcore.runtime.precision import get_speed, run_model
from advcore.runtime.signals import check


@dataclass(frozen=True)
class CountedModel:
    """A model that counts its passes; a backward pass is one whose gradient reaches the logits.

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

    def differentiate(self, loss: Callable[[Tensor], Tensor], x: Tensor, *, in_graph: bool) -> Tensor:
        """Return the gradient (B, ...) of the losses `loss(logits)` (B,) at x, and at nothing else.

        in_graph : keep it in the graph of the parameters, for a loss that is computed from it; else it is a constant.

        Counted are a forward and a backward pass to the images, and, where a loss is led back through the gradient, a
        double backward pass, which counts as two. Attention is computed as matrix products for such a loss: fused
        kernels are differentiated once alone.
        """
        check()
        x = x.detach().requires_grad_(True)
        to_images, double = find_gradient_costs(self.model, x)
        kernels = sdpa_kernel(SDPBackend.MATH) if in_graph else contextlib.nullcontext()
        with torch.enable_grad(), kernels:
            losses = loss(run_model(self.model, x))
            self.count("forward", len(x), to_images)
            (gradient,) = torch.autograd.grad(
                losses.sum(), x, create_graph=in_graph, allow_unused=True, materialize_grads=True
            )
        self.count("backward", len(x), to_images)
        if gradient.requires_grad:
            gradient.register_hook(partial(self._count_double, len(x), double))
        return gradient

    def _count_double(self, examples: int, cost: PassCost, gradient: Tensor) -> None:
        self.count("backward", examples, cost)
        self.count("backward", examples, NO_COST)

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
