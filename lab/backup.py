"""Runs outlast a Space that has no storage: copied into a private dataset repository, fetched back at the start.

On where the variable LAB_BACKUP_REPO names the repository; the Space's secret HF_TOKEN must be allowed to write there.
Every run is one zip, ``runs/<owner>/<id>.zip``, and what changed travels in one commit. Between two looks lie PAUSE
seconds: so much may be lost. Checkpoints stay behind, so a training that was cut off begins anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from lab import archive
from lab.problems import Problem
from lab.records import read_json, write_json
from lab.run import Run, home, runs

LOG = logging.getLogger(__name__)
PAUSE = 300
"""Seconds between two looks for changes: twelve commits an hour at most, a tenth of what the Hub allows."""
_PLACE = re.compile(r"runs/([A-Za-z0-9][\w.-]{0,100})/([0-9a-z][0-9a-z-]{2,60})\.zip")


def repo() -> str:
    """The repository that holds the copies; empty where there is none."""
    return os.environ.get("LAB_BACKUP_REPO", "")


def last() -> dict[str, Any]:
    """``at`` (seconds since 1970, None before the first) of the last look that ended well; ``fault`` in both languages since."""
    return read_json(_note(), {"at": None, "fault": None})


def keep() -> None:
    """Fetch the runs back, then copy what changes, for ever, on a thread of its own; nothing where no repository is named."""
    if repo():
        threading.Thread(target=_keep, name="backup", daemon=True).start()


def _keep() -> None:
    from lab.stages.publish import client

    api = client(os.environ.get("HF_ENDPOINT") or None, os.environ.get("HF_TOKEN"))
    saved: dict[Run, str] | None = None
    while True:
        try:
            saved = restore(api, repo()) if saved is None else saved
            saved = save(api, repo(), saved)
            write_json(_note(), {"at": time.time(), "fault": None})
        except Exception as error:
            # Whatever it is, the next look tries again; the page tells that copies are missing.
            LOG.warning("runs could not be copied to %s: %s", repo(), error)
            problem = error if isinstance(error, Problem) else Problem(type(error).__name__, type(error).__name__)
            write_json(_note(), last() | {"fault": {"en": problem.en, "ko": problem.ko}})
        time.sleep(PAUSE)


def restore(api: Any, repo: str) -> dict[Run, str]:
    """Fetch the runs that are not here; every copied run with its stamp, as ``save`` takes it. A run that is here stays.

    Problem if the repository is public or the Hub refuses.
    """
    from lab.stages.publish import patiently

    patiently(f"create {repo}", None, lambda: api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True))
    if not patiently(f"look at {repo}", None, lambda: api.repo_info(repo, repo_type="dataset")).private:
        raise Problem(
            f"{repo} is public. Make it private, or name another one in LAB_BACKUP_REPO.",
            f"{repo} 저장소가 공개 상태입니다. 비공개로 바꾸거나 LAB_BACKUP_REPO 로 다른 이름을 주세요.",
        )
    found: dict[Run, str] = {}
    for path in patiently(f"list {repo}", None, lambda: list(api.list_repo_files(repo, repo_type="dataset"))):
        place = _PLACE.fullmatch(path)
        if place is None:
            continue
        run = Run(*place.groups())
        if (run.folder / "run.json").exists():
            found[run] = ""  # whether the copy is as new is not known: it is copied once more
            continue
        with tempfile.TemporaryDirectory() as folder:
            packed = patiently(
                f"fetch {path}",
                None,
                lambda path=path, folder=folder: api.hf_hub_download(repo, path, repo_type="dataset", local_dir=folder),
            )
            try:
                made = archive.unpack(Path(packed), run.owner)
            except Problem as problem:
                LOG.warning("%s was left where it is: %s", path, problem.en)
                continue
            made.folder.replace(run.folder)
        found[run] = stamp(run)
    return found


def save(api: Any, repo: str, saved: dict[Run, str]) -> dict[Run, str]:
    """Copy the runs whose stamp is not the one in ``saved``, take away the copies of deleted ones; the stamps now."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from lab.stages.publish import patiently

    now = {run: stamp(run) for run in runs()}
    changed = [run for run, mark in now.items() if saved.get(run) != mark]
    gone = [run for run in saved if run not in now]
    if not changed and not gone:
        return now
    if gone:  # an earlier try may have taken them away although its answer was lost
        there = patiently(f"list {repo}", None, lambda: set(api.list_repo_files(repo, repo_type="dataset")))
        gone = [run for run in gone if _place(run) in there]
    with tempfile.TemporaryDirectory() as folder:
        operations: list[Any] = [CommitOperationDelete(_place(run)) for run in gone]
        for i, run in enumerate(changed):
            (aside := Path(folder) / str(i)).mkdir()  # two runs may have one title, which names the zip
            operations.append(CommitOperationAdd(_place(run), str(archive.pack(run, aside))))
        if not operations:
            return now
        message = f"{len(changed)} changed, {len(gone)} deleted"
        patiently(
            f"upload {repo}",
            None,
            lambda: api.create_commit(repo, operations, commit_message=message, repo_type="dataset"),
        )
    return now


def stamp(run: Run) -> str:
    """A hash of names, sizes and times of the run's files: another one when anything was written."""
    digest = hashlib.sha256()
    for path in sorted(run.folder.rglob("*")):
        try:
            facts = path.stat()
        except FileNotFoundError:  # a checkpoint that has just been replaced
            continue
        if path.is_file():
            digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _place(run: Run) -> str:
    return f"runs/{run.owner}/{run.id}.zip"


def _note() -> Path:
    return home() / ".backup.json"
