"""Training the shape of Qwen2.5-0.5B on a GPU in a T4's settings: ``python bench/gpu.py``.

Random weights, the real sizes (151,936 entries of vocabulary), rank 16 on q, k, v, o, 4 rows of 512 tokens at a time,
through the train stage's own code. A T4 (compute capability 7.5) has no bf16: the frozen base is fp16, what is trained
fp32, under fp16 autocast. Each line changes one setting and tells the peak of memory and the tokens per second from the
end of the second step on. Speed on another GPU says nothing about a T4's; the memory that is taken does.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from lab import domain, fit, training
from lab.config import TrainConfig
from lab.progress import Progress
from lab.records import Pair
from lab.run import Run, new_run

T4 = (7, 5)
T4_BYTES = 14_000_000_000
"""Of its 16 GB a T4 leaves about 15 to a program; a training shall stay below this."""
ROWS, TOKENS, STEPS = 4, 512, 8
SHAPE = dict(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32_768,
    tie_word_embeddings=True,
)


@dataclass(frozen=True)
class Setting:
    """One way to train, by what it changes."""

    name: str
    capability: tuple[int, int] = T4
    recompute: bool = False
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    method: str = "lora"


def whole_logits(self: Any, model: Any, inputs: dict[str, Any], *_: Any, num_items_in_batch: Any = None) -> Any:
    """The plain loss: the logits of all positions at once."""
    asked = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    logits = model(**asked, use_cache=False).logits[:, :-1].float()
    targets = inputs["labels"][:, 1:]
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    self.count(inputs)
    return total / (num_items_in_batch or (targets != -100).sum())


def eager() -> AbstractContextManager[Any]:
    """Attention without sdpa."""
    made = Qwen2ForCausalLM.from_pretrained

    def opened(*arguments: Any, **options: Any) -> Any:
        return made(*arguments, **options | {"attn_implementation": "eager"})

    return patch("lab.models.AutoModelForCausalLM.from_pretrained", opened)


SETTINGS = (
    Setting("T4: fp16, sdpa, loss in chunks"),
    Setting("the same, activations recomputed", recompute=True),
    Setting(
        "the same, all logits at once", around=lambda: patch.object(training.HardTrainer, "compute_loss", whole_logits)
    ),
    Setting("the same, eager attention", around=eager),
    Setting("the same, all weights trained", method="full"),
    Setting("bf16, as from capability 8.0 on", capability=(8, 0)),
)


def measured(setting: Setting, student: Path, pairs: list[Pair], run: Run) -> dict[str, Any]:
    """Peak memory and speed of one short training."""
    config = TrainConfig(
        student=str(student), method=setting.method, batch_size=ROWS, epochs=1, max_length=TOKENS, evaluations=1
    )
    precision = fit.precision("cuda", setting.capability)
    plan = fit.plan

    def four_rows(*arguments: Any) -> fit.Plan:
        needed = fit.memory(arguments[0], config, ROWS * TOKENS, precision.dtype, setting.recompute)
        return replace(plan(*arguments), rows=ROWS, accumulation=1, recompute=setting.recompute, bytes=needed)

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(fit, "device_and_precision", lambda: (torch.device("cuda"), precision)),
        patch.object(fit, "plan", four_rows),
        setting.around(),
    ):
        task = training.Task(Path(folder), config, str(student), "", pairs, [], Progress(run, "train", []))
        attempt = training._Attempt(task, 0)
        attempt.run(None, 0)
        rows = [json.loads(line) for line in task.log.read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    spent = sum(row["seconds"] for row in rows[2:])
    return {
        "setting": setting.name,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        "planned_gb": attempt.plan.bytes / 1e9,
        "tokens_per_second": (rows[-1]["tokens"] - rows[1]["tokens"]) / spent,
        "loss": [round(rows[0]["loss"], 3), round(rows[-1]["loss"], 3)],
    }


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("bench/gpu.py needs a GPU: none is visible to torch. The same shape on paper: python bench/t4.py")
    stories = " ".join(row["output"] for row in domain.reference_stories())
    pairs = [
        Pair(f"{i}", "토끼 이야기를 해 주세요.", (stories[300 * i :] + stories)[:4000]) for i in range(ROWS * STEPS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LAB_HOME"] = folder
        run, student = new_run(), Path(folder) / "student"
        torch.manual_seed(0)
        AutoTokenizer.from_pretrained(domain.DATA / "mini" / "student").save_pretrained(student)
        Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(torch.float16).save_pretrained(student)
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
        first = None
        for setting in SETTINGS:
            started = time.time()
            found = measured(setting, student, pairs, run)
            first = first or found
            print(
                f"{found['setting']:36} peak {found['peak_gb']:5.2f} GB (reserved {found['reserved_gb']:5.2f}, planned {found['planned_gb']:5.2f})"
                f" | {found['tokens_per_second']:7,.0f} tokens/s, {found['tokens_per_second'] / first['tokens_per_second']:.2f} of the first"
                f" | loss {found['loss'][0]} to {found['loss'][1]} | {time.time() - started:.0f} s",
                flush=True,
            )
        if first["reserved_gb"] * 1e9 > T4_BYTES:
            sys.exit(f"Too much for a T4: {first['reserved_gb']:.1f} GB.")


if __name__ == "__main__":
    main()
