"""Several models answer the same request at once, token by token in turn, so that none starves another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab.problems import Problem

OPEN = 3
"""Models held in memory: a teacher, a student and one more."""
PAUSE = 0.1
"""Seconds between two pictures of the growing stories."""


@dataclass(frozen=True)
class Said:
    """What a model has said so far: text, tokens, its own seconds, seconds to its first token, finish (empty while writing)."""

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first: float | None = None
    finish: str = ""
    revision: str = ""


@lru_cache(maxsize=OPEN)
def _opened(spec: str, age: float) -> Any:
    """The model of ``spec``; ``age`` is its folder's time, so that a retrained arm is opened afresh."""
    from lab.models import open_model

    return open_model(spec)


def _open(spec: str) -> Any:
    from lab.models import EndpointModel, resolve

    folder = Path(resolve(spec)) if not spec.startswith("api:") else Path("")
    model = _opened(spec, max((p.stat().st_mtime for p in folder.glob("*.safetensors")), default=0.0))
    if isinstance(model, EndpointModel):
        raise Problem(
            "An endpoint cannot stream in the chat. Choose a local teacher.",
            "엔드포인트 모델은 대화에서 쓸 수 없습니다. 로컬 교사 모델을 골라 주세요.",
        )
    return model


def talk(
    specs: Sequence[str],
    messages: Sequence[list[dict[str, str]]],
    temperature: float = 0.8,
    seed: int = 0,
    max_new_tokens: int = 400,
) -> Iterator[list[Said]]:
    """Stream the answer of every model to its own conversation; the last picture has every ``finish`` set.

    All draw with the same seed. A model's ``seconds`` count only its own steps, so speeds stay comparable.
    """
    from lab.models import Sampling

    models = [_open(spec) for spec in specs]
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    streams = [m.stream([m.messages_ids(x)], sampling, [seed]) for m, x in zip(models, messages, strict=True)]
    said = [Said(revision=m.revision) for m in models]
    written: list[list[int]] = [[] for _ in models]
    shown = time.perf_counter()
    while not all(s.finish for s in said):
        for i, (model, stream) in enumerate(zip(models, streams, strict=True)):
            if said[i].finish:
                continue
            started = time.perf_counter()
            step = next(stream, None)
            seconds = said[i].seconds + time.perf_counter() - started
            if step is None:
                said[i] = replace(said[i], finish="length")
                continue
            token = step[0][1]
            ended = token in model.end_ids
            if not ended:
                written[i].append(token)
            said[i] = replace(
                said[i],
                tokens=said[i].tokens + 1,
                seconds=seconds,
                first=said[i].first or seconds,
                finish="stop" if ended else "",
            )
        if time.perf_counter() - shown >= PAUSE or all(s.finish for s in said):
            shown = time.perf_counter()
            # A half-written Hangul syllable decodes to U+FFFD at the end; it is shown when it is whole.
            said = [
                replace(s, text=m.tokenizer.decode(w, skip_special_tokens=True).rstrip("\ufffd").strip())
                for s, m, w in zip(said, models, written, strict=True)
            ]
            yield list(said)
