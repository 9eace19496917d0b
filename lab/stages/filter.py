"""filter: a verdict for every pair, by rules, by a judge and by people, that can be cut again without recomputing.

What costs time (checks, near-duplicate search, judge) runs once and stays in ``Verdict.scores``; ``recut``
turns these scores and a configuration into verdicts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lab import jobs
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
BY_HAND = "ledger"
"""Who restores or rejects a row in the ledger; it decides over reviewers."""
UNDO = "undo"
"""The note of a row that takes the same person's word back."""
JUDGED_AT_ONCE = 64
PERMUTATIONS = 192
BANDS = 48
"""48 bands of 4 rows: a pair at similarity 0.5 becomes a candidate with 95 %, at 0.6 with 99.9 % probability."""
CHUNK = 500
"""Stories that a worker process measures at a time."""

_OWN = frozenset({"too_short", "too_long", "low_score", "below_cut", "reviewer"})
_BITS = {reason: i for i, reason in enumerate(REASONS)}
_RULES = [c for c in CHECKS if c not in (too_short, too_long)]


def sketch(texts: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """What near-duplicate search needs of every text: its shingles as sorted numbers, and one hash for each band of
    its MinHash (row a text, column a band). A shingle of three characters fits into 63 bits, so nothing collides.
    """
    from rensa import RMinHash

    sets = []
    for text in texts:
        dense = "".join(c for c in text if c.isalnum()) or " "
        codes = np.frombuffer(dense.ljust(SHINGLE).encode("utf-32-le"), np.uint32).astype(np.uint64)
        sets.append(np.unique(codes[:-2] << np.uint64(42) | codes[1:-1] << np.uint64(21) | codes[2:]))
    offsets = np.cumsum([0, *map(len, sets)]).tolist()
    # The sketch wants hashes, not codes: an odd factor and a shift spread the bits and lose none.
    mixed = np.concatenate(sets) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(mixed, offsets, PERMUTATIONS, 0)
    digests = np.array(matrix.to_rows(), np.uint64).reshape(len(sets), BANDS, PERMUTATIONS // BANDS)
    factors = np.uint64(0xD6E8FEB86659FD93) ** np.arange(1, PERMUTATIONS // BANDS + 1, dtype=np.uint64)
    return sets, ((digests + np.uint64(1)) * factors).sum(-1, dtype=np.uint64)


def near_duplicates(
    sketches: tuple[list[np.ndarray], np.ndarray], usable: Sequence[bool], known: int = 0
) -> dict[int, tuple[int, float]]:
    """Row -> (row that it repeats, Jaccard similarity of shingles) for every near-duplicate.

    The survivor is the first in the file that is ``usable`` (has no other fault) and no duplicate itself; the first
    ``known`` rows, the reference stories, come before all and are never duplicates. MinHash and banding find
    candidates, the exact similarity decides. Time grows with the rows and memory by about 2.5 KB a story.
    """
    sets, bands = sketches
    groups = np.full(bands.shape, -1)
    for band in range(bands.shape[1]):
        _, group, size = np.unique(bands[:, band], return_inverse=True, return_counts=True)
        groups[:, band] = np.where(size[group] > 1, group, -1)
    survivors: dict[tuple[int, int], list[int]] = {}
    found: dict[int, tuple[int, float]] = {}
    for row in np.flatnonzero((groups >= 0).any(1)).tolist():
        shared = [(band, group) for band, group in enumerate(groups[row].tolist()) if group >= 0]
        own, best = sets[row], (0.0, 0)
        for other in {o for key in shared for o in survivors.get(key, ())} if row >= known else ():
            both = len(np.intersect1d(own, sets[other], assume_unique=True))
            # Among equals the earliest.
            best = max(best, (round(both / (len(own) + len(sets[other]) - both), 3), -other))
        if best[0] >= SAME:
            found[row] = (-best[1], best[0])
        elif usable[row]:
            for key in shared:
                survivors.setdefault(key, []).append(row)
    return found


def _measure(pairs: list[Pair]) -> tuple[list[dict[str, Any]], tuple[list[np.ndarray], np.ndarray]]:
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
    return measured, sketch([p.output for p in pairs])


def measure(pairs: Sequence[Pair], progress: Progress | None = None) -> list[dict[str, Any]]:
    """The statistics and findings of every pair (as ``Verdict.scores``), near-duplicates included."""
    chunks = [list(pairs[i : i + CHUNK]) for i in range(0, len(pairs), CHUNK)]
    known = reference_stories()
    sets, bands = sketch([r["output"] for r in known])
    measured: list[dict[str, Any]] = []
    all_bands = [bands]
    with ExitStack() as stack:
        work = map(_measure, chunks)
        if len(chunks) > 2:
            # spawn, as the calling process may hold threads of torch
            pool = ProcessPoolExecutor(min(os.cpu_count() or 1, 8), get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            work = pool.map(_measure, chunks)
        for part, (more, bands) in work:
            measured += part
            sets += more
            all_bands.append(bands)
            if progress:
                progress.step(len(measured))
    usable = [True] * len(known) + [not m["found"] for m in measured]
    names = [r["id"] for r in known] + [p.id for p in pairs]
    for row, (other, similarity) in near_duplicates((sets, np.concatenate(all_bands)), usable, len(known)).items():
        scores = measured[row - len(known)]
        scores["found"]["near_duplicate"] = None
        scores |= {"twin": names[other], "similarity": similarity}
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

    def counts(self) -> dict[str, int]:
        """How many rows each rule found something in, whether it is on or off."""
        return _counted(self.found)


def _counted(bits: np.ndarray) -> dict[str, int]:
    counts = {r: int(((bits >> i) & 1).sum()) for r, i in _BITS.items()}
    return dict(sorted(((r, n) for r, n in counts.items() if n), key=lambda x: -x[1]))


@dataclass(frozen=True)
class Cut:
    """What a configuration makes of a table: kept or not, and the reasons as bits."""

    kept: np.ndarray
    reasons: np.ndarray

    def counts(self) -> dict[str, int]:
        """How many rows each reason has, most first; a row with two reasons counts twice."""
        return _counted(self.reasons)

    def alone(self) -> dict[str, int]:
        """How many rows each reason drops by itself: what switching it off would bring back."""
        dropped = self.reasons[~self.kept]
        return {r: n for r, i in _BITS.items() if (n := int((dropped == 1 << i).sum()))}

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


def _faults(table: Table, config: FilterConfig, off: set[str]) -> np.ndarray:
    """Reason bits of rules and length limits, before any score counts."""
    reasons = table.found & sum(1 << i for r, i in _BITS.items() if r not in off and r not in _OWN)
    for name, hit in (("too_short", table.chars < config.min_chars), ("too_long", table.chars > config.max_chars)):
        if name not in off:
            reasons = reasons | hit.astype(np.int64) << _BITS[name]
    return reasons


def _top(config: FilterConfig, off: set[str], count: int) -> int:
    """How many of ``count`` rows that passed are kept."""
    return max(min(1, count), round(config.keep_top * count)) if "below_cut" not in off else count


def cut(table: Table, config: FilterConfig) -> Cut:
    """Apply length limits, rules, minimum score, keep-top and people's verdicts, in this order; people win."""
    off = rules_off(config)
    reasons = _faults(table, config, off)
    if "low_score" not in off:
        reasons = reasons | (table.judge < config.min_score).astype(np.int64) << _BITS["low_score"]
    passed = np.flatnonzero(reasons == 0)
    # Best judge score first; without a judge, and among equals, the order of the file.
    order = passed[np.argsort(-np.nan_to_num(table.judge[passed], nan=0.0), kind="stable")]
    reasons[order[_top(config, off, len(order)) :]] |= 1 << _BITS["below_cut"]
    kept = np.where(table.human >= 0, table.human == 1, reasons == 0)
    reasons = np.where(table.human == 0, reasons | 1 << _BITS["reviewer"], np.where(table.human == 1, 0, reasons))
    return Cut(kept, reasons)


def curve(table: Table, config: FilterConfig) -> list[tuple[float, float]]:
    """(minimum score, pass rate) from 1.0 to 5.0 by 0.1 with all else as in ``config``: what ``cut`` gives at each."""
    off = rules_off(config)
    passed, free = _faults(table, config, off) == 0, table.human < 0
    judged = np.flatnonzero(passed & ~np.isnan(table.judge))
    judged = judged[np.argsort(-table.judge[judged], kind="stable")]
    unjudged = np.flatnonzero(passed & np.isnan(table.judge))
    best, rest = (np.concatenate([[0], np.cumsum(free[rows])]) for rows in (judged, unjudged))
    points = []
    for threshold in (np.arange(10, 51) / 10).tolist():
        over = len(judged)
        if "low_score" not in off:
            over = int(np.searchsorted(-table.judge[judged], -threshold, side="right"))
        most = _top(config, off, over + len(unjudged))
        kept = best[min(over, most)] + rest[max(0, most - over)] + (table.human == 1).sum()
        points.append((threshold, float(kept / max(1, len(free)))))
    return points


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


@dataclass(frozen=True)
class Ledger:
    """The pairs of a run that have a verdict, in the order of the pairs file, and their verdicts as a table."""

    pairs: tuple[Pair, ...]
    table: Table


def ledger(run_: Run) -> Ledger:
    """The run's ledger as its files stand; read anew only when they have changed."""
    return _ledger(run_, *(_age(f) for f in (run_.pairs_file, run_.verdicts_file)))


@lru_cache(maxsize=2)
def _ledger(run_: Run, *ages: tuple[int, int]) -> Ledger:
    verdicts = {v.id: v for v in run_.verdicts()}
    pairs = {p.id: p for p in run_.pairs() if p.id in verdicts}
    return Ledger(tuple(pairs.values()), Table.of(verdicts[id] for id in pairs))


def _age(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size


def words(run_: Run) -> dict[str, dict[str, dict[str, Any]]]:
    """id -> who -> that person's latest row of reviews.jsonl that still stands; who spoke last comes last."""
    said: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_rows(run_.reviews_file):
        by = said.setdefault(row["id"], {})
        by.pop(row.get("who", ""), None)
        if row.get("note") != UNDO:
            by[row.get("who", "")] = row
    return said


def human_verdicts(run_: Run) -> dict[str, bool]:
    """id -> kept: a word given in the ledger decides, else the majority of the reviewers, a tie goes to the latest."""
    result = {}
    for key, by in words(run_).items():
        votes = {who: bool(row["keep"]) for who, row in by.items() if row.get("keep") is not None}
        keep = sum(votes.values())
        if BY_HAND in votes:
            result[key] = votes[BY_HAND]
        elif votes:
            result[key] = keep * 2 > len(votes) if keep * 2 != len(votes) else list(votes.values())[-1]
    return result


def set_manual(run_: Run, id: str, keep: bool | None, who: str, quality: int | None = None, note: str = "") -> None:
    """A person's word: keep (True), drop (False) or neither (None: a skipped row); counts from the next cut on."""
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


def decide(run_: Run, id: str, keep: bool) -> None:
    """Restore or reject a row by hand; it counts at once."""
    _not_busy(run_)
    if id in {p.id for p in ledger(run_).pairs}:
        set_manual(run_, id, keep, BY_HAND)
        apply_cut(run_, run_.config("filter"))


def apply_cut(run_: Run, config: FilterConfig) -> dict[str, Any]:
    """Cut the stored verdicts anew by ``config`` and people's words, without measuring again; the facts."""
    _not_busy(run_)
    verdicts = ledger(run_).table.verdicts
    if not verdicts:
        raise Problem(
            "There are no verdicts to cut. Run `python -m lab filter` first.",
            "다시 자를 판정이 없습니다. 먼저 `python -m lab filter` 명령을 실행해 주세요.",
        )
    rules_off(config)
    run_.begin("filter", config)
    facts = save_cut(run_, config, verdicts)
    run_.finish("filter", facts)
    return facts


def _not_busy(run_: Run) -> None:
    if jobs.look(run_).state in jobs.GOING:
        raise Problem(
            f"Run {run_.id} has a job at work that may read the verdicts. Wait for it or stop it first.",
            f"실험 {run_.id} 에서 판정을 읽는 작업이 진행 중입니다. 끝나기를 기다리거나 먼저 멈춰 주세요.",
        )


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


def _judged(
    run_: Run, config: FilterConfig, pairs: list[Pair], scores: list[dict[str, Any]], progress: Progress
) -> dict[int, tuple[float | None, str]]:
    """Row -> (score or None, reason) of the judge, for every pair without a fault.

    Each opinion is written down as soon as it is there, so stopped work goes on where it was and the same judge is
    never asked twice; an answer that could not be read is asked for again.
    """
    from lab import judge

    off = rules_off(config)
    wanted = [i for i, m in enumerate(scores) if not set(m["found"]) - off]
    if same := judge.same_family(config.judge, [p.teacher for p in pairs]):
        progress.note(
            f"Judge and teacher are of the same family ({same}): it may like its own style. Another judge is safer.",
            f"심사 모델과 교사 모델이 같은 계열입니다({same}). 자기 문체를 후하게 볼 수 있으니 다른 심사 모델을 권합니다.",
        )
    repair(run_.judged_file)
    name = judge.identity(config.judge)
    known = {r["id"]: (r["score"], r["reason"]) for r in read_rows(run_.judged_file) if r["judge"] == name}
    opinions = {i: known[pairs[i].id] for i in wanted if pairs[i].id in known}
    fresh = [i for i in wanted if i not in opinions]
    done = len(pairs) + len(pairs) - len(fresh)
    for start in range(0, len(fresh), JUDGED_AT_ONCE):
        part = fresh[start : start + JUDGED_AT_ONCE]
        said = judge.judge_pairs([pairs[i] for i in part], config.judge)
        opinions |= zip(part, said, strict=True)
        rows = [
            {"id": pairs[i].id, "judge": name, "score": score, "reason": why}
            for i, (score, why) in zip(part, said, strict=True)
            if score is not None
        ]
        append_rows(run_.judged_file, rows)
        done += len(part)
        progress.step(done)
    return opinions


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
    opinions = _judged(run_, config, pairs, scores, progress) if judged else {}
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
