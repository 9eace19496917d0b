"""Long work in a worker process: start, stop, look. One heavy job at a time on a machine."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.problems import Problem, Stopped
from lab.progress import Onlooker, Progress
from lab.records import cannot_write, read_json
from lab.run import Run, home

ROOT = Path(__file__).resolve().parent.parent
GOING = ("waiting", "running")


@dataclass(frozen=True)
class Job:
    """What a look at a run's newest job shows. ``state`` is idle, waiting, running, done, stopped, failed or died."""

    state: str = "idle"
    command: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    under_way: float = 0.0
    seconds_left: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    note: dict[str, str] | None = None
    place: int = 0
    argv: list[str] = field(default_factory=list)
    last_line: str = ""


def start(run: Run, args: list[str], key: str = "") -> None:
    """Spawn ``python -m lab ARGS`` as a worker in its own process group; Problem if one is at work on this run.

    ``key`` is an endpoint's, for this worker alone: it travels in its environment and is written nowhere.
    """
    with _taking(run):
        if look(run).state in GOING:
            raise _busy(run)
        run.stop_file.unlink(missing_ok=True)
        try:
            with run.worker_log.open("ab") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "lab", *args],
                    cwd=ROOT,
                    env={
                        **os.environ,
                        "LAB_HOME": str(home()),
                        "PYTHONUNBUFFERED": "1",
                        **({"LAB_ENDPOINT_KEY": key} if key else {}),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise cannot_write(run.worker_log, error) from None
        # The worker needs seconds for its imports; until its own first word this one stands for it.
        progress = Progress(run, args[0], args)
        progress.write(state="running", pid=worker.pid, born=_born(worker.pid), stage=args[0], total=0, done=0)


@contextmanager
def _taking(run: Run) -> Iterator[None]:
    """While somebody takes the run for a job, others wait: two starts at once must not both find it free, and a worker's
    own words must not be overwritten by its parent's, which on a busy machine may come later than its end."""
    folder = os.open(run.folder, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def stop(run: Run) -> None:
    """Ask the run's job to stop; the stage saves what it has and ends between two batches."""
    run.stop_file.touch()


def look(run: Run) -> Job:
    """Where the run's newest job stands; a worker that is gone without a last word has died."""
    facts = read_json(run.job_file)
    if not facts:
        return Job()
    known = {k: facts[k] for k in Job.__dataclass_fields__ if facts.get(k) is not None}
    job = Job(**known)
    if job.state in GOING and not _alive(facts.get("pid"), facts.get("born")):
        return Job(**known | {"state": "died", "last_line": _last_line(run.worker_log)})
    return job


def in_line() -> int:
    """How many jobs of anybody are at work on this machine or wait for it."""
    return len(_tickets())


@contextmanager
def at_work(run: Run, command: str, argv: list[str], say: bool, here: bool = True) -> Iterator[Progress]:
    """The frame of every heavy command: registers the job, waits for the machine (if it works ``here``), records how it
    ended. Further processes of accelerate launch only take part: the first one keeps the books."""
    if os.environ.get("RANK", "0") != "0":
        yield Onlooker(run, command, argv)
        return
    progress = Progress(run, command, argv, say)
    with _taking(run):
        mine = (read_json(run.job_file) or {}).get("pid") == os.getpid()
        if not mine and look(run).state in GOING:
            raise _busy(run)
        if not mine:
            run.stop_file.unlink(missing_ok=True)
        progress.write(
            state="waiting", pid=os.getpid(), born=_born(os.getpid()), stage=command, done=0, total=0, under_way=0.0
        )
    try:
        with _machine(progress) if here else nullcontext():
            progress.write(state="running", place=0)
            yield progress
        progress.write(state="done", under_way=0.0, seconds_left=0)
    except Stopped:
        run.stop_file.unlink(missing_ok=True)
        progress.write(state="stopped")
        raise
    except Problem as problem:
        progress.write(state="failed", error={"en": problem.en, "ko": problem.ko})
        raise
    except Exception as error:
        progress.write(
            state="failed",
            error={
                "en": f"Unexpected fault: {type(error).__name__}: {error}. Details are in worker.log; starting again goes on from here.",
                "ko": f"예상하지 못한 오류입니다: {type(error).__name__}: {error}. 자세한 내용은 worker.log 에 있습니다. 다시 시작하면 이어서 진행합니다.",
            },
        )
        raise


@contextmanager
def _machine(progress: Progress) -> Iterator[None]:
    """Hold the machine's lock; while waiting, tell the place in line (by the age of the tickets)."""
    queue = home() / ".queue"
    queue.mkdir(parents=True, exist_ok=True)
    ticket = queue / f"{time.time_ns()}-{os.getpid()}"
    ticket.write_text(_born(os.getpid()))
    try:
        with (home() / ".lock").open("w") as lock:
            while True:
                ahead = [name for name in _tickets() if name < ticket.name]
                if not ahead:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        pass
                progress.write(place=max(1, len(ahead)))
                if progress.stopping:
                    raise Stopped
                time.sleep(0.5)
            yield
    finally:
        ticket.unlink(missing_ok=True)


def _tickets() -> list[str]:
    """The line at the machine, oldest first. After a restart another process may have the pid of one that was killed in
    line, even the one that asks: a ticket counts as long as the very process that drew it lives."""
    found = []
    for ticket in sorted((home() / ".queue").glob("*")):
        try:
            born = ticket.read_text()
        except FileNotFoundError:  # its job has just ended
            continue
        if _alive(int(ticket.name.partition("-")[2]), born):
            found.append(ticket.name)
    return found


def _busy(run: Run) -> Problem:
    return Problem(
        f"Run {run.id} already has a job at work. Wait for it or stop it first.",
        f"실험 {run.id} 에 이미 진행 중인 작업이 있습니다. 끝나기를 기다리거나 먼저 멈춰 주세요.",
    )


def _born(pid: int) -> str:
    """When the process started, so that a reused pid is not taken for it; empty where /proc is missing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def _alive(pid: int | None, born: str | None = None) -> bool:
    if not pid:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        if stat.rsplit(")", 1)[1].split()[0] == "Z":
            return False
    except OSError:
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(pid, 0)
        except OSError:
            return False
    return not born or born == _born(pid)


def _last_line(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4000))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
