"""Two processes that write at once on the same cores, as a job and a chat do: ``python bench/sharing.py [STORIES]`` (16).

GNU's OpenMP lets a thread that waits for the others spin for a long time; on shared cores it takes the time from those it
waits for. Prints tokens per second, all processes together, as the library spins and as the app lets it (``app.SPINS``);
medians of three.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def write(stories: int) -> float:
    """Tokens per second of one batch of the embedded teacher, after a first one to warm up."""
    from lab import domain
    from lab.models import Sampling, open_model

    model = open_model("mini:teacher")
    asked = [prompt.instruction for prompt in domain.prompts(stories, 3)]
    list(model.write(asked[:2], Sampling(0.8, 0.9, 20), [0, 1], batch_size=2))
    started = time.perf_counter()
    written = model.write(asked, Sampling(0.8, 0.9, 120), list(range(stories)), batch_size=stories)
    tokens = sum(answer.tokens for _, answer in written)
    return tokens / (time.perf_counter() - started)


def together(processes: int, stories: int, spins: str) -> float:
    """Tokens per second of that many processes at once, added up; ``spins`` empty leaves the library as it is."""
    env = {**os.environ, "LAB_OFFLINE": "1", **({"GOMP_SPINCOUNT": spins} if spins else {})}
    command = [sys.executable, __file__, str(stories), "one"]
    going = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in going)


def main() -> None:
    stories = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    if sys.argv[2:] == ["one"]:
        print(write(stories))
        return
    import app

    for processes in (1, 2):
        tries = [[together(processes, stories, spins) for spins in ("", app.SPINS)] for _ in range(3)]
        plain, ours = (median(side) for side in zip(*tries, strict=True))
        ratio = median(b / a for a, b in tries)
        print(f"{processes} at once: {plain:.0f} tokens/s, in the app {ours:.0f}, {ratio:.2f} times")


if __name__ == "__main__":
    main()
