"""The interface of minibatch rules that train on every example of each batch and set how it is attacked."""

from typing import ClassVar

from advcore.errors import SettingProblem, require
from advcore.settings import settings


@settings
class WholeBatch:
    """Settings that are shared by rules that attack whole batches in their own way.

    few_steps : whether some examples are attacked by few steps, so that an epoch needs a stronger attack to judge it.
    norms : of the attacks that the rule works with.
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
