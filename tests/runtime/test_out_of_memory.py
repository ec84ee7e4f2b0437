"""Smaller pieces once memory runs out, and the same answer."""

import pytest
import torch

from advcore.runtime.out_of_memory import Pieces, is_out_of_memory


def worker(most, error=None):
    error, sizes = error or torch.OutOfMemoryError("CUDA out of memory"), []

    def work(i):
        sizes.append(i.stop - i.start)
        if sizes[-1] > most:
            raise error
        return torch.arange(1000)[i]

    return work, sizes


@pytest.mark.case("C6")
@pytest.mark.parametrize("n", [1, 16, 100, 256, 300])
def test_everything_is_done_once_and_in_order_and_the_size_stays_small(n):
    pieces = Pieces(256)
    for _ in range(2):
        work, sizes = worker(40)
        assert torch.equal(torch.cat(pieces.run(n, work)), torch.arange(n))
    assert max(sizes) <= 40  # the second time nothing is tried in vain
    assert len(pieces.events) == (0 if n <= 40 else 2 if n == 100 else 3)


@pytest.mark.case("C6")
def test_the_least_size_is_the_end():
    pieces, (work, sizes) = Pieces(64), worker(0)
    with pytest.raises(torch.OutOfMemoryError):
        pieces.run(64, work)
    assert sizes == [64, 32, 16]


def test_other_errors_pass_through_at_once():
    work, sizes = worker(0, ValueError("other"))
    with pytest.raises(ValueError, match="other"):
        Pieces(64).run(64, work)
    work, sizes = worker(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        Pieces(64).run(64, work)
    assert sizes == [64]


@pytest.mark.case("C6")
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")]
)
def test_the_cpus_way_of_saying_it_counts(error):
    assert is_out_of_memory(error) and not is_out_of_memory(RuntimeError("x"))
    work, _ = worker(16, error)
    assert torch.equal(torch.cat(Pieces(64).run(64, work)), torch.arange(64))
