"""The Train tab in a real browser: every button trains, merges, exports or tells something, for real."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect, sync_playwright
from serving import CHROMIUM, CHROMIUM_FLAGS, served
from tiny import tiny_model

from lab.records import Verdict, append_rows, read_json, write_json
from lab.run import new_run
from lab.stages.train import human_pairs
from lab.ui.texts import TEXTS

en = TEXTS["en"]
SLOW = 300_000
"""Milliseconds that a busy machine may take until a worker has loaded its libraries and trained a tiny student."""


@pytest.fixture(scope="module")
def browser_page(tmp_path_factory):
    """An English page of an app, and the folder of its runs."""
    home = tmp_path_factory.mktemp("home")
    with served(home) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(SLOW)
        page.address, page.home = url, home
        yield page
        browser.close()


@pytest.fixture
def page(browser_page, monkeypatch):
    """The page, while the test looks at the same runs."""
    monkeypatch.setenv("LAB_HOME", str(browser_page.home))
    return browser_page


def prepared(folder):
    """A run whose filter is done, with a tiny student and teacher and a comparison of a few words."""
    run, student = new_run("mini"), tiny_model(folder / "student")
    pairs = [replace(p, teacher="t", split="test" if i % 7 == 0 else "train") for i, p in enumerate(human_pairs(42, 5))]
    append_rows(run.pairs_file, [p.row() for p in pairs])
    append_rows(run.verdicts_file, [Verdict(p.id, i % 6 > 0, judge=1 + i % 5).row() for i, p in enumerate(pairs)])
    write_json(run.stage_folder("generate") / "config.json", {"teacher": tiny_model(folder / "teacher", 1)})
    write_json(run.stage_folder("compare") / "config.json", {"prompts": 4, "max_new_tokens": 16, "judge": "none"})
    settings = {
        "student": student,
        "method": "lora",
        "epochs": 1.0,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "evaluations": 2,
    }
    write_json(run.stage_folder("train", "distilled") / "config.json", settings)
    return run


def opened(page, run):
    """The tab of this run, its form filled from the run."""
    page.goto(f"{page.address}/?run={run.id}")
    page.locator("#tab-train-button").click(timeout=SLOW)
    tab = page.get_by_role("tabpanel")
    tab.get_by_role("button", name=en["settings"]).first.click()
    student = read_json(run.stage_folder("train", "distilled") / "config.json")["student"]
    expect(tab.get_by_role("textbox", name=re.compile("^Student"))).to_have_value(student, timeout=SLOW)
    return tab


def finished(run, *arms):
    """Whether these arms are trained and nothing is at work any more."""
    job = read_json(run.job_file)
    assert job["state"] != "failed", job["error"]
    return set(arms) <= set(run.finished_arms()) and job["state"] == "done"


def wait(page, happened):
    """Until the run's files say so."""
    for _ in range(SLOW // 500):
        if happened():
            return
        page.wait_for_timeout(500)
    raise AssertionError("nothing happened")


def test_a_control_arm_trains_is_merged_exported_and_taken_away(page, tmp_path):
    run = prepared(tmp_path)
    tab = opened(page, run)
    lines = tab.locator(".command textarea")
    expect(lines.nth(0)).to_have_value(re.compile(f"^python -m lab train {run.id} "), timeout=SLOW)
    expect(lines.nth(1)).to_have_value(
        re.compile(f"^accelerate launch --config_file launch/ddp.yaml -m lab train {run.id} ")
    )
    tab.locator("#start-human").click()
    wait(page, lambda: run.job_file.exists() and finished(run, "human"))
    config = run.config("train", "human")
    assert (config.data, config.student, config.epochs) == ("human", str(tmp_path / "student"), 1.0)
    row = tab.locator("table.arms tr", has_text=en["data_human"])
    expect(row).to_contain_text(en["state_done"], timeout=SLOW)
    expect(tab.locator(".js-plotly-plot").first).to_be_visible(timeout=SLOW)
    after = tab.locator("#after")
    after.locator("button").first.click()
    after.locator("#merge").click()
    # The hint beside it names merged too, and until the job has begun the run still says done.
    expect(after.locator("#exported")).to_contain_text(en["use_merged"], timeout=SLOW)
    wait(page, lambda: finished(run))
    after.locator("#gguf").click()
    expect(after.locator("#exported")).to_contain_text("llama-server -m human-f16.gguf", timeout=SLOW)
    after.locator("#take-exported").click()
    expect(after.locator("#exported-files")).to_contain_text("human-merged", timeout=SLOW)
    expect(after.locator("#exported-files")).to_contain_text("human-f16")
    wait(page, lambda: finished(run))
    tab.locator("#start-unfiltered").click()
    wait(page, lambda: finished(run, "unfiltered"))
    assert run.done("train", "unfiltered")["pairs"] > len([p for p in run.kept_pairs() if p.split == "train"])


def test_one_click_trains_the_best_30_50_and_80_per_cent_and_compares_them(page, tmp_path):
    run = prepared(tmp_path)
    tab = opened(page, run)
    tab.locator("#start-exercise").click()
    arms = ("top-30", "top-50", "top-80")
    wait(page, lambda: run.report_file.exists() and finished(run, *arms))
    pairs = [run.done("train", arm)["pairs"] for arm in arms]
    assert pairs == sorted(pairs) and pairs[0] < pairs[2]
    assert {m["name"] for m in read_json(run.report_file)["models"]} >= set(arms)
    for arm in arms:
        expect(tab.locator("table.arms")).to_contain_text(arm, timeout=SLOW)


def test_the_estimate_tells_memory_and_time_before_the_start(page, tmp_path):
    run = prepared(tmp_path)
    tab = opened(page, run)
    tab.locator("#estimate").click()
    expect(tab.locator("#estimated")).to_contain_text(en["needed_of_free"], timeout=SLOW)
    assert run.finished_arms() == []


def test_arms_are_chosen_and_the_slider_goes_back_to_the_first_words(page):
    run = new_run("mini")
    for arm, word in (("top-30", "여우"), ("top-80", "토끼")):
        run.begin("train", run.config("train", arm, arm=arm), arm)
        folder = run.stage_folder("train", arm)
        append_rows(folder / "log.jsonl", [{"step": s, "loss": 3 / s, "eval_loss": None} for s in (1, 2, 3)])
        rows = [{"step": s, "instruction": "부탁", "text": f"{word} {s}번째"} for s in (1, 2, 3)]
        append_rows(folder / "answers.jsonl", rows)
    page.goto(f"{page.address}/?run={run.id}")
    page.locator("#tab-train-button").click(timeout=SLOW)
    told = page.locator("#told-at")
    expect(told).to_contain_text("토끼 3번째", timeout=SLOW)
    slider = page.locator("#progress-of-answers input[type=number]")
    slider.fill("0")
    slider.press("Tab")
    expect(told).to_contain_text("토끼 1번째", timeout=SLOW)
    page.locator("#arm input").click()
    page.get_by_role("option", name="top-30").click()
    expect(told).to_contain_text("여우 1번째", timeout=SLOW)
    expect(page.locator(".js-plotly-plot").first).to_contain_text("top-80", timeout=SLOW)
    page.locator("#arms-beside input").click()
    page.get_by_role("option", name="top-30").click()
    expect(page.locator(".js-plotly-plot").first).not_to_contain_text("top-80", timeout=SLOW)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
