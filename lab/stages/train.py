"""Train one arm of the student with TRL's SFTTrainer: LoRA or full fine-tuning, loss on the answer only.

Everything that the trainer says goes to ``train/<arm>/log.jsonl``. A stop saves a checkpoint; the next call
with the same configuration, data and student goes on from the newest one, with the same order of the rows.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import domain
from lab.config import TrainConfig, as_json
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, append_rows, content_id, dump, read_json, read_rows, write_json, write_text
from lab.run import Run

FEWEST_PAIRS = 8
"""Below this many training pairs there is nothing to learn but the pairs themselves."""
ROWS_AT_A_TIME = {"small": 64, "large": 4}
"""Rows in one forward pass: models below 50M weights are bound by overhead, larger ones by memory
(4 x 512 tokens of a 0.5B model are meant to fit a 16 GB card)."""


def precision(device_type: str, capability: tuple[int, int] | None = None) -> dict[str, Any]:
    """The precision flags of the trainer and the dtype of a frozen base.

    bf16 from compute capability 8.0 on; fp16 autocast below (a T4 only emulates bf16); fp32 off a GPU.
    Always explicit, as TRL turns bf16 on by itself. What is trained stays fp32 everywhere.
    """
    import torch

    from lab.models import pick_dtype

    dtype = pick_dtype(torch.device(device_type), capability)
    return {
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "use_cpu": device_type == "cpu",
        "dtype": str(dtype).removeprefix("torch."),
    }


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
    return (human_pairs(len(train), config.seed) if config.data == "human" else train), test


def conversation(pair: Pair) -> dict[str, Any]:
    """The pair as TRL's conversational prompt and completion."""
    return {
        "prompt": [{"role": "user", "content": pair.instruction}],
        "completion": [{"role": "assistant", "content": pair.output}],
    }


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, if there is one (trainer_state.json is written last)."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def rows_at_a_time(batch_size: int, parameters: int) -> int:
    """The largest divisor of the effective batch that fits, so that the effective batch is what was asked for."""
    most = ROWS_AT_A_TIME["small" if parameters < 50_000_000 else "large"]
    return max(n for n in range(1, min(batch_size, most) + 1) if batch_size % n == 0)


def _refuse(config: TrainConfig) -> None:
    if config.method not in ("lora", "full"):
        raise Problem(
            f"Method {config.method!r} is not yet available. Use lora or full.",
            f"학습 방법 {config.method!r}: 아직 쓸 수 없습니다. lora 또는 full 방법을 골라 주세요.",
        )
    if config.student.startswith("api:"):
        raise Problem(
            f"{config.student} is behind an endpoint and cannot be trained. Choose a Hub id, a folder or mini:student as student.",
            f"엔드포인트 모델은 학습할 수 없습니다: {config.student}. 허브 아이디, 폴더, mini:student 가운데에서 학생을 골라 주세요.",
        )


def run(run_: Run, config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Train ``config.arm``; facts: arm, steps, train_loss, eval_loss, pairs, parameters, trainable, seconds and more.

    ``eval_loss`` is None when the run has no kept pair in its test split. A finished arm whose configuration,
    data and student are unchanged is not trained again.
    """
    _refuse(config)
    train, test = training_pairs(run_, config)
    folder = run_.stage_folder("train", config.arm)

    from lab.models import fingerprint, resolve

    inputs = content_id(
        as_json(config), [p.id for p in train], [p.id for p in test], fingerprint(resolve(config.student))
    )
    if config.method == "lora" and (Path(resolve(config.student)) / "adapter_config.json").exists():
        raise Problem(
            f"{config.student} is an adapter itself, and an adapter on an adapter could not be opened later. Train its base, or use method full.",
            f"이미 어댑터인 학생에는 어댑터를 더 얹을 수 없습니다: {config.student}. 바탕 모델을 학습하거나 full 방법을 골라 주세요.",
        )
    same = read_json(folder / "inputs.json", {}).get("hash") == inputs
    done = run_.done("train", config.arm)
    if same and done and ((folder / "adapter").exists() or (folder / "model").exists()):
        progress.begin("train", done["steps"], done["steps"])
        run_.finish("train", {k: v for k, v in done.items() if k not in ("inputs", "at")}, config.arm)
        return done
    run_.begin("train", config, config.arm)
    checkpoint = newest_checkpoint(folder) if same else None
    _clear(folder, keep=checkpoint)
    write_json(folder / "inputs.json", {"hash": inputs})
    facts = _train(folder, config, progress, train, test, checkpoint)
    run_.finish("train", facts, config.arm)
    return facts


def _clear(folder: Path, keep: Path | None) -> None:
    """Take away what an earlier training left, except what the checkpoint ``keep`` builds on."""
    for old in (*folder.glob("checkpoint-*"), folder / "adapter", folder / "model"):
        if old != keep:
            shutil.rmtree(old, ignore_errors=True)
    log = folder / "log.jsonl"
    if keep is None:
        log.unlink(missing_ok=True)
    elif log.exists():
        # A killed process may have logged steps after its last checkpoint; they are taken again.
        reached = int(keep.name.rpartition("-")[2])
        write_text(log, "".join(dump(r) + "\n" for r in read_rows(log) if r["step"] <= reached))


def _train(
    folder: Path, config: TrainConfig, progress: Progress, train: list[Pair], test: list[Pair], checkpoint: Path | None
) -> dict[str, Any]:
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from lab.models import open_model, pick_device

    device = pick_device()
    exact = precision(device.type)
    lora = config.method == "lora"
    # Full fine-tuning keeps fp32 master weights; a frozen base may be half precision.
    student = open_model(config.student, dtype=getattr(torch, exact["dtype"]) if lora else torch.float32)
    parameters, spec = student.parameters, config.student
    rows = rows_at_a_time(config.batch_size, parameters)
    steps = math.ceil(math.ceil(len(train) / config.batch_size) * config.epochs)
    every = max(1, math.ceil(steps / config.evaluations))
    evaluate = bool(test)
    datasets.disable_progress_bars()
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=rows,
        gradient_accumulation_steps=config.batch_size // rows,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        # A short training would end inside its warm-up.
        warmup_steps=min(config.warmup_steps, steps // 4),
        max_length=config.max_length,
        completion_only_loss=True,
        packing=False,
        seed=config.seed,
        data_seed=config.seed,
        bf16=exact["bf16"],
        fp16=exact["fp16"],
        use_cpu=exact["use_cpu"],
        gradient_checkpointing=device.type == "cuda" and parameters >= 50_000_000,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=config.early_stopping and evaluate,
        metric_for_best_model="eval_loss" if evaluate else None,
        greater_is_better=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
    )
    trainer = SFTTrainer(
        model=student.model,
        args=arguments,
        processing_class=student.tokenizer,
        train_dataset=datasets.Dataset.from_list([conversation(p) for p in train]),
        eval_dataset=datasets.Dataset.from_list([conversation(p) for p in test]) if evaluate else None,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=[t.strip() for t in config.lora_targets.split(",") if t.strip()],
        )
        if lora
        else None,
        callbacks=[_logger(folder / "log.jsonl", progress)]
        + ([EarlyStoppingCallback(3)] if config.early_stopping and evaluate else []),
    )
    # It prints to stdout, where a caller may expect nothing but one JSON object; TRL's card names no licence.
    trainer.remove_callback(PrinterCallback)
    trainer.create_model_card = lambda *_, **__: None
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    if lora:
        for p in trainable:
            p.data = p.data.float()
    before = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    progress.begin("train", steps, before)
    started = time.perf_counter()
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        raise Problem(
            f"Not enough GPU memory for a batch of {rows} rows. Lower the effective batch or the longest example, then train again.",
            f"GPU 메모리가 부족합니다(한 번에 {rows}개). 실효 배치나 예제 최대 길이를 줄인 뒤 다시 학습해 주세요.",
        ) from None
    reached = trainer.state.global_step
    if progress.stopping and reached < steps:
        raise Stopped
    seconds = sum(r["seconds"] for r in read_rows(folder / "log.jsonl") if "loss" in r)
    final = trainer.evaluate()["eval_loss"] if evaluate else None
    losses = [r["loss"] for r in read_rows(folder / "log.jsonl") if "loss" in r]
    _save(trainer, folder / ("adapter" if lora else "model"), spec, lora)
    return {
        "arm": config.arm,
        "steps": reached,
        "train_loss": sum(losses) / len(losses) if losses else result.training_loss,
        "eval_loss": final,
        "pairs": len(train),
        "test_pairs": len(test),
        "method": config.method,
        "student": spec,
        "student_revision": student.revision,
        "parameters": parameters,
        "trainable": sum(p.numel() for p in trainable),
        "device": device.type,
        "precision": exact["dtype"],
        "seconds": round(seconds or time.perf_counter() - started, 2),
        "resumed_at": before,
    }


def _save(trainer: Any, folder: Path, spec: str, lora: bool) -> None:
    """Adapter or model with its tokenizer; written aside first, as a folder that is there counts as trained."""
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if lora:
        trainer.model.peft_config["default"].base_model_name_or_path = spec
    trainer.model.save_pretrained(aside)
    trainer.processing_class.save_pretrained(aside)
    (aside / "README.md").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _logger(log: Path, progress: Progress) -> Any:
    """The trainer's callback that writes log.jsonl, tells the progress, hears a stop and refuses a broken loss."""
    from transformers import TrainerCallback

    earlier = [r for r in read_rows(log) if "tokens" in r]

    class Logger(TrainerCallback):
        def __init__(self) -> None:
            self.at = time.perf_counter()
            # TRL counts its tokens from each start of the process.
            self.tokens = earlier[-1]["tokens"] if earlier else 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.at = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            logs, now = logs or {}, time.perf_counter()
            if "loss" in logs:
                row = {k: logs[k] for k in ("loss", "learning_rate", "grad_norm") if k in logs}
                row["tokens"] = self.tokens + int(logs.get("num_tokens", 0))
                if not math.isfinite(row["loss"]) or row["loss"] == 0:
                    raise Problem(
                        f"The loss became {row['loss']} at step {state.global_step}: training has broken down. Lower the learning rate ({args.learning_rate:g}) and train again.",
                        f"{state.global_step}번째 단계에서 손실 값이 {row['loss']}: 학습이 망가졌습니다. 학습률({args.learning_rate:g})을 낮추고 다시 학습해 주세요.",
                    )
                # fp16 finds its loss scale in the first steps by overflowing; JSON has no NaN.
                if not math.isfinite(row.get("grad_norm", 0)):
                    row["grad_norm"] = None
                progress.step(state.global_step, stop=False, loss=row["loss"])
                # Every step is logged, and the trainer looks whether to save right after.
                if progress.stopping and state.global_step < state.max_steps:
                    control.should_save = control.should_training_stop = True
            elif "eval_loss" in logs:
                row = {"eval_loss": logs["eval_loss"]}
            else:
                return
            append_rows(log, [{"step": state.global_step, **row, "seconds": round(now - self.at, 4)}])
            self.at = now

    return Logger()
