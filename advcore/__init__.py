"""Adversarial training at a fraction of its cost: weighted coresets selected at the attacked images.

The public names and packages load on first use, so that `advcore --help` does not wait for torch.
"""

import importlib

from advcore.version import __version__

_HOMES = {
    "AdversarialCoreset": "advcore.selection.coreset",
    "Coreset": "advcore.selection.result",
    "Trainer": "advcore.training.trainer",
    "attack": "advcore.adversary",
    "evaluate": "advcore.evaluation.evaluate",
}

_PACKAGES = (
    *("attacks", "objectives", "solvers", "minibatch", "gradients", "models", "data"),
    *("selection", "training", "evaluation", "reporting", "tracking", "register"),
)

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return importlib.import_module(f"advcore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'advcore' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
