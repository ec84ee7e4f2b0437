"""The page of an exported model, made from its record alone."""

import pytest

from advcore.reporting import card
from advcore.reporting.card import is_measured, write_card
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import name_data

FACTS = {"shape": [3, 32, 32], "num_classes": 10, "needs": ["torchvision"], "samples": 0, "coresets": 1,
         "standalone": True}  # fmt: skip


def record(**changes) -> RunRecord:
    attack = {"name": "linf_pgd", "norm": "linf", "eps": 8 / 255, "steps": 20, "step_size": 2 / 255, "restarts": 1}
    measured = {"accuracy": 0.45, "n": 4000, "interval": [0.43, 0.47]}
    final = {
        "clean": {"accuracy": 0.8, "n": 4000, "interval": [0.79, 0.81]},
        "attacks": [attack | measured | {"seed": 0}],
        "flags": ["masked: x"],
    }
    config = {
        "seed": 3,
        "data": {"name": "parquet", "path": "/home/me/cifar10"},
        "model": {"name": "resnet18"},
        "objective": {"name": "trades", "beta": 6.0},
        "attack": {"name": "linf_pgd", "eps": 8 / 255, "steps": 10},
        "selection": {"solver": {"name": "craig"}, "partition": "per_class", "budget": 0.5},
        "training": {"optimizer": {"name": "sgd"}, "lr_schedule": {"name": "cosine"}, "batch_size": 128},
    }
    error = {"epoch": 1, "gradient_error": 0.1, "gradient_error_random": 0.4}
    own = {
        "name": "a_run", "config": config, "environment": {"advcore": "0.1", "device": "cpu"}, "plan": "1 full epoch",
        "reference": {"epochs": 2, "steps": 10, "units": 9}, "finished": True, "relative_cost": 0.5, "best_epoch": 0,
        "epochs": [{"epoch": 0, "clean": 0.7, "robust": 0.4}, {"epoch": 1, "clean": 0.75, "robust": 0.35}],
        "selections": [error], "events": [{"epoch": 1, "event": "fell back"}], "final": {"last": final, "best": final},
    }  # fmt: skip
    return RunRecord(**own | changes)


def test_numbers_stand_with_interval_count_attack_and_flags():
    page = write_card(record(), "last", 1, FACTS)
    assert "| clean | 80.0 | 79.0 to 81.0 | 4000 |" in page
    assert "| linf 8/255, PGD-20 | 45.0 | 43.0 to 47.0 | 4000 |" in page and "step size 2/255, seed 0" in page
    assert "- masked: x" in page and "`linf_pgd` (eps 8/255, steps 10)" in page and "0.500 of full training" in page
    assert "0.100 (0.400)" in page and "event at epoch 1: fell back" in page and "`craig`" in page
    assert 'dataset="cifar10", threat_model="Linf", eps=8/255)' in page and "torchvision and safetensors" in page
    assert "@inproceedings" in page and "/home" not in page


def test_the_metadata_is_yaml_that_the_hub_reads():
    hub = pytest.importorskip("huggingface_hub", reason="needs the package huggingface_hub: install the extra hf")
    found = hub.ModelCard(write_card(record(), "last", 1, FACTS)).data
    assert found.model_name == "a_run" and "adversarial-robustness" in found.tags
    assert [(one.metric_name, one.metric_value) for one in found.eval_results] == [
        ("clean accuracy, 4,000 images", 0.8),
        ("robust accuracy (linf 8/255, PGD-20), 4,000 images", 0.45),
    ]
    assert {(one.dataset_type, one.dataset_name, one.dataset_split) for one in found.eval_results} == {
        ("parquet", "parquet cifar10", "test")
    }


def test_without_the_hubs_package_a_card_has_no_metadata(monkeypatch):
    monkeypatch.setattr(card, "can_write_metadata", lambda: False)
    page = write_card(record(), "last", 1, FACTS)
    assert page.startswith("# a_run\n") and "| clean | 80.0 |" in page


@pytest.mark.parametrize(
    ("changes", "which", "epoch", "known"),
    [
        ({}, "last", 1, True), ({}, "best", 0, True), ({}, "best", 1, False), ({}, "last", 0, False),
        ({"finished": False}, "last", 1, False), ({"best_epoch": None}, "best", 1, True),
        ({"epochs": []}, "last", 0, False),
    ],
)  # fmt: skip
def test_accuracies_are_told_of_the_state_that_they_are_of(changes, which, epoch, known):
    found = record(**changes)
    assert is_measured(found, which, epoch) is known
    page = write_card(found, which, epoch, FACTS)
    assert ("4000" in page) is known is ("model-index" in page)
    assert ("of this state.**" in page or "not finished" in page) is not known


def test_a_state_on_its_way_tells_what_it_was_judged_by():
    page = write_card(record(finished=False, final={}), "best", 0, FACTS)
    assert "not finished" in page and "| clean | 70.0 |" in page and "| robust | 40.0 |" in page


def test_only_robustbenchs_own_data_and_norms_are_offered_to_it():
    """SVHN has the shape and classes of CIFAR-10."""
    found = record()
    found.config["data"] = {"name": "svhn", "path": "/home/me/data"}
    assert "benchmark(" not in write_card(found, "last", 1, FACTS)
    found.config["data"] = {"name": "cifar10", "path": "/home/me/data"}
    for name in ("n_fgsm", "fgsm_mep"):
        found.config["attack"] = {"name": name, "eps": 8 / 255}
        assert 'dataset="cifar10", threat_model="Linf"' in write_card(found, "last", 1, FACTS)
    found.config["attack"] = {"name": "lpa", "eps": 0.2}
    page = write_card(found, "last", 1, FACTS)
    assert "benchmark(" not in page and "in units of its own" in page and "51/255" not in page


def test_checks_that_were_not_made_found_nothing_to_tell():
    found = record()
    found.final["last"]["flags"] = []
    assert "checks found nothing" in write_card(found, "last", 1, FACTS)
    found.config["evaluation"] = {"checks": False}
    page = write_card(found, "last", 1, FACTS)
    assert "checks were switched off" in page and "found nothing" not in page


def test_what_does_not_fit_is_not_claimed():
    found = record()
    found.config["attack"] = None
    page = write_card(found, "last", 1, FACTS | {"shape": [1, 8, 8], "standalone": False})
    assert "no robustness is to be expected" in page and "benchmark(" not in page and "from model import" not in page
    assert name_data(found) == "parquet cifar10"


@pytest.mark.parametrize(("inputs", "name"), [({}, "net.pt"), ({"model.weights.name": "hub:me/net"}, "hub:me/net")])
def test_weights_that_it_began_with_are_named(inputs, name):
    begun = record(inputs=inputs)
    begun.config["model"]["weights"] = "/home/me/net.pt"
    assert f"started from trained weights: `{name}`" in write_card(begun, "last", 1, FACTS)
