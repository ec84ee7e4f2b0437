"""Penalties beside their formulas written out, their passes, and what they cannot serve."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels
from seeds import seeded
from torch import nn

from advcore import Trainer, evaluate
from advcore.attacks import FGSMMEP, L2PGD, NFGSM, FastLPA, LinfPGD
from advcore.attacks.memory import Memory
from advcore.cost import CostLedger
from advcore.data import DATASETS
from advcore.data.augment import crop_flip
from advcore.errors import ConfigError
from advcore.minibatch import Margin
from advcore.models import MODELS
from advcore.objectives import Mart, Pgd, Standard, Trades
from advcore.regularizers import REGULARIZERS, GradAlign, PriorGuided
from advcore.regularizers.base import Examples, Regularizer
from advcore.regularizers.grad_align import measure_misalignment
from advcore.regularizers.prior_guided import measure_distance
from advcore.rng import Stream
from advcore.runtime.precision import Speed
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.settings import settings
from advcore.solvers import Random
from advcore.training import SGD
from advcore.training.mixing import CutMix
from advcore.training.plan import count_planned_units, plan_work
from advcore.training.prices import find_prices
from advcore.training.step import Learner, step
from advcore.training.weight_attack import AWP
from advcore.work import Work

FGSM = LinfPGD(eps=0.1, steps=1, step_size=0.1)
REMEMBERED = FGSM.with_settings(start="remembered")
X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(5) % 3
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.0, 0.5], dtype=torch.float64)
STREAM = Stream(seed=0, purpose="attack").at(torch.arange(5))


def network():
    with seeded():
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        net[1].weight.mul_(6)  # so that the gradient turns within the ball
    return net


def build_trainer(attack=FGSM, objective=None, solver=None, **changes):
    objective = objective or Pgd()
    changes = {"optimizer": SGD(lr=0.05), "batch_size": 32, "probe_examples": 16, **changes}
    selector = solver and AdversarialCoreset(objective=objective, attack=attack, solver=solver, budget=0.5)
    when = {"budget": 0.5, "warm_start": 0.5, "period": 2} if solver else {}
    schedule = Schedule(epochs=4, **when)
    return Trainer(objective=objective, attack=attack, schedule=schedule, selector=selector, **changes)


def take_step(net, attack, regularizer, objective=None):
    """Take a step of training, in place, and return its ledger."""
    ledger = CostLedger()
    learner = Learner(
        model=net,
        objective=objective or Pgd(),
        attack=attack,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        ledger=ledger,
        regularizer=regularizer,
    )
    step(learner, X, Y, WEIGHTS, generator=STREAM)
    return ledger


def draw_start(eps=0.1):
    """The uniform start of the attack's only restart, projected."""
    noise = STREAM.child("restart", 0).uniform(tuple(X.shape)).double()
    return (X + (2 * noise - 1) * eps).clamp(0, 1)


# ---- FGSM-PGI ----


@by_plain_kernels
@pytest.mark.parametrize("objective", [Pgd(), Trades(beta=2.0)], ids=lambda objective: type(objective).__name__)
def test_a_step_of_pgi_is_the_papers(objective):
    """The slow one goes through the batch an example at a time: its start, its signed step, its loss and distance."""
    quick, slow = network(), network()
    take_step(quick, FGSM, PriorGuided(weight=3.0), objective)
    total = torch.zeros((), dtype=torch.float64)
    for i, start in enumerate(draw_start()):
        x, y = X[[i]], Y[[i]]
        point = start[None].clone().requires_grad_(True)
        climbed = objective.bind_ascent(y, slow(x))(slow(point)).sum()
        (gradient,) = torch.autograd.grad(climbed, point)
        x_adv = torch.max(torch.min(point + 0.1 * gradient.sign(), x + 0.1), x - 0.1).clamp(0, 1).detach()
        logits = {name: slow({"clean": x, "adversarial": x_adv}[name]) for name in objective.passes}
        distance = sum((a - b) ** 2 for a, b in zip(slow(x_adv)[0], slow(point.detach())[0], strict=True)) / 3
        total = total + WEIGHTS[i] * (objective.loss(y, **logits)[0] + 3.0 * distance) / len(X)
    total.backward()
    for (name, value), before in zip(quick.named_parameters(), slow.parameters(), strict=True):
        assert torch.allclose(value, before - 0.1 * before.grad, atol=1e-9), name


def test_the_start_is_the_remembered_one(model, source):
    """Of FGSM-PGI's second epoch, the penalty's images are those at which the attack takes its gradient."""
    seen = {"attack": [], "penalty": []}

    @settings
    class Spied(PriorGuided):
        def penalize(self, model, examples, logits):
            seen["penalty"].append(examples.starts)
            return super().penalize(model, examples, logits)

    for attack in (FGSMMEP(eps=0.1, decay=0.5), REMEMBERED):
        seen["attack"].clear()
        seen["penalty"].clear()
        trainer = build_trainer(attack, regularizer=Spied())
        net = copy.deepcopy(model)

        def note(net, args):
            if args[0].requires_grad and len(args[0]) == 32:
                seen["attack"].append(args[0].detach().clone())

        net.register_forward_pre_hook(note)
        trainer.fit(net, source, seed=0, augment=crop_flip)
        assert len(seen["penalty"]) == len(seen["attack"]) == 12
        assert all(torch.equal(a, b) for a, b in zip(seen["attack"], seen["penalty"], strict=True))


def test_a_masked_class_adds_nothing():
    first = torch.tensor([[1.0, -math.inf, 2.0]], requires_grad=True)
    second = torch.tensor([[3.0, -math.inf, 2.0]])
    distance = measure_distance(first, second)
    assert torch.allclose(distance, torch.tensor([4 / 3]))
    (gradient,) = torch.autograd.grad(distance.sum(), first)
    assert torch.allclose(gradient, torch.tensor([[-4 / 3, 0.0, 0.0]]))


# ---- GradAlign ----


def find_slope(function, x, width=1e-5):
    """Return the gradient of a function of a tensor by central differences, an entry at a time."""
    slope = torch.zeros_like(x)
    for i in range(x.numel()):
        change = torch.zeros_like(x).flatten()
        change[i] = width
        change = change.view_as(x)
        with torch.no_grad():
            slope.view(-1)[i] = (function(x + change) - function(x - change)) / (2 * width)
    return slope


def describe(attack, objective=None):
    return Examples(clean=X, y=Y, starts=None, objective=objective or Pgd(), attack=attack, stream=STREAM)


def write_out_penalty(net, images, fixed):
    """1 - cos of `fixed` (B, D) and the gradients at the images, each by differences, an example at a time."""
    penalties = []
    for image, label, first in zip(images, Y, fixed, strict=True):
        second = find_slope(lambda z, y=label: float(F.cross_entropy(net(z[None]), y[None])), image).flatten()
        penalties.append(1 - float(first @ second) / float(first.norm() * second.norm()))
    return torch.tensor(penalties, dtype=torch.float64)


@by_plain_kernels
@pytest.mark.parametrize("attack", [FGSM, L2PGD(eps=0.5, steps=1)], ids=lambda attack: attack.norm)
def test_grad_aligns_value_and_gradient_are_those_of_finite_differences(attack):
    net = network()
    stream = STREAM.child("alignment")
    if attack.norm == "linf":
        noisy = X + (2 * stream.uniform(tuple(X.shape)).double() - 1) * 0.1
    else:
        normal = stream.normal(tuple(X.shape)).double().flatten(1)
        radius = 0.5 * stream.child("radius").uniform((5, 1)).double() ** (1 / 16)
        noisy = X + (radius * normal / normal.norm(dim=1, keepdim=True)).view_as(X)
    fixed = torch.stack(
        [find_slope(lambda z, y=y: float(F.cross_entropy(net(z[None]), y[None])), x) for x, y in zip(X, Y, strict=True)]
    ).flatten(1)
    ledger = CostLedger()
    with ledger.phase("update"):
        penalties = GradAlign().penalize(ledger.count_passes(net), describe(attack), {})
        (gradient,) = torch.autograd.grad((WEIGHTS * penalties).sum(), net[1].weight)
    assert torch.allclose(penalties, write_out_penalty(net, noisy, fixed), atol=1e-6)
    assert (penalties > 1e-4).all()

    def total_at(row):
        moved = copy.deepcopy(net)
        moved[1].weight.data[0] = row
        return float((WEIGHTS * write_out_penalty(moved, noisy, fixed)).sum())

    slope = find_slope(total_at, net[1].weight.detach()[0], width=1e-3)
    assert torch.allclose(gradient[0], slope, rtol=1e-3, atol=1e-4)
    assert ledger.passes["update"] == {"forward": 2 * 5, "backward": 4 * 5}


def test_an_example_without_a_gradient_has_no_penalty_and_passes_none_on():
    first = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1e-30, 0.0], [1.0, 1.0]])
    second = torch.tensor([[0.0, 2.0], [1.0, 1.0], [1e-30, 1e-30], [0.0, 0.0]], requires_grad=True)
    penalties = measure_misalignment(first, second)
    assert torch.allclose(penalties, torch.tensor([1.0, 0.0, 1 - math.sqrt(0.5), 0.0]))
    (gradient,) = torch.autograd.grad(penalties.sum(), second)
    assert torch.isfinite(gradient).all() and not gradient[[1, 3]].any() and gradient[0].any()


class Attention(nn.Module):
    """Rows of an image look at each other, by torch's fused kernels where they may be."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        rows = self.query(x)
        return self.head(F.scaled_dot_product_attention(rows, rows, rows).flatten(1))


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_attention_and_half_precision_are_differentiated_twice(source, autocast):
    with seeded():
        net = Attention()
    made = build_trainer(regularizer=GradAlign(), speed=Speed(autocast=autocast))
    before = net.query.weight.detach().clone()
    out = made.fit(net, source, seed=0)
    assert out.ledger.sum_flops() == find_prices(made, net, source).price(plan_work(made, len(source)))
    assert torch.isfinite(net.query.weight).all() and not torch.equal(net.query.weight, before)


# ---- what holds for all ----


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize(
    ("attack", "solver"), [(FGSM, None), (FGSM, Random()), (REMEMBERED, None), (L2PGD(eps=0.5, steps=2), None)]
)
@by_plain_kernels
def test_the_ledger_is_the_plan_and_the_penaltys_passes(model, source, name, attack, solver):
    regularizer = REGULARIZERS[name]()
    made, plain = (build_trainer(attack, solver=solver, regularizer=entry) for entry in (regularizer, None))
    out = made.fit(model, source, seed=0, augment=crop_flip)
    assert out.ledger.sum_units() == count_planned_units(made, len(source))
    assert out.ledger.sum_flops() == find_prices(made, model, source).price(plan_work(made, len(source)))
    more = count_planned_units(made, len(source)) - count_planned_units(plain, len(source))
    examples = sum(entry["examples"] for entry in out.epochs)
    assert more == examples * regularizer.plan().units


@by_plain_kernels
def test_prior_guided_beside_trades_counts_what_is_planned(model, source):
    made = build_trainer(FGSMMEP(eps=0.1), Trades(), regularizer=PriorGuided())
    assert made.fit(model, source, seed=0).ledger.sum_units() == count_planned_units(made, len(source))


@by_plain_kernels
def test_a_penalty_is_weighted_as_the_loss_of_its_example_is():
    @settings
    class Labels(Regularizer):
        """Each example's penalty is its label."""

        def penalize(self, model, examples, logits):
            return examples.y + 0 * logits["adversarial"].sum(1)

        def plan(self):
            return Work()

    for normalise, expected in (("none", (WEIGHTS * Y).mean()), ("batch", (WEIGHTS * Y).sum() / WEIGHTS.sum())):
        losses = []
        for regularizer in (Labels(weight=2.0), None):
            net = network()
            learner = Learner(
                model=net,
                objective=Pgd(),
                attack=FGSM,
                optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
                ledger=CostLedger(),
                normalise=normalise,
                regularizer=regularizer,
            )
            losses.append(step(learner, X, Y, WEIGHTS, generator=STREAM))
        assert torch.allclose(losses[0] - losses[1], 2 * expected)


@settings
class Total(PriorGuided):
    """Returns one number for the batch."""

    def penalize(self, model, examples, logits):
        return super().penalize(model, examples, logits).sum()


@by_plain_kernels
def test_a_penalty_that_is_one_number_for_the_batch_is_refused(model, source):
    with pytest.raises(ConfigError, match="^the penalty of Total must be a tensor") as caught:
        build_trainer(regularizer=Total()).fit(model, source, seed=0)
    assert len(caught.value.lines) == 1


REFUSED = [
    ({"regularizer": GradAlign(), "awp": AWP()}, "regularizer must be null with awp, got 'GradAlign'"),
    ({"regularizer": PriorGuided(), "cutmix": CutMix()}, "regularizer must be null with cutmix"),
    ({"regularizer": PriorGuided(), "minibatch": Margin(rho=0.5)}, "minibatch must be null with training.regularizer"),
    ({"regularizer": GradAlign(), "speed": Speed(compiled=True)}, "regularizer must be null with speed.compiled"),
    ({"regularizer": GradAlign(), "head_epochs": 1}, "regularizer must be null with head_epochs"),
    ({"regularizer": GradAlign(), "objective": Trades()}, "regularizer must be null for an objective that has no loss"),
    ({"regularizer": GradAlign(), "objective": Mart()}, "regularizer must be null for an objective that has no loss"),
    ({"regularizer": GradAlign(), "attack": FastLPA(eps=0.5)}, "regularizer must be null for an attack that has no lp"),
    (
        {"regularizer": PriorGuided(), "attack": NFGSM(eps=0.1)},
        "regularizer must be null for an attack without a single start",
    ),
    (
        {"regularizer": PriorGuided(), "attack": LinfPGD(eps=0.1, steps=2, restarts=2)},
        "regularizer must be null for an attack without a single start, got 'LinfPGD'",
    ),
    (
        {"regularizer": PriorGuided(), "objective": Standard(), "attack": None},
        "regularizer must be null for an objective that is not attacked, got 'standard'",
    ),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED)
def test_what_it_cannot_serve_is_refused_in_a_line(changes, line):
    with pytest.raises(ConfigError) as caught:
        build_trainer(**changes)
    (got,) = caught.value.lines
    assert got.startswith(line)


@pytest.mark.parametrize("kind", REGULARIZERS.values())
@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_a_line(kind, weight):
    with pytest.raises(ConfigError, match="^weight must be"):
        kind(weight=weight)


METHODS = {
    "FGSM-EP": (REMEMBERED, None),
    "FGSM-MEP": (FGSMMEP(eps=0.1), None),
    "FGSM-PGI": (FGSMMEP(eps=0.1), PriorGuided(weight=10)),
    "FGSM-EP, PGI": (REMEMBERED, PriorGuided(weight=10)),
    "GradAlign": (FGSM.with_settings(start="clean"), GradAlign(weight=0.2)),
}


@pytest.fixture(scope="module")
def digits():
    return DATASETS["digits"](train_size=400, test_size=100).load(torch.device("cpu"))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_it_trains_on_digits_and_is_probed_for_collapse(name, digits):
    attack, regularizer = METHODS[name]
    with seeded():
        net = MODELS["small_cnn"](width=8).build(10, digits.train.shape)
    trainer = build_trainer(attack, regularizer=regularizer, memory=Memory(), optimizer=SGD(lr=0.05))
    assert trainer.few_steps and trainer.probe.steps == 10
    trained = trainer.fit(net, digits.train, digits.validation, seed=0)
    assert [entry["probe"]["steps"] for entry in trained.epochs] == [10] * 4
    assert evaluate(net, digits.test, LinfPGD(eps=0.1, steps=10), checks=False).worst.accuracy > 0.4
