"""A page as HTML: one file that needs no other file, and no script."""

from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from advcore.reporting.parts import Page

_FILES = ("page.html", "page.css")


def render(page: Page) -> str:
    """Return a page as HTML. All text is escaped; only the charts, which `svg` makes, are inserted as markup."""
    folder = files("advcore.reporting") / "templates"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in _FILES}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(page=page, style=Markup(texts["page.css"]))
