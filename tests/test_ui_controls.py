"""Every control on the page has an effect: a form's field changes the command line, every other one is moved in the browser."""

import errno
import json
import re
import zipfile
from dataclasses import fields
from pathlib import Path

import gradio as gr
import pytest
from visitor import Refused, Visitor, address  # noqa: F401  (a fixture)

from lab import archive, example, jobs, review
from lab.config import STAGES
from lab.records import Pair, Verdict, append_rows
from lab.run import new_run, runs
from lab.ui import header, texts

E2E = Path(__file__).parent / "e2e"
CONTROLS = (
    gr.Button,
    gr.UploadButton,
    gr.Dropdown,
    gr.Radio,
    gr.Checkbox,
    gr.CheckboxGroup,
    gr.Slider,
    gr.Number,
    gr.Textbox,
    gr.Dataset,
)
STARTS = {f"start-{name}": name for name in ("preview", "check", "generate", "filter", "train", "compare", "publish")}
UPLOADS = ("account", "send-upload", "make-public")
KNOBS = [(stage, knob) for stage, config in STAGES.items() for knob in fields(config)]


@pytest.fixture(scope="module")
def page():
    """The whole page, not served."""
    import app

    return app.build()


def controls(page):
    """Every component that a visitor can move."""
    return [b for b in page.blocks.values() if isinstance(b, CONTROLS) and getattr(b, "interactive", None) is not False]


def named(stage, knob):
    return f"{stage}-{knob.name.replace('_', '-')}"


def test_every_control_has_a_name_that_nothing_else_on_the_page_has(page):
    names = [b.elem_id for b in page.blocks.values() if b.elem_id]
    assert [type(c).__name__ for c in controls(page) if not c.elem_id] == []
    assert sorted(names) == sorted(set(names))


def test_every_control_is_bound_to_something(page):
    bound = set()
    for fn in page.fns.values():
        bound |= {block._id for block in fn.inputs} | {target for target, _ in fn.targets}
    assert [c.elem_id for c in controls(page) if c._id not in bound] == []


def test_every_control_beside_the_forms_is_moved_by_a_test(page):
    """In a browser by ``#name``, over HTTP as what is pressed or one of the values that are set."""
    moved = {*STARTS, *UPLOADS, "unpack", "upload"}  # the last two by the file inputs of their drawers
    for path in (*Path(__file__).parent.glob("test_ui*.py"), *E2E.glob("test_*.py")):
        text = path.read_text("utf-8")
        moved |= set(re.findall(r"#([a-z][a-z0-9-]*)", text))
        for said in re.findall(r"(?:press|set)\((.*)\)", text):
            moved |= set(re.findall(r"""^["']([a-z0-9-]+)["']""", said))
            moved |= {name.replace("_", "-") for name in re.findall(r"(\w+)=", said)}
    in_forms = {named(stage, knob) for stage, knob in KNOBS}
    assert sorted({c.elem_id for c in controls(page)} - in_forms - moved) == []


def other(knob, value):
    """A value that is allowed and is neither ``value`` nor the default."""
    meta = knob.metadata
    if isinstance(value, bool):
        return not value
    if meta["choices"]:
        return next(c for c in meta["choices"] if c not in (value, knob.default))
    if isinstance(value, str):
        return "other"
    low, high = meta["low"], meta["high"]
    step = meta["step"] or 1
    return value + step if high is None or value + step <= high else max(low, value - step)


@pytest.mark.parametrize(("stage", "knob"), KNOBS, ids=[named(s, k) for s, k in KNOBS])
def test_a_field_of_a_form_changes_the_command_line(page, stage, knob):
    run = new_run()
    field = next(c for c in controls(page) if c.elem_id == named(stage, knob))
    says = next(
        fn
        for fn in page.fns.values()
        if (field._id, "input") in [tuple(t) for t in fn.targets]
        and any(o.elem_classes == ["command"] for o in fn.outputs)
    )
    asked = says.inputs[1:]
    preset = {named(stage, k): getattr(run.config(stage), k.name) for k in fields(STAGES[stage])}

    def line(**changed):
        told = says.fn(run.id, *({**preset, **changed}[c.elem_id] for c in asked))
        return told if isinstance(told, str) else told[0]

    flag = "--" + knob.name.replace("_", "-")
    told = line(**{named(stage, knob): other(knob, preset[named(stage, knob)])})
    assert told != line() and (flag in told or f"--no-{flag[2:]}" in told)


@pytest.fixture
def started(monkeypatch):
    """(arguments, key) of every worker that a button would have started."""
    found = []
    monkeypatch.setattr(jobs, "start", lambda run, args, key="": found.append((args, key)))
    return found


@pytest.fixture
def run():
    """Six stories; the judge likes the later ones more, the last broke a rule."""
    made = new_run(title="조작")
    stories = [("토끼", 1.0), ("여우", 2.0), ("곰", 3.5), ("사자", 4.0), ("너구리", 5.0), ("고래", 5.0)]
    pairs = [
        Pair(str(i), f"{who} 이야기", f"{who}가 길을 떠났어요. " * 20, who, ("길",))
        for i, (who, _) in enumerate(stories)
    ]
    append_rows(made.pairs_file, [p.row() for p in pairs])
    for pair, (_, mark) in zip(pairs, stories, strict=True):
        last = pair.id == "5"
        facts = {"chars": len(pair.output), "found": {"pii": None} if last else {}}
        append_rows(made.verdicts_file, [Verdict(pair.id, not last, ("pii",) if last else (), facts, mark).row()])
    return made


@pytest.mark.parametrize(("button", "command"), STARTS.items())
def test_a_start_button_starts_its_command_with_what_the_form_says(address, started, run, button, command):  # noqa: F811
    visitor = Visitor(address, run.id)
    visitor.press("run", "change")
    stage = "generate" if command in ("preview", "check") else command
    value = {
        "generate_pairs": 7,
        "filter_min_chars": 99,
        "train_lora_r": 5,
        "compare_prompts": 9,
        "publish_data_licence": "mit",
    }
    visitor.set(**{k: v for k, v in value.items() if k.startswith(stage)})
    visitor.press(button, "click", endpoint_key="sk-key")
    ((args, key),) = started
    flag = {
        "generate": "--pairs 7",
        "filter": "--min-chars 99",
        "train": "--lora-r 5",
        "compare": "--prompts 9",
        "publish": "--data-licence mit",
    }
    assert args[:2] == [command, run.id] and flag[stage].split()[0] in " ".join(args)
    assert flag[stage].split()[1] in " ".join(args) and key == ("sk-key" if stage == "generate" else "")


def test_the_first_button_starts_the_whole_job_on_a_new_run(address, started):  # noqa: F811
    Visitor(address).press("try", "click")
    (made,) = runs()
    assert started == [(["run", made.id, "--pairs", str(header.TRY_PAIRS), "--json"], "")]


def test_the_example_becomes_a_run_of_ones_own(address, run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(example, "FILE", archive.pack(run, tmp_path))
    Visitor(address).press("example", "click")
    assert {r.meta()["title"] for r in runs()} == {"조작", texts.say("example_title", "en")}


def test_the_cut_follows_its_controls_and_is_kept_when_saved(address, run):  # noqa: F811
    visitor = Visitor(address, run.id)
    visitor.look()

    def kept():
        return [v.id for v in run.verdicts() if v.kept]

    assert "3 / 6" in visitor.press("cut-min-score", "change", cut_min_score=3.0)
    assert "0 / 6" in visitor.press("cut-min-chars", "change", cut_min_chars=400)
    assert "0 / 6" in visitor.press("cut-max-chars", "change", cut_min_chars=50, cut_max_chars=100)
    assert "5 / 6" in visitor.press("cut-top", "change", cut_max_chars=600, cut_min_score=1.0, cut_top=1.0)
    assert "5 / 6" not in visitor.press("cut-top", "change", cut_top=0.5)
    assert "6 / 6" in visitor.press("cut-rules", "change", cut_top=1.0, cut_rules=[])
    assert len(kept()) == 5
    visitor.press("cut-save", "click", cut_rules=["pii"], cut_min_score=3.0)
    assert kept() == ["2", "3", "4"]


def test_a_look_that_set_out_before_the_controls_came_shows_the_stored_cut(address, run):  # noqa: F811
    visitor = Visitor(address, run.id)
    kept = sum(v.kept for v in run.verdicts())
    visitor.set(cut_min_chars=20, cut_max_chars=50, cut_origin="")
    assert f"{kept} / 6" in visitor.press("language", "change", language="ko")
    assert "0 / 6" in visitor.press("cut-max-chars", "change", cut_min_chars=20, cut_max_chars=50)


def test_stories_are_searched_and_paged(address, run):  # noqa: F811
    visitor = Visitor(address, run.id)
    found = visitor.press("story-search", "input", story_search="여우")
    assert "여우 이야기" in found and "토끼 이야기" not in found
    append_rows(run.pairs_file, [Pair(f"n{i}", "부탁", f"양 {i}마리", "양").row() for i in range(12)])
    assert "토끼 이야기" not in visitor.press("story-page", "input", story_search="", story_page=1)
    assert "토끼 이야기" in visitor.press("story-page", "input", story_page=2)


def test_the_ledger_is_filtered_searched_and_paged(address, run):  # noqa: F811
    visitor = Visitor(address, run.id)
    dropped = visitor.press("ledger-show", "change", ledger_show="dropped")
    assert "고래 이야기" in dropped and "토끼 이야기" not in dropped
    why = visitor.press("ledger-reason", "change", ledger_show="all", ledger_reason="pii")
    assert "고래 이야기" in why and "토끼 이야기" not in why
    assert "1-1 of 1" in visitor.press("ledger-search", "change", ledger_reason="", ledger_search="곰가")
    append_rows(run.pairs_file, [Pair(f"n{i}", "부탁", f"양 {i}마리", "양").row() for i in range(12)])
    append_rows(run.verdicts_file, [Verdict(f"n{i}", True).row() for i in range(12)])
    assert "13-18 of 18" in visitor.press("ledger-page", "change", ledger_search="", ledger_page=2)


@pytest.mark.parametrize("page_of", ["story_page", "ledger_page", "answer_page"])
def test_a_page_that_is_not_there_shows_the_nearest_one_and_stops_no_look(address, run, page_of):  # noqa: F811
    visitor = Visitor(address, run.id)
    for number in (0, -3, 10**6, None):
        visitor.set(**{page_of: number})
        visitor.look()


@pytest.mark.parametrize(("button", "field"), [("whole", "whole_pairs"), ("start-generate", "generate_pairs"), ("start-train", "train_lora_r")])  # fmt: skip
@pytest.mark.parametrize("number", [-3, 10**9])
def test_a_number_out_of_range_is_refused_in_the_visitors_language(address, started, run, button, field, number):  # noqa: F811
    visitor = Visitor(address, run.id, language="ko")
    with pytest.raises(Refused, match="범위"):
        visitor.press(button, "click", **{field: number})
    assert started == []


def test_an_unexpected_fault_is_told_in_the_visitors_language_without_its_inside(address, run, monkeypatch):  # noqa: F811
    def breaks(*given):
        raise OSError("/inside/secret")

    monkeypatch.setattr(archive, "duplicate", breaks)
    with pytest.raises(Refused) as told:
        Visitor(address, run.id, language="ko").press("duplicate", "click")
    assert texts.say("unexpected", "ko", kind="OSError") in str(told.value)
    assert "secret" not in str(told.value) and "Traceback" not in str(told.value)


def test_a_full_disk_is_told_as_such(address, run, monkeypatch):  # noqa: F811
    def fills(*given):
        raise OSError(errno.ENOSPC, "No space left on device", "/inside/copy.zip")

    monkeypatch.setattr(archive, "duplicate", fills)
    with pytest.raises(Refused, match=r"쓸 수 없습니다: copy\.zip") as told:
        Visitor(address, run.id, language="ko").press("duplicate", "click")
    assert "inside" not in str(told.value)


def test_a_reviewer_reads_and_the_word_is_applied(address, run):  # noqa: F811
    visitor = Visitor(address, run.id)
    assert "data-story" in visitor.press("reviewer", "change", reviewer="가")
    for pair in run.pairs():
        review.say_word(run, "가", pair.id, pair.id in "345", None)
    visitor.press("apply-best", "click")
    assert run.config("filter").min_score > 1
    visitor.press("apply-words", "click")
    assert [v.id for v in run.verdicts() if v.kept] == ["3", "4", "5"]


def test_reviews_leave_as_a_table_and_come_back(address, run):  # noqa: F811
    visitor = Visitor(address, run.id)
    said = json.loads(visitor.press("csv-out", "click"))[0][0]["value"]
    table = visitor.http.get(f"/gradio_api/file={said['path']}").content.decode("utf-8-sig").splitlines()
    row = table[1].split(",")
    row[-3] = "drop"
    sent = visitor.http.post(
        "/gradio_api/upload", files={"files": ("r.csv", "\n".join([table[0], ",".join(row)]).encode())}
    )
    file = {"path": sent.json()[0], "orig_name": "r.csv", "meta": {"_type": "gradio.FileData"}}
    assert texts.say("apply_words", "en", n=1) in visitor.press("csv-in", "upload", csv_in=file, reviewer="나")
    visitor.press("apply-words", "click")
    assert [v.id for v in run.verdicts() if v.by == "human"] == [row[0]]


def test_answers_are_sorted_and_paged_and_two_runs_stand_side_by_side(address, run):  # noqa: F811
    def answered(made):
        bare = {"who": "arm", "name": "distilled", "character": "", "keywords": [], "finish": "stop", "judge": None}
        rows = [
            bare | {"instruction": f"부탁{i}", "text": f"답{i}", "reasons": ["pii"] * (i == 7), "who": who}
            for i in range(8)
            for who in ("teacher", "arm")
        ]
        for row in rows:
            row["reasons"] = row["reasons"] if row["who"] == "arm" else []
        append_rows(made.answers_file, rows)

    answered(run)
    visitor = Visitor(address, run.id)
    visitor.look()
    assert visitor.sees("answers") and not visitor.sees("beside") and not visitor.sees("pack-report")
    first = visitor.press("answer-order", "input", answer_order="student_worse")
    assert "답7" in first and "답6" not in first
    assert "답7" in visitor.press("answer-page", "input", answer_order="as_asked", answer_page=2)
    with pytest.raises(Refused, match="compar"):
        visitor.press("pack-report", "click")
    with zipfile.ZipFile(example.FILE) as shipped:
        run.report_file.write_bytes(shipped.read("compare/report.json"))
    visitor.look()
    assert visitor.sees("beside") and visitor.sees("pack-report")
    assert f"report-{run.id}.zip" in visitor.press("pack-report", "click")


def test_only_compared_runs_can_stand_beside(address, run):  # noqa: F811
    other = new_run(title="저쪽")
    other.begin("compare", other.config("compare"))
    other.finish("compare", {})
    visitor = Visitor(address, run.id)
    with pytest.raises(Refused, match="choices"):
        visitor.press("other", "input", other=other.id)
    assert other.id in visitor.press("run", "change", other=None)
    visitor.press("other", "input", other=other.id)
    with pytest.raises(Refused, match="choices"):
        visitor.press("other", "input", other=run.id)


def test_without_an_account_nothing_is_uploaded(address, run, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    visitor = Visitor(address, run.id)
    for button in UPLOADS:
        with pytest.raises(Refused, match="account"):
            visitor.press(button, "click", hub_token="", namespace=None)


def test_the_kind_of_gguf_is_the_one_chosen(address, started, run):  # noqa: F811
    run.begin("train", run.config("train"), "distilled")
    run.finish("train", {}, "distilled")
    visitor = Visitor(address, run.id)
    visitor.look()
    visitor.press("gguf", "click", gguf_type="q8_0")
    assert "q8_0" in started[0][0]
