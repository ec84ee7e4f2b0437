"""Which data split the runs of a suite use: one per seed, or the same for all."""

from collections.abc import Iterator, Mapping

from advcore.config.run_key import OF_METHOD
from advcore.errors import check, require
from advcore.suite.layout import Settings


def choose_vary_split(stated: bool | None, methods: Mapping[str, Settings]) -> bool:
    """Return whether each seed of a suite is also the seed of its data split.

    stated : what the suite says. Where it says nothing (None), the split varies, unless a method is bound to one: it
        names `data.split_seed`, or begins with scores or weights from a file, which know one split only.

    Raises ConfigError where the split is said to vary and a method names it.
    """
    if stated is None:
        return not any(any(_list_bounds(settings)) for settings in methods.values())
    named = [name for name, settings in methods.items() if _names_split(settings)]
    rule = "left out, or false, where data.split_seed is set"
    problem = check(
        not named, "vary_split", rule, True, f"{', '.join(named[:3])}: data.split_seed would have no effect"
    )
    require(problem if stated else None)
    return stated


def _list_bounds(settings: Settings) -> Iterator[bool]:
    """Yield for each of the ways in which a method may be bound to a data split whether it is."""
    yield _names_split(settings)
    solver = _read_section(_read_section(settings, "selection"), "solver")
    yield solver.get("scores") is not None
    weights = _read_section(settings, "model").get("weights")
    yield weights is not None and not str(weights).startswith(OF_METHOD)


def _names_split(settings: Settings) -> bool:
    return "split_seed" in _read_section(settings, "data")


def _read_section(settings: Settings, key: str) -> Settings:
    """Return a section of unchecked settings, {} where it is anything else."""
    section = settings.get(key)
    return section if isinstance(section, dict) else {}
