"""The study of fine-tuning at the size of digits: its methods run after each other, and cost what their steps say."""

from functools import partial

import pytest

from advcore.reporting import compare
from advcore.reporting.costs import PASSES
from advcore.suite import bench, engines

TEXT = """name: twin
experiment: {root}/experiments/cifar10/remembered_small.yaml
seeds: [0]
reference: null
baselines: false
set:
  data: {{name: digits}}
  attack: {{name: linf_pgd, eps: 0.1, steps: 1, step_size: 0.125, start: remembered}}
  training.batch_size: 64
  training.speed: {{}}
  evaluation.attacks: [{{name: linf_pgd, eps: 0.1, steps: 20}}]
  evaluation.examples: 359
  cost.reference_steps: 10
  cost.reference_epochs: 10
methods:
  ordinary: {{objective: {{name: standard}}, attack: null, training.epochs: 15}}
  random weights: {{training.epochs: 2}}
  fine-tuned: {{training.epochs: 2, weights_of: ordinary}}
  fine-tuned, head first: {{training.epochs: 2, weights_of: ordinary, training.head_epochs: 1}}
"""
IMAGES = 1294  # of digits, without its validation and test images
REFERENCE = 10 * (2 * 10 + 2)  # passes of an image: 10 epochs of 10 attack steps and an update


@pytest.mark.slow
def test_fine_tuning_costs_its_epochs_and_tells_those_of_the_pretraining(root, tmp_path):
    path = tmp_path / "twin.yaml"
    path.write_text(TEXT.format(root=root))
    prepared = bench.check_suite(path, out=tmp_path / "out")
    pending = bench.list_pending(prepared, prepared.runs)
    ended = bench.execute(prepared, pending, partial(engines.run_locally, jobs=1), seconds=300)
    assert len(ended["done"]) == 4
    records = {name: record for name, (record,) in bench.collect_results(prepared).groups().items()}
    for name in ("random weights", "fine-tuned", "fine-tuned, head first"):
        assert PASSES.compare(records[name]) == pytest.approx(2 * (2 + 2) / REFERENCE)
    pretraining = {name: record.pretraining.get("passes") for name, record in records.items()}
    passes = IMAGES * 15 * 2
    assert pretraining == {
        "ordinary": None, "random weights": None, "fine-tuned": passes, "fine-tuned, head first": passes
    }  # fmt: skip
    robust = {name: compare.robust_accuracy(record) for name, record in records.items()}
    assert robust["fine-tuned"] > robust["random weights"]
