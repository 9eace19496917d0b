"""Human review: sample, CSV, agreement."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from lab import review
from lab.config import FilterConfig, checked
from lab.problems import Problem
from lab.records import Pair, Verdict, append_rows
from lab.run import Run, new_run
from lab.stages.filter import apply_cut
from lab.ui import review as panel
from lab.ui import texts


@pytest.fixture
def run_() -> Run:
    run_ = new_run()
    append_rows(run_.pairs_file, [Pair(f"p{i}", "=1+1", f"이야기 {i}").row() for i in range(20)])
    rows = [
        Verdict(
            f"p{i}",
            i % 2 == 0,
            () if i % 2 == 0 else ("pii",),
            {"chars": 200, "found": {} if i % 2 == 0 else {"pii": None}},
            3.0 + i / 10 if i % 2 == 0 else None,
        )
        for i in range(20)
    ]
    append_rows(run_.verdicts_file, [v.row() for v in rows])
    return run_


def test_the_sample_takes_from_every_stratum_and_stays_when_verdicts_change(run_: Run, tmp_path: Path) -> None:
    chosen = review.sample(run_, 6)
    assert sorted((v.kept, v.judge and int(v.judge)) for _, v in chosen) == [
        (False, None), (False, None), (True, 3), (True, 3), (True, 4), (True, 4),
    ]  # fmt: skip
    review.export_csv(run_, tmp_path / "a.csv", 6)
    apply_cut(run_, FilterConfig(min_score=5))
    assert [p.id for p, _ in review.sample(run_, 6)] == [p.id for p, _ in chosen]
    assert {p.id for p, _ in review.sample(run_, 10)} > {p.id for p, _ in chosen}


def test_reviewers_walk_the_same_stories_each_at_their_own_pace(run_: Run, tmp_path: Path) -> None:
    review.export_csv(run_, tmp_path / "a.csv", 6)
    first = review.desk(run_, "가")
    assert (first.seen, first.total) == (0, 6)
    review.say_word(run_, "가", first.pair.id, True, 4)
    second = review.desk(run_, "가")
    review.say_word(run_, "가", second.pair.id, None)
    assert second.pair.id != first.pair.id and review.desk(run_, "가").seen == 2
    assert review.desk(run_, "나").pair == first.pair
    assert review.undo(run_, "가") == second.pair.id and review.desk(run_, "가") == second
    assert review.undo(run_, "가") == first.pair.id and review.desk(run_, "가") == first
    assert review.undo(run_, "가") is None


def test_a_word_needs_a_name_and_a_story_of_the_sample(run_: Run, tmp_path: Path) -> None:
    review.export_csv(run_, tmp_path / "a.csv", 6)
    drawn = review.sample(run_)
    with pytest.raises(Problem, match="name"):
        review.say_word(run_, " ", drawn[0][0].id, True)
    outside = ({f"p{i}" for i in range(20)} - {p.id for p, _ in drawn}).pop()
    review.say_word(run_, "가", outside, True)
    assert not run_.reviews_file.exists()


def test_agreement_precision_and_the_best_threshold_come_from_the_reviewed_rows(run_: Run) -> None:
    assert review.review_summary(run_)["filter"]["kappa"] is None
    for i in range(20):
        # People drop two of the ten that the filter keeps, the two with the lowest scores, and agree with its drops.
        review.say_word(run_, "가", f"p{i}", i % 2 == 0 and i >= 4)
    summary = review.review_summary(run_)
    assert summary["reviewed"] == 20 and summary["reviewers"] == {"가": 20} and summary["pending"] == 20
    assert summary["precision"]["share"] == pytest.approx(0.8)
    assert summary["precision"]["low"] < 0.8 < summary["precision"]["high"]
    assert summary["filter"]["kappa"] == pytest.approx(0.8)
    assert summary["filter"]["low"] < 0.8 <= summary["filter"]["high"]
    assert summary["best_threshold"] == 3.3
    apply_cut(run_, checked(run_.config("filter"), min_score=3.3))
    assert review.review_summary(run_)["pending"] == 0
    assert {v.id for v in run_.verdicts() if v.kept} == {f"p{i}" for i in range(4, 20, 2)}


def test_a_rare_stratum_does_not_count_for_more_than_it_stands_for(run_: Run, tmp_path: Path) -> None:
    """Of 20 rows 10 are kept and 10 dropped; a sample of 4 stands for all: each kept row read counts for 5."""
    review.export_csv(run_, tmp_path / "a.csv", 4)
    drawn = review.sample(run_)
    for p, _ in drawn:
        review.say_word(run_, "가", p.id, True)
    assert review.review_summary(run_)["precision"]["share"] == 1
    assert review.share([True, False], [9.0, 1.0])["share"] == 0.9


def test_a_csv_goes_out_guarded_and_comes_back(run_: Run, tmp_path: Path) -> None:
    file = tmp_path / "검토.csv"
    assert review.export_csv(run_, file, 20) == 20
    rows = list(csv.DictReader(file.open(encoding="utf-8-sig", newline="")))
    assert rows[0]["instruction"] == "'=1+1"
    for row in rows:
        row["keep"], row["quality"] = ("keep" if row["kept"] == "1" else "drop"), "4"
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, review.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    assert review.import_csv(run_, file, "나") == 20
    summary = review.review_summary(run_)
    assert summary["filter"]["kappa"] == 1 and summary["precision"]["share"] == 1 and summary["reviewers"] == {"나": 20}


def test_a_wrong_word_is_named_with_its_line_and_nothing_is_taken(run_: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,keep\np0,keep\np1,maybe\n", "utf-8")
    with pytest.raises(Problem, match="line 3"):
        review.import_csv(run_, file, "나")
    assert not run_.reviews_file.exists()


def test_kappa_is_nothing_by_chance_and_undefined_for_one_class() -> None:
    assert review.kappa([True, True, False, False], [True, False, True, False])["kappa"] == 0
    assert review.kappa([True, True], [True, True])["kappa"] is None


def test_kappa_equals_scikit_learn() -> None:
    rng = random.Random(3)
    a = [rng.random() < 0.6 for _ in range(80)]
    b = [x if rng.random() < 0.8 else not x for x in a]
    assert review.kappa(a, b)["kappa"] == pytest.approx(cohen_kappa_score(a, b))


def test_the_panel_asks_for_a_name_then_shows_the_story_without_the_filter_s_verdict(run_: Run) -> None:
    assert texts.say("review_name", "en") in panel.view(run_, "en", " ")[0]
    shown = panel.view(run_, "ko", "가")[0]
    assert review.desk(run_, "가").pair.output in shown and 'data-act="keep"' in shown and 'data-star="5"' in shown
    assert texts.reason("pii", "ko") not in shown and texts.say("dropped", "ko") not in shown
    for i in range(20):
        review.say_word(run_, "가", f"p{i}", True)
    assert texts.say("review_done", "ko") in panel.view(run_, "ko", "가")[0]
    facts, words, best = panel.summary(run_, "en")
    assert "50%" in facts or "100%" in facts
    assert words["visible"] and "20" in words["value"] and best["visible"]
