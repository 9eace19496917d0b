"""What the student keeps of its teacher, and the verdict in one plain sentence, also when the news is bad."""

from __future__ import annotations

from typing import Any

from lab.intervals import Sample, difference, kept

TARGET = (0.90, 0.95)
"""The band of the teacher's quality that a student at a third of the size is meant to reach; above 1 is suspicious."""
SIZE_TARGET = 1 / 3
SPEED_TARGET = 3.0
SMALL = 100
"""Prompts below which an interval of a rate is wider than 20 points, so that a band of 5 points cannot be told."""
BEATS = 1.05
"""Share of a teacher's number from which the student seems to beat it; below, rounding and luck explain it."""

HIGHER_IS_BETTER = (
    "probes",
    "rule_pass_rate",
    "character_rate",
    "keyword_rate",
    "judge",
    "tokens_per_second",
    "batch_tokens_per_second",
)
LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "reference_perplexity", "reference_bits_per_byte")
SMALLER = ("size_bytes", "disk_bytes", "parameters", "peak_memory_bytes", "first_token_seconds")
QUALITY = (
    "rule_pass_rate",
    "judge",
    "bits_per_byte",
    "reference_bits_per_byte",
    "probes",
    "character_rate",
    "keyword_rate",
)
"""The quality axes of retention; bits per byte stands for perplexity, as it compares between vocabularies."""
AS_THE_TEACHER = ("teacher_chrf", "self_chrf", "mean_characters", "distinct_1", "distinct_2", "distinct_3")
"""Numbers of which neither more nor less is better."""


def number(model: dict[str, Any], measure: str) -> float | None:
    """A measure of a row of the report as one number, or None where it was not measured."""
    found: Any
    if measure == "probes":
        found = model.get("probes")
        return found["pass"] / found["total"] if found and found["total"] else None
    if measure.startswith("reference_"):
        return (model.get("reference") or {}).get(measure.removeprefix("reference_"))
    return model.get(measure)


def retained(arm: dict[str, Any], teacher: dict[str, Any]) -> dict[str, float | None]:
    """The arm against its teacher, measure by measure: for quality and speed above 1 is better than the teacher.

    Perplexity and bits per byte are turned round (teacher / arm); sizes, memory and first-token time are plain
    ratios arm / teacher, where less is better. Perplexity is left out across vocabularies. None: not measured.
    """
    found: dict[str, float | None] = {}
    for measure in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER, *SMALLER):
        a, t = number(arm, measure), number(teacher, measure)
        if measure in LOWER_IS_BETTER:
            a, t = t, a
        across = measure.endswith("perplexity") and arm.get("tokenizer") != teacher.get("tokenizer")
        found[measure] = a / t if a is not None and t and not across else None
    return found


def retained_intervals(arm: dict[str, Sample], teacher: dict[str, Sample]) -> dict[str, dict[str, float]]:
    """The intervals of ``retained`` for quality, on the same resamples of both models' items."""
    found = {}
    for measure in QUALITY:
        if measure in arm and measure in teacher and len(arm[measure].top) == len(teacher[measure].top):
            one = kept(arm[measure], teacher[measure], turned=measure in LOWER_IS_BETTER)
            if one:
                found[measure] = one
    return found


def differences(a: dict[str, Sample], b: dict[str, Sample], same_tokens: bool = True) -> dict[str, dict[str, Any]]:
    """``a`` minus ``b`` for every quality number of both, item by item; ``better`` where it is shown to be so.

    Perplexities are left out where the models cut text into different tokens (``same_tokens`` off).
    """
    found = {}
    for measure in sorted(set(a) & set(b)):
        if len(a[measure].top) != len(b[measure].top) or (measure.endswith("perplexity") and not same_tokens):
            continue
        one = difference(a[measure], b[measure])
        lower = measure in LOWER_IS_BETTER or measure in ("general_bits_per_byte", "copied_rate", "mean_copy")
        told = one["shown"] and measure not in AS_THE_TEACHER
        one["better"] = ("a" if (one["difference"] < 0) == lower else "b") if told else None
        found[measure] = one
    return found


NO_GAIN = {
    None: ("a gain over the untrained student is not shown", "학습 전 학생보다 나아졌다고 말할 수 없습니다"),
    "b": (
        "it is worse than the untrained student: training did harm",
        "학습 전 학생보다 나빠졌습니다. 학습이 해가 되었습니다",
    ),
}
"""What is said of an arm that is not shown to be better than the untrained student, or shown to be worse."""


def find_difference(report: dict[str, Any], a: str, b: str, measure: str) -> dict[str, Any]:
    """The tested difference of two models in a report; empty where there is none."""
    row = next((d for d in report.get("differences", ()) if (d["a"], d["b"]) == (a, b)), {})
    return row.get("measures", {}).get(measure, {})


def verdict(report: dict[str, Any]) -> dict[str, str]:
    """One plain sentence on the best arm, by rule pass rate and then by bits per byte; bad news included."""
    models, retention = report["models"], report["retention"]
    arms = [m for m in models if m["who"] == "arm"]
    if not arms:
        return {
            "en": "No arm has been trained yet, so nothing was distilled.",
            "ko": "아직 학습한 갈래가 없어 증류 결과가 없습니다.",
        }
    arm = max(arms, key=lambda m: (m["rule_pass_rate"], -(m["bits_per_byte"] or 0)))
    bases = [m for m in models if m["who"] == "base"]
    base = next((b for b in bases if b.get("tokenizer") == arm.get("tokenizer")), bases[0] if bases else None)
    rates = f"{arm['rule_pass_rate']:.0%}"
    if arm["name"] not in retention:
        before = f"{base['rule_pass_rate']:.0%}" if base else "-"
        return {
            "en": f"Of the stories of arm {arm['name']}, {rates} pass all rules (untrained student {before}); there is no teacher to compare with, the pairs were brought along.",
            "ko": f"갈래 {arm['name']}: 이야기의 {rates}, 학습 전 학생은 {before}만큼 모든 규칙을 통과했습니다. 직접 가져온 쌍이라 견줄 교사가 없습니다.",
        }
    teacher = next(m for m in models if m["who"] == "teacher")
    share = retention[arm["name"]]["rule_pass_rate"]
    faster, smaller = retention[arm["name"]]["tokens_per_second"], retention[arm["name"]]["size_bytes"]
    en = f"Of the stories of arm {arm['name']}, {rates} pass all rules (teacher {teacher['rule_pass_rate']:.0%}"
    ko = f"갈래 {arm['name']}: 이야기의 {rates}가 모든 규칙을 통과했습니다(교사 {teacher['rule_pass_rate']:.0%}"
    if base:
        en += f", untrained student {base['rule_pass_rate']:.0%}"
        ko += f", 학습 전 학생 {base['rule_pass_rate']:.0%}"
    if smaller and faster:
        en += f"; {smaller:.2f} of its size, {faster:.1f} times its speed"
        ko += f"; 교사의 크기 {smaller:.2f}배, 속도 {faster:.1f}배"
    tails = [_kept_of(share, find_difference(report, arm["name"], teacher["name"], "rule_pass_rate"))]
    if base and arm.get("weights") and arm.get("weights") == base.get("weights"):
        tails.append(
            (
                "its weights are those of the untrained student: nothing was learned",
                "가중치가 학습 전 학생과 똑같아 배운 것이 없습니다",
            )
        )
    elif base:
        against = find_difference(report, arm["name"], base["name"], "rule_pass_rate").get("better")
        if against != "a":
            tails.append(NO_GAIN[against])
    if report["prompts"] < SMALL:
        tails.append(
            (
                f"{report['prompts']} prompts are few, so small differences mean nothing",
                f"지시문이 {report['prompts']}개뿐이라 작은 차이는 뜻이 없습니다",
            )
        )
    return {
        "en": f"{en}): {'; '.join(t[0] for t in tails)}.",
        "ko": f"{ko}). {'. '.join(t[1] for t in tails)}.",
    }


def _kept_of(share: float | None, against: dict[str, Any]) -> tuple[str, str]:
    """What a share of the teacher's pass rate means, in both languages."""
    low = TARGET[0]
    if share is None:
        better = against.get("better") == "a"
        return (
            "the teacher passes none, so there is no quality to keep"
            + (", and a student that passes some needs an explanation (a broken teacher setting?)" if better else ""),
            "교사가 하나도 통과하지 못해 견줄 품질이 없습니다"
            + (". 학생만 통과하는 까닭을 확인해야 합니다(잘못된 교사 설정?)" if better else ""),
        )
    if share > BEATS:
        doubt = "" if against.get("shown") else ", or luck"
        doubt_ko = "" if against.get("shown") else ", 우연"
        return (
            f"it seems to beat its teacher, which needs an explanation (a leak, easier text, a broken teacher setting{doubt})",
            f"교사보다 좋아 보이므로 까닭을 확인해야 합니다(누출, 쉬운 글, 잘못된 교사 설정{doubt_ko})",
        )
    if share >= low:
        return (
            f"it keeps {share:.0%} of the teacher's pass rate, which reaches the target",
            f"교사 통과율의 {share:.0%}를 지켜 목표에 닿았습니다",
        )
    return (
        f"it keeps only {share:.0%} of the teacher's pass rate, below the target of {low:.0%}",
        f"교사 통과율의 {share:.0%}에 그쳐 목표 {low:.0%}에 못 미칩니다",
    )
