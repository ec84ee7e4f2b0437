"""Data loaders for other training loops, in which no batch has a single example."""

from collections.abc import Callable, Iterator, Sized
from typing import cast

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from advcore.data.contract import count_chunks, cut_into_chunks

_Loader = Callable[..., DataLoader]


class Batches(BatchSampler):
    """Batches of which the last is never a single example (`cut_into_chunks`): BatchNorm cannot train on one."""

    def __iter__(self) -> Iterator[list[int]]:
        for chunk in cut_into_chunks(torch.tensor(list(self.sampler)), self.batch_size):
            yield chunk.tolist()

    def __len__(self) -> int:
        return sum(count_chunks(len(cast(Sized, self.sampler)), self.batch_size).values())


def build_loader(dataset: Dataset, batch_size: int, *, shuffle: bool, **options: object) -> DataLoader:
    """Return a torch DataLoader, in which a last batch of one example joins the one before it; `options` are torch's.

    Where the options drop the last batch, or determine what is drawn, torch's own batches are used.
    """
    loader: _Loader = DataLoader
    size = len(cast(Sized, dataset))
    is_left_alone = batch_size > 1 and size > 1 and size % batch_size == 1
    if not is_left_alone or options.get("drop_last") or {"sampler", "batch_sampler"} & options.keys():
        return loader(dataset, batch_size, shuffle=shuffle, **options)
    options.pop("drop_last", None)
    sampler: RandomSampler | SequentialSampler = SequentialSampler(cast(Sized, dataset))
    if shuffle:
        sampler = RandomSampler(cast(Sized, dataset), generator=cast("torch.Generator", options.get("generator")))
    return loader(dataset, batch_sampler=Batches(sampler, batch_size, drop_last=False), **options)
