"""Compare teacher, untrained student and every trained arm: quality, speed and memory on the same prompts and seeds.

Writes compare/report.json (numbers with 95 % intervals, retention, leaks, a verdict in a sentence) and
compare/answers.jsonl (every answer behind the numbers).
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import domain
from lab.config import CompareConfig, FilterConfig
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Answer, Pair, Prompt, append_rows, content_id, read_rows, write_json
from lab.run import Run

SPAN = 30
"""Characters of a shared passage that count as copied: about a sentence; chance does not make it."""
LEAKS_LISTED = 50
RESAMPLES = 1000
"""Bootstrap resamples of an interval."""
TARGET = 0.9
"""Share of the teacher's quality that a student should keep."""
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
SMALLER = ("size_bytes", "parameters", "peak_memory_bytes", "first_token_seconds")


@dataclass(frozen=True)
class Entry:
    """A model of the comparison: its part (teacher, base, arm), its name and its SPEC."""

    who: str
    name: str
    spec: str
    revision: str = ""


def entries(run_: Run, config: CompareConfig) -> list[Entry]:
    """Teacher, each different untrained student, each arm asked for. Raises Problem for an arm that is not trained."""
    finished = run_.finished_arms()
    arms = [a.strip() for a in config.arms.split(",") if a.strip()] or finished
    for arm in arms:
        if arm not in finished:
            raise Problem(
                f"Arm {arm!r} has not been trained. Finished arms: {', '.join(finished) or 'none'}. Run `python -m lab train {run_.id} --arm {arm}` first.",
                f"아직 학습이 끝나지 않은 갈래입니다: {arm!r}. 끝난 갈래: {', '.join(finished) or '없음'}. 먼저 `python -m lab train {run_.id} --arm {arm}` 명령을 실행해 주세요.",
            )
    teacher = run_.config("generate")
    students = [run_.config("train", a).student for a in arms] or [run_.config("train").student]
    bases = [Entry("base", s, s) for s in dict.fromkeys(students) if not s.startswith("scratch:")]
    # Imported pairs have no teacher to stand beside the student.
    teachers = [Entry("teacher", teacher.teacher, teacher.teacher, teacher.revision)] if teacher.teacher else []
    return [
        *teachers,
        *bases,
        *(Entry("arm", a, f"run:{run_.id}/{a}") for a in arms),
    ]


def held_out_prompts(count: int, seed: int) -> list[Prompt]:
    """``count`` prompts of the test split: no training pair has their character and key words together."""
    asked = count * 12
    while True:
        found = [p for p in domain.prompts(asked, seed) if p.split == "test"]
        if len(found) >= count:
            return found[:count]
        asked *= 2


def reference_pairs(config: CompareConfig) -> list[Pair]:
    """The reference stories: our own, or the rows of ``config.reference``."""
    if not config.reference:
        return [Pair.of({"id": s["id"], **s}) for s in domain.reference_stories()]
    path = Path(config.reference)
    rows = list(read_rows(path))
    if not rows or any(
        not isinstance(r.get(k), str) or not r[k].strip() for r in rows for k in ("instruction", "output")
    ):
        raise Problem(
            f"{path} has no usable reference stories. Give a .jsonl file whose every line has instruction and output.",
            f"기준 이야기를 읽을 수 없습니다: {path}. 모든 줄에 instruction과 output이 있는 .jsonl 파일을 넣어 주세요.",
        )
    return [Pair.of({"id": str(i), **r}) for i, r in enumerate(rows)]


def bootstrap(count: int, value: Callable[[Any], Any], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval; ``value`` maps indices of shape (resamples, count) to one number a resample."""
    import numpy as np

    index = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    low, high = np.percentile(value(index), [2.5, 97.5])
    return float(low), float(high)


def run(run_: Run, config: CompareConfig, progress: Progress) -> dict[str, Any]:
    """Measure every model, write the report and return it."""
    models = entries(run_, config)
    kept = run_.kept_pairs()
    train, test = [p for p in kept if p.split == "train"], [p for p in kept if p.split == "test"]
    reference, prompts = reference_pairs(config), held_out_prompts(config.prompts, config.seed)
    run_.begin("compare", config)
    run_.answers_file.unlink(missing_ok=True)
    known = spans(p.output for p in train)
    total, measured = len(models) * len(prompts), []
    progress.begin("compare", total)
    idle = _memory_now()
    for number, entry in enumerate(models):
        before = number * len(prompts)
        measured.append(_measure(run_, config, progress, entry, before, test, reference, prompts, known, idle))
    teachers = [m for m in measured if m["who"] == "teacher"]
    retention = {m["name"]: retained(m, t) for t in teachers for m in measured if m["who"] == "arm"}
    leaks = find_leaks(known, {"test": test, "reference": reference})
    report = {
        "prompts": len(prompts),
        "test_pairs": len(test),
        "reference_stories": len(reference),
        "training_pairs": len(train),
        "temperature": config.temperature,
        "seed": config.seed,
        "models": measured,
        "retention": retention,
        "leaks": leaks[:LEAKS_LISTED],
        "leak_counts": {k: sum(x["set"] == k for x in leaks) for k in ("test", "reference")},
        "verdict": verdict(measured, retention),
    }
    write_json(run_.report_file, report)
    run_.finish("compare", {"models": len(measured), "prompts": len(prompts), "verdict": report["verdict"]})
    return report


def _measure(
    run_: Run,
    config: CompareConfig,
    progress: Progress,
    entry: Entry,
    before: int,
    test: list[Pair],
    reference: list[Pair],
    prompts: list[Prompt],
    known: set[str],
    idle: int,
) -> dict[str, Any]:
    from lab.models import LocalModel, Sampling, open_model

    _reset_peak()
    model = open_model(entry.spec, entry.revision)
    row: dict[str, Any] = {"who": entry.who, "name": entry.name, "spec": entry.spec, "revision": model.revision}
    intervals: dict[str, dict[str, float]] = {}
    try:
        if isinstance(model, LocalModel):
            row |= {"parameters": model.parameters, "size_bytes": model.size_bytes}
            row["tokenizer"] = content_id(sorted(model.tokenizer.get_vocab().items()))
            progress.step(before)
            for prefix, pairs in (("", test), ("reference_", reference)):
                found, ranges = likelihood(model, pairs, prefix)
                row |= found
                intervals |= ranges
                progress.step(before)
            row["probes"], intervals["probes"] = probe(model)
            progress.step(before)
        else:
            # An endpoint gives no log-probabilities of a given text.
            row |= dict.fromkeys(("parameters", "size_bytes", "perplexity", "bits_per_byte", "probes", "tokenizer"))
        row["reference"] = {k: row.pop(f"reference_{k}", None) for k in ("perplexity", "bits_per_byte")}
        answers: dict[int, Answer] = {}
        sampling = Sampling(config.temperature, 1.0, config.max_new_tokens)
        seeds = [config.seed + i for i in range(len(prompts))]
        for index, answer in model.write([p.instruction for p in prompts], sampling, seeds, note=progress.note):
            answers[index] = answer
            progress.step(before + len(answers), model=entry.name)
        written, ranges = _judge_answers(run_, config, entry, prompts, [answers[i] for i in range(len(prompts))], known)
        row |= written
        intervals |= ranges
        row |= (
            _speed(model, prompts)
            if isinstance(model, LocalModel)
            else {"tokens_per_second": None, "first_token_seconds": None}
        )
        row["peak_memory_bytes"] = _peak(idle) if isinstance(model, LocalModel) else None
    finally:
        model.close()
    return row | {"intervals": intervals}


def likelihood(
    model: Any, pairs: Sequence[Pair], prefix: str = ""
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Perplexity and bits per byte of the pairs' outputs (answer tokens with the end token only), and their intervals."""
    import numpy as np

    from lab.metrics import BitsPerByte, TokenPerplexity, compute

    names = (f"{prefix}perplexity", f"{prefix}bits_per_byte")
    if not pairs:
        return dict.fromkeys(names), {}
    scores = model.score([(model.chat_ids(p.instruction), model.answer_ids(p.output)) for p in pairs])
    texts = [p.output for p in pairs]
    values = (
        compute(TokenPerplexity, predictions=scores)["perplexity"],
        compute(BitsPerByte, predictions=scores, references=texts)["bits_per_byte"],
    )
    loss, tokens = np.array([-sum(s) for s in scores]), np.array([len(s) for s in scores])
    size = np.array([len(t.encode()) for t in texts])
    ranges = (
        bootstrap(len(pairs), lambda i: np.exp(loss[i].sum(1) / tokens[i].sum(1))),
        bootstrap(len(pairs), lambda i: loss[i].sum(1) / size[i].sum(1) / np.log(2)),
    )
    return dict(zip(names, values, strict=True)), {
        n: {"value": v, "low": low, "high": high} for n, v, (low, high) in zip(names, values, ranges, strict=True)
    }


def probe(model: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Four-choice probes: the continuation with the best log-probability per character wins. And the interval."""
    import numpy as np

    probes = domain.probes()
    items = []
    for p in probes:
        context = model.tokenizer(p.context, add_special_tokens=False).input_ids
        items += [(context, model.tokenizer(f" {c}", add_special_tokens=False).input_ids) for c in p.choices]
    scores = iter(model.score(items))
    right = []
    for p in probes:
        per_character = [sum(next(scores)) / len(c) for c in p.choices]
        right.append(per_character.index(max(per_character)) == p.answer)
    by_type: dict[str, dict[str, int]] = {}
    for p, ok in zip(probes, right, strict=True):
        one = by_type.setdefault(p.type, {"pass": 0, "total": 0})
        one["pass"] += ok
        one["total"] += 1
    chance = statistics.mean(1 / len(p.choices) for p in probes)
    found = {"pass": sum(right), "total": len(right), "by_type": by_type, "chance": chance}
    return found, _rate(np.array(right, float))


def _rate(values: Any) -> dict[str, float]:
    low, high = bootstrap(len(values), lambda i: values[i].mean(1))
    return {"value": float(values.mean()), "low": low, "high": high}


def _judge_answers(
    run_: Run, config: CompareConfig, entry: Entry, prompts: list[Prompt], answers: list[Answer], known: set[str]
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """What the answers are worth by the filter's rules (and the judge), and the rows of answers.jsonl."""
    import numpy as np

    from lab.checks import check_pair
    from lab.metrics import DistinctN, compute
    from lab.stages.filter import rules_off

    rules: FilterConfig = run_.config("filter")
    off = rules_off(rules)
    pairs = [
        Pair(str(i), p.instruction, a.text, p.character, p.keywords, entry.name, a.finish, a.tokens, a.seconds, "test")
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    reasons = [[f.reason for f in check_pair(p, rules)[0]] for p in pairs]
    values: dict[str, Any] = {
        "rule_pass_rate": np.array([not set(r) - off for r in reasons], float),
        "character_rate": np.array(
            ["missing_character" not in r and bool(a.text) for r, a in zip(reasons, answers, strict=True)], float
        ),
        "keyword_rate": np.array(
            ["missing_keyword" not in r and bool(a.text) for r, a in zip(reasons, answers, strict=True)], float
        ),
        "copied_rate": np.array([not known.isdisjoint(spans([a.text])) for a in answers], float),
    }
    intervals = {name: _rate(v) for name, v in values.items()}
    row: dict[str, Any] = {name: found["value"] for name, found in intervals.items()}
    row["judge"] = None
    if config.judge != "none":
        from lab.judge import judge_pairs

        marks = np.array([m for m, _ in judge_pairs(pairs, config.judge) if m is not None], float)
        if len(marks):
            intervals["judge"] = _rate(marks)
            row["judge"] = intervals["judge"]["value"]
    seconds = sum(a.seconds for a in answers)
    row["batch_tokens_per_second"] = sum(a.tokens for a in answers) / seconds if seconds else None
    row["mean_characters"] = statistics.mean(len(a.text) for a in answers)
    row |= compute(DistinctN, predictions=[a.text for a in answers])
    row["reasons"] = {r: sum(r in x for x in reasons) for r in sorted({r for x in reasons for r in x})}
    append_rows(
        run_.answers_file,
        [
            {
                "who": entry.who,
                "name": entry.name,
                "instruction": p.instruction,
                "character": p.character,
                "keywords": list(p.keywords),
                "text": p.output,
                "finish": p.finish,
                "reasons": r,
                "tokens": p.tokens,
                "seconds": p.seconds,
            }
            for p, r in zip(pairs, reasons, strict=True)
        ],
    )
    return row, intervals


def _speed(model: Any, prompts: list[Prompt]) -> dict[str, float]:
    """Tokens per second and seconds to the first token of one story at a time: medians of 5 after a warm-up."""
    from lab.models import Sampling

    rates, firsts = [], []
    for number, prompt in enumerate([prompts[0], *(prompts * 2)[:5]]):
        started, first, count = time.perf_counter(), 0.0, 0
        for _ in model.stream([model.chat_ids(prompt.instruction)], Sampling(0.8, 1.0, 64), [number]):
            count += 1
            first = first or time.perf_counter() - started
        if number and count > 1:
            rates.append((count - 1) / (time.perf_counter() - started - first))
        if number:
            firsts.append(first)
    return {
        "tokens_per_second": statistics.median(rates) if rates else None,
        "first_token_seconds": statistics.median(firsts),
    }


def _memory_now() -> int:
    """Resident bytes of this process, after freed memory went back to the system; 0 where that is not told."""
    if sys.platform != "linux":
        return 0
    # Else what one model has freed would hide what the next one needs.
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _reset_peak() -> None:
    """Start the measurement of a peak anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        _memory_now()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def _peak(idle: int) -> int:
    """Peak bytes since ``_reset_peak``: the GPU's, else this process's beyond its ``idle`` bytes (weights and run)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return max(0, int(found[1]) * 1024 - idle)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(0, peak * (1 if sys.platform == "darwin" else 1024) - idle)


def spans(texts: Iterator[str] | Sequence[str]) -> set[str]:
    """Every passage of ``SPAN`` characters, white space folded."""
    found: set[str] = set()
    for text in texts:
        flat = " ".join(text.split())
        found.update(flat[i : i + SPAN] for i in range(len(flat) - SPAN + 1))
    return found


def find_leaks(known: set[str], sets: dict[str, Sequence[Pair]]) -> list[dict[str, Any]]:
    """Evaluation texts that share a passage with a training output: set, id, first passage, share of its passages."""
    leaks = []
    for name, pairs in sets.items():
        for pair in pairs:
            flat = " ".join(pair.output.split())
            shared = [s for i in range(len(flat) - SPAN + 1) if (s := flat[i : i + SPAN]) in known]
            if shared:
                leaks.append(
                    {
                        "set": name,
                        "id": pair.id,
                        "span": shared[0],
                        "share": round(len(shared) / (len(flat) - SPAN + 1), 3),
                    }
                )
    return sorted(leaks, key=lambda x: (x["set"] != "reference", -x["share"]))


def _number(model: dict[str, Any], metric: str) -> float | None:
    if metric == "probes":
        return model["probes"]["pass"] / model["probes"]["total"] if model["probes"] else None
    if metric.startswith("reference_"):
        return model["reference"][metric.removeprefix("reference_")]
    return model.get(metric)


def retained(arm: dict[str, Any], teacher: dict[str, Any]) -> dict[str, float | None]:
    """The arm against its teacher, metric by metric: for quality and speed above 1 is better than the teacher.

    Perplexity and bits per byte are turned round (teacher / arm); sizes, memory and first-token time are plain
    ratios arm / teacher, where less is better. Perplexity is left out across vocabularies. None: not measured.
    """
    found: dict[str, float | None] = {}
    for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER, *SMALLER):
        a, t = _number(arm, metric), _number(teacher, metric)
        if metric in LOWER_IS_BETTER:
            a, t = t, a
        across = metric.endswith("perplexity") and arm.get("tokenizer") != teacher.get("tokenizer")
        found[metric] = a / t if a is not None and t and not across else None
    return found


def verdict(models: list[dict[str, Any]], retention: dict[str, dict[str, float | None]]) -> dict[str, str]:
    """One plain sentence on the best arm, by rule pass rate and then by bits per byte; bad news included."""
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
            "ko": f"{arm['name']} 갈래의 이야기 가운데 {rates} 이(가) 모든 규칙을 통과했습니다(학습 전 학생 {before}). 직접 가져온 쌍이라 견줄 교사가 없습니다.",
        }
    teacher, kept = models[0], retention[arm["name"]]
    share = kept["rule_pass_rate"]
    faster, smaller = kept["tokens_per_second"], kept["size_bytes"]
    en = f"Of the stories of arm {arm['name']}, {rates} pass all rules (teacher {teacher['rule_pass_rate']:.0%}"
    ko = f"갈래 {arm['name']}: 이야기의 {rates}가 모든 규칙을 통과했습니다(교사 {teacher['rule_pass_rate']:.0%}"
    if base:
        en += f", untrained student {base['rule_pass_rate']:.0%}"
        ko += f", 학습 전 학생 {base['rule_pass_rate']:.0%}"
    if smaller and faster:
        en += f"; {smaller:.2f} of its size, {faster:.1f} times its speed"
        ko += f"; 교사의 크기 {smaller:.2f}배, 속도 {faster:.1f}배"
    gained = base is None or arm["intervals"]["rule_pass_rate"]["low"] > base["intervals"]["rule_pass_rate"]["high"]
    if share is None:
        tail = (
            "the teacher passes none, so there is no quality to keep",
            "교사가 하나도 통과하지 못해 견줄 품질이 없습니다",
        )
    elif share > 1.05:
        tail = (
            "it seems to beat its teacher, which needs an explanation (a leak, easier text or a broken teacher setting)",
            "교사보다 좋아 보이므로 까닭을 확인해야 합니다(누출, 쉬운 글, 잘못된 교사 설정)",
        )
    elif share >= TARGET:
        tail = (
            f"it keeps {share:.0%} of the teacher's pass rate, which reaches the target",
            f"교사 통과율의 {share:.0%}를 지켜 목표에 닿았습니다",
        )
    else:
        tail = (
            f"it keeps only {share:.0%} of the teacher's pass rate, below the target of {TARGET:.0%}",
            f"교사 통과율의 {share:.0%}에 그쳐 목표 {TARGET:.0%}에 못 미칩니다",
        )
    if not gained:
        tail = (
            f"{tail[0]}; a gain over the untrained student is not shown",
            f"{tail[1]}. 학습 전 학생보다 나아졌다고 말할 수 없습니다",
        )
    return {"en": f"{en}): {tail[0]}.", "ko": f"{ko}). {tail[1]}."}


COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("parameters", "params", "{:,.0f}"),
    ("perplexity", "ppl", "{:.2f}"),
    ("bits_per_byte", "bits/byte", "{:.3f}"),
    ("reference_perplexity", "ref ppl", "{:.2f}"),
    ("probes", "probes", "{:.0%}"),
    ("rule_pass_rate", "rules", "{:.0%}"),
    ("character_rate", "character", "{:.0%}"),
    ("keyword_rate", "words", "{:.0%}"),
    ("tokens_per_second", "tok/s", "{:.0f}"),
    ("first_token_seconds", "first s", "{:.3f}"),
    ("peak_memory_bytes", "peak MB", "{:.0f}"),
)
"""Metric, head and format of each column of ``table``."""


def table(report: dict[str, Any]) -> str:
    """The report as plain columns for a terminal, with the verdict below."""
    rows = [["model", *(head for _, head, _ in COLUMNS)]]
    for model in report["models"]:
        name = model["who"] if model["who"] != "arm" else f"arm {model['name']}"
        cells = [name]
        for metric, _, form in COLUMNS:
            value = _number(model, metric)
            scale = 1e6 if metric == "peak_memory_bytes" else 1
            cells.append("-" if value is None else form.format(value / scale))
        rows.append(cells)
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    return "\n".join([*lines, "", report["verdict"]["en"]])
