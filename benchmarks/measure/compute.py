"""Measure whether seconds follow floating-point operations: of attack steps, of updates and of selections.

python benchmarks/measure/compute.py [--quick]

The kinds of work take turns, so that a change of the machine's speed affects all of them; medians are reported. Work is
counted as a run counts it (`CostLedger`), and done as a run does it by default on this device. The record goes to
benchmarks/records/compute.json.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from records import save
from steps import batch_of, pictures, seeded_network
from torch import nn

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.objectives import Pgd
from advcore.rng import Stream
from advcore.run.environment import describe_environment
from advcore.runtime.heap import keep_freed_memory
from advcore.runtime.precision import Speed
from advcore.selection.coreset import AdversarialCoreset
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.step import Learner

EPS = 8 / 255
STEPS = 10
NETWORKS = {
    "small CNN": ("small_cnn", {"width": 16}, 128, 1024, 15, None),
    "small CNN, channels first": ("small_cnn", {"width": 16}, 128, 1024, 15, False),
    "ResNet-18": ("resnet18", {}, 32, 64, 5, None),
}
"""By the name in the page: name and settings of the network, images of a step and of a selection, rounds, and the
memory layout (`Speed.channels_last`; None as advcore chooses it)."""


def build_steps(model: nn.Module, size: int) -> dict[str, Callable[[CostLedger], object]]:
    """Return an attack of `STEPS` steps and an update of `STEPS` batches, each as training does it, given a ledger."""
    device = torch.device("cpu")
    x, y = batch_of(size, device)
    stream = Stream(seed=0, purpose="attack").at(torch.arange(size))
    optimizer = SGD(lr=1e-3).build(model)
    weights = torch.ones(size)

    def learner(ledger: CostLedger) -> Learner:
        attack = LinfPGD(eps=EPS, steps=STEPS)
        return Learner(model=model, objective=Pgd(), attack=attack, optimizer=optimizer, ledger=ledger)

    def update(ledger: CostLedger) -> None:
        trainer = learner(ledger)
        for _ in range(STEPS):
            trainer.update(lambda forward: trainer.loss(forward, x, x, y, weights), device, str)

    return {"attack step": lambda ledger: learner(ledger).perturb(x, y, stream), "update": update}


def time_steps(model: nn.Module, size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return {kind of step: {seconds, flops}}, each of one step on one batch."""
    works = build_steps(model, size)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    flops = {}
    for i in range(rounds + 1):
        for name, work in works.items():
            ledger = CostLedger()
            started = time.perf_counter()
            work(ledger)
            if i > 0:  # the first round warms up
                seconds[name].append((time.perf_counter() - started) / STEPS)
            flops[name] = ledger.sum_flops() / STEPS
    return {name: {"seconds": statistics.median(seconds[name]), "flops": flops[name]} for name in works}


def time_selection(model: nn.Module, examples: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return {phase: {seconds, flops}} of a selection, for its attack, its rows, and its solve."""
    source = pictures(examples, torch.device("cpu"))
    selector = AdversarialCoreset(
        objective=Pgd(), solver=GradMatch(), attack=LinfPGD(eps=EPS, steps=STEPS), partition="per_class", budget=0.3
    )
    phases: dict[str, list[float]] = {"attack": [], "rows": [], "solve": []}
    flops = {}
    for i in range(rounds + 1):
        ledger = CostLedger()
        selector.select(model, source, seed=0, ledger=ledger)
        for phase, values in phases.items():
            if i > 0:
                values.append(ledger.seconds[phase])
            flops[phase] = ledger.flops[phase]
    return {phase: {"seconds": statistics.median(phases[phase]), "flops": flops[phase]} for phase in phases}


def main(*, quick: bool) -> None:
    keep_freed_memory()  # as the command line does
    device = torch.device("cpu")
    results = {}
    for name, (network, settings, size, examples, rounds, channels_last) in NETWORKS.items():
        if quick:
            rounds = 2
        model = seeded_network(network, **settings)
        speed = Speed(channels_last=channels_last).resolve_for(model, batch_of(2, device)[0])
        with speed.activate():
            model = speed.lay_out(model)
            steps = time_steps(model, size, rounds)
            selection = time_selection(model, examples, max(1, rounds // 3))
        results[name] = {"batch": size, "examples": examples, "rounds": rounds, "speed": speed.record(device)}
        results[name] |= {"steps": steps, "selection": selection}
        print(name, results[name], flush=True)
    record = {"environment": describe_environment(device), "steps": STEPS, "networks": results}
    save("compute", record, quick=quick)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
