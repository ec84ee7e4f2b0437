"""Small images of a page: examples and their perturbations as data URIs."""

import base64
import io

import torch
import torch.nn.functional as F
from torch import Tensor

from advcore.errors import check, require

THUMBNAIL = 128  # pixels of the longer side of an image on a page; larger images are reduced
# Colours (R, G, B) of a perturbation of a grey image at its ends and at no change.
_DARKER, _UNCHANGED, _BRIGHTER = ((0.04, 0.38, 0.66), (0.96, 0.96, 0.96), (0.75, 0.32, 0.0))


def colour_change(change: Tensor) -> Tensor:
    """Return the image (3, H, W) of a perturbation (C, H, W), C 1 or 3, whose values are from -0.5 to 0.5.

    That of a grey image is blue where it darkens and orange where it brightens; one in colours is shown around grey.
    """
    if change.shape[0] != 1:
        return 0.5 + change
    darker, unchanged, brighter = (
        change.new_tensor(colour)[:, None, None] for colour in (_DARKER, _UNCHANGED, _BRIGHTER)
    )
    ends = torch.where(change < 0, darker, brighter)
    return unchanged + 2 * change.abs() * (ends - unchanged)


def encode_png(x: Tensor) -> str:
    """Return a data URI of an image (C, H, W) in [0, 1], C 1 or 3; its longer side is at most `THUMBNAIL` pixels."""
    from PIL import Image

    require(check(x.shape[0] in (1, 3), "images on a page", "of 1 or 3 channels", tuple(x.shape)))
    x = x.detach().float().cpu().clamp(0, 1)
    longer = max(x.shape[1:])
    if longer > THUMBNAIL:
        size = [max(1, round(side * THUMBNAIL / longer)) for side in x.shape[1:]]
        x = F.interpolate(x[None], size=size, mode="area")[0]
    pixels = (x * 255).round().to(torch.uint8).permute(1, 2, 0)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.squeeze(2).numpy())  # grey images have no axis of channels there
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
