"""Random numbers for tests at little cost: weights of the models they build, and draws of many streams at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.rng import Stream


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed torch's generator on the host within the block; it is as before afterwards.

    `torch.manual_seed` gives the same numbers, but formats the call stack for every kind of device that has not been
    started, which costs 2 ms under pytest.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@dataclass(frozen=True, kw_only=True)
class _SideBySide(Stream):
    """A stream whose examples have a key each."""

    keys: Tensor

    @property
    def key(self) -> Tensor:
        return self.keys


def side_by_side(streams: Sequence[Stream], size: int) -> Stream:
    """A stream that draws, one after the other, what each of the streams draws for examples 0 to size - 1."""
    keys = torch.tensor([stream.key for stream in streams]).repeat_interleave(size)
    return _SideBySide(seed=0, purpose="side by side", keys=keys).at(torch.arange(size).repeat(len(streams)))
