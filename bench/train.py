"""Useful tokens per second of train against the reference way: ``python bench/train.py [PAIRS] [METHOD]``.

The reference is the plain way: transformers' Trainer, every example padded to 512 tokens, loss on everything but the
padding. Same student, LoRA, pairs, effective batch, learning rate and number of examples on both sides; hand-written
stories, one epoch. Useful tokens are the answers' tokens. Steps are timed from the end of the first to the end of the
last one, in seconds of the clock and of the CPU (the latter bears neighbours on the machine); loading, evaluation and
saving are left out on both sides. Held-out perplexity is over the answer tokens of pairs that neither side has seen.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab.config import TrainConfig
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows
from lab.run import Run, new_run
from lab.stages import train

HELD_OUT = 0.25
"""Of the pairs, on top of them."""
PADDED_TO = 512


class Clock(Progress):
    """Notes both clocks after every step."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, "train", [])
        self.times: list[tuple[float, float]] = []

    def step(self, done: int, stop: bool = True, **facts: Any) -> None:
        """As ever, and the time."""
        super().step(done, stop, **facts)
        self.times.append((time.perf_counter(), time.process_time()))


def perplexity(model: Any, pairs: Sequence[Pair]) -> float:
    """Over all answer tokens of the pairs."""
    scores = model.score([(model.chat_ids(p.instruction), model.answer_ids(p.output)) for p in pairs])
    return math.exp(-sum(map(sum, scores)) / sum(map(len, scores)))


def reference(config: TrainConfig, pairs: Sequence[Pair], folder: str) -> tuple[list[tuple[float, float]], Any]:
    """(times after every step, the trained model) of the plain way."""
    import datasets
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    from lab.models import LocalModel, open_model, pick_device
    from lab.training import conversation

    opened = open_model(config.student, dtype=torch.float32)
    texts = [opened.tokenizer.apply_chat_template(conversation(p), tokenize=False) for p in pairs]
    rows = opened.tokenizer(texts, padding="max_length", max_length=PADDED_TO, truncation=True)
    model = opened.model
    if config.method == "lora":
        adapter = LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=config.lora_targets.split(","),
        )
        model = get_peft_model(model, adapter)
    times: list[tuple[float, float]] = []

    class Timer(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append((time.perf_counter(), time.process_time()))

    steps = math.ceil(len(pairs) / config.batch_size)
    Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=min(config.warmup_steps, steps // 4),
            use_cpu=pick_device().type == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=datasets.Dataset.from_dict(dict(rows)),
        data_collator=DataCollatorForLanguageModeling(opened.tokenizer, mlm=False),
        callbacks=[Timer()],
    ).train()
    merged = model.merge_and_unload() if config.method == "lora" else model
    return times, LocalModel("reference", merged, opened.tokenizer, "")


def main() -> None:
    """Print both sides and the ratio."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    method = sys.argv[2] if len(sys.argv) > 2 else "lora"
    os.environ["LAB_OFFLINE"] = "1"
    config = TrainConfig(method=method, epochs=1.0, learning_rate=1e-3, evaluations=1)
    pairs = train.human_pairs(count + int(count * HELD_OUT), 0)
    learned, held_out = pairs[:count], [replace(p, split="test") for p in pairs[count:]]
    learned = train.apart(learned, held_out)
    with tempfile.TemporaryDirectory() as home:
        os.environ["LAB_HOME"] = home
        run = new_run()
        append_rows(run.pairs_file, [p.row() for p in [*learned, *held_out]])
        append_rows(run.verdicts_file, [Verdict(p.id, True, judge=4.0).row() for p in [*learned, *held_out]])

        from lab.models import open_model

        clock = Clock(run)
        train.run(run, config, clock)
        base = open_model(config.student)
        sides = {
            "train    ": (clock.times, open_model(f"run:{run.id}/{config.arm}")),
            "reference": reference(config, learned, f"{home}/reference"),
        }
    useful = sum(len(base.answer_ids(p.output)) for p in learned) * (1 - config.batch_size / len(learned))
    print(f"{len(learned)} pairs, method {method}, held-out perplexity before: {perplexity(base, held_out):.2f}")
    speeds = []
    for name, (times, model) in sides.items():
        clock_seconds, cpu_seconds = (b - a for a, b in zip(times[0], times[-1], strict=True))
        speeds.append((useful / clock_seconds, useful / cpu_seconds))
        print(
            f"{name}: {useful:.0f} useful tokens in {clock_seconds:.1f} s ({cpu_seconds:.1f} s of CPU), "
            f"{useful / clock_seconds:.0f} tokens/s, held-out perplexity {perplexity(model, held_out):.2f}"
        )
    print(f"ratio: {speeds[0][0] / speeds[1][0]:.2f} by the clock, {speeds[0][1] / speeds[1][1]:.2f} by CPU time")


if __name__ == "__main__":
    main()
