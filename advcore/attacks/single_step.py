"""What training attacks of a single signed step in the linf ball share."""

from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from advcore.attacks.base import Attack
from advcore.attacks.geometry import measure_linf
from advcore.attacks.pgd import LinfPGD, check_radius
from advcore.errors import SettingProblem, check_positive, unless


class SingleStep(Attack):
    """Behaviour of an attack that takes one gradient; a subclass brings its settings, `eps` and `step_size` among them.

    described_settings : names of its other settings that a record states.
    """

    norm: ClassVar[str] = "linf"
    few_steps: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    example: ClassVar = {"eps": 8 / 255}
    described_settings: ClassVar[tuple[str, ...]] = ()
    if TYPE_CHECKING:
        step_size: float | None

    def _check_eps(self) -> SettingProblem | None:
        return check_radius(self.eps, 1.0)

    def _check_step_size(self) -> SettingProblem | None:
        return unless(
            self.step_size is None, check_positive("step_size", self.step_size, "omit it for the default, eps")
        )

    @property
    def length(self) -> float:
        """Length of the step, in pixel units."""
        return self.eps if self.step_size is None else self.step_size

    def excess(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return measure_linf(x, x_adv) - self.eps

    def scale(self, fraction: float) -> Self:
        return self.with_settings(eps=self.eps * fraction, step_size=self.length * fraction or None)

    def passes(self) -> tuple[int, int]:
        return 1, 1

    def reference(self, steps: int) -> LinfPGD:
        return LinfPGD(eps=self.eps, steps=steps)

    def probe(self) -> LinfPGD:
        return self.reference(1).probe()

    def describe(self) -> dict[str, object]:
        facts = {"norm": self.norm, "eps": self.eps, "steps": 1, "step_size": self.length, "restarts": 1}
        return facts | {name: getattr(self, name) for name in self.described_settings}
