"""Which examples of a batch or an epoch are attacked, and which images are trained on."""

from advcore.minibatch.bullettrain import BulletTrain
from advcore.minibatch.free import Free
from advcore.minibatch.gradient_matching import GradientMatching, ResidualNorm
from advcore.minibatch.infobatch import InfoBatch
from advcore.minibatch.last_visit import LossChange, LowConfidence, Mixed, Oldest
from advcore.minibatch.loss_ranked import LossRanked
from advcore.minibatch.margin import Margin
from advcore.minibatch.uniform import RandomMix, RandomSubset

RULES = {
    "margin": Margin,
    "gradient_matching": GradientMatching,
    "residual_norm": ResidualNorm,
    "random": RandomSubset,
    "low_confidence": LowConfidence,
    "oldest": Oldest,
    "loss_change": LossChange,
    "mixed": Mixed,
    "loss_ranked": LossRanked,
    "random_mix": RandomMix,
    "free": Free,
    "bullettrain": BulletTrain,
    "infobatch": InfoBatch,
}
# What the field calls them, to their names here (`errors.suggest_nearest`).
ALIASES = {
    "selective": "margin",
    "selectiveat": "margin",
    "gradmatch": "gradient_matching",
    "uniform": "random",
    "loss": "loss_ranked",
    "topk": "loss_ranked",
    "ohem": "loss_ranked",
    "mix": "random_mix",
    "hardest": "low_confidence",
    "age": "oldest",
    "stalest": "oldest",
    "mixture": "mixed",
    "freeat": "free",
    "replay": "free",
    "bullet": "bullettrain",
    "dynamicpruning": "infobatch",
    "prune": "infobatch",
}
