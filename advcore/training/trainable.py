"""Which parameters a run trains: all, those of the head, or those of certain names; and the head alone at first."""

import contextlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from torch import nn

from advcore.data.source import Source
from advcore.errors import ConfigError, check, must, require, shorten
from advcore.gradients.last_layer import locate_head
from advcore.runtime.borrow import preserve_modes, set_mode

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer

_ONLY_VECTORS = "null where no weight matrix or kernel trains"


def split_names(trainable: str) -> list[str]:
    """Return the names in the setting `trainable`, which commas separate."""
    return [name.strip() for name in trainable.split(",") if name.strip()]


class TrainedParts:
    """The parameters that train in each epoch; the others, and the modules that hold nothing else, are frozen.

    A module whose parameters are all frozen is in eval mode: BatchNorm keeps its statistics. One that has statistics
    alone goes with the parameters before it. What the caller froze before stays so.
    """

    def __init__(self, trainer: "Trainer", model: nn.Module, source: Source) -> None:
        """Choose the parameters. Raises ConfigError where none is chosen, or a name matches none.

        Cost: one forward pass of two images where the head has to be found.
        """
        trainable = trainer.trainable
        head_epochs = trainer.head_epochs
        self.model = model
        self.head_epochs = head_epochs
        with preserve_modes(model):
            set_mode(model, training=True)  # as training would: a model in eval mode as a whole trains as a whole
            self.modes = [(module, module.training) for module in model.modules()]
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        of_head = set(trained)
        if trainable == "head" or head_epochs:
            parameters = {*locate_head(model, source, trainer.head).parameters()}
            of_head = {name for name, value in trained.items() if value in parameters}
        chosen = set(trained)
        if trainable == "head":
            chosen = of_head
        elif trainable != "all":
            chosen = _match_names(split_names(trainable), list(trained))
        self.trained = chosen
        self.trained_first = chosen & of_head
        if not self.trained_first:
            way_out = "a first phase on the head alone would train nothing" if head_epochs else ""
            raise ConfigError(must("training.trainable", "parameters that there are", trainable, way_out))
        matrices = {name for name, value in model.named_parameters() if value.ndim > 1}
        can_move = bool(matrices & self.trained_first)
        require(check(trainer.awp is None or can_move, "training.awp", _ONLY_VECTORS, trainer.awp))

    def begin_epoch(self, epoch: int) -> None:
        """Unfreeze the parameters of this epoch, and freeze the others."""
        trained = self.trained_first if epoch < self.head_epochs else self.trained
        for name, value in self.model.named_parameters():
            value.requires_grad_(name in trained)
        rests = False
        for module, mode in self.modes:
            parameters = list(module.parameters(recurse=False))
            if parameters:
                rests = not any(value.requires_grad for value in parameters)
            has_state = bool(parameters or list(module.buffers(recurse=False)))
            module.training = mode and not (rests and has_state)


def _match_names(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names that match a pattern, or begin with it as with a module's name."""
    chosen = set()
    for pattern in patterns:
        matches = {name for name in names if fnmatch(name, pattern) or name.startswith(f"{pattern}.")}
        if not matches:
            rule = f"names of parameters or modules, with * for anything, such as {shorten(', '.join(names[:6]))}"
            raise ConfigError(must("training.trainable", rule, pattern))
        chosen |= matches
    return chosen


@contextlib.contextmanager
def preserve_trainable(model: nn.Module) -> Iterator[None]:
    """Restore which parameters require gradients, and each module's mode, also on error."""
    flags = [(value, value.requires_grad) for value in model.parameters()]
    with preserve_modes(model):
        try:
            yield
        finally:
            for value, flag in flags:
                value.requires_grad_(flag)
