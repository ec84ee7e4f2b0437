"""The public contracts, on every method that has a name in run files."""

import pytest
import torch
from examples import build_example

from advcore.attacks import ATTACKS
from advcore.data import DATASETS
from advcore.gradients import GRADIENTS
from advcore.minibatch import RULES
from advcore.models import MODELS
from advcore.objectives import OBJECTIVES
from advcore.regularizers import REGULARIZERS
from advcore.solvers import SOLVERS
from advcore.testing import (
    AttackContract,
    DataContract,
    GradientContract,
    ModelContract,
    ObjectiveContract,
    RegularizerContract,
    RuleContract,
    SolverContract,
)


class TestAttacks(AttackContract):
    @pytest.fixture(params=ATTACKS)
    def attack(self, request):
        return build_example(ATTACKS[request.param])


class TestObjectives(ObjectiveContract):
    @pytest.fixture(params=OBJECTIVES)
    def objective(self, request):
        return build_example(OBJECTIVES[request.param])


class TestRegularizers(RegularizerContract):
    @pytest.fixture(params=REGULARIZERS)
    def regularizer(self, request):
        return build_example(REGULARIZERS[request.param])


class TestSolvers(SolverContract):
    @pytest.fixture(params=SOLVERS)
    def solver(self, request):
        return SOLVERS[request.param]()


class TestRules(RuleContract):
    @pytest.fixture(params=RULES)
    def rule(self, request):
        return build_example(RULES[request.param])


class TestGradients(GradientContract):
    @pytest.fixture(params=GRADIENTS)
    def gradient(self, request):
        return GRADIENTS[request.param]


class TestModels(ModelContract):
    @pytest.fixture(params=["small_cnn", "resnet18"])
    def model(self, request):
        return MODELS[request.param]().build(4, (3, 16, 16))


class TestDigits(DataContract):
    @pytest.fixture
    def data(self):
        return DATASETS["digits"]().load(torch.device("cpu"))
