"""Contract tests for your own methods: the same tests that advcore's methods pass, run by pytest.

Subclass a contract in a test file and give its fixture; each of its tests then runs on what the fixture returns:

    class TestStripes(AttackContract):
        @pytest.fixture
        def attack(self):
            return Stripes(eps=0.1, steps=3)

A contract says nothing about a method's mathematics: test that against a slow, obvious version of your own.
"""

import pytest

_KINDS = ("attacks", "data", "gradients", "minibatch", "models", "objectives", "regularizers", "solvers")
pytest.register_assert_rewrite(*(f"advcore.testing.{kind}" for kind in _KINDS))  # so that a failure shows the values

from advcore.testing.attacks import AttackContract  # noqa: E402
from advcore.testing.data import DataContract  # noqa: E402
from advcore.testing.gradients import GradientContract  # noqa: E402
from advcore.testing.minibatch import RuleContract  # noqa: E402
from advcore.testing.models import ModelContract  # noqa: E402
from advcore.testing.objectives import ObjectiveContract  # noqa: E402
from advcore.testing.regularizers import RegularizerContract  # noqa: E402
from advcore.testing.solvers import SolverContract  # noqa: E402

__all__ = [
    "AttackContract",
    "DataContract",
    "GradientContract",
    "ModelContract",
    "ObjectiveContract",
    "RegularizerContract",
    "RuleContract",
    "SolverContract",
]
