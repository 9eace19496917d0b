"""The filter stage: near-duplicates, cutting again, people's word, the dataset."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest
from datasets import load_from_disk

from lab import judge
from lab.config import FilterConfig
from lab.domain import reference_stories
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_rows
from lab.run import Run, new_run
from lab.stages import filter as stage
from lab.ui import filter as tab
from lab.ui import texts

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "fixtures" / "filter_dev.jsonl").read_text("utf-8").splitlines()
]


@pytest.fixture
def run_() -> Run:
    """A run that holds the labelled rows of filter_dev."""
    run_ = new_run()
    pairs = [
        Pair(
            r["id"],
            r["instruction"],
            r["output"],
            r["character"],
            tuple(r["keywords"]),
            split="test" if i % 10 == 0 else "train",
        )
        for i, r in enumerate(ROWS)
    ]
    append_rows(run_.pairs_file, [p.row() for p in pairs])
    return run_


def filtered(run_: Run, **knobs: object) -> dict:
    return stage.run(run_, FilterConfig(**knobs), Progress(run_, "filter", []))


def test_every_pair_gets_a_verdict_and_the_kept_become_a_dataset(run_: Run) -> None:
    facts = filtered(run_)
    verdicts = list(run_.verdicts())
    assert [v.id for v in verdicts] == [r["id"] for r in ROWS]
    assert facts["pairs"] == len(ROWS) and facts["kept"] == sum(v.kept for v in verdicts)
    saved = load_from_disk(str(run_.dataset_folder))
    assert saved["train"].num_rows + saved["test"].num_rows == facts["kept"]
    assert facts["funnel"][-1]["left"] == facts["kept"]
    assert run_.state("filter") == "done"


def test_rules_and_near_duplicates_reach_the_targets_on_filter_dev(run_: Run) -> None:
    filtered(run_)
    verdicts = {v.id: v for v in run_.verdicts()}
    good = [verdicts[r["id"]].kept for r in ROWS if r["label"] == "keep"]
    rule = [(verdicts[r["id"]], set(r["reasons"])) for r in ROWS if r["level"] == "rule"]
    assert sum(good) >= 0.97 * len(good)
    assert sum(not v.kept for v, _ in rule) >= 0.97 * len(rule)
    assert sum(bool(set(v.reasons) & reasons) for v, reasons in rule) >= 0.9 * len(rule)


def test_a_copy_of_a_reference_story_is_a_leak_and_names_it() -> None:
    reference = reference_stories()[3]
    run_ = new_run()
    text = reference["output"].replace("어요. ", "어요! ", 1)
    append_rows(run_.pairs_file, [Pair("copy", "", text).row(), Pair("own", "", ROWS[0]["output"]).row()])
    filtered(run_)
    verdict = next(run_.verdicts())
    assert not verdict.kept and verdict.reasons == ("near_duplicate",) and verdict.scores["twin"] == reference["id"]


def test_recut_moves_limits_rules_scores_and_shares_without_measuring_again() -> None:
    rows = [
        Verdict("a", True, (), {"chars": 200, "found": {}}, 4.5),
        Verdict("b", True, (), {"chars": 200, "found": {}}, 2.0),
        Verdict("c", True, (), {"chars": 100, "found": {}}, 4.0),
        Verdict("d", True, (), {"chars": 200, "found": {"pii": [0, 3]}}, None),
        Verdict("e", True, (), {"chars": 200, "found": {}}, 3.5),
    ]

    def reasons(**knobs: object) -> dict[str, tuple[str, ...]]:
        return {v.id: v.reasons for v in stage.recut(rows, FilterConfig(**knobs))}

    assert reasons() == {"a": (), "b": ("low_score",), "c": ("too_short",), "d": ("pii",), "e": ()}
    assert reasons(min_chars=50, off="pii,low_score") == dict.fromkeys("abcde", ())
    assert reasons(keep_top=0.5)["e"] == ("below_cut",)


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(Problem, match="no rule nonsense"):
        stage.recut([], FilterConfig(off="nonsense"))


def test_peoples_word_wins(run_: Run) -> None:
    filtered(run_)
    first = {v.id: v for v in run_.verdicts()}
    kept, dropped = next(v.id for v in first.values() if v.kept), next(v.id for v in first.values() if not v.kept)
    stage.set_manual(run_, kept, False, "가")
    stage.set_manual(run_, dropped, True, "가")
    filtered(run_)
    second = {v.id: v for v in run_.verdicts()}
    assert second[kept].reasons == ("reviewer",) and second[kept].by == "human"
    assert second[dropped].kept and second[dropped].by == "human"
    assert len(list(read_rows(run_.reviews_file))) == 2


def test_an_empty_run_is_a_problem() -> None:
    with pytest.raises(Problem, match="no pairs"):
        filtered(new_run())


def verdicts(count: int = 300) -> list[Verdict]:
    """Rows of every kind: judged or not, with and without faults, some with a person's word."""
    rng = random.Random(1)
    rows = []
    for i in range(count):
        found = {reason: None for reason in ("repetition", "pii") if rng.random() < 0.15}
        human = {"human": rng.randint(0, 1)} if rng.random() < 0.1 else {}
        score = None if rng.random() < 0.1 else round(rng.uniform(1, 5), 2)
        rows.append(Verdict(str(i), False, (), {"chars": rng.randint(100, 700), "found": found} | human, score))
    return rows


@pytest.mark.parametrize(
    "knobs", [{}, {"keep_top": 0.3}, {"off": "low_score"}, {"off": "pii,below_cut", "keep_top": 0.5}]
)
def test_the_curve_is_what_cutting_at_each_threshold_gives(knobs: dict) -> None:
    table = stage.Table.of(verdicts())
    points = stage.curve(table, FilterConfig(**knobs))
    assert [t for t, _ in points] == [round(1 + 0.1 * i, 1) for i in range(41)]
    for threshold, rate in points:
        assert rate == stage.cut(table, FilterConfig(**knobs, min_score=threshold)).kept.mean()


def test_a_reason_s_cost_is_what_switching_it_off_brings_back() -> None:
    table = stage.Table.of(v for v in verdicts() if "human" not in v.scores)
    cost = stage.cut(table, FilterConfig()).alone()
    kept = stage.cut(table, FilterConfig()).kept.sum()
    assert set(cost) == {"repetition", "pii", "too_short", "too_long", "low_score"}
    for reason, count in cost.items():
        assert stage.cut(table, FilterConfig(off=reason)).kept.sum() - kept == count > 0


def test_a_new_cut_is_saved_without_measuring_and_sets_the_run_s_options(run_: Run) -> None:
    filtered(run_)
    before = list(run_.verdicts())
    facts = stage.apply_cut(run_, FilterConfig(min_chars=300))
    after = list(run_.verdicts())
    assert facts["kept"] == sum(v.kept for v in after) < sum(v.kept for v in before)
    assert [v.scores for v in after] == [v.scores for v in before]
    assert run_.config("filter").min_chars == 300 and run_.state("filter") == "done"
    assert load_from_disk(str(run_.dataset_folder))["train"].num_rows < facts["pairs"]


def test_no_cut_while_a_job_may_read_the_verdicts(run_: Run) -> None:
    filtered(run_)
    Progress(run_, "train", []).write(state="running", pid=os.getpid(), stage="train", total=1, done=0)
    with pytest.raises(Problem, match="job at work"):
        stage.apply_cut(run_, FilterConfig())


def test_a_word_in_the_ledger_decides_over_reviewers_and_an_undone_word_is_none(run_: Run) -> None:
    stage.set_manual(run_, "d001", False, "가")
    stage.set_manual(run_, "d001", False, "나")
    stage.set_manual(run_, "d001", True, stage.BY_HAND)
    stage.set_manual(run_, "d002", False, "가")
    stage.set_manual(run_, "d002", None, "가", note=stage.UNDO)
    assert stage.human_verdicts(run_) == {"d001": True}


def test_a_new_word_of_a_person_makes_the_filter_stale(run_: Run) -> None:
    filtered(run_)
    stage.set_manual(run_, "d001", False, "가")
    assert run_.state("filter") == "stale"
    stage.apply_cut(run_, run_.config("filter"))
    assert run_.state("filter") == "done"


def test_a_judge_is_not_asked_twice_and_unreadable_answers_are_their_own_bucket(
    run_: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def judge_pairs(pairs: list[Pair], spec: str) -> list:
        asked.extend(p.id for p in pairs)
        return [(None, "") if p.id == "d001" else (4.0, "좋아요") for p in pairs]

    monkeypatch.setattr(judge, "judge_pairs", judge_pairs)
    facts = filtered(run_, judge="api:x")
    first = {v.id: v for v in run_.verdicts()}
    assert facts["unparsable"] == 1 and first["d001"].kept and first["d001"].scores["unparsable"]
    assert first["d002"].judge == 4 and first["d002"].scores["judge_reason"] == "좋아요"
    count = len(asked)
    filtered(run_, judge="api:x")
    assert asked[count:] == ["d001"]
    filtered(run_, judge="api:y")
    assert len(asked) == 2 * count + 1


def test_the_tab_warns_below_half_and_names_the_costliest_reason() -> None:
    rows = [Verdict(str(i), True, (), {"chars": 200, "found": {"pii": None} if i < 6 else {}}) for i in range(10)]
    table = stage.Table.of(rows)
    shown = tab.outcome(table, stage.cut(table, FilterConfig()), "en")
    assert "4 / 10" in shown and texts.reason("pii", "en") in shown and "6 pairs, 6 by this reason" in shown
    assert "costs most" not in tab.outcome(table, stage.cut(table, FilterConfig(off="pii")), "en")


def test_the_ledger_is_searched_and_a_row_is_restored_by_hand_at_once(run_: Run) -> None:
    filtered(run_)
    assert "양배추" in tab.rows(run_, "ko", "all", "", "양배추")[0]
    assert texts.say("empty_match", "ko") in tab.rows(run_, "ko", "kept", "pii")[0]
    dropped = next(v for v in run_.verdicts() if "pii" in v.reasons)
    assert dropped.id in tab.rows(run_, "ko", "dropped", "pii")[0]
    stage.decide(run_, dropped.id, True)
    assert {v.id: v for v in run_.verdicts()}[dropped.id].kept and run_.state("filter") == "done"
    assert f'data-id="{dropped.id}" data-keep="drop"' in tab.rows(run_, "ko", "people")[0]


def test_the_ledger_names_the_missing_words_and_marks_them_in_the_request() -> None:
    run_ = new_run()
    row = Pair("1", "눈사람과 썰매가 나오는 이야기", ROWS[0]["output"], "", ("눈사람", "물", "썰매"))
    append_rows(run_.pairs_file, [row.row()])
    filtered(run_)
    for language, name in (("ko", "낱말 빠짐"), ("en", "key word missing")):
        shown = tab.rows(run_, language)[0]
        assert f"{name}: 눈사람, 썰매" in shown
        assert '<mark class="fault">눈사람</mark>과 <mark class="fault">썰매</mark>가' in shown


def test_on_many_cores_and_in_chunks_the_verdicts_are_those_of_one_piece(
    run_: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    filtered(run_)
    whole = [v.row() for v in run_.verdicts()]
    monkeypatch.setattr(stage, "CHUNK", 20)
    monkeypatch.setattr(stage, "SCAN_FROM", 100)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    filtered(run_)
    assert [v.row() for v in run_.verdicts()] == whole
    left = {p.name for p in run_.stage_folder("filter").iterdir()}
    assert left == {"config.json", "done.json", "verdicts.jsonl", "dataset"}  # no working file stays behind


def test_chunks_are_read_only_as_fast_as_they_are_worked_on() -> None:
    read = []

    class Pool:
        def submit(self, work: object, chunk: list[Pair]) -> Future:
            done: Future = Future()
            done.set_result(chunk)
            return done

    def chunks() -> Iterator[list[int]]:
        for i in range(100):
            read.append(i)
            yield [i]

    answers = stage._in_turn(Pool(), chunks(), 4)
    assert next(answers) == [0] and len(read) <= 5
    assert [*answers] == [[i] for i in range(1, 100)]


def test_a_row_that_stands_twice_counts_once(run_: Run) -> None:
    append_rows(run_.pairs_file, [p.row() for p in list(run_.pairs())[:7]])
    assert filtered(run_)["pairs"] == len(ROWS)
    assert [v.id for v in run_.verdicts()] == [r["id"] for r in ROWS]


WAITS = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import os, time
from lab.stages import filter as stage
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), stage._ready, (None,))
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_workers_end_when_the_stage_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    stage_itself = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert stage_itself.stdout
    worker = psutil.Process(int(stage_itself.stdout.readline()))
    stage_itself.kill()
    stage_itself.wait()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
