"""AutoAttack on models of two and three classes: what runs, that it is right, and how it is named."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.evaluation.autoattack import VERSIONS, AutoAttack
from advcore.evaluation.evaluate import evaluate
from advcore.reporting.tables import name_attack

DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}
SHAPE = (1, 5, 5)


@pytest.fixture(autouse=True)
def package():
    pytest.importorskip("pyautoattack", reason="needs the package pyautoattack: install the extra eval")


def linear(classes: int, norm: str) -> tuple[nn.Module, Resident, torch.Tensor]:
    """A linear model, images that it gets right, and of each the radius at which the nearest other class begins.

    The margin to class j falls by at most eps times the dual norm of w_y - w_j. Images are all but grey, where margins
    are 0, so that balls end before 0 and 1.
    """
    generator = torch.Generator().manual_seed(classes)
    x = 0.5 + 0.1 * (torch.rand(24, *SHAPE, generator=generator) - 0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, classes))
    model[1].weight.data = torch.randn(classes, 25, generator=generator)
    model[1].bias.data = -0.5 * model[1].weight.data.sum(1)
    with torch.no_grad():
        logits, weights = model(x), model[1].weight
    y = logits.argmax(1)
    gaps = weights[y][:, None] - weights[None]
    margins = logits.gather(1, y[:, None]) - logits
    radii = margins / torch.linalg.vector_norm(gaps, DUAL[norm], dim=2).clamp_min(1e-12)
    nearest = radii.scatter(1, y[:, None], float("inf")).amin(1)
    assert nearest.max() < 0.4
    return model, Resident(x, y), nearest


@pytest.fixture
def few_iterations(monkeypatch) -> list[tuple[str, ...]]:
    """Take 20 steps or queries, not 100 and 5,000; returns the attacks that the package was asked for, by call."""
    return shorten(monkeypatch, 20)


@pytest.fixture
def fewest_iterations(monkeypatch) -> list[tuple[str, ...]]:
    """Take 4 steps or queries, where it matters alone which attacks are asked for; these by call."""
    return shorten(monkeypatch, 4)


def shorten(monkeypatch, steps: int) -> list[tuple[str, ...]]:
    import pyautoattack

    asked = []
    run = pyautoattack.AutoAttack.run_standard_evaluation

    def run_quickly(self, *args, **kwargs):
        asked.append(tuple(self.attacks_to_run))
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = self.square.n_queries = steps
        self.apgd.eot_iter = 1
        return run(self, *args, **kwargs)

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run_quickly)
    return asked


def flips_exactly_what_it_can(classes: int, norm: str) -> None:
    model, data, radii = linear(classes, norm)
    eps = radii.median().item()
    clear = (radii / eps - 1).abs() > 0.01
    stands = evaluate(model, data, [AutoAttack(eps=eps, norm=norm)]).verdicts["0"]
    assert torch.equal(stands[clear], (radii > eps)[clear]) and clear.sum() > 20
    assert 0 < int(stands.sum()) < len(stands)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_a_linear_model_is_flipped_exactly_where_its_margin_is_below_eps_times_the_dual_norm(classes, few_iterations):
    flips_exactly_what_it_can(classes, "linf")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_so_it_is_in_every_ball_with_all_queries(classes, norm):
    flips_exactly_what_it_can(classes, norm)


RUNS = {
    ("standard", 2): ("apgd-ce", "fab-t", "square"),
    ("standard", 3): ("apgd-ce", "apgd-dlr", "fab-t", "square"),
    ("standard", 4): ("apgd-ce", "apgd-t", "fab-t", "square"),
    ("plus", 2): ("apgd-ce", "fab", "square", "fab-t"),
    ("plus", 3): ("apgd-ce", "apgd-dlr", "fab", "square", "fab-t"),
    ("plus", 4): ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    ("rand", 2): ("apgd-ce",),
    ("rand", 3): ("apgd-ce", "apgd-dlr"),
}
TOLD = {
    ("standard", 2): "standard without apgd-t",
    ("standard", 3): "standard with apgd-dlr for apgd-t",
    ("plus", 2): "plus without apgd-dlr and apgd-t",
    ("plus", 3): "plus without apgd-t",
    ("rand", 2): "rand without apgd-dlr",
}


@pytest.mark.parametrize(("version", "classes"), RUNS)
def test_every_version_runs_what_there_is_for_so_many_classes_and_is_named_after_it(
    version, classes, fewest_iterations
):
    """Beside the versions with fewer classes than they need, those with just enough."""
    model, data, radii = linear(classes, "linf")
    attack = AutoAttack(eps=radii.min().item() / 9, version=version)
    found = evaluate(model, data, [attack], indices=radii.topk(1).indices)
    (entry,) = found.attacks
    assert fewest_iterations == [RUNS[version, classes]] and entry["accuracy"] == 1
    assert tuple(entry["parts"]) == RUNS[version, classes]
    told = TOLD.get((version, classes), version)
    assert entry["version"] == told and name_attack(entry).endswith(f"AutoAttack {told}")
    assert bool(found.flags) is (told != version)
    json.dumps(found.as_dict(), allow_nan=False)


def test_what_was_left_out_is_flagged_whether_or_not_checks_were_asked_for(few_iterations):
    model, data, radii = linear(3, "linf")
    attack = AutoAttack(eps=8 / 255)
    one = {"indices": torch.tensor([int(radii.argmin())])}
    flag = (
        "reduced: apgd-t needs 4 classes, and the model has 3; autoattack (linf 8/255) ran apgd-ce, apgd-dlr, fab-t, "
        "square, not its standard version"
    )
    assert evaluate(model, data, [attack], **one).flags == (flag,)
    assert evaluate(model, data, [attack], checks=True, **one).flags[0] == flag
    (two,) = AutoAttack(eps=8 / 255, version="plus").choose_lineup(2).flag_reduction()
    assert "apgd-dlr needs 3 and apgd-t needs 4 classes, and the model has 2" in two.text and two.kind == "reduced"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_attack_alone_is_refused_where_it_cannot_run_and_versions_go_on(version):
    attack = AutoAttack(eps=0.1, version=version)
    assert "no other class to predict" in str(attack.find_classes_problem(1))
    problem = attack.find_classes_problem(2)
    assert attack.find_classes_problem(3) is None and bool(problem) is (version == "apgd-dlr")
    model, data, _ = linear(2, "linf")
    if problem:
        assert str(problem).startswith("version must be standard, apgd-ce or square for 2 classes, got 'apgd-dlr'")
        with pytest.raises(ConfigError, match="for 2 classes"):
            evaluate(model, data, [attack])


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_images_too_small_for_squares_tiles_are_refused_in_a_line(norm):
    with pytest.raises(ConfigError, match="norm must be linf, or version apgd-ce, for images below 5 pixels in height"):
        model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), torch.rand(8, 1, 4, 4)
        evaluate(model, Resident(x, model(x).argmax(1)), [AutoAttack(eps=0.1, norm=norm)])
    assert AutoAttack(eps=0.1, norm=norm, version="apgd-ce").problem((1, 4, 4)) is None
    assert AutoAttack(eps=0.1, norm=norm).problem((1, 5, 5)) is None


def test_the_command_line_says_what_ran_on_three_classes(advcore, root, tiny, tmp_path, few_iterations):
    file = root / "experiments/linf_full.yaml"
    arrays = {}
    for part, n in (("train", 60), ("test", 24)):
        y = np.arange(n) % 3
        images = np.random.default_rng(n).random((n, 1, 8, 8)).astype("float32") / 2 + y[:, None, None, None] / 6
        arrays |= {f"x_{part}": images, f"y_{part}": y}
    np.savez(tmp_path / "three.npz", **arrays)
    data = f"data={{name: npz, path: {tmp_path / 'three.npz'}}}"
    changes = [part for change in (*tiny[2:], data) for part in ("--set", change)]
    code, _, err = advcore("run", file, *changes, "--out", tmp_path / "run")
    assert code == 0, err
    code, out, err = advcore("evaluate", tmp_path / "run", "--suite", "autoattack", "--out", tmp_path / "found.json")
    assert code == 0, err
    names, values = (
        " ".join(" ".join(line.split("│")[column] for line in out.splitlines() if line.startswith("│")).split())
        for column in (1, 2)
    )
    assert "AutoAttack standard with apgd-dlr for apgd-t" in names and "last: flag" in names
    assert "reduced: apgd-t needs 4 classes, and the model has 3" in values
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["attacks"][0]["version"] == "standard with apgd-dlr for apgd-t"
    assert found["flags"][0].startswith("reduced: apgd-t needs 4 classes")
