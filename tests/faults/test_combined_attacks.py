"""AutoAttack tells what each part leaves right; its black box is flagged where it finds too much (issue 21, 18)."""

import pytest
import torch
from seeds import seeded
from torch import nn

from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.evaluation.autoattack import AutoAttack, Lineup
from advcore.evaluation.checks import flag_model
from advcore.evaluation.comparisons import flag_black_box
from advcore.evaluation.evaluate import evaluate
from advcore.files import read_json

pyautoattack = pytest.importorskip("pyautoattack", reason="extra eval")
N, SHAPE = 16, (1, 6, 6)


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch):
    run = pyautoattack.AutoAttack.run_standard_evaluation

    def run_quickly(self, *args, **kwargs):
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 3
        self.square.n_queries = 60
        return run(self, *args, **kwargs)

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run_quickly)


class Changed(nn.Module):
    """A small network behind a function of its images."""

    def __init__(self, before=lambda x: x, classes=4):
        super().__init__()
        self.before = before
        with seeded():
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, classes)).eval()

    def forward(self, x):
        return self.net(self.before(x))


def data(model):
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return Resident(x, model(x).argmax(1))


def run(model, *, version="standard", eps=0.1, **settings):
    return evaluate(model, data(model), [AutoAttack(eps=eps, version=version)], **settings)


@pytest.mark.parametrize(("version", "classes"), [("standard", 4), ("standard", 3), ("standard", 2), ("rand", 4)])
def test_each_part_is_what_the_package_leaves_when_it_stops_there(version, classes, monkeypatch):
    model = Changed(classes=classes)
    result = run(model, version=version, eps=0.03)
    (entry,) = result.attacks
    parts = entry["parts"]
    assert list(entry["after"]) == parts and 0 < entry["after"][parts[0]] < 1
    assert entry["after"][parts[-1]] == entry["accuracy"]
    monkeypatch.setattr(Lineup, "flag_reduction", lambda self: [])
    for count in range(1, len(parts) + 1):
        monkeypatch.setattr(Lineup, "parts", tuple(parts[:count]))
        shorter = run(model, version=version, eps=0.03).verdicts["0"]
        assert torch.equal(result.verdicts[f"0.{parts[count - 1]}"], shorter)


def round_by_levels(x):
    return (x * 8).round() / 8


MASKED = {
    "rounding": round_by_levels,
    "a detached input": torch.Tensor.detach,
    "whole numbers": lambda x: (x * 255).to(torch.uint8).float() / 255,
    "a step": lambda x: (x > 0.5).to(x),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_black_box_that_beats_the_white_boxes_of_its_own_run_is_flagged(name):
    result = run(Changed(MASKED[name]), eps=0.3, checks=True)
    after = result.attacks[0]["after"]
    broken, left = (round(N * share) for share in (after["fab-t"] - after["square"], after["fab-t"]))
    images = "1 image" if broken == 1 else f"{broken} images"
    line = (
        f"masked: the black box square breaks {images} of the {left} that the white boxes of autoattack leave correct"
    )
    assert line in result.flags


def test_a_plain_model_is_not():
    assert run(Changed(), eps=0.02, checks=True).flags == ()


@pytest.mark.parametrize(("before", "after", "n", "is_flagged"), [
    (0.80, 0.80, 1000, False),
    (0.80, 0.78, 1000, False),  # as on models that are robust
    (0.80, 0.70, 1000, True),
    (0.80, 0.70, 20, False),  # 2 images
    (0.06, 0.00, 1000, True),
    (0.00, 0.00, 1000, False),
    (1.00, 0.00, 8, True),
])  # fmt: skip
def test_the_flag_goes_by_the_share_that_is_left(before, after, n, is_flagged):
    entry = {"name": "autoattack", "n": n, "after": {"apgd-ce": 0.9, "fab-t": before, "square": after}}
    assert bool(flag_black_box([entry])) == is_flagged


def test_nothing_is_said_of_one_part_alone_or_of_other_attacks():
    assert (
        flag_black_box([{"name": "autoattack", "n": 9, "after": {"square": 0.0}}, {"name": "linf_pgd", "n": 9}]) == []
    )


def test_images_that_are_wrong_already_are_right_after_no_part():
    model = Changed()
    source = data(model)
    wrong = Resident(source._images, (source.labels() + 1) % 4)
    (entry,) = evaluate(model, wrong, [AutoAttack(eps=0.1)], batch_size=8).attacks
    assert set(entry["after"].values()) == {0.0} and len(entry["after"]) == 4


def test_an_evaluation_that_was_stopped_goes_on_with_its_parts(tmp_path):
    model = Changed()
    expected = run(model, eps=0.03, batch_size=8)

    def stop(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, eps=0.03, batch_size=8, state=tmp_path / "state.npz", on_chunk=stop)
    result = run(model, eps=0.03, batch_size=8, state=tmp_path / "state.npz")
    assert result.as_dict() == expected.as_dict()


def test_a_model_that_a_single_step_misleads_is_flagged_where_the_white_boxes_win():
    """The margin falls along the gradient, but not so far that it changes sign; many steps get there."""

    def forward(x):
        a, b = (x - 0.5).flatten(1)[:, :2].T
        return torch.stack([0 * a, 10 * b + 2 * a - 40 * a.square() - 1.2], 1)

    x, y = torch.full((40, 1, 1, 2), 0.5), torch.zeros(40).long()
    line = "masked: after a single step of eps along the gradient 100 % are correct, after many steps 0 %"
    none = torch.zeros(40, dtype=torch.bool)
    assert [*map(str, flag_model(nn.Identity(), forward, x, y, eps=0.2, robust=none))] == [line]
    assert flag_model(nn.Identity(), forward, x, y, eps=0.2, robust=~none) == []


def test_the_record_of_two_trained_models_has_the_flag_on_the_masked_one_alone(root):
    """Made by benchmarks/measure/autoattack_flags.py."""
    models = read_json(root / "benchmarks/records/autoattack_flags.json")["models"]
    by_fgsm, by_pgd = models["FGSM training"], models["PGD-5 training"]
    assert by_fgsm["attacks"]["PGD-50"]["accuracy"] <= by_fgsm["attacks"]["FGSM"]["accuracy"] - 0.20
    assert any(flag.startswith("masked: ") for flag in by_fgsm["flags"]) and by_pgd["flags"] == []
    assert by_pgd["attacks"]["AutoAttack"]["accuracy"] >= 0.5
    for model in (by_fgsm, by_pgd):
        assert list(model["attacks"]["AutoAttack"]["after"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_the_checks_look_at_as_many_images_at_once_as_the_batch_has():
    sizes = []

    def note(x):
        sizes.append(len(x))
        return x

    model = Changed(note)
    source = data(model)
    sizes.clear()
    evaluate(model, source, batch_size=4, checks=True)
    assert max(sizes) == 4


def test_a_part_alone_is_refused_as_before():
    with pytest.raises(ConfigError, match="version must be one of"):
        AutoAttack(eps=0.1, version="fab-t")
