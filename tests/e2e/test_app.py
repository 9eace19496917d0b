"""The whole page in a real browser: both languages, all six tabs, a new run."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from lab.config import STAGES
from lab.ui.texts import TEXTS

ROOT = Path(__file__).resolve().parent.parent.parent
TABS = [*STAGES, "chat"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app on a free port, with an empty home."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "LAB_HOME": str(tmp_path_factory.mktemp("home")), "LAB_OFFLINE": "1", "PORT": str(port)}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=5)
            break
        except OSError:
            assert app.poll() is None, "the app ended"
            time.sleep(0.5)
    yield url
    app.terminate()
    app.wait(10)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of the system (CHROMIUM names another)."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield started
        started.close()


def walk(page: Page, language: str) -> None:
    """Open every tab and see its explanation and its button."""
    words = TEXTS[language]
    for name in TABS:
        page.get_by_role("tab", name=words[name], exact=True).click()
        expect(page.get_by_text(words[f"about_{name}"])).to_be_visible()
        button = words["send"] if name == "chat" else words[f"start_{name}"]
        expect(page.get_by_role("button", name=button, exact=True)).to_be_visible()


def test_a_newcomer_makes_a_run_and_walks_all_tabs_in_both_languages(address, browser):
    page = browser.new_context(locale="ko-KR", viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address)
    ko, en = TEXTS["ko"], TEXTS["en"]
    expect(page.get_by_text(ko["welcome_next"])).to_be_visible(timeout=20_000)
    page.locator("#whole").click()
    expect(page.get_by_text(ko["no_run"]).first).to_be_visible()
    page.locator("#new").click()
    expect(page.get_by_text(ko["empty_generate"])).to_be_visible()
    expect(page.get_by_text(ko["welcome_next"])).to_be_hidden()
    walk(page, "ko")
    page.locator("#language").get_by_text("English").click()
    expect(page.get_by_role("heading", name=en["title"])).to_be_visible()
    walk(page, "en")
    page.get_by_role("tab", name=en["filter"], exact=True).click()
    expect(page.get_by_text(en["empty_filter"])).to_be_visible()
    page.reload()
    expect(page.get_by_text(ko["empty_generate"])).to_be_visible()


def test_an_english_browser_on_a_phone_gets_english_without_sideways_scrolling(address, browser):
    page = browser.new_context(locale="en-US", viewport={"width": 390, "height": 844}).new_page()
    page.goto(address)
    expect(page.get_by_role("heading", name=TEXTS["en"]["title"])).to_be_visible(timeout=20_000)
    walk(page, "en")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
