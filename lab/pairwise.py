"""Two models, the same prompts, one question: whose story is better? Asked of a judge in both orders.

A judge prefers what stands first and what is longer. So every pair is shown in both orders, and a story wins only
when it wins both; and beside the plain win rate stands the one at equal length (Dubois et al. 2024): a logistic
regression of the outcome on the difference of lengths, read where the lengths are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.intervals import RESAMPLES, interval, mean
from lab.records import Pair

TIE = 0.25
"""Points of a 1-5 judge within which two stories are equally good: half of the step between two neighbouring grades
is what such a judge can tell apart."""
RIDGE = 0.05
"""Penalty that keeps the regression finite when one side wins everything; 20 prompts outweigh it ten to one."""
QUESTION = """두 동화 가운데 어느 쪽이 3~5세 아이에게 읽어 주기에 더 좋은가요?
부탁한 주인공과 낱말을 썼는지, 앞뒤가 맞고 자연스러운지, 따뜻하게 끝나는지를 봅니다. 길이와 순서는 보지 않습니다.

[부탁]
{instruction}

[A]
{first}

[B]
{second}

"""


Outcome = tuple[float, bool] | None
"""1 if the first story wins, 0 if the second, 0.5 a tie, and whether the two orders disagreed; None if unreadable."""


def by_marks(a: Sequence[float | None], b: Sequence[float | None]) -> list[Outcome]:
    """Outcomes of a judge that scored each story by itself, so that order cannot matter."""
    return [None if x is None or y is None else (_by_score(x - y), False) for x, y in zip(a, b, strict=True)]


def outcomes(a: Sequence[Pair], b: Sequence[Pair], judge: str) -> list[Outcome]:
    """Outcomes of a judge that sees both stories, in both orders.

    ``judge``: a local model (its next-token choice between A and B), or ``api:MODEL`` (asked for JSON).
    """
    shown = [QUESTION.format(instruction=x.instruction, first=x.output, second=y.output) for x, y in zip(a, b, strict=True)]  # fmt: skip
    turned = [QUESTION.format(instruction=x.instruction, first=y.output, second=x.output) for x, y in zip(a, b, strict=True)]  # fmt: skip
    said = _choices([*shown, *turned], judge)
    both = zip(said[: len(a)], said[len(a) :], strict=True)
    return [None if x is None or y is None else _by_both(x, 1 - y) for x, y in both]


def _by_score(gap: float) -> float:
    return 0.5 if abs(gap) < TIE else float(gap > 0)


def _by_both(first: float, second: float) -> tuple[float, bool]:
    """The outcome of two askings (1 for ``a``, 0 for ``b``, 0.5 for no choice): a win needs both."""
    disagreed = (first > 0.5) != (second > 0.5) and 0.5 not in (first, second)
    return (first if first == second else 0.5), disagreed


def _choices(questions: list[str], judge: str) -> list[float | None]:
    """1 where the judge takes A, 0 where it takes B, 0.5 where it says that they are equal."""
    from lab.models import LocalModel, Sampling, open_model

    model = open_model(judge)
    try:
        if isinstance(model, LocalModel):
            letters = [model.tokenizer(x, add_special_tokens=False)["input_ids"][-1] for x in ("A", "B")]
            asked = [model.chat_ids(q + "더 좋은 동화의 글자 하나만 답하세요: A 또는 B") for q in questions]
            found = model.next_token_logprobs(asked)[:, letters]
            return [float(row[0] > row[1]) for row in found.tolist()]
        asked_for = 'JSON으로만 답하세요: {"better": "A" 또는 "B" 또는 "same"}'
        said: list[float | None] = [None] * len(questions)
        for i, answer in model.write([q + asked_for for q in questions], Sampling(0.0, 1.0, 64), [0] * len(questions)):
            said[i] = parse(answer.text)
        return said
    finally:
        model.close()


def parse(text: str) -> float | None:
    """The choice in a judge's JSON; None if there is none."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        better = str(json.loads(found[0])["better"]).strip().lower() if found else ""
    except (ValueError, KeyError, TypeError):
        return None
    return {"a": 1.0, "b": 0.0, "same": 0.5}.get(better)


def duel(
    a: Sequence[Pair],
    b: Sequence[Pair],
    judge: str,
    marks: tuple[Sequence[float | None], Sequence[float | None]] | None = None,
) -> dict[str, Any] | None:
    """``a`` against ``b``: wins, losses, ties, win rate (a tie counts half) and the same at equal length; with intervals.

    With ``marks`` the judge has scored both sides already and is not asked again. None when nothing could be read.
    """
    found = by_marks(*marks) if marks else outcomes(a, b, judge)
    usable = [i for i, x in enumerate(found) if x is not None]
    if not usable:
        return None
    score = np.array([found[i][0] for i in usable])
    longer = np.array([len(a[i].output) - len(b[i].output) for i in usable], float)
    return {
        "judge": judge,
        "orders": 1 if marks else 2,
        "prompts": len(usable),
        "unreadable": len(found) - len(usable),
        "wins": int((score == 1).sum()),
        "losses": int((score == 0).sum()),
        "ties": int((score == 0.5).sum()),
        "disagreed": sum(found[i][1] for i in usable) / len(usable),
        "longer_by": float(longer.mean()),
        "win_rate": interval(mean(score)),
        "win_rate_at_equal_length": at_equal_length(score, longer),
    }


def at_equal_length(score: np.ndarray, longer: np.ndarray) -> dict[str, float]:
    """The win rate that the regression gives where both stories are equally long, with a bootstrap interval.

    ``score`` is 1, 0.5 or 0 for each prompt, ``longer`` how many characters the first story has more.
    """
    x = np.tanh(longer / (longer.std() or 1.0))
    index = np.random.default_rng(0).integers(0, len(x), size=(RESAMPLES, len(x)))
    value = float(_fit(score[None], x[None])[0])
    low, high = np.percentile(_fit(score[index], x[index]), [2.5, 97.5])
    return {"value": value, "low": float(min(low, value)), "high": float(max(high, value)), "n": len(x)}


def _fit(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Newton's method for logit(p) = a + b x on every row at once; the probability at x = 0."""
    a, b = np.zeros(len(y)), np.zeros(len(y))
    for _ in range(25):
        p = 1 / (1 + np.exp(-(a[:, None] + b[:, None] * x)))
        w, r = p * (1 - p), y - p
        ga, gb = r.sum(1) - RIDGE * a, (r * x).sum(1) - RIDGE * b
        aa, ab, bb = w.sum(1) + RIDGE, (w * x).sum(1), (w * x * x).sum(1) + RIDGE
        det = aa * bb - ab * ab
        # Steps are held to 2, as the first one may overshoot when one side wins nearly all.
        a += np.clip((bb * ga - ab * gb) / det, -2, 2)
        b += np.clip((aa * gb - ab * ga) / det, -2, 2)
    return 1 / (1 + np.exp(-a))
