"""What training records of each example it sees, for rules that choose by it what to attack again."""

import torch
from torch import Tensor

from advcore import distributed
from advcore.minibatch.base import LastVisit
from advcore.shares import divide
from advcore.training.progress import Entry, Snapshot

_STORED = ("losses", "changes", "ages", "visits", "attacked", "age_sum")


class VisitHistory:
    """The last visit of each of N examples (`LastVisit`), and sums over the visits of the present epoch.

    It is read only for examples whose perturbation is remembered, so it is forgotten where that is. All processes hold
    the same one. visits, attacked, age_sum : () long, of this epoch: images trained on, how many of them were attacked,
    and the sum of their perturbations' ages.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.device = device
        self.losses = torch.zeros(size, device=device)
        self.changes = torch.zeros(size, device=device)
        self.ages = torch.zeros(size, dtype=torch.long, device=device)
        self.begin()

    def begin(self) -> None:
        """Begin an epoch: its sums are 0."""
        self.visits = torch.zeros((), dtype=torch.long, device=self.device)
        self.attacked = torch.zeros_like(self.visits)
        self.age_sum = torch.zeros_like(self.visits)

    def read(self, indices: Tensor) -> LastVisit:
        """Return the last visit of the examples `indices` (B,)."""
        return LastVisit(self.losses[indices], self.changes[indices], self.ages[indices])

    def keep(
        self, indices: Tensor, losses: Tensor, *, is_attacked: Tensor, is_first: Tensor, is_divided: bool = False
    ) -> None:
        """Record a visit of the examples `indices` (B,).

        losses : (B,) cross-entropy at the images trained on. is_attacked : (B,) bool, whether these were attacked at
        this visit. is_first : (B,) bool, whether nothing was remembered of the examples. is_divided : whether the other
        processes give theirs as well, as parts of one batch.
        """
        before = self.losses[indices].masked_fill(is_first, 0)
        losses = losses.to(before)
        ages = (self.ages[indices] + 1).masked_fill(is_attacked, 0)
        columns: tuple[Tensor, ...] = (indices, losses, losses - before, ages)
        if is_divided:
            columns = distributed.concatenate(*columns)
        indices, self.losses[indices], self.changes[indices], self.ages[indices] = columns
        self.visits += len(indices)
        self.attacked += (columns[-1] == 0).sum()
        self.age_sum += columns[-1].sum()

    def summarize(self) -> Entry:
        """Return the epoch's share of visits with an attack, and the mean age of the perturbations trained on."""
        visits = int(self.visits)
        return {"attacked": divide(int(self.attacked), visits), "age": divide(int(self.age_sum), visits)}

    def state(self) -> Snapshot:
        """Return all of it, for a checkpoint."""
        return {name: getattr(self, name) for name in _STORED}

    def restore(self, state: Snapshot) -> None:
        """Put back what `state` returned."""
        for name in _STORED:
            setattr(self, name, state[name].to(self.device))
