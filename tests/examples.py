"""Members of the tables of methods, built with the settings that their classes name as an example."""

from advcore.attacks.base import Attack
from advcore.minibatch.base import is_reattack


def build_example(kind: type, **changes: object) -> object:
    """An attack, objective, minibatch rule or model: its class's `example`, where it has one, with `changes`."""
    return kind(**{**getattr(kind, "example", {}), **changes})


def suit_start(rule: object, attack: Attack) -> Attack:
    """The attack with the start that a minibatch rule needs: remembered where the rest is trained on as remembered."""
    return attack.with_settings(start="remembered") if is_reattack(rule) else attack
