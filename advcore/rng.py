"""Randomness by name: a stream is (seed, purpose, epoch), indexed by example; the only source of draws.

A draw is a pure function of the stream's name and the example's index: what an example draws does not
depend on its batch, chunk, rank, or on what was drawn before. Asking twice gives the same numbers; a
second, different draw is asked of a `child`. Nothing is saved and nothing has to be restored.

The generator is SplitMix64 (Steele, Lea, Flood 2014, fig. 15), one sequence an example, in int64 tensor
arithmetic on the device of the indices: no state, no host sync. Differs: each example's sequence starts
at a hash of (key, index) instead of being split off.
"""

import contextlib
import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from advcore.device import seed_torch, with_generators

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right logically, into a new tensor; int64's own shift is arithmetic."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """Scramble the bits of z, in place (Steele, Lea, Flood 2014, fig. 15: mix64)."""
    z.bitwise_xor_(_shift(z, 30)).mul_(_MIX_1)
    z.bitwise_xor_(_shift(z, 27)).mul_(_MIX_2)
    return z.bitwise_xor_(_shift(z, 31))


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A named source of random numbers, bound to example indices by `at`.

    Parameters
    ----------
    seed : the run's seed, any int.
    purpose : what the numbers are for, such as "attack".
    epoch : when.
    path : names of the children that led here.
    indices : (B,) long, the examples that draw; None until bound.
    """

    seed: int
    purpose: str
    epoch: int = 0
    path: tuple = ()
    indices: Tensor | None = None

    @property
    def key(self) -> int:
        """64 bits that name the stream, as a signed int."""
        name = repr((int(self.seed), self.purpose, self.epoch, self.path)).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)

    def child(self, *names) -> "Stream":
        """A stream of its own below this one, for the same examples."""
        return replace(self, path=(*self.path, *names))

    def at(self, indices: Tensor) -> "Stream":
        """Bind to examples: `indices` (B,) long, on the device where the draws are wanted."""
        return replace(self, indices=indices)

    def take(self, positions: Tensor) -> "Stream":
        """Keep some of the bound examples: positions or a mask into the bound indices."""
        return self.at(self.indices[positions])

    def at_epoch(self, epoch: int) -> "Stream":
        """The same purpose at another time."""
        return replace(self, epoch=epoch)

    def bits(self, count: int) -> Tensor:
        """(B, count) long, 64 random bits each."""
        if self.indices is None:
            raise ValueError("a stream draws for examples: bind it with at(indices) first")
        start = _mix(_mix((self.indices.to(torch.int64) * _GOLDEN).add_(self.key)))
        steps = torch.arange(1, count + 1, device=start.device, dtype=torch.int64) * _GOLDEN
        return _mix(start[:, None] + steps)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """`shape` (B, ...) float32 in [0, 1), multiples of 2^-24."""
        return _shift(self.bits(self._count(shape)), 40).float().mul_(2.0**-24).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """`shape` (B, ...) float32, standard normal (Box-Muller)."""
        count = self._count(shape)
        bits = self.bits(2 * count)
        radius = _shift(bits[:, :count], 40).float().add_(1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = _shift(bits[:, count:], 40).float().mul_(2 * math.pi * 2.0**-24)
        return radius.mul_(angle.cos_()).reshape(shape)

    def permutation(self) -> Tensor:
        """(B,) long: a random order of the bound examples' positions."""
        return torch.argsort(self.bits(1)[:, 0], stable=True)

    def _count(self, shape: tuple[int, ...]) -> int:
        if self.indices is not None and shape[0] != len(self.indices):
            raise ValueError(f"{len(self.indices)} examples are bound, got shape {tuple(shape)}")
        return math.prod(shape[1:])


@contextlib.contextmanager
def preserved(stream: Stream | None = None) -> Iterator[None]:
    """Leave the global random states of python, numpy and torch as they were, also on error.

    Given a stream, all are seeded from it inside: for layers that draw by themselves (dropout, noise,
    initialisation), so that they do not depend on the global state either.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=with_generators()):
        if stream is not None:
            seed_torch(stream.key)
            random.seed(stream.key)
            np.random.seed(stream.key % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
