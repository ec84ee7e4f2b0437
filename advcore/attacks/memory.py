"""The start "remembered": an attack starts from the perturbation that it found for the example the last time."""

from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from advcore.cost import format_gigabytes
from advcore.errors import CheckpointError, ConfigError, check_at_least, check_one_of, must, require, unless
from advcore.rng import Stream
from advcore.runtime.device import measure_free_memory
from advcore.settings import setting, settings

Augmentation = Callable[[Tensor, Stream], Tensor]
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
PLACES = ("auto", "device", "host")
_MOST = 0.5  # share of the device's free memory above which "auto" takes the host's: the model needs the rest
_LEVELS = 127  # of int8, on either side of 0
_AT_ONCE = 1024  # examples that are copied together into newly allocated memory


@settings
class Memory:
    """How perturbations are remembered, for a training attack with `start: remembered`.

    Parameters
    ----------
    precision : "float32" stores attacked pixels exactly. "float16" stores the change of each, rounded to 11 bits: off
        by at most 1/2048 of it, or 3e-8. "int8" rounds the change to 127 equal parts of the largest that the example
        had so far: off by at most 1/254 of that. What is read is projected again.
    reset : epochs after which everything is forgotten, at least 1; null never forgets.
    place : "device", "host" (through a pinned buffer under CUDA), or "auto": the device if half of its free memory is
        enough.
    """

    precision: str = "float16"
    reset: int | None = setting(default=None, unit="epochs")
    place: str = "auto"

    def __post_init__(self) -> None:
        require(
            check_one_of("precision", self.precision, PRECISIONS),
            unless(self.reset is None, check_at_least("reset", self.reset, 1, "omit it to never forget")),
            check_one_of("place", self.place, PLACES),
        )

    def count_bytes(self, examples: int, shape: tuple[int, int, int]) -> int:
        """Return the bytes that the perturbations of this number of images of `shape` (C, H, W) take."""
        channels, height, width = shape
        return examples * (channels * (height * width + 1) * PRECISIONS[self.precision].itemsize + 5)

    def settle(self, needed: int, device: torch.device) -> torch.device:
        """Return the device that stores `needed` bytes. Raises ConfigError, with figures, where they do not fit."""
        free = measure_free_memory(device)
        is_crowded = self.place == "auto" and free is not None and needed > _MOST * free
        if device.type == "cpu" or self.place == "host" or is_crowded:
            device = torch.device("cpu")
            free = measure_free_memory(device)
        if free is not None and needed > free:
            advice = "use memory.precision: int8, memory.place: host, a smaller budget, or another attack.start"
            way_out = f"{advice} ({format_gigabytes(free)} are free on {device})"
            rule = f"where {format_gigabytes(needed)} of perturbations fit"
            raise ConfigError(must("memory.place", rule, self.place, way_out))
        return device


class Perturbations:
    """Stores each training example's last perturbation, in the frame of the plain (un-augmented) view.

    An augmentation that moves pixels is applied when perturbations are read, and undone when they are written: pixels
    that a crop cut away keep the perturbation they had; that of its padding has no place, and is lost.

    Parameters
    ----------
    settings : precision, and when to forget.
    size : N, the number of examples. shape : (C, H, W) of their images. device : of the images.
    augment : (x (B, C, H, W), stream) to the augmented view; None: there is only the plain one.
    place : device that stores the perturbations (`Memory.settle`); None: that of the images.

    Reference: Zheng et al. 2020 (ATTA), section 4. Differs: forgotten when an example leaves the coreset; the inverse
    of any augmentation that moves pixels, found by moving their numbers.
    """

    def __init__(
        self,
        settings: Memory,
        size: int,
        shape: tuple[int, int, int],
        device: torch.device,
        augment: Augmentation | None = None,
        place: torch.device | None = None,
    ):
        self.settings = settings
        self.shape = shape
        self.device = device
        self.augment = augment
        self.place = place or device
        self.slots = torch.full((size,), -1, dtype=torch.long, device=device)
        self.epochs = 0  # started since the last reset
        self._buffer: Tensor | None = None  # pinned, between the host's memory and the device
        self._allocate(0)
        self.look(None)

    def _allocate(self, examples: int) -> None:
        """Allocate empty memory for this number of examples; column 0, for pixels without a place, stays blank."""
        channels, height, width = self.shape
        size = (examples, channels, height * width + 1)
        self.values = torch.full(size, self._blank, dtype=PRECISIONS[self.settings.precision], device=self.place)
        self.scale = torch.zeros(examples, device=self.device)
        self.known = torch.zeros(examples, dtype=torch.bool, device=self.device)

    def begin(self, indices: Tensor, view: Stream | None, room: int | None = None) -> None:
        """Begin an epoch on the examples `indices` (K,), whose augmented view draws from `view`; None: the plain one.

        All other examples are forgotten; new ones have nothing stored. `room` is the number of examples to allocate
        memory for, K by default; what is stored is copied only when it changes.
        """
        in_epoch = torch.zeros_like(self.slots, dtype=torch.bool)
        in_epoch[indices.to(self.device)] = True
        staying = in_epoch & (self.slots >= 0)
        if (room or len(indices)) != len(self.known):
            self._resize(room or len(indices), staying)
        self.slots = torch.where(staying, self.slots, -1)
        joining = (in_epoch & ~staying).nonzero()[:, 0]
        free = torch.ones_like(self.known)
        free[self.slots[staying]] = False
        self.slots[joining] = free.nonzero()[: len(joining), 0]
        self._forget(self.slots[joining])
        if self.epochs == self.settings.reset:
            self._forget(torch.arange(len(self.known), device=self.device))
            self.epochs = 0
        self.epochs += 1
        self.look(view)

    def _resize(self, room: int, staying: Tensor) -> None:
        """Allocate memory for `room` examples; those that are `staying` (N,) bool keep what is stored of them."""
        old = self.slots[staying]
        values, scale, known = self.values, self.scale, self.known
        self._allocate(room)
        new = torch.arange(len(old), device=self.device)
        for piece in new.split(_AT_ONCE):  # a copy of everything at once would be a third one
            self.values[piece.to(self.place)] = values[old[piece].to(self.place)]
        self.scale[new], self.known[new] = scale[old], known[old]
        self.slots[staying] = new

    def look(self, view: Stream | None) -> None:
        """Read and write through another view of the data from now on; None: the plain one.

        Whether something is stored for every example that may be asked for is found out here, once, so that no batch
        has to wait for the device: in the plain view, for a selection, those are all examples, else the epoch's.
        """
        self._view = view
        self._last_frame: tuple[Tensor | None, Tensor | None] = (None, None)
        stored = self.slots[self.slots >= 0]
        lacks_some = view is None and len(stored) < len(self.slots)
        self._knows_all = bool(len(stored)) and not lacks_some and bool(self.known[stored].all())

    def _forget(self, slots: Tensor) -> None:
        self.known[slots], self.scale[slots] = False, 0.0
        self.values[slots.to(self.place)] = self._blank

    def recall(self, x: Tensor, indices: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """Return (B, C, H, W), where to start on the images `x` of the view.

        Examples of which nothing is stored start at `fresh()`, which is not called where there are none.
        """
        if not len(self.known):
            return fresh()
        slots = self.slots[indices]
        frame = self._find_frame(indices)
        filled = slots.clamp_min(0)  # examples without a slot read any, and start afresh below
        rows = self._read(filled)
        pixels = rows[:, :, 1:] if frame is None else rows.gather(2, frame)
        start = self._restore_points(x, pixels.reshape(x.shape), filled)
        if self._knows_all:
            return start
        known = (slots >= 0) & self.known[filled]
        return torch.where(known.view(-1, 1, 1, 1), start, fresh())

    def _restore_points(self, x: Tensor, pixels: Tensor, slots: Tensor) -> Tensor:
        """Return the points (B, C, H, W) near images x that were stored as `pixels` of that shape, in `slots` (B,)."""
        if self.settings.precision == "float32":
            return torch.where(pixels.isnan(), x, pixels.to(x))
        if self.settings.precision == "float16":
            return x + pixels
        return torch.addcmul(x, pixels.to(x), self.scale[slots].to(x).view(-1, 1, 1, 1))

    def keep(self, x: Tensor, x_adv: Tensor, indices: Tensor) -> None:
        """Store where the attack ended: `x_adv` on the images `x` of the view, (B, C, H, W)."""
        slots = self.slots[indices]
        frame = self._find_frame(indices)
        new = (x_adv if self.settings.precision == "float32" else x_adv - x).flatten(2)
        rows = self._read(slots)
        if self.settings.precision == "int8":
            # The largest change so far may have grown, and with it the parts that the stored numbers count.
            before = self.scale[slots]
            self.scale[slots] = scale = torch.maximum(before, new.abs().amax((1, 2)).float() / _LEVELS)
            part = scale.clamp_min(torch.finfo(scale.dtype).tiny).view(-1, 1, 1)
            rows = (rows * (before.view(-1, 1, 1) / part)).round_()  # itself, where the parts stay the same
            new = (new / part).round_()
        new = new.to(rows.dtype)
        if frame is None:
            rows[:, :, 1:] = new
        else:
            rows.scatter_(2, frame, new)
            rows[:, :, 0] = self._blank
        self.values[slots.to(self.place)] = rows.to(self.values.dtype).to(self.place)
        self.known[slots] = True

    def _read(self, slots: Tensor) -> Tensor:
        """Return a copy (B, C, 1 + H W) of what is stored in the slots, on the images' device."""
        if self.place.type == self.device.type:
            return self.values.index_select(0, slots)
        size = torch.Size((len(slots), *self.values.shape[1:]))
        if self._buffer is None or self._buffer.numel() < size.numel():
            self._buffer = torch.empty(size, dtype=self.values.dtype, pin_memory=True).flatten()
        rows = self._buffer[: size.numel()].view(size)
        torch.index_select(self.values, 0, slots.to(self.place), out=rows)  # waits for what was read before
        return rows.to(self.device, non_blocking=True)

    @property
    def _blank(self) -> float:
        """The value that marks a pixel of which nothing is stored."""
        return float("nan") if self.settings.precision == "float32" else 0.0

    def _find_frame(self, indices: Tensor) -> Tensor | None:
        """Return (B, C, H W) long: which pixel of the plain view, from 1, is at each place of this one; 0 for none.

        None for the plain view itself.
        """
        if self._view is None or self.augment is None:
            return None
        if self._last_frame[0] is not indices:
            numbers = _number_pixels(len(indices), self.shape, self.device)
            frame = self.augment(numbers, self._view.at(indices)).flatten(2).long()
            self._last_frame = (indices, frame.expand(-1, self.shape[0], -1))
        return self._last_frame[1]

    def state(self) -> dict[str, object]:
        """Return a copy of everything stored, for a checkpoint."""
        return {
            **{name: getattr(self, name).detach().cpu().clone() for name in _STORED},
            "epochs": self.epochs,
            "precision": self.settings.precision,
            "shape": list(self.shape),
        }

    def restore(self, state: Mapping) -> None:
        """Take over what `state` returned. Raises CheckpointError if it is of other images or another precision."""
        expected = [self.settings.precision, list(self.shape), len(self.slots)]
        got = [state["precision"], list(state["shape"]), len(state["slots"])]
        if got != expected:
            raise CheckpointError(must("the remembered precision, shape and size", str(expected), got))
        self._allocate(len(state["known"]))
        for name in _STORED:
            getattr(self, name).copy_(state[name])
        self.epochs = state["epochs"]
        self.look(None)


_STORED = ("values", "scale", "known", "slots")


def _number_pixels(size: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return images (size, 1, H, W) float32 whose pixels are numbered from 1; exact up to 2^24 pixels."""
    _, height, width = shape
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32, device=device)
    return numbers.view(1, 1, height, width).expand(size, 1, height, width)


def refuse_unmoved(augment: Augmentation, shape: tuple[int, int, int], stream: Stream) -> None:
    """Raise ConfigError unless `augment` only moves pixels, so that perturbations can move with them.

    Each pixel may go to one place at most, and all channels must move together.
    """
    with suppress(Exception):  # whatever an augmentation raises that does not take images of one channel
        if _only_moves_pixels(augment, shape, stream):
            return
    name = getattr(augment, "__name__", type(augment).__name__)
    raise ConfigError(
        must("augment", "an augmentation that only moves pixels, for start: remembered", name, "use start: uniform")
    )


def _only_moves_pixels(augment: Augmentation, shape: tuple[int, int, int], stream: Stream) -> bool:
    """Try the augmentation on a few images whose pixels are numbered, and look where the numbers went."""
    indices = torch.arange(8)
    pixels = shape[1] * shape[2]
    numbers = _number_pixels(len(indices), shape, torch.device("cpu"))
    moved = augment(numbers.clone(), stream.at(indices))
    channels = torch.arange(shape[0]).view(1, -1, 1, 1) * pixels
    coloured = augment(numbers + channels, stream.at(indices))
    moves_channels_alike = torch.equal(coloured, torch.where(moved > 0, moved + channels, 0))
    repeats_none = all(len(image[image > 0].unique()) == int((image > 0).sum()) for image in moved)
    changes_none = bool(torch.isin(moved, torch.arange(0.0, pixels + 1)).all())
    return moved.shape == numbers.shape and moves_channels_alike and repeats_none and changes_none
