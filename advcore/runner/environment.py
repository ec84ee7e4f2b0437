"""What numbers were made with."""

import importlib.metadata
import platform
from pathlib import Path

import torch

from advcore import distributed
from advcore.device import name as device_name
from advcore.threads import describe_threads, load_average, overload
from advcore.version import __version__

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")


def environment(where: torch.device) -> dict:
    """Collect what the numbers were made with; `load` is the machine's load average when this was asked."""
    load = load_average()
    return {
        "advcore": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(where),
        **describe_threads(torch.get_num_threads()),
        "load": load,
        "load_warning": overload(load),
        "processes": distributed.size(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _commit() -> str | None:
    """The checkout's commit, read from git's own files; None outside of one."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        if git.is_file():  # a worktree's: it names its folder, which names the repository's
            git = git.parent / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        shared = git / "commondir"
        git = git / shared.read_text().strip() if shared.exists() else git
        ref = git / head[5:]
        if ref.exists():
            return ref.read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(head[5:])), None)
    except OSError:
        return None
