"""The contract of a regulariser."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.objectives.standard import Pgd
from advcore.regularizers.base import Regularizer, compute_penalties, describe_examples
from advcore.testing.examples import COUNT, LABELS, draw_stream, make_images, make_network

EVERYBODY = range(COUNT)


def penalize(
    regularizer: Regularizer,
    model: nn.Module,
    *,
    indices: range | list[int] = EVERYBODY,
    seed: int = 0,
    ledger: CostLedger | None = None,
) -> Tensor:
    """Return (B,) the weighted penalties of attacked images, as a step of training by PGD adds them.

    indices : of the examples, and of their random numbers. ledger : counts the passes, in phase "update", without those
    of the attack and of the objective.
    """
    ledger = ledger or CostLedger()
    x, y = make_images(torch.float64)[indices], LABELS[indices]
    stream = draw_stream(indices, seed=seed)
    attack = LinfPGD(eps=0.1, steps=1)
    examples = describe_examples(regularizer, Pgd(), attack, x, y, stream)

    def loss(images: Tensor) -> Tensor:
        return Pgd().loss(y, adversarial=model(images))

    x_adv = attack(loss, x, generator=stream)
    with ledger.phase("update"):
        return compute_penalties(regularizer, ledger.count_passes(model), examples, {"adversarial": model(x_adv)})


class RegularizerContract:
    """What every regulariser promises; the fixture `regularizer` returns one that works with PGD in the linf ball."""

    @pytest.fixture
    def regularizer(self) -> Regularizer:
        raise NotImplementedError("give the contract a fixture `regularizer`")

    def test_it_serves_a_step_of_pgd(self, regularizer: Regularizer) -> None:
        assert regularizer.find_problem(Pgd(), LinfPGD(eps=0.1, steps=1)) is None

    def test_a_penalty_is_one_number_for_each_example_at_least_0(self, regularizer: Regularizer) -> None:
        penalties = penalize(regularizer, make_network(torch.float64))
        assert penalties.shape == (COUNT,)
        assert torch.isfinite(penalties).all()
        assert (penalties >= -1e-12).all()

    def test_an_example_is_penalised_the_same_in_any_batch(self, regularizer: Regularizer) -> None:
        model = make_network(torch.float64)
        everybody = penalize(regularizer, model)
        for indices in ([4], [2, 0]):
            assert torch.allclose(penalize(regularizer, model, indices=indices), everybody[indices], atol=1e-9)

    def test_its_gradient_reaches_the_weights(self, regularizer: Regularizer) -> None:
        model = make_network(torch.float64)
        ledger = CostLedger()
        penalties = penalize(regularizer, model, ledger=ledger)
        with ledger.phase("update"):
            penalties.sum().backward()
        reached = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in reached)
        assert any(gradient.any() for gradient in reached)

    def test_it_takes_the_passes_that_it_plans(self, regularizer: Regularizer) -> None:
        ledger = CostLedger()
        penalties = penalize(regularizer, make_network(torch.float64), ledger=ledger)
        with ledger.phase("update"):
            penalties.sum().backward()
        assert ledger.sum_units() == COUNT * regularizer.plan().units

    def test_the_seed_decides_and_the_global_random_state_does_not(self, regularizer: Regularizer) -> None:
        call = partial(penalize, regularizer, make_network(torch.float64))
        before = torch.get_rng_state()
        assert torch.equal(call(), call())
        assert torch.equal(before, torch.get_rng_state()), "it draws from torch's global state"
