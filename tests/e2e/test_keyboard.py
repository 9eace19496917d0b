"""The page without a mouse: the Tab key reaches what can be pressed, it shows where it is, and everything has a name."""

import pytest
from playwright.sync_api import expect, sync_playwright
from serving import CHROMIUM, CHROMIUM_FLAGS, served

from lab import example
from lab.config import STAGES
from lab.run import LOCAL_OWNER

SLOW = 60_000
"""Milliseconds that a busy machine may take for a page."""
PRESSABLE = "button, input, textarea, select, summary, a[href], [role=button], [role=tab]"
NAMELESS = """
pressable => [...document.querySelectorAll(pressable)].filter(e => e.checkVisibility({visibilityProperty: true}) && e.type !== "file").filter(e => {
  const name = e.getAttribute("aria-label") || e.getAttribute("title") || [...(e.labels || [])].map(l => l.innerText).join("")
    || document.getElementById(e.getAttribute("aria-labelledby"))?.innerText || e.innerText || e.querySelector("[aria-label], [title]") || "";
  return name === "" || typeof name === "string" && !name.trim();
}).map(e => e.outerHTML.slice(0, 160))
"""
HERE = """
() => {
  const e = document.activeElement, ring = (x, pseudo) => getComputedStyle(x, pseudo);
  const marked = x => x && (ring(x).outlineStyle !== "none" && parseFloat(ring(x).outlineWidth) > 0 || ring(x).boxShadow !== "none");
  return {
    name: e.id || e.closest("[id]")?.id || "", go: e.dataset.go || "", text: e.outerHTML.slice(0, 120),
    seen: [e, e.parentElement, e.closest("label"), e.closest(".wrap, .wrap-inner")].some(marked),
  };
}
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The shipped example in an English browser."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    run = example.take(LOCAL_OWNER, "example")
    with served(tmp_path) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        made = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 900}).new_page()
        made.set_default_timeout(SLOW)
        expect.set_options(timeout=SLOW)
        made.goto(f"{url}/?run={run.id}")
        expect(made.locator("#checklist")).to_contain_text("8")
        yield made
        browser.close()


def test_everything_has_a_name_and_the_tab_key_reaches_it_visibly(page):
    reached = []
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement !== document.body") and len(reached) < 80:
        reached.append(page.evaluate(HERE))
        page.keyboard.press("Tab")
    names = {at["name"] for at in reached}
    wanted = {
        "language",
        "run",
        "whole-pairs",
        "whole",
        "new-run",
        "manage",
        "checklist",
        "tab-generate-button",
    }
    assert wanted - names == set()
    assert [stage for stage in STAGES if stage not in {at["go"] for at in reached}] == []
    assert [at["text"] for at in reached if not at["seen"]] == []
    for tab in (*STAGES, "chat"):
        page.locator(f"#tab-{tab}-button").focus()
        page.keyboard.press("Enter")
        expect(page.locator(f"#tab-{tab}-button")).to_have_attribute("aria-selected", "true")
        page.wait_for_timeout(500)
        assert page.evaluate(NAMELESS, PRESSABLE) == [], tab
