"""Classes of settings made elsewhere, such as a plug-in's."""

import pytest

from advcore.errors import ConfigError
from advcore.settings import settings


def test_a_check_that_calculates_does_not_hide_a_wrong_type():
    @settings
    class Repeat:
        n: int = 3

        def __post_init__(self):
            sum(range(self.n))

    with pytest.raises(ConfigError, match="^n must be a whole number, got 'x'$"):
        Repeat(n="x")
