"""The contract of a kind of gradient row or score."""

from dataclasses import dataclass

import pytest
import torch

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.gradients.base import Gradient, Measurement, MeasurementSettings
from advcore.objectives.standard import Pgd
from advcore.rng import Stream
from advcore.testing.examples import assert_state, copy_state, make_network, make_source

ATTACK = LinfPGD(eps=0.1, steps=2)


@dataclass(frozen=True)
class _Trial:
    measured: Measurement
    ledger: CostLedger


def _measure(gradient: Gradient, *, chunk_size: int = 16) -> _Trial:
    ledger = CostLedger()
    settings = MeasurementSettings(
        objective=Pgd(),
        attack=ATTACK,
        stream=Stream(seed=0, purpose="testing"),
        ledger=ledger,
        chunk_size=chunk_size,
    )
    return _Trial(gradient.measure(make_network(), make_source(), settings), ledger)


class GradientContract:
    """What every kind of row promises; the fixture `gradient` returns an entry of the table GRADIENTS."""

    @pytest.fixture
    def gradient(self) -> Gradient:
        raise NotImplementedError("give the contract a fixture `gradient`")

    def test_there_is_a_finite_row_for_each_example_in_order(self, gradient: Gradient) -> None:
        rows, labels = _measure(gradient).measured.get_rows_and_labels()
        source = make_source()
        assert len(rows) == len(source)
        assert torch.equal(labels, source.labels())
        assert torch.isfinite(rows.dense()).all()

    def test_the_size_of_the_chunks_does_not_matter(self, gradient: Gradient) -> None:
        small, _ = _measure(gradient, chunk_size=1).measured.get_rows_and_labels()
        large, _ = _measure(gradient, chunk_size=24).measured.get_rows_and_labels()
        torch.testing.assert_close(small.dense(), large.dense(), rtol=1e-4, atol=1e-5)

    def test_it_takes_the_passes_that_it_says(self, gradient: Gradient) -> None:
        trial = _measure(gradient)
        assert trial.ledger.sum_units() == len(make_source()) * gradient.plan(Pgd(), ATTACK).units

    def test_the_model_comes_back_as_it_was(self, gradient: Gradient) -> None:
        model = make_network().train()
        state = copy_state(model)
        stream = Stream(seed=0, purpose="testing")
        settings = MeasurementSettings(objective=Pgd(), attack=ATTACK, stream=stream, ledger=CostLedger())
        gradient.measure(model, make_source(), settings)
        assert_state(model, state)
        assert model.training

    def test_it_says_what_it_is(self, gradient: Gradient) -> None:
        assert gradient.about
