"""Attack only the examples near the predicted decision boundary with many steps (BulletTrain)."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check_at_least, check_share, check_within
from advcore.minibatch.base import count
from advcore.minibatch.whole_batch import WholeBatch
from advcore.settings import setting, settings
from advcore.shares import floor_share


class Parts(NamedTuple):
    """Which of B examples are of each class, (B,) bool each; every example is of one."""

    outliers: Tensor
    boundary: Tensor
    robust: Tensor


def measure_signed_variance(logits: Tensor, y: Tensor) -> Tensor:
    """Return the variance (B,) of each row of softmax(logits), below 0 where the prediction is not the label y (B,)."""
    variance = logits.float().softmax(1).var(1, correction=0)
    return torch.where(logits.argmax(1) == y, variance, -variance)


def split_examples(scores: Tensor, robust_share: float, most: float) -> Parts:
    """Sort B examples by their signed variances (B,) into outliers, boundary examples and robust ones.

    Outliers score below 0. Of the others, those among the int(robust_share B) largest scores of the batch are robust,
    and as many more as leave int(most B) for the boundary, at least 1. Of equal scores the earlier example is first.
    """
    size = len(scores)
    order = torch.argsort(scores, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(size, device=order.device)
    right = scores >= 0
    robust_count = (right.sum() - count(most, size)).clamp_min(floor_share(robust_share, size))
    robust = right & (ranks < robust_count)
    return Parts(~right, right & ~robust, robust)


@settings
class BulletTrain(WholeBatch):
    """Choose each example's attack steps by the signed variance of its prediction: sign x Var(softmax(z)).

    A forward pass of the clean batch, in eval mode, gives the variances, which are negative for misclassified examples:
    outliers. Of the others, the share with the largest variances that the run's history lets expect to withstand the
    attack is robust. The rest lies near the boundary, and takes the attack's own steps. All are trained on.

    Parameters
    ----------
    robust_steps, outlier_steps : attack steps of these, at least 0, but never more than the attack's own; 0 leaves the
        image clean.
    weak_step : length of a step of these weaker attacks, in eps, in [0.001, 100].
    momentum : m of the running average of robust accuracies, r <- m r + (1 - m) r_batch, from 0 on, in [0, 0.9999].
    discount : gamma, in (0, 1]: the share gamma r of a batch is expected to be robust.
    smoothing : share of an example's score that is left of its earlier visits, in [0, 0.9999].
    most : largest share of a batch that counts as near the boundary, in (0, 1]; beyond it the surest are robust.

    Cost of a batch of B for `pgd`: B (1 + 2 K_boundary F_boundary + 2 K_robust F_robust + 2) passes by the shares F.
    The plan has the upper bound, with the share `most` near the boundary; the ledger has what was done. An attack that
    asks for clean logits, as of TRADES, is given those of the look.
    Reference: Hua et al. 2021 (arXiv 2109.14707), of which no code was released. The defaults are those of the version
    with which "Accelerating Adversarial Training on Under-Utilized GPU" (IJCAI 2025) compares. Differs: the robust
    accuracy of a batch is that of the update's own pass, in train mode, which costs nothing; robust examples are
    counted, and not cut at an interpolated quantile; `most` and `smoothing` are advcore's.
    """

    robust_steps: int = setting(default=2, unit="steps")
    outlier_steps: int = setting(default=0, unit="steps")
    weak_step: float = setting(default=0.75, unit="eps")
    momentum: float = setting(default=0.9, unit="share")
    discount: float = setting(default=0.8, unit="share")
    smoothing: float = setting(default=0.0, unit="share")
    most: float = setting(default=1.0, unit="share")
    few_steps: ClassVar[bool] = True

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            check_at_least("robust_steps", self.robust_steps, 0),
            check_at_least("outlier_steps", self.outlier_steps, 0),
            check_within("weak_step", self.weak_step, 1e-3, 100),
            check_within("momentum", self.momentum, 0, 0.9999),
            check_share("discount", self.discount),
            check_within("smoothing", self.smoothing, 0, 0.9999),
            check_share("most", self.most),
        ]

    def describe(self) -> str:
        return (
            f"attacking robust examples with {self.robust_steps} and outliers with {self.outlier_steps} steps; at most"
        )

    def update_average(self, average: float, accuracy: float) -> float:
        """Return the running average of robust accuracies after a batch of which a share `accuracy` withstood."""
        return self.momentum * average + (1 - self.momentum) * accuracy

    def smooth(self, scores: Tensor, before: Tensor) -> Tensor:
        """Return running scores (B,): `scores` mixed with those `before`, which are NaN at an example's first visit."""
        mixed = self.smoothing * before + (1 - self.smoothing) * scores
        return torch.where(before.isnan(), scores, mixed)

    def split(self, scores: Tensor, average: float) -> Parts:
        """Return the classes of B examples by their scores (B,) and the running average of robust accuracies."""
        return split_examples(scores, self.discount * average, self.most)

    def count_steps(self, parts: Parts, most: int) -> Tensor:
        """Return each example's attack steps (B,) long, where the attack itself has `most`."""
        steps = torch.full_like(parts.robust, most, dtype=torch.long)
        steps[parts.robust] = min(self.robust_steps, most)
        steps[parts.outliers] = min(self.outlier_steps, most)
        return steps
