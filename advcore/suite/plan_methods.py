"""Plan the methods of a suite that depend on its data: epochs that match a relative cost, and added baselines.

The plan lies in the folder of records, in baselines.json.
"""

import logging
import os
from pathlib import Path

from advcore.config.load import from_dict, resolve
from advcore.config.run_key import hash_settings, identify
from advcore.config.schema import RunConfig
from advcore.errors import CheckpointError
from advcore.files import read_sealed, write_sealed
from advcore.run.places import check_writable
from advcore.suite.baselines import add_baselines
from advcore.suite.equal_cost import match_costs, set_epochs
from advcore.suite.extents import Extents
from advcore.suite.layout import BASELINES_FILE
from advcore.suite.suite import Suite, resolve_methods

_SCHEMA, _UNSEALED = "advcore-baselines-2", "advcore-baselines-1"
log = logging.getLogger(__name__)


def plan_methods(suite: Suite, methods: dict[str, RunConfig], folder: Path) -> dict[str, RunConfig]:
    """Return `methods`, with epochs that match their costs, and the baselines.

    What is saved in `folder` is used if it belongs to the same methods, else all is planned, which reads data.
    """
    if not _needs_plan(suite):
        return methods
    saved = read_if_whole(folder / BASELINES_FILE, _SCHEMA, _UNSEALED)
    if saved.get("of") == _hash_basis(suite, methods):
        matched = {name: set_epochs(methods[name], epochs) for name, epochs in saved.get("epochs", {}).items()}
        added = {name: from_dict(settings) for name, settings in saved.get("methods", {}).items()}
        return methods | matched | added
    check_writable(folder)  # before any data are read
    extents = Extents()
    matched = match_costs(methods, suite.costs, extents)
    if suite.reference is None or not suite.added:
        return matched
    return add_baselines(matched, suite.reference, suite.added, extents)


def _needs_plan(suite: Suite) -> bool:
    return bool(suite.costs) or suite.reference is not None and bool(suite.added)


def _hash_basis(suite: Suite, methods: dict[str, RunConfig]) -> str:
    """Hash everything that the plan depends on: the methods as the suite writes them, and what is to be planned."""
    identities = {name: identify(config) for name, config in methods.items()}
    basis: dict[str, object] = {"methods": identities, "added": suite.added, "reference": suite.reference}
    if suite.costs:
        basis["costs"] = dict(suite.costs)
    return hash_settings(basis)


def save_plan(suite: Suite, methods: dict[str, RunConfig], folder: Path) -> None:
    """Save what `plan_methods` returned, so that the same command, and `--table` without the data, has the same."""
    if not _needs_plan(suite):
        return
    added = {name: resolve(config) for name, config in methods.items() if name not in suite.methods}
    contents: dict[str, object] = {"of": _hash_basis(suite, resolve_methods(suite)), "methods": added}
    if suite.costs:
        contents["epochs"] = {name: methods[name].training.epochs for name in suite.costs}
    write_sealed(folder / BASELINES_FILE, contents, _SCHEMA)


def read_if_whole(path: Path, schema: str, unsealed: str = "") -> dict:
    """Read sealed JSON that can be computed again: {} where it is missing and, with a warning, where it is damaged."""
    if not os.path.exists(path):
        return {}
    try:
        return read_sealed(path, schema, unsealed=unsealed)
    except CheckpointError as error:
        log.warning("%s; it is not used", error)
        return {}
