"""The documentation site as a real browser shows it: README, landing page and gallery, on a phone and a wide screen.

`make docs` builds the site that is tested; `make browser` calls it first.
"""

import os
from pathlib import Path

import browser
import pytest

pytestmark = pytest.mark.browser
PAGES = {
    "readme": "README.html",
    "landing": "index.html",
    "gallery": "docs/gallery/index.html",
    "gallery_example": "docs/gallery/craig.html",
    "tutorial": "docs/tutorial.html",
}
THEME = ("clipped:", "overflow: <", "a picture without a label", "a table without headers")
"""Findings about the theme's own parts: its sidebar waits beside a phone's screen, and code scrolls in its box."""
PICTURES = "return [...document.querySelectorAll('article picture img')].map(e => e.currentSrc)"
WIDTHS = "return [...document.querySelectorAll('article img')].map(e => [e.alt, e.getBoundingClientRect().width])"
FIRST_SCREEN = """
const inFirstScreen = e => e && e.getBoundingClientRect().top < innerHeight;
return [inFirstScreen(document.querySelector("article h1")), inFirstScreen(document.querySelector("article pre"))];
"""


@pytest.fixture(scope="module")
def site(root) -> Path:
    folder = root / "build/docs/site"
    assert (folder / "index.html").exists(), "the site is not built: make docs"
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_site_can_be_read(driver, site, tmp_path, name, width, scheme):
    """Nothing is wider than the screen, text has contrast, images appear, and nothing comes from a network."""
    browser.opened(driver, site / PAGES[name], width, scheme)
    problems = [problem for problem in browser.problems(driver) if not problem.startswith(THEME)]
    assert problems == []
    assert [url for url in browser.requests(driver) if not url.startswith("file:")] == []
    assert all(f"-{scheme}." in source for source in driver.execute_script(PICTURES))
    folder = Path(os.environ.get("ADVCORE_SCREENSHOTS", tmp_path))
    browser.screenshot(driver, folder / f"site-{name}-{width}-{scheme}.png")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["readme", "landing"])
def test_the_first_screen_names_the_product_and_a_command(driver, site, name, width):
    browser.opened(driver, site / PAGES[name], width, "light")
    assert driver.execute_script(FIRST_SCREEN) == [True, True]


def test_pictures_of_the_gallery_use_the_width_of_a_phone(driver, site):
    browser.opened(driver, site / PAGES["gallery"], 390, "light")
    widths = dict(driver.execute_script(WIDTHS))
    assert len(widths) == 8
    assert min(widths.values()) > 200, widths
