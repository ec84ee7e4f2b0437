"""Lightning: a callback that trains on coresets, chosen anew as the training goes on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

from advcore.errors import ConfigError, at_least, missing_package, must, require
from advcore.selection.coreset import AdversarialCoreset
from advcore.types import Coreset, WeightedSubset

try:
    from lightning.pytorch import Callback
except ImportError as first:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        raise missing_package("lightning", "advcore.integrations.lightning", "lightning", first) from None


class AdversarialCoresetCallback(Callback):
    """All data for the first epochs, then a coreset, chosen with the model as it stands every `period` epochs.

    Batches are (x, y, w) from the first epoch on; the loss is `(w * losses).mean()`. What `train_dataloader` of the
    module or data module returns says which data set, batch size and workers there are; batches are shuffled, and a
    sampler of its own is refused. The trainer must ask for it every epoch:
    `Trainer(reload_dataloaders_every_n_epochs=1)`. Lightning's checkpoints hold the coreset.

    Parameters
    ----------
    selector : what is chosen, and how; any partition but "per_batch".
    warm_epochs : on all data, with weight 1, before the first selection.
    period : epochs from one selection to the next; None selects once.
    seed : of the selections' random numbers.
    dataset : the same examples without augmentation, to select on; None: the loader's own.
    network : the module's part that maps images to logits; by default the module itself.

    Several processes share the attack and get the same coreset; Lightning then cuts it into their shares.
    """

    def __init__(
        self,
        selector: AdversarialCoreset,
        *,
        warm_epochs: int,
        period: int | None = 1,
        seed: int = 0,
        dataset: Dataset | None = None,
        network: Callable[[Any], nn.Module] = lambda module: module,
    ):
        require(
            at_least("warm_epochs", warm_epochs, 0),
            None if period is None else at_least("period", period, 1),
            must("selector.partition", "one that needs no blocks", "per_batch")
            if selector.partition == "per_batch"
            else None,
        )
        self.selector, self.warm_epochs, self.period, self.seed = selector, warm_epochs, period, seed
        self.dataset, self.network = dataset, network
        self.coreset: Coreset | None = None
        self._told: int | None = None
        self._lent: list[tuple[Any, Any]] = []

    def due(self, epoch: int) -> int | None:
        """The epoch whose selection this epoch trains on; None for all data."""
        if epoch < self.warm_epochs:
            return None
        return epoch - (epoch - self.warm_epochs) % (self.period or epoch + 1)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        every = trainer.reload_dataloaders_every_n_epochs
        require(None if every == 1 else must("Trainer(reload_dataloaders_every_n_epochs)", "1", every))
        self.coreset, self._told = None, None
        for owner in (trainer.datamodule, pl_module):
            if owner is not None:
                self._wrap(owner, trainer, pl_module)

    def _wrap(self, owner: Any, trainer: Any, pl_module: Any) -> None:
        """In the place of the owner's `train_dataloader` until the end of the training."""
        own, before = owner.train_dataloader, vars(owner).get("train_dataloader")

        def train_dataloader() -> DataLoader:
            return self._loader(own(), trainer.current_epoch, pl_module)

        owner.train_dataloader = train_dataloader
        self._lent.append((owner, before))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        for owner, before in self._lent:
            del owner.train_dataloader  # the class's own is seen again
            if before is not None:
                owner.train_dataloader = before
        self._lent.clear()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def _loader(self, base: Any, epoch: int, pl_module: Any) -> DataLoader:
        """The epoch's batches, cut as `base` cuts them."""
        if not isinstance(base, DataLoader) or base.batch_size is None:
            rule = "a DataLoader with a batch_size"
            raise ConfigError(must("train_dataloader()", rule, type(base).__name__))
        if not _whole(base):
            rule, way_out = "without a sampler of its own", "the coreset says what is drawn, and with which weight"
            raise ConfigError(must("train_dataloader()", rule, type(base.sampler).__name__, way_out))
        self._told = epoch
        how = ("batch_size", "num_workers", "pin_memory", "drop_last", "collate_fn", "worker_init_fn")
        settings = {name: getattr(base, name) for name in how}
        return DataLoader(self._examples(base.dataset, epoch, pl_module), shuffle=True, **settings)

    def _examples(self, dataset: Dataset, epoch: int, pl_module: Any) -> WeightedSubset:
        due = self.due(epoch)
        if due is None:
            return WeightedSubset(dataset, list(range(len(dataset))), torch.ones(len(dataset)))
        if self.coreset is None or self.coreset.epoch != due:
            plain = dataset if self.dataset is None else self.dataset
            how = {"seed": self.seed, "epoch": due, "previous": self.coreset}
            self.coreset = self.selector.select(self.network(pl_module), plain, **how)
        return self.coreset.subset(dataset)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self._told != trainer.current_epoch:
            way_out = "give the module or the data module a train_dataloader(), and fit() no train_dataloaders"
            raise ConfigError(must("the training data", "asked for at each epoch", "a fixed loader", way_out))
        if self.coreset is not None and self.coreset.epoch == trainer.current_epoch:
            names = ("gradient_error", "gradient_error_random", "effective_sample_size", "weight_sum")
            found = {name: self.coreset.quality[name] for name in names}
            pl_module.log_dict({f"selection/{name}": value for name, value in found.items() if value is not None})

    def state_dict(self) -> dict[str, Any]:
        return {"coreset": self.coreset and self.coreset.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        kept = state_dict["coreset"]
        self.coreset = None if kept is None else Coreset.restored(kept)


def _whole(loader: DataLoader) -> bool:
    """Whether an epoch has every example once."""
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and len(sampler) == len(loader.dataset)
    return isinstance(sampler, SequentialSampler)
