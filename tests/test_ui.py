"""The app's page: light to import, the same in both languages, with a field for every knob."""

import string
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from lab import checks
from lab.config import STAGES, preset_config
from lab.records import Pair, Verdict, append_rows
from lab.run import new_run
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
    assert set(texts.REASON_TEXTS) == set(checks.REASONS)


def test_every_knob_has_both_languages():
    for stage in STAGES.values():
        for knob in fields(stage):
            assert knob.metadata["en"] and knob.metadata["ko"]
            assert bool(knob.metadata["help_en"]) <= bool(knob.metadata["help_ko"]) or not knob.metadata["help_ko"]


def test_every_knob_is_a_field_of_its_form():
    import app

    labels = {getattr(block, "label", None) for block in app.build().blocks.values()}
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
    assert texts.say("empty_train", "en") in train.view(run, "en")[1]
    assert texts.say("empty_compare", "en") in compare.view(run, "en")[0]
    assert texts.say("empty_publish", "en") in publish.view(run, "en")[0]
    assert [who for who, _ in chat.speakers(run)] == ["teacher", "base"]
    append_rows(run.pairs_file, [Pair("1", "부탁", "토끼가 왔어요.").row(), Pair("2", "부탁", "여우가 왔어요.").row()])
    append_rows(run.verdicts_file, [Verdict("1", True).row(), Verdict("2", False, ("too_short",)).row()])
    assert "토끼가 왔어요." in generate.view(run, "ko")[1]
    assert "토끼가 왔어요." not in generate.view(run, "ko", "여우")[1]
    assert "여우가 왔어요." in filter.rows(run, "ko", "dropped")[0]
    assert "토끼가 왔어요." not in filter.rows(run, "ko", "all", "too_short")[0]
