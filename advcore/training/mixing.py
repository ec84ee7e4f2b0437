"""CutMix: training images that contain a patch of another image of their batch, with mixed labels."""

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from advcore.attacks.base import Attack
from advcore.errors import SettingProblem, check_positive, check_share, must, require
from advcore.objectives.base import Objective, takes_mixed_labels
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.shares import divide
from advcore.training.step import Images


@settings
class CutMix:
    """Paste a rectangle of another image of the batch into an image, and mix their labels by area.

    Each part counts with the weight of the image that it is from, so that the weights of a coreset keep their effect:
    the loss is (1 - p) w_i l(y_i) + p w_j l(y_j) for a share p of image j. The attack starts from the mixed image, and
    climbs the loss of the mixed label. Cost: no pass.

    Parameters
    ----------
    alpha : an image keeps a share drawn from Beta(alpha, alpha), above 0; 1 is uniform, as in the paper. It keeps more
        where a part of the rectangle lies outside of the image.
    probability : share of the images that are mixed, in (0, 1].

    Reference: Yun et al. 2019, section 3.1. Differs: each image draws its own rectangle, not one for the batch.
    """

    alpha: float = setting(default=1.0, unit="unit-free")
    probability: float = setting(default=1.0, unit="share")

    def __post_init__(self) -> None:
        require(
            check_positive("alpha", self.alpha),
            check_share("probability", self.probability),
        )

    def draw_rectangles(self, generator: Stream, height: int, width: int) -> Tensor:
        """Return (B, H, W) bool, the pixels of each image that are another's; `generator` is bound to the B images."""
        draws = generator.child("rectangle").uniform((len(generator.examples), 4)).double()
        pasted = 1 - torch.from_numpy(betaincinv(self.alpha, self.alpha, draws[:, 0].numpy()))
        half = torch.where(draws[:, 1] < self.probability, pasted.sqrt() / 2, 0)
        is_in_row = _mark_interval(draws[:, 2], half, height)
        is_in_column = _mark_interval(draws[:, 3], half, width)
        return is_in_row[:, :, None] & is_in_column[:, None, :]

    def mix(self, images: Images, generator: Stream, classes: int) -> Images:
        """Return the mixed images (B, C, H, W), with their labels as shares of the classes (B, classes), and weights.

        Weights are at least 0.
        generator : bound to the B examples, on the CPU, so that the images' device is not waited for.
        """
        x, y, weights = images
        is_pasted = self.draw_rectangles(generator, *x.shape[2:]).to(x.device)
        partner = generator.child("partner").permutation().to(x.device)
        pasted = is_pasted.flatten(1).to(weights.dtype).mean(1)
        labels = F.one_hot(y, classes).to(weights.dtype)
        mixed_weights = torch.lerp(weights, weights[partner], pasted)
        share = divide(pasted * weights[partner], mixed_weights)
        return Images(
            torch.where(is_pasted[:, None], x[partner], x),
            torch.lerp(labels, labels[partner], share[:, None]),
            mixed_weights,
        )


def _mark_interval(centres: Tensor, half: Tensor, size: int) -> Tensor:
    """Return (B, size) bool, which pixels of a side lie in the interval around `centres` (B,), in [0, 1).

    half : (B,) half the interval's length, as a share of the side; in pixels it is rounded down.
    """
    pixels = torch.arange(size)
    middle = (centres * size).floor()[:, None]
    reach = (half * size).floor()[:, None]
    return (pixels >= middle - reach) & (pixels < middle + reach)


def find_mixing_problem(
    cutmix: CutMix | None, objective: Objective, attack: Attack | None, solver: object = None
) -> SettingProblem | None:
    """Return the first reason why a run cannot take mixed images; None if it can, or there are none.

    solver : of its coresets, if it has any.
    """
    if cutmix is None:
        return None
    name = type(objective).__name__.lower()
    if not takes_mixed_labels(objective):
        return must("cutmix", "null for an objective of whole labels", name, "use standard, pgd or trades")
    if getattr(attack, "climbs", "own") != "own":
        return must("cutmix", "null for an attack that climbs the margin of a label", type(attack).__name__)
    if getattr(attack, "remembers", False):
        return must("cutmix", "null with attack.start: remembered", cutmix, "use start: uniform")
    if not getattr(solver, "nonnegative", True):
        return must("cutmix", "null with solver.nonnegative: false", cutmix, "labels are mixed in the ratio of weights")
    return None
