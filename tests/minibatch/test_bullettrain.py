"""BulletTrain's scores, classes and averages, against plain loops."""

import pytest
import torch

from advcore.minibatch.bullettrain import BulletTrain, measure_signed_variance, split_examples


def split_by_loop(scores: list[float], robust_share: float, most: float) -> list[str]:
    """The class of each example: in falling order, the surest first, while the robust share lasts."""
    size = len(scores)
    right = [i for i in sorted(range(size), key=lambda i: -scores[i]) if scores[i] >= 0]
    robust = right[: int(robust_share * size + 1e-9)]
    boundary = right[len(robust) :]
    room = max(1, int(most * size + 1e-9))
    robust += boundary[: max(0, len(boundary) - room)]
    return ["robust" if i in robust else "boundary" if i in right else "outlier" for i in range(size)]


@pytest.mark.parametrize("most", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("robust_share", [0.0, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_classes_are_those_of_a_plain_loop(seed, robust_share, most):
    scores = torch.randn(20, generator=torch.Generator().manual_seed(seed)).mul(3).round() / 10  # with ties and zeros
    parts = split_examples(scores, robust_share, most)
    assert all(sum(flags) == 1 for flags in zip(*(part.tolist() for part in parts), strict=True))
    classes = split_by_loop(scores.tolist(), robust_share, most)
    for part, name in zip(parts, ("outlier", "boundary", "robust"), strict=True):
        assert part.tolist() == [example == name for example in classes]


def test_the_signed_variance_is_that_of_the_probabilities_and_negative_where_wrong():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
    y = torch.tensor([0, 2, 1])
    scores = measure_signed_variance(logits, y).tolist()
    for score, z, label in zip(scores, logits.exp(), y.tolist(), strict=True):
        p = [float(entry / z.sum()) for entry in z]
        variance = sum((entry - 1 / 3) ** 2 for entry in p) / 3
        assert score == pytest.approx(variance if p.index(max(p)) == label else -variance, abs=1e-7)
    assert scores[0] > 0 > scores[1]


def test_averages_are_running_and_a_first_visit_has_no_history():
    rule = BulletTrain(momentum=0.5, discount=0.8, smoothing=0.25)
    average = 0.0
    for accuracy in (0.4, 0.8):
        average = rule.update_average(average, accuracy)
    assert average == pytest.approx(0.5 * 0.2 + 0.5 * 0.8)
    mixed = rule.smooth(torch.tensor([1.0, 1.0]), torch.tensor([float("nan"), -3.0]))
    assert mixed.tolist() == [1.0, 0.25 * -3 + 0.75]
    parts = rule.split(torch.linspace(0, 1, 10), average)  # 0.8 x 0.5 of 10 are robust
    assert parts.robust.tolist() == [False] * 6 + [True] * 4


def test_no_example_takes_more_steps_than_the_attack():
    rule = BulletTrain(robust_steps=4, outlier_steps=1)
    parts = rule.split(torch.tensor([-1.0, 0.1, 0.9]), average=0.5)
    assert rule.count_steps(parts, most=10).tolist() == [1, 10, 4]
    assert rule.count_steps(parts, most=2).tolist() == [1, 2, 2]
