"""The Generate tab in a real browser: look before the leap, bring one's own pairs, take the run's pairs away."""

import json
import re

import pytest
from playwright.sync_api import expect, sync_playwright
from serving import CHROMIUM, CHROMIUM_FLAGS, served
from tiny import tiny_model

from lab import domain
from lab.records import Pair, append_rows, write_json
from lab.run import new_run
from lab.ui.texts import TEXTS

en = TEXTS["en"]
SLOW = 120_000
"""Milliseconds that a busy machine may take until a worker has opened its model and written."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The folder of runs that the app reads."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def page(shelf, monkeypatch):
    """An English page of an app on these runs."""
    monkeypatch.setenv("LAB_HOME", str(shelf))
    with served(shelf) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        made = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 900}).new_page()
        made.address = url
        yield made
        browser.close()


def test_a_preview_in_the_app_shows_five_stories_and_the_bill(page, tmp_path):
    run = new_run("mini")
    config = {"teacher": tiny_model(tmp_path / "teacher"), "pairs": 40, "max_new_tokens": 16}
    write_json(run.stage_folder("generate") / "config.json", config)
    page.goto(f"{page.address}/?run={run.id}")
    # The form must have read the run before a button takes what it says.
    page.get_by_role("button", name=en["settings"]).first.click(timeout=SLOW)
    teacher = page.get_by_role("textbox", name=re.compile("^Teacher"))
    expect(teacher).to_have_value(config["teacher"], timeout=SLOW)
    page.locator("#start-preview").click()
    look = page.locator("#look")
    expect(look.locator(".story")).to_have_count(5, timeout=SLOW)
    expect(look.get_by_text("$200", exact=True)).to_be_visible()
    expect(look.get_by_text(en["estimate_minutes"])).to_be_visible()
    assert not run.pairs_file.exists()


def test_own_pairs_come_in_line_by_line_and_leave_as_files(page, tmp_path):
    run = new_run("mini")
    page.goto(f"{page.address}/?run={run.id}")
    # The page speaks English before it has chosen the run.
    expect(page.locator("#run input")).to_have_value(re.compile(run.id), timeout=SLOW)
    own = page.locator("#own")
    own.get_by_text(en["own_section"]).click(timeout=SLOW)
    story = domain.reference_stories()[0]
    bad, good = tmp_path / "bad.jsonl", tmp_path / "good.jsonl"
    bad.write_text(json.dumps(story, ensure_ascii=False) + '\n{"instruction": "a"}\n', "utf-8")
    good.write_text(json.dumps(story, ensure_ascii=False) + "\n", "utf-8")
    own.locator("input[type=file]").first.set_input_files(bad)
    expect(own.get_by_text("output is missing")).to_be_visible(timeout=SLOW)
    assert not run.pairs_file.exists()
    own.locator("input[type=file]").first.set_input_files(good)
    expect(own.get_by_text(en["imported"].format(n=1))).to_be_visible(timeout=SLOW)
    expect(page.locator(".story").get_by_text(story["output"][:20])).to_be_visible(timeout=SLOW)
    page.locator("#download").click()
    expect(own.get_by_text(f"{run.id}-pairs", exact=False).first).to_be_visible(timeout=SLOW)


def test_cards_charts_and_the_command_line(page):
    run = new_run("mini")
    rows = [
        Pair(str(i), f"부탁 {i}", "토토는 당근을 먹었어요. " * 12, "토끼 토토", ("당근", "비")).row() for i in range(14)
    ]
    append_rows(run.pairs_file, rows)
    page.goto(f"{page.address}/?run={run.id}")
    expect(page.locator(".story")).to_have_count(12, timeout=SLOW)
    expect(page.locator(".story mark.word").first).to_have_text("당근")
    expect(page.get_by_text(en["length_chart"])).to_be_visible(timeout=SLOW)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
