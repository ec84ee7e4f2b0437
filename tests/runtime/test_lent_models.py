"""E2: whatever advcore does with a model and its data, it gives both back as they were, also when it fails midway.

Over the tables: every attack, every solver that reads gradients, every kind of row and score, every check.
"""

import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels
from seeds import seeded
from torch import nn

from advcore import AdversarialCoreset, evaluate
from advcore.adversary import bind_attack, perturb
from advcore.attacks import ATTACKS, LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import DataError
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.objectives import OBJECTIVES, Pgd, Trades
from advcore.objectives.base import is_attacked
from advcore.rng import Stream
from advcore.runtime.borrow import borrow
from advcore.selection.partition import PARTITIONS
from advcore.solvers import SOLVERS, GradMatch

pytestmark = pytest.mark.case("E2", "A6")

N = 8
ATTACK = LinfPGD(eps=0.1, steps=2, restarts=2)


class Stop(Exception):
    pass


def is_grey(x):
    """Whether images are those on which operations are counted, whose passes are no use's."""
    return bool((x == 0.5).all())


class Restless(nn.Module):
    """Draws by itself from every global generator, moves and replaces buffers, shares a layer, asks for gradients while
    it predicts; raises in one of its passes, forward or backward, if told to."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 1)
        self.norm, self.again, self.drop = nn.BatchNorm2d(6), self.shared, nn.Dropout(0.2)
        self.head = nn.Linear(6 * 16, 4)
        self.register_buffer("moved", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(2), persistent=False)
        self.register_buffer("nothing", None)
        self.calls, self.fails_at, self.fails_backward = 0, None, False

    def forward(self, x):
        self.calls += int(not is_grey(x))
        if self.calls == self.fails_at and not self.fails_backward:
            raise Stop
        self.moved += 1
        self.replaced = self.replaced + 1
        noise = 1e-3 * (torch.rand(()) + np.random.rand() + random.random())
        with torch.enable_grad():
            weight = self.first.weight.requires_grad_(True)
            (weight.square().sum() * 1e-3).backward()
        h = self.norm(torch.tanh(self.first(x.to(self.first.weight) + noise)))
        if h.requires_grad and self.calls == self.fails_at and not is_grey(x):
            h.register_hook(self._stop)
        return self.head(self.drop(torch.tanh(self.again(torch.tanh(self.shared(h))))).flatten(1))

    @staticmethod
    def _stop(gradient):
        raise Stop


def lent():
    """A model as a trainer has it: mixed modes, a frozen parameter, gradients, hooks of its owner."""
    with seeded():
        model = Restless().train()
        F.cross_entropy(model(images()), LABELS).backward()
    model.norm.eval()
    model.shared.bias.requires_grad_(False)
    model.head.bias.grad = None
    model.head.register_forward_hook(lambda module, args, out: None)
    model.first.register_forward_pre_hook(lambda module, args: None)
    model.calls = 0
    return model


def images():
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(N) % 4
HOOKS = [name for name in vars(nn.Linear(1, 1)) if name.endswith("_hooks")]


def state(model):
    """All that a borrower might disturb, by name; bytes, so that equal is equal."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "parameters and buffers": {name: value.detach().numpy().tobytes() for name, value in tensors.items()},
        "the same objects": [id(value) for value in model.parameters()],
        "what asks": {name: value.requires_grad for name, value in tensors.items()},
        "gradients": {n: None if p.grad is None else p.grad.numpy().tobytes() for n, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "hooks": [[list(getattr(module, name)) for name in HOOKS] for module in model.modules()],
        "tensor hooks": [list(p._backward_hooks or ()) for p in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def numpy_state():
    """As bytes and numbers: to print 624 numbers takes longer than what is tested."""
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), *rest


def world():
    """Global state of this process."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": numpy_state(),
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "autograd": (
            torch.autograd.grad,
            torch.autograd.backward,
            getattr(torch.autograd, "_engine_run_backward", None),
        ),
        "precision": (
            torch.get_default_dtype(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.is_autocast_enabled("cpu"),
        ),
        "determinism": torch.are_deterministic_algorithms_enabled(),
    }


def source():
    return Resident(images(), LABELS)


# ---- what is done with a model ----


def small(name):
    """Few steps of each attack, fit to evaluate where it can be."""
    known = {"eps": 0.1, "steps": 2, "restarts": 2, "rounds": 2, "project": True}
    kind = ATTACKS[name]
    return kind(**{key: value for key, value in known.items() if key in kind.__dataclass_fields__})


def attack_with(name, objective, model, data):
    ledger, generator = CostLedger(), Stream(seed=0, purpose="attack").at(torch.arange(N))
    with ledger.phase("attack"), borrow(model):
        own = bind_attack(small(name), model, ledger.count_passes)
        x = data._images.clone().requires_grad_(True)
        perturb(ledger.count_passes(model), objective, own, x, data.labels(), generator=generator)
        assert x.grad is None and x.requires_grad


def select_with(solver, objective, model, data, **settings):
    made = {"attack": ATTACK, "block_size": 4, "budget": 0.5, "chunk_size": 16, **settings}
    AdversarialCoreset(objective=objective, solver=solver, **made).select(model, data, seed=0)


def measure_with(name, model, data):
    how = {"objective": Trades(), "attack": ATTACK, "stream": Stream(seed=0, purpose="scoring")}
    GRADIENTS[name].measure(model, data, MeasurementSettings(ledger=CostLedger(), chunk_size=5, **how))


def radius_with(model, data):
    known = {"stream": Stream(seed=0, purpose="radius"), "ledger": CostLedger(), "parts": 2}
    smallest_radius(model, data, ATTACK, torch.arange(N), **known)


READ_GRADIENTS = [name for name, kind in SOLVERS.items() if kind().reads in ("last_layer", "divergence", None)]
JUDGED = [name for name in ATTACKS if not (small(name).training_only or small(name).remembers)]
PUBLIC = {
    **{f"evaluate {name}": lambda m, d, name=name: evaluate(m, d, [small(name)], batch_size=8) for name in JUDGED},
    "evaluate with checks": lambda m, d: evaluate(m, d, [ATTACK], checks=True, keep_examples=True),
    **{f"select by {name}": partial(select_with, SOLVERS[name](), Trades()) for name in READ_GRADIENTS},
    **{f"select {name}": partial(select_with, GradMatch(), Pgd(), partition=name) for name in PARTITIONS},
    **{f"select for {name}": partial(select_with, GradMatch(), kind()) for name, kind in OBJECTIVES.items()},
    "select in train mode": partial(select_with, GradMatch(), Trades(), attack_mode="train"),
}
INNER = {
    **{f"attack by {name}": partial(attack_with, name, Trades()) for name in ATTACKS},
    **{
        f"attack for {n}": partial(attack_with, "linf_pgd", kind())
        for n, kind in OBJECTIVES.items()
        if is_attacked(kind())
    },
    **{f"measure {name}": partial(measure_with, name) for name in GRADIENTS},
    "smallest radius": radius_with,
}
"""These draw nothing by themselves; what the model draws is its caller's to mind."""
USES = PUBLIC | INNER


def use_and_compare(use, fails_at=None, backward=False) -> int:
    """Lend a model, which raises in its pass `fails_at` if given, to a use and compare what comes back; its passes."""
    model, data = lent(), source()
    model.fails_at, model.fails_backward = fails_at, backward
    before, now, pixels, labels = state(model), world(), data._images.clone(), data.labels().clone()
    try:
        USES[use](model, data)
    except (Stop, DataError):  # the second where the model is tried on the first images
        assert fails_at is not None
    else:
        assert fails_at is None or backward
    calls = model.calls  # of the owner's model, not of a copy
    after, then = state(model), world()
    assert {key for key in before if before[key] != after[key]} == set()
    minded = now if use in PUBLIC else now.keys() - {"torch", "numpy", "python"}
    assert {key for key in minded if now[key] != then[key]} == set()
    assert torch.equal(data._images, pixels) and torch.equal(data.labels(), labels)
    assert data._images.grad is None and not data._images.requires_grad
    return calls


@pytest.mark.parametrize("use", USES)
@by_plain_kernels
def test_everything_comes_back_bitwise_whenever_it_stops(use):
    calls = use_and_compare(use)
    assert (calls > 0) == (use != "select by random")
    if calls:
        use_and_compare(use, fails_at=calls // 2 + 1)
        use_and_compare(use, fails_at=calls // 2, backward=True)


class Centred(nn.Module):
    """Takes the mean off its input: in place, or not."""

    def __init__(self, in_place):
        super().__init__()
        with seeded():
            self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(96, 4))
        self.in_place = in_place

    def forward(self, x):
        return self.body(x.sub_(0.5) if self.in_place else x - 0.5)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_that_changes_its_input_in_place_is_attacked_as_one_that_does_not(name):
    found = []
    for in_place in (True, False):
        model, ledger, x = Centred(in_place), CostLedger(), images()
        generator = Stream(seed=0, purpose="attack").at(torch.arange(N))
        with ledger.phase("attack"), borrow(model):
            own = bind_attack(small(name), model, ledger.count_passes)
            found.append(perturb(ledger.count_passes(model), Trades(), own, x, LABELS, generator=generator))
            assert torch.isfinite(own.excess(x, found[-1])).all()
        assert torch.equal(x, images())
    assert torch.equal(*found)


def test_a_model_that_changes_its_input_in_place_is_judged_and_selected_for_as_one_that_does_not():
    judged, chosen = [], []
    for in_place in (True, False):
        data = source()
        judged.append(evaluate(Centred(in_place), data, [ATTACK, small("lpa")], checks=True).as_dict())
        made = AdversarialCoreset(objective=Trades(), solver=GradMatch(), attack=ATTACK, budget=0.5)
        chosen.append(made.select(Centred(in_place), data, seed=0))
        assert torch.equal(data._images, images())
    assert judged[0] == judged[1]
    assert torch.equal(chosen[0].indices, chosen[1].indices) and torch.equal(chosen[0].weights, chosen[1].weights)
