"""The contract of a rule that picks inside a minibatch."""

import pytest
import torch
from torch import Tensor

from advcore.minibatch.base import AttackSubset, LastVisit, Seen, UpdateSubset
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.minibatch.whole_batch import WholeBatch
from advcore.rows import FactoredRows
from advcore.testing.examples import CLASSES, draw_stream

SIZE = 8
Rule = AttackSubset | UpdateSubset | WholeBatch | EpochSubset


def draw_seen(scale: float = 1.0) -> Seen:
    """Draw what a rule sees of a batch of SIZE examples; the same at each call, in units of `scale`."""
    generator = torch.Generator().manual_seed(0)
    margins = scale * torch.randn(SIZE, generator=generator)
    residuals = scale * torch.randn(SIZE, CLASSES, generator=generator)
    features = scale * torch.randn(SIZE, 5, generator=generator)
    rows = FactoredRows(residuals=(residuals,), features=(features,))
    losses = scale * torch.rand(SIZE, generator=generator)
    visit = LastVisit(losses=losses, changes=losses.flip(0) - losses, ages=torch.arange(SIZE))
    weights = torch.linspace(0.5, 1.5, SIZE)
    return Seen(margins=margins, residuals=residuals, weights=weights, rows=rows, last_visit=visit)


def draw_losses() -> Tensor:
    """Draw the last losses of SIZE examples, of which two were never trained on; the same at each call."""
    losses = torch.rand(SIZE, generator=torch.Generator().manual_seed(0))
    losses[2:4] = float("nan")
    return losses


def pick_positions(rule: Rule, seed: int) -> Tensor:
    """Return which of SIZE examples a rule picks to attack or to train on, or which half of their images it keeps.

    Skips the test for a rule on whole batches, which picks none.
    """
    if isinstance(rule, WholeBatch):
        pytest.skip("it picks none")
    stream = draw_stream(range(SIZE), seed=seed)
    if isinstance(rule, AttackSubset):
        return rule.pick(draw_seen() if rule.reads else None, stream).positions
    if isinstance(rule, EpochSubset):
        return rule.choose_weights(draw_losses(), stream).nonzero()[:, 0]
    losses = torch.rand(2 * SIZE, generator=torch.Generator().manual_seed(seed))
    return rule.keep(0.5, losses if rule.reads else None, stream)


class RuleContract:
    """What every rule promises, whether it picks what to attack or what to train on; the fixture is `rule`."""

    @pytest.fixture
    def rule(self) -> Rule:
        raise NotImplementedError("give the contract a fixture `rule`")

    @pytest.mark.parametrize("seed", range(5))
    def test_picks_are_a_share_of_the_batch_unique_and_rising(self, rule: Rule, seed: int) -> None:
        positions = pick_positions(rule, seed).tolist()
        if isinstance(rule, AttackSubset):
            assert len(positions) == max(1, int(rule.rho * SIZE))
            assert {*positions} <= {*range(SIZE)}
        elif isinstance(rule, EpochSubset):
            assert {2, 3} <= {*positions} <= {*range(SIZE)}, "what was never trained on stays"
        else:
            assert len(positions) == SIZE
            assert {*positions} <= {*range(2 * SIZE)}
        assert positions == sorted({*positions})

    @pytest.mark.parametrize("seed", range(5))
    def test_weights_are_above_0_and_finite(self, rule: Rule, seed: int) -> None:
        if isinstance(rule, (UpdateSubset, WholeBatch)):
            pytest.skip("it gives no weights")
        stream = draw_stream(range(SIZE), seed=seed)
        if isinstance(rule, EpochSubset):
            weights = rule.choose_weights(draw_losses(), stream)[pick_positions(rule, seed)]
        else:
            weights = rule.pick(draw_seen() if rule.reads else None, stream).weights
        assert ((weights > 0) & torch.isfinite(weights)).all()

    @pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e8])
    def test_preferences_stay_above_0_and_finite(self, rule: Rule, scale: float) -> None:
        if not isinstance(rule, AttackSubset) or rule.reads is None:
            pytest.skip("it has no preferences")
        preferences = rule.compute_preferences(draw_seen(scale))
        assert preferences.shape == (SIZE,)
        assert ((preferences > 0) & torch.isfinite(preferences)).all()

    def test_the_same_seed_picks_the_same_and_no_global_state_moves(self, rule: Rule) -> None:
        state = torch.get_rng_state()
        assert torch.equal(pick_positions(rule, seed=0), pick_positions(rule, seed=0))
        assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global state"

    def test_a_plan_can_describe_it(self, rule: Rule) -> None:
        assert rule.describe()
