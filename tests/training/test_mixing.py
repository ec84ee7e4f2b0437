"""CutMix: rectangles and labels worked by hand, the step it leads to, its passes, and what it is refused with."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels

from advcore import Trainer
from advcore.adversary import attack as attack_images
from advcore.attacks import LinfPGD
from advcore.attacks.perceptual import FastLPA
from advcore.config.load import from_dict
from advcore.errors import ConfigError
from advcore.minibatch import Margin
from advcore.objectives import Mart, Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.run.build import build_trainer
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import EasyCore, GradMatch
from advcore.training import SGD
from advcore.training.loop_settings import refuse_processes
from advcore.training.mixing import CutMix
from advcore.training.plan import count_planned_units
from advcore.training.step import Images

ATTACK = LinfPGD(eps=0.1, steps=1)


def stream(size):
    return Stream(seed=0, purpose="cutmix").at(torch.arange(size))


class Drawn(Stream):
    """A stream whose numbers are written down, so that a person can follow them."""

    def child(self, *names):
        return Drawn(seed=0, purpose=names[0], indices=self.indices)

    def uniform(self, shape):
        # share kept, whether mixed, centre's row and column
        return torch.tensor([[0.75, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.5], [0.0, 0.9, 0.5, 0.5]])

    def permutation(self):
        return torch.tensor([1, 2, 0])


def test_images_labels_and_weights_are_those_worked_by_hand():
    """Of 2 x 2 pixels: half a side of half a pixel is none, of a pixel it is two at a border; the third stays."""
    x = torch.tensor([[[1.0, 2], [3, 4]], [[10, 20], [30, 40]], [[100, 200], [300, 400]]])[:, None]
    images = Images(x, torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 8.0]))
    draw = Drawn(seed=0, purpose="", indices=torch.arange(3))
    mixed = CutMix(probability=0.5).mix(images, draw, classes=4)
    # half a side of the first is 2 sqrt(.25) / 2 = .5 pixels, rounded down to none
    assert torch.equal(mixed.x[0], x[0]) and torch.equal(mixed.x[2], x[2])
    # one pixel to either side of row 0 and column 1: the second's upper row is the third's
    assert mixed.x[1, 0].tolist() == [[100, 200], [30, 40]]
    # half of the second, which weighs 2, and half of the third, which weighs 8: 1 and 4
    assert torch.allclose(mixed.y, torch.tensor([[1, 0, 0, 0], [0, 0.2, 0.8, 0], [0, 0, 1, 0]]))
    assert mixed.weights.tolist() == [1, 5, 8]


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_each_image_is_mixed_as_a_loop_would(alpha):
    x = torch.rand(64, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    y, weights = torch.arange(64) % 5, torch.linspace(0.5, 1.5, 64)
    draw = stream(64)
    mixed = CutMix(alpha=alpha, probability=0.8).mix(Images(x, y, weights), draw, classes=5)
    numbers = draw.child("rectangle").uniform((64, 4)).double()
    keep = numbers[:, 0] if alpha == 1 else torch.sin(numbers[:, 0] * torch.pi / 2) ** 2  # the arcsine law
    partner = draw.child("partner").permutation()
    cut = 0
    for i in range(64):
        slow, label = x[i].clone(), F.one_hot(y[i], 5).double()
        if numbers[i, 1] < 0.8:
            side = float((1 - keep[i]).sqrt())
            row, column = int(numbers[i, 2] * 9), int(numbers[i, 3] * 7)
            top, left = max(0, row - int(9 * side / 2)), max(0, column - int(7 * side / 2))
            bottom, right = min(9, row + int(9 * side / 2)), min(7, column + int(7 * side / 2))
            slow[:, top:bottom, left:right] = x[partner[i], :, top:bottom, left:right]
            part = (bottom - top) * (right - left) / 63
            other = F.one_hot(y[partner[i]], 5).double()
            parts = (1 - part) * float(weights[i]), part * float(weights[partner[i]])
            label = (parts[0] * label + parts[1] * other) / sum(parts)
            cut += 0 < part < 1
            assert float(mixed.weights[i]) == pytest.approx(sum(parts))
        assert torch.equal(mixed.x[i], slow)
        assert torch.allclose(mixed.y[i].double(), label, atol=1e-6)
    assert cut > 20


def build(objective=None, attack=ATTACK, **settings):
    settings = {"schedule": Schedule(epochs=1), "batch_size": 32, "cutmix": CutMix(), **settings}
    return Trainer(objective=objective or Pgd(), attack=attack, optimizer=SGD(lr=0.05), probe_examples=16, **settings)


@by_plain_kernels
@pytest.mark.parametrize(
    "objective",
    [Standard(), Pgd(label_smoothing=0.1), Trades(beta=2.0)],
    ids=lambda objective: type(objective).__name__,
)
def test_an_epoch_of_one_batch_is_the_step_worked_by_hand(model, source, objective):
    """The slow one: the loss is the mean of both labels' losses by area, for the attack as for the update."""
    n = len(source)
    attack = None if isinstance(objective, Standard) else ATTACK
    quick, slow = copy.deepcopy(model), copy.deepcopy(model)
    made = build(objective, attack, batch_size=n)
    ledger = made.fit(quick, source, seed=5).ledger
    assert (
        ledger.sum_units()
        == count_planned_units(made, n)
        == count_planned_units(build(objective, attack, cutmix=None), n)
    )

    order = torch.arange(n)[Stream(seed=5, purpose="order").at(torch.arange(n)).permutation()]
    _, x, y = next(iter(source.batches([order])))
    draw = Stream(seed=5, purpose="cutmix").at(order)
    mixed = CutMix().mix(Images(x, y, torch.ones(n)), draw, classes=4)
    partner = y[draw.child("partner").permutation()]
    share = (mixed.y * F.one_hot(y, 4)).sum(1)
    share = torch.where(partner == y, 1.0, share)

    def compute_loss(adversarial, clean):
        logits = {"clean": clean, "adversarial": adversarial}
        logits = {name: logits[name] for name in objective.passes}
        return share * objective.loss(y, **logits) + (1 - share) * objective.loss(partner, **logits)

    x_adv = mixed.x
    if attack is not None:
        with torch.no_grad():
            clean = slow.eval()(mixed.x)
        climb = [objective.bind_ascent(labels, clean) for labels in (y, partner)]
        x_adv = ATTACK(
            lambda z: share * climb[0](slow(z)) + (1 - share) * climb[1](slow(z)),
            mixed.x,
            generator=Stream(seed=5, purpose="attack").at(order),
        ).detach()
    slow.train()
    clean = slow(mixed.x) if "clean" in objective.passes else None
    adversarial = slow(x_adv) if "adversarial" in objective.passes else None
    optimizer = torch.optim.SGD(
        slow.parameters(), lr=quick_lr(made), momentum=0.9, weight_decay=made.optimizer.weight_decay
    )
    compute_loss(adversarial, clean).mean().backward()
    optimizer.step()
    for name, value in quick.named_parameters():
        assert torch.allclose(value, slow.get_parameter(name), atol=1e-5), name


def quick_lr(made):
    return made.optimizer.lr * made.lr_schedule.factor(0.0, 0)


REFUSED = [
    ({"objective": Mart()}, "cutmix must be null for an objective of whole labels, got 'mart'; use standard"),
    ({"attack": ATTACK.with_settings(start="remembered")}, "cutmix must be null with attack.start: remembered"),
    ({"attack": FastLPA(eps=0.5)}, "cutmix must be null for an attack that climbs the margin of a label"),
    ({"minibatch": Margin(rho=0.5, warm_up=0)}, "minibatch must be null with training.cutmix"),
    (
        {"solver": GradMatch(nonnegative=False), "budget": 0.5},
        "cutmix must be null with solver.nonnegative: false, .*; labels are mixed in the ratio of weights",
    ),
]


@pytest.mark.parametrize(("settings", "line"), REFUSED)
def test_what_cannot_work_on_mixed_images_is_refused_in_one_line(settings, line):
    with pytest.raises(ConfigError, match=line) as caught:
        build(**settings)
    assert len(caught.value.lines) == 1


def test_a_run_file_names_the_setting_by_its_path():
    run = {
        "name": "x",
        "data": {"name": "digits"},
        "model": {"name": "small_cnn"},
        "objective": {"name": "mart"},
        "attack": {"name": "linf_pgd", "eps": 0.1},
        "training": {"epochs": 1, "optimizer": {"name": "sgd", "lr": 0.1}, "cutmix": {"probability": 0.5}},
        "evaluation": {"attacks": []},
    }
    with pytest.raises(
        ConfigError, match=r"^training.cutmix must be null for an objective of whole labels, got 'mart'"
    ):
        build_trainer(from_dict(run))
    assert build_trainer(from_dict(run | {"objective": {"name": "trades"}})).cutmix == CutMix(probability=0.5)


def test_probe_epochs_are_ordinary_training():
    selector = AdversarialCoreset(objective=Pgd(), attack=ATTACK, solver=EasyCore(), budget=0.5)
    schedule = Schedule(epochs=2, budget=0.5, warm_start=0.0)
    assert build(selector=selector, schedule=schedule, probe_epochs=1).build_probe().cutmix is None


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr("advcore.distributed.size", lambda: 2)
    with pytest.raises(ConfigError, match="training.cutmix must be null with 2 processes"):
        refuse_processes(build())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"alpha": 0.0}, "alpha must be a number above 0"),
        ({"probability": 0.0}, r"probability must be a share in \(0, 1\]"),
        ({"probability": 1.1}, r"probability must be a share in \(0, 1\]"),
    ],
)
def test_settings_out_of_range_are_one_line(settings, line):
    with pytest.raises(ConfigError, match=line):
        CutMix(**settings)


def test_a_library_call_takes_shares_of_classes_where_the_objective_does(model, source):
    _, x, y = next(iter(source.batches([torch.arange(8)])))
    shares = F.one_hot(y, 4).float()
    hard, soft = (attack_images(model, x, labels, ATTACK) for labels in (y, shares))
    assert torch.allclose(hard, soft, atol=1e-6)
    with pytest.raises(ConfigError, match="y must be 8 labels of torch.int64"):
        attack_images(model, x, shares, ATTACK, objective=Mart())
    with pytest.raises(ConfigError, match=r"y must be shares of 4 classes, got \(8, 3\)"):
        attack_images(model, x, shares[:, :3], ATTACK)
