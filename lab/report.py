"""The comparison's report.json rendered: names and formats of its measures, Markdown, HTML, charts as PNG and SVG.

Page, Markdown and charts come in Korean and English. Nothing here is ever read back: the numbers live in report.json.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lab import votes
from lab.records import read_json, write_text
from lab.retention import BEATS, SIZE_TARGET, SMALL, SPEED_TARGET, TARGET, find_difference, number
from lab.run import Run

COLOURS = ("#0072B2", "#6B6B6B", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's colours: teacher, untrained student, then the arms; each has a marker of its own besides."""
MARKERS = ("s", "o", "^", "D", "v", "P", "X")


FEW_STORIES = 30
"""Stories below which a percentile bootstrap of a mean covers the truth clearly less often than it says."""
SPARED = (
    ("size_bytes", SIZE_TARGET),
    ("peak_memory_bytes", SIZE_TARGET),
    ("tokens_per_second", SPEED_TARGET),
    ("batch_tokens_per_second", SPEED_TARGET),
)
"""What distillation is meant to spare: a third of the memory, three times the speed."""


@dataclass(frozen=True)
class Measure:
    """A measure of the report: its key, names, how it is written, which way is better, its axis."""

    key: str
    en: str
    ko: str
    form: str
    better: str = "higher"
    axis: str = "quality"
    scale: float = 1.0

    def name(self, language: str) -> str:
        """The name in ``ko`` or ``en``."""
        return self.ko if language == "ko" else self.en

    def text(self, value: float | None) -> str:
        """The value as people read it."""
        return "–" if value is None else self.form.format(value / self.scale)


MEASURES = (
    Measure("rule_pass_rate", "Rule pass rate", "규칙 통과율", "{:.0%}"),
    Measure("character_rate", "Asked character told", "주인공 지키기", "{:.0%}"),
    Measure("keyword_rate", "Both words used", "낱말 쓰기", "{:.0%}"),
    Measure("pass_at_1", "Character and words, 1 try", "주인공과 낱말, 한 번에", "{:.0%}"),
    Measure("pass_at_4", "Character and words, 4 tries", "주인공과 낱말, 네 번 안에", "{:.0%}"),
    Measure("judge", "Judge (1-5)", "심사 점수(1~5)", "{:.2f}"),
    Measure("probes", "Everyday probes", "상식 문제", "{:.0%}"),
    Measure("bits_per_byte", "Bits per byte", "바이트당 비트", "{:.3f}", "lower"),
    Measure("perplexity", "Perplexity", "혼란도", "{:.2f}", "lower"),
    Measure("reference_bits_per_byte", "Bits per byte, reference stories", "바이트당 비트(기준 이야기)", "{:.3f}", "lower"),
    Measure("reference_perplexity", "Perplexity, reference stories", "혼란도(기준 이야기)", "{:.2f}", "lower"),
    Measure("general_rate", "Everyday questions", "일반 상식 답하기", "{:.0%}"),
    Measure("general_bits_per_byte", "Bits per byte, everyday answers", "바이트당 비트(일반 상식)", "{:.3f}", "lower"),
    Measure("teacher_chrf", "Likeness to the teacher (chrF)", "교사와 닮은 정도(chrF)", "{:.1f}", "as the teacher"),
    Measure("self_chrf", "Likeness of its stories (chrF)", "제 이야기끼리 닮은 정도(chrF)", "{:.1f}", "as the teacher"),
    Measure("distinct_2", "Different word pairs", "서로 다른 낱말 쌍", "{:.0%}", "as the teacher"),
    Measure("copied_rate", "Copies 30 characters", "30자 넘게 베낀 이야기", "{:.0%}", "lower"),
    Measure("mean_copy", "Longest copy of a story, mean", "이야기마다 가장 길게 베낀 글자, 평균", "{:.1f}", "lower"),
    Measure("longest_copy", "Longest copy of all (characters)", "모든 이야기에서 가장 길게 베낀 글자", "{:.0f}", "found"),
    Measure("mean_characters", "Characters a story", "이야기 길이(글자)", "{:.0f}", "as the teacher"),
    Measure("tokens_per_second", "Tokens per second, one story", "초당 토큰(하나씩)", "{:,.0f}", axis="speed"),
    Measure("batch_tokens_per_second", "Tokens per second, 16 stories", "초당 토큰(16편씩)", "{:,.0f}", axis="speed"),
    Measure("first_token_seconds", "Seconds to the first token", "첫 토큰까지(초)", "{:.3f}", "lower", "speed"),
    Measure("peak_memory_bytes", "Peak memory (MB)", "최대 메모리(MB)", "{:,.0f}", "lower", "memory", 1e6),
    Measure("size_bytes", "Weights in memory (MB)", "메모리 속 가중치(MB)", "{:,.1f}", "lower", "memory", 1e6),
    Measure("disk_bytes", "On disk (MB)", "디스크(MB)", "{:,.1f}", "lower", "memory", 1e6),
    Measure("parameters", "Parameters (million)", "매개변수(백만)", "{:,.1f}", "lower", "memory", 1e6),
)  # fmt: skip
BY_KEY = {m.key: m for m in MEASURES}
BETTER = {
    "higher": ("higher is better", "높을수록 좋음"),
    "lower": ("lower is better", "낮을수록 좋음"),
    "as the teacher": ("near the teacher's is best", "교사에 가까울수록 좋음"),
    "found": (
        "lower is better; more stories may hold a longer one",
        "낮을수록 좋음. 더 쓰게 하면 더 긴 것이 나올 수 있음",
    ),
}
AXES = {"quality": ("Quality", "품질"), "speed": ("Speed", "속도"), "memory": ("Memory", "메모리")}
TYPES = {
    "cause": ("Cause", "까닭"),
    "sequel": ("Sequel", "다음 일"),
    "emotion": ("Emotion", "마음"),
    "particle": ("Grammar", "문법"),
    "formula": ("Idiom", "익은말"),
    "object_use": ("Object use", "물건 쓰임"),
}
WHO = {
    "teacher": ("Teacher", "교사"),
    "base": ("Student before", "배우기 전 학생"),
    "arm": ("Student after", "배운 학생"),
}


def choose(texts: tuple[str, str], language: str) -> str:
    """The text of the language from (English, Korean)."""
    return texts[1] if language == "ko" else texts[0]


def names(models: list[dict[str, Any]], language: str) -> dict[str, str]:
    """What each model of a report is called, by its name; two of the same part carry their names."""
    words = [label(m, language) for m in models]
    return {m["name"]: w if words.count(w) == 1 else f"{w} ({m['name']})" for m, w in zip(models, words, strict=True)}


def label(model: dict[str, Any], language: str) -> str:
    """Who it is in words; an arm that is not called distilled with its name."""
    words = choose(WHO[model["who"]], language)
    return f"{words} ({model['name']})" if model["who"] == "arm" and model["name"] != "distilled" else words


def colours(models: list[dict[str, Any]]) -> list[int]:
    """Places in COLOURS and MARKERS: the teacher's, the untrained student's, and one of its own for each arm."""
    arms = iter(range(2, len(models) + 2))
    return [{"teacher": 0, "base": 1}.get(m["who"]) if m["who"] != "arm" else next(arms) % len(COLOURS) for m in models]  # type: ignore[misc]


def bounds(model: dict[str, Any], key: str) -> tuple[float, float] | None:
    """The 95 % interval of a quality measure, or least and greatest of a speed; None where there is none."""
    found = (model.get("intervals") or {}).get(key) or (model.get("spread") or {}).get(key)
    return (float(found["low"]), float(found["high"])) if found else None


def measured(models: list[dict[str, Any]]) -> list[Measure]:
    """The measures that some model has."""
    return [m for m in MEASURES if any(number(x, m.key) is not None for x in models)]


def crossed_out(models: list[dict[str, Any]], model: dict[str, Any], key: str) -> bool:
    """Whether this number may not be compared with the first model's: a perplexity of another vocabulary."""
    return "perplexity" in key and bool(models) and model.get("tokenizer") != models[0].get("tokenizer")


CROSSED_OUT = (
    "Perplexity counts tokens. These models cut text into different tokens, so compare bits per byte instead.",
    "혼란도는 토큰마다 셉니다. 토큰을 나누는 방식이 다른 모델끼리는 바이트당 비트를 견주어 주세요.",
)


def cell(models: list[dict[str, Any]], model: dict[str, Any], measure: Measure) -> tuple[str, str]:
    """(value, interval) of one model as text; the interval may be empty."""
    span = bounds(model, measure.key)
    return measure.text(number(model, measure.key)), f"{measure.text(span[0])} – {measure.text(span[1])}" if span else ""  # fmt: skip


def markdown_table(models: list[dict[str, Any]], keys: Iterable[str] = (), language: str = "en") -> str:
    """Measures as rows, models as columns, intervals in brackets, incomparable perplexities struck through."""
    chosen = [m for m in measured(models) if not keys or m.key in keys]
    if not models:
        return ""
    lines = ["| | " + " | ".join(plain(label(m, language)) for m in models) + " |", "|---|" + "---:|" * len(models)]
    for measure in chosen:
        cells = []
        for model in models:
            value, span = cell(models, model, measure)
            value = f"~~{value}~~" if crossed_out(models, model, measure.key) and value != "–" else value
            cells.append(value + (f" [{span}]" if span else ""))
        lines.append(f"| {measure.name(language)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plain(text: Any) -> str:
    """A text that stays inside one cell of Markdown."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def flags(report: dict[str, Any]) -> list[dict[str, str]]:
    """What a reader has to know before believing the numbers: models that are one, a beaten teacher, few items, copies."""
    notes: list[dict[str, str]] = []
    models = report["models"]
    for i, a in enumerate(models):
        for b in models[i + 1 :]:
            if a.get("weights") and a["weights"] == b.get("weights"):
                notes.append(
                    {
                        "en": f"{a['name']} and {b['name']} hold the same weights: this compares a model with itself.",
                        "ko": f"{a['name']}, {b['name']}: 가중치가 똑같습니다. 같은 모델끼리 비교한 것입니다.",
                    }
                )
    for arm, measures in report.get("retention_intervals", {}).items():
        for measure, one in measures.items():
            if one["low"] > 1 and one["value"] > BEATS:
                notes.append(
                    {
                        "en": f"{arm} beats its teacher on {BY_KEY[measure].en} ({one['value']:.0%}). A student mimics, so explain it: a leak, easier text, or a broken teacher setting.",
                        "ko": f"{arm}: 교사보다 좋은 지표가 있습니다({BY_KEY[measure].ko}, {one['value']:.0%}). 학생은 흉내를 내므로 까닭을 찾아보세요: 누출, 쉬운 글, 잘못된 교사 설정.",
                    }
                )
    for teacher in (m for m in models if m["who"] == "teacher"):
        for arm in report.get("retention", {}):
            for measure in ("rule_pass_rate", "character_rate", "keyword_rate"):
                against = find_difference(report, arm, teacher["name"], measure)
                if number(teacher, measure) == 0 and against.get("better") == "a":
                    notes.append(
                        {
                            "en": f"{arm} beats its teacher on {BY_KEY[measure].en}, of whose stories none is right. A student mimics, so look at the teacher's settings.",
                            "ko": f"{arm}: 교사가 하나도 맞히지 못한 지표에서 교사를 앞섭니다({BY_KEY[measure].ko}). 학생은 흉내를 내므로 교사 설정을 살펴보세요.",
                        }
                    )
    if report["prompts"] < SMALL:
        notes.append(
            {
                "en": f"{report['prompts']} prompts are few: intervals are wide. Take {SMALL} or more before deciding.",
                "ko": f"지시문이 {report['prompts']}개뿐이라 구간이 넓습니다. 결정하기 전에 {SMALL}개 이상으로 재어 보세요.",
            }
        )
    if (test := report.get("test_pairs")) is not None and test < FEW_STORIES:
        notes.append(
            {
                "en": f"Only {test} test stories: perplexity and bits per byte on them are rough, go by the reference stories.",
                "ko": f"시험 이야기가 {test}편뿐이라 그 혼란도와 바이트당 비트는 대강의 값입니다. 기준 이야기 쪽을 보세요.",
            }
        )
    bases, arms = ({m["name"] for m in models if m["who"] == who} for who in ("base", "arm"))
    for pair in report.get("differences", ()):
        lost = [
            k for k in ("general_rate", "general_bits_per_byte") if pair["measures"].get(k, {}).get("better") == "b"
        ]
        if lost and pair["a"] in arms and pair["b"] in bases:
            notes.append(
                {
                    "en": f"{pair['a']} has forgotten some of everyday Korean: shown to be worse than before on {', '.join(BY_KEY[k].en for k in lost)}.",
                    "ko": f"{pair['a']}: 이야기 밖의 한국어를 얼마간 잊었습니다. 배우기 전보다 나쁜 것이 확인된 지표: {', '.join(BY_KEY[k].ko for k in lost)}.",
                }
            )
    for m in models:
        if m["who"] == "arm" and (m.get("copied_rate") or 0) > 0.1:
            notes.append(
                {
                    "en": f"{m['name']} copies: {m['copied_rate']:.0%} of its stories hold a passage of 30 characters from the training stories (longest {m['longest_copy']}).",
                    "ko": f"{m['name']}: 이야기의 {m['copied_rate']:.0%}에 학습 이야기와 똑같은 30자가 들어 있습니다(가장 긴 것 {m['longest_copy']}자).",
                }
            )
    return notes


def kept_line(report: dict[str, Any], arm: str, language: str) -> str:
    """What an arm keeps of its teacher against the three targets, in a line."""
    kept = report["retention"][arm]
    parts = []
    for key in ("rule_pass_rate", "bits_per_byte", "probes", "judge"):
        if kept.get(key) is not None:
            span = (report.get("retention_intervals") or {}).get(arm, {}).get(key)
            around = f" [{span['low']:.0%} – {span['high']:.0%}]" if span else ""
            parts.append(f"{BY_KEY[key].name(language)} {kept[key]:.0%}{around}")
    for key, target in SPARED:
        if kept.get(key) is not None:
            goal = choose(("target", "목표"), language)
            parts.append(f"{BY_KEY[key].name(language)} x{kept[key]:.2f} ({goal} x{target:.2f})")
    return "; ".join(parts)


def kept_rows(report: dict[str, Any], language: str) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Heads and rows of what every arm keeps of its teacher, axis by axis: name, each arm's ratio with its interval, the target."""
    arms = [m for m in report["models"] if m["who"] == "arm" and m["name"] in report["retention"]]
    words = choose((("Against the teacher", "Target"), ("교사와 견주면", "목표")), language)
    rows = []
    band = f"{TARGET[0]:.0%} – {TARGET[1]:.0%}"
    for key, target in (*((k, None) for k in KEPT), *SPARED):
        cells = []
        for arm in arms:
            value = report["retention"][arm["name"]].get(key)
            span = (report.get("retention_intervals") or {}).get(arm["name"], {}).get(key)
            form = "{:.0%}" if target is None else "×{:.2f}"
            around = f"{span['low']:.0%} – {span['high']:.0%}" if span else ""
            cells.append(("–" if value is None else form.format(value), around))
        if any(value != "–" for value, _ in cells):
            name = BY_KEY[key].name(language).removesuffix("(MB)").strip()
            goal = band if target is None else f"{'≤' if target < 1 else '≥'} ×{target:.2f}"
            rows.append([(name, ""), *cells, (goal, "")])
    called = names(report["models"], language)
    return [words[0], *(called[m["name"]] for m in arms), words[1]], rows


def html_kept(report: dict[str, Any], language: str) -> str:
    """The same as a table; empty where nothing was distilled from a teacher."""
    heads, rows = kept_rows(report, language)
    if not rows:
        return ""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(value)}<small>{escape(span)}</small></td>' for value, span in row)}</tr>"
        for row in rows
    )
    return f'<div class="scroll wide"><table class="measures models"><tr>{head}</tr>{body}</table></div>'


def tested(report: dict[str, Any], language: str) -> tuple[list[str], list[list[str]]]:
    """Heads (``a − b``) and rows of the tested differences: the measure's name, then each difference with its interval.

    A star stands where the interval leaves out 0 on 8 or more items; without one nothing may be concluded.
    """
    pairs, called = report.get("differences") or [], names(report["models"], language)
    rows = []
    for measure in MEASURES:
        found = [p["measures"].get(measure.key) for p in pairs]
        if any(found):
            rows.append([measure.name(language), *(_apart(measure, d, language) for d in found)])
    return [f"{called[p['a']]} − {called[p['b']]}" for p in pairs], rows


def _apart(measure: Measure, found: dict[str, Any] | None, language: str) -> str:
    """A difference with its interval; of two shares it is one of points, not of per cent."""
    if found is None:
        return "–"
    value, low, high = (("+" if found[k] > 0 else "") + measure.text(found[k]) for k in ("difference", "low", "high"))
    told = f"{value} [{low}, {high}]".replace("%", choose((" pp", "%p"), language))
    return told + (" ★" if found["shown"] else "")


STAR = (
    "★: shown, the 95 % interval of the difference on the same items leaves out 0. Without a star nothing may be concluded. Of {count} tests about {chance} would get a star by chance.",
    "★: 확인된 차이. 같은 문항에서 잰 차이의 95% 구간에 0이 없습니다. ★가 없으면 어느 쪽이 낫다고 말할 수 없습니다. 검정 {count}번 가운데 {chance}번쯤은 우연히 ★가 붙습니다.",
)


def star(rows: list[list[str]], language: str) -> str:
    """What the star in ``rows`` of ``tested`` means, and how many chance alone would give."""
    count = sum(c != "–" for row in rows for c in row[1:])
    return choose(STAR, language).format(count=count, chance=max(1, round(0.05 * count)))


def html_differences(report: dict[str, Any], language: str) -> str:
    """The tested differences as a table with its key; empty where there is none."""
    heads, rows = tested(report, language)
    if not rows:
        return ""
    head = "".join(f"<th>{escape(h)}</th>" for h in ("", *heads))
    body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="scroll wide"><table class="measures"><tr>{head}</tr>{body}</table></div><p><small>{star(rows, language)}</small></p>'


def _shown(report: dict[str, Any], names: Iterable[str], language: str) -> str:
    """Which differences between these arms are shown, in rule pass rate and bits per byte."""
    among, found = set(names), []
    for pair in report.get("differences", ()):
        for key in ("rule_pass_rate", "bits_per_byte") if {pair["a"], pair["b"]} <= among else ():
            better = pair["measures"].get(key, {}).get("better")
            if better:
                winner, other = (pair["a"], pair["b"]) if better == "a" else (pair["b"], pair["a"])
                found.append(f"{winner} > {other} ({BY_KEY[key].name(language)})")
    words = choose(("shown to be better", "확인된 차이"), language)
    return f"{words}: {', '.join(found)}" if found else choose(("no difference is shown", "확인된 차이 없음"), language)


def exercises(report: dict[str, Any], run_: Run, language: str) -> list[tuple[str, str]]:
    """The questions of the course, answered by this run: (question, answer).

    What has not been tried yet names the command that would answer it.
    """
    arms = {m["name"]: m for m in report["models"] if m["who"] == "arm"}
    questions = (_of_the_filter, _of_the_share, _of_people, _of_the_teacher)
    found = [x for question in questions if (x := question(report, run_, arms, language))]
    return [(choose(asked, language), answer) for asked, answer in found]


Arms = dict[str, dict[str, Any]]
Exercise = tuple[tuple[str, str], str] | None
"""A question in English and Korean, and its answer in the language asked for; None where it does not arise."""


def _of_the_filter(report: dict[str, Any], run_: Run, arms: Arms, language: str) -> Exercise:
    facts = run_.done("filter") or {}
    if facts.get("pass_rate") is None:
        return None
    key = "bits_per_byte" if any(crossed_out(list(arms.values()), m, "perplexity") for m in arms.values()) else "perplexity"  # fmt: skip
    told = ", ".join(f"{n}: {BY_KEY[key].text(m.get(key))}" for n, m in arms.items())
    asked = (
        "What share of the pairs passed the filter, and what is the student's perplexity?",
        "거르기를 통과한 쌍은 얼마이고, 학생의 혼란도는 얼마인가요?",
    )
    answer = (
        "{rate:.0%} of {pairs} pairs. {measure} on unseen stories: {told}.",
        "{pairs}쌍 가운데 {rate:.0%}. 처음 보는 이야기의 {measure}: {told}.",
    )
    told = told or choose(("no arm yet", "아직 학습한 갈래 없음"), language)
    measure = BY_KEY[key].name(language)
    return asked, choose(answer, language).format(rate=facts["pass_rate"], pairs=facts["pairs"], measure=measure, told=told)  # fmt: skip


def _of_the_share(report: dict[str, Any], run_: Run, arms: Arms, language: str) -> Exercise:
    asked = (
        "Is it better to train on the best 30, 50 or 80 %, or without a filter? (rule pass rate, bits per byte)",
        "상위 30, 50, 80%만 배우는 것과 거르지 않는 것 가운데 무엇이 나은가요? (규칙 통과율, 바이트당 비트)",
    )
    shares = _shares(run_, arms)
    if len(shares) < 2:
        only = (
            "Only one arm so far. Train others, for example: {}",
            "아직 갈래가 하나뿐입니다. 다른 갈래를 학습해 보세요: {}",
        )
        command = f"python -m lab train {run_.id} --arm top30 --keep-top 0.3"
        return asked, choose(only, language).format(command)
    unfiltered = choose(("no filter", "거르지 않음"), language)
    told = [f"{unfiltered if top > 1 else f'{top:.0%}'}: {_standing(arms, name)}" for top, name in shares]
    return asked, "; ".join([*told, _shown(report, [name for _, name in shares], language)])


def _of_people(report: dict[str, Any], run_: Run, arms: Arms, language: str) -> Exercise:
    asked = (
        "Does distilled data teach as well as stories written by people?",
        "증류한 자료는 사람이 쓴 이야기만큼 잘 가르치나요?",
    )
    human = next((name for name in reversed(arms) if run_.config("train", name).data == "human"), "")
    # Against people's stories stands the arm that learned from all kept pairs, else from the most of them.
    distilled = max((x for x in _shares(run_, arms) if x[0] <= 1), default=(0.0, ""))[1]
    if not human or not distilled:
        missing = ("Train on people's stories to see: {}", "사람이 쓴 이야기로도 학습해 보세요: {}")
        return asked, choose(missing, language).format(f"python -m lab train {run_.id} --arm human --data human")
    answer = ("distilled: {}; people: {}; {}", "증류: {}; 사람: {}; {}")
    shown = _shown(report, (distilled, human), language)
    return asked, choose(answer, language).format(_standing(arms, distilled), _standing(arms, human), shown)


def _of_the_teacher(report: dict[str, Any], run_: Run, arms: Arms, language: str) -> Exercise:
    answer = (
        "Make a second run with the other teacher and choose it under “Another run” in the Compare tab.",
        "다른 교사로 실험을 하나 더 만든 뒤, 비교 탭의 ‘다른 실험’에서 골라 보세요.",
    )
    return ("Which teacher teaches better?", "어느 교사가 더 잘 가르치나요?"), choose(answer, language)


def _shares(run_: Run, arms: Arms) -> list[tuple[float, str]]:
    """The share of the kept pairs that each arm learned from (above 1: without a filter) and its name, least first."""
    configs = {name: run_.config("train", name) for name in arms}
    return sorted((2.0 if c.data == "unfiltered" else c.keep_top, n) for n, c in configs.items() if c.data != "human")


def _standing(arms: Arms, name: str) -> str:
    rule, bits = (BY_KEY[k].text(number(arms[name], k)) for k in ("rule_pass_rate", "bits_per_byte"))
    return f"{name} {rule}, {bits}"


def markdown(report: dict[str, Any], run_: Run) -> str:
    """The whole report in Markdown, Korean first, then English."""
    return "\n".join(line for language in LANGUAGES for line in _markdown(report, run_, language))


def _markdown(report: dict[str, Any], run_: Run, language: str) -> list[str]:
    models, said = report["models"], {k: choose(v, language) for k, v in HEADS.items()}
    lines = [f"# {plain(report['title'])}", "", report["verdict"][language], ""]
    lines += [f"- {f[language]}" for f in report["flags"]]
    lines += ["", f"## {said['measures']}", "", measured_on(report, language), "", markdown_table(models, (), language), ""]  # fmt: skip
    heads, rows = tested(report, language)
    if rows:
        lines += [f"## {said['differences']}", "", star(rows, language), ""]
        lines += ["| | " + " | ".join(map(plain, heads)) + " |", "|---|" + "---:|" * len(heads)]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    heads, rows = kept_rows(report, language)
    if rows:
        lines += [
            f"## {said['kept']}",
            "",
            "| " + " | ".join(map(plain, heads)) + " |",
            "|---|" + "---:|" * (len(heads) - 1),
        ]
        lines += [
            "| " + " | ".join(f"{value} [{span}]" if span else value for value, span in row) + " |" for row in rows
        ] + [""]
    for head, items in _lists(report, language):
        lines += [f"## {head}", "", *(f"- {plain(x)}" for x in items), ""]
    for name in drawable(report):
        lines += [f"![{choose(CHARTS[name], language)}](charts/{picture(name, language)}.png)", ""]
    lines += [f"## {said['exercises']}", ""]
    for question, answer in exercises(report, run_, language):
        lines += [f"**{plain(question)}** {plain(answer)}", ""]
    return [*lines, f"## {said['provenance']}", "", *(f"- {plain(x)}" for x in provenance(report, language)), ""]


LANGUAGES = ("ko", "en")
HEADS = {
    "measures": ("Measures", "지표"),
    "differences": ("Tested differences, with intervals", "차이 검정과 구간"),
    "kept": ("Kept of the teacher", "교사에게서 지킨 것"),
    "duels": ("Pairwise by the judge", "심사 모델이 둘씩 견준 결과"),
    "votes": ("Blind votes of people", "이름을 가리고 한 사람들의 투표"),
    "exercises": ("Questions this run answers", "이 실험이 답하는 물음"),
    "provenance": ("Provenance of the models", "비교한 모델의 출처"),
}


def measured_on(report: dict[str, Any], language: str) -> str:
    """What the numbers rest on, and what stands in brackets or small print."""
    texts = (
        "Measured on {prompts} prompts, {test_pairs} test stories and {reference_stories} reference stories. Beside each number its 95 % interval, for speeds the range of the rounds.",
        "지시문 {prompts}개, 시험 이야기 {test_pairs}편, 기준 이야기 {reference_stories}편으로 쟀습니다. 값 옆은 95% 구간, 속도에서는 여러 번 잰 값의 범위입니다.",
    )
    return choose(texts, language).format(**report)


def _lists(report: dict[str, Any], language: str) -> list[tuple[str, list[str]]]:
    """The parts of the report that are lists of sentences: head and sentences; those without any are left out."""
    found = {
        "duels": [f"{line} {note}" for line, note in (duel_line(report, d, language) for d in report["duels"])],
        "votes": vote_lines(report, language),
    }
    return [(choose(HEADS[key], language), lines) for key, lines in found.items() if lines]


def _around(one: dict[str, Any]) -> str:
    return f"{one['value']:.0%} [{one['low']:.0%} – {one['high']:.0%}]"


def duel_line(report: dict[str, Any], duel: dict[str, Any], language: str) -> tuple[str, str]:
    """Who won how often against whom by the judge, plain and at equal length; and how the judge was asked."""
    called = names(report["models"], language)
    facts = {
        "a": called[duel["a"]],
        "b": called[duel["b"]],
        "rate": _around(duel["win_rate"]),
        "equal": _around(duel["win_rate_at_equal_length"]),
    }
    texts = (
        "{a} : {b}, {wins} won, {ties} tied, {losses} lost. Win rate {rate}, at equal length {equal}. Judge: {judge}.",
        "{a} : {b}, 이김 {wins}, 비김 {ties}, 짐 {losses}. 이긴 비율 {rate}, 길이가 같다면 {equal}. 심사: {judge}.",
    )
    one = (
        "This judge compares marks, so order has no influence.",
        "이 심사 모델은 점수를 견주므로 순서의 영향이 없습니다.",
    )
    both = (
        "Asked in both orders, and only winning both is a win. The order changed the answer in {disagreed:.0%}.",
        "순서를 바꿔 두 번 물었고, 두 번 다 이겨야 이긴 것으로 셉니다. 순서에 따라 답이 바뀐 비율: {disagreed:.0%}.",
    )
    family = (
        " The judge and a model of this pair are of one family ({same_family}), which may favour it.",
        " 심사 모델과 겨룬 모델이 같은 집안({same_family})이라 치우칠 수 있습니다.",
    )
    note = choose(one if duel["orders"] == 1 else both, language) + (choose(family, language) if duel.get("same_family") else "")  # fmt: skip
    return choose(texts, language).format(**duel | facts), note.format(**duel)


def vote_lines(report: dict[str, Any], language: str) -> list[str]:
    """What people preferred blindly, pair by pair with its interval, and how many votes were for other weights."""
    votes = report.get("votes") or {}
    texts = (
        "{first} {wins} : {losses} {second}, ties {ties}, all bad {bad}.",
        "{first} {wins} : {losses} {second}, 비김 {ties}, 모두 별로 {bad}.",
    )
    preferred = (" Preference for {first}: {share}.", " 선호 ({first}): {share}.")
    lines = []
    for duel in votes.get("duels", ()):
        people = {k: _speaker(report["models"], duel[k], language) for k in ("first", "second")}
        line = choose(texts, language).format(**duel | people)
        if duel["share"] is not None:
            share = _around({"value": duel["share"], "low": duel["low"], "high": duel["high"]})
            line += choose(preferred, language).format(**people, share=share)
        lines.append(line)
    if votes.get("outdated"):
        older = (
            "Votes on stories of other weights than these, not counted here: {outdated}.",
            "지금과 다른 가중치가 쓴 이야기에 한 투표라서 세지 않은 것: {outdated}개.",
        )
        lines.append(choose(older, language).format(**votes))
    return lines


def _speaker(models: list[dict[str, Any]], name: str, language: str) -> str:
    """What the chat calls ``teacher``, ``base`` or ``arm NAME``, in words."""
    who, _, arm = name.partition(" ")
    return label({"who": who, "name": arm}, language)


def provenance(report: dict[str, Any], language: str) -> list[str]:
    """Which weights exactly, with which settings, and what the leak check found, in lines."""
    called = names(report["models"], language)
    lines = []
    for m in report["models"]:
        facts = {k: m.get(k) or "–" for k in ("revision", "weights", "dtype", "device")}
        line = choose(
            (
                "{who}: {name}, revision {revision}, weights {weights}, {dtype} on {device}",
                "{who}: {name}, 리비전 {revision}, 가중치 {weights}, {device}에서 {dtype}",
            ),
            language,
        ).format(**facts, who=called[m["name"]], name=m["name"])
        if m.get("adapter"):
            line += choose((", trained files {}", ", 학습 결과 {}"), language).format(m["adapter"])
        lines.append(line + trained_with(m))
    counts = report["leak_counts"]
    settings = choose(
        (
            "temperature {temperature}, top-p {top_p}, seed {seed}, tasks {same_tasks}",
            "온도 {temperature}, top-p {top_p}, 시드 {seed}, 문제 {same_tasks}",
        ),
        language,
    ).format(**{"top_p": 1.0} | report)
    leaks = choose(
        (
            "leak check against {rows} training rows: {reference} reference stories, {probes} probes, {general} general questions, {test} test stories share a passage; {left} test stories left out",
            "학습 이야기 {rows}편과 겹치는 글: 기준 이야기 {reference}, 상식 문제 {probes}, 일반 상식 {general}, 시험 이야기 {test}. 혼란도에서 뺀 시험 이야기 {left}편",
        ),
        language,
    ).format(**counts, rows=report["training_pairs"], left=report["test_pairs_left_out"])
    return [*lines, ", ".join([settings, *(f"{k} {v}" for k, v in report["versions"].items())]), leaks]


def trained_with(model: dict[str, Any]) -> str:
    """The settings of an arm's training after a comma; empty for a model that was not trained here."""
    return "".join(f", {k}={v}" for k, v in (model.get("trained_with") or {}).items())


STYLE = """body{font-family:Pretendard,'Noto Sans KR','Noto Sans CJK KR','Apple SD Gothic Neo','Malgun Gothic',sans-serif;
max-width:60rem;margin:2rem auto;padding:0 1rem;color:#3b2f2a;background:#fffdf8;line-height:1.7;word-break:keep-all}
table{border-collapse:collapse;width:100%}td,th{padding:.4rem .6rem;border-bottom:1px solid #eadfce;text-align:right}
td:first-child,th:first-child{text-align:left}small{display:block;color:#7a6a61}.wide{overflow-x:auto}
.verdict{background:#f6ecdf;border-radius:12px;padding:1rem 1.2rem}svg{max-width:100%;height:auto}
@media(max-width:640px){body{padding:0 .6rem}td,th{padding:.3rem .15rem;font-size:.84rem}small{font-size:.72rem}}"""


def html_table(models: list[dict[str, Any]], language: str) -> str:
    """Every measure by axis, every model a column, intervals below; used by the tab and by the file."""
    head = "".join(
        f"<th>{escape(label(m, language))}<small>{escape(str(m.get('name', '')))}</small></th>" for m in models
    )
    body, axis = [], ""
    for measure in measured(models):
        if measure.axis != axis:
            axis = measure.axis
            body.append(f'<tr class="axis"><th colspan="{len(models) + 1}">{choose(AXES[axis], language)}</th></tr>')
        cells = []
        for model in models:
            value, span = cell(models, model, measure)
            if crossed_out(models, model, measure.key) and value != "–":
                value = f'<s title="{escape(choose(CROSSED_OUT, language))}">{value}</s>'
            cells.append(f"<td>{value}<small>{span}</small></td>")
        name = f"{measure.name(language)}<small>{choose(BETTER[measure.better], language)}</small>"
        body.append(f"<tr><td>{name}</td>{''.join(cells)}</tr>")
    crossed = any(crossed_out(models, m, "perplexity") for m in models)
    note = f"<p><small>{choose(CROSSED_OUT, language)}</small></p>" if crossed else ""
    return f'<div class="scroll wide"><table class="measures models"><tr><th></th>{head}</tr>{"".join(body)}</table></div>{note}'


def html(report: dict[str, Any], run_: Run, pictures: dict[str, dict[str, str]]) -> str:
    """The whole report as one page that needs nothing else, Korean first; ``pictures`` are SVG texts by language and chart."""
    links = " · ".join(f'<a href="#{k}">{v}</a>' for k, v in (("ko", "한국어"), ("en", "English")))
    parts = [_html(report, run_, pictures[language], language) for language in LANGUAGES]
    return (
        '<!doctype html><html lang="ko"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(str(report['title']))}</title><style>{STYLE}</style><nav>{links}</nav>{''.join(parts)}</html>\n"
    )


def _html(report: dict[str, Any], run_: Run, pictures: dict[str, str], language: str) -> str:
    said = {k: f"<h2>{escape(choose(v, language))}</h2>" for k, v in HEADS.items()}
    flagged = "".join(f"<li>{escape(f[language])}</li>" for f in report["flags"])
    differ = html_differences(report, language)
    parts = [
        f'<section id="{language}" lang="{language}"><h1>{escape(str(report["title"]))}</h1>',
        f'<div class="verdict"><p>{escape(report["verdict"][language])}</p></div><ul>{flagged}</ul>',
        f"{said['measures']}<p>{escape(measured_on(report, language))}</p>{html_table(report['models'], language)}",
        f"{said['differences']}{differ}" if differ else "",
        f"{said['kept']}{kept}" if (kept := html_kept(report, language)) else "",
        *(f"<h2>{escape(head)}</h2>{html_list(items)}" for head, items in _lists(report, language)),
        *(f"<h2>{escape(choose(CHARTS[name], language))}</h2>{svg}" for name, svg in pictures.items()),
        said["exercises"],
        *(f"<p><b>{escape(q)}</b><br>{escape(answer)}</p>" for q, answer in exercises(report, run_, language)),
        f"{said['provenance']}{html_list(provenance(report, language))}</section>",
    ]
    return "".join(parts)


def html_list(items: list[str]) -> str:
    """Sentences as a list."""
    return f"<ul>{''.join(f'<li>{escape(x)}</li>' for x in items)}</ul>"


CHARTS = {
    "quality": ("Quality", "품질"),
    "bits": ("Bits per byte", "바이트당 비트"),
    "radar": ("All shares at once", "한눈에 보는 품질"),
    "quality_speed": ("Quality against speed", "품질과 속도"),
    "retention": HEADS["kept"],
    "spared": ("Memory and speed against the teacher", "교사와 견준 메모리와 속도"),
    "probes": ("Probes by type", "갈래별 상식 문제"),
    "lengths": ("Story lengths", "이야기 길이"),
    "scores": ("The judge's marks", "심사 점수"),
}
SHARES = ("rule_pass_rate", "character_rate", "keyword_rate", "pass_at_4", "probes", "general_rate")
KEPT = ("rule_pass_rate", "judge", "bits_per_byte", "reference_bits_per_byte", "probes", "character_rate", "keyword_rate")  # fmt: skip
WIDEST = 1.5
"""Share of the teacher at which the retention chart ends."""
REACH = 12
"""Multiple of the teacher at which the chart of memory and speed ends, to both sides."""
BITS = ("bits_per_byte", "reference_bits_per_byte", "general_bits_per_byte")


def drawable(report: dict[str, Any]) -> list[str]:
    """The charts of CHARTS that the report has numbers for."""
    models = report["models"]
    has = {
        "bits": any(number(m, k) is not None for m in models for k in BITS),
        "radar": sum(all(number(m, k) is not None for m in models) for k in SHARES) > 2,
        "retention": bool(report["retention"]),
        "probes": any(m.get("probes") for m in models),
        "spared": bool(spared(report)),
        "scores": any(m.get("marks") for m in models),
    }
    return [name for name in CHARTS if has.get(name, True)]


def picture(name: str, language: str) -> str:
    """A chart's file without its ending."""
    return name if language == "en" else f"{name}.{language}"


def spared(report: dict[str, Any]) -> list[tuple[str, float, list[tuple[dict[str, Any], float, tuple[float, float]]]]]:
    """Memory and speed of the arms as multiples of the teacher's: measure, target, (arm, ratio, its range over the rounds)."""
    teacher = next((m for m in report["models"] if m["who"] == "teacher"), {})
    found = []
    for key, target in SPARED:
        base, rows = number(teacher, key), []
        for arm in (m for m in report["models"] if m["who"] == "arm" and base):
            ratio = report["retention"].get(arm["name"], {}).get(key)
            if ratio:
                own, other = bounds(arm, key), bounds(teacher, key)
                rows.append((arm, ratio, (own[0] / other[1], own[1] / other[0]) if own and other else (ratio, ratio)))
        if rows:
            found.append((key, target, rows))
    return found


def current(run_: Run) -> dict[str, Any]:
    """report.json with the votes of this moment: people vote after comparing. Empty without a report."""
    report = read_json(run_.report_file, {})
    return report | {"votes": votes.against(run_, report["models"])} if report.get("models") else report


def pages(run_: Run, report: dict[str, Any]) -> dict[str, str]:
    """The report's texts by file name; its charts are those that stand beside it."""
    folder, pictures = run_.report_file.parent / "charts", {}
    for language in LANGUAGES:
        # Reports of older versions have their charts in English alone.
        places = {n: [folder / f"{picture(n, k)}.svg" for k in (language, "en")] for n in drawable(report)}
        there = {n: next((p for p in found if p.exists()), None) for n, found in places.items()}
        texts = {n: p.read_text("utf-8") for n, p in there.items() if p}
        pictures[language] = {n: text[text.index("<svg") :] for n, text in texts.items()}
    return {"report.md": markdown(report, run_), "report.html": html(report, run_, pictures)}


def write(run_: Run, report: dict[str, Any]) -> None:
    """report.md, report.html and charts/*.png, *.svg beside report.json."""
    from lab import report_charts

    folder = run_.report_file.parent
    (folder / "charts").mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        for name, figure in report_charts.charts(report, language).items():
            place = folder / "charts" / picture(name, language)
            figure.savefig(f"{place}.png", dpi=150, metadata={"Software": None})
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            write_text(Path(f"{place}.svg"), text.getvalue())
    for name, text in pages(run_, report).items():
        write_text(folder / name, text)
