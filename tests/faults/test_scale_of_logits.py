"""The size of the logits changes no accuracy, or there is a flag (issue 21, 19)."""

import functools

import pytest
import torch
import torch.nn.functional as F
from seeds import seeded
from torch import nn

from advcore.attacks import L2PGD, LinfPGD
from advcore.data.source import Resident
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.evaluate import evaluate
from advcore.evaluation.stretch import Stretch

N = 128
ATTACK = LinfPGD(eps=0.04, steps=10)


class Behind(nn.Module):
    """A network whose logits are changed."""

    def __init__(self, after=lambda z: z):
        super().__init__()
        self.after = after
        with seeded():
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.Tanh(), nn.Linear(32, 10)).eval()
        with torch.no_grad():
            self.net[-1].weight *= 12

    def forward(self, x):
        return self.after(self.net(x))


@functools.cache
def data():
    x = torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return Resident(x, Behind()(x).argmax(1))


@functools.cache
def plain_verdicts(attack=ATTACK):
    return evaluate(Behind(), data(), [attack]).verdicts["0"]


def with_masked_classes(value):
    return lambda z: torch.cat([0.001 * z, torch.full((len(z), 2), value)], 1)


SAME = {
    "a thousandth": lambda z: z * 1e-3,
    "a temperature of 2,000": lambda z: z / 2000,
    "a millionth": lambda z: z * 1e-6,
    "1e-30": lambda z: z * 1e-30,
    "small in double precision": lambda z: z.double() * 1e-5,
    "small in half precision": lambda z: (z * 1e-3).half(),
    "tiny in half precision": lambda z: (z * 1e-4).half(),
    "small in bfloat16": lambda z: (z * 1e-3).bfloat16(),
    "small, of normed weights": lambda z: 0.01 * F.normalize(z, dim=1),
    "small beside masked classes": with_masked_classes(-1e9),
    "a hundredfold": lambda z: z * 100,
    "a thousandfold": lambda z: z * 1e3,
    "1e20": lambda z: z * 1e20,
    "log-probabilities": lambda z: z.log_softmax(1),
    "a constant of 1e4": lambda z: z + 1e4,
}


@pytest.mark.parametrize("name", SAME)
def test_the_accuracy_is_that_of_the_logits_without_their_scale(name):
    right = evaluate(Behind(SAME[name]), data(), [ATTACK]).verdicts["0"]
    assert abs(int(right.sum()) - int(plain_verdicts().sum())) <= 3
    assert 20 < int(plain_verdicts().sum()) < N - 20


def test_so_it_is_in_other_balls():
    attack = L2PGD(eps=0.16, steps=10)
    right = evaluate(Behind(SAME["a thousandth"]), data(), [attack]).verdicts["0"]
    assert abs(int(right.sum()) - int(plain_verdicts(attack).sum())) <= 3


@pytest.mark.parametrize("version", ["apgd-ce", "rand"])
@pytest.mark.parametrize("name", ["a thousandth", "a thousandfold", "tiny in half precision", "a constant of 1e4"])
def test_so_it_is_under_autoattack(name, version, monkeypatch):
    package = pytest.importorskip("pyautoattack", reason="extra eval")
    run = package.AutoAttack.run_standard_evaluation

    def run_quickly(self, *args, **kwargs):
        self.apgd.n_iter = 10
        self.apgd.eot_iter = self.apgd.n_restarts = 1
        return run(self, *args, **kwargs)

    monkeypatch.setattr(package.AutoAttack, "run_standard_evaluation", run_quickly)
    attack = AutoAttack(eps=0.04, version=version)
    verdicts = [evaluate(Behind(after), data(), [attack]).verdicts["0"] for after in (lambda z: z, SAME[name])]
    assert abs(int(verdicts[0].sum()) - int(verdicts[1].sum())) <= 3


FLAGGED = {
    "a tenth": lambda z: z / 10,
    "a hundredth": lambda z: z / 100,
    "tanh": lambda z: z.tanh(),
    "a narrow tanh": lambda z: (z / 10).tanh(),
    "sigmoid": lambda z: z.sigmoid(),
    "probabilities": lambda z: z.softmax(1),
}


@pytest.mark.parametrize("name", FLAGGED)
def test_what_the_cross_entropy_loses_is_flagged(name):
    flags = evaluate(Behind(FLAGGED[name]), data(), [ATTACK], checks=True).flags
    assert any(flag.startswith(("scale: the spread of the logits is too small", "softmax:")) for flag in flags)


def test_usual_logits_are_not_flagged():
    assert evaluate(Behind(), data(), [ATTACK], checks=True).flags == ()


@pytest.mark.parametrize("shift", [1e3, 1e4, 1e5])
def test_the_rounding_of_large_logits_is_no_noise(shift):
    assert evaluate(Behind(lambda z: z + shift), data(), checks=True).flags == ()


def test_usual_logits_keep_every_bit():
    with torch.no_grad():
        logits = Behind()(data()._images)
    assert torch.equal(Stretch.fit(logits)(logits), logits)
    assert Stretch.fit(logits).factor.eq(1).all()


@pytest.mark.parametrize(
    "logits",
    [
        [[0.0, 0.0, 0.0]],
        [[5.0]],
        [[float("-inf"), 1.0, 2.0]],
        [[float("nan"), 1.0, 2.0]],
        [[1e-45, 0.0, 0.0]],
    ],
)
def test_logits_that_cannot_be_stretched_are_left_alone(logits):
    logits = torch.tensor(logits)
    assert torch.equal(Stretch.fit(logits)(logits).nan_to_num(), logits.nan_to_num())


class Noisy(Behind):
    def forward(self, x):
        return self.net(x) + 0.3 * torch.randn(len(x), 10) + 1e4


class NoisyAndMasked(Behind):
    def forward(self, x):
        noise = 0.3 * torch.randn(len(x), 10)
        return torch.cat([self.net(x) + noise, torch.full((len(x), 2), -1e9)], 1)


@pytest.mark.parametrize("build", [Noisy, NoisyAndMasked])
def test_neither_a_constant_nor_masked_classes_hide_noise(build):
    flags = evaluate(build(), data(), checks=True).flags
    assert "randomised: the same images get different logits in a second pass" in flags
