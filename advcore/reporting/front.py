"""Robust accuracy over relative cost, one point a method, with its Pareto front."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from advcore.reporting import svg
from advcore.reporting.charts import Frame, frame
from advcore.reporting.scales import Scale, log_ticks, span
from advcore.reporting.svg import LINE, SIZE, Labels

KINDS = {
    "all data": ("circle", 0),
    "random subset": ("square", 2),
    "chosen coreset": ("triangle", 1),
    "minibatch rule": ("diamond", 3),
}
"""Shape and colour, by how a method saves."""


@dataclass(frozen=True)
class Method:
    """A point: costs relative to full training, and robust accuracies in percent, one each a seed."""

    name: str
    kind: str
    costs: Sequence[float]
    robust: Sequence[float]

    @property
    def cost(self) -> float:
        return statistics.fmean(self.costs)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.robust)

    @property
    def spread(self) -> float:
        """Sample deviation over seeds."""
        return statistics.stdev(self.robust) if len(self.robust) > 1 else 0.0


def front(methods: Sequence[Method]) -> list[Method]:
    """Those than which none is both no dearer and more robust (means over seeds), by cost. Of equal ones, the first."""
    best, found = -math.inf, []
    for one in sorted(methods, key=lambda m: (m.cost, -m.mean)):
        if one.mean > best:
            best, found = one.mean, [*found, one]
    return found


def kind(config: dict) -> str:
    """How a run saves: of `KINDS`."""
    chosen = config.get("selection")
    if chosen:
        return "random subset" if chosen.get("solver", {}).get("name") == "random" else "chosen coreset"
    return "minibatch rule" if config.get("minibatch") else "all data"


def draw(methods: Sequence[Method], title: str, size: tuple[float, float]) -> Markup:
    """Methods are named where there is room, those on the front first, else given their number in the list's order."""
    inside = _axes(methods, size)
    best, number = front(methods), {id(one): str(i) for i, one in enumerate(methods, 1)}
    parts = inside.drawn(f"relative cost{', logarithmic' if inside.x.log else ''}", title)
    places = [inside.at(one.cost, one.mean) for one in best]
    steps = _steps(places, inside.x.end)
    parts.append(svg.path(steps, "front"))
    labels = Labels((inside.x.start + 1, inside.y.end - 4, size[0], inside.y.start - 2))
    labels.lines += [svg.along(start, end) for start, end in zip(steps, steps[1:], strict=False)]
    for one in methods:
        at, (shape, colour) = inside.at(one.cost, one.mean), KINDS[one.kind]
        labels.taken.append(svg.around(at, 6))
        ends = [inside.at(one.cost, one.mean + sign * one.spread) for sign in (-1, 1)]
        labels.taken += [(x - 2, min(y, at[1]), x + 2, max(y, at[1])) for x, y in ends if one.spread]
        parts.append(svg.line(*ends, f"s{colour} thin"))
        parts.append(svg.mark(at, f"f{colour}", radius=4.5, shape=shape, title=told(one)))
    named = sorted(methods, key=lambda one: (one not in best, -one.mean))
    for one in named:
        wide = one in best or size[0] > 500
        choices = [one.name, number[id(one)]] if wide else [number[id(one)]]
        parts.append(labels.place(inside.at(one.cost, one.mean), choices))
    alt = f"{title} over relative cost. On the Pareto front: {'; '.join(map(told, best))}."
    return svg.picture(*size, [*parts, *_legend(methods, size)], alt)


def told(one: Method) -> str:
    spread = f" ± {one.spread:.1f}" if len(one.robust) > 1 else ""
    return f"{one.name}: {one.mean:.1f}{spread} % at {one.cost:.2f}"


def _axes(methods: Sequence[Method], size: tuple[float, float]) -> Frame:
    costs = [one.cost for one in methods]
    log = min(costs) > 0 and max(costs) > 3 * min(costs)
    x = span(costs, log=log)
    ends = [one.mean + sign * one.spread for one in methods for sign in (-1, 1)]
    y = span(ends, top=max(100.0, *ends))  # a deviation may reach beyond what an accuracy can
    below = LINE * len(_legend_rows(methods, size[0])) + 8
    flat = frame(x, y, size=(size[0], size[1] - below), right=16, whole=False)
    if not log:
        return flat
    across = Scale(*x, flat.x.start, flat.x.end, log=True)
    return Frame(across, flat.y, log_ticks(*x, max(3, int((across.end - across.start) / 60))), flat.y_ticks)


def _steps(places: Sequence[svg.Point], end: float) -> list[svg.Point]:
    """A staircase: what is reached stays reached at a higher cost."""
    found = list(places[:1])
    for before, now in zip(places, places[1:], strict=False):
        found += [(now[0], before[1]), now]
    return [*found, (end, found[-1][1])]


def _legend(methods: Sequence[Method], size: tuple[float, float]) -> list[Markup]:
    """The kinds that are there, in lines along the lower edge."""
    parts = []
    rows = _legend_rows(methods, size[0])
    for i, row in enumerate(rows):
        y = size[1] - 6 - LINE * (len(rows) - 1 - i)
        for name, x in row:
            shape, colour = KINDS[name]
            parts.append(svg.mark((x, y - 0.35 * SIZE), f"f{colour}", radius=4.5, shape=shape))
            parts.append(svg.text(x + 9, y, name, css="tick"))
    return parts


def _legend_rows(methods: Sequence[Method], width: float) -> list[list[tuple[str, float]]]:
    """Names and where they begin, as many in a line as fit."""
    rows, x = [[]], 6.0
    for name in KINDS:
        if all(one.kind != name for one in methods):
            continue
        wide = 9 + svg.extent(name) + 12
        if x + wide > width and rows[-1]:
            rows, x = [*rows, []], 6.0
        rows[-1].append((name, x))
        x += wide
    return rows
