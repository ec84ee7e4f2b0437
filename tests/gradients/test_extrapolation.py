"""Scores by nearest neighbours against scikit-learn and by hand, and of a pool that is walked through in chunks."""

import copy

import pytest
import torch
from kernels import by_plain_kernels
from sklearn.neighbors import KNeighborsRegressor

from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.gradients import extrapolation
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.extrapolation import average_neighbours, extrapolate_scores

N, P = 96, 50


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("neighbours", [1, 5, 40])
@pytest.mark.parametrize("at_once", [7, 4096])
def test_it_is_what_scikit_learn_returns(neighbours, at_once, dtype, monkeypatch):
    monkeypatch.setattr(extrapolation, "_AT_ONCE", at_once)
    features, scores, queries = draw(40, 6).to(dtype), draw(40, seed=1).double(), draw(9, 6, seed=2).to(dtype)
    twin = KNeighborsRegressor(n_neighbors=neighbours, algorithm="brute").fit(features.double(), scores)
    values = average_neighbours(queries, features, scores, neighbours)
    assert values.tolist() == pytest.approx(twin.predict(queries.double()).tolist(), abs=1e-12)


def test_an_image_that_is_scored_is_its_own_nearest_neighbour_far_from_the_origin():
    features = 1e4 + draw(30, 8).double()
    scores = torch.arange(30).double()
    assert torch.equal(average_neighbours(features, features, scores, 1), scores)


def make_pool(source):
    return Resident(source._images[:P].flip(3), torch.zeros(P, dtype=torch.long))


def settings(ledger=None, **changes):
    return MeasurementSettings(ledger=ledger or CostLedger(), **changes)


@by_plain_kernels
def test_a_pool_is_scored_in_features_of_the_model_and_costs_a_pass_an_image(model, source):
    scores = draw(N, seed=3).double()
    pool = make_pool(source)
    ledger = CostLedger()
    before = copy.deepcopy(model.state_dict())
    measured = extrapolate_scores(model, source, scores, pool, settings(ledger, chunk_size=16), neighbours=3)
    rows, labels = measured.get_rows_and_labels()
    assert torch.equal(labels, pool.labels()) and rows.matrix.shape == (P, 1)
    assert ledger.passes["scoring"] == {"forward": N + P, "backward": 0} and ledger.sum_units() == N + P
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    body = copy.deepcopy(model[:-1]).eval()
    with torch.no_grad():
        features, queries = (
            body(next(data.batches([torch.arange(len(data))]))[1]).flatten(1).double() for data in (source, pool)
        )
    twin = KNeighborsRegressor(n_neighbors=3, algorithm="brute").fit(features, scores).predict(queries)
    assert rows.matrix[:, 0].tolist() == pytest.approx(twin.tolist(), abs=1e-9)


@by_plain_kernels
def test_the_size_of_the_chunks_and_labels_do_not_matter(model, source):
    scores = draw(N, seed=3).double()
    pool = make_pool(source)
    other = Resident(pool._images, pool.labels() + 1)
    whole = extrapolate_scores(model, source, scores, pool, settings(chunk_size=64))
    pieces = extrapolate_scores(model, source, scores, other, settings(chunk_size=8))
    assert torch.allclose(whole.rows.matrix, pieces.rows.matrix, atol=1e-9)


@pytest.mark.parametrize(
    "count, neighbours, problem",
    [(N - 1, 3, "scores must be one for each of 96"), (N, 0, "neighbours must be"), (N, N + 1, "at most 96")],
)
def test_what_does_not_fit_is_a_line(model, source, count, neighbours, problem):
    with pytest.raises(ConfigError, match=problem):
        extrapolate_scores(
            model, source, torch.zeros(count).double(), make_pool(source), settings(), neighbours=neighbours
        )
