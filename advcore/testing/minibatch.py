"""The contract of a rule that picks inside a minibatch."""

import pytest
import torch

from advcore.minibatch.base import AttackSubset, Seen, UpdateSubset
from advcore.rows import FactoredRows
from advcore.testing.examples import CLASSES, draw_stream

SIZE = 8


def draw_batch(scale: float = 1.0) -> Seen:
    """Return what a rule sees of a batch of SIZE examples."""
    generator = torch.Generator().manual_seed(0)
    margins = scale * torch.randn(SIZE, generator=generator)
    residuals = scale * torch.randn(SIZE, CLASSES, generator=generator)
    features = scale * torch.randn(SIZE, 5, generator=generator)
    rows = FactoredRows(residuals=(residuals,), features=(features,))
    return Seen(margins=margins, residuals=residuals, weights=torch.linspace(0.5, 1.5, SIZE), rows=rows)


class RuleContract:
    """What every rule promises, whether it picks whom to attack or what to learn from; the fixture is `rule`."""

    @pytest.fixture
    def rule(self) -> AttackSubset | UpdateSubset:
        raise NotImplementedError("give the contract a fixture `rule`")

    @pytest.mark.parametrize("epoch", range(5))
    def test_picks_are_unique_rising_and_in_the_batch(self, rule: AttackSubset | UpdateSubset, epoch: int) -> None:
        generator = draw_stream(range(SIZE), seed=epoch)
        if isinstance(rule, AttackSubset):
            picked = rule.pick(draw_batch() if rule.reads else None, generator)
            positions = picked.positions.tolist()
            assert len(positions) == max(1, int(rule.rho * SIZE))
            assert max(positions) < SIZE
            assert torch.isfinite(picked.weights).all()
            assert (picked.weights > 0).all()
        else:
            losses = torch.rand(2 * SIZE, generator=torch.Generator().manual_seed(epoch))
            positions = rule.keep(0.5, losses if rule.reads else None, generator).tolist()
            assert len(positions) == SIZE
            assert max(positions) < 2 * SIZE
        assert positions == sorted({*positions})

    @pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e8])
    def test_preferences_stay_above_0_and_finite(self, rule: AttackSubset | UpdateSubset, scale: float) -> None:
        if not isinstance(rule, AttackSubset) or rule.reads is None:
            pytest.skip("it has no preferences")
        preferences = rule.compute_preferences(draw_batch(scale))
        assert preferences.shape == (SIZE,)
        assert torch.isfinite(preferences).all()
        assert (preferences > 0).all()

    def test_the_seed_decides(self, rule: AttackSubset | UpdateSubset) -> None:
        losses = torch.linspace(0, 1, 2 * SIZE)
        state = torch.get_rng_state()
        picks = []
        for _ in range(2):
            if isinstance(rule, AttackSubset):
                picks.append(rule.pick(None, draw_stream(range(SIZE))).positions)
            else:
                picks.append(rule.keep(0.5, losses if rule.reads else None, draw_stream(range(SIZE))))
        assert torch.equal(*picks)
        assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global state"

    def test_a_plan_can_name_it(self, rule: AttackSubset | UpdateSubset) -> None:
        assert rule.describe()
