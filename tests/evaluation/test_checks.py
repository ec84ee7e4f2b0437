"""What makes a robust number untrustworthy is flagged; what does not is not."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from examples import build_example
from seeds import seeded
from torch import nn
from torch.autograd import grad as imported_grad
from torch.autograd.functional import jacobian

from advcore.attacks import L2PGD, LinfPGD
from advcore.data.source import Resident
from advcore.evaluation.checks import share_regained
from advcore.evaluation.comparisons import flag_order, flag_weak_settings
from advcore.evaluation.evaluate import attack_name, evaluate
from advcore.models import MODELS as ZOO
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import list_accuracy_rows, list_flags

N, SHAPE = 40, (1, 6, 6)
GOOD = LinfPGD(eps=0.05, steps=10)


def images():
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))


def plain():
    with seeded():
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 3)).eval()


class Around(nn.Module):
    """A model changed on its way in or out."""

    def __init__(self, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.net, self.before, self.after = plain(), before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


class Dropped(Around):
    """Dropout that stays on in eval mode."""

    def forward(self, x):
        return self.net(F.dropout(x, 0.5, training=True))


class Counting(Around):
    """Changes a buffer at each prediction."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.net(x)


class Optimising(Around):
    """Purifies its input by a gradient step before it predicts."""

    def forward(self, x):
        with torch.enable_grad():
            z = x.detach().requires_grad_(True)
            (g,) = torch.autograd.grad(self.net(z).logsumexp(1).sum(), z)
        return self.net(x + 0.01 * g)


class Mixing(Around):
    """BatchNorm that uses its batch also in eval mode."""

    def forward(self, x):
        return self.net(F.batch_norm(x, None, None, training=True))


MODELS = {
    "dropout": (Dropped, "randomised"),
    "noise": (lambda: Around(before=lambda x: x + 0.1 * torch.randn_like(x)), "randomised"),
    "softmax": (lambda: Around(after=lambda z: z.softmax(1)), "softmax"),
    "rounding": (lambda: Around(before=lambda x: (x * 8).round() / 8), "masked"),
    "optimisation": (Optimising, "dynamic"),
    "a buffer": (Counting, "dynamic"),
    "batch statistics": (Mixing, "batch-dependent"),
    "huge logits": (lambda: Around(after=lambda z: z * 1e5), "masked"),
}


class Through(Around):
    """A model called by a function of it and its input."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(self.net, x)


def purified(how):
    """A model that moves its input down its own loss first, by every way there is to ask for a gradient."""

    def gradient(net, z):
        loss = net(z).logsumexp(1).sum()
        if how == "backward":
            loss.backward()
            return z.grad
        if how == "optimiser":
            before, optimiser = z.detach().clone(), torch.optim.SGD([z], lr=1.0)
            loss.backward()
            optimiser.step()
            return before - z.detach()
        return imported_grad(loss, z)[0]

    def call(net, x):
        with torch.enable_grad():
            z = x.detach().clone()
            if how == "func":
                return net(x + 0.01 * torch.func.grad(lambda v: net(v).logsumexp(1).sum())(z))
            if how == "jacobian":
                return net(x + 0.01 * jacobian(lambda v: net(v).logsumexp(1).sum(), z))
            return net(x + 0.01 * gradient(net, z.requires_grad_(True)))

    return call


def without_gradient(net, x):
    with torch.no_grad():
        return net(x)


def of_features(change):
    """A model whose hidden features are changed."""
    return lambda net, x: net[3](change(net[2](net[1](net[0](x)))))


THROUGH = {
    **{f"optimisation by {how}": (purified(how), "dynamic") for how in ("grad", "backward", "optimiser")},
    **{f"optimisation by {how}": (purified(how), "dynamic") for how in ("func", "jacobian")},
    "rounding to whole numbers": (lambda net, x: net((x * 255).to(torch.uint8).float() / 255), "masked"),
    "rounding to 255 levels": (lambda net, x: net((x * 255).floor() / 255), "masked"),
    "rounding by numpy": (lambda net, x: net(torch.from_numpy(np.round(x.detach().numpy() * 32) / 32)), "masked"),
    "rounded features": (of_features(lambda h: (h * 8).round() / 8), "masked"),
    "signs of features": (of_features(torch.sign), "masked"),
    "rounded logits": (lambda net, x: net(x).round(decimals=2), "masked"),
    "a detached input": (lambda net, x: net(x.detach()), "masked"),
    "no gradient": (without_gradient, "masked"),
    "a little dropout": (lambda net, x: net(F.dropout(x, 0.02, training=True)), "randomised"),
    "dropout of features": (of_features(lambda h: F.dropout(h, 0.1, training=True)), "randomised"),
    "noise of one level": (lambda net, x: net(x + torch.randn_like(x) / 255), "randomised"),
    "noise by numpy": (lambda net, x: net(x + 0.05 * float(np.random.rand())), "randomised"),
    "noise by python": (lambda net, x: net(x + 0.05 * random.random()), "randomised"),
    "noisy logits": (lambda net, x: net(x) + 0.01 * torch.randn(len(x), 3), "randomised"),
    "a random shift": (lambda net, x: net(x.roll(int(torch.randint(0, 6, ())), 3)), "randomised"),
    "softmax in bfloat16": (lambda net, x: net(x).bfloat16().softmax(1).float(), "softmax"),
    "softmax in float16": (lambda net, x: net(x).half().softmax(1), "softmax"),
    "sharp softmax": (lambda net, x: (net(x) * 10).softmax(1), "softmax"),
}
MODELS |= {name: (lambda call=call: Through(call), kind) for name, (call, kind) in THROUGH.items()}
CLEAN = {
    "log-probabilities": lambda net, x: net(x).log_softmax(1),
    "shifted logits": lambda net, x: net(x) + 1e3,
    "small logits": lambda net, x: net(x) * 1e-3,
    "large logits": lambda net, x: net(x) * 30,
    "dropout in eval mode": of_features(lambda h: F.dropout(h, 0.5, training=False)),
    "normalised images": lambda net, x: net((x - 0.13) / 0.31),
}


def flags(model, attacks=(GOOD,)):
    data = Resident(images(), plain()(images()).argmax(1))
    return evaluate(model, data, attacks, checks=True).flags


@pytest.mark.case("E6")
def test_a_plain_model_under_a_fit_attack_has_no_flag():
    assert flags(plain()) == ()


@pytest.mark.case("E6")
@pytest.mark.parametrize("name", MODELS)
def test_each_mistake_has_its_flag_and_the_model_comes_back(name):
    make, kind = MODELS[name]
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = flags(model)
    assert any(flag.startswith(f"{kind}:") for flag in found), found
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.case("E6")
@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_model_has_no_flag(name):
    assert flags(Through(CLEAN[name])) == ()


QUICK = [("small_cnn", None), ("small_cnn", torch.bfloat16), ("timm", None)]
TABLE = [(name, dtype) for name in ZOO for dtype in (None, torch.bfloat16)]


@pytest.mark.case("E6")
@pytest.mark.parametrize(
    ("name", "dtype"), [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in TABLE]
)
def test_no_model_of_the_table_has_a_flag_of_its_own(name, dtype):
    with seeded():
        net = build_example(ZOO[name]).build(10, (3, 8, 8)).eval()

    def call(_, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
            return net(x).float()

    model = Through(call)
    model.own = net
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    assert evaluate(model, Resident(x, y), checks=True).flags == ()


@pytest.mark.case("E6")
def test_a_flag_is_in_the_record_and_in_the_tables():
    found = evaluate(Dropped(), Resident(images(), plain()(images()).argmax(1)), [GOOD], checks=True)
    told, (flag,) = found.as_dict(), [one for one in found.flags if one.startswith("randomised:")]
    assert flag in told["flags"] and ("last: flag", flag) in list_accuracy_rows("last", told)
    record = RunRecord(name="x", config={}, environment={}, plan="", reference={}, final={"last": told, "best": told})
    assert f"ours: {flag}" in list_flags({"ours": [record]})


def test_without_checks_nothing_is_claimed():
    data = Resident(images(), plain()(images()).argmax(1))
    assert evaluate(Dropped(), data, [GOOD]).flags == ()


@pytest.mark.parametrize(
    "attack, words",
    [
        (LinfPGD(eps=0.05, steps=5), "takes 5 steps"),
        (LinfPGD(eps=0.05, steps=1, step_size=0.2), "takes 1 step, fewer than 10"),
        (LinfPGD(eps=0.05, steps=20, step_size=0.001), "reaches 0.4 eps"),
        (L2PGD(eps=0.5, steps=20, step_size=0.01), "reaches 0.4 eps"),
    ],
)
def test_a_weak_attack_is_called_weak(attack, words):
    (flag,) = flag_weak_settings([attack.describe() | {"name": attack_name(attack)}])
    assert flag.kind == "weak" and words in flag.text
    assert str(flag) in flags(plain(), [attack])


def entry(accuracy, eps=0.1, name="linf_pgd", half=0.02, **more):
    return {"name": name, "norm": "linf", "eps": eps, "interval": [accuracy - half, accuracy + half], **more}


@pytest.mark.case("E5")
def test_a_larger_ball_that_leaves_more_right_is_flagged_beyond_the_interval():
    assert flag_order([entry(0.5), entry(0.3, eps=0.2)]) == []
    assert flag_order([entry(0.5), entry(0.53, eps=0.2)]) == []
    (flag,) = flag_order([entry(0.5), entry(0.6, eps=0.2)])
    assert flag.kind == "masked" and "more images correct at eps 0.2 than at 0.1" in flag.text
    weaker, stronger = (entry(0.6, eps=0.2, steps=steps) for steps in (1, 50))  # a weak attack says nothing
    assert flag_order([entry(0.5, steps=50), weaker]) == []
    assert len(flag_order([entry(0.5, steps=50), stronger])) == 1
    assert flag_order([entry(0.5, restarts=5), entry(0.6, eps=0.2, restarts=1)]) == []


def test_a_black_box_that_beats_the_white_box_is_flagged():
    square = {"name": "autoattack", "version": "square"}
    assert flag_order([entry(0.5), entry(0.55, **square)]) == []
    (flag,) = flag_order([entry(0.5), entry(0.3, **square)])
    assert "black box autoattack beats linf_pgd" in flag.text


def test_a_boundary_that_bends_back_along_the_gradient_is_masking():
    """Logit gaps that fall at first and rise again, in a wave along brightness, against one that only falls."""
    x, y = images(), torch.zeros(N).long()

    def wave(z):
        level = (z - x).flatten(1).mean(1)
        return torch.stack([torch.cos(level * 80) + 0.2, torch.zeros(N)], 1) - torch.stack([level, 0 * level], 1)

    def slope(z):
        level = (z - x).flatten(1).mean(1)
        return torch.stack([0.5 - 20 * level, torch.zeros(N)], 1)

    inside = 0.3 + 0.4 * x
    x = inside

    def lost(z):
        """Misclassified in the first half of the ball, right in the other."""
        return torch.stack([(z - x).flatten(1).mean(1) - 0.05, torch.zeros(N)], 1)

    down, up = -torch.ones_like(x), torch.ones_like(x)
    assert share_regained(wave, inside, y, gradient=up, eps=0.08) == 1
    assert share_regained(lost, inside, y, gradient=up, eps=0.08) == 1
    assert (
        share_regained(slope, inside, y, gradient=up, eps=0.08)
        == share_regained(slope, inside, y, gradient=down, eps=0.08)
        == 0
    )
