"""The app's page: light to import, the same in both languages, with a field for every knob."""

import os
import socket
import string
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import gradio as gr
import pytest

from lab import checks, jobs
from lab.config import STAGES, preset_config
from lab.records import Pair, Verdict, append_rows, write_json
from lab.run import find_run, new_run
from lab.ui import form, story, texts

ROOT = Path(__file__).resolve().parent.parent


def test_the_app_imports_no_machine_learning_library():
    heavy = ["torch", "transformers", "trl", "peft", "datasets", "evaluate", "kiwipiepy", "plotly"]
    code = f"import sys, app; app.build(); print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_engine_does_not_import_gradio():
    found = [
        p.name
        for p in [*(ROOT / "lab").glob("*.py"), *(ROOT / "lab/stages").glob("*.py")]
        if "gradio" in p.read_text("utf-8")
    ]
    assert found == []


def test_korean_and_english_have_the_same_texts_with_the_same_gaps():
    def gaps(text):
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    ko, en = texts.TEXTS["ko"], texts.TEXTS["en"]
    assert ko.keys() == en.keys()
    assert [key for key in ko if gaps(ko[key]) != gaps(en[key])] == []
    assert all(text.strip() for text in [*ko.values(), *en.values()])


def test_every_reason_of_the_filter_has_words():
    for name, words in checks.REASONS.items():
        assert [texts.reason(name, language) for language in texts.LANGUAGES] == list(words)
        assert all(words) and len(set(words)) == 2


def test_every_knob_has_both_languages():
    for stage in STAGES.values():
        for knob in fields(stage):
            assert knob.metadata["en"] and knob.metadata["ko"]
            assert bool(knob.metadata["help_en"]) <= bool(knob.metadata["help_ko"]) or not knob.metadata["help_ko"]


def test_every_knob_is_a_field_of_its_form():
    import app

    labels = {part["props"].get("label") for part in app.build().config["components"]}
    for stage in STAGES.values():
        assert [k.name for k in fields(stage) if k.metadata["ko"] not in labels] == []


def test_the_command_line_says_also_what_goes_back_to_a_default():
    base = preset_config("filter", "mini")
    assert base.judge == "mini"
    from lab.config import checked

    assert form.flags(checked(base, judge="none"), base) == ["--judge=none"]
    assert form.flags(checked(base, min_score=4), base) == ["--judge", "mini", "--min-score", "4.0"]


def test_the_browser_chooses_the_language():
    assert texts.preferred("ko-KR,ko;q=0.9,en;q=0.8") == "ko"
    assert texts.preferred("de-DE,en-US;q=0.7") == "en"
    assert texts.preferred("fr") == "en"
    assert texts.preferred("") == "ko"


def test_what_is_written_can_be_read_in_light_and_dark():
    """WCAG 2.2 AA: 4.5 to 1 for text."""
    import re

    from lab.ui import theme

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    def contrast(a, b):
        low, high = sorted((light(a), light(b)))
        return (high + 0.05) / (low + 0.05)

    made = theme.theme()
    for scope, ground, placeholder in (
        (":root", made.body_background_fill, made.input_placeholder_color),
        (".dark", made.body_background_fill_dark, made.input_placeholder_color_dark),
    ):
        found = dict(re.findall(r"--(\w+):(#\w{6})", re.search(rf"^{re.escape(scope)} {{(.*)}}$", theme.CSS, re.M)[1]))
        for ink in (found["ink"], found["soft"], found["accent"], placeholder):
            for paper in (found["paper"], found["wash"], ground):
                assert contrast(ink, paper) >= 4.5, (scope, ink, paper, contrast(ink, paper))
    assert contrast(made.button_primary_background_fill, "#ffffff") >= 4.5
    chips = re.findall(r"\.chip\.\w+ \{ background:(#\w{6}); color:(#\w{6})", theme.CSS)
    assert len(chips) == 3
    for paper, ink in chips:
        assert contrast(paper, ink) >= 4.5


def test_a_story_cannot_bring_markup_into_the_page():
    pair = Pair("1", "<img src=x onerror=alert(1)>", "<script>토토</script> 당근", "토끼 토토", ("당근",))
    shown = story.card(pair, "ko")
    assert "<script>" not in shown and "<img" not in shown
    assert '&lt;script&gt;<mark class="who">토토</mark>&lt;/script&gt;' in shown
    assert '<mark class="word">당근</mark>' in shown


def test_the_place_that_gave_a_reason_is_marked():
    pair = Pair("1", "부탁", "옛날에 happy 토끼가 살았어요.")
    verdict = Verdict("1", False, ("english_mix",), {"found": {"english_mix": [4, 9]}})
    assert '<mark class="fault">happy</mark>' in story.card(pair, "en", verdict)
    assert "English mixed in" in story.card(pair, "en", verdict)


def test_tabs_show_what_the_run_holds_and_else_say_what_to_do():
    from lab.ui import chat, compare, filter, generate, publish, train

    run = new_run()
    assert texts.say("empty_generate", "en") in generate.view(run, "en")[1]
    assert texts.say("empty_filter", "en") in filter.rows(run, "en")[0]
    assert texts.say("empty_train", "en") in train.ledger(run, "en")[2]
    assert texts.say("empty_compare", "en") in compare.view(run, "en")[0]
    assert texts.say("empty_publish", "en") in publish.view(run, "en")[0]
    assert list(chat.speakers(run)) == ["teacher", "base"]
    todo = [chat.titles(r, "en", chat.Table())[0]["placeholder"] for r in (None, run)]
    assert todo == [texts.say("no_run", "en"), texts.say("chat_empty", "en")]
    append_rows(run.pairs_file, [Pair("1", "부탁", "토끼가 왔어요.").row(), Pair("2", "부탁", "여우가 왔어요.").row()])
    append_rows(run.verdicts_file, [Verdict("1", True).row(), Verdict("2", False, ("too_short",)).row()])
    assert "토끼가 왔어요." in generate.view(run, "ko")[1]
    assert "토끼가 왔어요." not in generate.view(run, "ko", "여우")[1]
    assert "여우가 왔어요." in filter.rows(run, "ko", "dropped")[0]
    assert "토끼가 왔어요." not in filter.rows(run, "ko", "all", "too_short")[0]


def test_the_list_of_runs_shows_every_stage_and_a_job_that_is_going_or_has_ended_badly():
    from lab.ui import header, job

    run = new_run(title="여우")
    assert header.choices("en") == [("여우  ○○○○○", run.id)]
    run.begin("generate", preset_config("generate", "mini"))
    assert "◐○○○○" in header.glance(run, "en")
    append_rows(run.pairs_file, [Pair("1", "부탁", "토끼가 왔어요.").row()])
    run.finish("generate", {})
    run.begin("filter", preset_config("filter", "mini"))
    run.finish("filter", {})
    assert "●●○○○" in header.glance(run, "en")
    append_rows(run.pairs_file, [Pair("2", "부탁", "여우가 왔어요.").row()])
    assert "●◌○○○" in header.glance(run, "en")
    write_json(run.job_file, {"state": "running", "pid": os.getpid(), "stage": "filter"})
    assert header.glance(run, "en").endswith("at work")
    assert "is-running" in job.steps(run, "en", jobs.look(run))
    write_json(run.job_file, {"state": "running", "pid": 2**22 + 1, "stage": "filter"})
    assert header.glance(run, "en").endswith("cut off")
    assert "step is-died" in job.steps(run, "en", jobs.look(run))


def test_a_broken_run_does_not_hide_the_others():
    from lab.ui import header

    good, bad = new_run(title="좋은"), new_run(title="깨진")
    (bad.folder / "run.json").write_text("{")
    assert dict((id_, label) for label, id_ in header.choices("en"))[good.id] == "좋은  ○○○○○"
    assert "failed" in dict((id_, label) for label, id_ in header.choices("en"))[bad.id]


def test_every_preset_and_every_check_has_words():
    from lab import checklist
    from lab.config import PRESETS
    from lab.ui import header

    for language in texts.LANGUAGES:
        assert all(header.needs(preset, language) for preset in PRESETS)
        for item in checklist.check(new_run()):
            assert texts.say(f"check_{item.name}", language) and texts.say(f"why_{item.name}", language)


def test_a_preset_says_what_this_machine_lacks(monkeypatch):
    from lab.ui import header

    monkeypatch.setenv("LAB_OFFLINE", "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert header.missing("mini") == []
    assert {"no_network", "no_key"} <= set(header.missing("api")) and texts.say("no_key", "ko") in header.needs(
        "api", "ko"
    )
    assert "no_key" not in header.missing("qwen")
    monkeypatch.setenv("LAB_OFFLINE", "0")
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert not {"no_network", "no_key"} & set(header.missing("api"))


def test_the_checklist_drawer_says_the_values_in_both_languages():
    from lab.ui import checklist

    run = new_run()
    head, shown = checklist.view(run, "ko")
    assert head["label"] == texts.say("checklist_head", "ko", good=2, total=8)
    assert shown.count("<li") == 8 and 'data-go="filter"' in shown and "문제없음" in shown
    assert "perplexity" in checklist.view(run, "en")[1]


@pytest.fixture
def address():
    """The app in this process on a free port."""
    import app

    demo = app.build()
    _, url, _ = app.launch(demo, prevent_thread_lock=True, server_port=free_port(), quiet=True)
    assert os.environ["GOMP_SPINCOUNT"], "jobs that the app starts share the machine with its chat"
    yield url
    demo.close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def client(url, **headers):
    from gradio_client import Client

    return Client(url, verbose=False, headers=headers or None)


def test_programs_find_every_endpoint_by_name_and_get_what_the_page_gets(address, tmp_path):
    from tiny import tiny_model

    app = client(address)
    names = {"/runs", "/new_run", "/start", "/stop", "/status", "/report", "/checklist", "/tell"}
    assert set(app.view_api(return_format="dict")["named_endpoints"]) == names
    made = app.predict("mini", "프로그램이 만든 실험", api_name="/new_run")["run"]
    assert [r["title"] for r in app.predict(api_name="/runs")] == ["프로그램이 만든 실험"]
    assert len(app.predict(made, api_name="/checklist")["items"]) == 8
    assert app.predict(made, api_name="/report") == {}
    options = {"teacher": tiny_model(tmp_path / "teacher"), "pairs": 2, "max_new_tokens": 16}
    assert app.predict(made, "generate", options, api_name="/start")["job"] in jobs.GOING
    while (state := app.predict(made, api_name="/status"))["job"] in jobs.GOING:
        time.sleep(0.5)
    assert (state["job"], state["stages"]["generate"]) == ("done", "done")
    said = app.predict(made, "동화 써 줘", 0.8, 1, api_name="/tell")
    assert [s["name"] for s in said] == ["teacher", "base"] and all(s["finish"] for s in said)
    for wrong in ({"nonsense": 1}, {"pairs": -3}):
        with pytest.raises(Exception, match=r"nonsense|outside"):
            app.predict(made, "generate", wrong, api_name="/start")


def test_on_a_space_two_browsers_never_see_or_stop_each_others_runs(address, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "somebody/distillery")

    def browser():
        import httpx

        return {"cookie": httpx.get(address).headers["set-cookie"].partition(";")[0]}

    one, other = client(address, **browser()), client(address, **browser())
    mine = one.predict("mini", "내 실험", api_name="/new_run")["run"]
    assert [r["run"] for r in one.predict(api_name="/runs")] == [mine]
    for stranger in (other, client(address)):
        assert stranger.predict(api_name="/runs") == []
        for endpoint in ("/status", "/stop", "/report", "/checklist"):
            with pytest.raises(Exception, match="no run"):
                stranger.predict(mine, api_name=endpoint)
        with pytest.raises(Exception, match="no run"):
            stranger.predict(mine, "generate", {}, api_name="/start")
    assert not find_run(mine).stop_file.exists()
    with pytest.raises(Exception, match="at most"):
        one.predict(mine, "generate", {"pairs": 40_000}, api_name="/start")
    with pytest.raises(Exception, match="no model"):
        one.predict(mine, "generate", {"teacher": "/etc"}, api_name="/start")
    assert client(address, cookie="distillery_guest=forged").predict(api_name="/runs") == []


def test_a_view_that_meets_a_strange_file_leaves_the_other_tabs_alone():
    from lab.ui import job
    from lab.ui.page import Page, View

    run = new_run()
    seen = []

    def broken(run, language):
        raise KeyError("who")

    with gr.Blocks():
        page = Page(gr.Dropdown([]), gr.Radio(["ko", "en"]))
        out = gr.HTML()
        page.views += [View(broken, [out], lambda run: [], ()), View(lambda r, lang: [seen.append(lang) or "x"], [out], lambda run: [], ())]  # fmt: skip
        outputs, look = job.build(page)
        again, _, _ = job.bind(page, outputs, look)
    claims = {}
    shown = again(run.id, "en", claims)
    assert texts.say("cannot_show", "en") in shown[1]
    assert seen == ["en"] and shown[-1] == "x"
    assert claims[0] == "", "looked at again at the next tick"


def test_of_looks_that_set_out_together_one_draws_and_none_draws_what_is_no_longer_chosen():
    from lab.ui import job
    from lab.ui.page import Page, View

    first, second = new_run(), new_run()
    claims, meanwhile = {}, []

    def slow(run, language):
        if not meanwhile:
            meanwhile.append(None)
            meanwhile.append(again(first.id, "en", claims)[-1])
            meanwhile.append(again(second.id, "en", claims)[-1])
        return [run.id]

    with gr.Blocks():
        page = Page(gr.Dropdown([]), gr.Radio(["ko", "en"]))
        out = gr.HTML()
        page.views += [View(slow, [out], lambda run: [], ())]
        again, _, _ = job.bind(page, *job.build(page))
    late = again(first.id, "en", claims)[-1]
    assert meanwhile[1:] == [gr.skip(), second.id] and late == gr.skip()
    assert again(second.id, "en", claims)[-1] == gr.skip()


def test_a_tab_says_that_its_stage_is_at_work_or_ended_too_early_or_that_its_results_are_of_before(lab_home):
    run = new_run()
    assert form.standing("compare", run, "en") == [""]
    facts = {"stage": "compare", "command": "compare", "argv": [], "pid": os.getpid(), "state": "running"}
    write_json(run.job_file, facts)
    assert texts.say("standing_going", "en") in form.standing("compare", run, "en")[0]
    assert form.standing("filter", run, "en") == [""]
    for ended, told in (("failed", "failed"), ("stopped", "cut"), ("died", "cut")):
        write_json(run.job_file, facts | {"state": ended})
        assert texts.say(f"standing_{told}", "en") in form.standing("compare", run, "en")[0]
        assert form.standing("filter", run, "en") == [""]
    write_json(run.job_file, facts | {"state": "done"})
    append_rows(run.pairs_file, [Pair("a", "부탁", "이야기").row()])
    write_json(run.stage_folder("filter") / "done.json", {"inputs": "of other pairs"})
    assert texts.say("standing_stale", "ko") in form.standing("filter", run, "ko")[0]


def test_a_second_look_at_an_unchanged_run_sends_nothing_and_gradio_does_no_work_for_it(lab_home, monkeypatch):
    import asyncio

    import app

    demo = app.build()
    bound = next(f for f in demo.fns.values() if any(event == "tick" for _, event in f.targets))
    run, nothing = new_run(), gr.skip()
    inputs, claims = [getattr(c, "value", None) for c in bound.inputs], {}
    assert any(v != nothing for v in bound.fn(run.id, "ko", claims, *inputs[3:]))
    second = bound.fn(run.id, "ko", claims, *inputs[3:])
    assert all(v == nothing for v in second)
    drawn = []
    real = gr.Blocks.postprocess_data

    async def counted(self, block_fn, predictions, state):
        drawn.append([c._id for c in block_fn.outputs])
        return await real(self, block_fn, predictions, state)

    monkeypatch.setattr(gr.Blocks, "postprocess_data", counted)
    sent = asyncio.run(demo.postprocess_data(bound, second, None))
    assert drawn == [] and len(sent) == len(second)
    assert all(v == nothing for v in sent)


def test_events_without_a_spinner_tell_no_component_how_they_stand():
    import app

    shown = {e["show_progress"]: e["show_progress_on"] for e in app.build().get_config_file()["dependencies"]}
    assert shown["hidden"] == [] and shown["full"] is None


def test_a_visitor_costs_no_description_of_every_component():
    from gradio.state_holder import SessionState

    import app

    demo = app.build()
    served = demo.get_config_file()["components"]
    assert all(c["props"] for c in served if c["type"] in ("button", "textbox"))
    session = SessionState(demo)
    assert {c["id"] for c in served} <= set(session.config_values)
    assert not any(c["props"] for c in session.config_values.values())


def test_many_looks_of_a_second_ask_the_files_once_and_a_new_run_is_known_at_once(monkeypatch):
    from lab.ui import header

    asked = []
    real = header.glance
    monkeypatch.setattr(header, "glance", lambda run, language: asked.append(run.id) or real(run, language))
    monkeypatch.setattr(header.time, "monotonic", lambda: 7.0)
    first = new_run(title="여우")
    for _ in range(30):
        assert [id_ for _, id_ in header.lately("en")] == [first.id]
    assert asked == [first.id]
    second = new_run(title="곰")
    header.chosen(second.id, "en")
    assert {id_ for _, id_ in header.lately("en")} == {first.id, second.id}
