"""Charts: curves, bars, histograms, class shares and intervals, each drawn in the size that is asked for."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, product

from markupsafe import Markup

from advcore.reporting import scales, svg
from advcore.reporting.frame import HALF, SMALL, Frame, make_frame
from advcore.reporting.parts import Figure

# Width and height of a chart, in pixels.
Size = tuple[float, float]


def make_figure(caption: str, draw: Callable[..., Markup], size: Size = HALF) -> Figure:
    """Return a figure with a chart drawn in two sizes: for a telephone, and by default for half the width of a page.

    draw : draws the chart, with its size as an argument `size`. size : of the larger one.
    """
    return Figure(caption, draw(size=SMALL), draw(size=size))


@dataclass(frozen=True)
class Axes:
    """What the axes of a chart of curves show.

    x_range : lowest and highest value of x; by default, those of the curves.
    zero : y begins at 0, unless a value is negative.
    top : y does not go beyond this value.
    log : y is logarithmic.
    """

    x_title: str
    y_title: str
    x_range: tuple[float, float] | None = None
    zero: bool = False
    top: float = math.inf
    log: bool = False


@dataclass(frozen=True)
class Line:
    """A curve: points (x, y) in the order of x, and a name, which stands at its right end.

    colour : 0 to 4.
    dots : every point has a mark.
    dash : the curve is dashed.
    """

    name: str
    points: Sequence[svg.Point]
    colour: int
    dots: bool = False
    dash: bool = False


def draw_curves(
    lines: Sequence[Line],
    axes: Axes,
    *,
    alt: str,
    selections: Sequence[float] = (),
    best: svg.Point | None = None,
    chance: Sequence[tuple[float, str]] = (),
    size: Size = SMALL,
) -> Markup:
    """Draw curves with their names at their right ends.

    selections : the values of x at which a coreset was selected.
    best : the point of the best epoch, which is marked with a ring.
    chance : dotted horizontal lines, each a height and its name.
    """
    points = list(chain.from_iterable(line.points for line in lines))
    labels = [(line.points[-1][1], line.name, f"name{line.colour}") for line in lines]
    labels += [(y, name, "tick") for y, name in chance]
    heights = [y for _, y in points] + [y for y, _ in chance]
    frame = make_frame(
        axes.x_range or _range_of_x(points),
        scales.choose_range(heights, zero=axes.zero, top=axes.top, log=axes.log),
        size=size,
        right=12 + max((svg.estimate_width(name) for _, name, _ in labels), default=0),
        log=axes.log,
    )
    parts = frame.draw(axes.x_title, axes.y_title)
    for x in selections:
        parts += _draw_reference(frame, x, "at", f"a coreset was selected at {scales.format_number(x)}")
    parts += [svg.line((frame.x.start, frame.y(y)), (frame.x.end, frame.y(y)), "chance") for y, _ in chance]
    parts += chain.from_iterable(_draw_line(frame, line) for line in lines)
    parts += _draw_labels(frame, labels)
    if best is not None:
        parts.append(svg.mark(frame.to_pixels(*best), "ring", radius=5, title="best epoch"))
    return svg.picture(size, parts, alt)


def _range_of_x(points: Sequence[svg.Point]) -> tuple[float, float]:
    """Return the lowest and the highest x, or a range around x where all points have the same."""
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    return (low, high) if high > low else (low - 1, low + 1)


def _draw_reference(frame: Frame, x: float, css: str, title: str) -> list[Markup]:
    top = (frame.x(x), frame.y.end)
    return [
        svg.line((frame.x(x), frame.y.start), top, css),
        svg.mark(top, "when", shape="down", title=title),
    ]


def _draw_line(frame: Frame, line: Line) -> list[Markup]:
    places = [frame.to_pixels(x, y) for x, y in line.points]
    parts = [svg.path(places, f"s{line.colour} dash" if line.dash else f"s{line.colour}")]
    if line.dots or len(places) == 1:
        for place, (x, y) in zip(places, line.points, strict=True):
            title = f"{line.name}: {scales.format_number(y)} at {scales.format_number(x)}"
            parts.append(svg.mark(place, f"f{line.colour}", radius=3, title=title))
    return parts


def _draw_labels(frame: Frame, labels: Sequence[tuple[float, str, str]]) -> list[Markup]:
    """Draw names to the right of the plot; each label is a value of y, a name and a CSS class."""
    heights = scales.separate([frame.y(y) for y, _, _ in labels], svg.LINE, low=frame.y.end + 2, high=frame.y.start - 2)
    return [
        svg.text(frame.x.end + 8, height + 0.35 * svg.SIZE, name, css=css)
        for height, (_, name, css) in zip(heights, labels, strict=True)
    ]


@dataclass(frozen=True)
class Bar:
    """A bar with its name to the left and a label at its end. css : the class that gives its colour."""

    name: str
    value: float
    label: str
    css: str = "f1"


def draw_bars(rows: Sequence[Bar], *, alt: str, limits: Sequence[tuple[float, str]] = (), size: Size = SMALL) -> Markup:
    """Draw horizontal bars that begin at 0; their number decides the height.

    limits : dotted lines across all bars, each a value and its name.
    """
    width = size[0]
    left = 8 + max(svg.estimate_width(row.name) for row in rows)
    right = 10 + max(svg.estimate_width(row.label) for row in rows)
    highest = max(chain((row.value for row in rows), (value for value, _ in limits)))
    scale = scales.Scale(low=0.0, high=highest or 1.0, start=left, end=width - right)
    top = svg.LINE + 6.0 if limits else 2.0
    step = 24.0
    height = top + step * len(rows) + 4
    parts: list[Markup] = []
    for value, name in limits:
        middle = min(scale(value), width - svg.estimate_width(name) / 2)
        parts += [
            svg.line((scale(value), top - 3), (scale(value), height), "chance"),
            svg.text(middle, svg.SIZE, name, anchor="middle", css="tick"),
        ]
    for i, row in enumerate(rows):
        y = top + step * i
        baseline = y + step / 2 + 0.35 * svg.SIZE
        parts += [
            svg.rectangle((left, y + 4, scale(row.value), y + step - 4), row.css),
            svg.text(left - 6, baseline, row.name, anchor="end"),
            svg.text(scale(row.value) + 6, baseline, row.label),
        ]
    return svg.picture((width, height), [*parts, svg.line((left, top), (left, height), "axis")], alt)


# A histogram has at most this many bins.
BINS = 30


def bin_values(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """Return the edges of equal bins of a round width, and how many values each bin holds.

    The first bin begins at 0, or below where a value is negative.
    """
    low, high = min(0.0, *values), max(*values, 1e-12)
    exponent = math.floor(math.log10((high - low) / BINS))
    widths = (factor * 10.0**power for power, factor in product((exponent, exponent + 1), (1, 2, 5)))
    width = next(width for width in widths if math.floor(high / width) - math.floor(low / width) + 1 <= BINS)
    bins = range(math.floor(low / width), math.floor(high / width) + 1)
    counts = Counter(math.floor(value / width) for value in values)
    return [round(i * width, 12) for i in (*bins, bins.stop)], [counts[i] for i in bins]


def draw_histogram(values: Sequence[float], *, x_title: str, y_title: str, alt: str, size: Size = SMALL) -> Markup:
    """Draw how many values lie in each bin, and a mark at their mean."""
    edges, counts = bin_values(values)
    frame = make_frame((edges[0], edges[-1]), (0.0, max(counts) * 1.12), size=size, integers=False)
    parts = frame.draw(x_title, y_title)
    for (left, right), count in zip(pairwise(edges), counts, strict=True):
        box = (frame.x(left) + 0.5, frame.y(count), frame.x(right) - 0.5, frame.y(0))
        parts.append(
            svg.rectangle(box, "f1", f"{scales.format_number(left)} to {scales.format_number(right)}: {count}")
        )
    parts += _draw_reference(frame, sum(values) / len(values), "chance", "mean")
    return svg.picture(size, parts, alt)


def draw_class_shares(
    names: Sequence[str], data: Sequence[float], coresets: Sequence[Sequence[float]], *, alt: str, size: Size = SMALL
) -> Markup:
    """Draw the share of each class, in percent: a bar for the data, and a line across it for each coreset.

    All coresets but the last have thin lines. data : may be empty.
    """
    frame = make_frame((-0.5, len(names) - 0.5), (0.0, max(chain(data, *coresets)) * 1.12), size=size, right=4)
    parts = replace(frame, x_ticks=[]).draw("class", "share, %")
    slot = frame.x(1) - frame.x(0)
    # where not all names have room, only each n-th class is named
    every = max(1, math.ceil(max(svg.estimate_width(name) + 6 for name in names) / slot))
    for i, name in enumerate(names):
        x = frame.x(i)
        if data:
            box = (x - 0.36 * slot, frame.y(data[i]), x + 0.36 * slot, frame.y(0))
            parts.append(svg.rectangle(box, "data", f"class {name}: {scales.format_number(data[i])} % of the data"))
        for shares in coresets:
            css = "s1" if shares is coresets[-1] else "s1 thin"
            y = frame.y(shares[i])
            parts.append(svg.line((x - 0.4 * slot, y), (x + 0.4 * slot, y), css))
        if i % every == 0:
            parts.append(svg.text(x, frame.y.start + 5 + svg.SIZE, name, anchor="middle", css="tick"))
    return svg.picture(size, parts, alt)


@dataclass(frozen=True)
class Interval:
    """A percentage with its interval. colour : 1 for a circle, 2 for a square, and so on in turn."""

    name: str
    value: float
    low: float
    high: float
    colour: int


def draw_intervals(rows: Sequence[Interval], *, x_title: str, alt: str, size: Size = SMALL) -> Markup:
    """Draw each percentage as a mark on a line from end to end of its interval, with its name above it."""
    width = size[0]
    low, high = scales.choose_range([row.low for row in rows] + [row.high for row in rows], top=100.0)
    low = max(0.0, low)
    scale = scales.Scale(low=low, high=high, start=8, end=width - 12)
    ticks = scales.choose_ticks(low, high, 6)
    step = 36.0
    bottom = step * len(rows) + 4
    parts = [svg.line((scale(value), 0), (scale(value), bottom), "grid") for value in ticks]
    for i, row in enumerate(rows):
        y = step * i + 26
        title = f"{row.name}: {row.value:.1f} [{row.low:.1f}, {row.high:.1f}]"
        shape = ("square", "circle")[row.colour % 2]
        parts += [
            svg.text(0, step * i + 14, row.name),
            svg.line((scale(row.low), y), (scale(row.high), y), f"s{row.colour}"),
            svg.mark((scale(row.value), y), f"f{row.colour}", radius=4.5, shape=shape, title=title),
        ]
    parts += [
        svg.line((0, bottom), (width, bottom), "axis"),
        *(
            svg.text(scale(value), bottom + 4 + svg.SIZE, scales.format_number(value), anchor="middle", css="tick")
            for value in ticks
        ),
        svg.text(width, bottom + 5 + svg.SIZE + svg.LINE, x_title, anchor="end", css="title"),
    ]
    return svg.picture((width, bottom + 40), parts, alt)
