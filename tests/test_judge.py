"""The judge: parsing answers, families, and the trained mini judge's arithmetic."""

from __future__ import annotations

import random

from lab import judge
from lab.domain import templates
from lab.records import read_json


def test_an_answer_is_json_with_a_score_or_unparsable() -> None:
    assert judge.parse('네. {"score": 4, "reason": "따뜻한 이야기"}') == (4.0, "따뜻한 이야기")
    assert judge.parse("좋아요") == (None, "")
    assert judge.parse('{"score": 9}') == (None, "")


def test_judge_and_teacher_of_one_family_are_noticed() -> None:
    assert judge.same_family("Qwen/Qwen2.5-7B-Instruct", ["Qwen/Qwen2.5-1.5B-Instruct"]) == "qwen"
    assert judge.same_family("api:gpt-oss-20b", ["mini:teacher"]) == ""


def test_more_surprise_means_a_lower_score() -> None:
    trained = read_json(judge.MODEL_FILE)
    calm, startled = list(trained["means"]), list(trained["means"])
    for i in (0, 2):
        calm[i] -= 2 * trained["scales"][i]
        startled[i] += 2 * trained["scales"][i]
    assert 1 <= judge._opinion(startled, trained)[0] < judge._opinion(calm, trained)[0] <= 5


def test_a_corrupted_story_differs_from_its_original() -> None:
    rng = random.Random(0)
    pair, other = judge.filled(rng, templates()[0]), judge.filled(rng, templates()[1])
    assert judge.corrupted(rng, pair, other).output != pair.output
