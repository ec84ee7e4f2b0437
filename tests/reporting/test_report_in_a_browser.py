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
    shown = [Example([("example 1", PIXEL), ("attacked", PIXEL), ("perturbation", PIXEL)], SHOWN[0].lines)] * 9
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
    assert browser.binaries(), "no chromium and chromedriver here; apt-get install -y chromium chromium-driver"
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
@pytest.mark.parametrize("width", [320, 380, 768, 1280])
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
