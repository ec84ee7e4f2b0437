"""Streams: a draw belongs to its name and its example, and to nothing else."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from scipy import stats
from seeds import side_by_side

from advcore.rng import Stream, preserve_random_state
from advcore.runtime.device import seed_torch

SEED = Stream(seed=0, purpose="attack")
DRAWS = {
    "bits": lambda stream, size: stream.bits(3),
    "uniform": lambda stream, size: stream.uniform((size, 3, 2)),
    "normal": lambda stream, size: stream.normal((size, 2, 2)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    indices=strategies.lists(strategies.integers(0, 2**40), min_size=2, max_size=12, unique=True),
    cut=strategies.integers(1, 11),
    seed=strategies.integers(-(2**63), 2**63),
)
def test_a_draw_does_not_depend_on_its_batch_order_or_chunk(draw, indices, cut, seed):
    stream, i = Stream(seed=seed, purpose="attack", epoch=3), torch.tensor(indices)
    together = draw(stream.at(i), len(i))
    alone = torch.cat([draw(stream.at(one), 1) for one in i.split(1)])
    chunked = torch.cat([draw(stream.at(part), len(part)) for part in i.split(cut)])
    backwards = draw(stream.at(i.flip(0)), len(i)).flip(0)
    for other in (alone, chunked, backwards, draw(stream.at(i), len(i))):
        assert torch.equal(together, other)


def test_take_keeps_each_examples_numbers():
    stream, keep = SEED.at(torch.arange(10)), torch.tensor([7, 1, 4])
    assert torch.equal(stream.take(keep).uniform((3, 5)), stream.uniform((10, 5))[keep])
    mask = torch.arange(10) % 2 == 0
    assert torch.equal(stream.take(mask).normal((5, 4)), stream.normal((10, 4))[mask])


def test_a_longer_draw_begins_with_the_shorter_one():
    stream = SEED.at(torch.arange(4))
    assert torch.equal(stream.uniform((4, 100))[:, :7], stream.uniform((4, 7)))


@pytest.mark.case("A6")
def test_every_part_of_the_name_and_the_index_changes_the_numbers():
    i = torch.arange(8)
    streams = {
        "itself": SEED,
        "seed": Stream(seed=1, purpose="attack"),
        "negative seed": Stream(seed=-1, purpose="attack"),
        "purpose": Stream(seed=0, purpose="rows"),
        "epoch": SEED.at_epoch(1),
        "child": SEED.child("restart"),
        "numbered child": SEED.child(0),
        "child of another name type": SEED.child("0"),
        "grandchild": SEED.child("restart", 0),
        "grandchild the other way": SEED.child(0, "restart"),
    }
    draws = {name: stream.at(i).bits(4) for name, stream in streams.items()}
    draws["indices"] = SEED.at(i + 8).bits(4)
    numbers = torch.cat([draw.flatten() for draw in draws.values()])
    assert len(numbers.unique()) == len(numbers), f"some of {list(draws)} share numbers"


def test_a_child_of_a_child_is_named_by_the_whole_path():
    assert SEED.child("a").child(2).key == SEED.child("a", 2).key


@pytest.mark.case("A6")
def test_64_workers_by_64_purposes_begin_apart():
    streams = [Stream(seed=0, purpose=f"purpose {p}").child("worker", w) for w in range(64) for p in range(64)]
    first = side_by_side(streams, 1).bits(1)[:, 0]
    for stream, bits in list(zip(streams, first, strict=True))[::100]:
        assert stream.at(torch.tensor([0])).bits(1).item() == bits
    assert len(first.unique()) == 64 * 64


def test_first_draws_of_many_examples_are_distinct():
    bits = SEED.at(torch.arange(200_000)).bits(1).flatten()
    assert len(bits.unique()) == len(bits)


# Numbers within one example, across examples, and across epochs: three ways to be badly spread.
LAYOUTS = {
    "within an example": lambda draw: draw(SEED.at(torch.tensor([5])), (1, 20_000)),
    "across examples": lambda draw: draw(SEED.at(torch.arange(20_000)), (20_000,)),
    "across strided examples": lambda draw: draw(SEED.at(torch.arange(20_000) * 4096), (20_000,)),
    "across epochs": lambda draw: torch.cat([draw(SEED.at_epoch(e).at(torch.arange(20)), (20,)) for e in range(500)]),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_uniform_and_normal_are_what_they_say(layout):
    uniform, normal = layout(Stream.uniform).flatten().double(), layout(Stream.normal).flatten().double()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3


def test_neighbouring_draws_and_examples_are_uncorrelated():
    normal = SEED.at(torch.arange(500)).normal((500, 200)).double()
    for left, right in ((normal[:, :-1], normal[:, 1:]), (normal[:-1], normal[1:])):
        assert abs(float((left * right).mean())) < 4 / left.numel() ** 0.5


@pytest.mark.parametrize("bits", [0, -1])
def test_the_rarest_bits_are_still_in_range(monkeypatch, bits):
    monkeypatch.setattr(Stream, "bits", lambda self, count: torch.full((3, count), bits))
    assert torch.isfinite(SEED.normal((3, 4))).all()
    assert SEED.uniform((3, 4)).unique().tolist() == [0 if bits == 0 else 1 - 2.0**-24]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(size=strategies.integers(0, 300), seed=strategies.integers(0, 1000))
def test_permutation_is_a_permutation(size, seed):
    order = Stream(seed=seed, purpose="order").at(torch.arange(size)).permutation()
    assert order.dtype == torch.int64 and sorted(order.tolist()) == list(range(size))


def test_permutations_reach_every_order():
    orders = {tuple(SEED.at_epoch(epoch).at(torch.arange(3)).permutation().tolist()) for epoch in range(200)}
    assert len(orders) == 6


def test_shapes_must_fit_the_bound_examples():
    with pytest.raises(ValueError, match=r"3 examples .*\(4, 2\)"):
        SEED.at(torch.arange(3)).uniform((4, 2))
    with pytest.raises(ValueError, match="bind"):
        SEED.bits(1)


def global_states():
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def disturb():
    random.random(), np.random.rand(), torch.rand(3)


def same(left, right):
    (python, numpy, own), (python_2, numpy_2, own_2) = left, right
    equal_numpy = all(np.array_equal(a, b) for a, b in zip(numpy, numpy_2, strict=True))
    return python == python_2 and equal_numpy and torch.equal(own, own_2)


@pytest.mark.case("A6")
def test_draws_leave_the_global_states_alone_and_do_not_read_them():
    before, stream = global_states(), SEED.at(torch.arange(4))
    drawn = stream.normal((4, 9)), stream.uniform((4, 9)), stream.permutation()
    assert same(before, global_states())
    with preserve_random_state():
        disturb()
        again = stream.normal((4, 9)), stream.uniform((4, 9)), stream.permutation()
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))


@pytest.mark.parametrize("stream", [None, SEED], ids=["bare", "seeded"])
def test_preserved_restores_all_global_states(stream):
    before = global_states()
    with preserve_random_state(stream):
        disturb()
        assert not same(before, global_states())
    assert same(before, global_states())


@pytest.mark.parametrize("stream", [None, SEED], ids=["bare", "seeded"])
def test_preserved_restores_on_error(stream):
    before = global_states()
    with pytest.raises(KeyError), preserve_random_state(stream):
        disturb()
        raise KeyError
    assert same(before, global_states())


def test_preserved_seeds_torch_from_the_stream():
    def inside(stream):
        with preserve_random_state(stream):
            return torch.rand(5)

    first = inside(SEED)
    with preserve_random_state():
        disturb()
        assert torch.equal(first, inside(SEED))
    assert not torch.equal(first, inside(SEED.at_epoch(1)))


def test_inside_every_global_state_comes_from_the_stream():
    def drawn(seed: int) -> tuple:
        with preserve_random_state(Stream(seed=seed, purpose="model")):
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1)
    first = drawn(0)
    np.random.rand(3), torch.rand(3)
    assert drawn(0) == first
    assert all(one != other for one, other in zip(drawn(1), first, strict=True))


@pytest.mark.parametrize("seed", [0, 5, -3])
def test_seeding_draws_what_torch_draws_and_keeps_no_call_stack(seed):
    queued = len(torch.cuda._queued_calls)
    seed_torch(seed)
    assert torch.cuda.is_available() or len(torch.cuda._queued_calls) == queued
    drawn = torch.rand(4)
    torch.manual_seed(seed)
    assert torch.equal(drawn, torch.rand(4))
