"""Gradient rows and scores: one row per example, which is what a solver reads."""

from advcore.gradients.base import Gradient
from advcore.gradients.divergence import DIVERGENCE
from advcore.gradients.features import FEATURES
from advcore.gradients.input_norm import INPUT_NORMS
from advcore.gradients.last_layer import LAST_LAYER
from advcore.gradients.scores import SCORES

GRADIENTS: dict[str, Gradient] = {
    "last_layer": LAST_LAYER,
    "divergence": DIVERGENCE,
    "features": FEATURES,
    **INPUT_NORMS,
    **SCORES,
}
