"""AutoAttack's standard version, through the package pyautoattack (or a git-installed autoattack)."""

import importlib.metadata
import importlib.util
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advcore.attacks.geometry import LP
from advcore.attacks.pgd import MOST_PIXELS, pixel_radius
from advcore.errors import missing_package, must, one_of, require
from advcore.pixels import format_pixels
from advcore.rng import Stream, preserved
from advcore.types import settings

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_NORM_ALIASES = {"inf": "linf", "max": "linf"}
_ENSEMBLES = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The attacks that a version runs, in the package's order."""
_ALONE = ("apgd-ce", "apgd-dlr", "square")
_FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""Of attacks that need more than two: their losses compare three and four logits. FAB-T has a target from two on."""
_INSTEAD = {"apgd-t": "apgd-dlr"}
"""The untargeted form of an attack, for fewer classes than it needs."""
_SQUARE_TILES = 5  # in the l2 and l1 balls Square divides an image into so many rows
VERSIONS = (*_ENSEMBLES, *_ALONE)


@settings
class AutoAttack:
    """APGD-CE, APGD-T, FAB-T and Square, each on what is still right; it reads logits and labels, so it evaluates only.

    Parameters
    ----------
    eps : radius of the ball, in [0, 1] pixel units.
    norm : "linf", "l2" or "l1".
    version : "standard", "plus" or "rand"; or one attack alone: "apgd-ce", "apgd-dlr", "square" (the black box).

    For fewer than four classes "standard", "plus" and "rand" run the attacks that exist for so many: APGD-T needs four
    classes and APGD-DLR three. The version in the record then says what was left out, and the evaluation is flagged. An
    attack alone is refused where it cannot run.

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
            one_of("norm", self.norm, _NORMS, _NORM_ALIASES),
            one_of("version", self.version, VERSIONS),
        )

    def problem(self, shape: tuple[int, int, int]) -> str | None:
        _package()
        if self.norm != "linf" and "square" in self.parts and shape[1] < _SQUARE_TILES:
            rule = f"linf, or version apgd-ce, for images below {_SQUARE_TILES} pixels in height"
            return must("norm", rule, self.norm, "Square cannot divide them into tiles")
        return pixel_radius(self.eps, LP[self.norm].diameter(math.prod(shape)))

    def classes_problem(self, classes: int) -> str | None:
        """Say why this cannot run on a model with so many classes; None if it can."""
        if classes < 2:
            return must("version", "left out for a single class", self.version, "there is nothing to be mistaken for")
        needed = _FEWEST_CLASSES.get(self.version, 2)
        if classes >= needed:
            return None
        rule = f"standard, apgd-ce or square for {classes} classes"
        return must("version", rule, self.version, f"its loss compares {needed} logits")

    def for_classes(self, classes: int) -> "AutoAttack":
        """Return the same attack, which knows how many classes the model has and so which attacks it will run."""
        require(self.classes_problem(classes))
        new = replace(self)
        new.__dict__["_classes"] = classes
        return new

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the attacks that run, in order."""
        return tuple(dict.fromkeys(self._instead(part) for part in self._all_parts if self._instead(part)))

    @property
    def reduction(self) -> str | None:
        """What sets this apart from its version on a model of too few classes: "without apgd-t"; else None."""
        missing = [part for part in self._all_parts if part not in self.parts]
        added = [part for part in self.parts if part not in self._all_parts]
        if not missing:
            return None
        if added:
            return f"with {' and '.join(added)} for {' and '.join(missing)}"
        return f"without {' and '.join(missing)}"

    def flags(self) -> list[str]:
        """Return a flag where the version's name would promise more than what runs."""
        if self.reduction is None:
            return []
        needs = [f"{part} needs {_FEWEST_CLASSES[part]}" for part in self._all_parts if part not in self.parts]
        return [
            f"reduced: {' and '.join(needs)} classes, and the model has {self._classes}; autoattack "
            f"({self.norm} {format_pixels(self.eps)}) ran {', '.join(self.parts)}, not its {self.version} version"
        ]

    @property
    def _all_parts(self) -> tuple[str, ...]:
        return _ENSEMBLES.get(self.version, (self.version,))

    def _instead(self, part: str | None) -> str | None:
        """The attack itself, its form for fewer classes, or None where there is none."""
        while part is not None and _FEWEST_CLASSES.get(part, 2) > getattr(self, "_classes", math.inf):
            part = _INSTEAD.get(part)
        return part

    def adversarial(self, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, stream: Stream) -> Tensor:
        """x_adv (B, C, H, W) of images that are right; those that stand come back as they are."""
        require(self.problem(tuple(x.shape[1:])))
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
        attack.attacks_to_run = list(self.for_classes(classes).parts)
        for targeted in (attack.apgd_targeted, attack.fab):  # targets are the classes beside the label
            targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
        with preserved(stream):
            found = attack.run_standard_evaluation(x, y, **{"batch_size" if ours else "bs": len(x)})
        return found[0] if isinstance(found, tuple) else found

    def describe(self) -> dict:
        return {
            "norm": self.norm,
            "eps": self.eps,
            "version": f"{self.version} {self.reduction}" if self.reduction else self.version,
            "parts": list(self.parts),
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


def is_installed() -> bool:
    """Whether a package of AutoAttack can be imported, without importing it."""
    return any(importlib.util.find_spec(name) for name in ("pyautoattack", "autoattack"))


def version() -> str:
    """ "pyautoattack 0.2.0"."""
    name = _package().__name__
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name}, unknown version"
