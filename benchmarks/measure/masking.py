"""Can the numbers be trusted? MNIST, two models: one trained by PGD, one by FGSM until its gradients mislead.

python benchmarks/measure/masking.py [--quick]: trains both, then compares clean accuracy, our PGD-50 x 10,
foolbox's at the same settings, and AutoAttack on 1,000 test images, with the flags of our checks; the record goes to
benchmarks/records/masking.json. Needs the extra `eval` and ADVCORE_DATA. Half an hour on one core.
"""

import argparse
import sys
from pathlib import Path

import torch
from records import EXPERIMENTS, save

from advcore.attacks import LinfPGD
from advcore.config.load import load
from advcore.data.source import Source
from advcore.errors import AdvcoreError
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.evaluate import evaluate
from advcore.evaluation.intervals import wilson
from advcore.reporting.record import RunRecord
from advcore.run.environment import describe_environment
from advcore.run.prepare import prepare
from advcore.run.run import choose_examples, run
from advcore.run.weights import find_checkpoint, load_state
from advcore.runtime.borrow import borrow

EPS, STEP, STEPS, RESTARTS = 0.3, 0.0125, 50, 10
MODELS = {
    "FGSM training": [
        "attack.steps=1", "attack.step_size=0.3", "attack.start=clean", "training.eps_ramp=0", "cost.reference_steps=1"
    ],
    "PGD-7 training": [],
}  # fmt: skip
"""What changes in experiments/mnist/linf_full.yaml."""


def main(quick: bool) -> None:
    found = {name: measure(name, changes, quick) for name, changes in MODELS.items()}
    settings = {"eps": EPS, "step_size": STEP, "steps": STEPS, "restarts": RESTARTS, "quick": quick}
    where = describe_environment(torch.device("cpu"))
    save("masking", {"settings": settings, "environment": where, "models": found}, quick=quick)


def measure(name: str, changes: list[str], quick: bool) -> dict:
    """One model's four accuracies on the same images, and its flags. The trained model and each image's verdicts are
    kept below runs/, so that a benchmark that was stopped can be continued."""
    images = 100 if quick else 1000
    small = ["data.train_size=1000", "data.test_size=200", "training.epochs=3"] if quick else ["data.train_size=10000"]
    shared = [*small, "evaluation.attacks=[]", f"evaluation.examples={images}"]
    prepared = prepare(load(EXPERIMENTS / "mnist/linf_full.yaml", [*shared, *changes]))
    folder = Path("runs") / f"masking-{name.split('-')[0].split()[0].lower()}{'-quick' if quick else ''}"
    done = (folder / "record.json").exists() and RunRecord.load(folder / "record.json").finished
    record = RunRecord.load(folder / "record.json") if done else run(prepared, folder)
    load_state(prepared.model, find_checkpoint(folder, "last"))
    model, test = prepared.model, prepared.data.test
    chosen = choose_examples(prepared)
    pgd = LinfPGD(eps=EPS, steps=STEPS, step_size=STEP, restarts=RESTARTS)
    entries, flags = {}, []
    for label, attack in (("ours", pgd), ("AutoAttack", AutoAttack(eps=EPS))):
        kept = folder / f"{label.lower()}.npz"
        got = evaluate(model, test, [attack], indices=chosen, batch_size=250, checks=label == "ours", state=kept)
        entries[label] = got.attacks[0]
        flags += got.flags
        print(name, label, got.attacks[0]["accuracy"], list(got.flags), flush=True)
    entries["foolbox"] = by_foolbox(model, test, chosen)
    print(name, "foolbox", entries["foolbox"]["accuracy"], flush=True)
    return {"config": record.config, "clean": got.as_dict()["clean"], "attacks": entries, "flags": flags}


def by_foolbox(model: torch.nn.Module, test: Source, chosen: torch.Tensor) -> dict:
    """foolbox's LinfPGD with the same steps, step size and restarts; worst case over restarts."""
    import foolbox

    _, x, y = next(test.batches([chosen]))
    with borrow(model, training=False):
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = foolbox.attacks.LinfPGD(rel_stepsize=STEP / EPS, steps=STEPS, random_start=True)
        right = model(x).argmax(1) == y
        for restart in range(RESTARTS):
            torch.manual_seed(restart)
            left = right.nonzero()[:, 0]
            for part in filter(len, left.split(250)):
                _, _, fooled = attack(wrapped, x[part], y[part], epsilons=EPS)
                right[part] &= ~fooled
    found = wilson(int(right.sum()), len(y))
    return {"n": found.n, "accuracy": found.accuracy, "interval": list(found.interval)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small trial; do not commit its record")
    try:
        main(parser.parse_args().quick)
    except AdvcoreError as error:
        sys.exit(str(error))
