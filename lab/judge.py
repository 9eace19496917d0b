"""The judge: a score from 1 to 5 and a short reason in Korean for a story that the rules let pass.

Three kinds: ``mini`` works offline (the embedded teacher's surprise at the story under a small trained model),
a local instruct model (the expectation over its digit tokens), and an endpoint (``api:MODEL``, JSON).

``python -m lab.judge`` trains the mini judge anew; do it whenever the mini teacher's weights change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lab.checks import narration, sentences
from lab.domain import DATA, characters, choices, fill, phrasings, short_name, templates
from lab.problems import Problem
from lab.records import Pair, read_json, write_json

MODEL_FILE = DATA / "mini" / "judge.json"
Opinion = tuple[float | None, str]
"""Score 1-5 or None (unparsable), and the reason."""

RUBRIC = """3~5세 아이에게 읽어 줄 동화를 심사합니다.
5점: 요청한 주인공과 낱말로 쓴 따뜻하고 자연스러운 완결된 이야기
4점: 작은 흠이 있는 좋은 이야기
3점: 어색한 곳이 있지만 읽어 줄 만한 이야기
2점: 문장이 어색하거나 앞뒤가 맞지 않거나 요청과 다른 글
1점: 동화가 아니거나 아이에게 해롭거나 알아볼 수 없는 글"""
FEATURES = (
    "mean",
    "spread",
    "worst_sentence",
    "second_worst",
    "rare_share",
    "dialogue",
    "name_share",
    "sentence_chars",
)


def judge_pairs(pairs: Sequence[Pair], spec: str) -> list[Opinion]:
    """An opinion for every pair, in order. ``spec``: mini, a local model or api:MODEL."""
    if spec == "mini":
        return _mini(pairs)
    return _endpoint(pairs, spec) if spec.startswith("api:") else _local(pairs, spec)


def identity(spec: str) -> str:
    """A name for the judge that changes when its answers may: weights of a local one, address of an endpoint."""
    from lab.models import fingerprint, resolve

    if spec == "mini":
        trained = hashlib.sha256(MODEL_FILE.read_bytes() if MODEL_FILE.exists() else b"").hexdigest()[:12]
        return f"mini {trained} {fingerprint(resolve('mini:teacher'))}"
    if spec.startswith("api:"):
        return f"{spec} {os.environ.get('OPENAI_BASE_URL', '')}".strip()
    return f"{spec} {fingerprint(resolve(spec))}"


def same_family(judge: str, teachers: Sequence[str]) -> str:
    """The family name that judge and a teacher share (qwen, llama, ...), else an empty string."""

    def family(spec: str) -> str:
        found = re.search(r"qwen|llama|gemma|exaone|gpt|mistral|solar|kanana|claude|phi|mini", spec.lower())
        return found[0] if found else ""

    own = family(judge)
    return own if own and own in {family(t) for t in teachers} else ""


@lru_cache(maxsize=2)
def _open(spec: str) -> Any:
    from lab.models import open_model

    return open_model(spec)


def features(pairs: Sequence[Pair], teacher: str) -> list[list[float]]:
    """One row of ``FEATURES`` a pair. Surprise is in nats per token under the teacher given the instruction."""
    model = _open(teacher)
    items = [
        (model.chat_ids(p.instruction), model.tokenizer(p.output, add_special_tokens=False)["input_ids"]) for p in pairs
    ]
    rows = []
    for pair, (_, ids), scores in zip(pairs, items, model.score(items), strict=True):
        loss = [-s for s in scores[: len(ids)]] or [0.0]
        mean = sum(loss) / len(loss)
        # Sentences by their own tokens: decoded pieces that hold a final mark end one.
        parts: list[list[float]] = [[]]
        for token, value in zip(ids, loss, strict=False):
            parts[-1].append(value)
            if re.search(r"[.!?]", model.tokenizer.decode([token])):
                parts.append([])
        means = sorted((sum(p) / len(p) for p in parts if len(p) > 3), reverse=True) or [mean]
        lines = sentences(pair.output) or ("",)
        name = short_name(pair.character) if pair.character.strip() else ""
        rows.append(
            [
                mean,
                math.sqrt(sum((x - mean) ** 2 for x in loss) / len(loss)),
                means[0],
                means[min(1, len(means) - 1)],
                sum(x > 6 for x in loss) / len(loss),
                1 - len(narration(pair.output).replace(" ", "")) / max(1, len(pair.output.replace(" ", ""))),
                sum(name in s for s in lines) / len(lines) if name else 0.3,
                min(80.0, len(pair.output) / len(lines)),
            ]
        )
    return rows


def _mini(pairs: Sequence[Pair], teacher: str = "mini:teacher") -> list[Opinion]:
    trained = read_json(MODEL_FILE)
    if trained is None:
        raise Problem(
            "The mini judge is not trained yet (data/mini/judge.json is missing). Run `python -m lab.judge`, or use --judge none.",
            "mini 심사 모델이 아직 없습니다(data/mini/judge.json 없음). `python -m lab.judge` 를 실행하거나 --judge none 을 쓰세요.",
        )
    return [_opinion(row, trained) for row in features(pairs, teacher)]


def _opinion(row: list[float], trained: dict[str, Any]) -> Opinion:
    parts = [
        w * (x - m) / s for w, x, m, s in zip(trained["weights"], row, trained["means"], trained["scales"], strict=True)
    ]
    # The bias is set in training so that a story at the threshold has probability 0.5 and scores 3.
    good = 1 / (1 + math.exp(-max(-30.0, min(30.0, sum(parts) + trained["bias"]))))
    score = round(1 + 4 * good, 2)
    if score >= 3:
        return score, "문장이 자연스럽습니다."
    worst = FEATURES[min(range(len(parts)), key=parts.__getitem__)]
    reasons = {
        "mean": "전체 문장이 동화답지 않거나 어색합니다.",
        "worst_sentence": "몹시 어색한 문장이 있습니다.",
        "second_worst": "어색한 문장이 여럿 있습니다.",
        "rare_share": "뜻을 알기 어려운 낱말이 많습니다.",
        "name_share": "주인공이 이야기에 잘 드러나지 않습니다.",
    }
    return score, reasons.get(worst, "문장의 흐름이 고르지 않습니다.")


def _local(pairs: Sequence[Pair], spec: str) -> list[Opinion]:
    """Expectation over the digits 1-5 as the next token: one forward pass a story, and never unparsable."""
    import torch

    model = _open(spec)
    digits = [model.tokenizer(str(d), add_special_tokens=False)["input_ids"][-1] for d in range(1, 6)]
    prompts = [
        model.messages_ids(
            [
                {
                    "role": "user",
                    "content": f"{RUBRIC}\n\n[요청]\n{p.instruction}\n\n[글]\n{p.output}\n\n점수를 숫자 하나로만 답하세요.",
                }
            ]
        )
        for p in pairs
    ]
    shares = torch.softmax(model.next_token_logprobs(prompts)[:, digits].float(), dim=-1)
    scores = (shares @ torch.arange(1.0, 6.0, device=shares.device)).tolist()
    return [(round(s, 2), "점수 숫자의 기댓값입니다.") for s in scores]


def parse(text: str) -> Opinion:
    """Score and reason from a judge's JSON; (None, "") if there is no score from 1 to 5."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        value = json.loads(found[0]) if found else {}
        score = float(value["score"])
    except (ValueError, KeyError, TypeError):
        return None, ""
    return (score, str(value.get("reason", ""))[:200]) if 1 <= score <= 5 else (None, "")


def _endpoint(pairs: Sequence[Pair], spec: str, tries: int = 3) -> list[Opinion]:
    """Ask an OpenAI-compatible endpoint; an answer that cannot be read is asked for again, then stays None."""
    from concurrent.futures import ThreadPoolExecutor

    import openai

    try:
        client = openai.OpenAI(max_retries=4)
    except openai.OpenAIError as error:
        raise Problem(
            f"The judge {spec} cannot be reached: {error}. Set OPENAI_BASE_URL and OPENAI_API_KEY.",
            f"심사 모델 {spec} 에 연결할 수 없습니다: {error}. OPENAI_BASE_URL, OPENAI_API_KEY 환경 변수를 설정해 주세요.",
        ) from None

    def ask(pair: Pair) -> Opinion:
        content = f'{RUBRIC}\n\n[요청]\n{pair.instruction}\n\n[글]\n{pair.output}\n\nJSON으로만 답하세요: {{"score": 1~5, "reason": "짧은 한국어 이유"}}'
        for attempt in range(tries):
            try:
                answer = client.chat.completions.create(
                    model=spec.removeprefix("api:"),
                    messages=[{"role": "user", "content": content}],
                    temperature=0.0 if attempt == 0 else 0.5,
                    response_format={"type": "json_object"},
                )
            except openai.OpenAIError as error:
                raise Problem(
                    f"The judge {spec} failed: {error}. Check the address, key and model name, then run filter again.",
                    f"심사 모델 {spec} 오류: {error}. 주소, 키, 모델 이름을 확인한 뒤 다시 실행해 주세요.",
                ) from None
            opinion = parse(answer.choices[0].message.content or "")
            if opinion[0] is not None:
                return opinion
        return None, ""

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, pairs))


def filled(rng: random.Random, template: dict) -> Pair:
    """A template with random slots as a pair."""
    main, friend = rng.sample(characters(), 2)
    k1 = rng.choice(template["k1"])
    k2 = rng.choice([k for k in template["k2"] if k != k1] or template["k2"])
    phrasing = rng.choice(phrasings())
    slots = {"A": main, "a": short_name(main), "B": friend, "b": short_name(friend), "k1": k1, "k2": k2}
    slots |= {n: rng.choice(choices()[n]) for n in ("place", "moral", "tone", "opening") if n in phrasing["uses"]}
    return Pair("", fill(phrasing["text"], slots), fill(template["text"], slots), main, (k1, k2))


def corrupted(rng: random.Random, pair: Pair, other: Pair) -> Pair:
    """A story made bad: sentences of another one, shuffled words or syllables, wrong particles, another ending style."""
    parts = re.findall(r"[^.!?]+[.!?]+[\"”]?\s*", pair.output) or [pair.output]
    foreign = re.findall(r"[^.!?]+[.!?]+[\"”]?\s*", other.output) or [other.output]
    kind = rng.choice(("mixed", "words", "syllables", "particles", "report"))
    if kind == "mixed":
        parts = [rng.choice(foreign) if rng.random() < 0.5 else p for p in parts]
        rng.shuffle(parts)
    elif kind == "words":
        parts = [" ".join(rng.sample(w := p.split(), len(w))) + " " if rng.random() < 0.6 else p for p in parts]
    elif kind == "syllables":
        parts = [
            " ".join("".join(rng.sample(w, len(w))) if rng.random() < 0.25 else w for w in p.split()) + " "
            for p in parts
        ]
    elif kind == "particles":
        swap = {"은": "에게", "는": "를", "을": "이", "를": "에서", "가": "의", "이": "로", "에": "은"}
        parts = [
            re.sub(r"[은는을를가이에](?= )", lambda m: swap[m[0]] if rng.random() < 0.5 else m[0], p) for p in parts
        ]
    else:
        parts = [re.sub(r"(?:어요|아요|답니다|지요)\.", "는 것으로 나타났다.", p) for p in parts]
    return Pair("", pair.instruction, "".join(parts).strip(), pair.character, pair.keywords)


def train(teacher: str, count: int = 400, seed: int = 0) -> dict[str, Any]:
    """Fit the mini judge and write data/mini/judge.json.

    Good: filled templates, and stories that people labelled good (filter_dev) beside them, as the teacher knows its
    templates by heart. Bad: corrupted copies of both. The threshold keeps 97 % of the people's good stories.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rng = random.Random(seed)
    fixture = DATA.parent / "tests" / "fixtures" / "filter_dev.jsonl"
    labelled = [json.loads(line) for line in fixture.read_text("utf-8").splitlines()]
    people = [
        Pair("", r["instruction"], r["output"], r["character"], tuple(r["keywords"]))
        for r in labelled
        if r["label"] == "keep"
    ]
    good = [filled(rng, t) for t in rng.sample(templates(), min(count, len(templates())) // 2)] + people
    bad = [corrupted(rng, p, rng.choice(good)) for p in good]
    x = np.array(features(good + bad, teacher))
    y = np.array([1] * len(good) + [0] * len(bad))
    weight = np.array([3.0 if i % len(good) >= len(good) - len(people) else 1.0 for i in range(len(y))])
    means, scales = x.mean(0), x.std(0) + 1e-6
    model = LogisticRegression(C=0.3, max_iter=1000).fit((x - means) / scales, y, sample_weight=weight)
    raw = ((x - means) / scales) @ model.coef_[0]
    threshold = float(np.quantile(raw[len(good) - len(people) : len(good)], 0.03))
    trained = {
        "features": list(FEATURES),
        "weights": model.coef_[0].tolist(),
        "bias": -threshold,
        "means": means.tolist(),
        "scales": scales.tolist(),
        "kept": {
            "good": float((raw[: len(good)] >= threshold).mean()),
            "corrupted": float((raw[len(good) :] >= threshold).mean()),
        },
    }
    write_json(MODEL_FILE, trained)
    return trained


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the mini judge anew for the mini teacher's present weights.")
    parser.add_argument("--teacher", default="mini:teacher")
    print(json.dumps(train(parser.parse_args().teacher)["kept"]))
