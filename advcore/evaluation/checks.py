"""What makes a robust number untrustworthy, looked for on a few images: one line each, for record and table.

After AutoAttack's checks (Croce and Hein 2020, appendix), Athalye et al. 2018, section 3.1, and Carlini et al. 2019.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.attacks.base import input_gradient
from advcore.attacks.geometry import LP, linf_project, linf_step
from advcore.errors import counted
from advcore.pixels import format_pixels

IMAGES = 128  # that are looked at
_SAME = 1e-3  # of the logits' size: a larger difference between equal inputs is no rounding
_ROUNDED = 2.0**-8  # by how much probabilities in half precision may miss the sum of 1
_FLAT = 0.1  # share of examples without a gradient above which it is masked
_WALK = (0.0, 0.125, 0.25, 0.5, 1.0)  # parts of eps, for the walk along the first gradient
_REGAINED = 0.1  # share of examples misclassified on that walk and right further on, above which it is masked
_STRONG = 10  # steps below which an evaluation is weak


def model_flags(model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float) -> list[str]:
    """What is wrong with the model as a thing to attack; x (B, C, H, W), y (B,), in eval mode; masking is looked for in
    the linf ball of radius eps.

    Cost: 8 forward passes an image, one more for 8 of them, alone; one backward pass.
    """
    flags, before = [], {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), _noted() as calls:
        logits = forward(x)
    size = logits.abs().amax().clamp_min(1e-12)
    after = model.state_dict()
    if calls or any(not torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before):
        flags.append("dynamic: the model computes gradients, or changes itself, while it predicts")
    with torch.no_grad():
        if float((forward(x) - logits).abs().amax() / size) > _SAME:
            flags.append("randomised: the same images get other logits the second time")
        elif float((torch.cat([forward(one) for one in x[:8].split(1)]) - logits[:8]).abs().amax() / size) > _SAME:
            flags.append("batch-dependent: an image gets other logits alone than in a batch")
    if _probabilities(logits):
        flags.append("softmax: the model returns probabilities, not logits; gradients vanish")
    _, gradient = input_gradient(lambda z: F.cross_entropy(forward(z), y, reduction="none"), x)
    flat = float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
    if flat > _FLAT:
        flags.append(f"masked: {100 * flat:.0f} % of the images have no input gradient")
    regained = bent(forward, x, y, gradient, eps)
    if regained > _REGAINED:
        flags.append(f"masked: {100 * regained:.0f} % of the images are lost, and right further along their gradient")
    return flags


def _probabilities(logits: Tensor) -> bool:
    one = (logits.double().sum(1) - 1).abs().amax() < _ROUNDED
    return bool(one) and bool(logits.min() >= 0) and bool(logits.max() <= 1)


@contextlib.contextmanager
def _noted() -> Iterator[list[str]]:
    """Calls of autograd inside; a forward pass has no use for it. Also by a name that was imported before: all of
    them end in torch's own `_engine_run_backward`."""
    calls: list[str] = []
    names = ("grad", "backward", "_engine_run_backward")
    originals = {name: getattr(torch.autograd, name) for name in names if hasattr(torch.autograd, name)}

    def noting(name: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return originals[name](*args, **kwargs)

        return call

    for name in originals:
        setattr(torch.autograd, name, noting(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(torch.autograd, name, original)


def bent(forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, gradient: Tensor, eps: float) -> float:
    """How far one gradient step misleads: the share of images that are misclassified somewhere on the way from x along
    the sign of the gradient, to the edge of the linf ball, and right further on.

    Cost: 5 forward passes an image. Reference: Kim et al. 2021, section 3 (the distorted decision boundary of
    single-step training).
    """
    with torch.no_grad():
        walked = [linf_project(linf_step(x, gradient, eps * part), x, eps) for part in _WALK]
        right = torch.stack([forward(z).argmax(1) == y for z in walked])
    lost = (~right).cumsum(0) > 0
    return float((right & lost).any(0).double().mean())


def strength_flags(attacks: Sequence[dict], names: Sequence[str]) -> list[str]:
    """What the settings that each attack tells make weak; without any attack nothing is claimed."""
    flags = []
    for told, name in zip(attacks, names, strict=True):
        if told.get("steps") is not None and told["steps"] < _STRONG:
            flags.append(f"weak: {name} takes {counted(told['steps'], 'step')}, of at least {_STRONG}")
        if told["norm"] in LP and told.get("step_size") is not None:
            reach = told["steps"] * told["step_size"]
            if reach < 2 * told["eps"] * (1 - 1e-6):
                flags.append(f"weak: {name} reaches {reach / told['eps']:.2g} eps, and the ball is 2 eps wide")
    return flags


def order_flags(entries: Sequence[dict]) -> list[str]:
    """Attacks of one kind, no weaker, in a larger ball that leave more examples right, beyond both intervals; and a
    black box that leaves fewer than the white boxes in its ball."""
    flags = []
    for one in entries:
        for other in entries:
            if _black_box(one) and not _black_box(other) and _ball(one) == _ball(other):
                if one["interval"][1] < other["interval"][0]:
                    flags.append(f"masked: the black box {one['name']} beats {other['name']} in the same ball")
                continue
            same = all(one.get(key) == other.get(key) for key in ("name", "norm", "version"))
            weaker = any((other.get(key) or 0) < (one.get(key) or 0) for key in ("steps", "restarts"))
            if same and one["eps"] < other["eps"] and not weaker and other["interval"][0] > one["interval"][1]:
                flags.append(
                    f"masked: {one['name']} leaves more right at eps {format_pixels(other['eps'])} than at "
                    f"{format_pixels(one['eps'])}"
                )
    return flags


def _black_box(entry: dict) -> bool:
    return entry.get("version") == "square"


def _ball(entry: dict) -> tuple:
    return entry["norm"], entry["eps"]
