"""Which of torch's kernels a test of a tiny network runs on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_kernels(wanted: bool = True) -> Iterator[None]:
    """Leave oneDNN out within the block, where that is wanted.

    Of a step of attack on images of 8 x 8 it takes half, to prepare itself.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and not wanted
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


by_plain_kernels = plain_kernels()
"""Decorator for tests of what does not hang on rounding: how often a model is called, on what, and what that costs;
that an attack stays in its ball. Tests of bits and of precision run by torch's defaults, oneDNN among them. Next to the
function, so that marks are above it."""
