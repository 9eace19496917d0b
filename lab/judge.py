"""The judge: a score from 1 to 5 and a short reason in Korean for a story that the rules let pass.

Three kinds: ``mini`` works offline (the embedded teacher's surprise at the story, and a small language model's at its
particles and endings, under a small trained model), a local instruct model (the expectation over its digit tokens), and an endpoint (``api:MODEL``, JSON).

``python -m lab.judge`` trains the mini judge anew and measures it on the labelled rows; do it whenever the mini
teacher's weights change. ``python -m lab.judge --evaluate JUDGE`` measures any judge on them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from lab.checks import check_pair, narration, sentences
from lab.config import FilterConfig
from lab.domain import DATA, SLOT, characters, choices, fill, phrasings, short_name, templates, words
from lab.morphemes import analyser
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
ANSWER: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "opinion",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"score": {"type": "integer", "enum": [1, 2, 3, 4, 5]}, "reason": {"type": "string"}},
            "required": ["score", "reason"],
            "additionalProperties": False,
        },
    },
}
"""The structured output that an endpoint is asked for; one that ignores it is still read, if it answers in JSON."""
FEATURES = (
    "mean",
    "spread",
    "worst_sentence",
    "second_worst",
    "rare_share",
    "dialogue",
    "name_share",
    "sentence_chars",
    "unknown_words",
    "linked",
    "asked_words",
    "grammar",
    "grammar_rare",
    "endings",
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


@cache
def _trained() -> dict[str, Any]:
    trained = read_json(MODEL_FILE)
    if trained is None:
        raise Problem(
            "The mini judge is not trained yet (data/mini/judge.json is missing). Run `python -m lab.judge`, or use --judge none.",
            "mini 심사 모델이 아직 없습니다(data/mini/judge.json 없음). `python -m lab.judge` 를 실행하거나 --judge none 을 쓰세요.",
        )
    return trained


def lexicon(stories: Sequence[str]) -> set[str]:
    """Content morphemes (form and first letter of the tag, ``토끼/N``) that two or more of the ``stories`` use."""
    seen = Counter(m for story in stories for m in set().union(*content(analysed(story))))
    return {m for m, n in seen.items() if n > 1}


def analysed(text: str) -> list[list[Any]]:
    """The morphemes of every sentence."""
    return list(analyser().tokenize(list(sentences(text))))


def content(analysis: Sequence[Sequence[Any]]) -> list[set[str]]:
    """Nouns, verbs, adjectives and adverbs of every sentence; one-syllable verbs say too little to count."""
    return [
        {f"{t.form}/{t.tag[0]}" for t in tokens if t.tag in ("NNG", "VV", "VA", "MAG", "XR") and len(t.form) > 1}
        for tokens in analysis
    ]


def grammar_tags(analysis: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Every sentence as its morphemes: particles and endings by form, everything else by its part of speech."""
    return [
        [f"{t.form}/{t.tag}" if t.tag[0] in "JEX" or t.tag in ("VCP", "VCN", "SF") else t.tag for t in tokens]
        for tokens in analysis
        if tokens
    ]


def grammar_counts(stories: Sequence[str]) -> dict[str, int]:
    """Counts of one to three successive tags of ``grammar_tags``, joined by spaces; longer ones seen once are left out."""
    counts: Counter[str] = Counter()
    for tags in (tags for story in stories for tags in grammar_tags(analysed(story))):
        padded = ["<", "<", *tags, ">"]
        for i in range(2, len(padded)):
            counts.update(" ".join(padded[i - n : i + 1]) for n in range(3))
    return {k: n for k, n in sorted(counts.items()) if n > 1 or " " not in k}


@cache
def _contexts() -> dict[str, tuple[int, int]]:
    """Of every context of the grammar's counts: how often it stood, and before how many different tags."""
    seen: dict[str, tuple[int, int]] = {}
    for key, n in _trained()["grammar"].items():
        context = key.rpartition(" ")[0]
        total, kinds = seen.get(context, (0, 0))
        seen[context] = (total + n, kinds + 1)
    return seen


def grammar_surprise(tags: Sequence[str]) -> list[float]:
    """Nats for every tag of a sentence and its end, by trigrams with Witten-Bell interpolation.

    Stories share their particles and endings whatever they tell, so this is low for any good story; a report,
    a refusal or wrong particles stand out, which no loss of a teacher that knows its tales by heart can show.
    """
    counts, contexts = _trained()["grammar"], _contexts()
    padded = ["<", "<", *tags, ">"]
    surprise = []
    for i in range(2, len(padded)):
        p = 1 / (contexts[""][1] + 1)
        for n in range(3):
            context = " ".join(padded[i - n : i])
            total, kinds = contexts.get(context, (0, 0))
            if not total:
                break
            p = (counts.get(f"{context} {padded[i]}".strip(), 0) + kinds * p) / (total + kinds)
        surprise.append(-math.log(p))
    return surprise


_DIGITS = "영일이삼사오육칠팔구"


def _in_words(text: str) -> str:
    """The text with its numbers as they are read (12시: 십이시): the stories that the judge knows are written so."""

    def read(number: re.Match[str]) -> str:
        digits = number[0].lstrip("0")
        if not digits or len(digits) > 4:
            return "".join(_DIGITS[int(d)] for d in number[0])
        places = zip(map(int, digits), "천백십 "[-len(digits) :], strict=True)
        return "".join(("" if d == 1 and unit != " " else _DIGITS[d]) + unit.strip() for d, unit in places if d)

    return re.sub(r"[0-9]+", read, text)


def features(pairs: Sequence[Pair], teacher: str) -> list[dict[str, float]]:
    """One row of ``FEATURES`` a pair. Surprise is in nats per token under the teacher given the instruction.

    ``unknown_words`` is the share of content words that no template teller would use (made-up words);
    ``linked`` the share of sentences that take up a content word of the sentences before or of the instruction;
    ``grammar`` the mean of ``grammar_surprise``, ``grammar_rare`` its share above 6, ``endings`` its sum over the last
    four of a sentence.
    """
    model, known = _open(teacher), set(_trained()["lexicon"])
    pairs = [replace(p, output=_in_words(p.output)) for p in pairs]
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
        analysis = analysed(pair.output)
        used = content(analysis)
        plain = [w for line in used for w in line]
        said, linked = set().union(*content(analysed(pair.instruction))), 0
        grammar = [grammar_surprise(tags) for tags in grammar_tags(analysis)] or [[0.0]]
        tags = [x for sentence in grammar for x in sentence]
        for line in used:
            linked += bool(line & said)
            said |= line
        rows.append(
            {
                "mean": mean,
                "spread": math.sqrt(sum((x - mean) ** 2 for x in loss) / len(loss)),
                "worst_sentence": means[0],
                "second_worst": means[min(1, len(means) - 1)],
                "rare_share": sum(x > 6 for x in loss) / len(loss),
                "dialogue": 1
                - len(narration(pair.output).replace(" ", "")) / max(1, len(pair.output.replace(" ", ""))),
                "name_share": sum(name in s for s in lines) / len(lines) if name else 0.3,
                "sentence_chars": min(80.0, len(pair.output) / len(lines)),
                "unknown_words": sum(w not in known for w in plain) / max(1, len(plain)),
                "linked": linked / max(1, len(used)),
                "asked_words": sum(w in pair.output for w in pair.keywords) / max(1, len(pair.keywords)),
                "grammar": sum(tags) / len(tags),
                "grammar_rare": sum(x > 6 for x in tags) / len(tags),
                "endings": sum(sum(sentence[-4:]) for sentence in grammar) / len(grammar),
            }
        )
    return rows


def _mini(pairs: Sequence[Pair], teacher: str = "mini:teacher") -> list[Opinion]:
    trained = _trained()
    return [_opinion(row, trained) for row in features(pairs, teacher)]


def _opinion(row: dict[str, float], trained: dict[str, Any]) -> Opinion:
    parts = [
        w * (row[name] - m) / s
        for name, w, m, s in zip(
            trained["features"], trained["weights"], trained["means"], trained["scales"], strict=True
        )
    ]
    # The bias is set in training so that a story at the threshold has probability 0.5 and scores 3.
    good = 1 / (1 + math.exp(-max(-30.0, min(30.0, sum(parts) + trained["bias"]))))
    score = round(1 + 4 * good, 2)
    if score >= 3:
        return score, "문장이 자연스럽습니다."
    worst = trained["features"][min(range(len(parts)), key=parts.__getitem__)]
    reasons = {
        "mean": "전체 문장이 동화답지 않거나 어색합니다.",
        "worst_sentence": "몹시 어색한 문장이 있습니다.",
        "second_worst": "어색한 문장이 여럿 있습니다.",
        "rare_share": "뜻을 알기 어려운 낱말이 많습니다.",
        "name_share": "주인공이 이야기에 잘 드러나지 않습니다.",
        "unknown_words": "동화에서 쓰지 않는 낱말이나 없는 낱말이 많습니다.",
        "linked": "앞 문장과 이어지지 않는 문장이 많습니다.",
        "asked_words": "부탁한 낱말이 나오지 않습니다.",
        "grammar": "조사나 어미의 쓰임이 동화답지 않습니다.",
        "grammar_rare": "조사나 어미가 어긋난 곳이 많습니다.",
        "endings": "문장을 맺는 말투가 동화답지 않습니다.",
    }
    return score, reasons.get(worst, "문장의 흐름이 고르지 않습니다.")


def _question(pair: Pair) -> str:
    """What a model judge reads: the rubric, the request and the story."""
    return f"{RUBRIC}\n\n[요청]\n{pair.instruction}\n\n[글]\n{pair.output}\n\n"


def _local(pairs: Sequence[Pair], spec: str) -> list[Opinion]:
    """Expectation over the digits 1-5 as the next token: one forward pass a story, and never unparsable.

    The probability that falls on anything else than a digit is left out of account.
    """
    import torch

    model = _open(spec)
    digits = [model.tokenizer(str(d), add_special_tokens=False)["input_ids"][-1] for d in range(1, 6)]
    prompts = [
        model.messages_ids([{"role": "user", "content": _question(p) + "점수를 숫자 하나로만 답하세요."}])
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
        content = _question(pair) + 'JSON으로만 답하세요: {"score": 1~5, "reason": "짧은 한국어 이유"}'
        for attempt in range(tries):
            try:
                answer = client.chat.completions.create(
                    model=spec.removeprefix("api:"),
                    messages=[{"role": "user", "content": content}],
                    temperature=0.0 if attempt == 0 else 0.5,
                    response_format=ANSWER,
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


def _keywords() -> set[str]:
    return {w for t in templates() for w in (*t["k1"], *t["k2"])}


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
    """A story made bad: another one or its sentences or nouns, shuffled words or syllables, wrong particles or endings."""
    parts = re.findall(r"[^.!?]+[.!?]+[\"”]?\s*", pair.output) or [pair.output]
    foreign = re.findall(r"[^.!?]+[.!?]+[\"”]?\s*", other.output) or [other.output]
    kind = rng.choice(("other", "mixed", "nouns", "words", "syllables", "particles", "report"))
    if kind == "other":
        parts = foreign
    elif kind == "mixed":
        parts = [rng.choice(foreign) if rng.random() < 0.5 else p for p in parts]
        rng.shuffle(parts)
    elif kind == "nouns":
        strange = [w for group in words().values() for w in group]
        known = re.compile("|".join(sorted(map(re.escape, strange), key=len, reverse=True)))
        parts = [known.sub(lambda m: rng.choice(strange) if rng.random() < 0.6 else m[0], p) for p in parts]
        parts = [rng.choice(foreign) if rng.random() < 0.25 else p for p in parts]
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


def labelled(fixture: str = "filter_dev") -> list[tuple[Pair, dict[str, Any]]]:
    """The rows that people labelled, each beside its label."""
    path = DATA.parent / "tests" / "fixtures" / f"{fixture}.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(Pair("", r["instruction"], r["output"], r["character"], tuple(r["keywords"])), r) for r in rows]


def train(teacher: str, count: int = 200, seed: int = 0) -> dict[str, Any]:
    """Fit the mini judge and write data/mini/judge.json.

    Good: ``count`` filled templates, and stories that people labelled good beside them, as the teacher knows its
    templates by heart. Bad: corrupted copies of both. Particles and endings are learned from the other templates. The
    threshold keeps 98 % of the people's good stories, each scored by a model that has not seen it (five folds).
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rng = random.Random(seed)
    shuffled = rng.sample(templates(), len(templates()))
    knowledge = {
        "lexicon": sorted(lexicon([SLOT.sub("", t["text"]) for t in templates()]) | {f"{w}/N" for w in _keywords()}),
        "grammar": grammar_counts([filled(rng, t).output for t in shuffled[count:] for _ in range(2)]),
    }
    write_json(MODEL_FILE, knowledge)
    _trained.cache_clear()
    _contexts.cache_clear()
    people = [pair for name in ("filter_dev", "filter_hard") for pair, r in labelled(name) if r["label"] == "keep"]
    good = [filled(rng, t) for t in shuffled[:count]] + people
    bad = [corrupted(rng, p, rng.choice(good)) for p in good]
    x = np.array([[row[name] for name in FEATURES] for row in features(good + bad, teacher)])
    y = np.array([1] * len(good) + [0] * len(bad))
    mine = len(good) - len(people)
    human = np.array([i % len(good) >= mine for i in range(len(y))])
    means, scales = x.mean(0), x.std(0) + 1e-6
    x = (x - means) / scales

    def fitted(rows: np.ndarray) -> Any:
        weight = np.where(human, 1.0, 0.3)[rows]
        return LogisticRegression(C=0.3, max_iter=1000).fit(x[rows], y[rows], sample_weight=weight)

    # A story and its corrupted copy fall into the same fold.
    fold = np.array([i % len(good) % 5 for i in range(len(y))])
    unseen = np.zeros(len(y))
    for k in range(5):
        unseen[fold == k] = x[fold == k] @ fitted(fold != k).coef_[0]
    threshold = float(np.quantile(unseen[mine : len(good)], 0.02))
    trained = knowledge | {
        "features": list(FEATURES),
        "weights": fitted(np.ones(len(y), bool)).coef_[0].tolist(),
        "bias": -threshold,
        "means": means.tolist(),
        "scales": scales.tolist(),
        "kept": {
            "people": float((unseen[mine : len(good)] >= threshold).mean()),
            "templates": float((unseen[:mine] >= threshold).mean()),
            "corrupted": float((unseen[len(good) :] >= threshold).mean()),
        },
    }
    write_json(MODEL_FILE, trained)
    _trained.cache_clear()
    return trained


def evaluate(spec: str = "mini") -> dict[str, Any]:
    """Any judge on the labelled rows at the threshold 3: shares of the good kept and of the judge-level drops caught.

    ``rules`` alone, ``judge`` alone and ``both``; ``missed`` counts by reason what neither sees. The mini judge has met
    the good rows in training, but no bad one.
    """
    rows = labelled()
    config = FilterConfig()
    faulty = [bool(check_pair(pair, config)[0]) for pair, _ in rows]
    low = [score is not None and score < config.min_score for score, _ in judge_pairs([p for p, _ in rows], spec)]
    drops = {"rules": faulty, "judge": low, "both": [a or b for a, b in zip(faulty, low, strict=True)]}
    good = [i for i, (_, r) in enumerate(rows) if r["label"] == "keep"]
    bad = [i for i, (_, r) in enumerate(rows) if r.get("level") == "judge"]
    missed: dict[str, int] = {}
    for i in bad:
        for reason in () if drops["both"][i] else rows[i][1]["reasons"]:
            missed[reason] = missed.get(reason, 0) + 1
    return {
        name: {
            "good_kept": round(1 - sum(dropped[i] for i in good) / len(good), 3),
            "judge_level_caught": round(sum(dropped[i] for i in bad) / len(bad), 3),
        }
        for name, dropped in drops.items()
    } | {"missed": missed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Train the mini judge for the mini teacher's weights, or measure a judge."
    )
    parser.add_argument("--teacher", default="mini:teacher")
    parser.add_argument("--evaluate", metavar="JUDGE", help="measure this judge (mini, a model) and train nothing")
    given = parser.parse_args()
    kept = {} if given.evaluate else train(given.teacher)["kept"]
    print(json.dumps({"kept": kept, **evaluate(given.evaluate or "mini")}, ensure_ascii=False))
