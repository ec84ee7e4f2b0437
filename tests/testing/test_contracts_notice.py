"""A contract that nothing can break says nothing: methods with one fault each, and the test that notices it."""

import dataclasses

import pytest
import torch

from advcore.attacks import LinfPGD
from advcore.minibatch import RULES
from advcore.objectives.standard import Pgd
from advcore.settings import settings
from advcore.solvers import Random
from advcore.testing import AttackContract, ObjectiveContract, RuleContract, SolverContract


@settings
class TooFar(LinfPGD):
    def __call__(self, loss, x, *, generator):
        return (super().__call__(loss, x, generator=generator) + 2 * self.eps).clamp(0, 1)


@settings
class OfTheGlobalState(LinfPGD):
    def __call__(self, loss, x, *, generator):
        moved = x + self.eps * torch.rand_like(x)
        return moved.clamp(0, 1)


@settings
class Downhill(LinfPGD):
    def __call__(self, loss, x, *, generator):
        return super().__call__(lambda z: -loss(z), x, generator=generator)


ATTACK = {"eps": 0.05, "steps": 2}


@pytest.mark.parametrize(
    "attack, test",
    [
        (TooFar(**ATTACK), "test_it_stays_in_its_ball_and_raises_the_loss"),
        (Downhill(**ATTACK), "test_it_stays_in_its_ball_and_raises_the_loss"),
        (OfTheGlobalState(**ATTACK), "test_the_seed_decides_and_the_global_random_state_does_not"),
        (OfTheGlobalState(**ATTACK), "test_an_image_is_attacked_the_same_in_any_batch"),
    ],
)
def test_an_attack_with_a_fault_is_noticed(attack, test):
    with pytest.raises(AssertionError):
        getattr(AttackContract(), test)(attack)
    getattr(AttackContract(), test)(LinfPGD(**ATTACK))


@settings
class OfTheBatch(Pgd):
    def loss(self, y, *, adversarial):
        losses = super().loss(y, adversarial=adversarial)
        return losses - losses.mean()


def test_an_objective_that_mixes_examples_is_noticed():
    with pytest.raises(AssertionError):
        ObjectiveContract().test_the_loss_of_an_example_does_not_depend_on_its_batch(OfTheBatch())


@settings
class Twice(Random):
    def __call__(self, rows, k, *, target=None, generator):
        answer = super().__call__(rows, k, target=target, generator=generator)
        return dataclasses.replace(answer, indices=answer.indices * 0)


def test_a_solver_that_picks_twice_is_noticed():
    with pytest.raises(AssertionError, match="twice"):
        SolverContract().test_at_most_k_picks_unique_and_with_finite_weights(Twice(), 7)


@settings
class Backwards(RULES["margin"]):
    def pick(self, seen, generator):
        picked = super().pick(seen, generator)
        return picked._replace(positions=picked.positions.flip(0))


def test_a_rule_whose_picks_are_not_in_order_is_noticed():
    with pytest.raises(AssertionError):
        RuleContract().test_picks_are_a_share_of_the_batch_unique_and_rising(Backwards(), 0)


@pytest.mark.parametrize(
    "contract, fixture", [(AttackContract, "attack"), (SolverContract, "solver"), (ObjectiveContract, "objective")]
)
def test_a_contract_without_its_fixture_says_which(contract, fixture):
    function = getattr(contract, fixture)
    original = getattr(function, "_get_wrapped_function", lambda: function.__wrapped__)()
    with pytest.raises(NotImplementedError, match=f"give the contract a fixture `{fixture}`"):
        original(contract())
