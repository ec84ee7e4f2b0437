"""What the passes of a run cost, in floating-point operations, before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from advcore.data.contract import Source, read_first_images
from advcore.runtime.flops import measure_cost, measure_double
from advcore.training.trainable import TrainedParts
from advcore.training.trainer import Trainer
from advcore.work import Work


@dataclass
class Prices:
    """Floating-point operations of one pass, by its kind (`Work`); each kind is measured when it is asked for.

    model, images : the network, and (B, C, H, W) images like those that it will see.
    trained, trained_first : the parameters that train, and those that train while the head alone does.
    network : of an attack that measures distances by another network than the attacked one; None for none.
    problem : why some passes were not counted; empty where all were.
    """

    model: nn.Module = field(repr=False)
    images: Tensor = field(repr=False)
    trained: Sequence[nn.Parameter] = field(repr=False)
    trained_first: Sequence[nn.Parameter] = field(default=(), repr=False)
    network: nn.Module | None = None
    problem: str = ""
    _known: dict[str, int] = field(default_factory=lambda: {"left_out": 0})

    def price(self, work: Work) -> int | None:
        """Return the operations of this work; None where torch cannot count them, or finds none to count."""
        for kind in work.list_kinds():
            if kind not in self._known:
                self._measure(kind)
        if self.problem:
            return None
        return sum(work.list_kinds(self._known).values()) or None

    def _measure(self, kind: str) -> None:
        """Measure the passes of a kind, and the forward pass before them."""
        model = self.model
        if kind.startswith("other"):
            assert self.network is not None, "an attack that counts passes of another network has one"
            model = self.network
        if kind == "double":
            cost = measure_double(model, self.images, self.trained)
        else:
            parameters = {"to_weights": self.trained, "to_both": self.trained, "to_head": self.trained_first}
            to_images = kind not in ("to_weights", "to_head")
            cost = measure_cost(model, self.images, parameters.get(kind, ()), to_images=to_images)
        self._known[kind] = cost.forward if kind.endswith("forward") else cost.backward
        self.problem = self.problem or cost.problem


def find_prices(trainer: Trainer, model: nn.Module, source: Source) -> Prices:
    """Return what the passes of the trainer's run cost on images of the source.

    Raises ConfigError for names of parameters that the model does not have. Cost: a forward and a backward pass of two
    images for each kind of pass, when it is asked for.
    """
    parts = TrainedParts(trainer, model, source)
    parameters = dict(model.named_parameters())
    attacks = [trainer.attack, trainer.selector and trainer.selector.attack]
    networks = [getattr(attack, "external", None) for attack in attacks]
    return Prices(
        model=model,
        images=read_first_images(model, source),
        trained=[parameters[name] for name in sorted(parts.trained)],
        trained_first=[parameters[name] for name in sorted(parts.trained_first)],
        network=next((network for network in networks if network is not None), None),
    )
