"""Describes the machine and the software that a run's numbers were computed with."""

import importlib.metadata
import platform
from pathlib import Path

import torch

from advcore import distributed
from advcore.runtime.device import describe_device as device_name
from advcore.runtime.threads import describe_overload, describe_threads, measure_load
from advcore.version import __version__

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")


def describe_environment(where: torch.device) -> dict:
    """Describe what numbers are computed with; `load` is the machine's load average at the time of the call."""
    load = measure_load()
    return {
        "advcore": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(where),
        **describe_threads(torch.get_num_threads()),
        "load": load,
        "load_warning": describe_overload(load),
        "processes": distributed.size(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _commit() -> str | None:
    """Return the commit of the checkout, read from git's files; None where the package is in no checkout."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        if git.is_file():  # a worktree has a file, which names its folder, which names the repository's folder
            git = git.parent / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        shared = git / "commondir"
        if shared.exists():
            git = git / shared.read_text().strip()
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(name)), None)
    except OSError:
        return None
