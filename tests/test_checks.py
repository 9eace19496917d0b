"""The deterministic checks: one line a rule, and the two labelled sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.checks import REASONS, check_pair
from lab.config import FilterConfig
from lab.domain import reference_stories
from lab.records import Pair

FIXTURES = Path(__file__).parent / "fixtures"
STORY = (
    "토끼 토토는 꽃밭에서 놀았어요. 그때 하늘에서 빗방울이 톡톡 떨어졌지요. 토토는 커다란 잎 아래로 쏙 들어갔어요. "
    '"개미야, 너도 이리 와!" 토토가 부르자 개미가 쪼르르 달려왔어요. 둘은 나란히 앉아 빗소리를 들었어요. '
    "비가 그치자 산 너머에 무지개가 떴답니다. 둘은 손을 잡고 무지개를 오래오래 바라보았어요."
)


def reasons(text: str, finish: str = "stop", keywords: tuple[str, ...] = ("꽃", "비")) -> set[str]:
    pair = Pair("x", "토끼 토토가 나오는 동화를 써 줘. 꽃과 비를 넣어 줘.", text, "토끼 토토", keywords, finish=finish)
    return {f.reason for f in check_pair(pair, FilterConfig())[0]}


def test_a_good_story_passes_with_key_words_inside_compounds() -> None:
    assert reasons(STORY) == set()


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("too_short", STORY[:60] + "."),
        ("too_long", STORY * 4),
        ("truncated", STORY[:-5]),
        ("repetition", STORY + " 정말" * 12 + " 좋았어요."),
        ("refusal", "죄송하지만 이 이야기는 작성해 드리기 어렵습니다. " + STORY),
        ("meta", "물론이죠! 동화를 써 드릴게요.\n" + STORY),
        ("prompt_echo", "주인공: 토끼 토토\n" + STORY),
        ("foreign_script", STORY + " 非常 좋았어요."),
        ("english_mix", STORY + " 정말 happy했어요."),
        ("broken_text", STORY + "<|im_end|>"),
        ("missing_character", STORY.replace("토토", "토리")),
        ("missing_keyword", STORY.replace("꽃밭", "마당")),
        ("unsafe", STORY + " 토토는 담배를 피웠어요."),
        ("bias", STORY + " 여자답게 얌전해야 해요."),
        ("pii", STORY + " 번호는 010-1234-5678이에요."),
        ("not_a_story", "질문: 토토는 누구인가요?\n답: 토끼예요.\n질문: 꽃은요?\n답: 비가 오면 펴요."),
        ("wrong_register", STORY + " 야, 닥쳐! 이 병신아."),
        ("ungrammatical", STORY + " 우산를 폈어요."),
        ("off_prompt", STORY + " 매출과 승진과 대출을 걱정했어요."),
    ],
)
def test_each_rule_sees_its_fault(reason: str, text: str) -> None:
    assert reason in reasons(text) and reason in REASONS


@pytest.mark.parametrize(
    "extra",
    [
        " 데굴데굴, 데굴데굴! 영차, 영차! 영차, 영차!",
        ' "물론이죠!" 토토가 대답했어요.',
        ' "죄송해요, 할머니." 토토가 말했어요.',
        " 119에 전화하니 3층까지 사다리가 올라왔어요.",
        ' "남자는 울면 안 돼." "아니야, 누구나 울 수 있어."',
        " 토토는 숨을 죽이고 기다렸어요.",
    ],
)
def test_what_good_authors_write_passes(extra: str) -> None:
    assert reasons(STORY + extra) == set()


def test_the_token_limit_counts_as_truncated() -> None:
    assert reasons(STORY, finish="length") == {"truncated"}


def test_a_finding_points_at_its_words() -> None:
    pair = Pair("x", "", STORY + " 정말 happy했어요.", "토끼 토토", ("꽃",))
    (found,) = check_pair(pair, FilterConfig())[0]
    assert pair.output[found.start : found.end] == "happy"


def test_reference_stories_pass() -> None:
    pairs = [
        Pair(r["id"], r["instruction"], r["output"], r["character"], tuple(r["keywords"])) for r in reference_stories()
    ]
    assert [p.id for p in pairs if check_pair(p, FilterConfig())[0]] == []


@pytest.mark.parametrize("name", ["filter_dev.jsonl", "filter_hard.jsonl"])
def test_labelled_sets(name: str) -> None:
    """Measured: every good row kept, every rule-level row caught by a reason that is named (near-duplicates aside)."""
    good, caught, named = [], [], []
    for r in map(json.loads, (FIXTURES / name).read_text("utf-8").splitlines()):
        found = {
            f.reason
            for f in check_pair(
                Pair(r["id"], r["instruction"], r["output"], r["character"], tuple(r["keywords"])), FilterConfig()
            )[0]
        }
        if r["label"] == "keep":
            good.append(not found)
        elif r["level"] == "rule" and "near_duplicate" not in r["reasons"]:
            caught.append(bool(found))
            named.append(bool(found & set(r["reasons"])))
    assert all(good) and all(caught) and all(named)
