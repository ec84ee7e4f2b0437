"""BulletTrain in training: groups by steps, cost, history, and what it cannot serve."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels

from advcore.attacks import L2PGD, LinfPGD, StAdv
from advcore.cost import CostLedger
from advcore.data import DATASETS
from advcore.errors import ConfigError
from advcore.minibatch.bullettrain import BulletTrain
from advcore.models import MODELS
from advcore.objectives import Mart, Pgd, Trades
from advcore.rng import Stream
from advcore.runtime.borrow import borrow
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.bullettrain import BulletTrainStepper, attack_by_steps
from advcore.training.loop_settings import refuse_processes
from advcore.training.lr import OneCycle
from advcore.training.plan import count_planned_units, plan_work
from advcore.training.prices import find_prices
from advcore.training.step import Batch, Learner
from advcore.training.trainer import Trainer

N, SIZE, K = 96, 32, 5
ATTACK = LinfPGD(eps=0.1, steps=K, step_size=0.03)
each_objective = pytest.mark.parametrize("objective", [Pgd(), Trades(), Mart()], ids=["pgd", "trades", "mart"])


@pytest.fixture(scope="module")
def digits():
    return DATASETS["digits"]().load(torch.device("cpu"))


def trainer(rule=None, *, attack=ATTACK, objective=None, epochs=3, budget=1.0, **settings):
    objective = objective or Pgd()
    schedule = Schedule(epochs=epochs, budget=budget, warm_start=0.4)
    selector = None
    if budget < 1:
        selector = AdversarialCoreset(objective=objective, solver=GradMatch(), attack=attack, budget=budget)
    settings = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, **settings}
    rule = rule or BulletTrain()
    return Trainer(objective=objective, attack=attack, minibatch=rule, schedule=schedule, selector=selector, **settings)


def learner(model, objective, attack=ATTACK):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model=model, objective=objective, attack=attack, optimizer=optimizer, ledger=CostLedger())


def batch(source, indices):
    _, x, y = next(source.batches([indices]))
    stream = Stream(seed=0, purpose="attack").at(indices)
    return Batch(
        indices=indices, x=x, y=y, weights=torch.linspace(0.5, 1.5, len(y)), attack_stream=stream, rule_stream=stream,
        where=lambda: "here", images=len(y),
    )  # fmt: skip


@each_objective
@pytest.mark.parametrize("attack", [ATTACK, L2PGD(eps=0.5, steps=K)], ids=["linf", "l2"])
def test_groups_are_attacked_as_one_example_at_a_time(model, source, attack, objective):
    rule = BulletTrain(outlier_steps=1)
    one = batch(source, torch.arange(12))
    steps = torch.tensor([0, 1, 2, K] * 3)
    with borrow(model), torch.no_grad():
        clean = model(one.x)
    x_adv = attack_by_steps(rule, learner(model, objective, attack), one, steps, clean)
    for i, number in enumerate(steps.tolist()):
        x = one.x[i : i + 1]
        if number == 0:
            assert torch.equal(x_adv[i : i + 1], x)
            continue
        weak = attack
        if number < K:
            weak = type(attack)(eps=attack.eps, steps=number, step_size=0.75 * attack.eps)
        with borrow(model):
            rise = objective.bind_ascent(one.y[i : i + 1], clean[i : i + 1])
            alone = weak(lambda z, rise=rise: rise(model(z)), x, generator=one.attack_stream.take(slice(i, i + 1)))
        torch.testing.assert_close(x_adv[i : i + 1], alone, atol=1e-5, rtol=0)


def test_a_step_is_the_algorithm_written_out(model, source):
    """Two batches: classes by the running average, an update on all examples, then the average of what withstood."""
    rule = BulletTrain(momentum=0.5, discount=1.0, smoothing=0.3)
    slow, fast = copy.deepcopy(model), copy.deepcopy(model)
    stepper = BulletTrainStepper(rule, N, torch.device("cpu"))
    stepper.begin(0, [])
    ours = learner(fast, Pgd())
    average, scores, counts = 0.0, {}, [0, 0, 0]
    for indices in (torch.arange(SIZE), torch.arange(8, 8 + SIZE)):
        one = batch(source, indices)
        stepper.step(ours, one)
        with borrow(slow), torch.no_grad():
            clean = slow(one.x)
        for i, z, label in zip(indices.tolist(), clean, one.y.tolist(), strict=True):
            p = z.softmax(0)
            score = float(((p - p.mean()) ** 2).mean()) * (1 if int(z.argmax()) == label else -1)
            scores[i] = 0.3 * scores[i] + 0.7 * score if i in scores else score
        order = sorted(indices.tolist(), key=lambda i: -scores[i])
        robust = {i for i in order[: int(average * SIZE)] if scores[i] >= 0}
        steps = torch.tensor([0 if scores[i] < 0 else 2 if i in robust else K for i in indices.tolist()])
        outliers = int((steps == 0).sum())
        counts = [a + b for a, b in zip(counts, (outliers, SIZE - outliers - len(robust), len(robust)), strict=True)]
        x_adv = attack_by_steps(rule, learner(slow, Pgd()), one, steps, clean)
        logits = slow.train()(x_adv)
        (one.weights * F.cross_entropy(logits, one.y, reduction="none")).mean().backward()
        with torch.no_grad():
            for parameter in slow.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        average = 0.5 * average + 0.5 * float((logits.argmax(1) == one.y).float().mean())
    for value, expected in zip(fast.state_dict().values(), slow.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-4)
    facts = stepper.summarize(ours)
    assert [facts[name] for name in ("outliers", "boundary", "robust")] == [n / (2 * SIZE) for n in counts]
    assert facts["robust_accuracy"] == pytest.approx(average)
    assert facts["mean_steps"] == pytest.approx((K * counts[1] + 2 * counts[2]) / (2 * SIZE))


@each_objective
def test_where_all_take_the_attacks_steps_a_run_is_the_run_without_a_rule(model, source, objective):
    rule = BulletTrain(robust_steps=K, outlier_steps=K)
    with_rule = trainer(rule, objective=objective).fit(copy.deepcopy(model), source, seed=1)
    plain = trainer(objective=objective)
    plain = Trainer(**{**vars(plain), "minibatch": None}).fit(copy.deepcopy(model), source, seed=1)
    assert all(torch.equal(value, with_rule.last[name]) for name, value in plain.last.items())


@each_objective
@pytest.mark.parametrize("budget", [1.0, 0.5])
@by_plain_kernels
def test_the_ledger_is_the_closed_form_of_the_steps_and_below_the_plan(model, source, objective, budget):
    """B (look + 2 mean steps + 2 passes of the objective), and the whole attack in selections."""
    made = trainer(objective=objective, budget=budget)
    trained = made.fit(model, source, seed=0)
    seen = sum(entry["examples"] for entry in trained.epochs)
    steps = sum(entry["examples"] * entry["minibatch"]["mean_steps"] for entry in trained.epochs)
    ledger = trained.ledger
    select = len(trained.coresets) * N * K
    assert ledger.passes["scoring"] == {"forward": seen, "backward": 0}
    assert ledger.passes["attack"]["backward"] - select == round(steps)
    assert ledger.passes["update"]["forward"] == ledger.passes["update"]["backward"] == len(objective.passes) * seen
    assert ledger.sum_units() <= count_planned_units(made, N)


@by_plain_kernels
def test_the_plan_is_met_where_every_example_is_near_the_boundary(model, source, monkeypatch):
    from advcore.training import bullettrain

    monkeypatch.setattr(bullettrain, "measure_signed_variance", lambda logits, y: torch.zeros(len(y)))
    for most, each in ((1.0, K), (0.25, K / 4 + 2 * 3 / 4)):
        made = trainer(BulletTrain(most=most, momentum=0.0, discount=1e-9), epochs=1)
        trained = made.fit(copy.deepcopy(model), source, seed=0)
        assert trained.ledger.sum_units() == count_planned_units(made, N) == N * (1 + 2 * each + 2)
        assert trained.ledger.sum_flops() == find_prices(made, model, source).price(plan_work(made, N))


@by_plain_kernels
@pytest.mark.slow
def test_it_learns_digits_and_every_epoch_is_probed(digits):
    """Accuracies of 144 held-out images, of which a guess has 0.1 right."""
    model = MODELS["small_cnn"](width=8).build(10, digits.train.shape)
    made = trainer(attack=LinfPGD(eps=0.1, steps=5), epochs=4, batch_size=64, lr_schedule=OneCycle())
    trained = made.fit(model, digits.train, digits.validation, seed=0)
    assert [entry["probe"]["n"] for entry in trained.epochs] == [144] * 4
    assert trained.epochs[-1]["clean"] > 0.8 and trained.epochs[-1]["robust"] > 0.4
    assert not trained.events


def test_what_it_cannot_serve_is_refused_in_one_line():
    for settings, line in [
        ({"attack": StAdv(eps=0.05)}, "attack must be linf_pgd or l2_pgd or l1_pgd with minibatch: bullettrain"),
        ({"attack": LinfPGD(eps=0.1, start="remembered")}, "attack.start must be other than remembered"),
        ({"attack_mode": "train"}, "training.attack_mode must be eval with minibatch: bullettrain"),
    ]:
        with pytest.raises(ConfigError, match=line) as caught:
            trainer(**settings)
        assert len(caught.value.lines) == 1


def test_several_processes_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("advcore.distributed.size", lambda: 2)
    with pytest.raises(
        ConfigError, match="minibatch must be .* with 2 processes, got 'bullettrain'.*use one process"
    ) as caught:
        refuse_processes(trainer())
    assert len(caught.value.lines) == 1
