"""Compare teacher, untrained student and every trained arm: quality, speed and memory on the same prompts and seeds.

Writes compare/report.json (numbers with 95 % intervals, tested differences, retention, leaks, a verdict in a sentence),
compare/answers.jsonl (every answer behind the numbers), and the report as HTML, Markdown and charts.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import domain, votes
from lab.config import CompareConfig, FilterConfig
from lab.intervals import Sample, greatest, interval, mean, of_whole
from lab.passages import SPAN, Passages, find_leaks
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Answer, Pair, Prompt, append_rows, content_id, read_rows, write_json
from lab.retention import differences, number, retained, retained_intervals, verdict
from lab.run import Run
from lab.together import Part, Together

LEAKS_LISTED = 50
LEAKED = 0.5
"""Share of a test story's passages that stand in training stories from which it measures memory and is left out."""
PASS_PROMPTS = 16
PASS_SAMPLES = 4
"""Prompts that are asked again, and how often in all: pass@1 and pass@4."""
ROUNDS = 5
"""Timed rounds after one for warming up; the median of five is not moved by two disturbances."""
SINGLE_TOKENS = 16
SERVING = 16
SERVING_TOKENS = 8
"""Tokens of a story alone, rows and tokens of a serving batch: twice as many gave medians that differed as much."""
GENERAL_TOKENS = 40
READ = 0.3
"""Work of a text that is only read, in answers written: what both models of the mini pair took, everyday questions included."""
TOGETHER_FROM = 200
"""Answers from which starting a process beside this one pays: its imports take some seconds of a core."""
TOGETHER_BYTES = 100_000_000
"""Weight files up to which models are measured side by side, 50 million parameters; a larger one keeps all cores busy alone."""
TOGETHER_ROOM = 2 * 2**30
"""Free memory for each process beside this one, in bytes: libraries, weights, and keys and values of 256 stories."""
JUDGED_AT_ONCE = 64
TRAINED_WITH = ("method", "data", "keep_top", "student", "learning_rate", "epochs", "seed")
"""Settings of an arm's training that the report names, so that two arms are known apart by more than a hash."""


@dataclass(frozen=True)
class Entry:
    """A model of the comparison: its part (teacher, base, arm), its name and its SPEC."""

    who: str
    name: str
    spec: str
    revision: str = ""


@dataclass(frozen=True)
class Texts:
    """What every model is measured on."""

    test: list[Pair]
    reference: list[Pair]
    general: list[dict[str, Any]]
    prompts: list[Prompt]

    @property
    def asked(self) -> int:
        """Answers that a model writes: one to every prompt, more to the first ones."""
        return len(self.prompts) + len(self.prompts[:PASS_PROMPTS]) * (PASS_SAMPLES - 1)

    @property
    def read(self) -> int:
        """Work of the texts that a model reads before it writes, in answers."""
        return round(READ * (len(self.test) + len(self.reference) + len(domain.probes())))


@dataclass(frozen=True)
class Measured:
    """A model's row of the report, its quality numbers by item, its answers, and its further answers to the first prompts."""

    row: dict[str, Any]
    samples: dict[str, Sample]
    answers: list[Pair]
    again: list[list[Pair]]
    reasons: list[dict[str, Any]]


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


def training_rows(run_: Run, models: Sequence[Entry]) -> list[Pair]:
    """Everything that some arm of the comparison was trained on; without an arm what the filter kept for training."""
    from lab.stages.train import training_pairs

    rows: dict[str, Pair] = {}
    for entry in models:
        if entry.who == "arm":
            rows |= {p.id: p for p in training_pairs(run_, run_.config("train", entry.name))[0]}
    return list(rows.values()) or [p for p in run_.kept_pairs() if p.split == "train"]


def leaks_of(known: Passages, trained: Sequence[Pair], test: Sequence[Pair], own: dict[str, Sequence[Pair]]) -> list[dict[str, Any]]:  # fmt: skip
    """Evaluation texts that training rows hold, by shared passages and as near-duplicates; ``own`` are never to be trained on."""
    from lab.duplicates import near_duplicates, sketch

    leaks = find_leaks(known, {**own, "test": test})
    texts = [(name, p) for name, pairs in (*own.items(), ("test", test)) for p in pairs if len(p.output) >= 2 * SPAN]
    if texts and trained:
        # Turned round, so that each evaluation text is asked whether a training row came before it.
        found = near_duplicates(
            sketch([p.output for p in (*trained, *(p for _, p in texts))]),
            [True] * (len(trained) + len(texts)),
            len(trained),
        )
        listed = {(x["set"], x["id"]) for x in leaks}
        for i, (name, pair) in enumerate(texts):
            twin, share = found.get(len(trained) + i, (len(trained), 0.0))
            if twin < len(trained) and (name, pair.id) not in listed:
                leaks.append(
                    {"set": name, "id": pair.id, "span": pair.output[:SPAN], "share": share, "kind": "near_duplicate"}
                )
    return sorted(leaks, key=lambda x: (x["set"] == "test", -x["share"]))


def evaluation_only(config: CompareConfig) -> dict[str, list[Pair]]:
    """The texts that nobody may train on: reference stories, probes, general questions with their answers."""
    return {
        "reference": reference_pairs(config),
        "probes": [Pair(p.id, "", f"{p.context} {p.choices[p.answer]}") for p in domain.probes()],
        "general": [Pair(g["id"], g["instruction"], g["output"]) for g in general_questions()],
    }


def general_questions() -> list[dict[str, Any]]:
    """Short questions that no fairytale answers, with an answer and the words that show a right one."""
    return domain.read_jsonl(domain.DATA / "general.jsonl")


def _stop_at_leaks(run_: Run, leaks: list[dict[str, Any]]) -> None:
    """A comparison on texts that were trained on would flatter: write the list as the report and say so."""
    only = [x for x in leaks if x["set"] != "test"]
    if not only:
        return
    names = ", ".join(f"{x['set']} {x['id']}" for x in only[:10])
    more = f" (+{len(only) - 10})" if len(only) > 10 else ""
    problem = Problem(
        f"{len(only)} evaluation texts stand in the training rows, so nothing was measured: {names}{more}. The list is in compare/report.json. Take these out of the training rows (or bring other reference stories with --reference), train again, then compare.",
        f"평가에만 써야 할 글 {len(only)}편이 학습 자료에 들어 있어 재지 않았습니다: {names}{more}. 목록은 compare/report.json 에 있습니다. 학습 자료에서 빼거나 --reference 로 다른 기준 이야기를 주고, 다시 학습한 뒤 비교해 주세요.",
    )
    counts = {s: sum(x["set"] == s for x in leaks) for s in ("reference", "probes", "general", "test")}
    write_json(
        run_.report_file,
        {
            "prompts": 0,
            "models": [],
            "retention": {},
            "leaks": leaks[:LEAKS_LISTED],
            "leak_counts": counts,
            "verdict": {"en": problem.en, "ko": problem.ko},
        },
    )
    raise problem


def run(run_: Run, config: CompareConfig, progress: Progress) -> dict[str, Any]:
    """Measure every model, write the report and return it. Raises Problem that lists evaluation texts found in training rows."""
    from lab import report as renderings

    models, own = entries(run_, config), evaluation_only(config)
    prompts = held_out_prompts(config.prompts, config.seed)
    test = [p for p in run_.kept_pairs() if p.split == "test"]
    trained = training_rows(run_, models)
    known = Passages(p.output for p in trained)
    run_.begin("compare", config)
    run_.answers_file.unlink(missing_ok=True)
    leaks = leaks_of(known, trained, test, own)
    _stop_at_leaks(run_, leaks)
    leaked = {x["id"] for x in leaks if x["set"] == "test" and x["share"] >= LEAKED}
    texts = Texts([p for p in test if p.id not in leaked], own["reference"], general_questions(), prompts)
    judged = len(prompts) if config.judge != "none" else 0
    steps = texts.read + texts.asked
    progress.begin("compare", len(models) * (steps + judged + ROUNDS + 1))
    with Together(progress, _processes(models, texts.asked), len(models)) as team:
        tasks = [(run_, config, e, texts) for e in models]
        measured: list[Measured] = team.map(_measure, tasks, steps, [e.name for e in models], "model")
        _copies(measured, known)
        _against_teacher(measured)
        duels = _judged(config, measured, team)
    for one, speed in zip(measured, _in_turn(models, measured, prompts, progress, team.finished), strict=True):
        one.row.update(speed)
    for one in measured:
        one.row["intervals"] = {name: interval(s) for name, s in one.samples.items() if s.count}
        one.row["intervals"]["longest_copy"] = greatest(one.row["copies"])
    report = _report(run_, config, texts, measured, duels, trained, leaks, len(leaked))
    append_rows(run_.answers_file, [row for one in measured for row in _rows(one)])
    write_json(run_.report_file, report)
    renderings.write(run_, report)
    run_.finish("compare", {"models": len(measured), "prompts": len(prompts), "verdict": report["verdict"]})
    return report


def _report(
    run_: Run,
    config: CompareConfig,
    texts: Texts,
    measured: list[Measured],
    duels: list[dict[str, Any]],
    trained: list[Pair],
    leaks: list[dict[str, Any]],
    left_out: int,
) -> dict[str, Any]:
    from lab import report as renderings

    arms = [m for m in measured if m.row["who"] == "arm"]
    teachers = [m for m in measured if m.row["who"] == "teacher"]
    report: dict[str, Any] = {
        "run": run_.id,
        "title": run_.meta().get("title", run_.id),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "prompts": len(texts.prompts),
        "test_pairs": len(texts.test),
        "test_pairs_left_out": left_out,
        "reference_stories": len(texts.reference),
        "training_pairs": len(trained),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
        "same_tasks": content_id(
            [p.instruction for p in texts.prompts],
            [p.output for p in texts.reference],
            [config.temperature, config.top_p, config.seed, config.max_new_tokens],
        ),
        "versions": _versions(),
        "models": [m.row for m in measured],
        "retention": {m.row["name"]: retained(m.row, t.row) for t in teachers for m in arms},
        "retention_intervals": {
            m.row["name"]: retained_intervals(m.samples, t.samples) for t in teachers for m in arms
        },
        "differences": _tested(measured),
        "duels": duels,
        "votes": votes.against(run_, [m.row for m in measured]),
        "leaks": leaks[:LEAKS_LISTED],
        "leak_counts": {s: sum(x["set"] == s for x in leaks) for s in ("reference", "probes", "general", "test")},
    }
    report["verdict"] = verdict(report)
    report["flags"] = renderings.flags(report)
    return report


def _tested(measured: list[Measured]) -> list[dict[str, Any]]:
    """Every pair of models once, its differences tested: arms first, each against whom it is held (teacher, students, older arms)."""
    rank = {"base": 0, "teacher": 1, "arm": 2}
    order = sorted(range(len(measured)), key=lambda i: (rank[measured[i].row["who"]], i), reverse=True)
    pairs = [(measured[a], measured[b]) for place, a in enumerate(order) for b in order[place + 1 :]]
    return [
        {
            "a": a.row["name"],
            "b": b.row["name"],
            "measures": differences(a.samples, b.samples, a.row["tokenizer"] == b.row["tokenizer"]),
        }
        for a, b in pairs
    ]


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def _processes(models: Sequence[Entry], asked: int) -> int:
    """How many processes measure the models at once: one, unless they are small and local, on a CPU, and have much to do."""
    import psutil
    import torch

    sizes = [None if e.spec.startswith("api:") else disk_bytes(e.spec, e.revision or None) for e in models]
    if (
        torch.cuda.is_available()
        or len(models) * asked < TOGETHER_FROM
        or any(s is None or s > TOGETHER_BYTES for s in sizes)
    ):
        return 1
    room = 1 + psutil.virtual_memory().available // TOGETHER_ROOM
    return min(len(models), torch.get_num_threads(), room)


def _measure(part: Part, run_: Run, config: CompareConfig, entry: Entry, texts: Texts) -> Measured:
    """Likelihoods, probes, general questions and fresh answers of one model, and what it takes in memory."""
    # All that a measurement imports, so that no library counts as a model's memory.
    import peft  # noqa: F401

    from lab import metrics  # noqa: F401
    from lab.models import LocalModel, Sampling, fingerprint, open_model, resolve

    _reset_peak()
    idle = _memory_now()
    model = open_model(entry.spec, entry.revision)
    row: dict[str, Any] = {"who": entry.who, "name": entry.name, "spec": entry.spec, "revision": model.revision}
    samples: dict[str, Sample] = {}
    try:
        if isinstance(model, LocalModel):
            row |= {
                "parameters": model.parameters,
                "size_bytes": model.size_bytes,
                "disk_bytes": disk_bytes(model.spec, getattr(model.model.config, "_commit_hash", None)),
            }
            row |= {"weights": weights_hash(model), "dtype": str(model.model.dtype).removeprefix("torch.")}
            row |= {"device": model.device.type, "tokenizer": content_id(sorted(model.tokenizer.get_vocab().items()))}
            if entry.who == "arm":
                trained = run_.config("train", entry.name)
                row["adapter"] = fingerprint(resolve(entry.spec))
                row["trained_with"] = {k: getattr(trained, k) for k in TRAINED_WITH}
            read = 0.0
            part.step(read)
            for prefix, pairs in (("", texts.test), ("reference_", texts.reference)):
                found, by_item = likelihood(model, pairs, prefix)
                row |= found
                samples |= by_item
                read += READ * len(pairs)
                part.step(read)
            row["probes"], samples["probes"] = probe(model)
        else:
            # An endpoint gives no log-probabilities of a given text.
            row |= dict.fromkeys(("parameters", "size_bytes", "disk_bytes", "perplexity", "bits_per_byte", "probes"))
            row |= dict.fromkeys(("tokenizer", "weights", "dtype", "device"))
        row["reference"] = {k: row.pop(f"reference_{k}", None) for k in ("perplexity", "bits_per_byte")}
        found, by_item = general(model, texts.general)
        row |= found
        samples |= by_item
        part.step(texts.read)
        asked, seeds = list(texts.prompts), [config.seed + i for i in range(len(texts.prompts))]
        for turn in range(1, PASS_SAMPLES):
            asked += texts.prompts[:PASS_PROMPTS]
            # Far from every seed of the first answers, whatever their number.
            seeds += [config.seed + turn * 1_000_003 + i for i in range(len(texts.prompts[:PASS_PROMPTS]))]
        answers: dict[int, Answer] = {}
        sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
        for index, answer in model.write(
            [p.instruction for p in asked],
            sampling,
            seeds,
            note=part.note,
            tick=lambda tokens, under_way: part.step(texts.read + len(answers) + under_way),
        ):
            answers[index] = answer
        part.step(texts.read + len(answers))
        if lost := len(asked) - len(answers):
            raise Problem(
                f"{entry.spec} left {lost} of {len(asked)} prompts without an answer, so it cannot be compared on the same ones.",
                f"답을 받지 못한 지시문이 있어 같은 문제로 비교할 수 없습니다: {entry.spec}, {len(asked)}개 가운데 {lost}개.",
            )
        row["peak_memory_bytes"] = _peak(idle) if isinstance(model, LocalModel) else None
    finally:
        model.close()
    written = [answers[i] for i in range(len(asked))]
    return _assess(run_.config("filter"), entry, row, samples, texts, asked, written)


def disk_bytes(spec: str, revision: str | None) -> int | None:
    """Bytes of the weight files (of an adapter and of its base); None where they are not found."""
    from lab.models import resolve

    total, places = 0, [resolve(spec)]
    while places:
        place = Path(places.pop())
        if not place.is_dir():
            place = _cached(str(place), revision)
        if place is None:
            return None
        total += sum(p.stat().st_size for p in place.glob("*.safetensors"))
        settings = place / "adapter_config.json"
        if settings.exists():
            places.append(resolve(json.loads(settings.read_text("utf-8"))["base_model_name_or_path"]))
    return total or None


def _cached(hub_id: str, revision: str | None) -> Path | None:
    """The snapshot folder of a Hub model in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def weights_hash(model: Any) -> str:
    """A hash of the weights as they are in memory, an adapter merged in: equal only for the same model.

    Made of sums over each tensor, which a GPU gives at once and which no training leaves as they were.
    """
    import torch

    digest = hashlib.sha256()
    exact = torch.float32 if model.device.type == "mps" else torch.float64
    with torch.inference_mode():
        for name, weight in model.model.named_parameters():
            norm = torch.linalg.vector_norm(weight, dtype=exact).item() if weight.is_floating_point() else 0.0
            facts = f"{name} {tuple(weight.shape)} {weight.sum(dtype=exact).item():.9e} {norm:.9e};"
            digest.update(facts.encode())
    return digest.hexdigest()[:12]


def likelihood(
    model: Any, pairs: Sequence[Pair], prefix: str = ""
) -> tuple[dict[str, float | None], dict[str, Sample]]:
    """Perplexity and bits per byte of the pairs' outputs (answer tokens with the end token only), and the same by story."""
    import numpy as np

    from lab.metrics import BitsPerByte, TokenPerplexity, combined

    names = (f"{prefix}perplexity", f"{prefix}bits_per_byte")
    if not pairs:
        return dict.fromkeys(names), {}
    scores = model.score([(model.chat_ids(p.instruction), model.answer_ids(p.output)) for p in pairs])
    texts = [p.output for p in pairs]
    found = combined(TokenPerplexity, BitsPerByte, predictions=scores, references=texts)
    loss, tokens = np.array([-sum(s) for s in scores]), np.array([len(s) for s in scores], float)
    size = np.array([len(t.encode()) for t in texts], float)
    samples = (Sample(loss, tokens, exp=True), Sample(loss / np.log(2), size))
    values = (found["perplexity"], found["bits_per_byte"])
    return dict(zip(names, values, strict=True)), dict(zip(names, samples, strict=True))


def probe(model: Any) -> tuple[dict[str, Any], Sample]:
    """Four-choice probes: the continuation with the best log-probability per character wins. And right or wrong of each."""
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
    by_type: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(p.type for p in probes):
        own = [ok for p, ok in zip(probes, right, strict=True) if p.type == kind]
        by_type[kind] = {"pass": sum(own), "total": len(own), "interval": interval(mean(own))}
    chance = statistics.mean(1 / len(p.choices) for p in probes)
    return {"pass": sum(right), "total": len(right), "by_type": by_type, "chance": chance}, mean(right)


def general(model: Any, questions: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Sample]]:
    """Everyday Korean beside stories: bits per byte of the given answers, and how many greedy answers hold the right word."""
    from lab.models import LocalModel, Sampling

    samples: dict[str, Sample] = {}
    if isinstance(model, LocalModel):
        pairs = [Pair(q["id"], q["instruction"], q["output"]) for q in questions]
        samples["general_bits_per_byte"] = likelihood(model, pairs)[1]["bits_per_byte"]
    said = [""] * len(questions)
    sampling = Sampling(0.0, 1.0, GENERAL_TOKENS)
    for i, answer in model.write([q["instruction"] for q in questions], sampling, [0] * len(questions)):
        said[i] = answer.text
    right = [any(word in text for word in q["accept"]) for q, text in zip(questions, said, strict=True)]
    samples["general_rate"] = mean(right)
    row = {"general_bits_per_byte": None} | {name: s.value for name, s in samples.items()}
    return row | {"general_answers": said}, samples


def _assess(
    rules: FilterConfig,
    entry: Entry,
    row: dict[str, Any],
    samples: dict[str, Sample],
    texts: Texts,
    asked: list[Prompt],
    written: list[Answer],
) -> Measured:
    """What the answers are worth by the filter's rules, and how they differ from one another."""
    from lab.checks import check_pair
    from lab.metrics import ChrF, DistinctN, PassAtK, compute
    from lab.stages.filter import rules_off

    off = rules_off(rules)
    pairs = [
        Pair(str(i), p.instruction, a.text, p.character, p.keywords, entry.name, a.finish, a.tokens, a.seconds, "test")
        for i, (p, a) in enumerate(zip(asked, written, strict=True))
    ]
    found = [{f.reason: f.shown() for f in check_pair(p, rules)[0]} for p in pairs]
    count, again = len(texts.prompts), len(texts.prompts[:PASS_PROMPTS])
    used = [bool(p.output) and not {"missing_character", "missing_keyword"} & set(f) for p, f in zip(pairs, found, strict=True)]  # fmt: skip
    first = list(zip(pairs, found, strict=True))[:count]
    outputs = [p.output for p in pairs[:count]]
    samples["rule_pass_rate"] = mean([not set(f) - off for _, f in first])
    for name, reason in (("character_rate", "missing_character"), ("keyword_rate", "missing_keyword")):
        samples[name] = mean([reason not in f and bool(p.output) for p, f in first])
    tries = [[used[i], *(used[count + t * again + i] for t in range(PASS_SAMPLES - 1))] for i in range(again)]
    for k in (1, PASS_SAMPLES):
        samples[f"pass_at_{k}"] = mean(compute(PassAtK, predictions=tries, k=k)["scores"])
    words = compute(DistinctN, predictions=outputs)
    for n in (1, 2, 3):
        samples[f"distinct_{n}"] = of_whole(words[f"distinct_{n}"], words[f"without_{n}"])
    # Each answer against that to the next prompt: how alike the model's stories are to one another.
    samples["self_chrf"] = mean(compute(ChrF, predictions=outputs, references=outputs[1:] + outputs[:1])["scores"])
    samples["mean_characters"] = mean([len(t) for t in outputs])
    row |= {name: s.value for name, s in samples.items() if name not in ("probes", "reference_perplexity", "reference_bits_per_byte")}  # fmt: skip
    row |= {"judge": None, "teacher_chrf": None}
    row["lengths"] = [len(t) for t in outputs]
    row["reasons"] = {r: sum(r in f for _, f in first) for r in sorted({r for _, f in first for r in f})}
    return Measured(
        row,
        samples,
        pairs[:count],
        [pairs[count + t * again : count + (t + 1) * again] for t in range(PASS_SAMPLES - 1)],
        found,
    )


def _copies(measured: list[Measured], known: Passages) -> None:
    """How much of every answer stands as it is in what was trained on."""
    from lab.metrics import Copied, compute

    for one in measured:
        found = compute(Copied, predictions=[p.output for p in one.answers], corpus=known)
        one.samples["copied_rate"] = mean([n >= SPAN for n in found["lengths"]])
        one.samples["mean_copy"] = mean(found["lengths"])
        one.row.update({name: one.samples[name].value for name in ("copied_rate", "mean_copy")})
        one.row.update(longest_copy=found["longest_copy"], copies=found["lengths"])


def _against_teacher(measured: list[Measured]) -> None:
    """chrF of each answer with the teacher's to the same prompt; for the teacher its second answer with its first.

    So the teacher's own spread stands beside the student's distance: nobody is nearer to it than it is to itself.
    """
    from lab.metrics import ChrF, compute

    teacher = next((m for m in measured if m.row["who"] == "teacher"), None)
    if teacher is None:
        return
    for one in measured:
        theirs = one.answers if one is not teacher else one.again[0]
        pairs = list(zip(theirs, teacher.answers, strict=False))
        scores = compute(ChrF, predictions=[a.output for a, _ in pairs], references=[t.output for _, t in pairs])[
            "scores"
        ]
        one.samples["teacher_chrf"] = mean(scores)
        one.row["teacher_chrf"] = one.samples["teacher_chrf"].value


def _marks(part: Part, answers: list[Pair], judge: str) -> list[float | None]:
    """The judge's mark for every answer."""
    from lab.judge import judge_pairs

    marks: list[float | None] = []
    while len(marks) < len(answers):
        part.step(len(marks))
        marks += [mark for mark, _ in judge_pairs(answers[len(marks) : len(marks) + JUDGED_AT_ONCE], judge)]
    part.step(len(marks))
    return marks


def _judged(config: CompareConfig, measured: list[Measured], team: Together) -> list[dict[str, Any]]:
    """The judge's marks into every row, and each arm's duels with its teacher and with the untrained student."""
    if config.judge == "none":
        return []
    from lab.judge import same_family
    from lab.pairwise import duel

    tasks = [(one.answers, config.judge) for one in measured]
    names = [one.row["name"] for one in measured]
    # Any other judge is too large to be opened twice, or an endpoint.
    scored = team.map(_marks, tasks, len(measured[0].answers), names, "judged", alone=config.judge != "mini")
    for one, own in zip(measured, scored, strict=True):
        one.row["marks"] = own
        if any(m is not None for m in own):
            one.samples["judge"] = mean(own)
            one.row["judge"] = one.samples["judge"].value
    found = []
    for a in (m for m in measured if m.row["who"] == "arm"):
        for b in (m for m in measured if m.row["who"] != "arm"):
            # The mini judge cannot be asked about two stories; its marks are compared.
            marks = (a.row["marks"], b.row["marks"]) if config.judge == "mini" else None
            one = duel(a.answers, b.answers, config.judge, marks)
            if one:
                family = same_family(config.judge, [a.row["spec"], b.row["spec"]])
                found.append({"a": a.row["name"], "b": b.row["name"], **one, "same_family": family})
    return found


def _rows(one: Measured) -> list[dict[str, Any]]:
    """The rows of answers.jsonl: ``sample`` 0 is the answer that all numbers but pass@k rest on."""
    marks = one.row.get("marks") or [None] * len(one.answers)
    rows = []
    pairs = [(0, p) for p in one.answers] + [(t, p) for t, more in enumerate(one.again, 1) for p in more]
    for i, ((sample, p), found) in enumerate(zip(pairs, one.reasons, strict=True)):
        row = {"who": one.row["who"], "name": one.row["name"], "sample": sample, "instruction": p.instruction}
        row |= {"character": p.character, "keywords": list(p.keywords), "text": p.output, "finish": p.finish}
        row |= {"reasons": list(found), "found": found, "judge": marks[i] if i < len(marks) else None}
        rows.append(row | {"tokens": p.tokens, "seconds": p.seconds})
    return rows


def _in_turn(
    models: list[Entry], measured: list[Measured], prompts: list[Prompt], progress: Progress, before: int
) -> list[dict[str, Any]]:
    """Speed of all models, round by round in turn and each second round backwards, so that a drift of the machine cancels.

    They stay open together where memory holds them, else each is opened for its turn (and warms up by itself).
    """
    from lab.models import LocalModel, open_model

    local = [i for i, m in enumerate(measured) if m.row["size_bytes"]]
    together = sum(measured[i].row["size_bytes"] for i in local) < 0.6 * _free_memory()
    times: dict[int, list[dict[str, float]]] = {i: [] for i in local}
    held: dict[int, Any] = {}
    try:
        for turn in range(ROUNDS + 1):
            for i in local if turn % 2 else reversed(local):
                model = held.get(i) or open_model(models[i].spec, models[i].revision)
                if together:
                    held[i] = model
                if isinstance(model, LocalModel):
                    if not together:
                        _timed(model, prompts, turn)
                    times[i].append(_timed(model, prompts, turn))
                if not together:
                    model.close()
            progress.step(before + (turn + 1) * len(models), timed=", ".join(models[i].name for i in local))
    finally:
        for model in held.values():
            model.close()
    return [_medians(times.get(i, [])[1:]) for i in range(len(models))]


def _timed(model: Any, prompts: list[Prompt], turn: int) -> dict[str, float]:
    """One story alone and one serving batch, cut short: seconds to the first token, tokens per second of both."""
    from lab.models import Sampling

    asked = [prompts[(turn * SERVING + i) % len(prompts)].instruction for i in range(SERVING)]
    ids = [model.chat_ids(a) for a in asked]
    found: dict[str, float] = {}
    first, rate = _stream(lambda: model.stream(ids[:1], Sampling(0.8, 1.0, SINGLE_TOKENS), [turn]))
    found["first_token_seconds"] = first
    if rate:
        found["tokens_per_second"] = rate
    _, rate = _stream(lambda: model.stream(ids, Sampling(0.8, 1.0, SERVING_TOKENS), list(range(SERVING))))
    if rate:
        found["batch_tokens_per_second"] = rate
    return found


def _stream(start: Callable[[], Any]) -> tuple[float, float | None]:
    """(seconds to the first step, tokens per second after it)."""
    started, first, count = time.perf_counter(), 0.0, 0
    for step in start():
        if first:
            count += len(step)
        first = first or time.perf_counter() - started
    spent = time.perf_counter() - started - first
    return first, count / spent if count else None


def _medians(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """The median of every measure over the rounds, and its least and greatest value as its spread."""
    names = ("tokens_per_second", "batch_tokens_per_second", "first_token_seconds")
    values = {n: [r[n] for r in rounds if n in r] for n in names}
    return {n: statistics.median(v) if v else None for n, v in values.items()} | {
        "spread": {n: {"low": min(v), "high": max(v), "rounds": len(v)} for n, v in values.items() if v}
    }


def _free_memory() -> int:
    """Bytes that models may take: the GPU's, else this machine's."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


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
    """The report as plain columns for a terminal, with the verdict below; a star marks what does not compare."""
    from lab.report import CROSSED_OUT, crossed_out

    rows = [["model", *(head for _, head, _ in COLUMNS)]]
    for model in report["models"]:
        name = model["who"] if model["who"] != "arm" else f"arm {model['name']}"
        cells = [name]
        for metric, _, form in COLUMNS:
            value = number(model, metric)
            scale = 1e6 if metric == "peak_memory_bytes" else 1
            crossed = "*" if crossed_out(report["models"], model, metric) else ""
            cells.append("-" if value is None else form.format(value / scale) + crossed)
        rows.append(cells)
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    notes = [f"* {CROSSED_OUT[0]}"] if any("*" in c for r in rows for c in r) else []
    return "\n".join([*lines, *notes, "", report["verdict"]["en"]])
