"""Draw the badges of README from setup.cfg: python docs/site/badges.py writes docs/badges/*.svg."""

import configparser
import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "badges"
_CHARACTER = 6.6  # width in pixels of an average one, at 11 pixels in Verdana
_PADDING = 10
_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {value}">
  <title>{label}: {value}</title>
  <clipPath id="r"><rect width="{width}" height="20" rx="3"/></clipPath>
  <g clip-path="url(#r)">
    <rect width="{split}" height="20" fill="#555"/>
    <rect x="{split}" width="{rest}" height="20" fill="#1f6f8b"/>
  </g>
  <g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
    <text x="{label_centre}" y="14">{label}</text>
    <text x="{value_centre}" y="14">{value}</text>
  </g>
</svg>
"""


def read_facts() -> dict[str, str]:
    """Return what each badge says, by its label."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    version = re.search(r'__version__ = "(.+)"', (ROOT / "advcore" / "version.py").read_text())
    assert version, "advcore/version.py must state the version"
    pythons = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.M)
    return {"license": setup["metadata"]["license"], "python": " | ".join(pythons), "version": version[1]}


def draw(label: str, value: str) -> str:
    """Return a badge as SVG."""
    split = round(len(label) * _CHARACTER) + _PADDING
    rest = round(len(value) * _CHARACTER) + _PADDING
    return _SVG.format(
        label=escape(label),
        value=escape(value),
        width=split + rest,
        split=split,
        rest=rest,
        label_centre=split / 2,
        value_centre=split + rest / 2,
    )


def draw_all() -> dict[Path, str]:
    """Return the text of each badge by its path."""
    return {FOLDER / f"{label}.svg": draw(label, value) for label, value in read_facts().items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in draw_all().items():
        path.write_text(text, encoding="utf-8")
