"""Signs in the results of several attacks that their robust accuracies are unreliable, as flags.

After Athalye et al. 2018, section 3.1, and Carlini et al. 2019.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, product

from advcore.attacks.geometry import LP
from advcore.errors import format_count
from advcore.evaluation.intervals import wilson
from advcore.pixels import format_pixels
from advcore.types import Flag

_BLACK_BOX = "square"  # AutoAttack's attack without gradients
_ENSEMBLE_STEPS = 1e9  # which AutoAttack counts as: its parts have several losses
_BROKEN = 0.05  # share of what white boxes leave right that a black box may break, beyond its interval
_STRONG = 10  # steps below which an evaluation is weak


def flag_comparisons(entries: Sequence[dict]) -> list[Flag]:
    """Return all flags of this module; entries : what a record says of each attack and its result."""
    return [*flag_weak_settings(entries), *flag_order(entries), *flag_black_box(entries)]


def flag_faults(entries: Sequence[dict], faults: Sequence[str]) -> list[Flag]:
    """Return a flag for each attack whose gradients have a fault (`GradientWatch`), which is "" for the others."""
    pairs = zip(entries, faults, strict=True)
    return [Flag("masked", f"the gradient that {entry['name']} climbs is {fault}") for entry, fault in pairs if fault]


def flag_weak_settings(entries: Sequence[dict]) -> list[Flag]:
    """Return a flag for each attack whose settings make it weak: few steps, or steps that cannot cross the ball.

    entries : for each attack, its name and what it describes (`Attack.describe`).
    """
    flags = []
    for entry in entries:
        if entry.get("steps") is not None and entry["steps"] < _STRONG:
            flags.append(
                Flag("weak", f"{entry['name']} takes {format_count(entry['steps'], 'step')}, fewer than {_STRONG}")
            )
        if entry["norm"] in LP and entry.get("step_size") is not None:
            reach = entry["steps"] * entry["step_size"]
            if reach < 2 * entry["eps"] * (1 - 1e-6):
                flags.append(
                    Flag("weak", f"{entry['name']} reaches {reach / entry['eps']:.2g} eps, but the ball is 2 eps wide")
                )
    return flags


def flag_order(entries: Sequence[dict]) -> list[Flag]:
    """Return a flag for each pair of results whose order reveals masking, beyond both intervals.

    Either an attack of the same kind, no weaker and in a larger ball, leaves more examples right; or, in the same ball,
    the black box leaves fewer right than a white box, or a weaker attack fewer than a stronger one. A stronger attack
    that leaves fewer right flags the weaker one, whose number is not a tight bound.
    """
    flags = []
    for entry, other in product(entries, repeat=2):
        if entry["interval"][1] >= other["interval"][0]:
            continue
        if _is_black_box_beside(entry, other):
            flags.append(Flag("masked", f"the black box {entry['name']} beats {other['name']} in the same ball"))
        elif _has_larger_ball(other, entry):
            flags.append(
                Flag(
                    "masked",
                    f"{entry['name']} leaves more images correct at eps {format_pixels(other['eps'])} than at "
                    f"{format_pixels(entry['eps'])}",
                )
            )
        elif _is_same_ball(entry, other):
            flags += _flag_disagreement(entry, other)
    return flags


def _flag_disagreement(entry: dict, other: dict) -> list[Flag]:
    """Return the flag of two attacks in the same ball, of which `entry` leaves clearly fewer right than `other`."""
    lead = _count_gradient_steps(entry) - _count_gradient_steps(other)
    if lead == 0 or other.get("version") == _BLACK_BOX:
        return []
    numbers = ", ".join(f"{_name_with_steps(each)}: {each['accuracy']:.3f}" for each in (entry, other))
    if lead < 0:
        return [Flag("masked", f"the weaker attack leaves fewer images correct in the same ball ({numbers})")]
    return [Flag("weak", f"a stronger attack leaves far fewer images correct in the same ball ({numbers})")]


def _name_with_steps(entry: dict) -> str:
    if entry.get("steps") is None:
        return entry["name"]
    return f"{entry['name']} of {format_count(entry['steps'], 'step')}"


def _count_gradient_steps(entry: dict) -> float:
    """Count the gradient steps that an attack may take; AutoAttack as a whole counts as more than any other."""
    if len(entry.get("parts", ())) > 1:
        return _ENSEMBLE_STEPS
    return math.prod(entry.get(key) or 1 for key in ("steps", "restarts", "rounds"))


def _is_same_ball(entry: dict, other: dict) -> bool:
    return all(entry.get(key) == other.get(key) for key in ("norm", "eps", "network", "layers"))


def flag_black_box(entries: Sequence[dict]) -> list[Flag]:
    """Return a flag for each AutoAttack whose black box breaks much of what its white boxes left right.

    entries : of attacks; with parts, `after` gives the accuracy after each. Square attacks what the parts before it
        left: where gradients lead, next to nothing of that can be broken without them.
    """
    flags = []
    for entry in entries:
        after = list(entry.get("after", {}).items())
        for (_, before), (part, accuracy) in pairwise(after):
            left = round(before * entry["n"])
            broken = round((before - accuracy) * entry["n"])
            if part == _BLACK_BOX and left and wilson(broken, left).interval[0] > _BROKEN:
                flags.append(
                    Flag(
                        "masked",
                        f"the black box {part} breaks {format_count(broken, 'image')} of the {left} that the white "
                        f"boxes of {entry['name']} leave correct",
                    )
                )
    return flags


def _has_larger_ball(other: dict, entry: dict) -> bool:
    """Whether `other` is the same attack as `entry`, no weaker, in a larger ball."""
    is_same = all(entry.get(key) == other.get(key) for key in ("name", "norm", "version"))
    is_weaker = any((other.get(key) or 0) < (entry.get(key) or 0) for key in ("steps", "restarts"))
    return is_same and not is_weaker and entry["eps"] < other["eps"]


def _is_black_box_beside(entry: dict, other: dict) -> bool:
    """Whether `entry` is of the black box, and `other` of a white box in the same ball."""
    return _is_same_ball(entry, other) and entry.get("version") == _BLACK_BOX != other.get("version")
