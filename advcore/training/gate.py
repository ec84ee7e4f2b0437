"""Keep optimiser steps out whose loss or gradient is not finite, on the device itself."""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor

from advcore.errors import NonFiniteError

NOT_APPLIED = "nothing was applied"


class FusedOptimizer(Protocol):
    """What a fused step of torch reads besides its settings; torch's types leave it out."""

    grad_scale: Tensor | None
    found_inf: Tensor | None


class Gate:
    """Skips optimiser steps on the device from the first one on that is not finite, without waiting for the device.

    `look` raises an error for such a step. For optimisers with a fused step.
    """

    OFTEN = 256  # steps after which the gate looks without being asked

    def __init__(self, device: torch.device) -> None:
        self._shut = torch.zeros((), device=device)
        self._first = torch.zeros((), dtype=torch.long, device=device)
        self._places: list[Callable[[], str]] = []

    def step(self, optimizer: torch.optim.Optimizer, finite: Tensor, where: Callable[[], str]) -> None:
        """Call `optimizer.step()`, which does nothing unless this step and all before it were `finite`.

        finite : a bool on the device. where : describes the step, for the error.
        """
        self._first = torch.where(self._shut > 0, self._first, len(self._places))
        self._shut = torch.maximum(self._shut, (~finite).to(self._shut))
        self._places.append(where)
        # A fused step reads these two, which torch.amp.GradScaler sets in the same way.
        fused = cast(FusedOptimizer, optimizer)
        fused.grad_scale = None
        fused.found_inf = self._shut
        optimizer.step()
        if len(self._places) >= self.OFTEN:
            self.look()

    def look(self) -> None:
        """Raise NonFiniteError if a step was not finite; waits for the device."""
        if self._places and bool(self._shut):
            describe_step = self._places[int(self._first)]
            raise NonFiniteError(f"loss or gradient is NaN or infinite at {describe_step()}; {NOT_APPLIED}")
        self._places.clear()
