"""The whole page in a real browser: both languages, all six tabs, every control of the header, the chat."""

import json
import os
import re
import time

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from serving import CHROMIUM, CHROMIUM_FLAGS, served
from tiny import tiny_model

from lab.config import STAGES
from lab.records import Pair, append_rows, read_json, write_json
from lab.run import new_run, runs
from lab.ui.texts import TEXTS

TABS = [*STAGES, "chat"]
ko, en = TEXTS["ko"], TEXTS["en"]
SLOW = 30_000
"""Milliseconds that a busy machine may take for a page or an answer; assertions retry until then."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The folder of runs that the app reads."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(shelf):
    """The app with these runs."""
    with served(shelf) as url:
        yield url


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two small models, a teacher and a student."""
    folder = tmp_path_factory.mktemp("models")
    return tiny_model(folder / "teacher", seed=1), tiny_model(folder / "student", seed=2)


@pytest.fixture
def home(shelf, monkeypatch):
    """Runs made by the test are the app's."""
    monkeypatch.setenv("LAB_HOME", str(shelf))
    return shelf


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of the system (CHROMIUM names another)."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(address, browser):
    """Open the page as a visitor; ``run`` chooses one."""
    opened = []

    def visit(run: str = "", locale: str = "ko-KR", width: int = 1280) -> Page:
        page = browser.new_context(locale=locale, viewport={"width": width, "height": 900}).new_page()
        opened.append(page)
        page.set_default_timeout(SLOW)
        page.goto(f"{address}/?run={run}")
        title = TEXTS[locale[:2]]["title"]
        expect(page.get_by_role("heading", name=title)).to_be_visible(timeout=SLOW)
        if run:
            expect(page.locator("#run input")).not_to_have_value("", timeout=SLOW)
        return page

    expect.set_options(timeout=SLOW)
    yield visit
    for page in opened:
        page.context.close()


def go(page: Page, tab: str, words: dict) -> None:
    page.get_by_role("tab", name=words[tab], exact=True).click()


def walk(page: Page, language: str) -> None:
    """Open every tab and see its explanation and its button."""
    words = TEXTS[language]
    for name in TABS:
        go(page, name, words)
        expect(page.get_by_text(words[f"about_{name}"])).to_be_visible()
        button = words["send"] if name == "chat" else words[f"start_{name}"]
        expect(page.get_by_role("button", name=button, exact=True)).to_be_visible()


def test_a_newcomer_makes_a_run_and_walks_all_tabs_in_both_languages(visit):
    page = visit()
    expect(page.get_by_text(ko["welcome_1"])).to_be_visible()
    expect(page.locator("#whole")).to_be_hidden()  # nothing to run yet: the welcome is all that asks for attention
    page.locator("#start-generate").click()
    expect(page.get_by_text(ko["no_run"]).first).to_be_visible()
    page.locator("#new-run").get_by_text(ko["new_section"]).click()
    page.locator("#new-title textarea, #new-title input").fill("여우 실험")
    page.locator("#new").click()
    expect(page.locator("#run input")).to_have_value(re.compile("여우 실험"))
    expect(page.get_by_text(ko["welcome_1"])).to_be_hidden()
    walk(page, "ko")
    page.locator("#language").get_by_text("English").click()
    expect(page.get_by_role("heading", name=en["title"])).to_be_visible()
    walk(page, "en")
    go(page, "filter", en)
    expect(page.get_by_text(en["empty_filter"]).first).to_be_visible()
    page.reload()
    expect(page.locator("#run input")).to_have_value(re.compile("여우 실험"))


def test_an_english_browser_on_a_phone_gets_english_without_sideways_scrolling(visit):
    page = visit(locale="en-US", width=390)
    walk(page, "en")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_preset_says_what_it_needs(visit):
    page = visit()
    page.locator("#new-run").get_by_text(ko["new_section"]).click()
    expect(page.locator("#needs")).to_contain_text(ko["needs_mini"])
    page.locator("#preset input").click()
    page.get_by_role("option", name="qwen", exact=True).click()
    expect(page.locator("#needs")).to_contain_text(ko["needs_qwen"])


def test_a_run_is_renamed_duplicated_deleted_and_brought_back(visit, home):
    run = new_run(title="처음 이름")
    page = visit(run.id)
    page.locator("#manage").get_by_text(ko["manage"]).click()
    page.locator("#title textarea, #title input").fill("새 이름")
    page.locator("#rename").click()
    expect(page.locator("#run input")).to_have_value(re.compile("새 이름"))
    assert run.meta()["title"] == "새 이름"
    page.locator("#duplicate").click()
    expect(page.locator("#run input")).to_have_value(re.compile("새 이름 사본"))
    assert sum(r.meta()["title"].startswith("새 이름") for r in runs()) == 2
    page.locator("#delete").click()
    expect(page.locator("#undelete")).to_be_visible()
    assert sum(r.meta()["title"].startswith("새 이름") for r in runs()) == 1
    page.locator("#undelete").click()
    expect(page.locator("#run input")).to_have_value(re.compile("새 이름 사본"))
    assert sum(r.meta()["title"].startswith("새 이름") for r in runs()) == 2


def test_a_run_goes_out_as_a_zip_and_comes_in_again(visit, home, tmp_path):
    run = new_run(title="나들이")
    append_rows(run.pairs_file, [Pair("1", "부탁", "토끼가 나들이를 갔어요.").row()])
    page = visit(run.id)
    page.locator("#manage").get_by_text(ko["manage"]).click()
    page.locator("#pack").click()
    with page.expect_download() as download:
        page.locator("#packed a").first.click()
    download.value.save_as(tmp_path / "나들이.zip")
    page.locator("#manage input[type=file]").set_input_files(tmp_path / "나들이.zip")
    expect(page.get_by_text(ko["made"].format(title="나들이")).first).to_be_visible()
    assert sum(r.meta()["title"] == "나들이" for r in runs()) == 2
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    page.locator("#manage input[type=file]").set_input_files(tmp_path / "bad.zip")
    expect(page.get_by_text("zip 파일을 가져오지 않았습니다").first).to_be_visible()


def test_the_checklist_counts_and_leads_to_the_tab_that_mends(visit, home):
    run = new_run(title="점검")
    page = visit(run.id)
    head = page.locator("#checklist").get_by_text(ko["checklist"])
    expect(head).to_contain_text("8")
    head.click()
    expect(page.locator(".checks li")).to_have_count(8)
    page.locator(".checks li").filter(has_text=ko["check_human_review"]).locator(".go").press("Enter")
    expect(page.get_by_role("tab", name=ko["filter"], exact=True)).to_have_attribute("aria-selected", "true")
    page.locator(".step", has_text=ko["compare"]).click()
    expect(page.get_by_role("tab", name=ko["compare"], exact=True)).to_have_attribute("aria-selected", "true")


def test_a_job_that_was_cut_off_shows_as_such_and_goes_on_with_one_click(visit, home, models, tmp_path):
    run = new_run(title="끊긴 실험")
    write_json(run.stage_folder("generate") / "config.json", {"teacher": models[0], "pairs": 2, "max_new_tokens": 16})
    write_json(run.job_file, {"state": "running", "pid": 2**22 + 1, "stage": "generate", "command": "generate", "argv": ["generate", run.id, "--json"], "done": 1, "total": 2})  # fmt: skip
    page = visit(run.id)
    expect(page.get_by_text(ko["job_died"])).to_be_visible()
    expect(page.locator(".step.is-died")).to_contain_text(ko["generate"])
    expect(page.locator("#run input")).to_have_value(re.compile(ko["short_died"]))
    page.locator("#go-on").click()
    expect(page.get_by_text(ko["job_done"])).to_be_visible(timeout=3 * SLOW)
    expect(page.locator("#run input")).to_have_value(re.compile("●○○○○"))
    assert len(list(run.pairs())) == 2


def test_one_button_starts_the_whole_job_and_another_stops_it(visit, home):
    run = new_run(title="통째로")
    page = visit(run.id)
    page.locator("#whole-pairs input").fill("40")
    page.locator("#whole").click()
    expect(page.locator("#stop")).to_be_visible()
    assert read_json(run.job_file)["argv"][:4] == ["run", run.id, "--pairs", "40"]
    page.locator("#stop").click()
    expect(page.get_by_text(ko["job_stopped"])).to_be_visible(timeout=3 * SLOW)


@pytest.fixture
def talking(home, models):
    """A run whose teacher and student are small models."""
    run = new_run(title="대화")
    write_json(run.stage_folder("generate") / "config.json", {"teacher": models[0]})
    write_json(run.stage_folder("train", "distilled") / "config.json", {"student": models[1]})
    return run


def test_a_blind_conversation_is_sent_with_enter_voted_on_and_counted(visit, talking, models):
    page = visit(talking.id)
    go(page, "chat", ko)
    page.locator("#blind input").check()
    page.get_by_role("button", name=ko["settings"]).locator("visible=true").click()
    page.wait_for_timeout(500)  # Gradio sets a slider once more just after its drawer has opened
    page.locator("#chat-temperature input[type=number]").fill("0.3")
    page.locator("#chat-temperature input[type=number]").press("Tab")
    page.locator("#prompt textarea").fill("토끼 하루가 나오는 동화를 써 줘.")
    page.locator("#prompt textarea").press("Enter")
    expect(page.locator("#prompt textarea")).to_have_value("")
    expect(page.locator("#vote-a")).to_be_enabled(timeout=3 * SLOW)
    expect(page.locator("#vote-c")).to_be_hidden()
    shown = page.locator(".columns").inner_text()
    assert ko["secret"] in shown and models[0] not in shown and models[1] not in shown
    page.locator("#vote-b").click()
    expect(page.locator("#tally")).to_contain_text(ko["tally"])
    expect(page.locator("#note-b")).to_contain_text(ko["your_choice"])
    assert {m for m in models if m in page.locator(".columns").inner_text()} == set(models)
    (row,) = [json.loads(line) for line in talking.votes_file.read_text("utf-8").splitlines()]
    assert row["vote"] == "b" and row["temperature"] == 0.3
    page.locator("#again").click()
    expect(page.get_by_text(ko["nothing_to_repeat"]).first).to_be_visible()
    for choice in ("#vote-tie", "#vote-bad"):
        page.locator("#prompt textarea").fill("여우 초롱이가 나오는 동화를 써 줘.")
        page.locator("#prompt textarea").press("Enter")
        expect(page.locator(choice)).to_be_enabled(timeout=3 * SLOW)
        page.locator(choice).click()
        expect(page.locator(choice)).to_be_disabled()
    rows = [json.loads(line)["vote"] for line in talking.votes_file.read_text("utf-8").splitlines()]
    assert rows == ["b", "tie", "bad"]


def test_dice_ready_requests_telling_again_stopping_and_starting_over(visit, talking):
    page = visit(talking.id)
    go(page, "chat", ko)
    box = page.locator("#prompt textarea")
    page.get_by_role("button", name=ko["settings"]).locator("visible=true").click()
    page.locator("#dice").click()
    expect(box).not_to_have_value("")
    rolled = box.input_value()
    page.locator("#ready button").first.click()
    expect(box).not_to_have_value(rolled)
    page.locator("#send").click()
    answers = page.locator("#column-a .bot")
    expect(answers).to_have_count(1)
    page.locator("#chat-stop").click()
    page.locator("#again").click()
    expect(page.locator("#chat-seed input")).to_have_value("1")
    expect(page.locator("#note-a")).to_contain_text(ko["first_token"].split("{")[0], timeout=3 * SLOW)
    for note in ("#note-a", "#note-b"):  # the filter's verdict stands once the story has ended
        expect(page.locator(note).locator(".chip").first).to_be_visible(timeout=3 * SLOW)
    page.locator("#clear").click()
    expect(answers).to_have_count(0)


def test_choosing_another_run_in_mid_story_leaves_the_conversation(visit, talking):
    other = new_run(title="다른 실험")
    page = visit(talking.id)
    go(page, "chat", ko)
    page.locator("#prompt textarea").fill("동화 써 줘")
    page.locator("#send").click()
    expect(page.locator("#column-a .user")).to_have_count(1)
    page.locator("#run input").click()
    page.get_by_role("option", name=re.compile(other.meta()["title"])).click()
    expect(page.locator("#column-a .user")).to_have_count(0)
    page.wait_for_timeout(1000)  # what is still told of the other story must not come after it
    expect(page.locator("#column-a .user, #column-a .bot")).to_have_count(0)


def test_enter_that_confirms_a_half_composed_syllable_does_not_send(visit, talking):
    page = visit(talking.id)
    go(page, "chat", ko)
    box = page.locator("#prompt textarea")
    box.click()
    keys = page.context.new_cdp_session(page)
    keys.send("Input.imeSetComposition", {"text": "토끼", "selectionStart": 2, "selectionEnd": 2})
    # Safari has ended the composition when it tells the key, and gives it the code 229.
    for sign in ({"isComposing": True}, {"keyCode": 229}):
        for kind in ("keydown", "keypress", "keyup"):
            box.evaluate(
                "(e, [kind, sign]) => e.dispatchEvent(new KeyboardEvent(kind, {key: 'Enter', code: 'Enter', bubbles: true, cancelable: true, ...sign}))",
                [kind, sign],
            )
    keys.send("Input.insertText", {"text": "토끼"})
    time.sleep(1)  # long enough for a request to have left
    expect(box).to_have_value("토끼")
    expect(page.locator("#column-a .user")).to_have_count(0)
    box.press("Shift+Enter")
    expect(box).to_have_value("토끼\n")
    box.press("Enter")
    expect(page.locator("#column-a .user")).to_have_count(1)


def test_a_third_speaker_gets_a_column_of_its_own(visit, home, models):
    run = new_run(title="셋이서")
    write_json(run.stage_folder("generate") / "config.json", {"teacher": models[0]})
    arm = run.stage_folder("train", "distilled")
    write_json(arm / "config.json", {"student": models[0]})
    (arm / "model").symlink_to(models[1])
    run.finish("train", {}, "distilled")
    page = visit(run.id)
    go(page, "chat", ko)
    expect(page.locator("#column-c")).to_be_hidden()
    page.locator("#speakers input").click()
    page.get_by_role("option", name=ko["base"], exact=True).click()
    page.keyboard.press("Escape")
    expect(page.locator("#column-c")).to_be_visible()
    page.locator("#prompt textarea").fill("동화 써 줘")
    page.locator("#send").click()
    expect(page.locator("#note-c")).to_contain_text(ko["first_token"].split("{")[0], timeout=3 * SLOW)
    assert os.path.basename(models[0]) in page.locator("#note-c").inner_text()
