"""The published code's settings run on digits: blocks in stored order, weights that cancel, epochs as theirs count."""

import pytest

from advcore import Coreset
from advcore.config.load import from_dict, override
from advcore.reporting.record import RunRecord
from advcore.run import run as runner
from advcore.run.prepare import prepare
from advcore.suite.suite import load

BRIEF = ("data.train_size=200", "data.validation=0.1", "data.test_size=20", "model.width=4", "training.epochs=10",
         "training.batch_size=20", "selection.period=4", "attack.steps=2", "evaluation.attacks.0.steps=2",
         "evaluation.attacks.0.restarts=1", "evaluation.checks=false")  # fmt: skip


@pytest.mark.parametrize(
    "objective", ["linf", *(pytest.param(name, marks=pytest.mark.slow) for name in ("trades", "l2"))]
)
@pytest.mark.parametrize("solver", ["CRAIG", "GradMatch"])
@pytest.mark.slow
def test_a_row_as_released_runs_and_replays_blocks_in_stored_order(root, tmp_path, objective, solver):
    suite = load(root / f"benchmarks/suites/papers/table1-{objective}.yaml", "small")
    prepared = prepare(from_dict(override(suite.methods[f"{solver}, as released"], BRIEF)))
    record = runner.run(prepared, tmp_path / "run")
    assert record.finished and RunRecord.load(tmp_path / "run/record.json").finished
    # Six of ten epochs are a warm start, of which the share of the data runs; (epoch mod 4) = 0 selects at 8 alone.
    share = prepared.config.selection.budget
    warm = round(share * 6)
    assert [entry["action"] for entry in record.epochs] == ["full"] * warm + ["random"] * 2 + ["select", "reuse"]
    (path,) = (tmp_path / "run/coresets").glob("*.npz")
    coreset = Coreset.load(path)
    part = prepared.data.part
    blocks = [set(block.tolist()) for block in part.split(20)]
    chosen = set(coreset.indices.tolist())
    assert all(block <= chosen or not block & chosen for block in blocks)
    assert sum(block <= chosen for block in blocks) == round(share * len(blocks))
    weights = dict(zip(coreset.indices.tolist(), coreset.weights.tolist(), strict=True))
    assert all(len({weights[i] for i in block}) == 1 for block in blocks if block <= chosen)
