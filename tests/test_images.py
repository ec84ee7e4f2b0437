"""Whole runs on the images below the folder that ADVCORE_DATA names; run with -m slow."""

import os
import subprocess
import sys

import pytest

from advcore.reporting.record import RunRecord

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("ADVCORE_DATA" not in os.environ, reason="needs ADVCORE_DATA: a folder with mnist and cifar10"),
]


def run(root, tmp_path, name: str, *changes: str) -> RunRecord:
    sets = [part for change in changes for part in ("--set", change)]
    command = [
        sys.executable,
        "-m",
        "advcore",
        "run",
        root / f"experiments/{name}.yaml",
        *sets,
        "--out",
        tmp_path / "run",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return RunRecord.load(tmp_path / "run/record.json")


def test_mnist_reaches_85_percent_under_pgd_40(root, tmp_path):
    record = run(root, tmp_path, "mnist/linf_gradmatch")
    assert record.final["last"]["attacks"][0]["accuracy"] >= 0.85


@pytest.mark.parametrize("solver", ["gradmatch", "craig"])
def test_cifar10_trains_selects_and_evaluates_to_the_end(root, tmp_path, solver):
    record = run(
        root, tmp_path, "cifar10/linf_gradmatch_small", f"selection.solver.name={solver}", "data.train_size=2000"
    )
    assert record.finished and len(record.selections) == 1
    assert record.selections[0]["gradient_error"] < record.selections[0]["gradient_error_random"]
