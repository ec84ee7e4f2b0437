"""The code of docs/integration.md runs as it stands there."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from advcore.config.load import override
from advcore.config.schema import TABLES
from advcore.config.yaml_reader import parse


def example(root, name: str) -> str:
    page = (root / "docs/integration.md").read_text()
    return re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```\n<!-- /example -->", page, re.S)[1]


def run(root, name: str, **names) -> dict:
    exec(compile(example(root, name), f"integration.md: {name}", "exec"), names)
    return names


class Own(Dataset):
    """A user's own data, which counts how often each example is asked for."""

    def __init__(self):
        self.asked = [0] * 48

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int):
        self.asked[i] += 1
        return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(i)), i % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


def test_the_plain_loop_trains_on_a_coreset_that_is_chosen_twice(root):
    model, chosen = network(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {"model": model, "dataset": Own()}
    from advcore import AdversarialCoreset

    select = AdversarialCoreset.select
    with pytest.MonkeyPatch.context() as patch:
        note = lambda self, *a, **how: chosen.append(how["epoch"]) or select(self, *a, **how)  # noqa: E731
        patch.setattr(AdversarialCoreset, "select", note)
        names = run(root, "loop", **names)
    assert chosen == [2, 4] and len(names["coreset"]) == 24
    assert names["step"] == 2 * 3 + 4 * 2  # batches of 48 and of 24 examples
    assert torch.isfinite(names["loss"]) and model.training
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])
    assert names["w"][0].shape == names["y"].shape


def test_the_wrapper_gives_what_a_selection_takes(root):
    functional = pytest.importorskip("torchvision.transforms.functional")
    image = pytest.importorskip("PIL.Image").fromarray(np.full((8, 8, 3), 7, dtype="uint8"))
    names = run(root, "wrapper", torch=torch, pil_to_tensor=functional.pil_to_tensor)
    pairs = names["Pairs"]([{"image": image, "label": 3}])
    x, y = pairs[0]
    assert len(pairs) == 1 and y == 3 and x.dtype == torch.uint8 and x.shape == (3, 8, 8)


def test_a_backbone_for_normalised_images_is_attacked_in_pixels(root):
    import advcore
    from advcore.attacks import LinfPGD
    from advcore.objectives import Pgd

    backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    x = torch.rand(2, 3, 8, 8)
    names = {"backbone": backbone, "objective": Pgd(), "attack": LinfPGD(eps=8 / 255, steps=2), "advcore": advcore}
    names |= {"x": x, "y": torch.tensor([0, 2])}
    x_adv = run(root, "normalisation", **names)["x_adv"]
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and 0 < (x_adv - x).abs().max() <= 8 / 255 + 1e-7


def test_the_run_files_lines_are_settings_that_there_are(root, tiny):
    page = (root / "docs/integration.md").read_text()
    tracking = parse(re.search(r"```yaml\n(.*?)```", page, re.S)[1], "integration.md")["tracking"]
    from advcore.config.load import from_dict

    raw = parse((root / "experiments/trades_gradmatch.yaml").read_text(), "experiment")
    found = from_dict(override(raw, tiny) | {"tracking": tracking}).tracking
    assert {type(one) for one in found} == set(TABLES["trackers"].values())


@pytest.mark.slow
def test_the_lightning_example_trains(root, tmp_path, monkeypatch):
    pytest.importorskip("lightning.pytorch", reason="needs the package lightning: install the extra lightning")
    monkeypatch.chdir(tmp_path)
    names = run(root, "lightning", model=network(), dataset=Own())
    assert names["coresets"].coreset.epoch == 3 and names["trainer"].current_epoch == 4
