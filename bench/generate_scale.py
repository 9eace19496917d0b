"""Memory and time of generate around the teacher: ``python bench/generate_scale.py [PAIRS ...]`` (default 1000 10000 50000).

A stand-in teacher answers at once with filled templates, so what is measured is the lab itself: prompts, ids, writing,
resuming, diversity, and what a look of the app costs. Each size runs in a process of its own. Times are processor
seconds, which stay true on a busy machine.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab.config import GenerateConfig
from lab.domain import templates
from lab.judge import filled
from lab.progress import Progress
from lab.records import Answer
from lab.run import new_run
from lab.shelf import Shelf
from lab.stages import generate


class StandIn:
    """Writes a filled template for every prompt, at once."""

    revision = "stand-in"

    def write(
        self, instructions: Sequence[str], sampling: Any, seeds: Sequence[int], batch_size: int, note: Any, tick: Any
    ) -> Iterator[tuple[int, Answer]]:
        """In batches of 64, as a small local model would."""
        for i, seed in enumerate(seeds):
            if i % 64 == 0:
                tick(0, 0.0)
            rng = random.Random(seed)
            text = filled(rng, rng.choice(templates())).output
            tick(len(text), 0.0)
            yield i, Answer(text, "stop", len(text), 0.0)

    def close(self) -> None:
        """Nothing to close."""


def measure(count: int) -> dict[str, Any]:
    """Generate, start again with nothing to do, look once at all rows and once at a new one."""
    generate.open_teacher = lambda config: StandIn()
    run, config = new_run(), GenerateConfig(pairs=count, teacher="stand-in")

    def timed(work: Any) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    before = peak()
    writing = timed(lambda: generate.run(run, config, Progress(run, "generate", [])))
    after = peak()
    again = timed(lambda: generate.run(run, config, Progress(run, "generate", [])))
    shelf = Shelf(run.pairs_file)
    first = timed(shelf.look)
    second = timed(shelf.look)
    search = timed(lambda: shelf.page(0, 12, "당근"))
    return {
        "pairs": count,
        "seconds": round(writing, 1),
        "ms_a_pair": round(1000 * writing / count, 2),
        "megabytes": after - before,
        "again": round(again, 1),
        "first_look": round(first, 2),
        "next_look_ms": round(second * 1000, 2),
        "search": round(search, 2),
    }


def main() -> None:
    """Print a line for each size."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        return
    for count in sys.argv[1:] or ["1000", "10000", "50000"]:
        with tempfile.TemporaryDirectory() as home:
            told = subprocess.run(
                [sys.executable, __file__, "--one", count],
                env={**os.environ, "LAB_HOME": home},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        print(told.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
