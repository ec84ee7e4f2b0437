"""Training beside a pool: what is trained on, its cost, what is remembered of it, and how a run goes on."""

import copy
from functools import partial

import pytest
import torch

from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.data.augment import keep_images
from advcore.data.pool import Pooled
from advcore.data.source import Resident
from advcore.errors import UserError
from advcore.minibatch import RULES
from advcore.objectives import Pgd
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.training import SGD
from advcore.training.loop import Listener, Run, build_memory
from advcore.training.plan import count_planned_units

ATTACK = LinfPGD(eps=0.1, steps=1)
N, P, SIZE = 96, 40, 40  # batches of 40, 40, 16 with 28, 28, 11 of the pool


def trainer(**settings) -> Trainer:
    known = {"attack": ATTACK, "schedule": Schedule(epochs=2), "optimizer": SGD(lr=0.05), "batch_size": SIZE}
    return Trainer(**{"objective": Pgd(), **known, **settings})


@pytest.fixture
def pool():
    generator = torch.Generator().manual_seed(1)
    return Resident(torch.rand(P, 1, 8, 8, generator=generator), torch.arange(P) % 4)


@pytest.fixture
def both(source, pool):
    return Pooled(source, pool, 0.7)


def fit(made, model, both, seen=None, **how):
    """What training leaves; `seen` receives the indices and images of each batch."""

    def note(x, stream):
        if seen is not None:
            seen.append((stream.examples.clone(), x.clone()))
        return keep_images(x, stream)

    model = copy.deepcopy(model)
    return made.fit(model, both, seed=3, augment=note, **how), model


def test_the_epochs_train_on_the_batches_drawn_at_the_cost_of_the_real_data(model, source, pool, both):
    seen = []
    out, _ = fit(trainer(), model, both, seen)
    drawn = [both.draw_batches(SIZE, Stream(seed=3, purpose="order", epoch=epoch)) for epoch in range(2)]
    everything = torch.cat([source._images, pool._images])
    for batch, (indices, x) in zip(sum(drawn, []), seen, strict=True):
        assert torch.equal(indices, batch) and torch.equal(x, everything[batch])
    assert [(entry["examples"], entry["steps"]) for entry in out.epochs] == [(N, 3), (N, 3)]
    assert out.ledger.sum_units() == count_planned_units(trainer(), N) == 2 * N * 4


def test_a_step_beside_a_pool_is_the_step_on_the_same_images_as_one_set(model, source, pool, both, monkeypatch):
    """The slow twin: real and pool images in one ordinary set, whose batches are given."""
    _, beside = fit(trainer(), model, both)
    joined = Resident(torch.cat([source._images, pool._images]), torch.cat([source.labels(), pool.labels()]))
    monkeypatch.setattr(joined, "draw_batches", both.draw_batches, raising=False)
    _, alone = fit(trainer(), model, joined)
    assert all(torch.equal(a, b) for a, b in zip(beside.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings", [{"attack": ATTACK.with_settings(start="remembered")}, {"minibatch": RULES["margin"](warm_up=0)}]
)
def test_a_run_that_goes_on_ends_in_the_same_bits(model, both, settings):
    made = trainer(schedule=Schedule(epochs=3), **settings)
    states = []
    _, undisturbed = fit(made, model, both, listener=Listener(on_checkpoint=lambda state: states.append(state())))
    _, resumed = fit(made, model, both, resume=states[0])
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))


def test_radii_are_probed_of_images_of_the_pool_too(model, both):
    out, _ = fit(trainer(minibatch=RULES["loss_ranked"](p_up=1.0, probed=N + P)), model, both)
    counts = [entry["minibatch"]["radius"]["n"] for entry in out.epochs]
    assert counts == [N - 67 + P] * 2  # 67 of the pool, so all of it


def test_an_image_is_remembered_through_epochs_that_do_not_take_it(model, both):
    made = trainer(attack=ATTACK.with_settings(start="remembered"))
    build = partial(Run, trainer=made, model=model, train=both, validation=None, seed=0, augment=keep_images)
    memory = build_memory(build(listener=Listener(), scores=None))
    everything, x = torch.arange(N + P), torch.rand(2, 1, 8, 8)
    taken = torch.tensor([5, N + P - 1])
    memory.begin(everything, None, N + P)
    memory.keep(x, x + 0.01, taken)
    for _ in range(2):  # epochs of others
        memory.begin(everything, None, N + P)
    assert torch.allclose(memory.recall(x, taken, lambda: x), x + 0.01, atol=1e-4)
    assert memory.values.shape[0] == N + P


def test_a_run_goes_on_with_its_own_pool_only(model, source, pool, both):
    states = []
    fit(trainer(), model, both, listener=Listener(on_checkpoint=lambda state: states.append(state())))
    for other in (source, Pooled(source, pool, 0.5), Pooled(source, source, 0.7)):
        with pytest.raises(UserError, match="^resume must be a state of this run"):
            fit(trainer(), model, other, resume=states[0])


def refuse(made, model, train) -> str:
    with pytest.raises(UserError) as caught:
        made.fit(model, train)
    return str(caught.value)


def test_what_cannot_be_trained_on_is_refused_in_a_line(model, source, pool, both):
    assert refuse(trainer(batch_size=2), model, Pooled(source, pool, 0.1)) == (
        "data.pool.share must be a share that leaves each batch of 2 at least one image of the pool, and one that is "
        "real, got 0.1; it takes 0 from the pool"
    )
    assert "it takes 2 from the pool" in refuse(trainer(batch_size=2), model, Pooled(source, pool, 0.9))
    foreign = Resident(pool._images, pool.labels() + 1)
    assert refuse(trainer(), model, Pooled(source, foreign, 0.7)).startswith(
        "data.pool: labels must be whole numbers in 0..3, got 4 at example 3; "
    )
