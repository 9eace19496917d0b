"""Models behind one door: open by SPEC, write answers in batches, score given answers.

SPEC: a Hub id, a local folder, ``mini:teacher``, ``mini:student``, ``run:RUN/ARM`` or ``api:MODEL``.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lab.domain import DATA
from lab.problems import Problem
from lab.records import Answer
from lab.run import find_run


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
    return spec


def fingerprint(location: str) -> str:
    """A hash of a folder's weights (or the Hub id itself): nobody compares a model with itself unnoticed."""
    folder = Path(location)
    if not folder.is_dir():
        return location
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
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
        return sum(p.numel() for p in self.model.parameters())

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
        generators = [torch.Generator(device).manual_seed(s % 2**63) for s in seeds]
        rows = list(range(len(prompts)))
        ended = [False] * len(prompts)
        cache = DynamicCache(config=self.model.config)
        padded = bool((mask == 0).any())
        for _ in range(sampling.max_new_tokens):
            out = self.model(
                input_ids=ids,
                attention_mask=mask if padded else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            tokens = _draw(out.logits[:, -1].float(), sampling, [generators[r] for r in rows])
            drawn = tokens.tolist()
            yield [(r, t) for r, t in zip(rows, drawn, strict=True) if not ended[r]]
            for r, t in zip(rows, drawn, strict=True):
                ended[r] = ended[r] or t in self.end_ids
            left = [i for i, r in enumerate(rows) if not ended[r]]
            if not left:
                return
            positions = positions[:, -1:] + 1
            if len(left) <= len(rows) * 0.75:
                keep = torch.tensor(left, device=device)
                cache.batch_select_indices(keep)
                tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
                rows = [rows[i] for i in left]
            ids = tokens[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)

    def write(
        self,
        instructions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        batch_size: int = 0,
        note: Callable[[str, str], None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """(index, answer) of every instruction as soon as its batch is done, longest requests first.

        ``batch_size`` 0 takes what suits the device; out of memory halves it and says so through ``note``.
        ``seconds`` of an answer is its share of the time its batch took.
        """
        encoded = [self.chat_ids(i) for i in instructions]
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        size = batch_size or self.default_batch()
        while order:
            batch = order[:size]
            try:
                answers = self._write_batch([encoded[i] for i in batch], sampling, [seeds[i] for i in batch])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise Problem(
                        f"{self.spec} does not fit into memory, not even with one story at a time. Choose a smaller model.",
                        f"{self.spec} 모델은 이야기 하나씩 써도 메모리에 들어가지 않습니다. 더 작은 모델을 골라 주세요.",
                    ) from None
                size = max(1, size // 2)
                gc.collect()
                torch.cuda.empty_cache()
                if note:
                    note(f"Out of memory: batch halved to {size}.", f"메모리가 부족해 배치를 {size}(으)로 줄였습니다.")
                continue
            order = order[size:]
            yield from zip(batch, answers, strict=True)

    def _write_batch(self, prompts: list[list[int]], sampling: Sampling, seeds: list[int]) -> list[Answer]:
        started = time.perf_counter()
        written: list[list[int]] = [[] for _ in prompts]
        for step in self.stream(prompts, sampling, seeds):
            for row, token in step:
                written[row].append(token)
        total = sum(len(w) for w in written)
        seconds = time.perf_counter() - started
        return [self._answer(w, seconds * len(w) / total) for w in written]

    def _answer(self, tokens: list[int], seconds: float) -> Answer:
        ended = tokens[-1] in self.end_ids
        text = self.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True).strip()
        return Answer(text, "stop" if ended else "length", len(tokens), round(seconds, 4))

    def default_batch(self) -> int:
        """Stories at a time: bounded by memory on a GPU, by the cache of a CPU for models of a few million weights."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            config = self.model.config
            heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
            head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            per_token = 2 * config.num_hidden_layers * heads * head * 2
            return int(max(1, min(256, free * 0.6 / (per_token * 1024 + config.vocab_size * 8))))
        return 64 if self.parameters < 50_000_000 else 4

    @torch.inference_mode()
    def score(self, items: Sequence[tuple[list[int], list[int]]], tokens_per_batch: int = 8192) -> list[list[float]]:
        """Log-probability of each answer token given its prompt and what stands before it.

        Items are (prompt ids, answer ids), prompts not empty; returned in the order given. Sorted by length, right-padded.
        """
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

    def close(self) -> None:
        """Give the memory back."""
        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _draw(logits: torch.Tensor, sampling: Sampling, generators: list[torch.Generator]) -> torch.Tensor:
    """One token a row, by the exponential race: argmax of p / e with e from the row's own generator."""
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    race = torch.empty_like(probabilities)
    for row, generator in zip(race, generators, strict=True):
        row.exponential_(generator=generator)
    return (probabilities / race).argmax(-1)


class EndpointModel:
    """A model behind an OpenAI-compatible endpoint (vLLM, TGI, llama.cpp server, the OpenAI API)."""

    CONCURRENCY = 16

    def __init__(self, spec: str, key: str | None = None) -> None:
        import openai

        self.spec = spec
        self.name = spec.removeprefix("api:")
        self.revision = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
        key = key or os.environ.get("OPENAI_API_KEY")
        if not key:
            raise Problem(
                "No key for the endpoint. Set OPENAI_API_KEY (any word will do for a server of your own) and OPENAI_BASE_URL.",
                "엔드포인트 키가 없습니다. OPENAI_API_KEY(직접 띄운 서버라면 아무 값이나)와 OPENAI_BASE_URL 환경 변수를 설정해 주세요.",
            )
        # The client itself retries with back-off, honours Retry-After and counts time-outs as failures.
        self.client = openai.OpenAI(api_key=key, max_retries=6, timeout=120)

    def write(
        self,
        instructions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        batch_size: int = 0,
        note: Callable[[str, str], None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """(index, answer) as they arrive, at most ``batch_size`` (or 16) requests in flight."""
        from concurrent.futures import ThreadPoolExecutor, as_completed

        import openai

        with ThreadPoolExecutor(batch_size or self.CONCURRENCY) as pool:
            waiting = {
                pool.submit(self._ask, t, sampling, s): i
                for i, (t, s) in enumerate(zip(instructions, seeds, strict=True))
            }
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            except openai.OpenAIError as error:
                raise Problem(
                    f"The endpoint {self.revision} failed for good: {error}. What it wrote so far is kept; check the address, key and model, then go on.",
                    f"엔드포인트 {self.revision} 요청이 끝내 실패했습니다: {error}. 지금까지 쓴 내용은 그대로 있습니다. 주소, 키, 모델 이름을 확인한 뒤 이어서 실행해 주세요.",
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, instruction: str, sampling: Sampling, seed: int) -> Answer:
        started = time.perf_counter()
        reply = self.client.chat.completions.create(
            model=self.name,
            messages=[{"role": "user", "content": instruction}],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed % 2**31,
        )
        choice = reply.choices[0]
        tokens = reply.usage.completion_tokens if reply.usage else 0
        finish = "length" if choice.finish_reason == "length" else "stop"
        return Answer((choice.message.content or "").strip(), finish, tokens, round(time.perf_counter() - started, 4))

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def open_model(
    spec: str, revision: str = "", *, key: str | None = None, dtype: torch.dtype | None = None
) -> LocalModel | EndpointModel:
    """Open what SPEC names. Raises Problem when it is not there, needs remote code or has no weights to load."""
    if spec.startswith("api:"):
        return EndpointModel(spec, key)
    location = resolve(spec)
    device = pick_device()
    dtype = dtype or pick_dtype(device)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    if os.environ.get("LAB_OFFLINE") == "1":
        options["local_files_only"] = True
    if revision:
        options["revision"] = revision
    adapter = Path(location) / "adapter_config.json"
    try:
        if adapter.exists():
            from peft import PeftModel

            base = json.loads(adapter.read_text("utf-8"))["base_model_name_or_path"]
            tokenizer = AutoTokenizer.from_pretrained(location)
            model: Any = AutoModelForCausalLM.from_pretrained(resolve(base), **options)
            model = PeftModel.from_pretrained(model, location).merge_and_unload()
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                location, **{k: v for k, v in options.items() if k in ("revision", "local_files_only")}
            )
            model = AutoModelForCausalLM.from_pretrained(location, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Problem(
            f"Cannot open the model {spec!r}: {first} Check the name, the network (LAB_OFFLINE is {os.environ.get('LAB_OFFLINE', '0')}) and that it has safetensors weights.",
            f"모델을 열 수 없습니다: {spec!r} ({first}) 이름, 네트워크(LAB_OFFLINE={os.environ.get('LAB_OFFLINE', '0')}), safetensors 가중치가 있는지 확인해 주세요.",
        ) from None
    known = getattr(model.config, "_commit_hash", None)
    return LocalModel(spec, model.to(device), tokenizer, known or fingerprint(location))
