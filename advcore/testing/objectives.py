"""The contract of an objective."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows
from advcore.objectives.base import ASCENTS, Objective, choose_ascent, needs_clean
from advcore.rng import Stream
from advcore.testing.examples import CLASSES, make_network, make_source

COUNT = 9
LABELS = torch.arange(COUNT) % CLASSES


def draw_logits(objective: Objective, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return logits (COUNT, CLASSES) for each of the objective's forward passes."""
    generator = torch.Generator().manual_seed(4)
    draws = {key: torch.randn(COUNT, CLASSES, generator=generator, dtype=torch.float64) for key in objective.passes}
    return {key: (2 * logits).to(dtype) for key, logits in draws.items()}


def find_residuals(loss: Callable[..., Tensor], logits: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Return d loss / d logits for each forward pass, by autograd."""
    leaves = {key: value.clone().requires_grad_(True) for key, value in logits.items()}
    return torch.autograd.grad(loss(**leaves).sum(), list(leaves.values()))


class ObjectiveContract:
    """What every objective promises; the fixture `objective` returns one."""

    @pytest.fixture
    def objective(self) -> Objective:
        raise NotImplementedError("give the contract a fixture `objective`")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_loss_is_one_number_for_each_example(self, objective: Objective, dtype: torch.dtype) -> None:
        loss = objective.loss(LABELS, **draw_logits(objective, dtype))
        assert loss.shape == (COUNT,)
        assert loss.dtype == dtype
        assert torch.isfinite(loss).all()

    def test_the_loss_of_an_example_does_not_depend_on_its_batch(self, objective: Objective) -> None:
        logits = draw_logits(objective)
        losses = objective.loss(LABELS, **logits)
        for i in range(COUNT):
            alone = objective.loss(LABELS[[i]], **{key: value[[i]] for key, value in logits.items()})
            assert torch.allclose(alone[0], losses[i], atol=1e-12)

    @pytest.mark.parametrize("climbs", ASCENTS)
    def test_what_an_attack_climbs_is_one_number_for_each_example(self, objective: Objective, climbs: str) -> None:
        clean, moved = torch.randn(2, COUNT, CLASSES, generator=torch.Generator().manual_seed(1))
        known = clean if needs_clean(objective, climbs) else None
        values = choose_ascent(objective, climbs, LABELS, known)(moved)
        assert values.shape == (COUNT,)
        assert torch.isfinite(values).all()

    @pytest.mark.parametrize("gap", [200.0, 1000.0])
    def test_logit_gaps_of_any_size_keep_loss_and_gradient_finite(self, objective: Objective, gap: float) -> None:
        extremes = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0], [-gap, 0.0, gap], [0.0, 0.0, 0.0]])
        first, second = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
        logits = dict(zip(objective.passes, (extremes[first], extremes[second]), strict=False))
        for label in range(3):
            labels = torch.full((16,), label)

            def loss(labels: Tensor = labels, **values: Tensor) -> Tensor:
                return objective.loss(labels, **values)

            assert torch.isfinite(loss(**logits)).all()
            assert all(torch.isfinite(residual).all() for residual in find_residuals(loss, logits))

    def test_its_gradient_agrees_with_finite_differences(self, objective: Objective) -> None:
        step = 1e-5
        logits = draw_logits(objective)
        residuals = find_residuals(lambda **values: objective.loss(LABELS, **values), logits)
        for key, residual in zip(logits, residuals, strict=True):
            for label in range(CLASSES):
                change = torch.zeros(CLASSES, dtype=torch.float64)
                change[label] = step
                up = objective.loss(LABELS, **(logits | {key: logits[key] + change}))
                down = objective.loss(LABELS, **(logits | {key: logits[key] - change}))
                assert torch.allclose(residual[:, label], (up - down) / (2 * step), atol=1e-7)

    def test_it_gives_gradient_rows(self, objective: Objective) -> None:
        attack = LinfPGD(eps=0.1, steps=1) if "adversarial" in objective.passes else None
        source = make_source()
        settings = MeasurementSettings(
            objective=objective,
            attack=attack,
            stream=Stream(seed=0, purpose="testing"),
            ledger=CostLedger(),
        )
        rows, labels = last_layer_rows(make_network(), source, settings).get_rows_and_labels()
        assert len(rows) == len(source) == len(labels)
        assert torch.isfinite(rows.squared_norms()).all()
