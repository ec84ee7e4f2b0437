"""Models that run in half precision by themselves: losses, margins and attacks are in float32, underflow is told."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from examples import build_example
from torch import nn

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.adversary import perturb
from advcore.attacks import LPA, LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.checks import flag_underflow
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.minibatch import Margin
from advcore.objectives import OBJECTIVES, Pgd
from advcore.rng import Stream
from advcore.runtime.counted import CountedModel
from advcore.runtime.precision import Speed
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig
from advcore.training import SGD

ATTACK = LinfPGD(eps=0.1, steps=2)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
bfloat16_or_slow = pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=DTYPES
)


class Half(nn.Module):
    """Runs under its own autocast; `widens` is what its caller would write to have float32 logits."""

    def __init__(self, net, dtype, *, widens=False):
        super().__init__()
        self.net = copy.deepcopy(net)
        self.dtype = dtype
        self.widens = widens

    def forward(self, x):
        with torch.autocast(x.device.type, self.dtype):
            logits = self.net(x)
        return logits.float() if self.widens else logits


class Cast(Half):
    """Runs in float32, and casts its logits."""

    def forward(self, x):
        logits = self.net(x).to(self.dtype)
        return logits.float() if self.widens else logits


class InAnObject(Half):
    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x))


class InParts(Half):
    """Keeps its head in half precision."""

    def __init__(self, net, dtype, *, widens=False):
        super().__init__(net, dtype, widens=widens)
        self.net[5].to(dtype)

    def forward(self, x):
        logits = self.net[5](self.net[:5](x).to(self.dtype))
        return logits.float() if self.widens else logits


KINDS = {"autocast": Half, "cast": Cast, "in an object": InAnObject, "half head": InParts}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
autocast_or_slow = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=name, marks=[pytest.mark.slow] * (kind is not Half)) for name, kind in KINDS.items()]
)


def trainer(**changes) -> Trainer:
    settings = {"objective": Pgd(), "attack": ATTACK, "schedule": Schedule(epochs=1), "batch_size": 48}
    return Trainer(**settings | {"optimizer": SGD(lr=0.05)} | changes)


@each_kind
@each_dtype
def test_the_logits_that_everything_reads_are_float32(model, kind, dtype):
    half = kind(model, dtype).eval()
    x = torch.rand(3, 1, 8, 8)
    output = half(x)
    raw = getattr(output, "logits", output)
    logits = CountedModel(half, lambda *pass_: None)(x)
    assert raw.dtype == dtype and logits.dtype == torch.float32 and torch.equal(logits, raw.float())


def test_wider_logits_stay_as_they_are(model):
    x = torch.rand(3, 1, 8, 8)
    assert CountedModel(model.double(), lambda *pass_: None)(x.double()).dtype == torch.float64


def test_eight_bits_count_as_half_precision_does(model):
    x = torch.rand(3, 1, 8, 8)
    logits = CountedModel(InEightBits(model), lambda *pass_: None)(x)
    assert torch.equal(logits, model(x).to(torch.float8_e4m3fn).float())


class InEightBits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).to(torch.float8_e4m3fn)


class InDouble(InEightBits):
    """Computes in float64, whatever it is given."""

    def forward(self, x):
        return self.net(x.double())


@pytest.mark.parametrize(
    "build",
    [pytest.param(InDouble, marks=pytest.mark.slow, id="within"), pytest.param(lambda net: net, id="as a whole")],
)
def test_autoattack_judges_a_model_in_double_precision_as_the_same_in_float32(model, source, build):
    pytest.importorskip("pyautoattack", reason="extra eval")
    attack = AutoAttack(eps=0.1, version="apgd-ce")
    nets = [model, build(copy.deepcopy(model).double())]
    single, double = (evaluate(net, source, [attack], indices=range(6), keep_examples=True) for net in nets)
    assert torch.equal(single.verdicts["0"], double.verdicts["0"])
    assert not single.verdicts["0"].all()
    assert float((double.examples["0"] - source._images[:6]).abs().max()) <= 0.1 + 1e-6


@autocast_or_slow
@bfloat16_or_slow
def test_an_evaluation_is_that_of_the_model_that_widens_by_itself(model, source, kind, dtype):
    attacks = [ATTACK, LPA(eps=0.3, steps=2)]
    result = evaluate(kind(model, dtype), source, attacks, checks=True, keep_examples=True)
    expected = evaluate(kind(model, dtype, widens=True), source, attacks, checks=True, keep_examples=True)
    assert result == expected
    assert all(torch.equal(result.examples[key], expected.examples[key]) for key in expected.examples)
    assert not [flag for flag in result.flags if flag.startswith(("batch-dependent", "randomised"))]


@bfloat16_or_slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_takes_the_steps_of_the_model_that_widens_by_itself(model, source, dtype, name):
    settings = {"objective": build_example(OBJECTIVES[name])}
    if len(settings["objective"].passes) == 1 and name != "standard":
        settings["minibatch"] = Margin(warm_up=0)
    half, twin = Half(model, dtype), Half(model, dtype, widens=True)
    losses = [trainer(**settings).fit(net, source, seed=0).epochs[0]["loss"] for net in (half, twin)]
    assert losses[0] == losses[1]
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in half.state_dict().items())


@autocast_or_slow
@bfloat16_or_slow
def test_a_selection_is_that_of_the_model_that_widens_by_itself(model, source, kind, dtype):
    selector = AdversarialCoreset(objective=Pgd(), solver=Craig(), attack=ATTACK, budget=0.3)
    chosen = selector.select(kind(model, dtype), source, seed=0)
    expected = selector.select(kind(model, dtype, widens=True), source, seed=0)
    assert torch.equal(chosen.indices, expected.indices) and torch.equal(chosen.weights, expected.weights)


@pytest.mark.parametrize("name", GRADIENTS)
def test_rows_and_scores_are_float32_or_wider(model, source, name):
    settings = MeasurementSettings(
        objective=Pgd(), attack=ATTACK, stream=Stream(seed=0, purpose="half"), ledger=CostLedger()
    )
    rows = [
        GRADIENTS[name].measure(Half(model, torch.bfloat16, widens=widens), source, settings).rows.dense()
        for widens in (False, True)
    ]
    assert rows[0].dtype in (torch.float32, torch.float64) and torch.equal(*rows)


@bfloat16_or_slow
def test_our_own_autocast_around_it_changes_nothing(model, source, dtype):
    nets = [Half(model, dtype, widens=widens) for widens in (False, True)]
    for net in nets:
        trainer(speed=Speed(autocast="bfloat16")).fit(net, source, seed=0)
    assert all(torch.equal(*values) for values in zip(*(net.state_dict().values() for net in nets), strict=True))


@bfloat16_or_slow
def test_a_caller_s_autocast_reaches_neither_passes_nor_arithmetic(model, source, dtype):
    def run(net):
        result = evaluate(net, source, [ATTACK], keep_examples=True)
        chosen = AdversarialCoreset(objective=Pgd(), solver=Craig(), attack=ATTACK, budget=0.3).select(
            net, source, seed=0
        )
        trainer().fit(net, source, seed=0)
        return [result.examples["0"], chosen.indices, chosen.weights, *net.state_dict().values()]

    expected = run(copy.deepcopy(model))
    with torch.autocast("cpu", dtype):
        result = run(model)
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == dtype
    assert all(map(torch.equal, result, expected))


@pytest.mark.parametrize("kind", [Half, InAnObject])
def test_a_loop_of_one_s_own_may_attack_the_model_itself(model, source, kind):
    half, twin = kind(model, torch.bfloat16).eval(), Half(model, torch.bfloat16, widens=True).eval()
    x, y = source._images[:8], source.labels()[:8]
    numbers = Stream(seed=0, purpose="attack").at(torch.arange(8))
    moved = [perturb(net, Pgd(), ATTACK, x, y, generator=numbers) for net in (half, twin)]
    assert torch.equal(*moved) and not torch.equal(moved[0], x)


@each_dtype
def test_a_caller_s_autocast_keeps_no_weights_of_the_step_before(model, source, dtype):
    """A model with an autocast of its own, inside of another, would read them."""
    nets = [Half(model, dtype) for _ in range(2)]
    trainer().fit(nets[0], source, seed=0)
    with torch.autocast("cpu", dtype):
        nets[1].eval()(torch.rand(2, 1, 8, 8))
        trainer().fit(nets[1].train(), source, seed=0)
        assert torch.is_autocast_cache_enabled()
    assert all(torch.equal(*values) for values in zip(*(net.state_dict().values() for net in nets), strict=True))


# ---- underflow ----


class Confident(nn.Module):
    """Is right with a margin: the gradient of its loss is e^-margin, and much less in the upper rows of an image."""

    def __init__(self, dtype, margin=6.0, *, widens=False):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(256, 2)
        self.dtype = dtype
        self.widens = widens
        with torch.no_grad():
            self.stem.weight.fill_(0.3)
            self.head.weight.view(2, 4, 8, 8)[:, :, :4] *= 1e-5
            self.head.bias.copy_(torch.tensor([margin, 0.0]))

    def head_alone(self):
        return nn.Sequential(self.stem, nn.Flatten(), nn.Linear(256, 2))

    def forward(self, x):
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.head(self.stem(x).flatten(1))
        return logits.float() if self.widens else logits


@pytest.fixture
def easy() -> Resident:
    return Resident(torch.rand(32, 1, 8, 8), torch.zeros(32, dtype=torch.long))


@pytest.mark.parametrize("widens", [False, True])
@pytest.mark.parametrize("checks", [False, True])
def test_gradients_that_underflow_are_flagged_unasked(easy, widens, checks):
    result = evaluate(Confident(torch.float16, widens=widens), easy, [ATTACK], checks=checks)
    told = [flag for flag in result.flags if flag.startswith("underflow")]
    (line,) = told
    # about 36.5 %: which way that is rounded depends on how a CPU adds in float16
    assert re.fullmatch("underflow: 3[67] % of the input gradient's entries underflow to 0 in .* float16", line)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Confident(torch.float32),
        lambda: Confident(torch.bfloat16),
        lambda: Half(Confident(torch.float32).head_alone(), torch.float16),
        lambda: Confident(torch.float32, margin=60.0),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
    ],
    ids=["float32", "bfloat16", "float16 without small weights", "saturated", "linear"],
)
def test_other_gradients_are_not(easy, build):
    result = evaluate(build(), easy, [ATTACK])
    assert not [flag for flag in result.flags if flag.startswith("underflow")]


def test_without_an_attack_no_gradient_is_needed(easy):
    assert evaluate(Confident(torch.float16), easy).flags == ()


def test_training_says_it_once_in_an_event(easy):
    net = Confident(torch.float16)
    settings = {"schedule": Schedule(epochs=3), "optimizer": SGD(lr=1e-6), "batch_size": 16}
    trained = trainer(**settings).fit(net, easy, easy, seed=0)
    assert [(event["epoch"], event["kind"]) for event in trained.events] == [(0, "underflow")]
    assert "underflow to 0 in the model's float16" in trained.events[0]["event"]


def test_the_look_counts_no_pass(easy):
    net = Confident(torch.float16)
    ledger = CostLedger()
    evaluate(net, easy, [ATTACK], ledger=ledger)
    assert ledger.passes["evaluation"] == {"forward": 32 + 3 * 32, "backward": 2 * 32}
    _, x, y = next(easy.batches([torch.arange(4)]))
    assert len(flag_underflow(net, x, y)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_look_draws_no_random_number_that_training_would(easy, dtype, monkeypatch):
    class Noisy(Confident):
        def forward(self, x):
            return super().forward(x + 1e-3 * torch.rand_like(x))

    nets = [Noisy(dtype) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    trainer(schedule=Schedule(epochs=2), batch_size=16).fit(nets[0], easy, easy, seed=0)
    monkeypatch.setattr("advcore.training.epoch.flag_underflow", lambda *_: [])
    monkeypatch.setattr("advcore.evaluation.checks.flag_underflow", lambda *_: [])
    trainer(schedule=Schedule(epochs=2), batch_size=16).fit(nets[1], easy, easy, seed=0)
    assert all(torch.equal(*values) for values in zip(*(net.state_dict().values() for net in nets), strict=True))
