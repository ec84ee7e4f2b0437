"""Inject faults into the training examples, to study what a selection does with them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from advcore.data.split import Split
from advcore.errors import check_within, require
from advcore.rng import Stream
from advcore.settings import setting, settings
from advcore.shares import apportion

log = logging.getLogger(__name__)

_JITTER = 2  # of 255, the most that a pixel of a near copy moves
_AT_ONCE = 64  # images; what they draw takes 8 bytes per pixel, several times


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

    long_tail: float = setting(default=1, unit="unit-free")
    duplicates: float = setting(default=0, unit="share")
    noise: float = setting(default=0, unit="share")

    def __post_init__(self) -> None:
        require(
            check_within("long_tail", self.long_tail, 1, 1e6),
            check_within("duplicates", self.duplicates, 0, 0.99),
            check_within("noise", self.noise, 0, 0.99),
        )


def inject_faults(split: Split, part: Tensor, faults: Planted, num_classes: int, seed: int) -> tuple[Split, Tensor]:
    """Return the split with faults at the positions `part` (N,), and the positions that remain of them.

    Examples at other positions do not change.
    """
    stream = Stream(seed=seed, purpose="planted")
    part = _cut_to_long_tail(split.labels, part, faults.long_tail, num_classes, stream.child("long_tail"))
    origin = _draw_origins(split.labels, part, faults.duplicates, stream.child("duplicates"))
    labels = _change_labels(split.labels, part, faults.noise, num_classes, stream.child("noise"))
    copies = _Copies(origin, stream.child("jitter"))
    return replace(split, labels=labels, images=partial(_read_copies, split.images, copies)), part


def _cut_to_long_tail(labels: Tensor, part: Tensor, ratio: float, num_classes: int, stream: Stream) -> Tensor:
    """Return the positions of `part` that a long tail leaves, ascending; at least one of each class."""
    if ratio == 1:
        return part
    order = part[stream.at(part).permutation()]
    members = [order[labels[order] == c] for c in range(num_classes)]
    largest = max(map(len, members))
    fractions = [ratio ** (-c / max(num_classes - 1, 1)) for c in range(num_classes)]
    remaining = [
        positions[: max(1, round(largest * fraction))] for positions, fraction in zip(members, fractions, strict=True)
    ]
    return torch.cat(remaining).sort().values


def _draw_origins(labels: Tensor, part: Tensor, share: float, stream: Stream) -> Tensor:
    """Return, for each position of the whole set, the position whose image is there; itself if it is not a copy."""
    origin = torch.arange(len(labels))
    order = part[stream.at(part).permutation()]
    members = [order[labels[order] == c] for c in labels[part].unique()]
    wanted = round(share * len(part))
    counts = apportion(wanted, list(map(len, members)))
    for positions, count in zip(members, counts, strict=True):
        copied = positions[min(count, len(positions) - 1) :]
        replaced = positions[: len(positions) - len(copied)]
        origin[replaced] = copied[torch.arange(len(replaced)) % len(copied)]
    copies = int((origin != torch.arange(len(origin))).sum())
    if copies < wanted:
        log.warning("planted.duplicates: %d copies instead of %d, as one example of each class is kept", copies, wanted)
    return origin


def _change_labels(labels: Tensor, part: Tensor, share: float, num_classes: int, stream: Stream) -> Tensor:
    """Return the labels of the whole set, with a share of those at `part` changed to another class."""
    changed = part[stream.at(part).permutation()][: round(share * len(part))]
    shift = (stream.child("class").at(changed).uniform((len(changed), 1))[:, 0] * (num_classes - 1)).long()
    labels = labels.clone()
    labels[changed] = (labels[changed] + 1 + shift) % num_classes
    return labels


@dataclass(frozen=True)
class _Copies:
    """Which image is at each position (`origin`), and the stream from which copies are jittered."""

    origin: Tensor
    jitter: Stream

    def apply_jitter(self, images: Tensor, positions: Tensor) -> Tensor:
        """Return the images (B, C, H, W) at `positions`, those of copies jittered."""
        is_copy = self.origin[positions] != positions
        copies = images[is_copy]
        shift = (self.jitter.at(positions[is_copy]).uniform(tuple(copies.shape)) * 2 - 1) * _JITTER
        images = images.clone()
        if copies.dtype == torch.uint8:
            images[is_copy] = (copies + shift).round().clamp(0, 255).to(torch.uint8)
        else:
            images[is_copy] = (copies + (shift / 255).to(copies)).clamp(0, 1)
        return images


def _read_copies(read: Callable[[Tensor], Tensor], copies: _Copies, positions: Tensor) -> Tensor:
    """Read the images (B, C, H, W) at `positions`, a bounded number at a time."""
    return torch.cat([copies.apply_jitter(read(copies.origin[part]), part) for part in positions.split(_AT_ONCE)])
