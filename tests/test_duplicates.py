"""Near-duplicates: which one survives, how many are found, the same on disk and in memory."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from lab.duplicates import SAME, Sketches, near_duplicates, sketch

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "fixtures" / "filter_dev.jsonl").read_text("utf-8").splitlines()
]


def test_of_near_duplicates_the_first_without_another_fault_survives() -> None:
    a = "토끼는 아침 일찍 일어나 당근밭에 물을 주고 노래를 불렀어요. 당근이 쑥쑥 자랐지요."
    b, other = a.replace("노래를", "콧노래를"), "여우는 밤마다 언덕에 올라 별을 세다가 스르르 잠이 들었답니다."
    both = sketch([a, other, b])
    assert near_duplicates(both, [True, True, True]) == {2: (0, pytest.approx(0.86, abs=0.01))}
    assert near_duplicates(both, [False, True, True]) == {}
    assert set(near_duplicates(both, [True, True, False])) == {2}
    # Reference stories come first and are never themselves called copies.
    assert set(near_duplicates(sketch([a, a, b]), [True] * 3, known=2)) == {2}


def test_retouched_copies_are_found_with_a_measured_recall() -> None:
    """Of 200 stories with words replaced until half of the shingles differ, at most one in twenty escapes the banding."""
    rng = random.Random(0)
    letters = [chr(c) for c in range(0xAC00, 0xAC00 + 2000)]
    texts, similar = [], []
    for _ in range(200):
        words = ["".join(rng.choices(letters, k=3)) for _ in range(80)]
        changed = [w if rng.random() > 0.16 else "".join(rng.choices(letters, k=3)) for w in words]
        texts += [" ".join(words), " ".join(changed)]
    sketches = sketch(texts)
    sets = sketches.sets
    for i in range(0, 400, 2):
        both = len(np.intersect1d(sets[i], sets[i + 1]))
        similar.append(both / (len(sets[i]) + len(sets[i + 1]) - both) >= SAME)
    found = near_duplicates(sketches, [True] * 400)
    assert sum(similar) > 100 and len(found) >= 0.95 * sum(similar)
    assert all(found[i][0] == i - 1 for i in found)


def test_what_shares_one_half_is_no_copy_and_is_found_to_be_none_by_the_marks_alone() -> None:
    """Halves of a template in common make candidates by the thousand; none of them needs the exact comparison."""
    rng = random.Random(1)
    letters = [chr(c) for c in range(0xAC00, 0xAC00 + 2000)]
    half = "".join(rng.choices(letters, k=200))
    sketches = sketch([half + "".join(rng.choices(letters, k=300)) for _ in range(60)])
    read: list[int] = []

    class Watched(list):
        def __getitem__(self, row: int) -> np.ndarray:
            read.append(row)
            return super().__getitem__(row)

    watched = Sketches(Watched(sketches.sets), sketches.bands, sketches.marks)
    assert near_duplicates(watched, [True] * 60) == {} and len(read) < 60


def test_sketches_that_wait_on_disk_come_back_as_they_were(tmp_path: Path) -> None:
    held = sketch([r["output"] for r in ROWS])
    stored = Sketches.on_disk(len(ROWS), tmp_path)
    for start in range(0, len(ROWS), 40):
        stored.put(sketch([r["output"] for r in ROWS[start : start + 40]]))
    assert all(np.array_equal(a, b) for a, b in zip(stored.sets, held.sets, strict=True))
    found = near_duplicates(stored, [True] * len(ROWS), folder=tmp_path)
    assert found == near_duplicates(held, [True] * len(ROWS)) and found
    assert not list(tmp_path.iterdir())
