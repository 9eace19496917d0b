"""What a training asks of this machine: precision, micro-batch, memory and minutes, before it begins."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lab import scratch
from lab.config import TrainConfig
from lab.models import cannot_open, pick_device, pick_dtype, source
from lab.problems import Problem

MOST_ROWS = 64
"""Rows of a micro-batch: what overhead a small model has is spread thin by then."""
COMFORTABLE_ROWS = 4
"""Recomputing activations costs a third more time; it is done where fewer rows than these fit without."""
ADAM_BYTES = 16
"""Of each trained weight: fp32 value, gradient and the two moments of AdamW."""
OVERHEAD_BYTES = 700_000_000
"""CUDA's context and libraries, about."""
MARGIN = 1.15
"""On top of what is counted: buffers, fragments of the allocator."""
EFFICIENCY = 0.4
"""Share of a plain matrix product's speed that a training step reaches."""
START_SECONDS = 15.0
"""Imports, opening the model, the first step."""


@dataclass(frozen=True)
class Precision:
    """How numbers are kept: autocast to bf16 or fp16, and the dtype of a frozen base. What is trained is fp32 always."""

    bf16: bool
    fp16: bool
    use_cpu: bool
    dtype: torch.dtype


def precision(device_type: str, capability: tuple[int, int] | None = None) -> Precision:
    """bf16 from compute capability 8.0 on; fp16 autocast below (a T4 only emulates bf16); fp32 off a GPU.

    Always explicit, as TRL turns bf16 on by itself. On a CPU bf16 is no rule: see DECISIONS.
    """
    dtype = pick_dtype(torch.device(device_type), capability)
    return Precision(dtype is torch.bfloat16, dtype is torch.float16, device_type == "cpu", dtype)


@dataclass(frozen=True)
class Size:
    """What memory and time depend on."""

    parameters: int
    layers: int
    hidden: int
    feed_forward: int
    key_value: int
    vocabulary: int


def size_of(config: Any, parameters: int) -> Size:
    """The size of a transformers model from its configuration."""
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_value = getattr(text, "num_key_value_heads", None) or heads
    return Size(
        parameters, text.num_hidden_layers, text.hidden_size, text.intermediate_size, head * key_value, text.vocab_size
    )


def look_up(spec: str) -> Size:
    """The size of the model that SPEC names, from its config.json alone: no weights are read or made."""
    if spec in scratch.SHAPES:
        config: Any = scratch.SHAPES[spec].configuration(scratch.SHAPES[spec].vocabulary, 0, 0)
    else:
        location, safely = source(spec)
        try:
            config = AutoConfig.from_pretrained(location, **safely)
        except (OSError, ValueError) as error:
            raise cannot_open(spec, location, error) from None
    with torch.device("meta"):
        return size_of(config, AutoModelForCausalLM.from_config(config).num_parameters())


def trainable(size: Size, config: TrainConfig) -> int:
    """Weights that will be trained: all, or the adapter's."""
    if config.method in ("full", "scratch"):
        return size.parameters
    wide = {
        "q_proj": 2 * size.hidden,
        "o_proj": 2 * size.hidden,
        "k_proj": size.hidden + size.key_value,
        "v_proj": size.hidden + size.key_value,
    }
    return sum(
        config.lora_r * wide.get(target, size.hidden + size.feed_forward) * size.layers for target in targets(config)
    )


def targets(config: TrainConfig) -> list[str]:
    """The layers that get an adapter."""
    return [t.strip() for t in config.lora_targets.split(",") if t.strip()]


def memory(
    size: Size,
    config: TrainConfig,
    tokens: int,
    dtype: torch.dtype,
    recompute: bool = False,
    teacher: Size | None = None,
) -> int:
    """Bytes that a training step over ``tokens`` tokens (padding included) takes, weights and optimizer included.

    Counts what autograd keeps of a gated transformer layer under sdpa, tensor by tensor; ``recompute`` keeps the
    layers' inputs only.
    """
    width, learned = dtype.itemsize, trainable(size, config)
    weights = 0.6 if config.four_bit else 4.0 if learned == size.parameters else width
    fixed = size.parameters * (weights if learned < size.parameters else 0) + learned * ADAM_BYTES
    if learned == size.parameters and width < 4:
        fixed += size.parameters * width  # autocast's own copy of each weight
    if teacher:
        fixed += teacher.parameters * width
    kept = width * (6 * size.hidden + 2 * size.key_value + 4 * size.feed_forward) + 16 * size.hidden
    if learned < size.parameters:
        kept += len(targets(config)) * 9 * size.hidden  # dropout's mask and an fp32 input of each adapter
    per_token = size.layers * size.hidden * width + kept if recompute else size.layers * kept
    if teacher:
        per_token += 40 * size.vocabulary  # both distributions, their logarithms and the gradient, in fp32
    # TRL's fused head holds 4096 rows of 8192 columns at most.
    head = 0 if teacher else 3 * 4 * min(tokens, 4096) * min(size.vocabulary, 8192)
    return int((fixed + tokens * per_token + head) * MARGIN + (OVERHEAD_BYTES if width < 4 else 0))


@dataclass(frozen=True)
class Plan:
    """How an effective batch is cut so that it fits: rows at a time on each device, times accumulation."""

    rows: int
    accumulation: int
    recompute: bool
    bytes: int
    free: int

    @property
    def fits(self) -> bool:
        """Whether what is needed is free."""
        return self.bytes <= self.free

    def warning(self, where: str) -> dict[str, str] | None:
        """What to tell, in both languages, where it will not fit."""
        if self.fits:
            return None
        needed, free = self.bytes / 1e9, self.free / 1e9
        return {
            "en": f"This will hardly fit: about {needed:.1f} GB are needed with one row at a time, {free:.1f} GB are free on {where}. Choose a smaller student, shorten the longest example, or pack the base to 4 bits.",
            "ko": f"메모리가 모자랄 것 같습니다. 한 번에 한 행씩 처리해도 약 {needed:.1f}GB가 필요한데 {where} 장치에 {free:.1f}GB가 남아 있습니다. 더 작은 학생을 고르거나, 예제 최대 길이를 줄이거나, 4비트로 압축해 주세요.",
        }


def steps(pairs: int, config: TrainConfig) -> int:
    """Optimizer steps of the training: every epoch ends with what is left of a batch."""
    return math.ceil(math.ceil(pairs / config.batch_size) * config.epochs)


def divisors(batch: int) -> Iterable[int]:
    """Sizes that cut the batch evenly, largest first."""
    return (n for n in range(min(batch, MOST_ROWS), 0, -1) if batch % n == 0)


def plan(
    size: Size,
    config: TrainConfig,
    longest: int,
    dtype: torch.dtype,
    free: int,
    processes: int = 1,
    teacher: Size | None = None,
) -> Plan:
    """The most rows that fit into ``free`` bytes; activations are recomputed only where memory is short.

    The effective batch is exactly what was asked for: the rows always divide it.
    """
    if config.batch_size % processes:
        raise Problem(
            f"The effective batch {config.batch_size} cannot be divided by {processes} processes. Choose a multiple of {processes}.",
            f"실효 배치 {config.batch_size}: 프로세스 {processes}개로 나누어지지 않습니다. {processes}의 배수를 골라 주세요.",
        )
    share = config.batch_size // processes

    def made(rows: int, recompute: bool) -> Plan:
        needed = memory(size, config, rows * longest, dtype, recompute, teacher)
        return Plan(rows, share // rows, recompute, needed, free)

    plain = next((p for n in divisors(share) if (p := made(n, False)).fits), None)
    if plain and plain.rows >= min(COMFORTABLE_ROWS, share):
        return plain
    thrifty = next((p for n in divisors(share) if (p := made(n, True)).fits), None)
    return thrifty or plain or made(1, True)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def seconds(
    size: Size,
    config: TrainConfig,
    tokens: int,
    evaluated: int,
    device: torch.device,
    dtype: torch.dtype,
    recompute: bool = False,
    teacher: Size | None = None,
) -> float:
    """Seconds for ``tokens`` trained and ``evaluated`` tokens, from the speed of a matrix product of this size, timed now.

    A frozen weight needs a forward pass and the gradient of its input (4 operations a token), a trained one 6.
    """
    work = 6 if trainable(size, config) == size.parameters else 4
    needed = tokens * size.parameters * (work + 2 * recompute) + evaluated * size.parameters * 2
    if teacher:
        needed += tokens * teacher.parameters * 2
    return START_SECONDS + needed / (_speed(size, device, dtype) * EFFICIENCY)


def _speed(size: Size, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a layer's largest matrix product over 1,024 tokens; the best of a few."""
    left = torch.ones(1024, size.hidden, device=device, dtype=dtype)
    right = torch.ones(size.hidden, size.feed_forward, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        times.append(time.perf_counter() - started)
    return 2 * 1024 * size.hidden * size.feed_forward / min(times[1:])


def device_and_precision() -> tuple[torch.device, Precision]:
    """Where training runs here, and in which numbers."""
    device = pick_device()
    return device, precision(device.type)
