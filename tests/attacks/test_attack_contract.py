"""What every registered PGD promises; a new line in ATTACKS is enough to have it tested."""

import pytest
import torch
import torch.nn.functional as F
from examples import build_example
from kernels import by_plain_kernels
from seeds import seeded
from torch import nn

from advcore.attacks import ATTACKS
from advcore.attacks.pgd import PGD
from advcore.cost import CostLedger
from advcore.objectives.base import compute_margin_loss
from advcore.objectives.trades import measure_divergence
from advcore.rng import Stream
from advcore.runtime.borrow import borrow

ROUNDING = {"linf": 6e-8}
"""How far outside its ball float32 may end, measured in float64; elsewhere 1e-6 of eps."""

SHAPE = (3, 8, 8)
EVERY = pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if issubclass(kind, PGD)])


def build(name, **changes):
    return build_example(ATTACKS[name], **{"steps": 5, **changes})


def stream(indices, seed=0):
    return Stream(seed=seed, purpose="attack").at(indices)


def images(size=6, shape=SHAPE, dtype=torch.float32):
    """Some pixels at the ends of the range, some between."""
    x = torch.rand(size, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (1.6 * x - 0.3).clamp(0, 1).to(dtype)


def network(dtype=torch.float32, shape=SHAPE):
    with seeded():
        body = nn.Sequential(nn.Conv2d(shape[0], 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten())
        features = body(torch.zeros(2, *shape)).shape[1]
        return nn.Sequential(*body, nn.Linear(features, 4)).to(dtype).eval()


def cross_entropy(model, y):
    return lambda x: F.cross_entropy(model(x), y, reduction="none")


def labels(size=6):
    return torch.arange(size) % 4


def bounded(attack, x, x_adv):
    """Finite, in [0, 1], and in the ball that the attack itself measures."""
    assert x_adv.shape == x.shape and not x_adv.requires_grad
    assert torch.isfinite(x_adv).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    excess = attack.excess(x, x_adv)
    assert excess.shape == (len(x),) and excess.dtype == torch.float64
    assert attack.training_only or float(excess.max()) <= ROUNDING.get(attack.norm, 1e-6 * attack.eps)


@pytest.mark.case("E1")
@EVERY
@pytest.mark.parametrize("start", ["uniform", "gaussian", "clean"])
@pytest.mark.parametrize("scale", [0.01, 1, 10])
@by_plain_kernels
def test_stays_in_its_ball_and_in_unit_range(name, start, scale):
    attack = build(name, eps=build(name).eps * scale, start=start)
    x, model = images(), network()
    bounded(attack, x, attack(cross_entropy(model, labels()), x, generator=stream(torch.arange(6))))


@pytest.mark.case("E1")
@EVERY
@pytest.mark.parametrize("size", [1, 64, 224])
def test_stays_in_its_ball_where_all_pixels_round_alike(name, size):
    level = torch.tensor([0.05, 0.5, 0.95]).view(3, 1, 1, 1)
    x = level.expand(3, 3, size, size).contiguous()
    for sign in (1, -1):
        attack = build(name, start="clean", steps=2)
        x_adv = attack(lambda z, sign=sign: sign * z.flatten(1).sum(1), x, generator=stream(torch.arange(3)))
        bounded(attack, x, x_adv)
        moved = (x_adv - x) * sign
        assert bool((moved >= 0).all() and (moved.flatten(1).amax(1) > 0).all())  # it did move
        assert name == "l1_pgd" or bool((moved > 0).all())  # whose steps are sparse


@pytest.mark.case("E1")
@EVERY
@pytest.mark.parametrize("level, size", [(0.0, 512), (0.5, 224)])
def test_stays_in_its_ball_on_large_images(name, level, size):
    """Many pixels, each with its own gradient; around black, floats are so fine that a wrong norm shows."""
    x = torch.full((1, 3, size, size), level)
    push = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).abs()
    attack = build(name, start="clean", steps=2)
    bounded(attack, x, attack(lambda z: (push * z).flatten(1).sum(1), x, generator=stream(torch.arange(1))))


@pytest.mark.case("E1")
@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stays_in_its_ball_under_autocast_and_for_half_precision_images(name, dtype):
    attack, model = build(name), network()

    def loss(x):
        with torch.autocast("cpu", dtype=dtype):
            return F.cross_entropy(model(x.float()).float(), labels(), reduction="none")

    for x in (images(), images(dtype=dtype)):
        x_adv = attack(loss, x, generator=stream(torch.arange(6)))
        assert x_adv.dtype == torch.float32  # half precision cannot hold a point of the ball
        bounded(attack, x, x_adv)


@EVERY
def test_the_loss_rises(name):
    x, y, model = images(32), labels(32), network()
    loss = cross_entropy(model, y)
    with torch.no_grad():
        before = loss(x)
        after = loss(build(name)(loss, x, generator=stream(torch.arange(32))))
    assert float((after > before).double().mean()) > 0.9 and after.mean() > before.mean()


@pytest.mark.case("E5")
@EVERY
def test_more_loss_in_a_larger_ball(name):
    x, model = images(32), network()
    loss = cross_entropy(model, labels(32))
    small, large = (build(name).scale(fraction)(loss, x, generator=stream(torch.arange(32))) for fraction in (0.3, 1.0))
    with torch.no_grad():
        assert loss(large).mean() > loss(small).mean()


@EVERY
@pytest.mark.parametrize("restarts", [1, 2])
@by_plain_kernels
def test_the_seed_decides_and_the_global_random_state_does_not(name, restarts):
    x, loss = images(), cross_entropy(network(), labels())
    attack = build(name, restarts=restarts)
    torch.manual_seed(1)
    first = attack(loss, x, generator=stream(torch.arange(6)))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, attack(loss, x, generator=stream(torch.arange(6))))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, attack(loss, x, generator=stream(torch.arange(6), seed=1)))


@EVERY
@pytest.mark.parametrize("restarts", [1, 3])
def test_an_example_is_attacked_the_same_in_any_batch(name, restarts):
    x, y, model = images(dtype=torch.float64), labels(), network(torch.float64)
    attack = build(name, restarts=restarts)
    whole = attack(cross_entropy(model, y), x, generator=stream(torch.arange(6)))
    for batch in ([4], [2, 0], [5, 4, 3, 2, 1, 0]):
        i = torch.tensor(batch)
        part = attack(cross_entropy(model, y[i]), x[i], generator=stream(i))
        assert torch.allclose(part, whole[i], atol=1e-10)


@pytest.mark.case("E5")
@EVERY
def test_without_room_the_answer_is_the_clean_image(name):
    x, loss = images(), cross_entropy(network(), labels())
    for attack in (build(name, eps=0.0), build(name, eps=0.0, start="gaussian"), build(name).scale(0.0)):
        assert torch.equal(attack(loss, x, generator=stream(torch.arange(6))), x)


def everything(model):
    """All that borrowing must give back, bit for bit."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    flags = [p.requires_grad for p in model.parameters()], [module.training for module in model.modules()]
    return state, grads, flags


def unchanged(before, after):
    equal = [torch.equal(a, after[0][name]) for name, a in before[0].items()]
    grads = [a is after[1][name] is None or torch.equal(a, after[1][name]) for name, a in before[1].items()]
    return all(equal) and all(grads) and before[2] == after[2]


def used_model():
    """A model as a trainer has it: train mode, one frozen layer, gradients from the last step."""
    model = network().train()
    model[0].weight.requires_grad_(False)
    model[3].eval()
    F.cross_entropy(model(images()), labels()).backward()
    return model


class Stop(Exception):
    pass


@pytest.mark.case("E2")
@EVERY
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fails_at", [None, 1, 3])
def test_model_and_images_come_back_bitwise_also_when_the_loss_raises(name, training, fails_at):
    model, x = used_model(), images()
    before, pixels, calls = everything(model), x.clone(), []

    def loss(z):
        calls.append(1)
        if len(calls) == fails_at:
            raise Stop
        return cross_entropy(model, labels())(z)

    try:
        with borrow(model, training=training):
            build(name)(loss, x, generator=stream(torch.arange(6)))
        assert fails_at is None
    except Stop:
        assert fails_at is not None
    assert unchanged(before, everything(model))
    assert torch.equal(x, pixels) and not x.requires_grad and x.grad is None


@pytest.mark.case("E2")
@EVERY
def test_images_that_ask_for_gradients_get_none(name):
    x = images().requires_grad_(True)
    x_adv = build(name)(cross_entropy(network(), labels()), x, generator=stream(torch.arange(6)))
    assert not x_adv.requires_grad and x.requires_grad and x.grad is None


@pytest.mark.case("F9")
@EVERY
@pytest.mark.parametrize("restarts", [1, 2])
def test_zero_gradients_are_survived(name, restarts):
    attack, x = build(name, restarts=restarts), images()
    flat = {
        "for all": lambda z: 0 * z.flatten(1).sum(1),
        "for one": lambda z: z.flatten(1).sum(1) * (torch.arange(6) != 2),
    }
    for loss in flat.values():
        bounded(attack, x, attack(loss, x, generator=stream(torch.arange(6))))


@pytest.mark.case("F9")
@EVERY
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_gradient_of_any_size_gives_the_same_direction(name, size):
    x = images()
    push = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    attack = build(name, start="clean", steps=1)
    usual, odd = (
        attack(lambda z, s=s: ((push * s) * z).flatten(1).sum(1), x, generator=stream(torch.arange(6)))
        for s in (1.0, size)
    )
    bounded(attack, x, odd)
    assert torch.allclose(odd, usual, atol=1e-6) and not torch.equal(odd, x)


@pytest.mark.case("F9")
@EVERY
@pytest.mark.parametrize("gap", [200.0, 1000.0])
@pytest.mark.parametrize("climbed", ["cross-entropy", "divergence", "margin"])
def test_logit_gaps_of_any_size_are_survived(name, gap, climbed):
    x, y = images(), torch.zeros(6, dtype=torch.long)
    push = torch.randn(2, x[0].numel(), generator=torch.Generator().manual_seed(0))

    def logits(z):
        return torch.stack([z.new_full((len(z),), gap), z.new_zeros(len(z))], 1) + z.flatten(1) @ push.T

    clean = logits(x)
    loss = {
        "cross-entropy": lambda z: F.cross_entropy(logits(z), y, reduction="none"),
        "divergence": lambda z: measure_divergence(clean, logits(z)),
        "margin": lambda z: compute_margin_loss(logits(z), y),
    }[climbed]
    attack = build(name, restarts=2)
    x_adv = attack(loss, x, generator=stream(torch.arange(6)))
    bounded(attack, x, x_adv)
    assert torch.isfinite(loss(x_adv)).all()


@EVERY
@pytest.mark.parametrize("restarts", [1, 3])
def test_passes_are_what_the_attack_takes(name, restarts):
    attack, model, ledger = build(name, restarts=restarts), network(), CostLedger()
    with ledger.phase("attack"):
        attack(cross_entropy(ledger.count_passes(model), labels()), images(), generator=stream(torch.arange(6)))
    forward, backward = attack.passes()
    assert ledger.passes["attack"] == {"forward": 6 * forward, "backward": 6 * backward}


@pytest.mark.case("E9")
@EVERY
def test_an_attack_says_how_its_number_is_made(name):
    attack = build(name, restarts=2)
    told = attack.describe()
    assert told["norm"] == attack.norm and told["eps"] == attack.eps
    assert told["steps"] == 5 and told["restarts"] == 2 and told["step_size"] > 0


@EVERY
def test_excess_is_below_zero_inside_and_above_outside(name):
    attack, x = build(name), torch.full((2, *SHAPE), 0.5)
    assert (attack.excess(x, x) < 0).all()
    x_adv = x.clone()
    x_adv[1, 0, 0, 0] += 2 * attack.eps
    excess = attack.excess(x, x_adv)
    assert excess[0] < 0 < excess[1]
