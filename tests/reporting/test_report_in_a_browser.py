"""Pages as a real browser shows them: on a telephone and a wide screen, light, dark and printed."""

import os
from pathlib import Path

import browser
import pytest
from test_report import HOSTILE, SHOWN, attacked, epoch, final, record, seeded, selection

from advcore.reporting.compare import BrokenRun, Run
from advcore.reporting.page import render
from advcore.reporting.parts import Example, Note
from advcore.reporting.record import RunRecord
from advcore.reporting.run_page import RunFiles, build_run_page
from advcore.reporting.runs_page import build_runs_page
from advcore.reporting.suite import Results, build_tables
from advcore.reporting.suite_page import build_suite_page

pytestmark = pytest.mark.browser
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
LONG = "a_name_that_is_very_long_and_has_no_place_to_break_" * 3


def full() -> str:
    shown = [Example([("as it is", PIXEL), ("attacked", PIXEL), ("perturbation", PIXEL)], SHOWN[0].lines)] * 9
    many = [
        selection(i, 0.05 + 0.01 * i, 0.6) | {"gradient_error_full": 0.3, "target_error": 0.2} for i in range(2, 14)
    ]
    weights = {i: [0.1 * j * i for j in range(200)] for i in range(2, 14)}
    attacks = [attacked(0.7), attacked(0.65) | {"steps": 100}, attacked(0.4, "l2_pgd") | {"norm": "l2", "eps": 0.5}]
    found = final(0.9, 0.7, "masked: 20 % of the images have no input gradient") | {"attacks": attacks}
    found["worst"] = attacks[2]
    one = record(
        final={"last": found, "best": final(0.91, 0.71)},
        epochs=[
            epoch(i, minibatch={"entropy": 0.9 - 0.01 * i, "picked": 300}, attack_steps=1 + i // 4) for i in range(14)
        ],
        selections=many,
        data={"train": 1000, "class_counts": [10] * 100},
        events=[{"epoch": 3, "event": f"catastrophic overfitting in {LONG}"}] * 3,
    )
    return render(
        build_run_page(
            one, RunFiles(weights=weights, galleries=[("Highest weights", shown), ("Lowest weights", shown)])
        )
    )


def hostile() -> str:
    odd = record(name=LONG, plan=LONG + HOSTILE, events=[{"epoch": HOSTILE, "event": LONG}], inputs={LONG: LONG})
    return render(build_run_page(odd, RunFiles(no_weights={2: LONG, 4: LONG}, about_images=[Note(LONG, "missing")])))


def unfinished() -> str:
    return render(build_run_page(record(finished=False, final={}, epochs=[epoch(0)], selections=[]), RunFiles()))


def crowd() -> str:
    """Many methods, most of them at two costs, which is where labels have least room."""
    runs = []
    for i in range(24):
        for s in range(3):
            one = seeded(s, 0.6 + 0.003 * i + 0.004 * s, method=i, minibatch={"name": "margin"} if i % 3 else None)
            one.relative_cost = (0.25, 0.251, 0.5, 1.0)[i % 4]
            runs.append(Run(f"method-{'long-' * (i % 5)}{i}-s{s}", one, "a/report.html"))
    runs += [BrokenRun("bad-s0", f"{LONG} is not JSON"), Run(f"{LONG}-s0", seeded(0, 0.7, method="x"))]
    return render(build_runs_page("a study", [*runs, Run("open-s1", record(finished=False, final={}, epochs=[]))]))


def suite() -> str:
    """A table with rows of every kind, and names too long for it."""
    found = Results(reference="full")
    for i, name in enumerate(["full", "GradMatch", LONG]):
        found.add(name, 0, seeded(0, 0.6 + 0.01 * i))
        found.add(name, 1, None, error=LONG if i else None)
    return render(build_suite_page(LONG, build_tables(found, LONG), found))


def committed(suite: str, root: Path) -> str:
    files = sorted((root / "benchmarks/records" / suite).glob("*.json"))
    return render(build_runs_page(suite, [Run(path.stem, RunRecord.load(path)) for path in files]))


PAGES = {"full": full, "hostile": hostile, "unfinished": unfinished, "crowd": crowd, "suite": suite}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as own:
        yield own


@pytest.fixture(scope="module")
def pages(tmp_path_factory, root) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    texts = {name: make() for name, make in PAGES.items()}
    texts |= {suite: committed(suite, root) for suite in ("savings", "digits")}
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


def kept(name: str, tmp_path: Path) -> Path:
    """Where a screenshot goes: the folder that ADVCORE_SCREENSHOTS names, to be looked at."""
    return Path(os.environ.get("ADVCORE_SCREENSHOTS", tmp_path)) / f"{name}.png"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("name", [*PAGES, "savings", "digits"])
def test_a_page_can_be_read(driver, pages, tmp_path, name, width, scheme):
    """Nothing overflows, labels stand apart, text has contrast and size, nothing is asked of a network."""
    browser.opened(driver, pages[name], width, scheme)
    driver.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.problems(driver) == []
    assert browser.requests(driver) == []
    path = kept(f"{name}-{width}-{scheme}", tmp_path)
    browser.screenshot(driver, path)
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert dark == {"light": "rgb(243, 245, 248)", "dark": "rgb(15, 18, 22)"}[scheme]
    assert path.stat().st_size > 10_000


SCREENS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]
_BOXES = """
const boxes = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const isShown = e => e.checkVisibility() && e.getClientRects().length;
return [...document.querySelectorAll(arguments[0])].filter(isShown).map(boxes);
"""


def boxes(driver, selector: str) -> list[list[float]]:
    """Left, top, right and bottom of every visible element."""
    return driver.execute_script(_BOXES, selector)


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_summary_comes_first_with_its_picture_beside_or_below_it(driver, pages, width, scheme):
    browser.opened(driver, pages["full"], width, scheme)
    ((summary,), (sentences,), (picture,)) = (boxes(driver, f".summary{of}") for of in ("", " .sentences", " svg"))
    assert summary[3] <= min(top for _, top, *_ in boxes(driver, "section, .key"))
    if width == 1280:
        assert picture[0] >= sentences[2] and picture[1] < sentences[3] and picture[2] - picture[0] > 400
    else:
        assert picture[1] >= sentences[3] and picture[2] - picture[0] > 300
    assert summary[0] <= picture[0] and picture[2] <= summary[2] and summary[2] <= width


_TABLES = """
return [...document.querySelectorAll(".scroll:has(table)")].filter(e => e.clientWidth).map(e => {
  const hint = e.querySelector(".hint"), box = hint.getBoundingClientRect();
  return [e.scrollWidth > e.clientWidth + 1, box.width > 150 && box.height > 15, box.width > 1,
          box.right <= innerWidth && hint.innerText];
});
"""


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("name", ["full", "suite", "digits"])
def test_a_table_that_scrolls_says_so_and_no_other_does(driver, pages, name, width, scheme):
    browser.opened(driver, pages[name], width, scheme)
    driver.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    seen = driver.execute_script(_TABLES)
    assert seen and all(scrolls == visible == sized for scrolls, visible, sized, _ in seen), seen
    assert {words for scrolls, *_, words in seen if scrolls} <= {"Scroll sideways for more columns →"}
    assert any(scrolls for scrolls, *_ in seen) or width == 1280
    assert not all(scrolls for scrolls, *_ in seen) or name != "full"


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_hashes_and_settings_are_closed_until_they_are_asked_for(driver, pages, width, scheme):
    browser.opened(driver, pages["full"], width, scheme)
    assert driver.execute_script("return document.querySelectorAll('details').length") >= 5
    assert driver.execute_script("return document.querySelectorAll('details[open]').length") == 0
    visible = driver.execute_script("return document.body.innerText")
    assert "budget: 0.5" not in visible and "abc123" not in visible and "All settings of the run" in visible
    driver.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    visible = driver.execute_script("return document.body.innerText")
    assert "budget: 0.5" in visible and "abc123" in visible
    assert browser.problems(driver) == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_images_are_large_and_their_perturbation_is_beside_them(driver, pages, width, scheme):
    browser.opened(driver, pages["full"], width, scheme)
    shown = boxes(driver, "#images img")
    assert len(shown) == 2 * 3 * 3  # three examples of the highest and of the lowest weights; the others are folded
    for image, attacked_image, perturbation in zip(shown[::3], shown[1::3], shown[2::3], strict=True):
        assert image[2] - image[0] >= (98 if width < 600 else 150)
        assert image[2] <= attacked_image[0] and attacked_image[2] <= perturbation[0]
        assert image[1] == attacked_image[1] == perturbation[1] and perturbation[2] <= width


@pytest.mark.parametrize(("name", "selector", "least"), [
    ("full", "main .figures:not(.small) svg", 0.4), ("digits", "#front-0 svg", 0.9), ("suite", "#front-0 svg", 0.9),
])  # fmt: skip
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_charts_use_the_width(driver, pages, name, selector, least, width, scheme):
    browser.opened(driver, pages[name], width, scheme)
    left, _, right, _ = boxes(driver, "main section")[0]
    charts = boxes(driver, selector)
    assert charts and {"narrow", "wide"} == {*driver.execute_script(_CLASSES, selector)}
    share = 0.85 if width == 390 else least
    assert all(end - start >= share * (right - left) for start, _, end, _ in charts)


_CLASSES = "return [...document.querySelectorAll(arguments[0])].map(e => e.parentElement.className)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_printed_page_is_dark_on_white_and_holds_the_settings(driver, pages, tmp_path, scheme):
    browser.opened(driver, pages["full"], 700, scheme, print_=True)
    assert driver.execute_script("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert [one for one in browser.problems(driver) if not one.startswith(("overflow", "clipped"))] == []
    height = driver.execute_script("return document.querySelector('details pre').getBoundingClientRect().height")
    assert height > 50
    browser.screenshot(driver, kept(f"full-print-{scheme}", tmp_path))


PLANTED = {
    "overflow": "<div style='width: 2000px'>x</div>",
    "clipped": "<div style='width: 50px; overflow: hidden; white-space: nowrap'>words that do not fit here</div>",
    "overlap": "<svg viewBox='0 0 99 40'><text x='5' y='20'>one</text><text x='9' y='22'>two</text></svg>",
    "cut": "<svg viewBox='0 0 340 40' aria-label='x'><text x='330' y='20'>beyond the edge</text></svg>",
    "contrast": "<p style='color: #999'>grey on the page</p>",
    "small": "<p style='font-size: 8px'>too small</p>",
    "an image without": f"<img src='{PIXEL}'>",
    "an image that is none": "<img src='data:,' alt='x'>",
    "a picture without": "<svg viewBox='0 0 10 10'></svg>",
    "a table without": "<table><tr><td>1</td></tr></table>",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(driver, pages, tmp_path, planted):
    text = pages["unfinished"].read_text(encoding="utf-8").replace("</main>", f"{PLANTED[planted]}</main>")
    (tmp_path / "planted.html").write_text(text, encoding="utf-8")
    browser.opened(driver, tmp_path / "planted.html", 380, "light")
    assert any(one.startswith(planted) for one in browser.problems(driver)), browser.problems(driver)


def test_a_request_is_noticed(driver, tmp_path):
    plain = tmp_path / "plain.html"
    plain.write_text(f"<img src='{(tmp_path / 'other.png').as_uri()}'>")
    browser.opened(driver, plain, 380, "light")
    assert len(browser.requests(driver)) == 1
