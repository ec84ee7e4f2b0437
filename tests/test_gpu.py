"""What must hold on a CUDA device too; run with -m gpu."""

import copy
import tempfile
from dataclasses import replace

import pytest
import torch
from examples import suit_start
from torch import nn

from advcore import AdversarialCoreset
from advcore.adversary import perturb
from advcore.attacks import L2PGD, LinfPGD
from advcore.cost import CostLedger
from advcore.data.augment import crop_flip
from advcore.data.source import Resident
from advcore.errors import NonFiniteError
from advcore.files import pack, unpack
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows
from advcore.minibatch import RULES
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.runtime.precision import PLAIN, Speed
from advcore.selection.memory import estimate
from advcore.selection.partition import PARTITIONS
from advcore.selection.rows_from import Refresh
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, GradMatch
from advcore.training import SGD, Adam
from advcore.training.gate import Gate
from advcore.training.loop import Listener
from advcore.training.trainer import Trainer

pytestmark = pytest.mark.gpu


def test_streams_draw_the_same_numbers_on_both_devices():
    stream, indices = Stream(seed=1, purpose="x"), torch.arange(50)
    for draw in (lambda s: s.bits(9), lambda s: s.uniform((50, 9)), lambda s: s.permutation()):
        assert torch.equal(draw(stream.at(indices)), draw(stream.at(indices.cuda())).cpu())
    torch.testing.assert_close(stream.at(indices).normal((50, 9)), stream.at(indices.cuda()).normal((50, 9)).cpu())


def test_augmentation_is_the_same_on_both_devices():
    x, stream, indices = torch.rand(8, 3, 16, 16), Stream(seed=1, purpose="x"), torch.arange(8)
    assert torch.equal(crop_flip(x, stream.at(indices)), crop_flip(x.cuda(), stream.at(indices.cuda())).cpu())


@pytest.mark.parametrize("attack", [LinfPGD(eps=0.1), L2PGD(eps=0.5)], ids=lambda a: a.norm)
def test_attacks_stay_in_their_ball(model, source, attack):
    model, x = model.cuda().eval(), source._images.cuda()
    generator = Stream(seed=0, purpose="x").at(torch.arange(len(x)).cuda())
    x_adv = attack(lambda z: model(z).logsumexp(1), x, generator=generator)
    assert float(attack.excess(x, x_adv).max()) <= 1e-6 and 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("solver", [Craig(), GradMatch()], ids=lambda s: type(s).__name__)
def test_a_selection_on_the_device_is_that_of_the_cpu(model, source, solver):
    chooser = AdversarialCoreset(objective=Trades(), attack=LinfPGD(eps=0.1), solver=solver, budget=0.25)
    double = Resident(source._images.double(), source.labels())
    here = chooser.select(model.double(), double, seed=0)
    there = chooser.select(model.cuda(), Resident(source._images.double(), source.labels(), "cuda"), seed=0)
    assert torch.equal(here.indices, there.indices)
    torch.testing.assert_close(here.weights, there.weights, rtol=1e-4, atol=1e-6)


# ---- rows and selections: 96 examples of 4 classes, a head of 24 inputs ----


def rows_of(model, source, objective, folder=None) -> FactoredRows:
    settings = {"objective": objective, "attack": LinfPGD(eps=0.1, steps=2), "chunk_size": 32, "folder": folder}
    stream = Stream(seed=0, purpose="selection")
    return last_layer_rows(model, source, MeasurementSettings(stream=stream, ledger=CostLedger(), **settings)).rows


def on_cuda(source, dtype=torch.float32) -> Resident:
    return Resident(source._images.to(dtype), source.labels(), "cuda")


def limited(chooser: AdversarialCoreset) -> AdversarialCoreset:
    """The same, with a limit that it exceeds, but not with its rows in a file."""
    found = estimate(chooser, counts=[40, 30, 20, 6], classes=4, features=24)
    return replace(chooser, memory_limit=(found.peak - found.rows / 2) / 1e9)


def chooser(solver, **settings) -> AdversarialCoreset:
    settings = {"attack": LinfPGD(eps=0.1, steps=2), "budget": 0.25, "block_size": 16, **settings}
    return AdversarialCoreset(objective=Trades(), solver=solver, **settings)


@pytest.mark.parametrize("objective", [Standard(), Pgd(), Trades()], ids=lambda o: type(o).__name__)
def test_rows_measured_on_the_device_are_the_cpus(model, source, objective):
    double = Resident(source._images.double(), source.labels())
    here = rows_of(model.double(), double, objective)
    there = rows_of(model.cuda(), on_cuda(source, torch.float64), objective)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.dense().cpu(), here.dense(), rtol=1e-5, atol=1e-6)


def test_float32_rows_of_the_device_are_the_cpus_within_rounding(model, source):
    """Of an objective without an attack: signs of gradients near zero may differ between devices."""
    here = rows_of(model, source, Standard())
    there = rows_of(model.cuda(), on_cuda(source), Standard())
    torch.testing.assert_close(there.dense().cpu(), here.dense(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("solver", [Craig(), GradMatch(), GradMatch(ridge=0)], ids=str)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_partition_picks_on_the_device_what_it_picks_on_the_cpu(model, source, solver, partition):
    given = chooser(solver, partition=partition)
    there = given.select(copy.deepcopy(model).double().cuda(), on_cuda(source, torch.float64), seed=0)
    here = given.select(model.double(), Resident(source._images.double(), source.labels()), seed=0)
    assert torch.equal(here.indices, there.indices)
    torch.testing.assert_close(here.weights, there.weights, rtol=1e-4, atol=1e-6)


def test_the_classes_of_a_selection_are_solved_as_one_batch(model, source):
    class Together(GradMatch):
        def together(self, tasks):
            batches.append([task.rows.device.type for task in tasks])
            return super().together(tasks)

    batches: list[list[str]] = []
    chooser(Together()).select(model.cuda(), on_cuda(source), seed=0)
    assert batches == [["cuda"] * 4]


def test_rows_from_the_device_in_a_file_are_on_the_cpu_and_the_same(model, source, tmp_path):
    model, there = model.cuda(), on_cuda(source)
    held, filed = (rows_of(model, there, Standard(), folder) for folder in (None, tmp_path))
    assert (held.device.type, filed.device.type) == ("cuda", "cpu") and not list(tmp_path.iterdir())
    for one, two in zip((*held.residuals, *held.features), (*filed.residuals, *filed.features), strict=True):
        torch.testing.assert_close(one.cpu(), two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", [Craig(), GradMatch()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_rows_in_a_file_are_solved_on_the_cpu_to_the_same_coreset(
    model, source, solver, partition, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, there, given = model.double().cuda(), on_cuda(source, torch.float64), chooser(solver, partition=partition)
    held, filed = given.select(model, there, seed=0), limited(given).select(model, there, seed=0)
    assert held.events == () and len(filed.events) == 1 and not list(tmp_path.iterdir())
    assert torch.equal(held.indices, filed.indices)
    torch.testing.assert_close(held.weights, filed.weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spill", [False, True])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_validation_rows_are_matched_on_the_device_as_on_the_cpu(model, source, partition, spill):
    given = chooser(GradMatch(), partition=partition, target="validation")
    given = limited(given) if spill else given
    here, there = Resident(source._images.double(), source.labels()), on_cuda(source, torch.float64)
    one = given.select(copy.deepcopy(model).double().cuda(), there, seed=0, validation=there)
    two = given.select(model.double(), here, seed=0, validation=here)
    assert torch.equal(one.indices, two.indices)
    assert one.quality["target_error"] == pytest.approx(two.quality["target_error"], rel=1e-4)


def test_rows_on_the_device_serve_a_selection_whose_validation_rows_are_in_a_file(model, source):
    model, there = model.cuda(), on_cuda(source)
    kept = rows_of(model, there, Trades())
    given = chooser(GradMatch(), target="validation")
    held = given.select(model, there, seed=0, validation=there, rows=kept)
    filed = limited(given).select(model, there, seed=0, validation=there, rows=kept)
    assert torch.equal(held.indices, filed.indices)


# ---- rows that are caught in training ----


@pytest.mark.parametrize("place", ["device", "host", "disk"])
@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
def test_rows_caught_on_the_device_lead_to_the_coresets_of_the_cpu(model, source, place, objective):
    attack = LinfPGD(eps=0.1, steps=2)
    selector = AdversarialCoreset(
        objective=objective,
        attack=attack,
        solver=GradMatch(),
        rows_from="training",
        rows_place=place,
        refresh=Refresh(share=0.3),
        block_size=32,
        full_examples=20,
    )
    schedule = Schedule(epochs=6, budget=0.5, warm_start=0.5, period=2)
    how = {"schedule": schedule, "selector": selector, "optimizer": SGD(lr=0.05), "batch_size": 32}
    trainer = Trainer(objective=objective, attack=attack, **how)
    double = Resident(source._images.double(), source.labels())
    here = trainer.fit(copy.deepcopy(model).double(), double, seed=0)
    there = trainer.fit(model.double().cuda(), on_cuda(source, torch.float64), seed=0)
    assert [c.indices.tolist() for c in here.coresets] == [c.indices.tolist() for c in there.coresets]
    assert here.ledger.passes == there.ledger.passes
    assert [entry["rows"] for entry in here.epochs] == [entry["rows"] for entry in there.epochs]


# ---- minibatch rules ----


@pytest.mark.parametrize("name", RULES)
def test_every_rule_picks_on_the_device_what_it_picks_on_the_cpu(model, source, name):
    rule = RULES[name](**({"queue": True, "look": "eval", "probed": 8} if name == "loss_ranked" else {}))
    schedule = Schedule(epochs=3, budget=0.5, warm_start=0.4)
    made = Trainer(
        objective=Pgd(),
        attack=suit_start(rule, LinfPGD(eps=0.1, steps=2)),
        minibatch=rule,
        schedule=schedule,
        selector=replace(chooser(GradMatch()), objective=Pgd(), budget=0.5),
        optimizer=SGD(lr=0.05),
        batch_size=16,
    )
    double = Resident(source._images.double(), source.labels())
    here = made.fit(copy.deepcopy(model).double(), double, seed=0)
    there = made.fit(model.double().cuda(), on_cuda(source, torch.float64), seed=0)
    assert there.ledger.passes == here.ledger.passes
    for one, other in zip(here.epochs, there.epochs, strict=True):
        assert one["minibatch"].keys() == other["minibatch"].keys()
        for key, value in one["minibatch"].items():
            assert value == pytest.approx(other["minibatch"][key], abs=1e-6), key
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.mark.parametrize("name", [name for name, gradient in GRADIENTS.items() if gradient.is_scalar])
def test_scores_taken_on_the_device_are_the_cpus(model, source, name):
    how = {"objective": Pgd(), "attack": LinfPGD(eps=0.1, steps=2), "stream": Stream(seed=0, purpose="scoring")}
    double = Resident(source._images.double(), source.labels())
    here = GRADIENTS[name].measure(model.double(), double, MeasurementSettings(ledger=CostLedger(), **how))
    there = GRADIENTS[name].measure(
        model.cuda(), on_cuda(source, torch.float64), MeasurementSettings(ledger=CostLedger(), **how)
    )
    torch.testing.assert_close(there.rows.dense().cpu(), here.rows.dense(), rtol=1e-5, atol=1e-6)


WAYS = {
    "default": Speed(),
    "float32": Speed(autocast="none"),
    "compiled": Speed(compiled=True),
    "looking at every step": Speed(deferred=False),
    "attacks as graphs": Speed(graphed=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_be_fast_trains_to_the_accuracy_of_the_plain_one(model, source, way):
    found = []
    for speed in (PLAIN, WAYS[way]):
        made = Trainer(
            objective=Trades(),
            attack=LinfPGD(eps=0.05, steps=3),
            schedule=Schedule(epochs=4),
            optimizer=SGD(lr=0.05),
            batch_size=16,
            speed=speed,
        )
        own = Resident(source._images, source.labels(), "cuda")
        found.append(made.fit(copy.deepcopy(model).cuda(), own, own, seed=0))
    plain, fast = found
    assert fast.ledger.passes["attack"] == plain.ledger.passes["attack"]
    assert fast.epochs[0]["loss"] == pytest.approx(plain.epochs[0]["loss"], rel=0.05)
    assert all(seconds >= 0 for seconds in fast.ledger.seconds.values()) and fast.ledger.seconds["attack"] > 0


@pytest.mark.parametrize("rule", [None, *(name for name in RULES if name != "bullettrain")])
def test_no_step_waits_for_the_device(model, source, rule):
    """Between the second and the last step of an epoch nothing is read back. BulletTrain's groups must be counted."""
    settings = {} if rule in (None, "random_mix", "free", "infobatch") else {"warm_up": 0}
    rule = rule and RULES[rule](**settings)
    own = Resident(source._images, source.labels(), "cuda")
    made = Trainer(
        objective=Pgd() if rule else Trades(),
        attack=suit_start(rule, LinfPGD(eps=0.05, steps=2)),
        minibatch=rule,
        ema=0.9,
        schedule=Schedule(epochs=2),
        optimizer=SGD(lr=0.05),
        batch_size=16,
    )

    def on_progress(phase: str, done: int, total: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if 1 <= done < total - 1 else "default")

    try:
        made.fit(model.cuda(), own, seed=0, listener=Listener(on_progress=on_progress))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), Adam(lr=0.01)], ids=["sgd", "adam"])
def test_a_run_from_a_file_goes_on(model, source, optimizer):
    """A fused step refuses moments that do not lie as their weights do."""
    own, states = Resident(source._images.expand(-1, 3, -1, -1), source.labels(), "cuda"), []
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    how = {"objective": Pgd(), "attack": LinfPGD(eps=0.05, steps=2), "schedule": Schedule(epochs=3)}
    made = Trainer(**how, optimizer=optimizer, batch_size=16, ema=0.9)
    listener = Listener(on_checkpoint=lambda state: states.append(unpack(pack(state()))))
    whole = made.fit(copy.deepcopy(net).cuda(), own, seed=0, listener=listener)
    again = made.fit(copy.deepcopy(net).cuda(), own, seed=0, resume=states[1])
    assert again.epochs[2]["loss"] == pytest.approx(whole.epochs[2]["loss"], rel=0.05)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_on_the_device(model, source, bad):
    net, gate = model.cuda(), Gate(torch.device("cuda"))
    optimizer = SGD(lr=0.1).build(net, fused=True)
    before = [p.detach().clone() for p in net.parameters()]
    loss = bad * sum(p.sum() for p in net.parameters())
    loss.backward()
    gate.step(optimizer, torch.isfinite(loss), lambda: "step 0")
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    with pytest.raises(NonFiniteError, match="step 0"):
        gate.look()


def test_rows_in_bfloat16_are_near_those_in_float32(model, source):
    own, rows = Resident(source._images, source.labels(), "cuda"), []
    for speed in (PLAIN, Speed().resolve(torch.device("cuda"))):
        with speed.activate():
            found = last_layer_rows(
                speed.lay_out(copy.deepcopy(model).cuda()),
                own,
                MeasurementSettings(
                    objective=Trades(),
                    attack=LinfPGD(eps=0.05, steps=3),
                    stream=Stream(seed=0, purpose="selection"),
                    ledger=CostLedger(),
                ),
            )
        rows.append(found.rows.dense())
    assert float((rows[1] - rows[0]).norm() / rows[0].norm()) < 0.25


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("attack", [LinfPGD(eps=0.1, steps=5, start="gaussian"), L2PGD(eps=0.5, steps=3)], ids=str)
def test_an_attack_as_one_graph_ends_where_the_plain_one_does(model, source, objective, attack):
    """Also after the weights have changed, which the graph reads where they lie."""
    model, source = model.cuda().eval(), on_cuda(source)
    images, labels, ledger = source._images, source.labels().cuda(), CostLedger()
    x_advs = {}
    for graphed in (False, True):
        net, found = copy.deepcopy(model), []
        with replace(Speed().resolve(images.device), graphed=graphed).activate(), ledger.phase("attack"):
            for turn in range(4):
                generator = Stream(seed=turn, purpose="x").at(torch.arange(len(images)).cuda())
                found.append(perturb(ledger.count_passes(net), objective, attack, images, labels, generator=generator))
                with torch.no_grad():
                    [parameter.mul_(1.5) for parameter in net.parameters()]
        x_advs[graphed] = found
    for plain, at_once in zip(*x_advs.values(), strict=True):
        torch.testing.assert_close(at_once, plain, rtol=0, atol=0)
