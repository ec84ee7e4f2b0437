"""Members of the tables of methods, built with the settings that their classes name as an example."""


def build_example(kind: type, **changes: object) -> object:
    """An attack, objective, minibatch rule or model: its class's `example`, where it has one, with `changes`."""
    return kind(**{**getattr(kind, "example", {}), **changes})
