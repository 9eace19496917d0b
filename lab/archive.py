"""A whole run at once: duplicate, delete and take back, pack into a zip and out of one.

A zip comes from anywhere, so nothing of it is believed: paths, sizes, number and kinds of files are checked before one
byte is written, weights must be safetensors, and the run gets a new id.
"""

from __future__ import annotations

import re
import secrets
import shutil
import stat
import time
import zipfile
from pathlib import Path, PurePosixPath

from lab.config import PRESETS, STAGES
from lab.problems import Problem
from lab.records import Pair, Verdict, cannot_write, read_json, read_rows, write_json
from lab.run import FORMAT, Run, home

KEPT_DELETED = 5
"""Deleted runs that can still be taken back; older ones are gone for good."""
MOST_FILES = 2000
MOST_BYTES = 4 * 2**30
"""Unpacked: a 1.5B student in fp16 with its run."""
MOST_RATIO = 200
"""Unpacked to packed: JSON of stories packs about 5 to 1, an empty log 50 to 1; a bomb 1,000 to 1."""
_TOP = ("run.json", "log.jsonl", "worker.log", "votes.jsonl", *STAGES)
_KINDS = {
    ".json", ".jsonl", ".log", ".txt", ".md", ".csv", ".safetensors", ".arrow", ".parquet", ".jinja", ".model",
    ".yaml", ".png", ".svg", ".gguf", "",
}  # fmt: skip
"""No .bin, .pt, .pkl or .py: a pickle or a script runs code when it is opened."""
_PLAIN = re.compile(r"[^/\\:\x00-\x1f]{1,120}")
_ONLY_HERE = ("job.json", "stop")


def duplicate(run: Run, title: str) -> Run:
    """A copy under a new id, without its job."""
    copy = _fresh(run.owner)
    try:
        shutil.copytree(run.folder, copy.folder, ignore=_left_out)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(copy.folder, ignore_errors=True)
        raise cannot_write(copy.folder, error if isinstance(error, OSError) else OSError(str(error))) from None
    copy.rename(title)
    return copy


def delete(run: Run) -> None:
    """Put the run aside; ``undelete`` brings it back as long as it is among the owner's newest deleted ones."""
    trash = home() / run.owner / ".trash"
    trash.mkdir(parents=True, exist_ok=True)
    run.folder.replace(trash / f"{time.time_ns()}-{run.id}")
    for old in sorted(trash.iterdir())[:-KEPT_DELETED]:
        shutil.rmtree(old, ignore_errors=True)


def deleted(owner: str) -> Run | None:
    """The run that ``undelete`` would bring back."""
    found = sorted((home() / owner / ".trash").glob("*")) if owner else []
    return Run(owner, found[-1].name.partition("-")[2]) if found else None


def undelete(owner: str) -> Run:
    """Bring back the run that was deleted last. Problem if there is none."""
    run = deleted(owner)
    if run is None:
        raise Problem("There is no deleted run to bring back.", "되돌릴 실험이 없습니다.")
    last = max((home() / owner / ".trash").glob(f"*-{run.id}"))
    last.replace(run.folder)
    return run


def pack(run: Run, target: Path) -> Path:
    """Write the run into a zip below ``target``, named after its title; checkpoints and the job stay behind."""
    name = re.sub(r"[^0-9A-Za-z가-힣._-]+", "-", run.meta().get("title", run.id)).strip("-.") or run.id
    path = target / f"{name[:60]}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in sorted(run.folder.rglob("*")):
            inside = file.relative_to(run.folder)
            if file.is_file() and not any(p in _left_out("", [p]) for p in inside.parts):
                zipped.write(file, inside.as_posix())
    return path


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What belongs to this machine or cannot be opened safely elsewhere."""
    return {
        n
        for n in names
        if n in _ONLY_HERE or n.startswith((".", "checkpoint-")) or Path(n).suffix.lower() not in _KINDS
    }


def unpack(path: Path, owner: str, most_bytes: int = MOST_BYTES) -> Run:
    """Make a run from a zip. Raises Problem, with nothing left behind, when anything in it is not as it should be."""
    run = _fresh(owner)
    try:
        with zipfile.ZipFile(path) as zipped:
            entries = [e for e in zipped.infolist() if not e.is_dir()]
            _check(entries, path.stat().st_size, most_bytes)
            left = most_bytes
            for entry in entries:
                place = run.folder / entry.filename
                place.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(entry) as source, place.open("wb") as goal:
                    # The sizes in a zip's head may lie: count what really comes out.
                    while chunk := source.read(min(2**20, left + 1)):
                        left -= len(chunk)
                        if left < 0:
                            raise _refused("it unpacks to more than it says", "적힌 크기보다 크게 풀립니다")
                        goal.write(chunk)
        _check_run(run)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise _refused(f"it cannot be read ({error})", f"읽을 수 없습니다({error})") from None
    except OSError as error:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise cannot_write(run.folder, error) from None
    except Problem:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return run


def _check(entries: list[zipfile.ZipInfo], packed: int, most_bytes: int) -> None:
    """Paths, number, sizes and kinds of the files, before any is written."""
    if not any(e.filename == "run.json" for e in entries):
        raise _refused("it holds no run.json at its top", "맨 위에 run.json 파일이 없습니다")
    if len(entries) > MOST_FILES:
        raise _refused(f"it holds more than {MOST_FILES} files", f"파일이 {MOST_FILES}개보다 많습니다")
    total = sum(e.file_size for e in entries)
    if total > most_bytes or total > MOST_RATIO * max(packed, 1000):
        raise _refused(f"it unpacks to {total / 1e6:,.0f} MB", f"풀면 {total / 1e6:,.0f} MB가 됩니다")
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        plain = all(_PLAIN.fullmatch(p) and not p.startswith(".") for p in parts)
        link = stat.S_ISLNK(entry.external_attr >> 16)
        if not plain or link or entry.filename.startswith("/") or parts[0] not in _TOP:
            raise _refused(f"{entry.filename!r} is no file of a run", f"실험의 파일이 아닙니다: {entry.filename!r}")
        if Path(entry.filename).suffix.lower() not in _KINDS:
            raise _refused(
                f"{entry.filename!r} may hold code (weights must be safetensors)",
                f"{entry.filename!r} 파일에 코드가 들어 있을 수 있습니다(가중치는 safetensors만 됩니다)",
            )


def _check_run(run: Run) -> None:
    """The files that every tab reads must read as what they are."""
    meta = run.meta()
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or meta.get("preset") not in PRESETS:
        raise _refused("its run.json is not of this version", "run.json 형식이 이 버전과 다릅니다")
    try:
        for pair in map(Pair.of, read_rows(run.pairs_file)):
            if not (isinstance(pair.id, str) and isinstance(pair.instruction, str) and isinstance(pair.output, str)):
                raise TypeError("a pair's id, instruction and output are texts")
        for verdict in map(Verdict.of, read_rows(run.verdicts_file)):
            if not isinstance(verdict.scores, dict):
                raise TypeError("a verdict's scores are an object")
        for done in (*run.folder.glob("*/done.json"), *run.folder.glob("train/*/done.json")):
            if not isinstance(read_json(done)["inputs"], str):
                raise TypeError("done.json names its inputs")
        for stage in STAGES:
            for arm in run.arms() if stage == "train" else [""]:
                run.config(stage, arm)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise _refused(f"a row cannot be read ({error})", f"읽을 수 없는 줄이 있습니다({error})") from None
    title = str(meta.get("title") or run.id)[:120]
    write_json(run.folder / "run.json", {**meta, "title": title, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


def _fresh(owner: str) -> Run:
    return Run(owner, time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3))


def _refused(why: str, why_ko: str) -> Problem:
    return Problem(
        f"This zip was not taken in: {why}. Give a zip that this app has written.",
        f"zip 파일을 가져오지 않았습니다: {why_ko}. 이 앱에서 내려받은 zip 파일을 넣어 주세요.",
    )
