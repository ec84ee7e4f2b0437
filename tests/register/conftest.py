"""Every test here begins and ends without plug-ins."""

import pytest
from plug_ins import forget_plugins


@pytest.fixture(autouse=True)
def tables():
    """The tables, and what is loaded, as they were before the test."""
    with forget_plugins():
        yield
