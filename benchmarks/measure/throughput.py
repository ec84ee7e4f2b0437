"""Measure how many images per second a core trains on, to choose the networks and hours of a study.

python benchmarks/measure/throughput.py [--quick]

One thread, bfloat16 and channels last, batches of 64 (ResNet-18: 8), one attack step and seven. Processor time, not
the clock's: other processes then matter little. Networks take turns; medians. The record goes to
benchmarks/records/throughput.json.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import time

import torch
from records import save
from steps import ours

from advcore.attacks import LinfPGD
from advcore.models import MODELS
from advcore.run.environment import describe_environment
from advcore.runtime.heap import keep_freed_memory
from advcore.runtime.precision import Speed

STEPS = (1, 7)
SIZES = {"CIFAR-10": (3, 32, 32), "MNIST": (1, 28, 28)}
# network, settings, batch size
NETWORKS = {
    **{f"small CNN, width {width}": ("small_cnn", {"width": width}, 64) for width in (8, 16, 32, 64)},
    "ResNet-18": ("resnet18", {"stem": "cifar"}, 8),
}
ROUNDS = 3


def build_step(network: str, settings: dict, size: int, shape: tuple[int, int, int], steps: int):
    """Return a function that trains on one batch of random images, and returns the processor's seconds."""
    x, y = torch.rand(size, *shape), torch.randint(10, (size,))
    speed = Speed(autocast="bfloat16", channels_last=True)
    model = MODELS[network](**settings).build(10, shape)
    attack = LinfPGD(eps=8 / 255, step_size=2 / 255, steps=steps)

    def measure() -> float:
        with speed.resolve_for(model, x[:2]).activate():
            step = ours(speed.lay_out(model), x, y, speed, attack=attack)
            started = time.process_time()
            step()
            return time.process_time() - started

    return measure


def main(*, quick: bool) -> None:
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(1)
    rounds = 2 if quick else ROUNDS
    cells = {
        (data, name, steps): build_step(network, settings, size, shape, steps)
        for data, shape in SIZES.items()
        for name, (network, settings, size) in NETWORKS.items()
        for steps in STEPS
    }
    seconds = {key: [] for key in cells}
    for i in range(rounds + 1):
        for key, measure in cells.items():
            taken = measure()
            if i > 0:  # the first round warms up
                seconds[key].append(taken)
    results = [
        {
            "data": data,
            "network": name,
            "steps": steps,
            "images_per_second": NETWORKS[name][2] / statistics.median(values),
        }
        for (data, name, steps), values in seconds.items()
    ]
    environment = describe_environment(torch.device("cpu"))
    save(
        "throughput",
        {
            "batches": {name: size for name, (_, _, size) in NETWORKS.items()},
            "rounds": rounds,
            "results": results,
            "environment": environment,
        },
        quick=quick,
    )


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
