"""What every registered attack promises, on a model it is bound to; its class's `example` is what is tested."""

import dataclasses
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from examples import build_example
from kernels import by_plain_kernels, plain_kernels
from seeds import seeded
from torch import nn

from advcore.adversary import bind_attack, perturb
from advcore.attacks import ATTACKS
from advcore.attacks.base import Iterated
from advcore.cost import CostLedger
from advcore.errors import ConfigError
from advcore.objectives import OBJECTIVES
from advcore.objectives.base import choose_ascent
from advcore.objectives.standard import Pgd
from advcore.rng import Stream
from advcore.runtime.borrow import borrow
from advcore.testing.attacks import assert_bounded
from advcore.types import find_name

N, SHAPE = 6, (3, 16, 16)
EVERY = pytest.mark.parametrize("name", ATTACKS)
LABELS = torch.arange(N) % 4


def build(name, **changes):
    return build_example(ATTACKS[name], **changes)


def stream(indices=None, seed=0):
    return Stream(seed=seed, purpose="attack").at(torch.arange(N) if indices is None else indices)


def images(dtype=torch.float32):
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (1.4 * x - 0.2).clamp(0, 1).to(dtype)


def network(dtype=torch.float32):
    with seeded():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(),
            nn.Linear(128, 4),
        ).to(dtype).eval()  # fmt: skip


def attacked(attack, model, x, y=LABELS, ledger=None, generator=None, forward=None):
    """x_adv, and the attack as it was bound."""
    ledger = ledger or CostLedger()
    with ledger.phase("attack"), borrow(model):
        own = bind_attack(attack, model, ledger.count_passes)
        loss = choose_ascent(Pgd(), own.climbs, y, None)
        counted = ledger.count_passes(forward or model)
        return own(lambda z: loss(counted(z)), x, generator=generator or stream()), own


@EVERY
def test_the_example_of_an_attack_is_small(name):
    assert build(name).describe()["steps"] <= 3 and build(name).eps > 0


@pytest.mark.case("E1")
@EVERY
@by_plain_kernels
def test_stays_in_its_ball_and_raises_the_margin(name):
    x, model = images(), network()
    x_adv, attack = attacked(build(name), model, x)
    assert_bounded(attack, x, x_adv)
    assert not torch.equal(x_adv, x)
    with torch.no_grad():
        rises = [F.cross_entropy(model(z), LABELS, reduction="none") for z in (x, x_adv)]
    assert rises[1].mean() > rises[0].mean()


def pixels(values):
    """Images (N, ...) whose pixels are drawn from `values`."""
    drawn = torch.randint(len(values), (N, *SHAPE), generator=torch.Generator().manual_seed(2))
    return torch.tensor(values)[drawn]


EXTREMES = {
    "black": torch.zeros(N, *SHAPE),
    "white": torch.ones(N, *SHAPE),
    "one level from the ends": pixels([0.0, 1 / 255, 254 / 255, 1.0]),
    "all levels": pixels([level / 255 for level in range(256)]),
    "one image": pixels([level / 255 for level in range(256)])[:1],
    "float16": pixels([level / 255 for level in range(256)]).half(),
}
WHOLE = {"linf": 1.0, "l2": math.prod(SHAPE) ** 0.5, "l1": float(math.prod(SHAPE)), "lpips": 2.0}
"""A ball that holds every image."""


exact_network = functools.cache(functools.partial(network, torch.float64))


def measurable(attack):
    """The attack, its distance measured in float64 whatever it saw."""
    return bind_attack(attack, exact_network(), CostLedger().count_passes)


@pytest.mark.case("E1")
@EVERY
@pytest.mark.parametrize(
    ("key", "dtype"),
    [*((key, None) for key in EXTREMES), ("one level from the ends", torch.bfloat16), ("one image", torch.float16)],
)
def test_stays_in_its_ball_from_any_image_under_any_autocast(name, key, dtype):
    x, model = EXTREMES[key], network()
    y, generator = LABELS[: len(x)], stream(torch.arange(len(x)))
    known = {"restarts": 2} if issubclass(ATTACKS[name], Iterated) else {}

    def forward(z):
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return model(z.float()).float()

    for changes in (known, {"eps": WHOLE.get(ATTACKS[name].norm, 1.0)}):
        attack = build(name, **changes)
        with plain_kernels(dtype is None):
            x_adv, _ = attacked(attack, model, x, y, generator=generator, forward=forward)
        assert_bounded(measurable(attack), x.double(), x_adv.double())


class Broken(torch.autograd.Function):
    """Images as they are, a gradient that is not."""

    @staticmethod
    def forward(context, x, bad):
        context.bad = bad
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        gradient = gradient.clone()
        gradient[1, 0, 3, 3], gradient[2], gradient[3, 1] = context.bad, context.bad, -context.bad
        return gradient, None


@functools.cache
def undisturbed(name):
    """What the attack finds where every gradient is as it should be."""
    return attacked(build(name), network(), images())[0]


@pytest.mark.case("E1", "F9")
@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38, 1e-45])
def test_a_gradient_that_cannot_be_meant_leaves_the_images_finite_and_the_others_alone(name, bad):
    x, model = images(), network()
    x_adv, attack = attacked(build(name), model, x, forward=lambda z: model(Broken.apply(z, bad)))
    assert_bounded(attack, x, x_adv)
    assert torch.equal(x_adv[[0, 4, 5]], undisturbed(name)[[0, 4, 5]])


def whole_numbers(z):
    return (z * 255).to(torch.uint8).float() / 255


@pytest.mark.case("E1", "F9")
@EVERY
@pytest.mark.parametrize("before", [whole_numbers, torch.Tensor.detach], ids=["whole numbers", "detached"])
@by_plain_kernels
def test_a_model_that_no_gradient_leads_through_is_attacked_all_the_same(name, before):
    x, model = images(), nn.Sequential(network())
    model.register_forward_pre_hook(lambda module, args: (before(args[0]),))
    x_adv, attack = attacked(build(name), model, x)
    assert_bounded(attack, x, x_adv)


@pytest.mark.case("E5")
@EVERY
@by_plain_kernels
def test_without_room_the_answer_is_the_clean_image(name):
    x = images()
    x_adv, attack = attacked(build(name, eps=0.0), network(), x)
    assert attack.training_only or torch.equal(x_adv, x)


@pytest.mark.case("E2")
@EVERY
@pytest.mark.parametrize("training", [False, True])
@by_plain_kernels
def test_the_model_and_the_images_come_back_bitwise(name, training):
    model, x = network().train(training), images()
    F.cross_entropy(model(x), LABELS).backward()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    pixels, hooks = x.clone(), [len(m._forward_hooks) for m in model.modules()]
    attacked(build(name), model, x)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(g, p.grad) and p.requires_grad for g, p in zip(grads, model.parameters(), strict=True))
    assert all(module.training == training for module in model.modules())
    assert torch.equal(x, pixels) and hooks == [len(m._forward_hooks) for m in model.modules()]


@EVERY
@by_plain_kernels
def test_passes_are_what_the_attack_takes_or_the_most(name):
    ledger = CostLedger()
    attack = build(name)
    attacked(attack, network(), images(), ledger=ledger)
    forward, backward = attack.passes()
    took = ledger.passes["attack"]
    if attack.norm == "lpips" and not attack.training_only:
        assert 0 < took["forward"] <= N * forward and 0 < took["backward"] <= N * backward
    else:
        assert took == {"forward": N * forward, "backward": N * backward}


@pytest.mark.case("E9")
@EVERY
def test_an_attack_says_how_its_number_is_made(name):
    attack = build(name)
    told = attack.describe()
    assert told["norm"] == attack.norm and told["eps"] == attack.eps and told["step_size"] > 0
    assert told["steps"] >= 1 and told["restarts"] == 1
    assert attack.scale(0.5).eps == attack.eps / 2


@pytest.mark.case("E1")
@EVERY
@pytest.mark.parametrize("objective", ["pgd", "trades"])
@by_plain_kernels
def test_every_objective_can_be_attacked(name, objective):
    model, x, ledger = network(), images(), CostLedger()
    with ledger.phase("attack"), borrow(model):
        attack = bind_attack(build(name), model, ledger.count_passes)
        x_adv = perturb(ledger.count_passes(model), OBJECTIVES[objective](), attack, x, LABELS, generator=stream())
    assert_bounded(attack, x, x_adv)


@EVERY
@pytest.mark.parametrize("eps", [-0.1, float("nan"), 1e30, "a", None])
def test_a_radius_that_cannot_be_meant_is_one_line(name, eps):
    with pytest.raises(ConfigError, match="eps must be a number") as caught:
        build(name, eps=eps)
    assert len(caught.value.lines) == 1


class Sharp(nn.Module):
    """Logits with a gap of a given size, or none and no gradient either."""

    def __init__(self, gap):
        super().__init__()
        self.net, self.gap = network(), gap

    def forward(self, x):
        logits = self.net(x)
        return self.gap * logits / logits.detach().abs().amax() if self.gap else 0 * logits


@pytest.mark.case("F9")
@EVERY
@pytest.mark.parametrize("gap", [0.0, 200.0, 1000.0])
@by_plain_kernels
def test_logit_gaps_of_any_size_and_zero_gradients_are_survived(name, gap):
    x, model = images(), Sharp(gap)
    x_adv, attack = attacked(build(name), model, x)
    assert_bounded(attack, x, x_adv)


CLIMBS = [(name, objective) for name, kind in ATTACKS.items() if kind.climbs == "own" for objective in OBJECTIVES]


@pytest.mark.case("F9", "E1")
@pytest.mark.parametrize(("name", "objective"), CLIMBS)
@pytest.mark.parametrize("gap", [0.0, 200.0, 1000.0])
@by_plain_kernels
def test_what_an_objective_lets_climb_is_survived_at_any_gap(name, objective, gap):
    """Every label there is: right with certainty, wrong with certainty, and between."""
    model, ledger = Sharp(gap), CostLedger()
    x = images()[:1].expand(N, *SHAPE).contiguous()
    with ledger.phase("attack"), borrow(model):
        attack = bind_attack(build(name), model, ledger.count_passes)
        x_adv = perturb(ledger.count_passes(model), OBJECTIVES[objective](), attack, x, LABELS, generator=stream())
    assert_bounded(attack, x, x_adv)


class Fails(nn.Module):
    """Raises at its third call."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = network(), 0

    def forward(self, x):
        self.calls += int(not bool((x == 0.5).all()))  # grey images are those on which operations are counted
        if self.calls == 3:
            raise KeyError("third")
        return self.net(x)


@pytest.mark.case("E2")
@EVERY
@by_plain_kernels
def test_a_model_that_raises_comes_back_too(name):
    model = Fails()
    if name in ("n_fgsm", "fgsm_mep"):
        model.calls = 2
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(KeyError):
        attacked(build(name), model, images())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.gpu
@EVERY
def test_on_a_gpu_it_stays_in_its_ball_and_raises_the_loss(name):
    device = torch.device("cuda")
    x, y, model = images().to(device), LABELS.to(device), network().to(device)
    generator = stream(torch.arange(N, device=device))
    x_adv, attack = attacked(build(name), model, x, y, generator=generator)
    assert x_adv.device.type == "cuda"
    assert_bounded(attack, x, x_adv)
    with torch.no_grad():
        before, after = (F.cross_entropy(model(z), y) for z in (x, x_adv))
    assert after > before


@EVERY
def test_what_an_attack_is_bound_to_is_part_of_a_value_and_no_setting(name):
    """Nothing is written into the attack that is bound, and the bound one prints, and is named, like it."""
    attack, model = build(name), network()
    before = dict(vars(attack))
    bound = bind_attack(attack, model, CostLedger().count_passes)
    assert vars(attack) == before and repr(bound) == repr(attack) and find_name(ATTACKS, bound) == name
    assert set(vars(bound)) == {field.name for field in dataclasses.fields(bound)}
    other = bound.with_settings(eps=attack.eps / 2)
    assert other.describe() == attack.scale(0.5).describe() | {"step_size": other.describe()["step_size"]}
    assert {key: value for key, value in vars(other).items() if key not in before} == {
        key: value for key, value in vars(bound).items() if key not in before
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        bound.eps = 1.0


@EVERY
def test_methods_of_the_last_release_warn_and_do_as_the_new_ones(name):
    attack = build(name)
    for old, new, argument in (("scaled", "scale", 0.5), ("recalling", "with_memory", None)):
        with pytest.warns(DeprecationWarning, match=rf"Attack\.{old} has been renamed to {new}"):
            assert repr(getattr(attack, old)(argument)) == repr(getattr(attack, new)(argument))
    with pytest.warns(DeprecationWarning, match=r"Attack\.changed has been renamed to with_settings"):
        assert attack.changed(eps=attack.eps / 2) == attack.with_settings(eps=attack.eps / 2)
