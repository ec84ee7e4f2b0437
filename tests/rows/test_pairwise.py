"""Matrices of all pairs, a tile at a time, against one pair at a time."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.rows import KINDS, DenseRows, FactoredRows
from advcore.rows import pairwise as pairs
from advcore.rows.pairwise import choose_unit, distance_matrix, gram_matrix, matrix_bytes, matrix_dtype

N, C, D = 11, 3, 5
CASES = [(kind, passes) for kind in KINDS for passes in (1, 2)] + [("dense", 1), ("blocks", 2)]
each_kind = pytest.mark.parametrize(("kind", "passes"), CASES)
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def factored(n=N, passes=2, kind="full", seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    sides = [tuple(torch.randn(n, width, generator=generator).to(dtype) for _ in range(passes)) for width in (C, D)]
    return FactoredRows(residuals=sides[0], features=sides[1], kind=kind)


def rows_of(kind, passes, n=N, seed=0):
    if kind == "dense":
        return DenseRows(matrix=torch.randn(n, C * D, generator=torch.Generator().manual_seed(seed)))
    if kind == "blocks":
        return factored(3 * n, passes, seed=seed).block_means(torch.arange(3 * n).split(3))
    return factored(n, passes, kind, seed)


def slow_gram(rows):
    matrix = rows.dense()
    return torch.stack([torch.stack([(a * b).sum() for b in matrix]) for a in matrix])


def slow_distances(rows, squared=False):
    matrix = rows.dense()
    distance = (matrix[:, None] - matrix[None]).square().sum(2)
    return distance if squared else distance.sqrt()


def close(left, right, rtol=1e-11, atol=1e-11):
    assert left.dtype == torch.float64
    torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


@each_kind
@pytest.mark.parametrize("tile", [1, 4, 11, 512])
def test_tiles_make_the_matrix_of_one_pair_at_a_time_symmetric_bit_for_bit(kind, passes, tile, monkeypatch):
    monkeypatch.setattr(pairs, "_TILE", tile)
    rows = rows_of(kind, passes)
    slow = slow_gram(rows)
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 1e-7)):
        gram = gram_matrix(rows, dtype)
        assert gram.dtype == dtype and torch.equal(gram, gram.T)
        close(gram.double(), slow, rtol=rtol, atol=rtol * float(slow.diagonal().max()))
        for squared in (False, True):
            distance = distance_matrix(rows, dtype, squared=squared)
            assert distance.dtype == dtype and torch.equal(distance, distance.T) and not distance.diagonal().any()
            own = slow_distances(rows, squared)
            close(distance.double(), own, rtol=max(rtol, 1e-9), atol=rtol)


@each_kind
@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=strategies.integers(0, 10**6))
def test_squared_distances_are_those_of_the_matrix(kind, passes, seed):
    rows = rows_of(kind, passes, seed=seed)
    fast = distance_matrix(rows, squared=True)
    close(fast, slow_distances(rows, squared=True))
    assert torch.equal(fast, fast.T) and not fast.diagonal().any()


@pytest.mark.parametrize("tile", [4, 512])
def test_float32_distances_are_the_float64_values_rounded_once(tile, monkeypatch):
    monkeypatch.setattr(pairs, "_TILE", tile)
    rows = factored(30)
    for squared in (False, True):
        stored = distance_matrix(rows, torch.float32, squared=squared)
        assert torch.equal(stored, distance_matrix(rows, squared=squared).float())


def test_a_unit_divides_and_changes_no_digit():
    rows = factored()
    assert torch.equal(gram_matrix(rows, unit=0.125), gram_matrix(rows) * 8)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(power=strategies.integers(-66, 60), seed=strategies.integers(0, 10**6))
def test_the_natural_unit_is_a_power_of_two_that_scales_with_the_rows(power, seed):
    rows = factored(seed=seed)
    unit, largest = choose_unit(rows.squared_norms()), float(rows.squared_norms().max())
    assert math.frexp(unit)[0] == 0.5 and unit <= largest < 2 * unit
    scaled = FactoredRows(residuals=tuple(part * 2.0**power for part in rows.residuals), features=rows.features)
    assert choose_unit(scaled.squared_norms()) == unit * 4.0**power
    same = [gram_matrix(own, torch.float32, unit=choose_unit(own.squared_norms())) for own in (rows, scaled)]
    assert torch.equal(*same)


def test_the_natural_unit_of_zero_rows_is_1():
    assert choose_unit(torch.zeros(4)) == 1.0


@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1e-18, 1e18), (1e18, 1e15), (1e-20, 1e-15), (1.0, 0.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_products_are_right_to_float32_at_any_scale(kind, sizes):
    plain = factored(30, kind=kind)
    rows = FactoredRows(
        residuals=tuple(part * sizes[0] for part in plain.residuals),
        features=tuple(part * sizes[1] for part in plain.features),
        kind=kind,
    )
    unit = choose_unit(rows.squared_norms())
    gram, exact = gram_matrix(rows, torch.float32, unit=unit), gram_matrix(rows, unit=unit)
    assert torch.equal(gram, gram.T) and torch.isfinite(gram).all()
    torch.testing.assert_close(gram.double(), exact, rtol=0, atol=2e-5)  # of norms of about 1


@pytest.mark.parametrize("scale", [1e-20, 1e18])
def test_float32_storage_over_the_unit_neither_overflows_nor_vanishes(scale):
    rows = DenseRows(matrix=torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * scale)
    unit = choose_unit(rows.squared_norms())
    gram = gram_matrix(rows, torch.float32, unit=unit)
    torch.testing.assert_close(gram.double(), slow_gram(rows) / unit, rtol=1e-6, atol=1e-6)
    assert (gram.diagonal() > 0).all() and gram.max() < 2


def test_a_matrix_is_float64_for_few_rows_and_for_float64_rows(monkeypatch):
    monkeypatch.setattr(pairs, "EXACT_UP_TO", 10)
    few, many = factored(10), factored(11)
    assert matrix_dtype(few) == torch.float64 and matrix_dtype(many) == torch.float32
    assert matrix_dtype(factored(11, dtype=torch.float64)) == torch.float64
    assert matrix_dtype(factored(11, dtype=torch.float16)) == torch.float32
    for rows in (few, many):
        assert matrix_bytes(len(rows)) == gram_matrix(rows, matrix_dtype(rows)).nbytes


def test_equal_rows_are_at_distance_zero_whatever_their_norm():
    for scale in (1e-20, 1e-3, 1.0, 22.0, 1e8):
        rows = factored().take(torch.tensor([0, 1, 2, 1, 0, 5, 1]))
        rows = FactoredRows(residuals=tuple(a * scale for a in rows.residuals), features=rows.features)
        distance = distance_matrix(rows)
        equal = (rows.dense()[:, None] == rows.dense()[None]).all(2)
        assert not distance[equal].any() and (distance[~equal] > 0).all()


@pytest.mark.case("F8")
@each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile", [7, 512])
def test_equal_rows_are_within_a_millionth_of_their_norm(device, dtype, tile, monkeypatch):
    monkeypatch.setattr(pairs, "_TILE", tile)
    generator = torch.Generator().manual_seed(0)
    a, h = torch.randn(30, 8, generator=generator), torch.randn(30, 512, generator=generator)
    a = a * 22 / (a.norm(dim=1) * h.norm(dim=1))[:, None]
    twice = torch.randperm(60, generator=generator) % 30
    rows = FactoredRows(residuals=(a.to(device),), features=(h.to(device),), kind="weight").take(twice.to(device))
    for squared in (False, True):
        distance = distance_matrix(rows, dtype, squared=squared).cpu()
        equal = twice[:, None] == twice[None]
        assert (distance[equal] <= 1e-6 * 22).all() and (distance[~equal] > 1).all()


@pytest.mark.case("F8")
@each_kind
@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 22.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_of_every_kind_and_scale_are_within_a_millionth_of_their_norm(kind, passes, scale, dtype):
    rows, twice = rows_of(kind, passes), torch.randperm(2 * N, generator=torch.Generator().manual_seed(1)) % N
    if isinstance(rows, DenseRows):
        rows = DenseRows(matrix=rows.matrix * scale)
    elif isinstance(rows, FactoredRows) and kind != "bias":
        rows = FactoredRows(residuals=rows.residuals, features=tuple(h * scale for h in rows.features), kind=kind)
    rows = rows.take(twice)
    norms, equal = rows.squared_norms().sqrt(), twice[:, None] == twice[None]
    unit = choose_unit(rows.squared_norms().sqrt())
    distance = distance_matrix(rows, dtype, unit=unit).double() * unit
    assert (distance <= 1e-6 * norms[:, None])[equal].all()
    close(distance[~equal], slow_distances(rows)[~equal], rtol=1e-5, atol=0)
    squared = distance_matrix(rows, dtype, squared=True, unit=unit**2).double().sqrt() * unit
    assert (squared <= 1e-6 * norms[:, None])[equal].all()


@pytest.mark.case("F8")
@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_equal_rows_are_at_distance_zero_where_two_passes_nearly_cancel(gap):
    generator = torch.Generator().manual_seed(0)
    a, h = torch.randn(7, 10, generator=generator), torch.randn(7, 30, generator=generator)
    nearly = -a * (1 + gap * torch.randn(7, 10, generator=generator))
    rows = FactoredRows(residuals=(a, nearly), features=(h, h)).take(torch.arange(14) % 7)
    distance = distance_matrix(rows)
    assert not distance[torch.arange(7), torch.arange(7) + 7].any()


@settings(deadline=None, derandomize=True, max_examples=50)
@given(seed=strategies.integers(0, 10**6), digits=strategies.integers(3, 15))
def test_distances_are_finite_where_passes_cancel(seed, digits):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    h = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    rows = FactoredRows(residuals=(a, -a * (1 + 10.0**-digits)), features=(h, h))
    assert torch.isfinite(distance_matrix(rows)).all()


@pytest.mark.case("F8")
@pytest.mark.parametrize("gap", [1e-5, 1e-3])
def test_rows_further_apart_than_a_millionth_of_their_norm_are_not_equal(gap):
    matrix = torch.zeros(2, 4, dtype=torch.float64)
    matrix[:, 0], matrix[1, 1] = 22.0, 22 * gap
    assert float(distance_matrix(DenseRows(matrix=matrix))[0, 1]) == pytest.approx(22 * gap, rel=1e-4)
