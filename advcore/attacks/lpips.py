"""LPIPS distance over a network's own activations, without learned weights, and the projection onto its ball."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advcore.attacks.base import input_gradient
from advcore.errors import ConfigError, must
from advcore.speed import uncompiled
from advcore.types import Loss

_NORM = 1e-10  # added to a pixel's activation norm (PAT, distances.py)
_TINY = 1e-20  # squared distance at which its gradient is still finite
_NEWTON, _OVERSHOOT, _HALVINGS = 10, 0.1, 10  # PAT, perceptual_attacks.py


def embedding(activations: Iterable[Tensor]) -> Tensor:
    """(B, F) float32: each layer's (B, C, H, W), at unit norm over channels, over sqrt(H W), side by side.

    Reference: Laidlaw et al. 2021 (PAT), section 3; Zhang et al. 2018 (LPIPS), eq. 1 with all weights 1.
    """
    parts = []
    for a in activations:
        a = a.to(torch.promote_types(a.dtype, torch.float32))
        norm = (a.square().sum(1, keepdim=True) + _TINY).sqrt() + _NORM
        parts.append((a / norm / (a.shape[2] * a.shape[3]) ** 0.5).flatten(1))
    return torch.cat(parts, 1)


def between(one: Tensor, other: Tensor) -> Tensor:
    """(B,) distances of embeddings; the gradient is 0 where they are equal."""
    return ((one - other).square().sum(1) + _TINY).sqrt() - _TINY**0.5


_STAGE = re.compile(r"(.*\.)?layer\d+")  # of torchvision's and timm's ResNets


@contextlib.contextmanager
def caught(network: nn.Module, layers: Sequence[str] | None) -> Iterator[Callable[[], list[Tensor]]]:
    """What comes out of the layers in the forward passes inside, each (B, C, H, W).

    layers : dotted names, or the ends of some; None: a ResNet's stages, else, from the first convolution on, the last
        output of each image size above one pixel. Raises ConfigError for unknown names.
    """
    modules = dict(network.named_modules())
    chosen = [_named(name, modules) for name in layers] if layers else [key for key in modules if _STAGE.fullmatch(key)]
    seen: dict[Any, Tensor] = {}

    def keep(key: str | None, first: bool = False) -> Callable:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if not isinstance(out, Tensor) or out.ndim != 4:
                return
            if key or first or (seen and out.shape[2] * out.shape[3] > 1):
                seen[key or tuple(out.shape[2:])] = out

        return hook

    hooks = [modules[key].register_forward_hook(keep(key)) for key in chosen]
    if not chosen:
        is_first = [isinstance(module, nn.Conv2d) for module in modules.values()]
        hooks = [m.register_forward_hook(keep(None, one)) for m, one in zip(modules.values(), is_first, strict=True)]
    try:
        yield lambda: list(seen.values())
    finally:
        for hook in hooks:
            hook.remove()


def _named(name: str, modules: dict[str, nn.Module]) -> str:
    found = [key for key in modules if f".{key}".endswith(f".{name}")]
    if len(found) != 1:
        raise ConfigError(must("layers", f"names of layers ({', '.join(filter(None, modules))})", name))
    return found[0]


class Embedder:
    """Images to embeddings, by the attacked model itself or by a network of its own.

    Parameters
    ----------
    network : whose activations are compared.
    layers : their names; None finds them (`caught`).
    forward : how that network is called, with its passes counted; None: it is the attacked model, which a loss calls.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] | None, forward: Callable[[Tensor], Tensor] | None):
        self._network, self._layers, self._forward = network, layers, forward

    def __call__(self, x: Tensor) -> Tensor:
        """(B, F), by a forward pass that is not counted."""
        return self._caught(lambda: self._network(x.clone()))[1]

    def both(self, loss_fn: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
        """The losses (B,) at x and the embedding (B, F): one pass if the attacked model is the network, else two."""
        if self._forward is not None:
            return loss_fn(x), self.alone(loss_fn, x)
        losses, found = self._caught(lambda: loss_fn(x))
        return losses, found + _nothing(losses)

    def alone(self, loss_fn: Loss, x: Tensor) -> Tensor:
        """The embedding (B, F): one pass."""
        if self._forward is None:
            return self.both(loss_fn, x)[1]
        logits, found = self._caught(lambda: self._forward(x))
        return found + _nothing(logits.sum(1))

    def _caught(self, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        with caught(self._network, self._layers) as seen, uncompiled(in_full=True):  # a ball is not held in bfloat16
            out = run()
        if not seen() or (self._layers and len(seen()) != len(self._layers)):
            raise ConfigError(must("layers", "layers whose output is (B, C, H, W)", self._layers, "name others"))
        return out, embedding(seen())


def _nothing(out: Tensor) -> Tensor:
    """(B, 1) zeros that hang on the network's output, so that a gradient of its embedding alone is counted too."""
    return 0 * out.nan_to_num(0, 0, 0)[:, None]


def project(distance: Loss, x: Tensor, x_adv: Tensor, eps: float) -> Tensor:
    """x_adv within `eps` of x: examples outside follow the distance's gradient inwards, up to 10 Newton steps with
    overshoot 0.1; those still outside go towards x by bisection. Cut to [0, 1].

    distance : images (B, C, H, W) to their distances (B,) from x. Examples inside stay as they are.
    Cost: at most 11 forward and 10 backward passes, and 10 forward passes more.
    Reference: Laidlaw et al. 2021, appendix A.4. Differs: each example alone; their code bisects the whole batch if
    one is outside, and adds up the gradients of its Newton steps.
    """
    x_adv = x_adv.detach().clamp(0, 1)
    for _ in range(_NEWTON):
        found, gradient = input_gradient(distance, x_adv)
        outside = ~(found <= eps)  # NaN is no place inside
        if not bool(outside.any()):
            return x_adv
        squared = gradient.flatten(1).square().sum(1)
        stride = (1 + _OVERSHOOT) * (found - eps) / squared.clamp_min(torch.finfo(squared.dtype).tiny)
        stride = torch.where(outside & torch.isfinite(stride), stride, torch.zeros_like(stride))
        x_adv = (x_adv - stride.view(-1, 1, 1, 1) * gradient.nan_to_num(0, 0, 0)).clamp(0, 1)
    with torch.no_grad():
        return _halved(distance, x, x_adv, distance(x_adv) <= eps, eps)


def _halved(distance: Loss, x: Tensor, x_adv: Tensor, inside: Tensor, eps: float) -> Tensor:
    """Those not `inside` on the way from x, as far as bisection finds them inside."""
    if bool(inside.all()):
        return x_adv
    low, high = torch.zeros_like(x[:, :1, :1, :1]), torch.ones_like(x[:, :1, :1, :1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = (distance(x + middle * (x_adv - x)) <= eps).view_as(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(inside.view(-1, 1, 1, 1), x_adv, x + low * (x_adv - x))
