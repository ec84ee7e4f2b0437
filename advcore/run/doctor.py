"""Describes what is installed, what is not, and what this machine has."""

import importlib
import os
import platform

from advcore.runtime.threads import describe_overload, describe_threads, measure_load
from advcore.tracking.base import silence_packages

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


def describe_installation() -> list[tuple[str, str]]:
    """Return (name, state) rows for the machine, the packages and the extras; an import that fails says why."""
    silence_packages()
    rows = [
        ("python", f"{platform.python_version()}, {platform.platform()}"),
        ("device", _describe_device()),
        *_describe_threads(),
    ]
    rows += [(name, _describe_package(name, f"pip install --upgrade {name}")) for name in NEEDED]
    rows += [
        (f"{name} (extra {extra})", _describe_package(name, f'pip install "advcore[{extra}]"'))
        for name, extra in EXTRAS.items()
    ]
    return [*rows, ("ADVCORE_DATA", os.environ.get("ADVCORE_DATA", "not set"))]


def _describe_package(name: str, way_out: str) -> str:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a mismatched build may raise anything
        reason = "".join(str(error).splitlines()[:1])
        return f"missing or broken: {type(error).__name__}: {reason}; {way_out}"
    if getattr(module, "__file__", None) is None:
        return f"missing: a folder of that name shadows the package; {way_out}"
    return getattr(module, "__version__", "installed")


def _describe_device() -> str:
    import torch

    from advcore.runtime.device import count_gpus, describe_device, get_cuda_version

    if not count_gpus():
        return "cpu; torch finds no CUDA device"
    return f"{describe_device(torch.device('cuda'))}, CUDA {get_cuda_version()}"


def _describe_threads() -> list[tuple[str, str]]:
    import torch

    facts = describe_threads(torch.get_num_threads())
    load = measure_load()
    load_text = "not known" if load is None else f"{load:g}"
    return [
        ("threads", f"{facts['threads']}, because of {facts['threads_from']}; waiting: {facts['waiting']}"),
        ("load average", describe_overload(load) or load_text),
    ]
