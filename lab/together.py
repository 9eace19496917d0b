"""Tasks at once: this process and others beside it each take the next one, with a share of the processor's threads.

A small model leaves most of a second thread unused, as threads wait for one another after every short operation, and far
longer where something else is at work on the machine. Two small models side by side wait for nobody.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any

from lab.progress import Progress

LOOK = 0.3
"""Seconds between two looks at the other processes."""
_WAITING = -1.0
"""What is done of a task that has not begun."""

Work = Callable[..., Any]
"""What is done with a task: called with its ``Part`` and the task's own arguments; a function of a module."""


@dataclass(frozen=True)
class Part:
    """What a task says of itself, in whichever process it is done."""

    index: int
    done: Any
    look: Callable[[], None]
    note: Callable[[str, str], None]

    def step(self, done: float) -> None:
        """So much of this task is done; raises Stopped where somebody asked to stop, or what another task raised."""
        self.done[self.index] = done
        self.look()


def _taken(work: Work, tasks: Sequence[tuple[Any, ...]], following: Any, part: Callable[[int], Part]) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """(index, result) of each task that this process takes; ``following`` is the next one's index, shared by all."""
    while True:
        with following.get_lock():
            index = following.value
            following.value += 1
        if index >= len(tasks):
            return
        yield index, work(part(index), *tasks[index])


_shared: list[Any] = []
"""In a process beside: what it shares with the one that started it."""


def _ready(done: Any, following: Any, notes: Any, tie: Any, threads: int) -> None:
    import torch

    end_with(tie)
    torch.set_num_threads(threads)
    _shared[:] = done, following, notes


def end_with(other: Any) -> None:
    """From now on this process ends at once with ``other``: a process's sentinel, or a pipe whose other end it holds."""
    threading.Thread(target=_end_after, args=(other,), daemon=True).start()


def _end_after(other: Any) -> None:
    connection.wait([other])
    os._exit(1)


def _beside(work: Work, tasks: Sequence[tuple[Any, ...]]) -> dict[int, Any]:
    done, following, notes = _shared
    part = lambda i: Part(i, done, lambda: None, lambda en, ko: notes.put((en, ko)))  # noqa: E731
    return dict(_taken(work, tasks, following, part))


class Together:
    """``processes`` for the tasks of ``map``, this one among them; those beside it start at the first need.

    They end with the ``with`` block, at once where something was raised. ``tasks`` is the most that ``map`` gets.
    """

    def __init__(self, progress: Progress, processes: int, tasks: int) -> None:
        self.progress, self.processes, self.finished = progress, processes, 0
        self._context = get_context("spawn")  # as this process may hold threads of torch
        self._done = self._context.Array("d", tasks, lock=False)
        self._following = self._context.Value("i", 0)
        self._notes = self._context.SimpleQueue()
        self._tied, self._tie = self._context.Pipe(duplex=False)
        self._pool: ProcessPoolExecutor | None = None
        self._going: list[Future[dict[int, Any]]] = []
        self._names: Sequence[str] = ()
        self._fact, self._size = "", 0

    def __enter__(self) -> Together:
        if self.processes > 1:
            import torch

            self._threads = torch.get_num_threads()
            share = max(1, self._threads // self.processes)
            shared = (self._done, self._following, self._notes, self._tied, share)
            self._pool = ProcessPoolExecutor(self.processes - 1, self._context, _ready, shared)
            torch.set_num_threads(share)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind:
            self._tie.close()
        self._end()

    def _end(self) -> None:
        if self._pool:
            import torch

            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self._threads)

    def map(
        self,
        work: Work,
        tasks: Sequence[tuple[Any, ...]],
        size: int,
        names: Sequence[str],
        fact: str,
        alone: bool = False,
    ) -> list[Any]:
        """``work(part, *task)`` of every task, in their order. Each counts ``size`` steps of the progress, which tells the
        names of those at work as its ``fact``.

        With ``alone`` this process does all of them, with all threads: those beside it end. It also does those of one that
        was killed (mostly by a machine short of memory). Raises what a task raised, at the next step of one in this process.
        """
        if alone:
            self._end()
        self._names, self._fact, self._size, self._following.value = names, fact, size, 0
        self._done[:] = [_WAITING] * len(self._done)
        pool = self._pool
        self._going = [pool.submit(_beside, work, tasks) for _ in range(self.processes - 1)] if pool else []

        def part(index: int) -> Part:
            return Part(index, self._done, self._look, self.progress.note)

        found = dict(_taken(work, tasks, self._following, part))
        while any(not f.done() for f in self._going):
            wait(self._going, timeout=LOOK)
            self._look()
        for future in self._going:
            if not isinstance(future.exception(), BrokenProcessPool):
                found |= future.result()
        left = [i for i in range(len(tasks)) if i not in found]
        if left:
            self._end()
            self.progress.note(
                "A process beside this one was ended, mostly for want of memory. Its work is done again, one thing after another.",
                "함께 일하던 프로세스가 끝났습니다. 대개 메모리가 모자랄 때 그렇습니다. 그 일은 하나씩 차례로 다시 합니다.",
            )
        found |= {i: work(part(i), *tasks[i]) for i in left}
        self.finished += len(tasks) * size
        return [found[i] for i in range(len(tasks))]

    def _look(self) -> None:
        """Tell the progress of all tasks and hand on their notes; raises what one of them raised."""
        for future in self._going:
            error = future.exception() if future.done() else None
            if error and not isinstance(error, BrokenProcessPool):
                raise error
        while not self._notes.empty():
            self.progress.note(*self._notes.get())
        done = self.finished + sum(n for n in self._done if n != _WAITING)
        going = [name for name, n in zip(self._names, self._done, strict=False) if _WAITING < n < self._size]
        self.progress.step(int(done), done - int(done), **({self._fact: ", ".join(going)} if going else {}))
