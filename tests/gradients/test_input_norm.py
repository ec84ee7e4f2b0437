"""Input-gradient norms (AIGN) against autograd of one example at a time."""

import pytest
import torch
import torch.nn.functional as F
from seeds import seeded
from torch import nn

from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import DataError
from advcore.gradients.base import AveragedScores, MeasurementSettings
from advcore.gradients.input_norm import input_norms

N, SHAPE, CLASSES = 37, (2, 5, 5), 3
LABELS = torch.arange(N) % CLASSES


def images(dtype=torch.float64):
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def network():
    with seeded():
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(36, CLASSES),
        ).double()
        model(2 * images() - 1)
    return model


def measure(model, x=None, **settings):
    source = Resident(images() if x is None else x, LABELS)
    return input_norms(model, source, MeasurementSettings(**{"ledger": CostLedger(), **settings})).rows.matrix[:, 0]


def slow_norms(model):
    norms = []
    for i in range(N):
        x = images()[i : i + 1].requires_grad_(True)
        loss = F.cross_entropy(model(x), LABELS[i : i + 1])
        norms.append(torch.autograd.grad(loss, x)[0].norm())
    return torch.stack(norms)


@pytest.mark.case("F6")
@pytest.mark.parametrize("chunk_size", [1, 5, 16, 36, 256])
def test_norms_equal_autograd_one_example_at_a_time_for_any_chunk(chunk_size):
    model = network()
    got = measure(model, chunk_size=chunk_size)
    assert got.shape == (N,) and got.dtype == torch.float64
    assert torch.allclose(got, slow_norms(model.eval()), rtol=1e-9, atol=0)


@pytest.mark.case("F6")
def test_float32_norms_do_not_depend_on_the_chunk():
    model = network().float()
    one, other = (measure(model, images(torch.float32), chunk_size=size) for size in (4, 256))
    assert torch.allclose(one, other, rtol=1e-5, atol=0)


@pytest.mark.case("E2")
def test_the_model_comes_back_as_it_was():
    model = network().train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    measure(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training and not model[1].training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_cost_is_one_forward_and_one_backward_pass_under_scoring():
    ledger = CostLedger()
    measure(network(), ledger=ledger, chunk_size=16)
    assert ledger.passes["scoring"] == {"forward": N, "backward": N} and ledger.sum_units() == 2 * N


@pytest.mark.parametrize("bad", [CLASSES, -1, -100])
def test_labels_out_of_range_are_named(bad):
    """-100 above all, which cross-entropy would skip, giving the example the lowest score there is."""
    y = LABELS.clone()
    y[[20, 30]] = bad
    with pytest.raises(DataError, match=f"0..{CLASSES - 1}, got {bad} at example 20"):
        input_norms(network(), Resident(images(), y), MeasurementSettings(ledger=CostLedger(), chunk_size=16))


@pytest.mark.case("F9")
def test_a_perfect_classifier_scores_zero_and_a_huge_gap_stays_finite():
    model = network()
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.copy_(torch.tensor([1000.0, 0.0, 0.0]))
    assert torch.equal(measure(model), torch.zeros(N, dtype=torch.float64))


def test_the_score_is_the_average_over_epochs():
    scores = AveragedScores()
    epochs = [torch.rand(N, generator=torch.Generator().manual_seed(e), dtype=torch.float64) for e in range(3)]
    for e, norms in enumerate(epochs):
        scores.add(norms)
        expected = sum(epochs[: e + 1]) / (e + 1)
        assert scores.epochs == e + 1
        assert torch.allclose(scores.rows.dense(), expected[:, None], atol=1e-15)
