"""Keep names importable for one release after they were renamed, with a warning."""

import importlib
import warnings
from collections.abc import Callable, Mapping


def forward_renamed(module: str, renamed: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a module some of whose names were renamed or moved.

    Parameters
    ----------
    module : the module's `__name__`.
    renamed : {old name: dotted path of the new one, such as "advcore.distributed.merge_ledgers"}.

    Asking for an old name warns (DeprecationWarning) and gives the new one.
    """

    def get_renamed(name: str) -> object:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = renamed[name]
        warnings.warn(
            f"{module}.{name} has been renamed to {new}; the old name will be removed in the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        parent, _, attribute = new.rpartition(".")
        return getattr(importlib.import_module(parent), attribute)

    return get_renamed


def forward_module(module: str, new: str) -> Callable[[str], object]:
    """Return the `__getattr__` of a module that has moved to `new`, which has the same names."""

    def get_moved(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return forward_renamed(module, {name: f"{new}.{name}"})(name)

    return get_moved
