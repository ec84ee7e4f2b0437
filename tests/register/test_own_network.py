"""An engineer's network, weights and pictures: run, evaluate and export take one command each."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from plug_ins import NET
from torch import nn

RUN = """
name: hardened
data: {name: image_folder, path: pictures, size: 16, augment: none}
model: {name: my_net, width: 8, weights: net.pt, mean: [0.5], std: [0.25]}
objective: {name: trades}
attack: {name: linf_pgd, eps: 8/255, steps: 2}
training:
  {epochs: 3, head_epochs: 1, batch_size: 30, optimizer: {name: adamw}, lr_schedule: {name: cosine, warm_up: 0.2}}
evaluation: {attacks: [{name: linf_pgd, eps: 8/255, steps: 20}]}
"""


def draw_pictures(folder):
    """Stripes across, stripes down and squares, with noise: 30 for training and 10 for the test of each class."""
    generator = np.random.default_rng(0)
    i, j = np.indices((16, 16))
    shapes = {"across": i // 2 % 2, "down": j // 2 % 2, "squares": (i // 4 + j // 4) % 2}
    for part, count in (("train", 30), ("test", 10)):
        for name, shape in shapes.items():
            (folder / part / name).mkdir(parents=True)
            for n in range(count):
                pixels = 60 + 120 * shape[..., None] + generator.integers(0, 60, (16, 16, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{n}.png")


def train_outside(folder):
    """The network as its owner trained it: without advcore, on normalised images. Returns its accuracy."""
    namespace = {}
    exec(re.sub(r"(?m)^(import advcore.*|advcore\..*)$", "", NET), namespace)
    torch.manual_seed(0)
    net = namespace["Net"](3, 3, width=8)
    pixels, labels = [], []
    for label, name in enumerate(("across", "down", "squares")):
        for path in sorted((folder / "pictures/train" / name).iterdir()):
            pixels.append(torch.tensor(np.array(Image.open(path))).permute(2, 0, 1) / 255)
            labels.append(label)
    x, y = (torch.stack(pixels) - 0.5) / 0.25, torch.tensor(labels)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    torch.save({"model": net.state_dict(), "epoch": 60}, folder / "net.pt")
    return float((net(x).argmax(1) == y).float().mean())


def advcore(folder, *words):
    command = [sys.executable, "-m", "advcore", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_trained_network_is_hardened_judged_and_exported(tmp_path):
    pytest.importorskip("pyautoattack", reason="needs the extra eval")
    draw_pictures(tmp_path / "pictures")
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "run.yaml").write_text(RUN)
    assert train_outside(tmp_path) > 0.95
    out = advcore(tmp_path, "run", "run.yaml", "--plugin", "my_net.py")
    assert "starts from the weights in net.pt" in out
    record = json.loads((tmp_path / "runs/hardened-s0/record.json").read_text())
    assert record["final"]["last"]["clean"]["accuracy"] > 0.9, "it has not forgotten what it was trained for"
    assert [entry["names"] for entry in record["plugins"]] == [["models: my_net"]]
    out = advcore(tmp_path, "evaluate", "runs/hardened-s0", "--suite", "autoattack", "--plugin", "my_net.py")
    assert "robust" in out
    advcore(tmp_path, "export", "runs/hardened-s0", "--plugin", "my_net.py", "--out", "exported")
    card = (tmp_path / "exported/README.md").read_text()
    assert "started from trained weights: `net.pt`" in card
    (tmp_path / "exported/my_net.py").write_text(NET)
    done = subprocess.run(
        [sys.executable, "model.py"], cwd=tmp_path / "exported", capture_output=True, text=True, check=True
    )
    assert float(re.search(r"difference (\S+)", done.stdout)[1]) < 1e-5
