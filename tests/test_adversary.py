"""Where an objective meets an attack."""

import pytest
import torch
import torch.nn.functional as F
from seeds import seeded
from torch import nn

from advcore.adversary import describe_mismatch, perturb, plan_attack
from advcore.attacks import ATTACKS
from advcore.attacks.pgd import PGD
from advcore.cost import CostLedger
from advcore.objectives import OBJECTIVES
from advcore.objectives.base import is_attacked
from advcore.rng import Stream
from advcore.work import NO_WORK

B, STEPS = 8, 3
BALLS = [name for name, kind in ATTACKS.items() if issubclass(kind, PGD)]
LABELS = torch.arange(B) % 3
EVERY = pytest.mark.parametrize("name", OBJECTIVES)
ATTACKED = pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if is_attacked(kind())])


def images():
    return torch.rand(B, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network():
    with seeded():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double().requires_grad_(False)


def attack(kind="linf_pgd", **settings):
    return ATTACKS[kind](**{"eps": 0.1, "steps": STEPS, **settings})


def run(name, model, kind="linf_pgd", clean=None, **settings):
    return perturb(
        model,
        OBJECTIVES[name](),
        attack(kind, **settings),
        images(),
        LABELS,
        clean=clean,
        generator=Stream(seed=0, purpose="attack").at(torch.arange(B)),
    )


def test_an_objective_that_is_not_attacked_gives_the_images_back():
    x = images()
    generator = Stream(seed=0, purpose="attack").at(torch.arange(B))
    assert perturb(network(), OBJECTIVES["standard"](), None, x, LABELS, generator=generator) is x
    assert plan_attack(OBJECTIVES["standard"](), None) == NO_WORK


@ATTACKED
def test_the_answer_is_a_constant(name):
    x_adv = run(name, network())
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    assert not torch.equal(x_adv, images())


class KeepsItsGraph:
    """An attack of someone else's that forgets to detach."""

    climbs = "own"

    def __call__(self, loss_fn, x, *, generator):
        return x.clone().requires_grad_(True) * 0.5


def test_a_graph_that_an_attack_leaves_behind_is_cut():
    generator = Stream(seed=0, purpose="attack").at(torch.arange(B))
    x_adv = perturb(network(), OBJECTIVES["pgd"](), KeepsItsGraph(), images(), LABELS, generator=generator)
    assert not x_adv.requires_grad and torch.equal(x_adv, images() * 0.5)


@EVERY
@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("known", [False, True])
def test_the_ledger_counts_what_passes_foretells(name, kind, restarts, known):
    model, ledger = network(), CostLedger()
    with ledger.phase("attack"):
        clean = model(images()) if known else None
        run(name, ledger.count_passes(model), kind, clean=clean, restarts=restarts)
    foretold = plan_attack(OBJECTIVES[name](), attack(kind, restarts=restarts), clean_known=known)
    assert ledger.sum_units() == B * foretold.units


@pytest.mark.parametrize("known, forwards", [(False, STEPS + 1), (True, STEPS)])
def test_the_clean_logits_of_trades_are_computed_once_at_most(known, forwards):
    model, seen = network(), []

    def forward(x):
        clean = torch.equal(x, images())
        assert torch.is_grad_enabled() != clean  # no graph is kept for them
        seen.append(clean)
        return model(x)

    run("trades", forward, clean=model(images()) if known else None)
    assert len(seen) == forwards and seen.count(True) == (0 if known else 1)


def test_known_clean_logits_change_nothing():
    model = network()
    assert torch.equal(run("trades", model), run("trades", model, clean=model(images())))


def test_trades_climbs_the_divergence_and_pgd_the_cross_entropy():
    model = network()
    p = model(images()).log_softmax(1)

    def reached(x_adv):
        q = model(x_adv).log_softmax(1)
        return (p.exp() * (p - q)).sum(1).mean(), F.cross_entropy(model(x_adv), LABELS)

    by_trades, by_pgd = (reached(run(name, model, steps=20)) for name in ("trades", "pgd"))
    assert by_trades[0] > by_pgd[0] > 0 and by_pgd[1] > by_trades[1]


@ATTACKED
def test_each_example_climbs_its_own_loss(name):
    model, whole = network(), run(name, network())
    for i in range(B):
        index = torch.tensor([i])
        alone = perturb(
            model,
            OBJECTIVES[name](),
            attack(),
            images()[index],
            LABELS[index],
            generator=Stream(seed=0, purpose="attack").at(index),
        )
        assert torch.allclose(alone[0], whole[i], atol=1e-10)


@pytest.mark.parametrize("attack", [0.5, "linf_pgd", object()])
def test_what_is_no_attack_is_refused_in_one_line(attack):
    problem = str(describe_mismatch(OBJECTIVES["pgd"](), attack))
    assert problem.startswith("attack must be an attack, such as advcore.attacks.LinfPGD(...), got")
    assert "\n" not in problem


def test_an_objective_with_the_hooks_of_the_last_release_is_refused_in_one_line():
    class Old:
        passes = ("adversarial",)

    assert str(describe_mismatch(Old(), None)).startswith("objective must be an objective with loss, bind_ascent and")
