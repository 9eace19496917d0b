"""Models behind one door: open by SPEC, write answers in batches, score given answers.

SPEC: a Hub id, a local folder or .gguf file, ``mini:teacher``, ``mini:student``, ``run:RUN/ARM`` or ``api:MODEL``.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from lab import hub
from lab.domain import DATA
from lab.endpoint import EndpointModel
from lab.problems import Problem
from lab.ragged import IN_GROUPS, groups_of, new_cache, read_prompts, takes_groups
from lab.records import Answer
from lab.run import find_run

WINDOW = 4
"""Batches among which requests are sorted by length."""
MOST_ROWS = 256
"""Rows of a batch: beyond it a stop waits long, and the mini teacher gains little."""
SMALL = 50_000_000
"""Weights of a small model: a CPU takes many of its rows at a time, and one thread is enough for a few."""
FEW_ROWS = 4
"""Rows of a small model that a second thread does not make faster; beside a busy process one thread is three times as fast."""
THREADS = torch.get_num_threads()
"""Threads that share an operation."""
NUCLEI = (16, 128)
"""Tokens among which top-p is looked for, first and for rows that need more: of 248 rows of the mini teacher two to nine do."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy. ``top_p`` 1 leaves the whole distribution."""

    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 400


def pick_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: torch.device, capability: tuple[int, int] | None = None) -> torch.dtype:
    """bf16 from compute capability 8.0 on, fp16 on older GPUs (a T4 only emulates bf16), fp32 elsewhere."""
    if device.type == "cuda":
        capability = capability or torch.cuda.get_device_capability(device)
        return torch.bfloat16 if capability >= (8, 0) else torch.float16
    return torch.float32


def resolve(spec: str) -> str:
    """The folder or Hub id that a SPEC stands for. Raises Problem when a run or folder is missing."""
    if spec.startswith("mini:"):
        folder = DATA / "mini" / spec.removeprefix("mini:")
        if not (folder / "config.json").exists():
            raise Problem(
                f"{spec} is not there. The embedded models are mini:teacher and mini:student.",
                f"{spec} 모델이 없습니다. 내장 모델은 mini:teacher 와 mini:student 입니다.",
            )
        return str(folder)
    if spec.startswith("run:"):
        run_id, _, arm = spec.removeprefix("run:").partition("/")
        folder = find_run(run_id).stage_folder("train", arm or "distilled")
        for name in ("adapter", "model"):
            if (folder / name).exists():
                return str(folder / name)
        raise Problem(
            f"{spec}: this arm has not been trained. Run `python -m lab train {run_id} --arm {arm or 'distilled'}` first.",
            f"{spec}: 아직 학습하지 않은 갈래입니다. 먼저 `python -m lab train {run_id} --arm {arm or 'distilled'}` 명령을 실행해 주세요.",
        )
    # A Hub id has one slash at most; a path that is none would reach the Hub and come back as a riddle.
    if (spec.startswith(("/", ".", "~")) or spec.count("/") > 1) and not Path(spec).exists():
        raise Problem(
            f"There is no file or folder {spec}. Give a model's folder or .gguf file on this machine, or its Hub id.",
            f"파일이나 폴더가 없습니다: {spec}. 이 컴퓨터에 있는 모델 폴더나 .gguf 파일, 또는 허브 아이디를 적어 주세요.",
        )
    return spec


def source(spec: str) -> tuple[str, dict[str, Any]]:
    """What every ``from_pretrained`` is given: the place, and how it is opened safely.

    No program code of a model is run (without a word about it transformers would ask on the terminal), and of a Hub out
    of reach nothing is waited for.
    """
    location = resolve(spec)
    return location, {
        "trust_remote_code": False,
        "local_files_only": Path(location).exists() or not hub.reachable(),
    }


def fingerprint(location: str) -> str:
    """A hash of a folder's (or a .gguf file's) weights, or the Hub id itself: nobody compares a model with itself unnoticed."""
    place = Path(location)
    if not place.exists():
        return location
    digest = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(place.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


class LocalModel:
    """A transformers model with its tokenizer, ready to write and to score."""

    def __init__(self, spec: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, revision: str) -> None:
        self.spec = spec
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.revision = revision
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end_ids = tuple(e for e in {*ends, tokenizer.eos_token_id} if e is not None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def parameters(self) -> int:
        """Number of weights, the adapter's included."""
        return self.model.num_parameters()

    @property
    def size_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def chat_ids(self, instruction: str) -> list[int]:
        """Token ids of the request in the model's chat format, ready for the answer."""
        return self.messages_ids([{"role": "user", "content": instruction}])

    def messages_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a whole conversation, ready for the next answer."""
        if not self.tokenizer.chat_template:
            raise Problem(
                f"{self.spec} has no chat template. Choose an instruct model.",
                f"{self.spec} 모델에는 대화 틀(chat template)이 없습니다. 지시를 따르는(instruct) 모델을 골라 주세요.",
            )
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer with its end token."""
        return [*self.tokenizer(text, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]

    @torch.inference_mode()
    def stream(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[list[tuple[int, int]]]:
        """Decode one batch; after each step yield (row, new token) of every row still going.

        Each row draws from a generator of its own, so its randomness does not depend on its neighbours.
        Rows that ended leave the batch (and the cache) as soon as a quarter of it has ended.
        """
        device, width = self.device, max(len(p) for p in prompts)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end_ids[0]
        ids = torch.full((len(prompts), width), pad)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        chances = _chances(seeds, sampling).to(device)
        rows = list(range(len(prompts)))
        ended = [False] * len(prompts)
        padding = [width - len(p) for p in prompts]
        grouped = takes_groups(self.model)
        groups = groups_of(padding) if grouped else [(0, len(prompts), 0)]
        alone = device.type == "cpu" and self.parameters < SMALL
        with _threads(1 if alone and len(rows) <= FEW_ROWS else None):
            logits, cache = read_prompts(self.model, ids, mask, positions, groups)
            tokens = _draw(logits.float(), sampling, chances[:, 0])
        for step in range(1, sampling.max_new_tokens + 1):
            drawn = tokens.tolist()
            yield [(r, t) for r, t in zip(rows, drawn, strict=True) if not ended[r]]
            for r, t in zip(rows, drawn, strict=True):
                ended[r] = ended[r] or t in self.end_ids
            left = [i for i, r in enumerate(rows) if not ended[r]]
            if not left or step == sampling.max_new_tokens:
                return
            positions = positions[:, -1:] + 1
            if len(left) <= len(rows) * 0.75:
                keep = torch.tensor(left, device=device)
                cache.batch_select_indices(keep)
                tokens, mask, positions, chances = tokens[keep], mask[keep], positions[keep], chances[keep]
                rows = [rows[i] for i in left]
                groups = groups_of([padding[r] for r in rows]) if grouped else []
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            with _threads(1 if alone and len(rows) <= FEW_ROWS else None):
                out = self.model(
                    input_ids=tokens[:, None],
                    attention_mask=mask if any(padding) else None,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                    **({"groups": groups} if grouped else {}),
                )
                tokens = _draw(out.logits[:, -1].float(), sampling, chances[:, step])

    def write(
        self,
        instructions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        batch_size: int = 0,
        note: Callable[[str, str], None] | None = None,
        tick: Callable[[int, float], None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """(index, answer) of every instruction as soon as its batch is done.

        ``batch_size`` 0 takes what suits the device; out of memory halves it and says so through ``note``. Requests of
        similar length meet in one batch, but only among a few batches in a row: who stops early has a fair sample.
        ``seconds`` of an answer is its share of the time its batch took. ``tick`` gets the number of new tokens at
        every step and how many stories' work of the batch is done, and 0 and 0 between batches, when it may raise to
        end the writing without a loss.
        """
        size = batch_size or self.default_batch()
        for start in range(0, len(instructions), size * WINDOW):
            window = range(start, min(start + size * WINDOW, len(instructions)))
            encoded = {i: self.chat_ids(instructions[i]) for i in window}
            order = sorted(window, key=lambda i: -len(encoded[i]))
            while order:
                batch = order[:size]
                if tick:
                    tick(0, 0.0)
                try:
                    answers = self._write_batch([encoded[i] for i in batch], sampling, [seeds[i] for i in batch], tick)
                except RuntimeError as error:
                    size = self._halved(min(size, len(batch)), error)
                    if note:
                        note(
                            f"Out of memory: batch halved to {size}.",
                            f"메모리가 부족해 배치를 {size}(으)로 줄였습니다.",
                        )
                    continue
                order = order[len(batch) :]
                # In the order asked: stories of one phrasing, alike in length, would follow one another.
                yield from sorted(zip(batch, answers, strict=True), key=lambda x: x[0])

    def _halved(self, size: int, error: RuntimeError) -> int:
        """Half of a batch that did not fit. Raises ``error`` when it is something else, Problem when one row is too much."""
        if not out_of_memory(error):
            raise error
        if size == 1:
            raise Problem(
                f"{self.spec} does not fit into memory, not even with one story at a time. Choose a smaller model.",
                f"{self.spec} 모델은 이야기 하나씩 써도 메모리에 들어가지 않습니다. 더 작은 모델을 골라 주세요.",
            ) from None
        self._free()
        return size // 2

    def _write_batch(
        self, prompts: list[list[int]], sampling: Sampling, seeds: list[int], tick: Callable[[int, float], None] | None
    ) -> list[Answer]:
        started, under_way = time.perf_counter(), 0.0
        written: list[list[int]] = [[] for _ in prompts]
        for count, step in enumerate(self.stream(prompts, sampling, seeds), 1):
            for row, token in step:
                written[row].append(token)
            if tick:
                under_way = max(under_way, _done_of(written, count, sampling.max_new_tokens))
                tick(len(step), under_way)
        total = sum(len(w) for w in written)
        seconds = time.perf_counter() - started
        return [self._answer(w, seconds * len(w) / total) for w in written]

    def _answer(self, tokens: list[int], seconds: float) -> Answer:
        ended = tokens[-1] in self.end_ids
        text = self.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True).strip()
        return Answer(text, "stop" if ended else "length", len(tokens), round(seconds, 4))

    def default_batch(self, tokens: int = 1024) -> int:
        """Stories at a time without trying: what memory holds of ``tokens`` each, at most 256; on a CPU 64 of a small model."""
        config = self.model.config.get_text_config(decoder=True)
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = self.model.dtype.itemsize
        # Keys and values of every layer, and the row of the vocabulary in fp32 with a copy to sort.
        a_row = 2 * config.num_hidden_layers * heads * head * width * tokens + config.vocab_size * 8
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return int(max(1, min(MOST_ROWS, free * 0.6 / a_row)))
        free = psutil.virtual_memory().available
        return int(max(1, min(MOST_ROWS if self.parameters < SMALL else 16, free * 0.4 / a_row)))

    @torch.inference_mode()
    def step_seconds(self, instruction: str, sampling: Sampling) -> dict[int, float]:
        """Seconds of a decoding step for batches of 1, 4, 16, 64, 256 rows, each halfway through its story.

        Measured, a second or so for a small model: what the best batch and the minutes of a run are read from. Ends
        at the memory's limit and at the second size in a row that brings less than a tenth more tokens per second:
        a single one may be noise of a busy machine, which once cost a whole run its batches.
        """
        prompt = self.chat_ids(instruction)
        context = torch.tensor([(prompt * (1 + sampling.max_new_tokens // 2 // len(prompt)))], device=self.device)
        most = self.default_batch(len(prompt) + sampling.max_new_tokens)
        found: dict[int, float] = {}
        size, idle = 1, 0
        while size <= most:
            try:
                cache = new_cache(self.model)
                self.model(input_ids=context, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache.batch_select_indices(torch.zeros(size, dtype=torch.long, device=self.device))
                times = [self._timed_step(size, cache, sampling) for _ in range(4)]
            except RuntimeError as error:
                if not found or not out_of_memory(error):
                    raise
                self._free()
                break
            found[size] = min(times[1:])
            fastest = max((n / seconds for n, seconds in found.items() if n < size), default=0.0)
            idle = idle + 1 if size / found[size] < 1.1 * fastest else 0
            if idle == 2:
                break
            size = size * 4 if size * 4 <= most or size == most else most
        return found

    def _timed_step(self, size: int, cache: Any, sampling: Sampling) -> float:
        started = time.perf_counter()
        ids = torch.full((size, 1), self.end_ids[0], device=self.device)
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        chances = torch.full((size,), 0.5, device=self.device)
        _draw(out.logits[:, -1].float(), sampling, chances).tolist()
        return time.perf_counter() - started

    @torch.inference_mode()
    def score(self, items: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """Log-probability of each answer token given its prompt and what stands before it.

        Items are (prompt ids, answer ids), prompts not empty; returned in the order given. Sorted by length, right-padded.
        """
        # On a CPU what a layer hands on should stay in its cache: the mini teacher then scores 1.2 times as fast.
        tokens_per_batch = 2048 if self.device.type == "cpu" else 8192
        order = sorted(range(len(items)), key=lambda i: -len(items[i][0]) - len(items[i][1]))
        found: list[list[float]] = [[] for _ in items]
        while order:
            width = len(items[order[0]][0]) + len(items[order[0]][1])
            batch = order[: max(1, tokens_per_batch // width)]
            order = order[len(batch) :]
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            for row, i in enumerate(batch):
                whole = [*items[i][0], *items[i][1]]
                ids[row, : len(whole)] = torch.tensor(whole)
            ids = ids.to(self.device)
            hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            head = self.model.get_output_embeddings()
            for row, i in enumerate(batch):
                start, answer = len(items[i][0]), items[i][1]
                logits = head(hidden[row, start - 1 : start - 1 + len(answer)]).float()
                target = ids[row, start : start + len(answer)]
                found[i] = (logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
        return found

    @torch.inference_mode()
    def next_token_logprobs(self, prompts: Sequence[list[int]], batch_size: int = 16) -> torch.Tensor:
        """Log-probabilities of the token after each prompt; shape (prompts, vocabulary), on the CPU."""
        rows = []
        for at in range(0, len(prompts), batch_size):
            batch = prompts[at : at + batch_size]
            width = max(len(p) for p in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            for i, prompt in enumerate(batch):
                ids[i, : len(prompt)] = torch.tensor(prompt)
            hidden = self.model.get_decoder()(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
            last = torch.stack([hidden[i, len(p) - 1] for i, p in enumerate(batch)])
            rows.append(self.model.get_output_embeddings()(last).float().log_softmax(-1).cpu())
        return torch.cat(rows)

    def _free(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Give the memory back."""
        del self.model
        self._free()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads share an operation in here, as many as before if None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _done_of(written: Sequence[list[int]], step: int, most: int) -> float:
    """How many stories' work of a batch is done after ``step`` tokens of at most ``most``.

    Half of it is stories: ended ones whole, each other one by how far it is on its way to their usual length (to half of
    ``most`` while none has ended). The other half is steps, as in the end a batch waits for the one story that loops.
    """
    ended = [len(tokens) for tokens in written if len(tokens) < step]
    usual = sum(ended) / len(ended) if ended else most / 2
    stories = len(ended) + (len(written) - len(ended)) * min(1.0, step / usual)
    return (stories + len(written) * step / most) / 2


def out_of_memory(error: RuntimeError) -> bool:
    """CUDA says so with a type of its own, the CPU's allocator in words."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _chances(seeds: Sequence[int], sampling: Sampling) -> torch.Tensor:
    """A uniform number in [0, 1) for every row and step, each row from a generator of its own seed, drawn at once on the CPU."""
    if sampling.temperature <= 0:
        return torch.zeros(len(seeds), sampling.max_new_tokens)
    rows = [
        torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds
    ]
    return torch.stack(rows)


def _draw(logits: torch.Tensor, sampling: Sampling, chances: torch.Tensor) -> torch.Tensor:
    """One token a row: the first at which the summed probabilities pass the row's chance (a number in [0, 1))."""
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p == 1:
        return _place(probabilities, chances)[:, 0]
    drawn = torch.empty(len(probabilities), dtype=torch.long, device=probabilities.device)
    rows = torch.arange(len(probabilities), device=probabilities.device)
    most = probabilities.shape[-1]
    # A row's draw never depends on its neighbours: whichever count reaches top-p, the nucleus is the same.
    for count in (*(n for n in NUCLEI if n < most), most):
        best, index = _likeliest(probabilities[rows], count)
        enough = best.cumsum(-1)[:, -1] >= sampling.top_p if count < most else torch.ones_like(rows, dtype=torch.bool)
        tokens = index.gather(-1, _place(_nucleus(best, sampling.top_p), chances[rows]))[:, 0]
        drawn[rows[enough]] = tokens[enough]
        rows = rows[~enough]
        if not len(rows):
            break
    return drawn


def _likeliest(probabilities: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` likeliest tokens of every row, best first, among equals the lower id: what a whole stable sort begins with.

    Sorting 248 rows of 4,096 whole takes 61 ms of a core, this 11 ms.
    """
    index = probabilities.topk(count, sorted=False).indices.sort(-1).values
    best, order = probabilities.gather(-1, index).sort(dim=-1, descending=True, stable=True)
    return best, index.gather(-1, order)


def _nucleus(best: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities in falling order with everything behind the first ``top_p`` of their sum set to 0."""
    return best.masked_fill(best.cumsum(-1) - best >= top_p, 0)


def _place(probabilities: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """In every row the place at which the summed probabilities pass the row's chance; shape (rows, 1)."""
    summed = probabilities.cumsum(-1)
    total = summed[:, -1:]
    # Rounding may bring the product up to the total, behind which only impossible tokens stand.
    goal = torch.minimum(chances[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(summed, goal, right=True)


def open_model(
    spec: str,
    revision: str = "",
    *,
    key: str | None = None,
    base_url: str = "",
    dtype: torch.dtype | None = None,
    four_bit: bool = False,
) -> LocalModel | EndpointModel:
    """Open what SPEC names. Raises Problem when it is not there, needs remote code or has no weights to load.

    ``key`` and ``base_url`` are an endpoint's; ``four_bit`` packs the linear layers into NF4, a quarter of fp16's memory.
    """
    if spec.startswith("api:"):
        return EndpointModel(spec, key, base_url)
    location, safely = source(spec)
    disable_progress_bar()  # of the few seconds after a download, which has a bar of its own
    device = pick_device()
    dtype = dtype or pick_dtype(device)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": IN_GROUPS if device.type == "cpu" else "sdpa",
        **safely,
    }
    if four_bit:
        options |= {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            ),
            "device_map": {"": device},
        }
    if revision:
        options["revision"] = revision
    adapter = Path(location) / "adapter_config.json"
    try:
        if adapter.exists():
            from peft import PeftModel

            base = json.loads(adapter.read_text("utf-8"))["base_model_name_or_path"]
            tokenizer = AutoTokenizer.from_pretrained(location, **safely)
            place, as_safely = source(base)
            model: Any = AutoModelForCausalLM.from_pretrained(place, **options | as_safely)
            model = PeftModel.from_pretrained(model, location).merge_and_unload()
        elif location.endswith(".gguf"):
            tokenizer, model = _open_gguf(Path(location), options)
        else:
            tokenizer = AutoTokenizer.from_pretrained(location, revision=revision or "main", **safely)
            model = AutoModelForCausalLM.from_pretrained(location, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise cannot_open(spec, location, error) from None
    known = getattr(model.config, "_commit_hash", None)
    known = known or fingerprint(location)
    # Packed weights write other stories, so rows of both kinds must not pass for one another.
    return LocalModel(spec, model if four_bit else model.to(device), tokenizer, f"{known}-4bit" if four_bit else known)


def cannot_open(spec: str, location: str, error: Exception) -> Problem:
    """Why a model does not open and what to do, from what the libraries raised; their own words where we know no better."""
    from huggingface_hub import errors

    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    said = " ".join(str(error).split()) or type(error).__name__
    forbids = next((name for name in ("LAB_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(name) == "1"), "")
    away = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)

    def by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    reasons = (
        (by(errors.GatedRepoError),
         "its owner asks for consent first. Sign in on huggingface.co, accept the terms there, and give this machine your token (`hf auth login`, or HF_TOKEN).",
         "주인의 동의가 필요한 모델입니다. huggingface.co 에서 로그인해 약관에 동의하고, 이 컴퓨터에 토큰을 알려 주세요(`hf auth login` 또는 HF_TOKEN)."),
        (by(errors.RevisionNotFoundError),
         "the Hub has no such revision. Check what stands behind @.",
         "허브에 그런 판(revision)이 없습니다. @ 뒤를 확인해 주세요."),
        (by(errors.RepositoryNotFoundError),
         "the Hub has no such model, or it is private. Check the name; for a private one give your token (`hf auth login`, or HF_TOKEN).",
         "허브에 그런 모델이 없거나 비공개입니다. 이름을 확인하고, 비공개라면 토큰을 알려 주세요(`hf auth login` 또는 HF_TOKEN)."),
        (by(*away) and bool(forbids),
         f"it is not on this machine, and {forbids}=1 forbids the network. Unset that, or choose mini:teacher or mini:student.",
         f"이 컴퓨터에 없는 모델인데 {forbids}=1 이라 받을 수 없습니다. 이 설정을 끄거나 mini:teacher, mini:student 를 골라 주세요."),
        (by(*away),
         "it is not on this machine, and the Hub does not answer. Check the network and try again in a minute, or choose mini:teacher or mini:student.",
         "이 컴퓨터에 없는 모델인데 허브가 답하지 않습니다. 네트워크를 확인하고 1분 뒤에 다시 시도하거나 mini:teacher, mini:student 를 골라 주세요."),
        ("trust_remote_code" in said,
         "it runs only with program code of its own, which is never executed here. Choose a model that transformers knows.",
         "모델에 딸린 프로그램 코드를 실행해야 열리는데, 여기서는 남의 코드를 실행하지 않습니다. transformers 가 아는 모델을 골라 주세요."),
        (Path(location).is_dir() and not {p.name for p in Path(location).iterdir()} & {"config.json", "adapter_config.json"},
         "the folder holds no config.json. Give the folder with a model's config.json, tokenizer and weights.",
         "폴더에 config.json 이 없습니다. 모델의 config.json, 토크나이저, 가중치가 든 폴더를 적어 주세요."),
        (by(SafetensorError),
         f"a file of its weights is broken ({said}). Copy or download it again.",
         "가중치 파일이 깨졌습니다. 다시 복사하거나 내려받아 주세요."),
        ("safetensors" in said,
         "it has no safetensors weights, and no other kind is opened, as those can hold program code. Choose a model with model.safetensors.",
         "safetensors 가중치가 없습니다. 다른 형식은 프로그램 코드를 담을 수 있어 열지 않습니다. model.safetensors 가 있는 모델을 골라 주세요."),
        (True,
         f"{said.rstrip('.')}. Check the name and that nothing is missing.",
         f"이름이 맞는지, 빠진 파일이 없는지 확인해 주세요. 라이브러리가 한 말: {said}"),
    )  # fmt: skip
    en, ko = next((en, ko) for found, en, ko in reasons if found)
    return Problem(f"Cannot open the model {spec!r}: {en}", f"모델을 열 수 없습니다: {spec!r}. {ko}")


def _open_gguf(path: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and model of a .gguf file, its weights unpacked: packed ones cannot be written from in every dtype."""
    if not path.is_file():
        raise Problem(
            f"There is no file {path}. Give the path of a .gguf file on this machine.",
            f"파일이 없습니다: {path}. 이 컴퓨터에 있는 .gguf 파일의 경로를 적어 주세요.",
        )
    if "quantization_config" in options:
        raise Problem(
            "A GGUF file is packed already. Switch 4-bit off, or give the model's Hub id.",
            "GGUF 파일은 이미 압축되어 있습니다. 4비트를 끄거나 모델의 허브 아이디를 적어 주세요.",
        )
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), **options
    )
    return tokenizer, model
