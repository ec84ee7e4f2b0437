"""Signs that a robust accuracy is untrustworthy, as flags for records and tables.

After AutoAttack's checks (Croce and Hein 2020, appendix), Athalye et al. 2018, section 3.1, and Carlini et al. 2019.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.attacks.base import take_input_gradient
from advcore.attacks.geometry import LP, project_linf, step_linf
from advcore.errors import format_count
from advcore.evaluation.intervals import wilson
from advcore.pixels import format_pixels
from advcore.types import Flag

IMAGES = 128  # that the checks of a model look at
_SAME = 1e-3  # relative to the size of the logits: a larger difference between equal inputs is no rounding
_ROUNDED = 2.0**-8  # by how much probabilities in half precision may miss the sum of 1
_FLAT = 0.1  # share of examples without a gradient above which it is masked
_WALK = (0.0, 0.125, 0.25, 0.5, 1.0)  # in units of eps, for the walk along the first gradient
_REGAINED = 0.1  # share of examples misclassified on that walk and right further on, above which it is masked
_BLACK_BOX = "square"  # AutoAttack's attack without gradients
_ENSEMBLE_STEPS = 1e9  # which AutoAttack counts as: its parts have several losses
_BROKEN = 0.01  # share of what white boxes leave right that a black box may break, beyond its interval
_STRONG = 10  # steps below which an evaluation is weak


def flag_model(
    model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, eps: float
) -> list[Flag]:
    """Return the reasons why attacks on this model, in eval mode, may be misled.

    `forward` calls the model; x (B, C, H, W) and y (B,) are a few images and labels. Masking is looked for in the linf
    ball of radius `eps`.
    Cost: 8 forward passes per image, and one more for each of 8 images alone; one backward pass.
    """
    flags = []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), _record_autograd() as calls:
        logits = forward(x)
    size = logits.abs().amax().clamp_min(1e-12)
    after = model.state_dict()
    if calls or any(not torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before):
        flags.append(Flag("dynamic", "the model computes gradients, or changes itself, while it predicts"))
    with torch.no_grad():
        if float((forward(x) - logits).abs().amax() / size) > _SAME:
            flags.append(Flag("randomised", "the same images get other logits the second time"))
        elif float((torch.cat([forward(image) for image in x[:8].split(1)]) - logits[:8]).abs().amax() / size) > _SAME:
            flags.append(Flag("batch-dependent", "an image gets other logits alone than in a batch"))
    if _are_probabilities(logits):
        flags.append(Flag("softmax", "the model returns probabilities, not logits; gradients vanish"))
    _, gradient = take_input_gradient(lambda images: F.cross_entropy(forward(images), y, reduction="none"), x)
    flat = float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
    if flat > _FLAT:
        flags.append(Flag("masked", f"{100 * flat:.0f} % of the images have no input gradient"))
    regained = share_regained(forward, x, y, gradient=gradient, eps=eps)
    if regained > _REGAINED:
        flags.append(
            Flag("masked", f"{100 * regained:.0f} % of the images are lost, and right further along their gradient")
        )
    return flags


def _are_probabilities(logits: Tensor) -> bool:
    sums_to_one = (logits.double().sum(1) - 1).abs().amax() < _ROUNDED
    return bool(sums_to_one) and bool(logits.min() >= 0) and bool(logits.max() <= 1)


@contextlib.contextmanager
def _record_autograd() -> Iterator[list[str]]:
    """Record the names of autograd's functions that are called inside; a plain forward pass calls none.

    Calls by a name that was imported before are recorded too: all of them end in torch's own `_engine_run_backward`.
    """
    calls: list[str] = []
    names = ("grad", "backward", "_engine_run_backward")
    originals = {name: getattr(torch.autograd, name) for name in names if hasattr(torch.autograd, name)}

    def record_call(name: str, *args: object, **kwargs: object) -> object:
        calls.append(name)
        return originals[name](*args, **kwargs)

    vars(torch.autograd).update({name: partial(record_call, name) for name in originals})
    try:
        yield calls
    finally:
        vars(torch.autograd).update(originals)


def share_regained(forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, gradient: Tensor, eps: float) -> float:
    """Return the share of images that a walk along the gradient loses and then regains.

    The walk leads from x (B, C, H, W) along the sign of `gradient`, to the edge of the linf ball of radius `eps`. An
    image counts if it is misclassified at one of its points and right at a later one: a single step misleads there.

    Cost: 5 forward passes per image. Reference: Kim et al. 2021, section 3 (the distorted decision boundary of
    single-step training).
    """
    with torch.no_grad():
        points = [project_linf(step_linf(x, gradient, eps * part), x, eps) for part in _WALK]
        right = torch.stack([forward(point).argmax(1) == y for point in points])
    lost = (~right).cumsum(0) > 0
    return float((right & lost).any(0).double().mean())


def flag_weak_settings(entries: Sequence[dict]) -> list[Flag]:
    """Return a flag for each attack whose settings make it weak: few steps, or steps that cannot cross the ball.

    entries : for each attack, its name and what it describes (`Attack.describe`).
    """
    flags = []
    for entry in entries:
        if entry.get("steps") is not None and entry["steps"] < _STRONG:
            flags.append(
                Flag("weak", f"{entry['name']} takes {format_count(entry['steps'], 'step')}, of at least {_STRONG}")
            )
        if entry["norm"] in LP and entry.get("step_size") is not None:
            reach = entry["steps"] * entry["step_size"]
            if reach < 2 * entry["eps"] * (1 - 1e-6):
                flags.append(
                    Flag("weak", f"{entry['name']} reaches {reach / entry['eps']:.2g} eps, and the ball is 2 eps wide")
                )
    return flags


def flag_order(entries: Sequence[dict]) -> list[Flag]:
    """Return a flag for each pair of results whose order gives masking away, beyond both intervals.

    Either an attack of the same kind, no weaker and in a larger ball, leaves more examples right; or, in the same ball,
    the black box leaves fewer right than a white box, or a weaker attack fewer than a stronger one. A stronger attack
    that leaves fewer right flags the weaker one, whose number is no tight bound.
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
                    f"{entry['name']} leaves more right at eps {format_pixels(other['eps'])} than at "
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
    numbers = ", ".join(f"{each['name']} of {each['steps']} steps: {each['accuracy']:.3f}" for each in (entry, other))
    if lead < 0:
        return [Flag("masked", f"the weaker attack leaves fewer right in the same ball ({numbers})")]
    return [Flag("weak", f"a stronger attack leaves far fewer right in the same ball ({numbers})")]


def _count_gradient_steps(entry: dict) -> float:
    """Count the gradient steps that an attack may take; AutoAttack as a whole counts as more than any other."""
    if len(entry.get("parts", ())) > 1:
        return _ENSEMBLE_STEPS
    return math.prod(entry.get(key) or 1 for key in ("steps", "restarts", "rounds"))


def _is_same_ball(entry: dict, other: dict) -> bool:
    return all(entry.get(key) == other.get(key) for key in ("norm", "eps", "network", "layers"))


def flag_black_box(entries: Sequence[dict]) -> list[Flag]:
    """Return a flag for each AutoAttack whose black box breaks more of what its white boxes left than they should leave.

    entries : of attacks; with parts, `after` gives the accuracy after each. Square attacks what the parts before it
        left: where gradients lead, next to nothing of that can be broken without them.
    """
    flags = []
    for entry in entries:
        after = list(entry.get("after", {}).items())
        for (_, before), (part, accuracy) in pairwise(after):
            left, broken = round(before * entry["n"]), round((before - accuracy) * entry["n"])
            if part == _BLACK_BOX and left and wilson(broken, left).interval[0] > _BROKEN:
                flags.append(
                    Flag(
                        "masked",
                        f"the black box {part} breaks {format_count(broken, 'image')} of the {left} that the white "
                        f"boxes of {entry['name']} leave right",
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
    is_black_box, is_other = (each.get("version") == _BLACK_BOX for each in (entry, other))
    return _is_same_ball(entry, other) and is_black_box and not is_other
