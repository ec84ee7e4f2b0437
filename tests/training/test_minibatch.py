"""Minibatch rules inside the training loop: what they cost, what they leave alone, and what they are equal to."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from covering import covering
from examples import suit_start
from kernels import by_plain_kernels
from torch import nn

from advcore.attacks import L1PGD, L2PGD, FastLPA, LinfPGD
from advcore.cost import CostLedger
from advcore.data.contract import cut_into_chunks
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients.last_layer import residuals
from advcore.minibatch import RULES
from advcore.minibatch.base import AttackSubset, Picked, count, is_reattack
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.minibatch.gradient_matching import GradientMatching
from advcore.objectives import Mart, Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.runtime.borrow import borrow
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch, Random
from advcore.training import SGD
from advcore.training.minibatch import build_stepper
from advcore.training.plan import count_planned_units
from advcore.training.step import Batch, Learner
from advcore.training.steppers import UpdateSubsetStepper
from advcore.training.trainer import Trainer

K, SIZE, N = 3, 16, 96
ATTACK = LinfPGD(eps=0.1, steps=K)
ATTACKS = [name for name, kind in RULES.items() if issubclass(kind, AttackSubset) and not is_reattack(kind())]
WARMED_UP = {*ATTACKS, "loss_ranked"}  # rules with a warm-up
IN_BATCHES = [name for name, kind in RULES.items() if not issubclass(kind, EpochSubset)]


def trainer(rule=None, objective=None, *, epochs=2, budget=1.0, solver=None, attack=ATTACK, **settings):
    objective = objective or Pgd()
    attack = attack and suit_start(rule, attack)
    schedule = Schedule(epochs=epochs, budget=budget, warm_start=0.4)
    chooser = solver and AdversarialCoreset(
        objective=objective, solver=solver, attack=attack, budget=budget, block_size=SIZE, chunk_size=32
    )
    settings = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, "probe_examples": 32, **settings}
    return Trainer(objective=objective, attack=attack, minibatch=rule, schedule=schedule, selector=chooser, **settings)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def learner(model, objective=None, ledger=None, **settings):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"attack": ATTACK, **settings}
    return Learner(
        model=model, objective=objective or Pgd(), optimizer=optimizer, ledger=ledger or CostLedger(), **settings
    )


def batch(source, indices=None, weights=None):
    indices = torch.arange(SIZE) if indices is None else indices
    _, x, y = next(source.batches([indices]))
    return Batch(
        indices=indices,
        x=x,
        y=y,
        weights=torch.ones(len(y)) if weights is None else weights,
        attack_stream=Stream(seed=0, purpose="attack").at(indices),
        rule_stream=Stream(seed=0, purpose="minibatch").at(indices),
        where=lambda: "here",
        images=len(y),
    )


def followed(rule, model, source):
    return build_stepper(rule, model, source, attack=ATTACK, batch_size=SIZE)


# ---- cost ----


@pytest.mark.parametrize("clean", [0.0, 0.2])
@pytest.mark.parametrize("rho", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("name", ATTACKS)
@by_plain_kernels
def test_one_epoch_of_selective_training_costs_the_closed_form(model, source, name, rho, clean):
    """k (2 K + 2) + s B + 2 B [clean > 0] over batches of 32, s = 1 where the rule looks at the batch."""
    size = 32
    rule = RULES[name](rho=rho, clean=clean, warm_up=0)
    found = trainer(rule, epochs=1, batch_size=size).fit(model, source, seed=0).ledger
    k, s = int(rho * size), int(rule.reads is not None and rho < 1)
    assert found.sum_units() == N // size * (k * (2 * K + 2) + s * size + 2 * size * (clean > 0))
    assert found.passes["attack"] == {"forward": N // size * k * K, "backward": N // size * k * K}
    assert found.passes["scoring"] == {"forward": N * s, "backward": 0}


@pytest.mark.parametrize("look", ["train", "eval"])
@pytest.mark.parametrize("p_up", [0.1, 0.5, 1.0])
@by_plain_kernels
def test_one_epoch_of_loss_ranked_training_costs_the_closed_form(model, source, p_up, look):
    """2 K b' + 2 b' + kept: one forward pass of all, a backward pass of the kept; with look: eval two of the kept."""
    found = trainer(RULES["loss_ranked"](p_up=p_up, look=look), epochs=1).fit(model, source, seed=0).ledger
    kept = N // SIZE * int(p_up * 2 * SIZE)
    forward, scored = (kept, 2 * N) if look == "eval" else (2 * N, 0)
    assert found.sum_units() == 2 * K * N + forward + scored + kept
    assert found.passes["update"] == {"forward": forward, "backward": kept}
    assert found.passes["scoring"]["forward"] == scored


def test_a_random_mix_attacks_only_what_it_keeps(model, source):
    found = trainer(RULES["random_mix"](), epochs=1).fit(model, source, seed=0).ledger
    assert found.sum_units() == N // SIZE * (2 * K * (SIZE // 2) + 2 * SIZE)


def test_full_training_costs_what_the_papers_count(model, source):
    assert trainer(epochs=1).fit(model, source, seed=0).ledger.sum_units() == N * (2 * K + 2)


@covering(
    "objective, solver, name",
    {"pgd": Pgd(), "trades": Trades(), "mart": Mart()},
    {"all data": None, "random": Random(), "gradmatch": GradMatch()},
    {name: name for name in IN_BATCHES},
)
@by_plain_kernels
def test_the_ledger_of_every_rule_on_every_coreset_is_the_plan(model, source, name, solver, objective):
    rule = RULES[name]()
    if rule.single_image and len(objective.passes) > 1:
        with pytest.raises(ConfigError, match="single image.*use pgd"):
            trainer(rule, objective)
        return
    made = trainer(rule, objective, epochs=4, solver=solver, budget=0.5 if solver else 1.0, batch_size=40)
    found = made.fit(model, source, seed=0)
    planned = count_planned_units(made, N)
    assert found.ledger.sum_units() == planned or name == "bullettrain" and found.ledger.sum_units() < planned
    assert all(set(entry["minibatch"]) for entry in found.epochs)


# ---- equal to plain training at the ends of their range ----


@pytest.fixture(scope="module")
def full_runs() -> dict:
    """Runs without a rule, by objective: all rules are compared with them."""
    return {}


@covering(
    "objective, name, correction",
    {"pgd": Pgd(), "trades": Trades(), "mart": Mart()},
    {name: name for name in ATTACKS},
    {"plain": "none", "corrected": "inverse_probability"},
)
@by_plain_kernels
def test_at_rho_one_and_no_clean_loss_a_selective_run_is_the_full_run(
    model, source, name, objective, correction, full_runs
):
    rule = RULES[name](rho=1.0, clean=0.0, warm_up=0, correction=correction)
    if objective not in full_runs:
        full_runs[objective] = trainer(None, objective, batch_size=32).fit(copy.deepcopy(model), source, source, seed=1)
    full = full_runs[objective]
    found = trainer(rule, objective, batch_size=32).fit(copy.deepcopy(model), source, source, seed=1)
    assert equal(full.last, found.last) and equal(full.best, found.best)
    assert found.ledger.sum_units() == full.ledger.sum_units()


def test_at_p_up_one_a_loss_ranked_epoch_is_a_plain_epoch_on_clean_and_attacked_images(model, source):
    made = trainer(RULES["loss_ranked"](p_up=1.0), epochs=1, optimizer=SGD(lr=0.05, momentum=0.0, weight_decay=0.0))
    found = made.fit(copy.deepcopy(model), source, seed=1).last
    slow = copy.deepcopy(model)
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.05)
    order = Stream(seed=1, purpose="order").at(torch.arange(N)).permutation()
    for j, indices in enumerate(cut_into_chunks(order, SIZE)):
        _, x, y = next(source.batches([indices]))
        with borrow(slow):
            generator = Stream(seed=1, purpose="attack").at(indices)
            x_adv = ATTACK(lambda z, y=y: F.cross_entropy(slow(z), y, reduction="none"), x, generator=generator)
        slow.train()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * made.lr_schedule.factor(j / (N // SIZE), 0)
        optimizer.zero_grad()
        F.cross_entropy(slow(torch.cat([x, x_adv])), y.repeat(2), reduction="none").mean().backward()
        optimizer.step()
    assert equal(found, slow.state_dict())


@pytest.mark.parametrize("name", RULES)
@by_plain_kernels
def test_at_budget_one_a_coreset_run_with_a_rule_is_the_run_on_all_data(model, source, name):
    rule = RULES[name]()
    one = trainer(rule, batch_size=32).fit(copy.deepcopy(model), source, seed=1)
    other = trainer(rule, solver=GradMatch(), batch_size=32).fit(copy.deepcopy(model), source, seed=1)
    assert equal(one.last, other.last)


@pytest.mark.parametrize("name", RULES)
@by_plain_kernels
@pytest.mark.slow
def test_same_seed_same_bits(model, source, name):
    rule = RULES[name](**({"warm_up": 1} if name in WARMED_UP else {}))
    made = trainer(rule, solver=GradMatch(), budget=0.5, batch_size=32)
    one, two = (made.fit(copy.deepcopy(model), source, source, seed=1) for _ in range(2))
    told = [entry["minibatch"] for entry in one.epochs]
    assert equal(one.last, two.last) and told == [entry["minibatch"] for entry in two.epochs]
    assert not equal(one.last, made.fit(copy.deepcopy(model), source, source, seed=2).last)


# ---- one step against the loss written out ----


@pytest.mark.parametrize("correction", ["none", "inverse_probability"])
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
def test_a_selective_step_is_sgd_on_the_mixed_loss(model, source, objective, correction):
    weights = torch.linspace(0.2, 1.8, SIZE)
    rule = RULES["margin"](warm_up=0, clean=0.3, correction=correction)
    one, slow, fast = batch(source, weights=weights), copy.deepcopy(model), copy.deepcopy(model)
    state = followed(rule, fast, source)
    state.begin(0, [])
    found, _ = state.step(learner(fast, objective), one)

    slow.eval()
    margins = torch.stack(
        [z[y] - max(z[k] for k in range(4) if k != y) for z, y in zip(slow(one.x), one.y, strict=True)]
    )
    picked = rule.pick(state_seen(margins), one.rule_stream)
    i = picked.positions
    x_adv = learner(slow, objective).perturb(one.x[i], one.y[i], one.attack_stream.take(i))
    slow.train()
    inputs = {"clean": one.x[i], "adversarial": x_adv}
    losses = objective.loss(one.y[i], **{name: slow(inputs[name]) for name in objective.passes})
    loss = sum(weights[p] * w * own for p, w, own in zip(i, picked.weights, losses, strict=True)) / len(i)
    loss = loss + 0.3 * (weights * F.cross_entropy(slow(one.x), one.y, reduction="none")).sum() / SIZE
    loss.backward()
    assert float(found) == pytest.approx(loss.item(), rel=1e-5) and len(i) == 4
    for got, reference in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(got, reference - 0.1 * reference.grad, atol=1e-6, rtol=1e-4)


def state_seen(margins):
    from advcore.minibatch.base import Seen

    return Seen(margins.detach(), torch.zeros(len(margins), 4), torch.ones(len(margins)))


@pytest.mark.parametrize("name", ["loss_ranked", "random_mix"])
def test_a_step_on_a_part_of_the_images_is_sgd_on_their_weighted_losses(model, source, name):
    """Which images are kept is worked out one by one; each keeps its own label and its example's weight."""
    weights = torch.linspace(0.2, 1.8, SIZE)
    rule = RULES[name](p_up=0.25, **({"look": "eval"} if name == "loss_ranked" else {}))
    one, slow, fast = batch(source, weights=weights), copy.deepcopy(model), copy.deepcopy(model)
    state = followed(rule, fast, source)
    state.begin(0, [])
    found, n = state.step(learner(fast), one)
    told = state.summarize(learner(fast))

    x_adv = learner(slow).perturb(one.x, one.y, one.attack_stream)
    images, y = [*one.x, *x_adv], one.y.repeat(2)
    slow.eval().requires_grad_(False)
    losses = [float(F.cross_entropy(slow(image[None]), label[None])) for image, label in zip(images, y, strict=True)]
    if name == "loss_ranked":
        kept = sorted(sorted(range(2 * SIZE), key=lambda i: -losses[i])[:8])
    else:
        kept = rule.keep(0.25, None, one.rule_stream).tolist()
        assert sum(i >= SIZE for i in kept) == 4
    slow.train().requires_grad_(True)
    logits = slow(torch.stack([images[i] for i in kept]))
    terms = [weights[i % SIZE] * F.cross_entropy(z[None], y[i][None]) for z, i in zip(logits, kept, strict=True)]
    loss = sum(terms) / 8
    loss.backward()
    assert n == 8 and float(found) == pytest.approx(loss.item(), rel=1e-5)
    for got, reference in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(got, reference - 0.1 * reference.grad, atol=1e-6, rtol=1e-4)
    moved = sum(i >= SIZE for i in kept) / 8
    assert told == {"p_up": 0.25, "clean": pytest.approx(1 - moved), "adversarial": pytest.approx(moved)}


@pytest.mark.parametrize("normalise", ["coreset", "batch"])
def test_a_loss_ranked_step_is_the_papers_algorithm(model, source, normalise):
    """Algorithm 1: attack b' images with the present network; forward all 2 b' in train mode; led back is the mean loss
    of the half with the largest errors. BatchNorm sees the batch once, all of it."""
    weights = torch.linspace(0.2, 1.8, SIZE)
    one, slow, fast = batch(source, weights=weights), copy.deepcopy(model), copy.deepcopy(model)
    state = followed(RULES["loss_ranked"](), fast, source)
    state.begin(0, [])
    found, n = state.step(learner(fast, normalise=normalise), one)
    told = state.summarize(learner(fast))

    x_adv = learner(slow).perturb(one.x, one.y, one.attack_stream)
    slow.train()
    logits = slow(torch.cat([one.x, x_adv]))
    errors = [-z.log_softmax(0)[y] for z, y in zip(logits, one.y.repeat(2), strict=True)]
    kept = sorted(range(2 * SIZE), key=lambda i: -errors[i].item())[:SIZE]
    total = sum(weights[i % SIZE] for i in kept) if normalise == "batch" else SIZE
    loss = sum(weights[i % SIZE] * errors[i] for i in kept) / total
    loss.backward()
    assert n == SIZE and float(found) == pytest.approx(loss.item(), rel=1e-5)
    for got, reference in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(got, reference - 0.1 * reference.grad, atol=1e-6, rtol=1e-4)
    for got, reference in zip(fast.buffers(), slow.buffers(), strict=True):
        torch.testing.assert_close(got, reference)
    assert told["adversarial"] == sum(i >= SIZE for i in kept) / SIZE


@pytest.mark.parametrize("adversarial", [0.0, 1.0])
@pytest.mark.parametrize("attack", [LinfPGD(eps=0.1, steps=K), L2PGD(eps=0.5, steps=K), L1PGD(eps=3.0, steps=K)])
@by_plain_kernels
def test_a_mix_of_clean_images_alone_attacks_nothing(model, source, attack, adversarial):
    rule = RULES["random_mix"](adversarial=adversarial)
    found = trainer(rule, epochs=1, attack=attack).fit(model, source, seed=0)
    assert found.ledger.passes["attack"]["backward"] == K * N * adversarial
    assert found.epochs[0]["minibatch"]["adversarial"] == adversarial


def test_scores_are_those_of_autograd_one_example_at_a_time(model, source):
    one, fast = batch(source), copy.deepcopy(model)
    state = followed(GradientMatching(), fast, source)
    look = state._score_clean_images(learner(fast), one)
    head, model = model[-1], model.eval()
    rows = []
    for image, label in zip(one.x, one.y, strict=True):
        loss = F.cross_entropy(model(image[None]).double(), label[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [head.weight, head.bias])]).double())
    rows = torch.stack(rows)
    expected = F.cosine_similarity(rows, rows.sum(0, keepdim=True), dim=1).clamp_min(0) + 1e-6
    assert torch.allclose(GradientMatching().compute_preferences(look), expected, atol=1e-5)
    z = model(one.x).detach()
    assert torch.allclose(look.residuals, z.softmax(1) - F.one_hot(one.y, 4), atol=1e-6)
    assert torch.equal(look.residuals, residuals(Standard(), one.y, {"clean": z})["clean"])


@pytest.mark.parametrize("name", [name for name in IN_BATCHES if not is_reattack(RULES[name]())])
def test_scoring_touches_neither_batchnorm_nor_modes_nor_random_states(model, source, name):
    """Looking alone: what is left is one update, whose batch BatchNorm counts once per forward pass."""
    settings = {"clean": 0.0, "warm_up": 0} if name in ATTACKS else {"replays": 1} if name == "free" else {}
    rule = RULES[name](**settings)
    before = torch.get_rng_state()
    state = followed(rule, model, source)
    model.train()
    state.begin(5, [{"clean": 0.5, "robust": 0.5}] * 5)
    state.step(learner(model), batch(source))
    assert int(model[1].num_batches_tracked) == 1 and all(module.training for module in model.modules())
    assert torch.equal(before, torch.get_rng_state())


# ---- the queue ----


def test_a_queue_learns_from_the_kept_images_in_order_in_full_batches_and_the_rest_at_the_end(
    model, source, monkeypatch
):
    """9 of 32 images of each of 6 batches: 54, as 3 steps of 16 and one of 6; image, label and weight stay together."""
    steps, kept = [], []
    learn, queued = UpdateSubsetStepper._take_step, UpdateSubsetStepper._train_queued

    def watched(self, one, new, where):
        steps.append(new)
        return learn(self, one, new, where)

    def watching(self, one, new, where):
        kept.append(new)
        return queued(self, one, new, where)

    monkeypatch.setattr(UpdateSubsetStepper, "_take_step", watched)
    monkeypatch.setattr(UpdateSubsetStepper, "_train_queued", watching)
    found = trainer(RULES["loss_ranked"](p_up=0.3, queue=True, look="eval"), epochs=1).fit(model, source, seed=0)
    assert [len(new[1]) for new in steps] == [16, 16, 16, 6] and [len(new[1]) for new in kept] == [9] * 6
    for learned, waited in zip(zip(*steps, strict=True), zip(*kept, strict=True), strict=True):
        assert torch.equal(torch.cat(learned), torch.cat(waited))
    assert found.ledger.passes["update"]["forward"] == 54 and found.epochs[0]["loss"] > 0


def test_a_queue_that_fills_no_batch_is_learned_from_at_the_end_of_the_epoch(model, source):
    found = trainer(RULES["loss_ranked"](p_up=0.05, queue=True, look="eval"), epochs=2, batch_size=64).fit(
        model, source, seed=0
    )
    assert all(entry["loss"] > 0 for entry in found.epochs)
    assert found.ledger.passes["update"]["forward"] == 2 * (6 + 3)  # of 128 and of 64 images


# ---- what an epoch tells ----


@pytest.mark.parametrize("name", ATTACKS)
@by_plain_kernels
def test_an_epoch_tells_how_its_picks_were_spread(model, source, name):
    found = trainer(RULES[name](warm_up=1), epochs=3, batch_size=32).fit(model, source, seed=0).epochs
    told = [entry["minibatch"] for entry in found]
    assert [one["picked"] for one in told] == [24] * 3 and told[0]["overlap"] is None
    assert told[0]["entropy"] == pytest.approx(1) and all(0 < one["entropy"] <= 1 + 1e-9 for one in told)
    assert all(0 <= one["overlap"] <= 1 for one in told[1:])
    assert told[0]["coverage"] == 0.25 and told[0]["coverage"] <= told[1]["coverage"] <= told[2]["coverage"] <= 0.75
    assert all(0 < one["spread"] <= 1 for one in told)
    if name != "random":
        assert told[1]["entropy"] < 1 - 1e-6


def test_overlap_and_spread_by_hand(source, model):
    """Epochs that attack 0-3 and then 2-5 of a batch of 16."""

    class Written(RULES["random"]):
        def pick(self, look, generator):
            positions = torch.arange(4) + 2 * generator.epoch
            return Picked(positions, torch.ones(4), torch.tensor(1.0))

    state, told = followed(Written(clean=0.0), model, source), []
    for epoch in range(2):
        state.begin(epoch, [])
        one = batch(source)
        state.step(learner(model), dataclasses.replace(one, rule_stream=one.rule_stream.at_epoch(epoch)))
        told.append(state.summarize(learner(model)))
    assert [one["overlap"] for one in told] == [None, 0.5] and [one["coverage"] for one in told] == [4 / N, 6 / N]
    counts = [1, 1, 2, 2, 1, 1]
    entropy = -sum(c / 8 * math.log(c / 8) for c in counts)
    assert told[1]["spread"] == pytest.approx(entropy / math.log(N))
    assert told[0]["spread"] == pytest.approx(math.log(4) / math.log(N))


@by_plain_kernels
def test_an_adaptive_share_follows_the_validation_accuracies(model, source):
    rule = RULES["loss_ranked"](adaptive="direct", p_min=0.2)
    found = trainer(rule, epochs=4).fit(model, source, source, seed=0).epochs
    expected = [1.0] + [max(0.2, 1 - entry["clean"]) for entry in found[:-1]]
    assert [entry["minibatch"]["p_up"] for entry in found] == pytest.approx(expected)
    with pytest.raises(ConfigError, match="validation must be given"):
        trainer(rule).fit(model, source, seed=0)


class Threshold(nn.Module):
    """Class 1 where the mean brightness is above 1/2; a head of its own for nothing."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2)
        self.head.weight.data, self.head.bias.data = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, -0.5])

    def forward(self, x):
        return self.head(x.flatten(1).mean(1, keepdim=True))


def test_the_smallest_radius_is_found_to_an_eighth_of_the_ball():
    levels = [0.3, 0.45, 0.49, 0.6]
    data = Resident(torch.tensor(levels).view(4, 1, 1, 1).expand(4, 1, 2, 2).contiguous(), torch.zeros(4).long())
    found = smallest_radius(
        Threshold(), data, LinfPGD(eps=0.08, steps=5), torch.arange(4), stream=Stream(seed=0, purpose="r"),
        ledger=CostLedger(),
    )  # fmt: skip
    assert found.tolist() == pytest.approx([float("inf"), 0.06, 0.02, 0.0], abs=1e-9)  # the next eighth above the gap


@by_plain_kernels
def test_the_radius_of_what_is_kept_is_told_and_not_in_the_cost(model, source):
    plain, measured = (
        trainer(RULES["loss_ranked"](probed=probed), epochs=1).fit(copy.deepcopy(model), source, seed=0)
        for probed in (0, 8)
    )
    told = measured.epochs[0]["minibatch"]["radius"]
    assert told["n"] == 8 and 0 <= told["flipped"] <= 1 and (told["mean"] is None or 0 <= told["mean"] <= 0.1)
    assert equal(plain.last, measured.last) and plain.ledger.sum_units() == measured.ledger.sum_units()


# ---- with everything else ----


@pytest.mark.parametrize("name", IN_BATCHES)
@by_plain_kernels
def test_every_rule_learns_from_a_coreset_alone_and_with_its_weights(model, source, name, monkeypatch):
    """The weights reach the loss: `Learner.loss` is given those of the picked examples."""
    rule = RULES[name](**({"look": "eval"} if name == "loss_ranked" else {}))
    made = trainer(rule, epochs=4, solver=GradMatch(), budget=0.5, batch_size=32)
    seen, original = [], Learner.loss

    def loss(self, forward, clean, adversarial, y, weights):
        seen.append((clean.detach(), y, weights))
        return original(self, forward, clean, adversarial, y, weights)

    monkeypatch.setattr(Learner, "loss", loss)
    found = made.fit(model, source, seed=0)
    (coreset,) = found.coresets
    first = sum(entry["steps"] for entry in found.epochs if entry["action"] == "full")
    chosen = coreset.training_weights()
    _, x, y = next(source.batches([coreset.indices]))
    assert len(seen) > first + 1  # several batches, the last of them smaller
    for images, labels, weights in seen[first:]:
        for image, label, weight in zip(images, labels, weights, strict=True):
            near = (x - image).abs().amax((1, 2, 3))  # an attacked image is nearest to its own
            i = int(near.argmin())
            assert float(near[i]) <= 0.1 + 1e-6 and int(y[i]) == int(label)
            assert float(weight) == pytest.approx(float(chosen[i]))


def test_the_radius_is_of_kept_examples_in_the_ball_of_the_whole_attack(model, source, monkeypatch):
    from advcore.training import steppers

    asked, original = [], steppers.smallest_radius

    def watched(model, source, attack, indices, **how):
        asked.append((attack, indices))
        return original(model, source, attack, indices, **how)

    monkeypatch.setattr(steppers, "smallest_radius", watched)
    rule = RULES["loss_ranked"](p_up=0.1, probed=4)
    state = followed(rule, model, source)
    state.begin(0, [])
    one = batch(source, torch.arange(40, 56))
    state.step(learner(model), one)
    kept = torch.cat(state.kept_indices).unique()
    state.summarize(learner(model, attack=ATTACK.scale(0.1)))
    ((attack, indices),) = asked
    assert attack == ATTACK and set(indices.tolist()) <= set(kept.tolist()) and int(indices.min()) >= 40


@pytest.mark.parametrize("name", ["margin", "loss_ranked"])
@by_plain_kernels
def test_a_perceptual_attack_is_saved_too(model, source, name):
    found = trainer(RULES[name](), attack=FastLPA(eps=0.3, steps=2)).fit(model, source, seed=0)
    assert found.epochs[0]["minibatch"]


@pytest.mark.parametrize("name", IN_BATCHES)
def test_an_objective_without_an_attack_has_nothing_to_save(name):
    with pytest.raises(ConfigError, match="minibatch must be null.*'standard'"):
        trainer(RULES[name](), Standard(), attack=None)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match="warm_up must be at most the 2 epochs.*got 3"):
        trainer(RULES["margin"](warm_up=3))


class Pointwise(nn.Module):
    """BatchNorm where there is one pixel left, which cannot learn from one image."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(64), nn.Linear(64, 4)

    def forward(self, x):
        return self.head(self.norm(x.flatten(1)))


@pytest.mark.parametrize(
    "name, changes",
    [("margin", {"rho": 0.1}), ("random_mix", {"p_up": 0.04}), ("loss_ranked", {"p_up": 0.05, "look": "eval"})],
)
@by_plain_kernels
def test_a_single_image_that_batchnorm_cannot_learn_from_is_refused_before_training(model, source, name, changes):
    rule = RULES[name](**changes)
    with pytest.raises(ConfigError, match="minibatch.* must be larger.*one image of a batch of 16"):
        trainer(rule).fit(Pointwise(), source, seed=0)
    assert trainer(rule).fit(model, source, seed=0).epochs  # where BatchNorm sees more than one pixel it may


def test_weights_that_the_form_of_the_loss_undoes_are_refused():
    rule = RULES["margin"](correction="inverse_probability")
    with pytest.raises(ConfigError, match="correction must be none with training.normalise: batch"):
        trainer(rule, normalise="batch")


def test_a_head_without_bias_has_no_bias_in_its_gradients(source):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4, bias=False))
    one = batch(source)
    look = followed(GradientMatching(), net, source)._score_clean_images(learner(net), one)
    rows = []
    for image, label in zip(one.x, one.y, strict=True):
        loss = F.cross_entropy(net(image[None]), label[None])
        rows.append(torch.autograd.grad(loss, net[-1].weight)[0].flatten().double())
    assert torch.allclose(look.rows.squared_norms().sqrt(), torch.stack(rows).norm(dim=1), atol=1e-6)


def test_a_batch_smaller_than_one_over_rho_still_attacks_one(model, source):
    assert count(0.25, 2) == 1
    one = batch(source, torch.arange(2))
    state = followed(RULES["random"](clean=0.0), model, source)
    state.begin(0, [])
    assert state.step(learner(model), one)[1] == 1
