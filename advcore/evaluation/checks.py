"""Signs that a robust accuracy is unreliable, as flags for records and tables.

After AutoAttack's checks (Croce and Hein 2020, appendix), Athalye et al. 2018, section 3.1, and Carlini et al. 2019.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.attacks.base import take_input_gradient
from advcore.attacks.geometry import project_linf, step_linf
from advcore.attacks.pgd import LinfPGD
from advcore.data.contract import read_batches
from advcore.deprecation import forward_renamed
from advcore.evaluation.intervals import wilson
from advcore.evaluation.stretch import Stretch, measure_spread
from advcore.objectives.base import compute_margin_loss
from advcore.rng import preserve_random_state
from advcore.runtime.counted import CountedModel
from advcore.runtime.flops import PassCost
from advcore.runtime.precision import measure_precision
from advcore.runtime.states import copy_state, is_same
from advcore.sweep import Sweep
from advcore.types import Flag, Loss

IMAGES = 128  # that the checks of a model look at
FEW_IMAGES = 16  # that are looked at unasked
_SAME = 1e-3  # relative to the size of the logits: a larger difference between equal inputs is not rounding
_ROUNDED = 2.0**-8  # by how much probabilities in half precision may miss the sum of 1
_FLAT = 0.1  # share of examples without a gradient above which it is masked
_WALK = (0.0, 0.125, 0.25, 0.5, 1.0)  # in units of eps, for the walk along the first gradient
_REGAINED = 0.1  # share of examples misclassified on that walk and right further on, above which it is masked
_FAR = 0.2  # by how much a single step leaves more right than many steps, at least, where it misleads
_MISLEADING = 0.4  # share that such a step leaves right, at least: without any defence it may leave less
_NARROW = 3.0  # spread of the logits below which the loss of an attack matters
_COMPARED_STEPS = 20  # of the attacks whose losses are compared
_MORE = 2  # images that the better loss fools, at least
_SCALE = 2.0**14  # of a loss whose gradient does not underflow in float16
_LOST = 0.1  # share of the entries of input gradients that underflow above which it is said


def look_for_underflow(sweep: Sweep, indices: Tensor, *, needed: bool = True) -> list[Flag]:
    """Return the flag of input gradients, if they are needed, that underflow at a few of the examples `indices`."""
    if not needed:
        return []
    spread = indices[:: max(1, len(indices) // FEW_IMAGES)][:FEW_IMAGES]  # data may be sorted by class
    _, x, y = next(read_batches(sweep.model, sweep.source, [spread]))
    with preserve_random_state():
        return flag_underflow(sweep.model, x, y)


def flag_model(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    robust: Tensor | None = None,
    batch_size: int = IMAGES,
) -> list[Flag]:
    """Return the reasons why attacks on this model, in eval mode, may be misled.

    `forward` calls the model, on at most `batch_size` images at once; x (B, C, H, W) and y (B,) are a few images and
    labels. Masking is looked for in the linf ball of radius `eps`; `robust` (B,) bool, if it is known, says which of
    the images an attack of many steps leaves right there.
    Cost: 8 forward passes per image, and one more for each of 8 images alone; one backward pass. Where the logits
    spread little, 41 forward and 40 backward passes more.
    """
    forward = partial(_call_in_pieces, forward, batch_size)
    logits, flags = _look_at_predictions(model, forward, x)
    pieces = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    gradients = [take_input_gradient(_bind_cross_entropy(forward, labels), part)[1] for part, labels in pieces]
    gradient = torch.cat(gradients)
    flags += _flag_gradient(gradient)
    flags += _flag_walk(walk_along(forward, x, y, gradient=gradient, eps=eps), robust)
    if float(measure_spread(logits).median()) < _NARROW:
        by_loss, by_margin = zip(*(_compare_losses(forward, part, labels, eps) for part, labels in pieces), strict=True)
        flags += _flag_scale(torch.cat(by_loss), torch.cat(by_margin))
    return flags


def _look_at_predictions(model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, list[Flag]]:
    """Return the logits of x (B, C, H, W), and the flags of a model that does more than map an image to its logits."""
    flags = []
    before = copy_state(model)
    with torch.no_grad(), _record_autograd() as calls:
        logits = forward(x)
    size = _measure_size(logits)
    after = copy_state(model)
    if calls or not all(is_same(name, before[name], after.get(name)) for name in before):
        flags.append(Flag("dynamic", "the model computes gradients or changes its state during prediction"))
    with torch.no_grad():
        if _differ(forward(x), logits, size):
            flags.append(Flag("randomised", "the same images get different logits in a second pass"))
        elif _differ(_call_in_pieces(forward, 1, x[:8]), logits[:8], size):
            flags.append(Flag("batch-dependent", "an image gets different logits alone and in a batch"))
    if _are_probabilities(logits):
        flags.append(Flag("softmax", "the model returns probabilities, not logits; gradients vanish"))
    return logits, flags


def _call_in_pieces(forward: Callable[[Tensor], Tensor], size: int, x: Tensor) -> Tensor:
    return torch.cat([forward(part) for part in x.split(size)])


def _measure_size(logits: Tensor) -> Tensor:
    """Return the scale for differences of logits: their spread, whatever constant is added to them.

    It is at least so large that two units of rounding make no difference.
    """
    rounding = 2 * measure_precision(logits) / _SAME * logits.amax(1).abs().amax()
    return torch.maximum(measure_spread(logits).amax(), rounding).clamp_min(1e-12)


def _differ(logits: Tensor, others: Tensor, size: Tensor) -> bool:
    """Return whether logits differ by more than rounding; those of masked classes, at -inf in both, do not."""
    return float((logits - others).nan_to_num(0).abs().amax() / size) > _SAME


def _bind_cross_entropy(forward: Callable[[Tensor], Tensor], y: Tensor) -> Loss:
    return partial(_compose, partial(F.cross_entropy, target=y, reduction="none"), forward)


def _compose(outer: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return outer(inner(x))


def _flag_gradient(gradient: Tensor) -> list[Flag]:
    flat = float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
    if flat <= _FLAT:
        return []
    return [Flag("masked", f"{100 * flat:.0f} % of the images have no input gradient")]


def _flag_walk(right: Tensor, robust: Tensor | None) -> list[Flag]:
    """Return the flags of what `walk_along` saw, compared with an attack of many steps in the same ball."""
    flags = []
    regained = _share_regained(right)
    if regained > _REGAINED:
        flags.append(
            Flag(
                "masked",
                f"{100 * regained:.0f} % of the images are misclassified, but correct further along their gradient",
            )
        )
    if robust is None:
        return flags
    single = wilson(int(right[-1].sum()), len(robust))
    many = wilson(int(robust.sum()), len(robust))
    is_far = single.accuracy - many.accuracy >= _FAR and many.interval[1] < single.interval[0]
    if is_far and single.accuracy >= _MISLEADING and many.accuracy <= single.accuracy / 2:
        flags.append(
            Flag(
                "masked",
                f"after a single step of eps along the gradient {100 * single.accuracy:.0f} % are correct, after "
                f"many steps {100 * many.accuracy:.0f} %",
            )
        )
    return flags


def flag_underflow(model: nn.Module, x: Tensor, y: Tensor) -> list[Flag]:
    """Return a flag if input gradients underflow, as those of a model that itself computes in float16 may.

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
    text = f"{100 * share:.0f} % of the input gradient's entries underflow to 0 in the model's float16"
    return [Flag("underflow", text)]


def _count_nothing(kind: str, examples: int, cost: PassCost) -> None:
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


def _compare_losses(forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return which images are right (B,) after PGD on the cross-entropy, as evaluations climb it, and on the margin."""
    attack = LinfPGD(eps=eps, steps=_COMPARED_STEPS, start="clean")
    with torch.no_grad():
        stretch = Stretch.fit(forward(x))
    cross_entropy = _bind_cross_entropy(partial(_compose, stretch, forward), y)
    margin = partial(_compose, partial(compute_margin_loss, y=y), forward)
    ends = [attack.rise(loss, x, x) for loss in (cross_entropy, margin)]
    with torch.no_grad():
        return forward(ends[0]).argmax(1) == y, forward(ends[1]).argmax(1) == y


def _flag_scale(by_loss: Tensor, by_margin: Tensor) -> list[Flag]:
    """Return the flag of an attack on the margin that finds more than one on the cross-entropy, image by image."""
    more = int((by_loss & ~by_margin).sum())
    fewer = int((by_margin & ~by_loss).sum())
    if more < _MORE or more <= 2 * fewer:
        return []
    return [
        Flag(
            "scale",
            f"the spread of the logits is too small for the cross-entropy: of {len(by_loss)} images the same "
            f"attack on the margin fools {more} more, and {fewer} fewer; take the temperature out of the model, or use "
            "autoattack",
        )
    ]


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
    """Return the share of images that a walk along the gradient (`walk_along`) loses and then regains.

    An image counts if it is misclassified at one of its points and right at a later one: a single step misleads there.

    Cost: 5 forward passes per image. Reference: Kim et al. 2021, section 3 (the distorted decision boundary of
    single-step training).
    """
    return _share_regained(walk_along(forward, x, y, gradient=gradient, eps=eps))


def _share_regained(right: Tensor) -> float:
    lost = (~right).cumsum(0) > 0
    return float((right & lost).any(0).double().mean())


def walk_along(forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, gradient: Tensor, eps: float) -> Tensor:
    """Return (5, B) bool: which images are right at 5 points of a walk along their gradient.

    The walk leads from x (B, C, H, W) along the sign of `gradient`, to the edge of the linf ball of radius `eps`.
    """
    with torch.no_grad():
        points = [project_linf(step_linf(x, gradient, eps * part), x, eps) for part in _WALK]
        return torch.stack([forward(point).argmax(1) == y for point in points])


__getattr__ = forward_renamed(
    __name__,
    {name: f"advcore.evaluation.comparisons.{name}" for name in ("flag_order", "flag_weak_settings")},
)
