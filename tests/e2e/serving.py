"""The app as people start it, in a process of its own on a free port; for the browser tests, the pictures and the load."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def served(home: Path, **env: str) -> Iterator[str]:
    """The address of an app whose runs are in ``home``."""
    port = free_port()
    with (home / "app.log").open("wb") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env={**os.environ, "LAB_HOME": str(home), "LAB_OFFLINE": "1", "PORT": str(port), **env},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(360):
            try:
                urllib.request.urlopen(url, timeout=5)
                break
            except OSError:
                if app.poll() is not None:
                    raise RuntimeError((home / "app.log").read_text("utf-8")) from None
                time.sleep(0.5)
        yield url
    finally:
        app.terminate()
        app.wait(20)
        # Workers outlive the app, as they should; those that a failed test left at work must not slow all other tests.
        for ticket in (home / ".queue").glob("*"):
            with suppress(ProcessLookupError):
                os.kill(int(ticket.name.partition("-")[2]), signal.SIGKILL)
