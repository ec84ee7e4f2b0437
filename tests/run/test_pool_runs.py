"""A run beside a pool, from its file: the plan, the record, the card, and what a resume accepts."""

import numpy as np
import pytest

from advcore.reporting.record import RunRecord

TINY = ["data.train_size=80", "data.test_size=20", "model.width=4", "attack.steps=1", "training.batch_size=32"]
TINY += ["evaluation.attacks.0.steps=2", "evaluation.attacks.0.restarts=1", "evaluation.checks=false"]


@pytest.mark.slow
def test_a_run_file_names_a_pool_and_everything_that_is_written_says_so(advcore, root, tmp_path):
    pool = tmp_path / "made.npz"
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(pool, image=images, label=np.arange(60) % 10)
    changes = [f"data.pool.path={pool}", "data.pool.share=0.6", *TINY]
    file = [root / "experiments" / "linf_full.yaml", *(part for change in changes for part in ("--set", change))]
    where = ["--out", tmp_path / "run"]

    code, said, err = advcore("check", *file)
    assert code == 0, err
    assert "60 % of each batch comes from a pool of 60 images; an epoch has as many steps as without it" in said
    code, _, err = advcore("check", *file, "--cost", "0.3")
    assert code == 2 and "--cost must be left out with data.pool, got 0.3; the runs that it lists" in err
    code, _, err = advcore("run", *file, *where, "--set", "training.epochs=1")
    assert code == 0, err
    record = RunRecord.load(tmp_path / "run" / "record.json")
    assert (record.data["train"], record.data["pool"], record.epochs[0]["examples"]) == (72, 60, 72)
    assert record.data["hash"]["train"].startswith("images and a pool of images ")

    code, _, err = advcore("export", tmp_path / "run", "--out", tmp_path / "model")
    assert code == 0, err
    assert (
        "- 60 % of each batch from a pool of 60 images, `made.npz`\n" in (tmp_path / "model" / "README.md").read_text()
    )

    moved = tmp_path / "moved.npz"
    moved.write_bytes(pool.read_bytes())
    file += ["--set", f"data.pool.path={moved}", "--set", "training.epochs=2"]
    code, _, err = advcore("run", *file, *where, "--resume", "--set", "data.pool.share=0.5")
    assert code == 2 and "data.pool.share: 0.6 -> 0.5" in err
    np.savez(moved, image=images ^ 1, label=np.arange(60) % 10)
    code, _, err = advcore("run", *file, *where, "--resume")
    assert code == 2 and "given the data (examples, hash) that the run began with" in err
    moved.write_bytes(pool.read_bytes())
    code, _, err = advcore("run", *file, *where, "--resume")
    assert code == 0, err
