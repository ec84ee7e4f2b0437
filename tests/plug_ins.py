"""A plug-in with a network, and the care that tests which load plug-ins leave nothing to the tests after them."""

import contextlib
import sys
from collections.abc import Iterator

NET = '''
from torch import nn

import advcore.register


class Net(nn.Module):
    """A network whose head is not its last attribute."""

    def __init__(self, num_classes, channels, width: int = 4):
        super().__init__()
        self.classify = nn.Linear(16 * width, num_classes)
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())

    def forward(self, x):
        return self.classify(self.body(x))


advcore.register.model("my_net")(Net)
'''
RUN = {
    "name": "own",
    "data": {"name": "digits", "train_size": 60, "test_size": 20},
    "model": {"name": "my_net"},
    "objective": {"name": "pgd"},
    "attack": {"name": "linf_pgd", "eps": 0.1, "steps": 1},
    "training": {"epochs": 1, "batch_size": 30, "optimizer": {"name": "sgd", "lr": 0.05}},
    "evaluation": {"attacks": [{"name": "linf_pgd", "eps": 0.1, "steps": 1}], "checks": False},
}


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
