"""From numbers to pixels, and the round numbers that label an axis."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Scale:
    """A map of the values from `low` to `high` to the pixels from `start` to `end`: linear, or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = map(math.log, (low, high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def choose_range(
    values: Iterable[float], *, zero: bool = False, top: float = math.inf, log: bool = False
) -> tuple[float, float]:
    """Return the lowest and the highest value of an axis that shows finite `values` with some room around them.

    zero : the axis begins at 0, unless a value is negative.
    top : the axis does not go beyond this value.
    log : the axis is logarithmic, so that the room is a factor; `zero` and `top` do not matter then.
    """
    values = list(values)
    low, high = min(values), max(values)
    if log:
        room = max(1.15, (high / low) ** 0.06)
        return low / room, high * room
    if zero and low >= 0:
        return 0.0, min(high + (0.08 * high or 1.0), top)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, min(high + room, top)


def choose_ticks(low: float, high: float, most: int = 6, *, integers: bool = False) -> list[float]:
    """Return at most `most` evenly spaced round values within [low, high].

    Their distance is 1, 2 or 5 times a power of ten; with `integers`, it is at least 1.
    """
    exponent = math.floor(math.log10((high - low) / most))
    for power, factor in product((exponent, exponent + 1, exponent + 2), (1, 2, 5)):
        step = factor * 10.0**power
        if integers and step < 1:
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(i * step, 12) for i in range(first, last + 1)]
    raise AssertionError("three powers of ten always suffice")


# The leading digits of ticks on a logarithmic axis, from the densest choice to the sparsest.
_DIGITS = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))


def choose_log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round values within [low, high] whose logarithms are about evenly spaced."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in _DIGITS:
        candidates = [digit * 10.0**power for power, digit in product(powers, digits)]
        ticks = [round(value, 12) for value in candidates if low <= value <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def format_number(value: float) -> str:
    """Write a number for an axis or next to a bar, with no more digits than are read there."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    if abs(value) >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def separate(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places apart until they are at least `gap` from each other, near to where they were `wanted`.

    Their order stays the same, and they stay within [low, high] as long as there is room.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed: list[float] = []
    lowest = low
    for i in order:
        placed.append(max(wanted[i], lowest))
        lowest = placed[-1] + gap
    highest = high
    for j in reversed(range(len(placed))):
        placed[j] = min(placed[j], highest)
        highest = placed[j] - gap
    return [place for _, place in sorted(zip(order, placed, strict=True))]
