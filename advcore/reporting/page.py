"""A page to HTML: one file that needs no other, and no script to be read."""

from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from advcore.reporting.parts import Page

_FILES = ("page.html", "page.css")


def html(page: Page) -> str:
    """Whatever a record holds is escaped; only pictures, which `svg` made, come as markup."""
    folder = files("advcore.reporting") / "templates"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in _FILES}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(page=page, style=Markup(texts["page.css"]))
