"""The filter stage: near-duplicates, cutting again, people's word, the dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_from_disk

from lab.config import FilterConfig
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_rows
from lab.run import Run, new_run
from lab.stages import filter as stage

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


def test_of_near_duplicates_the_first_without_another_fault_survives() -> None:
    a = "토끼는 아침 일찍 일어나 당근밭에 물을 주고 노래를 불렀어요. 당근이 쑥쑥 자랐지요."
    b = a.replace("노래를", "콧노래를")
    assert set(stage.near_duplicates([a, b], [True, True])) == {1}
    assert stage.near_duplicates([a, b], [False, True]) == {}
    assert stage.near_duplicates([a], [True], [("known", b)])[0][0] == "known"


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


def test_the_pass_curve_falls() -> None:
    curve = stage.pass_curve([1.0, 3.0, 5.0, None])
    assert curve[0] == (1.0, 1.0) and curve[-1][1] == pytest.approx(1 / 3)
