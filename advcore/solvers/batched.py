"""Many pursuits as one batch of tensors: what a GPU needs, where a class of its own is too small to fill it.

The same mathematics as `pursuit.pursue` over a Gram matrix, with a leading dimension of problems. One step lets a
row leave wherever one must, or else a row join everywhere; problems that are done stand still.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from advcore.device import full_float32
from advcore.signals import check
from advcore.solvers.pursuit import LEAST, PIVOT, REFRESH, Pursuit

_STOPPED = ("budget", "tolerance", "no row correlates with the residual", "rounding")


def pursue_together(
    grams: Sequence[Tensor],
    *,
    correlations: Sequence[np.ndarray],
    norms: Sequence[float],
    ks: Sequence[int],
    ridges: Sequence[float],
    closed: Sequence[np.ndarray],
    nonnegative: bool = True,
    tolerance: float = 0.0,
) -> list[Pursuit]:
    """`pursue` for each problem; all on the device of the Gram matrices.

    Cost a few dozen kernels a step, as many steps as the largest k and the rows that leave; memory
    P N (N + k) x 4 + P k^2 x 8 bytes for P problems of at most N rows, beside the matrices given.
    """
    with full_float32():
        batch = _Batch(grams, correlations, norms, ks, ridges, closed, nonnegative, tolerance)
        for step in range(1, 10 * batch.n + 10 * batch.k):
            check()
            if batch.must_leave():
                batch.leave()
                continue
            batch.apply(exact=step % REFRESH == 0)
            if batch.must_leave():
                continue
            batch.note()
            if not bool(batch.running.any()):
                break
            batch.join()
        else:
            batch.stopped[batch.running] = 3
    return batch.answers()


class _Batch:
    """State of P problems: (P, ...) tensors, padded to the largest; slots as in `ActiveSet`."""

    def __init__(self, grams, correlations, norms, ks, ridges, closed, nonnegative, tolerance):
        device, precise = grams[0].device, grams[0].dtype == torch.float64
        p, self.n, self.k = len(grams), max(map(len, grams)), max(ks)
        self.nonnegative, self.tolerance = nonnegative, tolerance

        def numbers(values, dtype=torch.float64):
            return torch.tensor(values, dtype=dtype, device=device)

        def padded(arrays, dtype):
            out = torch.zeros(p, self.n, dtype=dtype, device=device)
            for row, array in zip(out, arrays, strict=True):
                row[: len(array)] = torch.as_tensor(array, device=device)
            return out

        self.each = torch.arange(p, device=device)
        self.gram = torch.zeros(p, self.n, self.n, dtype=grams[0].dtype, device=device)
        for whole, own in zip(self.gram, grams, strict=True):
            whole[: len(own), : len(own)] = own
        self.diagonal = self.gram.diagonal(dim1=1, dim2=2).double()
        self.correlation = padded(correlations, torch.float64)
        self.norm, self.ks, self.ridge = numbers(norms), numbers(ks, torch.long), numbers(ridges)
        self.open = padded([~np.asarray(one) for one in closed], torch.bool)
        self.least = LEAST[precise] * self.norm[:, None] * self.diagonal.clamp_min(0).sqrt()
        self.dependent = PIVOT[precise]

        self.used = torch.zeros(p, self.k, self.n, dtype=self.gram.dtype, device=device)
        self.inverse = torch.zeros(p, self.k, self.k, dtype=torch.float64, device=device)
        self.members = torch.zeros(p, self.k, dtype=torch.long, device=device)
        self.live = torch.zeros(p, self.k, dtype=torch.bool, device=device)
        self.since = torch.zeros(p, self.k, dtype=torch.long, device=device)
        self.weights, self.wanted, self.applied = (torch.zeros(p, self.k).double().to(device) for _ in range(3))
        self.left = self.correlation.clone()
        self.running = torch.ones(p, dtype=torch.bool, device=device)
        self.stopped = torch.zeros(p, dtype=torch.long, device=device)
        self.newest = torch.full((p,), -1, dtype=torch.long, device=device)
        self.path: list[tuple[Tensor, Tensor]] = []
        self.high, self.steps = 0, 0

    def must_leave(self) -> bool:
        """Whether a refit turns a weight negative somewhere."""
        return self.nonnegative and bool((self.live & (self.wanted <= 0)).any())

    def leave(self) -> None:
        """Where a weight would turn negative: walk to the first that reaches 0, and let its row leave."""
        falling = self.live & (self.wanted <= 0)
        here = falling.any(1)
        drop = self.weights - self.wanted
        strides = torch.where(falling, torch.where(drop > 0, self.weights / drop, 0.0), torch.inf)
        stride, slot = strides.min(1)
        walked = (self.weights + stride.clamp(max=1)[:, None] * (self.wanted - self.weights)).clamp_min(0)
        self.weights = torch.where(here[:, None], walked, self.weights)

        own = self.inverse[self.each, :, slot]
        squared = own.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
        norm, pivot = squared.sqrt(), own[self.each, slot]
        sign = torch.where(pivot >= 0, 1.0, -1.0).double()
        mirror = own.clone()
        mirror[self.each, slot] += sign * norm
        mirror *= here[:, None]
        along = (mirror[:, None] @ self.inverse)[:, 0] / (squared + pivot.abs() * norm)[:, None]
        self.inverse -= mirror[:, :, None] * along[:, None, :]
        column = -(sign * norm)[:, None] * self.inverse[self.each, slot]
        change = (self.wanted[self.each, slot] / squared)[:, None] * column
        self.wanted -= torch.where(here[:, None], change, 0.0)

        p, slot = self.each[here], slot[here]
        gone = self.members[p, slot]
        self.open[p, gone] = gone != self.newest[p]
        self.inverse[p, slot] = 0
        self.inverse[p, :, slot] = 0
        self.live[p, slot] = False
        self.weights[p, slot], self.wanted[p, slot] = 0, 0

    def apply(self, *, exact: bool) -> None:
        """The refitted weights count, and the residual's correlations. `exact`: sum those anew, correct the weights."""
        self.weights = self.wanted.clone()
        if exact:
            self.left = self.correlation - (self.weights[:, None] @ self.used.double())[:, 0]
            rest = (self.left.gather(1, self.members) - self.ridge[:, None] * self.weights) * self.live
            self.wanted += (self.inverse.mT @ (self.inverse @ rest[:, :, None]))[:, :, 0] * self.running[:, None]
            self.applied = self.weights.clone()
            if self.must_leave():
                return
            self.weights = self.wanted.clone()
        change = (self.weights - self.applied)[:, : self.high].to(self.used.dtype)
        self.left -= (change[:, None] @ self.used[:, : self.high])[:, 0]
        self.applied = self.weights.clone()

    def note(self) -> None:
        """The residual after the last pick, and who is done."""
        explained = self.weights * (self.correlation + self.left).gather(1, self.members)
        squared = self.norm**2 - explained.sum(1)
        residual = squared.clamp_min(0).sqrt() / self.norm.clamp_min(torch.finfo(torch.float64).tiny)
        if self.steps:
            self.path.append((residual, self.running & (self.newest >= 0)))
        full = self.live.sum(1) >= self.ks
        close = (residual <= self.tolerance) & self.live.any(1)
        self.score = self.left if self.nonnegative else self.left.abs()
        self.score = torch.where(self.open & (self.score > self.least), self.score, -torch.inf)
        dry = self.score.amax(1) == -torch.inf
        why = torch.where(full, 0, torch.where(close, 1, 2))
        ends = self.running & (full | close | dry)
        self.stopped = torch.where(ends, why, self.stopped)
        self.running = self.running & ~ends

    def join(self) -> None:
        """The row that correlates most joins, in every problem that runs."""
        self.steps += 1
        j = self.score.argmax(1)
        self.open[self.each, j] &= ~self.running
        slot = (~self.live).to(torch.uint8).argmax(1)
        row = self.gram[self.each, j]
        column = row.gather(1, self.members).double() * self.live
        z = (self.inverse @ column[:, :, None])[:, :, 0]
        diagonal = self.diagonal[self.each, j] + self.ridge
        pivot = diagonal - z.square().sum(1)
        joins = self.running & (pivot > self.dependent * diagonal)
        towards = (z[:, None] @ self.inverse)[:, 0]
        root = pivot.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        step = self.left[self.each, j] / pivot
        self.wanted -= torch.where(joins[:, None], step[:, None] * towards, 0.0)

        p, slot = self.each[joins], slot[joins]
        self.inverse[p, slot] = -towards[joins] / root[joins, None]
        self.inverse[p, slot, slot] = 1 / root[joins]
        self.wanted[p, slot], self.members[p, slot] = step[joins], j[joins]
        self.used[p, slot], self.live[p, slot] = row[joins], True
        self.since[p, slot] = self.steps
        self.newest = torch.where(joins, j, -1)
        self.high = min(self.k, self.high + 1)

    def answers(self) -> list[Pursuit]:
        residuals = torch.stack([one for one, _ in self.path], 1).cpu() if self.path else torch.zeros(len(self.each), 0)
        counts = torch.stack([one for _, one in self.path], 1).cpu() if self.path else residuals.bool()
        out = []
        for i, (stopped, live, since) in enumerate(
            zip(self.stopped.tolist(), self.live.cpu(), self.since.cpu(), strict=True)
        ):
            slots = live.nonzero()[:, 0]
            slots = slots[since[slots].argsort()]
            members, weights = self.members[i].cpu()[slots], self.weights[i].cpu()[slots]
            path = residuals[i][counts[i]].tolist()
            out.append(Pursuit(members.tolist(), weights.numpy(), path, _STOPPED[stopped]))
        return out
