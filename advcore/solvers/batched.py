"""Several pursuits as one batch of tensors: for a GPU, which the pursuit of a single class is too small to fill.

The mathematics is that of `pursuit.pursue` over a Gram matrix; every tensor has a leading dimension of problems. One
step either drops a row in every problem that must drop one, or else adds a row in every problem that still runs.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from advcore.runtime.device import force_float32
from advcore.runtime.signals import check
from advcore.solvers.pursuit import LEAST, PIVOT, REFRESH, Pursuit, PursuitProblem

_REASONS = ("budget", "tolerance", "no row correlates with the residual", "rounding")
_BUDGET, _TOLERANCE, _NO_CORRELATION, _ROUNDING = range(len(_REASONS))
_TINY = torch.finfo(torch.float64).tiny  # in place of a 0 to divide by, where the quotient is not used


def pursue_together(
    grams: Sequence[Tensor],
    problems: Sequence[PursuitProblem],
    *,
    nonnegative: bool = True,
    tolerance: float = 0.0,
) -> list[Pursuit]:
    """Solve each problem as `pursue` does, over its Gram matrix; all on the device of the matrices.

    Differs from `pursue`: a problem's `residual` is not called, and there are no leaps.
    Cost a few dozen kernels a step, as many steps as the largest k and the rows that leave; memory
    P N (N + k) x 4 + P k^2 x 8 bytes for P problems of at most N rows, in addition to the matrices passed in.
    """
    with force_float32():
        batch = _Batch(grams, problems, nonnegative=nonnegative, tolerance=tolerance)
        for step in range(1, 10 * batch.n + 10 * batch.k):
            check()
            if batch.has_rows_to_drop():
                batch.drop_rows()
                continue
            batch.apply_weights(exact=step % REFRESH == 0)
            if batch.has_rows_to_drop():
                continue  # the weights were corrected, which turned one negative
            batch.finish_step()
            if not bool(batch.running.any()):
                break
            batch.add_rows()
        else:
            batch.stopped[batch.running] = _ROUNDING
    return batch.collect_answers()


class _Batch:
    """State of P pursuits: tensors (P, ...), padded to N, the most rows, and k, the most slots of any problem.

    Slots, `members`, `weights` and `inverse` (B) are those of an `ActiveSet`, `live` says which slots are in use, and
    `used` (P, k, N) holds the products of the rows in the slots with all rows. Other names are as in `PursuitState`.
    """

    def __init__(
        self, grams: Sequence[Tensor], problems: Sequence[PursuitProblem], *, nonnegative: bool, tolerance: float
    ):
        self.nonnegative, self.tolerance = nonnegative, tolerance
        self.device = grams[0].device
        self.each = torch.arange(len(grams), device=self.device)
        self.n = max(map(len, grams))
        self.k = max(problem.k for problem in problems)
        precise = grams[0].dtype == torch.float64
        self.gram = self._zeros(self.n, self.n, dtype=grams[0].dtype)
        for padded, gram in zip(self.gram, grams, strict=True):
            padded[: len(gram), : len(gram)] = gram
        self.diagonal = self.gram.diagonal(dim1=1, dim2=2).double()
        self.correlation = self._pad(problem.correlation for problem in problems)
        self.open = self._pad(problem.mask_open_rows() for problem in problems)
        scalars = [(problem.target_norm, problem.ridge, problem.k) for problem in problems]
        self.target_norm, self.ridge, self.ks = torch.tensor(scalars, dtype=torch.float64, device=self.device).T
        self.least = LEAST[precise] * self.target_norm[:, None] * self.diagonal.clamp_min(0).sqrt()
        self.dependent = PIVOT[precise]
        self._allocate_slots()

    def _allocate_slots(self) -> None:
        self.used = self._zeros(self.k, self.n, dtype=self.gram.dtype)
        self.inverse = self._zeros(self.k, self.k)
        self.live = self._zeros(self.k, dtype=torch.bool)
        self.members, self.join_step = (self._zeros(self.k, dtype=torch.long) for _ in range(2))
        self.weights, self.refitted, self.applied = (self._zeros(self.k) for _ in range(3))
        self.residual_correlation = self.correlation.clone()
        self.running = ~self._zeros(dtype=torch.bool)
        self.stopped = self._zeros(dtype=torch.long)
        self.newest = self._zeros(dtype=torch.long) - 1  # the row that joined in the last step, -1 if none did
        self.residuals = [self._zeros(0)]  # a column (P, 1) for each step,
        self.is_counted = [self._zeros(0, dtype=torch.bool)]  # and whether it counts: a row joined
        self.high = self.steps = 0

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(len(self.each), *shape, dtype=dtype, device=self.device)

    def _pad(self, arrays: Iterable[np.ndarray]) -> Tensor:
        return pad_sequence([torch.as_tensor(array, device=self.device) for array in arrays], batch_first=True)

    def has_rows_to_drop(self) -> bool:
        """Return whether some refitted weight is not positive where it has to be."""
        return self.nonnegative and bool((self.live & (self.refitted <= 0)).any())

    def drop_rows(self) -> None:
        """Where a refitted weight is not positive, walk to the first that reaches 0, and drop its row.

        As `ActiveSet.settle`, but for one row of each problem.
        """
        falling = self.live & (self.refitted <= 0)
        here = falling.any(1)
        drop = self.weights - self.refitted
        strides = torch.where(falling, torch.where(drop > 0, self.weights / drop, 0.0), torch.inf)
        stride, slot = strides.min(1)
        walked = (self.weights + stride.clamp(max=1)[:, None] * (self.refitted - self.weights)).clamp_min(0)
        self.weights = torch.where(here[:, None], walked, self.weights)
        self._refit_without(slot, here)

        which = self.each[here]
        slot = slot[here]
        dropped = self.members[which, slot]
        self.open[which, dropped] = dropped != self.newest[which]
        self.inverse[which, slot] = self.inverse[which, :, slot] = 0
        self.weights[which, slot] = self.refitted[which, slot] = 0
        self.live[which, slot] = False

    def _refit_without(self, slot: Tensor, here: Tensor) -> None:
        """Refit for the loss of each problem's `slot` (P,), in the problems marked by `here` (P,).

        As `ActiveSet._remove`: a reflection turns the slot's column of B into a multiple of its unit vector.
        """
        column = self.inverse[self.each, :, slot]
        squared = column.square().sum(1).clamp_min(_TINY)
        norm = squared.sqrt()
        pivot = column[self.each, slot]
        sign = torch.where(pivot >= 0, 1.0, -1.0).double()
        mirror = column.clone()
        mirror[self.each, slot] += sign * norm
        mirror *= here[:, None]
        along = (mirror[:, None] @ self.inverse)[:, 0] / (squared + pivot.abs() * norm)[:, None]
        self.inverse -= mirror[:, :, None] * along[:, None, :]
        column_of_inverse = -(sign * norm)[:, None] * self.inverse[self.each, slot]
        change = (self.refitted[self.each, slot] / squared)[:, None] * column_of_inverse
        self.refitted -= torch.where(here[:, None], change, 0.0)

    def apply_weights(self, *, exact: bool) -> None:
        """Take the refitted weights, and update the residual's correlations.

        `exact`: sum these again in float64, and correct the weights by what rounding left over.
        """
        self.weights = self.refitted.clone()
        if exact:
            self.residual_correlation = self.correlation - (self.weights[:, None] @ self.used.double())[:, 0]
            rest = (self.residual_correlation.gather(1, self.members) - self.ridge[:, None] * self.weights) * self.live
            correction = (self.inverse.mT @ (self.inverse @ rest[:, :, None]))[:, :, 0]
            self.refitted += correction * self.running[:, None]
            self.applied = self.weights.clone()
            if self.has_rows_to_drop():
                return
            self.weights = self.refitted.clone()
        change = (self.weights - self.applied)[:, : self.high].to(self.used.dtype)
        self.residual_correlation -= (change[:, None] @ self.used[:, : self.high])[:, 0]
        self.applied = self.weights.clone()

    def finish_step(self) -> None:
        """Note the residual after the last pick, score the rows, and end the problems that are done."""
        explained = self.weights * (self.correlation + self.residual_correlation).gather(1, self.members)
        residual = (self.target_norm**2 - explained.sum(1)).clamp_min(0).sqrt() / self.target_norm.clamp_min(_TINY)
        if self.steps:
            self.residuals.append(residual[:, None])
            self.is_counted.append((self.running & (self.newest >= 0))[:, None])
        score = self.residual_correlation if self.nonnegative else self.residual_correlation.abs()
        self.score = torch.where(self.open & (score > self.least), score, -torch.inf)
        is_full = self.live.sum(1) >= self.ks
        is_close = (residual <= self.tolerance) & self.live.any(1)
        is_dry = self.score.amax(1) == -torch.inf
        reason = torch.where(is_full, _BUDGET, torch.where(is_close, _TOLERANCE, _NO_CORRELATION))
        ends = self.running & (is_full | is_close | is_dry)
        self.stopped = torch.where(ends, reason, self.stopped)
        self.running = self.running & ~ends

    def add_rows(self) -> None:
        """In every problem that runs, let the row with the best score join, unless it depends on the support.

        As `ActiveSet.join`.
        """
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
        solution = (z[:, None] @ self.inverse)[:, 0]
        root = pivot.clamp_min(_TINY).sqrt()
        weight = self.residual_correlation[self.each, j] / pivot
        self.refitted -= torch.where(joins[:, None], weight[:, None] * solution, 0.0)

        which = self.each[joins]
        slot = slot[joins]
        self.inverse[which, slot] = -solution[joins] / root[joins, None]
        self.inverse[which, slot, slot] = 1 / root[joins]
        self.refitted[which, slot] = weight[joins]
        self.members[which, slot] = j[joins]
        self.used[which, slot] = row[joins]
        self.live[which, slot] = True
        self.join_step[which, slot] = self.steps
        self.newest = torch.where(joins, j, -1)
        self.high = min(self.k, self.high + 1)

    def collect_answers(self) -> list[Pursuit]:
        residuals = torch.cat(self.residuals, 1).cpu()
        is_counted = torch.cat(self.is_counted, 1).cpu()
        live, join_step, members, weights = (
            tensor.cpu() for tensor in (self.live, self.join_step, self.members, self.weights)
        )
        answers = []
        for i, reason in enumerate(self.stopped.tolist()):
            slots = live[i].nonzero()[:, 0]
            slots = slots[join_step[i][slots].argsort()]
            answers.append(
                Pursuit(
                    support=members[i][slots].tolist(),
                    weights=weights[i][slots].numpy(),
                    path=residuals[i][is_counted[i]].tolist(),
                    stopped=_REASONS[reason],
                )
            )
        return answers
