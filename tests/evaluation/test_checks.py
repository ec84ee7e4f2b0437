"""What makes a robust number untrustworthy is flagged; what does not is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advcore.attacks import L2PGD, LinfPGD
from advcore.data.source import Resident
from advcore.evaluation.checks import bent, order_flags, strength_flags
from advcore.evaluation.evaluate import attack_name, evaluate

N, SHAPE = 40, (1, 6, 6)
GOOD = LinfPGD(eps=0.05, steps=10)


def images():
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))


def plain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 3)).eval()


class Around(nn.Module):
    """A model changed on its way in or out."""

    def __init__(self, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.net, self.before, self.after = plain(), before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


class Dropped(Around):
    """Dropout that stays on in eval mode."""

    def forward(self, x):
        return self.net(F.dropout(x, 0.5, training=True))


class Counting(Around):
    """Changes a buffer at each prediction."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.net(x)


class Optimising(Around):
    """Purifies its input by a gradient step before it predicts."""

    def forward(self, x):
        with torch.enable_grad():
            z = x.detach().requires_grad_(True)
            (g,) = torch.autograd.grad(self.net(z).logsumexp(1).sum(), z)
        return self.net(x + 0.01 * g)


class Mixing(Around):
    """BatchNorm that uses its batch also in eval mode."""

    def forward(self, x):
        return self.net(F.batch_norm(x, None, None, training=True))


MODELS = {
    "dropout": (Dropped, "randomised"),
    "noise": (lambda: Around(before=lambda x: x + 0.1 * torch.randn_like(x)), "randomised"),
    "softmax": (lambda: Around(after=lambda z: z.softmax(1)), "softmax"),
    "rounding": (lambda: Around(before=lambda x: (x * 8).round() / 8), "masked"),
    "optimisation": (Optimising, "dynamic"),
    "a buffer": (Counting, "dynamic"),
    "batch statistics": (Mixing, "batch-dependent"),
    "huge logits": (lambda: Around(after=lambda z: z * 1e5), "masked"),
}


def flags(model, attacks=(GOOD,)):
    data = Resident(images(), plain()(images()).argmax(1))
    return evaluate(model, data, attacks, checks=True).flags


@pytest.mark.case("E6")
def test_a_plain_model_under_a_fit_attack_has_no_flag():
    assert flags(plain()) == ()


@pytest.mark.case("E6")
@pytest.mark.parametrize("name", MODELS)
def test_each_mistake_has_its_flag_and_the_model_comes_back(name):
    make, kind = MODELS[name]
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = flags(model)
    assert any(flag.startswith(f"{kind}:") for flag in found), found
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_without_checks_nothing_is_claimed():
    data = Resident(images(), plain()(images()).argmax(1))
    assert evaluate(Dropped(), data, [GOOD]).flags == ()


@pytest.mark.parametrize(
    "attack, words",
    [
        (LinfPGD(eps=0.05, steps=5), "takes 5 steps"),
        (LinfPGD(eps=0.05, steps=20, step_size=0.001), "reaches 0.4 eps"),
        (L2PGD(eps=0.5, steps=20, step_size=0.01), "reaches 0.4 eps"),
    ],
)
def test_a_weak_attack_is_called_weak(attack, words):
    (flag,) = strength_flags([attack.describe()], [attack_name(attack)])
    assert flag.startswith("weak: ") and words in flag
    assert flag in flags(plain(), [attack])


def entry(accuracy, eps=0.1, name="linf_pgd", half=0.02, **more):
    return {"name": name, "norm": "linf", "eps": eps, "interval": [accuracy - half, accuracy + half], **more}


@pytest.mark.case("E5")
def test_a_larger_ball_that_leaves_more_right_is_flagged_beyond_the_interval():
    assert order_flags([entry(0.5), entry(0.3, eps=0.2)]) == []
    assert order_flags([entry(0.5), entry(0.53, eps=0.2)]) == []
    (flag,) = order_flags([entry(0.5), entry(0.6, eps=0.2)])
    assert "more right at eps 0.2 than at 0.1" in flag


def test_a_black_box_that_beats_the_white_box_is_flagged():
    square = {"name": "autoattack", "version": "square"}
    assert order_flags([entry(0.5), entry(0.55, **square)]) == []
    (flag,) = order_flags([entry(0.5), entry(0.3, **square)])
    assert "black box autoattack beats linf_pgd" in flag


def test_a_boundary_that_bends_back_along_the_gradient_is_masking():
    """Logit gaps that fall at first and rise again, in a wave along brightness, against one that only falls."""
    x, y = images(), torch.zeros(N).long()

    def wave(z):
        level = (z - x).flatten(1).mean(1)
        return torch.stack([torch.cos(level * 80) + 0.2, torch.zeros(N)], 1) - torch.stack([level, 0 * level], 1)

    def slope(z):
        level = (z - x).flatten(1).mean(1)
        return torch.stack([0.5 - 20 * level, torch.zeros(N)], 1)

    inside = 0.3 + 0.4 * x
    x = inside

    def lost(z):
        """Misclassified in the first half of the ball, right in the other."""
        return torch.stack([(z - x).flatten(1).mean(1) - 0.05, torch.zeros(N)], 1)

    down, up = -torch.ones_like(x), torch.ones_like(x)
    assert bent(wave, inside, y, up, 0.08) == 1
    assert bent(lost, inside, y, up, 0.08) == 1
    assert bent(slope, inside, y, up, 0.08) == bent(slope, inside, y, down, 0.08) == 0
