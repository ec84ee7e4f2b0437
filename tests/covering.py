"""Every combination of several settings, of which a plain run tests a part and `-m slow` the rest."""

import itertools

import pytest


def covering(names: str, *axes: dict, every: int = 3):
    """Parametrise by the product of the axes {id: value}. A plain run takes every so many-th diagonal, in which any two
    values of different axes still meet (of two axes: in which each value of the longer one occurs); the rest is
    slow."""
    found = []
    for picks in itertools.product(*(list(enumerate(axis.items())) for axis in axes)):
        slow = sum(i for i, _ in picks) % every != 0
        ids, values = zip(*(item for _, item in picks), strict=True)
        found.append(pytest.param(*values, id="-".join(ids), marks=[pytest.mark.slow] if slow else []))
    return pytest.mark.parametrize(names, found)
