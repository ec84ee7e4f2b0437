"""Attacks as graphs. Where there is no CUDA, a recording is played back by doing its work again, on the copies of the
inputs that it was made on; tests/test_gpu.py has the real ones."""

import copy

import pytest
import torch

from advcore import AdversarialCoreset, Trainer
from advcore.adversary import perturb
from advcore.attacks import ATTACKS, LinfPGD
from advcore.cost import CostLedger
from advcore.errors import ConfigError
from advcore.objectives import Pgd, Trades
from advcore.rng import Stream
from advcore.runtime import cuda_graphs as graphs
from advcore.runtime import precision as speed
from advcore.runtime.out_of_memory import Pieces
from advcore.runtime.precision import Speed
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch
from advcore.training import SGD

CPU, ATTACK = torch.device("cpu"), LinfPGD(eps=0.1, steps=3, start="gaussian")


@pytest.fixture
def recordings(monkeypatch):
    """What was recorded, by how often each was played back."""
    played = []

    def captured(work, device):
        output, number = work(), len(played)
        played.append(0)

        def run():
            played[number] += 1
            output.copy_(work())

        return run, output

    monkeypatch.setattr(graphs, "capture_graph", captured)
    monkeypatch.setattr(speed, "has_graphs", lambda device: True)
    yield played
    graphs.forget()


def attacked(model, source, objective, attack, how, turns=4):
    """x_adv of several turns, the weights moved between them, and what the ledger counted."""
    net, ledger, found = copy.deepcopy(model).eval(), CostLedger(), []
    with how.resolve(CPU).activate(), ledger.phase("attack"):
        for turn in range(turns):
            generator = Stream(seed=turn, purpose="x").at(torch.arange(len(source)))
            found.append(
                perturb(
                    ledger.count_passes(net), objective, attack, source._images, source.labels(), generator=generator
                )
            )
            with torch.no_grad():
                [parameter.mul_(1.5) for parameter in net.parameters()]
    return found, ledger.passes


@pytest.mark.parametrize("objective", [Pgd(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("attack", [ATTACK, ATTACKS["l2_pgd"](eps=0.5, steps=2)], ids=lambda a: a.norm)
def test_a_replayed_attack_is_the_plain_one_and_counts_the_same(model, source, recordings, objective, attack):
    plain, counted = attacked(model, source, objective, attack, Speed())
    assert not recordings
    at_once, also = attacked(model, source, objective, attack, Speed(graphed=True))
    assert recordings == [3]  # of 4 turns, the first as it stands
    assert also == counted
    for one, other in zip(plain, at_once, strict=True):
        assert torch.equal(one, other)
    assert at_once[2].data_ptr() != at_once[3].data_ptr()


def trained(model, source, how):
    chooser = AdversarialCoreset(objective=Trades(), attack=ATTACK, solver=GradMatch(), budget=0.5, chunk_size=32)
    made = Trainer(
        objective=Trades(),
        attack=ATTACK,
        optimizer=SGD(lr=0.02),
        schedule=Schedule(epochs=4, budget=0.5, warm_start=0.5),
        selector=chooser,
        batch_size=20,
        speed=how,
    )
    net = copy.deepcopy(model)
    return made.fit(net, source, source, seed=0), net


def test_a_run_by_graphs_is_the_plain_run(model, source, recordings):
    plain, net = trained(model, source, Speed())
    at_once, same = trained(model, source, Speed(graphed=True))
    assert sum(recordings) > len(recordings) > 1  # whole batches, the epoch's last, the selection's chunks
    assert at_once.ledger.passes == plain.ledger.passes
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), same.parameters(), strict=True))
    assert not graphs._recordings  # nothing is held once the run is over


def test_another_attack_or_shape_or_mode_is_another_graph(model, source, recordings):
    net, ledger = model.eval(), CostLedger()
    forward, y = ledger.count_passes(net), source.labels()

    def once(attack=ATTACK, count=96):
        generator = Stream(seed=0, purpose="x").at(torch.arange(count))
        perturb(forward, Pgd(), attack, source._images[:count], y[:count], generator=generator)

    with Speed(graphed=True).resolve(CPU).activate(), ledger.phase("attack"):
        for attack, count in ((ATTACK, 96), (ATTACK, 50), (ATTACK.scale(0.5), 96), (ATTACK, 96), (ATTACK, 50)):
            once(attack, count)
        assert recordings == [1, 1]
        net.train()
        [once() for _ in range(3)]
        assert recordings == [1, 1]  # a model that learns while it is attacked is attacked as it stands
        net.eval()
        [once(ATTACK.with_settings(restarts=2)) for _ in range(3)]
        assert recordings == [1, 1]  # so are several restarts
        [once(count=count) for count in (10, 20, 30, 40) for _ in range(2)]
        assert len(graphs._recordings) == 4


def moved(net):
    net.to(torch.float64).to(torch.float32)


def replaced(net):
    net.load_state_dict({name: value.clone() for name, value in net.state_dict().items()}, assign=True)


def laid_out(net):
    net.to(memory_format=torch.channels_last)


def changed(net):
    net.load_state_dict({name: 0.5 * value for name, value in net.state_dict().items()})


@pytest.mark.parametrize(("how", "graphs_made"), [(moved, 2), (replaced, 2), (laid_out, 2), (changed, 1)])
def test_weights_that_lie_elsewhere_are_another_graph(source, recordings, how, graphs_made):
    """The one before would read what is no longer theirs."""
    net, ledger, y = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten()), CostLedger(), source.labels()
    net.append(torch.nn.LazyLinear(4))
    net(source._images)
    forward = ledger.count_passes(net.eval())
    with Speed(graphed=True).resolve(CPU).activate(), ledger.phase("attack"):
        for change in (lambda net: None, how):
            change(net)
            for _ in range(3):
                stream = Stream(seed=0, purpose="x").at(torch.arange(len(source)))
                perturb(forward, Pgd(), ATTACK, source._images, y, generator=stream)
    assert len(recordings) == graphs_made


def test_an_objective_without_a_hash_is_attacked_as_it_stands(model, source, recordings):
    class Own(Pgd):
        __hash__ = None

    found, _ = attacked(model, source, Own(), ATTACK, Speed(graphed=True))
    plain, _ = attacked(model, source, Pgd(), ATTACK, Speed())
    assert not recordings and all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))


def test_memory_that_runs_out_lets_go_of_graphs(model, source, recordings):
    def work(piece):
        if piece.stop - piece.start > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert not graphs._recordings

    with Speed(graphed=True).resolve(CPU).activate():
        graphs._recordings["a graph"] = None
        Pieces(64).run(64, work)


def test_what_cannot_be_recorded_is_said_in_a_line(model, source, recordings, monkeypatch):
    def refused(work, device):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphs, "capture_graph", refused)
    with pytest.raises(ConfigError) as caught:
        attacked(model, source, Pgd(), ATTACK, Speed(graphed=True))
    assert "speed.graphed must be false" in str(caught.value) and "not permitted" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hidden", [False, True])
def test_memory_that_runs_out_while_recording_is_left_to_who_can_halve_the_chunk(
    model, source, recordings, monkeypatch, hidden
):
    def short(work, device):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            if hidden:  # as the end of a capture may
                raise RuntimeError("capture was invalidated")

    monkeypatch.setattr(graphs, "capture_graph", short)
    with pytest.raises(torch.OutOfMemoryError):
        attacked(model, source, Pgd(), ATTACK, Speed(graphed=True))
    assert all(one is None for one in graphs._recordings.values())


def test_a_cpu_has_no_graphs():
    with pytest.raises(ConfigError, match="graphed must be null or false on a cpu"):
        Speed(graphed=True).resolve(CPU)
