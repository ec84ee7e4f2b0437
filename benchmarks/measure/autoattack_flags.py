"""Can AutoAttack alone distinguish a masked model from a robust one? MNIST, linf 0.3, two small CNNs.

python benchmarks/measure/autoattack_flags.py [--quick]: trains one by single-step FGSM until it is masked (its accuracy
under PGD-50 is at least 20 points below that under FGSM), one by PGD-5; then AutoAttack's standard version attacks 100
test images of each, with our checks. The record, benchmarks/records/autoattack_flags.json, has the flags, and the
accuracy after each part of AutoAttack. Needs the extra `eval` and ADVCORE_DATA. Two minutes on one core.
"""

import argparse
import sys
import time

import torch
from records import EXPERIMENTS, save
from torch import nn

from advcore.attacks import LinfPGD
from advcore.config.load import load
from advcore.data.source import Source
from advcore.errors import AdvcoreError
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.evaluate import Evaluation, evaluate
from advcore.objectives import Pgd
from advcore.run.environment import describe_environment
from advcore.run.prepare import prepare
from advcore.selection.schedule import Schedule
from advcore.training import Adam
from advcore.training.trainer import Trainer

EPS = 0.3
FGSM = LinfPGD(eps=EPS, steps=1, step_size=EPS, start="clean")
PGD_50 = LinfPGD(eps=EPS, steps=50, step_size=0.025)
TRAINING = {
    "FGSM training": FGSM,
    "PGD-5 training": LinfPGD(eps=EPS, steps=5, step_size=0.1),
}
EPOCHS = 12
MOST_ROUNDS = {"FGSM training": 3, "PGD-5 training": 1}
"""Of training, of EPOCHS each: by FGSM until it is masked."""
MASKED = 0.20
"""By how much FGSM's accuracy is above that of PGD-50 on a model that is masked."""


def main(quick: bool) -> None:
    images = 40 if quick else 100
    train_size = 3000 if quick else 10000
    data = prepare(load(EXPERIMENTS / "mnist/linf_full.yaml", [f"data.train_size={train_size}"])).data
    models = {name: measure(name, data.train, data.test, images) for name in TRAINING}
    settings = {"eps": EPS, "epochs": EPOCHS, "train_size": train_size, "images": images, "quick": quick}
    environment = describe_environment(torch.device("cpu"))
    save("autoattack_flags", {"settings": settings, "environment": environment, "models": models}, quick=quick)


def measure(name: str, train: Source, test: Source, images: int) -> dict:
    """Train a model; return its accuracy under few and many steps, and the results of AutoAttack and our checks."""
    start = time.perf_counter()
    model = build_network()
    indices = torch.arange(images)
    for seed in range(MOST_ROUNDS[name]):
        fit(model, train, TRAINING[name], seed)
        by_steps = evaluate(model, test, [FGSM, PGD_50], indices=indices)
        print(name, [entry["accuracy"] for entry in by_steps.attacks], flush=True)
        if is_masked(by_steps):
            break
    by_autoattack = evaluate(model, test, [AutoAttack(eps=EPS)], indices=indices, checks=True)
    print(name, by_autoattack.attacks[0]["after"], list(by_autoattack.flags), flush=True)
    return {
        "clean": by_steps.as_dict()["clean"],
        "rounds": seed + 1,
        "attacks": dict(zip(("FGSM", "PGD-50", "AutoAttack"), by_steps.attacks + by_autoattack.attacks, strict=True)),
        "flags": list(by_autoattack.flags),
        "seconds": time.perf_counter() - start,
    }


def is_masked(by_steps: Evaluation) -> bool:
    fgsm, pgd = by_steps.attacks
    return fgsm["accuracy"] - pgd["accuracy"] >= MASKED


def build_network() -> nn.Module:
    torch.manual_seed(0)
    features = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10))


def fit(model: nn.Module, train: Source, attack: LinfPGD, seed: int) -> None:
    trainer = Trainer(
        objective=Pgd(),
        attack=attack,
        schedule=Schedule(epochs=EPOCHS),
        optimizer=Adam(lr=2e-3),
        batch_size=100,
        eps_ramp=EPOCHS // 2,
    )
    trainer.fit(model, train, seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small trial; do not commit its record")
    try:
        main(parser.parse_args().quick)
    except AdvcoreError as error:
        sys.exit(str(error))
