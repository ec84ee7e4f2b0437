"""AutoAttack's standard version, through the package pyautoattack (or a git-installed autoattack)."""

import importlib.metadata
import logging
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advcore.attacks.geometry import LP
from advcore.attacks.pgd import MOST_PIXELS, pixel_radius
from advcore.errors import missing_package, must, one_of, require
from advcore.rng import Stream, preserved
from advcore.types import settings

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_ALONE = ("apgd-ce", "apgd-dlr", "square")
_FEWEST = {"apgd-ce": 2, "square": 2, "apgd-dlr": 3}
"""Classes that a version needs; 4, where it has the targeted loss, which compares four logits."""
VERSIONS = ("standard", "plus", "rand", *_ALONE)


@settings
class AutoAttack:
    """APGD-CE, APGD-T, FAB-T and Square, each on what is still right; it reads logits and labels, so it evaluates only.

    Parameters
    ----------
    eps : radius of the ball, in [0, 1] pixel units.
    norm : "linf", "l2" or "l1".
    version : "standard", "plus" or "rand"; or one attack alone: "apgd-ce", "apgd-dlr", "square" (the black box).

    Needs the extra `eval`. Cost: thousands of passes an example. Reference: Croce and Hein 2020, section 5.
    """

    eps: float
    norm: str = "linf"
    version: str = "standard"
    training_only: ClassVar[bool] = False
    restarts: ClassVar[int] = 1

    def __post_init__(self):
        require(
            pixel_radius(self.eps, MOST_PIXELS),
            one_of("norm", self.norm, _NORMS),
            one_of("version", self.version, VERSIONS),
        )

    def problem(self, shape: tuple[int, int, int]) -> str | None:
        _package()
        return pixel_radius(self.eps, LP[self.norm].diameter(math.prod(shape)))

    def classes_problem(self, classes: int) -> str | None:
        """What is wrong with so many classes, or None."""
        if classes >= _FEWEST.get(self.version, 4):
            return None
        return must(
            "version", f"apgd-ce or square for {classes} classes", self.version, "its losses compare more logits"
        )

    def adversarial(self, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, stream: Stream) -> Tensor:
        """x_adv (B, C, H, W) of images that are right; those that stand come back as they are."""
        package, alone = _package(), self.version in _ALONE
        ours = package.__name__ == "pyautoattack"  # the git-installed one names two arguments otherwise
        chosen = {"attacks" if ours else "attacks_to_run": [self.version]} if alone else {}
        attack = package.AutoAttack(
            _Callable(forward),
            device=x.device,
            eps=self.eps,
            norm=_NORMS[self.norm],
            seed=stream.key & 0x7FFFFFFF,
            version="custom" if alone else self.version,
            **chosen,
        )
        attack.verbose = False
        logging.getLogger("auto-attack").setLevel(logging.ERROR)  # its checks are ours (`checks.py`), in the record
        with torch.no_grad():
            classes = forward(x[:1]).shape[1]
        require(self.classes_problem(classes))
        for one in (attack.apgd_targeted, attack.fab):  # targets are the classes beside the label
            one.n_target_classes = min(one.n_target_classes, classes - 1)
        with preserved(stream):
            found = attack.run_standard_evaluation(x, y, **{"batch_size" if ours else "bs": len(x)})
        return found[0] if isinstance(found, tuple) else found

    def describe(self) -> dict:
        return {
            "norm": self.norm,
            "eps": self.eps,
            "version": self.version,
            "package": version(),
            "steps": 5000 if self.version == "square" else 100,
            "step_size": None,
            "restarts": 1,
        }


class _Callable(nn.Module):
    """A function of images as the module that AutoAttack asks for; its gradient is 0 where none leads through."""

    def __init__(self, forward: Callable[[Tensor], Tensor]):
        super().__init__()
        self._call = forward

    def forward(self, x: Tensor) -> Tensor:
        logits = self._call(x)
        cut_off = x.requires_grad and torch.is_grad_enabled() and not logits.requires_grad
        return logits + 0 * x.flatten(1).sum(1, keepdim=True) if cut_off else logits


def _package() -> Any:
    try:
        import pyautoattack

        return pyautoattack
    except (ImportError, RuntimeError) as error:
        try:
            import autoattack

            return autoattack
        except (ImportError, RuntimeError):
            raise missing_package("pyautoattack", "AutoAttack", "eval", error) from None


def version() -> str:
    """ "pyautoattack 0.2.0"."""
    name = _package().__name__
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name}, unknown version"
