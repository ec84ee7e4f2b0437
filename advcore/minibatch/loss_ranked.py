"""Train on the images with the largest losses, where clean and attacked images are ranked together."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check_at_least, check_one_of, check_share, must, unless
from advcore.minibatch.base import UpdateSubset, count
from advcore.rng import Stream
from advcore.settings import setting, settings


@settings
class LossRanked(UpdateSubset):
    """Attack all B images, and train on the share P of the 2 B images that has the largest losses.

    Parameters
    ----------
    p_up : P where it is fixed, in (0, 1].
    adaptive : "fixed"; "recursive": P(t) = max(p_min, (1 - acc(t - 1)) P(t - 1)), P(0) = 1; "direct":
        P(t) = max(p_min, 1 - acc(t - 1)).
    p_min : the floor of an adaptive P, in (0, 1].
    accuracy : which validation accuracy an adaptive P follows: "clean" or "robust".
    warm_up : epochs in which all are kept, >= 0.
    queue : collect kept images until there is a full batch, so that steps keep their size; the rest is trained on at
        the end of the epoch.
    probed : number of kept examples for which each epoch measures the smallest radius that flips the prediction; not in
        the cost.
    look : "train": one forward pass of all 2 B images in train mode ranks them, and the losses of those that are kept
        are led back; "eval": a pass in eval mode ranks, and those that are kept go through another forward pass.

    Cost of a batch: B attacks, 2 B forward passes, and for each image kept one backward pass, with look: eval a forward
    pass too. BatchNorm's statistics see all 2 B images once, with look: eval those that are kept.
    Reference: Mendonça et al. 2023 (arXiv 2301.04472), algorithm 1 and eqs. 7 to 9, the last in two readings. Differs:
    images are ranked by the cross-entropy with the true label.
    """

    warm_up: int = setting(default=0, unit="epochs")
    queue: bool = False
    probed: int = setting(default=0, unit="images")
    adaptive: str = "fixed"
    p_min: float = setting(default=0.1, unit="share")
    accuracy: str = "clean"
    look: str = "train"
    reads: ClassVar[str | None] = "losses"

    def _check_more(self) -> list[SettingProblem | None]:
        return [
            check_one_of("adaptive", self.adaptive, ("fixed", "recursive", "direct")),
            check_share("p_min", self.p_min),
            check_one_of("accuracy", self.accuracy, ("clean", "robust")),
            check_at_least("warm_up", self.warm_up, 0),
            check_at_least("probed", self.probed, 0),
            check_one_of("look", self.look, ("train", "eval")),
            unless(
                self.look == "eval" or not self.queue,
                must("look", "eval with queue: true", self.look, "queued images are run forward again when used"),
            ),
        ]

    @property
    def least(self) -> float:
        return self.p_min if self.needs_validation else self.p_up

    @property
    def needs_validation(self) -> bool:
        """Whether P follows a validation accuracy."""
        return self.adaptive != "fixed"

    def describe(self) -> str:
        if not self.needs_validation:
            return super().describe()
        return "training on an adaptive share of each batch's clean and attacked images; at most"

    def choose_share(self, epoch: int, accuracies: list[dict]) -> float:
        if epoch < self.warm_up:
            return 1.0
        if self.adaptive == "fixed":
            return self.p_up
        part = 1.0
        for entry in accuracies[max(self.warm_up - 1, 0) : epoch]:
            previous = part if self.adaptive == "recursive" else 1
            part = max(self.p_min, (1 - entry[self.accuracy]) * previous)
        return part

    def keep(self, part: float, losses: Tensor | None, generator: Stream) -> Tensor:
        assert losses is not None, "this rule reads losses"
        return torch.argsort(losses, descending=True, stable=True)[: count(part, len(losses))].sort().values
