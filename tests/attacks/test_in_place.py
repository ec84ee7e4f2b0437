"""Writing in place changes no bit of attacks and draws, and no tensor of a caller."""

import math

import pytest
import torch

from advcore.adversary import perturb
from advcore.attacks import ATTACKS, LinfPGD
from advcore.attacks.base import take_input_gradient
from advcore.attacks.geometry import LP
from advcore.attacks.memory import Memory, Perturbations
from advcore.cost import CostLedger
from advcore.objectives import Pgd
from advcore.rng import _GOLDEN, _MIX_1, _MIX_2, Stream
from advcore.runtime import precision as speed

EPS = {"linf": (8 / 255, 2 / 255), "l2": (0.5, 0.1), "l1": (6.0, 1.0)}
DTYPES = [torch.float32, torch.float64]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def flat_norm(delta):
    flat = delta.flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    norm = largest * (flat / largest).norm(dim=1, keepdim=True, dtype=torch.float64).to(flat)
    return norm.view(-1, *[1] * (delta.ndim - 1))


def unit(direction):
    norm = flat_norm(direction)
    return torch.where(norm > 0, direction / norm, torch.zeros_like(direction))


def powers(x, x_adv, power):
    return (x_adv.double() - x.double()).flatten(1).abs() ** power


def settle(x_adv, moved, x, eps, power):
    nearer = torch.nextafter(moved, x)
    before, after = (powers(x, z, power) for z in (moved, nearer))
    gain = ((before - after) * 2.0**60).long()
    need = ((before.sum(1, keepdim=True) - eps**power * (1 - 1e-14)).clamp(0, 1) * 2.0**60).long()
    moved = torch.where((gain.cumsum(1) - gain < need).view_as(x), nearer, moved).clamp(0, 1)
    flat = x_adv.flatten(1)
    inside = (powers(x, x_adv, power).sum(1) <= eps**power) & (flat.amin(1) >= 0) & (flat.amax(1) <= 1)
    return torch.where(inside.view(-1, *[1] * (x.ndim - 1)), x_adv, moved)


def linf_project(x_adv, x, eps):
    return (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1)


def l2_project(x_adv, x, eps):
    delta = x_adv - x
    norm = flat_norm(delta)
    moved = x + delta * torch.where(norm > eps, eps / norm, torch.ones_like(norm))
    return settle(x_adv, moved, x, eps, 2)


def linf_start(x, eps, generator):
    return x + eps * (2 * generator.uniform(tuple(x.shape)).to(x) - 1)


def l2_start(x, eps, generator):
    radius = generator.child("radius").uniform((len(x), 1)).to(x) ** (1 / x[0].numel())
    return x + eps * radius.view(-1, 1, 1, 1) * unit(generator.normal(tuple(x.shape)).to(x))


TWINS = {
    "linf": (linf_start, lambda x_adv, g, size: x_adv + size * g.sign(), linf_project),
    "l2": (l2_start, lambda x_adv, g, size: x_adv + size * unit(g), l2_project),
}
"""Start, step and projection, each operation into a new tensor."""


def images(kind, dtype, layout):
    x = torch.rand(9, 3, 8, 8, dtype=torch.float64)
    x = {"random": x, "black and white": (x > 0.5).double(), "grey": torch.full_like(x, 0.5)}[kind]
    return x.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def gradients(x):
    g = torch.randn(x.shape, dtype=x.dtype).contiguous(memory_format=torch.channels_last)
    g[0], g[1] = 0.0, g[1] * 1e-30
    return g if x.is_contiguous(memory_format=torch.channels_last) else g.contiguous()


def same(one, other):
    return one.dtype == other.dtype and torch.equal(one, other) and torch.equal(one.signbit(), other.signbit())


@pytest.mark.parametrize("kind", ["random", "black and white", "grey"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", TWINS)
def test_start_step_and_projection_are_those_of_the_plain_arithmetic(norm, dtype, layout, kind):
    (eps, size), geometry, (start, step, project) = EPS[norm], LP[norm], TWINS[norm]
    x, stream = images(kind, dtype, layout), Stream(seed=3, purpose="x").at(torch.arange(9))
    one, other = geometry.start(x, eps, stream), start(x, eps, stream)
    assert same(one, other)
    for _ in range(5):
        one, other = geometry.project(one, x, eps), project(other, x, eps)
        assert same(one, other)
        g = gradients(x)
        one, other = geometry.step(one, g, size), step(other, g, size)
        assert same(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", LP)
def test_no_function_of_a_ball_writes_into_its_arguments(norm, dtype, layout):
    (eps, size), geometry, x = EPS[norm], LP[norm], images("random", dtype, layout)
    x_adv, g = (x + 0.1 * torch.randn_like(x)), gradients(x)
    before = [t.clone() for t in (x, x_adv, g)]
    results = [geometry.project(x_adv, x, eps), geometry.step(x_adv, g, size), geometry.project(x, x, eps)]
    results.append(geometry.start(x, eps, Stream(seed=0, purpose="x").at(torch.arange(9))))
    for result in results:
        result.fill_(7)  # nor does a result share memory with one
    assert all(torch.equal(t, old) for t, old in zip((x, x_adv, g), before, strict=True))


def mixed(z):
    for bits, factor in ((30, _MIX_1), (27, _MIX_2)):
        z = (z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))) * factor
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def plain_bits(stream, count):
    begin = mixed(mixed(stream.indices.to(torch.int64) * _GOLDEN + stream.key))
    return mixed(begin[:, None] + torch.arange(1, count + 1, dtype=torch.int64) * _GOLDEN)


@pytest.mark.parametrize("seed", range(4))
def test_draws_are_those_of_the_plain_arithmetic(seed):
    indices = torch.tensor([0, 5, 1 << 40, -3, 7])
    stream, shape = Stream(seed=seed, purpose="x").at(indices), (5, 3, 4, 4)
    assert torch.equal(stream.bits(77), plain_bits(stream, 77))
    low = (plain_bits(stream, 96) >> 40) & ((1 << 24) - 1)
    radius = (-2 * torch.log((low[:, :48].float() + 1) * 2.0**-24)).sqrt()
    normal = radius * torch.cos(low[:, 48:].float() * (2 * math.pi * 2.0**-24))
    uniform = ((plain_bits(stream, 48) >> 40) & ((1 << 24) - 1)).float() * 2.0**-24
    assert torch.equal(stream.uniform(shape), uniform.view(shape))
    assert torch.equal(stream.normal(shape), normal.view(shape))
    assert indices.tolist() == [0, 5, 1 << 40, -3, 7]


def climbed(loss, x, start, norm, steps):
    """PGD by the plain arithmetic."""
    eps, size = EPS[norm]
    _, step, project = TWINS[norm]
    x_adv = project(start, x, eps)
    for _ in range(steps):
        x_adv = project(step(x_adv, take_input_gradient(loss, x_adv)[1], size), x, eps)
    return x_adv


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", TWINS)
def test_an_attack_is_that_of_the_plain_arithmetic_and_what_a_loss_keeps_stays(norm, dtype):
    """Also from several starts; the loss holds on to all that it was given."""
    eps, size = EPS[norm]
    x, stream = images("random", dtype, "contiguous"), Stream(seed=1, purpose="x").at(torch.arange(9))
    weights = torch.randn(x.shape, dtype=dtype)
    given, copies = [], []

    def loss(z):
        given.append(z)
        copies.append(z.detach().clone())
        return (z * weights).flatten(1).sum(1).sin()

    attack = ATTACKS[f"{norm}_pgd"](eps=eps, step_size=size, steps=4, restarts=2)
    x_adv = attack(loss, x, generator=stream)
    assert all(torch.equal(z, copy) for z, copy in zip(given, copies, strict=True))
    starts = [TWINS[norm][0](x, eps, stream.child("restart", r)) for r in range(2)]
    ends = [climbed(loss, x, start, norm, 4) for start in starts]
    best = torch.stack([loss(end) for end in ends]).argmax(0)
    assert torch.equal(x_adv, torch.stack(ends)[best, torch.arange(9)])


@pytest.mark.parametrize("norm", TWINS)
def test_an_attack_from_a_remembered_start_is_that_of_the_plain_arithmetic(norm):
    eps, size = EPS[norm]
    x, stream = images("random", torch.float32, "contiguous"), Stream(seed=1, purpose="x").at(torch.arange(9))
    memory = Perturbations(Memory(), 9, (3, 8, 8), torch.device("cpu"))
    memory.begin(torch.arange(9), None)
    memory.keep(x, LP[norm].start(x, eps, stream), torch.arange(9))
    memory.begin(torch.arange(9), None)
    held = memory.values.clone()
    weights = torch.randn(x.shape)

    def loss(z):
        return (z * weights).flatten(1).sum(1)

    attack = ATTACKS[f"{norm}_pgd"](eps=eps, step_size=size, steps=3, start="remembered").with_memory(memory)
    start = memory.recall(x, torch.arange(9), lambda: pytest.fail("all is known"))
    assert torch.equal(attack(loss, x, generator=stream), climbed(loss, x, start, norm, 3))
    assert torch.equal(memory.values.nan_to_num(), held.nan_to_num())
    begun = attack.begin(x, stream)
    assert torch.equal(attack.rise(loss, x, begun), climbed(loss, x, start, norm, 3))


@pytest.mark.parametrize("norm", LP)
def test_images_of_any_layout_are_attacked_alike_and_stay_as_they_are(norm):
    """`perturb` brings images of an elementwise attack into the layout of the passes, in a copy."""
    eps, size = EPS[norm]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 4)).eval()
    x, y = images("random", torch.float32, "contiguous"), torch.arange(9) % 4
    before, strides, ledger = x.clone(), x.stride(), CostLedger()
    stream, attack = Stream(seed=1, purpose="x").at(torch.arange(9)), ATTACKS[f"{norm}_pgd"](eps=eps, step_size=size)
    ends = []
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        with speed.Speed(channels_last=True).resolve(torch.device("cpu")).activate(), ledger.phase("attack"):
            ends.append(perturb(ledger.count_passes(net), Pgd(), attack, given, y, generator=stream))
    assert torch.equal(*ends)
    assert torch.equal(x, before) and x.stride() == strides
    assert ends[0].is_contiguous(memory_format=torch.channels_last) == (norm == "linf")


def test_a_linf_step_makes_one_tensor_and_its_projection_another():
    """The rest is done in place: each pass over memory less is a pass over all images of a batch."""

    class Made(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.__name__.split(".")[0])
            return function(*args, **(kwargs or {}))

    names, x = [], images("random", torch.float32, "contiguous")
    g = gradients(x)
    with Made():
        LP["linf"].project(LP["linf"].step(x, g, 0.1), x, LinfPGD(eps=0.1).eps)
    assert [name for name in names if not name.endswith("_")] == ["sign", "sub"]
