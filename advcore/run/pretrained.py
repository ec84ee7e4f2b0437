"""Trained weights that a run begins from: from a file, or from where a library or the Hugging Face hub keeps them."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from advcore.config.schema import RunConfig
from advcore.data.base import Data
from advcore.errors import CheckpointError, describe_exception, require_package, shorten
from advcore.models.base import Pretrained
from advcore.run import build, weights

log = logging.getLogger(__name__)

_UNUSED = "model.name names the weights %s, but training starts from random ones; model.weights: %s loads them"
_ON_HUB = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Beginning:
    """The trained weights that a run begins from.

    path : of their file. source : what is known of weights that no file names; None for those of a file.
    side : of the data's images, in pixels.
    reshaped : what was fitted to this network, each as "name [old shape] -> [new shape]".
    """

    path: Path
    source: Pretrained | None
    side: int
    reshaped: list[str]

    def describe(self, config: RunConfig) -> str:
        """Say which weights a run begins from, and what of them it changes."""
        model = config.model
        note = f"starts from the weights in {model.weights}"
        if self.source is not None and self.source.name != model.weights:
            note += f", {self.source.name}"
        if model.new_head:
            note += ", with a random head"
        if self.reshaped:
            note += f", fitted to this network: {', '.join(self.reshaped)}"
        note += self._describe_images(config)
        return f"{note}; the cost of training them is not included"

    def _describe_images(self, config: RunConfig) -> str:
        """Say what images the weights were made with, as far as a library knows it."""
        source = self.source
        if source is None or not source.size:
            return ""
        note = f"; they were trained on images of {source.size} x {source.size} pixels"
        if source.size != self.side:
            note += f", these have {self.side} x {self.side}"
            if hasattr(config.data, "size"):
                note += f" (data.size: {source.size} gives theirs)"
        if config.model.mean is None and config.model.normalize == "data":
            note += f"; the mean {list(source.mean)} and std {list(source.std)} used for normalisation are theirs"
        return note

    def list_inputs(self) -> dict[str, object]:
        """Return what the record says of the weights: the sha256 of their file and their name, by setting."""
        inputs: dict[str, object] = {"model.weights": weights.compute_weights_hash(self.path)}
        if self.source is not None:
            inputs["model.weights.name"] = self.source.name
        return inputs


def load_beginning(model: nn.Module, config: RunConfig, data: Data) -> Beginning | None:
    """Load the weights that `model.weights` names into the model; None where it names none.

    Raises CheckpointError for weights of another network, and for those that are neither here nor to be downloaded.
    """
    settings = config.model
    if settings.weights is None:
        tag = getattr(settings, "architecture", "").partition(".")[2]
        if settings.library and tag:
            log.warning(_UNUSED, tag, settings.library)
        return None
    with build.prefix_problems("model.weights: "):
        source = settings.find_pretrained()
        path = Path(settings.weights)
        if source is not None:
            path = find_file(source, download=settings.download)
        head = build.find_model_head(model, config, data)
        reshaped = weights.load_initial_weights(model, path, head, settings, data.train.shape)
    return Beginning(path, source, data.train.shape[-1], reshaped)


def find_file(source: Pretrained, *, download: bool) -> Path:
    """Return the file of the weights in the cache of torch or of the Hugging Face hub.

    download : fetch it if it is not there. Raises CheckpointError if there is none.
    """
    if source.repository:
        return _find_on_hub(source, download=download)
    return _find_at_url(source, download=download)


def _find_on_hub(source: Pretrained, *, download: bool) -> Path:
    """Look in the cache first: cached files never change, and need no network."""
    with require_package("huggingface_hub", source.name, "hf"):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
    place = f"{source.repository} ({' or '.join(_ON_HUB)}) on the Hugging Face hub"
    wanted = [name for name in _ON_HUB if download]
    try:
        for cached in [try_to_load_from_cache(source.repository, name) for name in _ON_HUB]:
            if isinstance(cached, str):
                return Path(cached)
        for name in wanted:
            try:
                return Path(hf_hub_download(source.repository, name))
            except EntryNotFoundError as error:
                is_local = isinstance(error, LocalEntryNotFoundError)  # raised where the network is out of reach
                if is_local or name == wanted[-1]:
                    raise
    except Exception as error:
        raise _explain_failure(place, error) from None
    raise _explain_missing(source, place)


def _find_at_url(source: Pretrained, *, download: bool) -> Path:
    path = Path(torch.hub.get_dir(), "checkpoints", Path(source.url).name)
    if path.exists():
        return path
    if not download:
        raise _explain_missing(source, source.url)
    sha256 = torch.hub.HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(source.url, str(path), sha256 and sha256.group(1), progress=False)
    except Exception as error:
        raise _explain_failure(source.url, error) from None
    return path


def _explain_missing(source: Pretrained, place: str) -> CheckpointError:
    way_out = "set model.download: true to fetch it, or name a file"
    return CheckpointError(f"{source.name} is not in the local cache, and would come from {place}; {way_out}")


def _explain_failure(place: str, error: Exception) -> CheckpointError:
    cause = shorten(describe_exception(error))
    return CheckpointError(f"{place} cannot be fetched ({cause}); fetch a file elsewhere, and set model.weights to it")
