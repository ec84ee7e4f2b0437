"""A page as HTML: one file that needs no other file, and no script."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from advcore.reporting.parts import Page


def render(page: Page) -> str:
    """Return a page as HTML. All text is escaped; only the charts, which `svg` makes, are inserted as markup."""
    environment = Environment(
        loader=PackageLoader("advcore.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)
