"""Look for signs that the robust accuracies of an evaluated model are unreliable."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from advcore.data.contract import read_batches
from advcore.evaluation.checks import IMAGES, flag_model, look_for_underflow
from advcore.sweep import Sweep
from advcore.types import Facts


def look_at_model(
    sweep: Sweep, indices: Tensor, descriptions: Sequence[Facts], verdicts: Mapping[str, Tensor], *, in_full: bool
) -> list[str]:
    """Look for gradients that underflow and, `in_full`, for signs of masking; return the flags.

    indices : (n,) long, of the images evaluated. descriptions : what a record says of each attack.
    verdicts : (n,) bool by the position of the attack.
    """
    flags = list(map(str, look_for_underflow(sweep, indices, needed=bool(descriptions))))
    if in_full:
        flags += _check_model(sweep, indices, descriptions, verdicts)
    return flags


def _check_model(
    sweep: Sweep, indices: Tensor, descriptions: Sequence[Facts], verdicts: Mapping[str, Tensor]
) -> list[str]:
    """Look for signs of masking on a few images, in the largest linf ball of the attacks, or one of 8/255."""
    few = slice(0, None, max(1, len(indices) // IMAGES))  # data may be sorted by class
    _, x, y = next(read_batches(sweep.model, sweep.source, [indices[few][:IMAGES]]))
    radii = {str(i): facts["eps"] for i, facts in enumerate(descriptions) if facts["norm"] == "linf"}
    eps = max(radii.values(), default=8 / 255)
    many_steps = [verdicts[key][few][:IMAGES] for key in radii if radii[key] == eps]
    robust = torch.stack(many_steps).all(0) if many_steps else None
    flags = flag_model(sweep.model, sweep.forward, x, y, eps=eps, robust=robust, batch_size=sweep.chunk_size)
    return list(map(str, flags))
