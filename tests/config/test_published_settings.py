"""Settings that the papers and their codes print, each looked up in the config of the file that stands for it."""

import functools
import operator

import pytest

from advcore.config.load import load, resolve
from advcore.run.build import build_trainer
from advcore.suite.suite import load as load_suite
from advcore.suite.suite import resolve_methods

# Of Dolatabadi et al. 2022 (arXiv 2112.00378), their scripts run_train_*.py and robust_train_*.py, and their README.
SGD = {"training.optimizer.name": "sgd", "training.optimizer.momentum": 0.9, "training.lr_schedule.name": "multi_step"}
RESNET18 = {"model.name": "resnet18", "model.stem": "cifar", "training.batch_size": 128}  # 3 x 3 stem
CIFAR = {
    "data.name": "cifar10", "data.augment": "crop_flip", "data.validation": 0.01,
    "model.mean": [0.4914, 0.4822, 0.4465], "model.std": [0.2023, 0.1994, 0.2010],  # custom_dataset.py
}  # fmt: skip
TRADES = {
    **SGD, **RESNET18, **CIFAR, "objective.name": "trades", "training.epochs": 100,
    "training.lr_schedule.milestones": [75, 90], "training.optimizer.weight_decay": 2e-4,
    "attack.name": "linf_pgd", "attack.start": "gaussian", "training.attack_mode": "eval",
    "evaluation.attacks.0.name": "linf_pgd", "evaluation.attacks.0.steps": 50, "evaluation.attacks.0.restarts": 20,
    "evaluation.attacks.0.step_size": 0.765 / 255, "evaluation.attacks.0.start": "uniform",
}  # fmt: skip
LINF = {
    **SGD, **RESNET18, **CIFAR, "objective.name": "pgd", "training.epochs": 120, "training.optimizer.lr": 0.01,
    "training.lr_schedule.milestones": [80, 100], "training.optimizer.weight_decay": 5e-4,
    "attack.name": "linf_pgd", "attack.eps": 8 / 255, "attack.steps": 10, "attack.step_size": 1.25 / 255,
    "attack.start": "uniform", "training.attack_mode": "train",
    "evaluation.attacks.0.name": "linf_pgd", "evaluation.attacks.0.steps": 50, "evaluation.attacks.0.restarts": 10,
    "evaluation.attacks.0.step_size": 2 / 255,
}  # fmt: skip
L2 = {
    **SGD, **RESNET18, "data.name": "svhn", "data.augment": "crop_flip", "data.validation": 0.1,
    "model.mean": [0.5] * 3, "model.std": [0.5] * 3, "objective.name": "pgd", "training.epochs": 120,
    "training.lr_schedule.milestones": [75, 90, 100], "training.optimizer.weight_decay": 5e-4,
    "attack.name": "l2_pgd", "attack.start": "uniform", "training.attack_mode": "train",
    "evaluation.attacks.0.name": "l2_pgd", "evaluation.attacks.0.steps": 50, "evaluation.attacks.0.restarts": 10,
    "evaluation.attacks.0.step_size": 2 / 255,
}  # fmt: skip
PAT = {
    **SGD, "model.name": "resnet50", "model.stem": "imagenet", "objective.name": "pgd",
    "model.mean": [0.485, 0.456, 0.406], "model.std": [0.229, 0.224, 0.225],
    "data.augment": "crop_flip+color_jitter:0.25+rotation:2", "training.batch_size": 50, "training.clip_value": 1.0,
    "training.optimizer.weight_decay": 2e-4, "training.lr_schedule.milestones": [45, 60, 80],
    "training.lr_schedule.ramp": 5, "training.attack_mode": "eval",
    "attack.name": "fast_lpa", "attack.steps": 10, "attack.correct_only": True, "attack.project": False,
    "attack.layers": ["features.1", "features.4", "features.7", "features.9", "features.11"],
    "evaluation.attacks.0.name": "autoattack", "evaluation.attacks.0.norm": "linf",
    "evaluation.attacks.1.name": "autoattack", "evaluation.attacks.1.norm": "l2",
    "evaluation.attacks.2.name": "stadv", "evaluation.attacks.2.eps": 0.05, "evaluation.attacks.2.steps": 100,
    "evaluation.attacks.3.name": "recoloradv", "evaluation.attacks.3.eps": 0.06, "evaluation.attacks.3.steps": 100,
    "evaluation.attacks.4.name": "jpeg_linf", "evaluation.attacks.4.eps": 0.125,
    "evaluation.attacks.5.name": "ppgd", "evaluation.attacks.5.steps": 40,
    "evaluation.attacks.6.name": "lpa", "evaluation.attacks.6.steps": 40,
}  # fmt: skip
PAT_CIFAR = {
    **PAT, "data.name": "cifar10", "data.validation": 0.1, "attack.eps": 0.5,
    "attack.network": "runs/cifar10_alexnet_lpips-s0", "evaluation.attacks.0.eps": 8 / 255,
    "evaluation.attacks.1.eps": 1.0, "evaluation.attacks.5.eps": 0.5, "evaluation.attacks.6.eps": 0.5,
}  # fmt: skip
PAT_IMAGENET = {
    **PAT, "data.name": "image_folder", "data.size": 224, "data.validation": 0.05, "attack.eps": 0.25,
    "attack.network": "runs/imagenet12_alexnet_lpips-s0", "evaluation.attacks.0.eps": 4 / 255,
    "evaluation.attacks.1.eps": 1200 / 255, "evaluation.attacks.5.eps": 0.25, "evaluation.attacks.6.eps": 0.25,
}  # fmt: skip
FAT = {
    **RESNET18, "data.name": "cifar10", "data.augment": "crop_flip", "objective.name": "pgd", "training.epochs": 60,
    "training.optimizer.name": "sgd", "training.optimizer.momentum": 0.9,
    "training.lr_schedule.name": "multi_step",  # the paper: no cyclic learning rate
    "attack.name": "linf_pgd", "attack.eps": 8 / 255, "attack.steps": 1, "attack.step_size": 10 / 255,
    "attack.start": "uniform", "evaluation.attacks.0.name": "linf_pgd", "evaluation.attacks.0.steps": 50,
}  # fmt: skip
# Their code for Selective AT (arXiv 2512.22069), and that paper.
SELECTIVE = {
    "training.optimizer.name": "adam", "training.optimizer.lr": 1e-3, "training.lr_schedule.name": "constant",
    "model.normalize": "none", "minibatch.name": "margin", "minibatch.rho": 0.25, "minibatch.clean": 0.2,
    "minibatch.margin_eps": 1e-6, "minibatch.draw": "multinomial", "attack.name": "linf_pgd", "attack.start": "uniform",
}  # fmt: skip
SELECTIVE_MNIST = {
    **SELECTIVE, "model.name": "mnist_cnn", "training.batch_size": 64, "training.epochs": 5, "minibatch.warm_up": 2,
    "attack.eps": 0.3, "attack.step_size": 0.01, "attack.steps": 40,
}  # fmt: skip
SELECTIVE_CIFAR = {
    **SELECTIVE, "model.name": "resnet18", "model.stem": "cifar", "data.augment": "crop_flip",
    "training.batch_size": 128, "training.epochs": 200, "minibatch.warm_up": 20,
    "attack.eps": 8 / 255, "attack.step_size": 2 / 255, "attack.steps": 10,
}  # fmt: skip
# What follows for selections: the share c, T, kappa. Their code's, where the files are as released.
ACS = {
    "selection.warm_start": 0.6, "selection.period": 20, "selection.schedule": "acs",
    "selection.partition": "per_batch", "selection.blocks": "stored_order", "training.normalise": "batch",
}  # fmt: skip
CRAIG = {"selection.solver.name": "craig", "selection.solver.distance": "squared", "selection.rows": "bias"}
GRADMATCH = {
    "selection.solver.name": "gradmatch", "selection.solver.ridge": 0, "selection.solver.tolerance": 0,
    "selection.solver.fill": "random", "selection.solver.nonnegative": True, "selection.rows": "full",
    "selection.target": "train",
}  # fmt: skip
RANDOM = {"selection.solver.name": "random", "selection.solver.redraw": False, "selection.partition": "whole"}
WARM = {"selection.warm_start": 0.6, "selection.partition": "per_batch"}
PUBLISHED = {
    "as_released/trades_full": TRADES,
    "as_released/trades_craig": {**TRADES, **ACS, **CRAIG, "selection.budget": 0.5},
    "as_released/trades_gradmatch": {**TRADES, **ACS, **GRADMATCH, "selection.budget": 0.5},
    "as_released/trades_random": {
        **TRADES, **ACS, **RANDOM, "selection.budget": 0.5, "selection.blocks": "permuted"  # it has no blocks
    },
    "as_released/linf_full": LINF,
    "as_released/linf_craig": {**LINF, **ACS, **CRAIG, "selection.budget": 0.5},
    "as_released/linf_gradmatch": {**LINF, **ACS, **GRADMATCH, "selection.budget": 0.5},
    "as_released/l2_full": L2,
    "as_released/l2_craig": {**L2, **ACS, **CRAIG, "selection.budget": 0.3},
    "as_released/l2_gradmatch": {**L2, **ACS, **GRADMATCH, "selection.budget": 0.3},
    "cifar10/pat_full": PAT_CIFAR,
    "cifar10/pat_craig": {**PAT_CIFAR, **WARM, "selection.budget": 0.4, "selection.period": 15},
    "cifar10/pat_gradmatch": {**PAT_CIFAR, **WARM, "selection.budget": 0.4, "selection.period": 15},
    "imagenet12/pat_full": PAT_IMAGENET,
    "imagenet12/pat_craig": {**PAT_IMAGENET, **WARM, "selection.budget": 0.5, "selection.period": 15},
    "imagenet12/pat_gradmatch": {**PAT_IMAGENET, **WARM, "selection.budget": 0.5, "selection.period": 15},
    "cifar10/fat_full": FAT,
    "cifar10/fat_craig": {**FAT, **WARM, "selection.budget": 0.5, "selection.period": 20},
    "cifar10/fat_gradmatch": {**FAT, **WARM, "selection.budget": 0.5, "selection.period": 20},
    "mnist/selective_margin": SELECTIVE_MNIST,
    "cifar10/selective_margin": SELECTIVE_CIFAR,
}  # fmt: skip
# What nobody printed ("?" in the tables above), by the start of the files' names: each header says that it is ours.
NOT_PUBLISHED = {
    "as_released/trades": ["learning rate", "eps", "beta", "attack steps", "step size"],
    "as_released/linf": ["attack steps"],
    "as_released/l2": ["learning rate", "eps", "attack steps", "step size"],
    "cifar10/pat": ["epochs", "learning rate", "fifth unseen attack"],
    "imagenet12/pat": ["twelve groups", "epochs", "learning rate", "fifth unseen attack"],
    "cifar10/fat": ["epochs", "learning rate", "weight decay", "evaluation steps"],
    "cifar10/selective": ["evaluation"],
    "mnist/selective": ["evaluation"],
}
# Rows of the suites of table 1 that stand for the published code, and the files that they read in the full size.
RELEASED = [
    (objective, row, method)
    for objective in ("trades", "linf", "l2")
    for row, method in (("full", "full"), ("CRAIG", "craig"), ("GradMatch", "gradmatch"), ("random", "random"))
    if method != "random" or objective == "trades"
]
SCIENCE = ("selection.solver", "selection.rows", "selection.partition", "selection.blocks", "selection.schedule",
           "selection.budget", "training.normalise", "training.attack_mode")  # fmt: skip


@functools.cache
def find(root, name):
    return resolve(load(root / f"experiments/{name}.yaml"))


def look_up(config, path):
    keys = [int(key) if key.isdigit() else key for key in path.split(".")]
    return functools.reduce(operator.getitem, keys, config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_has_every_setting_that_was_published(root, name):
    config = find(root, name)
    assert {path: look_up(config, path) for path in PUBLISHED[name]} == PUBLISHED[name]
    build_trainer(load(root / f"experiments/{name}.yaml"))


@pytest.mark.parametrize("start", NOT_PUBLISHED)
def test_a_header_says_what_was_not_published(root, start):
    files = [name for name in PUBLISHED if name.startswith(start)]
    assert files
    for name in files:
        lines = (root / f"experiments/{name}.yaml").read_text().splitlines()
        header = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
        ours = header.partition("inferred or ours: ")[2] or header.partition("Ours: ")[2]
        assert [word for word in NOT_PUBLISHED[start] if word not in ours] == [], name


def test_every_file_as_released_is_looked_at_and_names_its_corrected_twin(root):
    files = sorted((root / "experiments/as_released").glob("*.yaml"))
    assert {f"as_released/{file.stem}" for file in files} == {name for name in PUBLISHED if "released" in name}
    for file in files:
        folder = "svhn" if file.stem.startswith("l2") else "cifar10"
        twin = f"experiments/{folder}/{file.name}"
        assert twin in file.read_text() and (root / twin).exists()


@pytest.mark.parametrize("objective, row, method", RELEASED)
def test_the_rows_as_released_of_table_1_are_those_files_in_either_size(root, objective, row, method):
    path = root / f"benchmarks/suites/papers/table1-{objective}.yaml"
    expected = find(root, f"as_released/{objective}_{method}")
    full, small = (
        resolve(resolve_methods(load_suite(path, size))[f"{row}, as released"]) for size in ("full", "small")
    )
    for key in ("data", "model", "objective", "attack", "selection", "training", "evaluation"):
        assert full[key] == expected[key], key
    paths = [path for path in SCIENCE if method != "full" or path.startswith("training")]
    assert {path: look_up(small, path) for path in paths} == {path: look_up(expected, path) for path in paths}


@pytest.mark.parametrize("name, actions", [
    # T_w = round(c int(kappa E)) epochs on all data, idle ones up to int(kappa E), then every 20th epoch selects.
    ("as_released/trades_gradmatch", [(30, "full"), (1, "select"), (19, "reuse"), (1, "select"), (19, "reuse")]),
    ("as_released/linf_craig",
     [(36, "full"), (8, "random"), (1, "select"), (19, "reuse"), (1, "select"), (19, "reuse")]),
    ("as_released/l2_gradmatch",
     [(22, "full"), (8, "random"), (1, "select"), (19, "reuse"), (1, "select"), (19, "reuse")]),
])  # fmt: skip
def test_epochs_as_released_are_those_of_their_code_counted_by_hand(root, name, actions):
    plan = build_trainer(load(root / f"experiments/{name}.yaml")).schedule.plan()
    assert [epoch.action for epoch in plan] == [action for count, action in actions for _ in range(count)]
    first = int(0.6 * (100 if "trades" in name else 120))
    after = [epoch.lr_index for epoch in plan[actions[0][0] :]]
    assert after == list(range(first, first + len(after)))
