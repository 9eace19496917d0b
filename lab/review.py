"""Human review: a stratified sample, CSV out and in, and how far filter and judge agree with people."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lab.problems import Problem
from lab.records import Pair, Verdict, read_json, write_json
from lab.run import Run
from lab.stages.filter import BY_HAND, UNDO, cut, human_verdicts, ledger, set_manual, words

COLUMNS = ("id", "instruction", "output", "kept", "judge", "reasons", "keep", "quality", "note")
_KEEP = {"keep": True, "1": True, "o": True, "yes": True, "true": True, "남김": True, "통과": True, "drop": False, "0": False, "x": False, "no": False, "false": False, "버림": False, "탈락": False}  # fmt: skip
COUNT = 100
"""Stories in a review: an hour's reading, and kappa within about 0.15."""


def sample(run_: Run, count: int | None = None) -> list[tuple[Pair, Verdict]]:
    """About ``count`` pairs, taken in turn from strata of kept or dropped, first reason, and whole judge score.

    From the first word (or export) on the sample stays as it is, whatever is cut or filtered later, until another
    count is asked for (None takes the one at hand, first 100) or a pair is gone.
    """
    rows = _rows(run_)
    return [rows[id] for id in _drawn(run_, rows, count)["rows"]]


def _rows(run_: Run) -> dict[str, tuple[Pair, Verdict]]:
    book = ledger(run_)
    return {v.id: (p, v) for p, v in zip(book.pairs, book.table.verdicts, strict=True)}


def _drawn(run_: Run, rows: dict[str, tuple[Pair, Verdict]], count: int | None = None) -> dict[str, Any]:
    """The sample as it is stored: {"count", "rows": {id: stratum}, "strata": {stratum: size in the whole run}}."""
    stored = read_json(run_.sample_file, {})
    count = count or stored.get("count", COUNT)
    if stored.get("count") == count and stored["rows"].keys() <= rows.keys():
        return stored
    strata: dict[str, list[str]] = {}
    for _, v in rows.values():
        name = f"{'kept' if v.kept else 'dropped'} {(*v.reasons, '')[0]} {'' if v.judge is None else int(v.judge)}"
        strata.setdefault(name, []).append(v.id)
    piles = [(name, sorted(strata[name], key=_shuffled)) for name in sorted(strata)]
    chosen: dict[str, str] = {}
    for turn in range(max((len(pile) for _, pile in piles), default=0)):
        chosen |= {pile[turn]: name for name, pile in piles[: count - len(chosen)] if turn < len(pile)}
        piles = [x for x in piles if len(x[1]) > turn + 1]
    return {
        "count": count,
        "rows": {id: chosen[id] for id in sorted(chosen, key=_shuffled)},
        "strata": {name: len(strata[name]) for name in sorted(set(chosen.values()))},
    }


def _shuffled(id: str) -> str:
    """A key that puts ids in an order that is arbitrary and always the same."""
    return hashlib.sha256(f"review {id}".encode()).hexdigest()


@dataclass(frozen=True)
class Desk:
    """What one reviewer has in front: the next story (None when all are seen), how many are seen, of how many."""

    pair: Pair | None
    seen: int
    total: int


def desk(run_: Run, who: str) -> Desk:
    """The reviewer's place in the sample; a skipped story counts as seen."""
    drawn, said = sample(run_), words(run_)
    left = [p for p, _ in drawn if who not in said.get(p.id, {})]
    return Desk(left[0] if left else None, len(drawn) - len(left), len(drawn))


def say_word(run_: Run, who: str, id: str, keep: bool | None, quality: int | None = None) -> None:
    """A reviewer's word on a story of the sample: keep, drop or (None) skip, with a quality from 1 to 5 if given."""
    if not who.strip() or who == BY_HAND:
        raise Problem(
            "Write your name first, so that several reviewers can be told apart.",
            "검토하는 사람이 구분되도록 이름을 먼저 적어 주세요.",
        )
    drawn = _drawn(run_, _rows(run_))
    if id in drawn["rows"]:
        write_json(run_.sample_file, drawn)
        set_manual(run_, id, keep, who.strip(), quality if quality in range(1, 6) else None)


def undo(run_: Run, who: str) -> str | None:
    """Take back the reviewer's latest word; the id of its story, None when there is none."""
    mine = [(row["at"], id) for id, by in words(run_).items() for name, row in by.items() if name == who]
    if not mine:
        return None
    id = max(enumerate(mine), key=lambda x: (x[1][0], x[0]))[1][1]
    set_manual(run_, id, None, who, note=UNDO)
    return id


def guarded(cell: Any) -> str:
    """A spreadsheet runs a cell that begins with = + - @ (or tab, return) as a formula: put an apostrophe before it."""
    text = str(cell)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def export_csv(run_: Run, path: Path, count: int = COUNT) -> int:
    """Write the sample with empty columns keep, quality, note; returns the number of rows."""
    rows = sample(run_, count)
    if not rows:
        raise Problem(
            "There are no verdicts to review. Run `python -m lab filter` first.",
            "검토할 판정이 없습니다. 먼저 `python -m lab filter` 명령을 실행해 주세요.",
        )
    write_json(run_.sample_file, _drawn(run_, _rows(run_), count))
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
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_table(path, str(error)) from None
    if missing := [c for c in ("id", "keep") if c not in columns]:
        raise _no_table(path, ", ".join(missing))
    for number, row in enumerate(rows, 2):
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


def _no_table(path: Path, why: str) -> Problem:
    return Problem(
        f"{path.name} is not a CSV with the columns id and keep ({why}). Export one, fill it in and bring it back.",
        f"{path.name}: id 칸과 keep 칸이 있는 CSV 파일이 아닙니다({why}). 내보낸 CSV를 채워서 가져와 주세요.",
    )


def kappa(a: Sequence[bool], b: Sequence[bool], draws: int = 1000, seed: int = 0) -> dict[str, float | None]:
    """Cohen's kappa of two raters with a 95 % bootstrap interval; None where it is not defined (one class, no rows)."""

    def of(x: Any, y: Any) -> Any:
        """Along the last axis; NaN where both raters know one class only."""
        agreed, p, q = (x == y).mean(-1), x.mean(-1), y.mean(-1)
        expected = p * q + (1 - p) * (1 - q)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected == 1, np.nan, (agreed - expected) / (1 - expected))

    x, y = np.array(a, bool), np.array(b, bool)
    if not len(x):
        return {"kappa": None, "low": None, "high": None, "rows": 0}
    value = float(of(x, y))
    rows = np.random.default_rng(seed).integers(0, len(x), (draws, len(x)))
    drawn = of(x[rows], y[rows])
    drawn = drawn[~np.isnan(drawn)]
    low, high = (float(q) for q in np.quantile(drawn, (0.025, 0.975))) if len(drawn) else (None, None)
    return {"kappa": None if value != value else value, "low": low, "high": high, "rows": len(x)}


def share(said: Sequence[bool], weights: Sequence[float]) -> dict[str, float | None]:
    """The weighted share of True with a 95 % Wilson interval at Kish's effective number of rows."""
    total = sum(weights)
    if not total:
        return {"share": None, "low": None, "high": None, "rows": 0}
    p = sum(w for yes, w in zip(said, weights, strict=True) if yes) / total
    n, z = total**2 / sum(w * w for w in weights), 1.96
    middle, half = (p + z * z / (2 * n)), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"share": p, "low": max(0.0, low), "high": min(1.0, high), "rows": len(said)}


def review_summary(run_: Run) -> dict[str, Any]:
    """Agreement with people on the sample: kappa of filter and of judge, precision of the kept, best judge threshold.

    Kappa is of the reviewed rows as they are (strata in equal parts, a hard mixture). Precision and threshold are
    estimates for the whole run: a row counts for as many rows of its stratum as it stands for. The filter's own word
    is cut anew without people's, and words given in the ledger are left out, as nobody drew those rows.
    """
    config = run_.config("filter")
    all_rows = _rows(run_)
    drawn = _drawn(run_, all_rows)
    said = {
        id: {who: row for who, row in by.items() if who != BY_HAND and row.get("keep") is not None}
        for id, by in words(run_).items()
    }
    decided = {id: keep for id, keep in human_verdicts(run_).items() if said.get(id)}
    table = ledger(run_).table
    own = cut(replace(table, human=np.full_like(table.human, -1)), config)
    kept = dict(zip((v.id for v in table.verdicts), own.kept.tolist(), strict=True))
    rows = [all_rows[id][1] for id in drawn["rows"] if id in decided]
    read = [drawn["rows"][v.id] for v in rows]
    weight = {v.id: drawn["strata"][name] / read.count(name) for v, name in zip(rows, read, strict=True)}
    judged = [v for v in rows if v.judge is not None]
    best = None
    if judged:
        steps = [round(1 + 0.1 * i, 1) for i in range(41)]
        # The lowest threshold among equals: it keeps more.
        best = max(steps, key=lambda t: (sum(weight[v.id] * ((v.judge >= t) == decided[v.id]) for v in judged), -t))
    passed = [v for v in rows if kept[v.id]]
    applied = {v.id: bool(v.scores["human"]) for v in table.verdicts if "human" in v.scores}
    everybody = human_verdicts(run_)
    return {
        "reviewed": len(rows),
        "reviewers": {
            who: sum(who in by for by in said.values()) for who in sorted({w for by in said.values() for w in by})
        },
        "filter": kappa([kept[v.id] for v in rows], [decided[v.id] for v in rows]),
        "judge": kappa([v.judge >= config.min_score for v in judged], [decided[v.id] for v in judged]),
        "precision": share([decided[v.id] for v in passed], [weight[v.id] for v in passed]),
        "best_threshold": best,
        "pending": sum(applied.get(id) != everybody.get(id) for id in applied.keys() | everybody.keys() if id in kept),
    }
