"""How many examples a method's data have, and what the passes of its network cost: what a plan of its runs needs."""

from dataclasses import dataclass, field

import torch

from advcore.config.schema import RunConfig
from advcore.data.base import DataSettings, find_path
from advcore.data.pool import name_pool
from advcore.run import build
from advcore.run.prepare import load_networks
from advcore.training.prices import Prices, find_prices


@dataclass(frozen=True)
class Extent:
    """train, held_out, pool : numbers of examples. prices : what passes cost; None compares passes."""

    train: int
    held_out: int = 0
    prices: Prices | None = None
    pool: int = 0


@dataclass
class Extents:
    """Finds the extent of methods; each data set is read once, and each network built once."""

    _known: dict[str, Extent] = field(default_factory=dict)

    def __call__(self, config: RunConfig) -> Extent:
        """Return the extent of a method's data and network, which is built with random weights.

        Raises DataError for data that are not there, CheckpointError for a missing run whose network an attack measures
        distances with.
        """
        training = config.training
        attacks = [config.attack, config.selection and config.selection.attack]
        networks = [getattr(attack, "network", None) for attack in attacks]
        key = str((config.data, config.model, training.trainable, training.head_epochs, networks))
        if key not in self._known:
            self._known[key] = _measure(config)
        return self._known[key]


def _measure(config: RunConfig) -> Extent:
    device = torch.device("cpu")
    data, train, held_out = config.data.sketch()
    model = build.build_model(config, data, device)
    trainer = build.build_trainer(load_networks(config, data, device))
    return Extent(train, held_out, find_prices(trainer, model, data.train), _count_pool(config.data))


def _count_pool(data: DataSettings) -> int:
    """Return how many images the pool has, if there is one; their labels are read."""
    if data.pool is None:
        return 0
    with name_pool():
        return len(data.pool.read(data, find_path(data.pool.path)).labels)
