"""What a real browser makes of a page: chromium and chromedriver, from the distribution, driven by selenium."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def binaries() -> tuple[str, str] | None:
    """The browser and its driver; None where one is not there."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    return (found, driver) if found and driver else None


FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@contextmanager
def browser(profile: Path) -> Iterator:
    """A browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert binaries(), "no chromium and chromedriver here; apt-get install -y chromium chromium-driver"
    binary, driver = binaries()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    own = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    own.get("about:blank")
    try:
        yield own
    finally:
        own.quit()


def opened(driver, page: Path, width: int, scheme: str, *, print_: bool = False) -> None:
    """The page as a screen of that width shows it, light or dark."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    media = {"media": "print" if print_ else "screen", "features": [feature]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get_log("performance")
    driver.get(page.resolve().as_uri())


def requests(driver) -> list[str]:
    """Addresses that were asked for since the page was opened, but the page's own and data in it."""
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith("data:") and url != driver.current_url]


def screenshot(driver, path: Path, whole: bool = True) -> None:
    """Of the whole page."""
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(taken["data"]))


def problems(driver) -> list[str]:
    """What a reader would stumble over, one line each."""
    return driver.execute_script(_LOOK)


_LOOK = r"""
const found = [];
const words = e => (e.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60);
const seen = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility === "visible";
const page = document.scrollingElement;
if (page.scrollWidth > innerWidth)
  found.push(`overflow: the page is ${page.scrollWidth} wide, the window ${innerWidth}`);

// nothing beyond the window, or beyond a box that clips or scrolls, but in what is declared to scroll
for (const e of document.body.querySelectorAll("*")) {
  if (!seen(e) || e.closest("svg") && e.tagName !== "svg") continue;
  const box = e.getBoundingClientRect();
  if (!e.closest(".scroll") && (box.right > innerWidth + 1 || box.left < -1))
    found.push(`overflow: <${e.tagName}> ${words(e)} reaches ${box.left.toFixed()}..${box.right.toFixed()}`);
  if (!e.classList.contains("scroll") && !e.closest("svg") && e.scrollWidth > e.clientWidth + 1 &&
      getComputedStyle(e).display !== "inline" && e.clientWidth > 0 && !e.querySelector(".scroll"))
    found.push(`clipped: <${e.tagName}> ${words(e)} needs ${e.scrollWidth}, has ${e.clientWidth}`);
}

// labels of a picture lie in it, and not on each other
for (const svg of document.querySelectorAll("svg")) {
  if (!seen(svg)) continue;
  const whole = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].filter(t => words(t)).map(t => [t, t.getBoundingClientRect()]);
  for (const [t, b] of texts)
    if (b.left < whole.left - 1 || b.right > whole.right + 1 || b.top < whole.top - 1 || b.bottom > whole.bottom + 1)
      found.push(`cut: "${words(t)}" leaves its picture`);
  texts.forEach(([t, a], i) => texts.slice(i + 1).forEach(([u, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 3) found.push(`overlap: "${words(t)}" and "${words(u)}"`);
  }));
}

// contrast of text against what is behind it (WCAG 2, 1.4.3)
const rgb = c => c.match(/[\d.]+/g).map(Number);
const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = c.map(linear); return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                      if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
for (const e of document.body.querySelectorAll("*")) {
  if (!seen(e) || e.tagName === "title" || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const style = getComputedStyle(e), own = rgb(e.tagName === "text" ? style.fill : style.color), back = behind(e);
  const [a, b] = [light(own.slice(0, 3)), light(back.slice(0, 3))].sort((x, y) => y - x);
  const contrast = (a + .05) / (b + .05);
  if (contrast < 4.5) found.push(`contrast: ${contrast.toFixed(2)} of <${e.tagName}> ${words(e)}`);
  const size = parseFloat(style.fontSize) * (e.tagName === "text" ? e.getScreenCTM().a : 1);
  if (size < 10) found.push(`small: ${size.toFixed(1)} px of <${e.tagName}> ${words(e)}`);
}

// what cannot be seen is told
for (const e of document.querySelectorAll("img")) {
  if (!e.alt) found.push("an image without an alternative text");
  if (!e.naturalWidth) found.push(`an image that is none: ${e.alt}`);
}
for (const e of document.querySelectorAll("svg"))
  if (!e.getAttribute("aria-label")) found.push("a picture without a label");
for (const e of document.querySelectorAll("table"))
  if (!e.querySelector("th[scope]")) found.push("a table without headers");
return [...new Set(found)];
"""
