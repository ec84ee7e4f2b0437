"""Faults put into the training examples on purpose: to see what a selection does with them."""

import logging
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from advcore.apportion import largest_remainder
from advcore.data.source import item_of
from advcore.errors import require, within
from advcore.rng import Stream
from advcore.types import settings

log = logging.getLogger(__name__)

_JITTER = 2  # of 255, the most that a pixel of a near copy moves
_AT_ONCE = 1024  # images; what they draw takes 8 bytes a pixel, several times


@settings
class Planted:
    """What is wrong with the training examples; validation and test examples stay as they are.

    Parameters
    ----------
    long_tail : examples of the first class for one of the last, from 1 to 1e6; the classes between them fall
        geometrically (Cui et al. 2019, section 5.1).
    duplicates : share of the examples, in [0, 0.99], that give way to near copies of others of their class, each copied
        equally often; every pixel of a copy moves by up to 2/255. One example of each class stays.
    noise : share of the examples, in [0, 0.99], whose label becomes another class's, drawn uniformly.

    Raises ConfigError for values out of range. Applied in this order, seeded by `split_seed`.
    """

    long_tail: float = 1
    duplicates: float = 0
    noise: float = 0

    def __post_init__(self):
        require(
            within("long_tail", self.long_tail, 1, 1e6),
            within("duplicates", self.duplicates, 0, 0.99),
            within("noise", self.noise, 0, 0.99),
        )


def plant(split, part: Tensor, faults: Planted, num_classes: int, seed: int):
    """`split` (a `Split`) with faults at the positions `part` (N,), and the positions that are left; no other position
    changes."""
    stream = Stream(seed=seed, purpose="planted")
    part = _tailed(split.labels, part, faults.long_tail, num_classes, stream.child("long_tail"))
    origin = _origins(split.labels, part, faults.duplicates, stream.child("duplicates"))
    labels = _mislabelled(split.labels, part, faults.noise, num_classes, stream.child("noise"))
    jitter, images, dataset = stream.child("jitter"), split.images, split.dataset
    if images is not None:
        images = lambda positions: torch.cat(  # noqa: E731
            [_copied(split.images(origin[own]), own, origin, jitter) for own in positions.split(_AT_ONCE)]
        )
    if dataset is not None:
        dataset = _Faulty(dataset, labels, origin, jitter)
    return replace(split, labels=labels, images=images, dataset=dataset), part


def _tailed(labels: Tensor, part: Tensor, ratio: float, num_classes: int, stream: Stream) -> Tensor:
    """The positions that a long tail leaves of `part`, ascending; at least one of each class."""
    if ratio == 1:
        return part
    order = part[stream.at(part).permutation()]
    members = [order[labels[order] == c] for c in range(num_classes)]
    largest = max(map(len, members))
    falls = [ratio ** (-c / max(num_classes - 1, 1)) for c in range(num_classes)]
    return torch.cat([m[: max(1, round(largest * fall))] for m, fall in zip(members, falls, strict=True)]).sort().values


def _origins(labels: Tensor, part: Tensor, share: float, stream: Stream) -> Tensor:
    """(whole set,) long: whose image stands at each position; its own where it is no copy."""
    origin = torch.arange(len(labels))
    classes = labels[part].unique()
    order = part[stream.at(part).permutation()]
    members = [order[labels[order] == c] for c in classes]
    for own, count in zip(members, largest_remainder(round(share * len(part)), list(map(len, members))), strict=True):
        kept = own[min(count, len(own) - 1) :]
        replaced = own[: len(own) - len(kept)]
        origin[replaced] = kept[torch.arange(len(replaced)) % len(kept)]
    wanted, made = round(share * len(part)), int((origin != torch.arange(len(origin))).sum())
    if made < wanted:
        log.warning("planted.duplicates: %d copies instead of %d, as one example of each class stays", made, wanted)
    return origin


def _mislabelled(labels: Tensor, part: Tensor, share: float, num_classes: int, stream: Stream) -> Tensor:
    """Labels of the whole set, a share of those at `part` changed to another class."""
    changed = part[stream.at(part).permutation()][: round(share * len(part))]
    shift = (stream.child("class").at(changed).uniform((len(changed), 1))[:, 0] * (num_classes - 1)).long()
    labels = labels.clone()
    labels[changed] = (labels[changed] + 1 + shift) % num_classes
    return labels


def _copied(images: Tensor, positions: Tensor, origin: Tensor, stream: Stream) -> Tensor:
    """Images (B, C, H, W) that stand at `positions`, those of copies jittered."""
    copy = origin[positions] != positions
    own = images[copy]
    moved = (stream.at(positions[copy]).uniform(tuple(own.shape)) * 2 - 1) * _JITTER
    images = images.clone()
    if own.dtype == torch.uint8:
        images[copy] = (own + moved).round().clamp(0, 255).to(torch.uint8)
    else:
        images[copy] = (own + (moved / 255).to(own)).clamp(0, 1)
    return images


class _Faulty(Dataset):
    """A map-style data set with faults."""

    def __init__(self, dataset: Dataset, labels: Tensor, origin: Tensor, jitter: Stream):
        self.dataset, self.labels, self.origin, self.jitter = dataset, labels, origin, jitter

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = item_of(self.dataset, int(self.origin[i]))[0]
        return _copied(image[None], torch.tensor([i]), self.origin, self.jitter)[0], int(self.labels[i])
