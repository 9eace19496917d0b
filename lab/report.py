"""The comparison's report.json rendered: names and formats of its measures, Markdown, HTML, charts as PNG and SVG.

Nothing here is ever read back: the numbers live in report.json.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import pi
from typing import Any

from lab.records import write_text
from lab.retention import BEATS, SIZE_TARGET, SMALL, SPEED_TARGET, TARGET, find_difference, number
from lab.run import Run

COLOURS = ("#0072B2", "#6B6B6B", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's colours: teacher, untrained student, then the arms; each has a marker of its own besides."""
MARKERS = ("s", "o", "^", "D", "v", "P", "X")


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
    Measure("longest_copy", "Longest copy (characters)", "가장 길게 베낀 글자 수", "{:.0f}", "lower"),
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
    for key, target in (("size_bytes", SIZE_TARGET), ("peak_memory_bytes", SIZE_TARGET), ("tokens_per_second", SPEED_TARGET)):  # fmt: skip
        if kept.get(key) is not None:
            goal = choose(("target", "목표"), language)
            parts.append(f"{BY_KEY[key].name(language)} x{kept[key]:.2f} ({goal} x{target:.2f})")
    return "; ".join(parts)


def tested(report: dict[str, Any], language: str) -> tuple[list[str], list[list[str]]]:
    """Heads (``a − b``) and rows of the tested differences: the measure's name, then each difference with its interval.

    A star stands where the interval leaves out 0 on 8 or more items; without one nothing may be concluded.
    """
    pairs = report.get("differences") or []
    rows = []
    for measure in MEASURES:
        found = [p["measures"].get(measure.key) for p in pairs]
        if any(found):
            cells = ["–" if d is None else f"{_signed(measure, d['difference'])} [{_signed(measure, d['low'])}, {_signed(measure, d['high'])}]{' ★' if d['shown'] else ''}" for d in found]  # fmt: skip
            rows.append([measure.name(language), *cells])
    return [f"{p['a']} − {p['b']}" for p in pairs], rows


def _signed(measure: Measure, value: float) -> str:
    return ("+" if value > 0 else "") + measure.text(value)


DIFFERENCES = ("Tested differences, with intervals", "차이 검정과 구간")
STAR = (
    "★: shown, the 95 % interval of the difference on the same items leaves out 0. Without a star nothing may be concluded.",
    "★: 확인된 차이. 같은 문항에서 잰 차이의 95% 구간에 0이 없습니다. ★가 없으면 어느 쪽이 낫다고 말할 수 없습니다.",
)


def html_differences(report: dict[str, Any], language: str) -> str:
    """The tested differences as a table with its key; empty where there is none."""
    heads, rows = tested(report, language)
    if not rows:
        return ""
    head = "".join(f"<th>{escape(h)}</th>" for h in ("", *heads))
    body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="scroll wide"><table class="measures"><tr>{head}</tr>{body}</table></div><p><small>{choose(STAR, language)}</small></p>'


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


def exercises(report: dict[str, Any], run_: Run) -> list[tuple[str, str, str, str]]:
    """The questions of the course, answered by this run: (question, answer) in English, then in Korean.

    What has not been tried yet names the command that would answer it.
    """
    models = report["models"]
    arms = {m["name"]: m for m in models if m["who"] == "arm"}
    facts = run_.done("filter") or {}
    rate = facts.get("pass_rate")
    found = []
    told = [f"{n}: {BY_KEY['perplexity'].text(m.get('perplexity'))}" for n, m in arms.items()]
    if any(crossed_out(list(arms.values()), m, "perplexity") for m in arms.values()):
        told = [f"{n}: {BY_KEY['bits_per_byte'].text(m.get('bits_per_byte'))} bits/byte" for n, m in arms.items()]
    if rate is not None:
        found.append(
            (
                "What share of the pairs passed the filter, and what is the student's perplexity?",
                f"{rate:.0%} of {facts['pairs']} pairs. Perplexity on unseen stories: {', '.join(told) or 'no arm yet'}.",
                "거르기를 통과한 쌍은 얼마이고, 학생의 혼란도는 얼마인가요?",
                f"{facts['pairs']}쌍 가운데 {rate:.0%}. 처음 보는 이야기의 혼란도: {', '.join(told) or '아직 학습한 갈래 없음'}.",
            )
        )
    shares: list[tuple[float, str, str]] = []
    human = ""
    for name in arms:
        config = run_.config("train", name)
        if config.data == "human":
            human = name
        elif config.data == "unfiltered":
            shares.append((2.0, "no filter", name))
        else:
            shares.append((config.keep_top, f"{config.keep_top:.0%}", name))
    shares.sort()

    def line(name: str) -> str:
        rule, bits = (BY_KEY[k].text(number(arms[name], k)) for k in ("rule_pass_rate", "bits_per_byte"))
        return f"{name} {rule}, {bits}"

    several = len(shares) > 1
    listed = "; ".join(f"{share}: {line(n)}" for _, share, n in shares)
    names = [n for *_, n in shares]
    command = f"python -m lab train {run_.id} --arm top30 --keep-top 0.3"
    found.append(
        (
            "Is it better to train on the best 30, 50 or 80 %, or without a filter? (rule pass rate, bits per byte)",
            f"{listed}; {_shown(report, names, 'en')}"
            if several
            else f"Only one arm so far. Train others, for example: {command}",
            "상위 30, 50, 80%만 배우는 것과 거르지 않는 것 가운데 무엇이 나은가요? (규칙 통과율, 바이트당 비트)",
            f"{listed.replace('no filter', '거르지 않음')}; {_shown(report, names, 'ko')}"
            if several
            else f"아직 갈래가 하나뿐입니다. 다른 갈래를 학습해 보세요: {command}",
        )
    )
    # Against people's stories stands the arm that learned from all kept pairs, else from the most of them.
    distilled = max((x for x in shares if x[0] <= 1), default=(0.0, "", ""))[2]
    command = f"python -m lab train {run_.id} --arm human --data human"
    found.append(
        (
            "Does distilled data teach as well as stories written by people?",
            f"distilled: {line(distilled)}; people: {line(human)}; {_shown(report, (distilled, human), 'en')}"
            if human and distilled
            else f"Train on people's stories to see: {command}",
            "증류한 자료는 사람이 쓴 이야기만큼 잘 가르치나요?",
            f"증류: {line(distilled)}; 사람: {line(human)}; {_shown(report, (distilled, human), 'ko')}"
            if human and distilled
            else f"사람이 쓴 이야기로도 학습해 보세요: {command}",
        )
    )
    found.append(
        (
            "Which teacher teaches better?",
            "Make a second run with the other teacher and choose it under “Another run” in the Compare tab.",
            "어느 교사가 더 잘 가르치나요?",
            "다른 교사로 실험을 하나 더 만든 뒤, 비교 탭의 ‘다른 실험’에서 골라 보세요.",
        )
    )
    return found


def markdown(report: dict[str, Any], run_: Run) -> str:
    """The whole report in Markdown, both languages."""
    models = report["models"]
    lines = [f"# {plain(report['title'])}", "", report["verdict"]["ko"], "", report["verdict"]["en"], ""]
    lines += [f"- {f['ko']} / {f['en']}" for f in report["flags"]]
    lines += ["", "## 지표 / Measures", ""]
    lines += [
        f"n = {report['prompts']} prompts, {report['test_pairs']} test stories, {report['reference_stories']} reference stories; brackets are 95 % intervals (of speeds: least and greatest of the rounds).",
        "",
        markdown_table(models),
        "",
    ]
    heads, rows = tested(report, "en")
    if rows:
        lines += ["## 차이 / Tested differences", "", *(f"{choose(STAR, language)}  " for language in ("ko", "en")), ""]
        lines += ["| | " + " | ".join(map(plain, heads)) + " |", "|---|" + "---:|" * len(heads)]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += ["## 교사에게서 지킨 것 / Kept of the teacher", ""]
    lines += [
        f"Target {TARGET[0]:.0%} – {TARGET[1]:.0%} of the quality, a third of the memory, three times the speed.",
        "",
    ]
    lines += [f"- {plain(arm)}: {kept_line(report, arm, 'en')}" for arm in report["retention"]] + [""]
    if report["duels"]:
        lines += ["## 둘씩 견주기 / Pairwise", "", *(f"- {plain(_duel_line(d))}" for d in report["duels"]), ""]
    for name in drawable(report):
        lines += [f"![{CHARTS[name]}](charts/{name}.png)", ""]
    lines += ["## 물음 / Exercises", ""]
    for question, answer, frage, antwort in exercises(report, run_):
        lines += [f"**{frage}** {plain(antwort)}", "", f"**{question}** {plain(answer)}", ""]
    lines += ["## 출처 / Provenance", "", *_provenance(report), ""]
    return "\n".join(lines)


def _duel_line(duel: dict[str, Any]) -> str:
    """Who won how often against whom, plain and at equal length, in a line."""
    rate, equal = (
        f"{x['value']:.0%} [{x['low']:.0%} – {x['high']:.0%}]"
        for x in (duel["win_rate"], duel["win_rate_at_equal_length"])
    )
    return (
        f"{duel['a']} : {duel['b']}, {duel['wins']} won, {duel['ties']} tied, {duel['losses']} lost; win rate {rate}, "
        f"at equal length {equal}; judge {duel['judge']}"
        + (f", its two orders disagreed in {duel['disagreed']:.0%}" if duel["orders"] == 2 else "")
    )


def _provenance(report: dict[str, Any]) -> list[str]:
    lines = [
        f"- {plain(label(m, 'en'))}: {plain(m['name'])}, revision {m.get('revision') or '–'}, weights {m.get('weights') or '–'}, {m.get('dtype') or '–'} on {m.get('device') or 'an endpoint'}"
        for m in report["models"]
    ]
    versions = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    counts = report["leak_counts"]
    return [
        *lines,
        f"- temperature {report['temperature']}, top-p {report.get('top_p', 1.0)}, seed {report['seed']}, tasks {report['same_tasks']}, {versions}",
        f"- leak check against {report['training_pairs']} training rows: {counts['reference']} reference stories, {counts['probes']} probes, {counts['general']} general questions, {counts['test']} test stories share a passage; {report['test_pairs_left_out']} test stories left out",
    ]


STYLE = """body{font-family:Pretendard,'Noto Sans KR','Noto Sans CJK KR','Apple SD Gothic Neo','Malgun Gothic',sans-serif;
max-width:60rem;margin:2rem auto;padding:0 1rem;color:#3b2f2a;background:#fffdf8;line-height:1.7;word-break:keep-all}
table{border-collapse:collapse;width:100%}td,th{padding:.4rem .6rem;border-bottom:1px solid #eadfce;text-align:right}
td:first-child,th:first-child{text-align:left}small{display:block;color:#7a6a61}.wide{overflow-x:auto}
.verdict{background:#f6ecdf;border-radius:12px;padding:1rem 1.2rem}svg{max-width:100%;height:auto}"""


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
    return (
        f'<div class="scroll wide"><table class="measures"><tr><th></th>{head}</tr>{"".join(body)}</table></div>{note}'
    )


def html(report: dict[str, Any], run_: Run, pictures: dict[str, str]) -> str:
    """The whole report as one page that needs nothing else; ``pictures`` are SVG texts."""
    said = report["verdict"]
    parts = [
        f"<h1>{escape(str(report['title']))}</h1>",
        f'<div class="verdict"><p>{escape(said["ko"])}</p><p>{escape(said["en"])}</p></div>',
        "<ul>"
        + "".join(f"<li>{escape(f['ko'])}<small>{escape(f['en'])}</small></li>" for f in report["flags"])
        + "</ul>",
        f"<h2>지표 / Measures</h2>{html_table(report['models'], 'ko')}",
        f"<h2>차이 / Tested differences</h2>{differ}" if (differ := html_differences(report, "ko")) else "",
        "<h2>교사에게서 지킨 것 / Kept of the teacher</h2><ul>",
        *(f"<li>{escape(arm)}: {escape(kept_line(report, arm, 'ko'))}</li>" for arm in report["retention"]),
        "</ul>",
        "<h2>둘씩 견주기 / Pairwise</h2><ul>" if report["duels"] else "",
        *(f"<li>{escape(line)}</li>" for line in map(_duel_line, report["duels"])),
        "</ul>" if report["duels"] else "",
        *(f"<h2>{escape(CHARTS[name])}</h2>{svg}" for name, svg in pictures.items()),
        "<h2>물음 / Exercises</h2>",
        *(
            f"<p><b>{escape(ko)}</b><br>{escape(answer_ko)}<small>{escape(en)} {escape(answer)}</small></p>"
            for en, answer, ko, answer_ko in exercises(report, run_)
        ),
        "<h2>출처 / Provenance</h2><ul>" + "".join(f"<li>{escape(x[2:])}</li>" for x in _provenance(report)) + "</ul>",
    ]
    return (
        '<!doctype html><html lang="ko"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(str(report['title']))}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


CHARTS = {
    "quality": "품질 / Quality",
    "bits": "글자 맞히기 / Bits per byte",
    "radar": "한눈에 / All shares at once",
    "quality_speed": "품질과 속도 / Quality against speed",
    "retention": "교사에게서 지킨 것 / Kept of the teacher",
    "probes": "상식 문제 / Probes by type",
    "lengths": "이야기 길이 / Story lengths",
    "scores": "심사 점수 / Judge's marks",
}
SHARES = ("rule_pass_rate", "character_rate", "keyword_rate", "pass_at_4", "probes", "general_rate")
BITS = ("bits_per_byte", "reference_bits_per_byte", "general_bits_per_byte")


def drawable(report: dict[str, Any]) -> list[str]:
    """The charts of CHARTS that the report has numbers for."""
    models = report["models"]
    has = {
        "bits": any(number(m, k) is not None for m in models for k in BITS),
        "radar": sum(all(number(m, k) is not None for m in models) for k in SHARES) > 2,
        "retention": bool(report["retention"]),
        "probes": any(m.get("probes") for m in models),
        "scores": any(m.get("marks") for m in models),
    }
    return [name for name in CHARTS if has.get(name, True)]


def charts(report: dict[str, Any]) -> dict[str, Any]:
    """Every chart of CHARTS that the report has numbers for, as a matplotlib Figure, in English."""
    import matplotlib

    _fonts(matplotlib)
    models = report["models"]
    draw = {
        "quality": lambda: _quality_chart(models),
        "bits": lambda: _bits_chart(models),
        "radar": lambda: _radar_chart(models),
        "quality_speed": lambda: _speed_chart(models),
        "retention": lambda: _retention_chart(report),
        "probes": lambda: _probes_chart(models),
        "lengths": lambda: _boxes_chart(models, "lengths", "characters"),
        "scores": lambda: _boxes_chart(models, "marks", "judge's mark, 1 to 5"),
    }
    return {name: draw[name]() for name in drawable(report)}


def _fonts(matplotlib: Any) -> None:
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    korean = ("Noto Sans CJK KR", "Noto Sans KR", "Noto Sans CJK JP", "NanumGothic", "Malgun Gothic", "AppleGothic")
    matplotlib.rcParams |= {
        "font.family": ["DejaVu Sans", *(f for f in korean if f in known)],
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
    }


def _figure(height: float = 3.4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _quality_chart(models: list[dict[str, Any]]) -> Any:
    keys = [k for k in ("rule_pass_rate", "character_rate", "keyword_rate", "pass_at_4", "probes") if any(number(m, k) is not None for m in models)]  # fmt: skip
    figure, axes = _figure()
    width = 0.8 / len(models)
    for place, (model, colour) in enumerate(zip(models, colours(models), strict=True)):
        values = [number(model, k) or 0.0 for k in keys]
        spans = [bounds(model, k) or (v, v) for k, v in zip(keys, values, strict=True)]
        axes.bar(
            [i + (place - (len(models) - 1) / 2) * width for i in range(len(keys))],
            values,
            width * 0.92,
            yerr=[[max(0.0, v - s[0]) for v, s in zip(values, spans, strict=True)], [max(0.0, s[1] - v) for v, s in zip(values, spans, strict=True)]],
            color=COLOURS[colour],
            hatch=("", "//", "", "..", "xx", "\\\\", "++")[colour],
            edgecolor="white",
            error_kw={"ecolor": "#3b2f2a", "capsize": 2, "lw": 1},
            label=label(model, "en"),
        )  # fmt: skip
    axes.set_xticks(range(len(keys)), [BY_KEY[k].en.replace(", ", ",\n") for k in keys], fontsize=8)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _bits_chart(models: list[dict[str, Any]]) -> Any:
    keys = [k for k in BITS if any(number(m, k) is not None for m in models)]
    figure, axes = _figure(1.4 + 0.25 * len(keys) * len(models))
    step = 0.7 / len(models)
    for place, (model, colour) in enumerate(zip(models, colours(models), strict=True)):
        there = [(i, v, bounds(model, k) or (v, v)) for i, k in enumerate(keys) if (v := number(model, k)) is not None]
        axes.errorbar(
            [v for _, v, _ in there],
            [i + (place - (len(models) - 1) / 2) * step for i, *_ in there],
            xerr=[[max(0.0, v - s[0]) for _, v, s in there], [max(0.0, s[1] - v) for _, v, s in there]],
            fmt=MARKERS[colour],
            color=COLOURS[colour],
            ms=7,
            label=label(model, "en"),
        )
    axes.set_yticks(range(len(keys)), [BY_KEY[k].en.replace(", ", ",\n") for k in keys], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("bits per byte, less is better")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _radar_chart(models: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    keys = [k for k in SHARES if all(number(m, k) is not None for m in models)]
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    around = [2 * pi * i / len(keys) for i in range(len(keys))]
    for model, colour in zip(models, colours(models), strict=True):
        values = [number(model, k) for k in keys]
        line = {"teacher": "-", "base": ":"}.get(model["who"], "--")
        axes.plot([*around, around[0]], [*values, values[0]], line, marker=MARKERS[colour], color=COLOURS[colour], label=label(model, "en"))  # fmt: skip
    axes.set_xticks(around, [BY_KEY[k].en.replace(", ", ",\n") for k in keys], fontsize=8)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _speed_chart(models: list[dict[str, Any]]) -> Any:
    figure, axes = _figure()
    most = max((m.get("peak_memory_bytes") or 0 for m in models), default=0) or 1
    for model, colour in zip(models, colours(models), strict=True):
        speed, quality = model.get("tokens_per_second"), number(model, "rule_pass_rate")
        if speed is None or quality is None:
            continue
        span, memory = bounds(model, "rule_pass_rate") or (quality, quality), model.get("peak_memory_bytes") or 0
        axes.errorbar(speed, quality, [[max(0, quality - span[0])], [max(0, span[1] - quality)]], color=COLOURS[colour], lw=1)  # fmt: skip
        axes.scatter(
            speed,
            quality,
            60 + 700 * memory / most,
            color=COLOURS[colour],
            marker=MARKERS[colour],
            alpha=0.75,
            label=f"{label(model, 'en')}, {memory / 1e6:,.0f} MB",
        )
    axes.set(xlabel="tokens per second, one story (size: peak memory)", ylabel="rule pass rate", ylim=(-0.1, 1.08))
    axes.set_xlim(0, axes.get_xlim()[1] * 1.1)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    legend = figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([50])  # all alike: the size says memory in the chart alone
    return figure


def _retention_chart(report: dict[str, Any]) -> Any:
    keys = [k for k in ("rule_pass_rate", "bits_per_byte", "reference_bits_per_byte", "probes", "judge") if any(r.get(k) is not None for r in report["retention"].values())]  # fmt: skip
    figure, axes = _figure(1.4 + 0.35 * len(keys) * len(report["retention"]))
    axes.axvspan(*TARGET, color="#009E73", alpha=0.2, label=f"target {TARGET[0]:.0%} – {TARGET[1]:.0%}")
    axes.axvline(1, color="#3b2f2a", lw=1)
    row, ticks = 0, []
    for number_, (arm, kept) in enumerate(report["retention"].items()):
        for key in keys:
            if kept.get(key) is None:
                continue
            span = (report["retention_intervals"].get(arm) or {}).get(key)
            colour = (2 + number_) % len(COLOURS)
            if span:
                axes.plot([min(span["low"], 1.6), min(span["high"], 1.6)], [row, row], color=COLOURS[colour], lw=2)
            axes.plot(min(kept[key], 1.6), row, MARKERS[colour], color=COLOURS[colour], ms=8)
            ticks.append(f"{arm}: {BY_KEY[key].en}")
            row += 1
    axes.set_yticks(range(row), ticks, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.65)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.set_xlabel("kept of the teacher")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _probes_chart(models: list[dict[str, Any]]) -> Any:
    figure, axes = _figure()
    for place, (model, colour) in enumerate(zip(models, colours(models), strict=True)):
        if model.get("probes"):
            kinds = model["probes"]["by_type"]
            shares = [k["pass"] / k["total"] for k in kinds.values()]
            apart = (place - (len(models) - 1) / 2) * 0.6 / len(models)
            axes.plot([i + apart for i in range(len(kinds))], shares, MARKERS[colour], color=COLOURS[colour], ms=8, alpha=0.8, label=label(model, "en"))  # fmt: skip
            axes.set_xticks(range(len(kinds)), [choose(TYPES.get(k, (k, k)), "en") for k in kinds], fontsize=8)
            axes.axhline(model["probes"]["chance"], color="#3b2f2a", ls="--", lw=1)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.set_ylabel("right (dashed: chance)")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _boxes_chart(models: list[dict[str, Any]], key: str, axis: str) -> Any:
    figure, axes = _figure(1.2 + 0.5 * len(models))
    values = [[v for v in m.get(key) or () if v is not None] for m in models]
    boxes = axes.boxplot(values, orientation="horizontal", patch_artist=True, widths=0.6)
    for box, colour in zip(boxes["boxes"], colours(models), strict=True):
        box.set(facecolor=COLOURS[colour], alpha=0.6)
    axes.set_yticks(range(1, len(models) + 1), [label(m, "en") for m in models], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    return figure


def write(run_: Run, report: dict[str, Any]) -> None:
    """report.md, report.html and charts/*.png, *.svg beside report.json."""
    folder = run_.report_file.parent
    (folder / "charts").mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, figure in charts(report).items():
        figure.savefig(folder / "charts" / f"{name}.png", dpi=150, metadata={"Software": None})
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        write_text(folder / "charts" / f"{name}.svg", text.getvalue())
        pictures[name] = text.getvalue()[text.getvalue().index("<svg") :]
    write_text(folder / "report.md", markdown(report, run_))
    write_text(folder / "report.html", html(report, run_, pictures))
