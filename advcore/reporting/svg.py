"""SVG elements as markup. Text is escaped; colours are classes of the page, so that charts follow its colour scheme.

Points and sizes are in pixels, from the upper left corner.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from markupsafe import Markup

# Height of text, in pixels.
SIZE = 12
# Distance from one line of text to the next, in pixels.
LINE = 15

Point = tuple[float, float]
# left, top, right, bottom.
Box = tuple[float, float, float, float]


def text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "") -> Markup:
    """Return a line of text with its baseline at `y`. anchor : which part of it is at `x`: start, middle or end."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, css, words)


def line(start: Point, end: Point, css: str) -> Markup:
    """Return a straight line."""
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(*start, *end, css)


def path(points: Iterable[Point], css: str) -> Markup:
    """Return straight lines from each point to the next."""
    return Markup('<polyline points="{}" class="{}"/>').format(_list_points(points), css)


def _list_points(points: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def rectangle(box: Box, css: str, title: str = "") -> Markup:
    """Return a filled rectangle; `title` appears where a pointer rests on it."""
    left, top, right, bottom = box
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}">{}</rect>')
    return form.format(left, top, max(0.0, right - left), max(0.0, bottom - top), css, _title(title))


# Corners around a mark's centre, in units of its radius.
SHAPES = {
    "circle": [(0.0, 0.0)],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
    "diamond": [(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
    "down": [(0.0, 1.0), (-1.0, -0.8), (1.0, -0.8)],
}


def mark(centre: Point, css: str, *, radius: float = 4, shape: str = "circle", title: str = "") -> Markup:
    """Return the mark of a point, of a shape in `SHAPES`.

    Marks of different colours have different shapes, too, for readers who cannot tell the colours apart.
    """
    if shape == "circle":
        form = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}">{}</circle>')
        return form.format(*centre, radius, css, _title(title))
    x, y = centre
    corners = [(x + radius * dx, y + radius * dy) for dx, dy in SHAPES[shape]]
    return Markup('<polygon points="{}" class="{}">{}</polygon>').format(_list_points(corners), css, _title(title))


def _title(words: str) -> str:
    return words and Markup("<title>{}</title>").format(words)


def picture(size: tuple[float, float], parts: Iterable[Markup], alt: str) -> Markup:
    """Return a complete chart of a width and a height. A screen reader presents it as one image with the text `alt`."""
    contents = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(*size, alt, contents)


def meter(share: float, alt: str, band: tuple[float, float] | None = None) -> Markup:
    """Return a bar that is filled up to a share of its length, and marked between the two shares of a `band`."""
    parts = [rectangle((0, 0, 100, 8), "track"), rectangle((0, 0, 100 * min(1.0, max(0.0, share)), 8), "f1")]
    if band is not None:
        low, high = (100 * min(1.0, max(0.0, end)) for end in band)
        parts.append(rectangle((low, 2.5, high, 5.5), "band"))
    form = Markup('<svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>')
    return form.format(alt, Markup("").join(parts))


# Widths of characters, as shares of the height of text.
_WIDTHS = dict.fromkeys("iljtfr.,:;'|!()[]/- ", 0.40) | dict.fromkeys("mwMW@%", 1.0)


def estimate_width(words: str) -> float:
    """Return the pixels that a line of text takes at most, also in fonts that are wider than the usual ones."""
    return SIZE * sum(map(_character_width, words))


def _character_width(character: str) -> float:
    is_broad = character.isupper() or ord(character) > 0x2E80  # from there on: scripts such as Chinese
    return _WIDTHS.get(character, 0.78 if is_broad else 0.64)


# The distance between a point and its label, in pixels.
GAP = 7
_BELOW = GAP + 0.75 * SIZE
# Where a label may begin, relative to its point, and its anchor; the best place first.
_PLACES = (
    (GAP, 0.35 * SIZE, "start"),
    (-GAP, 0.35 * SIZE, "end"),
    (0, -GAP, "middle"),
    (0, _BELOW, "middle"),
    (GAP, -GAP, "start"),
    (GAP, _BELOW, "start"),
    (-GAP, -GAP, "end"),
    (-GAP, _BELOW, "end"),
)


@dataclass
class Labels:
    """Places labels next to points so that they cover neither each other nor anything else.

    bounds : the box that labels must stay within.
    taken : boxes that labels must not cover; each label that is placed is added.
    lines : boxes that labels cover only where there is no other place.
    """

    bounds: Box
    taken: list[Box] = field(default_factory=list)
    lines: list[Box] = field(default_factory=list)

    def place(self, point: Point, choices: Sequence[str]) -> Markup:
        """Return the first of `choices` that has room next to a point, at the first place where it has room.

        Returns empty markup where none has.
        """
        everything = [*self.taken, *self.lines]
        for words, avoided, (dx, dy, anchor) in product(choices, (everything, self.taken), _PLACES):
            x = point[0] + dx
            y = point[1] + dy
            box = self._enclose(x, y, anchor, words)
            if self._has_room(box, avoided):
                self.taken.append(box)
                return text(x, y, words, anchor=anchor)
        return Markup("")

    def _enclose(self, x: float, y: float, anchor: str, words: str) -> Box:
        width = estimate_width(words)
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
        return left, y - SIZE, left + width, y + 0.35 * SIZE

    def _has_room(self, box: Box, avoided: Iterable[Box]) -> bool:
        left, top, right, bottom = self.bounds
        is_inside = box[0] >= left and box[1] >= top and box[2] <= right and box[3] <= bottom
        return is_inside and not any(is_overlapping(box, other) for other in avoided)


def is_overlapping(first: Box, second: Box) -> bool:
    """Return whether two boxes share more than an edge."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def box_around(centre: Point, radius: float) -> Box:
    """Return the box around a mark."""
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def box_along(start: Point, end: Point) -> Box:
    """Return the box around a horizontal or vertical line."""
    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    return left - 1, top - 1, right + 1, bottom + 1
