"""How a stage tells where it stands and learns that it should stop."""

from __future__ import annotations

import sys
import time
from typing import Any

from lab.problems import Stopped
from lab.records import append_rows, write_json
from lab.run import Run

SAID = 5.0
"""Seconds between two lines in a terminal."""


class Progress:
    """Writes job.json (a few times a second at most) and log.jsonl of a run; prints to stderr when asked.

    A stage calls ``step`` between batches; it raises Stopped when somebody asked to stop, unless the
    stage wants to save first and reads ``stopping`` itself.
    """

    def __init__(self, run: Run, command: str, argv: list[str], say: bool = False) -> None:
        self.run = run
        self.say = say
        self.job: dict[str, Any] = {"command": command, "argv": argv, "started": time.time(), "state": "running"}
        self.interrupted = False
        self._written = 0.0
        self._stage_started = time.time()
        self._said = 0.0

    def write(self, **facts: Any) -> None:
        """Merge ``facts`` into job.json at once."""
        self.job |= facts | {"updated": time.time()}
        write_json(self.run.job_file, self.job)
        self._written = time.time()

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """A stage starts; ``done`` of ``total`` were there already."""
        self._stage_started, self._done_before = time.time(), done
        self.write(stage=stage, total=total, done=done, under_way=0.0, seconds_left=None, facts={})
        self.log(stage=stage, event="begin", total=total, done=done)

    def step(self, done: int, under_way: float = 0.0, stop: bool = True, **facts: Any) -> None:
        """``done`` of the total are done, and as much work as ``under_way`` more would be; raises Stopped if asked to stop
        and ``stop`` is left on."""
        spent, fresh = time.time() - self._stage_started, done + under_way - self._done_before
        # The first moments belong to imports and opening, and would foretell days.
        enough = 0 < min(1.0, self.job["total"] / 100) <= fresh
        left = spent / fresh * (self.job["total"] - done - under_way) if enough else None
        self.job |= {"done": done, "under_way": round(under_way, 1), "seconds_left": left, "facts": facts}
        if time.time() - self._written > 0.3 or done >= self.job["total"]:
            self.write()
        if self.say and (time.time() - self._said > SAID or done >= self.job["total"]):
            self._said = time.time()
            parts = [f"{self.job['stage']}: {done}/{self.job['total']}"]
            parts += [f"{left:.0f} s left"] if left else []
            parts += [
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                for k, v in facts.items()
                if not isinstance(v, dict)
            ]
            print(" · ".join(parts), file=sys.stderr, flush=True)
        if stop and self.stopping:
            raise Stopped

    def log(self, **facts: Any) -> None:
        """Append an event to log.jsonl."""
        append_rows(self.run.log_file, [{"at": time.time(), **facts}])

    def note(self, en: str, ko: str) -> None:
        """Something a person should know (a batch halved, a warning); kept in log.jsonl and job.json."""
        self.log(event="note", en=en, ko=ko)
        self.write(note={"en": en, "ko": ko})
        if self.say:
            print(en, file=sys.stderr, flush=True)

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self.interrupted or self.run.stop_file.exists()


class Onlooker(Progress):
    """The progress of a process that only takes part in another one's job: it writes and says nothing."""

    def write(self, **facts: Any) -> None:
        """Keep the facts in memory, where ``step`` looks for the total."""
        self.job |= facts

    def log(self, **facts: Any) -> None:
        """Nothing."""
