"""The eight checks before a distilled student goes out, each computed from the run: ok, warn or todo.

``todo`` means that nothing has been measured yet, ``warn`` that it was and misses its target (or is out of date).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab import licenses
from lab.domain import DATA
from lab.records import read_json, read_rows
from lab.run import Run

RATIO = (3.0, 10.0)
"""Teacher to student: below 3 little is saved, above 10 a student of this kind no longer follows its teacher."""
PAIRS = (5_000, 50_000)
PASS_RATE = 0.5
REVIEWS = 100
RULES_OF_A_RUN = {"near_duplicate", "low_score", "below_cut", "reviewer"}
"""Reasons that say nothing about whether the teacher can write one story."""


@dataclass(frozen=True)
class Item:
    """One check: its name, state, measured value and target in both languages, and the tab where it is mended."""

    name: str
    state: str
    value: str
    target: str
    tab: str
    value_ko: str = ""
    target_ko: str = ""

    def said(self, language: str) -> tuple[str, str]:
        """(value, target) in ``ko`` or ``en``; what has no words is the same in both."""
        if language == "ko":
            return self.value_ko or self.value, self.target_ko or self.target
        return self.value, self.target


def check(run: Run) -> list[Item]:
    """All eight, in the order of the work."""
    report = read_json(run.report_file, {})
    models = report.get("models") or []
    found = [item(run, models) for item in ITEMS]
    # What rests on a report is worth less when its inputs have changed since.
    old = run.state("compare") == "stale"
    return [_outdated(i) if old and i.tab == "compare" and i.state == "ok" else i for i in found]


def _outdated(item: Item) -> Item:
    return replace(
        item,
        state="warn",
        value=f"{item.value} (out of date)",
        value_ko=f"{item.value_ko or item.value} (다시 해야 함)",
    )


def as_json(run: Run) -> dict[str, Any]:
    """What ``checklist --json`` prints."""
    return {"run": run.id, "items": [asdict(i) for i in check(run)]}


def table(run: Run) -> str:
    """The checks as columns for a terminal."""
    rows = [(i.state, i.name, i.value or "-", i.target) for i in check(run)]
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def parameters(spec: str) -> int | None:
    """Number of weights without opening the model: from its safetensors heads, else from the size in its name."""
    folder = DATA / "mini" / spec.removeprefix("mini:") if spec.startswith("mini:") else Path(spec)
    if spec and folder.is_dir() and (files := sorted(folder.glob("*.safetensors"))):
        total = 0
        for path in files:
            with path.open("rb") as file:
                head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for name, tensor in head.items():
                if name != "__metadata__":
                    size = 1
                    for n in tensor["shape"]:
                        size *= n
                    total += size
        return total
    named = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z0-9])", spec, re.IGNORECASE)
    return round(float(named[1]) * (1e9 if named[2].lower() == "b" else 1e6)) if named else None


def _of(models: list[dict[str, Any]], who: str) -> dict[str, Any]:
    """The last model of the report in this part; the newest arm stands last."""
    return next((m for m in reversed(models) if m["who"] == who), {})


def _state(ok: bool) -> str:
    return "ok" if ok else "warn"


def _size_ratio(run: Run, models: list[dict[str, Any]]) -> Item:
    teacher = _of(models, "teacher").get("parameters") or parameters(run.config("generate").teacher)
    arm = next(iter(run.arms()[-1:]), "")
    student = (_of(models, "arm") or _of(models, "base")).get("parameters") or parameters(
        run.config("train", arm).student
    )
    target = f"{RATIO[0]:g}-{RATIO[1]:g}"
    if not teacher or not student:
        return Item("size_ratio", "todo", "", target, "train")
    ratio = teacher / student
    value = f"{ratio:.1f} ({teacher / 1e6:,.1f}M / {student / 1e6:,.1f}M)"
    return Item("size_ratio", _state(RATIO[0] <= ratio <= RATIO[1]), value, target, "train")


def _teacher_domain(run: Run, models: list[dict[str, Any]]) -> Item:
    """Rule pass rate of the teacher's own stories, and where compared its probes above chance."""
    targets = (
        f"rules >= {PASS_RATE:.0%}, probes above chance",
        f"규칙 통과 {PASS_RATE:.0%} 이상, 상식 문제는 찍기보다 나음",
    )
    teacher = _of(models, "teacher")
    if teacher:
        probes = teacher.get("probes") or {}
        right = probes["pass"] / probes["total"] if probes.get("total") else None
        low = (teacher.get("intervals") or {}).get("probes", {}).get("low")
        able = teacher["rule_pass_rate"] >= PASS_RATE and (low is None or low > probes.get("chance", 0.25))
        value, ko = f"rules {teacher['rule_pass_rate']:.0%}", f"규칙 통과 {teacher['rule_pass_rate']:.0%}"
        if right is not None:
            value, ko = f"{value}, probes {right:.0%}", f"{ko}, 상식 문제 {right:.0%}"
        return Item("teacher_domain", _state(able), value, targets[0], "compare", ko, targets[1])
    if run.config("generate").teacher == "" or not run.verdicts_file.exists():
        tab = "compare" if run.verdicts_file.exists() else "filter"
        return Item("teacher_domain", "todo", "", targets[0], tab, target_ko=targets[1])
    clean = [not set(v.reasons) - RULES_OF_A_RUN for v in run.verdicts()]
    share = sum(clean) / len(clean) if clean else 0.0
    words = f"rules {share:.0%}", f"규칙 통과 {share:.0%}"
    return Item("teacher_domain", _state(share >= PASS_RATE), words[0], targets[0], "generate", words[1], targets[1])


def _pairs(run: Run, models: list[dict[str, Any]]) -> Item:
    count = sum(1 for _ in run.pairs())
    target = f"{PAIRS[0]:,}-{PAIRS[1]:,}"
    if not count:
        return Item("pairs", "todo", "", target, "generate")
    return Item("pairs", _state(PAIRS[0] <= count <= PAIRS[1]), f"{count:,}", target, "generate")


def _pass_rate(run: Run, models: list[dict[str, Any]]) -> Item:
    kept = [v.kept for v in run.verdicts()]
    target = f">= {PASS_RATE:.0%}"
    if not kept:
        return Item("pass_rate", "todo", "", target, "filter")
    rate = sum(kept) / len(kept)
    found = Item(
        "pass_rate", _state(rate >= PASS_RATE), f"{rate:.0%} ({sum(kept):,} / {len(kept):,})", target, "filter"
    )
    return found if run.state("filter") == "done" else _outdated(found)


def _human_review(run: Run, models: list[dict[str, Any]]) -> Item:
    """Pairs on which some person's newest word stands."""
    words = {(r["id"], r.get("who", "")): r.get("keep") for r in read_rows(run.reviews_file)}
    count = len({id_ for (id_, _), keep in words.items() if keep is not None})
    state = "todo" if not count else _state(count >= REVIEWS)
    return Item("human_review", state, f"{count}" if count else "", f">= {REVIEWS}", "filter")


WORDS = (("perplexity", "probes"), ("혼란도", "상식 문제"))


def _student_quality(run: Run, models: list[dict[str, Any]]) -> Item:
    """The student's perplexity fell, and its everyday knowledge did not fall beyond chance."""
    targets = (
        "perplexity below the untrained student's, probes not lost",
        "혼란도는 배우기 전보다 낮고, 상식은 잃지 않음",
    )
    arm, base = _of(models, "arm"), _of(models, "base")
    if arm.get("perplexity") is None or not arm.get("probes"):
        return Item("student_quality", "todo", "", targets[0], "compare", target_ko=targets[1])
    right = arm["probes"]["pass"] / arm["probes"]["total"]
    if not base.get("perplexity"):  # trained from scratch: there was nobody before
        value, ko = (f"{w[0]} {arm['perplexity']:.2f}, {w[1]} {right:.0%}" for w in WORDS)
        return Item("student_quality", "ok", value, targets[0], "compare", ko, targets[1])
    before = base["probes"]["pass"] / base["probes"]["total"]
    high = (arm.get("intervals") or {}).get("probes", {}).get("high", right)
    value, ko = (
        f"{w[0]} {base['perplexity']:.2f} -> {arm['perplexity']:.2f}, {w[1]} {before:.0%} -> {right:.0%}" for w in WORDS
    )
    learned = arm["perplexity"] < base["perplexity"] or arm.get("tokenizer") != base.get("tokenizer")
    return Item("student_quality", _state(learned and high >= before), value, targets[0], "compare", ko, targets[1])


AXES = ("rule_pass_rate", "tokens_per_second", "size_bytes")
"""Quality, speed, size."""
PARTS_KO = {"teacher": "교사", "base": "배우기 전 학생", "arm": "배운 학생"}
VERDICTS_KO = {"ok": "문제없음", "conditional": "조건부", "unknown": "알 수 없음", "blocked": "막힘"}


def _three_axes(run: Run, models: list[dict[str, Any]]) -> Item:
    """Teacher, student before and student after measured on quality, speed and size alike."""
    targets = "teacher, before and after on quality, speed, size", "교사, 배우기 전, 배운 뒤의 품질·속도·크기"
    teacher, arm = _of(models, "teacher"), _of(models, "arm")
    missing = [w for w in ("teacher", "base", "arm") if any(_of(models, w).get(a) is None for a in AXES)]
    if not models:
        return Item("three_axes", "todo", "", targets[0], "compare", target_ko=targets[1])
    if missing:
        names = ", ".join(missing), ", ".join(PARTS_KO[m] for m in missing)
        return Item("three_axes", "warn", f"not measured: {names[0]}", targets[0], "compare", f"아직 재지 않음: {names[1]}", targets[1])  # fmt: skip
    quality, speed, size = ((arm[a] / teacher[a]) if teacher[a] else 0.0 for a in AXES)
    value = f"quality {quality:.0%}, speed {speed:.1f}x, size {size:.2f}x"
    ko = f"품질 {quality:.0%}, 속도 {speed:.1f}배, 크기 {size:.2f}배"
    return Item("three_axes", "ok", value, targets[0], "compare", ko, targets[1])


def _licence_chain(run: Run, models: list[dict[str, Any]]) -> Item:
    """The same chain that publishing goes by, over every teacher named in the rows."""
    arm = next(iter(run.arms()[-1:]), "")
    found = licenses.run_chain(run, run.config("train", arm), run.config("publish").data_licence)
    licence = found["licence"] or "-"
    words = f"{found['verdict']}: {licence}", f"{VERDICTS_KO[found['verdict']]}: {licence}"
    return Item(
        "licence_chain", _state(found["verdict"] == "ok"), words[0], "ok", "publish", words[1], VERDICTS_KO["ok"]
    )


ITEMS: tuple[Callable[[Run, list[dict[str, Any]]], Item], ...] = (
    _size_ratio,
    _teacher_domain,
    _pairs,
    _pass_rate,
    _human_review,
    _student_quality,
    _three_axes,
    _licence_chain,
)
