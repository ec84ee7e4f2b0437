"""Factored rows against the matrix they avoid."""

import pytest
import torch
from hypothesis import given, settings, strategies

from advcore.errors import ConfigError, DataError
from advcore.rows import KINDS, BlockRows, DenseRows, FactoredRows, cut, find_first_not_finite
from advcore.rows import factored as factored_module
from advcore.rows import written_out as written_out_module

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
    blocks = (torch.tensor([3]), torch.tensor([0, 10, 5]), torch.arange(N))
    close(BlockRows(members=rows, blocks=blocks).dense(), torch.stack([matrix[block].mean(0) for block in blocks]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passes", [1, 2])
def test_output_is_one_logits_part(kind, passes):
    rows = factored(kind, passes)
    parts = written_out(rows).reshape(N, C, -1)
    for c in range(C):
        close(rows.take_output(c).dense(), parts[:, c])


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


@settings(deadline=None, derandomize=True, max_examples=50)
@given(seed=strategies.integers(0, 10**6), digits=strategies.integers(3, 15))
def test_norms_are_never_negative_where_passes_cancel(seed, digits):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    h = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    rows = FactoredRows(residuals=(a, -a * (1 + 10.0**-digits)), features=(h, h))
    assert (rows.squared_norms() >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passes", [1, 2])
def test_inner_products_row_by_row_are_those_of_the_rows_written_out(script, kind, passes):
    inner_products = script("diagnostics").inner_products
    one, other = factored(kind, passes), factored(kind, 3 - passes)
    close(inner_products(one, other), (one.dense() * other.dense()).sum(1))
    close(inner_products(one, one), one.squared_norms())


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


POSITIONS = [slice(None), slice(2, 9), I, torch.tensor([10])]


@each_kind
@pytest.mark.parametrize("at_once", [1, 3, 11])
def test_sums_of_more_rows_than_are_read_at_a_time(kind, passes, at_once, monkeypatch):
    monkeypatch.setattr(factored_module, "_AT_ONCE", at_once)
    rows, matrix = rows_of(kind, passes)
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    every = torch.arange(N).flip(0)
    close(rows.squared_norms(), matrix.square().sum(1))
    close(rows.combine(every, weights).flatten(), weights @ matrix[every])
    close(rows.correlate(rows.total()), matrix @ matrix.sum(0))
    for i in POSITIONS:
        close(rows.total(i).flatten(), matrix[i].sum(0))


@pytest.mark.parametrize("at_once", [1, 3, 512])
def test_squared_parts_are_the_passes_own_norms_summed(at_once, monkeypatch):
    monkeypatch.setattr(factored_module, "_AT_ONCE", at_once)
    rows = factored("full", 3)
    alone = [FactoredRows(residuals=(a,), features=(h,)) for a, h in zip(rows.residuals, rows.features, strict=True)]
    close(rows.squared_parts(), sum(written_out(one).square().sum(1) for one in alone))


@each_kind
def test_correlations_may_be_float32(kind, passes):
    rows, matrix = rows_of(kind, passes)
    found = rows.correlate(rows.total(), torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), matrix @ matrix.sum(0), rtol=1e-5, atol=1e-4)


def storages(rows):
    parts = (rows.matrix,) if isinstance(rows, DenseRows) else (*rows.residuals, *rows.features)
    return [part.data_ptr() for part in parts]


@each_kind
def test_take_copies(kind, passes):
    rows, matrix = rows_of(kind, passes)
    taken = rows.take(torch.arange(N))
    assert not set(storages(taken)) & set(storages(rows))
    for part in (rows.matrix,) if kind == "dense" else (*rows.residuals, *rows.features):
        part.zero_()
    close(taken.dense(), matrix)


def test_nbytes_and_dtype_are_the_factors_and_the_widest():
    half, single = torch.zeros(4, 2, dtype=torch.float16), torch.zeros(4, 3)
    rows = FactoredRows(residuals=(half, half), features=(single, single))
    assert rows.nbytes == 2 * (4 * 2 * 2 + 4 * 3 * 4) and rows.dtype == torch.float32
    assert FactoredRows(residuals=(half,), features=(half,)).dtype == torch.float16
    assert FactoredRows(residuals=(half.bfloat16(),), features=(half,)).dtype == torch.float32
    assert (DenseRows(matrix=single).nbytes, DenseRows(matrix=half).dtype) == (48, torch.float16)


BLOCKS = (torch.tensor([3]), torch.tensor([0, 10, 5]), torch.arange(N), torch.tensor([2, 2]), torch.tensor([7, 1]))
WHERE = [slice(None), slice(1, 4), torch.tensor([4, 0]), torch.tensor([2, 2, 1])]


def blocks_of(kind, passes):
    rows, matrix = rows_of(kind, passes)
    return BlockRows(members=rows, blocks=BLOCKS), torch.stack([matrix[block].mean(0) for block in BLOCKS])


@each_kind
@pytest.mark.parametrize("tile", [150, 300, 10**6])
def test_gram_of_block_means_whatever_fits_at_a_time(kind, passes, tile, monkeypatch):
    monkeypatch.setattr(written_out_module, "_TILE", tile)
    blocks, means = blocks_of(kind, passes)
    for i in WHERE:
        for j in WHERE:
            close(blocks.gram(i, j), means[i] @ means[j].T)


def test_block_means_wider_than_what_fits_are_taken_one_at_a_time(monkeypatch):
    monkeypatch.setattr(written_out_module, "_TILE", 8)
    blocks, means = blocks_of("full", 2)
    close(blocks.gram(), means @ means.T)


@each_kind
def test_no_rows_have_an_empty_gram(kind, passes):
    rows, _ = rows_of(kind, passes)
    none, one = torch.tensor([], dtype=torch.long), torch.tensor([1])
    for own in (rows, BlockRows(members=rows, blocks=BLOCKS)):
        assert own.gram(none, one).shape == (0, 1) and own.gram(one, none).shape == (1, 0)


@each_kind
@pytest.mark.parametrize("tile", [1, 200, 10**6])
def test_block_means_are_the_means_written_out(kind, passes, tile, monkeypatch):
    monkeypatch.setattr(written_out_module, "_TILE", tile)
    blocks, means = blocks_of(kind, passes)
    close(blocks.dense(), means)
    close(blocks.squared_norms(), means.square().sum(1))
    close(blocks.squared_parts(), means.square().sum(1))
    close(
        BlockRows(members=blocks, blocks=(torch.tensor([0, 4]), torch.tensor([1]))).dense(),
        torch.stack([means[[0, 4]].mean(0), means[1]]),
    )
    target = blocks.total(torch.tensor([0, 2]))
    close(blocks.correlate(target), means @ target.flatten())
    assert blocks.correlate(target, torch.float32).dtype == torch.float32
    torch.testing.assert_close(
        blocks.correlate(target, torch.float32).double(), means @ target.flatten(), rtol=1e-5, atol=1e-4
    )


@each_kind
@pytest.mark.parametrize("i", WHERE, ids=str)
def test_sums_and_subsets_of_block_means(kind, passes, i):
    blocks, means = blocks_of(kind, passes)
    close(blocks.total(i).flatten(), means[i].sum(0))
    if isinstance(i, torch.Tensor):
        weights = torch.linspace(-1, 2, len(i))
        close(blocks.combine(i, weights).flatten(), weights.double() @ means[i])
        taken = blocks.take(i)
        close(taken.dense(), means[i])
        assert len(taken) == len(i)


def test_block_means_hold_nothing_and_are_of_their_members_kind():
    rows, _ = rows_of("full", 2)
    blocks = rows.block_means(BLOCKS)
    assert (len(blocks), blocks.nbytes, blocks.device, blocks.dtype) == (5, 0, rows.device, torch.float32)


def test_a_block_mean_with_a_bad_member_is_found():
    rows = factored("full", 1)
    rows.residuals[0][7, 0] = float("nan")
    assert find_first_not_finite(rows.squared_norms()) == 7
    blocks = rows.block_means([torch.tensor([1, 2]), torch.tensor([3, 7])])
    assert find_first_not_finite(blocks.squared_norms()) == 1
    assert find_first_not_finite(factored("full", 1).squared_norms()) is None


@settings(deadline=None, derandomize=True, max_examples=60)
@given(n=strategies.integers(1, 20), size=strategies.integers(1, 25), start=strategies.integers(0, 20))
def test_pieces_are_the_positions_in_order(n, size, start):
    every = torch.arange(n)
    for whole in (slice(None), slice(min(start, n), n), every.flip(0)):
        pieces = list(cut(whole, n, size))
        assert all(len(every[piece]) <= size for piece in pieces)
        assert torch.equal(torch.cat([every[piece] for piece in pieces]), every[whole])
