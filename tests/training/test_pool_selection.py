"""Selections from a pool: what is trained on, with what weights, what it costs, how a run goes on, what is refused."""

import copy

import pytest
import torch

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.data.augment import keep_images
from advcore.data.pool import Pooled
from advcore.data.source import Resident
from advcore.errors import UserError
from advcore.objectives import Pgd, Trades
from advcore.rows import DenseRows
from advcore.selection.schedule import Schedule
from advcore.solvers import SOLVERS, Craig, GradMatch, Random
from advcore.training import SGD
from advcore.training.average import SWA
from advcore.training.loop import Listener
from advcore.training.plan import plan_work
from advcore.training.prices import find_prices

ATTACK = LinfPGD(eps=0.1, steps=2)
N, P, SIZE = 96, 40, 40
SCHEDULE = Schedule(epochs=6, budget=0.25, warm_start=0.34, period=2, schedule="pool")


@pytest.fixture
def both(source):
    generator = torch.Generator().manual_seed(1)
    return Pooled(source, Resident(torch.rand(P, 1, 8, 8, generator=generator), torch.arange(P) % 4), 0.5)


def trainer(solver, *, objective=None, schedule=SCHEDULE, selection=None, **settings) -> Trainer:
    objective = objective or Pgd()
    known = {"attack": LinfPGD(eps=0.1, steps=1), "block_size": SIZE, "budget": schedule.budget}
    selector = AdversarialCoreset(objective=objective, solver=solver, **known | (selection or {}))
    settings = {"attack": ATTACK, "optimizer": SGD(lr=0.05), "batch_size": SIZE, **settings}
    return Trainer(objective=objective, schedule=schedule, selector=selector, **settings)


def fit(made, model, both, seen=None, **how):
    """What training leaves; `seen` receives the indices of each batch."""

    def note(x, stream):
        if seen is not None:
            seen.append(stream.examples.clone())
        return keep_images(x, stream)

    model = copy.deepcopy(model)
    return made.fit(model, both, seed=3, augment=note, **how), model


CASES = {
    "random": lambda: trainer(Random()),
    "gradmatch, pool": lambda: trainer(GradMatch()),
    "gradmatch, real": lambda: trainer(GradMatch(), selection={"target": "real"}),
    "craig, real": lambda: trainer(Craig(), selection={"target": "real"}),
    "craig, real, whole": lambda: trainer(Craig(), selection={"target": "real", "partition": "whole"}),
    "boundary": lambda: trainer(SOLVERS["boundary_kmeans"](clusters=4), selection={"partition": "whole"}),
    "trades, real": lambda: trainer(GradMatch(), objective=Trades(beta=3.0), selection={"target": "real"}),
    "averaged": lambda: trainer(Craig(), selection={"target": "real"}, swa=SWA(start=0.5)),
}


@pytest.mark.parametrize("name", CASES)
def test_all_epochs_run_beside_what_was_chosen_and_the_ledger_is_the_closed_form(model, both, name):
    made = CASES[name]()
    seen = []
    out, _ = fit(made, model, both, seen)
    assert [entry["action"] for entry in out.epochs] == ["full", "full", "select", "reuse", "select", "reuse"]
    assert {(entry["examples"], entry["steps"]) for entry in out.epochs} == {(N, 3)}
    assert len(out.coresets) == 2
    epochs = [torch.cat(seen[3 * i : 3 * i + 3]) for i in range(6)]
    assert made.swa or len(seen) == 18  # an average looks at images again
    for coreset, after in zip(out.coresets, (epochs[2:4], epochs[4:]) if not made.swa else ((), ()), strict=True):
        assert len(coreset) == P // 4 and coreset.num_examples == P
        for indices in after:
            of_pool = indices[indices >= N] - N
            assert len(of_pool) == N // 2 and set(of_pool.tolist()) == set(coreset.indices.tolist())
    work = plan_work(made, N, pool=P)
    assert out.ledger.sum_units() == work.units
    assert out.ledger.sum_flops() == find_prices(made, model, both).price(work)


def test_the_cost_of_a_selection_by_hand():
    """Attack (1 step, 2 passes) and rows (a pass) of the pool, and of the real data where these are the target."""
    alone = plan_work(trainer(Random()), N, pool=P).units
    assert alone == 6 * N * (2 * 2 + 2)
    assert plan_work(trainer(GradMatch()), N, pool=P).units == alone + 2 * P * 3
    for solver in (GradMatch(), Craig()):
        made = trainer(solver, selection={"target": "real"})
        assert plan_work(made, N, pool=P).units == alone + 2 * (P + N) * 3
    boundary = trainer(SOLVERS["boundary_kmeans"]())
    assert plan_work(boundary, N, pool=P).units == alone + 2 * P


def test_images_of_the_pool_weigh_as_the_solver_says_and_real_ones_1(model, both, monkeypatch):
    made = trainer(GradMatch(), selection={"target": "real"})
    weights = []
    original = type(made.objective).loss
    monkeypatch.setattr(
        "advcore.training.epoch.weigh_part",
        lambda own, everything, batch, normalise: weights.append((batch, own)) or 1.0,
    )
    out, _ = fit(made, model, both)
    assert original is type(made.objective).loss
    first = out.coresets[0]
    expected = dict(zip((first.indices + N).tolist(), first.training_weights().tolist(), strict=True))
    for batch, own in weights[6:12]:
        assert own.tolist() == pytest.approx([expected.get(i, 1.0) for i in batch.tolist()])
    assert all(bool((own == 1).all()) for _, own in weights[:6])
    assert sum(expected.values()) / len(expected) == pytest.approx(1)


@pytest.mark.parametrize("start", ["uniform", "remembered"])
def test_a_run_that_goes_on_ends_in_the_same_bits(model, both, start):
    made = trainer(Craig(), selection={"target": "real"}, attack=ATTACK.with_settings(start=start))
    states = []
    out, undisturbed = fit(made, model, both, listener=Listener(on_checkpoint=lambda state: states.append(state())))
    for state in (states[1], states[2]):  # before the first selection, and between the two
        again, resumed = fit(made, model, both, resume=state)
        assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))
        assert again.ledger.sum_units() == out.ledger.sum_units()


def test_a_budget_of_1_is_the_run_without_a_selection(model, both):
    schedule = Schedule(epochs=2, budget=1.0, schedule="pool")
    _, chosen = fit(trainer(GradMatch(), schedule=schedule), model, both)
    alone = Trainer(
        objective=Pgd(), attack=ATTACK, schedule=Schedule(epochs=2), optimizer=SGD(lr=0.05), batch_size=SIZE
    )
    _, drawn = fit(alone, model, both)
    assert all(torch.equal(a, b) for a, b in zip(chosen.parameters(), drawn.parameters(), strict=True))


def test_scores_of_a_pool_from_a_file_choose_from_it(model, both):
    scores = torch.arange(P, dtype=torch.float64)
    solver = SOLVERS["by_score"](score="el2n", scores="pool.npz")
    made = trainer(solver, selection={"partition": "whole"})
    out, _ = fit(made, model, both, scores=DenseRows(matrix=scores[:, None]))
    assert sorted(out.coresets[0].indices.tolist()) == list(range(P - P // 4, P))
    assert out.ledger.sum_units() == plan_work(made, N, pool=P).units


def refuse(made, model, train) -> str:
    with pytest.raises(UserError) as caught:
        made.fit(model, train)
    return str(caught.value)


def test_what_cannot_choose_from_a_pool_is_refused_in_a_line(model, source, both):
    compressed = Schedule(epochs=4, budget=0.25)
    assert refuse(trainer(GradMatch(), schedule=compressed), model, both).startswith(
        "selection.schedule must be 'pool' with data.pool, got 'compressed'; "
    )
    assert refuse(trainer(GradMatch()), model, source) == (
        "selection.schedule must be 'compressed' or 'acs' without data.pool, got 'pool'; name a pool"
    )
    real = trainer(GradMatch(), schedule=compressed, selection={"target": "real"})
    assert refuse(real, model, source) == (
        "selection.target must be 'train' or 'validation' without data.pool, got 'real'"
    )
    blocks = trainer(GradMatch(), selection={"partition": "per_batch"})
    assert refuse(blocks, model, both).startswith("selection.partition must be one of single images with data.pool")
    caught = trainer(GradMatch(), selection={"rows_from": "training", "attack": ATTACK})
    assert refuse(caught, model, both).startswith("selection.rows_from must be 'attack' with data.pool")
    scored = trainer(SOLVERS["by_score"](), probe_epochs=1)
    assert refuse(scored, model, both).startswith("selection.solver.scores must be a file for scores over epochs")
    three = Resident(source._images[source.labels() < 3], source.labels()[source.labels() < 3])
    real = trainer(GradMatch(), selection={"target": "real"})
    assert "target: real needs examples of every class, got none of class 3" in refuse(
        real, model, Pooled(three, both.pool, 0.5)
    )


@pytest.mark.parametrize("solver", [Random(), Craig(epsilon=0.1), Craig(backend="submodlib")])
def test_solvers_that_cannot_match_real_data_are_refused(solver):
    with pytest.raises(UserError, match="^target must be 'train' for a solver that fits no target, got 'real'"):
        trainer(solver, selection={"target": "real"})
