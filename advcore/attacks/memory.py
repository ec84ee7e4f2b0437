"""Start rule: where an attack left an example is where it starts the next time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advcore.cost import gigabytes
from advcore.device import free_memory
from advcore.errors import CheckpointError, ConfigError, at_least, must, one_of, require
from advcore.rng import Stream
from advcore.types import settings

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
PLACES = ("auto", "device", "host")
_MOST = 0.5  # of the device's free memory, before "auto" turns to the host's: the model needs the rest
_LEVELS = 127  # of int8, on either side of 0
_AT_ONCE = 1024  # examples that move to other places


@settings
class Memory:
    """How perturbations are remembered, for a training attack with `start: remembered`.

    Parameters
    ----------
    precision : "float32" holds attacked pixels exactly. "float16" holds what was added to each, rounded to 11 bits:
        off by at most 1/2048 of it, or 3e-8. "int8" rounds to 127 equal parts of the largest that the example had so
        far: off by at most 1/254 of that. What is read is projected again.
    reset : epochs after which all is forgotten, at least 1; null never forgets.
    place : "device", "host" (through a pinned buffer under CUDA), or "auto": the device if half of what is free there
        is enough.
    """

    precision: str = "float16"
    reset: int | None = None
    place: str = "auto"

    def __post_init__(self):
        require(
            one_of("precision", self.precision, PRECISIONS),
            None if self.reset is None else at_least("reset", self.reset, 1, "leave it out never to forget"),
            one_of("place", self.place, PLACES),
        )

    def nbytes(self, examples: int, shape: tuple[int, int, int]) -> int:
        """Bytes that the perturbations of so many images of `shape` (C, H, W) take."""
        channels, height, width = shape
        return examples * (channels * (height * width + 1) * PRECISIONS[self.precision].itemsize + 5)

    def settle(self, needed: int, device: torch.device) -> torch.device:
        """Where `needed` bytes are kept. Raises ConfigError, with figures, where they do not fit."""
        host, free = torch.device("cpu"), free_memory(device)
        if device.type == "cpu" or self.place == "host":
            where, free = host, free_memory(host)
        else:
            fits = free is None or needed <= _MOST * free
            where = device if self.place == "device" or fits else host
            free = free if where == device else free_memory(host)
        if free is not None and needed > free:
            way_out = "use memory.precision: int8, memory.place: host, a smaller budget, or another attack.start"
            raise ConfigError(
                must("memory.place", f"where {gigabytes(needed)} of perturbations fit", self.place, way_out)
                + f" ({gigabytes(free)} are free on {where})"
            )
        return where


class Perturbations:
    """What is remembered of the examples that are trained on, in the frame of the plain view.

    An augmentation that moves pixels is applied to what is read and undone in what is written: pixels that a crop cut
    away keep what they had, those of its padding have no place and are lost.

    Parameters
    ----------
    settings : how. place : device that holds it (`Memory.settle`).
    size : N, how many examples there are. shape : (C, H, W) of their images. device : of the images.
    augment : (x (B, C, H, W), stream) to the augmented view.

    Reference: Zheng et al. 2020 (ATTA), section 4. Differs: forgotten when an example leaves the coreset; the inverse
    of any augmentation that moves pixels, found by moving their numbers.
    """

    def __init__(
        self,
        settings: Memory,
        size: int,
        shape: tuple[int, int, int],
        device: torch.device,
        augment: Callable[[Tensor, Stream], Tensor] | None = None,
        place: torch.device | None = None,
    ):
        self.settings, self.shape, self.device, self.augment = settings, tuple(shape), device, augment
        self.place = device if place is None else place
        self.slots = torch.full((size,), -1, dtype=torch.long, device=device)
        self.epochs = 0  # begun since all was forgotten
        self._view: Stream | None = None
        self._whole = False
        self._buffer: Tensor | None = None  # pinned, between the host's memory and the device
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)
        self._room(0)

    def _room(self, examples: int) -> None:
        """Space for so many, with nothing in it. Column 0 stands for pixels that have no place, and stays blank."""
        kind, pixels = PRECISIONS[self.settings.precision], self.shape[1] * self.shape[2]
        wanted = (examples, self.shape[0], pixels + 1)
        self.values = torch.full(wanted, self._blank, dtype=kind, device=self.place)
        self.scale = torch.zeros(examples, device=self.device)
        self.known = torch.zeros(examples, dtype=torch.bool, device=self.device)

    def begin(self, indices: Tensor, view: Stream | None, room: int | None = None) -> None:
        """An epoch on the examples `indices` (K,), whose augmented view draws from `view`; None: the plain one.

        Examples that are not among them are forgotten; new ones know nothing. `room`: for how many there is to be
        space, K by default; what is held moves only when it changes.
        """
        wanted = torch.zeros_like(self.slots, dtype=torch.bool)
        wanted[indices.to(self.device)] = True
        staying = wanted & (self.slots >= 0)
        if (room or len(indices)) != len(self.known):
            self._resize(room or len(indices), staying)
        self.slots = torch.where(staying, self.slots, -1)
        joining = (wanted & ~staying).nonzero()[:, 0]
        if len(joining):
            free = torch.ones_like(self.known)
            free[self.slots[staying]] = False
            self.slots[joining] = free.nonzero()[: len(joining), 0]
            self._forget(self.slots[joining])
        if self.settings.reset and self.epochs == self.settings.reset:
            self._forget(torch.arange(len(self.known), device=self.device))
            self.epochs = 0
        self.epochs += 1
        self.look(view)

    def _resize(self, room: int, staying: Tensor) -> None:
        """Room for so many; the examples `staying` (N,) bool keep what they have."""
        old, values, scale, known = self.slots[staying], self.values, self.scale, self.known
        self._room(room)
        new = torch.arange(len(old), device=self.device)
        for piece in new.split(_AT_ONCE):  # so that no third copy is held
            self.values[piece.to(self.place)] = values[old[piece].to(self.place)]
        self.scale[new], self.known[new] = scale[old], known[old]
        self.slots[staying] = new

    def look(self, view: Stream | None) -> None:
        """Read through another view of the data; None: the plain one."""
        self._view, self._last = view, (None, None)
        self._settle_whole()

    def _settle_whole(self) -> None:
        """Whether something is known of every example that may be asked for: of those kept in an epoch, of all in a
        selection. Asked once here, so that no batch has to wait for the answer."""
        held = self.slots[self.slots >= 0]
        asked_for_all = self._view is None and len(held) < len(self.slots)
        self._whole = bool(len(held)) and not asked_for_all and bool(self.known[held].all())

    def _forget(self, slots: Tensor) -> None:
        self.known[slots], self.scale[slots] = False, 0.0
        self.values[slots.to(self.place)] = self._blank

    def recall(self, x: Tensor, indices: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """(B, C, H, W) where to start on the images `x` of the view: at `fresh()` for examples that nothing is known
        of; where there are none, it is not asked."""
        if not len(self.known):
            return fresh()
        slot, frame = self.slots[indices], self._frame(indices)
        at = slot.clamp_min(0)
        found = self._rows(at)
        found = (found[:, :, 1:] if frame is None else found.gather(2, frame)).reshape(x.shape)
        if self.settings.precision == "float32":
            start = torch.where(found.isnan(), x, found.to(x))
        elif self.settings.precision == "float16":
            start = x + found
        else:
            start = torch.addcmul(x, found.to(x), self.scale[at].to(x).view(-1, 1, 1, 1))
        if self._whole:
            return start
        known = (slot >= 0) & self.known[at]
        return torch.where(known.view(-1, 1, 1, 1), start, fresh())

    def keep(self, x: Tensor, x_adv: Tensor, indices: Tensor) -> None:
        """Remember where the attack ended: `x_adv` on the images `x` of the view, (B, C, H, W)."""
        slot, frame = self.slots[indices], self._frame(indices)
        new = (x_adv if self.settings.precision == "float32" else x_adv - x).flatten(2)
        rows = self._rows(slot)
        if self.settings.precision == "int8":
            before = self.scale[slot]
            self.scale[slot] = scale = torch.maximum(before, new.abs().amax((1, 2)).float() / _LEVELS)
            part = scale.clamp_min(torch.finfo(scale.dtype).tiny).view(-1, 1, 1)
            rows = (rows * (before.view(-1, 1, 1) / part)).round_()  # itself, where the parts are what they were
            new = (new / part).round_()
        new = new.to(rows.dtype)
        if frame is None:
            rows[:, :, 1:] = new
        else:
            rows.scatter_(2, frame, new)
            rows[:, :, 0] = self._blank
        self.values[slot.to(self.place)] = rows.to(self.values.dtype).to(self.place)
        self.known[slot] = True

    def _rows(self, slot: Tensor) -> Tensor:
        """(B, C, 1 + H W) of what is held, a copy, on the images' device."""
        if self.place.type == self.device.type:
            return self.values.index_select(0, slot)
        wanted = (len(slot), *self.values.shape[1:])
        if self._buffer is None or self._buffer.numel() < torch.Size(wanted).numel():
            self._buffer = torch.empty(wanted, dtype=self.values.dtype, pin_memory=True).flatten()
        found = self._buffer[: torch.Size(wanted).numel()].view(wanted)
        torch.index_select(self.values, 0, slot.to(self.place), out=found)  # waits for what was read before
        return found.to(self.device, non_blocking=True)

    @property
    def _blank(self) -> float:
        """What stands for a pixel that nothing is known of."""
        return float("nan") if self.settings.precision == "float32" else 0.0

    def _frame(self, indices: Tensor) -> Tensor | None:
        """(B, C, H W) long: which pixel of the plain view stands where in this view, from 1; 0 where none does. None
        for the plain view itself."""
        if self._view is None or self.augment is None:
            return None
        if self._last[0] is not indices:
            numbers = _numbers(len(indices), self.shape, self.device)
            frame = self.augment(numbers, self._view.at(indices)).flatten(2).long()
            self._last = indices, frame.expand(-1, self.shape[0], -1)
        return self._last[1]

    def state(self) -> dict[str, Any]:
        """A copy of all that is remembered, for a checkpoint."""
        told = {name: getattr(self, name).detach().cpu().clone() for name in _HELD}
        return told | {"epochs": self.epochs, "precision": self.settings.precision, "shape": list(self.shape)}

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave. Raises CheckpointError if it is of other images or another precision."""
        own = [self.settings.precision, list(self.shape), len(self.slots)]
        theirs = [state["precision"], list(state["shape"]), len(state["slots"])]
        if own != theirs:
            raise CheckpointError(must("the remembered precision, shape and size", str(own), theirs))
        self._room(len(state["known"]))
        for name in _HELD:
            getattr(self, name).copy_(state[name])
        self.epochs = state["epochs"]
        self.look(None)


_HELD = ("values", "scale", "known", "slots")


def _numbers(size: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """(size, 1, H, W) float32: the pixels' numbers, from 1; exact up to 2^24 pixels."""
    _, height, width = shape
    count = torch.arange(1, height * width + 1, dtype=torch.float32, device=device)
    return count.view(1, 1, height, width).expand(size, 1, height, width)


def refuse_unmoved(augment: Callable[[Tensor, Stream], Tensor], shape: tuple[int, int, int], stream: Stream) -> None:
    """Raise ConfigError unless `augment` only moves pixels, each to one place at most, in all channels alike, so that
    what is remembered can move with them."""
    indices, pixels = torch.arange(8), shape[1] * shape[2]
    numbers = _numbers(len(indices), shape, torch.device("cpu"))
    try:
        moved = augment(numbers.clone(), stream.at(indices))
        channels = torch.arange(shape[0]).view(1, -1, 1, 1) * pixels
        coloured = augment(numbers + channels, stream.at(indices))
        alike = torch.equal(coloured, torch.where(moved > 0, moved + channels, 0))
        once = all(len(own[own > 0].unique()) == int((own > 0).sum()) for own in moved)
        known = bool(torch.isin(moved, torch.arange(0.0, pixels + 1)).all())
        fit = moved.shape == numbers.shape and alike and once and known
    except Exception:  # one that takes colour images only, say
        fit = False
    if not fit:
        name = getattr(augment, "__name__", type(augment).__name__)
        raise ConfigError(
            must("augment", "an augmentation that only moves pixels, for start: remembered", name, "use start: uniform")
        )
