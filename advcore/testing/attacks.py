"""The contract of an attack."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.adversary import bind_attack
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.objectives.base import choose_ascent
from advcore.objectives.standard import Pgd
from advcore.runtime.borrow import borrow
from advcore.testing.examples import (
    COUNT,
    LABELS,
    assert_state,
    copy_state,
    draw_stream,
    make_images,
    make_network,
)

EVERYBODY = range(COUNT)
# How far outside its ball rounding may end: this share of eps, by the norm, plus 6e-8 (linf) or 1e-6.
SLACK = {"lpips": 0.01, "l2": 1e-6, "l1": 1e-6}


def run_attack(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor = LABELS,
    *,
    indices: range | list[int] = EVERYBODY,
    seed: int = 0,
    ledger: CostLedger | None = None,
) -> tuple[Tensor, Attack]:
    """Attack images (B, C, H, W) as training by PGD does; return these, attacked, and the attack bound to the model.

    indices, seed : name the random numbers. ledger : counts the passes, in phase "attack". The model is attacked in
    eval mode, and restored.
    """
    ledger = ledger or CostLedger()
    with ledger.phase("attack"), borrow(model):
        bound = bind_attack(attack, model, ledger.count_passes)
        loss = choose_ascent(Pgd(), bound.climbs, y, None)
        count = ledger.count_passes(model)
        x_adv = bound(lambda z: loss(count(z)), x, generator=draw_stream(indices, seed=seed))
    return x_adv, bound


def assert_bounded(attack: Attack, x: Tensor, x_adv: Tensor) -> None:
    """Assert that attacked images are constants, finite, in [0, 1], and in the ball that the attack itself measures.

    Rounding may leave the ball by as much as `SLACK` says, and an attack for training only may leave it anyhow.
    """
    assert x_adv.shape == x.shape, "an attacked image has the shape of the image"
    assert not x_adv.requires_grad, "attacked images are constants"
    assert torch.isfinite(x_adv).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    excess = attack.excess(x, x_adv)
    assert excess.shape == (len(x),)
    assert excess.dtype == torch.float64
    slack = attack.eps * SLACK.get(attack.norm, 0) + (6e-8 if attack.norm == "linf" else 1e-6)
    assert attack.training_only or float(excess.max()) <= slack, "outside of its ball"


class Autocast(nn.Module):
    """A network that computes in a narrow dtype, on a CPU, and returns float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=self.dtype):
            return self.network(x).float()


class Flat(nn.Module):
    """A network whose logits are 0 everywhere, and so is their gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return 0 * self.network(x)


class AttackContract:
    """What every attack promises; a subclass's fixture `attack` returns one, with a radius above 0 and few steps.

    An attack for training only need not stay in its ball, nor leave images as they are where its radius is 0.
    """

    @pytest.fixture
    def attack(self) -> Attack:
        raise NotImplementedError("give the contract a fixture `attack`")

    def test_it_stays_in_its_ball_and_raises_the_loss(self, attack: Attack) -> None:
        x = make_images()
        model = make_network()
        x_adv, bound = run_attack(attack, model, x)
        assert_bounded(bound, x, x_adv)
        with torch.no_grad():
            before, after = (F.cross_entropy(model(images), LABELS) for images in (x, x_adv))
        assert after > before

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_it_stays_in_its_ball_under_autocast(self, attack: Attack, dtype: torch.dtype) -> None:
        x = make_images()
        x_adv, _ = run_attack(attack, Autocast(make_network(), dtype), x)
        exact = bind_attack(attack, make_network(torch.float64), CostLedger().count_passes)
        assert_bounded(exact, x.double(), x_adv.double())

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_it_stays_in_its_ball_from_black_and_from_white(self, attack: Attack, value: float) -> None:
        x = torch.full_like(make_images(), value)
        x_adv, bound = run_attack(attack, make_network(), x)
        assert_bounded(bound, x, x_adv)

    def test_a_model_without_a_gradient_is_attacked_all_the_same(self, attack: Attack) -> None:
        x = make_images()
        x_adv, bound = run_attack(attack, Flat(make_network()), x)
        assert_bounded(bound, x, x_adv)

    def test_a_radius_of_0_leaves_the_image_as_it_is(self, attack: Attack) -> None:
        x = make_images()
        x_adv, bound = run_attack(attack.with_settings(eps=0.0), make_network(), x)
        assert bound.training_only or torch.equal(x_adv, x)

    def test_the_seed_decides_and_the_global_random_state_does_not(self, attack: Attack) -> None:
        x = make_images()
        model = make_network()
        first, _ = run_attack(attack, model, x)
        before = torch.get_rng_state()
        again, _ = run_attack(attack, model, x)
        other, _ = run_attack(attack, model, x, seed=1)
        assert torch.equal(before, torch.get_rng_state()), "it draws from torch's global state"
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_an_image_is_attacked_the_same_in_any_batch(self, attack: Attack) -> None:
        x = make_images(torch.float64)
        model = make_network(torch.float64)
        everybody, _ = run_attack(attack, model, x)
        for indices in ([4], [2, 0]):
            part, _ = run_attack(attack, model, x[indices], LABELS[indices], indices=indices)
            assert torch.allclose(part, everybody[indices], atol=1e-6)

    @pytest.mark.parametrize("training", [False, True])
    def test_model_and_images_come_back_as_they_were(self, attack: Attack, training: bool) -> None:
        model = make_network().train(training)
        x = make_images()
        images = x.clone()
        state = copy_state(model)
        run_attack(attack, model, x)
        assert_state(model, state)
        assert torch.equal(x, images)
        assert all(module.training == training for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())

    def test_it_takes_the_passes_that_it_says_or_fewer(self, attack: Attack) -> None:
        ledger = CostLedger()
        run_attack(attack, make_network(), make_images(), ledger=ledger)
        forward, backward = attack.passes()
        assert 0 < ledger.passes["attack"]["forward"] <= COUNT * forward
        assert ledger.passes["attack"]["backward"] <= COUNT * backward

    def test_it_says_how_its_number_is_made(self, attack: Attack) -> None:
        facts = attack.describe()
        assert facts["norm"] == attack.norm
        assert facts["eps"] == attack.eps
        assert {"norm", "steps", "step_size", "restarts"} <= set(facts)

    def test_what_judges_a_model_trained_with_it_is_fit_for_that(self, attack: Attack) -> None:
        judge = attack.probe()
        assert not judge.training_only
        assert judge.describe()["steps"] != 1
        assert (judge.norm, judge.eps) == (attack.norm, attack.eps)

    def test_the_reference_has_the_steps_asked_for(self, attack: Attack) -> None:
        assert min(attack.reference(7).passes()) >= 7
