"""Human review: sample, CSV, agreement."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lab import review
from lab.problems import Problem
from lab.records import Pair, Verdict, append_rows
from lab.run import Run, new_run


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
            4.0 if i % 2 == 0 else None,
        )
        for i in range(20)
    ]
    append_rows(run_.verdicts_file, [v.row() for v in rows])
    return run_


def test_the_sample_takes_from_every_stratum_and_is_stable(run_: Run) -> None:
    chosen = review.sample(run_, 6)
    assert sum(v.kept for _, v in chosen) == 3
    assert chosen == review.sample(run_, 6)


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
    assert summary["filter"]["kappa"] == 1 and summary["precision"] == 1 and summary["reviewers"] == ["나"]


def test_a_wrong_word_is_named_with_its_line_and_nothing_is_taken(run_: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,keep\np0,keep\np1,maybe\n", "utf-8")
    with pytest.raises(Problem, match="line 3"):
        review.import_csv(run_, file, "나")
    assert not run_.reviews_file.exists()


def test_kappa_is_nothing_by_chance_and_undefined_for_one_class() -> None:
    assert review.kappa([True, True, False, False], [True, False, True, False])["kappa"] == 0
    assert review.kappa([True, True], [True, True])["kappa"] is None
