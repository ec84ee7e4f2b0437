"""Numbers to pixels, and the round numbers that stand on an axis."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto pixels from `start` to `end`, evenly or, with `log`, by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def span(
    values: Iterable[float], *, zero: bool = False, top: float | None = None, log: bool = False
) -> tuple[float, float]:
    """What an axis must show of finite `values`: some room beside them, from 0 where `zero`, not beyond `top`."""
    values = list(values)
    low, high = min(values), max(values)
    if log:
        room = max(1.15, (high / low) ** 0.06)
        return low / room, high * room
    low = 0.0 if zero and low >= 0 else low
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low = low if zero and low == 0 else low - room
    high = high + room
    return low, high if top is None else min(high, top)


def ticks(low: float, high: float, most: int = 6, *, whole: bool = False) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten, within [low, high]."""
    exponent = math.floor(math.log10((high - low) / most))
    for step in (factor * 10.0**power for power in (exponent, exponent + 1, exponent + 2) for factor in (1, 2, 5)):
        if whole and step < 1:
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(i * step, 12) for i in range(first, last + 1)]
    raise AssertionError("three powers of ten always suffice")


_STEPS = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round values within [low, high], about even in their logarithm."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        found = [
            round(step * 10.0**power, 12) for power in powers for step in steps if low <= step * 10.0**power <= high
        ]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def number(value: float) -> str:
    """For an axis or beside a bar: no more digits than are read."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to those `wanted`, in their order, at least `gap` from each other, within [low, high] while
    there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + gap if placed else low))
    for j in reversed(range(len(placed))):
        placed[j] = min(placed[j], high if j == len(placed) - 1 else placed[j + 1] - gap)
    found = [0.0] * len(wanted)
    for i, place in zip(order, placed, strict=True):
        found[i] = place
    return found
