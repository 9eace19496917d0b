"""filter: a verdict for every pair, by rules, by a judge and by people, that can be cut again without recomputing.

What costs time (checks, near-duplicate search, judge) runs once and stays in ``Verdict.scores``; ``recut``
turns these scores and a configuration into verdicts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from lab.checks import CHECKS, REASONS, check_pair, too_long, too_short
from lab.config import FilterConfig
from lab.domain import reference_stories
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, dump, read_rows, repair, write_text
from lab.run import Run

SHINGLE = 3
"""Characters of a shingle, spaces and marks left out: one word or so."""
SAME = 0.45
"""Jaccard similarity of shingles from which two stories are the same with retouches; calibrated: edited copies
in filter_dev.jsonl have 0.49 or more, different stories from one hand 0.05 or less."""
PERMUTATIONS = 192
BANDS = 48
"""48 bands of 4 rows: a pair at similarity 0.5 becomes a candidate with 95 %, at 0.6 with 99.9 % probability."""

_OWN = frozenset({"too_short", "too_long", "low_score", "below_cut", "reviewer"})
_BITS = {reason: i for i, reason in enumerate(REASONS)}
_RULES = [c for c in CHECKS if c not in (too_short, too_long)]


def _shingles(text: str) -> list[str]:
    dense = "".join(c for c in text if c.isalnum())
    return list(dict.fromkeys(dense[i : i + SHINGLE] for i in range(max(1, len(dense) - SHINGLE + 1))))


def near_duplicates(
    texts: Sequence[str], usable: Sequence[bool], known: Sequence[tuple[str, str]] = ()
) -> dict[int, tuple[int | str, float]]:
    """Index -> (index of the earlier text or id of the known one, similarity) for every near-duplicate.

    The survivor is the first in the file that is ``usable`` (has no other fault) and no duplicate itself;
    ``known`` texts (id, text), the reference stories, come before all. MinHash and banding find candidates, the exact
    Jaccard similarity decides. Memory: the shingle hashes of the survivors, about 2 KB a story.
    """
    from rensa import RMinHash

    buckets: list[dict[tuple[int, ...], list[int]]] = [{} for _ in range(BANDS)]
    rows = PERMUTATIONS // BANDS
    kept: list[np.ndarray] = []
    names: list[int | str] = []
    found: dict[int, tuple[int | str, float]] = {}
    everything = [(name, text, True) for name, text in known] + [
        (i, t, u) for i, (t, u) in enumerate(zip(texts, usable, strict=True))
    ]
    for name, text, good in everything:
        shingles = _shingles(text)
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=0)
        sketch.update(shingles)
        digest = sketch.digest()
        keys = [tuple(digest[b * rows : (b + 1) * rows]) for b in range(BANDS)]
        own = np.fromiter((hash_of(s) for s in shingles), np.int64, len(shingles))
        own.sort()
        best: tuple[float, int] | None = None
        for candidate in sorted({c for bucket, key in zip(buckets, keys, strict=True) for c in bucket.get(key, ())}):
            other = kept[candidate]
            shared = len(np.intersect1d(own, other, assume_unique=True))
            similarity = shared / max(1, len(own) + len(other) - shared)
            if similarity >= SAME and (best is None or similarity > best[0]):
                best = (similarity, candidate)
        if best is not None and isinstance(name, int):
            found[name] = (names[best[1]], round(best[0], 3))
        elif good:
            for bucket, key in zip(buckets, keys, strict=True):
                bucket.setdefault(key, []).append(len(kept))
            kept.append(own)
            names.append(name)
    return found


def hash_of(shingle: str) -> int:
    """A number for up to five Hangul syllables or letters: folded into 63 bits, the same on every machine."""
    value = 0
    for char in shingle:
        value = value << 12 ^ value >> 48 ^ ord(char)
    return value & 0x7FFFFFFFFFFFFFFF


def _measure(pairs: list[Pair]) -> list[dict[str, Any]]:
    config = FilterConfig()
    measured = []
    for pair in pairs:
        findings, scores = check_pair(pair, config)
        found = {
            f.reason: [f.start, f.end] if f.start is not None else None
            for f in findings
            if f.reason not in ("too_short", "too_long")
        }
        measured.append(scores | {"found": found})
    return measured


def measure(pairs: Sequence[Pair], progress: Progress | None = None) -> list[dict[str, Any]]:
    """The statistics and findings of every pair (as ``Verdict.scores``), near-duplicates included."""
    chunks = [list(pairs[i : i + 500]) for i in range(0, len(pairs), 500)]
    measured: list[dict[str, Any]] = []
    if len(chunks) < 3:
        for chunk in chunks:
            measured += _measure(chunk)
            if progress:
                progress.step(len(measured))
    else:
        # spawn, as the calling process may hold threads of torch
        with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), get_context("spawn")) as pool:
            for part in pool.map(_measure, chunks):
                measured += part
                if progress:
                    progress.step(len(measured))
    known = [(r["id"], r["output"]) for r in reference_stories()]
    twins = near_duplicates([p.output for p in pairs], [not m["found"] for m in measured], known)
    for i, (other, similarity) in twins.items():
        measured[i]["found"]["near_duplicate"] = None
        measured[i] |= {"twin": pairs[other].id if isinstance(other, int) else other, "similarity": similarity}
    return measured


@dataclass(frozen=True)
class Table:
    """Verdicts as columns, made once, so that ``cut`` is a few array operations."""

    verdicts: tuple[Verdict, ...]
    chars: np.ndarray
    found: np.ndarray
    judge: np.ndarray
    human: np.ndarray

    @staticmethod
    def of(verdicts: Iterable[Verdict]) -> Table:
        """``found`` holds one bit a reason; ``judge`` NaN where there is no score; ``human`` 1 keep, 0 drop, -1 none."""
        rows = tuple(verdicts)
        found = [sum(1 << _BITS[r] for r in v.scores.get("found", ())) for v in rows]
        return Table(
            rows,
            np.array([v.scores.get("chars", 0) for v in rows], np.int32),
            np.array(found, np.int64),
            np.array([np.nan if v.judge is None else v.judge for v in rows], np.float64),
            np.array([v.scores.get("human", -1) for v in rows], np.int8),
        )


@dataclass(frozen=True)
class Cut:
    """What a configuration makes of a table: kept or not, and the reasons as bits."""

    kept: np.ndarray
    reasons: np.ndarray

    def counts(self) -> dict[str, int]:
        """How many rows each reason has, most first; a row with two reasons counts twice."""
        counts = {r: int(((self.reasons >> i) & 1).sum()) for r, i in _BITS.items()}
        return dict(sorted(((r, n) for r, n in counts.items() if n), key=lambda x: -x[1]))

    def funnel(self) -> list[dict[str, Any]]:
        """From all rows to the kept ones, each row at its first reason: [{"reason", "dropped", "left"}]."""
        steps, gone, left = [], np.zeros(len(self.kept), bool), len(self.kept)
        for reason, i in _BITS.items():
            here = ((self.reasons >> i) & 1).astype(bool) & ~gone & ~self.kept
            if here.any():
                gone |= here
                left -= int(here.sum())
                steps.append({"reason": reason, "dropped": int(here.sum()), "left": left})
        return steps


def rules_off(config: FilterConfig) -> set[str]:
    """The reasons that are switched off; Problem if one does not exist."""
    off = {r.strip() for r in config.off.split(",") if r.strip()}
    if unknown := sorted(off - set(REASONS)):
        raise Problem(
            f"Option off: there is no rule {', '.join(unknown)}. Choose from {', '.join(REASONS)}.",
            f"옵션 off: 없는 규칙입니다: {', '.join(unknown)}. 가능한 값: {', '.join(REASONS)}",
        )
    return off


def cut(table: Table, config: FilterConfig) -> Cut:
    """Apply length limits, rules, minimum score, keep-top and people's verdicts, in this order; people win."""
    off = rules_off(config)
    mask = sum(1 << i for r, i in _BITS.items() if r not in off and r not in _OWN)
    reasons = table.found & mask
    for name, hit in (
        ("too_short", table.chars < config.min_chars),
        ("too_long", table.chars > config.max_chars),
        ("low_score", table.judge < config.min_score),
    ):
        if name not in off:
            reasons |= hit.astype(np.int64) << _BITS[name]
    kept = reasons == 0
    if config.keep_top < 1 and "below_cut" not in off:
        passed = np.flatnonzero(kept)
        # Best judge score first; without a judge, and among equals, the order of the file.
        order = passed[np.argsort(-np.nan_to_num(table.judge[passed], nan=0.0), kind="stable")]
        below = order[max(1, round(config.keep_top * len(order))) :] if len(order) else order
        reasons[below] |= 1 << _BITS["below_cut"]
        kept[below] = False
    kept = np.where(table.human >= 0, table.human == 1, kept)
    reasons = np.where(table.human == 0, reasons | 1 << _BITS["reviewer"], np.where(table.human == 1, 0, reasons))
    return Cut(kept, reasons)


def verdicts_of(table: Table, result: Cut) -> list[Verdict]:
    """The verdict rows of a cut."""
    names: dict[int, tuple[str, ...]] = {}
    verdicts = []
    for v, kept, bits, human in zip(
        table.verdicts, result.kept.tolist(), result.reasons.tolist(), table.human.tolist(), strict=True
    ):
        if bits not in names:
            names[bits] = tuple(r for r, i in _BITS.items() if bits >> i & 1)
        reasons = names[bits]
        by = (
            "human"
            if human >= 0
            else "judge"
            if v.judge is not None and (kept or set(reasons) <= {"low_score", "below_cut"})
            else "rule"
        )
        verdicts.append(Verdict(v.id, kept, reasons, v.scores, v.judge, by))
    return verdicts


def recut(rows: Iterable[Verdict], config: FilterConfig) -> list[Verdict]:
    """The same rows under another configuration, from their stored scores alone."""
    table = Table.of(rows)
    return verdicts_of(table, cut(table, config))


def pass_curve(scores: Sequence[float | None]) -> list[tuple[float, float]]:
    """(threshold, share of the judged rows at or above it) from 1.0 to 5.0 by 0.1."""
    judged = np.sort(np.array([s for s in scores if s is not None], float))
    if not len(judged):
        return []
    return [
        (round(t, 1), float(1 - np.searchsorted(judged, t - 1e-9) / len(judged))) for t in np.arange(1.0, 5.01, 0.1)
    ]


def human_verdicts(run_: Run) -> dict[str, bool]:
    """id -> kept, from reviews.jsonl: the majority of the reviewers' latest words, a tie to the latest; ``undo`` takes one back."""
    said: dict[str, dict[str, bool]] = {}
    for row in read_rows(run_.reviews_file):
        votes = said.setdefault(row["id"], {})
        votes.pop(row.get("who", ""), None)
        if row.get("keep") is not None:
            votes[row.get("who", "")] = bool(row["keep"])
    result = {}
    for key, votes in said.items():
        if votes:
            keep = sum(votes.values())
            result[key] = keep * 2 > len(votes) if keep * 2 != len(votes) else list(votes.values())[-1]
    return result


def set_manual(run_: Run, id: str, keep: bool | None, who: str, quality: int | None = None, note: str = "") -> None:
    """Restore (True), reject (False) or take back one's word (None); counts from the next cut on."""
    repair(run_.reviews_file)
    row = {
        "id": id,
        "who": who,
        "keep": keep,
        "quality": quality,
        "note": note,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    append_rows(run_.reviews_file, [row])


def save_cut(run_: Run, config: FilterConfig, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Cut stored verdicts by ``config`` and people's word, write verdicts.jsonl and the dataset, return the facts."""
    people = human_verdicts(run_)
    rows = []
    for v in verdicts:
        scores = {k: x for k, x in v.scores.items() if k != "human"}
        if v.id in people:
            scores["human"] = int(people[v.id])
        rows.append(Verdict(v.id, v.kept, v.reasons, scores, v.judge, v.by))
    table = Table.of(rows)
    result = cut(table, config)
    final = verdicts_of(table, result)
    write_text(run_.verdicts_file, "".join(dump(v.row()) + "\n" for v in final))
    write_dataset(run_, final)
    kept = int(result.kept.sum())
    unparsable = sum(bool(v.scores.get("unparsable")) for v in final)
    facts = {
        "pairs": len(final),
        "kept": kept,
        "pass_rate": kept / len(final),
        "reasons": result.counts(),
        "funnel": result.funnel(),
    }
    return facts | ({"unparsable": unparsable} if unparsable else {})


def write_dataset(run_: Run, verdicts: Sequence[Verdict]) -> None:
    """The kept pairs as a DatasetDict on disk, one split each where there are rows."""
    import shutil

    from datasets import Dataset, DatasetDict

    kept = {v.id: v for v in verdicts if v.kept}
    splits: dict[str, list[dict[str, Any]]] = {}
    for pair in run_.pairs():
        if pair.id in kept:
            row = {k: v for k, v in pair.row().items() if k not in ("seconds", "split")}
            splits.setdefault(pair.split, []).append(row | {"judge": kept[pair.id].judge})
    shutil.rmtree(run_.dataset_folder, ignore_errors=True)
    if splits:
        aside = run_.dataset_folder.with_name(f".dataset.{os.getpid()}")
        DatasetDict(
            {name: Dataset.from_list(splits[name]) for name in ("train", "test") if name in splits}
        ).save_to_disk(str(aside))
        aside.rename(run_.dataset_folder)


def run(run_: Run, config: FilterConfig, progress: Progress) -> dict[str, Any]:
    """Judge every pair of the run; facts: pairs, kept, pass_rate, reasons, funnel."""
    rules_off(config)
    pairs = list({p.id: p for p in run_.pairs()}.values())
    if not pairs:
        raise Problem(
            "There are no pairs to filter. Run `python -m lab generate` or `python -m lab import` first.",
            "거를 쌍이 없습니다. 먼저 `python -m lab generate` 또는 `python -m lab import` 명령을 실행해 주세요.",
        )
    run_.begin("filter", config)
    judged = config.judge not in ("", "none")
    progress.begin("filter", len(pairs) * (2 if judged else 1))
    scores = measure(pairs, progress)
    opinions: dict[int, tuple[float | None, str]] = {}
    if judged:
        from lab import judge

        # A story that a rule dropped needs no judge, except that rules can be switched off later.
        off = rules_off(config)
        wanted = [i for i, m in enumerate(scores) if not set(m["found"]) - off]
        same = judge.same_family(config.judge, [pairs[i].teacher for i in wanted[:1]])
        if same:
            progress.note(
                f"Judge and teacher are of the same family ({same}): it may like its own style. Another judge is safer.",
                f"심사 모델과 교사 모델이 같은 계열입니다({same}). 자기 문체를 후하게 볼 수 있으니 다른 심사 모델을 권합니다.",
            )
        done = len(pairs)
        for start in range(0, len(wanted), 64):
            part = wanted[start : start + 64]
            for i, opinion in zip(part, judge.judge_pairs([pairs[i] for i in part], config.judge), strict=True):
                opinions[i] = opinion
            done += len(part)
            progress.step(done)
    rows = []
    for i, (pair, measured) in enumerate(zip(pairs, scores, strict=True)):
        score, why = opinions.get(i, (None, ""))
        extra: dict[str, Any] = {"judge_reason": why} if why else {}
        if i in opinions and score is None:
            extra["unparsable"] = True
        rows.append(Verdict(pair.id, False, (), measured | extra, score))
    facts = save_cut(run_, config, rows)
    if facts["pass_rate"] < 0.5 and facts["reasons"]:
        worst = max(facts["reasons"], key=facts["reasons"].get)
        progress.note(
            f"Only {facts['pass_rate']:.0%} passed; {worst} costs most ({facts['reasons'][worst]} rows). Look at some of them before training.",
            f"통과율이 {facts['pass_rate']:.0%}입니다. 가장 많이 거른 이유: {worst} ({facts['reasons'][worst]}개). 학습 전에 몇 개를 살펴보세요.",
        )
    run_.finish("filter", facts)
    return facts
