"""The code of docs/extending.md, collected as it stands there: one new method of each kind, under its contract.

The names that the page defines become names of this module, so that pytest finds the page's own tests.
"""

import re
from pathlib import Path

from advcore import testing

PAGE = Path(__file__).parents[2] / "docs/extending.md"
exec(compile("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)), str(PAGE), "exec"))


def test_the_page_tries_every_contract():
    classes = [kind for kind in globals().values() if isinstance(kind, type) and kind.__name__.startswith("Test")]
    contracts = {base for kind in classes for base in kind.__mro__}
    assert {getattr(testing, name) for name in testing.__all__} <= contracts
    assert "test_all_of_them_at_work" in globals()
