"""Recompute BatchNorm's running statistics for averaged weights, whose features no network had in training."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from advcore import distributed
from advcore.cost import CostLedger
from advcore.data.augment import augment_images
from advcore.data.contract import read_batches
from advcore.rng import Stream, preserve_random_state
from advcore.runtime.borrow import set_mode
from advcore.runtime.precision import disable_compilation
from advcore.selection.result import Coreset
from advcore.training.batches import split_into_batches
from advcore.training.weight_attack import list_statistics

if TYPE_CHECKING:
    from advcore.training.loop import Run


def recompute_statistics(run: "Run", average: nn.Module, coreset: Coreset | None, epoch: int) -> None:
    """Set the statistics of the BatchNorm layers of an average, in place, to those of an epoch's images, as augmented.

    average : has the modules of `run.model`, and gets their modes: layers frozen in training keep their statistics.
    coreset : what the epoch trains on; None for all data.

    The images are clean: attacking them would cost what the epoch's attacks cost. Cost: one forward pass of each, in
    phase "update"; none for a model without such layers.
    Reference: Izmailov et al. 2018, section 3.1. Differs from torch's `update_bn`: batches count by their sizes.
    """
    set_mode(run.model, training=True)
    for module, twin in zip(run.model.modules(), average.modules(), strict=True):
        twin.training = module.training
    layers = [layer for layer in average.modules() if isinstance(layer, _BatchNorm) and layer.training]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    try:
        # Dropout draws from the global random state, which is that of training.
        draws = Stream(seed=run.seed, purpose=distributed.name_for_process("swa"), epoch=epoch)
        # A compiled pass would be compiled again for each momentum.
        with preserve_random_state(draws), torch.no_grad(), disable_compilation():
            _pass_images(run, average, layers, coreset=coreset, epoch=epoch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    distributed.average(list_statistics(average))


def _pass_images(
    run: "Run", average: nn.Module, layers: list[_BatchNorm], *, coreset: Coreset | None, epoch: int
) -> None:
    """Pass an epoch's batches through the average, so that each layer has the mean of their statistics in the end."""
    stream = partial(Stream, seed=run.seed, epoch=epoch)
    batches = split_into_batches(coreset, run.train, run.trainer.batch_size, stream(purpose="order"))
    parts = list(map(distributed.share_of_batch, batches))
    for layer in layers:
        layer.reset_running_stats()
    seen = 0
    for batch, (indices, x, _) in zip(batches, read_batches(average, run.train, parts), strict=True):
        seen += len(x)
        for layer in layers:
            layer.momentum = len(x) / seen
        ledger = run.out.ledger
        if not distributed.counts_here(batch):
            ledger = CostLedger()
        view = augment_images(run.augment, x, stream(purpose="augment").at(indices))
        with ledger.phase("update", view.device):
            ledger.count_passes(average)(view)
