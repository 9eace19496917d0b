"""Seconds and memory of the filter stage without a judge: ``python bench/filter.py [PAIRS ...]`` (default 5000 20000 50000).

Each size is a run of its own in a process of its own: pairs file in, verdicts and dataset out. Rows are filled
templates, each with a few words of another one, as a teacher's stories share phrases. Memory is what no file backs
(RssAnon), of the stage itself and of all its processes, sampled ten times a second. Core seconds are those of all its
processes together; they stay true on a busy machine.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.machine import megabytes
from lab.config import FilterConfig
from lab.domain import templates
from lab.judge import filled
from lab.progress import Progress
from lab.records import Pair, append_rows
from lab.run import new_run

PART = 1000
OUTSIDE_SPEECH = re.compile(r'(?<=[.!?"])\s+(?=(?:[^"]*"[^"]*")*[^"]*$)')
"""Between two sentences, with an even number of quotation marks to come."""


def stories(count: int) -> Iterator[Pair]:
    """As many stories, each half one template and half another."""
    rng = random.Random(0)
    for i in range(count):
        pair, other = filled(rng, rng.choice(templates())), filled(rng, rng.choice(templates()))
        first, second = OUTSIDE_SPEECH.split(other.output), OUTSIDE_SPEECH.split(pair.output)
        yield replace(pair, id=str(i), output=" ".join(first[: len(first) // 2] + second[len(second) // 2 :]))


def anonymous(pid: int) -> int:
    """Megabytes of a process that no file backs; 0 when it is gone."""
    return megabytes(pid, "RssAnon")


def family() -> list[int]:
    """This process and its children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [os.getpid(), *map(int, children)]


def core_seconds() -> float:
    """Of this process and of its children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in spent)


def watched(work: Any) -> tuple[Any, dict[str, float]]:
    """(what ``work`` returns, its seconds, core seconds, the most megabytes of this process and of all together)."""
    most, everybody, over = anonymous(os.getpid()), 0, threading.Event()

    def watch() -> None:
        nonlocal most, everybody
        while not over.wait(0.1):
            sizes = [anonymous(pid) for pid in family()]
            most, everybody = max(most, sizes[0]), max(everybody, sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, spent = time.perf_counter(), core_seconds()
    try:
        result = work()
    finally:
        over.set()
        watcher.join()
    took = {"seconds": time.perf_counter() - started, "core_seconds": core_seconds() - spent}
    return result, took | {"megabytes": most, "megabytes_all": max(most, everybody)}


def one(count: int) -> dict[str, Any]:
    """Filter ``count`` stories; what it took."""
    from lab.stages import filter as stage

    run, made = new_run(), stories(count)
    written = 0
    while written < count:
        part = [next(made).row() for _ in range(min(PART, count - written))]
        append_rows(run.pairs_file, part)
        written += len(part)
    facts, took = watched(lambda: stage.run(run, FilterConfig(), Progress(run, "filter", [])))
    started = time.perf_counter()
    stage.apply_cut(run, FilterConfig(min_chars=160))
    again = time.perf_counter() - started
    return {"pairs": count, **took, "cut_again": again, "kept": facts["kept"], "reasons": facts["reasons"]}


def measured(count: int) -> dict[str, Any]:
    """``one`` in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as home:
        told = subprocess.run(
            [sys.executable, __file__, "--one", str(count)],
            env={**os.environ, "LAB_HOME": home, "LAB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(told.stdout.splitlines()[-1])


def main() -> None:
    """Print a line for each size."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(int(sys.argv[2]))))
        return
    for count in [int(a) for a in sys.argv[1:]] or [5000, 20_000, 50_000]:
        facts = measured(count)
        print(
            f"{count:,} pairs: {facts['seconds']:.1f} s ({1000 * facts['seconds'] / count:.2f} ms a pair, "
            f"{facts['seconds'] / count * 1e6 / 60:.0f} min a million, {facts['core_seconds'] / count * 1e6 / 60:.0f} core minutes), {facts['megabytes']} MB in the stage, "
            f"{facts['megabytes_all']} MB with all workers; cut again {facts['cut_again']:.2f} s; {facts['reasons']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
