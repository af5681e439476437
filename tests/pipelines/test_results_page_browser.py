"""The page of results in a real browser without network: it is all there, and fits a screen and a telephone."""

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from chromium import Chromium, find_chromium
from made_page import SENTENCE, STRANGE, write_page
from PIL import Image

DECODED = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth, () => 0)))"
SECTIONS = ["facts", "metrics", "chosen", "roc", "precision-recall", "calibration", "differences", "cases"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium found; install chromium to see the page of results in a browser")
    folder = tmp_path_factory.mktemp("browser")
    write_page(folder / "page.html")
    browser = Chromium(path, folder / "profile", timeout=120)
    try:
        browser.ask("Page.enable")
        browser.ask("Network.enable")
        browser.ask(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        browser.ask("Page.navigate", {"url": (folder / "page.html").as_uri()})
        browser.evaluate("new Promise(r => document.readyState == 'complete' ? r() : addEventListener('load', r))")
        yield browser
    finally:
        browser.close()


def resize(browser: Chromium, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.ask("Emulation.setDeviceMetricsOverride", metrics)


def test_all_sections_and_names_are_shown(browser: Chromium) -> None:
    assert browser.evaluate("[...document.querySelectorAll('section')].map(s => s.id)") == SECTIONS
    text = browser.evaluate("document.body.innerText")
    assert STRANGE in text
    assert SENTENCE not in text


def test_every_image_is_decoded(browser: Chromium) -> None:
    widths = browser.evaluate(DECODED)
    assert len(widths) > 5
    assert all(widths)


def test_nothing_but_the_file_is_asked_for_and_nothing_is_complained_of(browser: Chromium) -> None:
    browser.evaluate(DECODED)
    sent = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert sum(url.startswith("file:") for url in sent) == 1
    assert all(url.startswith(("file:", "data:")) for url in sent)
    assert not [event for event in browser.events if event.get("method") == "Network.loadingFailed"]


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_no_wider_than_the_window(width: int, browser: Chromium) -> None:
    resize(browser, width)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_wide_tables_scroll_in_a_box_of_their_own(browser: Chromium) -> None:
    resize(browser, 400)
    boxes = "[...document.querySelectorAll('.scroll')].map(b => [b.clientWidth, b.scrollWidth])"
    assert any(inside > shown for shown, inside in browser.evaluate(boxes))


@pytest.mark.parametrize("section", ["roc", "precision-recall", "calibration"])
def test_figures_are_not_blank(section: str, browser: Chromium) -> None:
    resize(browser, 1280)
    box = browser.evaluate(
        f"(() => {{ let b = document.querySelector('#{section} img').getBoundingClientRect(); "
        "return [b.x + scrollX, b.y + scrollY, b.width, b.height] })()"
    )
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
    shot = browser.ask("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"), int)
    blue = (pixels[..., 2] - pixels[..., 0] > 100) & (pixels[..., 0] < 50)
    assert blue.sum() > 100, "the lines are there"
