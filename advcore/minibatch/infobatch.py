"""InfoBatch: leave out, for an epoch, some of the examples whose last losses were small."""

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check_within
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.rng import Stream
from advcore.settings import setting, settings


@settings
class InfoBatch(EpochSubset):
    """Leave out each example below the mean loss with probability r; those that stay weigh 1 / (1 - r).

    An example's loss is the objective's, at the image that its last training step attacked, so nothing is scored. The
    sum over an epoch of weight x loss is unbiased for the sum over all of its examples.

    Parameters
    ----------
    r : probability of leaving out an example whose loss is below the mean, in [0, 0.9]; 0 trains on all.
    whole : see `EpochSubset`; the paper's delta is 1 - whole.

    Cost of an epoch: its full steps on the examples that stay. The share that is left out is r times the share of
    examples below the mean, so it is not known in advance; a plan counts all examples.
    Reference: Qin et al. 2024 (arXiv 2303.04947), section 3 and their code, github NUS-HPC-AI-Lab/InfoBatch. Differs:
    losses are adversarial; each example draws independently, as in the paper; the code leaves out an exact count;
    an example that was never trained stays, and does not enter the mean, where the code gives it the loss 3.
    """

    r: float = setting(default=0.5, unit="probability")

    def _check_more(self) -> list[SettingProblem | None]:
        return [check_within("r", self.r, 0, 0.9)]

    def describe(self) -> str:
        return f"leaving out each example below the mean loss with probability {self.r:g}; at most"

    def weigh(self, losses: Tensor, generator: Stream) -> Tensor:
        factors = torch.ones_like(losses)
        known = losses[~losses.isnan()]
        if not len(known):
            return factors
        is_below = losses < known.mean()  # which NaN is not
        is_left_out = generator.uniform((len(losses), 1))[:, 0] < self.r
        factors[is_below] = 1 / (1 - self.r)
        return factors.masked_fill(is_below & is_left_out, 0)
