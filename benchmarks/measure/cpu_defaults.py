"""Measure which settings are faster on a CPU, by model family, for the installed torch.

python benchmarks/measure/cpu_defaults.py [--quick]

The record goes to benchmarks/records/cpu_defaults/torch-MAJOR.MINOR.json; `make pages` writes the table of
advcore/runtime/cpu_defaults.py from all of them. Run it with each release of torch, in a separate environment. One
thread, freed memory kept, seconds of processor time; both layouts, and the optimiser's step with and without `fused`,
take turns. Ten minutes.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from cpu import processor
from records import save
from steps import STEPS
from torch import Tensor, nn

from advcore.models import MODELS
from advcore.run.environment import describe_environment
from advcore.runtime.heap import keep_freed_memory
from advcore.training import SGD, Adam

CASES = [
    ("small_cnn", {"width": 16}, (1, 8, 8), 64),
    ("small_cnn", {"width": 16}, (3, 32, 32), 128),
    ("small_cnn", {"width": 64}, (3, 32, 32), 32),
    ("alexnet_cifar", {}, (3, 32, 32), 32),
    ("resnet18", {"stem": "cifar"}, (3, 32, 32), 8),
    ("resnet18", {"stem": "imagenet"}, (3, 64, 64), 16),
    ("resnet50", {"stem": "cifar"}, (3, 32, 32), 4),
    ("preact_resnet18", {}, (3, 32, 32), 8),
    ("wide_resnet28_10", {}, (3, 32, 32), 2),
]
"""Model, its settings, the images' shape, examples in a batch."""
QUICK_CASES = [("small_cnn", {"width": 2}, (1, 8, 8), 4)]
"""How many times as fast something must be, in every case of a family, to become that family's default."""
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 5, 40, 6.0

LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}


def attack_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Do the passes of an attack step: a forward pass, and a backward pass to the images."""
    model.eval().requires_grad_(False)
    z = x.detach().requires_grad_(True)
    torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)


def update_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Do the passes of an update without the optimiser's step: a forward and a backward pass to the weights."""
    model.train().requires_grad_(True)
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), y).backward()


def processor_time(work: Callable[[], object]) -> float:
    """Measure the seconds of processor time that `work` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def rounds(quick: bool) -> Iterator[int]:
    """Count rounds: a warm-up, then at least the minimum number within a time limit."""
    started = time.process_time()
    for i in range(3 if quick else MOST_ROUNDS):
        if i > LEAST_ROUNDS and time.process_time() - started > SECONDS:
            return
        yield i


def built(name: str, settings: dict, shape: tuple[int, int, int], layout: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name](**settings).build(10, shape).to(memory_format=LAYOUTS[layout])


def measure_layouts(name: str, settings: dict, shape: tuple[int, int, int], batch: int, quick: bool) -> dict:
    """Time the passes in both layouts, in turn: medians, and how many times as fast channels last makes a step."""
    torch.manual_seed(0)
    x, y = torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
    models = {layout: built(name, settings, shape, layout) for layout in LAYOUTS}
    images = {layout: x.contiguous(memory_format=order) for layout, order in LAYOUTS.items()}
    attack = {layout: [] for layout in LAYOUTS}
    update = {layout: [] for layout in LAYOUTS}
    for i in rounds(quick):
        for layout, model in models.items():
            attacking = processor_time(partial(attack_pass, model, images[layout], y))
            updating = processor_time(partial(update_pass, model, images[layout], y))
            if i:
                attack[layout].append(attacking)
                update[layout].append(updating)
    return {
        "attack_pass": {layout: statistics.median(times) for layout, times in attack.items()},
        "update_pass": {layout: statistics.median(times) for layout, times in update.items()},
        "ratio": gain(attack, update, STEPS),
        "ratio_one_step": gain(attack, update, 1),
    }


def gain(attack: dict[str, list[float]], update: dict[str, list[float]], steps: int) -> float:
    """How many times as fast a training step with `steps` attack steps is channels last: the median over rounds."""
    taken = {
        layout: [steps * one + other for one, other in zip(attack[layout], update[layout], strict=True)]
        for layout in LAYOUTS
    }
    return statistics.median(first / last for first, last in zip(taken["first"], taken["last"], strict=True))


def measure_optimizers(name: str, settings: dict, shape: tuple[int, int, int], batch: int, quick: bool) -> dict:
    """Time the optimisers' steps, channels last, unfused and fused in turn: how many times as fast fused is."""
    ratios = {}
    for label, choice in {"sgd": SGD(lr=1e-6), "adam": Adam(lr=1e-6)}.items():
        steps = []
        for fused in (False, True):
            model = built(name, settings, shape, "last")
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1e-3)
            steps.append(choice.build(model, fused=fused).step)
        times = [[processor_time(step) for step in steps] for _ in range(3 if quick else 25)]
        ratios[label] = statistics.median(unfused / fused for unfused, fused in times[2:])
    return ratios


def measure(quick: bool) -> dict:
    """Measure every case; the record."""
    torch.set_num_threads(1)
    kept = keep_freed_memory()
    found = []
    for case in QUICK_CASES if quick else CASES:
        name, settings, shape, batch = case
        entry = {"family": MODELS[name].family, "model": name, "settings": settings, "shape": shape, "batch": batch}
        entry |= {"channels_last": measure_layouts(*case, quick), "fused": measure_optimizers(*case, quick)}
        print(name, shape, {key: entry[key] for key in ("channels_last", "fused")}, flush=True)
        found.append(entry)
    where = describe_environment(torch.device("cpu"))
    return {"quick": quick, "environment": where, "processor": processor(), "memory_kept": kept, "cases": found}


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes, as a trial; the record goes to runs/")
    options = parser.parse_args(arguments)
    record = measure(options.quick)
    release = ".".join(torch.__version__.split(".")[:2])
    save(f"cpu_defaults/torch-{release}", record, quick=options.quick)
    return record


if __name__ == "__main__":
    main()
