"""N-FGSM beside its algorithm written out."""

import torch
import torch.nn.functional as F
from torch import nn

from advcore.attacks import NFGSM
from advcore.rng import Stream

N = 5


def test_one_step_from_noise_of_two_radii_without_a_projection():
    x = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model, y = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.arange(N) % 3
    stream = Stream(seed=0, purpose="attack").at(torch.arange(N))

    def loss(z):
        return F.cross_entropy(model(z), y, reduction="none")

    for attack, noise, step in ((NFGSM(eps=0.1), 0.2, 0.1), (NFGSM(eps=0.1, noise=0.5, step_size=0.07), 0.05, 0.07)):
        z = (x + noise * (2 * stream.uniform(tuple(x.shape)) - 1)).clamp(0, 1).requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(z).sum(), z)
        expected = (z + step * gradient.sign()).clamp(0, 1)
        got = attack(loss, x, generator=stream)
        assert torch.allclose(got, expected.detach(), atol=1e-6)
    assert NFGSM(eps=0.1).excess(x, NFGSM(eps=0.1)(loss, x, generator=stream)).max() > 0.05  # it does leave the ball
