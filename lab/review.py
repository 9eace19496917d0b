"""Human review: a stratified sample, CSV out and in, and how far filter and judge agree with people."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.problems import Problem
from lab.records import Pair, Verdict, read_rows
from lab.run import Run
from lab.stages.filter import human_verdicts, set_manual

COLUMNS = ("id", "instruction", "output", "kept", "judge", "reasons", "keep", "quality", "note")
_KEEP = {"keep": True, "1": True, "o": True, "yes": True, "true": True, "남김": True, "통과": True, "drop": False, "0": False, "x": False, "no": False, "false": False, "버림": False, "탈락": False}  # fmt: skip


def sample(run_: Run, count: int = 100, seed: int = 0) -> list[tuple[Pair, Verdict]]:
    """About ``count`` pairs, taken in turn from strata of kept or dropped, first reason, and whole judge score."""
    pairs = {p.id: p for p in run_.pairs()}
    strata: dict[tuple, list[Verdict]] = {}
    for v in run_.verdicts():
        if v.id in pairs:
            strata.setdefault((v.kept, v.reasons[:1], None if v.judge is None else int(v.judge)), []).append(v)
    rng = random.Random(f"review-{seed}")
    piles = [rng.sample(strata[key], len(strata[key])) for key in sorted(strata, key=repr)]
    chosen: list[Verdict] = []
    while len(chosen) < count and any(piles):
        for pile in piles:
            if pile and len(chosen) < count:
                chosen.append(pile.pop())
    rng.shuffle(chosen)
    return [(pairs[v.id], v) for v in chosen]


def guarded(cell: Any) -> str:
    """A spreadsheet runs a cell that begins with = + - @ (or tab, return) as a formula: put an apostrophe before it."""
    text = str(cell)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def export_csv(run_: Run, path: Path, count: int = 100, seed: int = 0) -> int:
    """Write the sample with empty columns keep, quality, note; returns the number of rows."""
    rows = sample(run_, count, seed)
    if not rows:
        raise Problem(
            "There are no verdicts to review. Run `python -m lab filter` first.",
            "검토할 판정이 없습니다. 먼저 `python -m lab filter` 명령을 실행해 주세요.",
        )
    # utf-8-sig: Excel takes a CSV without the mark for another encoding and breaks Korean.
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for p, v in rows:
            cells = (
                p.id,
                p.instruction,
                p.output,
                int(v.kept),
                "" if v.judge is None else v.judge,
                " ".join(v.reasons),
                "",
                "",
                "",
            )
            writer.writerow([guarded(c) for c in cells])
    return len(rows)


def import_csv(run_: Run, path: Path, who: str) -> int:
    """Take in the rows whose column keep is filled; returns how many. Problem with the line if one cannot be read."""
    known = {p.id for p in run_.pairs()}
    taken = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            word, key = (row.get("keep") or "").strip().lower(), (row.get("id") or "").lstrip("'")
            if not word:
                continue
            quality = (row.get("quality") or "").strip()
            if word not in _KEEP or key not in known or (quality and quality not in "12345"):
                raise Problem(
                    f"{path.name}, line {number}: keep must be keep or drop, quality 1 to 5 or empty, id one of this run. Nothing was taken in.",
                    f"{path.name} {number}번째 줄: keep 칸은 keep 또는 drop, quality 칸은 1~5 또는 빈칸, id는 이 실험의 것이어야 합니다. 아무것도 가져오지 않았습니다.",
                )
            taken.append((key, _KEEP[word], int(quality) if quality else None, row.get("note") or ""))
    for key, keep, quality, note in taken:
        set_manual(run_, key, keep, who, quality, note)
    return len(taken)


def kappa(a: Sequence[bool], b: Sequence[bool], draws: int = 500, seed: int = 0) -> dict[str, float | None]:
    """Cohen's kappa of two raters with a 95 % bootstrap interval; None where it is not defined (one class, no rows)."""
    import numpy as np
    from sklearn.metrics import confusion_matrix

    def of(x: Any, y: Any) -> float:
        table = confusion_matrix(x, y, labels=[0, 1]) / len(x)
        expected = float(table.sum(0) @ table.sum(1))
        return float("nan") if expected == 1 else float((table.trace() - expected) / (1 - expected))

    x, y = np.array(a, int), np.array(b, int)
    if not len(x):
        return {"kappa": None, "low": None, "high": None, "rows": 0}
    rng = np.random.default_rng(seed)
    value = of(x, y)
    drawn = [of(x[i], y[i]) for i in rng.integers(0, len(x), (draws, len(x)))]
    drawn = [d for d in drawn if d == d]
    low, high = (float(q) for q in np.quantile(drawn, (0.025, 0.975))) if drawn else (None, None)
    return {"kappa": None if value != value else value, "low": low, "high": high, "rows": len(x)}


def review_summary(run_: Run) -> dict[str, Any]:
    """Agreement with people: kappa of filter and of judge, precision of the kept, the best threshold for the judge.

    The filter's own word is read from its scores, as a human verdict has replaced the verdict itself.
    """
    from dataclasses import replace

    from lab.stages.filter import recut

    config = run_.config("filter")
    people = human_verdicts(run_)
    own = [replace(v, scores={k: x for k, x in v.scores.items() if k != "human"}) for v in run_.verdicts()]
    rows = [v for v in recut(own, config) if v.id in people]
    said = [people[v.id] for v in rows]
    judged = [(v.judge, people[v.id]) for v in rows if v.judge is not None]
    best = None
    if judged:
        steps = [round(1 + 0.1 * i, 1) for i in range(41)]
        # The lowest threshold among equals: it keeps more.
        best = max(steps, key=lambda t: (sum((s >= t) == k for s, k in judged), -t))
    kept = [people[v.id] for v in rows if v.kept]
    return {
        "reviewed": len(rows),
        "reviewers": sorted({r.get("who", "") for r in read_rows(run_.reviews_file)}),
        "filter": kappa([v.kept for v in rows], said),
        "judge": kappa([s >= config.min_score for s, _ in judged], [k for _, k in judged]),
        "precision": sum(kept) / len(kept) if kept else None,
        "best_threshold": best,
    }
