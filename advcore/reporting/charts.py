"""Curves, bars, histograms and intervals, each drawn for a page as wide as a telephone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from advcore.reporting import svg
from advcore.reporting.scales import Scale, apart, log_ticks, number, span, ticks
from advcore.reporting.svg import LINE, SIZE, Point

WIDTH, HEIGHT = 340.0, 200.0


@dataclass(frozen=True)
class Line:
    """(x, y) by x, and the name at its end; colour 0 to 4. dots : mark each point."""

    name: str
    points: Sequence[Point]
    colour: int
    dots: bool = False
    dash: bool = False


@dataclass(frozen=True)
class Frame:
    """Axes around a plot: pixels of x and y, and the ticks on them."""

    x: Scale
    y: Scale
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def at(self, x: float, y: float) -> Point:
        return self.x(x), self.y(y)

    def drawn(self, x_title: str, y_title: str) -> list[Markup]:
        """Grid, ticks and titles; that of y stands above the plot."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = [svg.line((left, self.y(v)), (right, self.y(v)), "grid") for v in self.y_ticks]
        parts += [
            svg.text(left - 6, self.y(v) + 0.35 * SIZE, number(v), anchor="end", css="tick") for v in self.y_ticks
        ]
        parts.append(svg.line((left, bottom), (right, bottom), "axis"))
        for value, words in zip(self.x_ticks, map(number, self.x_ticks), strict=True):
            parts.append(svg.line((self.x(value), bottom), (self.x(value), bottom + 4), "axis"))
            parts.append(svg.text(self.x(value), bottom + 5 + SIZE, words, anchor="middle", css="tick"))
        parts.append(svg.text(0, SIZE, y_title, css="title"))
        parts.append(svg.text(right, bottom + 6 + SIZE + LINE, x_title, anchor="end", css="title"))
        return [*parts, svg.line((left, top), (left, top), "axis")]


def frame(
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    right: float = 12,
    whole: bool = True,
    log: bool = False,
) -> Frame:
    """Axes over the spans `x` and `y`; `right`: pixels left of the picture's edge. whole : x counts something. log : y
    goes by its logarithm."""
    y_ticks = log_ticks(*y, 5) if log else ticks(*y, 5)
    left = 8 + max((svg.extent(number(v)) for v in y_ticks), default=0)
    width, height = size
    x_ticks = ticks(*x, max(2, int((width - left - right) / 45)), whole=whole)
    return Frame(Scale(*x, left, width - right), Scale(*y, height - 38, 24, log), x_ticks, y_ticks)


def curves(
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    alt: str,
    selections: Sequence[float] = (),
    ring: tuple[Point, str] | None = None,
    zero: bool = False,
    top: float | None = None,
    chance: Sequence[tuple[float, str]] = (),
    x_span: tuple[float, float] | None = None,
    log: bool = False,
) -> Markup:
    """Lines with their names at their ends; `log`: y by its logarithm. selections : where on x a coreset was chosen.
    ring : a point, and what it is. chance : heights of dotted lines, and what they are."""
    points = [point for one in lines for point in one.points]
    xs = [x for x, _ in points]
    x_span = x_span or ((min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, min(xs) + 1))
    named = [(one.points[-1][1], one.name, f"name{one.colour}") for one in lines] + [
        (y, name, "tick") for y, name in chance
    ]
    right = 12 + max((svg.extent(name) for _, name, _ in named), default=0)
    heights = span([*(y for _, y in points), *(y for y, _ in chance)], zero=zero, top=top, log=log)
    inside = frame(x_span, heights, right=right, log=log)
    low, high = inside.y.start, inside.y.end
    parts = inside.drawn(x_title, y_title)
    for x in selections:
        parts += [svg.line(inside.at(x, inside.y.low), inside.at(x, inside.y.high), "at")]
        parts += [
            svg.mark(
                (inside.x(x), high), "when", radius=4, shape="down", title=f"a coreset was selected at {number(x)}"
            )
        ]
    parts += [svg.line((inside.x.start, inside.y(y)), (inside.x.end, inside.y(y)), "chance") for y, _ in chance]
    for one in lines:
        placed = [inside.at(*point) for point in one.points]
        parts.append(svg.path(placed, f"s{one.colour}{' dash' if one.dash else ''}"))
        if one.dots or len(placed) == 1:
            told = (f"{one.name}: {number(y)} at {number(x)}" for x, y in one.points)
            parts += [svg.mark(at, f"f{one.colour}", radius=3, title=t) for at, t in zip(placed, told, strict=True)]
    heights = apart([inside.y(y) for y, _, _ in named], LINE, high + 2, low - 2)
    ends = [(inside.x.end + 8, height) for height in heights]
    parts += [svg.text(x, y + 0.35 * SIZE, name, css=css) for (x, y), (_, name, css) in zip(ends, named, strict=True)]
    if ring is not None:
        at, words = inside.at(*ring[0]), ring[1]
        parts.append(svg.mark(at, "ring", radius=5, title=words))
    return svg.picture(WIDTH, HEIGHT, parts, alt)


@dataclass(frozen=True)
class Bar:
    """Its name to the left, `told` at its end; `css`: its colour."""

    name: str
    value: float
    told: str
    css: str = "f1"


def bars(rows: Sequence[Bar], *, alt: str, limit: tuple[float, str] | None = None) -> Markup:
    """Bars to the right, from 0. limit : a dotted line at a value, and what it is."""
    left = 8 + max(svg.extent(row.name) for row in rows)
    right = 10 + max(svg.extent(row.told) for row in rows)
    most = max([row.value for row in rows] + ([limit[0]] if limit else []))
    across = Scale(0.0, most or 1.0, left, WIDTH - right)
    top, step = (LINE + 6.0 if limit else 2.0), 24.0
    parts: list[Markup] = []
    height = top + step * len(rows) + 4
    if limit:
        x = across(limit[0])
        parts += [svg.line((x, top - 3), (x, height), "chance")]
        parts += [svg.text(min(x, WIDTH - svg.extent(limit[1]) / 2), SIZE, limit[1], anchor="middle", css="tick")]
    for i, row in enumerate(rows):
        y = top + step * i
        parts.append(svg.rectangle((left, y + 4, across(row.value), y + step - 4), row.css))
        parts.append(svg.text(left - 6, y + step / 2 + 0.35 * SIZE, row.name, anchor="end"))
        parts.append(svg.text(across(row.value) + 6, y + step / 2 + 0.35 * SIZE, row.told))
    parts.append(svg.line((left, top), (left, height), "axis"))
    return svg.picture(WIDTH, height, parts, alt)


BINS = 30
"""Of a histogram, at most."""


def binned(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """Edges of even bins with round width from 0, or below it where values are, and how many values each holds."""
    low, high = min(0.0, *values), max(*values, 1e-12)
    exponent = math.floor(math.log10((high - low) / BINS))
    wide = (f * 10.0**p for p in (exponent, exponent + 1) for f in (1, 2, 5))
    step = next(w for w in wide if (math.floor(high / w) - math.floor(low / w) + 1) <= BINS)
    first, last = math.floor(low / step), math.floor(high / step)
    counts = [0] * (last - first + 1)
    for value in values:
        counts[math.floor(value / step) - first] += 1
    return [round((first + i) * step, 12) for i in range(len(counts) + 1)], counts


def histogram(values: Sequence[float], *, x_title: str, y_title: str, alt: str) -> Markup:
    """How many values lie in each bin; a mark at their mean."""
    edges, counts = binned(values)
    inside = frame((edges[0], edges[-1]), (0.0, max(counts) * 1.12), whole=False)
    parts = inside.drawn(x_title, y_title)
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        (x0, y0), (x1, y1) = inside.at(left, 0), inside.at(right, count)
        parts.append(svg.rectangle((x0 + 0.5, y1, x1 - 0.5, y0), "f1", f"{number(left)} to {number(right)}: {count}"))
    mean = inside.x(sum(values) / len(values))
    parts.append(svg.line((mean, inside.y.start), (mean, inside.y.end), "chance"))
    parts.append(svg.mark((mean, inside.y.end), "when", shape="down", title="mean"))
    return svg.picture(WIDTH, HEIGHT, parts, alt)


def balance(names: Sequence[str], data: Sequence[float], sets: Sequence[Sequence[float]], *, alt: str) -> Markup:
    """Shares in percent by class: bars of the data, a line across each for each coreset, the last in another colour."""
    most = max(share for shares in (data, *sets) for share in shares)
    inside = frame((-0.5, len(names) - 0.5), (0.0, most * 1.12), right=4)
    shown = replace(inside, x_ticks=[])
    parts, slot = shown.drawn("class", "share, %"), inside.x(1) - inside.x(0)
    every = max(1, math.ceil(max(svg.extent(name) + 6 for name in names) / slot))
    for i, name in enumerate(names):
        x = inside.x(i)
        if data:
            box = (x - 0.36 * slot, inside.y(data[i]), x + 0.36 * slot, inside.y(0))
            parts.append(svg.rectangle(box, "data", f"class {name}: {number(data[i])} % of the data"))
        for shares in sets:
            css = f"s1{'' if shares is sets[-1] else ' thin'}"
            parts.append(svg.line((x - 0.4 * slot, inside.y(shares[i])), (x + 0.4 * slot, inside.y(shares[i])), css))
        if i % every == 0:
            parts.append(svg.text(x, inside.y.start + 5 + SIZE, name, anchor="middle", css="tick"))
    return svg.picture(WIDTH, HEIGHT, parts, alt)


def intervals(rows: Sequence[tuple[str, float, tuple[float, float], int]], *, x_title: str, alt: str) -> Markup:
    """Name, value, its interval and a colour: a dot and a bar each, the name above it."""
    low, high = min(one[0] for _, _, one, _ in rows), max(one[1] for _, _, one, _ in rows)
    low, high = span([low, high])
    low, high = max(0.0, low), min(100.0, high)
    across = Scale(low, high, 8, WIDTH - 12)
    step, bottom = 36.0, 36.0 * len(rows) + 4
    parts = [svg.line((across(v), 0), (across(v), bottom), "grid") for v in ticks(low, high, 6)]
    for i, (name, value, (first, last), colour) in enumerate(rows):
        y = step * i + 26
        parts.append(svg.text(0, step * i + 14, name))
        parts.append(svg.line((across(first), y), (across(last), y), f"s{colour}"))
        told = f"{name}: {value:.1f} [{first:.1f}, {last:.1f}]"
        parts.append(
            svg.mark((across(value), y), f"f{colour}", radius=4.5, shape=("square", "circle")[colour % 2], title=told)
        )
    parts.append(svg.line((0, bottom), (WIDTH, bottom), "axis"))
    parts += [
        svg.text(across(v), bottom + 4 + SIZE, number(v), anchor="middle", css="tick") for v in ticks(low, high, 6)
    ]
    parts.append(svg.text(WIDTH, bottom + 5 + SIZE + LINE, x_title, anchor="end", css="title"))
    return svg.picture(WIDTH, bottom + 40, parts, alt)
