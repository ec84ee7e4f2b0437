"""Choose what to attack again by what training recorded at each example's last visit; nothing is scored for it."""

from typing import ClassVar

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check, check_within
from advcore.minibatch.base import FLOOR, AttackSubset, LastVisit, Seen
from advcore.settings import setting, settings


@settings
class LastVisitRule(AttackSubset):
    """Settings of rules that read the last visit; see `AttackSubset`. The rest is trained on as remembered."""

    rho: float = setting(default=0.5, unit="share")
    warm_up: int = setting(default=0, unit="epochs")
    clean: float = setting(default=0.0, unit="unit-free")
    draw: str = "top"
    rest: str = "remembered"
    reads: ClassVar[str | None] = "last_visit"

    def compute_preferences(self, seen: Seen) -> Tensor:
        assert seen.last_visit is not None, "this rule reads the last visit"
        return self.prefer(seen.last_visit)

    def prefer(self, visit: LastVisit) -> Tensor:
        """Return a preference (B,) above 0; the larger it is, the likelier an example is attacked again."""
        raise NotImplementedError


@settings
class LowConfidence(LastVisitRule):
    """Attack again what the model is least sure of: prefer examples by 1 - p_y at the last visit.

    Settings: see `AttackSubset`.
    """

    def prefer(self, visit: LastVisit) -> Tensor:
        return FLOOR - torch.expm1(-visit.losses.double())


@settings
class Oldest(LastVisitRule):
    """Attack again what was attacked longest ago: prefer examples by 1 + the age of their perturbation.

    Settings: see `AttackSubset`.
    """

    def prefer(self, visit: LastVisit) -> Tensor:
        return 1.0 + visit.ages.double()


@settings
class LossChange(LastVisitRule):
    """Attack again where the model moves: prefer examples by how much their loss changed at the last visit.

    It is the absolute difference of the last two visits' cross-entropy at the attacked image; after a single visit the
    cross-entropy itself.

    Settings: see `AttackSubset`.
    """

    def prefer(self, visit: LastVisit) -> Tensor:
        return FLOOR + visit.changes.double().abs()


@settings
class Mixed(LastVisitRule):
    """Attack again by a mixture of rules: prefer examples by the weighted mean of the rules' probabilities.

    A rule's probabilities are its preferences over their sum in the batch.

    Parameters
    ----------
    low_confidence, oldest, loss_change, random : weights, in [0, 1e6], not all 0.
    rho, warm_up, clean, draw, correction, rest : see `AttackSubset`.
    """

    draw: str = "multinomial"
    low_confidence: float = setting(default=1.0, unit="weight")
    oldest: float = setting(default=1.0, unit="weight")
    loss_change: float = setting(default=0.0, unit="weight")
    random: float = setting(default=0.0, unit="weight")

    @property
    def _weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("low_confidence", "oldest", "loss_change", "random")}

    def _check_more(self) -> list[SettingProblem | None]:
        weights = self._weights
        problems = [check_within(name, weight, 0, 1e6) for name, weight in weights.items()]
        is_mixture = any(problems) or sum(weights.values()) > 0
        return [*problems, check(is_mixture, ", ".join(weights), "not all 0", [*weights.values()])]

    def prefer(self, visit: LastVisit) -> Tensor:
        preferences = {
            "low_confidence": LowConfidence().prefer(visit),
            "oldest": Oldest().prefer(visit),
            "loss_change": LossChange().prefer(visit),
            "random": torch.ones_like(visit.losses, dtype=torch.float64),
        }
        weights = self._weights
        mixture = sum(weights[name] * values / values.sum() for name, values in preferences.items())
        assert isinstance(mixture, Tensor), "a sum of tensors"
        return mixture / sum(weights.values())
