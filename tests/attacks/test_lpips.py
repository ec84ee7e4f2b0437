"""The perceptual distance and the attacks in its ball, beside slow twins."""

import math

import numpy as np
import pytest
import torch
from seeds import seeded
from torch import nn

from advcore.adversary import bind_attack
from advcore.attacks import LPA, PPGD, FastLPA
from advcore.attacks.lpips import Embedder, catch_activations, compare_embeddings, project
from advcore.attacks.ppgd import find_steepest_step
from advcore.cost import CostLedger
from advcore.errors import ConfigError
from advcore.models import MODELS
from advcore.models.base import Normalize
from advcore.objectives.base import compute_margin_loss
from advcore.rng import Stream

N = 4


def images(dtype=torch.float64, size=8, n=N):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def network(dtype=torch.float64):
    with seeded():
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, 1, 1), nn.Softplus(), nn.Conv2d(6, 5, 3, 2, 1), nn.Softplus(), nn.Flatten(),
            nn.Linear(80, 4),
        ).to(dtype).eval().requires_grad_(False)  # fmt: skip


def slow_distance(a, b):
    """Pixel by pixel, by hand: activations after each convolution's nonlinearity."""
    net, total = network(), 0.0
    for layers in (net[:2], net[:4]):
        one, other = (layers(z[None])[0].numpy() for z in (a, b))
        _, height, width = one.shape
        for i in range(height):
            for j in range(width):
                u, v = (act[:, i, j] / math.sqrt((act[:, i, j] ** 2).sum()) for act in (one, other))
                total += ((u - v) ** 2).sum() / (height * width)
    return math.sqrt(total)


def test_the_distance_is_the_one_by_hand():
    x, y = images(), images().flip(0)
    embed = Embedder(network(), None, None)
    expected = [slow_distance(a, b) for a, b in zip(x, y, strict=True)]
    assert np.abs(compare_embeddings(embed(x), embed(y)).numpy() - expected).max() < 1e-8


def test_named_layers_are_the_ones_compared():
    found = Embedder(network(), ["1", "3"], None)(images())
    assert torch.equal(found, Embedder(network(), None, None)(images()))
    assert Embedder(network(), ["3"], None)(images()).shape == (N, 80)
    with pytest.raises(ConfigError, match="layers must be names of layers"):
        Embedder(network(), ["nothing"], None)(images())
    flat = nn.Sequential(Normalize(torch.zeros(3), torch.ones(3)), nn.Flatten(), nn.Linear(192, 4)).double()
    for net, layers in ((flat, None), (network(), ["1", "5"])):  # pixels alone; a linear layer
        with pytest.raises(ConfigError, match="layers must be layers whose output"):
            Embedder(net, layers, None)(images())
    with pytest.raises(ConfigError, match="layers must be at least one name"):
        PPGD(eps=0.1, layers=[])


@pytest.mark.parametrize(
    "name, settings, size, channels",
    [
        ("resnet18", {}, 32, [64, 128, 256, 512]),
        ("resnet50", {"stem": "imagenet"}, 32, [256, 512, 1024, 2048]),
        ("preact_resnet18", {}, 32, [64, 128, 256, 512]),
        ("small_cnn", {}, 16, [16, 32, 64, 64]),
    ],
)
def test_a_networks_stages_are_found_behind_a_normalisation(name, settings, size, channels):
    pytest.importorskip("torchvision")
    with torch.device("meta"):  # shapes alone
        body = MODELS[name](**settings).build(10, (3, size, size))
        net = nn.Sequential(Normalize(torch.zeros(3), torch.ones(3)), body).eval()
    with torch.no_grad(), catch_activations(net, None) as seen:
        net(torch.empty(1, 3, size, size, device="meta"))
    assert [out.shape[1] for out in seen.values()] == channels


def test_alexnet_has_five_layers_by_name():
    with torch.device("meta"):  # shapes alone
        net = MODELS["alexnet_cifar"]().build(10, (3, 32, 32)).eval()
    names = ["features.1", "features.4", "features.7", "features.9", "features.11"]
    with torch.no_grad(), catch_activations(net, names) as seen:
        net(torch.empty(1, 3, 32, 32, device="meta"))
    assert [out.shape[1] for out in seen.values()] == [64, 192, 384, 256, 256]


def test_the_gradient_is_finite_at_the_image_itself():
    x, embed = images(), Embedder(network(), None, None)
    z = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(compare_embeddings(embed(z), embed(x)).sum(), z)
    assert torch.isfinite(gradient).all() and compare_embeddings(embed(x), embed(x)).abs().max() < 1e-9


@pytest.mark.case("E1")
@pytest.mark.parametrize("eps", [0.0, 0.02, 0.1, 0.5])
def test_the_projection_ends_inside_and_leaves_those_inside_alone(eps):
    x, embed = images(), Embedder(network(), None, None)
    clean = embed(x)
    far = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)).clamp(0, 1)
    far[1] = x[1]  # inside already
    near = project(lambda z: compare_embeddings(embed(z), clean), x, far, eps)
    assert compare_embeddings(embed(near), clean).max() <= eps + 1e-9
    assert torch.equal(near[1], x[1]) and near.min() >= 0 and near.max() <= 1
    outside = compare_embeddings(embed(far), clean) > eps
    assert eps == 0 or (compare_embeddings(embed(near), clean)[outside] > 0.5 * eps).all()  # no more than it takes


def test_each_image_is_projected_alone():
    x, embed = images(), Embedder(network(), None, None)
    far = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)).clamp(0, 1)
    whole = project(lambda z: compare_embeddings(embed(z), embed(x)), x, far, 0.05)
    for i in range(N):
        own = x[i : i + 1]
        alone = project(lambda z, own=own: compare_embeddings(embed(z), embed(own)), own, far[i : i + 1], 0.05)
        assert torch.allclose(alone, whole[i : i + 1], atol=1e-9)


class Smooth(nn.Module):
    """Embeddings whose Jacobian is known: a linear map of the pixels."""

    def __init__(self, width=12, pixels=6):
        super().__init__()
        self.map = torch.randn(width, pixels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_steepest_direction_solves_the_normal_equations():
    """g^T v is largest at ||J v|| = 1 for v = (J^T J)^-1 g, scaled; on so few pixels 5 steps of CG come close."""
    j = Smooth(pixels=4).map[:, :4]
    push = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.zeros(3, 1, 2, 2, dtype=torch.float64)

    class Seen:
        def __init__(self, size):
            self.size = size

        def measure(self, z):
            return self.size * (push * z.flatten(1)).sum(1), self.embed(z)

        def embed(self, z):
            return z.flatten(1) @ j.T

    got, margins = find_steepest_step(Seen(0.1), x)
    got = got.flatten(1)
    assert torch.equal(margins, torch.zeros(3, dtype=torch.float64))
    for own, g in zip(got, push, strict=True):
        exact = torch.linalg.solve(j.T @ j, g)
        exact = exact / (j @ exact).norm()
        assert torch.allclose(own, exact, atol=1e-6)
    flat, _ = find_steepest_step(Seen(0.0), x)
    assert torch.equal(flat, torch.zeros_like(x))


def run(attack, model, x, y, network=None):
    ledger = CostLedger()
    own = attack.by(network) if network is not None else attack
    own = bind_attack(own, model, ledger.count_passes)
    with ledger.phase("attack"):
        forward = ledger.count_passes(model)
        x_adv = own(
            lambda z: compute_margin_loss(forward(z), y),
            x,
            generator=Stream(seed=0, purpose="a").at(torch.arange(len(x))),
        )
    return x_adv, own, ledger.passes["attack"]


@pytest.mark.case("E1")
@pytest.mark.parametrize("attack", [PPGD(eps=0.2, steps=5), LPA(eps=0.2, steps=5), FastLPA(eps=0.2, project=True)])
def test_the_bound_holds_by_the_slow_distance(attack):
    x, model = images(), network()
    x_adv, _, _ = run(attack, model, x, model(x).argmax(1))
    distances = [slow_distance(a, b) for a, b in zip(x, x_adv, strict=True)]
    assert max(distances) <= 0.2 * 1.01 and max(distances) > 0.1


@pytest.mark.case("E5")
@pytest.mark.parametrize(
    "attack", [PPGD(eps=0.3, steps=5), LPA(eps=0.3, steps=6, rounds=2), FastLPA(eps=0.3, project=True)]
)
def test_more_room_never_leaves_more_right(attack):
    x, model = images(n=20), network()
    model[-1].bias -= model(x).mean(0)  # so that it does not say one thing of all
    y = model(x).argmax(1)
    stands = []
    for eps in (0.0005, 0.002, 0.005, 0.02):
        x_adv, _, _ = run(attack.with_settings(eps=eps), model, x, y)
        stands.append(int((model(x_adv).argmax(1) == y).sum()))
    assert stands[0] > stands[-1] and all(b <= a + 1 for a, b in zip(stands, stands[1:], strict=False))


def other_network():
    other = network()
    with torch.no_grad():
        other[0].weight.mul_(-1)
    return other


def test_an_external_network_measures_the_distance():
    x, model = images(), network()
    y, other = model(x).argmax(1), other_network().train().requires_grad_(True)
    own, _, _ = run(FastLPA(eps=0.2, steps=3), model, x, y)
    external, attack, _ = run(FastLPA(eps=0.2, steps=3), model, x, y, network=other)
    assert not torch.equal(own, external) and attack.describe()["network"] == "Sequential"
    assert attack.with_settings(eps=0.1).describe()["network"] == "Sequential"
    assert other.training and all(p.requires_grad for p in other.parameters())  # a copy is what was frozen
    with pytest.raises(ConfigError, match="network must be loaded first"):
        bind_attack(FastLPA(eps=0.2, network="runs/x"), model, CostLedger().count_passes)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "attack",
    [FastLPA(eps=0.2, steps=3), FastLPA(eps=0.2, steps=3, project=True), LPA(eps=0.2, steps=3), PPGD(eps=0.2, steps=3)],
)
def test_passes_are_foretold_the_external_networks_too(attack, external):
    x, model = images(), network()
    own = attack.by(other_network()) if external else attack
    _, _, took = run(own, model, x, model(x).argmax(1))
    forward, backward = own.passes()
    if attack.training_only:
        assert took == {"forward": N * forward, "backward": N * backward}
        assert (forward, backward) == ((2 + 3 * 3, 2 * 3) if external else (1 + 2 * 3, 3))
    else:
        assert took["forward"] <= N * forward and took["backward"] <= N * backward


@pytest.mark.parametrize("kind", [PPGD, LPA])
def test_an_image_that_is_lost_inside_the_ball_stays_lost(kind):
    """More steps with the same seed never help the defence: the misclassified stand still."""
    x, model = images(n=40), network()
    model[-1].bias -= model(x).mean(0)
    y = model(x).argmax(1)
    attack = kind(eps=0.006, steps=8)
    own = bind_attack(attack, model, CostLedger().count_passes)
    lost = torch.zeros(40, dtype=torch.bool)
    clean = Embedder(model, None)(x)

    def watching(z):
        nonlocal lost
        with torch.no_grad():
            inside = compare_embeddings(Embedder(model, None)(z), clean) <= attack.eps
        logits = model(z)  # the last pass: the attack reads its activations
        lost |= inside & (logits.argmax(1) != y)
        return compute_margin_loss(logits, y)

    x_adv = own(watching, x, generator=Stream(seed=0, purpose="a").at(torch.arange(40)))
    ended = model(x_adv).argmax(1) != y
    # probes of a direction also ask; what an iterate inside lost is lost at the end
    assert ended.any() and not ended.all() and int((lost & ~ended).sum()) <= int(0.1 * int(lost.sum()))


@pytest.mark.case("E1")
def test_a_distance_that_is_not_finite_is_not_inside_and_no_gradient_makes_an_image_nan():
    x = images()
    far = (x + 0.1).clamp(0, 1)
    got = project(lambda z: z.flatten(1).sum(1) * float("nan"), x, far, 0.1)
    assert torch.equal(got, x)  # nothing on the way is known to be inside

    class Overflows(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, z):
            return self.net(z) * torch.tensor([float("inf"), 1, 1, 1], dtype=z.dtype)

    for attack in (PPGD(eps=0.2, steps=2), LPA(eps=0.2, steps=2), FastLPA(eps=0.2, steps=2)):
        x_adv, _, _ = run(attack, Overflows(), x, torch.zeros(N).long())
        assert torch.isfinite(x_adv).all()


@pytest.mark.parametrize("attack", [PPGD(eps=0.3, steps=2), LPA(eps=0.3, steps=2), FastLPA(eps=0.3, steps=2)])
def test_only_images_that_are_right_are_attacked_on_request(attack):
    x, model = images(), network()
    y = model(x).argmax(1)
    y[2] = (y[2] + 1) % 4
    x_adv, _, _ = run(attack.with_settings(correct_only=True), model, x, y)
    still = [torch.equal(a, b) for a, b in zip(x, x_adv, strict=True)]
    assert still == [False, False, True, False]


def test_an_attack_that_is_not_bound_says_so():
    with pytest.raises(ConfigError, match="bound to a model"):
        FastLPA(eps=0.2)(
            lambda z: z.sum((1, 2, 3)), images(), generator=Stream(seed=0, purpose="a").at(torch.arange(N))
        )
