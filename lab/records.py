"""The rows that stages hand to one another, and how JSON-lines files are read and appended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.problems import Problem


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the teacher is asked: the instruction, its character and key words, its phrasing, its split.

    ``says``: (attribute, value) of what else it asks for, such as a place or an age.
    """

    instruction: str
    character: str
    keywords: tuple[str, ...]
    phrasing: str
    split: str
    says: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """A context, four continuations and the index of the right one."""

    id: str
    type: str
    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote: text, ``stop`` or ``length``, number of tokens (end token included), seconds it took."""

    text: str
    finish: str
    tokens: int
    seconds: float


def _shallow(row: Any) -> dict[str, Any]:
    """The fields of a dataclass with slots; ``asdict`` would copy every value too."""
    return {name: getattr(row, name) for name in row.__slots__}


@dataclass(frozen=True, slots=True)
class Pair:
    """One row of generate/pairs.jsonl. ``character`` and ``keywords`` may be empty in imported rows."""

    id: str
    instruction: str
    output: str
    character: str = ""
    keywords: tuple[str, ...] = ()
    teacher: str = ""
    finish: str = "stop"
    tokens: int = 0
    seconds: float = 0.0
    split: str = "train"

    @staticmethod
    def of(row: dict[str, Any]) -> Pair:
        """A pair from its JSON row; unknown keys are left aside."""
        known = {k: row[k] for k in Pair.__slots__ if k in row}
        return Pair(**known | {"keywords": tuple(row.get("keywords") or ())})

    def row(self) -> dict[str, Any]:
        """The JSON row."""
        return _shallow(self) | {"keywords": list(self.keywords)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of filter/verdicts.jsonl: kept or not, every reason, every score, who decided."""

    id: str
    kept: bool
    reasons: tuple[str, ...] = ()
    scores: dict[str, Any] = field(default_factory=dict)
    judge: float | None = None
    by: str = "rule"

    @staticmethod
    def of(row: dict[str, Any]) -> Verdict:
        """A verdict from its JSON row."""
        known = {k: row[k] for k in Verdict.__slots__ if k in row}
        return Verdict(**known | {"reasons": tuple(row.get("reasons") or ())})

    def row(self) -> dict[str, Any]:
        """The JSON row."""
        return _shallow(self) | {"reasons": list(self.reasons)}


def content_id(*parts: Any) -> str:
    """A 16-digit hash of what made a row; equal parts give equal ids on every machine."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dump(row: Any) -> str:
    """One line of JSON with Korean as Korean."""
    return json.dumps(row, ensure_ascii=False)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file; none if it does not exist.

    A torn last line (the process was killed while writing) is skipped; ``repair`` cuts it off.
    Raises Problem with the line number if any other line is broken.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise Problem(
                    f"{path.name}, line {number}: broken JSON ({error}). Mend or delete that line, then try again.",
                    f"{path.name} {number}번째 줄: JSON 형식이 깨졌습니다({error}). 그 줄을 고치거나 지운 뒤 다시 시도해 주세요.",
                ) from None
            yield row


def repair(path: Path) -> None:
    """Cut off a last line that was not finished, so that appending starts on a line of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.seek(0, os.SEEK_END)
        if data == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows and flush; Problem if the disk is full or the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(dump(row) + "\n" for row in rows))
    except OSError as error:
        raise cannot_write(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Write aside and rename, so that a reader sees the old or the new file and nothing between."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of indented JSON with Korean as Korean."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path, default: Any = None) -> Any:
    """The JSON value of a file, or ``default`` if there is no such file."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise Problem(
            f"{path.name} is not valid JSON ({error}). Delete it and run its stage again.",
            f"{path.name} 파일의 JSON 형식이 깨졌습니다({error}). 파일을 지우고 해당 단계를 다시 실행해 주세요.",
        ) from None


def cannot_write(path: Path, error: OSError) -> Problem:
    """The problem of a full disk or a folder without permission."""
    return Problem(
        f"Cannot write {path}: {error.strerror or error}. Nothing written so far is lost. Free some space or allow writing, then go on.",
        f"쓸 수 없습니다: {path} ({error.strerror or error}). 지금까지 쓴 내용은 그대로 있습니다. 공간을 비우거나 쓰기를 허용한 뒤 이어서 실행해 주세요.",
    )
