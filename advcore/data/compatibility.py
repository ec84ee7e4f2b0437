"""Check before the first step that a data set and a model fit each other."""

import torch
from torch import nn

from advcore.data.checks import check_labels
from advcore.data.contract import Source, read_first_images
from advcore.errors import DataError
from advcore.rng import preserve_random_state
from advcore.runtime.borrow import borrow


def check_fits(model: nn.Module, source: Source, *, labels: bool = True) -> None:
    """Raise DataError unless the model takes the images and, if `labels` are to be looked at, has a class for each.

    Cost: one forward pass of two images. Streamed data whose labels are not known are read once, which checks their
    images too.
    """
    logits = _first_logits(model, source)
    if labels and isinstance(logits, torch.Tensor) and logits.ndim == 2:
        check_labels(source.labels(), torch.arange(len(source)), logits.shape[1])


def count_logits(model: nn.Module, source: Source) -> int:
    """Return how many logits the model gives an image. Raises DataError unless it takes the images.

    Cost: one forward pass of two images.
    """
    return _first_logits(model, source).shape[-1]


def _first_logits(model: nn.Module, source: Source) -> torch.Tensor:
    """Return the model's output, in eval mode, for the first two images. Raises DataError if it raises anything."""
    x = read_first_images(model, source)
    try:
        with preserve_random_state(), borrow(model, training=False), torch.no_grad():
            return model(x)
    except Exception as error:  # whatever a network raises at images that it cannot take
        message = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"images must be ones that the model takes, got {source.shape} (channels, height, width), at which it "
            f"raises {type(error).__name__}: {message}; convert the images, or build the model for them"
        ) from None
