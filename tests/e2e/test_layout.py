"""What stands where, measured in a real browser: nothing moves while stories grow, and a phone shows what matters."""

import json

import pytest
from playwright.sync_api import expect, sync_playwright
from serving import CHROMIUM, CHROMIUM_FLAGS, served
from tiny import tiny_model

from lab import example
from lab.records import write_json
from lab.run import LOCAL_OWNER, new_run
from lab.ui.texts import TEXTS

ko = TEXTS["ko"]
SLOW = 120_000
"""Milliseconds that a busy machine may take until two small models have told their stories."""
PLACES = ("#chat-line", "#column-a", "#column-b", "#note-a", "#note-b", "#prompt", "#send", "#ready")
LETTERS = """
[...document.querySelectorAll(".card :is(th, td)")].filter(cell => {
  const [first] = cell.textContent.trim().split(/\\s/), text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
  if (!first || first.length > 12 || !text?.data.startsWith(first) || !cell.checkVisibility()) return false;
  const word = document.createRange();
  word.setStart(text, 0);
  word.setEnd(text, first.length);
  return word.getClientRects().length > 1;
}).map(cell => cell.textContent)
"""
"""Cells whose first word, a short one, stands in more than one line."""
WATCH = """
places => {
  window.seen = [];
  const look = () => {
    const now = JSON.stringify(places.map(place => {
      const box = document.querySelector(place).getBoundingClientRect();
      return [place, Math.round(box.top + scrollY), Math.round(box.height)];
    }));
    if (now !== seen.at(-1)) seen.push(now);
    requestAnimationFrame(look);
  };
  look();
}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """An app, and its folder of runs."""
    home = tmp_path_factory.mktemp("home")
    with served(home) as url:
        yield url, home


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("blind", [False, True])
def test_nothing_moves_before_during_and_after_a_conversation(address, tmp_path, monkeypatch, width, blind):
    url, home = address
    monkeypatch.setenv("LAB_HOME", str(home))
    run = new_run(title="대화")
    write_json(run.stage_folder("generate") / "config.json", {"teacher": tiny_model(tmp_path / "teacher", seed=1)})
    write_json(
        run.stage_folder("train", "distilled") / "config.json", {"student": tiny_model(tmp_path / "student", seed=2)}
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_context(locale="ko-KR", viewport={"width": width, "height": 900}).new_page()
        page.set_default_timeout(SLOW)
        page.goto(f"{url}/?run={run.id}")
        page.locator("#tab-chat-button").click()
        for who in ("teacher", "base"):
            expect(page.locator("#speakers")).to_contain_text(ko[who], timeout=SLOW)
        if blind:
            page.locator("#blind input").check()
            expect(page.locator("#votes")).to_be_visible()
        page.locator("#prompt textarea").fill("토끼 하루가 나오는 동화를 써 줘.")
        page.evaluate(WATCH, [*PLACES, *(["#votes"] if blind else [])])
        page.locator("#send").click()
        for note in ("#note-a", "#note-b"):  # the filter's verdict stands once the story has ended
            expect(page.locator(note).locator(".chip").first).to_be_visible(timeout=SLOW)
        if blind:
            page.locator("#vote-tie").click()
            expect(page.locator("#note-a .who")).to_be_visible()
        assert page.locator("#column-a .bot").count() == 1
        # The head of a column stands above its stories, also when these were scrolled.
        for column in ("#column-a", "#column-b"):
            head, stories = (page.locator(f"{column} {part}").bounding_box() for part in ("label", ".bubble-wrap"))
            assert head["y"] + head["height"] <= stories["y"]
            assert page.locator(f"{column} .bubble-wrap").evaluate("e => e.scrollHeight >= e.clientHeight")
        seen = [dict((place, box) for place, *box in json.loads(frame)) for frame in page.evaluate("seen")]
        browser.close()
    moved = {place: sorted({tuple(frame[place]) for frame in seen}) for place in seen[0]}
    assert {place: boxes for place, boxes in moved.items() if len(boxes) > 1} == {}


@pytest.mark.parametrize("language", ["ko", "en"])
def test_on_a_phone_the_tabs_stand_in_the_first_look_and_nothing_is_wider_than_the_screen(
    address, monkeypatch, language
):
    url, home = address
    monkeypatch.setenv("LAB_HOME", str(home))
    done, fresh = example.take(LOCAL_OWNER, "끝난 실험"), new_run(title="새 실험")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_context(locale=language, viewport={"width": 390, "height": 844}).new_page()
        page.set_default_timeout(SLOW)
        for run in (done, fresh):
            page.goto(f"{url}/?run={run.id}")
            expect(page.locator("#checklist")).to_contain_text("/8", timeout=SLOW)
            bottoms = [page.locator(place).bounding_box() for place in ("#new-run", "#manage", "#checklist")]
            assert len({round(box["y"]) for box in bottoms}) == 1, "the closed drawers stand in one line"
            for tab in ("generate", "filter", "train", "compare", "publish", "chat"):
                button = page.locator(f"#tab-{tab}-button")
                box = button.bounding_box()
                assert box["y"] + box["height"] < 422, "half the screen is left for what the tab shows"
                button.click()
                page.wait_for_timeout(300)
                assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
            if run is done:
                page.locator("#tab-publish-button").click()
                cell = page.locator(".card table td").nth(1)
                expect(cell).to_be_visible()
                assert page.evaluate(LETTERS) == [], "words of a card's tables are not broken into letters"
        page.locator("#tab-compare-button").click()
        start, empty = (page.locator(f"#tab-compare {part}") for part in ("#start-compare", ".empty:visible"))
        gap = empty.bounding_box()["y"] - start.bounding_box()["y"] - start.bounding_box()["height"]
        assert 0 < gap < 24, "charts that are not there leave no gap"
        assert page.locator("#pack-report:visible").count() == 0
        browser.close()
