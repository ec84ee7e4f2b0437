"""What must hold on a CUDA device too; run with -m gpu."""

import pytest
import torch

from advcore import AdversarialCoreset
from advcore.attacks import L2PGD, LinfPGD
from advcore.data.augment import crop_flip
from advcore.data.source import Resident
from advcore.objectives import Trades
from advcore.rng import Stream
from advcore.solvers import Craig, GradMatch

pytestmark = pytest.mark.gpu


def test_streams_draw_the_same_numbers_on_both_devices():
    stream, indices = Stream(seed=1, purpose="x"), torch.arange(50)
    for draw in (lambda s: s.bits(9), lambda s: s.uniform((50, 9)), lambda s: s.permutation()):
        assert torch.equal(draw(stream.at(indices)), draw(stream.at(indices.cuda())).cpu())
    torch.testing.assert_close(stream.at(indices).normal((50, 9)), stream.at(indices.cuda()).normal((50, 9)).cpu())


def test_augmentation_is_the_same_on_both_devices():
    x, stream, indices = torch.rand(8, 3, 16, 16), Stream(seed=1, purpose="x"), torch.arange(8)
    assert torch.equal(crop_flip(x, stream.at(indices)), crop_flip(x.cuda(), stream.at(indices.cuda())).cpu())


@pytest.mark.parametrize("attack", [LinfPGD(eps=0.1), L2PGD(eps=0.5)], ids=lambda a: a.norm)
def test_attacks_stay_in_their_ball(model, source, attack):
    model, x = model.cuda().eval(), source._images.cuda()
    generator = Stream(seed=0, purpose="x").at(torch.arange(len(x)).cuda())
    x_adv = attack(lambda z: model(z).logsumexp(1), x, generator=generator)
    assert float(attack.excess(x, x_adv).max()) <= 1e-6 and 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("solver", [Craig(), GradMatch()], ids=lambda s: type(s).__name__)
def test_a_selection_on_the_device_is_that_of_the_cpu(model, source, solver):
    chooser = AdversarialCoreset(objective=Trades(), attack=LinfPGD(eps=0.1, start="clean"), solver=solver, budget=0.25)
    double = Resident(source._images.double(), source.labels())
    here = chooser.select(model.double(), double, seed=0)
    there = chooser.select(model.cuda(), Resident(source._images.double(), source.labels(), "cuda"), seed=0)
    assert torch.equal(here.indices, there.indices)
    torch.testing.assert_close(here.weights, there.weights, rtol=1e-4, atol=1e-6)
