"""Plug-ins: files that their owner names on the command line, and installed packages, which register methods.

This is the only place where advcore runs code that it does not import by a fixed name. No run file can trigger it.
"""

import contextlib
import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from torch import nn

from advcore.errors import ConfigError, check, describe_exception, must, require, suggest_nearest
from advcore.files import read_bytes
from advcore.models import MODELS
from advcore.models.base import ModelSettings
from advcore.register import list_names
from advcore.register.networks import OwnNetwork, describe_network
from advcore.settings import settings

log = logging.getLogger(__name__)


class PluginError(ConfigError):
    """An error that a plug-in's own code raised; the cause is that error, whose traceback is the plug-in's owner's."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was loaded.

    path : of the file; of a package, of the module that its entry point names.
    sha256 : of the file's content.
    names : what it registered, as "table: name".
    module : what running it gave.
    option : whether `--plugin` named it; False for an installed package.
    """

    path: str
    sha256: str
    names: tuple[str, ...]
    module: ModuleType
    option: bool = field(kw_only=True)

    def describe(self) -> dict[str, object]:
        """Return what a record says of it."""
        return {"path": self.path, "sha256": self.sha256, "names": list(self.names)}


LOADED: list[Plugin] = []
_BEGUN: set[str] = set()  # files whose code was run, whether it came to its end or not


@settings
class FromPlugin(ModelSettings):
    """`plugin:NAME` in a run file: a network that a plug-in defines, by its name there.

    Parameters
    ----------
    architecture : the name of a class or function of a plug-in that is loaded.
    options : keyword arguments of that class or function.
    """

    architecture: str
    options: dict[str, object] = field(default_factory=dict)
    example: ClassVar = {"architecture": "Net"}

    def list_arguments(self, num_classes: int, shape: tuple[int, int, int]) -> dict[str, object]:
        return self._find_network().list_arguments(num_classes, shape)

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return self._find_network().build(num_classes, shape)

    def find_factory(self) -> Callable[..., object]:
        """Return the class or function of a plug-in that builds the network."""
        return self._find_network().find_factory()

    def _find_network(self) -> OwnNetwork:
        """Return the settings of the network. Raises ConfigError if no plug-in has it, or it lacks an option."""
        networks = {name: entry for plugin in LOADED for name, entry in _list_definitions(plugin.module).items()}
        if self.architecture not in networks:
            nearest = suggest_nearest(self.architecture, networks)
            rule = f"plugin:NAME with a class or function of a plug-in ({', '.join(networks) or 'none has any'})"
            raise ConfigError(must("model.name", rule, f"plugin:{self.architecture}", nearest))
        cls: type = describe_network(self.architecture, networks[self.architecture])
        try:
            return cls(**self.options)
        except TypeError as error:
            raise ConfigError(f"model.options: {error}") from None


def _list_definitions(module: ModuleType) -> dict[str, object]:
    """Return the public classes and functions that a module defines itself."""
    entries = [*inspect.getmembers(module, inspect.isclass), *inspect.getmembers(module, inspect.isfunction)]
    return {name: entry for name, entry in entries if entry.__module__ == module.__name__ and not name.startswith("_")}


def load_plugins(paths: Iterable[str | Path] = ()) -> None:
    """Load the plug-ins of installed packages, and then the files at `paths`; each once.

    The folder of a file is the last place where its imports are looked for while it is loaded.
    Raises ConfigError for a path that is not a Python file, PluginError for whatever a plug-in raises.
    """
    for point in importlib.metadata.entry_points(group="advcore.plugins"):
        if point.module not in {plugin.module.__name__ for plugin in LOADED}:
            _load(f"the installed plug-in {point.name} ({point.value})", partial(_import_package, point), option=False)
    for path in map(Path, paths):
        if str(path.resolve()) not in {plugin.path for plugin in LOADED}:
            is_source = path.suffix == ".py" and path.is_file()
            require(check(is_source, "--plugin", "an existing Python file (.py)", str(path)))
            _load(f"--plugin {path}", partial(_import_file, path.resolve()), option=True)


def _load(label: str, run: Callable[[], ModuleType], *, option: bool) -> None:
    before = list_names()
    try:
        module = run()
    except ConfigError as error:
        raise ConfigError(*(problem.inside(f"{label}: ") for problem in error.problems)) from None
    except (Exception, SystemExit) as error:
        raise PluginError(f"{label} raised {describe_exception(error)}; its traceback is printed above") from error
    path = Path(module.__file__ or "")
    names = [f"{table}: {name}" for table, name in sorted(list_names() - before)]
    LOADED.append(Plugin(str(path), hashlib.sha256(read_bytes(path)).hexdigest(), tuple(names), module, option=option))
    MODELS["plugin"] = FromPlugin


def _import_package(point: importlib.metadata.EntryPoint) -> ModuleType:
    spec = importlib.util.find_spec(point.module)
    _BEGUN.add(str(spec and spec.origin))
    point.load()
    return sys.modules[point.module]


class _ContentLoader(importlib.abc.SourceLoader):
    """Runs a file's content as it was read, so that no cache of older code is run in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read_bytes(path)

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.content


def _import_file(path: Path) -> ModuleType:
    name = f"advcore_plugin_{path.stem}"
    spec = importlib.util.spec_from_loader(name, _ContentLoader(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle look it up
    sys.path.append(str(path.parent))
    _BEGUN.add(str(path))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def list_files() -> list[str]:
    """Return the paths of the plug-ins that `--plugin` named, to be named again where a command is repeated."""
    return [plugin.path for plugin in LOADED if plugin.option]


def format_trace(error: BaseException) -> str:
    """Return the traceback, from the plug-in on, of an error that a plug-in's code raised; "" for any other error."""
    cause = error
    if isinstance(error, PluginError) and error.__cause__ is not None:
        cause = error.__cause__
    frames = traceback.extract_tb(cause.__traceback__)
    in_plugin = [i for i, frame in enumerate(frames) if frame.filename in _BEGUN]
    if not in_plugin and cause is error:
        return ""
    first = (*in_plugin, len(frames))[0]
    lines = [*traceback.format_list(frames[first:]), *traceback.format_exception_only(cause)]
    return "".join(["Traceback in the plug-in (most recent call last):\n", *lines]).rstrip()


def check_plugins(recorded: Iterable[Mapping[str, object]], *, same_content: bool) -> None:
    """Raise ConfigError unless the plug-ins of a record are loaded, by the names of their files.

    same_content : another content of such a file is an error, too; otherwise it is a warning in the log.
    """
    now: dict[str, list[str]] = {}
    for plugin in LOADED:
        now.setdefault(Path(plugin.path).name, []).append(plugin.sha256)
    for entry in recorded:
        name = Path(str(entry["path"])).name
        require(check(name in now, "--plugin", f"{name}, which the run was started with", ", ".join(now) or None))
        if entry["sha256"] not in now[name]:
            hashes = f"sha256 {str(entry['sha256'])[:12]}, now {' and '.join(sha256[:12] for sha256 in now[name])}"
            way_out = "use that file again, or start again with --overwrite"
            require(
                check(
                    not same_content,
                    "--plugin",
                    f"{name} with the content that the run was started with",
                    hashes,
                    way_out,
                )
            )
            log.warning("%s has changed since the run was started: %s", name, hashes)


def warn_of_changes(recorded: Iterable[Mapping[str, object]]) -> None:
    """Log a warning for each loaded plug-in whose content differs from that in the records."""
    for entry in recorded:
        with contextlib.suppress(ConfigError):
            check_plugins([entry], same_content=False)


def find_source(model: ModelSettings) -> tuple[Path, str] | None:
    """Return the path of the file that defines a network of a plug-in, and its name there.

    None for other models, and for what has no name in its file: a lambda, a `functools.partial`, a class in a function.
    """
    if not isinstance(model, (OwnNetwork, FromPlugin)):
        return None
    factory = model.find_factory()
    if "<" in getattr(factory, "__qualname__", "<"):
        return None
    return Path(str(inspect.getsourcefile(factory))), factory.__qualname__
