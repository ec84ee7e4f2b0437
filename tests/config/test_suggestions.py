"""What a run file offers for a name or a setting that it has not: what a person means, or nothing."""

import pytest

from advcore.config.aliases import ALIASES, PLACES, SETTING_ALIASES, collect_aliases, suggest_setting
from advcore.config.load import load
from advcore.config.schema import TABLES
from advcore.errors import ConfigError, is_known, simplify_name, suggest_nearest
from advcore.gradients import GRADIENTS
from advcore.models import MODELS
from advcore.selection.partition import ALIASES as PARTITION_ALIASES
from advcore.selection.partition import PARTITIONS
from advcore.solvers.scored import SCORE_ALIASES, SCORES

NAMES = {
    "attack": {
        "pgd": "'linf_pgd'", "PGD-10": "'linf_pgd' with steps: 10", "L2-PGD": "'l2_pgd'", "l2": "'l2_pgd'",
        "pgd_l2": "'l2_pgd'", "fgsm": "'linf_pgd' with steps: 1", "fast_at": "'linf_pgd' with steps: 1",
        "nfgsm": "'n_fgsm'", "ppdg": "'ppgd'", "linf_pdg": "'linf_pgd'", "aa": "'autoattack' at evaluation.attacks.N",
        "autoattack": "'autoattack' at evaluation.attacks.N", "trades": "'trades' at objective", "cw": "",
        "deepfool": "",
    },
    "evaluation.attacks.0": {
        "aa": "'autoattack'", "autoatack": "'autoattack'", "square": "'autoattack' with version: square",
        "pgd": "'linf_pgd'", "mart": "'mart' at objective", "mifgsm": "'linf_pgd' with start: clean",
    },
    "selection.solver": {
        "grad_match": "'gradmatch'", "GradMatch": "'gradmatch'", "carig": "'craig'", "craig_lazy": "'craig'",
        "omp": "'gradmatch'", "el2n": "'by_score' with score: el2n", "uniform": "'random'", "glister": "",
        "kcenter": "",
    },
    "model": {
        "resnet": "'resnet18'", "resnet34": "'timm:resnet34'", "WRN-28-10": "'wide_resnet28_10'",
        "wideresnet34": "'wide_resnet34_10'", "preactresnet18": "'preact_resnet18'", "vgg16": "'timm:vgg16'",
        "lenet5": "'small_cnn'", "mobilenet": "",
    },
    "objective": {
        "at": "'pgd'", "trade": "'trades'", "ce": "'standard'", "linf_pgd": "'linf_pgd' at attack", "awp": "",
    },
    "data": {
        "cifar": "'cifar10'", "CIFAR-100": "'cifar100'", "fashionmnist": "'fashion_mnist'", "folder": "'image_folder'",
        "hf": "'parquet'", "stl10": "",
    },
    "training.optimizer": {"adam_w": "'adamw'", "SGD": "'sgd'", "rmsprop": "'timm:rmsprop'", "lbfgs": ""},
    "training.lr_schedule": {
        "cosine_annealing": "'cosine'", "CosineAnnealingLR": "'cosine'", "step": "'multi_step'",
        "onecycle": "'one_cycle'", "exponential": "",
    },
}  # fmt: skip
"""By where the name stands: what is written, and what is offered."""
BATCH = "'training.batch_size' or 'evaluation.batch_size'"
SETTINGS = {
    "attack": {
        "epsilon": "'eps'", "eps_step": "'step_size'", "alpha": "'step_size'", "num_steps": "'steps'", "Eps": "'eps'",
        "iters": "'steps'", "stepsize": "'step_size'", "n_restarts": "'restarts'", "norm": "'name'", "stepz": "'steps'",
        "epochs": "'training.epochs'", "targeted": "",
    },
    "training": {
        "lr": "'training.optimizer.lr'", "learning_rate": "'training.optimizer.lr'", "batchsize": "'batch_size'",
        "momentum": "'training.optimizer.momentum'", "num_epochs": "'epochs'", "lr_scheduler": "'lr_schedule'",
        "optimiser": "'optimizer'", "amp": "'training.speed.autocast'", "grad_clip": "'clip_norm'",
        "workers": "'data.workers'", "seed": "'seed' at the top of the file", "eps": "'attack.eps'",
    },
    "training.optimizer": {"learning_rate": "'lr'", "wd": "'weight_decay'", "nestrov": "'nesterov'", "betas": ""},
    "selection": {
        "fraction": "'budget'", "k": "'budget'", "every": "'period'", "warmup": "'warm_start'", "solvers": "'solver'",
        "ridge": "'selection.solver.ridge'", "steps": "'selection.attack.steps'", "epochs": "'training.epochs'",
    },
    "selection.solver": {"lam": "'ridge'", "rige": "'ridge'"},
    "data": {"num_workers": "'workers'", "augmentation": "'augment'", "batch_size": BATCH},
    "model": {"num_classes": "", "pretrained": "", "arch": "'name'"},
    "evaluation": {"eps": "'evaluation.attacks.0.eps'", "attack": "'attacks'", "bs": "'batch_size'", "suite": ""},
    "cost": {"steps": "", "reference_step": "'reference_steps'"},
    "checkpoint": {"keep": "'kept'", "every": "'period'"},
    "": {
        "lr": "'training.optimizer.lr'", "epochs": "'training.epochs'", "batch_size": BATCH,
        "dataset": "'data'", "loss": "'objective'", "gpu": "'device'", "solver": "'selection.solver'",
        "eps": "'attack.eps'",
    },
}  # fmt: skip
"""By section: what is written, and what is offered."""


def offered(root, *changes: str) -> str:
    """What the only problem ends with, after what it got."""
    with pytest.raises(ConfigError) as caught:
        load(root / "experiments/trades_gradmatch.yaml", changes)
    (line,) = caught.value.lines
    return line.partition("did you mean ")[2].removesuffix("?")


@pytest.mark.parametrize(("place", "written"), [(place, name) for place, names in NAMES.items() for name in names])
def test_a_name_that_the_field_uses_leads_to_the_name_here(root, place, written):
    assert offered(root, f"{place}.name={written}") == NAMES[place][written]


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in SETTINGS.items() for key in keys])
def test_a_setting_that_people_write_leads_to_the_setting_here(root, section, key):
    assert offered(root, f"{section}.{key}=1".lstrip(".")) == SETTINGS[section][key]


def test_a_setting_that_another_name_has_is_told_with_that_name(root):
    with pytest.raises(ConfigError, match=r"selection.solver.epsilon is not .*; only craig can have epsilon$"):
        load(root / "experiments/trades_gradmatch.yaml", ["selection.solver.epsilon=0.1"])
    with pytest.raises(ConfigError, match=r"data.root is not a .*; only mnist, .*, parquet and npz can have path$"):
        load(root / "experiments/trades_gradmatch.yaml", ["data.root=/data"])


@pytest.mark.parametrize("table", [*TABLES, "partitions", "scores"])
def test_every_alias_leads_to_a_name_of_its_table_and_hides_none(table):
    tables = TABLES | {"partitions": PARTITIONS, "scores": SCORES}
    aliases = ALIASES | {"partitions": PARTITION_ALIASES, "scores": SCORE_ALIASES}
    names = tables[table]
    for alias, target in aliases[table].items():
        assert alias == simplify_name(alias) and is_known(target, names), alias
        assert alias not in set(map(simplify_name, names)), f"{alias} is a name already"
        assert suggest_nearest(alias, names, aliases[table]).startswith("did you mean ")
    assert set(SCORES) <= set(GRADIENTS)


def test_every_alias_of_a_setting_leads_to_a_setting():
    assert ALIASES.keys() == PLACES.keys() == TABLES.keys()
    for alias, settings in SETTING_ALIASES.items():
        assert alias == simplify_name(alias)
        for setting in settings:
            assert suggest_setting(alias, [setting], "") == f"did you mean {setting!r}?"
            assert suggest_setting(setting, [], "").startswith("did you mean "), f"nothing is called {setting}"


def test_what_timm_is_offered_for_is_an_architecture_of_timm():
    timm = pytest.importorskip("timm", reason="needs the package timm: install the extra hf")
    offered = [target.partition(":")[2] for target in collect_aliases(MODELS).values() if target.startswith("timm:")]
    assert offered and set(offered) <= set(timm.list_models())


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        ("validatoin", ["train", "validation"], "did you mean 'validation'?"),
        ("Per-Class", ["per_class", "per_batch"], "did you mean 'per_class'?"),
        ("xyz", ["train", "validation"], ""),
        ("", ["train"], ""),
        (3, ["train"], ""),
        (None, ["none", "train"], "did you mean 'none'?"),
        ("\n" * 9, ["train"], ""),
    ],
)
def test_words_that_are_spelt_alike_are_offered_and_no_others(value, known, expected):
    assert suggest_nearest(value, known) == expected
