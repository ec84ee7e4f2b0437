"""What is installed, what is not, and what this machine has."""

import importlib
import os
import platform

from advcore.tracking.base import quiet

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
    "jinja2",
)
EXTRAS = {
    "timm": "hf",
    "huggingface_hub": "hf",
    "submodlib": "submodular",
    "pyautoattack": "eval",
    "foolbox": "eval",
    "tensorboard": "track",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "lightning": "lightning",
    "ray": "cluster",
}


def findings() -> list[tuple[str, str]]:
    """One (what, state) row each for the machine, the packages and the extras; an import that fails says why."""
    quiet()
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
    if getattr(module, "__file__", None) is None:
        return f"missing: a folder of that name is in the way; {way_out}"
    return getattr(module, "__version__", "installed")


def _device() -> str:
    import torch

    from advcore.device import cuda_version, gpus, name

    if not gpus():
        return f"cpu, {torch.get_num_threads()} threads; torch finds no CUDA device"
    return f"{name(torch.device('cuda'))}, CUDA {cuda_version()}"
