"""Random numbers: all draws come from streams, each named by (seed, purpose, epoch) and indexed by example.

A draw is a pure function of the stream's name and the example's index. What an example draws does not depend on its
batch, chunk or rank, nor on earlier draws. The same call twice gives the same numbers; a `child` gives others. No state
is saved, and none has to be restored.

The generator is SplitMix64 (Steele, Lea, Flood 2014, fig. 15), one sequence per example, in int64 tensor arithmetic on
the device of the indices, without waiting for it. Differs: each example's sequence starts at a hash of (key, index)
instead of being split off from another.
"""

import contextlib
import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from advcore.deprecation import forward_renamed
from advcore.errors import require
from advcore.kinds import convert, find_type_problem
from advcore.runtime.device import list_generator_devices, seed_torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right logically, into a new tensor; int64's own shift is arithmetic."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """Scramble the bits of z in place, and return it (Steele, Lea, Flood 2014, fig. 15: mix64)."""
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
    epoch : the epoch in which they are drawn.
    path : names of the children, from the outermost stream to this one.
    indices : (B,) long, the examples that draw; None until bound.
    """

    seed: int
    purpose: str
    epoch: int = 0
    path: tuple = ()
    indices: Tensor | None = field(default=None, repr=False)

    @property
    def key(self) -> int:
        """Return a hash of the stream's name: 64 bits, as a signed int."""
        seed = convert(int, self.seed)
        require(find_type_problem("seed", int, seed))
        name = repr((seed, self.purpose, self.epoch, self.path)).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)

    @property
    def examples(self) -> Tensor:
        """The indices (B,) of the bound examples. Raises ValueError for a stream that is not bound."""
        if self.indices is None:
            raise ValueError("a stream draws for examples: bind it with at(indices) first")
        return self.indices

    def child(self, *names: object) -> "Stream":
        """Return another stream, named by this one and `names`, for the same examples."""
        return replace(self, path=(*self.path, *names))

    def at(self, indices: Tensor) -> "Stream":
        """Bind the stream to examples: `indices` (B,) long, on the device where the draws are wanted."""
        return replace(self, indices=indices)

    def take(self, positions: Tensor | slice) -> "Stream":
        """Keep some of the bound examples: `positions` in the bound indices, or a mask over them."""
        return self.at(self.examples[positions])

    def at_epoch(self, epoch: int) -> "Stream":
        """Return the stream of the same purpose in another epoch."""
        return replace(self, epoch=epoch)

    def bits(self, count: int) -> Tensor:
        """Draw (B, count) long, 64 random bits each. Raises ValueError for a stream that is not bound."""
        start = _mix(_mix((self.examples.to(torch.int64) * _GOLDEN).add_(self.key)))
        steps = torch.arange(1, count + 1, device=start.device, dtype=torch.int64) * _GOLDEN
        return _mix(start[:, None] + steps)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Draw `shape` (B, ...) float32 in [0, 1), multiples of 2^-24."""
        return _shift(self.bits(self._count_per_example(shape)), 40).float().mul_(2.0**-24).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw `shape` (B, ...) float32 from the standard normal distribution (Box-Muller)."""
        count = self._count_per_example(shape)
        bits = self.bits(2 * count)
        radius = _shift(bits[:, :count], 40).float().add_(1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = _shift(bits[:, count:], 40).float().mul_(2 * math.pi * 2.0**-24)
        return radius.mul_(angle.cos_()).reshape(shape)

    def permutation(self) -> Tensor:
        """Draw a random order of the bound examples: their positions, (B,) long."""
        return torch.argsort(self.bits(1)[:, 0], stable=True)

    def _count_per_example(self, shape: tuple[int, ...]) -> int:
        """Return how many numbers each example draws. Raises ValueError unless `shape` begins with B."""
        if self.indices is not None and shape[0] != len(self.indices):
            raise ValueError(f"{len(self.indices)} examples are bound, got shape {tuple(shape)}")
        return math.prod(shape[1:])


@contextlib.contextmanager
def preserve_random_state(stream: Stream | None = None) -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch after the block, also on error.

    stream : seeds all three inside; None leaves them as they are. For layers that draw from the global state (dropout,
        noise, initialisation), so that they do not depend on it either.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=list_generator_devices()):
        if stream is not None:
            seed_torch(stream.key)
            random.seed(stream.key)
            np.random.seed(stream.key % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


# names of the last release
__getattr__ = forward_renamed(
    __name__,
    {
        "preserved": "advcore.rng.preserve_random_state",
    },
)
