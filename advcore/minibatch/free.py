"""Replay each batch several times, and use each backward pass twice: for the weights and for the images (Free AT)."""

from typing import ClassVar

from advcore.errors import SettingProblem, check_at_least, check_within
from advcore.minibatch.whole_batch import WholeBatch
from advcore.settings import setting, settings


@settings
class Free(WholeBatch):
    """Train on each batch `replays` times; after each, the images move along the gradient of the same backward pass.

    Parameters
    ----------
    replays : m, updates of the weights per batch, at least 1.
    step : length of the images' step after each replay, in eps, in [0.001, 100].

    An epoch is one pass over the data with m updates per batch, so a run that is to take as many updates as E ordinary
    epochs has `epochs: E / m`, as in the paper. The perturbations carry on over the replays, and from each batch to the
    next by position in it. The attack gives the ball; its steps, step size and start are those of selections and of the
    attack that judges epochs. An image is attacked in train mode, whatever `attack_mode`: there is one pass for both.

    Cost of a batch of B: 2 m B passes, m forward and m backward ones that lead to the weights and the images.
    Reference: Shafahi et al. 2019, algorithm 1. Differs: a carried perturbation is projected onto the ball and [0, 1]
    before it is used; an example of negative weight still moves to where its own loss is larger.
    """

    replays: int = setting(default=8, unit="replays")
    step: float = setting(default=1.0, unit="eps")
    few_steps: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    single_image: ClassVar[bool] = True

    def _check_more(self) -> list[SettingProblem | None]:
        return [check_at_least("replays", self.replays, 1, most=1000), check_within("step", self.step, 1e-3, 100)]

    def describe(self) -> str:
        times = "once" if self.replays == 1 else f"{self.replays} times"
        return f"training on each batch {times}, at 2 passes per example and replay"
