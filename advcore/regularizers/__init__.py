"""Penalties that a training step adds to its loss; none of them changes what is attacked."""

from advcore.regularizers.grad_align import GradAlign
from advcore.regularizers.prior_guided import PriorGuided

REGULARIZERS = {"prior_guided": PriorGuided, "grad_align": GradAlign}
# Names that the field uses, to the names here (`errors.suggest_nearest`).
ALIASES = {
    "pgi": "prior_guided",
    "fgsmpgi": "prior_guided",
    "prior": "prior_guided",
    "gradientalignment": "grad_align",
    "alignment": "grad_align",
    "cosine": "grad_align",
}
