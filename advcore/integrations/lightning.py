"""Lightning: a callback that trains on coresets, and selects a new one every few epochs."""

from collections.abc import Callable, Sized
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, Subset

from advcore.data.contract import MapStyle
from advcore.data.loaders import build_loader
from advcore.data.samples import count_examples
from advcore.errors import ConfigError, check, check_at_least, must, require, require_package, unless
from advcore.kinds import accept_arguments
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.result import Coreset, WeightedSubset

with require_package("lightning", "advcore.integrations.lightning", "lightning"):
    try:
        from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
    except ImportError as first:
        try:
            from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
        except ImportError:
            raise first from None


_TAKE_WEIGHTS = (
    "advcore: batches are (x, y, w); take all three in training_step and return (w * losses).mean(), or give "
    "AdversarialCoresetCallback(weighted=False) for batches (x, y), drawn in proportion to the weights"
)


class AdversarialCoresetCallback(Callback):
    """Train on all data at first, then on a coreset that is selected with the current model every `period` epochs.

    Batches are (x, y, w) from the first epoch on; the loss is `(w * losses).mean()`. With `weighted=False` they are
    (x, y), for a module whose loss is a mean without weights, and examples are drawn by theirs.

    The loader that `train_dataloader` of the module or data module returns decides the data set, the batch size and the
    workers. Batches are shuffled, and a loader with a sampler that does anything else is refused. The trainer must ask
    for the loader every epoch: `Trainer(reload_dataloaders_every_n_epochs=1)`. Lightning's checkpoints include the
    coreset.

    Parameters
    ----------
    selector : what is selected, and how; any partition but "per_batch".
    warm_epochs : on all data, with weight 1, before the first selection.
    period : epochs from one selection to the next; None selects once.
    seed : of the selections' random numbers.
    dataset : the same examples without augmentation, to select on; None: the loader's data set.
    network : returns the module's part that maps images to logits; by default the module itself.
    weighted : False draws each epoch's examples from the coreset in proportion to their weights (`Coreset.draw`).

    Several processes share the attack and get the same coreset; Lightning then divides it between them.
    """

    @accept_arguments
    def __init__(
        self,
        selector: AdversarialCoreset,
        *,
        warm_epochs: int,
        period: int | None = 1,
        seed: int = 0,
        dataset: MapStyle | Dataset | None = None,
        network: Callable[[LightningModule], nn.Module] = lambda module: module,
        weighted: bool = True,
    ):
        needs_no_blocks = selector.partition != "per_batch"
        require(
            check_at_least("warm_epochs", warm_epochs, 0),
            unless(period is None, check_at_least("period", period, 1)),
            check(needs_no_blocks, "selector.partition", "one that needs no blocks", "per_batch"),
        )
        if dataset is not None:
            count_examples(dataset)
        self.selector, self.seed = selector, seed
        self.warm_epochs, self.period = warm_epochs, period
        self.dataset, self.network, self.weighted = dataset, network, weighted
        self.coreset: Coreset | None = None
        self._loader_epoch: int | None = None  # the last epoch whose loader Lightning asked for
        # owner, and its own `train_dataloader` if it had one
        self._replaced: list[tuple[LightningModule | LightningDataModule, object]] = []

    def selection_epoch(self, epoch: int) -> int | None:
        """Return the epoch whose selection this epoch trains on; None for an epoch on all data."""
        if epoch < self.warm_epochs:
            return None
        return epoch - (epoch - self.warm_epochs) % (self.period or epoch + 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        every = trainer.reload_dataloaders_every_n_epochs
        require(check(every == 1, "Trainer(reload_dataloaders_every_n_epochs)", "1", every))
        self.coreset = self._loader_epoch = None
        for owner in (trainer.datamodule, pl_module):
            if owner is not None:
                self._replace_loader(owner, trainer, pl_module)

    def _replace_loader(
        self, owner: LightningModule | LightningDataModule, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Replace the owner's `train_dataloader` until the training ends."""
        original = owner.train_dataloader
        self._replaced.append((owner, vars(owner).get("train_dataloader")))

        def train_dataloader() -> DataLoader:
            return self._build_loader(original(), trainer.current_epoch, pl_module)

        owner.train_dataloader = train_dataloader

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for owner, original in self._replaced:
            del owner.train_dataloader  # the method of the class is visible again
            if original is not None:
                owner.train_dataloader = original
        self._replaced.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")
        if self.weighted and "values to unpack (expected 2)" in str(exception):
            exception.add_note(_TAKE_WEIGHTS)

    def _build_loader(self, base: object, epoch: int, pl_module: LightningModule) -> DataLoader:
        """Return a loader of the epoch's examples, with the settings of the user's loader."""
        if not isinstance(base, DataLoader) or base.batch_size is None:
            raise ConfigError(must("train_dataloader()", "a DataLoader with a batch_size", type(base).__name__))
        if not _draws_each_once(base):
            name, way_out = type(base.sampler).__name__, "the coreset determines what is drawn, and with which weight"
            raise ConfigError(must("train_dataloader()", "without its own sampler", name, way_out))
        self._loader_epoch = epoch
        names = ("batch_size", "num_workers", "pin_memory", "drop_last", "collate_fn", "worker_init_fn")
        settings = {name: getattr(base, name) for name in names}
        return build_loader(self._choose_examples(base.dataset, epoch, pl_module), shuffle=True, **settings)

    def _choose_examples(self, dataset: Dataset, epoch: int, pl_module: LightningModule) -> Dataset:
        """Return the examples that the epoch trains on, after a selection if one is due."""
        selection_epoch = self.selection_epoch(epoch)
        if selection_epoch is None and not self.weighted:
            return dataset
        if selection_epoch is None:
            size = _count_examples(dataset)
            return WeightedSubset(dataset, list(range(size)), torch.ones(size))
        if self.coreset is None or self.coreset.epoch != selection_epoch:
            plain = dataset if self.dataset is None else self.dataset
            self.coreset = self.selector.select(
                self.network(pl_module), plain, seed=self.seed, epoch=selection_epoch, previous=self.coreset
            )
        weighted = self.coreset.subset(dataset)  # which refuses other data than were selected from
        if self.weighted:
            return weighted
        return Subset(dataset, self.coreset.draw(seed=self.seed, epoch=epoch).tolist())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loader_epoch != trainer.current_epoch:
            way_out = "give the module or the data module a train_dataloader(), and fit() no train_dataloaders"
            raise ConfigError(must("the training data", "asked for at each epoch", "a fixed loader", way_out))
        if self.coreset is not None and self.coreset.epoch == trainer.current_epoch:
            names = ("gradient_error", "gradient_error_random", "effective_sample_size", "weight_sum")
            values = {f"selection/{name}": self.coreset.quality[name] for name in names}
            pl_module.log_dict({name: value for name, value in values.items() if value is not None})

    def state_dict(self) -> dict[str, object]:
        return {"coreset": self.coreset and self.coreset.state()}

    def load_state_dict(self, state_dict: dict[str, dict | None]) -> None:
        state = state_dict["coreset"]
        self.coreset = None
        if state is not None:
            self.coreset = Coreset.from_state(state)


def _count_examples(dataset: Dataset) -> int:
    return len(cast("Sized", dataset))  # torch's class has no length; every map-style data set has


def _draws_each_once(loader: DataLoader) -> bool:
    """Return whether an epoch has every example once."""
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and len(sampler) == _count_examples(loader.dataset)
    return isinstance(sampler, SequentialSampler)
