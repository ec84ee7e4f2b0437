"""FGSM-MEP beside its epochs written out an image and a pixel at a time, and beside remembered steps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels
from seeds import seeded
from torch import nn

from advcore import Trainer, evaluate
from advcore.attacks import FGSMMEP, LinfPGD
from advcore.attacks.fgsm_mep import MomentumMemory, normalise_gradient
from advcore.attacks.memory import Memory
from advcore.cost import CostLedger
from advcore.data.augment import crop_flip, keep_images
from advcore.errors import ConfigError
from advcore.objectives import Pgd, Standard
from advcore.rng import Stream
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.step import Learner

N, SHAPE, EPS = 6, (2, 8, 8), 0.1
DECAY = FGSMMEP(eps=EPS).decay
X = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
ALL = torch.arange(N)


def network():
    with seeded():
        return nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.Tanh(), nn.Linear(16, 3))


def stream(epoch, purpose="attack"):
    return Stream(seed=1, purpose=purpose, epoch=epoch)


def build_memory(augment=None, **settings):
    settings = {"precision": "float32", **settings}
    return MomentumMemory(Memory(**settings), N, SHAPE, torch.device("cpu"), augment)


def attack_epochs(net, attack, memory, epochs, augment):
    """Attack the augmented images as training does, and return these and the attacked ones of each epoch."""
    learner = Learner(
        model=net,
        objective=Pgd(),
        attack=attack.with_memory(memory),
        optimizer=None,
        ledger=CostLedger(),
        memory=memory,
    )
    results = []
    for epoch in range(epochs):
        memory.begin(ALL, stream(epoch, "augment"))
        for indices in (ALL[:4], ALL[4:]):
            x = augment(X[indices], stream(epoch, "augment").at(indices))
            x_adv = learner.perturb(x, Y[indices], stream(epoch).at(indices))
            results.append((epoch, indices, x, x_adv))
    return results


def project(value, pixel):
    """Move a pixel's value into the ball around `pixel` and into [0, 1]."""
    return min(max(min(max(value, pixel - EPS), pixel + EPS), 0.0), 1.0)


def write_out(net, x, label, points, momentum, place, start, *, decay, step):
    """Attack an image (C, H, W) pixel by pixel; `points` and `momentum`, in the plain frame, are updated in place.

    place : (H, W) the number of each pixel in the plain view, from 1; 0 for none. start : of pixels of a new example.
    """
    pixels = [(c, h, w) for c in range(SHAPE[0]) for h in range(SHAPE[1]) for w in range(SHAPE[2])]
    begun = x.clone()
    old = torch.zeros_like(x)
    for c, h, w in pixels:
        plain = (c, int(place[h, w]) - 1)
        value = start[c, h, w]
        if points is not None and points[0].any():
            value = x[c, h, w] + points[1][plain] if plain[1] >= 0 else x[c, h, w]
        begun[c, h, w] = project(float(value), float(x[c, h, w]))
        if plain[1] >= 0:
            old[c, h, w] = momentum[plain]
    leaf = begun.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf[None]), label[None]), leaf)
    attacked = x.clone()
    norm = sum(abs(float(gradient[pixel])) for pixel in pixels)
    for c, h, w in pixels:
        sign = float(gradient[c, h, w].sign())
        moment = decay * float(old[c, h, w]) + float(gradient[c, h, w]) / norm
        here = float(x[c, h, w])
        attacked[c, h, w] = project(float(begun[c, h, w]) + step * sign, here)
        direction = (moment > 0) - (moment < 0)
        if place[h, w]:
            plain = (c, int(place[h, w]) - 1)
            points[1][plain] = project(float(begun[c, h, w]) + step * direction, here) - here
            momentum[plain] = moment
    points[0][:] = True
    return attacked


@by_plain_kernels
@pytest.mark.parametrize("augment", [keep_images, crop_flip], ids=["plain", "crop and flip"])
def test_epochs_are_the_papers_also_where_images_move(augment):
    net = network()
    attack = FGSMMEP(eps=EPS, step_size=0.07, decay=0.6)
    memory = build_memory(None if augment is keep_images else crop_flip)
    results = attack_epochs(net, attack, memory, 3, augment)
    numbers = torch.arange(1.0, 65.0).view(1, 1, 8, 8)
    stored = {i: (torch.zeros(1, dtype=torch.bool), torch.zeros(2, 64)) for i in range(N)}
    momentum = {i: torch.zeros(2, 64) for i in range(N)}
    for epoch, indices, x, x_adv in results:
        noise = stream(epoch).at(indices).child("restart", 0).uniform(tuple(x.shape))
        start = x + (2 * noise - 1) * EPS
        for row, i in enumerate(indices.tolist()):
            place = augment(numbers, stream(epoch, "augment").at(indices[[row]]))[0, 0]
            expected = write_out(
                net, x[row], Y[i], stored[i], momentum[i], place, start[row], decay=0.6, step=0.07
            )  # fmt: skip
            assert torch.allclose(x_adv[row], expected, atol=1e-5), (epoch, i)


@by_plain_kernels
def test_momentum_leads_the_next_start_elsewhere_than_the_attack_ended():
    ends = {}
    for decay in (0.0, DECAY):
        memory = build_memory()
        attack_epochs(network(), FGSMMEP(eps=EPS, step_size=0.04, decay=decay), memory, 4, keep_images)
        memory.look(None)
        ends[decay] = memory.recall(X, ALL, lambda: X)
    assert not torch.equal(ends[0.0], ends[DECAY])


@pytest.mark.parametrize("scale", [1e-40, 1.0, 1e30])
def test_what_a_momentum_adds_has_one_norm_and_fits_float16(scale):
    gradient = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * scale
    gradient[1] = 0
    added = normalise_gradient(gradient)
    assert torch.allclose(added.abs().sum((1, 2, 3)), torch.tensor([64.0, 0.0, 64.0]))
    assert torch.equal(added.sign(), gradient.sign())
    assert torch.finfo(torch.float16).max >= 64 / (1 - 0.999)


@by_plain_kernels
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_without_momentum_training_is_fgsm_ep_bit_for_bit(model, source, precision):
    remembered = LinfPGD(eps=EPS, steps=1, step_size=EPS, start="remembered")
    runs = []
    for attack in (FGSMMEP(eps=EPS, decay=0.0), remembered):
        trainer = Trainer(
            objective=Pgd(),
            attack=attack,
            schedule=Schedule(epochs=4),
            optimizer=SGD(lr=0.05),
            batch_size=32,
            memory=Memory(precision=precision, reset=3),
        )
        runs.append(trainer.fit(copy.deepcopy(model), source, seed=0, augment=crop_flip))
    assert all(torch.equal(runs[0].last[name], value) for name, value in runs[1].last.items())
    assert runs[0].ledger.passes == runs[1].ledger.passes


@by_plain_kernels
def test_what_is_forgotten_is_start_and_momentum():
    memory = build_memory(reset=2)
    attack_epochs(network(), FGSMMEP(eps=EPS), memory, 2, keep_images)
    assert memory.recall_momentum(X, ALL).any()
    memory.begin(ALL, None)
    assert not memory.recall_momentum(X, ALL).any()
    assert torch.equal(memory.recall(X, ALL, lambda: X - 9), X - 9)


@by_plain_kernels
def test_a_saved_state_holds_both():
    memory = build_memory(precision="int8")
    attack_epochs(network(), FGSMMEP(eps=EPS), memory, 2, keep_images)
    other = build_memory(precision="int8")
    other.restore(memory.state())
    memory.look(None)
    assert torch.equal(other.recall_momentum(X, ALL), memory.recall_momentum(X, ALL))
    assert torch.equal(other.recall(X, ALL, lambda: X), memory.recall(X, ALL, lambda: X))


def test_it_takes_the_memory_of_two_images(source):
    trainers = [
        Trainer(objective=Pgd(), attack=attack, schedule=Schedule(epochs=2), optimizer=SGD(lr=0.05))
        for attack in (FGSMMEP(eps=EPS), LinfPGD(eps=EPS, steps=1, start="remembered"))
    ]
    sizes = [trainer.estimate_memory(96, source.shape) for trainer in trainers]
    assert sizes[0] == 2 * sizes[1] > 0


def test_epochs_are_judged_by_a_stronger_attack():
    attack = FGSMMEP(eps=EPS)
    assert attack.few_steps and attack.remembers
    assert attack.probe() == LinfPGD(eps=EPS, steps=10)


@by_plain_kernels
def test_a_selection_may_start_from_what_another_attack_left(model, source):
    selecting = AdversarialCoreset(objective=Pgd(), solver=GradMatch(), attack=FGSMMEP(eps=EPS), budget=0.5)
    for attack in (LinfPGD(eps=EPS, steps=1, start="remembered"), FGSMMEP(eps=EPS)):
        trainer = Trainer(
            objective=Pgd(),
            attack=attack,
            schedule=Schedule(epochs=4, budget=0.5, warm_start=0.5, period=2),
            selector=selecting,
            optimizer=SGD(lr=0.05),
            batch_size=32,
        )
        assert trainer.fit(copy.deepcopy(model), source, seed=0).coresets


@by_plain_kernels
@pytest.mark.parametrize("attack", [FGSMMEP(eps=EPS), LinfPGD(eps=EPS, start="remembered")])
def test_nothing_is_remembered_where_training_does_not_attack(attack, model, source):
    trainer = Trainer(objective=Standard(), attack=attack, schedule=Schedule(epochs=2), optimizer=SGD(lr=0.05))
    assert trainer.estimate_memory(96, source.shape) == 0
    plain = Trainer(objective=Standard(), schedule=Schedule(epochs=2), optimizer=SGD(lr=0.05))
    runs = [one.fit(copy.deepcopy(model), source, seed=0) for one in (trainer, plain)]
    assert all(torch.equal(runs[0].last[name], value) for name, value in runs[1].last.items())


def test_it_evaluates_no_model(model, source):
    with pytest.raises(ConfigError, match=r"^evaluation.attacks.start must be uniform, .* got 'FGSMMEP'$") as caught:
        evaluate(model, source, [FGSMMEP(eps=EPS)])
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_grows_for_ever_is_refused(decay):
    with pytest.raises(ConfigError, match=r"^decay must be a number in \[0, 0.999\]"):
        FGSMMEP(eps=EPS, decay=decay)
