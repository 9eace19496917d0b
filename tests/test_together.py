"""Tasks in two processes: each does some, progress and notes are of both, and whatever happens in one is known in the other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import read_json, read_rows
from lab.run import Run, new_run
from lab.together import Part, Together

PATIENCE = 120.0
"""Seconds after which a test gives up on the other process."""


def until(there: Callable[[], bool]) -> None:
    end = time.time() + PATIENCE
    while not there():
        assert time.time() < end, "the other process did not come"
        time.sleep(0.02)


def both_at_work(part: Part, folder: Path) -> None:
    """Go on only when each of two processes has a task."""
    (folder / f"{part.index}").write_text(str(os.getpid()))
    until(lambda: len(list(folder.iterdir())) == 2)


@pytest.fixture
def job(lab_home: Path) -> tuple[Run, Progress]:
    run = new_run("mini", "together")
    progress = Progress(run, "compare", [])
    progress.begin("compare", 100)
    return run, progress


@pytest.fixture
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("meeting")


def met(part: Part, folder: Path, number: int) -> tuple[int, int, int]:
    both_at_work(part, folder)
    part.note(f"note {number}", f"쪽지 {number}")
    part.step(5)
    until(lambda: sum(part.done) == 10)
    part.step(5)
    return number * number, os.getpid(), torch.get_num_threads()


def test_two_processes_share_tasks_threads_progress_and_notes(
    job: tuple[Run, Progress], meeting: Path, threads: Callable[[int], None]
) -> None:
    run, progress = job
    threads(2)
    with Together(progress, 2, 2) as team:
        found = team.map(met, [(meeting, 3), (meeting, 4)], 20, ["one", "two"], "model")
        assert [square for square, _, _ in found] == [9, 16], "in the order of the tasks"
        assert len({pid for _, pid, _ in found}) == 2 and os.getpid() in {pid for _, pid, _ in found}
        assert [count for *_, count in found] == [1, 1]
        assert progress.job["facts"]["model"] == "one, two" and progress.job["done"] == 10
        assert team.finished == 40
        alone = team.map(threads_of, [(), ()], 5, ["one", "two"], "model", alone=True)
        assert alone == [(2, os.getpid())] * 2, "with all threads"
        assert team.finished == 50
    assert torch.get_num_threads() == 2
    assert {r["ko"] for r in read_rows(run.log_file) if r.get("event") == "note"} == {"쪽지 3", "쪽지 4"}


def threads_of(part: Part) -> tuple[int, int]:
    return torch.get_num_threads(), os.getpid()


def number_of(part: Part, number: int) -> tuple[int, int]:
    return number, os.getpid()


def test_one_process_does_one_task_after_another(job: tuple[Run, Progress]) -> None:
    with Together(job[1], 1, 3) as team:
        found = team.map(number_of, [(i,) for i in range(3)], 1, ["a", "b", "c"], "model")
    assert found == [(i, os.getpid()) for i in range(3)]


def fails_beside(part: Part, folder: Path, here: int) -> None:
    both_at_work(part, folder)
    if os.getpid() != here:
        raise Problem("The endpoint is gone.", "엔드포인트가 없어졌습니다.")
    until(lambda: part.step(1))  # type: ignore[func-returns-value, arg-type]


def test_what_a_task_raises_beside_is_raised_here_at_the_next_step(job: tuple[Run, Progress], meeting: Path) -> None:
    with pytest.raises(Problem) as found, Together(job[1], 2, 2) as team:
        team.map(fails_beside, [(meeting, os.getpid())] * 2, 5, ["a", "b"], "model")
    assert found.value.ko == "엔드포인트가 없어졌습니다."


def waits_beside(part: Part, folder: Path, here: int) -> None:
    both_at_work(part, folder)
    if os.getpid() != here:
        time.sleep(PATIENCE)
    part.look()


def test_a_stop_ends_the_other_process_at_once(job: tuple[Run, Progress], meeting: Path) -> None:
    job[1].interrupted = True
    started = time.time()
    with pytest.raises(Stopped), Together(job[1], 2, 2) as team:
        team.map(waits_beside, [(meeting, os.getpid())] * 2, 5, ["a", "b"], "model")
    assert time.time() - started < PATIENCE
    others = {int(f.read_text()) for f in meeting.iterdir()} - {os.getpid()}
    assert others and not any(psutil.pid_exists(pid) for pid in others)


def dies_beside(part: Part, folder: Path, here: int) -> int:
    if len(list(folder.iterdir())) < 2:
        both_at_work(part, folder)
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    part.step(5)
    return part.index


def test_the_work_of_a_killed_process_is_done_here_and_that_is_said(job: tuple[Run, Progress], meeting: Path) -> None:
    run, progress = job
    with Together(progress, 2, 3) as team:
        assert team.map(dies_beside, [(meeting, os.getpid())] * 3, 5, ["a", "b", "c"], "model") == [0, 1, 2]
        assert "memory" in read_json(run.job_file)["note"]["en"]
        assert team.map(number_of, [(7,)], 5, ["d"], "model") == [(7, os.getpid())], "and so is what comes after it"
