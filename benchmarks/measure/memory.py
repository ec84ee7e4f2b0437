"""Measure the cost of remembering perturbations: python benchmarks/measure/memory.py [--quick].

Epochs of the same training with and without memory take turns. Each turn takes the quickest of three, because
disturbances only add time; the ratio of two successive turns is one observation, and the page shows the median.
CIFAR-10 (JPEG copies) below the folder that ADVCORE_DATA names, crop and flip, small CNN: the smallest model here, and
few attack steps, so that nothing hides the cost of the memory. The record goes to benchmarks/records/memory.json.
"""

import dataclasses
import statistics
import sys

from records import EXPERIMENTS, save

from advcore.attacks import LinfPGD
from advcore.attacks.memory import PRECISIONS, Memory
from advcore.config import load as config
from advcore.run.environment import describe_environment
from advcore.run.prepare import prepare

STEPS = (1, 2)


def measured(trainer, prepared, memory: Memory, turns: int) -> list[float]:
    """Seconds of epochs that start from what the one before remembered, over those of epochs that start uniformly."""
    remembering = dataclasses.replace(trainer, attack=trainer.attack.with_settings(start="remembered"), memory=memory)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(turns):
        for own in (False, True) if turn % 2 else (True, False):
            model = prepare(prepared.config).model
            data = prepared.data
            trained = (remembering if own else trainer).fit(model, data.train, seed=0, augment=data.augment)
            seconds[own].append(min(entry["seconds"] for entry in trained.epochs[1:]))
    return [b / a for a, b in zip(*seconds.values(), strict=True)]


def main(quick: bool = False) -> None:
    size, turns = (200, 2) if quick else (1000, 10)
    changes = ["selection=null", f"data.train_size={size}", "data.test_size=100", "data.validation=0"]
    changes += ["training.epochs=4", "training.batch_size=64"]
    prepared = prepare(config.load(EXPERIMENTS / "cifar10" / "linf_gradmatch_small.yaml", changes))
    ratios = {}
    for steps in STEPS:
        trainer = dataclasses.replace(prepared.trainer, attack=LinfPGD(eps=8 / 255, steps=steps))
        for precision in PRECISIONS:
            found = measured(trainer, prepared, Memory(precision=precision), turns)
            ratios[f"PGD-{steps}, {precision}"] = found
            print(f"PGD-{steps}, {precision}: {statistics.median(found):.3f}", flush=True)
    settings = {"images": size, "turns": turns, "quick": quick}
    record = {"settings": settings, "environment": describe_environment(prepared.data.train.device), "ratios": ratios}
    save("memory", record, quick=quick)


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
