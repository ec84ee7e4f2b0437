"""What is installed, what is not, and what this machine has."""

import importlib
import importlib.metadata
import os
import platform

NEEDED = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "sklearn",
    "yaml",
    "pydantic",
    "typer",
    "rich",
    "safetensors",
    "pyarrow",
)
EXTRAS = {"timm": "hf", "ray": "cluster", "submodlib": "submodular", "pyautoattack": "eval", "foolbox": "eval"}


def findings() -> list[tuple[str, str]]:
    """One (what, state) row each for the machine, the packages and the extras; an import that fails says why."""
    rows = [("python", f"{platform.python_version()}, {platform.platform()}"), ("device", _device())]
    rows += [(name, _imported(name, f"pip install --upgrade {name}")) for name in NEEDED]
    rows += [
        (f"{name} (extra {extra})", _imported(name, f'pip install "advcore[{extra}]"'))
        for name, extra in EXTRAS.items()
    ]
    return [*rows, ("ADVCORE_DATA", os.environ.get("ADVCORE_DATA", "not set"))]


def _imported(name: str, way_out: str) -> str:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a mismatched build raises whatever it likes
        reason = str(error).splitlines()[0] if str(error) else ""
        return f"missing or broken: {type(error).__name__}: {reason}; {way_out}"
    return getattr(module, "__version__", "installed")


def _device() -> str:
    import torch

    from advcore.device import cuda_version, gpus, name

    if not gpus():
        return f"cpu, {torch.get_num_threads()} threads; torch finds no CUDA device"
    return f"{name(torch.device('cuda'))}, CUDA {cuda_version()}"
