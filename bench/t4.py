"""Minutes on a T4, on paper: ``python bench/t4.py [--check]``.

Bytes and operations of every phase of a step, each against the machine's limit; a phase takes the longer of the two,
a step the sum of its phases. That is a floor: nothing is counted for launching kernels, waiting and Python. ``--check``
holds the same model, with this processor's measured limits, against the mini pair's measured writing and training and
prints how many times the floor they take. The T4 itself has not been measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.machine import T4, Machine, here

ROOT = Path(__file__).resolve().parent.parent
PROMPT, STORY = 60, 260
"""Tokens of a request and of a story of 300 characters in Qwen's vocabulary: an assumption, about 1.15 characters a token."""
STRAGGLE = 1.5
"""How many times the mean length a batch goes on for: finished rows leave, but the weights are read for the last one."""
SAMPLING = 6
"""Times that the logits are written or read while a token is drawn, in fp32: product, scaling, softmax twice, sum, search."""
LOSS = 6
"""The same while the loss is formed, forward and back."""
ACTIVATIONS = 34
"""Bytes a token, a layer and a hidden unit that a training step keeps in 16 bits (Korthikanti et al. 2022), without the
quadratic term, which sdpa does not store."""


@dataclass(frozen=True)
class Shape:
    """A Qwen2 by its numbers."""

    vocab: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    tied: bool = True

    @staticmethod
    def of(config: Any) -> Shape:
        """From a transformers Qwen2Config."""
        return Shape(
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.hidden_size // config.num_attention_heads,
            config.tie_word_embeddings,
        )

    @property
    def matrices(self) -> int:
        """Weights that every token is multiplied with: all matrices of the layers and the output matrix."""
        h, q, kv = self.hidden, self.heads * self.head, self.kv_heads * self.head
        return self.layers * (h * q + 2 * h * kv + q * h + 3 * h * self.inner) + self.vocab * h

    @property
    def parameters(self) -> int:
        """All weights, as model.num_parameters() counts them."""
        biases = (self.heads + 2 * self.kv_heads) * self.head
        norms = self.layers * (2 * self.hidden + biases) + self.hidden
        return self.matrices + norms + (0 if self.tied else self.vocab * self.hidden)

    def cache(self, width: int) -> int:
        """Bytes of keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head * width


QWEN_1_5B = Shape(151_936, 1536, 8960, 28, 12, 2, 128)
QWEN_0_5B = Shape(151_936, 896, 4864, 24, 14, 2, 64)


@dataclass(frozen=True)
class Phase:
    """A part of a step: what it moves and what it computes."""

    name: str
    bytes: float
    flops: float

    def seconds(self, machine: Machine) -> float:
        """At the machine's limit."""
        return max(self.bytes / machine.bytes, self.flops / machine.flops)

    def bound(self, machine: Machine) -> str:
        """``memory`` or ``arithmetic``."""
        return "memory" if self.bytes / machine.bytes > self.flops / machine.flops else "arithmetic"


def decoding(shape: Shape, batch: int, length: float, width: int = 2) -> list[Phase]:
    """One token for each of ``batch`` rows of ``length`` tokens; ``width`` bytes a weight."""
    attended = 4 * length * shape.heads * shape.head * shape.layers * batch
    return [
        Phase("weights", shape.matrices * width, 2.0 * shape.matrices * batch),
        Phase("cache", batch * length * shape.cache(width), attended),
        Phase("drawing", SAMPLING * 4.0 * batch * shape.vocab, 0),
    ]


def reading(shape: Shape, batch: int, prompt: int, width: int = 2) -> Phase:
    """The requests of a batch; the output matrix is applied to their last token alone."""
    inner = shape.matrices - shape.vocab * shape.hidden
    return Phase("reading", shape.matrices * width, 2.0 * inner * batch * prompt)


def training(shape: Shape, tokens: int, length: float, width: int = 2) -> list[Phase]:
    """A LoRA step over ``tokens`` in examples of ``length``: forward 2, back 2 operations a weight and token, as frozen
    weights need no gradient; the adapter itself is below 1 %."""
    return [
        Phase("matrices", 2.0 * shape.matrices * width, 4.0 * shape.matrices * tokens),
        Phase("attention", 0, 3 * 2.0 * length * shape.heads * shape.head * shape.layers * tokens),
        Phase("activations", 2.0 * ACTIVATIONS * width / 2 * shape.hidden * shape.layers * tokens, 0),
        Phase("loss", LOSS * 4.0 * shape.vocab * tokens, 0),
    ]


def summed(phases: list[Phase], machine: Machine) -> float:
    """Seconds of a step."""
    return sum(p.seconds(machine) for p in phases)


def writing_seconds(
    shape: Shape, pairs: int, batch: int, machine: Machine, prompt: float = PROMPT, story: float = STORY, width: int = 2
) -> float:
    """Floor of ``pairs`` stories: in every batch the rows leave when they end, the weights are read until the last ends."""
    weights, cache, drawing = decoding(shape, batch, prompt + story / 2, width)
    late = STRAGGLE if batch > 1 else 1.0
    thin = Phase("weights", weights.bytes, weights.flops / late)  # the mean number of rows that are still there
    step = thin.seconds(machine) + (cache.seconds(machine) + drawing.seconds(machine)) / late
    return pairs / batch * (reading(shape, batch, round(prompt), width).seconds(machine) + story * late * step)


def rows(machine: Machine = T4) -> list[dict[str, Any]]:
    """The table: 5,000 pairs by the 1.5B teacher, three epochs of LoRA on the 0.5B student."""
    found = []
    for batch in (1, 16, 64, 128):
        phases = decoding(QWEN_1_5B, batch, PROMPT + STORY / 2)
        longest = max(phases, key=lambda p: p.seconds(machine))
        need = QWEN_1_5B.parameters * 2 + batch * (PROMPT + STORY * STRAGGLE) * QWEN_1_5B.cache(2)
        found.append(
            {
                "work": "5,000 pairs, 1.5B",
                "batch": batch,
                "bytes": sum(p.bytes for p in phases),
                "flops": sum(p.flops for p in phases),
                "step_ms": 1000 * summed(phases, machine),
                "bound": f"{longest.name} ({longest.bound(machine)})",
                "memory": need,
                "minutes": writing_seconds(QWEN_1_5B, 5000, batch, machine) / 60,
            }
        )
    for pairs in (2500, 5000):
        batch, length = 16, PROMPT + STORY
        phases = training(QWEN_0_5B, batch * length, length)
        longest = max(phases, key=lambda p: p.seconds(machine))
        kept = batch * length * (ACTIVATIONS * QWEN_0_5B.hidden * QWEN_0_5B.layers + 2 * 4 * QWEN_0_5B.vocab)
        found.append(
            {
                "work": f"{pairs:,} pairs x 3 epochs, LoRA 0.5B",
                "batch": batch,
                "bytes": sum(p.bytes for p in phases),
                "flops": sum(p.flops for p in phases),
                "step_ms": 1000 * summed(phases, machine),
                "bound": f"{longest.name} ({longest.bound(machine)})",
                "memory": QWEN_0_5B.parameters * 2 + kept,
                "minutes": pairs * 3 / batch * summed(phases, machine) / 60,
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| work | batch | GB a step | TFLOP a step | ms a step | longest phase | memory GB | floor, min |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    lines += [
        f"| {r['work']} | {r['batch']} | {r['bytes'] / 1e9:.2f} | {r['flops'] / 1e12:.2f} | {r['step_ms']:.1f} | {r['bound']} | {r['memory'] / 1e9:.1f} | {r['minutes']:.1f} |"
        for r in found
    ]
    return "\n".join(lines)


def check(machine: Machine, pairs: int = 128) -> dict[str, float]:
    """How many times the floor the mini pair takes on this machine: {"writing", "training", ...}, measured now."""
    from transformers import AutoConfig

    from lab.config import TrainConfig
    from lab.progress import Progress
    from lab.records import Verdict, append_rows
    from lab.run import new_run
    from lab.stages import train

    shapes = {who: Shape.of(AutoConfig.from_pretrained(ROOT / "data" / "mini" / who)) for who in ("teacher", "student")}
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"LAB_HOME": home, "LAB_OFFLINE": "1"}
        run = new_run()
        told = subprocess.run(
            [sys.executable, "-m", "lab", "generate", run.id, "--pairs", str(pairs), "--batch-size", "64", "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        wrote = json.loads(told.stdout)
        story = wrote["tokens"] / pairs
        floor = writing_seconds(shapes["teacher"], pairs, 64, machine, 40, story, 4)
        append_rows(run.verdicts_file, [Verdict(p.id, True).row() for p in run.pairs()])
        started = time.perf_counter()
        facts = train.run(run, TrainConfig(epochs=1, evaluations=1), Progress(run, "train", []))
        whole = time.perf_counter() - started
    length = 40 + story
    step = summed(training(shapes["student"], round(16 * length), length, 4), machine)
    seconds = facts.get("seconds") or whole
    return {
        "writing": wrote["seconds"] / floor,
        "writing_seconds": wrote["seconds"],
        "writing_floor": floor,
        "training": seconds / (facts["steps"] * step),
        "training_seconds": seconds,
        "training_floor": facts["steps"] * step,
    }


def main() -> None:
    """Print the table, and with --check how far the floor is from what was measured here."""
    print(table(rows()))
    if "--check" in sys.argv:
        machine = here()
        print(f"\nThis processor: {machine.bytes / 1e9:.1f} GB/s, {machine.flops / 1e9:.0f} GFLOP/s (fp32)")
        found = check(machine)
        for what in ("writing", "training"):
            print(
                f"mini {what}: {found[what + '_seconds']:.1f} s, floor {found[what + '_floor']:.1f} s: "
                f"{found[what]:.1f} times the floor"
            )


if __name__ == "__main__":
    main()
