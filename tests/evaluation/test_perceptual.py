"""PPGD and LPA against a model that perceptual training has made moderately robust."""

import pytest

from advcore.attacks import LPA, PPGD
from advcore.config.load import load
from advcore.evaluation.evaluate import evaluate
from advcore.run.prepare import prepare
from advcore.run.run import run


@pytest.mark.case("E5")
@pytest.mark.slow
def test_robust_accuracy_falls_with_the_bound_and_lpa_is_at_least_as_strong_as_ppgd(root, tmp_path):
    changes = ["selection=null", "training.epochs=12", "evaluation.attacks=[]", "attack.steps=5"]
    prepared = prepare(load(root / "experiments/pat_gradmatch.yaml", changes))
    run(prepared, tmp_path / "run")
    bounds = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
    attacks = [kind(eps=eps, steps=20) for eps in bounds for kind in (PPGD, LPA)]
    found = evaluate(prepared.model, prepared.data.test, attacks).attacks
    ppgd, lpa = found[::2], found[1::2]
    for one in (ppgd, lpa):
        for before, after in zip(one, one[1:], strict=False):
            assert after["accuracy"] <= before["interval"][1]
        assert one[0]["accuracy"] > one[-1]["accuracy"]
    between = [i for i, entry in enumerate(ppgd) if 0.3 <= entry["accuracy"] <= 0.7]
    assert between, [entry["accuracy"] for entry in ppgd]
    for i in between:
        assert lpa[i]["accuracy"] <= ppgd[i]["interval"][1]
