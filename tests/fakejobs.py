"""A loopback stand-in of Hugging Face Jobs beside the one of the Hub: the stock client starts, follows and cancels jobs.

A job is really run: its command, in a process and an empty folder of its own, with the interpreter and the packages of
the tests. Only ``uv`` is replaced there by a program that does nothing, as all that it would install is installed.
Faults are those of ``FakeHub.fail``. ``container`` makes the command that is run from the one that was asked for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakehub import ROUTES, FakeHub, HubError, _Handler, compiled, now

FLAVORS = (("cpu-basic", "CPU Basic", None, 167), ("t4-small", "Nvidia T4 - small", "16 GB", 6667))
"""Name, pretty name, memory of the GPU, price in millionths of a dollar a minute (as the client's documentation has them)."""
KEPT = ("PATH", "HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_TOKEN", "HOME", "LAB_OFFLINE", "OMP_NUM_THREADS")


@dataclass
class FakeJob:
    """One job and its process."""

    id: str
    owner: str
    spec: dict[str, Any]
    stage: str = "SCHEDULING"
    message: str | None = None
    lines: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    process: Any = None

    def row(self) -> dict[str, Any]:
        """As the API shows it: of secrets only the names."""
        shown = {k: v for k, v in self.spec.items() if k != "secrets"}
        return {
            "id": self.id,
            "createdAt": now(),
            "status": {"stage": self.stage, "message": self.message},
            "owner": {"id": self.owner, "name": self.owner, "type": "user"},
            "durations": {"schedulingSecs": 0, "runningSecs": round(time.time() - self.started), "totalSecs": 1},
            "secrets": dict.fromkeys(self.spec.get("secrets", {}), ""),
            **shown,
        }


class Handler(_Handler):
    """The Hub's endpoints and those of Jobs."""

    routes = (
        *ROUTES,
        *compiled(
            [
                ("GET", r"^/api/jobs/hardware$", "hardware"),
                ("POST", r"^/api/jobs/(?P<owner>[^/]+)$", "start"),
                ("GET", r"^/api/jobs/(?P<owner>[^/]+)$", "jobs"),
                ("GET", r"^/api/jobs/(?P<owner>[^/]+)/(?P<job>[^/]+)$", "job"),
                ("POST", r"^/api/jobs/(?P<owner>[^/]+)/(?P<job>[^/]+)/cancel$", "cancel"),
                ("GET", r"^/api/jobs/(?P<owner>[^/]+)/(?P<job>[^/]+)/logs$", "logs"),
            ]
        ),
    )

    def find(self, owner: str, job: str) -> FakeJob:
        """The job, if the asker may see it."""
        if not self.owns(self.user(), owner) or job not in self.hub.jobs:
            raise HubError(404, "Job not found")
        return self.hub.jobs[job]

    def do_hardware(self):
        rows = []
        for name, pretty, memory, micro in FLAVORS:
            gpu = {"type": "gpu", "model": "T4", "quantity": "1", "vram": memory, "manufacturer": "Nvidia"}
            cost = {"unitCostMicroUSD": micro, "unitCostUSD": micro / 1e6, "unitLabel": "minute"}
            rows.append(
                {"name": name, "prettyName": pretty, "cpu": "2 vCPU", "ram": "16 GB", "accelerator": memory and gpu}
                | cost
            )
        return self.ok(rows)

    def do_start(self, owner):
        if not self.owns(self.user(), owner):
            raise HubError(403, "You may not run jobs there")
        if self.json()["flavor"] not in [f[0] for f in FLAVORS]:
            raise HubError(400, "Unknown flavor")
        return self.ok(self.hub.begin(owner, self.json()).row())

    def do_jobs(self, owner):
        self.user()
        name, _, value = self.query.get("label", "").partition("=")
        return self.ok([j.row() for j in self.hub.jobs.values() if j.spec.get("labels", {}).get(name) == value])

    def do_job(self, owner, job):
        return self.ok(self.find(owner, job).row())

    def do_cancel(self, owner, job):
        self.hub.cancel(self.find(owner, job))
        return self.ok({})

    def do_logs(self, owner, job):
        """All lines from the first; the answer ends with what is there now, and the client asks again."""
        found = self.find(owner, job)
        events = [{"timestamp": "2026-01-01T00:00:00.000Z", "data": line} for line in found.lines]
        body = "".join(f"data: {json.dumps(e)}\n\n" for e in events)
        return 200, {"Content-Type": "text/event-stream"}, body.encode()


class FakeJobs(FakeHub):
    """The Hub with jobs."""

    handler = Handler

    def __init__(self, container: Callable[[list[str]], list[str]] | None = None) -> None:
        super().__init__()
        self.jobs: dict[str, FakeJob] = {}
        self.container = container
        self._folder = tempfile.TemporaryDirectory()

    def begin(self, owner: str, spec: dict[str, Any]) -> FakeJob:
        """Start the job's process and a reader of its output."""
        job = FakeJob(uuid.uuid4().hex[:24], owner, spec)
        place = Path(self._folder.name) / job.id
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "uv").write_text("#!/bin/sh\nexit 0\n")
        (place / "bin" / "uv").chmod(0o755)
        path = f"{place / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        inside = {k: os.environ[k] for k in KEPT if k in os.environ}
        inside |= {"PATH": path, "HF_ENDPOINT": self.url, **spec.get("secrets", {}), "HOME": str(place)}
        job.process = subprocess.Popen(
            self.container(spec["command"]) if self.container else spec["command"],
            cwd=place,
            env=inside,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        job.stage = "RUNNING"
        self.jobs[job.id] = job
        threading.Thread(target=self._watch, args=(job,), daemon=True).start()
        return job

    def _watch(self, job: FakeJob) -> None:
        for line in job.process.stdout:
            job.lines.append(line.rstrip("\n"))
        code = job.process.wait()
        if job.stage == "RUNNING":
            job.stage = "COMPLETED" if code == 0 else "ERROR"
            job.message = None if code == 0 else f"Job failed with exit code: {code}"

    def cancel(self, job: FakeJob) -> None:
        """A cancelled job is asked to end, and ended."""
        job.stage = "CANCELED"
        os.killpg(job.process.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End what still runs."""
        for job in self.jobs.values():
            if job.process.poll() is None:
                os.killpg(job.process.pid, signal.SIGKILL)
        super().stop()
        self._folder.cleanup()
