"""Systematic sampling: a draw of fixed size in which each example's probability is known before it."""

import torch
from torch import Tensor

from advcore.rng import Stream

_WHOLE = 2**40  # a length of 1


def compute_inclusion(preferences: Tensor, k: int) -> Tensor:
    """Return (B,) min(1, c p): probabilities in proportion to the preferences p (B,), with c so that they sum to k.

    preferences : above 0, float64. k : 1 to B. Cost O(B log B).
    Reference: Särndal, Swensson, Wretman 1992, section 3.6.1 (largest ones taken with certainty).
    """
    order = torch.argsort(preferences, descending=True, stable=True)
    largest = preferences[order]
    rest = largest.flip(0).cumsum(0).flip(0)[:k]  # sum of all from the t-th on, t the number that are certain
    scale = (k - torch.arange(k, device=rest.device)) / rest
    fits = scale * largest[:k] <= 1 + 1e-12
    certain = fits.long().argmax(0, keepdim=True)  # the first t whose largest uncertain probability is at most 1
    probabilities = (scale[certain] * preferences).clamp_max(1)
    return torch.where(preferences > largest[certain], torch.ones_like(probabilities), probabilities)


def draw_systematically(inclusion: Tensor, k: int, generator: Stream) -> Tensor:
    """Draw k of B examples, each with its probability `inclusion` (B,), which sum to k; return rising positions (k,).

    The examples lie in random order on a line, each as long as its probability; those at u, u + 1, ... are drawn.
    Reference: Madow 1949.
    """
    order = generator.child("order").permutation()
    start = generator.child("start").uniform((len(inclusion), 1))[order[:1], 0].double()
    ends = (inclusion.double()[order] * _WHOLE).long().cumsum(0)
    # Whole numbers, so that a length of 1 never holds two; the last of them may end a little before k.
    room = (ends[-1:] - (k - 1) * _WHOLE).clamp_max(_WHOLE)
    places = (start * room).long() + _WHOLE * torch.arange(k, device=ends.device)
    return order[torch.searchsorted(ends, places, right=True)].sort().values
