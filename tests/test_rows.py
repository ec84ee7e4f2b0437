"""Factored rows against the matrix they avoid."""

import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.errors import ConfigError, DataError
from advcore.pairs import distance_matrix
from advcore.rows import KINDS, DenseRows, FactoredRows

N, C, D = 11, 3, 5


def factored(kind, passes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(width):
        return tuple(torch.randn(N, width, generator=generator).to(dtype) for _ in range(passes))

    return FactoredRows(residuals=draw(C), features=draw(D), kind=kind)


def written_out(rows):
    """(N, F) float64, one example and one pass at a time, from the formula."""
    matrix = []
    for i in range(len(rows)):
        row = 0
        for residual, feature in zip(rows.residuals, rows.features, strict=True):
            h, one = feature[i].double(), torch.ones(1, dtype=torch.float64)
            seen = {"full": torch.cat([h, one]), "weight": h, "bias": one}
            row = row + torch.outer(residual[i].double(), seen[rows.kind])
        matrix.append(row.flatten())
    return torch.stack(matrix)


def rows_of(kind, passes, seed=0):
    """Rows of a kind, with the matrix that they stand for; "dense" is written out already."""
    if kind == "dense":
        matrix = torch.randn(N, C * D, generator=torch.Generator().manual_seed(seed))
        return DenseRows(matrix=matrix), matrix.double()
    rows = factored(kind, passes, seed=seed)
    return rows, written_out(rows)


def close(left, right):
    assert left.dtype == torch.float64
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


CASES = [(kind, passes) for kind in KINDS for passes in (1, 2)] + [("dense", 1)]
each_kind = pytest.mark.parametrize(("kind", "passes"), CASES)
I, J = torch.tensor([4, 0, 9, 4]), torch.tensor([1, 4])


@each_kind
def test_dense_is_the_matrix(kind, passes):
    rows, matrix = rows_of(kind, passes)
    close(rows.dense(), matrix)
    assert len(rows) == N and rows.device == torch.device("cpu")


@each_kind
def test_gram(kind, passes):
    rows, matrix = rows_of(kind, passes)
    close(rows.gram(), matrix @ matrix.T)
    close(rows.gram(I, J), matrix[I] @ matrix[J].T)
    close(rows.gram(slice(2, 5)), matrix[2:5] @ matrix.T)


@each_kind
def test_squared_norms(kind, passes):
    rows, matrix = rows_of(kind, passes)
    close(rows.squared_norms(), matrix.square().sum(1))


@each_kind
def test_total(kind, passes):
    rows, matrix = rows_of(kind, passes)
    close(rows.total().flatten(), matrix.sum(0))
    close(rows.total(I).flatten(), matrix[I].sum(0))


@each_kind
def test_combine(kind, passes):
    rows, matrix = rows_of(kind, passes)
    weights = torch.tensor([0.5, 2.0, 0.0, -1.0])
    close(rows.combine(I, weights).flatten(), weights.double() @ matrix[I])


@each_kind
def test_correlate(kind, passes):
    rows, matrix = rows_of(kind, passes)
    target = rows.total(J)
    close(rows.correlate(target), matrix @ target.flatten())
    close(rows.correlate(target.float()), matrix @ target.float().double().flatten())


@each_kind
def test_take(kind, passes):
    rows, matrix = rows_of(kind, passes)
    taken = rows.take(I)
    close(taken.dense(), matrix[I])
    assert type(taken) is type(rows) and len(taken) == len(I)


@each_kind
def test_block_means(kind, passes):
    rows, matrix = rows_of(kind, passes)
    blocks = [torch.tensor([3]), torch.tensor([0, 10, 5]), torch.arange(N)]
    close(rows.block_means(blocks).dense(), torch.stack([matrix[block].mean(0) for block in blocks]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passes", [1, 2])
def test_output_is_one_logits_part(kind, passes):
    rows = factored(kind, passes)
    parts = written_out(rows).reshape(N, C, -1)
    for c in range(C):
        close(rows.output(c).dense(), parts[:, c])


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_products_are_taken_in_float64_whatever_the_factors(kind, passes, dtype):
    if kind == "dense":
        rows = DenseRows(matrix=torch.randn(N, C, generator=torch.Generator().manual_seed(0)).to(dtype))
        matrix = rows.matrix.double()
    else:
        rows = factored(kind, passes, dtype)
        matrix = written_out(rows)
    close(rows.gram(), matrix @ matrix.T)
    close(rows.total().flatten(), matrix.sum(0))


@each_kind
@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=strategies.integers(0, 10**6))
def test_squared_distances_are_those_of_the_matrix(kind, passes, seed):
    rows, matrix = rows_of(kind, passes, seed)
    slow = (matrix[:, None] - matrix[None]).square().sum(2)
    fast = distance_matrix(rows, squared=True)
    close(fast, slow)
    assert torch.equal(fast, fast.T) and not fast.diagonal().any()


def test_equal_rows_are_at_distance_zero_whatever_their_norm():
    for scale in (1e-20, 1e-3, 1.0, 22.0, 1e8):
        rows = factored("full", 2).take(torch.tensor([0, 1, 2, 1, 0, 5, 1]))
        rows = FactoredRows(residuals=tuple(a * scale for a in rows.residuals), features=rows.features)
        distance = distance_matrix(rows)
        equal = (rows.dense()[:, None] == rows.dense()[None]).all(2)
        assert not distance[equal].any() and (distance[~equal] > 0).all()


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
def test_norms_are_never_negative_where_passes_cancel(seed, digits):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    h = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    rows = FactoredRows(residuals=(a, -a * (1 + 10.0**-digits)), features=(h, h))
    assert (rows.squared_norms() >= 0).all() and torch.isfinite(distance_matrix(rows)).all()


def test_a_non_finite_factor_shows_in_the_norms():
    for bad in (float("nan"), float("inf"), -float("inf")):
        for part in ("residuals", "features"):
            rows = factored("full", 2)
            getattr(rows, part)[1][4, 0] = bad
            assert (~torch.isfinite(rows.squared_norms())).nonzero().flatten().tolist() == [4]


def test_shapes_that_disagree_are_refused():
    a, h = torch.zeros(4, 2), torch.zeros(4, 3)
    with pytest.raises(DataError, match="4"):
        FactoredRows(residuals=(a,), features=(h[:3],))
    with pytest.raises(DataError):
        FactoredRows(residuals=(a, a), features=(h,))
    with pytest.raises(DataError):
        FactoredRows(residuals=(), features=())
    with pytest.raises(ConfigError, match="'biass'.*bias"):
        FactoredRows(residuals=(a,), features=(h,), kind="biass")
