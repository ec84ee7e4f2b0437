"""Writes the `model.py` of an exported model: its network and its loader, which need no advcore."""

import hashlib
import inspect
from pathlib import Path

from advcore.models.base import ModelSettings, Normalize

BATCH = 100  # images at once; with another batch size, the last bits of the logits differ

_HEAD = '''"""{title}

Made by `advcore export`; needs {needs} and nothing else.

    from model import load

    model = load()  # in eval mode: float images (B, {shape}) in [0, 1] to logits (B, {classes})

`python model.py` compares the logits that this machine computes with those of the machine that exported the model.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: F401
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
'''

_TAIL = '''
def build(config: dict) -> nn.Module:
    """Return the network without its weights, after a normalisation if the config says so."""
    net = {builder}(**config["network"]["arguments"])
    if config["network"]["normalize"]:
        ones = torch.ones(config["shape"][0])
        net = nn.Sequential(Normalize(0 * ones, ones), net)
    return net


def load(folder: Path = FOLDER, device: str = "cpu") -> nn.Module:
    """Return the model in eval mode."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model = build(config)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval().to(device)


def check(folder: Path = FOLDER) -> dict[str, float]:
    """Return the largest difference from the exported logits and, on sample images, the accuracy."""
    model = load(folder)
    results = {{}}
    for file in sorted(Path(folder).glob("check-*.safetensors")):
        expected = load_file(file)
        with torch.no_grad():
            logits = torch.cat([model(x) for x in expected["x"].split({batch})])
        results[f"{{file.stem}}: difference"] = float((logits - expected["logits"]).abs().max())
        if "y" in expected:
            results[f"{{file.stem}}: accuracy"] = float((logits.argmax(1) == expected["y"]).float().mean())
    return results


if __name__ == "__main__":
    for name, value in check().items():
        print(name, value)
'''


_FIND_NETWORK = '''
def find_network():
    """Return what builds the network, from {file}, which is not exported: it must lie next to this file."""
    import importlib.util
    import operator
    import sys

    path = FOLDER / "{file}"
    if not path.exists():
        raise FileNotFoundError(f"{{path}} defines the network: put it there (sha256 {sha256})")
    spec = importlib.util.spec_from_file_location("{stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return operator.attrgetter("{name}")(module)
'''


def write_source(
    settings: ModelSettings,
    *,
    title: str,
    num_classes: int,
    shape: tuple[int, int, int],
    plugin: tuple[Path, str] | None = None,
) -> str | None:
    """Return the text of the module; None for a model that neither names its `parts` nor is of a plug-in.

    plugin : the file that defines the network, and the network's name in it. The module asks for that file.
    """
    parts = [inspect.getsource(part) for part in (Normalize, *settings.parts)]
    needs = f"{', '.join(('torch', *settings.needs))} and safetensors"
    if plugin is not None:
        path, name = plugin
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append(_FIND_NETWORK.format(file=path.name, stem=path.stem, sha256=sha256, name=name))
        builder = "find_network()"
        needs += f", {path.name} with what it imports,"
    elif settings.parts:
        builder = settings.parts[-1].__name__
    else:
        return None
    head = _HEAD.format(title=title, needs=needs, shape=", ".join(map(str, shape)), classes=num_classes)
    tail = _TAIL.format(builder=builder, batch=BATCH).lstrip()
    return "\n\n".join([head, *(part.strip() + "\n" for part in parts), tail])
