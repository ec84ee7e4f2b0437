"""ImageNet-12's experiment on a folder laid out like ImageNet: groups of sub-folders, colour, every unseen attack."""

import numpy as np
import pytest
from PIL import Image

from advcore.config.load import load
from advcore.reporting.columns import find_accuracy
from advcore.reporting.record import RunRecord
from advcore.run.prepare import prepare
from advcore.run.run import run
from advcore.suite import bench

LPIPS = ("attack", "evaluation.attacks.5", "evaluation.attacks.6")
SMALL = [
    "data.size=32",
    "model={name: small_cnn, width: 4}",
    "attack.steps=2",
    "training.epochs=3",
    "training.batch_size=12",
    "training.lr_schedule.ramp=1",
    "training.lr_schedule.milestones=[2]",
    "evaluation.examples=12",
    *(f"evaluation.attacks.{place}.steps=2" for place in range(2, 7)),
    # Distances of the trained network itself, in place of an AlexNet that has to be trained first.
    *(f"{attack}.network=null" for attack in LPIPS),
    *(f"{attack}.layers=null" for attack in LPIPS),
]


def write_images(root, groups):
    """Four noisy images a sub-folder, each group around its own colour."""
    for part in ("train", "val"):
        for g, subs in enumerate(groups.values()):
            for sub in subs:
                folder = root / part / sub
                folder.mkdir(parents=True)
                for i in range(4):
                    noise = np.random.default_rng(1000 * g + i).integers(0, 60, (40, 36, 3))
                    pixels = 80 * np.array([g % 3, g // 3 % 2, g // 6]) + noise
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["craig", "gradmatch"])
def test_perceptual_training_on_groups_of_folders_meets_every_unseen_attack(root, tmp_path, solver):
    file = root / f"experiments/imagenet12/pat_{solver}.yaml"
    write_images(tmp_path / "data", load(file).data.groups)
    run(prepare(load(file, [*SMALL, f"data.path={tmp_path / 'data'}"])), tmp_path / "run")
    record = RunRecord.load(tmp_path / "run/record.json")
    assert record.finished and len(record.selections) == 1
    assert len(record.selections[0]["class_counts"]) == 12
    assert [(one["name"], one["norm"]) for one in record.final["last"]["attacks"]] == [
        ("autoattack", "linf"), ("autoattack", "l2"), ("stadv", "stadv"), ("recoloradv", "recolor"),
        ("jpeg_linf", "jpeg"), ("ppgd", "lpips"), ("lpa", "lpips"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_folder_of_images_starts_the_papers_suite(root, tmp_path):
    """Table 2, ImageNet-12, size full: the folder suffices to plan baselines, and a method reaches the two means."""
    file = root / "benchmarks/suites/papers/table2-imagenet12.yaml"
    write_images(tmp_path / "data", load(root / "experiments/imagenet12/pat_gradmatch.yaml").data.groups)
    suite = bench.check_suite(file, "full", [*SMALL, f"data.path={tmp_path / 'data'}"], tmp_path / "records")
    planned = {entry.method for entry in suite.runs}
    assert {"full", "CRAIG", "GradMatch", "random 0.5"} <= planned
    entry = next(entry for entry in suite.runs if entry.method == "GradMatch")
    run(prepare(entry.config), tmp_path / entry.slug)
    record = RunRecord.load(tmp_path / entry.slug / "record.json")
    assert record.finished and record.final["last"]["clean"]["n"] == 12
    labels = [label for column in suite.suite.columns.values() for label in column]
    assert len(labels) == 7 and None not in [find_accuracy(record, "last", label) for label in labels]
