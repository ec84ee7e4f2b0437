"""PGD against closed forms: a two-class linear model has a worst case that can be written down."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import seeded
from torch import nn

from advcore.attacks import ATTACKS
from advcore.attacks.geometry import LP
from advcore.attacks.pgd import L2PGD, PGD, LinfPGD
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.evaluation.evaluate import evaluate
from advcore.rng import Stream

BOTH = pytest.mark.parametrize("kind", [LinfPGD, L2PGD])
DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


def stream(size, seed=0):
    return Stream(seed=seed, purpose="attack").at(torch.arange(size))


def linear(shape):
    """Weights (2, D) of two classes, of a size that keeps margins near 1 whatever D."""
    pixels = math.prod(shape)
    return torch.randn(2, pixels, generator=torch.Generator().manual_seed(1)) * 3 / pixels**0.5


def inside(size, shape, eps):
    """Images at least eps away from both ends of the range."""
    return eps + (1 - 2 * eps) * torch.rand(size, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.case("E3")
@BOTH
@pytest.mark.parametrize("start", ["clean", "uniform", "gaussian"])
@pytest.mark.parametrize(
    "shape, batch", [((1, 1, 1), 4), ((1, 8, 8), 16), ((3, 32, 32), 5), ((2, 5, 7), 1), ((3, 4, 4), 15)]
)
def test_pgd_reaches_the_worst_case_of_a_linear_model(kind, start, shape, batch):
    """The loss at the closed form, and the answer flips exactly where the margin is below eps x dual norm."""
    size = 16
    eps = 0.1 if kind is L2PGD else 0.12 / math.prod(shape) ** 0.5  # so that some examples fall and some stand
    weights, x = linear(shape), inside(size, shape, eps)
    scores = x.flatten(1) @ (weights[0] - weights[1])
    bias = torch.stack([torch.zeros(()), scores.median() + 1e-3])
    y = ((scores < bias[1]) ^ (torch.arange(size) % 4 == 0)).long()  # a quarter is misclassified to begin with

    def logits(z):
        return z.flatten(1) @ weights.to(z).T + bias.to(z)

    attack = kind(eps=eps, steps=10, step_size=eps, start=start)
    x_adv = torch.cat(
        [
            attack(
                lambda z, y=y[i]: F.cross_entropy(logits(z), y, reduction="none"),
                x[i],
                generator=stream(size).take(i),
            )
            for i in torch.arange(size).split(batch)
        ]
    ).double()

    away = (weights[y] - weights[1 - y]).double()
    margin = (away * x.double().flatten(1)).sum(1) + (bias[y] - bias[1 - y]).double()
    reach = eps * away.norm(p=DUAL[kind.norm], dim=1)
    loss = F.cross_entropy(logits(x_adv), y, reduction="none")
    assert torch.allclose(loss, F.softplus(reach - margin), rtol=0, atol=1e-5)
    decided = (margin - reach).abs() > 1e-5
    flips = logits(x_adv).argmax(1) != y
    assert torch.equal(flips[decided], (margin < reach)[decided]) and decided.sum() >= size - 1
    assert (flips & (margin > 0)).any() and not flips.all()


EACH = {name: kind for name, kind in ATTACKS.items() if issubclass(kind, PGD)}
ONE_PIXEL = {"l1": {"sparsity": 1e-9}}
"""Steps along the worst direction of a linear model, where they are not that anyway."""


@pytest.mark.case("E3")
@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize(
    ("shape", "batch", "restarts"), [((1, 1, 1), 32, 1), ((3, 8, 8), 7, 2), ((1, 5, 9), 32, 1), ((2, 4, 4), 1, 1)]
)
def test_what_stands_on_a_linear_model_is_what_has_a_margin_of_eps_times_the_dual_norm(name, shape, batch, restarts):
    kind, room = EACH[name], 0.2
    geometry, pixels = LP[kind.norm], math.prod(shape)
    weights, x = linear(shape), inside(32, shape, room)
    step = geometry.step(torch.zeros(1, *shape), (weights[0] - weights[1]).view(1, *shape), 1.0)
    assert float(geometry.distance(torch.zeros(1, *shape), step)) == pytest.approx(1, abs=1e-6)  # a step has length 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2))
    scores = x.flatten(1) @ (weights[0] - weights[1])
    with torch.no_grad():
        model[1].weight.copy_(weights)
        model[1].bias.copy_(torch.stack([torch.zeros(()), scores.median() + 1e-3]))
    y = model(x).argmax(1)
    y[::8] = 1 - y[::8]
    away = (weights[y] - weights[1 - y]).double()
    logits = model(x).detach().double()
    margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    dual = away.norm(p=DUAL[kind.norm], dim=1)
    eps = min(room, float((margin / dual).clamp_min(0).median()))  # about half falls
    attack = kind(eps=eps, steps=8, step_size=eps / 2, restarts=restarts, **ONE_PIXEL.get(kind.norm, {}))
    found = evaluate(model, Resident(x, y), [attack], batch_size=batch)
    decided = (margin - eps * dual).abs() > 1e-5
    assert torch.equal(found.verdicts["0"][decided], (margin >= eps * dual)[decided]) and decided.sum() >= 28
    assert found.verdicts["0"].any() and (found.verdicts["clean"] & ~found.verdicts["0"]).any()


@pytest.mark.case("E3")
@BOTH
def test_the_default_step_reaches_the_worst_case_from_the_clean_image(kind):
    eps, shape = 0.1, (1, 6, 6)
    weights, x = linear(shape), inside(8, shape, eps)
    x_adv = kind(eps=eps, steps=7, start="clean")(lambda z: z.flatten(1) @ weights[0], x, generator=stream(8))
    best = x.flatten(1) @ weights[0] + eps * weights[0].norm(p=DUAL[kind.norm])
    assert torch.allclose(x_adv.flatten(1) @ weights[0], best, atol=1e-5)


def network(dtype=torch.float32):
    with seeded():
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)


def cross_entropy(model, size):
    return lambda x: F.cross_entropy(model(x), torch.arange(size) % 3, reduction="none")


def images(size, dtype=torch.float32):
    return torch.rand(size, 3, 4, 4, generator=torch.Generator().manual_seed(2)).to(dtype)


def own_gradients(loss_of_one, x):
    """Each image's gradient by itself."""
    rows = []
    for i in range(len(x)):
        one = x[i : i + 1].clone().requires_grad_(True)
        rows.append(torch.autograd.grad(loss_of_one(i, one), one)[0][0])
    return torch.stack(rows)


def one_at_a_time(model):
    return lambda i, z: F.cross_entropy(model(z), torch.tensor([i % 3]))


def test_one_step_of_eps_from_the_clean_image_is_fgsm():
    model, x, eps = network(), images(9), 0.1
    x_adv = LinfPGD(eps=eps, steps=1, step_size=eps, start="clean")(cross_entropy(model, 9), x, generator=stream(9))
    gradient = own_gradients(one_at_a_time(model), x)
    assert torch.allclose(x_adv, (x + eps * gradient.sign()).clamp(0, 1), atol=1e-7)


def test_one_l2_step_is_the_normalised_gradient():
    model, x, eps = network(), 0.3 + 0.4 * images(9), 0.2
    x_adv = L2PGD(eps=eps, steps=1, step_size=eps, start="clean")(cross_entropy(model, 9), x, generator=stream(9))
    gradient = own_gradients(one_at_a_time(model), x)
    unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(x_adv, x + eps * unit, atol=1e-6)


@pytest.mark.parametrize("step_size, length", [(None, 2.5 * 0.1 / 5), (0.03, 0.03)])
def test_linf_pgd_is_the_textbook_loop(step_size, length):
    model, x, eps = network(torch.float64), images(6, torch.float64), 0.1
    attack = LinfPGD(eps=eps, steps=5, step_size=step_size, start="clean")
    slow = x.clone()
    for _ in range(5):
        slow = slow + length * own_gradients(one_at_a_time(model), slow).sign()
        slow = torch.max(torch.min(slow, x + eps), x - eps).clamp(0, 1)
    assert torch.allclose(attack(cross_entropy(model, 6), x, generator=stream(6)), slow, atol=1e-12)


def test_l2_pgd_is_the_textbook_loop():
    model, x, eps = network(torch.float64), images(6, torch.float64), 0.4
    slow = x.clone()
    for _ in range(5):
        gradient = own_gradients(one_at_a_time(model), slow)
        slow = slow + 2.5 * eps / 5 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        for i in range(6):
            delta = slow[i] - x[i]
            slow[i] = (x[i] + delta * min(1.0, eps / float(delta.norm()))).clamp(0, 1)
    fast = L2PGD(eps=eps, steps=5, start="clean")(cross_entropy(model, 6), x, generator=stream(6))
    assert torch.allclose(fast, slow, atol=1e-12)


# ---- starts ----


@BOTH
def test_the_uniform_start_fills_the_ball(kind):
    """Without a gradient the attack ends where it began. In two dimensions, so that the inner half of the
    ball, a quarter of its area, is not rare."""
    x = torch.full((2000, 1, 1, 2), 0.5)
    attack = kind(eps=0.2, steps=1)
    start = attack(lambda z: 0 * z.flatten(1).sum(1), x, generator=stream(2000))
    delta = (start - x).flatten(1)
    radius = delta.norm(p=math.inf if kind is LinfPGD else 2, dim=1) / 0.2
    assert abs(float((radius < 0.5).double().mean()) - 0.25) < 0.04
    assert delta.mean(0).abs().max() < 0.01 and radius.max() > 0.98
    for right, up in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        assert abs(float(((delta[:, 0] * right > 0) & (delta[:, 1] * up > 0)).double().mean()) - 0.25) < 0.04


@BOTH
def test_the_gaussian_start_is_a_thousandth(kind):
    x = torch.full((500, 1, 4, 4), 0.5)
    start = kind(eps=0.4, steps=1, start="gaussian")(lambda z: 0 * z.flatten(1).sum(1), x, generator=stream(500))
    assert float((start - x).std()) == pytest.approx(1e-3, rel=0.05)


# ---- restarts ----


def bumpy(z):
    """Many local maxima, so that where an ascent starts decides where it ends."""
    return torch.sin(60 * z.flatten(1)).sum(1)


class Recorder:
    """A loss that keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, z):
        self.asked.append(z.detach().clone())
        return bumpy(z)


@BOTH
def test_each_example_keeps_the_worst_of_its_restarts(kind):
    x, loss = images(12), Recorder()
    x_adv = kind(eps=0.2, steps=3, restarts=4)(loss, x, generator=stream(12))
    candidates = loss.asked[-4:]  # the end of each restart is looked at last, all together
    losses = torch.stack([bumpy(c) for c in candidates])
    assert len(losses.argmax(0).unique()) > 1
    for i in range(12):
        worst = max(candidates, key=lambda c, i=i: float(bumpy(c)[i]))
        assert torch.equal(x_adv[i], worst[i])


@pytest.mark.case("E5")
@BOTH
def test_more_restarts_never_lower_the_loss(kind):
    x = images(12)
    losses = [bumpy(kind(eps=0.2, steps=3, restarts=r)(bumpy, x, generator=stream(12))) for r in (1, 2, 3, 6)]
    for fewer, more in zip(losses, losses[1:], strict=False):
        assert (more >= fewer).all()
    assert (losses[-1] > losses[0]).any()


# ---- settings ----


@BOTH
def test_scaling_shrinks_ball_and_step_together_and_nothing_else(kind):
    for attack in (kind(eps=0.2, steps=5, restarts=3, start="clean"), kind(eps=0.2, steps=5, step_size=0.07)):
        half = attack.scale(0.5)
        assert half.eps == pytest.approx(0.1) and half.length == pytest.approx(attack.length / 2)
        assert (half.steps, half.restarts, half.start) == (attack.steps, attack.restarts, attack.start)
        assert attack.scale(1.0).describe() == attack.describe()
    assert kind(eps=0.2).scale(0.0).eps == 0


@BOTH
def test_the_default_step_is_two_and_a_half_radii_over_the_steps(kind):
    assert kind(eps=0.2, steps=8).length == pytest.approx(0.0625)
    assert kind(eps=0.2, steps=8, step_size=0.01).length == 0.01
    assert kind(eps=0.2, steps=8).describe()["step_size"] == pytest.approx(0.0625)


@BOTH
@pytest.mark.parametrize(
    "changes, told",
    [
        ({"eps": -0.1}, ("eps", "-0.1", "[0, 1]")),
        ({"eps": float("nan")}, ("eps", "nan")),
        ({"eps": "8/255"}, ("eps", "'8/255'")),
        ({"steps": 0}, ("steps", "0")),
        ({"steps": 2.5}, ("steps", "2.5")),
        ({"step_size": 0}, ("step_size", "0", "2.5 eps / steps")),
        ({"step_size": float("inf")}, ("step_size", "inf")),
        ({"restarts": 0}, ("restarts", "0")),
        ({"start": "unifrom"}, ("start", "'unifrom'", "did you mean 'uniform'?")),
    ],
)
def test_settings_out_of_range_name_key_value_and_way_out(kind, changes, told):
    with pytest.raises(ConfigError) as caught:
        kind(**{"eps": 0.1, **changes})
    assert all(part in str(caught.value) for part in told), str(caught.value)


def test_several_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        LinfPGD(eps=8, steps=0, restarts=0)
    assert [problem.split()[0] for problem in caught.value.lines] == ["eps", "steps", "restarts"]


@pytest.mark.parametrize("eps", [8, 8.0, 1.5])
def test_eps_in_0_255_units_is_refused_with_the_fraction_to_write(eps):
    with pytest.raises(ConfigError) as caught:
        LinfPGD(eps=eps)
    told = str(caught.value)
    assert "eps" in told and "[0, 1" in told and f"{eps!r}" in told and f"{eps:g}/255" in told


def test_an_l2_radius_is_refused_beyond_the_images_diameter():
    attack = L2PGD(eps=9.0)
    assert attack.problem((3, 32, 32)) is None
    assert "9" in str(attack.problem((1, 8, 8))) and "8" in str(attack.problem((1, 8, 8)))
    assert L2PGD(eps=8.0).problem((1, 8, 8)) is None
    assert LinfPGD(eps=1.0).problem((1, 8, 8)) is None


# ---- projections ----


@pytest.mark.parametrize("level", [None, 0.5], ids=["noise", "flat"])
def test_the_l2_projection_gives_no_room_away(level):
    """It ends at the ball's edge, not where every pixel was rounded towards the image."""
    draw = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(16, 3, 32, 32, generator=draw) if level is None else torch.full((16, 3, 32, 32), level)
    far = x + torch.randn(x.shape, generator=draw)
    short = 0.5 - LP["l2"].distance(x, LP["l2"].project(far, x, 0.5))
    assert float(short.min()) > -1e-12 and float(short.max()) < 2e-7


FLOATS = st.floats(-3, 4, width=32)
GEOMETRIES = {norm: LP[norm] for norm in ("linf", "l2")}


@pytest.mark.case("E1")
@pytest.mark.parametrize("norm", GEOMETRIES)
@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1, width=32), FLOATS), min_size=1, max_size=12),
    eps=st.floats(0.0009765625, 2, width=32),
)
def test_a_projection_lands_in_ball_and_range_and_leaves_what_is_inside(norm, pairs, eps):
    geometry = GEOMETRIES[norm]
    x, far = (torch.tensor(column).view(1, 1, 1, -1) for column in zip(*pairs, strict=True))
    landed = geometry.project(far, x, eps)
    assert landed.min() >= 0 and landed.max() <= 1
    assert float(geometry.distance(x, landed)) <= eps + max(6e-8 if norm == "linf" else 0, 1e-6 * eps)
    again = geometry.project(landed, x, eps)
    assert torch.allclose(again, landed, rtol=0, atol=5e-7)
    near = x + 0.99 * (landed - x)
    assert torch.allclose(geometry.project(near, x, eps), near, rtol=0, atol=2e-7)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(seed=st.integers(0, 1000))
def test_the_l2_projection_is_the_nearest_point_of_the_ball(seed):
    draw = torch.Generator().manual_seed(seed)
    x = 0.5 + torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    far = x + torch.randn(x.shape, generator=draw, dtype=torch.float64)
    landed = LP["l2"].project(far, x, 0.2)
    offsets = torch.randn(500, 3, generator=draw, dtype=torch.float64)
    others = x.view(1, 3) + 0.2 * offsets / offsets.norm(dim=1, keepdim=True).clamp_min(1)
    assert (landed - far).norm() <= (others - far.view(1, 3)).norm(dim=1).min() + 1e-12
