"""Signs that a robust accuracy is untrustworthy, as flags for records and tables.

After AutoAttack's checks (Croce and Hein 2020, appendix), Athalye et al. 2018, section 3.1, and Carlini et al. 2019.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.attacks.base import take_input_gradient
from advcore.attacks.geometry import LP, project_linf, step_linf
from advcore.data.contract import Batch, read_batches
from advcore.errors import format_count
from advcore.pixels import format_pixels
from advcore.rng import preserve_random_state
from advcore.runtime.counted import CountedModel
from advcore.runtime.precision import measure_precision
from advcore.runtime.states import copy_state, is_same
from advcore.sweep import Sweep
from advcore.types import Flag

IMAGES = 128  # that the checks of a model look at
FEW_IMAGES = 16  # that are looked at unasked
_SAME = 1e-3  # relative to the size of the logits: a larger difference between equal inputs is no rounding
_ROUNDED = 2.0**-8  # by how much probabilities in half precision may miss the sum of 1
_FLAT = 0.1  # share of examples without a gradient above which it is masked
_WALK = (0.0, 0.125, 0.25, 0.5, 1.0)  # in units of eps, for the walk along the first gradient
_REGAINED = 0.1  # share of examples misclassified on that walk and right further on, above which it is masked
_SCALE = 2.0**14  # of a loss whose gradient does not underflow in float16
_LOST = 0.1  # share of the entries of input gradients that underflow above which it is said
_STRONG = 10  # steps below which an evaluation is weak


def look_at_model(
    sweep: Sweep, indices: Tensor, entries: Sequence[dict], *, is_judged: bool, in_full: bool
) -> list[str]:
    """Return the flags of a model that attacks are to judge, by a few of the examples `indices`.

    entries : of the attacks, as in `flag_weak_settings`. is_judged : whether all examples were judged before, so that
    the model is not called at all unless `in_full`. Without `in_full`, only underflow is looked for. Masking is looked
    for in the largest linf ball of the attacks, or one of 8/255.
    """
    flags: list[Flag] = []
    if entries and (in_full or not is_judged):
        _, x, y = _read_spread(sweep, indices, FEW_IMAGES)
        with preserve_random_state():
            flags += flag_underflow(sweep.model, x, y)
    if in_full:
        _, x, y = _read_spread(sweep, indices, IMAGES)
        radii = [entry["eps"] for entry in entries if entry["norm"] == "linf"]
        flags += flag_model(sweep.model, sweep.forward, x, y, eps=max(radii, default=8 / 255))
    return list(map(str, flags))


def _read_spread(sweep: Sweep, indices: Tensor, count: int) -> Batch:
    """Read at most so many of the examples, from all over the data, which may be sorted by class."""
    spread = indices[:: max(1, len(indices) // count)][:count]
    return next(read_batches(sweep.model, sweep.source, [spread]))


def flag_model(
    model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, eps: float
) -> list[Flag]:
    """Return the reasons why attacks on this model, in eval mode, may be misled.

    `forward` calls the model; x (B, C, H, W) and y (B,) are a few images and labels. Masking is looked for in the linf
    ball of radius `eps`.
    Cost: 8 forward passes per image, and one more for each of 8 images alone; one backward pass.
    """
    flags = []
    before = copy_state(model)
    with torch.no_grad(), _record_autograd() as calls:
        logits = forward(x)
    after = copy_state(model)
    if calls or not all(is_same(name, before[name], after.get(name)) for name in before):
        flags.append(Flag("dynamic", "the model computes gradients, or changes itself, while it predicts"))
    tolerance = max(_SAME, 4 * measure_precision(logits))
    with torch.no_grad():
        if measure_difference(forward(x), logits) > tolerance:
            flags.append(Flag("randomised", "the same images get other logits the second time"))
        elif measure_difference(torch.cat([forward(image) for image in x[:8].split(1)]), logits) > tolerance:
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


def flag_underflow(model: nn.Module, x: Tensor, y: Tensor) -> list[Flag]:
    """Return a flag if input gradients underflow, as those of a model that computes in float16 by itself may.

    model : borrowed. x (B, C, H, W), y (B,) : a few images and labels, with which the gradient is taken twice, of the
    loss and of a multiple that is far from underflow. An entry is lost if it is 0 in the first alone.
    Cost: one forward pass of an image; for a model that computes in float16, also two of each, and two backward. They
    are not counted.
    """
    forward = CountedModel(model, _count_nothing)  # which may be stopped between passes
    if not _computes_in_half(forward, x[:1]):
        return []
    plain, scaled = (_take_gradient(forward, scale, y, x) for scale in (1, _SCALE))
    lost = (plain == 0) & (scaled != 0) & torch.isfinite(scaled)
    share = float(lost.double().mean())
    if share <= _LOST:
        return []
    text = f"{100 * share:.0f} % of the input gradient's entries are too small for the model's float16, and 0"
    return [Flag("underflow", text)]


def _count_nothing(kind: str, examples: int) -> None:
    pass


def _take_gradient(forward: Callable[[Tensor], Tensor], scale: float, y: Tensor, x: Tensor) -> Tensor:
    def loss(images: Tensor) -> Tensor:
        return scale * F.cross_entropy(forward(images), y, reduction="none")

    return take_input_gradient(loss, x)[1]


def _computes_in_half(forward: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Return whether any step of autograd from the images x to the logits is in float16."""
    with torch.enable_grad():
        steps = [forward(x.detach().clone().requires_grad_()).grad_fn]
    seen = set(steps)
    while steps:
        step = steps.pop()
        if any(metadata.dtype == torch.float16 for metadata in getattr(step, "_input_metadata", ())):
            return True
        following = {function for function, _ in getattr(step, "next_functions", ())} - seen
        seen |= following
        steps.extend(following)
    return False


def measure_difference(first: Tensor, logits: Tensor) -> float:
    """Return the largest difference between logits (B, C) and the first B of others, relative to the others' largest.

    A class that is masked by -inf in both is equal; in one of them alone, the difference is infinite.
    """
    size = logits.masked_fill(logits.isneginf(), 0).abs().amax().clamp_min(1e-12)
    differences = (first - logits[: len(first)]).abs() / size
    return float(differences.nan_to_num(nan=0, posinf=float("inf")).amax())


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


def flag_faults(entries: Sequence[dict], faults: Sequence[str]) -> list[Flag]:
    """Return a flag for each attack whose gradients have a fault (`GradientWatch`), which is "" for the others."""
    pairs = zip(entries, faults, strict=True)
    return [Flag("masked", f"the gradient that {entry['name']} climbs is {fault}") for entry, fault in pairs if fault]


def flag_order(entries: Sequence[dict]) -> list[Flag]:
    """Return a flag for each pair of results whose order gives masking away, beyond both intervals.

    Either an attack of the same kind, no weaker and in a larger ball, leaves more examples right; or the black box
    leaves fewer right than a white box in the same ball.
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
    return flags


def _has_larger_ball(other: dict, entry: dict) -> bool:
    """Whether `other` is the same attack as `entry`, no weaker, in a larger ball."""
    is_same = all(entry.get(key) == other.get(key) for key in ("name", "norm", "version"))
    is_weaker = any((other.get(key) or 0) < (entry.get(key) or 0) for key in ("steps", "restarts"))
    return is_same and not is_weaker and entry["eps"] < other["eps"]


def _is_black_box_beside(entry: dict, other: dict) -> bool:
    """Whether `entry` is of the black box, and `other` of a white box in the same ball."""
    is_same_ball = all(entry[key] == other[key] for key in ("norm", "eps"))
    return is_same_ball and entry.get("version") == "square" and other.get("version") != "square"
