"""LPIPS distance over a network's own activations, without learned weights, and the projection onto its ball."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from advcore.attacks.base import take_input_gradient
from advcore.errors import ConfigError, check, must, require
from advcore.runtime.precision import disable_compilation
from advcore.types import Loss, check_losses

_NORM = 1e-10  # added to a pixel's activation norm (PAT, distances.py)
_TINY = 1e-20  # squared distance at which its gradient is still finite
_NEWTON_STEPS = 10  # this and the next two as in PAT, perceptual_attacks.py
_OVERSHOOT = 0.1
_HALVINGS = 10


def embed_activations(activations: Iterable[Tensor]) -> Tensor:
    """Join the activations (B, C, H, W) of several layers into embeddings (B, F), in float32 or wider.

    Each pixel's activations are scaled to unit norm over channels, then divided by sqrt(H W).

    Reference: Laidlaw et al. 2021 (PAT), section 3; Zhang et al. 2018 (LPIPS), eq. 1 with all weights 1.
    """
    return torch.cat([_embed_layer(a.to(torch.promote_types(a.dtype, torch.float32))) for a in activations], 1)


def _embed_layer(a: Tensor) -> Tensor:
    norm = (a.square().sum(1, keepdim=True) + _TINY).sqrt() + _NORM
    return (a / norm / (a.shape[2] * a.shape[3]) ** 0.5).flatten(1)


def compare_embeddings(embeddings: Tensor, others: Tensor) -> Tensor:
    """Compute the distances (B,) of embeddings (B, F) to others; the gradient is 0 where they are equal."""
    return ((embeddings - others).square().sum(1) + _TINY).sqrt() - _TINY**0.5


_STAGE = re.compile(r"(.*\.)?layer\d+")  # names of the stages of torchvision's and timm's ResNets


@contextlib.contextmanager
def catch_activations(network: nn.Module, layers: Sequence[str] | None) -> Iterator[Mapping[object, Tensor]]:
    """Catch what the layers return, each (B, C, H, W), in the forward passes inside.

    layers : dotted names, or the ends of some; None: a ResNet's stages, else, from the first convolution on, the last
        output of each image size above one pixel. Raises ConfigError for unknown names.

    The mapping has one activation for each layer, or for each image size.
    """
    modules = dict(network.named_modules())
    names = [_complete_name(name, modules) for name in layers or ()]
    if not layers:
        names = [name for name in modules if _STAGE.fullmatch(name)]
    activations: dict[object, Tensor] = {}

    def catch(name: str, module: nn.Module, args: tuple, out: object) -> None:
        if not isinstance(out, Tensor) or out.ndim != 4:
            return
        height, width = out.shape[2:]
        if names:
            activations[name] = out
        elif isinstance(module, nn.Conv2d) or (activations and height * width > 1):
            activations[height, width] = out

    with contextlib.ExitStack() as hooks:
        for name in names or modules:
            hooks.enter_context(modules[name].register_forward_hook(partial(catch, name)))
        yield activations


def _complete_name(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the dotted name of the only module whose name ends in `name`; raise ConfigError if there is not one."""
    matches = [key for key in modules if f".{key}".endswith(f".{name}")]
    require(check(len(matches) == 1, "layers", f"names of layers ({', '.join(filter(None, modules))})", name))
    return matches[0]


@dataclass(frozen=True)
class Embedder:
    """Computes embeddings of images, by the attacked model itself or by another network.

    Parameters
    ----------
    network : the network whose activations are compared.
    layers : their names; None finds them (`catch_activations`).
    forward : how that network is called, with its passes counted; None: it is the attacked model, which a loss calls.

    Raises ConfigError for names of layers that the network does not have.
    """

    network: nn.Module
    layers: Sequence[str] | None
    forward: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        with catch_activations(self.network, self.layers):
            pass  # the names are looked up

    def __call__(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, F) of x, by a forward pass that is not counted."""
        return self.run(self.network, x.clone())[1]

    def run(self, function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `function(x)`, which calls the network, and the embeddings of the activations in it."""
        # in full precision: bfloat16 is too coarse to hold a point inside a ball
        with catch_activations(self.network, self.layers) as activations, disable_compilation(in_full=True):
            out = function(x)
        if not activations or (self.layers and len(activations) != len(self.layers)):
            raise ConfigError(must("layers", "layers whose output is (B, C, H, W)", self.layers, "choose other layers"))
        return out, embed_activations(activations.values())


class View:
    """Images near clean ones x (B, C, H, W), as a perceptual attack sees them.

    `clean_losses` (B,) and `clean_embeddings` (B, F) are those of x. Cost: what `measure` takes at x.
    """

    def __init__(self, embedder: Embedder, loss_fn: Loss, x: Tensor) -> None:
        self._embedder = embedder
        self._loss_fn = loss_fn
        with torch.no_grad():
            self.clean_losses, self.clean_embeddings = self.measure(x)

    def measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (B,) and embeddings (B, F) of images.

        Cost: one pass if the attacked model is the network; else one of the network, and one for the losses.
        """
        if self._embedder.forward is not None:
            return check_losses(self._loss_fn(images), images), self.embed(images)
        losses, embeddings = self._embedder.run(self._loss_fn, images)
        check_losses(losses, images)
        return losses, embeddings + _make_zeros(losses)

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, F) alone, by one pass of the network."""
        if self._embedder.forward is None:
            return self.measure(images)[1]
        logits, embeddings = self._embedder.run(self._embedder.forward, images)
        return embeddings + _make_zeros(logits.sum(1))

    def measure_distances(self, images: Tensor) -> Tensor:
        """Return the distances (B,) of images from the clean ones, by one pass of the network."""
        return compare_embeddings(self.embed(images), self.clean_embeddings)


def _make_zeros(out: Tensor) -> Tensor:
    """Return (B, 1) zeros that depend on the network's output, so that a gradient of embeddings alone is counted."""
    return 0 * out.nan_to_num(0, 0, 0)[:, None]


def project(distance: Loss, x: Tensor, x_adv: Tensor, eps: float) -> Tensor:
    """Move x_adv to a distance of at most `eps` from x, and into [0, 1]; examples inside are only cut to [0, 1].

    Examples outside follow the distance's gradient inwards, up to 10 Newton steps with overshoot 0.1; those still
    outside go towards x by bisection. `distance` is a function of images (B, C, H, W) to their distances (B,) from x.

    Cost: at most 11 forward and 10 backward passes, and 10 forward passes more.
    Reference: Laidlaw et al. 2021, appendix A.4. Differs: each example alone; their code bisects the whole batch if
    one is outside, and adds up the gradients of its Newton steps.
    """
    x_adv = x_adv.detach().clamp(0, 1)
    for _ in range(_NEWTON_STEPS):
        distances, gradient = take_input_gradient(distance, x_adv)
        outside = ~(distances <= eps)  # so that NaN counts as outside
        if not bool(outside.any()):
            return x_adv
        squared = gradient.flatten(1).square().sum(1)
        stride = (1 + _OVERSHOOT) * (distances - eps) / squared.clamp_min(torch.finfo(squared.dtype).tiny)
        stride = torch.where(outside & torch.isfinite(stride), stride, torch.zeros_like(stride))
        x_adv = (x_adv - stride.view(-1, 1, 1, 1) * gradient.nan_to_num(0, 0, 0)).clamp(0, 1)
    with torch.no_grad():
        inside = distance(x_adv) <= eps
        if bool(inside.all()):
            return x_adv
        return torch.where(inside.view(-1, 1, 1, 1), x_adv, _bisect(distance, x, x_adv, eps))


def _bisect(distance: Loss, x: Tensor, x_adv: Tensor, eps: float) -> Tensor:
    """Return, for each example, the farthest point from x towards x_adv that bisection finds inside the ball."""
    low, high = torch.zeros_like(x[:, :1, :1, :1]), torch.ones_like(x[:, :1, :1, :1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = (distance(x + middle * (x_adv - x)) <= eps).view_as(middle)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return x + low * (x_adv - x)
