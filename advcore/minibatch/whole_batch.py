"""What a minibatch rule is that trains on every example of each batch, and says how the batch is attacked."""

from typing import ClassVar

from advcore.attacks import ATTACKS
from advcore.attacks.base import Attack
from advcore.attacks.pgd import PGD
from advcore.errors import SettingProblem, must, require
from advcore.settings import settings
from advcore.types import find_name


@settings
class WholeBatch:
    """Settings that are shared by rules that attack whole batches in a way of their own.

    few_steps : whether some examples are attacked by few steps, so that an epoch needs a stronger attack to judge it.
    norms : of the attacks that the rule serves.
    """

    few_steps: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    reads: ClassVar[str | None] = None
    single_image: ClassVar[bool] = False
    needs_validation: ClassVar[bool] = False
    warm_up: ClassVar[int] = 0

    def __post_init__(self) -> None:
        require(*self._check_more())

    def _check_more(self) -> list[SettingProblem | None]:
        """Return what may be wrong with a subclass's own settings."""
        return []

    def describe(self) -> str:
        """Return what a plan says of the rule."""
        raise NotImplementedError

    def find_attack_problem(self, attack: Attack | None, name: str) -> SettingProblem | None:
        """Return why the rule, known by `name`, cannot serve the attack, as a problem with `attack`; None if it can."""
        norms = " or ".join(f"{norm}_pgd" for norm in self.norms)
        if not isinstance(attack, PGD) or attack.norm not in self.norms:
            got = find_name(ATTACKS, attack)
            return must("attack", f"{norms} with minibatch: {name}", got, "other attacks cannot be cut into such steps")
        if attack.remembers:
            way_out = "the rule says itself where an attack starts"
            return must("attack.start", f"other than remembered with minibatch: {name}", attack.start, way_out)
        return None
