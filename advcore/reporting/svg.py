"""SVG as markup: text is escaped, colours are classes of the page, so that a picture follows its colour scheme."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

SIZE = 12
"""Of text, in pixels of a picture."""
LINE = 15
"""From one line of text to the next."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""left, top, right, bottom."""


def text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "") -> Markup:
    """`y` is the baseline; `anchor`: start, middle or end."""
    form = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>')
    return form.format(x, y, anchor, css, words)


def line(start: Point, end: Point, css: str) -> Markup:
    form = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return form.format(*start, *end, css)


def path(points: Iterable[Point], css: str) -> Markup:
    """Straight from point to point."""
    return Markup('<polyline points="{}" class="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in points), css)


def rectangle(box: Box, css: str, title: str = "") -> Markup:
    left, top, right, bottom = box
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}">{}</rect>')
    return form.format(left, top, max(0.0, right - left), max(0.0, bottom - top), css, _title(title))


SHAPES = {
    "circle": [(0.0, 0.0)],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
    "diamond": [(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
    "down": [(0.0, 1.0), (-1.0, -0.8), (1.0, -0.8)],
}


def mark(at: Point, css: str, *, radius: float = 4, shape: str = "circle", title: str = "") -> Markup:
    """A point; what differs in colour differs in shape, too."""
    if shape == "circle":
        form = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}">{}</circle>')
        return form.format(*at, radius, css, _title(title))
    corners = " ".join(f"{at[0] + radius * dx:.1f},{at[1] + radius * dy:.1f}" for dx, dy in SHAPES[shape])
    return Markup('<polygon points="{}" class="{}">{}</polygon>').format(corners, css, _title(title))


def _title(words: str) -> Markup:
    return Markup("<title>{}</title>").format(words) if words else Markup("")


def picture(width: float, height: float, parts: Iterable[Markup], alt: str) -> Markup:
    """The whole, which is one image to a reader that cannot see it."""
    form = Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>')
    return form.format(width, height, alt, Markup("").join(parts))


_NARROW, _WIDE = set("iljtfr.,:;'|!()[]/- "), set("mwMW@%")


def extent(words: str) -> float:
    """Pixels that a line of text takes, with room for wider fonts than the usual."""
    shares = (
        0.40 if c in _NARROW else 1.0 if c in _WIDE else 0.78 if c.isupper() or ord(c) > 0x2E80 else 0.64 for c in words
    )
    return SIZE * sum(shares)


@dataclass
class Labels:
    """Where labels stand so far, and what else they must not cover (`taken`) or should not (`lines`), in `bounds`."""

    bounds: Box
    taken: list[Box] = field(default_factory=list)
    lines: list[Box] = field(default_factory=list)

    def place(self, at: Point, choices: Sequence[str], css: str = "", gap: float = 7) -> Markup:
        """The first of `choices` that has room beside a point, where it first has it; nothing where none has. A label
        crosses one of the `lines` only where it has no other place."""
        for words in choices:
            for avoided in ([*self.taken, *self.lines], self.taken):
                for x, y, anchor in self._places(at, gap):
                    box = self._box(x, y, anchor, extent(words))
                    if self._fits(box, avoided):
                        self.taken.append(box)
                        return text(x, y, words, anchor=anchor, css=css)
        return Markup("")

    def _places(self, at: Point, gap: float) -> list[tuple[float, float, str]]:
        x, y = at
        middle, above, below = y + 0.35 * SIZE, y - gap, y + gap + 0.75 * SIZE
        near = [(x + gap, middle, "start"), (x - gap, middle, "end"), (x, above, "middle"), (x, below, "middle")]
        return near + [(x + side * gap, y, end) for side, end in ((1, "start"), (-1, "end")) for y in (above, below)]

    def _box(self, x: float, y: float, anchor: str, width: float) -> Box:
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
        return left, y - SIZE, left + width, y + 0.35 * SIZE

    def _fits(self, box: Box, avoided: Iterable[Box]) -> bool:
        left, top, right, bottom = self.bounds
        inside = box[0] >= left and box[1] >= top and box[2] <= right and box[3] <= bottom
        return inside and not any(overlap(box, other) for other in avoided)


def overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def around(at: Point, radius: float) -> Box:
    return at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius


def along(start: Point, end: Point) -> Box:
    """Around a line that is level or upright."""
    return min(start[0], end[0]) - 1, min(start[1], end[1]) - 1, max(start[0], end[0]) + 1, max(start[1], end[1]) + 1
