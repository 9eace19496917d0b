"""The chosen language in a real browser: it outlives a reload, nothing flashes in another one, Gradio's parts speak it."""

import pytest
from playwright.sync_api import expect, sync_playwright
from serving import CHROMIUM, CHROMIUM_FLAGS, served
from tiny import tiny_model

from lab.records import write_json
from lab.run import new_run
from lab.ui.texts import GRADIO, TEXTS

ko, en = TEXTS["ko"], TEXTS["en"]
SLOW = 60_000
"""Milliseconds that a busy machine may take for a page or an answer."""
WATCH = """
window.headings = [];
new MutationObserver(() => {
  const text = document.querySelector("h1")?.textContent;
  if (text && text !== window.headings.at(-1)) window.headings.push(text);
}).observe(document, {childList: true, subtree: true, characterData: true});
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page in an English browser."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    run = new_run(title="실험")
    write_json(run.stage_folder("generate") / "config.json", {"teacher": tiny_model(tmp_path / "teacher", seed=1)})
    student = {"student": tiny_model(tmp_path / "student", seed=2)}
    write_json(run.stage_folder("train", "distilled") / "config.json", student)
    with served(tmp_path) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        made = browser.new_context(locale="en-US").new_page()
        made.set_default_timeout(SLOW)
        made.add_init_script(WATCH)
        made.goto(url)
        yield made
        browser.close()


def test_a_choice_outlives_a_reload_without_a_flash_and_gradio_speaks_it(page):
    expect.set_options(timeout=SLOW)
    expect(page.locator("#whole")).to_have_text(en["whole"])
    page.locator("#tab-chat-button").click()
    page.locator("#send").click()
    toast = page.locator(".toast-title").first
    expect(toast).to_have_text("Error")
    page.locator("#language").get_by_text("한국어").click()
    expect(page.locator("#whole")).to_have_text(ko["whole"])
    expect(toast).to_have_text(GRADIO["Error"])
    page.reload()
    expect(page.locator("#run input")).not_to_have_value("")
    assert page.evaluate("window.headings") == [ko["title"]]
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    page.locator("#tab-chat-button").click()
    page.locator("#send").click()
    expect(page.locator(".toast-title").first).to_have_text(GRADIO["Error"])
    expect(page.locator(".toast-close").first).to_have_attribute("aria-label", GRADIO["Close"])
    page.locator("#prompt textarea").fill("토끼 하루가 나오는 동화를 써 줘.")
    page.locator("#send").click()
    copy = page.locator("#column-a .bot-row button, #column-a .message-buttons-left button").first
    expect(copy).to_have_attribute("aria-label", GRADIO["Copy message"])
    page.locator("#language").get_by_text("English").click()
    expect(copy).to_have_attribute("aria-label", "Copy message")
