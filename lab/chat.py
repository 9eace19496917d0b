"""Several models answer the same request at once, token by token in turn, so that none starves another."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab import domain
from lab.config import PRESETS, FilterConfig
from lab.records import Pair

TOP_P = PRESETS["mini"]["generate"]["top_p"]
"""As the mini preset writes: in the last of the probability lie the slips that cost a small model its thread."""
OPEN = 3
"""Models held in memory: a teacher, a student and one more."""
PAUSE = 0.2
"""Seconds between two pictures of the growing stories."""
_QUOTED = re.compile(r"['\"‘“]([가-힣]{1,12})['\"’”]")


_OPENING = threading.Lock()
"""One model opens at a time: transformers and torch switch the whole process while they load, and of two that load at
once (a story that was called off is still opening its model) one ends up without weights."""


@dataclass(frozen=True)
class Said:
    """What a model has said so far, and who it is.

    Text, tokens, its own seconds, seconds to its first token, finish (empty while writing, ``stop`` or ``length``);
    the revision of its weights, and for a trained arm its base and the hash of what was trained.
    """

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first: float | None = None
    finish: str = ""
    spec: str = ""
    revision: str = ""
    base: str = ""
    trained: str = ""


@lru_cache(maxsize=OPEN)
def _opened(spec: str, age: float, base_url: str) -> Any:
    """The model of ``spec``; ``age`` is its folder's time, so that a retrained arm is opened afresh."""
    from lab.models import open_model

    return open_model(spec, base_url=base_url)


def _open(spec: str, base_url: str) -> tuple[Any, Said]:
    """The model and what is known of who it is, before it says a word."""
    from lab.models import fingerprint, resolve

    folder = Path(resolve(spec)) if not spec.startswith("api:") else Path("")
    with _OPENING:
        model = _opened(spec, max((p.stat().st_mtime for p in folder.glob("*.safetensors")), default=0.0), base_url)
    said = Said(spec=spec, revision=model.revision)
    if spec.startswith("run:"):
        from lab.records import read_json

        adapter = read_json(folder / "adapter_config.json", {})
        return model, replace(
            said, base=adapter.get("base_model_name_or_path", ""), trained=fingerprint(str(folder)), revision=""
        )
    return model, said


class Local:
    """A local model that answers one token a step."""

    def __init__(self, model: Any, messages: list[dict[str, str]], sampling: Any, seed: int) -> None:
        self.model = model
        self.steps = model.stream([model.messages_ids(messages)], sampling, [seed])
        self.written: list[int] = []

    def step(self, said: Said) -> Said:
        """``said`` with one more token; only the model's own time counts, so speeds stay comparable."""
        import torch

        from lab.models import THREADS

        # A thread that met torch first while another one's small model wrote would keep a large one to one thread for good.
        torch.set_num_threads(THREADS)
        started = time.perf_counter()
        found = next(self.steps, None)
        seconds = said.seconds + time.perf_counter() - started
        if found is None:
            return replace(said, finish="length")
        token = found[0][1]
        ended = token in self.model.end_ids
        if not ended:
            self.written.append(token)
        first = said.first or seconds
        return replace(
            said, tokens=said.tokens + 1, seconds=seconds, first=first, finish="stop" if ended else said.finish
        )

    def text(self, said: Said) -> str:
        """The text so far. A half-written Hangul syllable decodes to U+FFFD at the end; it is shown when it is whole."""
        return self.model.tokenizer.decode(self.written, skip_special_tokens=True).rstrip("\ufffd").strip()

    def close(self) -> None:
        """Stop writing."""
        self.steps.close()


class Endpoint:
    """An endpoint that streams on a thread of its own, so that the others go on while it waits for the network."""

    def __init__(self, model: Any, messages: list[dict[str, str]], sampling: Any, seed: int) -> None:
        self.model = model
        self.parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.written = ""
        self.started = time.perf_counter()
        self.ended = threading.Event()
        threading.Thread(target=self._read, args=(messages, sampling, seed), daemon=True).start()

    def _read(self, messages: list[dict[str, str]], sampling: Any, seed: int) -> None:
        import openai

        try:
            with self.model.client.chat.completions.create(
                model=self.model.name,
                messages=messages,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed % 2**31,
                stream=True,
            ) as stream:
                finish = "stop"
                for event in stream:
                    if self.ended.is_set():
                        return
                    for choice in event.choices:
                        self.parts.put(choice.delta.content or "")
                        finish = "length" if choice.finish_reason == "length" else finish
            self.parts.put(("end", finish))
        except (openai.OpenAIError, OSError) as error:
            self.parts.put(("error", self.model.broken(error)))

    def step(self, said: Said) -> Said:
        """``said`` with what has arrived since; a part counts as a token, which is how endpoints stream."""
        seconds = time.perf_counter() - self.started
        while not self.parts.empty():
            part = self.parts.get()
            if isinstance(part, tuple):
                if part[0] == "error":
                    raise part[1]
                return replace(said, seconds=seconds, finish=part[1])
            self.written += part
            if part:
                said = replace(said, tokens=said.tokens + 1, seconds=seconds, first=said.first or seconds)
        time.sleep(0.002)  # nothing to compute here: leave the processor to the others
        return said

    def text(self, said: Said) -> str:
        """The text so far."""
        return self.written.strip()

    def close(self) -> None:
        """Stop listening."""
        self.ended.set()


def talk(
    specs: Sequence[str],
    messages: Sequence[list[dict[str, str]]],
    temperature: float = 0.8,
    seed: int = 0,
    max_new_tokens: int = 400,
    base_url: str = "",
) -> Iterator[list[Said]]:
    """Stream the answer of every model to its own conversation; the last picture has every ``finish`` set.

    All draw with the same seed, one step each in turn. ``base_url`` is the address of an ``api:`` model.
    """
    from lab.models import LocalModel, Sampling

    opened = [_open(spec, base_url if spec.startswith("api:") else "") for spec in specs]
    said = [s for _, s in opened]
    sampling = Sampling(temperature, TOP_P, max_new_tokens)
    voices = [
        (Local if isinstance(model, LocalModel) else Endpoint)(model, list(x), sampling, seed)
        for (model, _), x in zip(opened, messages, strict=True)
    ]
    shown = time.perf_counter()
    try:
        while not all(s.finish for s in said):
            said = [s if s.finish else v.step(s) for s, v in zip(said, voices, strict=True)]
            if time.perf_counter() - shown >= PAUSE or all(s.finish for s in said):
                shown = time.perf_counter()
                said = [replace(s, text=v.text(s)) for s, v in zip(said, voices, strict=True)]
                yield list(said)
    finally:
        for voice in voices:
            voice.close()


@lru_cache(maxsize=1)
def _phrasings() -> tuple[re.Pattern[str], ...]:
    """Each phrasing of the grid as a pattern that finds its slots again."""

    def pattern(text: str) -> re.Pattern[str]:
        made, at, seen = "", 0, set()
        for slot in domain.SLOT.finditer(text):
            name, forms = slot[1], [f for f in slot.groups()[1:] if f]
            kind = {"A": "\0|[^\0,.]{1,40}?", "k1": "[^\0]{1,20}?", "k2": "[^\0]{1,20}?"}.get(name, ".+?")
            inner = f"(?:{kind})" if name in seen or kind == ".+?" else f"(?P<{name}>{kind})"
            seen.add(name)
            made += re.escape(text[at : slot.start()]) + inner + (f"(?:{'|'.join(forms)})" if forms else "")
            at = slot.end()
        return re.compile(made + re.escape(text[at:]))

    texts = []
    for phrasing in domain.phrasings():
        ways = [phrasing["text"]]
        for stated in phrasing.get("says", {}).values():
            ways += [text.replace(stated["words"], stated["own"]) for text in ways]
        texts += ways
    return tuple(map(pattern, texts))


def asked_for(instruction: str) -> tuple[str, tuple[str, ...]]:
    """(character, key words) that a request names, ``""`` and ``()`` where it names none that can be told for sure.

    A request of the grid is read back exactly; in free words a known character and Korean words in quotation marks count.
    """
    # 폭신이라는 may be 폭신 or 폭신이: the known names decide.
    character = max((c for c in domain.characters() if c in instruction), key=len, default="")
    text = instruction.strip().replace(character, "\0") if character else instruction.strip()
    for pattern in _phrasings():
        if found := pattern.fullmatch(text):
            slots = found.groupdict()
            return character or slots.get("A") or "", tuple(slots[k] for k in ("k1", "k2") if slots.get(k))
    return character, tuple(dict.fromkeys(w for w in _QUOTED.findall(instruction) if w not in character))


def faults(requests: Sequence[str], text: str, finish: str, config: FilterConfig) -> list[str]:
    """The reasons for which the filter's rules would drop an answer; none: it would be kept (before any judge).

    ``requests`` are all of the conversation: a follow-up without a character means the story asked for before.
    """
    from lab.checks import check_pair
    from lab.stages.filter import rules_off

    named = next((found for r in reversed(requests) if (found := asked_for(r))[0]), asked_for(requests[-1]))
    pair = Pair("", requests[-1], text, *named, finish=finish)
    off = rules_off(config)
    return [f.reason for f in check_pair(pair, config)[0] if f.reason not in off]
