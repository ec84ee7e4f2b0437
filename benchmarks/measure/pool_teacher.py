"""Measure how many labels of the suites' pools the teacher gets wrong: benchmarks/records/pool_teacher.json.

After pool_data.py and the teacher's run (see there).
"""

import numpy as np
import torch
from records import ROOT, save

from advcore.reporting.record import RunRecord
from advcore.run import build
from advcore.run.environment import describe_environment
from advcore.run.teacher import label_pool
from advcore.suite.suite import load, resolve_methods

FOLDER = ROOT / "build" / "pools"
POOLS = {"pools": "pool.npz", "pools-redundant": "redundant.npz"}


def measure_wrong(suite: str, file: str) -> float:
    """Return the share of a pool's labels that the teacher gets wrong."""
    config = resolve_methods(load(ROOT / "benchmarks" / "suites" / f"{suite}.yaml"))["whole pool"]
    device = torch.device("cpu")
    data = build.load_data(config, build.build_trainer(config), device)
    labelled, _ = label_pool(config, data, device)
    truth = torch.from_numpy(np.load(FOLDER / file, allow_pickle=False)["label"])
    return float((labelled.train.pool.labels().cpu() != truth).float().mean())


def main() -> None:
    clean = RunRecord.load(FOLDER / "teacher" / "record.json").final["best"]["clean"]
    wrong = {suite: measure_wrong(suite, file) for suite, file in POOLS.items()}
    save("pool_teacher", {"wrong": wrong, "clean": clean, "environment": describe_environment(torch.device("cpu"))})


if __name__ == "__main__":
    main()
