"""Train one arm of the student: which pairs it learns from, whether it has been trained already, where to go on.

Methods: ``lora`` (an adapter; 4-bit base by option), ``full`` (all weights), ``scratch`` (a story model with a vocabulary
of its own) and ``soft`` (an adapter learns the teacher's distribution). The training itself is ``lab.training``. A stop
saves a checkpoint; the next call with the same configuration, data and student goes on from the newest one, with the
same order of the rows.
"""

from __future__ import annotations

import random
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import domain
from lab.config import PRESETS, TrainConfig, as_flags, as_json
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Pair, content_id, dump, read_json, read_rows, write_json, write_text
from lab.run import Run

FEWEST_PAIRS = 8
"""Below this many training pairs there is nothing to learn but the pairs themselves."""
SAMPLED = 100
"""Pairs whose tokens are counted for an estimate."""


def human_pairs(count: int, seed: int) -> list[Pair]:
    """``count`` different pairs filled from the hand-written templates, all of training groups."""
    rng = random.Random(f"human-{seed}")
    made: dict[str, Pair] = {}
    while len(made) < count:
        template = rng.choice(domain.templates())
        character, friend = rng.sample(domain.characters(), 2)
        words = (rng.choice(template["k1"]), rng.choice(template["k2"]))
        if words[0] == words[1] or domain.split_of(character, words) != "train":
            continue
        slots = {"A": character, "a": domain.short_name(character), "B": friend, "b": domain.short_name(friend)}
        slots |= {"k1": words[0], "k2": words[1], "place": template["place"]}
        # An instruction may not ask for a tone or an opening that the template does not have.
        asking = rng.choice([p for p in domain.phrasings() if not {"moral", "tone", "opening"} & set(p["uses"])])
        instruction, output = domain.fill(asking["text"], slots), domain.fill(template["text"], slots)
        made[instruction + output] = Pair(
            content_id(instruction, output), instruction, output, character, words, teacher="human"
        )
    return list(made.values())


def stories_of(path: Path, count: int, seed: int) -> list[Pair]:
    """``count`` pairs drawn from a person's own .jsonl file, or all of a smaller one. Raises Problem that names a faulty line."""
    from lab.stages.generate import read_own

    pairs, faults = read_own(path)
    if faults or len(pairs) < FEWEST_PAIRS:
        line, en, ko = faults[0] if faults else (0, f"only {len(pairs)} pairs", f"쌍이 {len(pairs)}개뿐")
        raise Problem(
            f"{path.name} cannot serve as human stories (line {line}: {en}). It needs at least {FEWEST_PAIRS} lines, each a JSON object with instruction and output.",
            f"{path.name} 파일을 사람이 쓴 이야기로 쓸 수 없습니다({line}번째 줄: {ko}). instruction 과 output 이 있는 JSON 객체가 한 줄에 하나씩, 적어도 {FEWEST_PAIRS}줄 있어야 합니다.",
        )
    drawn = pairs if len(pairs) <= count else random.Random(f"own-{seed}").sample(pairs, count)
    return [replace(p, teacher="human", split="train") for p in drawn]


def best(pairs: Sequence[Pair], judged: dict[str, float | None], share: float) -> list[Pair]:
    """The best ``share`` of the pairs by verdict score, in their old order; pairs without a score come last."""
    ranked = sorted(range(len(pairs)), key=lambda i: (-(judged.get(pairs[i].id) or 0), i))
    return [pairs[i] for i in sorted(ranked[: max(1, round(len(pairs) * share))])]


def training_pairs(run_: Run, config: TrainConfig) -> tuple[list[Pair], list[Pair]]:
    """(pairs to train on, pairs to evaluate on). Every arm is evaluated on the kept pairs of the test split."""
    kept = run_.kept_pairs()
    test = [p for p in kept if p.split == "test"]
    train = [p for p in kept if p.split == "train"]
    if config.data == "unfiltered":
        train = [p for p in run_.pairs() if p.split == "train" and p.output.strip()]
    if config.keep_top < 1:
        train = best(train, {v.id: v.judge for v in run_.verdicts()}, config.keep_top)
    if len(train) < FEWEST_PAIRS:
        raise Problem(
            f"Only {len(train)} pairs to train on; at least {FEWEST_PAIRS} are needed. Generate more pairs or loosen the filter, then train again.",
            f"학습할 쌍이 {len(train)}개뿐입니다. 적어도 {FEWEST_PAIRS}개가 필요합니다. 쌍을 더 만들거나 필터를 느슨하게 한 뒤 다시 학습해 주세요.",
        )
    if config.data == "human":
        own = Path(config.human_file)
        if config.human_file and not own.exists():
            # The run keeps what it was trained on, also where it is copied to.
            own = run_.stage_folder("train", config.arm) / "human.jsonl"
        count, seed = len(train), config.seed
        train = stories_of(own, count, seed) if config.human_file else human_pairs(count, seed)
    return train, test


def apart(train: Sequence[Pair], test: Sequence[Pair]) -> list[Pair]:
    """The training pairs without those that give the test away: the same story, or the same character and words."""
    stories = {" ".join(p.output.split()) for p in test}
    groups = {(p.character, *sorted(p.keywords)) for p in test if p.character or p.keywords}
    return [
        p
        for p in train
        if " ".join(p.output.split()) not in stories and (p.character, *sorted(p.keywords)) not in groups
    ]


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, if there is one (trainer_state.json is written last)."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def settled(run_: Run, config: TrainConfig) -> TrainConfig:
    """The configuration with what its method decides: the shape from scratch, the teacher of soft.

    Raises Problem where the method cannot be used with this student, base or machine.
    """
    from lab import scratch

    if config.student.startswith("api:"):
        raise Problem(
            f"{config.student} is behind an endpoint and cannot be trained. Choose a Hub id, a folder or mini:student as student.",
            f"엔드포인트 모델은 학습할 수 없습니다: {config.student}. 허브 아이디, 폴더, mini:student 가운데에서 학생을 골라 주세요.",
        )
    if config.four_bit and config.method in ("full", "scratch"):
        raise Problem(
            f"Method {config.method} trains all weights, which cannot be packed to 4 bits. Use method lora, or switch 4-bit off.",
            f"{config.method} 방법은 모든 가중치를 학습하므로 4비트로 압축할 수 없습니다. lora 방법을 쓰거나 4비트를 꺼 주세요.",
        )
    if config.method == "scratch":
        return replace(config, student=scratch.shape_for(config.student))
    if config.student.startswith("scratch:"):
        raise Problem(
            f"{config.student} has no weights to start from. Use method scratch, or name a student such as Qwen/Qwen2.5-0.5B-Instruct.",
            f"{config.student}: 바탕이 될 가중치가 없습니다. scratch 방법을 쓰거나 Qwen/Qwen2.5-0.5B-Instruct 같은 학생을 적어 주세요.",
        )
    if config.method == "soft" and not config.teacher:
        config = replace(config, teacher=run_.config("generate").teacher)
    if config.method == "soft" and (not config.teacher or config.teacher.startswith("api:")):
        raise Problem(
            f"Method soft needs the teacher's weights, and {config.teacher or 'this run'} has none here. Name an open teacher with --teacher, or use method lora.",
            f"soft 방법에는 교사의 가중치가 필요한데 여기에는 없습니다({config.teacher or '교사 없음'}). --teacher 로 공개 모델을 정하거나 lora 방법을 써 주세요.",
        )
    return config


def _refuse(config: TrainConfig) -> None:
    """Problem for what only shows once models are looked at."""
    from lab import training
    from lab.models import resolve

    if config.four_bit and not training.may_pack():
        raise Problem(
            "A 4-bit base (QLoRA) needs a CUDA GPU and bitsandbytes, and this machine lacks one of them. Switch 4-bit off, or train on a GPU with `pip install bitsandbytes`.",
            "4비트 바탕(QLoRA)에는 CUDA GPU와 bitsandbytes가 필요한데 이 컴퓨터에는 없습니다. 4비트를 끄거나 GPU가 있는 컴퓨터에서 `pip install bitsandbytes` 후 학습해 주세요.",
        )
    if config.method in ("lora", "soft") and (Path(resolve(config.student)) / "adapter_config.json").exists():
        raise Problem(
            f"{config.student} is an adapter itself, and an adapter on an adapter could not be opened later. Train its base, or use method full.",
            f"이미 어댑터인 학생에는 어댑터를 더 얹을 수 없습니다: {config.student}. 바탕 모델을 학습하거나 full 방법을 골라 주세요.",
        )


def run(run_: Run, config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Train ``config.arm``; facts: arm, steps, train_loss, eval_loss, pairs, parameters, trainable, seconds and more.

    ``eval_loss`` is the best held-out loss, that of the weights which are kept; None when the run has no kept pair in
    its test split. A finished arm whose configuration, data and student are unchanged is not trained again.
    """
    config = settled(run_, config)
    chosen, test = training_pairs(run_, config)
    train = apart(chosen, test)
    folder = run_.stage_folder("train", config.arm)

    from lab import training
    from lab.models import fingerprint, resolve

    _refuse(config)
    ids = [[p.id for p in pairs] for pairs in (train, test)]
    inputs = content_id(
        as_json(config), *ids, *(fingerprint(resolve(s)) for s in (config.student, config.teacher) if s)
    )
    ready = training.first_process() and _ready(run_, config, inputs, train, progress)
    # Under accelerate launch one process decides and clears up before the others look.
    ready = training.together(ready)
    if ready["done"]:
        return ready["done"]
    checkpoint = Path(ready["checkpoint"]) if ready["checkpoint"] else None
    source = str(folder / "start") if config.method == "scratch" else config.student
    task = training.Task(folder, config, source, config.teacher, train, test, progress)
    if len(train) < len(chosen):
        left = len(chosen) - len(train)
        task.note(
            0,
            f"{left} training pairs tell a story or use a character with words of the test split. They are left out, as the test would measure memory.",
            f"학습 쌍 {left}개가 시험용 쌍과 같은 이야기이거나 주인공과 낱말이 같습니다. 시험이 암기를 재게 되므로 뺐습니다.",
        )
    facts = training.learn(task, checkpoint)
    facts = {
        "arm": config.arm,
        **facts,
        "pairs": len(train),
        "test_pairs": len(test),
        "left_out": len(chosen) - len(train),
        "method": config.method,
        "student": config.student,
        "command": command(run_, config),
    }
    if training.first_process():
        shutil.rmtree(folder / "start", ignore_errors=True)
        run_.finish("train", facts, config.arm)
    return facts


def command(run_: Run, config: TrainConfig) -> str:
    """The line that trains this arm again, in this run or in a copy of it."""
    preset = PRESETS.get(run_.meta().get("preset", ""), {}).get("train", {})
    back = [k for k in preset if getattr(config, k) == getattr(TrainConfig(), k)]
    flags = [*as_flags(config), *(f"--{k.replace('_', '-')}={getattr(config, k)}" for k in back)]
    return shlex.join(["python", "-m", "lab", "train", run_.id, *flags])


def _ready(run_: Run, config: TrainConfig, inputs: str, train: list[Pair], progress: Progress) -> dict[str, Any]:
    """What an earlier call left: {"done": facts of the same training or None, "checkpoint": where to go on or None}."""
    folder = run_.stage_folder("train", config.arm)
    same = read_json(folder / "inputs.json", {}).get("hash") == inputs
    done = run_.done("train", config.arm)
    if same and done and ((folder / "adapter").exists() or (folder / "model").exists()):
        progress.begin("train", done["steps"], done["steps"])
        run_.finish("train", {k: v for k, v in done.items() if k not in ("inputs", "at")}, config.arm)
        return {"done": done, "checkpoint": None}
    run_.begin("train", config, config.arm)
    if config.human_file and Path(config.human_file).exists():
        shutil.copyfile(config.human_file, folder / "human.jsonl")
    checkpoint = newest_checkpoint(folder) if same else None
    _clear(folder, keep=checkpoint)
    write_json(folder / "inputs.json", {"hash": inputs})
    if config.method == "scratch" and not (folder / "start").exists():
        from lab import scratch

        scratch.build(config.student, train, config.seed, folder / "start")
    return {"done": None, "checkpoint": str(checkpoint) if checkpoint else None}


def _clear(folder: Path, keep: Path | None) -> None:
    """Take away what an earlier training left, except what the checkpoint ``keep`` builds on."""
    old = [folder / "adapter", folder / "model", *([] if keep else [folder / "start"])]
    # Of whole checkpoints the best one so far may be an older one.
    broken = (p for p in folder.glob("checkpoint-*") if keep is None or not (p / "trainer_state.json").exists())
    for gone in (*old, *broken):
        shutil.rmtree(gone, ignore_errors=True)
    reached = int(keep.name.rpartition("-")[2]) if keep else -1
    for log in (folder / "log.jsonl", folder / "answers.jsonl"):
        if keep is None:
            log.unlink(missing_ok=True)
        elif log.exists():
            # A killed process may have logged steps after its last checkpoint; they are taken again.
            write_text(log, "".join(dump(r) + "\n" for r in read_rows(log) if r["step"] <= reached))


def estimate(run_: Run, config: TrainConfig) -> dict[str, Any]:
    """Memory and minutes before the start, without opening a model; seconds of work on a large one.

    Bytes needed and free and whether it fits, the micro-batch, steps, tokens, seconds (``measured`` when an earlier arm
    of this student told its speed, else reckoned from the speed of a matrix product), and a warning to show, or None.
    """
    from lab import fit

    config = settled(run_, config)
    chosen, test = training_pairs(run_, config)
    train = apart(chosen, test)
    device, precision = fit.device_and_precision()
    size = fit.look_up(config.student)
    teacher = fit.look_up(config.teacher) if config.method == "soft" else None
    mean, longest = _lengths(config, train)
    free = fit.free_memory(device)
    plan = fit.plan(size, config, longest, precision.dtype, free, teacher=teacher)
    tokens = round(mean * len(train) * config.epochs)
    evaluated = round(mean * len(test) * config.evaluations)
    measured = _measured(run_, config, tokens)
    seconds = measured or fit.seconds(size, config, tokens, evaluated, device, precision.dtype, plan.recompute, teacher)
    learned = fit.trainable(size, config)
    return {
        "device": device.type,
        "precision": str(precision.dtype).removeprefix("torch."),
        "parameters": size.parameters,
        "trainable": learned,
        "trainable_share": round(learned / size.parameters, 5),
        "pairs": len(train),
        "test_pairs": len(test),
        "steps": fit.steps(len(train), config),
        "tokens": tokens,
        "bytes": plan.bytes,
        "free_bytes": free,
        "fits": plan.fits,
        "rows": plan.rows,
        "accumulation": plan.accumulation,
        "recompute": plan.recompute,
        "seconds": round(seconds, 1),
        "measured": measured is not None,
        "warning": plan.warning(device.type),
    }


def _lengths(config: TrainConfig, pairs: Sequence[Pair]) -> tuple[float, int]:
    """(mean, longest) tokens of an example; two characters a token for a vocabulary that is not learned yet."""
    drawn = pairs[:: max(1, len(pairs) // SAMPLED)]
    if config.method == "scratch":
        lengths = [len(p.instruction + p.output) // 2 for p in drawn]
    else:
        from transformers import AutoTokenizer

        from lab.models import source
        from lab.training import conversation

        location, safely = source(config.student)
        tokenizer = AutoTokenizer.from_pretrained(location, **safely)
        texts = [
            tokenizer.apply_chat_template(conversation(p), tokenize=False)
            if tokenizer.chat_template
            else p.instruction + p.output
            for p in drawn
        ]
        lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]
    # What is longer than asked is cut.
    lengths = [min(n, config.max_length) for n in lengths]
    return sum(lengths) / len(lengths), max(lengths)


def _measured(run_: Run, config: TrainConfig, tokens: int) -> float | None:
    """Seconds for so many tokens at the speed of the newest finished arm of the same student and method."""
    for arm in reversed(run_.finished_arms()):
        done = run_.done("train", arm) or {}
        if (done.get("student"), done.get("method")) == (config.student, config.method) and done.get("tokens"):
            return tokens * done["seconds"] / done["tokens"]
    return None
