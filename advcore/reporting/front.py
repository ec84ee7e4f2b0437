"""Robust accuracy over relative cost: one point per method, and the Pareto front of all methods."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import attrgetter

from markupsafe import Markup

from advcore.reporting import scales, svg
from advcore.reporting.frame import Frame, make_frame
from advcore.reporting.tables import format_mean

# Shape and colour of a method's mark, by how the method saves cost.
KINDS = {
    "all data": ("circle", 0),
    "random subset": ("square", 2),
    "chosen coreset": ("triangle", 1),
    "minibatch rule": ("diamond", 3),
}


@dataclass(frozen=True)
class Method:
    """A method: relative cost and robust accuracy (in percent) of each of its runs, one run per seed.

    collapsed : how many further runs ended in catastrophic overfitting. Where all did, `robust` is theirs.
    """

    name: str
    kind: str
    costs: Sequence[float]
    robust: Sequence[float]
    collapsed: int = 0

    @property
    def cost(self) -> float:
        """Mean relative cost over seeds."""
        return statistics.fmean(self.costs)

    @property
    def accuracy(self) -> float:
        """Mean robust accuracy over seeds, in percent."""
        return statistics.fmean(self.robust)

    @property
    def spread(self) -> float:
        """Sample deviation of the robust accuracy over seeds; 0 for a single seed."""
        return statistics.stdev(self.robust) if len(self.robust) > 1 else 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key: the cheapest method first, and of equally expensive ones the most robust."""
        return self.cost, -self.accuracy

    def describe(self) -> str:
        """Return name, accuracy and cost in one line."""
        text = f"{self.name}: {format_mean(self.robust)} % at {self.cost:.2f}"
        if self.collapsed:
            text += f" ({self.collapsed} of {len(self.costs)} collapsed)"
        return text


def find_front(methods: Sequence[Method]) -> list[Method]:
    """Return the methods on the Pareto front, the cheapest first.

    For each of them, no other method is both at most as expensive and at least as robust, by the means over seeds.
    Of methods that are equal in both, the first one counts. A method of which a run collapsed does not count, unless
    one of each did.
    """
    best = -math.inf
    front = []
    reliable = [method for method in methods if not method.collapsed] or methods
    for method in sorted(reliable, key=attrgetter("rank")):
        if method.accuracy > best:
            best = method.accuracy
            front.append(method)
    return front


def classify_run(config: Mapping) -> str:
    """Return how a run with these settings saves cost, as one of `KINDS`."""
    selection = config.get("selection")
    if not selection:
        return "minibatch rule" if config.get("minibatch") else "all data"
    return "random subset" if selection.get("solver", {}).get("name") == "random" else "chosen coreset"


def draw_front(
    methods: Sequence[Method], title: str, size: tuple[float, float], numbers: Sequence[int] | None = None
) -> Markup:
    """Draw robust accuracy over relative cost.

    Each method has its name next to its point where there is room, those on the front first; else its number. In
    a chart of at most 500 pixels in width, only those on the front have names.

    title : of the axis of accuracies. size : width and height, in pixels. numbers : of the methods; by default counted
    from 1.
    """
    frame = _lay_out(methods, size)
    front = find_front(methods)
    parts = frame.draw("relative cost, logarithmic" if frame.x.log else "relative cost", title)
    steps = _trace_steps([frame.to_pixels(method.cost, method.accuracy) for method in front], frame.x.end)
    parts.append(svg.path(steps, "front"))
    labels = svg.Labels((frame.x.start + 1, frame.y.end - 4, size[0], frame.y.start - 2))
    labels.lines += [svg.box_along(start, end) for start, end in pairwise(steps)]
    parts += chain.from_iterable(_draw_method(frame, method, labels) for method in methods)
    numbered = zip(numbers or range(1, len(methods) + 1), methods, strict=True)
    parts += _name_methods(frame, list(numbered), labels, all_named=size[0] > 500)
    alt = f"{title} over relative cost. On the Pareto front: {'; '.join(method.describe() for method in front)}."
    return svg.picture(size, [*parts, *_draw_legend(methods, size)], alt)


def _draw_method(frame: Frame, method: Method, labels: svg.Labels) -> list[Markup]:
    """Draw a method's mark and its spread over seeds, if any, and keep `labels` from covering them."""
    shape, colour = KINDS[method.kind]
    centre = frame.to_pixels(method.cost, method.accuracy)
    labels.taken.append(svg.box_around(centre, 6))
    mark = svg.mark(centre, f"f{colour}", radius=4.5, shape=shape, title=method.describe())
    if not method.spread:
        return [mark]
    ends = [frame.to_pixels(method.cost, method.accuracy + side * method.spread) for side in (-1, 1)]
    labels.taken += [(x - 2, min(y, centre[1]), x + 2, max(y, centre[1])) for x, y in ends]
    return [svg.line(ends[0], ends[1], f"s{colour} spread"), mark]


def _name_methods(
    frame: Frame, numbered: Sequence[tuple[int, Method]], labels: svg.Labels, *, all_named: bool
) -> list[Markup]:
    """Write the name or the number of each method next to its point, as far as there is room.

    Methods on the front come first, and the most robust ones before others.
    all_named : methods that are not on the front may have their name, too.
    """
    front = find_front([method for _, method in numbered])
    parts = []
    for number, method in sorted(numbered, key=lambda pair: (pair[1] not in front, -pair[1].accuracy)):
        choices = [method.name, str(number)]
        if method not in front and not all_named:
            choices.remove(method.name)
        parts.append(labels.place(frame.to_pixels(method.cost, method.accuracy), choices))
    return parts


def _lay_out(methods: Sequence[Method], size: tuple[float, float]) -> Frame:
    """Return axes that show all methods and leave room for the legend; costs are logarithmic where they differ much."""
    ends = [*(m.accuracy - m.spread for m in methods), *(m.accuracy + m.spread for m in methods)]
    accuracies = scales.choose_range(ends, top=max(100.0, *ends))  # a deviation may reach beyond 100 %
    costs = [method.cost for method in methods]
    log = min(costs) > 0 and max(costs) > 3 * min(costs)
    x_range = scales.choose_range(costs, log=log)
    width, height = size
    height -= svg.LINE * len(_arrange_legend(methods, width)) + 8
    return make_frame(x_range, accuracies, size=(width, height), right=24, integers=False, log_x=log)


def _trace_steps(places: Sequence[svg.Point], end: float) -> list[svg.Point]:
    """Return the corners of a staircase through the front: what is reached at one cost is reached at a higher one."""
    corners = list(places[:1])
    for (_, height), place in pairwise(places):
        corners += [(place[0], height), place]
    return [*corners, (end, corners[-1][1])]


def _draw_legend(methods: Sequence[Method], size: tuple[float, float]) -> list[Markup]:
    width, height = size
    parts = []
    rows = _arrange_legend(methods, width)
    for i, row in enumerate(rows):
        y = height - 6 - svg.LINE * (len(rows) - 1 - i)
        for name, x in row:
            shape, colour = KINDS[name]
            parts += [
                svg.mark((x, y - 0.35 * svg.SIZE), f"f{colour}", radius=4.5, shape=shape),
                svg.text(x + 9, y, name, css="tick"),
            ]
    return parts


def _arrange_legend(methods: Sequence[Method], width: float) -> list[list[tuple[str, float]]]:
    """Return the rows of the legend: names, and where each begins; a row holds as many as fit."""
    present = {method.kind for method in methods}
    rows: list[list[tuple[str, float]]] = [[]]
    x = 6.0
    for name in [kind for kind in KINDS if kind in present]:
        length = 9 + svg.estimate_width(name) + 12
        if x + length > width and rows[-1]:
            rows.append([])
            x = 6.0
        rows[-1].append((name, x))
        x += length
    return rows
