"""Perturbations remembered between epochs."""

import pytest
import torch
from torch import nn

from advcore.attacks.memory import Memory, Perturbations
from advcore.attacks.pgd import L1PGD, L2PGD, LinfPGD
from advcore.rng import Stream

N, SHAPE = 12, (3, 8, 8)
ALL = torch.arange(N)
ATTACKS = {"linf": LinfPGD(eps=0.1, step_size=0.03), "l2": L2PGD(eps=0.7, step_size=0.3), "l1": L1PGD(eps=6.0)}


def images(n=N, shape=SHAPE, dtype=torch.float32):
    """Pixels as bytes give them, many at or near 0 and 1, where additions round."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (n, *shape), generator=generator).clamp(0, 255)
    x[::2] = x[::2] // 32
    x[1] = 255 - x[1] // 16
    return (x.float() / 255).to(dtype)


def network(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    return net.to(dtype)


def loss_of(net):
    return lambda x: nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 5, reduction="none")


def stream(epoch=0, purpose="attack", indices=ALL):
    return Stream(seed=1, purpose=purpose, epoch=epoch).at(indices)


def memory(precision="float32", augment=None, n=N, **settings):
    return Perturbations(Memory(precision=precision, **settings), n, SHAPE, torch.device("cpu"), augment)


def attacked(attack, kept, net, x, epoch, indices=ALL):
    x_adv = attack.recalling(kept)(loss_of(net), x, generator=stream(epoch, indices=indices))
    kept.keep(x, x_adv, indices)
    return x_adv


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("precision", ["float32"])
def test_two_epochs_of_k_steps_are_one_of_2k_bitwise(name, precision, dtype):
    if dtype == torch.float64:
        pytest.skip("float32 holds what a float32 attack ends at")
    net, x, attack = network(dtype), images(dtype=dtype), ATTACKS[name].changed(start="remembered", steps=3)
    attack = attack.changed(step_size=attack.length)
    kept = memory(precision)
    for epoch in range(2):
        kept.begin(ALL, Stream(seed=1, purpose="augment", epoch=epoch))
        twice = attacked(attack, kept, net, x, epoch)
    once = attack.changed(steps=6, start="uniform")(loss_of(net), x, generator=stream())
    assert torch.equal(twice, once)
    assert not torch.equal(twice, x)
