"""AutoAttack's standard version, through the package pyautoattack (or a git-installed autoattack)."""

import importlib.metadata
import importlib.util
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from advcore.attacks.geometry import LP
from advcore.attacks.pgd import MOST_PIXELS, check_radius
from advcore.errors import (
    SettingProblem,
    check_at_least,
    check_one_of,
    explain_missing_package,
    must,
    require,
    unless,
)
from advcore.evaluation.part_record import PartRecord
from advcore.evaluation.stretch import Stretch
from advcore.pixels import format_pixels
from advcore.rng import Stream, preserve_random_state
from advcore.settings import setting, settings
from advcore.types import Facts, Flag
from advcore.unit_range import check_attackable

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_NORM_ALIASES = {"inf": "linf", "max": "linf"}
# the attacks that each version runs, in the package's order
_ENSEMBLES = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
# how many classes an attack needs, if more than two: the losses of these compare three and four logits
_FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
# the untargeted form of an attack, for models with fewer classes than it needs
_SUBSTITUTES = {"apgd-t": "apgd-dlr"}
_SQUARE_TILES = 5  # the rows of tiles into which Square divides an image in the l2 and l1 balls
# the packages, the preferred one first, and how each calls the size of a batch
_PACKAGES = {"pyautoattack": "batch_size", "autoattack": "bs"}
VERSIONS = (*_ENSEMBLES, "apgd-ce", "apgd-dlr", "square")


@settings
class AutoAttack:
    """APGD-CE, APGD-T, FAB-T and Square, each on the examples still right; for evaluation only: it reads the labels.

    Parameters
    ----------
    eps : radius of the ball, in [0, 1] pixel units.
    norm : "linf", "l2" or "l1".
    version : "standard", "plus" or "rand"; or one attack alone: "apgd-ce", "apgd-dlr", "square" (the black box).
    examples : how many of the evaluated images it attacks, drawn stratified, and the same for all models; null for all.
        The record then also holds what all attacks leave right of the images that they share.

    For fewer than four classes "standard", "plus" and "rand" run the attacks that exist for that number: APGD-T needs
    four classes and APGD-DLR three. The version in the record then says what was left out, and the evaluation is
    flagged. A single attack is refused where it cannot run.

    Needs the extra `eval`. Cost: thousands of passes per example. Reference: Croce and Hein 2020, section 5.
    """

    eps: float = setting(unit="pixels")
    norm: str = "linf"
    version: str = "standard"
    examples: int | None = setting(default=None, unit="images")
    training_only: ClassVar[bool] = False
    restarts: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require(
            check_radius(self.eps, MOST_PIXELS),
            check_one_of("norm", self.norm, _NORMS, _NORM_ALIASES),
            check_one_of("version", self.version, VERSIONS),
            unless(self.examples is None, check_at_least("examples", self.examples, 1)),
        )

    def problem(self, shape: tuple[int, int, int]) -> SettingProblem | None:
        """Return what is wrong with these settings for images of `shape` (C, H, W), or None.

        Raises ConfigError if no package of AutoAttack can be imported.
        """
        _import_package()
        if self.norm != "linf" and "square" in self.planned_parts and shape[1] < _SQUARE_TILES:
            rule = f"linf, or version apgd-ce, for images below {_SQUARE_TILES} pixels in height"
            return must("norm", rule, self.norm, "Square cannot divide them into tiles")
        return check_radius(self.eps, LP[self.norm].compute_diameter(math.prod(shape)))

    def find_classes_problem(self, classes: int) -> SettingProblem | None:
        """Return why this cannot run on a model with this number of classes; None if it can."""
        if classes < 2:
            return must("version", "left out for a single class", self.version, "there is no other class to predict")
        needed = _FEWEST_CLASSES.get(self.version, 2)
        if classes >= needed:
            return None
        rule = f"standard, apgd-ce or square for {classes} classes"
        return must("version", rule, self.version, f"its loss compares {needed} logits")

    def choose_lineup(self, classes: int) -> "Lineup":
        """Return what runs on a model with this number of classes. Raises ConfigError if nothing can."""
        require(self.find_classes_problem(classes))
        return Lineup(self, classes)

    @property
    def planned_parts(self) -> tuple[str, ...]:
        """Names of the attacks that run, in order, if there are classes enough."""
        return _ENSEMBLES.get(self.version, (self.version,))

    def attack(self, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, stream: Stream) -> Tensor:
        """Attack images x (B, C, H, W) that are classified right as y; those not fooled are returned unchanged.

        Raises as `attack_by_part` does.
        """
        return self.attack_by_part(forward, x, y, stream)[0]

    def attack_by_part(
        self, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, stream: Stream
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Attack images as `attack` does, and report what each part of the lineup leaves correct.

        Returns x_adv (B, C, H, W), and by the name of each part, in order, (B,) bool: which images are right after it
        and all parts before it. Each part attacks only these.
        Raises ConfigError if the settings do not fit the images or the classes, or no package can be imported;
        DataError for images that are not floats in [0, 1]. Silences the package's logger.
        """
        check_attackable(x)
        _, channels, height, width = x.shape
        require(self.problem((channels, height, width)))
        package = _import_package()
        with torch.no_grad():
            logits = forward(x)
        classes = logits.shape[1]
        attack = package.AutoAttack(
            _ForwardModule(forward, Stretch.fit_all(logits), x.dtype),
            device=x.device,
            eps=self.eps,
            norm=_NORMS[self.norm],
            seed=stream.key & 0x7FFFFFFF,
            version=self.version if self.version in _ENSEMBLES else "custom",
        )
        attack.verbose = False
        logging.getLogger("auto-attack").setLevel(
            logging.ERROR
        )  # advcore has such checks (`checks.py`), for the record
        parts = self.choose_lineup(classes).parts
        attack.attacks_to_run = list(parts)
        for targeted in (attack.apgd_targeted, attack.fab):  # targets are the classes other than the label
            targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
        record = PartRecord(attack)
        with preserve_random_state(stream):
            result = attack.run_standard_evaluation(x.float(), y, **{_PACKAGES[package.__name__]: len(x)})
        x_adv = result[0] if isinstance(result, tuple) else result
        return x_adv.to(x), record.judge_parts(parts, y)

    def describe(self) -> Facts:
        """Return what a robust accuracy must state if there are classes enough. Raises as `Lineup.describe` does."""
        return Lineup(self, math.inf).describe()


@dataclass(frozen=True)
class Lineup:
    """What runs of a version of AutoAttack (`settings`) on a model with some number of `classes`."""

    settings: AutoAttack
    classes: float

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the attacks that run, in order.

        One that needs more classes gives way to its form for fewer, or is left out.
        """
        planned = self.settings.planned_parts
        candidates = [part if self._has_classes_for(part) else _SUBSTITUTES.get(part, part) for part in planned]
        return tuple(dict.fromkeys(part for part in candidates if self._has_classes_for(part)))

    @property
    def reduction(self) -> str:
        """How this differs from the whole version: "without apgd-t", "with apgd-dlr for apgd-t"; "" if it does not."""
        missing = " and ".join(self._missing_parts)
        added = " and ".join(part for part in self.parts if part not in self.settings.planned_parts)
        if added:
            return f"with {added} for {missing}"
        return missing and f"without {missing}"

    def flag_reduction(self) -> list[Flag]:
        """Return one flag if the version's name promises more than what runs, none otherwise."""
        if not self.reduction:
            return []
        needs = [f"{part} needs {_FEWEST_CLASSES[part]}" for part in self._missing_parts]
        return [
            Flag(
                "reduced",
                f"{' and '.join(needs)} classes, and the model has {self.classes}; autoattack "
                f"({self.settings.norm} {format_pixels(self.settings.eps)}) ran {', '.join(self.parts)}, "
                f"not its {self.settings.version} version",
            )
        ]

    def describe(self) -> Facts:
        """Return what a robust accuracy must state (`Attack.describe`), and which package runs the attacks.

        Raises ConfigError if no package of AutoAttack can be imported.
        """
        return {
            "norm": self.settings.norm,
            "eps": self.settings.eps,
            "version": f"{self.settings.version} {self.reduction}".rstrip(),
            "parts": list(self.parts),
            "package": describe_package(),
            "steps": 5000 if self.settings.version == "square" else 100,
            "step_size": None,
            "restarts": 1,
        }

    @property
    def _missing_parts(self) -> list[str]:
        return [part for part in self.settings.planned_parts if part not in self.parts]

    def _has_classes_for(self, part: str) -> bool:
        return self.classes >= _FEWEST_CLASSES.get(part, 2)


class _ForwardModule(nn.Module):
    """Presents a function of images as the module that AutoAttack asks for.

    Its logits are stretched to a usual size, and in float32, as are the images that the package gives it: it cannot mix
    types. Where no gradient leads from them to the images, the module's gradient is 0 instead of an error.

    dtype : of the images that `forward` takes.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], stretch: Stretch, dtype: torch.dtype) -> None:
        super().__init__()
        self._call = forward
        self._stretch = stretch
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        logits = replace_infinite(self._stretch(self._call(x.to(self._dtype)))).float()
        is_cut_off = x.requires_grad and torch.is_grad_enabled() and not logits.requires_grad
        return logits + 0 * x.flatten(1).sum(1, keepdim=True) if is_cut_off else logits


def replace_infinite(logits: Tensor) -> Tensor:
    """Return logits (B, C) in which a class masked by -inf is the least likely by 1: losses compare differences."""
    masked = logits.isneginf()
    if not bool(masked.any()):
        return logits
    least = logits.detach().masked_fill(masked, float("inf")).amin(1, keepdim=True)
    return torch.where(masked, least - 1, logits)


def _import_package() -> ModuleType:
    """Import pyautoattack, or else autoattack. Raises ConfigError, with the extra to install, if neither can be."""
    errors = []
    for name in _PACKAGES:
        try:
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            errors.append(error)
    raise explain_missing_package("pyautoattack", "AutoAttack", "eval", errors[0])


def is_installed() -> bool:
    """Return whether a package of AutoAttack is installed. It is not imported, which might fail."""
    return any(importlib.util.find_spec(name) for name in _PACKAGES)


def describe_package() -> str:
    """Return the name and version of the package that runs the attacks, as "pyautoattack 0.2.0".

    Raises ConfigError if none can be imported.
    """
    name = _import_package().__name__
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name}, unknown version"
