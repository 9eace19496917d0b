"""The Generate tab: what the preview and the teacher check found, live numbers, charts, own pairs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lab.preview import Finding
from lab.records import Pair, Verdict, append_rows, write_json
from lab.run import new_run
from lab.ui import generate
from lab.ui.texts import say

PAIR = Pair("1", "토끼 토토 동화", "토토는 당근을 먹었어요.", "토끼 토토", ("당근", "비"), "mini:teacher@abc", tokens=9)
DISTINCT = {"distinct_1": 0.09, "distinct_2": 0.5, "distinct_3": 0.81}
STORY = {"pair": PAIR.row(), "verdict": Verdict("1", False, ("too_short",), {"found": {}}).row()}
ESTIMATE = {
    "batch": 64,
    "tokens": 1_200_000,
    "minutes": 95.0,
    "tokens_per_second": 210.5,
    "dollars": None,
    "pairs": 5000,
    "people_dollars": 25_000.0,
    "people_weeks": 0.5,
    "passed": 3,
    "of": 5,
    "kept": 3000,
    "kept_low": 1157,
    "kept_high": 4411,
}


def test_the_estimate_stands_beside_the_five_stories() -> None:
    run = new_run()
    found = {"teacher": "<b>x</b>", "estimate": ESTIMATE, "foreign": 7, "there": 0, "stories": [STORY]}
    write_json(run.preview_file, found)
    drawer, ahead, teacher = generate.look(run, "en")
    assert drawer["open"] is True and teacher == ""
    for said in ("95 min", "1,200,000", "$25,000", "3,000 / 5,000", "1,157-4,411", "set the price", "too short"):
        assert said in ahead
    assert "holds 7 pairs made with other settings" in ahead and "<b>x</b>" not in ahead
    assert '<mark class="word">당근</mark>' in ahead
    assert "95분" in generate.look(run, "ko")[1]


def test_the_teacher_check_shows_its_verdict_its_reasons_and_its_worst_story() -> None:
    run = new_run()
    finding = Finding("loops", "fail", 0.9, "It goes <round>: broken_text.", "맴돕니다: broken_text")
    good = {"pair": PAIR.row() | {"output": "좋은 이야기"}, "verdict": Verdict("2", True).row()}
    found = {"teacher": "t", "verdict": "cannot", "findings": [vars(finding)], "stories": [STORY, good]}
    write_json(run.check_file, found)
    shown = generate.look(run, "en")[2]
    assert say("teacher_cannot", "en") in shown and "It goes &lt;round&gt;: broken text." in shown
    assert shown.index(say("worst_sample", "en")) < shown.index("too short") < shown.index("좋은 이야기")
    assert "맴돕니다: 깨진 글" in generate.look(run, "ko")[2]


def test_numbers_are_live_while_the_job_is_going_and_then_from_its_end() -> None:
    from lab import jobs

    run = new_run()
    assert generate.live(run, "en")[0] == ""
    job = {"command": "generate", "stage": "generate", "state": "running", "pid": os.getpid(), "argv": []}
    write_json(run.job_file, job | {"facts": {"tokens_per_second": 1234.4, **DISTINCT, "dollars": 1.25}})
    assert jobs.look(run).state == "running"
    assert "1,234" in generate.live(run, "en")[0]  # before the first row
    append_rows(run.pairs_file, [PAIR.row()])
    shown = generate.numbers(run, "en")
    assert "1,234" in shown and "$1.25" in shown
    spread = generate.live(run, "en")[1]
    assert all(share in spread for share in (">9%<", ">50%<", ">81%<", "distinct-3"))
    write_json(run.job_file, job | {"state": "done"})
    run.begin("generate", run.config("generate"))
    run.finish("generate", {"pairs": 1, "self_bleu": 31.4, "near_duplicates": 0.02})
    shown, spread, _ = generate.live(run, "en")
    assert "1,234" not in shown and ">31<" in spread and ">2.0%<" in spread


COVERAGE = {
    "character": {"used": 150, "of": 160, "least": 0, "most": 2},
    "age": {"used": 4, "of": 4, "least": 9, "most": 9},
}
PHRASINGS = {
    "i02": {"pairs": 12, "characters": 301.4, "cut_off": 0.25, "distinct_2": 0.7},
    "i58": {"pairs": 13, "characters": 198.6, "cut_off": 0.0, "distinct_2": 0.4},
}


@pytest.mark.parametrize("going", [True, False])
def test_coverage_and_phrasings_are_shown_while_the_job_goes_on_and_from_its_end(going: bool) -> None:
    run = new_run()
    append_rows(run.pairs_file, [PAIR.row()])
    found = {"coverage": COVERAGE, "by_phrasing": PHRASINGS}
    if going:
        job = {"command": "generate", "stage": "generate", "state": "running", "pid": os.getpid(), "argv": []}
        write_json(run.job_file, job | {"facts": found})
    else:
        run.begin("generate", run.config("generate"))
        run.finish("generate", found)
    _, spread, table = generate.live(run, "en")
    cells = [re.sub(r"<[^>]*>", " ", cell).split() for cell in re.findall(r"<div>(.*?)</div>", spread)]
    assert [" ".join(cell) for cell in cells] == [
        "Characters 150 / 160 0-2 times each",
        "Ages 4 / 4 9 times each",
    ]
    assert "width:93.8%" in spread and "각 9번" in generate.live(run, "ko")[1]
    rows = re.findall(r"<tr>(<td.*?)</tr>", table)
    assert [re.findall(r"<td>(.*?)</td>", row)[1:] for row in rows] == [
        ["13", "199", "0%", "40%"],
        ["12", "301", "25%", "70%"],
    ]
    assert "주인공: <i>주인공</i> / 낱말: <i>낱말 1</i>, <i>낱말 2</i> / 200~400자" in rows[1]


def test_charts_count_characters_and_lengths() -> None:
    run = new_run()
    assert all(plot["visible"] is False for plot in generate.drawn(run, "en"))
    append_rows(run.pairs_file, [PAIR.row() | {"id": str(i), "output": "가" * (100 + i)} for i in range(30)])
    coverage, lengths = generate.drawn(run, "en")
    assert list(coverage["value"].data[0].y) == [30]
    assert sum(lengths["value"].data[0].y) == 30
    limits = [shape.x0 for shape in lengths["value"].layout.shapes]
    rules = run.config("filter")
    assert limits == [rules.min_chars, rules.max_chars]


def test_every_faulty_line_of_an_upload_is_listed(tmp_path: Path) -> None:
    shown = generate.faulty([(n, f"wrong <{n}>", f"틀림 {n}") for n in range(1, 26)], "en")
    assert "25 lines" in shown and "wrong &lt;1&gt;" in shown and "wrong &lt;20&gt;" in shown
    assert "wrong &lt;21&gt;" not in shown and "and 5 more" in shown
    assert "틀림 3" in generate.faulty([(3, "wrong", "틀림 3")], "ko")


def test_a_search_with_too_high_a_page_shows_the_last_one() -> None:
    run = new_run()
    append_rows(run.pairs_file, [PAIR.row() | {"id": str(i)} for i in range(13)])
    assert "13-13 of 13" in generate.view(run, "en", "", 99)[1]
    assert "1-12 of 13" in generate.view(run, "en", "당근", 1)[1]
