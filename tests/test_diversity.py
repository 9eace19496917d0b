"""Diversity numbers against counting by hand."""

from __future__ import annotations

import random

import pytest

from lab import diversity, domain


def test_distinct_counts_different_word_sequences() -> None:
    assert diversity.distinct(["토끼 토끼 곰"]) == {"distinct_1": 0.6667, "distinct_2": 1.0, "distinct_3": 1.0}
    assert diversity.distinct([]) == {"distinct_1": 0.0, "distinct_2": 0.0, "distinct_3": 0.0}
    rng = random.Random(0)
    texts = [" ".join(rng.choice("가나다라마") for _ in range(rng.randrange(0, 9))) for _ in range(50)]
    for n in (1, 2, 3):
        grams = [tuple(w[i : i + n]) for w in map(str.split, texts) for i in range(len(w) - n + 1)]
        assert diversity.distinct(texts)[f"distinct_{n}"] == pytest.approx(len(set(grams)) / len(grams), abs=1e-4)


def test_self_bleu_tells_copies_from_different_stories() -> None:
    stories = [s["output"] for s in domain.reference_stories()[:8]]
    assert diversity.self_bleu([stories[0]] * 5) == pytest.approx(100)
    assert diversity.self_bleu(stories) < 40
    assert diversity.self_bleu(stories[:1]) is None


def test_retouched_copies_are_near_duplicates() -> None:
    stories = [s["output"] for s in domain.reference_stories()[:6]]
    assert diversity.near_duplicate_share(stories) == 0
    copy = stories[0].replace("토토", "보리")
    assert diversity.near_duplicate_share([*stories, copy]) == pytest.approx(1 / 7, abs=1e-3)


def test_groups_are_measured_apart() -> None:
    found = diversity.by_group(["가 나 다", "가 나", "라"], ["i1", "i1", "i2"], [True, False, False])
    assert found["i1"] == {"pairs": 2, "characters": 4.0, "cut_off": 0.5, "distinct_2": 0.6667}
    assert found["i2"]["pairs"] == 1
