"""EasyCore: keep the examples whose input gradients are smallest."""

from torch import Tensor

from advcore.rng import Stream
from advcore.settings import settings
from advcore.solvers.scored import Scored, take_by_score


@settings
class EasyCore(Scored):
    """The k rows of lowest score, weight N / k each; ties go to the lower index.

    Scores are average input-gradient norms (AIGN, `gradients.input_norm`). Partition `whole` is the paper's;
    `per_class` makes it a quota. Cost O(N log N).

    Parameters
    ----------
    points, scores : see `Scored`; the paper's points are clean.

    Reference: EasyCore (arXiv 2510.11018), abstract. Differs: the paper's fractions and averaging window
    are not public; ours are settings.
    """

    score = "input_norm"

    def choose(self, scores: Tensor, k: int, generator: Stream) -> Tensor:
        return take_by_score(scores, k, "easiest")
