"""A sum of weights, counts or norms may be 0: what is divided by it has a defined, finite value."""

import math

import pytest
import torch

from advcore import AdversarialCoreset, Trainer, distributed, evaluate
from advcore.attacks import LinfPGD
from advcore.data.source import Resident
from advcore.distributed import exchange
from advcore.errors import ConfigError, DataError, NonFiniteError
from advcore.evaluation.intervals import wilson
from advcore.gradients.base import Measurement
from advcore.minibatch import RULES
from advcore.minibatch.base import Seen, draw_examples, normalise_entropy
from advcore.objectives import Pgd, Standard
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.selection.partition import PARTITIONS, Split
from advcore.selection.quality import Sample, estimate_full_error, measure_gradient_error, measure_quality
from advcore.selection.result import Coreset
from advcore.selection.schedule import Schedule
from advcore.selection.solve import Solution
from advcore.shares import divide
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.picks import weigh_part
from advcore.training.step import reduce_losses

ATTACK = LinfPGD(eps=0.1, steps=1)
STREAM = Stream(seed=0, purpose="zero")


@pytest.mark.parametrize("part, total, expected", [(0, 0, 0), (0.0, 0.0, 0), (3.0, 0.0, 3), (3, 4, 0.75)])
def test_a_total_of_zero_counts_as_one(part, total, expected):
    assert divide(part, total) == expected
    assert float(divide(torch.tensor(float(part)), torch.tensor(float(total)))) == expected


def test_division_is_bitwise_the_plain_one_where_the_total_is_not_zero():
    parts, totals = torch.randn(2, 1000).unbind()
    assert torch.equal(divide(parts, totals), parts / totals)


@pytest.mark.parametrize("normalise", ["coreset", "batch", "none", "equal"])
def test_a_batch_whose_weights_are_all_zero_has_loss_and_gradient_zero(normalise):
    logits = torch.randn(4, 3, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]), reduction="none")
    loss = reduce_losses(losses, torch.zeros(4), normalise)
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros(4, 3))


@pytest.mark.parametrize("normalise", ["batch", "none", "coreset"])
def test_training_goes_on_after_a_batch_of_zero_weights(model, source, normalise, monkeypatch):
    """Weights of a user's own solver; random ones come in batches of 16, of which the first have no weight."""
    monkeypatch.setattr(Coreset, "training_weights", lambda self, how: (torch.arange(len(self)) >= 40).float())
    selector = AdversarialCoreset(
        objective=Pgd(), solver=GradMatch(), attack=ATTACK, budget=0.5, partition="per_batch", block_size=16,
        normalise=normalise,
    )  # fmt: skip
    trained = Trainer(
        objective=Pgd(),
        attack=ATTACK,
        selector=selector,
        normalise=normalise,
        batch_size=16,
        schedule=Schedule(epochs=2, budget=0.5, warm_start=0.0),
        optimizer=SGD(lr=0.05),
    ).fit(model, source, seed=0)
    assert all(math.isfinite(entry["loss"]) for entry in trained.epochs)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_the_part_of_one_process_may_have_no_weight_and_so_may_all(monkeypatch):
    monkeypatch.setattr(exchange, "size", lambda: 2)
    weights = torch.tensor([0.0, 0.0, 1.0, 3.0])
    parts = [weights[:2], weights[2:]]
    batch = torch.arange(4)
    assert [weigh_part(part, weights, batch, "batch") for part in parts] == [0, 2]
    assert [weigh_part(part, 0 * weights, batch, "batch") for part in (0 * weights).split(2)] == [0, 0]
    assert distributed.weigh_mean(0.0, 0.0) == 0


def test_weights_below_zero_are_not_divided_by_a_batches_sum():
    coreset = Coreset(
        indices=torch.arange(3), weights=torch.tensor([2.0, -0.5, 1]), num_examples=9, fingerprint="", solver="mine",
        partition="whole", seed=0, budget=0.3,
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        coreset.training_weights("batch")
    assert str(caught.value) == (
        "a coreset's weights must be at least 0 for normalise: batch, got -0.5; use normalise: none or a non-negative "
        "solver"
    )
    assert coreset.training_weights("none").tolist() == pytest.approx([2 / 3, -1 / 6, 1 / 3])


def test_a_solver_with_weights_of_any_sign_is_refused_before_training():
    solver = GradMatch(nonnegative=False)
    selector = AdversarialCoreset(objective=Pgd(), solver=solver, attack=ATTACK, normalise="batch")
    with pytest.raises(ConfigError) as caught:
        Trainer(
            objective=Pgd(),
            attack=ATTACK,
            selector=selector,
            normalise="batch",
            schedule=Schedule(epochs=3, budget=0.5),
            optimizer=SGD(lr=0.05),
        )
    assert str(caught.value) == (
        "solver.nonnegative must be true with normalise: batch, got False; the weights of a batch may sum to 0 or "
        "less; or use normalise: none"
    )


@pytest.mark.parametrize("how", ["multinomial", "top"])
def test_one_example_is_drawn_evenly(how):
    picked = draw_examples(torch.tensor([0.3]), 1, STREAM.at(torch.arange(1)), how)
    assert float(picked.entropy) == 1 and picked.positions.tolist() == [0] and picked.weights.tolist() == [1]
    assert normalise_entropy(0.0, 1) == 1


@pytest.mark.parametrize("how", ["multinomial", "top"])
@pytest.mark.parametrize("preferences, entropy", [([0.0] * 4, 1.0), ([0.0, 1, 0, 1], 0.5), ([0.0, 0, 0, 1], 0.0)])
def test_preferences_of_zero_come_last_and_give_no_nan(preferences, entropy, how):
    picked = draw_examples(torch.tensor(preferences), 2, STREAM.at(torch.arange(4)), how)
    assert float(picked.entropy) == pytest.approx(entropy, abs=1e-9)
    wanted = {i for i, preference in enumerate(preferences) if preference}
    assert len(wanted & set(picked.positions.tolist())) == min(2, len(wanted))
    assert bool(torch.isfinite(picked.weights).all())


@pytest.mark.parametrize("correction", ["none", "inverse_probability"])
def test_infinite_margins_are_drawn_from_evenly(correction):
    """All classes but the label's are masked: 1 / margin is 0 for every example."""
    seen = Seen(margins=torch.full((8,), torch.inf), residuals=torch.zeros(8, 2), weights=torch.ones(8))
    rule = RULES["margin"](rho=0.5, correction=correction)
    picked = rule.pick(seen, STREAM.at(torch.arange(8)))
    assert float(picked.entropy) == pytest.approx(1) and len(picked.positions) == 4
    assert bool(torch.isfinite(picked.weights).all())


@pytest.mark.parametrize("name", ["margin", "gradient_matching", "random"])
def test_a_rule_on_a_single_example_says_that_it_was_drawn_evenly(model, source, name):
    trained = Trainer(
        objective=Pgd(),
        attack=ATTACK,
        minibatch=RULES[name](warm_up=0, rho=0.5),
        schedule=Schedule(epochs=2),
        optimizer=SGD(lr=0.05),
    ).fit(model, Resident(source._images[:1], source.labels()[:1]), seed=0)
    facts = trained.epochs[-1]["minibatch"]
    assert facts == {"picked": 1, "entropy": 1.0, "overlap": 1.0, "coverage": 1.0, "spread": 1.0}


def make_rows(residuals: torch.Tensor) -> FactoredRows:
    return FactoredRows(residuals=(residuals,), features=(torch.ones(len(residuals), 3),))


def test_the_quality_of_weights_of_zero_is_finite():
    rows = make_rows(torch.randn(6, 2))
    solution = Solution(torch.arange(3), torch.zeros(3))
    labels = torch.zeros(6, dtype=torch.long)
    split = Split(rows=rows, labels=labels, budget=0.5, block_size=2, blocks="permuted", stream=STREAM)
    facts = measure_quality(
        solution,
        Measurement(rows, labels),
        None,
        problems=PARTITIONS["whole"](split),
        normalise="none",
        stream=STREAM,
    )
    assert facts["effective_sample_size"] == 0 and facts["weight_sum"] == 0
    assert facts["gradient_error"] == pytest.approx(1)


def test_the_error_of_rows_that_cancel_is_the_difference_itself():
    rows = make_rows(torch.tensor([[1.0, -1], [-1, 1]]))
    weights = torch.ones(1, dtype=torch.float64)
    expected = float(rows.dense()[0].norm())
    assert measure_gradient_error(rows, torch.tensor([0]), weights) == pytest.approx(expected)
    assert measure_gradient_error(rows, torch.arange(2), torch.ones(2, dtype=torch.float64)) == 0
    zero = make_rows(torch.zeros(4, 2))
    sample = Sample(torch.arange(1), torch.arange(1, 4), zero)
    assert estimate_full_error(zero, torch.tensor([0]), weights, sample) == (0, 0)


def test_an_evaluation_of_no_example_is_refused(model, source):
    with pytest.raises(DataError, match="^indices must name at least one example, got none$"):
        evaluate(model, source, [ATTACK], indices=torch.arange(0))


def test_the_accuracy_of_no_example_says_nothing():
    assert wilson(0, 0).as_dict() == {"n": 0, "accuracy": 0.0, "interval": [0.0, 1.0]}


class Standardised(torch.nn.Module):
    """Divides each image by its spread, which is 0 for a plain one."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        means, spreads = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
        return self.net((x - means) / spreads)


@pytest.fixture
def with_plain_images(source):
    images = source._images.clone()
    images[[3, 7]] = 0.5
    return Resident(images, source.labels())


def test_a_model_that_divides_by_zero_is_told_at_which_examples(model, with_plain_images):
    net, n = Standardised(model), len(with_plain_images)
    with pytest.raises(
        NonFiniteError, match="^the model's logits are NaN or infinite at example 3; there is no accuracy"
    ):
        evaluate(net, with_plain_images)
    line = f"the model's gradient at example 3 is NaN or infinite, as it is at 2 of {n} examples; training has diverged"
    selector = AdversarialCoreset(objective=Standard(), solver=GradMatch(), attack=None)
    with pytest.raises(NonFiniteError, match=f"^{line}, or the model divides by 0 there$"):
        selector.select(net, with_plain_images, seed=0)


def test_a_model_without_any_finite_gradient_has_diverged(model, source):
    with torch.no_grad():
        model[-1].bias[0] = math.nan
    selector = AdversarialCoreset(objective=Standard(), solver=GradMatch(), attack=None)
    n = len(source)
    with pytest.raises(NonFiniteError, match=f"as it is at {n} of {n} examples; training has diverged$"):
        selector.select(model, source, seed=0)
