"""Every way to be faster gives what the plain way gives, up to rounding."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import ATTACKS, LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError, NonFiniteError
from advcore.files import pack, unpack
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows
from advcore.minibatch import RULES
from advcore.minibatch.base import is_reattack
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.runtime import precision as speed
from advcore.runtime.precision import Speed, run_model
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD, Adam
from advcore.training.epoch import EpochTrainer
from advcore.training.gate import Gate
from advcore.training.loop import Listener
from advcore.training.lr import Constant

CPU, ATTACK = torch.device("cpu"), LinfPGD(eps=0.1, steps=2)
WAYS = {
    "channels last": (Speed(channels_last=True), 1e-5),
    "fused": (Speed(fused=True), 1e-5),
    "deferred": (Speed(deferred=True), 1e-5),
    "compiled": (Speed(compiled=True), 1e-5),
    "bfloat16": (Speed(autocast="bfloat16"), 0.05),
    "all": (Speed(autocast="bfloat16", channels_last=True, compiled=True, deferred=True), 0.05),
}

QUICK = [way for way in WAYS if not WAYS[way][0].compiled]


@pytest.fixture(autouse=True)
def no_compiler(request, monkeypatch):
    """Tracing is tested, not the code that a compiler makes of it, where a test does not ask for that."""
    if "compiler" in request.fixturenames:
        yield
        return
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend="eager"))
    speed._compile.cache_clear()
    yield
    speed._compile.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def shared_traces():
    """Keep what was traced for one test for the next, and fail where the tracer would give up and run it untraced."""
    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def plain_results() -> dict:
    """What the plain way gave, by what was asked of it: all other ways are compared with it."""
    return {}


def trained(model, source, how, optimizer=None, objective=None, **more):
    chooser = AdversarialCoreset(
        objective=objective or Trades(), attack=ATTACK, solver=GradMatch(), budget=0.5, chunk_size=32
    )
    made = Trainer(
        objective=objective or Trades(),
        attack=ATTACK,
        optimizer=optimizer or SGD(lr=0.02),
        schedule=Schedule(epochs=3, budget=0.5, warm_start=0.5),
        selector=chooser,
        batch_size=32,
        speed=how,
        **more,
    )
    net = copy.deepcopy(model)
    return made.fit(net, source, source, seed=0), net


@pytest.mark.parametrize("optimizer", [SGD(lr=0.02), Adam(lr=0.002)], ids=["sgd", "adam"])
@pytest.mark.parametrize("way", [*QUICK, *(pytest.param(way, marks=pytest.mark.slow) for way in ("compiled", "all"))])
def test_training_so_is_training(model, source, way, optimizer, plain_results):
    how, tolerance = WAYS[way]
    if optimizer not in plain_results:
        plain_results[optimizer] = trained(model, source, Speed(), optimizer)[0]
    plain, (fast, _) = plain_results[optimizer], trained(model, source, how, optimizer)
    assert fast.ledger.passes["update"] == plain.ledger.passes["update"]
    assert fast.ledger.passes["attack"] == plain.ledger.passes["attack"]
    first = [out.epochs[0]["loss"] for out in (plain, fast)]
    assert first[1] == pytest.approx(first[0], rel=max(tolerance, 1e-3))  # rounding turns a sign now and then
    for name, value in plain.last.items():
        assert fast.last[name].dtype == value.dtype and fast.last[name].shape == value.shape
        if value.is_floating_point() and tolerance < 1e-3:
            torch.testing.assert_close(fast.last[name], value, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda one: type(one).__name__)
def test_rows_taken_so_are_the_rows(model, source, way, objective, plain_results):
    def rows_taken(how):
        with how.activate():
            found = last_layer_rows(
                how.lay_out(copy.deepcopy(model)),
                source,
                MeasurementSettings(
                    objective=objective,
                    attack=None if objective == Standard() else ATTACK,
                    stream=Stream(seed=0, purpose="selection"),
                    ledger=CostLedger(),
                    chunk_size=32,
                ),
            )
        assert all(part.dtype == torch.float32 for part in (*found.rows.residuals, *found.rows.features))
        return found.rows.dense()

    how, tolerance = WAYS[way]
    if objective not in plain_results:
        plain_results[objective] = rows_taken(speed.PLAIN)
    plain, fast = plain_results[objective], rows_taken(how.resolve(CPU))
    assert float((fast - plain).norm() / plain.norm()) < 5 * tolerance


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attack", [ATTACKS["linf_pgd"](eps=0.05, steps=3), ATTACKS["l2_pgd"](eps=0.5, steps=3)])
def test_an_attack_so_stays_in_its_ball_and_logits_are_float32(model, source, way, attack):
    settled, (_, x, y) = WAYS[way][0].resolve(CPU), next(source.batches([torch.arange(20)]))
    seen = []

    def loss(z):
        logits = run_model(model.eval(), z)
        seen.append(logits.dtype)
        return nn.functional.cross_entropy(logits, y, reduction="none")

    with settled.activate():
        x_adv = attack(loss, x, generator=Stream(seed=0, purpose="x").at(torch.arange(20)))
    assert set(seen) == {torch.float32} and x_adv.dtype == torch.float32
    assert float(attack.excess(x, x_adv).max()) <= 1e-6 and 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["ppgd", "lpa"])
def test_a_perceptual_attack_so_stays_in_its_ball(way, kind):
    """Also after passes that were compiled without the hooks that it reads activations by."""
    settled, ledger = WAYS[way][0].resolve(CPU), CostLedger()
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    net = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.mul_(4)
    x = torch.rand(8, 3, 12, 12)
    forward, y = ledger.count_passes(net), net(x).argmax(1)
    with settled.activate(), ledger.phase("attack"):
        z = x.clone().requires_grad_(True)
        torch.autograd.grad(forward(z).sum(), z)
        rounds = {"rounds": 2} if kind == "lpa" else {}
        attack = ATTACKS[kind](eps=0.05, steps=3, **rounds).bind(net, ledger.count_passes)
        stream = Stream(seed=0, purpose="x").at(torch.arange(8))
        x_adv = attack(lambda z: nn.functional.cross_entropy(forward(z), y, reduction="none"), x, generator=stream)
    assert not torch.equal(x_adv, x) and float(attack.excess(x, x_adv).max()) <= 1e-6


def test_outside_nothing_is_left_of_it(model, source):
    before = evaluate(copy.deepcopy(model), source, [ATTACK]).as_dict()
    with pytest.raises(KeyError), Speed(autocast="bfloat16", compiled=True).resolve(CPU).activate():
        raise KeyError
    assert speed.get_speed() == speed.PLAIN
    assert evaluate(copy.deepcopy(model), source, [ATTACK]).as_dict() == before


def test_the_defaults_of_the_cpu_are_the_plain_way_and_cudas_are_not():
    assert Speed().resolve(CPU) == speed.PLAIN
    assert Speed().resolve(torch.device("cuda")) == Speed(
        autocast="bfloat16", channels_last=True, compiled=False, fused=True, deferred=True, graphed=False
    )
    assert not Speed().resolve(torch.device("cuda"), 2).deferred
    assert Speed(deferred=True).resolve(CPU).fused


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), Adam(lr=0.01)], ids=["sgd", "adam"])
@pytest.mark.parametrize("way", QUICK)
def test_a_run_from_a_file_goes_on_to_the_same_bits(source, way, optimizer):
    """Files know no memory format; a fused step goes through memory as it lies."""
    torch.manual_seed(0)
    some = Resident(source._images[:48].expand(-1, 3, -1, -1), source.labels()[:48])
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    how = {"objective": Pgd(), "attack": ATTACK, "optimizer": optimizer, "schedule": Schedule(epochs=3), "ema": 0.9}
    made, states = Trainer(**how, batch_size=20, speed=WAYS[way][0]), []  # 20, 20 and 8 images
    listener = Listener(on_checkpoint=lambda state: states.append(unpack(pack(state()))))
    whole = made.fit(copy.deepcopy(net), some, listener=listener)
    again = made.fit(copy.deepcopy(net), some, resume=states[0])
    assert all(torch.equal(again.last[name], value) for name, value in whole.last.items())


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), Adam(lr=0.01)], ids=["sgd", "adam"])
def test_a_state_of_another_device_goes_on_in_this_ones_way(model, source, optimizer):
    how = {"objective": Pgd(), "attack": ATTACK, "optimizer": optimizer, "schedule": Schedule(epochs=3)}
    plain, deferred = Speed(), Speed(deferred=True)
    states = {plain: [], deferred: []}
    for one, seen in states.items():
        listener = Listener(on_checkpoint=lambda state, seen=seen: seen.append(state()))
        Trainer(**how, batch_size=32, speed=one).fit(copy.deepcopy(model), source, listener=listener)
    ends = []
    for one, other in ((plain, plain), (plain, deferred), (deferred, plain)):
        state = copy.deepcopy(states[one][0])
        out = Trainer(**how, batch_size=32, speed=other).fit(copy.deepcopy(model), source, resume=state)
        ends.append(out.last)
    for last in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(last[name], value, rtol=0.02, atol=0.02)


class Waits(TorchDispatchMode):
    """What would read from a CUDA device, while `on`."""

    def __init__(self):
        super().__init__()
        self.on, self.found = False, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        masks = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if self.on and (masks or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", [None, *(name for name in RULES if name != "bullettrain")])  # which counts its groups
def test_no_step_asks_the_device_for_a_number(model, source, rule, monkeypatch):
    """Between the second and the last step of an epoch; on a GPU each question is a wait."""
    settings = {} if rule in (None, "random_mix", "infobatch", "free") else {"warm_up": 0}
    rule = rule and RULES[rule](**settings)
    attack = ATTACK
    if is_reattack(rule):
        attack = ATTACK.with_settings(start="remembered")
    made = Trainer(
        objective=Pgd(),
        attack=attack,
        minibatch=rule,
        schedule=Schedule(epochs=2),
        optimizer=SGD(lr=0.02),
        batch_size=16,
        clip_norm=1.0,
        speed=Speed(autocast="bfloat16", channels_last=True, deferred=True),
    )
    with Waits() as waits:
        listener = Listener(on_progress=lambda phase, done, total: setattr(waits, "on", 1 <= done < total - 1))
        made.fit(model, Resident(source._images[:64], source.labels()[:64]), listener=listener)
    assert waits.found == []


def test_the_moving_average_is_that_of_torch(model, source, monkeypatch):
    ours = trained(model, source, Speed(), ema=0.9)[0].last
    monkeypatch.setattr(EpochTrainer, "_update_average", lambda self: self.average.update_parameters(self.run.model))
    theirs = trained(model, source, Speed(), ema=0.9)[0].last
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


class Views(nn.Module):
    """Looks at memory as channels first."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(216, 4)

    def forward(self, x):
        return self.fc(self.conv(x).view(len(x), -1))


def test_a_model_that_cannot_lie_channels_last_is_left_as_it_is(source, monkeypatch):
    with pytest.raises(ConfigError, match="channels_last must be false for this model"):
        trained(Views(), source, Speed(channels_last=True))
    as_on_cuda = speed.replace(speed.PLAIN, channels_last=True)
    monkeypatch.setattr(Speed, "resolve", lambda self, device, processes=1, family=None: as_on_cuda)
    out, _ = trained(Views(), source, Speed())
    assert out.events[0]["kind"] == "speed" and "channels-first" in out.events[0]["event"]


def test_no_compiled_model_is_kept(model, source):
    kept = weakref.ref(trained(model, source, Speed(compiled=True))[1])
    torch._dynamo.reset()
    gc.collect()
    assert kept() is None


def test_what_cannot_go_together_is_refused():
    with pytest.raises(ConfigError, match="deferred"):
        Speed(fused=False, deferred=True)
    with pytest.raises(ConfigError, match="autocast"):
        Speed(autocast="float16")


def steps(optimizer, model, gate, losses):
    """One step on each loss, a multiple of the weights' sum; the weights after each."""
    after = []
    for i, factor in enumerate(losses):
        optimizer.zero_grad()
        loss = factor * sum(p.sum() for p in model.parameters())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(model.parameters()), float("inf"))
        gate.step(optimizer, torch.isfinite(loss) & torch.isfinite(norm), lambda i=i: f"step {i}")
        after.append([p.detach().clone() for p in model.parameters()])
    return after


@pytest.mark.parametrize("kind", [SGD(lr=0.1), Adam(lr=0.1)], ids=["sgd", "adam"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_from_the_first_step_on_that_is_not_finite_none_is_applied(kind, bad):
    model = nn.Linear(3, 2)
    gate = Gate(CPU)
    after = steps(kind.build(model, fused=True), model, gate, [1.0, 2.0, bad, 1.0, bad])
    for later in after[2:]:
        assert all(torch.equal(a, b) for a, b in zip(later, after[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(after[0], after[1], strict=True))
    with pytest.raises(NonFiniteError, match="step 2; nothing was applied"):
        gate.look()


@pytest.mark.parametrize("kind", [SGD(lr=0.1), SGD(lr=0.1, nesterov=True), Adam(lr=0.1)], ids=str)
def test_a_weight_may_see_its_first_gradient_later_than_another(kind):
    ends = []
    for fused in (False, True):
        model = nn.Linear(3, 2)
        nn.init.ones_(model.weight), nn.init.ones_(model.bias)
        optimizer = kind.build(model, fused=fused)
        for _ in range(3):
            model.weight.grad = torch.full((2, 3), 0.5)
            optimizer.step()
            model.bias.grad = torch.full((2,), 0.25)
        ends.append([p.detach().clone() for p in model.parameters()])
    for plain, fast in zip(*ends, strict=True):
        torch.testing.assert_close(fast, plain)


def test_a_gate_looks_by_itself_now_and_then():
    model = nn.Linear(3, 2)
    gate = Gate(CPU)
    optimizer = SGD(lr=1e-3).build(model, fused=True)
    steps(optimizer, model, gate, [1.0] * (Gate.OFTEN + 3))
    assert len(gate._places) == 3
    with pytest.raises(NonFiniteError, match="step 1;"):
        steps(optimizer, model, gate, [1.0, float("nan")] + [1.0] * Gate.OFTEN)


def test_a_deferred_loss_that_is_not_finite_is_neither_applied_nor_saved(model, source):
    saved = []

    class Scripted(Pgd):
        """NaN from the fourth update on."""

        def loss(self, y, *, adversarial):
            found = super().loss(y, adversarial=adversarial)
            if not adversarial.requires_grad or not torch.is_grad_enabled():
                return found
            calls.append(1)
            return found * (float("nan") if len(calls) > 40 else 1.0)

    calls = []
    made = Trainer(
        objective=Scripted(),
        attack=ATTACK,
        optimizer=SGD(lr=0.02),
        schedule=Schedule(epochs=3),
        batch_size=16,
        speed=Speed(deferred=True),
    )
    listener = Listener(on_checkpoint=lambda state: saved.append(state()))
    with pytest.raises(NonFiniteError, match="epoch [12], step"):
        made.fit(model, source, seed=0, listener=listener)
    assert saved and all(torch.isfinite(v).all() for state in saved for v in state["model"].values())
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("deferred", [False, True])
def test_weights_that_a_last_step_makes_infinite_are_not_told_as_a_state(model, source, deferred):
    """Loss and gradient are finite; there is no validation that would fail."""
    told = []
    made = Trainer(
        objective=Pgd(),
        attack=ATTACK,
        optimizer=SGD(lr=3e38, weight_decay=10.0),
        lr_schedule=Constant(),
        schedule=Schedule(epochs=1),
        batch_size=96,
        speed=Speed(deferred=deferred),
    )
    listener = Listener(on_state=lambda name, state, entry: told.append(name))
    with pytest.raises(NonFiniteError, match="after epoch 0; the epoch was not saved"):
        made.fit(model, source, listener=listener)
    assert not told


@pytest.fixture
def compiler():
    """torch's own, which needs one of C++ here."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:
        pytest.skip(f"nothing can be compiled: {error}")
    torch._dynamo.reset()
    speed._compile.cache_clear()
    yield
    speed._compile.cache_clear()
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_model_gives_the_plain_ones_logits_and_gradients(compiler, model, source):
    """In either mode, with and without parameters that ask for gradients, for batches of two sizes."""
    _, x, _ = next(source.batches([torch.arange(24)]))
    found = []
    for how in (speed.PLAIN, Speed(compiled=True).resolve(CPU)):
        net, own = copy.deepcopy(model), []
        with how.activate():
            for training in (False, True):
                for learns in (False, True):
                    for size in (24, 7):
                        net.train(training).requires_grad_(learns)
                        z = x[:size].clone().requires_grad_(True)
                        logits = run_model(net, z)
                        own += [logits.detach(), torch.autograd.grad(logits.square().sum(), z)[0]]
        found.append([*own, *net.state_dict().values()])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
