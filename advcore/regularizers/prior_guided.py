"""FGSM-PGI's penalty: the attacked image's logits should stay near those at the point where the attack started."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from advcore.regularizers.base import Examples, Regularizer
from advcore.runtime.counted import CountedModel
from advcore.settings import setting, settings
from advcore.work import Work


@settings
class PriorGuided(Regularizer):
    """Penalise the squared distance of the logits at the attack's end from those at its start.

    The distance is averaged over the classes; its gradient flows through both. With an attack that starts where it
    ended an epoch before, this is FGSM-PGI.

    Parameters
    ----------
    weight : lambda of the paper, above 0; the authors' code has 10.

    Cost: one forward and one backward pass per example. Reference: Jia et al. 2022, section 3.3 (FGSM-PGI). Differs:
    the mean over classes instead of the sum, as in the authors' code; a separate forward pass at the start, which
    there is the attack's, since here attack and update may run in different modes.
    """

    weight: float = setting(default=10.0, unit="unit-free")
    needs_starts: ClassVar[bool] = True

    def penalize(self, model: CountedModel, examples: Examples, logits: Mapping[str, Tensor]) -> Tensor:
        assert examples.starts is not None, "the step finds them for a regulariser that needs them"
        return measure_distance(model(examples.starts), logits["adversarial"])

    def plan(self) -> Work:
        return Work(forward=1, to_weights=1)


def measure_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return (B,) the mean squared difference of logits (B, C); a class that is -inf in either adds nothing."""
    is_masked = first.isneginf() | second.isneginf()
    difference = first.masked_fill(is_masked, 0) - second.masked_fill(is_masked, 0)
    return difference.square().mean(1)
