"""Rows in a temporary file are the rows in memory: the same bits, no name left behind, no pages kept."""

import os
import sys

import pytest
import torch

from advcore.rows import KINDS, FactoredRows
from advcore.rows.on_disk import Column, FactorStore

N, C, D = 1300, 3, 5  # three pieces of what sums read at a time
CUTS = [0, 1, 500, 501, 1299, 1300]  # chunks of 1, 499, 1, 798 and 1 rows
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def chunks(whole):
    return [whole[low:high] for low, high in zip(CUTS[:-1], CUTS[1:], strict=True)]


def column(whole, folder):
    made = Column(len(whole), folder)
    for part in chunks(whole):
        made.append(part)
    return made


def rows(folder, kind="full", dtype=torch.float32):
    """Two passes of rows, appended in turn; in a file, or in memory for None."""
    store = FactorStore(("clean", "adversarial"), N, folder)
    factors = [(draw(N, C, dtype=dtype, seed=seed), draw(N, D, dtype=dtype, seed=seed + 10)) for seed in range(2)]
    for low, high in zip(CUTS[:-1], CUTS[1:], strict=True):
        for name, (a, h) in zip(("clean", "adversarial"), factors, strict=True):
            store.append(name, a[low:high], h[low:high])
    return FactoredRows(**store.factors(), kind=kind)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [(1,), (7,), (2, 3)], ids=str)
def test_a_column_gives_back_the_same_bits_from_memory_and_from_a_file(tmp_path, dtype, width):
    whole = draw(N, *width, dtype=dtype)
    whole[3], whole[4], whole[5] = float("nan"), float("-inf"), -0.0
    for folder in (None, tmp_path):
        read = column(whole, folder).tensor()
        assert read.dtype == dtype and read.shape == whole.shape
        assert torch.equal(read.contiguous().view(torch.uint8), whole.view(torch.uint8))


def test_a_column_takes_parts_that_are_strided_or_carry_gradients(tmp_path):
    whole = draw(7, N).T  # not contiguous
    for folder in (None, tmp_path):
        assert torch.equal(column(whole, folder).tensor(), whole)
    leaf = draw(N, 2).requires_grad_(True)
    read = column(leaf * 2, tmp_path).tensor()
    assert torch.equal(read, leaf.detach() * 2) and not read.requires_grad


def test_what_was_read_reads_the_same_after_release(tmp_path):
    made = column(draw(N, 7), tmp_path)
    read = made.tensor()
    for _ in range(3):
        made.release()
        assert torch.equal(read, draw(N, 7))
    column(draw(N, 7), None).release()  # nothing to give back in memory


def test_the_file_has_no_name_in_its_folder(tmp_path):
    made = column(draw(N, 7), tmp_path)
    assert not list(tmp_path.iterdir())
    read = made.tensor()
    assert not list(tmp_path.iterdir())
    del made
    assert torch.equal(read, draw(N, 7)) and not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_folder_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        column(draw(N, 7), tmp_path)
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files where the system lists them")
def test_the_files_are_closed_when_the_rows_are_gone(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    kept = rows(tmp_path)
    assert len(os.listdir("/proc/self/fd")) > before
    kept.total()
    del kept
    assert len(os.listdir("/proc/self/fd")) == before


I, J = torch.tensor([4, 1299, 0, 700, 4]), torch.arange(N - 1, -1, -3)
READS = {
    "dense": lambda r: r.dense(),
    "gram": lambda r: r.gram(slice(0, 600), J),
    "gram of indices": lambda r: r.gram(I, J),
    "gram of a slice": lambda r: r.gram(slice(5, 900), slice(1290, N)),
    "total": lambda r: r.total(),
    "total of indices": lambda r: r.total(J),
    "combine": lambda r: r.combine(J, draw(len(J), seed=5)),
    "correlate": lambda r: r.correlate(draw(C, 1 if r.kind == "bias" else D + (r.kind == "full"), seed=6)),
    "correlate in float32": lambda r: r.correlate(
        draw(C, 1 if r.kind == "bias" else D + (r.kind == "full"), seed=6), torch.float32
    ),
    "squared_norms": lambda r: r.squared_norms(),
    "squared_parts": lambda r: r.squared_parts(),
    "take": lambda r: r.take(J).dense(),
    "take of take": lambda r: r.take(J).take(torch.tensor([3, 1])).dense(),
    "output": lambda r: r.take_output(1).dense(),
    "take of output": lambda r: r.take_output(2).take(I).dense(),
    "gram of output": lambda r: r.take_output(0).gram(I),
    "block_means": lambda r: r.block_means(J.split(100)).dense(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READS)
def test_rows_in_a_file_answer_as_rows_in_memory_bit_for_bit(tmp_path, kind, name):
    read = READS[name]
    held, filed = rows(None, kind), rows(tmp_path, kind)
    assert torch.equal(read(held), read(filed))
    assert torch.equal(read(filed), read(filed))  # and again, after its pages were given back


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_every_dtype_are_the_same_from_a_file(tmp_path, dtype):
    held, filed = rows(None, dtype=dtype), rows(tmp_path, dtype=dtype)
    assert (filed.dtype, filed.nbytes, len(filed), filed.device) == (held.dtype, held.nbytes, N, torch.device("cpu"))
    assert torch.equal(held.total(), filed.total()) and torch.equal(held.gram(I, J), filed.gram(I, J))


def test_rows_taken_from_a_file_are_in_memory_of_their_own(tmp_path):
    filed = rows(tmp_path)
    taken = filed.take(I)
    before = taken.dense().clone()
    taken.residuals[0][0] = 7
    assert taken.release is None and torch.equal(filed.take(I).dense(), before)


# ---- pages ----

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
LARGE, WIDE = 25_000, 500
MB = 1e6


def mapped() -> float:
    """MB of files that are mapped and resident in this process."""
    with open("/proc/self/statm") as facts:
        return int(facts.read().split()[2]) * os.sysconf("SC_PAGE_SIZE") / MB


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """51 MB of rows in a file."""
    store = FactorStore(("clean",), LARGE, tmp_path_factory.mktemp("rows"))
    part = draw(1000, WIDE)
    for i in range(LARGE // 1000):
        store.append("clean", part[:, :10] * (1 + i), part)
    return store.factors()


@linux
def test_what_is_read_is_resident_until_it_is_released(large):
    """Otherwise the tests below would prove nothing."""
    large["release"]()
    before = mapped()
    large["features"][0].sum()
    assert mapped() - before > 40
    large["release"]()
    assert mapped() - before < 4


SOME = torch.arange(0, LARGE, 2)
HEAVY = {
    "total": lambda r: r.total(),
    "total of indices": lambda r: r.total(SOME),
    "squared_norms": lambda r: r.squared_norms(),
    "squared_parts": lambda r: r.squared_parts(),
    "correlate": lambda r: r.correlate(r.total(slice(0, 2)), torch.float32),
    "combine": lambda r: r.combine(SOME, torch.ones(len(SOME))),
    "gram": lambda r: r.gram(slice(0, 2), SOME),
    "gram of all": lambda r: r.gram(slice(0, 2)),
    "take": lambda r: r.take(SOME),
    "take of output": lambda r: r.take_output(1).take(SOME),
}


@linux
@pytest.mark.parametrize("kind", ["full", "bias"])
@pytest.mark.parametrize("name", HEAVY)
def test_the_pages_of_a_file_do_not_stay_in_memory_after_a_read(large, kind, name):
    read = FactoredRows(**large, kind=kind)
    large["release"]()
    before = mapped()
    HEAVY[name](read)
    assert mapped() - before < 4


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_never_has_more_than_a_few_pages_of_the_file_in_memory(large, kind):
    seen = []

    def release():
        seen.append(mapped())
        large["release"]()

    large["release"]()
    before = mapped()
    FactoredRows(**{**large, "release": release}, kind=kind).total()
    assert len(seen) >= LARGE // 512 and max(seen) - before < 8
