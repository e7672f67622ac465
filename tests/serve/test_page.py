"""The page in a real browser: images in, classes out, whatever they are called."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from PIL import Image

import jtl
from jtl.predict.ensemble import load_all
from jtl.serve import server
from jtl.serve.app import Service
from jtl.serve.examples import Examples
from jtl.serve.model import ServedModel
from jtl.train.fit import fit
from support import browser, tiny

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(browser.program() is None, reason="Chromium is not installed"),
]
EVIL = ("<img src=x onerror=alert(1)>", '=HYPERLINK("x")', "[x](javascript:1)")
SHOWN = "[...document.querySelectorAll('.card')].map(c => c.querySelector('.verdict').textContent)"


@contextlib.contextmanager
def listening(service: Service) -> Iterator[str]:
    """A server in a thread; its address."""
    with server.bound("127.0.0.1", 0) as socket:
        config = uvicorn.Config(service.app, log_config=None, ws="none", lifespan="on")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield server.address(socket)
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def evil_data(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes whose names would do harm as markup, in a page, a table or Markdown."""
    root = tmp_path_factory.mktemp("evil")
    tiny.write_weights(root / "weights")
    tiny.write_folder(root / "images")
    names = dict(zip(tiny.CLASSES, EVIL, strict=True))
    for split in ("train", "val"):
        for name, evil in names.items():
            (root / "images" / split / name).rename(root / "images" / split / evil)
    return root / "images"


@pytest.fixture(scope="module")
def page(evil_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    run = fit(tiny.config(evil_data, evil_data.parent / "run", epochs=8), tiny.quiet())
    model = ServedModel(load_all(run.folder), "<b>mine</b>", max_batch=2, abstain=0.4)
    service = Service(model, examples=Examples(model.first))
    profile = tmp_path_factory.mktemp("profile")
    with listening(service) as address, browser.browser(profile) as found:
        found.address = address  # type: ignore[attr-defined]
        found.run = run  # type: ignore[attr-defined]
        yield found


def opened(page: browser.Browser, **how: bool) -> None:
    page.events.clear()
    page.show(390 if how.get("phone") else 1280, 800, **how)
    page.open(page.address)  # type: ignore[attr-defined]
    page.wait("!document.getElementById('examples').hidden")


def test_images_that_are_dropped_get_their_classes(page, evil_data, tmp_path):
    opened(page)
    files = sorted((evil_data / "val").rglob("*.png"))
    named = tmp_path / "<img src=x onerror=alert(2)>.png"
    named.write_bytes(files[0].read_bytes())
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    page.drop(640, 250, named, files[4], files[8], text)
    page.wait("document.querySelectorAll('.bars:not([hidden])').length === 3")
    page.wait("document.querySelectorAll('.verdict.bad').length === 1")
    said = jtl.load(page.run).predict([named, files[4], files[8]])
    expected = [one.label if one.probability >= 0.4 else "Not sure" for one in said]
    shown = page.evaluate(SHOWN)
    assert shown[:3] == expected
    assert len(set(said.labels)) > 1
    assert shown[3].startswith("Not an image")
    assert page.evaluate("document.querySelector('.file').textContent") == named.name
    assert page.evaluate("document.title") == "<b>mine</b> · jtl"
    # Nothing became markup, and nothing was asked for elsewhere or forbidden by the policy.
    assert page.evaluate("document.querySelectorAll('img[onerror], img[src=x], h1 b').length") == 0
    own = [url for url in page.requested() if not url.startswith(("blob:", "data:"))]
    assert own
    assert all(url.startswith(page.address + "/") for url in own)
    assert [one for one in page.complaints() if "422" not in one] == []
    # What a screen reader says, by and by.
    assert page.evaluate("document.getElementById('status').getAttribute('aria-live')") == "polite"
    assert ": " in page.evaluate("document.getElementById('status').textContent")
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.width == 1280


def test_explanations_examples_and_keys(page):
    opened(page, dark=True)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.evaluate("document.querySelector('#example-list button').focus()")
    page.press("Enter", 13, text="\r")
    page.wait("document.querySelectorAll('.bars:not([hidden])').length === 1")
    detail = page.evaluate("document.querySelector('.detail').textContent")
    assert detail.endswith(f"Labelled {sorted(EVIL)[0]}.")
    before = page.evaluate("document.querySelector('.card img').src")
    page.evaluate("document.querySelector('.why').focus()")
    page.press("Enter", 13, text="\r")
    page.wait("document.querySelector('.why').getAttribute('aria-pressed') === 'true'")
    page.wait("document.querySelector('.card img').naturalWidth === 384")
    assert page.evaluate("document.querySelector('.card img').src") != before
    assert page.evaluate("document.activeElement.className") == "small why"
    # Every image and control has a name.
    assert page.evaluate("[...document.querySelectorAll('.card img, li button img')]"
                         ".every(i => i.alt)")  # fmt: skip
    page.press("Tab", 9)
    assert page.evaluate("document.activeElement.className") == "small remove"
    page.press("Enter", 13, text="\r")
    page.wait("document.getElementById('results').hidden")
    assert page.evaluate("document.activeElement.id") == "choose"
    opened(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_on_a_phone_there_is_a_camera_and_nothing_is_too_wide(page):
    opened(page)
    assert page.evaluate("getComputedStyle(document.querySelector('.camera')).display") == "none"
    opened(page, phone=True)
    assert page.evaluate("getComputedStyle(document.querySelector('.camera')).display") == "block"
    assert page.evaluate("document.getElementById('camera').getAttribute('capture')")
    page.evaluate("document.querySelector('#example-list button').click()")
    page.wait("document.querySelectorAll('.bars:not([hidden])').length === 1")
    time.sleep(0.1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
