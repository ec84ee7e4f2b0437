"""Rules that read the last visit, by hand."""

import pytest
import torch

from advcore.minibatch import LossChange, LowConfidence, Mixed, Oldest
from advcore.minibatch.base import LastVisit, Seen, is_reattack
from advcore.minibatch.uniform import RandomSubset
from advcore.rng import Stream

P_Y = torch.tensor([0.9, 0.2, 0.5, 0.7])
VISIT = LastVisit(losses=-P_Y.log(), changes=torch.tensor([0.1, -0.7, 0.4, 0.0]), ages=torch.tensor([0, 3, 1, 7]))
SEEN = Seen(torch.zeros(0), torch.zeros(0, 1), torch.ones(4), last_visit=VISIT)
STREAM = Stream(seed=0, purpose="minibatch").at(torch.arange(4))


@pytest.mark.parametrize(
    "rule, preferences, positions",
    [
        (LowConfidence(), [0.1, 0.8, 0.5, 0.3], [1, 2]),
        (Oldest(), [1, 4, 2, 8], [1, 3]),
        (LossChange(), [0.1, 0.7, 0.4, 0.0], [1, 2]),
    ],
)
def test_preferences_by_hand(rule, preferences, positions):
    assert rule.compute_preferences(SEEN).tolist() == pytest.approx(preferences, abs=2e-6)
    assert rule.pick(SEEN, STREAM).positions.tolist() == positions


def test_a_mixture_is_the_weighted_mean_of_probabilities():
    rule = Mixed(low_confidence=1, oldest=2, random=1)
    parts = [torch.tensor([0.1, 0.8, 0.5, 0.3]) / 1.7, 2 * torch.tensor([1.0, 4, 2, 8]) / 15, torch.full((4,), 0.25)]
    assert rule.compute_preferences(SEEN).tolist() == pytest.approx((sum(parts) / 4).tolist(), abs=1e-5)
    alone = Mixed(low_confidence=0, oldest=0, loss_change=3).compute_preferences(SEEN)
    assert alone.tolist() == pytest.approx([0.1 / 1.2, 0.7 / 1.2, 0.4 / 1.2, 0], abs=1e-5)


def test_which_rules_train_the_rest():
    assert is_reattack(Oldest()) and is_reattack(RandomSubset(rest="remembered"))
    assert not is_reattack(RandomSubset()) and not is_reattack(None)
    assert (
        "again and reusing the other perturbations" in Oldest().describe() and "again" not in RandomSubset().describe()
    )
