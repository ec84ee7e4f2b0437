"""Recipes of today: their files hold the published settings, and their twins on digits run."""

import functools
import operator
import runpy

import pytest
from plug_ins import forget_plugins

from advcore.config.load import load, resolve

TRADES = {"objective.name": "trades", "model.normalize": "none", "attack.eps": 8 / 255, "attack.step_size": 2 / 255,
          "attack.steps": 10, "training.optimizer.name": "sgd", "training.optimizer.momentum": 0.9,
          "training.optimizer.weight_decay": 5e-4, "data.augment": "crop_flip"}  # fmt: skip
IMAGENET = {
    "data.name": "image_folder", "data.size": 224, "data.augment": "crop_flip+randaugment", "model.weights": "timm",
    "model.new_head": False, "objective.name": "pgd", "objective.label_smoothing": 0.1, "attack.eps": 4 / 255,
    "attack.steps": 2, "attack.start": "clean", "training.epochs": 300, "training.optimizer.name": "timm:adamw",
    "training.optimizer.lr": 1e-3, "training.optimizer.weight_decay": 0.05,
    "training.optimizer.options": {"betas": [0.9, 0.95]}, "training.lr_schedule.warm_up": 20 / 300,
    "training.cutmix.alpha": 1, "training.cutmix.probability": 0.5, "training.ema": 0.9999,
    "evaluation.attacks.0.name": "autoattack", "evaluation.attacks.0.eps": 4 / 255,
}  # fmt: skip
# Of each file: its settings, what was published of it, and where its small twin stands.
PUBLISHED = {
    "cifar10/trades_awp": (
        {**TRADES, "model.name": "wide_resnet34_10", "objective.beta": 6, "attack.start": "gaussian",
         "training.epochs": 200, "training.batch_size": 128, "training.optimizer.lr": 0.1,
         "training.lr_schedule.milestones": [100, 150], "training.awp.gamma": 5e-3, "training.awp.warm_up": 10},
        "85.36 % clean, 56.17 %",
        "trades_awp",
    ),
    "cifar10/trades_generated": (
        {**TRADES, "model.name": "wide_resnet28_10", "model.activation": "silu", "objective.beta": 5,
         "objective.label_smoothing": 0.1, "attack.start": "uniform", "data.pool.share": 0.7, "training.epochs": 400,
         "training.batch_size": 512, "training.optimizer.lr": 0.2, "training.optimizer.nesterov": True,
         "training.lr_schedule.name": "one_cycle", "training.lr_schedule.peak": 0.025, "training.ema": 0.995,
         "training.attack_mode": "train", "data.validation": 1024 / 50000},
        "92.44 % clean, 67.31 %",
        "trades_generated",
    ),
    "imagenet/convnext_tiny": (
        {**IMAGENET, "model.name": "timm:convnext_tiny.fb_in1k"}, "72.4 % clean, 48.6 %", "convnext_digits",
    ),
    "imagenet/vit_small": (
        {**IMAGENET, "model.name": "timm:vit_small_patch16_224.augreg_in1k"}, "69.2 % clean, 44.0 %", "vit_digits",
    ),
}  # fmt: skip
# Small twins, with the scripts that their headers say to run first, and their plug-ins.
TWINS = [
    ("trades_awp", [], []),
    ("trades_generated", ["generate_digits.py"], []),
    ("convnext_digits", [], []),
    ("vit_digits", [], []),
    ("finetune_own", ["own_net.py"], ["own_net.py"]),
]
BRIEF = ("training.epochs=1", "data.train_size=200", "data.test_size=40", "evaluation.attacks.0.steps=2",
         "evaluation.checks=false")  # fmt: skip


@functools.cache
def find(root, name):
    return resolve(load(root / f"experiments/{name}.yaml"))


def look_up(config, path):
    keys = [int(key) if key.isdigit() else key for key in path.split(".")]
    return functools.reduce(operator.getitem, keys, config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_settings_and_says_what_was_published(root, name):
    settings, published, twin = PUBLISHED[name]
    config = find(root, name)
    assert {path: look_up(config, path) for path in settings} == settings
    header = (root / f"experiments/{name}.yaml").read_text()
    assert published in header and f"../{twin}.yaml" in header
    assert f"{name}.yaml" in (root / f"experiments/{twin}.yaml").read_text()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A folder without data, so that only embedded ones are read."""
    monkeypatch.delenv("ADVCORE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "first", "plugins"), TWINS)
def test_a_twin_runs_by_the_commands_of_its_header(root, advcore, nowhere, name, first, plugins):
    header = (root / f"experiments/{name}.yaml").read_text()
    for script in first:
        assert f"python experiments/{script}" in header
        with forget_plugins():
            runpy.run_path(str(root / "experiments" / script), run_name="__main__")
    words = [word for plugin in plugins for word in ("--plugin", root / "experiments" / plugin)]
    words += [word for change in BRIEF for word in ("--set", change)]
    code, out, err = advcore("run", root / f"experiments/{name}.yaml", *words)
    assert code == 0, err
    assert "robust" in out
