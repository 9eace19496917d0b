"""A run: one experiment in one folder. The only module that knows file names."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab.config import PRESETS, STAGES, StageConfig, as_json, checked, preset_config
from lab.problems import Problem
from lab.records import Pair, Verdict, read_json, read_rows, write_json

FORMAT = 1
LOCAL_OWNER = "local"
_ID = re.compile(r"[0-9a-z][0-9a-z-]{2,60}")
_NAME = re.compile(r"[0-9A-Za-z가-힣][0-9A-Za-z가-힣._-]{0,60}")


def home() -> Path:
    """The folder of all runs: LAB_HOME, else ./runs."""
    return _resolved(os.environ.get("LAB_HOME") or "runs", os.getcwd())


@lru_cache(maxsize=8)
def _resolved(path: str, _where: str) -> Path:
    """An absolute path; every place in every run begins with it, and a look of the app asks for hundreds."""
    return Path(path).resolve()


@dataclass(frozen=True)
class Run:
    """One experiment: ``$LAB_HOME/<owner>/<id>/``. Every property is a place in that folder."""

    owner: str
    id: str

    @property
    def folder(self) -> Path:
        return home() / self.owner / self.id

    @property
    def pairs_file(self) -> Path:
        return self.folder / "generate" / "pairs.jsonl"

    @property
    def usage_file(self) -> Path:
        """What an endpoint has billed for so far: prompt_tokens, completion_tokens."""
        return self.folder / "generate" / "usage.json"

    @property
    def preview_file(self) -> Path:
        """Five stories and the estimate for the whole."""
        return self.folder / "generate" / "preview.json"

    @property
    def check_file(self) -> Path:
        """Whether the teacher can write Korean tales."""
        return self.folder / "generate" / "check.json"

    @property
    def verdicts_file(self) -> Path:
        return self.folder / "filter" / "verdicts.jsonl"

    @property
    def reviews_file(self) -> Path:
        return self.folder / "filter" / "reviews.jsonl"

    @property
    def sample_file(self) -> Path:
        """The rows drawn for human review, with the size of the stratum that each stands for."""
        return self.folder / "filter" / "sample.json"

    @property
    def judged_file(self) -> Path:
        """Every opinion of a judge, so that no judge is asked twice."""
        return self.folder / "filter" / "judged.jsonl"

    @property
    def dataset_folder(self) -> Path:
        """The kept pairs as a datasets.DatasetDict."""
        return self.folder / "filter" / "dataset"

    @property
    def report_file(self) -> Path:
        return self.folder / "compare" / "report.json"

    @property
    def answers_file(self) -> Path:
        return self.folder / "compare" / "answers.jsonl"

    @property
    def job_file(self) -> Path:
        return self.folder / "job.json"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def worker_log(self) -> Path:
        return self.folder / "worker.log"

    @property
    def stop_file(self) -> Path:
        """Exists while a stop is asked for."""
        return self.folder / "stop"

    @property
    def submit_file(self) -> Path:
        """A job on rented hardware that is not home yet; hidden, as it belongs to this machine and is not packed."""
        return self.folder / ".submit.json"

    @property
    def votes_file(self) -> Path:
        return self.folder / "votes.jsonl"

    def publish_folder(self, kind: str) -> Path:
        """``dataset`` or ``model``: exactly what is or would be uploaded."""
        return self.folder / "publish" / kind

    def stage_folder(self, stage: str, arm: str = "") -> Path:
        """The folder of a stage; training has one for each arm."""
        if arm and not _NAME.fullmatch(arm):
            raise Problem(
                f"Arm name {arm!r} is not usable. Use letters, digits, dots, dashes and underscores.",
                f"갈래 이름 {arm!r} 은(는) 쓸 수 없습니다. 글자, 숫자, 점, 붙임표, 밑줄만 써 주세요.",
            )
        return self.folder / stage / arm if arm else self.folder / stage

    def meta(self) -> dict[str, Any]:
        """run.json: format, title, preset, created, seed."""
        return read_json(self.folder / "run.json", {})

    def rename(self, title: str) -> None:
        """Give the run another title."""
        write_json(self.folder / "run.json", self.meta() | {"title": title.strip()[:120] or self.id})

    def config(self, stage: str, arm: str = "", /, **changes: Any) -> StageConfig:
        """What the stage was last run with, else the preset's configuration; then ``changes``."""
        base = preset_config(stage, self.meta().get("preset", "mini"))
        stored = read_json(self.stage_folder(stage, arm) / "config.json", {})
        known = {k: v for k, v in stored.items() if k in STAGES[stage].__dataclass_fields__}
        return checked(checked(base, **known), **changes)

    def begin(self, stage: str, config: StageConfig, arm: str = "") -> None:
        """Write config.json and take done.json away: from here on the stage counts as unfinished."""
        folder = self.stage_folder(stage, arm)
        write_json(folder / "config.json", as_json(config))
        (folder / "done.json").unlink(missing_ok=True)

    def finish(self, stage: str, facts: dict[str, Any], arm: str = "") -> None:
        """Write done.json, last of all, with the hash of the stage's inputs."""
        done = {"inputs": self.inputs_hash(stage), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}
        write_json(self.stage_folder(stage, arm) / "done.json", done)

    def done(self, stage: str, arm: str = "") -> dict[str, Any] | None:
        """done.json of a finished stage, else None."""
        return read_json(self.stage_folder(stage, arm) / "done.json")

    def arms(self) -> list[str]:
        """Names of all training arms, finished or not, oldest first."""
        configs = sorted((self.folder / "train").glob("*/config.json"), key=lambda p: p.stat().st_mtime)
        return [p.parent.name for p in configs]

    def finished_arms(self) -> list[str]:
        """Names of the arms whose training is done, oldest first."""
        return [arm for arm in self.arms() if self.done("train", arm)]

    def inputs_hash(self, stage: str) -> str:
        """A hash of the files that the stage reads; when it differs from done.json the stage is stale."""
        inputs = {
            "generate": [],
            "filter": [self.pairs_file, self.reviews_file],
            "train": [self.pairs_file, self.verdicts_file],
            "compare": [
                self.pairs_file,
                self.verdicts_file,
                *(self.stage_folder("train", a) / "done.json" for a in self.arms()),
            ],
            "publish": [self.pairs_file, self.verdicts_file, self.report_file],
        }[stage]
        digest = hashlib.sha256()
        for path in inputs:
            digest.update(path.name.encode())
            if path.exists():
                facts = path.stat()
                digest.update(_digest(path, facts.st_mtime_ns, facts.st_size))
        return digest.hexdigest()[:16]

    def state(self, stage: str) -> str:
        """``empty``, ``partial`` (begun, not finished), ``done`` or ``stale``; running and died are the job's."""
        if stage == "train":
            arms = self.arms()
            dones = [self.done("train", arm) for arm in arms]
            if not arms:
                return "empty"
            if not all(dones):
                return "partial"
            return "done" if all(d["inputs"] == self.inputs_hash("train") for d in dones if d) else "stale"
        done = self.done(stage)
        if done:
            return "done" if done["inputs"] == self.inputs_hash(stage) else "stale"
        return "partial" if (self.stage_folder(stage) / "config.json").exists() else "empty"

    def pairs(self) -> Iterator[Pair]:
        """Every pair of the run."""
        return (Pair.of(row) for row in read_rows(self.pairs_file))

    def verdicts(self) -> Iterator[Verdict]:
        """Every verdict of the run; the last one of an id counts."""
        return (Verdict.of(row) for row in read_rows(self.verdicts_file))

    def kept_pairs(self) -> list[Pair]:
        """The pairs that the filter kept, in the order of the pairs file."""
        kept = {v.id for v in self.verdicts() if v.kept}
        return [p for p in self.pairs() if p.id in kept]


def new_run(preset: str = "mini", title: str = "", owner: str = LOCAL_OWNER, seed: int = 0) -> Run:
    """Make an empty run."""
    if preset not in PRESETS:
        raise Problem(
            f"There is no preset {preset!r}. Choose one of {', '.join(PRESETS)}.",
            f"프리셋 {preset!r} 은(는) 없습니다. 가능한 값: {', '.join(PRESETS)}",
        )
    run = Run(owner, time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3))
    meta = {
        "format": FORMAT,
        "title": title.strip()[:120] or run.id,
        "preset": preset,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": seed,
    }
    write_json(run.folder / "run.json", meta)
    return run


def runs(owner: str | None = None) -> list[Run]:
    """All runs, or those of one owner (nobody's for an empty name), newest first."""
    found = [Run(o, p.parent.name) for o in _owners(owner) for p in (home() / o).glob("*/run.json")]
    return sorted(found, key=lambda r: r.id, reverse=True)


def _owners(owner: str | None) -> list[str]:
    if owner is not None:
        return [owner] if owner else []
    return [p.name for p in home().glob("*") if p.is_dir()]


@lru_cache(maxsize=4096)
def _digest(path: Path, changed: int, size: int) -> bytes:
    """The hash of a file as it stands; every look of every visitor asks for it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def find_run(run_id: str, owner: str | None = None) -> Run:
    """The run of this id; Problem if there is none (for ``owner``, when given)."""
    if _ID.fullmatch(run_id or ""):
        for run in (Run(o, run_id) for o in _owners(owner)):
            if (run.folder / "run.json").is_file():
                return run
    raise Problem(
        f"There is no run {run_id!r} in {home()}. `python -m lab list` shows all runs, `python -m lab new` makes one.",
        f"실험 {run_id!r} 을(를) 찾을 수 없습니다({home()}). `python -m lab list` 로 목록을 보고, `python -m lab new` 로 새로 만들 수 있습니다.",
    )
