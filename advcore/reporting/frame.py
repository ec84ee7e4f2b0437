"""The axes of a chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from markupsafe import Markup

from advcore.reporting import scales, svg

# The size of a chart on a telephone, in pixels.
WIDTH, HEIGHT = SMALL = (340.0, 200.0)
# The size of a chart that takes half the width of a page.
HALF = (540.0, 260.0)


@dataclass(frozen=True)
class Frame:
    """The axes around a plot.

    x, y : the scales, from values to pixels.
    x_ticks, y_ticks : the values at which the axes have ticks.
    """

    x: scales.Scale
    y: scales.Scale
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def to_pixels(self, x: float, y: float) -> svg.Point:
        """Return where a pair of values stands in the chart."""
        return self.x(x), self.y(y)

    def draw(self, x_title: str, y_title: str) -> list[Markup]:
        """Return grid, ticks and titles; the title of y is above the plot."""
        left, right, bottom = self.x.start, self.x.end, self.y.start
        return [
            *(svg.line((left, self.y(value)), (right, self.y(value)), "grid") for value in self.y_ticks),
            *(
                svg.text(left - 6, self.y(v) + 0.35 * svg.SIZE, scales.format_number(v), anchor="end", css="tick")
                for v in self.y_ticks
            ),
            svg.line((left, bottom), (right, bottom), "axis"),
            *chain.from_iterable(map(self._draw_x_tick, self.x_ticks)),
            svg.text(0, svg.SIZE, y_title, css="title"),
            svg.text(right, bottom + 6 + svg.SIZE + svg.LINE, x_title, anchor="end", css="title"),
        ]

    def _draw_x_tick(self, value: float) -> list[Markup]:
        x, bottom = self.x(value), self.y.start
        return [
            svg.line((x, bottom), (x, bottom + 4), "axis"),
            svg.text(x, bottom + 5 + svg.SIZE, scales.format_number(value), anchor="middle", css="tick"),
        ]


def make_frame(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    size: tuple[float, float] = SMALL,
    right: float = 12,
    integers: bool = True,
    log_x: bool = False,
    log: bool = False,
) -> Frame:
    """Return axes over two ranges of values, in a chart of `size`.

    right : pixels between the plot and the right edge of the chart.
    integers : x counts something, so that its ticks are integers.
    log_x, log : x is logarithmic; y is.
    """
    y_ticks = scales.choose_log_ticks(*y_range, 5) if log else scales.choose_ticks(*y_range, 5)
    left = 8 + max((svg.estimate_width(scales.format_number(value)) for value in y_ticks), default=0)
    width, height = size
    x_ticks = scales.choose_ticks(*x_range, max(2, int((width - left - right) / 45)), integers=integers)
    if log_x:
        x_ticks = scales.choose_log_ticks(*x_range, max(3, int((width - right - left) / 60)))
    return Frame(
        x=scales.Scale(*x_range, start=left, end=width - right, log=log_x),
        y=scales.Scale(*y_range, start=height - 38, end=24, log=log),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
    )
