"""The source of an exported model's `model.py`: its network and its loader, without advcore."""

import inspect

from advcore.models.base import ModelSettings, Normalize

BATCH = 100  # images at once: in others, the last bits differ

_HEAD = '''"""{title}

Made by `advcore export`; needs {needs} and nothing else.

    from model import load

    model = load()  # in eval mode: float images (B, {shape}) in [0, 1] to logits (B, {classes})

`python model.py` compares what this machine computes with what the exporting one did.
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
    """The network without its weights; where its config says so, with the normalisation in front."""
    net = {builder}(**config["network"]["arguments"])
    if config["network"]["normalize"]:
        ones = torch.ones(config["shape"][0])
        net = nn.Sequential(Normalize(0 * ones, ones), net)
    return net


def load(folder: Path = FOLDER, device: str = "cpu") -> nn.Module:
    """The model, in eval mode."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model = build(config)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval().to(device)


def check(folder: Path = FOLDER) -> dict[str, float]:
    """The largest difference to the logits that were exported, and, on sample images, the accuracy."""
    model, found = load(folder), {{}}
    for file in sorted(Path(folder).glob("check-*.safetensors")):
        held = load_file(file)
        with torch.no_grad():
            logits = torch.cat([model(x) for x in held["x"].split({batch})])
        found[f"{{file.stem}}: difference"] = float((logits - held["logits"]).abs().max())
        if "y" in held:
            found[f"{{file.stem}}: accuracy"] = float((logits.argmax(1) == held["y"]).float().mean())
    return found


if __name__ == "__main__":
    for what, value in check().items():
        print(what, value)
'''


def source(settings: ModelSettings, *, title: str, num_classes: int, shape: tuple[int, int, int]) -> str | None:
    """The module's text; None for a model whose class says no `parts` that it is made of."""
    if not settings.parts:
        return None
    needs = f"{', '.join(('torch', *settings.needs))} and safetensors"
    head = _HEAD.format(title=title, needs=needs, shape=", ".join(map(str, shape)), classes=num_classes)
    parts = [inspect.getsource(part) for part in (Normalize, *settings.parts)]
    return "\n\n".join(
        [
            head,
            *(part.strip() + "\n" for part in parts),
            _TAIL.format(builder=settings.parts[-1].__name__, batch=BATCH).lstrip(),
        ]
    )
