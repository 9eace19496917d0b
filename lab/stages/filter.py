"""filter: a verdict for every pair, by rules, by a judge and by people, that can be cut again without recomputing.

What costs time (checks, near-duplicate search, judge) runs once and stays in ``Verdict.scores``; ``recut``
turns these scores and a configuration into verdicts. ``run`` streams: rows, shingles and sketches wait on disk, so a
million pairs need little more memory than a thousand.
"""

from __future__ import annotations

import os
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from lab import jobs, scan
from lab.checks import CHECKS, REASONS, SCANNED, check_pair, too_long, too_short
from lab.config import FilterConfig
from lab.domain import reference_stories
from lab.duplicates import Sketches, near_duplicates, sketch
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_rows, repair
from lab.run import Run
from lab.together import end_with

BY_HAND = "ledger"
"""Who restores or rejects a row in the ledger; it decides over reviewers."""
UNDO = "undo"
"""The note of a row that takes the same person's word back."""
JUDGED_AT_ONCE = 64
CHUNK = 500
"""Stories that a worker process measures at a time."""
SCAN_FROM = 5000
"""Stories from which compiling their scanner (four to eight seconds) pays; it saves two thirds of the checks' time."""

_OWN = frozenset({"too_short", "too_long", "low_score", "below_cut", "reviewer"})
_BITS = {reason: i for i, reason in enumerate(REASONS)}
_RULES = [c for c in CHECKS if c not in (too_short, too_long)]


def _measure(pairs: list[Pair]) -> tuple[list[dict[str, Any]], Sketches]:
    config = FilterConfig()
    measured = []
    for pair in pairs:
        findings, scores = check_pair(pair, config)
        found = {f.reason: f.shown() for f in findings if f.reason not in ("too_short", "too_long")}
        measured.append(scores | {"found": found})
    return measured, sketch([p.output for p in pairs])


def _ready(scanner: bytes | None) -> None:
    """What a worker process does first; it ends with the stage's own process, even where that was killed."""
    parent = parent_process()
    assert parent  # a worker has one
    end_with(parent.sentinel)
    scan.use(scanner, SCANNED)


def _in_turn(pool: ProcessPoolExecutor, chunks: Iterable[list[Pair]], most: int) -> Iterator[Any]:
    """The pool's answers in the order of the chunks; a chunk is read only when fewer than ``most`` are under way."""
    waiting: deque[Any] = deque()
    for chunk in chunks:
        if len(waiting) >= most:
            yield waiting.popleft().result()
        waiting.append(pool.submit(_measure, chunk))
    while waiting:
        yield waiting.popleft().result()


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


@dataclass(frozen=True)
class Measured(Iterable[dict[str, Any]]):
    """The statistics and findings of many pairs (as ``Verdict.scores``) in a file, near-duplicates added while reading."""

    path: Path
    twins: dict[int, dict[str, Any]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row, scores in enumerate(read_rows(self.path)):
            if twin := self.twins.get(row):
                scores["found"]["near_duplicate"] = None
                scores |= twin
            yield scores


def measure(pairs: Iterable[Pair], ids: Sequence[str], folder: Path, progress: Progress | None = None) -> Measured:
    """Look at every pair, on all cores, near-duplicates included; ``ids`` are those of the pairs, ``folder`` takes the rows."""
    known = reference_stories()
    sketches = Sketches.on_disk(len(known) + len(ids), folder)
    sketches.put(sketch([r["output"] for r in known]))
    usable = np.ones(len(known) + len(ids), bool)
    path, done, cores = folder / ".measured.jsonl", 0, os.cpu_count() or 1
    path.unlink(missing_ok=True)
    with ExitStack() as stack:
        work = map(_measure, _chunks(pairs))
        if len(ids) > 2 * CHUNK:
            # spawn, as the calling process may hold threads of torch
            scanner = scan.compiled(SCANNED) if len(ids) >= SCAN_FROM else None
            pool = ProcessPoolExecutor(cores, get_context("spawn"), _ready, (scanner,))
            stack.callback(pool.shutdown, cancel_futures=True)
            work = _in_turn(pool, _chunks(pairs), 2 * cores)
        for measured, more in work:
            append_rows(path, measured)
            sketches.put(more)
            start, done = len(known) + done, done + len(measured)
            usable[start : start + len(measured)] = [not m["found"] for m in measured]
            if progress:
                progress.step(done)
    names = [r["id"] for r in known]
    twins = {}
    for row, (other, similarity) in near_duplicates(sketches, usable, len(known), folder).items():
        twin = names[other] if other < len(known) else ids[other - len(known)]
        twins[row - len(known)] = {"twin": twin, "similarity": similarity}
    return Measured(path, twins)


@dataclass(frozen=True)
class Table:
    """Verdicts as columns, made once, so that ``cut`` is a few array operations.

    ``verdicts`` is empty where the rows stay on disk.
    """

    verdicts: tuple[Verdict, ...]
    chars: np.ndarray
    found: np.ndarray
    judge: np.ndarray
    human: np.ndarray

    @staticmethod
    def of(verdicts: Iterable[Verdict], hold: bool = True) -> Table:
        """``found`` holds one bit a reason; ``judge`` NaN where there is no score; ``human`` 1 keep, 0 drop, -1 none.

        Without ``hold`` the rows are read once and let go.
        """
        rows, chars, found, judge, human = [], array("i"), array("q"), array("d"), array("b")
        for v in verdicts:
            if hold:
                rows.append(v)
            chars.append(v.scores.get("chars", 0))
            found.append(sum(1 << _BITS[r] for r in v.scores.get("found", ())))
            judge.append(np.nan if v.judge is None else v.judge)
            human.append(v.scores.get("human", -1))
        return Table(
            tuple(rows),
            np.array(chars, np.int32),
            np.array(found, np.int64),
            np.array(judge, np.float64),
            np.array(human, np.int8),
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


def verdicts_of(rows: Iterable[Verdict], table: Table, result: Cut) -> Iterator[Verdict]:
    """The verdicts of a cut; ``rows`` are those that the table was made of."""
    names: dict[int, tuple[str, ...]] = {}
    # Numbers one by one: as lists a million rows would be three million objects.
    for v, kept, bits, human in zip(rows, map(bool, result.kept), map(int, result.reasons), table.human, strict=True):
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
        yield Verdict(v.id, kept, reasons, v.scores, v.judge, by)


def recut(rows: Iterable[Verdict], config: FilterConfig) -> list[Verdict]:
    """The same rows under another configuration, from their stored scores alone."""
    table = Table.of(rows)
    return list(verdicts_of(table.verdicts, table, cut(table, config)))


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


def save_cut(run_: Run, config: FilterConfig, verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Cut stored verdicts by ``config`` and people's word, write verdicts.jsonl and the dataset, return the facts.

    ``verdicts`` is read twice, in the order of the pairs file.
    """
    people = human_verdicts(run_)

    def heard() -> Iterator[Verdict]:
        for v in verdicts:
            scores = {k: x for k, x in v.scores.items() if k != "human"}
            if v.id in people:
                scores["human"] = int(people[v.id])
            yield Verdict(v.id, v.kept, v.reasons, scores, v.judge, v.by)

    table = Table.of(heard(), hold=False)
    result = cut(table, config)
    unparsable = 0
    aside = run_.verdicts_file.with_name(f".{run_.verdicts_file.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    for part in _chunks(verdicts_of(heard(), table, result)):
        unparsable += sum(bool(v.scores.get("unparsable")) for v in part)
        append_rows(aside, [v.row() for v in part])
    aside.replace(run_.verdicts_file)
    write_dataset(run_)
    kept = int(result.kept.sum())
    facts = {
        "pairs": len(table.chars),
        "kept": kept,
        "pass_rate": kept / len(table.chars),
        "reasons": result.counts(),
        "funnel": result.funnel(),
    }
    return facts | ({"unparsable": unparsable} if unparsable else {})


def _kept(run_: Run) -> Iterator[tuple[Pair, float | None]]:
    """The kept pairs and the judge's scores; a pair without a verdict, or one that was there before, is passed over."""
    verdicts = run_.verdicts()
    verdict = next(verdicts, None)
    for pair in run_.pairs():
        if verdict is not None and pair.id == verdict.id:
            if verdict.kept:
                yield pair, verdict.judge
            verdict = next(verdicts, None)


def write_dataset(run_: Run) -> None:
    """The kept pairs as a DatasetDict on disk, one split each where there are rows."""
    import shutil

    from datasets import Dataset, DatasetDict, Features, List, Value, disable_progress_bars
    from datasets.arrow_writer import ArrowWriter

    disable_progress_bars()
    text = Value("string")
    features = Features(
        {k: text for k in ("id", "instruction", "output", "character")}
        | {"keywords": List(text), "teacher": text, "finish": text, "tokens": Value("int64"), "judge": Value("float64")}
    )
    with tempfile.TemporaryDirectory(dir=run_.dataset_folder.parent, prefix=".") as folder, ExitStack() as stack:
        files = {name: f"{folder}/{name}.arrow" for name in ("train", "test")}
        writers = {name: stack.enter_context(ArrowWriter(path=file, features=features)) for name, file in files.items()}
        for part in _chunks(_kept(run_)):
            by_split: dict[str, list[dict[str, Any]]] = {}
            for pair, judge in part:
                by_split.setdefault(pair.split, []).append(pair.row() | {"judge": judge})
            for split, rows in by_split.items():
                writers[split].write_batch({feature: [row[feature] for row in rows] for feature in features})
        counts = {name: writer.finalize()[0] for name, writer in writers.items()}
        shutil.rmtree(run_.dataset_folder, ignore_errors=True)
        if splits := {name: Dataset.from_file(files[name]) for name in files if counts[name]}:
            DatasetDict(splits).save_to_disk(f"{folder}/dataset")
            Path(folder, "dataset").rename(run_.dataset_folder)


def _judged(
    run_: Run, config: FilterConfig, pairs: Callable[[], Iterator[Pair]], count: int, rows: Measured, progress: Progress
) -> dict[int, tuple[float | None, str]]:
    """Row -> (score or None, reason) of the judge, for every pair without a fault.

    Each opinion is written down as soon as it is there, so stopped work goes on where it was and the same judge is
    never asked twice; an answer that could not be read is asked for again.
    """
    from lab import judge

    off = rules_off(config)
    if same := judge.same_family(config.judge, sorted({p.teacher for p in pairs()})):
        progress.note(
            f"Judge and teacher are of the same family ({same}): it may like its own style. Another judge is safer.",
            f"심사 모델과 교사 모델이 같은 계열입니다({same}). 자기 문체를 후하게 볼 수 있으니 다른 심사 모델을 권합니다.",
        )
    repair(run_.judged_file)
    name = judge.identity(config.judge)
    known = {r["id"]: (r["score"], r["reason"]) for r in read_rows(run_.judged_file) if r["judge"] == name}
    opinions: dict[int, tuple[float | None, str]] = {}
    fresh: list[int] = []
    for i, (pair, scores) in enumerate(zip(pairs(), rows, strict=True)):
        if set(scores["found"]) - off:
            continue
        if pair.id in known:
            opinions[i] = known[pair.id]
        else:
            fresh.append(i)
    done = 2 * count - len(fresh)
    unseen = set(fresh)
    asked = ((i, pair) for i, pair in enumerate(pairs()) if i in unseen)
    while part := list(islice(asked, JUDGED_AT_ONCE)):
        said = judge.judge_pairs([pair for _, pair in part], config.judge)
        opinions |= {i: opinion for (i, _), opinion in zip(part, said, strict=True)}
        append_rows(
            run_.judged_file,
            [
                {"id": pair.id, "judge": name, "score": score, "reason": why}
                for (_, pair), (score, why) in zip(part, said, strict=True)
                if score is not None
            ],
        )
        done += len(part)
        progress.step(done)
    return opinions


@dataclass(frozen=True)
class _Rows(Iterable[Verdict]):
    """The uncut verdicts: what was measured and judged, in the order of the pairs file."""

    ids: Sequence[str]
    measured: Measured
    opinions: dict[int, tuple[float | None, str]]

    def __iter__(self) -> Iterator[Verdict]:
        for i, (id, scores) in enumerate(zip(self.ids, self.measured, strict=True)):
            score, why = self.opinions.get(i, (None, ""))
            extra: dict[str, Any] = {"judge_reason": why} if why else {}
            if i in self.opinions and score is None:
                extra["unparsable"] = True
            yield Verdict(id, False, (), scores | extra, score)


def run(run_: Run, config: FilterConfig, progress: Progress) -> dict[str, Any]:
    """Judge every pair of the run; facts: pairs, kept, pass_rate, reasons, funnel."""
    rules_off(config)
    ids = list(dict.fromkeys(p.id for p in run_.pairs()))
    if not ids:
        raise Problem(
            "There are no pairs to filter. Run `python -m lab generate` or `python -m lab import` first.",
            "거를 쌍이 없습니다. 먼저 `python -m lab generate` 또는 `python -m lab import` 명령을 실행해 주세요.",
        )

    def pairs() -> Iterator[Pair]:
        # A row that stands twice counts once, where it came first.
        wanted = iter(ids)
        id = next(wanted, None)
        for pair in run_.pairs():
            if pair.id == id:
                yield pair
                id = next(wanted, None)

    run_.begin("filter", config)
    judged = config.judge not in ("", "none")
    progress.begin("filter", len(ids) * (2 if judged else 1))
    rows = measure(pairs(), ids, run_.stage_folder("filter"), progress)
    opinions = _judged(run_, config, pairs, len(ids), rows, progress) if judged else {}
    facts = save_cut(run_, config, _Rows(ids, rows, opinions))
    rows.path.unlink()
    if facts["pass_rate"] < 0.5 and facts["reasons"]:
        worst = max(facts["reasons"], key=facts["reasons"].get)
        progress.note(
            f"Only {facts['pass_rate']:.0%} passed; {worst} costs most ({facts['reasons'][worst]} rows). Look at some of them before training.",
            f"통과율이 {facts['pass_rate']:.0%}입니다. 가장 많이 거른 이유: {worst} ({facts['reasons'][worst]}개). 학습 전에 몇 개를 살펴보세요.",
        )
    run_.finish("filter", facts)
    return facts
