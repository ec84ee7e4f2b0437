"""The public contracts, on every method that has a name in run files."""

import pytest
import torch

from advcore.attacks import ATTACKS
from advcore.data import DATASETS
from advcore.gradients import GRADIENTS
from advcore.minibatch import RULES
from advcore.models import MODELS
from advcore.objectives import OBJECTIVES
from advcore.solvers import SOLVERS
from advcore.testing import (
    AttackContract,
    DataContract,
    GradientContract,
    ModelContract,
    ObjectiveContract,
    RuleContract,
    SolverContract,
)

USUAL = {
    "linf_pgd": {"eps": 8 / 255, "steps": 3},
    "l2_pgd": {"eps": 0.5, "steps": 3},
    "l1_pgd": {"eps": 4.0, "steps": 3},
    "n_fgsm": {"eps": 8 / 255},
    "fast_lpa": {"eps": 0.3, "steps": 3},
    "lpa": {"eps": 0.3, "steps": 3, "rounds": 2},
    "ppgd": {"eps": 0.3, "steps": 2},
    "stadv": {"eps": 0.2, "steps": 3},
    "recoloradv": {"eps": 0.06, "steps": 3},
    "jpeg_linf": {"eps": 0.5, "steps": 3},
}


class TestAttacks(AttackContract):
    @pytest.fixture(params=ATTACKS)
    def attack(self, request):
        return ATTACKS[request.param](**USUAL[request.param])


class TestObjectives(ObjectiveContract):
    @pytest.fixture(params=OBJECTIVES)
    def objective(self, request):
        return OBJECTIVES[request.param]()


class TestSolvers(SolverContract):
    @pytest.fixture(params=SOLVERS)
    def solver(self, request):
        return SOLVERS[request.param]()


class TestRules(RuleContract):
    @pytest.fixture(params=RULES)
    def rule(self, request):
        return RULES[request.param]()


class TestGradients(GradientContract):
    @pytest.fixture(params=GRADIENTS)
    def gradient(self, request):
        return GRADIENTS[request.param]


class TestModels(ModelContract):
    @pytest.fixture(params=["small_cnn", "resnet18", "preact_resnet18", "alexnet_cifar"])
    def model(self, request):
        return MODELS[request.param]().body(4, (3, 16, 16))


class TestDigits(DataContract):
    @pytest.fixture
    def data(self):
        return DATASETS["digits"]().load(torch.device("cpu"))
