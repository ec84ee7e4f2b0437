"""Tests that load plug-ins leave no name and no module of them to the tests after them."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def forget_plugins() -> Iterator[None]:
    """Restore the tables of methods, and what is loaded, as they were."""
    from advcore.register import plugins

    tables = _list_tables()
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    plugins.LOADED.clear()
    for name in [name for name in sys.modules if name.startswith("advcore_plugin_")]:
        del sys.modules[name]


def _list_tables() -> list[dict]:
    from advcore.config.schema import TABLES
    from advcore.data.augment import AUGMENTATIONS
    from advcore.evaluation.evaluate import EVALUATED

    return [*TABLES.values(), EVALUATED, AUGMENTATIONS]
