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
        return _forward(f"{module}.{name}", renamed[name])

    return get_renamed


def forward_module(module: str, new: str) -> Callable[[str], object]:
    """Return the `__getattr__` of a module that has moved to `new`, which has the same names."""

    def get_moved(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return _forward(f"{module}.{name}", f"{new}.{name}")

    return get_moved


def forward_method(old: str, new: str) -> Callable[..., object]:
    """Return a method that warns and calls the method `new`; `old` is its dotted name, "advcore.module.Class.name"."""

    def call_renamed(self: object, *arguments: object, **keywords: object) -> object:
        _warn(old, new, callers=2)
        return getattr(self, new)(*arguments, **keywords)

    return call_renamed


def _forward(old: str, new: str) -> object:
    _warn(old, new, callers=3)
    parent, _, attribute = new.rpartition(".")
    return getattr(importlib.import_module(parent), attribute)


def _warn(old: str, new: str, *, callers: int) -> None:
    """Warn at the line that uses the old name, that many callers up from here."""
    message = f"{old} has been renamed to {new}; the old name will be removed in the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=callers + 1)
